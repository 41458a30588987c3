"""Connecting to a server that is given up, in each moment: nothing of it is left."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import Clock, turns
from fronts import quiet
from test_upstream import only, serving
from upstreams import ScriptedUpstream

from kyoukai.exceptions import UpstreamTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support import Certificates

    from kyoukai.upstream import Upstream

KINDS = ["unix", "tcp", "tls", "name", "name tls", "silent first", "refused first"]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def silent(host: str, port: int) -> AsyncIterator[None]:
    """Let an address say nothing: the queue of its listener is full."""
    fillers = [socket.socket() for _ in range(3)]
    with socket.create_server((host, port), backlog=0):
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((host, port))
        try:
            yield
        finally:
            for filler in fillers:
                filler.close()


@asynccontextmanager
async def upstream_of(
    kind: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Upstream]:
    """What is known of a server with an address of some kind, or with several of a name."""
    loop: Any = asyncio.get_running_loop()
    tls = "tls" in kind
    first = {"silent first": ["127.0.0.3"], "refused first": ["127.0.0.2"]}.get(kind, [])
    addresses = [*first, "127.0.0.1", "127.0.0.1"]

    async def resolve(host: str, port: int, **options: Any) -> Any:
        await asyncio.sleep(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]

    context = serving(certificates) if tls else None
    async with ScriptedUpstream(tcp=kind != "unix", context=context) as up:
        url = up.url.replace("localhost", "127.0.0.1")
        if kind not in ("unix", "tcp", "tls"):
            url = f"http{'s' if tls else ''}://localhost:{up.port}"
            monkeypatch.setattr(loop, "getaddrinfo", resolve)
        ca = certificates.path("a.pem") if tls else None
        upstream = only(url, ca=ca)
        if kind == "silent first":
            async with silent("127.0.0.3", up.port):
                yield upstream
        else:
            yield upstream


async def settled(upstream: Upstream, before: int) -> None:
    """Wait until nothing is open, neither by the counts nor by the descriptors of this process."""
    for _ in range(20_000):
        if not upstream.open and descriptors() == before:
            break
        await turns(1)
    assert (upstream.open, upstream.load, upstream._all) == (0, 0, set())
    assert descriptors() == before


async def count_at_rest(upstream: Upstream) -> int:
    """Count the descriptors of this process, after what is made once by the first connection."""
    (await upstream.connect()).abort()
    while upstream.open:
        await turns(1)
    return await quiet(descriptors)


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelled_in_each_moment(
    kind: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, loop_factory: Any
) -> None:
    monkeypatch.setattr("kyoukai.upstream_socket._ALONE", 0)  # the next address is tried at once
    async with upstream_of(kind, certificates, monkeypatch) as upstream:
        before = await count_at_rest(upstream)
        opened = 0
        for moment in itertools.count():  # until it is there before it is cancelled
            task = asyncio.create_task(upstream.connect())
            await turns(moment)
            task.cancel()
            try:
                (await task).abort()
                opened += 1
            except asyncio.CancelledError:
                assert upstream.open == 0
            await settled(upstream, before)
            if opened == 3:
                break


@pytest.mark.parametrize("kind", KINDS)
async def test_out_of_time_in_each_moment(
    kind: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with upstream_of(kind, certificates, monkeypatch) as upstream:
        clock = Clock()
        task = asyncio.create_task(count_at_rest(upstream))
        while not task.done():
            await clock.advance(0.3)
        before = await task
        failures = 0
        for moment in range(30):
            task = asyncio.create_task(upstream.connect())
            await turns(moment)
            clock.ahead += 5.1
            while not task.done():  # it may not have begun to count
                await turns()
                clock.ahead += 0.3
            try:
                (await task).abort()
            except UpstreamTimeout:
                failures += 1
                assert upstream.open == 0
            await settled(upstream, before)
        assert failures
