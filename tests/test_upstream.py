"""Connections to a proxy's servers: which are used again, how many there are, and what is down."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import logging
import os
import resource
import select
import socket
import ssl
import struct
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import Clock, turns
from fronts import both, front
from talks import lines_of
from upstreams import OK, ScriptedUpstream, Seen, Wire

from kyoukai import Kyoukai, Middleware, Proxy
from kyoukai.exceptions import ConfigurationError, UpstreamBusy, UpstreamError, UpstreamTimeout
from kyoukai.testing import MemoryTransport
from kyoukai.upstream import Upstream, Upstreams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support import Certificates

REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture(autouse=True)
def nothing_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No task may fail without anybody who sees it."""
    yield
    assert [r.getMessage() for r in caplog.get_records("call") if r.name == "asyncio"] == []


def only(url: str, **options: Any) -> Upstream:
    return Upstreams(Proxy(url, **options)).all[0]


async def use(upstream: Upstream, connection: Any) -> None:
    """Send a request on a connection, take the answer, and give the connection back."""
    connection.begin("GET", REQUEST, True)
    await connection.final_head()
    while await connection.receive():
        pass
    upstream.release(connection)


def says(name: bytes, *lines: bytes) -> bytes:
    head = b"".join(line + b"\r\n" for line in (b"HTTP/1.1 200 OK", *lines))
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(name), name)


# -- The pool ----------------------------------------------------------------------------------


async def test_the_last_one_used_is_the_next_one() -> None:
    async with ScriptedUpstream() as up:
        upstream = only(up.url)
        made = [await upstream.connect() for _ in range(3)]
        assert upstream.open == 3
        for connection in made:
            await use(upstream, connection)
        assert upstream.take() is made[2]
        assert upstream.take() is made[1]
        await use(upstream, made[2])
        assert upstream.take() is made[2]
        assert upstream.take() is made[0]
        assert upstream.take() is None
        upstream.close()
        await turns()
        assert upstream.open == 0


async def test_the_pool_has_a_size() -> None:
    async with ScriptedUpstream() as up:
        upstream = only(up.url, pool_size=2)
        made = [await upstream.connect() for _ in range(4)]
        for connection in made:
            await use(upstream, connection)
        # Those beyond it are there for the next burst, but not for long.
        assert [each.idle_limit for each in made] == [30.0, 30.0, 1.0, 1.0]
        assert upstream.take() is made[3]
        upstream.close()


async def test_without_a_pool_each_request_has_a_connection_of_its_own() -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url, pool_size=0)) as fr:
        for _ in range(3):
            assert (await fr.ask()).status == 200
        assert [len(wire.requests) for wire in up.wires] == [1, 1, 1]
        await fr.rest()
        assert fr.upstream.open == 0


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        (b"X: y", 30.0),
        (b"Keep-Alive: timeout=5", 4.5),
        (b"Keep-Alive: max=7, timeout=2", 1.5),
        (b"Keep-Alive: timeout=100", 30.0),
        (b"Keep-Alive: timeout=x", 30.0),
    ],
)
async def test_how_long_idle_ones_are_kept(line: bytes, seconds: float) -> None:
    async with ScriptedUpstream(says(b"", line)) as up, front(Proxy(up.url)) as fr:
        assert (await fr.ask()).status == 200
        await fr.rest()
        clock = Clock()
        await clock.advance(seconds - 0.1)
        assert fr.upstream.open == 1
        await clock.advance(0.2)
        assert fr.upstream.open == 0
        assert fr.upstream._idle == []
        await up.wires[0].closed.wait()
        assert (await fr.ask()).status == 200
        assert len(up.wires) == 2


@pytest.mark.parametrize("line", [b"Connection: close", b"Keep-Alive: timeout=0"])
async def test_a_server_that_keeps_nothing(line: bytes) -> None:
    async with ScriptedUpstream(says(b"", line)) as up, front(Proxy(up.url)) as fr:
        await fr.ask()
        await fr.rest()
        assert fr.upstream.open == 0
        await up.wires[0].closed.wait()


async def test_use_prolongs_the_life_of_a_connection() -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url, keep_alive_timeout=10)) as fr:
        clock = Clock()
        for _ in range(4):
            assert (await fr.ask()).status == 200
            await fr.rest()
            await clock.advance(8)
        assert len(up.wires) == 1


async def test_those_that_the_server_closes_are_dropped() -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url)) as fr:
        await fr.ask()
        await fr.rest()
        up.wires[0].writer.close()
        await up.wires[0].closed.wait()
        for _ in range(100):
            if not fr.upstream.open:
                break
            await turns(1)
        assert fr.upstream.open == 0
        assert (await fr.ask()).status == 200
        assert len(up.wires) == 2


