"""SSGI's negotiation: which interfaces a framework is called by, and what is wrong in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asphalt.core import Context
from ssgi_peers import interface
from talks import both, converse, lines_of

from kyoukai import Kyoukai, ServerConfig
from kyoukai.exceptions import KyoukaiError, TargetError
from kyoukai.interfaces.build import make_interface
from kyoukai.interfaces.native import NativeInterface
from kyoukai.interfaces.recognition import recognise
from kyoukai.interfaces.ssgi import SSGIFramework, SsgiInterface
from kyoukai.interfaces.ssgi_negotiation import SUPPORTED, NegotiatedInterface
from kyoukai.testing import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai.websocket import WebSocket


class Framework(SSGIFramework):
    """Answers the negotiation with what the test says."""

    def __init__(self, answer: Any = None, **entries: Any) -> None:
        self.answer = entries if answer is None else answer
        self.told: list[dict[str, str]] = []

    def get_supported(self, supported_interfaces: dict[str, str]) -> Any:
        self.told.append(supported_interfaces)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def ssgi(kind, server, remote, method, path, query, get_header, res):  # type: ignore[no-untyped-def]
    if kind == "http":
        res.send("http by ssgi")
    else:
        res.accept()
        res.send("websocket by ssgi")
        res.close()


def other(*arguments: Any) -> None:
    arguments[7].send("other")


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "12")])
    return [b"http by wsgi"]


class Asgi:
    """Counts what it is called for."""

    def __init__(self) -> None:
        self.lifespans = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self.lifespans += 1
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"http by asgi"})
        else:
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "websocket by asgi"})
            await send({"type": "websocket.close"})


async def rsgi(scope: Any, proto: Any) -> None:
    if scope.proto == "http":
        proto.response_str(200, [], "http by rsgi")
    else:
        transport = await proto.accept()
        await transport.send_str("websocket by rsgi")
        proto.close()


def native() -> Kyoukai:
    app = Kyoukai("native")

    @app.route("/")
    async def index(ctx: Any) -> str:
        return "http by kyoukai"

    @app.websocket("/")
    async def socket(ctx: Any, ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text("websocket by kyoukai")

    return app


HANDLERS: dict[str, Callable[[], Any]] = {
    "asgi": Asgi,
    "kyoukai": native,
    "rsgi": lambda: rsgi,
    "ssgi": lambda: ssgi,
    "wsgi": lambda: wsgi,
}


# -- Who answers -------------------------------------------------------------------------------


def test_what_a_framework_is_told() -> None:
    framework = Framework(http=("ssgi", ssgi))
    interface(framework)
    assert framework.told == [{"asgi": "2.5", "wsgi": "1.0", "rsgi": "1.6", "ssgi": "1.0"}]
    framework.told[0].clear()
    interface(framework)
    assert framework.told[1] == SUPPORTED  # each gets a dict of its own


@both
@pytest.mark.parametrize("key", ["websocket", "websockets"])
@pytest.mark.parametrize("socket", [None, "asgi", "kyoukai", "rsgi", "ssgi"])
@pytest.mark.parametrize("http", [None, "asgi", "kyoukai", "rsgi", "ssgi", "wsgi"])
async def test_requests_by_one_and_sockets_by_another(
    http: str | None, socket: str | None, key: str, http2: bool
) -> None:
    if http is None and socket is None:
        return
    entries = {
        "http": None if http is None else (http, HANDLERS[http]()),
        key: None if socket is None else (socket, HANDLERS[socket]()),
    }
    async with Client(interface(Framework(entries))) as client:
        answer = await client.get("/")
        if http is None:
            assert (answer.status, answer.body) == (404, b"Not Found\n")
        else:
            assert answer.body == f"http by {http}".encode()
        outcome = await converse(client, http2=http2)
        if socket is None:
            assert outcome.status == 404
        else:
            assert outcome.messages == (f"websocket by {socket}",)


@both
async def test_what_is_left_out_is_not_served(http2: bool) -> None:
    async with Client(interface(Framework(http=["ssgi", ssgi]))) as client:
        assert (await client.get("/")).body == b"http by ssgi"
        assert (await converse(client, http2=http2)).status == 404
    async with Client(interface(Framework(websocket=("ssgi", ssgi)))) as client:
        assert (await client.get("/")).status == 404
        assert (await converse(client, http2=http2)).messages == ("websocket by ssgi",)


@pytest.mark.parametrize(
    ("http", "socket", "name"),
    [
        ("ssgi", "ssgi", "ssgi"),
        ("asgi", "ssgi", "ssgi: http by asgi, websocket by ssgi"),
        ("asgi", "asgi", "ssgi: http and websocket by asgi"),
        ("wsgi", None, "ssgi: http by wsgi, no websocket"),
        (None, "ssgi", "ssgi: no http, websocket by ssgi"),
    ],
)
def test_what_the_start_up_line_calls_it(http: Any, socket: Any, name: str) -> None:
    entries = {
        key: kind and (kind, HANDLERS[kind]())
        for key, kind in (("http", http), ("websocket", socket))
    }
    assert interface(Framework(entries)).name == name


def test_an_object_that_only_has_the_method() -> None:
    class Plain:
        def get_supported(self, supported: dict[str, str]) -> Any:
            return {"http": ("ssgi", other)}

    app = Plain()
    assert recognise(app, "site:app") == "ssgi"
    made = make_interface("auto", app, ServerConfig())
    assert isinstance(made, SsgiInterface)
    assert made.negotiated is not None


async def test_a_framework_that_is_an_application_itself() -> None:
    class Both(SSGIFramework):
        def get_supported(self, supported_interfaces: dict[str, str]) -> Any:
            return {"http": ("ssgi", self), "websocket": ("ssgi", self)}

        def __call__(self, *arguments: Any) -> None:
            ssgi(*arguments)

    made = interface(Both())
    assert made.name == "ssgi"
    async with Client(made) as client:
        assert (await client.get("/")).body == b"http by ssgi"
        assert (await converse(client, http2=False)).messages == ("websocket by ssgi",)


async def test_errors_name_the_application(caplog: pytest.LogCaptureFixture) -> None:
    def silent(*arguments: Any) -> None:
        pass

    async with Client(interface(Framework(http=("ssgi", silent)))) as client:
        assert (await client.get("/")).status == 500
    assert lines_of(caplog) == [
        "GET /: ssgi application site:app: the application returned without an answer"
    ]


async def test_limits_are_passed_on() -> None:
    made = interface(Framework(http=("wsgi", wsgi), websocket=("ssgi", ssgi)), body_limit=3)
    assert made.negotiated is not None
    for each in (made.negotiated.http, made.negotiated.websocket):
        assert each.max_body_size == 3  # type: ignore[union-attr]
        assert each.config is made.config  # type: ignore[union-attr]
    async with Client(made) as client:
        assert (await client.post("/", body=b"1234")).status == 413


# -- One application, one life -----------------------------------------------------------------


async def test_the_same_handler_has_one_interface_and_one_lifespan() -> None:
    app = Asgi()
    made = interface(Framework(http=("asgi", app), websockets=("asgi", app)))
    assert made.negotiated is not None
    assert made.negotiated.http is made.negotiated.websocket
    async with Client(made) as client:
        await client.get("/")
        await converse(client, http2=False)
    assert app.lifespans == 1


def test_other_handlers_and_other_names_have_interfaces_of_their_own() -> None:
    made = interface(Framework(http=("ssgi", ssgi), websocket=("ssgi", other))).negotiated
    assert made is not None
    assert made.http is not made.websocket
    app = Asgi()
    made = interface(Framework(http=("ssgi", app), websocket=("asgi", app))).negotiated
    assert made is not None
    assert isinstance(made.http, SsgiInterface)
    assert not isinstance(made.websocket, SsgiInterface)


class Life:
    """An interface that tells what becomes of it."""

    def __init__(self, name: str, events: list[str], fails: bool = False) -> None:
        self.name = name
        self.events = events
        self.fails = fails

    async def __call__(self, stream: Any) -> None:
        await stream.send_response(200, (), self.name.encode())

    async def startup(self, context: Context) -> None:
        self.events.append(f"{self.name} up")
        if self.fails:
            raise KyoukaiError("it cannot start")

    async def shutdown(self) -> None:
        self.events.append(f"{self.name} down")


@pytest.mark.parametrize("failing", [None, "wsgi", "asgi"])
async def test_both_are_started_and_ended_in_order(failing: str | None) -> None:
    events: list[str] = []

    def make(name: str, app: Any, *arguments: Any, **options: Any) -> Any:
        assert options == {"source": "site:app", "max_body_size": 7}
        return Life(name, events, name == failing)

    made = NegotiatedInterface(
        Framework(http=("wsgi", wsgi), websocket=("asgi", Asgi())),
        ServerConfig(),
        source="site:app",
        max_body_size=7,
        make=make,
    )
    async with Context() as context:
        if failing is None:
            await made.startup(context)
        else:
            with pytest.raises(KyoukaiError, match="it cannot start"):
                await made.startup(context)
        await made.shutdown()
        await made.shutdown()
    if failing == "wsgi":
        assert events == ["wsgi up", "wsgi down"]
    else:
        assert events == ["wsgi up", "asgi up", "asgi down", "wsgi down"]


async def test_the_end_of_one_does_not_hinder_the_other() -> None:
    events: list[str] = []

    class Failing(Life):
        async def shutdown(self) -> None:
            await super().shutdown()
            raise KyoukaiError("it cannot end")

    made = NegotiatedInterface(
        Framework(http=("wsgi", wsgi), websocket=("asgi", Asgi())),
        ServerConfig(),
        make=lambda name, *arguments, **options: Failing(name, events),
    )
    async with Context() as context:
        await made.startup(context)
        with pytest.raises(KyoukaiError, match="it cannot end"):
            await made.shutdown()
    assert events == ["wsgi up", "asgi up", "asgi down", "wsgi down"]


def test_a_native_application_has_its_own_interface() -> None:
    app = native()
    made = interface(Framework(http=("kyoukai", app), websocket=("kyoukai", app)))
    assert made.negotiated is not None
    assert isinstance(made.negotiated.http, NativeInterface)
    assert made.negotiated.http is made.negotiated.websocket


async def test_what_is_mounted_on_a_native_application_is_served_too() -> None:
    app = native()
    app.mount("/sub", other, interface="ssgi")
    made = interface(Framework(http=("kyoukai", app), websocket=("ssgi", ssgi)))
    async with Client(made) as client:
        assert (await client.get("/")).body == b"http by kyoukai"
        assert (await client.get("/sub")).body == b"other"


# -- What is wrong -----------------------------------------------------------------------------


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ([], "get_supported() returns a dict, not of type list"),
        (7, "get_supported() returns a dict, not of type int"),
        ({}, "get_supported() serves neither http nor websocket"),
        ({"http": None, "websocket": None}, "get_supported() serves neither http nor websocket"),
        (
            {"http": ("ssgi", ssgi), "websocket": None, "websockets": None},
            "get_supported() has both websocket and websockets",
        ),
        (
            {"HTTP": ("ssgi", ssgi)},
            "get_supported() has 'HTTP', which is no protocol: http and websocket are",
        ),
        (
            {"http": "ssgi"},
            "get_supported()['http'] is a pair of name and handler, or None; not of type str",
        ),
        (
            {"http": ("ssgi",)},
            "get_supported()['http'] is a pair of name and handler, or None; not of type tuple",
        ),
        (
            {"websockets": ssgi},
            "get_supported()['websockets'] is a pair of name and handler, or None; not of type"
            " function",
        ),
        (
            {"http": ("jsgi", ssgi)},
            "get_supported()['http']: 'jsgi' is no interface; choose of asgi, wsgi, rsgi, ssgi,"
            " kyoukai",
        ),
        (
            {"http": ("a\nb", ssgi)},
            "get_supported()['http']: 'a b' is no interface; choose of asgi, wsgi, rsgi, ssgi,"
            " kyoukai",
        ),
        (
            {"http": (None, ssgi)},
            "get_supported()['http']: 'None' is no interface; choose of asgi, wsgi, rsgi, ssgi,"
            " kyoukai",
        ),
        (
            {"websocket": ("wsgi", wsgi)},
            "get_supported()['websocket']: 'wsgi' has no WebSockets; choose of asgi, rsgi, ssgi,"
            " kyoukai",
        ),
        (
            {"http": ("ssgi", None)},
            "get_supported()['http']: the handler of ssgi is not callable but None",
        ),
        (
            {"http": ("asgi", 7)},
            "get_supported()['http']: the handler of asgi is not callable but of type int",
        ),
        (
            {"http": ("rsgi", 7)},
            "get_supported()['http']: the handler of rsgi is not an RSGI application but of type"
            " int",
        ),
        (
            {"http": ("kyoukai", ssgi)},
            "get_supported()['http']: the handler of kyoukai is not a Kyoukai application but of"
            " type function",
        ),
        (
            {"http": ("ssgi", Framework())},
            "get_supported()['http']: the handler of ssgi is not callable but of type Framework",
        ),
        (
            ValueError("two\nlines"),
            "get_supported() has raised ValueError: two lines",
        ),
        (NotImplementedError(), "get_supported() has raised NotImplementedError"),
    ],
)
def test_wrong_answers_are_told_in_one_line(answer: Any, problem: str) -> None:
    with pytest.raises(TargetError) as caught:
        interface(Framework(answer))
    assert str(caught.value) == f"site:app: {problem}"
    if isinstance(answer, Exception):
        assert caught.value.__cause__ is answer


def test_a_coroutine_is_no_answer() -> None:
    class Waiting:
        async def get_supported(self, supported: dict[str, str]) -> Any: ...

    with pytest.raises(TargetError, match="returns a dict, not of type coroutine"):
        interface(Waiting())


def test_a_framework_that_forgets_the_method() -> None:
    with pytest.raises(TargetError, match="get_supported\\(\\) has raised NotImplementedError"):
        interface(SSGIFramework())
