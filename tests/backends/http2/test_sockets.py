"""HTTP/2 over real sockets and TLS, on both event loops: what only a kernel can show."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from support import Certificates

from kyoukai.backends.http2 import lifetime
from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.exceptions import PeerGone
from kyoukai.stream import StreamState
from kyoukai.testing import MemoryServer

from ..frames import (
    DATA,
    END_STREAM,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PREFACE,
    Frame,
    data,
    frame,
    headers,
    request,
    settings,
    window_update,
)
from ..support import Mirror

pytestmark = pytest.mark.usefixtures("loop_factory")

GREETING = PREFACE + settings() + settings(ack=True)
LARGE = settings({4: 2**31 - 1}) + window_update(0, 2**31 - 1 - 65535)
POST = headers(1, request(method=b"POST"), end=False)


@pytest.fixture
def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = certificates.pair("a")
    context.load_cert_chain(pair["certfile"], pair["keyfile"])
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@asynccontextmanager
async def listening(
    app: Any,
    context: ssl.SSLContext | None,
    protocol: Callable[[MemoryServer], asyncio.Protocol] = H2KyoukaiProtocol,
    **options: Any,
) -> AsyncIterator[tuple[MemoryServer, int]]:
    """A listener on a port of its own; at the end no connection and no task may be left."""
    async with MemoryServer(app, H2KyoukaiProtocol, **options) as component:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: protocol(component), "127.0.0.1", 0, ssl=context)
        try:
            yield component, server.sockets[0].getsockname()[1]
            await component.connections.wait_idle()
        finally:
            server.close()
            await server.wait_closed()


class SocketClient:
    """Frames to and from a server, over TLS unless told otherwise."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def dial(cls, port: int, tls: bool = True, buffer: int | None = None) -> SocketClient:
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
        sock = socket.socket()
        sock.setblocking(False)
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        name = "localhost" if tls else None
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=context, server_hostname=name, limit=buffer or 65536
        )
        if tls:
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.write(GREETING)
        return cls(reader, writer)

    async def frame(self) -> Frame:
        head = await self.reader.readexactly(9)
        kind, flags, stream = struct.unpack(">BBL", head[3:])
        return Frame(kind, flags, stream, await self.reader.readexactly(int.from_bytes(head[:3])))

    async def next(self, *kinds: int) -> Frame:
        while (found := await self.frame()).kind not in kinds:
            pass
        return found

    async def body(self, stream: int) -> bytes:
        """Read up to the end of a stream; others' frames are left out."""
        parts = []
        while True:
            found = await self.next(DATA, HEADERS)
            if found.stream == stream:
                if found.kind == DATA:
                    parts.append(found.payload)
                if found.flags & END_STREAM:
                    return b"".join(parts)

    async def to_end(self) -> list[Frame]:
        """Read all frames up to an end in good order."""
        frames = []
        with suppress(asyncio.IncompleteReadError):
            while True:
                frames.append(await self.frame())
        return frames

    def leave(self) -> None:
        """Close without a word."""
        self.writer.transport.abort()

    def reset(self) -> None:
        """Close in such a way that the peer gets an RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def say_goodbye(self) -> None:
        self.writer.close()


LEAVING = [SocketClient.leave, SocketClient.reset, SocketClient.say_goodbye]


@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("where", ["uploading", "downloading", "waiting"])
async def test_a_client_that_vanishes(
    leave: Callable[[SocketClient], None], where: str, server_context: ssl.SSLContext
) -> None:
    ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()

    async def app(stream: StreamState) -> None:
        begun.set()
        try:
            if where == "uploading":
                await stream.read_async()
            elif where == "waiting":
                await asyncio.Event().wait()
            stream.send_head(200, ())
            while True:
                await stream.send_data(b"x" * 10_000)
                await asyncio.sleep(0)
        except BaseException as error:
            ended.set_result(error)
            raise

    async with listening(app, server_context) as (component, port):
        client = await SocketClient.dial(port)
        client.writer.write(LARGE + POST + data(1, b"some of it"))
        await begun.wait()
        leave(client)
        assert isinstance(await ended, PeerGone | asyncio.CancelledError)
        await component.connections.wait_idle()


async def test_a_reader_that_stops(server_context: ssl.SSLContext) -> None:
    """It is held up within bounds, and cut in the end; a healthy connection notices nothing."""
    most = 0
    blocked = asyncio.Event()

    class Telling(H2KyoukaiProtocol):
        def pause_writing(self) -> None:
            nonlocal most
            super().pause_writing()
            most = max(most, self.transport.get_write_buffer_size())
            blocked.set()

    async def app(stream: StreamState) -> None:
        if stream.head.path == "/endless":
            stream.send_head(200, ())
            while True:
                await stream.send_data(bytes(100_000))
        await stream.send_response(200, (), b"healthy")

    async with listening(app, server_context, Telling, send_stall_timeout=0.1) as (component, port):
        lost = asyncio.Event()
        component.connections.on_lost = lambda protocol: lost.set()
        stalled = await SocketClient.dial(port, buffer=8192)
        stalled.writer.write(LARGE)
        for number in range(1, 21, 2):
            stalled.writer.write(headers(number, request(b"/endless")))
        await blocked.wait()
        healthy = await SocketClient.dial(port)
        for number in range(1, 11, 2):
            healthy.writer.write(headers(number))
            assert await healthy.body(number) == b"healthy"
        await lost.wait()
        assert most <= 2 * 65536 + 32768
        healthy.writer.write(headers(11))
        assert await healthy.body(11) == b"healthy"
        assert len(component.connections.open) == 1
        healthy.say_goodbye()
        stalled.leave()
        await component.connections.wait_idle()


@pytest.mark.parametrize("tls", [True, False])
async def test_a_goaway_arrives_although_bytes_are_unread(
    tls: bool, server_context: ssl.SSLContext
) -> None:
    """A close with bytes unread is a reset, which would take the GOAWAY along."""
    app = Mirror()
    context = server_context if tls else None
    async with listening(app, context, linger_timeout=100) as (component, port):
        client = await SocketClient.dial(port, tls)
        too_long = b"\xff\xff\xff\0\0\0\0\0\3"
        client.writer.write(headers(1) + too_long + bytes(8_000_000))
        found = await client.to_end()
        assert [each.code for each in found if each.kind == GOAWAY] == [FRAME_SIZE_ERROR]
        assert b"".join(each.payload for each in found if each.kind == DATA) == b"GET / "
        client.leave()
        await component.connections.wait_idle()


@pytest.mark.parametrize("tls", [True, False])
async def test_a_server_that_stops_says_so(
    tls: bool, server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "_FAREWELL_WAIT", 100)  # only the client's PING takes it on
    began, go_on = asyncio.Event(), asyncio.Event()

    async def app(stream: StreamState) -> None:
        began.set()
        await go_on.wait()
        await stream.send_response(200, (), b"x" * 200_000)

    async with listening(app, server_context if tls else None) as (component, port):
        client = await SocketClient.dial(port, tls)
        client.writer.write(LARGE + headers(1))
        await began.wait()
        component.connections.shutdown()
        first = await client.next(GOAWAY)
        assert (first.number, first.code) == (2**31 - 1, NO_ERROR)
        client.writer.write(headers(3))  # on its way, as far as the server can know
        client.writer.write(frame(6, 1, 0, (await client.next(6)).payload))
        go_on.set()
        assert len(await client.body(1)) == 200_000
        assert {each.number for each in await client.to_end() if each.kind == GOAWAY} <= {3}
        client.leave()


HELLO = bytes.fromhex("16030100f4010000f00303") + bytes(40)

HANDSHAKES = {
    "nothing": b"",
    "half-a-hello": HELLO,
    "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "preface": GREETING,
    "zeros": bytes(1000),
    "alert": b"\x15\x03\x01\x00\x02\x02\x28",
}


@pytest.mark.parametrize("sent", HANDSHAKES.values(), ids=HANDSHAKES)
@pytest.mark.parametrize("with_reset", [True, False])
async def test_clients_that_vanish_in_the_handshake(
    sent: bytes, with_reset: bool, server_context: ssl.SSLContext
) -> None:
    app = Mirror()
    async with listening(app, server_context) as (component, port):
        loop = asyncio.get_running_loop()
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, sent)
            if with_reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        client = await SocketClient.dial(port)
        client.writer.write(headers(1))
        assert await client.body(1) == b"GET / "
        client.say_goodbye()
        await component.connections.wait_idle()
        assert app.paths == ["/"]


async def test_a_client_that_vanishes_after_the_handshake(server_context: ssl.SSLContext) -> None:
    """On a port that speaks both: the connection is handed over, and lost at any time after."""
    app = Mirror()
    async with listening(app, server_context, HttpToolsProtocol) as (component, port):
        for _ in range(3):
            client = await SocketClient.dial(port)
            client.reset()
        client = await SocketClient.dial(port)
        client.writer.write(headers(1))
        assert await client.body(1) == b"GET / "
        assert app.heads[0].http_version == "2"
        assert app.heads[0].scheme == "https"
        client.reset()
        await component.connections.wait_idle()


async def test_frames_split_over_records(server_context: ssl.SSLContext) -> None:
    app = Mirror()
    sent = POST + data(1, b"hello", padding=3) + data(1, end=True) + headers(3)
    async with listening(app, server_context) as (component, port):
        client = await SocketClient.dial(port)
        for index in range(len(sent)):
            client.writer.write(sent[index : index + 1])
            await client.writer.drain()
        assert await client.body(1) == b"POST / hello"
        assert await client.body(3) == b"GET / "
        client.say_goodbye()
