"""
1 GiB through the proxy each way, with a stop on the far side: memory does not grow.

In the middle of a download the client reads nothing for a while; in the middle of an upload the
application behind the proxy stops. A proxy that does not hold the near side back would fill its
memory then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from h2client import HUGE, Client
from proxying import asgi
from servers import (
    APPS,
    LOAD_CPU,
    forget_peak,
    free_port,
    kyoukai,
    peak_rss,
    processor_time,
    rss,
    running,
)

sys.path.insert(0, str(APPS))
from asgi_app import GIB, PIECE, same

MIB = 1 << 20

#: Bytes by which a proxy's memory may grow, and seconds of the stop.
PROMISED = 4 * MIB
STOP = 1.0

#: Sends or takes the body at a port; calls the stop in the middle of it.
Transfer = Callable[[int, Callable[[], None]], None]


def streams() -> bool:
    good = True
    port = free_port()
    with running(asgi(port, "asgi_app:gibibyte_app"), port, LOAD_CPU) as upstream, _on_load_cpu():
        for title, tls, download, upload in (
            ("HTTP/1.1", False, _download_http1, _upload_http1),
            ("HTTP/2 over TLS", True, _download_http2, _upload_http2),
        ):
            target = f"http://127.0.0.1:{port}"
            proxy = free_port()
            with running(kyoukai(proxy, app=target, tls=tls, interface=None), proxy) as pid:
                print(f"\n1 GiB through the proxy, {title}, with a stop of {STOP:.0f} s")
                good &= _weigh("download, the client stops", pid, proxy, download, _wait)
                good &= _weigh(
                    "upload, the application stops", pid, proxy, upload, lambda: _stop(upstream)
                )
    return good


def _weigh(title: str, pid: int, port: int, transfer: Transfer, stop: Callable[[], None]) -> bool:
    before = rss(pid)
    forget_peak(pid)
    start, used = time.perf_counter(), processor_time(pid)
    transfer(port, stop)
    seconds = time.perf_counter() - start - STOP
    used = processor_time(pid) - used
    peak, after = peak_rss(pid), rss(pid)
    weights = " → ".join(f"{weight / MIB:.1f}" for weight in (before, peak, after))
    print(
        f"  {title:<30} {GIB / 1e6 / seconds:,.0f} MB/s, {used:.1f} s of processor; memory before, "
        f"at most, after: {weights} MiB (promised: grows by {PROMISED // MIB} at most)",
        flush=True,
    )
    return peak - before <= PROMISED


@contextlib.contextmanager
def _on_load_cpu() -> Iterator[None]:
    """Keep this process, which is the client, off the proxy's processor."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _wait() -> None:
    time.sleep(STOP)


def _stop(pid: int) -> None:
    """Stop a process for a while, and go on."""
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(STOP, os.kill, (pid, signal.SIGCONT)).start()


def _pieces() -> Iterator[bytes]:
    """Cut the body of 1 GiB into pieces."""
    for place in range(0, GIB, len(PIECE)):
        yield PIECE[: GIB - place]


def _stopping(chunks: Iterator[bytes], stop: Callable[[], None]) -> Iterator[bytes]:
    """Pass a body on, with a stop in its middle."""
    place, stopped = 0, False
    for chunk in chunks:
        if not stopped and place > GIB // 2:
            stop()
            stopped = True
        yield chunk
        place += len(chunk)


def _compare(chunks: Iterator[bytes]) -> None:
    """See that a body is the one that was asked for."""
    place = 0
    for chunk in chunks:
        if not same(chunk, place):
            sys.exit(f"benchmarks: the body was damaged after {place:,} bytes")
        place += len(chunk)
    if place != GIB:
        sys.exit(f"benchmarks: {place:,} bytes came, not {GIB:,}")


def _download_http1(port: int, stop: Callable[[], None]) -> None:
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, body = _head(sock)
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(f"benchmarks: a wrong answer: {head!r}")

        def chunks() -> Iterator[bytes]:
            yield body
            yield from iter(lambda: sock.recv(262144), b"")

        _compare(_stopping(chunks(), stop))


def _upload_http1(port: int, stop: Callable[[], None]) -> None:
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {GIB}\r\n\r\n".encode())
        for piece in _stopping(_pieces(), stop):
            sock.sendall(piece)
        head, _ = _head(sock)
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(f"benchmarks: the body did not arrive: {head!r}")


def _head(sock: socket.socket) -> tuple[bytes, bytes]:
    """Return the head of an answer, and what came of the body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            sys.exit(f"benchmarks: the answer broke off: {data!r}")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def _download_http2(port: int, stop: Callable[[], None]) -> None:
    """Give windows for the whole body: what holds the proxy back is that nothing is read."""
    with Client(port, HUGE) as client:
        client.request("/")
        _compare(_stopping(client.body(), stop))


def _upload_http2(port: int, stop: Callable[[], None]) -> None:
    with Client(port) as client:
        fields, _ = client.post("/", GIB, _stopping(_pieces(), stop))
        if fields.get(":status") != "200":
            sys.exit(f"benchmarks: the body did not arrive: {fields}")
