"""The ways in: ALPN, prior knowledge and the upgrade to h2c, and what does not lead to HTTP/2."""

from __future__ import annotations

import asyncio
import base64
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from support import Certificates

from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.stream import StreamState
from kyoukai.testing import Connection, MemoryServer

from .. import frames as f
from ..frames import FrameClient
from ..support import Clock, Mirror, Stage, by_byte, parse_answers, turns, whole
from .support import Client

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n"
GREETING = f.PREFACE + f.settings()

Pieces = Callable[[bytes], Iterator[bytes]]


def offer(pairs: dict[int, int] | None = None) -> bytes:
    """A value for HTTP2-Settings."""
    payload = f.settings(pairs or {})[9:]
    return base64.urlsafe_b64encode(payload).rstrip(b"=")


def upgrade(*lines: bytes, line: bytes = b"GET /up", settings: bytes | None = None) -> bytes:
    """A request that asks for h2c."""
    head = [
        line + b" HTTP/1.1",
        b"Host: localhost",
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: " + (offer() if settings is None else settings),
    ]
    return b"\r\n".join((*head, *lines, b"", b""))


async def switched(client: FrameClient) -> None:
    """Take the 101, and nothing else on HTTP/1.1."""
    while len(client.transport.output) < len(SWITCHING) and not client.transport.closed:
        client.transport.changed.clear()
        await client.transport.changed.wait()
    assert bytes(client.transport.output[: len(SWITCHING)]) == SWITCHING
    del client.transport.output[: len(SWITCHING)]


async def assert_serves(client: FrameClient, stream: int = 3) -> None:
    """The connection speaks HTTP/2, and goes on doing so."""
    client.send(f.headers(stream, f.request(b"/more")))
    status, _, body = await client.answer(stream)
    assert (status, body) == (200, b"GET /more ")


# -- Prior knowledge ---------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [whole, by_byte])
@pytest.mark.parametrize("protocol", [HttpToolsProtocol, H2KyoukaiProtocol])
async def test_prior_knowledge(protocol: Any, pieces: Pieces) -> None:
    app = Mirror()
    async with MemoryServer(app, protocol) as server:
        client = FrameClient(server, greet=False)
        for piece in pieces(GREETING + f.headers(1)):
            client.send(piece)
        assert (await client.answer(1))[2] == b"GET / "
        assert client.take()[0].kind == f.SETTINGS
        await assert_serves(client)
        assert [head.http_version for head in app.heads] == ["2", "2"]


async def test_prior_knowledge_where_tls_chose_nothing() -> None:
    """Some clients send no ALPN and know all the same."""

    class NoChoice:
        def selected_alpn_protocol(self) -> None:
            return None

    async with MemoryServer(Mirror()) as server:
        client = FrameClient(server, ssl_object=NoChoice())
        await assert_serves(client)


async def test_a_switch_leaves_one_connection() -> None:
    async with MemoryServer(Mirror(), max_connections=1) as server:
        client = FrameClient(server)
        (protocol,) = server.connections.open
        assert isinstance(protocol, H2KyoukaiProtocol)
        assert client.transport.protocol is protocol
        await assert_serves(client, 1)
        client.transport.lose()
        await server.connections.wait_idle()
        assert server.connections.full_refused == 0


@pytest.mark.parametrize("pieces", [whole, by_byte])
async def test_what_only_begins_like_a_preface(pieces: Pieces) -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        for line in (b"P", b"PRI", b"POST / HTTP/1.1", b"PRI * HTTP/1.1", b"PRI * HTTP/2.0"):
            client = FrameClient(server, greet=False)
            for piece in pieces(line + b"\r\nHost: a\r\nContent-Length: 0\r\n\r\n"):
                client.send(piece)
            await turns()
            output = client.transport.take()
            ((status, _, _),) = parse_answers(output)
            assert status == (200 if line.startswith(b"POST") else status)
            assert status != 101
            assert line.startswith(b"POST") or status in (400, 405, 501, 505)
        assert app.paths == ["/"]


