"""Which upgrades a server takes: ``upgrade_tokens``, on both wires, and who answers the others."""

from __future__ import annotations

from typing import Any

import pytest

from kyoukai.app import Kyoukai
from kyoukai.context import HTTPRequestContext
from kyoukai.stream import CLOSED, IDLE, OPEN, StreamState
from kyoukai.testing import MemoryServer

from .http2.support import dial
from .support import GOOD, Mirror, Stage, connect, parse_answers, turns
from .wires import KEY, Http2Line

#: The setting of HTTP/2 (RFC 8441 section 3).
ENABLE_CONNECT_PROTOCOL = 8

TOKENS = ("websocket", "tcp", "acme/2")


def asking(offer: str, *lines: str, method: str = "GET", body: bytes = b"") -> bytes:
    """A request for an upgrade on HTTP/1.1."""
    more = "".join(f"{line}\r\n" for line in lines)
    head = f"{method} /ask HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
    return (head + f"Upgrade: {offer}\r\n{more}\r\n").encode() + body


# -- HTTP/1.1 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("lines", [(), ("Content-Length: 0",)])
async def test_any_method_may_ask(method: str, lines: tuple[str, ...]) -> None:
    """As with Docker, whose attach is a POST."""
    stage = Stage()
    async with MemoryServer(stage, upgrade_tokens=TOKENS) as server:
        connection = connect(server)
        connection.send(asking("TCP", *lines, method=method, body=b"behind it"))
        stream = await stage.next()
        assert (stream.head.protocol, stream.upgradable) == ("tcp", True)
        assert (stream.head.method, stream.receiving, stream.buffered) == (method, CLOSED, 0)
        stream.accept_upgrade(())
        assert await stream.receive() == b"behind it"
        await stream.send_data(b"back")
        assert connection.transport.take() == (
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: TCP\r\n\r\nback"
        )


@pytest.mark.parametrize(
    ("offer", "method", "protocol", "taken"),
    [
        ("acme/2", "GET", "acme/2", True),
        ("Acme/2, tcp", "GET", "acme/2", True),
        ("other, tcp ,acme/2", "GET", "tcp", True),
        ("tcp, websocket", "GET", "websocket", True),
        ("tcp, websocket", "POST", "tcp", True),
        ("websocket", "POST", "websocket", False),
        ("h2c, tcp", "GET", "tcp", True),
        ("acme", "GET", "acme", False),
        ("acme/1, other", "GET", "acme/1, other", False),
        ("h2", "GET", "h2", False),
        ("", "GET", "", False),
    ],
)
async def test_what_is_chosen(offer: str, method: str, protocol: str, taken: bool) -> None:
    stage = Stage()
    async with MemoryServer(stage, upgrade_tokens=TOKENS) as server:
        connection = connect(server)
        connection.send(asking(offer, method=method) + GOOD)
        stream = await stage.next()
        assert (stream.head.protocol, stream.upgradable) == (protocol, taken)
        await stream.send_response(200, (), b"1")
        await stage.answer(b"2")
        answers = parse_answers(connection.transport.take())
        assert [body for _, _, body in answers] == [b"1", b"2"]


async def test_several_headers_are_one_list() -> None:
    stage = Stage()
    async with MemoryServer(stage, upgrade_tokens=TOKENS) as server:
        connection = connect(server)
        connection.send(asking("other", "Upgrade: TCP, acme/2"))
        stream = await stage.next()
        assert stream.head.protocol == "tcp"
        stream.accept_upgrade(())
        assert b"\r\nupgrade: TCP\r\n" in connection.transport.take()


@pytest.mark.parametrize(
    "request_",
    [
        asking("tcp", "Content-Length: 4", method="POST", body=b"GET "),
        asking("tcp", "Transfer-Encoding: chunked", body=b"4\r\nGET \r\n0\r\n\r\n"),
        asking("tcp").replace(b"HTTP/1.1", b"HTTP/1.0"),
        asking("tcp").replace(b"Connection: Upgrade\r\n", b""),
    ],
)
async def test_a_request_with_a_body_becomes_no_tunnel(request_: bytes) -> None:
    mirror = Mirror()

    async def app(stream: StreamState) -> None:
        assert not stream.upgradable
        await mirror(stream)

    async with MemoryServer(app, upgrade_tokens=TOKENS) as server:
        connection = connect(server)
        connection.send(request_ + (b"" if b"HTTP/1.0" in request_ else GOOD))
        await turns(40)
        answers = parse_answers(connection.transport.take())
        assert answers[0][2].endswith(b"GET " if b"4" in request_ else b"/ask ")
        assert len(answers) == (1 if b"HTTP/1.0" in request_ else 2)


