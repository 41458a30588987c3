"""HTTP/1.1 over real sockets, on both event loops: what only a kernel can show."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support import Certificates

from kyoukai.app import Kyoukai
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.context import HTTPRequestContext
from kyoukai.exceptions import PeerGone
from kyoukai.stream import StreamState
from kyoukai.testing import MemoryServer

from .support import GOOD, Mirror, Stage, parse_answers

pytestmark = pytest.mark.usefixtures("loop_factory")


@asynccontextmanager
async def listening(
    app: Any, context: ssl.SSLContext | None = None, **settings: Any
) -> AsyncIterator[tuple[MemoryServer, int]]:
    """A listener on a port of its own; at the end no connection and no task may be left."""
    component = MemoryServer(app, **settings)
    async with component:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: component.protocol_class(component), "127.0.0.1", 0, ssl=context
        )
        try:
            yield component, server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await server.wait_closed()


async def dial(port: int, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


async def read_to_end(client: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    parts = []
    while data := await loop.sock_recv(client, 65536):
        parts.append(data)
    return b"".join(parts)


def reset(client: socket.socket) -> None:
    """Close in such a way that the peer gets an RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def upload(size: int, path: bytes = b"/") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path, size)


async def test_a_413_arrives_although_the_client_is_still_sending() -> None:
    app = Kyoukai("test")

    @app.route("/", methods=["POST"], max_body_size=1000)
    async def take(ctx: HTTPRequestContext) -> str:
        return "never"

    async with listening(app, linger_timeout=100) as (component, port):
        loop = asyncio.get_running_loop()
        client = await dial(port)
        size = 8_000_000
        await loop.sock_sendall(client, upload(size))
        sending = asyncio.ensure_future(loop.sock_sendall(client, b"x" * size))
        data = await read_to_end(client)
        await sending  # no reset on the way
        ((status, headers, _),) = parse_answers(data)
        assert status == 413
        assert headers[b"connection"] == b"close"
        client.close()
        await component.connections.wait_idle()


async def test_a_413_arrives_over_tls(certificates: Certificates) -> None:
    app = Kyoukai("test")

    @app.route("/", methods=["POST"], max_body_size=1000)
    async def take(ctx: HTTPRequestContext) -> str:
        return "never"

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = certificates.pair("a")
    context.load_cert_chain(pair["certfile"], pair["keyfile"])
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    async with listening(app, context, linger_timeout=100) as (component, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context)
        writer.write(upload(4_000_000) + b"x" * 3_000_000)
        data = await reader.readuntil(b"\r\n\r\n")
        assert data.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close\r\n" in data
        writer.close()
        await component.connections.wait_idle()


async def test_an_early_answer_to_a_short_body_keeps_the_connection() -> None:
    stage = Stage()
    async with listening(stage, linger_timeout=100) as (_, port):
        loop = asyncio.get_running_loop()
        client = await dial(port)
        await loop.sock_sendall(client, upload(60_000))
        stream = await stage.answer(b"early")
        await loop.sock_sendall(client, b"x" * 60_000 + GOOD)
        await stage.answer(b"next")
        client.shutdown(socket.SHUT_WR)
        answers = parse_answers(await read_to_end(client))
        assert [answer[2] for answer in answers] == [b"early", b"next"]
        assert stream.received == 60_000
        client.close()


async def test_lingering_ends_by_itself() -> None:
    stage = Stage()
    async with listening(stage, linger_timeout=0.05) as (component, port):
        client = await dial(port)
        await asyncio.get_running_loop().sock_sendall(client, upload(1_000_000))
        await stage.answer(b"early")
        answers = parse_answers(await read_to_end(client))
        assert [answer[2] for answer in answers] == [b"early"]
        await component.connections.wait_idle()  # the client has not closed
        client.close()