async def test_a_preface_comes_first_or_not_at_all() -> None:
    async with MemoryServer(Mirror()) as server:
        client = FrameClient(server, greet=False)
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        await turns()
        client.send(GREETING + f.headers(1))
        await turns()
        answers = parse_answers(client.transport.take())
        assert answers[0][2] == b"GET /a "
        assert [status for status, _, _ in answers[1:]] in ([505], [400])


async def test_a_preface_that_does_not_end() -> None:
    async with MemoryServer(Mirror(), header_timeout=10) as server:
        clock = Clock()
        client = FrameClient(server, greet=False)
        client.send(f.PREFACE[:-1])
        await clock.advance(11)
        await clock.advance(3)
        assert client.closed


async def test_where_http2_is_switched_off() -> None:
    class Old(MemoryServer):
        def switch_target(self, name: str) -> None:
            return None

    async with Old(Mirror()) as server:
        client = FrameClient(server, greet=False)
        client.send(GREETING)
        await turns()
        ((status, _, _),) = parse_answers(client.transport.take())
        assert status == 505
        client = FrameClient(server, greet=False)
        client.send(upgrade())
        await turns()
        ((status, _, body),) = parse_answers(client.transport.take())
        assert (status, body) == (200, b"GET /up ")


# -- The upgrade to h2c ------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [whole, by_byte])
async def test_h2c_starts_once_and_answers_stream_one(pieces: Pieces) -> None:
    """A fault of 2018: HTTP/2 was started twice, and the answer to the upgrade was lost."""
    app = Mirror()
    async with MemoryServer(app) as server:
        client = FrameClient(server, greet=False)
        for piece in pieces(upgrade(b"X-A: 1")):
            client.send(piece)
        await switched(client)
        for piece in pieces(GREETING):
            client.send(piece)
        assert (await client.answer(1))[2] == b"GET /up "
        settings = [x for x in client.frames if x.kind == f.SETTINGS]
        assert [x.flags for x in settings] == [0, f.ACK]
        await assert_serves(client)
        (first, second) = app.heads
        assert (first.http_version, first.path, first.authority) == ("2", "/up", "localhost")
        assert first.headers == [(b"host", b"localhost"), (b"x-a", b"1")]
        assert first.protocol is None


async def test_h2c_whose_client_does_not_wait() -> None:
    """All of it in one read, the request, the preface and a second request."""
    app = Mirror()
    async with MemoryServer(app) as server:
        client = FrameClient(server, greet=False)
        client.send(upgrade(), GREETING, f.headers(3, f.request(b"/more")))
        await switched(client)
        assert (await client.answer(1))[2] == b"GET /up "
        assert (await client.answer(3))[2] == b"GET /more "
        assert app.paths == ["/up", "/more"]


@pytest.mark.parametrize("pieces", [whole, by_byte])
@pytest.mark.parametrize("chunked", [False, True])
async def test_h2c_with_a_body(pieces: Pieces, chunked: bool) -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        client = FrameClient(server, greet=False)
        if chunked:
            request = upgrade(b"Transfer-Encoding: chunked", line=b"POST /up")
            request += b"5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n"
        else:
            request = upgrade(b"Content-Length: 11", line=b"POST /up") + b"hello world"
        for piece in pieces(request):
            assert client.transport.output == b""
            client.send(piece)
        await switched(client)
        client.send(GREETING)
        assert (await client.answer(1))[2] == b"POST /up hello world"
        await assert_serves(client)
        assert app.bodies[0] == b"hello world"
        names = {name for name, _ in app.heads[0].headers}
        assert names <= {b"host", b"content-length"}
        # The body cost no window of HTTP/2's.
        credit = [x for x in client.frames if x.kind == f.WINDOW_UPDATE]
        assert [(x.stream, x.number) for x in credit] == [(0, 1_048_576 - 65_535)]


async def test_h2c_with_trailers() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        client = FrameClient(server, greet=False)
        client.send(upgrade(b"Transfer-Encoding: chunked", line=b"POST /up"))
        client.send(b"3\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n", GREETING)
        await switched(client)
        assert (await client.answer(1))[2] == b"POST /up abc"
        assert app.trailers == [[(b"x-sum", b"3")]]


