"""WebSockets over real sockets, on both event loops: websockets' client, and what a kernel does."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest
from support import Certificates
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from kyoukai.app import Kyoukai

from .frames import DATA, END_STREAM, data, headers, request, window_update
from .http2.test_sockets import LARGE, SocketClient
from .http2.test_sockets import listening as listening_http2
from .test_sockets import dial, listening, read_to_end, reset
from .wires import BINARY, CLOSE, TEXT, Booth, close_frame, frame, read_frames, received, text

pytestmark = pytest.mark.usefixtures("loop_factory")

ASK = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

secure = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@pytest.fixture
def contexts(certificates: Certificates) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server, and of a client that trusts it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = certificates.pair("a")
    context.load_cert_chain(pair["certfile"], pair["keyfile"])
    return context, certificates.trusting("a")


def echo() -> Kyoukai:
    app = Kyoukai("test")

    @app.websocket("/")
    async def socket_(ctx: Any, ws: Any) -> None:
        await ws.accept()
        async for message in ws:
            await (ws.send_text if isinstance(message, str) else ws.send_data)(message)

    return app


def ends(contexts: Any, tls: bool) -> tuple[ssl.SSLContext | None, dict[str, Any]]:
    """The server's context, and options of websockets' client."""
    return (contexts[0], {"ssl": contexts[1]}) if tls else (None, {})


def url(port: int, tls: bool) -> str:
    return f"{'wss' if tls else 'ws'}://localhost:{port}/"


@pytest.mark.parametrize("compression", [None, "deflate"])
@secure
async def test_a_conversation(contexts: Any, tls: bool, compression: Any) -> None:
    context, options = ends(contexts, tls)
    options.update(compression=compression, max_size=2**21, proxy=None)
    async with listening(echo(), context, ws_deflate=True) as (component, port):
        async with connect(url(port, tls), **options) as client:
            assert bool(client.protocol.extensions) is (compression is not None)
            for message in "", "ü" * 70_000, b"\xff" * 2**20, "x" * 126, b"y" * 65_536:
                await client.send(message)
                assert await client.recv() == message
            await client.send(["in ", "frag", "ments"])
            assert await client.recv() == "in fragments"

            async def say() -> None:
                for number in range(500):
                    await client.send(f"{number} " * 50)

            saying = asyncio.ensure_future(say())
            for number in range(500):
                assert await client.recv() == f"{number} " * 50
            await saying
            pong = await client.ping()
            await pong
            await client.close(3001, "bye")
            assert client.close_code == 3001
        await component.connections.wait_idle()


@secure
async def test_a_client_that_reads_nothing_for_a_while(contexts: Any, tls: bool) -> None:
    context, options = ends(contexts, tls)
    booth = Booth()
    async with listening(booth, context) as (component, port):
        options.update(max_queue=1, max_size=None, proxy=None)
        async with connect(url(port, tls), **options) as client:
            session = await booth.sessions.get()

            async def say() -> None:
                for number in range(300):
                    if session.put(BINARY, number.to_bytes(4) * 25_000):
                        await session.drain()

            saying = asyncio.ensure_future(say())
            await asyncio.wait((saying,), timeout=0.2)
            assert not saying.done()
            assert session.buffered < 2**20
            for number in range(300):
                assert await client.recv() == number.to_bytes(4) * 25_000
            await saying
        await component.connections.wait_idle()


@secure
async def test_the_server_stops(contexts: Any, tls: bool) -> None:
    context, options = ends(contexts, tls)
    async with listening(echo(), context) as (component, port):
        clients = [await connect(url(port, tls), proxy=None, **options) for _ in range(5)]
        component.connections.shutdown()
        for client in clients:
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == 1001
        await component.connections.wait_idle()


@secure
async def test_a_denial(contexts: Any, tls: bool) -> None:
    context, options = ends(contexts, tls)
    app = echo()

    @app.websocket("/deny")
    async def deny(ctx: Any, ws: Any) -> None:
        await ws.deny(402, "pay first")

    async with listening(app, context) as (component, port):
        with pytest.raises(InvalidStatus) as caught:
            await connect(url(port, tls) + "deny", proxy=None, **options)
        assert caught.value.response.status_code == 402
        assert caught.value.response.body == b"pay first"
        await component.connections.wait_idle()


async def shake(client: socket.socket, after: bytes = b"") -> None:
    """Send a handshake, and read its answer."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, ASK + after)
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += await loop.sock_recv(client, 1)
    assert data.startswith(b"HTTP/1.1 101 ")


