"""The debugger: what it shows, to whom, and that to everybody else it does not exist."""

from __future__ import annotations

import html
import re
import threading
from typing import Any

import pytest
from asphalt.core import Context
from exchanges import WIRES, Exchange, exchange
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from werkzeug.exceptions import NotFound

from kyoukai import HTTPRequestContext, Kyoukai, KyoukaiComponent, TestKyoukai
from kyoukai.interfaces.under_asgi import as_asgi
from kyoukai.testing import Client

PIN = "123-456-789"
SECRET = "the-name-of-a-thing-inside"

LOCAL = [
    ({}, {}),
    ({"peername": ("127.8.9.1", 1)}, {"Host": "127.0.0.1:8000"}),
    ({"peername": ("::1", 1, 0, 0)}, {"Host": "[::1]:8000"}),
    ({"peername": ("::ffff:127.0.0.1", 1, 0, 0)}, {"Host": "app.localhost"}),
    ({"peername": "", "sockname": "/run/app.sock"}, {"Host": "localhost"}),
    ({}, {"Origin": "http://localhost:3000"}),
    ({}, {"Origin": "https://[::1]:3000"}),
]
ELSEWHERE = [
    ({"peername": ("192.0.2.1", 1)}, {}),
    ({"peername": ("::ffff:192.0.2.1", 1, 0, 0)}, {}),
    ({"peername": ("fe80::1", 1, 0, 0)}, {}),
    ({}, {"Host": "example.com"}),
    ({}, {"Host": "127.0.0.1.example.com"}),
    ({}, {"Host": "localhost.example.com"}),
    ({}, {"Host": "10.0.0.1"}),
    ({}, {"X-Forwarded-For": "127.0.0.1"}),
    ({}, {"Forwarded": "for=127.0.0.1"}),
    ({}, {"X-Real-IP": "127.0.0.1"}),
    ({}, {"Via": "1.1 proxy"}),
    ({}, {"CDN-Loop": "cdn.example"}),
    ({}, {"X-Client-IP": "127.0.0.1"}),
    ({}, {"Origin": "https://example.com"}),
    ({}, {"Origin": "https://localhost.example.com"}),
    ({}, {"Origin": "null"}),
    ({"peername": "", "sockname": "/run/app.sock"}, {"Host": "example.com"}),
]


@pytest.fixture(autouse=True)
def _pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WERKZEUG_DEBUG_PIN", PIN)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Stranger(BaseException):
    """Something that is no Exception."""


def site(**options: Any) -> Kyoukai:
    app = Kyoukai("test", **{"debug": True, **options})

    @app.route("/")
    async def fails(ctx: HTTPRequestContext) -> Any:
        answer = SECRET + "!"
        raise ValueError(f"<{answer}>")

    @app.route("/unprintable")
    async def unprintable(ctx: HTTPRequestContext) -> Any:
        raise Unprintable(SECRET)

    @app.route("/stranger")
    async def stranger(ctx: HTTPRequestContext) -> Any:
        raise Stranger(SECRET)

    @app.route("/group")
    async def group(ctx: HTTPRequestContext) -> Any:
        raise ExceptionGroup(SECRET, [ValueError("one")])

    @app.route("/nonsense")
    async def nonsense(ctx: HTTPRequestContext) -> Any:
        return {SECRET: object()}

    @app.route("/unsendable")
    async def unsendable(ctx: HTTPRequestContext) -> Any:
        def body() -> Any:
            raise ValueError(SECRET)
            yield b""

        return body()

    @app.route("/fine")
    async def fine(ctx: HTTPRequestContext) -> Any:
        return f"fine {ctx.request.args.get('__debugger__', '')}"

    return app


def is_page(answer: Exchange) -> bool:
    """Whether it is the debugger's; if it is not, it must say nothing."""
    if b"Werkzeug Debugger" in answer.body:
        assert answer.status == 500
        assert "no-store" in answer.headers["Cache-Control"]
        return True
    for word in (SECRET, "Traceback", "ValueError", ".py", "debugger", "werkzeug"):
        assert word.encode() not in answer.body
    return False