async def test_a_half_closed_client_gets_its_answers() -> None:
    stage = Stage()
    async with listening(stage) as (component, port):
        client = await dial(port)
        await asyncio.get_running_loop().sock_sendall(client, GOOD + GOOD)
        client.shutdown(socket.SHUT_WR)
        first = await stage.next()
        reading = asyncio.ensure_future(read_to_end(client))
        await first.send_response(200, (), b"1" * 300_000)
        stage.leave(first)
        await stage.answer(b"2")
        answers = parse_answers(await reading)
        assert [len(answer[2]) for answer in answers] == [300_000, 1]
        await component.connections.wait_idle()
        client.close()


@pytest.mark.parametrize("how", [socket.socket.close, reset])
@pytest.mark.parametrize("where", ["uploading", "downloading"])
async def test_a_client_that_vanishes_ends_the_task(how: Any, where: str) -> None:
    ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()

    async def app(stream: StreamState) -> None:
        begun.set()
        try:
            if where == "uploading":
                await stream.read_async()
            stream.send_head(200, ())
            while True:
                await stream.send_data(b"x" * 10_000)
                await asyncio.sleep(0)
        except BaseException as error:
            ended.set_result(error)
            raise

    async with listening(app) as (component, port):
        client = await dial(port)
        await asyncio.get_running_loop().sock_sendall(
            client, upload(1000) if where == "uploading" else GOOD
        )
        await begun.wait()
        how(client)
        assert isinstance(await ended, PeerGone | asyncio.CancelledError)
        await component.connections.wait_idle()


async def test_a_client_that_resets_while_the_handler_sleeps() -> None:
    stage = Stage()
    async with listening(stage) as (component, port):
        client = await dial(port)
        await asyncio.get_running_loop().sock_sendall(client, GOOD)
        stream = await stage.next()
        reset(client)
        await stream.disconnected()
        await component.connections.wait_idle()
        assert stage.cancelled == [stream]


