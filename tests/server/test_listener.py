"""One server over real sockets: when it listens, what it counts, how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.config import ServerConfig
from kyoukai.exceptions import ConfigurationError
from kyoukai.server.group import ServerGroup
from kyoukai.server.listener import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from support import Certificates

    from kyoukai.stream import StreamState

    LoopFactory = Callable[[], asyncio.AbstractEventLoop]

pytestmark = pytest.mark.usefixtures("loop_factory")

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def hello(stream: StreamState) -> None:
    await stream.send_response(200, [(b"content-length", b"5")], b"hello")


def make(interface: Any = hello, **settings: Any) -> Server:
    if "bind" not in settings and "tls_bind" not in settings:
        settings["bind"] = "127.0.0.1:0"
    server = Server(ServerConfig(access_log=False, **settings), HttpToolsProtocol)
    server.interface = interface
    return server


@contextlib.asynccontextmanager
async def serving(*arguments: Any, **settings: Any) -> AsyncIterator[Server]:
    server = make(*arguments, **settings)
    server.bind()
    await server.start_serving()
    yield server
    await server.drain(5)


async def connect(server: Server, **options: Any) -> tuple[Any, Any]:
    return await asyncio.open_connection("127.0.0.1", server.port, **options)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(GET)
    return await reader.readuntil(b"hello")


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


async def test_it_is_bound_long_before_it_listens() -> None:
    server = make()
    server.bind()
    with pytest.raises(ConnectionRefusedError):
        await connect(server)
    await server.start_serving()
    reader, writer = await connect(server)
    assert (await ask(reader, writer)).startswith(b"HTTP/1.1 200 OK\r\n")
    await close(writer)
    await server.drain(5)
    with pytest.raises(ConnectionRefusedError):
        await connect(server)


async def test_several_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with serving(bind=("127.0.0.1:0", "127.0.0.1:0", "unix:app.sock")) as server:
        assert len(set(server.urls)) == 3
        for url in server.urls[:2]:
            port = int(url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await ask(reader, writer)
            await close(writer)
        reader, writer = await asyncio.open_unix_connection("app.sock")
        await ask(reader, writer)
        await close(writer)
    assert os.listdir() == []


async def test_an_inherited_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        number = os.dup(sock.fileno())
    async with serving(bind=f"fd://{number}") as server:
        assert server.urls == [f"http://127.0.0.1:{port}"]
        reader, writer = await connect(server)
        await ask(reader, writer)
        await close(writer)


async def test_tls(certificates: Certificates) -> None:
    async with serving(tls_bind="127.0.0.1:0", **certificates.pair("a")) as server:
        assert server.urls == [f"https://127.0.0.1:{server.port}"]
        context = certificates.trusting("a")
        reader, writer = await connect(server, ssl=context, server_hostname="localhost")
        await ask(reader, writer)
        await close(writer)


async def test_a_certificate_is_replaced_under_open_connections(
    certificates: Certificates, tmp_path: Path
) -> None:
    certfile, keyfile = tmp_path / "cert.pem", tmp_path / "key.pem"

    def copy(name: str) -> None:
        certfile.write_bytes(Path(certificates.path(f"{name}.pem")).read_bytes())
        keyfile.write_bytes(Path(certificates.path(f"{name}-key.pem")).read_bytes())

    copy("a")
    async with serving(
        tls_bind="127.0.0.1:0", certfile=str(certfile), keyfile=str(keyfile)
    ) as server:
        options = {"server_hostname": "localhost"}
        old = await connect(server, ssl=certificates.trusting("a"), **options)
        copy("b")
        server.reload_certificate()
        new = await connect(server, ssl=certificates.trusting("b"), **options)
        for reader, writer in (old, new):
            await ask(reader, writer)
        with pytest.raises(ssl.SSLError):
            await connect(server, ssl=certificates.trusting("a"), **options)
        for _, writer in (old, new):
            await close(writer)


async def test_a_handshake_has_a_time_limit(certificates: Certificates) -> None:
    async with serving(
        tls_bind="127.0.0.1:0", tls_handshake_timeout=0.05, **certificates.pair("a")
    ) as server:
        reader, writer = await connect(server)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await close(writer)


async def test_an_address_that_is_lost_between_binding_and_listening() -> None:
    server = make()
    server.bind()
    rival = socket.socket()
    rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    rival.bind(("127.0.0.1", server.port))
    rival.listen()
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{server.port}: it is taken by an"):
        await server.start_serving()
    rival.close()


def test_an_address_that_cannot_be_bound_frees_the_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = make(bind=("127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}"))
        with pytest.raises(ConfigurationError, match="is taken"):
            server.bind()
    assert server.sockets[0].sock.fileno() == -1


# -- Limits ---------------------------------------------------------------------------------------


async def test_connections_beyond_the_limit_are_answered_503() -> None:
    async with serving(max_connections=1) as server:
        first = await connect(server)
        await ask(*first)
        reader, writer = await connect(server)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        await close(writer)
        assert server.connections.full_refused == 1
        await close(first[1])


async def test_servers_without_a_limit_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kyoukai.server.group._connection_limit", lambda: 2)
    group, servers = ServerGroup(), [make(), make(), make(max_connections=1)]
    for server in servers:
        group.add(server)
        await server.start_serving()
    open_ones = [await connect(server) for server in (*servers[:2], servers[2])]
    for each in open_ones:
        await ask(*each)
    reader, writer = await connect(servers[0])
    assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
    await close(writer)
    for _, writer in open_ones:
        await close(writer)
    await group.stop()


def test_the_shared_limit_is_four_fifths_of_the_descriptors() -> None:
    import resource

    from kyoukai.server.group import _connection_limit

    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
        assert _connection_limit() == 400
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


# -- Stopping -------------------------------------------------------------------------------------


async def test_draining_waits_for_an_answer_in_progress() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(stream: StreamState) -> None:
        started.set()
        await go_on.wait()
        await hello(stream)

    server = make(slow)
    server.bind()
    await server.start_serving()
    reader, writer = await connect(server)
    writer.write(GET)
    await started.wait()
    server.shutdown()
    with pytest.raises(ConnectionRefusedError):
        await connect(server)
    drained = asyncio.create_task(server.drain(30))
    go_on.set()
    answer = await reader.read()
    assert answer.endswith(b"hello")
    assert b"connection: close" in answer.lower()
    assert await drained is True
    await close(writer)


async def test_draining_cuts_what_takes_too_long() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(stream: StreamState) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    server = make(endless)
    server.bind()
    await server.start_serving()
    reader, writer = await connect(server)
    writer.write(GET)
    await started.wait()
    assert await server.drain(0.01) is False
    await cancelled.wait()
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    await server.connections.wait_idle()
    await close(writer)
