"""The servers of one program: they start together, and one drain stops them all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from typing import TYPE_CHECKING, Any

import pytest
from asphalt.core import Context
from backends.support import Clock

from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.config import ServerConfig
from kyoukai.exceptions import ConfigurationError
from kyoukai.server.group import ServerGroup
from kyoukai.server.listener import Server

if TYPE_CHECKING:
    from kyoukai.stream import StreamState

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Recorder:
    """An interface that writes down what happens to it."""

    def __init__(self, log: list[str], name: str, fails: bool = False) -> None:
        self.log = log
        self.name = name
        self.fails = fails
        self.go_on = asyncio.Event()
        self.busy = asyncio.Event()

    async def __call__(self, stream: StreamState) -> None:
        self.busy.set()
        await self.go_on.wait()
        await stream.send_response(200, [(b"content-length", b"5")], b"hello")
        self.log.append(f"{self.name} answered")

    async def startup(self, context: Context) -> None:
        self.log.append(f"{self.name} startup")

    async def shutdown(self) -> None:
        self.log.append(f"{self.name} shutdown")
        if self.fails:
            raise RuntimeError("no")


def make(interface: Any, **settings: Any) -> Server:
    settings.setdefault("bind", "127.0.0.1:0")
    server = Server(ServerConfig(access_log=False, **settings), HttpToolsProtocol)
    server.interface = interface
    return server


def is_open(server: Server) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", server.port)) == 0


async def wait_for_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """
    Wait until the server closes an idle connection, which is when it has begun to stop.

    If it has not accepted the connection by then, the kernel resets it.
    """
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.fixture
def log() -> list[str]:
    return []


async def test_applications_start_before_anything_listens(log: list[str]) -> None:
    group = ServerGroup(held=True)
    servers = [make(Recorder(log, name)) for name in "ab"]

    async def look(context: Context) -> None:
        log.append(f"open: {any(map(is_open, servers))}")

    for server in servers:
        server.before_listening = look
        group.add(server)
    async with Context() as context:
        await group.serve_one(servers[0], context)
        assert log == []  # it is held back
        await group.serve(context)
        assert log == ["a startup", "open: False", "b startup", "open: False"]
        assert all(map(is_open, servers))
        await group.stop()
    assert log[4:] == ["b shutdown", "a shutdown"]
    assert not any(map(is_open, servers))


async def test_one_drain_stops_all_and_applications_end_last(log: list[str]) -> None:
    interfaces = [Recorder(log, "a"), Recorder(log, "b", fails=True)]
    group, servers = ServerGroup(), [make(each) for each in interfaces]
    async with Context() as context:
        for server in servers:
            group.add(server)
            await group.serve_one(server, context)
        reader, writer = await asyncio.open_connection("127.0.0.1", servers[0].port)
        writer.write(GET)
        await interfaces[0].busy.wait()
        idle = await asyncio.open_connection("127.0.0.1", servers[1].port)
        log.clear()
        closing = [asyncio.create_task(group.stop()) for _ in range(2)]
        await wait_for_close(*idle)
        assert not any(map(is_open, servers))
        interfaces[0].go_on.set()
        assert (await reader.read()).endswith(b"hello")
        await asyncio.gather(*closing)
        writer.close()
        await writer.wait_closed()
    assert log == ["a answered", "b shutdown", "a shutdown"]


async def test_the_longest_time_limit_counts_and_then_requests_are_cut(
    log: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    interface = Recorder(log, "a")
    group = ServerGroup()
    servers = [make(interface, graceful_timeout=0), make(interface, graceful_timeout=0.02)]
    async with Context() as context:
        for server in servers:
            group.add(server)
            await group.serve_one(server, context)
        writers = []
        for server in servers:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(GET)
            writers.append(writer)
            await interface.busy.wait()
            interface.busy.clear()
        await group.stop()
        assert log[-2:] == ["a shutdown", "a shutdown"]
        assert "cutting 2 connections and 2 requests that did not finish in 0.02" in caplog.text
        for writer in writers:
            writer.transport.abort()


async def test_the_end_of_the_root_context_stops_the_group_first(log: list[str]) -> None:
    group, server = ServerGroup(), make(Recorder(log, "a"))
    group.add(server)
    async with Context() as context:
        server.before_listening = lambda ctx: add_resource(ctx, log)
        await group.serve_one(server, context)
    assert log == ["a startup", "a shutdown", "resource closed"]


async def add_resource(context: Context, log: list[str]) -> None:
    context.add_teardown_callback(lambda: log.append("resource closed"))


async def test_a_start_that_fails_ends_what_was_started(log: list[str]) -> None:
    class Failing(Recorder):
        async def startup(self, context: Context) -> None:
            await super().startup(context)
            raise RuntimeError("no")

    group, server = ServerGroup(), make(Failing(log, "a"))
    group.add(server)
    with pytest.raises(RuntimeError, match="no"):
        async with Context() as context:
            await group.serve_one(server, context)
    assert log == ["a startup", "a shutdown"]
    assert not is_open(server)


async def test_abort_ends_a_drain_at_once(log: list[str]) -> None:
    interface = Recorder(log, "a")
    group, server = ServerGroup(), make(interface, graceful_timeout=3600)
    async with Context() as context:
        group.add(server)
        await group.serve_one(server, context)
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET)
        await interface.busy.wait()
        idle = await asyncio.open_connection("127.0.0.1", server.port)
        stopping = asyncio.create_task(group.stop())
        await wait_for_close(*idle)
        assert 3590 < group.seconds_left <= 3600
        group.abort()
        await stopping
        assert group.seconds_left == 0
        writer.transport.abort()


async def test_an_address_may_be_used_once_in_a_program(log: list[str]) -> None:
    group, first = ServerGroup(), make(Recorder(log, "a"))
    group.add(first)
    second = make(Recorder(log, "b"), bind=f"127.0.0.1:{first.port}")
    with pytest.raises(ConfigurationError, match="this program already does"):
        group.add(second)
    assert group.servers == [first]
    assert second.sockets[0].sock.fileno() == -1
    first.close_listeners()


async def test_accept_errors_are_reported_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    group = ServerGroup()
    group.watch_loop()
    loop, clock = asyncio.get_running_loop(), Clock()
    error = OSError(errno.EMFILE, "Too many open files")
    for count in (1, 2):
        for _ in range(100):
            loop.call_exception_handler({"message": "accept", "exception": error, "socket": None})
        assert caplog.messages == ["cannot accept connections: Too many open files"] * count
        await clock.advance(1.1)
    loop.call_exception_handler({"message": "something else"})
    assert caplog.messages[2:] == ["something else"]


async def test_a_handler_of_the_users_stays() -> None:
    seen: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: seen.append(context))
    ServerGroup().watch_loop()
    loop.call_exception_handler({"message": "mine"})
    assert seen == [{"message": "mine"}]


async def test_a_broken_certificate_is_one_line(
    log: list[str], caplog: pytest.LogCaptureFixture, certificates: Any, tmp_path: Any
) -> None:
    certfile = tmp_path / "cert.pem"
    certfile.write_text(certificates.folder.joinpath("a.pem").read_text())
    pair = {**certificates.pair("a"), "certfile": str(certfile)}
    group = ServerGroup()
    group.add(make(Recorder(log, "plain")))
    group.add(make(Recorder(log, "secure"), bind=(), tls_bind="127.0.0.1:0", **pair))
    caplog.set_level(logging.INFO)
    group.reload()
    certfile.write_text("junk")
    group.reload()
    first, second = caplog.messages
    assert first == f"the certificate of {group.servers[1].urls[0]} was read again"
    assert second.startswith("the certificate was not replaced: certfile: ")
    await group.stop()