async def test_bytes_that_nobody_has_asked_for_end_an_idle_connection() -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url)) as fr:
        await fr.ask()
        await fr.rest()
        await up.wires[0].send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await up.wires[0].closed.wait()
        assert (await fr.ask()).status == 200
        assert len(up.wires) == 2
        await fr.rest()


async def test_only_fresh_ones_are_for_what_is_sent_once() -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url, max_connections=2)) as fr:
        clock = Clock()
        await fr.ask()
        await fr.ask("POST", body=b"x")
        assert len(up.wires) == 1
        await fr.rest()
        await clock.advance(1.1)
        await fr.ask("POST", body=b"x")
        assert len(up.wires) == 2
        await fr.rest()
        await clock.advance(1.1)
        await fr.ask("PUT")
        await fr.ask("DELETE")
        assert len(up.wires) == 2
        await fr.rest()
        await clock.advance(1.1)
        fr.upstream._idle.pop(0).abort()
        await fr.rest()
        await fr.ask("PUT", body=b"x")
        assert len(up.wires) == 3
        # Where there may be no other, the one that is longest idle gives way.
        await fr.rest()
        await clock.advance(1.1)
        assert fr.upstream.open == 2
        await fr.ask("POST", body=b"x")
        assert len(up.wires) == 4
        await fr.rest()
        assert fr.upstream.open == 2
        assert [len(wire.requests) for wire in up.wires] == [2, 3, 1, 1]


async def test_without_retries_only_fresh_ones_do() -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url, retries=0)) as fr:
        clock = Clock()
        for seconds, connections in [(0, 1), (0.8, 1), (1.1, 2)]:
            await clock.advance(seconds)
            assert (await fr.ask()).status == 200
            await fr.rest()
            assert len(up.wires) == connections


@pytest.mark.parametrize("target", ["/", "/x.css"], ids=["at once", "by a task"])
async def test_a_request_that_is_not_sent_makes_no_connection_fresh(target: str) -> None:
    """One whose Via shows a circle is refused when a connection for it was taken."""
    via = ", ".join(["1.1 kyoukai"] * 10)
    async with ScriptedUpstream() as up, front(Proxy(up.url, keep_alive_timeout=5)) as fr:
        clock = Clock()
        await fr.ask()
        await fr.rest()
        await clock.advance(1.1)
        assert (await fr.ask("GET", target, [("via", via)])).status == 502
        await fr.rest()
        assert fr.upstream.open == 1
        assert (await fr.ask("POST", body=b"x")).status == 200
        await fr.rest()
        assert [len(wire.requests) for wire in up.wires] == [1, 1]
        await clock.advance(4)  # which is more than 5 seconds after the first answer
        await up.wires[0].closed.wait()
        await fr.rest()
        assert fr.upstream.open == 1


async def test_what_is_sent_once_does_not_go_to_a_connection_that_has_ended() -> None:
    """The end is in the socket, and the loop has not come to it yet: nothing is sent there."""
    async with ScriptedUpstream() as up, front(Proxy(up.url)) as fr:
        await fr.ask()
        await fr.rest()
        assert fr.upstream.open == 1
        with socket.socket(
            fileno=os.dup(up.wires[0].writer.get_extra_info("socket").fileno())
        ) as s:
            s.shutdown(socket.SHUT_RDWR)
        assert (await fr.ask("POST", body=b"x")).status == 200
        assert [len(wire.requests) for wire in up.wires] == [1, 1]
        await fr.rest()
        assert fr.upstream.open == 1


async def test_only_what_is_sent_once_asks_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """That costs a call of the system, which ordinary requests do without."""
    asked: list[Any] = []
    poll = select.poll
    monkeypatch.setattr(select, "poll", lambda: asked.append(None) or poll())
    async with ScriptedUpstream(says(b"a" * 9)) as up, front(Proxy(up.url)) as fr:
        for method, target in [("GET", "/"), ("GET", "/x.css"), ("DELETE", "/")]:
            for _ in range(2):
                assert (await fr.ask(method, target)).status == 200
                await fr.rest()
        assert asked == []
        assert (await fr.ask("POST", body=b"x")).status == 200
        assert len(asked) == len(up.wires) == 1


