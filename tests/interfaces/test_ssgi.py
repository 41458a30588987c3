"""What an SSGI application is called with, how long its headers last, and what ends its request."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns
from ssgi_peers import (
    ANSWERING,
    STYLES,
    answered,
    each_peer,
    each_style,
    interface,
    on_http,
    served,
)
from talks import both, converse, lines_of

from kyoukai import ServerConfig
from kyoukai.exceptions import InterfaceError, TargetError
from kyoukai.interfaces import ssgi_headers
from kyoukai.interfaces.build import make_interface
from kyoukai.interfaces.mounts import MountedInterface
from kyoukai.interfaces.recognition import recognise
from kyoukai.interfaces.ssgi import SSGIHttpResponse, SsgiInterface, SSGIWebSocket
from kyoukai.interfaces.ssgi_headers import RequestHeaders, address_of, fields_of
from kyoukai.mount import Mount
from kyoukai.testing import Client

if TYPE_CHECKING:
    from collections.abc import Callable


class Told:
    """Keeps what an application is called with, and answers."""

    def __init__(self) -> None:
        self.arguments: tuple[Any, ...] = ()
        self.headers: dict[str, str] = {}
        self.extensions: dict[str, Any] = {}

    def __call__(
        self,
        type: str,  # noqa: A002
        server_address: str,
        remote_address: str,
        method: str,
        path: str,
        query_string: str,
        get_header: Callable[..., Any],
        res: Any,
    ) -> None:
        self.arguments = (type, server_address, remote_address, method, path, query_string)
        self.headers = get_header()
        self.extensions = res.extensions
        self.kind = res.__class__
        if type == "http":
            res.send(b"told")
        else:
            res.reject(404)


# -- The arguments -----------------------------------------------------------------------------


@each_peer
async def test_what_a_request_is_told_as(peer: str) -> None:
    told = Told()
    request = ("PUT", "/caf%C3%A9/a%2Fb?q=%20&q=2")
    answer = await answered(told, peer, *request, headers=[("X-One", "1")], body=b"abc")
    assert (answer.status, answer.body) == (200, b"told")
    assert told.arguments == (
        "http",
        "127.0.0.1:8000",
        "127.0.0.1:50000",
        "PUT",
        "/café/a/b",
        "q=%20&q=2",
    )
    assert told.kind is SSGIHttpResponse
    assert told.headers == {"host": "localhost", "x-one": "1", "content-length": "3"}
    assert told.extensions == {
        "root_path": "",
        "raw_path": "/caf%C3%A9/a%2Fb",
        "scheme": "http",
        "http_version": "1.1" if peer == "http1" else "2",
        "authority": "localhost",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "tls": None,
    }


@both
async def test_what_a_socket_is_told_as(http2: bool) -> None:
    """A CONNECT of HTTP/2 is the GET of HTTP/1.1."""
    told = Told()
    async with Client(interface(told)) as client:
        with pytest.raises(Exception, match="404"):
            async with client.websocket("/a%20b?c", http2=http2, subprotocols=["x", "y"]):
                pass
    assert told.arguments[0] == "websocket"
    assert told.arguments[3:] == ("GET", "/a b", "c")
    assert told.kind is SSGIWebSocket
    assert told.headers["sec-websocket-protocol"] == "x, y"
    assert told.extensions["subprotocols"] == ("x", "y")
    assert told.extensions["http_version"] == ("2" if http2 else "1.1")


@pytest.mark.parametrize(
    ("extra", "server", "client"),
    [
        ({}, "127.0.0.1:8000", "127.0.0.1:50000"),
        (
            {"sockname": ("::1", 80, 0, 0), "peername": ("fe80::1", 5, 0, 0)},
            "[::1]:80",
            "[fe80::1]:5",
        ),
        ({"sockname": "/run/a.sock", "peername": ""}, "unix:/run/a.sock", "unix:"),
    ],
)
async def test_addresses(extra: dict[str, Any], server: str, client: str) -> None:
    told = Told()
    async with Client(interface(told)) as http:
        connection = http.connect(**extra)
        connection.request("GET", "/")
        await connection.response()
    assert told.arguments[1:3] == (server, client)


async def test_a_client_behind_a_proxy_has_no_port() -> None:
    told = Told()
    async with Client(interface(told), trusted_proxies=("127.0.0.1",)) as client:
        await client.get("/", headers={"X-Forwarded-For": "10.0.0.7"})
        assert told.arguments[2] == "10.0.0.7"
        await client.get("/", headers={"X-Forwarded-For": "2001:db8::7"})
        assert told.arguments[2] == "[2001:db8::7]"


def test_an_address_that_is_not_known() -> None:
    assert address_of(None) == ""


async def test_the_path_of_a_mount_is_without_its_prefix() -> None:
    told = Told()
    mounted = MountedInterface(interface(Told()), [(Mount("/shop", "a:b"), interface(told))])
    async with Client(mounted) as client:
        await client.get("/shop/a%20b")
        assert told.arguments[4] == "/a b"
        assert told.extensions["root_path"] == "/shop"
        assert told.extensions["raw_path"] == "/shop/a%20b"
        await client.get("/shop")
        assert told.arguments[4] == "/"


async def test_tls_is_told() -> None:
    told = Told()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    async with Client(interface(told)) as client:
        connection = client.connect(ssl_object=tls)
        connection.request("GET", "/")
        await connection.response()
    assert told.extensions["tls"] is tls
    assert told.extensions["scheme"] == "https"


async def test_extensions_are_one_dict_that_may_be_added_to() -> None:
    def application(res: SSGIHttpResponse) -> None:
        res.extensions["user"] = "ada"
        res.send(f"{res.extensions['user']} {res.extensions['scheme']}")

    assert (await answered(on_http(application))).body == b"ada http"


# -- Headers -----------------------------------------------------------------------------------


def test_headers_by_name() -> None:
    pairs = [(b"host", b"a"), (b"x-a", b"1"), (b"cookie", b"a=1"), (b"x-a", b"2")]
    get_header = RequestHeaders([*pairs, (b"cookie", b"b=2"), (b"x-e", b""), (b"x-l", b"\xe9")])
    assert get_header("x-a") == get_header("X-A") == "1, 2"
    assert get_header("cookie") == "a=1; b=2"
    assert get_header("host") == "a"
    assert get_header("x-e") == ""
    assert get_header("x-l") == "é"
    assert get_header("x-b") is None
    assert get_header("x-é") is None
    for wrong in (b"host", 1, ["host"]):
        with pytest.raises(InterfaceError, match="takes a str or None"):
            get_header(wrong)  # type: ignore[arg-type]


def test_all_headers() -> None:
    pairs = [(b"host", b"a"), (b"x-a", b"1"), (b"cookie", b"a=1"), (b"x-a", b"2")]
    get_header = RequestHeaders([*pairs, (b"cookie", b"b=2")])
    expected = {"host": "a", "x-a": "1, 2", "cookie": "a=1; b=2"}
    assert get_header() == get_header(None) == get_header(name=None) == expected
    get_header().clear()
    assert get_header() == expected  # a new dict each time


async def probe(get_header: Callable[..., Any]) -> str:
    try:
        return "kept" if get_header("host") == get_header()["host"] == "localhost" else "wrong"
    except RuntimeError as error:
        return "gone" if "after its time" in str(error) else "wrong"


class Keeper:
    """Keeps ``get_header``, and does what the test says with the call's arguments."""

    def __init__(self, work: Callable[..., Any], style: str = "async") -> None:
        self.get_header: Any = None
        self.application = STYLES[style](work)

    def __call__(self, *arguments: Any) -> Any:
        self.get_header = arguments[6]
        return self.application(*arguments)


