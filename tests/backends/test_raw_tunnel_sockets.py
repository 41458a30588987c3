"""Raw tunnels over real sockets, on both event loops: FIN, reset, and what a kernel keeps."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from support import Certificates

from kyoukai.exceptions import PeerGone
from kyoukai.stream import CLOSED, StreamState

from .frames import CANCEL, DATA, END_STREAM, RST_STREAM, data, headers, request
from .http2.test_sockets import SocketClient
from .http2.test_sockets import listening as listening_http2
from .support import Stage
from .test_sockets import dial, listening, read_to_end, reset

pytestmark = pytest.mark.usefixtures("loop_factory")

ASK = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CONNECT = request(b"/", b"CONNECT", [(b":protocol", b"websocket")])
SIZE = 3_000_000


@pytest.fixture
def context(certificates: Certificates) -> ssl.SSLContext:
    """The server's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = certificates.pair("a")
    context.load_cert_chain(pair["certfile"], pair["keyfile"])
    return context


async def accepted(stage: Stage) -> StreamState:
    stream = await stage.next()
    stream.cancel_on_disconnect = False
    stream.accept_upgrade(())
    return stream


@asynccontextmanager
async def plain_tunnel(**settings: Any) -> AsyncIterator[tuple[StreamState, socket.socket]]:
    """A tunnel over TCP: its stream, and a client that has read the 101."""
    loop = asyncio.get_running_loop()
    stage = Stage()
    async with listening(stage, None, access_log=True, **settings) as (component, port):
        client = await dial(port)
        await loop.sock_sendall(client, ASK + b"early")
        stream = await accepted(stage)
        assert await stream.receive() == b"early"
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await loop.sock_recv(client, 1)
        yield stream, client
        stage.leave(stream)
        client.close()
        await component.connections.wait_idle()
        assert component.logged == [stream]