async def test_h2c_with_the_longest_body() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        client = FrameClient(server, greet=False)
        client.send(upgrade(b"Content-Length: 65536", line=b"POST /up"), bytes(65_000))
        await turns()
        assert client.transport.output == b""
        client.send(bytes(536) + GREETING)
        await switched(client)
        client.send(f.window_update(0, 1 << 20), f.window_update(1, 1 << 20))
        assert (await client.answer(1))[2] == b"POST /up " + bytes(65_536)
        await assert_serves(client)


async def test_h2c_of_a_body_that_a_form_is_in() -> None:
    """The application reads it as any other: at once, in pieces, as a file."""
    async with MemoryServer(Stage()) as server:
        stage: Any = server.interface
        client = FrameClient(server, greet=False)
        client.send(upgrade(b"Content-Length: 5", line=b"POST /up"), b"a\nb\nc", GREETING)
        stream = await stage.next()
        assert stream.stream_id == 1
        assert stream.readline() == b"a\n"
        assert stream.readlines() == [b"b\n", b"c"]
        assert await stream.read_async() == b"a\nb\nc"
        await stream.send_response(200, ())
        stage.leave(stream)


async def test_h2c_settings_count() -> None:
    async with MemoryServer(Mirror()) as server:
        client = FrameClient(server, greet=False)
        settings = offer({f.INITIAL_WINDOW_SIZE: 4, f.MAX_FRAME_SIZE: 20_000})
        client.send(upgrade(settings=settings), f.PREFACE, f.settings())
        await switched(client)
        await turns()
        data = [x.payload for x in client.take() if x.kind == f.DATA]
        assert data == [b"GET "]
        client.send(f.window_update(1, 100))
        assert (await client.answer(1))[2] == b"GET /up "


async def test_h2c_of_a_head() -> None:
    async with MemoryServer(Mirror()) as server:
        client = FrameClient(server, greet=False)
        client.send(upgrade(line=b"HEAD /up"), GREETING)
        await switched(client)
        assert (await client.answer(1))[2] == b""
        await assert_serves(client)


async def test_h2c_whose_answer_streams() -> None:
    async def app(stream: StreamState) -> None:
        stream.send_informational(103, [(b"link", b"</a>")])
        stream.send_head(200, ())
        for number in range(3):
            await stream.send_data(b"%d" % number)
        await stream.end([(b"x-sum", b"3")])

    async with MemoryServer(app) as server:
        client = FrameClient(server, greet=False)
        client.send(upgrade(), GREETING)
        await switched(client)
        assert client.decode(await client.next(f.HEADERS))[0] == (b":status", b"103")
        status, headers, body = await client.answer(1)
        assert (body, headers[b":status"]) == (b"012", b"200")


async def test_h2c_whose_client_resets_stream_one() -> None:
    async with MemoryServer(Stage()) as server:
        stage: Any = server.interface
        client = FrameClient(server, greet=False)
        client.send(upgrade(), GREETING)
        await switched(client)
        stream = await stage.next()
        client.send(f.rst_stream(1))
        await turns()
        assert stage.cancelled == [stream]
        client.send(f.headers(3))
        await stage.answer()
        assert (await client.answer(3))[0] == 200


async def test_h2c_whose_preface_does_not_come() -> None:
    async with MemoryServer(Mirror(), header_timeout=10, keep_alive_timeout=15) as server:
        clock = Clock()
        client = FrameClient(server, greet=False)
        client.send(upgrade())
        await switched(client)
        await clock.advance(16)
        await clock.advance(3)
        assert client.closed
        await server.connections.wait_idle()


