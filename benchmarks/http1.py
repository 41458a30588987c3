"""HTTP/1.1 beside uvicorn, with wrk."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

from contest import Figure, Load, Rounds, contest, timed
from servers import ON_LOAD_CPU, kyoukai, uvicorn

HELLO = ("/", b"Hello, world!")
JSON = ("/users/12?q=1", b'{"id":12,"q":"1"}')


def hello(rounds: Rounds) -> bool:
    contenders = {
        "Kyoukai, native route": kyoukai,
        "uvicorn, raw ASGI function": lambda port: uvicorn("asgi_app:app", port),
    }
    return compare("hello", *HELLO, contenders, rounds, promised=1.5)


def json(rounds: Rounds) -> bool:
    contenders = {
        "Kyoukai, native route": kyoukai,
        "uvicorn, Starlette": lambda port: uvicorn("starlette_app:app", port),
    }
    return compare("JSON", *JSON, contenders, rounds, promised=2.0)


def compare(name, path, body, contenders, rounds, promised) -> bool:
    """Let servers answer GET requests of one path; see :func:`contest`."""

    def measure(pid: int, port: int) -> Figure:
        check(port, path, body)
        wrk(port, path, 1)
        return timed(pid, lambda: wrk(port, path, rounds.seconds))

    title = f"HTTP/1.1 {name}: {path}, wrk -t1 -c64"
    return contest(title, contenders, measure, rounds, promised)


def check(port: int, path: str, body: bytes) -> None:
    """See that the server gives the right answer before it is timed."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(body):
        sys.exit(f"benchmarks: a wrong answer to {path}: {answer!r}")


def wrk(port: int, path: str, seconds: int) -> Load:
    """Load a server; any error ends the benchmark."""
    command = [*ON_LOAD_CPU, "wrk", "-t1", "-c64", f"-d{seconds}", f"http://127.0.0.1:{port}{path}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        sys.exit(f"benchmarks: errors under load:\n{text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    count = re.search(r"(\d+) requests in ", text)
    if rate is None or count is None:
        sys.exit(f"benchmarks: wrk said nothing of use:\n{text}")
    return Load(int(count[1]), float(rate[1]))