@pytest.mark.parametrize("tokens", [(), ("tcp",)])
async def test_without_websockets_a_handshake_is_a_request(tokens: tuple[str, ...]) -> None:
    app = Kyoukai("test")

    @app.route("/ask")
    async def ask(ctx: HTTPRequestContext) -> str:
        return "an answer"

    @app.websocket("/socket")
    async def socket(ctx: Any, ws: Any) -> None:
        raise AssertionError("never called")

    async with MemoryServer(app, upgrade_tokens=tokens) as server:
        connection = connect(server)
        handshake = asking("websocket", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13")
        connection.send(handshake + handshake.replace(b"/ask", b"/socket"))
        response = await connection.response()
        assert (response.status, response.text) == (200, "an answer")
        assert (await connection.response()).status in (404, 405, 426)


# -- HTTP/2 ------------------------------------------------------------------------------------


def connecting(client: Any, protocol: str) -> Any:
    return client.begin("CONNECT", "/ask", [(":protocol", protocol)])


async def test_what_connect_opens() -> None:
    stage = Stage()
    async with MemoryServer(stage, Http2Line.protocol_class, upgrade_tokens=TOKENS) as server:
        client, _ = dial(server)
        exchange = connecting(client, "TCP")
        exchange.data(b"early")
        stream = await stage.next()
        assert (stream.head.protocol, stream.upgradable) == ("tcp", True)
        assert (stream.sending, stream.receiving) == (IDLE, OPEN)
        stream.accept_upgrade(())
        assert (stream.sending, stream.receiving) == (OPEN, OPEN)
        assert await stream.receive() == b"early"
        other = connecting(client, "acme")
        assert (await other.finished()).status == 501
        assert client.server_settings[ENABLE_CONNECT_PROTOCOL] == 1
        # The same block again, which is known by now.
        connecting(client, "TCP")
        assert (await stage.next()).head.protocol == "tcp"


async def test_without_any_protocol_connect_is_not_announced() -> None:
    async with MemoryServer(Mirror(), Http2Line.protocol_class, upgrade_tokens=()) as server:
        client, _ = dial(server)
        exchange = connecting(client, "websocket")
        assert (await exchange.finished()).status == 501
        assert not client.server_settings.get(ENABLE_CONNECT_PROTOCOL)


# -- Those who take no such upgrade ------------------------------------------------------------


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"an answer"})


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"an answer"]


def native() -> Kyoukai:
    app = Kyoukai("test")

    @app.route("/ask", methods=["GET", "CONNECT"])
    async def ask(ctx: HTTPRequestContext) -> str:
        return "an answer"

    return app


APPLICATIONS = {"asgi": asgi, "wsgi": wsgi, "kyoukai": native()}
applications = pytest.mark.parametrize("kind", APPLICATIONS)


@applications
async def test_others_answer_a_request_for_an_upgrade(kind: str) -> None:
    app = APPLICATIONS[kind]
    async with MemoryServer(app, interface=kind, upgrade_tokens=TOKENS) as server:
        connection = connect(server)
        connection.send(asking("tcp") + asking("acme/2, tcp"))
        for _ in range(2):
            response = await connection.response()
            assert (response.status, response.text) == (200, "an answer")


@applications
async def test_others_do_not_open_a_tunnel(kind: str) -> None:
    app = APPLICATIONS[kind]
    settings = {"interface": kind, "upgrade_tokens": TOKENS}
    async with MemoryServer(app, Http2Line.protocol_class, **settings) as server:
        client, _ = dial(server)
        exchange = connecting(client, "tcp")
        exchange.data(b"bytes")
        assert (await exchange.finished()).status == 501
        assert (await client.get("/ask")).text == "an answer"