class Keeper(Middleware):
    """Knows whether the contexts of requests are still there."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[Any]] = []

    async def process_request(self, ctx: Any) -> None:
        self.seen.append(weakref.ref(ctx))


@both
async def test_a_connection_keeps_no_request(wire: Any) -> None:
    """The transport, and the timer, were made in the context of the request that needed them."""
    app, keeper = Kyoukai("front"), Keeper()
    app.add_middleware(keeper)
    async with ScriptedUpstream(OK) as upstream:
        app.mount("/", Proxy(upstream.url))
        async with front(app, wire) as fr:
            talk = fr.talk()
            talk.ask()
            assert await talk.answer() == 200
            assert len(upstream.wires) == 1
            await asyncio.sleep(0)
            gc.collect()
            gc.collect()
            assert [each() for each in keeper.seen] == [None]


# -- max_connections ---------------------------------------------------------------------------


class Gate:
    """An upstream's answer that waits until the test lets it go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, seen: Seen, wire: Wire) -> bytes:
        while await wire.body():
            pass
        opening = asyncio.create_task(self.open.wait())
        leaving = asyncio.create_task(wire.read())
        await asyncio.wait((opening, leaving), return_when=asyncio.FIRST_COMPLETED)
        opening.cancel()
        if leaving.done():
            raise ConnectionResetError
        leaving.cancel()
        await asyncio.wait((leaving,))
        return says(seen.target.encode())


async def test_requests_wait_in_order_for_a_connection() -> None:
    gates = [Gate() for _ in range(5)]
    async with ScriptedUpstream() as up, front(Proxy(up.url, max_connections=2)) as fr:
        up.answers = [gate.__call__ for gate in gates]
        talks = []
        for number in range(5):
            talk = fr.talk()
            talk.ask("POST" if number == 3 else "GET", f"/{number}")
            talks.append(talk)
        await up.wait(lambda: len(up.requests) == 2)
        await turns(20)
        assert fr.upstream.open == 2
        assert fr.upstream.active == 2
        for number in (1, 0, 2, 3, 4):
            gates[number].open.set()
            assert await talks[number].answer() == 200
            assert talks[number].body == b"/%d" % number
            if number < 3:
                await up.wait(lambda: len(up.requests) > 2)
        assert [seen.target for seen in up.requests] == ["/0", "/1", "/2", "/3", "/4"]
        assert len(up.wires) == 2
        await fr.rest()


async def test_a_connection_that_closes_makes_room() -> None:
    gate = Gate()
    async with ScriptedUpstream() as up, front(Proxy(up.url, max_connections=1)) as fr:
        up.answers = [gate.__call__]
        first, second = fr.talk(), fr.talk()
        first.ask()
        await up.wait(lambda: up.requests)
        second.ask(target="/second")
        await turns(5)
        first.leave()
        assert await second.answer() == 200
        assert len(up.wires) == 2
        await up.wires[0].closed.wait()
        await fr.rest()
        assert fr.upstream.open == 1


async def test_one_that_has_ended_is_handed_to_nobody() -> None:
    """Its end is in the socket when it becomes free, and the loop has not come to it yet."""
    async with ScriptedUpstream() as up:
        upstream = only(up.url, max_connections=1)
        first = await upstream.connect()
        waiting = asyncio.create_task(upstream.connect())
        await turns()
        number = up.wires[0].writer.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(number)) as ended:
            ended.shutdown(socket.SHUT_RDWR)
        upstream.release(first)
        second = await waiting
        assert second is not first
        assert upstream.open == 1
        await use(upstream, second)
        assert upstream.take() is second
        upstream.close()


async def test_what_is_sent_again_gets_a_new_connection_though_it_had_to_wait() -> None:
    """The one that becomes free may be as dead as the first one was."""

    async def once(seen: Seen, wire: Wire) -> bytes:
        if len(wire.requests) > 1:
            raise ConnectionResetError
        return OK

    async with ScriptedUpstream(once) as up, front(Proxy(up.url, max_connections=1)) as fr:
        assert (await fr.ask()).status == 200
        await fr.rest()
        talks = [fr.talk() for _ in range(2)]
        for talk in talks:
            talk.ask()
        assert [await talk.answer() for talk in talks] == [200, 200]
        assert [len(wire.requests) for wire in up.wires] == [2, 1, 1]
        await fr.rest()
        assert fr.upstream.open == 1


async def test_each_request_that_needs_it_has_an_idle_one_give_way() -> None:
    """And not the first alone, for whose end the others would have to wait."""
    gates = [Gate() for _ in range(2)]
    async with ScriptedUpstream() as up, front(Proxy(up.url, max_connections=2)) as fr:
        clock = Clock()
        made = [await fr.upstream.connect() for _ in range(2)]
        for connection in made:
            await use(fr.upstream, connection)
        await clock.advance(1.1)
        up.answers = [gate.__call__ for gate in gates]
        talks = [fr.talk() for _ in range(2)]
        for talk in talks:
            talk.ask("POST", body=b"x")
        await up.wait(lambda: len(up.requests) == 4)
        assert [len(wire.requests) for wire in up.wires] == [1, 1, 1, 1]
        for gate in gates:
            gate.open.set()
        assert [await talk.answer() for talk in talks] == [200, 200]
        await fr.rest()
        assert fr.upstream.open == 2


