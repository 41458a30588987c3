"""HTTP/2 over TLS beside Hypercorn, with h2load."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from contest import Figure, Load, Rounds, contest, timed
from h2client import HUGE, Client
from servers import (
    ON_LOAD_CPU,
    children_time,
    folder,
    free_port,
    hypercorn,
    kyoukai,
    processor_time,
    running,
)

HELLO = ("/", b"Hello, world!")
JSON = ("/users/12?q=1", b'{"id":12,"q":"1"}')
URIS = 1000
TEN_MIB = 10 << 20

#: How much more a request may cost among many open streams, for the noise of the measurement.
NOISE = 1.15

#: One cipher for all, as servers prefer different ones.
CIPHER = "TLS_AES_128_GCM_SHA256"


@dataclass
class Work:
    """
    What h2load is to do.

    :param size: bytes that the bodies of so many answers have
    :param first: requests from which to find out how many a second takes
    """

    options: tuple[str, ...]
    size: Callable[[int], int]
    path: str = "/"
    first: int = 2000


OURS = {"Kyoukai, native route": partial(kyoukai, tls=True)}


def hello(rounds: Rounds) -> bool:
    contenders = {
        **OURS,
        "Hypercorn, raw ASGI function": partial(hypercorn, "asgi_app:app"),
    }
    return compare_hello("hello", contenders, rounds, 6.0)


def compare_hello(name, contenders, rounds, promised) -> bool:
    """Let servers say hello; see :func:`contest`."""
    work = Work(("-c8", "-m16"), lambda requests: requests * len(HELLO[1]))

    def measure(pid: int, port: int) -> Figure:
        check(port, *HELLO)
        return _measure(pid, port, rounds, work)

    return contest(f"HTTP/2 {name}: /, h2load -c8 -m16", contenders, measure, rounds, promised)


def json(rounds: Rounds) -> bool:
    contenders = {
        **OURS,
        "Hypercorn, raw ASGI function": partial(hypercorn, "asgi_app:json_app"),
        "Hypercorn, Starlette": partial(hypercorn, "starlette_app:app"),
    }
    uris = folder() / "uris"
    work = Work(("-c8", "-m16", "-i", str(uris)), _json_size)

    def measure(pid: int, port: int) -> Figure:
        check(port, *JSON)
        uris.write_text(
            "".join(f"https://127.0.0.1:{port}/users/{number}?q=1\n" for number in range(URIS))
        )
        return _measure(pid, port, rounds, work)

    title = f"HTTP/2 JSON: {URIS:,} × /users/…?q=1, h2load -c8 -m16"
    return contest(title, contenders, measure, rounds, 3.5)


def _json_size(requests: int) -> int:
    """Count the bytes of the answers, as each of eight connections goes through all URIs."""
    cycle = [len(f'{{"id":{number},"q":"1"}}') for number in range(URIS)]
    whole, rest = divmod(requests // 8, URIS)
    return 8 * (whole * sum(cycle) + sum(cycle[:rest]))


def download(rounds: Rounds) -> bool:
    contenders = {
        **OURS,
        "Hypercorn, raw ASGI function": partial(hypercorn, "asgi_app:download_app"),
    }
    work = Work(("-c4", "-m4"), lambda requests: requests * TEN_MIB, "/download", first=16)

    def measure(pid: int, port: int) -> Figure:
        return _in_megabytes(_measure(pid, port, rounds, work))

    title = "HTTP/2 download of 10 MiB, h2load -c4 -m4"
    return contest(title, contenders, measure, rounds, 1.2, "MB/s")


def upload(rounds: Rounds) -> bool:
    contenders = {
        **OURS,
        "Hypercorn, raw ASGI function": partial(hypercorn, "asgi_app:upload_app"),
    }
    body = folder() / "body"
    body.write_bytes(b"x" * TEN_MIB)
    options = ("-c4", "-m4", "-d", str(body))
    work = Work(options, lambda requests: requests * len(HELLO[1]), "/upload", first=16)

    def measure(pid: int, port: int) -> Figure:
        return _in_megabytes(_measure(pid, port, rounds, work))

    title = "HTTP/2 upload of 10 MiB, h2load -c4 -m4"
    return contest(title, contenders, measure, rounds, 1.2, "MB/s")


def streams(rounds: Rounds) -> bool:
    """
    Measure what a request costs with few and with many open streams.

    What counts is the least of all rounds: processor time has no other noise than too much.
    """
    loads: dict[int, list[float]] = {1: [], 16: [], 100: []}
    beside: dict[int, list[float]] = {0: [], 15: [], 99: []}
    port = free_port()
    with running(kyoukai(port, "h2_max_concurrent_streams=128", tls=True), port) as pid:
        check(port, *HELLO)
        for _ in range(rounds.count):
            for count, costs in loads.items():
                work = Work(("-c1", f"-m{count}"), lambda requests: requests * len(HELLO[1]))
                costs.append(_measure(pid, port, rounds, work).cost)
            for count, costs in beside.items():
                costs.append(_beside(pid, port, count, rounds.seconds))

    print(f"\nHTTP/2 cost of a request among open streams, {rounds}")
    good = True
    for what, found in (
        ("h2load -c1 -m{}", loads),
        ("16 at a time, {} others waiting", beside),
    ):
        least = [min(costs) * 1e6 for costs in found.values()]
        for count, cost in zip(found, least, strict=True):
            print(f"  {what.format(count):<34} {cost:>7.1f} µs of processor")
        good &= all(more <= fewer * NOISE for fewer, more in pairwise(least))
    print(f"  {'does not grow' if good else 'grows'} (promised: does not grow)", flush=True)
    return good


def _beside(pid: int, port: int, others: int, seconds: int) -> float:
    """Return what a request costs while others of its connection wait for their answers."""
    with Client(port, HUGE) as client:
        client.get("/")
        if others:
            client.request("/wait", others)

        def rounds(count: int) -> None:
            for _ in range(count):
                client.request("/", 16)
                client.ends(16)

        rounds(100)
        count, used = 3000 * seconds, processor_time(pid)
        rounds(count)
        return (processor_time(pid) - used) / (16 * count)


def check(port: int, path: str, body: bytes) -> None:
    """See that the server gives the right answer before it is timed."""
    with Client(port) as client:
        fields, found = client.get(path)
    if fields.get(":status") != "200" or found != body:
        sys.exit(f"benchmarks: a wrong answer to {path}: {fields} {found!r}")


def _in_megabytes(figure: Figure) -> Figure:
    return replace(figure, rate=figure.rate * TEN_MIB / 1e6)


def _measure(pid: int, port: int, rounds: Rounds, work: Work) -> Figure:
    """
    Load a server for a round, after a second of warming up.

    h2load gets a number of requests, not a duration, at whose end it would cut streams off.
    """

    def load(requests: float) -> Load:
        # In equal parts, or some connections would be done before the others.
        return h2load(port, max(round(requests) // 16, 1) * 16, work)

    rate = load(work.first).rate
    rate = load(rate).rate
    return timed(pid, lambda: load(rate * rounds.seconds))


def h2load(port: int, requests: int, work: Work) -> Load:
    """Load a server; a request that fails, in whatever way, ends the benchmark."""
    command = [*ON_LOAD_CPU, "h2load", "-t1", f"-n{requests}", f"--tls13-ciphers={CIPHER}"]
    command += work.options
    if "-i" not in work.options:
        command.append(f"https://127.0.0.1:{port}{work.path}")
    before = children_time()
    done = subprocess.run(command, capture_output=True, text=True)
    text = done.stdout
    finished = re.search(r"finished in \S+, ([\d.]+) req/s", text)
    good = (
        finished is not None
        and done.returncode == 0
        and "Application protocol: h2\n" in text
        and f"Cipher: {CIPHER}\n" in text
        and f"{requests} succeeded, 0 failed, 0 errored, 0 timeout" in text
        and f"status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx" in text
        and f"({work.size(requests)}) data" in text
    )
    if not good:
        print(f"{text}{done.stderr}", file=sys.stderr)
        sys.exit(
            f"benchmarks: errors under load, or not {work.size(requests)} bytes of bodies: "
            f"{' '.join(command)}"
        )
    rate = float(finished[1])
    return Load(requests, rate, (children_time() - before) * rate / requests)
