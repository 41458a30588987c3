"""The threads of WSGI applications: how many, whose, and what happens when there are no more."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import Any

import pytest
from backends.support import turns
from talks import lines_of
from wsgi_apps import PLAIN, Gate, both, hosted, saying

from kyoukai import ServerConfig
from kyoukai.interfaces import wsgi_pool
from kyoukai.interfaces.wsgi import WsgiInterface
from kyoukai.testing import MemoryServer


class Meeting:
    """An application whose requests wait until a number of them is in it; counts the most."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.inside = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.barrier.wait(20)
        with self._lock:
            self.inside -= 1
        start_response("200 OK", PLAIN)
        return [b"met"]


class Blocking:
    """An application that says when a request is in it, and lets it go when told so."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = Gate()
        self.called = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.called += 1
        self.begun.release()
        self.go.wait()
        start_response("200 OK", PLAIN)
        return [b"done"]

    async def entered(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=20)


def threads_of_pools() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "kyoukai-wsgi"]


async def at_rest(site: Any) -> None:
    """Wait until every thread that has answered has seen that nothing waits for it."""
    while site.interface._pool.busy:
        await asyncio.to_thread(lambda: None)


@both
@pytest.mark.parametrize("threads", [1, 2, 5, 16])
async def test_all_threads_are_used_and_no_more(wire: str, threads: int) -> None:
    """Each waits for the others: so each was woken, though those before it were blocked."""
    app = Meeting(threads)
    async with hosted(app, wire, wsgi_threads=threads) as site:
        for _ in range(3):  # with new threads, and with idle ones
            answers = await asyncio.gather(*[site.ask() for _ in range(threads * 3)])
            assert [each.body for each in answers] == [b"met"] * threads * 3
        pool = site.interface._pool
        assert pool.started == threads
        assert app.most == threads


async def test_short_requests_share_a_thread() -> None:
    threads = set()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        threads.add(threading.get_ident())
        start_response("200 OK", PLAIN)
        return [b"x"]

    async with hosted(app) as site:
        peer = site.dial()
        for _ in range(50):
            peer.request()
            await peer.response()
            await at_rest(site)
        assert site.interface._pool.started == 1
    assert len(threads) == 1


async def test_the_thread_that_became_idle_last_is_the_next() -> None:
    """Its caches are warm, and its connection to the database is open; the others may sleep."""
    threads = []
    meeting = Meeting(4)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/meet":
            return meeting(environ, start_response)
        threads.append(threading.get_ident())
        start_response("200 OK", PLAIN)
        return [b"x"]

    async with hosted(app) as site:
        await asyncio.gather(*[site.ask("GET", "/meet") for _ in range(4)])
        for _ in range(10):
            await at_rest(site)
            await site.ask()
    assert len(threads) == 10
    assert len(set(threads)) == 1


@both
async def test_more_than_the_queue_holds_get_503(wire: str, caplog: Any) -> None:
    app = Blocking()
    async with hosted(app, wire, wsgi_threads=2, wsgi_queue=3) as site:
        waiting = [site.dial() for _ in range(5)]
        for peer in waiting:
            peer.request("POST", body=b"x")
        await app.entered()
        await app.entered()
        await turns()
        refused = await asyncio.gather(*[site.ask("POST", body=b"y") for _ in range(4)])
        for response in refused:
            assert (response.status, response.text) == (503, "Service Unavailable\n")
            assert response.headers["retry-after"] == "1"
        assert lines_of(caplog) == [
            "2 requests for WSGI applications are in 2 threads and 3 wait: more get 503"
            " (wsgi_threads, wsgi_queue)"
        ]
        app.go.open()
        for peer in waiting:
            assert (await peer.response()).body == b"done"
        assert (await site.ask()).status == 200  # and there is room again
        assert app.called == 6
        assert len(lines_of(caplog)) == 1
        await at_rest(site)
        app.go = Gate()
        app.begun = threading.Semaphore(0)
        again = [site.dial() for _ in range(6)]
        for peer in again:
            peer.request()
        await app.entered()
        await app.entered()
        await turns()
        assert len(lines_of(caplog)) == 2
        app.go.open()
        assert sorted([(await peer.response()).status for peer in again]) == [200] * 5 + [503]


async def test_no_queue_at_all() -> None:
    app = Blocking()
    async with hosted(app, wsgi_threads=1, wsgi_queue=0) as site:
        peer = site.dial()
        peer.request()
        await app.entered()
        assert (await site.ask()).status == 503
        app.go.open()
        assert (await peer.response()).status == 200


async def test_one_pool_for_all_of_a_process_as_large_as_the_largest() -> None:
    first, second = Blocking(), Blocking()
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(hosted(first, wsgi_threads=1, wsgi_queue=2))
        pool = one.interface._pool
        assert (pool.threads, pool.queue) == (1, 2)
        two = await stack.enter_async_context(hosted(second, wsgi_threads=3, wsgi_queue=1))
        assert two.interface._pool is pool
        assert (pool.threads, pool.queue) == (3, 2)
        peers = [one.dial() for _ in range(2)] + [two.dial() for _ in range(3)]
        for peer in peers:
            peer.request()
        for app in (first, first, second):
            await app.entered()
        await turns()
        assert (pool.busy, pool.waiting) == (3, 2)
        assert (await one.ask()).status == (await two.ask()).status == 503
        first.go.open()
        second.go.open()
        for peer in peers:
            assert (await peer.response()).status == 200
        assert pool.started == 3
    assert pool.users == 0


async def test_the_threads_end_with_the_last_that_uses_them() -> None:
    before = set(threads_of_pools())
    config = ServerConfig(access_log=False)
    meeting = Meeting(4)
    interfaces = [WsgiInterface(meeting, config), WsgiInterface(meeting, config)]
    async with MemoryServer(interfaces[0]) as server:
        async with MemoryServer(interfaces[1]):
            connections = [server.connect() for _ in range(4)]
            for connection in connections:
                connection.request("GET", "/")
            for connection in connections:
                assert (await connection.response()).status == 200
            mine = set(threads_of_pools()) - before
            assert len(mine) == 4
            assert all(thread.daemon for thread in mine)
        assert all(thread.is_alive() for thread in mine)
    for thread in mine:
        await asyncio.to_thread(thread.join, 20)
        assert not thread.is_alive()
    assert asyncio.get_running_loop() not in wsgi_pool._pools


def test_each_loop_has_its_own(caplog: Any) -> None:
    interface = WsgiInterface(saying([b"x"]), ServerConfig(access_log=False))
    pools = []

    async def main() -> None:
        async with MemoryServer(interface) as server:
            connection = server.connect()
            connection.request("GET", "/")
            assert (await connection.response()).body == b"x"
            pools.append(interface._pool)

    for _ in range(2):
        asyncio.run(main())
    assert pools[0] is not pools[1]
    assert interface._pool is None
    assert not lines_of(caplog)


async def test_an_interface_that_was_not_started_up_finds_its_pool() -> None:
    """And a loop that was closed before its pool was given back leaves nothing behind."""

    def abandon() -> None:
        async def main() -> None:
            wsgi_pool.lease(ServerConfig())

        asyncio.run(main())

    await asyncio.to_thread(abandon)
    assert len(wsgi_pool._pools) == 1
    interface = WsgiInterface(saying([b"x"]), ServerConfig(access_log=False))

    async def answer(stream: Any) -> None:
        await interface(stream)

    async with MemoryServer(answer) as server:
        connection = server.connect()
        connection.request("GET", "/")
        assert (await connection.response()).body == b"x"
        assert list(wsgi_pool._pools) == [asyncio.get_running_loop()]
        await interface.shutdown()
    assert not wsgi_pool._pools
    await interface.shutdown()  # once more than needed


async def test_a_system_that_gives_no_threads(monkeypatch: Any, caplog: Any) -> None:
    """It costs the request, and the next one tries again."""
    with monkeypatch.context() as patch:

        def start(self: Any) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", start)
        async with hosted(saying([b"x"])) as site:
            peer = site.dial()
            for _ in range(2):
                peer.request()
                assert (await peer.response()).status == 500
            patch.undo()
            assert (await site.ask()).body == b"x"
    assert [each.exc_info[1].args for each in caplog.records if each.exc_info] == [
        ("can't start new thread",)
    ] * 2


async def test_fewer_threads_than_wished_do_all_the_work(monkeypatch: Any) -> None:
    started = []
    real = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if self.name == "kyoukai-wsgi":
            if started:
                raise RuntimeError("can't start new thread")
            started.append(self)
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    async with hosted(saying([b"x"]), wsgi_threads=8) as site:
        answers = await asyncio.gather(*[site.ask() for _ in range(30)])
        assert [each.status for each in answers] == [200] * 30
        assert site.interface._pool.started == 1


async def test_many_answers_need_few_wake_ups() -> None:
    """Threads do not wake the loop for each of their answers."""
    async with hosted(saying([b"x"])) as site:
        await site.ask()
        await at_rest(site)
        await turns()
        pool = site.interface._pool
        calls = []
        loop = asyncio.get_running_loop()
        real = loop.call_soon_threadsafe

        def counted(callback: Any, *arguments: Any, **options: Any) -> Any:
            calls.append(callback)
            return real(callback, *arguments, **options)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        job = _Silent()
        for _ in range(100):
            pool.notify(job)
        assert calls == [pool._deliver]
        await turns()
        assert job.woken == 100
        pool.notify(job)
        assert len(calls) == 2
        await turns()
        assert job.woken == 101


class _Silent:
    """A request that counts how often its task is woken."""

    stream: Any = None
    context: Any = None
    woken = 0

    def run(self) -> None: ...

    def wake(self) -> None:
        self.woken += 1


async def test_a_closed_loop_is_no_matter_to_a_thread() -> None:
    loop = asyncio.new_event_loop()
    pool = wsgi_pool.WsgiPool(loop)
    loop.close()
    pool.notify(_Silent())