async def test_those_that_wait_too_long() -> None:
    gate = Gate()
    async with ScriptedUpstream(gate.__call__) as up:
        proxy = Proxy(up.url, max_connections=1, connect_timeout=3)
        async with front(proxy) as fr:
            first, second = fr.talk(), fr.talk()
            first.ask()
            await up.wait(lambda: up.requests)
            clock = Clock()
            second.ask()
            await clock.advance(2.9)
            assert not second.done
            await clock.advance(0.2)
            assert await second.answer() == 503
            assert int(second.headers["retry-after"]) > 0
            assert len(up.requests) == 1
            gate.open.set()
            assert await first.answer() == 200
            await fr.rest()
            assert fr.upstream.open == 1
            assert fr.upstream.down_until == 0


async def test_waiters_that_give_up_leave_nothing_behind() -> None:
    """In every moment: before it is their turn, with it, and with a connection already."""
    async with ScriptedUpstream() as up:
        upstream = only(up.url, max_connections=1)
        for moment in range(12):
            for ending in ("released", "lost", "idle lost"):
                held = upstream.take() or await upstream.connect()
                await use(upstream, held)
                assert upstream.take() is held
                waiting = [asyncio.create_task(upstream.connect()) for _ in range(3)]
                await turns(2)
                if ending == "lost":
                    held.abort()
                    await turns(moment)
                else:
                    await use(upstream, held)  # its answer is there at once
                    if ending == "idle lost":
                        held.abort()
                    await turns(moment)
                for task in waiting[:2]:
                    task.cancel()
                    await turns(moment % 3)
                for each in await asyncio.gather(*waiting[:2], return_exceptions=True):
                    if not isinstance(each, BaseException):
                        upstream.release(each)
                found = await waiting[2]
                assert not found.is_lost
                upstream.release(found)
                await turns(3)
                assert not upstream._waiting
                assert upstream.open == len(upstream._all) == len(upstream._idle) <= 1
        upstream.close()
        await turns()
        assert upstream.open == 0


async def test_a_connection_that_is_lost_while_it_is_handed_over() -> None:
    async with ScriptedUpstream() as up:
        upstream = only(up.url, max_connections=1)
        held = await upstream.connect()
        waiting = asyncio.create_task(upstream.connect())
        await turns(2)
        await use(upstream, held)
        held.connection_lost(None)  # before the one who gets it had a turn
        found = await waiting
        assert found is not held
        await use(upstream, found)
        held.transport.abort()
        await turns()
        assert upstream.open == 1
        upstream.close()


async def test_connecting_that_is_cancelled_gives_its_room_back() -> None:
    async with ScriptedUpstream() as up:
        upstream = only(up.url, max_connections=1)
        for moment in range(8):
            task = asyncio.create_task(upstream.connect())
            await turns(moment)
            task.cancel()
            try:
                upstream.release(await task)
            except asyncio.CancelledError:
                assert upstream.open == 0
            assert upstream.open <= 1
        upstream.close()
        await turns()
        assert upstream.open == 0


async def test_all_give_up_at_once_and_the_counts_are_right() -> None:
    """Clients that leave in each moment of a request."""
    async with ScriptedUpstream() as up, front(Proxy(up.url, max_connections=2)) as fr:
        for moment in range(25):
            talks = [fr.talk() for _ in range(5)]
            for talk in talks:
                talk.ask("POST" if moment % 2 else "GET", body=b"x" if moment % 2 else None)
            await turns(moment)
            for talk in talks:
                talk.leave()
            await fr.rest()
            assert fr.upstream.open <= 2
        assert (await fr.ask()).status == 200


async def test_when_all_is_taken_the_answer_has_its_own_time() -> None:
    upstream = only("unix:x", read_timeout=10)
    clock = Clock()
    connection = upstream._make()
    transport = MemoryTransport(connection)
    connection.connection_made(transport)
    transport.hold()
    connection.begin("PUT", REQUEST + b"x" * 200_000, True)
    await clock.advance(9)
    transport.release()
    await clock.advance(9)
    assert not transport.closed
    await clock.advance(1.1)
    assert transport.aborted


async def test_a_server_that_takes_little_by_little() -> None:
    """In far more time than it has to take nothing; its transport is the test's."""
    upstream = only("unix:x", read_timeout=10)
    for more in (False, True):
        clock = Clock()
        connection = upstream._make()
        transport = MemoryTransport(connection)
        connection.connection_made(transport)
        transport.hold()
        connection.begin("PUT", REQUEST + b"x" * 200_000, not more)
        for _ in range(8):
            await clock.advance(9)
            del transport.output[:20_000]
        assert not transport.closed
        await clock.advance(9)
        assert not transport.closed
        await clock.advance(30, step=1)
        assert transport.aborted
        with pytest.raises(UpstreamTimeout, match="has (taken|sent) nothing for 10 seconds"):
            await connection.final_head()