async def test_h2c_whose_preface_is_wrong() -> None:
    async with MemoryServer(Mirror()) as server:
        client = FrameClient(server, greet=False)
        client.send(upgrade(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await switched(client)
        assert (await client.next(f.GOAWAY)).code == f.PROTOCOL_ERROR


async def test_h2c_counts_as_a_request_of_the_connection() -> None:
    async with MemoryServer(Mirror(), max_requests_per_connection=2) as server:
        client = FrameClient(server, greet=False)
        client.send(upgrade(), GREETING)
        await switched(client)
        await client.answer(1)
        assert not [x for x in client.take() if x.kind == f.GOAWAY]
        client.send(f.headers(3))
        assert (await client.next(f.GOAWAY)).number == 2**31 - 1


async def test_h2c_is_logged_once() -> None:
    async with MemoryServer(Mirror(), access_log=True) as server:
        client = FrameClient(server, greet=False)
        client.send(upgrade(), GREETING)
        await switched(client)
        await client.answer(1)
        assert [(x.head.http_version, x.head.path) for x in server.logged] == [("2", "/up")]


BROKEN = {
    "none": upgrade().replace(b"HTTP2-Settings: ", b"X-Settings: "),
    "two": upgrade(b"HTTP2-Settings: " + offer()),
    "listed": upgrade(settings=offer({4: 1}) + b", " + offer({4: 1})),
    "not-base64": upgrade(settings=b"!!!!"),
    "not-ascii": upgrade(settings=b"\xff\xfe"),
    "short": upgrade(settings=base64.urlsafe_b64encode(b"12345").rstrip(b"=")),
    "odd": upgrade(settings=b"AAAAA"),
    "window": upgrade(settings=offer({f.INITIAL_WINDOW_SIZE: 2**31})),
    "frame-size": upgrade(settings=offer({f.MAX_FRAME_SIZE: 1})),
    "push": upgrade(settings=offer({f.ENABLE_PUSH: 7})),
    "http-1.0": upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "no-connection": upgrade().replace(b"Connection: Upgrade, ", b"Connection: "),
    "websocket": upgrade().replace(b"h2c", b"websocket"),
    "h2": upgrade().replace(b"h2c", b"h2"),
}


@pytest.mark.parametrize("request_", BROKEN.values(), ids=BROKEN)
async def test_upgrades_that_are_not_taken(request_: bytes) -> None:
    """The request is answered as it would be without, and so is the next."""
    app = Mirror()
    async with MemoryServer(app) as server:
        client = FrameClient(server, greet=False)
        client.send(request_, b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        await turns(30)
        answers = parse_answers(client.transport.take())
        assert answers[0][0] == 200
        assert answers[0][2] == b"GET /up "
        if b"HTTP/1.0" not in request_:
            assert answers[1][2] == b"GET /next "
        assert {head.http_version for head in app.heads} <= {"1.0", "1.1"}


async def test_no_h2c_over_tls() -> None:
    class Chosen:
        def selected_alpn_protocol(self) -> str:
            return "http/1.1"

    async with MemoryServer(Mirror()) as server:
        client = FrameClient(server, greet=False, ssl_object=Chosen())
        client.send(upgrade())
        await turns()
        ((status, _, body),) = parse_answers(client.transport.take())
        assert (status, body) == (200, b"GET /up ")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_long_for_h2c(chunked: bool) -> None:
    """It is not gathered in memory first, but answered on HTTP/1.1."""
    async with MemoryServer(Stage()) as server:
        stage: Any = server.interface
        client = FrameClient(server, greet=False)
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 200000"
        client.send(upgrade(framing, line=b"POST /up"))
        for _ in range(2):
            client.send(b"%x\r\n%b\r\n" % (40_000, bytes(40_000)) if chunked else bytes(40_000))
        stream = await stage.next()
        assert stream.head.http_version == "1.1"
        reading = asyncio.ensure_future(stream.read_async())
        for _ in range(3):
            client.send(b"%x\r\n%b\r\n" % (40_000, bytes(40_000)) if chunked else bytes(40_000))
            await turns()
        client.send(b"0\r\n\r\n" if chunked else b"")
        assert len(await reading) == 200_000
        await stream.send_response(200, (), b"ok")
        stage.leave(stream)
        connection = Connection(client.transport)
        assert (await connection.response()).body == b"ok"


async def test_a_body_that_waits_for_continue_is_not_for_h2c() -> None:
    async with MemoryServer(Mirror()) as server:
        client = FrameClient(server, greet=False)
        lines = (b"Content-Length: 3", b"Expect: 100-continue")
        client.send(upgrade(*lines, line=b"POST /up"))
        await turns()
        assert client.transport.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        await turns()
        ((status, _, body),) = parse_answers(client.transport.take())
        assert (status, body) == (200, b"POST /up abc")


async def test_a_body_for_h2c_that_is_malformed() -> None:
    async with MemoryServer(Mirror()) as server:
        client = FrameClient(server, greet=False)
        client.send(upgrade(b"Transfer-Encoding: chunked", line=b"POST /up"), b"junk\r\n")
        await turns()
        ((status, _, _),) = parse_answers(client.transport.take())
        assert status == 400
        assert client.closed


async def test_a_body_for_h2c_that_is_too_slow() -> None:
    async with MemoryServer(Mirror(), min_body_rate=240, min_body_grace=5) as server:
        clock = Clock()
        client = FrameClient(server, greet=False)
        client.send(upgrade(b"Content-Length: 1000", line=b"POST /up"), b"a")
        await clock.advance(10, 0.5)
        ((status, _, _),) = parse_answers(client.transport.take())
        assert status == 408
        assert client.closed


async def test_a_client_that_leaves_in_the_body_for_h2c() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        client = FrameClient(server, greet=False)
        client.send(upgrade(b"Content-Length: 1000", line=b"POST /up"), b"a")
        await turns()
        client.transport.feed_eof()
        await turns()
        assert client.closed
        await server.connections.wait_idle()
        assert app.heads == []


async def test_a_shutdown_in_the_body_for_h2c() -> None:
    """No upgrade any more: the answer comes on HTTP/1.1, and says that it is the last."""
    async with MemoryServer(Mirror()) as server:
        client = FrameClient(server, greet=False)
        client.send(upgrade(b"Content-Length: 3", line=b"POST /up"), b"a")
        await turns()
        server.connections.shutdown()
        client.send(b"bc")
        await turns()
        ((status, headers, body),) = parse_answers(client.transport.take())
        assert (status, body) == (200, b"POST /up abc")
        assert headers[b"connection"] == b"close"
        await turns()
        assert client.closed


async def test_h2c_behind_another_request_waits_for_nothing() -> None:
    """Answers come in order, so one that is not its connection's first in line is not upgraded."""
    async with MemoryServer(Stage()) as server:
        stage: Any = server.interface
        client = FrameClient(server, greet=False)
        client.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n", upgrade())
        for expected in ("/first", "/up"):
            stream = await stage.answer(expected.encode())
            assert (stream.head.path, stream.head.http_version) == (expected, "1.1")
        await turns()
        answers = parse_answers(client.transport.take())
        assert [body for _, _, body in answers] == [b"/first", b"/up"]


async def test_h2c_as_the_second_request() -> None:
    async with MemoryServer(Mirror()) as server:
        client = FrameClient(server, greet=False)
        client.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        await turns()
        ((_, _, body),) = parse_answers(client.transport.take())
        assert body == b"GET /first "
        client.send(upgrade(), GREETING)
        await switched(client)
        assert (await client.answer(1))[2] == b"GET /up "
        await assert_serves(client)


async def test_a_switch_while_the_transport_is_full() -> None:
    """HTTP/2 must know that the client is not taking what HTTP/1.1 has written."""

    async def app(stream: StreamState) -> None:
        size = 65_536 if stream.head.http_version == "1.1" else 3_000_000
        await stream.send_response(200, (), bytes(size))

    async with MemoryServer(app) as server:
        client = FrameClient(server, greet=False)
        client.transport.hold()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await turns()
        assert client.transport.get_write_buffer_size() > 65_536
        settings = {f.INITIAL_WINDOW_SIZE: 2**31 - 1}
        client.send(upgrade(settings=offer(settings)), f.PREFACE, f.settings(settings))
        client.send(f.window_update(0, 2**31 - 1 - 65_535))
        await turns(50)
        assert client.transport.get_write_buffer_size() <= 3 * 65_536
        client.transport.output[:0] = client.transport.release()
        await turns(400)
        assert len(client.transport.output) > 3_000_000


# -- Over sockets, on both loops ---------------------------------------------------------------


class SocketClient(asyncio.Protocol):
    """Carries a client's bytes over a socket."""

    def __init__(self, secure: bool, **options: Any) -> None:
        self.options = {"secure": secure, **options}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.client = Client(transport.write, **self.options)

    def data_received(self, data: bytes) -> None:
        self.client.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.client.lost()


@asynccontextmanager
async def listening(
    app: Any, protocol: Any = HttpToolsProtocol, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[MemoryServer, int]]:
    """A listener on a port of its own; at the end no connection and no task may be left."""
    async with MemoryServer(app, protocol) as component:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: component.protocol_class(component), "127.0.0.1", 0, ssl=context
        )
        try:
            yield component, server.sockets[0].getsockname()[1]
        finally:
            server.close()
            component.connections.abort()
            await server.wait_closed()


def server_context(certificates: Certificates, *protocols: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = certificates.pair("a")
    context.load_cert_chain(pair["certfile"], pair["keyfile"])
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def client_context(certificates: Certificates, *protocols: str) -> ssl.SSLContext:
    context = certificates.trusting("a")
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


async def dial(
    port: int, context: ssl.SSLContext | None = None, **options: Any
) -> tuple[Client, SocketClient]:
    name = {} if context is None else {"server_hostname": "localhost"}
    _, protocol = await asyncio.get_running_loop().create_connection(
        lambda: SocketClient(context is not None, **options),
        "127.0.0.1",
        port,
        ssl=context,
        **name,
    )
    return protocol.client, protocol


async def exchange_much(client: Client) -> None:
    """Small and large requests, beside each other."""
    small = [client.request(target=f"/{number}") for number in range(30)]
    body = struct.pack(">200000L", *range(200_000))
    large = [client.request("POST", "/large", body=body) for _ in range(3)]
    for number, exchange in enumerate(small):
        assert (await exchange.finished()).body == b"GET /%d " % number
    for exchange in large:
        assert (await exchange.finished()).body == b"POST /large " + body
    assert client.goaways == []


BOTH = ("h2", "http/1.1")


both_loops = pytest.mark.usefixtures("loop_factory")


@both_loops
@pytest.mark.parametrize("protocol", [HttpToolsProtocol, H2KyoukaiProtocol])
async def test_alpn_chooses_http2(certificates: Certificates, protocol: Any) -> None:
    app = Mirror()
    async with listening(app, protocol, server_context(certificates, *BOTH)) as (_, port):
        client, connection = await dial(port, client_context(certificates, *BOTH))
        chosen = connection.transport.get_extra_info("ssl_object").selected_alpn_protocol()
        assert chosen == "h2"
        await exchange_much(client)
        assert {(head.scheme, head.http_version) for head in app.heads} == {("https", "2")}
        assert app.heads[0].tls is not None
        connection.transport.close()
        await client.ended()


@both_loops
@pytest.mark.parametrize("offered", [("http/1.1",), ()])
async def test_http1_on_the_same_port(certificates: Certificates, offered: tuple[str, ...]) -> None:
    """Chosen by ALPN, or by a client that knows nothing of it."""
    app = Mirror()
    context = server_context(certificates, *BOTH)
    async with listening(app, context=context) as (_, port):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            port,
            ssl=client_context(certificates, *offered),
            server_hostname="localhost",
        )
        writer.write(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        ((status, _, body),) = parse_answers(await reader.read())
        assert (status, body) == (200, b"GET /a ")
        assert [(head.scheme, head.http_version) for head in app.heads] == [("https", "1.1")]
        writer.close()
        await writer.wait_closed()


@both_loops
@pytest.mark.parametrize("protocol", [HttpToolsProtocol, H2KyoukaiProtocol])
async def test_a_preface_without_alpn(certificates: Certificates, protocol: Any) -> None:
    async with listening(Mirror(), protocol, server_context(certificates, *BOTH)) as (_, port):
        client, connection = await dial(port, client_context(certificates))
        await exchange_much(client)
        connection.transport.close()
        await client.ended()


@both_loops
async def test_http1_on_a_port_of_http2_alone(certificates: Certificates) -> None:
    """Nothing is answered that an HTTP/1.1 client could take for an answer."""
    app = Mirror()
    context = server_context(certificates, "h2")
    async with listening(app, H2KyoukaiProtocol, context) as (_, port):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context(certificates), server_hostname="localhost"
        )
        writer.write(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert not (await reader.read()).startswith(b"HTTP/")
        assert app.heads == []
        writer.close()
        await writer.wait_closed()


@both_loops
@pytest.mark.parametrize("protocol", [HttpToolsProtocol, H2KyoukaiProtocol])
async def test_prior_knowledge_over_sockets(protocol: Any) -> None:
    app = Mirror()
    async with listening(app, protocol) as (_, port):
        client, connection = await dial(port)
        await exchange_much(client)
        assert {(head.scheme, head.http_version) for head in app.heads} == {("http", "2")}
        connection.transport.close()
        await client.ended()


@both_loops
@pytest.mark.parametrize("body", [b"", b"a body"])
async def test_h2c_over_sockets(body: bytes) -> None:
    async with listening(Mirror()) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        method = b"POST" if body else b"GET"
        lines = (b"Content-Length: %d" % len(body),) if body else ()
        writer.write(upgrade(*lines, line=method + b" /up") + body)
        assert await reader.readuntil(b"\r\n\r\n") == SWITCHING
        client = Client(writer.write, upgraded=True)
        taking = asyncio.ensure_future(take(reader, client))
        response = await client.exchanges[1].finished()
        assert response.body == method + b" /up " + body
        await exchange_much(client)
        writer.close()
        await writer.wait_closed()
        await taking


async def take(reader: asyncio.StreamReader, client: Client) -> None:
    while data := await reader.read(65_536):
        client.received(data)
    client.lost()


@both_loops
async def test_a_client_that_is_not_ours(certificates: Certificates) -> None:
    """httpx, on its own HTTP/2."""
    async with listening(Mirror(), context=server_context(certificates, *BOTH)) as (_, port):
        context = client_context(certificates)
        async with httpx.AsyncClient(http2=True, verify=context) as client:
            url = f"https://localhost:{port}/a"
            answers = await asyncio.gather(*[client.get(url) for _ in range(20)])
            assert {answer.http_version for answer in answers} == {"HTTP/2"}
            assert {answer.content for answer in answers} == {b"GET /a "}
            body = bytes(range(256)) * 8000
            answer = await client.post(url, content=body)
            assert answer.content == b"POST /a " + body


@both_loops
@pytest.mark.parametrize("secure", [False, True])
async def test_a_shutdown(certificates: Certificates, secure: bool) -> None:
    stage = Stage()
    context = server_context(certificates, *BOTH) if secure else None
    async with listening(stage, context=context) as (component, port):
        client, connection = await dial(
            port, client_context(certificates, "h2") if secure else None
        )
        exchange = client.request()
        stream = await stage.next()
        component.connections.shutdown()
        while len(client.goaways) < 2:
            await client.event()
        assert [goaway.number for goaway in client.goaways] == [2**31 - 1, 1]
        await stream.send_response(200, (), bytes(300_000))
        stage.leave(stream)
        assert len((await exchange.finished()).body) == 300_000
        await client.ended()
        connection.transport.close()
        await component.connections.wait_idle()


@both_loops
@pytest.mark.parametrize("secure", [False, True])
async def test_a_goaway_arrives_although_the_client_goes_on(
    certificates: Certificates, secure: bool
) -> None:
    context = server_context(certificates, *BOTH) if secure else None
    async with listening(Mirror(), context=context) as (component, port):
        client, connection = await dial(
            port, client_context(certificates, "h2") if secure else None
        )
        await client.get("/a")
        client.send(f.data(0, b"x"))
        client.send(f.frame(0xFA, 0, 0, bytes(16_384)) * 200)
        await client.ended()
        (goaway,) = client.goaways
        assert goaway.code == f.PROTOCOL_ERROR
        connection.transport.close()
        await component.connections.wait_idle()


@both_loops
async def test_a_client_that_vanishes(certificates: Certificates) -> None:
    stage = Stage()
    context = server_context(certificates, *BOTH)
    async with listening(stage, context=context) as (component, port):
        client, connection = await dial(port, client_context(certificates, "h2"))
        client.request()
        client.begin()
        streams = [await stage.next(), await stage.next()]
        connection.transport.abort()
        await component.connections.wait_idle()
        assert stage.cancelled == streams
