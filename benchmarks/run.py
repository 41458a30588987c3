"""
Speed and memory beside other servers: ``make bench``.

Each server runs in turn, one worker on processor 0, with wrk on processor 1. Machines differ and
drift, so every round measures all contenders one after the other, and what counts is the ratio
of the medians.

    python benchmarks/run.py [--only http1|memory] [--seconds N] [--rounds N] [--connections N]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

APPS = Path(__file__).parent / "apps"
SERVER_CPU, LOAD_CPU = 0, 1

HELLO = ("/", b"Hello, world!")
JSON = ("/users/12?q=1", b'{"id":12,"q":"1"}')


def kyoukai(port: int, *settings: str) -> list[str]:
    options = [part for setting in settings for part in ("--set", setting)]
    bind = f"127.0.0.1:{port}"
    return [
        *(sys.executable, "-m", "kyoukai", "run", "kyoukai_app:app", "--bind", bind),
        *("--loop", "uvloop", "--no-access-log", "--log-level", "warning", *options),
    ]


def uvicorn(app: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "uvicorn", app, "--port", str(port), "--http", "httptools"),
        *("--loop", "uvloop", "--no-access-log", "--log-level", "warning", "--lifespan", "off"),
    ]


#: Work: path and body, then who does it with which command, and the ratio that is promised.
HTTP1 = {
    "hello": (
        HELLO,
        {
            "Kyoukai, native route": kyoukai,
            "uvicorn, raw ASGI function": lambda port: uvicorn("asgi_app:app", port),
        },
        1.5,
    ),
    "JSON": (
        JSON,
        {
            "Kyoukai, native route": kyoukai,
            "uvicorn, Starlette": lambda port: uvicorn("starlette_app:app", port),
        },
        2.0,
    ),
}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on its processor until the block ends."""
    process = subprocess.Popen(
        command, cwd=APPS, preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CPU})
    )
    try:
        deadline = time.monotonic() + 15
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"benchmarks: this server did not start: {' '.join(command)}")
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def check(port: int, path: str, body: bytes) -> None:
    """See that the server gives the right answer before it is timed."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(body):
        sys.exit(f"benchmarks: a wrong answer to {path}: {answer!r}")


def wrk(port: int, path: str, seconds: int) -> float:
    """Return requests a second; any error ends the benchmark."""
    command = [
        *("taskset", "-c", str(LOAD_CPU), "wrk", "-t1", "-c64", f"-d{seconds}"),
        f"http://127.0.0.1:{port}{path}",
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        sys.exit(f"benchmarks: errors under load:\n{text}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if found is None:
        sys.exit(f"benchmarks: wrk said nothing of use:\n{text}")
    return float(found[1])


def http1(seconds: int, rounds: int) -> bool:
    """Time HTTP/1.1; return whether the promised ratios were reached."""
    good = True
    for work, ((path, body), contenders, promised) in HTTP1.items():
        results: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, command in contenders.items():
                port = free_port()
                with running(command(port), port):
                    check(port, path, body)
                    wrk(port, path, 1)
                    results[name].append(wrk(port, path, seconds))
        print(f"\nHTTP/1.1 {work}: {path}, wrk -t1 -c64, {rounds} rounds of {seconds} s")
        ours, theirs = (statistics.median(figures) for figures in results.values())
        for name, figures in results.items():
            spread = f"{min(figures):,.0f} to {max(figures):,.0f}"
            print(f"  {name:<28} {statistics.median(figures):>9,.0f} requests/s   ({spread})")
        ratio = ours / theirs
        good &= ratio >= promised
        print(f"  ratio {ratio:.2f} (promised: {promised})")
    return good


def rss(pid: int) -> int:
    """Return a process's resident memory, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024


def memory(connections: int) -> bool:
    """Weigh idle connections and readers that stop; return whether the promises were kept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        sys.exit(f"benchmarks: {wanted} open files are needed, the limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))

    port = free_port()
    command = kyoukai(port, f"max_connections={connections + 100}", "keep_alive_timeout=600")
    with running(command, port) as process, contextlib.ExitStack() as stack:
        check(port, *HELLO)

        def connect(path: str) -> socket.socket:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return sock

        for _ in range(100):  # what the first connections make is there for all
            connect("/").recv(4096)
        before = rss(process.pid)
        for _ in range(connections):
            connect("/").recv(4096)
        idle = (rss(process.pid) - before) / connections
        print(f"\nMemory of {connections:,} idle keep-alive connections: {idle / 1024:.1f} KB each")

    port = free_port()
    with running(kyoukai(port), port) as process, contextlib.ExitStack() as stack:
        check(port, *HELLO)
        connect("/download").recv(4096)
        time.sleep(1)
        before = rss(process.pid)
        for _ in range(20):
            connect("/download").recv(1)
        time.sleep(3)  # long enough for the server to fill whatever it would fill
        stalled = (rss(process.pid) - before) / 20
        print(f"Memory of a reader that stops reading 200 MB: {stalled / 1024:.0f} KB each")
    return idle <= 15 * 1024 and stalled <= 256 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--only", choices=("http1", "memory"))
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=5000)
    options = parser.parse_args()
    if shutil.which("wrk") is None or shutil.which("taskset") is None:
        sys.exit("benchmarks: wrk and taskset are needed (Debian: apt-get install wrk util-linux)")
    if os.cpu_count() == 1:
        sys.exit("benchmarks: two processors are needed, one for the server and one for the load")
    good = True
    if options.only != "memory":
        good &= http1(options.seconds, options.rounds)
    if options.only != "http1":
        good &= memory(options.connections)
    if not good:
        sys.exit("benchmarks: a promise was not kept, see above")


if __name__ == "__main__":
    main()