# -- Health and balance ------------------------------------------------------------------------


async def test_backing_off_doubles_up_to_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kyoukai.proxy")
    async with ScriptedUpstream(tcp=True) as up:
        upstream = only(up.url, fail_backoff=2, max_backoff=9)
        await up.stop()
        clock = Clock()
        loop = asyncio.get_running_loop()
        for seconds in (2, 4, 8, 9, 9):
            results = await asyncio.gather(
                *(upstream.connect() for _ in range(5)), return_exceptions=True
            )
            assert all(type(each) is UpstreamError for each in results)
            assert upstream.down_until - loop.time() == pytest.approx(seconds, abs=0.5)
            assert upstream.open == 0
            await clock.advance(seconds + 0.1)
        await up.start()
        connection = await upstream.connect()
        assert upstream.down_until > 0  # it has answered nothing yet
        await use(upstream, connection)
        upstream.answered()
        assert upstream.down_until == 0
        upstream.close()
        await up.stop()
        with pytest.raises(UpstreamError):
            await upstream.connect()
        assert upstream.down_until - loop.time() == pytest.approx(2, abs=0.5)
        await turns()
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert len(lines) == 3
    assert lines[0] == lines[2] == f"upstream {up.url}: no connection: connection refused"
    assert lines[1] == f"upstream {up.url} is back"


def names(upstreams: Upstreams) -> str:
    return "".join(each.address.path[-1] for each in upstreams.in_order())  # type: ignore[index]


async def test_each_server_in_turn_and_those_that_are_down_last() -> None:
    upstreams = Upstreams(Proxy(["unix:a", "unix:b", "unix:c"]))
    assert [names(upstreams) for _ in range(4)] == ["abc", "bca", "cab", "abc"]
    now = asyncio.get_running_loop().time()
    upstreams.all[1].down_until = now + 100
    assert [names(upstreams) for _ in range(3)] == [
        "cab",
        "acb",
        "cab",
    ]  # no turn of its own, and none twice
    upstreams.all[0].down_until = now + 200
    upstreams.all[2].down_until = now + 50
    assert names(upstreams) == "cba"  # the one that may be tried first
    upstreams.all[2].down_until = now - 1
    assert names(upstreams) == "cba"


@pytest.mark.parametrize("balance", ["round_robin", "least_connections"])
async def test_one_request_finds_out_whether_a_server_is_back(balance: str) -> None:
    """The others do not wait for the same, and the next one is as much later as after a failure."""
    back = asyncio.Event()

    async def answer(seen: Seen, wire: Wire) -> bytes | None:
        if back.is_set():
            return says(b"a")
        await wire.read()
        return None

    async with (
        ScriptedUpstream(answer) as a,
        ScriptedUpstream(says(b"b")) as b,
        front(Proxy([a.url, b.url], balance=balance)) as fr,
    ):
        clock = Clock()
        fr.upstreams[0].failed()
        talks = []
        for seconds, tried in [(0.9, 0), (0.2, 1), (1.9, 1), (0.2, 2), (3.9, 2), (0.2, 3)]:
            await clock.advance(seconds)
            for _ in range(4):
                talks.append(fr.talk())
                talks[-1].ask()
            while len(a.requests) + len(b.requests) < len(talks):
                await turns(1)
            assert len(a.requests) == tried
        for talk in talks:
            talk.leave()
        await fr.rest()
        assert fr.upstreams[0].failures == 4
        back.set()
        await clock.advance(8.1)
        assert {(await fr.ask()).body for _ in range(2)} == {b"a", b"b"}
        assert fr.upstreams[0].failures == 0
        assert {(await fr.ask()).body for _ in range(2)} == {b"a", b"b"}


async def test_no_request_waits_for_a_server_while_another_one_has_room() -> None:
    upstreams = Upstreams(Proxy(["unix:a", "unix:b", "unix:c"], max_connections=2))
    a, b, _ = upstreams.all
    a.open = 2
    assert [names(upstreams) for _ in range(3)] == ["bca", "cba", "bca"]
    b.down_until = asyncio.get_running_loop().time() + 100
    assert names(upstreams) == "cab"
    gate = Gate()
    async with (
        ScriptedUpstream(gate.__call__) as slow,
        ScriptedUpstream(says(b"b")) as quick,
        front(Proxy([slow.url, quick.url], max_connections=1)) as fr,
    ):
        first = fr.talk()
        first.ask()
        await slow.wait(lambda: slow.requests)
        assert [(await fr.ask()).body for _ in range(4)] == [b"b"] * 4
        gate.open.set()
        await first.answer()