async def test_a_half_close_in_the_middle_of_an_upload_while_the_answer_streams() -> None:
    begun = asyncio.Event()

    async def app(stream: StreamState) -> None:
        stream.send_head(200, ())
        begun.set()
        while True:
            await stream.send_data(b"x" * 100)
            await asyncio.sleep(0)

    async with listening(app) as (component, port):
        client = await dial(port)
        await asyncio.get_running_loop().sock_sendall(client, upload(1000) + b"x")
        await begun.wait()
        client.shutdown(socket.SHUT_WR)
        await component.connections.wait_idle()
        client.close()


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_large_answer_to_a_slow_reader_stays_out_of_memory(at_once: bool) -> None:
    size = 20_000_000
    most = 0
    blocked = asyncio.Event()

    class Telling(HttpToolsProtocol):
        def pause_writing(self) -> None:
            nonlocal most
            most = max(most, self.transport.get_write_buffer_size())
            super().pause_writing()
            blocked.set()

    async def app(stream: StreamState) -> None:
        nonlocal most
        protocol: Any = stream.protocol
        if at_once:
            await stream.send_response(200, (), bytes(size))
            return
        stream.send_head(200, ())
        for _ in range(size // 50_000):
            await stream.send_data(bytes(50_000))
            most = max(most, protocol.transport.get_write_buffer_size())
        await stream.end()

    async with listening(app) as (component, port):
        component.protocol_class = Telling
        client = await dial(port, 8192)
        await asyncio.get_running_loop().sock_sendall(client, GOOD)
        await blocked.wait()
        client.shutdown(socket.SHUT_WR)
        ((status, _, body),) = parse_answers(await read_to_end(client))
        assert status == 200
        assert len(body) == size
        assert most <= 262_144
        client.close()
        await component.connections.wait_idle()


async def test_a_stalled_reader_is_cut() -> None:
    async def app(stream: StreamState) -> None:
        stream.send_head(200, ())
        while True:
            await stream.send_data(bytes(50_000))

    async with listening(app, send_stall_timeout=0.05) as (component, port):
        lost = asyncio.Event()
        component.connections.on_lost = lambda protocol: lost.set()
        client = await dial(port, 8192)
        await asyncio.get_running_loop().sock_sendall(client, GOOD)
        await lost.wait()
        await component.connections.wait_idle()
        data = b""
        with contextlib.suppress(ConnectionResetError):
            data = await read_to_end(client)
        assert not data.endswith(b"0\r\n\r\n")
        client.close()


async def test_an_answer_that_only_the_end_frames_is_not_cut_silently(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(stream: StreamState) -> None:
        stream.send_head(200, ())
        await stream.send_data(b"half")
        raise LookupError("broken")

    async with listening(app) as (component, port):
        client = await dial(port)
        await asyncio.get_running_loop().sock_sendall(client, b"GET / HTTP/1.0\r\n\r\n")
        await component.connections.wait_idle()
        with client, pytest.raises(ConnectionResetError):
            await read_to_end(client)
    assert "unhandled error" in caplog.text
    caplog.clear()


async def test_requests_split_over_segments() -> None:
    app = Mirror()
    requests = (
        upload(5)
        + b"hello"
        + GOOD
        + b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
        b"\r\n3\r\nabc\r\n0\r\nX-T: y\r\n\r\n" + GOOD
    )
    async with listening(app) as (_, port):
        loop = asyncio.get_running_loop()
        client = await dial(port)
        for index in range(len(requests)):
            await loop.sock_sendall(client, requests[index : index + 1])
        client.shutdown(socket.SHUT_WR)
        answers = parse_answers(await read_to_end(client))
        bodies = [answer[2] for answer in answers]
        assert bodies == [b"POST / hello", b"GET /good ", b"POST /c abc", b"GET /good "]
        assert app.trailers[2] == [(b"x-t", b"y")]
        client.close()


async def test_a_slow_application_holds_the_sender_up() -> None:
    stage = Stage()
    paused = asyncio.Event()

    class Telling(HttpToolsProtocol):
        def pause_reading(self) -> None:
            super().pause_reading()
            paused.set()

    async with listening(stage) as (component, port):
        component.protocol_class = Telling
        loop = asyncio.get_running_loop()
        client = await dial(port)
        size = 20_000_000
        await loop.sock_sendall(client, upload(size))
        stream = await stage.next()
        (protocol,) = component.connections.open
        sending = asyncio.ensure_future(loop.sock_sendall(client, bytes(size)))
        await paused.wait()
        assert not protocol.transport.is_reading()
        assert stream.received <= 65_536 + 262_144
        assert not sending.done()
        total = 0
        while data := await stream.receive():
            total += len(data)
            assert stream.buffered <= 65_536 + 262_144
        assert total == size
        await sending
        await stream.send_response(200, (), b"ok")
        stage.leave(stream)
        client.close()
        await component.connections.wait_idle()


async def test_too_many_connections() -> None:
    app = Mirror()
    async with listening(app, max_connections=1) as (_, port):
        loop = asyncio.get_running_loop()
        first = await dial(port)
        await loop.sock_sendall(first, GOOD)
        assert (await loop.sock_recv(first, 65536)).startswith(b"HTTP/1.1 200 ")
        second = await dial(port)
        ((status, _, _),) = parse_answers(await read_to_end(second))
        assert status == 503
        first.close()
        second.close()


async def test_a_refusal_arrives_although_the_client_goes_on() -> None:
    app = Mirror()
    async with listening(app, linger_timeout=100) as (component, port):
        loop = asyncio.get_running_loop()
        client = await dial(port)
        await loop.sock_sendall(client, b"BAD\r\n\r\n")
        sending = asyncio.ensure_future(loop.sock_sendall(client, bytes(4_000_000)))
        ((status, _, _),) = parse_answers(await read_to_end(client))
        assert status == 400
        await sending
        client.close()
        await component.connections.wait_idle()