# -- Who sees it -------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("extra", "headers"), LOCAL)
async def test_this_machine(
    extra: dict[str, Any], headers: dict[str, str], wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await exchange(site(), headers=headers, extra=extra, wire=wire)
    assert is_page(answer)
    text = answer.body.decode()
    assert html.escape(f"ValueError: <{SECRET}!>") in text
    assert "raise ValueError(f" in html.unescape(text)  # a line of the source
    assert "fails (GET '/') failed" in caplog.text


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("extra", "headers"), ELSEWHERE)
async def test_everybody_else(
    extra: dict[str, Any], headers: dict[str, str], wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = await exchange(site(debug=False), headers=headers, extra=extra, wire=wire)
    caplog.clear()
    answer = await exchange(site(), headers=headers, extra=extra, wire=wire)
    assert not is_page(answer)
    assert (answer.status, answer.body) == (plain.status, plain.body)
    assert f"ValueError: <{SECRET}!>" in caplog.text
    query = "/fine?__debugger__=yes&cmd=resource&f=style.css"
    answer = await exchange(site(), query, headers=headers, extra=extra, wire=wire)
    assert (answer.status, answer.body) == (200, b"fine yes")


@pytest.mark.parametrize(("trusted", "peer"), [("*", "203.0.113.9"), ("127.0.0.1", "127.0.0.1")])
async def test_a_trusted_proxy_cannot_make_a_client_local(trusted: str, peer: str) -> None:
    headers = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "localhost"}
    answer = await exchange(
        site(), headers=headers, extra={"peername": (peer, 1)}, trusted_proxies=trusted
    )
    assert not is_page(answer)


async def test_http_1_0_is_what_proxies_speak() -> None:
    """Browsers do not, but nginx does, which calls the host by our own address."""
    async with Client(site()) as client:
        connection = client.connect()
        connection.send(b"GET / HTTP/1.0\r\nHost: 127.0.0.1:8000\r\n\r\n")
        answer = await connection.response()
        assert (answer.status, is_page(answer)) == (500, False)  # type: ignore[arg-type]


async def test_a_connection_of_a_proxy_stays_one() -> None:
    """Some proxies name the client in some of their requests only."""
    async with Client(site()) as client:
        assert is_page(await client.get("/"))  # type: ignore[arg-type]
        assert not is_page(await client.get("/", headers={"X-Forwarded-For": "192.0.2.1"}))  # type: ignore[arg-type]
        assert not is_page(await client.get("/"))  # type: ignore[arg-type]


