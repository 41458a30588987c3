"""
What a request costs each kind of application, in memory: without sockets, there is little noise.

All kinds run in one process and take turns, a slice of time each. For one of them alone, and to see
where its time goes:

    python benchmarks/hosted_memory.py KIND… [--seconds N] [--profile]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import importlib
import json
import os
import pstats
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import uvloop
from contest import Rounds
from servers import APPS, SERVER_CPU, THREADS

from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.memory import MemoryServer, MemoryTransport
from kyoukai.wsgi import to_wsgi_environment

#: Kinds, each with its interface and its application. The first has none: it is what the server
#: itself costs, and what no kind can be below.
KINDS = {
    "no-application": (None, "bare_stream:answer"),
    "native": ("kyoukai", "kyoukai_app:app"),
    "native-response": ("kyoukai", "kyoukai_ways:responding"),
    "native-process-request": ("kyoukai", "kyoukai_ways:watched"),
    "native-process-response": ("kyoukai", "kyoukai_ways:stamped"),
    "asgi": ("asgi", "asgi_app:app"),
    "rsgi": ("rsgi", "rsgi_app:app"),
    "ssgi": ("ssgi", "ssgi_app:app"),
    "ssgi-coroutine": ("ssgi", "ssgi_app:coroutine_app"),
    "wsgi": ("wsgi", "wsgi_app:app"),
    "wsgi-flask": ("wsgi", "flask_app:app"),
}

#: Flask without a server: what is left of ``wsgi-flask`` is ours.
FLASK = "flask-alone"

SETTINGS = {"lifespan": "off", "wsgi_threads": THREADS}
CONNECTIONS = 64
HOST = "127.0.0.1:8000"
REQUEST = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
BODY = b"Hello, world!"

#: Seconds that a kind has, before it is the turn of the next.
SLICE = 0.2

Turn = Callable[[float], Any]


def requests(rounds: Rounds) -> bool:
    """Measure all kinds, on the processor of the servers; for information."""
    seconds = rounds.seconds * rounds.count
    command = [sys.executable, __file__, "--seconds", str(seconds), "--json"]
    ran = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CPU}),
    )
    if ran.returncode:
        sys.exit(f"benchmarks: {' '.join(command)} has failed")
    print(f"\nProcessor time of a request in memory, HTTP/1.1, {seconds} s each")
    report(json.loads(ran.stdout))
    return True


def report(costs: dict[str, list[float]]) -> None:
    for kind, found in costs.items():
        least, median = min(found) * 1e6, statistics.median(found) * 1e6
        print(f"  {kind:<28} {median:>7.1f} µs (at least {least:.1f})")
    if FLASK in costs and "wsgi-flask" in costs:
        share = statistics.median(costs[FLASK]) / statistics.median(costs["wsgi-flask"])
        print(f"  of wsgi-flask, {share:.0%} is Flask")
    sys.stdout.flush()


class Client(MemoryTransport):
    """The other end of a connection: it asks again as soon as it has an answer."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__(protocol)
        self.answers = 0
        self.asking = False
        #: Set when the last answer has come and no other request will be sent.
        self.done = asyncio.Event()

    def write(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1.1 200") or not data.endswith(BODY):
            raise RuntimeError(f"a wrong answer, or one in several writes: {data!r}")
        self.answers += 1
        self._loop.call_soon(self.ask)

    def ask(self) -> None:
        if self.asking:
            self.protocol.data_received(REQUEST)
        else:
            self.done.set()


async def measure(
    kinds: list[str], seconds: float, profile: cProfile.Profile | None = None
) -> dict[str, list[float]]:
    """Return the seconds of processor that a request costs in each slice, of all threads."""
    costs: dict[str, list[float]] = {kind: [] for kind in kinds}
    async with AsyncExitStack() as stack:
        turns = {}
        for kind in kinds:
            if kind == FLASK:
                turns[kind] = alone
            else:
                turns[kind] = turn_of(await stack.enter_async_context(server_of(kind)))
        for turn in turns.values():
            await turn(SLICE)  # to warm up
        gc.collect()
        gc.freeze()
        gc.set_threshold(10000)  # as the server does
        if profile is not None:
            profile.enable()
        for _ in range(max(1, round(seconds / SLICE))):
            for kind, turn in turns.items():
                costs[kind].append(await turn(SLICE))
        if profile is not None:
            profile.disable()
    return costs


def turn_of(server: MemoryServer) -> Turn:
    """Return what puts a server under load, for some time."""
    clients = []
    for _ in range(CONNECTIONS):
        protocol = HttpToolsProtocol(server)
        client = Client(protocol)
        protocol.connection_made(client)
        clients.append(client)

    async def turn(seconds: float) -> float:
        before = sum(client.answers for client in clients)
        used = time.process_time()
        for client in clients:
            client.asking = True
            client.done.clear()
            client.ask()
        await asyncio.sleep(seconds)
        for client in clients:
            client.asking = False
        for client in clients:
            await client.done.wait()
        used = time.process_time() - used
        return used / (sum(client.answers for client in clients) - before)

    return turn


async def alone(seconds: float) -> float:
    """Let Flask answer, without a server."""
    app = application("flask_app:app")
    environ = to_wsgi_environment({"Host": HOST}, "GET", "/")
    count, used = 0, time.process_time()
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        answer = app(environ.copy(), lambda status, headers, exc_info=None: None)
        if b"".join(answer) != BODY:
            raise RuntimeError("a wrong answer")
        answer.close()
        count += 1
    return (time.process_time() - used) / count


def server_of(kind: str) -> MemoryServer:
    interface, target = KINDS[kind]
    return MemoryServer(application(target), interface=interface, **SETTINGS)


def application(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = [*KINDS, FLASK]
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"all, or of {', '.join(kinds)}")
    parser.add_argument("--seconds", type=float, default=2, help="for each kind")
    parser.add_argument("--json", action="store_true", help="print the cost of each slice")
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    options = parser.parse_args()
    for kind in options.kinds:
        if kind not in kinds:
            parser.error(f"{kind!r} is none of {', '.join(kinds)}")
    sys.path.insert(0, str(APPS))
    profile = cProfile.Profile() if options.profile else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        costs = runner.run(measure(options.kinds or kinds, options.seconds, profile))
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
    elif options.json:
        print(json.dumps(costs))
    else:
        report(costs)


if __name__ == "__main__":
    main()