async def test_the_one_with_the_fewest_requests() -> None:
    upstreams = Upstreams(Proxy(["unix:a", "unix:b", "unix:c"], balance="least_connections"))
    a, b, c = upstreams.all
    a.active, b.active, c.active = 2, 1, 3
    assert {names(upstreams) for _ in range(4)} == {"bac"}
    b.down_until = asyncio.get_running_loop().time() + 100
    assert names(upstreams) == "acb"
    a.active = b.active = c.active = 1
    b.down_until = 0
    assert len({names(upstreams) for _ in range(3)}) == 3


async def test_those_that_wait_for_a_connection_are_requests_too() -> None:
    """Else a server that cannot be reached would get all of them, until the first one gives up."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        async with ScriptedUpstream() as up:
            proxy = Proxy([f"http://127.0.0.1:{port}", up.url], balance="least_connections")
            async with front(proxy) as fr:
                first = fr.talk()
                first.ask()
                while not fr.upstreams[0].open:
                    await turns(1)
                assert [(await fr.ask()).status for _ in range(4)] == [200] * 4
                assert fr.upstreams[0].load == 1
                first.leave()
                await fr.rest()
                assert fr.upstreams[0].load == 0
        for filler in fillers:
            filler.close()


async def test_requests_go_past_a_server_that_is_down() -> None:
    async with (
        ScriptedUpstream(says(b"a")) as a,
        ScriptedUpstream(says(b"b")) as b,
        front(Proxy([a.url, b.url])) as fr,
    ):
        assert [(await fr.ask()).body for _ in range(4)] == [b"a", b"b", b"a", b"b"]
        await a.stop()
        await fr.rest()
        answers = [await fr.ask("POST", body=b"x") for _ in range(6)]
        assert [each.body for each in answers] == [b"b"] * 6
        assert len(b.requests) == 8
        await a.start()
        clock = Clock()
        await clock.advance(1.1)
        assert {(await fr.ask()).body for _ in range(2)} == {b"a", b"b"}
        await a.stop()
        await b.stop()
        assert (await fr.ask()).status == 502


@pytest.mark.parametrize("balance", ["round_robin", "least_connections"])
@pytest.mark.parametrize("fault", ["closes", "hangs", "junk"])
async def test_a_server_that_can_be_reached_and_does_not_answer(balance: str, fault: str) -> None:
    """It is passed over as well, until it answers."""
    broken = True

    async def answer(seen: Seen, wire: Wire) -> bytes | None:
        while await wire.body():
            pass
        if not broken:
            return says(b"a")
        if fault == "hangs":
            await wire.read()
        elif fault == "junk":
            return b"junk\r\n"
        raise ConnectionResetError

    async with (
        ScriptedUpstream(answer) as a,
        ScriptedUpstream(says(b"b")) as b,
        front(Proxy([a.url, b.url], balance=balance, read_timeout=5)) as fr,
    ):
        clock = Clock()
        bad, good = fr.upstreams

        async def post() -> int:
            talk = fr.talk()
            talk.ask("POST", body=b"x")
            if fault == "hangs" and bad.down_until <= asyncio.get_running_loop().time():
                await turns(20)
                await clock.advance(5.1)
            return await talk.answer()

        for seconds in (1, 2, 4):
            statuses = [await post() for _ in range(6)]
            assert sorted(statuses)[:5] == [200] * 5
            assert statuses.count(504 if fault == "hangs" else 502) == 1
            assert bad.down_until - asyncio.get_running_loop().time() <= seconds
            assert (bad.failures, good.failures) == (seconds.bit_length(), 0)
            await clock.advance(seconds + 0.1)
        broken = False
        assert [await post() for _ in range(6)] == [200] * 6
        assert (bad.failures, bad.down_until) == (0, 0)
        assert {wire.requests[-1].method for wire in a.wires} == {"POST"}


async def test_a_request_that_is_sent_again_goes_to_another_server() -> None:
    async def leave(seen: Seen, wire: Wire) -> None:
        raise ConnectionResetError

    async with (
        ScriptedUpstream(leave) as a,
        ScriptedUpstream(says(b"b")) as b,
        front(Proxy([a.url, b.url], balance="least_connections")) as fr,
    ):
        assert [(await fr.ask()).body for _ in range(4)] == [b"b"] * 4
        assert len(a.requests) == 1


async def test_the_least_busy_server_gets_the_request() -> None:
    gate = Gate()
    async with (
        ScriptedUpstream(gate.__call__) as a,
        ScriptedUpstream(says(b"b")) as b,
        front(Proxy([a.url, b.url], balance="least_connections")) as fr,
    ):
        slow = fr.talk()
        slow.ask()
        await a.wait(lambda: a.requests)
        assert [(await fr.ask()).body for _ in range(3)] == [b"b"] * 3
        gate.open.set()
        await slow.answer()


# -- Connecting --------------------------------------------------------------------------------


async def test_refused_and_not_there(tmp_path: Any, loop_factory: Any) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # which is nobody else's then, and not listened at
        for url, reason in [
            (f"unix:{tmp_path}/none", "no such file or directory"),
            (f"http://127.0.0.1:{nobody.getsockname()[1]}", "no connection: connection refused"),
            ("http://name.invalid:80", "no connection"),
        ]:
            with pytest.raises(UpstreamError, match=reason) as caught:
                await only(url).connect()
            assert type(caught.value) is UpstreamError


async def test_each_reason_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """An operator who mends the first one has to learn of the second."""
    caplog.set_level(logging.INFO, "kyoukai.proxy")
    async with ScriptedUpstream() as up, front(Proxy(up.url, pool_size=0)) as fr:
        path = Path(fr.upstream.address.path or "")
        await up.stop()
        for _ in range(2):
            path.unlink(missing_ok=True)
            assert [(await fr.ask()).status for _ in range(2)] == [502, 502]
            with socket.socket(socket.AF_UNIX) as nobody:
                nobody.bind(str(path))
            assert [(await fr.ask()).status for _ in range(2)] == [502, 502]
        await up.start()
        assert [(await fr.ask()).status for _ in range(2)] == [200, 200]
        await up.stop()
        path.unlink(missing_ok=True)
        assert (await fr.ask()).status == 502
    said = [r.getMessage().rpartition(": ")[2] for r in caplog.records if r.name == "kyoukai.proxy"]
    gone, refused = "no such file or directory", "connection refused"
    assert said == [gone, refused, f"upstream {up.url} is back", gone]


async def test_a_server_that_closes_at_once(loop_factory: Any) -> None:
    """Perhaps before we know that the connection is there; nothing is counted for ever."""

    class Closes(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            if next(turn) % 2:
                sock = transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    turn = itertools.count()
    loop = asyncio.get_running_loop()
    async with await loop.create_server(Closes, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with front(Proxy(f"http://127.0.0.1:{port}", max_connections=3)) as fr:
            talks = [fr.talk() for _ in range(20)]
            for number, talk in enumerate(talks):
                talk.ask("POST" if number % 2 else "GET")
            assert {await talk.answer() for talk in talks} == {502}
            await fr.rest()
            assert fr.upstream.open == 0


async def test_a_server_that_does_not_accept(loop_factory: Any) -> None:
    """Its queue is full: the connection hangs."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        upstream = only(f"http://127.0.0.1:{port}", connect_timeout=0.05)
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(UpstreamTimeout, match="connect_timeout"):
            await upstream.connect()
        assert loop.time() - started < 20  # nobody else would end it for two minutes
        assert upstream.open == 0
        assert upstream.down_until > loop.time()
        for filler in fillers:
            filler.close()