@each_peer
@each_style
async def test_headers_last_as_long_as_the_call(style: str, peer: str) -> None:
    states = []

    async def work(*arguments: Any) -> None:
        states.append(await probe(arguments[6]))
        arguments[7].send("ok")
        states.append(await probe(arguments[6]))  # an answer does not end their time

    keeper = Keeper(work, style)
    async with served(keeper, peer) as client:
        client.request()
        assert (await client.response()).body == b"ok"
        await turns()
        assert states == ["kept", "kept"]
        assert await probe(keeper.get_header) == "gone"


async def test_headers_of_a_coroutine_last_while_it_waits() -> None:
    go_on = asyncio.Event()
    states = []

    async def work(*arguments: Any) -> None:
        await go_on.wait()
        states.append(await probe(arguments[6]))
        arguments[7].send("ok")

    keeper = Keeper(work)
    async with served(keeper) as client:
        client.request()
        await turns()
        assert await probe(keeper.get_header) == "kept"
        go_on.set()
        await client.response()
        assert states == ["kept"]


async def test_run_async_keeps_the_headers_until_the_last_one_ends() -> None:
    events = [asyncio.Event(), asyncio.Event()]
    keeper = Keeper(lambda *arguments: [arguments[7].run_async(e.wait) for e in events], "async")
    async with served(keeper) as client:
        client.request()
        await turns()
        assert await probe(keeper.get_header) == "kept"
        events[0].set()
        await turns()
        assert await probe(keeper.get_header) == "kept"
        events[1].set()
        await turns()
        assert await probe(keeper.get_header) == "gone"