@asynccontextmanager
async def tls_tunnel(
    context: ssl.SSLContext, **settings: Any
) -> AsyncIterator[tuple[StreamState, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A tunnel over TLS."""
    mine = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    mine.check_hostname = False
    mine.verify_mode = ssl.CERT_NONE
    stage = Stage()
    async with listening(stage, context, access_log=True, **settings) as (component, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=mine)
        writer.write(ASK)
        stream = await accepted(stage)
        await reader.readuntil(b"\r\n\r\n")
        yield stream, reader, writer
        stage.leave(stream)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        await component.connections.wait_idle()
        assert component.logged == [stream]


async def receive_all(stream: StreamState, most: int = 65536 + 262144) -> bytes:
    """Receive slowly up to the end, and look how much waits."""
    data = bytearray()
    while piece := await stream.receive():
        data += piece
        assert stream.buffered <= most
        await asyncio.sleep(0)
    return bytes(data)


async def send_all(stream: StreamState, data: bytes, piece: int = 50_000) -> None:
    for start in range(0, len(data), piece):
        await stream.send_data(data[start : start + piece])


def some(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_megabytes_both_ways() -> None:
    loop = asyncio.get_running_loop()
    up, down = some(1), some(2)
    async with plain_tunnel() as (stream, client):
        transport = stream.protocol.transport  # type: ignore[attr-defined]
        waiting = 0

        async def send() -> None:
            nonlocal waiting
            for start in range(0, SIZE, 50_000):
                await stream.send_data(down[start : start + 50_000])
                waiting = max(waiting, transport.get_write_buffer_size())
            await stream.end()

        sending = asyncio.ensure_future(send())
        uploading = asyncio.ensure_future(loop.sock_sendall(client, up))
        receiving = asyncio.ensure_future(receive_all(stream))
        found = bytearray()
        while piece := await loop.sock_recv(client, 5000):
            found += piece
        assert bytes(found) == down
        await sending
        await uploading
        assert not receiving.done()
        client.shutdown(socket.SHUT_WR)
        assert await receiving == up
        assert waiting <= 65536 + 50_000


async def test_the_client_ends_first() -> None:
    loop = asyncio.get_running_loop()
    up, down = some(1), some(2)
    async with plain_tunnel() as (stream, client):
        await asyncio.gather(loop.sock_sendall(client, up[5:]), drained(stream, up[5:]))
        client.shutdown(socket.SHUT_WR)
        assert await stream.receive() == b""
        assert stream.receiving is CLOSED
        sending = asyncio.ensure_future(send_all(stream, down))
        found = b""
        while len(found) < SIZE:
            found += await loop.sock_recv(client, 65536)
        await sending
        assert found == down
        await stream.end()
        assert await loop.sock_recv(client, 1) == b""


async def drained(stream: StreamState, expected: bytes) -> None:
    found = b""
    while len(found) < len(expected):
        found += await stream.receive()
    assert found == expected


async def test_the_server_ends_first() -> None:
    loop = asyncio.get_running_loop()
    up, down = some(1), some(2)
    async with plain_tunnel() as (stream, client):

        async def send() -> None:
            await send_all(stream, down, 500_000)
            await stream.end()  # while the last of it waits

        sending = asyncio.ensure_future(send())
        assert await read_to_end(client) == down
        await sending
        uploading = asyncio.ensure_future(loop.sock_sendall(client, up))
        await drained(stream, up)
        await uploading
        client.shutdown(socket.SHUT_WR)
        assert await stream.receive() == b""


async def test_what_was_sent_arrives_although_nobody_takes_the_rest() -> None:
    """The application returns after its end: an orderly close, though the client is sending."""
    loop = asyncio.get_running_loop()
    stage = Stage()
    async with listening(stage, linger_timeout=10) as (component, port):
        client = await dial(port)
        await loop.sock_sendall(client, ASK)
        stream = await accepted(stage)
        uploading = asyncio.ensure_future(loop.sock_sendall(client, some(1)))
        await stream.send_data(some(2, 300_000))
        await stream.end()
        stage.leave(stream)
        found = await read_to_end(client)
        assert found.endswith(some(2, 300_000))
        await uploading
        client.close()
        await component.connections.wait_idle()


@pytest.mark.parametrize("ended", [False, True])
async def test_the_server_resets(ended: bool) -> None:
    loop = asyncio.get_running_loop()
    async with plain_tunnel() as (stream, client):
        await stream.send_data(b"some")
        assert await loop.sock_recv(client, 100) == b"some"
        if ended:
            await stream.end()
            assert await loop.sock_recv(client, 100) == b""
        reading = asyncio.ensure_future(stream.receive())
        await loop.sock_sendall(client, b"x")
        await reading
        stream.reset()
        with pytest.raises(ConnectionError):
            if not ended:
                await loop.sock_recv(client, 100)
            while True:
                await loop.sock_sendall(client, b"x")
                await asyncio.sleep(0)


async def test_the_client_resets() -> None:
    async with plain_tunnel() as (stream, client):
        await stream.send_data(b"unread")
        reset(client)
        with pytest.raises(PeerGone):
            await receive_all(stream)
        with pytest.raises(PeerGone):
            await stream.send_data(b"x")


async def test_a_client_that_takes_nothing() -> None:
    async with plain_tunnel(send_stall_timeout=0.2) as (stream, client):
        with pytest.raises(PeerGone):
            await send_all(stream, bytes(30_000_000), 1_000_000)
        with pytest.raises(PeerGone):
            await receive_all(stream)


async def test_megabytes_both_ways_over_tls(context: ssl.SSLContext) -> None:
    up, down = some(1), some(2)
    async with tls_tunnel(context) as (stream, reader, writer):

        async def upload() -> None:
            for start in range(0, SIZE, 50_000):
                writer.write(up[start : start + 50_000])
                await writer.drain()

        uploading = asyncio.ensure_future(upload())
        sending = asyncio.ensure_future(send_all(stream, down))
        receiving = asyncio.ensure_future(drained(stream, up))
        assert await reader.readexactly(SIZE) == down
        await asyncio.gather(uploading, sending, receiving)
        await stream.end()
        assert await stream.receive() == b""
        assert await reader.read(1) == b""


async def test_the_server_ends_over_tls_to_a_client_that_is_sending(
    context: ssl.SSLContext,
) -> None:
    """All that was sent before the end arrives; what the client goes on sending does not."""
    down = some(2)
    async with tls_tunnel(context, linger_timeout=10) as (stream, reader, writer):
        stopped = False

        async def upload() -> None:
            with suppress(OSError):
                while not stopped:
                    writer.write(bytes(20_000))
                    await writer.drain()

        uploading = asyncio.ensure_future(upload())
        receiving = asyncio.ensure_future(receive_all(stream))
        reading = asyncio.ensure_future(reader.readexactly(SIZE))
        await send_all(stream, down)
        await stream.end()
        assert await reading == down
        stopped = True
        await uploading
        assert await reader.read(1) == b""
        await receiving


async def test_the_client_ends_over_tls(context: ssl.SSLContext) -> None:
    up = some(1, 200_000)
    async with tls_tunnel(context) as (stream, reader, writer):
        writer.write(up)
        writer.close()
        await drained(stream, up)
        assert await stream.receive() == b""
        await stream.disconnected()


async def test_a_tunnel_over_http2(context: ssl.SSLContext) -> None:
    """Each direction of a stream ends by itself, over TLS too, and the connection goes on."""
    context.set_alpn_protocols(["h2"])
    stage = Stage()
    async with listening_http2(stage, context, access_log=True) as (component, port):
        client = await SocketClient.dial(port)
        client.writer.write(headers(1, CONNECT, end=False) + data(1, b"early "))
        stream = await accepted(stage)
        await stream.send_data(b"all")
        await stream.end()
        assert (await client.next(DATA)).payload == b"all"
        ending = await client.next(DATA)
        assert (ending.payload, ending.flags) == (b"", END_STREAM)
        client.writer.write(data(1, b"late") + data(1, end=True))
        assert await receive_all(stream) == b"early late"
        stage.leave(stream)
        client.writer.write(headers(3, CONNECT, end=False))
        second = await accepted(stage)
        await second.end()
        second.reset()
        stage.leave(second)
        gone = await client.next(RST_STREAM)
        assert (gone.stream, gone.code) == (3, CANCEL)
        assert component.logged == [stream, second]
        client.writer.close()