async def test_a_connection_of_a_proxy_stays_one_on_another_protocol() -> None:
    """As in attacks by which a client has a proxy's connection for itself (h2c smuggling)."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding="ascii"))
    settings = client.initiate_upgrade_connection()
    assert settings is not None
    async with Client(site()) as server:
        transport = server.connect().transport
        transport.feed(
            b"GET /fine HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n"
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: "
            + settings
            + b"\r\n\r\n"
        )
        head = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost")]
        client.send_headers(3, [*head, (":path", "/")], end_stream=True)
        transport.feed(client.data_to_send())
        data = b""
        ended: set[int] = set()
        bodies = {1: b"", 3: b""}
        while ended != {1, 3}:
            await transport.changed.wait()
            transport.changed.clear()
            data += transport.take()
            if data.startswith(b"HTTP/1.1 101 ") and b"\r\n\r\n" in data:
                data = data.partition(b"\r\n\r\n")[2]
            for event in client.receive_data(data):
                if isinstance(event, DataReceived):
                    bodies[event.stream_id] += event.data
                elif isinstance(event, StreamEnded):
                    ended.add(event.stream_id)
            data = b""
    assert bodies[1] == b"fine "
    assert b"Internal Server Error" in bodies[3]
    assert b"Debugger" not in bodies[3]


async def test_under_another_server_there_is_none() -> None:
    sent: list[dict[str, Any]] = []
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    await as_asgi(site())(scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 500
    assert b"Debugger" not in b"".join(message.get("body", b"") for message in sent)


async def test_a_request_that_was_on_no_wire_does_not() -> None:
    app = TestKyoukai.wrap_existing_app(site())
    response = await app.inject_request({"Host": "localhost"}, "/")
    assert response.status_code == 500
    assert b"Debugger" not in response.get_data()


# -- When there is one -------------------------------------------------------------------------


async def test_without_debug_there_is_none() -> None:
    assert not is_page(await exchange(site(debug=False)))
    answer = await exchange(site(debug=False), "/fine?__debugger__=yes&cmd=resource&f=style.css")
    assert answer.body == b"fine yes"


async def test_debug_follows_the_configuration(caplog: pytest.LogCaptureFixture) -> None:
    app = Kyoukai("test")
    assert not app.debug
    app.debug = True
    assert app.config == {"debug": True}
    app.config.clear()
    assert not app.debug
    component = KyoukaiComponent(app, run_server=False, config={"debug": True})
    assert not app.debug  # as long as it is not started
    assert not caplog.records
    async with Context() as ctx:
        await component.start(ctx)
    assert app.debug
    pipeline = component.interface.pipeline  # type: ignore[attr-defined]
    assert pipeline.debugger is not None
    assert caplog.messages == [
        f"test: debug is on: browsers on this machine see tracebacks; the PIN of their console is "
        f"{PIN}"
    ]


@pytest.mark.parametrize("path", ["/unprintable", "/stranger", "/group", "/nonsense"])
async def test_whatever_is_raised(path: str) -> None:
    answer = await exchange(site(), path)
    assert is_page(answer)
    expected = {"/unprintable": "Unprintable", "/nonsense": "MediaError"}.get(path, SECRET)
    assert expected.encode() in answer.body


async def test_what_cannot_be_shown(caplog: pytest.LogCaptureFixture) -> None:
    app = Kyoukai("test", debug=True)

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> Any:
        __traceback_hide__: list[str] = []  # which the debugger compares with what it knows
        raise ValueError(SECRET, __traceback_hide__)

    assert not is_page(await exchange(app))
    assert "the debugger cannot show ValueError" in caplog.text
    assert f"ValueError: ('{SECRET}'" in caplog.text


async def test_what_fails_while_it_is_sent() -> None:
    assert is_page(await exchange(site(), "/unsendable"))


async def test_error_handlers_come_first() -> None:
    app = site()

    @app.errorhandler(500)
    async def failed(ctx: HTTPRequestContext, error: Any) -> str:
        if ctx.request.path == "/":
            return "handled"
        raise KeyError(SECRET)

    answer = await exchange(app)
    assert (answer.status, answer.body) == (500, b"handled")
    answer = await exchange(app, "/group")
    assert is_page(answer)
    assert b"KeyError" in answer.body


async def test_http_errors_are_no_failures() -> None:
    app = site()

    @app.route("/gone")
    async def gone(ctx: HTTPRequestContext) -> None:
        raise NotFound

    for path in ("/gone", "/missing"):
        answer = await exchange(app, path)
        assert (answer.status, is_page(answer)) == (404, False)


async def test_a_socket_has_none() -> None:
    app = Kyoukai("test", debug=True)

    @app.websocket("/")
    async def socket(ctx: Any, ws: Any) -> None:
        raise ValueError(SECRET)

    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAECAwQFBgcICQoLDA0ODw==",
    }
    answer = await exchange(app, headers=headers)
    assert (answer.status, is_page(answer)) == (500, False)


# -- Its pages ---------------------------------------------------------------------------------


def said_by(page: bytes) -> tuple[str, str]:
    """Return what the page's script sends along: its secret, and a frame of the handler."""
    text = page.decode()
    secret = re.search(r'SECRET = "(\w+)"', text)
    frames = re.findall(r'id="frame-(\d+)"', text)
    assert secret is not None
    assert frames
    return secret[1], frames[-1]