async def test_headers_are_gone_when_a_plain_function_has_returned() -> None:
    """Also if its answer is still on its way."""
    keeper = Keeper(lambda *arguments: arguments[7].send(b"x" * 3000000) and None)
    async with served(keeper) as client:
        client.hold()
        client.request()
        await turns()
        assert await probe(keeper.get_header) == "gone"
        client.release()
        assert len((await client.response()).body) == 3000000


@both
@each_style
@pytest.mark.parametrize("answer", ["accept", "reject", "close"])
async def test_headers_are_gone_after_accept_and_reject(
    answer: str, style: str, http2: bool
) -> None:
    states = []

    async def work(*arguments: Any) -> None:
        states.append(await probe(arguments[6]))
        getattr(arguments[7], answer)()
        states.append(await probe(arguments[6]))
        arguments[7].close()

    async with Client(interface(STYLES[style](work))) as client:
        outcome = await converse(client, http2=http2)
    assert outcome.status == (None if answer == "accept" else 403)
    assert states == ["kept", "gone"]


async def test_headers_stay_after_an_accept_that_fails() -> None:
    states = []

    async def work(*arguments: Any) -> None:
        with pytest.raises(InterfaceError, match="does not offer 'x'"):
            arguments[7].accept("x")
        states.append(await probe(arguments[6]))
        with pytest.raises(InterfaceError, match="300 to 599"):
            arguments[7].reject(200)
        states.append(await probe(arguments[6]))
        arguments[7].accept()
        arguments[7].close()

    async with Client(interface(work)) as client, client.websocket("/") as ws:
        await ws.wait_closed()
    assert states == ["kept", "kept"]


@pytest.mark.parametrize(
    ("headers", "rule"),
    [
        ([("x", "a\r\nb: c")], "header 'x' has an illegal value"),
        ([("x", "a\nb")], "header 'x' has an illegal value"),
        ([("x", "a\0")], "header 'x' has an illegal value"),
        ([("x y", "a")], "header name b'x y' is no token"),
        ([("x\r\ny", "a")], "is no token"),
        ([("", "a")], "is no token"),
        ([("é", "a")], "not in Latin-1"),
        ([("x", "€")], "not in Latin-1"),
        ([(b"x", b"a")], "is a pair of str"),
        ([("x", 1)], "is a pair of str"),
        ([("x", "a", "b")], "is a pair of str"),
        ({"ab": "c"}, "is a pair of str, not 'ab'"),
        ("ab", "is a pair of str"),
        (None, "pairs of str, not of type NoneType"),
        (7, "pairs of str, not of type int"),
    ],
)
def test_headers_that_may_not_be_sent(headers: Any, rule: str) -> None:
    for _ in range(2):  # what is wrong is not remembered
        with pytest.raises(InterfaceError, match=rule.replace("(", r"\(")) as caught:
            fields_of(headers)
        assert "\n" not in str(caught.value)


def test_headers_from_any_iterable_are_the_same_tuple() -> None:
    """Rendered heads are remembered by it."""
    pairs = [("Content-Type", "text/plain"), ("x", "é")]
    fields = fields_of(pairs)
    assert fields == ((b"Content-Type", b"text/plain"), (b"x", b"\xe9"))
    assert fields_of(tuple(pairs)) is fields
    assert fields_of(iter(pairs)) is fields
    assert fields_of(dict(pairs).items()) is fields
    assert fields_of([list(pair) for pair in pairs]) == fields  # type: ignore[misc]
    for number in range(2000):
        fields_of([("x-id", str(number))])
    assert fields_of(pairs) == fields
    assert len(ssgi_headers._known) <= 512


# -- Applications that break the rules ---------------------------------------------------------


