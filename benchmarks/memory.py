"""Memory of idle connections and of readers that stop, on HTTP/1.1 and on HTTP/2 over TLS."""

from __future__ import annotations

import contextlib
import functools
import resource
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import http1 as plain
import http2 as tls
from h2client import DEFAULT_WINDOW, HUGE, Client
from servers import free_port, kyoukai, open_files, rss, running

KIB = 1024
STALLED = 256 * KIB
READERS = 20

#: Seconds for a server to fill whatever it would fill.
SETTLE = 3

Open = Callable[[int, ExitStack], object]


def http1(connections: int) -> bool:
    good = idle("HTTP/1.1", connections, 15, _open_http1, kyoukai)
    return good & _stalled("HTTP/1.1", _stall_http1, READERS, False)


def http2(connections: int) -> bool:
    command = functools.partial(kyoukai, tls=True)
    good = idle("HTTP/2 over TLS", connections, 50, _open_http2, command)
    for what, window, streams in (
        ("window of 2 GB, nothing read", HUGE, 1),
        ("the same, all on one connection", HUGE, READERS),
        ("window of 64 KiB, never opened", DEFAULT_WINDOW, 1),
        ("window of 0", 0, 1),
    ):

        def stall(port: int, stack: ExitStack) -> None:
            client = stack.enter_context(Client(port, window))  # noqa: B023
            client.heads(client.request("/endless", streams))  # noqa: B023

        good &= _stalled(f"HTTP/2, {what}", stall, READERS // streams, True, streams)
    return good


def _open_http1(port: int, stack: ExitStack, path: str = "/") -> socket.socket:
    sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    sock.recv(4096)
    return sock


def _stall_http1(port: int, stack: ExitStack) -> None:
    _open_http1(port, stack, "/endless")


def _open_http2(port: int, stack: ExitStack) -> None:
    stack.enter_context(Client(port)).get("/")


def idle(
    title: str,
    connections: int,
    promised: int,
    connect: Open,
    command: Callable[..., list[str]],
    *settings: str,
) -> bool:
    """
    Weigh connections that have been used and are kept.

    :param promised: KB for each
    :param connect: opens one and uses it
    :param command: the server's, by its port and settings
    """
    allow_files(connections + 500)
    port = free_port()
    settings += (f"max_connections={connections + 200}", "keep_alive_timeout=600")
    with running(command(port, *settings), port) as pid, ExitStack() as stack:
        for _ in range(100):  # what the first connections make is there for all
            connect(port, stack)
        before, files = rss(pid), open_files(pid)
        for _ in range(connections):
            connect(port, stack)
        each = (rss(pid) - before) / connections
        _all_open(pid, files + connections)
    print(f"\nMemory of {connections:,} idle connections, {title}")
    print(f"  {each / KIB:.1f} KB each (promised: {promised})", flush=True)
    return each <= promised * KIB


def _stalled(title: str, stall: Open, count: int, over_tls: bool, streams: int = 1) -> bool:
    """Weigh 200 MB answers whose readers take nothing."""
    port = free_port()
    with running(kyoukai(port, tls=over_tls), port) as pid, ExitStack() as stack:
        check = tls.check if over_tls else plain.check
        check(port, "/", b"Hello, world!")
        stall(port, stack)
        time.sleep(SETTLE)
        before, files = rss(pid), open_files(pid)
        for _ in range(count):
            stall(port, stack)
        time.sleep(SETTLE)
        each = (rss(pid) - before) / (count * streams)
        _all_open(pid, files + count)
        check(port, "/", b"Hello, world!")  # and the others are served
    print(f"\nMemory of {count * streams} readers that stop, of 200 MB answers, {title}")
    print(f"  {each / KIB:.0f} KB each (promised: {STALLED // KIB})", flush=True)
    return each <= STALLED


def _all_open(pid: int, wanted: int) -> None:
    """See that the server weighed light because it is light, not because it hung up."""
    if open_files(pid) < wanted:
        sys.exit(f"benchmarks: {open_files(pid)} descriptors are open, not {wanted}")


def allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        sys.exit(f"benchmarks: {wanted} open files are needed, the limit is {hard} (ulimit -Hn)")
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