async def test_the_console_is_behind_its_pin() -> None:
    async with Client(site()) as client:
        page = (await client.get("/")).body
        assert b"EVALEX = true" in page
        assert b"EVALEX_TRUSTED = false" in page
        secret, frame = said_by(page)
        command = f"/?__debugger__=yes&cmd=answer&frm={frame}&s={secret}"

        assert (await client.get(command)).status == 404  # no PIN yet
        wrong = await client.get(f"/?__debugger__=yes&cmd=pinauth&pin=1&s={secret}")
        assert wrong.json() == {"auth": False, "exhausted": False}
        assert "Set-Cookie" not in wrong.headers
        stranger = await client.get(f"/?__debugger__=yes&cmd=pinauth&pin={PIN}&s=x")
        assert stranger.status == 404

        right = await client.get(f"/?__debugger__=yes&cmd=pinauth&pin={PIN}&s={secret}")
        assert right.json() == {"auth": True, "exhausted": False}
        cookie = {"Cookie": right.headers["Set-Cookie"].partition(";")[0]}
        answer = await client.get(command, headers=cookie)
        assert SECRET in answer.text
        assert (await client.get(command.replace(secret, "x"), headers=cookie)).status == 404
        assert b"EVALEX_TRUSTED = true" in (await client.get("/", headers=cookie)).body

        thread = command.replace("=answer", "=__import__('threading').get_ident()")
        found = re.search(r"\d{6,}", (await client.get(thread, headers=cookie)).text)
        assert found is not None
        assert int(found[0]) != threading.get_ident()

        for headers in ({"Host": "example.com"}, {"Via": "1.1 proxy"}):
            answer = await client.get(command, headers={**cookie, **headers})
            assert (answer.status, SECRET in answer.text) == (500, False)
        assert (await client.post(command, headers=cookie)).status == 405


async def test_files_of_the_page_are_served() -> None:
    async with Client(site()) as client:
        for name, kind in (("style.css", "text/css"), ("debugger.js", "javascript")):
            answer = await client.get(f"/any/where?__debugger__=yes&cmd=resource&f={name}")
            assert (answer.status, kind in answer.headers["Content-Type"]) == (200, True)
            assert len(answer.body) > 1000
        for name in ("../__init__.py", "nothing.css", ""):
            answer = await client.get(f"/?__debugger__=yes&cmd=resource&f={name}")
            assert answer.status == 404
        assert (await client.get("/console")).status == 404


async def test_without_a_pin_there_is_no_console(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WERKZEUG_DEBUG_PIN", "off")
    async with Client(site()) as client:
        page = (await client.get("/")).body
        assert SECRET.encode() in page
        assert b"EVALEX = false" in page
        assert b"EVALEX_TRUSTED = false" in page
        secret = re.search(rb'SECRET = "(\w+)"', page)
        assert secret is not None
        for command in ("pinauth&pin=", "printpin"):
            query = f"?__debugger__=yes&cmd={command}&s={secret[1].decode()}"
            assert (await client.get(f"/fine{query}")).text == "fine yes"
        answer = await client.get("/?__debugger__=yes&cmd=resource&f=style.css")
        assert answer.status == 200
    assert "the PIN of their console is off, and so is the console" in caplog.text


async def test_old_tracebacks_are_forgotten() -> None:
    async with Client(site()) as client:
        debugger = client.server.interface.pipeline.debugger  # type: ignore[attr-defined]
        frames = debugger._werkzeug.frames
        for _ in range(10):
            await client.get("/")
        kept = len(frames)
        first = set(frames)
        for _ in range(10):
            await client.get("/")
        assert len(frames) == kept
        assert first != set(frames)
