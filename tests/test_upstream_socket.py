"""How connections to a server's addresses are opened, and what their sockets say."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import socket
import ssl
from functools import partial
from typing import Any

import pytest
from backends.support import Clock, turns
from fronts import front
from upstreams import ScriptedUpstream

from kyoukai import Proxy
from kyoukai.upstream_socket import first_of, host_of, is_ip_address

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")


class Opened:
    """A connection."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


class Addresses:
    """Attempts to connect, which end when and as the test wants."""

    def __init__(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        self.ends = [loop.create_future() for _ in range(count)]
        self.tried: list[int] = []
        self.cancelled: list[int] = []
        self.clock = Clock()
        self.task = loop.create_task(first_of([partial(self._try, n) for n in range(count)]))

    async def _try(self, number: int) -> Any:
        self.tried.append(number)
        try:
            return await self.ends[number]
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise


async def test_the_only_address() -> None:
    addresses = Addresses(1)
    await turns()
    addresses.ends[0].set_result(opened := Opened())
    assert await addresses.task is opened
    assert not opened.aborted


async def test_an_address_that_says_nothing_keeps_nobody_from_the_next() -> None:
    addresses = Addresses(3)
    await addresses.clock.advance(0.2)
    assert addresses.tried == [0]
    await addresses.clock.advance(0.1)
    assert addresses.tried == [0, 1]
    await addresses.clock.advance(0.3)
    assert addresses.tried == [0, 1, 2]
    addresses.ends[1].set_result(opened := Opened())
    assert await addresses.task is opened
    await turns()
    assert sorted(addresses.cancelled) == [0, 2]
    assert not opened.aborted


async def test_after_a_refusal_the_next_is_tried_at_once() -> None:
    addresses = Addresses(3)
    await turns()
    for number in range(3):
        assert addresses.tried == [*range(number + 1)]
        addresses.ends[number].set_exception(REFUSED)
        await turns()
    with pytest.raises(ConnectionRefusedError):
        await addresses.task


async def test_who_has_answered_says_more_than_who_has_not() -> None:
    """Nor is it a lack of this machine's that it has no address of another family."""
    says_less = [
        OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        REFUSED,
        ssl.SSLError("bad"),
    ]
    for first, second in itertools.permutations(says_less, 2):
        addresses = Addresses(2)
        addresses.ends[0].set_exception(first)
        addresses.ends[1].set_exception(second)
        with pytest.raises(OSError) as caught:
            await addresses.task
        assert caught.value is max(first, second, key=says_less.index)


async def test_two_at_the_same_time() -> None:
    """One is used, and the other one closed."""
    addresses = Addresses(2)
    await addresses.clock.advance(0.3)
    made = [Opened(), Opened()]
    for end, opened in zip(addresses.ends, made, strict=True):
        end.set_result(opened)
    used = await addresses.task
    await turns()
    assert [opened.aborted for opened in made] == [opened is not used for opened in made]


async def test_nobody_waits_any_more() -> None:
    addresses = Addresses(2)
    await addresses.clock.advance(0.3)
    addresses.task.cancel()
    await turns()
    assert sorted(addresses.cancelled) == [0, 1]
    assert addresses.task.cancelled()


async def test_one_that_was_there_when_nobody_waited_any_more() -> None:
    addresses = Addresses(2)
    await addresses.clock.advance(0.3)
    addresses.ends[0].set_result(opened := Opened())
    addresses.task.cancel()
    await turns()
    assert opened.aborted


def test_addresses_are_no_names() -> None:
    assert all(map(is_ip_address, ("127.0.0.1", "::1", "fe80::1%eth0")))
    assert not any(map(is_ip_address, ("localhost", "127.1", "")))


def test_the_zone_of_an_address_is_kept() -> None:
    """Without it, link-local addresses lead nowhere (RFC 4007 section 11)."""
    assert host_of(("fe80::1", 80, 0, 2)) == "fe80::1%2"
    assert host_of(("fe80::1%eth0", 80, 0, 2)) == "fe80::1%eth0"
    assert host_of(("::1", 80, 0, 0)) == "::1"
    assert host_of(("127.0.0.1", 80)) == "127.0.0.1"


async def test_a_name_with_several_addresses(
    caplog: pytest.LogCaptureFixture, loop_factory: Any
) -> None:
    loop: Any = asyncio.get_running_loop()
    found: list[str] = []

    async def resolve(host: str, port: int, **options: Any) -> Any:
        assert (host, options) == ("up.test", {"type": socket.SOCK_STREAM})
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    async with ScriptedUpstream(tcp=True) as up:
        ours, nobody = "127.0.0.1", "127.0.0.2"
        proxy = Proxy(f"http://up.test:{up.port}", pool_size=0)
        async with front(proxy) as fr:
            # Name servers are not asked: there may be none here.
            resolver, loop.getaddrinfo = loop.getaddrinfo, resolve
            try:
                for found, status in [
                    ([ours], 200),
                    ([nobody, ours], 200),
                    ([ours, nobody], 200),
                    ([nobody, nobody], 502),
                    ([], 502),
                ]:
                    assert (await fr.ask()).status == status, found
            finally:
                loop.getaddrinfo = resolver
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said == [
        f"upstream http://up.test:{up.port}: no connection: connection refused",
        f"upstream http://up.test:{up.port}: no connection: it has no address",
    ]