@each_peer
@each_style
async def test_an_application_that_does_not_answer(
    style: str, peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(*arguments: Any) -> None:
        pass

    answer = await answered(STYLES[style](work), peer, "GET", "/a?b")
    assert answer.status == 500
    assert lines_of(caplog) == [f"GET /a?b: ssgi application site:app: {ANSWERING}"]


@each_peer
@each_style
async def test_an_application_that_raises(
    style: str, peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(*arguments: Any) -> None:
        raise ValueError("from the application")

    if style == "sync":

        def work(*arguments: Any) -> None:  # type: ignore[misc]
            raise ValueError("from the application")

        style = "async"
    answer = await answered(STYLES[style](work), peer)
    assert (answer.status, answer.body) == (500, b"Internal Server Error\n")
    assert lines_of(caplog) == [
        "GET /: ssgi application site:app: unhandled error in the application"
    ]
    assert caplog.records[-1].exc_info is not None
    assert "from the application" in str(caplog.records[-1].exc_info[1])


@each_peer
async def test_an_application_that_raises_in_its_answer(
    peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(*arguments: Any) -> None:
        await arguments[7].send("some", True)
        raise ValueError

    async with served(work, peer) as client:
        client.request()
        with pytest.raises(ConnectionError):
            await client.response()
    assert lines_of(caplog) == [
        "GET /: ssgi application site:app: unhandled error in the application"
    ]


@each_peer
@each_style
async def test_an_answer_that_is_not_complete(
    style: str, peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(*arguments: Any) -> None:
        arguments[7].send("some", True)

    async with served(STYLES[style](work), peer) as client:
        client.request()
        with pytest.raises(ConnectionError):
            await client.response()
        await turns()
    assert lines_of(caplog) == [
        "GET /: ssgi application site:app: the application returned before its answer was complete"
    ]


async def test_an_application_of_fewer_arguments(caplog: pytest.LogCaptureFixture) -> None:
    assert (await answered(lambda a, b: None)).status == 500
    assert lines_of(caplog) == [
        "GET /: ssgi application site:app: unhandled error in the application"
    ]


def test_what_is_no_application() -> None:
    with pytest.raises(TargetError, match="^site:app is of type int, which is no SSGI") as caught:
        interface(7)
    assert "\n" not in str(caught.value)


# -- Kinds of applications ---------------------------------------------------------------------


async def test_objects_and_functions_that_return_coroutines() -> None:
    class Application:
        async def __call__(self, *arguments: Any) -> None:
            arguments[7].send("object")

    assert (await answered(Application())).body == b"object"
    assert (await answered(Application().__call__)).body == b"object"
    assert (await answered(lambda *arguments: Application()(*arguments))).body == b"object"


async def test_what_a_plain_function_returns_is_not_looked_at() -> None:
    for value in (7, "text", [1]):

        def application(*arguments: Any, value: Any = value) -> Any:
            arguments[7].send("ok")
            return value

        assert (await answered(application)).body == b"ok"
    assert (await answered(lambda *arguments: arguments[7].send("ok"))).body == b"ok"


async def test_it_is_recognised_and_made_by_name() -> None:
    def application(kind, server, remote, method, path, query, get_header, res):  # type: ignore[no-untyped-def]
        res.send("ok")

    assert recognise(application, "site:app") == "ssgi"
    made = make_interface("auto", application, ServerConfig(), source="site:app", max_body_size=3)
    assert isinstance(made, SsgiInterface)
    assert (made.name, made.application_name, made.max_body_size) == ("ssgi", "site:app", 3)
    async with Client(made) as client:
        assert (await client.get("/")).body == b"ok"


# -- What is left behind -----------------------------------------------------------------------


async def waits(res: SSGIHttpResponse) -> None:
    await res.send("ok")


async def parts(res: SSGIHttpResponse) -> None:
    res.on_aborted(print, res)
    await res.send(bytes(200000), True)
    await res.send_chunk(bytes(200000))
    await res.get_data()
    await res.send(None)


async def fails(res: SSGIHttpResponse) -> None:
    raise ValueError


def answers(res: SSGIHttpResponse) -> None:
    assert res.extensions
    res.send_status(201)
    res.send_headers([("x", "y")])
    res.send("ok")


def runs(res: SSGIHttpResponse) -> None:
    res.run_async(parts, res)


def runs_and_fails(res: SSGIHttpResponse) -> None:
    res.run_async(fails, res)


def breaks(res: SSGIHttpResponse) -> None:
    res.send_status(7)


@each_peer
@pytest.mark.parametrize(
    "work", [answers, waits, parts, runs, fails, runs_and_fails, breaks], ids=lambda f: f.__name__
)
async def test_nothing_is_left_to_the_collector(work: Any, peer: str) -> None:
    logging.getLogger("kyoukai").disabled = True  # pytest keeps what was logged, with its frames
    try:
        async with served(on_http(work), peer) as client:
            for attempt in range(2):
                gc.collect()
                gc.disable()
                client.request("POST", body=b"abc")
                await client.response()
                await turns()
                alive = [each for each in gc.get_objects() if type(each) is SSGIHttpResponse]
                assert alive == [], attempt
    finally:
        gc.enable()
        logging.getLogger("kyoukai").disabled = False