async def test_a_client_that_cuts_the_connection() -> None:
    booth = Booth()
    async with listening(booth) as (component, port):
        client = await dial(port)
        await shake(client, text("first"))
        session = await booth.sessions.get()
        assert await session.receive() == "first"
        session.put(TEXT, b"unread")
        reset(client)
        assert await received(session) == []
        assert session.close_code == 1006
        await session.wait_over()
        await component.connections.wait_idle()


@pytest.mark.parametrize("end", [b"", close_frame(4000)])
async def test_a_client_that_says_all_and_ends(end: bytes) -> None:
    """Handshake, messages, perhaps Close, and FIN; nothing of it is lost on a slow receiver."""
    loop = asyncio.get_running_loop()
    messages = [f"{number} " * 1000 for number in range(100)]
    booth = Booth(max_queue=1)
    async with listening(booth) as (component, port):
        client = await dial(port)
        await shake(client)
        session = await booth.sessions.get()
        sending = asyncio.ensure_future(
            loop.sock_sendall(client, b"".join(map(text, messages)) + end)
        )
        found = []
        for number in range(100):
            found.append(await session.receive())
            if number % 10 == 0:
                await asyncio.sleep(0)
        assert found == messages
        await sending
        client.shutdown(socket.SHUT_WR)
        await session.wait_over()
        assert session.close_code == (4000 if end else 1006)
        frames = read_frames(await read_to_end(client))
        assert frames == ([(CLOSE, b"\x0f\xa0")] if end else [])
        client.close()
        await component.connections.wait_idle()


async def test_a_close_arrives_although_the_client_is_still_sending() -> None:
    """Closing with bytes unread would make the kernel reset, and destroy what is on its way."""
    loop = asyncio.get_running_loop()
    booth = Booth()
    async with listening(booth) as (component, port):
        client = await dial(port)
        await shake(client)
        session = await booth.sessions.get()
        sending = asyncio.ensure_future(
            loop.sock_sendall(client, frame(3) + frame(BINARY, bytes(500_000)) * 6)
        )
        await session.wait_over()
        (close,) = read_frames(await read_to_end(client))
        assert close[0] == CLOSE
        assert close[1][:2] == b"\x03\xea"
        await asyncio.wait((sending,), timeout=1)
        sending.cancel()
        client.close()
        await component.connections.wait_idle()


@secure
async def test_all_that_was_said_before_a_connection_ended(contexts: Any, tls: bool) -> None:
    context, options = ends(contexts, tls)
    booth = Booth(max_queue=1)
    async with listening(booth, context) as (component, port):
        client = await connect(url(port, tls), compression=None, proxy=None, **options)
        session = await booth.sessions.get()
        for number in range(50):
            await client.send(f"{number}")
        client.transport.close()  # no Close frame, but all that was sent arrives
        assert await received(session) == [f"{number}" for number in range(50)]
        assert session.close_code == 1006
        await client.wait_closed()
        await component.connections.wait_idle()


@pytest.mark.parametrize("windows", [b"", LARGE], ids=["small windows", "wide windows"])
async def test_a_tunnel_over_http2(contexts: Any, windows: bytes) -> None:
    context = contexts[0]
    context.set_alpn_protocols(["h2"])
    booth = Booth()
    async with listening_http2(booth, context) as (_, port):
        client = await SocketClient.dial(port)
        fields = [(b":protocol", b"websocket"), (b"sec-websocket-version", b"13")]
        client.writer.write(windows + headers(1, request(b"/", b"CONNECT", fields), end=False))
        session = await booth.sessions.get()
        client.writer.write(data(1, text("in ", fin=False)) + data(1, frame(0, b"parts")))
        assert await session.receive() == "in parts"

        async def say() -> None:
            for number in range(50):
                if session.put(BINARY, number.to_bytes(4) * 25_000):
                    await session.drain()
            session.close(1000)

        saying = asyncio.ensure_future(say())
        found = bytearray()
        while not found.endswith(b"\x88\x02\x03\xe8"):
            piece = (await client.next(DATA)).payload
            found += piece
            if not windows:
                client.writer.write(window_update(0, len(piece)) + window_update(1, len(piece)))
        await saying
        *messages, last = read_frames(bytes(found))
        assert messages == [(BINARY, number.to_bytes(4) * 25_000) for number in range(50)]
        assert last == (CLOSE, b"\x03\xe8")
        client.writer.write(data(1, close_frame(), end=True))
        ending = await client.next(DATA)
        assert (ending.payload, ending.flags) == (b"", END_STREAM)
        await session.wait_over()
        client.writer.close()