async def test_no_descriptors_left(loop_factory: Any) -> None:
    """That is no fault of the server's."""
    async with ScriptedUpstream(tcp=True) as up, front(Proxy(up.url)) as fr:
        talk = fr.talk()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            talk.ask()
            await talk.answer()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert talk.status == 503
        assert "retry-after" in talk.headers
        assert fr.upstream.down_until == 0
        assert fr.upstream.open == 0
        assert (await fr.ask()).status == 200


def test_what_is_ours_to_say() -> None:
    error = only("unix:x")._failure(OSError(errno.EMFILE, "Too many open files"))
    assert type(error) is UpstreamBusy
    assert "no room" in str(error)


async def test_whose_time_is_over() -> None:
    """The kernel may give up first, and then no setting of ours has decided it."""
    theirs = only("unix:x")._failure(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
    assert (type(theirs), str(theirs)) == (UpstreamTimeout, "no connection: connection timed out")
    ours = only("unix:x", connect_timeout=7)._failure(TimeoutError())
    assert type(ours) is UpstreamTimeout
    assert str(ours) == "no connection within 7 seconds (connect_timeout)"


# -- TLS ---------------------------------------------------------------------------------------


def serving(certificates: Certificates, name: str = "a") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    pair = certificates.pair(name)
    context.load_cert_chain(pair["certfile"], pair["keyfile"])
    return context


async def test_certificates_are_verified(certificates: Certificates, loop_factory: Any) -> None:
    context = serving(certificates)
    ca = certificates.path("a.pem")
    async with ScriptedUpstream(tcp=True, context=context) as up:
        async with front(Proxy(up.url, ca=ca)) as fr:
            for _ in range(2):
                talk = await fr.ask("POST", body=b"x" * 100_000)
                assert (talk.status, talk.body) == (200, b"ok")
            assert len(up.wires) == 1
        by_address = f"https://127.0.0.1:{up.port}"
        for url, options, status in [
            (by_address, {"ca": ca}, 200),  # which is in the certificate as well
            (by_address, {"ca": ca, "tls_server_name": "localhost"}, 200),
            (up.url, {"ca": ca, "tls_server_name": "wrong.test"}, 502),
            (up.url, {"ca": certificates.path("b.pem")}, 502),
            (up.url, {}, 502),
        ]:
            before = len(up.requests)
            async with front(Proxy(url, **options)) as fr:
                assert (await fr.ask("POST", body=b"secret")).status == status, options
            assert len(up.requests) - before == (status == 200)


@pytest.mark.parametrize("steps", ["close close abort", "close abort close", "abort close abort"])
@pytest.mark.parametrize("tls", [False, True])
async def test_closing_more_than_once(
    certificates: Certificates, loop_factory: Any, tls: bool, steps: str
) -> None:
    """Before the connection is lost and after it, as several are done with it."""
    context = serving(certificates) if tls else None
    ca = certificates.path("a.pem") if tls else None
    for wait in (0, 1, 20):
        async with ScriptedUpstream(tcp=True, context=context) as up:
            upstream = only(up.url, ca=ca)
            connection = await upstream.connect()
            for step in steps.split():
                getattr(connection, step)()
                await turns(wait)
            async with asyncio.timeout(5):
                assert await connection.when_lost() is None
            connection.close()
            connection.abort()
            connection.tune(5000)
            connection.write(b"x")
            assert not connection.close_output()
            assert upstream.open == 0


@pytest.mark.parametrize("kind", ["whole", "cut", "no alert"])
async def test_where_an_answer_ends_with_the_connection(
    certificates: Certificates, loop_factory: Any, kind: str
) -> None:
    """Over TLS only an alert says that it is the end (RFC 9112 section 9.8)."""

    async def answer(seen: Seen, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)
        if kind == "no alert":
            await turns()
            fileno = wire.writer.get_extra_info("socket").fileno()
            with socket.socket(fileno=os.dup(fileno)) as sock:
                sock.shutdown(socket.SHUT_WR)
            await wire.read()
        elif kind == "cut":
            wire.abort()
        raise ConnectionResetError

    async with (
        ScriptedUpstream(answer, tcp=True, context=serving(certificates)) as up,
        front(Proxy(up.url, ca=certificates.path("a.pem"))) as fr,
    ):
        talk = await fr.ask()
        assert talk.status == 200
        assert talk.cut == (kind != "whole")
        assert talk.done == (kind == "whole")
        assert len(talk.body) == 100_000 or kind == "cut"
        assert up.wrong == []


async def test_a_server_that_never_closes_its_side(certificates: Certificates) -> None:
    """Over TLS, closing in good order takes two: it has five seconds."""
    clock = Clock()
    async with ScriptedUpstream(tcp=True, context=serving(certificates)) as up:
        upstream = only(up.url, ca=certificates.path("a.pem"))
        connection = await upstream.connect()
        await turns()
        up.wires[0].writer.transport.pause_reading()  # type: ignore[attr-defined]
        raw = up.wires[0].writer.transport._ssl_protocol._transport  # type: ignore[attr-defined]
        raw.pause_reading()
        connection.close()
        await turns()
        assert not connection.is_lost
        assert upstream.open == 1
        await clock.advance(5.1)
        assert connection.is_lost
        assert upstream.open == 0


async def test_what_is_said_of_a_certificate(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedUpstream(tcp=True, context=serving(certificates)) as up:
        upstream = only(up.url, ca=certificates.path("b.pem"))
        with pytest.raises(UpstreamError, match=r"certificate is refused: .*ca, tls_server_name"):
            await upstream.connect()
        assert upstream.open == 0
    (line,) = lines_of(caplog)
    assert line.startswith(f"upstream {up.url}: its certificate is refused: ")


async def test_a_server_that_speaks_no_tls() -> None:
    class Plain(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(OK)

    loop = asyncio.get_running_loop()
    async with await loop.create_server(Plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        upstream = only(f"https://127.0.0.1:{port}")
        with pytest.raises(UpstreamError, match="TLS fails: WRONG_VERSION_NUMBER"):
            await upstream.connect()
        assert upstream.open == 0


async def test_a_handshake_that_does_not_end() -> None:
    async with ScriptedUpstream(tcp=True) as plain:  # it waits for a request, we for its hello
        upstream = only(f"https://127.0.0.1:{plain.port}", connect_timeout=0.05)
        with pytest.raises(UpstreamTimeout):
            await upstream.connect()
        assert upstream.open == 0


@pytest.mark.parametrize(("name", "reason"), [("junk.pem", "PEM"), ("none.pem", "cannot read")])
def test_authorities_that_cannot_be_read(
    certificates: Certificates, name: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^ca: .*{reason}"):
        Upstreams(Proxy("https://a", ca=certificates.path(name)))
