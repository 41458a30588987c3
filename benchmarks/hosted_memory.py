"""
What requests cost each kind of application, in memory: without sockets, there is little noise.

    python benchmarks/hosted_memory.py KIND SECONDS [--profile]

measures one kind in this process, and prints what a request costs, in seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import importlib
import os
import pstats
import statistics
import subprocess
import sys
import time
from typing import Any

import uvloop
from contest import Rounds
from servers import APPS, SERVER_CPU

from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.memory import MemoryServer, MemoryTransport

#: Kinds, each with its interface and its application. The first is no application: what answers the
#: server's stream at once is what no kind can be below.
KINDS = {
    "stream": (None, "bare_stream:answer"),
    "native": ("kyoukai", "kyoukai_app:app"),
    "asgi": ("asgi", "asgi_app:app"),
    "rsgi": ("rsgi", "rsgi_app:app"),
    "ssgi": ("ssgi", "ssgi_app:app"),
    "ssgi-coroutine": ("ssgi", "ssgi_app:coroutine_app"),
    "wsgi": ("wsgi", "wsgi_app:app"),
}

CONNECTIONS = 64
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"
BODY = b"Hello, world!"


def requests(rounds: Rounds) -> bool:
    """Measure all kinds, in turn; for information."""
    costs: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds.count):
        for kind, found in costs.items():
            command = [sys.executable, __file__, kind, str(rounds.seconds)]
            ran = subprocess.run(
                command,
                capture_output=True,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CPU}),
            )
            if ran.returncode:
                sys.exit(f"benchmarks: {' '.join(command)} has failed:\n{ran.stderr}")
            found.append(float(ran.stdout))

    print(f"\nProcessor time of a request in memory, HTTP/1.1, {rounds}")
    for kind, found in costs.items():
        print(
            f"  {kind:<28} {statistics.median(found) * 1e6:>7.1f} µs"
            f" ({min(found) * 1e6:.1f} to {max(found) * 1e6:.1f})"
        )
    sys.stdout.flush()
    return True


class Client(MemoryTransport):
    """The other end of a connection: it asks again as soon as it has an answer."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__(protocol)
        self.answers = 0
        self.asking = True

    def write(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1.1 200") or not data.endswith(BODY):
            raise RuntimeError(f"a wrong answer: {data!r}")  # or one in several writes
        self.answers += 1
        if self.asking:
            self._loop.call_soon(self.ask)

    def ask(self) -> None:
        self.protocol.data_received(REQUEST)


async def measure(kind: str, seconds: float, profile: cProfile.Profile | None = None) -> float:
    """Return the seconds of processor that a request costs, those of all threads together."""
    async with server_of(kind) as server:
        clients = []
        for _ in range(CONNECTIONS):
            protocol = HttpToolsProtocol(server)
            client = Client(protocol)
            protocol.connection_made(client)
            clients.append(client)
            client.ask()
        await asyncio.sleep(min(1, seconds / 4))  # to warm up
        before = sum(client.answers for client in clients)
        used = time.process_time()
        if profile is not None:
            profile.enable()
        await asyncio.sleep(seconds)
        if profile is not None:
            profile.disable()
        used = time.process_time() - used
        count = sum(client.answers for client in clients) - before
        for client in clients:
            client.asking = False
    if count == 0:
        sys.exit("benchmarks: there was no answer")
    return used / count


def server_of(kind: str) -> MemoryServer:
    interface, target = KINDS[kind]
    module, _, name = target.partition(":")
    sys.path.insert(0, str(APPS))
    app: Any = getattr(importlib.import_module(module), name)
    return MemoryServer(app, interface=interface, lifespan="off")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    options = parser.parse_args()
    profile = cProfile.Profile() if options.profile else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        cost = runner.run(measure(options.kind, options.seconds, profile))
    if profile is None:
        print(cost)
    else:
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    main()
