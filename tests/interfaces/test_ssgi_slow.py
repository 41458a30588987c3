"""SSGI and clients that are slow, or leave."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns
from ssgi_peers import each_peer, each_style, in_style, on_http, served
from talks import lines_of

if TYPE_CHECKING:
    from kyoukai.interfaces.ssgi import SSGIHttpResponse

MIB = 1048576


# -- Slow clients ------------------------------------------------------------------------------


@each_peer
async def test_awaiting_waits_for_the_client(peer: str) -> None:
    sent = []

    async def work(res: SSGIHttpResponse) -> None:
        for number in range(8):
            await res.send(bytes([number]) * MIB, True)
            sent.append(number)
        await res.send(None)

    async with served(on_http(work), peer) as client:
        client.hold()
        client.request()
        await turns(50)
        assert len(sent) <= 1
        client.release()
        answer = await client.response()
        assert answer.body == b"".join(bytes([number]) * MIB for number in range(8))


@each_peer
async def test_chunks_wait_for_the_client(peer: str) -> None:
    outcomes = []

    async def work(res: SSGIHttpResponse) -> None:
        for _ in range(8):
            outcomes.append(await res.send_chunk(bytes(MIB), 8 * MIB))

    async with served(on_http(work), peer) as client:
        client.hold()
        client.request()
        await turns(50)
        assert len(outcomes) <= 1
        client.release()
        assert len((await client.response()).body) == 8 * MIB
        await turns()
        assert outcomes == [(True, False)] * 7 + [(True, True)]


@each_peer
@each_style
async def test_what_nobody_awaits_goes_out_in_order(style: str, peer: str) -> None:
    """Behind what waits already, and in spite of what becomes of its buffer."""

    async def work(res: SSGIHttpResponse) -> None:
        buffer = bytearray(b"a" * 400000)
        res.send(buffer, True)
        buffer[:] = b"b" * 400000
        res.send(buffer, True)
        buffer[:] = b"x" * 400000
        res.send_chunk("c")
        res.send("d")

    async with served(in_style(style, work), peer) as client:
        client.hold()
        client.request()
        await turns(50)
        client.release()
        answer = await client.response()
        assert answer.body == b"a" * 400000 + b"b" * 400000 + b"cd"


@each_peer
@each_style
async def test_a_whole_answer_waits_without_its_application(style: str, peer: str) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        res.send(b"a" * 3 * MIB)

    async with served(in_style(style, work), peer) as client:
        client.hold()
        client.request()
        await turns(50)
        client.release()
        assert len((await client.response()).body) == 3 * MIB


@each_peer
@each_style
async def test_too_much_that_nobody_awaits_resets_the_stream(
    style: str, peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    async def work(res: SSGIHttpResponse) -> None:
        res.on_aborted(seen.append)
        for _ in range(64):
            res.send(bytes(65536), True)
        assert res.aborted
        res.send(None)
        seen.append("end")

    async with served(in_style(style, work), peer) as client:
        client.hold()
        client.request()
        await turns(50)
        first, second = seen
        assert first == "end"
        assert second.aborted
        client.release()
        with pytest.raises(ConnectionError):
            await client.response()
    [line] = lines_of(caplog)
    assert line.startswith("GET /: ssgi application site:app: more was sent while 1")
    assert line.endswith("bytes of it wait: what sends is to be awaited")


async def test_an_end_that_nobody_awaits_is_not_too_much() -> None:
    async def work(res: SSGIHttpResponse) -> None:
        res.send(bytes(3 * MIB), True)
        res.send(None)

    async with served(on_http(work)) as client:
        client.hold()
        client.request()
        await turns()
        client.release()
        assert len((await client.response()).body) == 3 * MIB


@each_peer
async def test_a_send_that_is_cancelled_has_been_sent(peer: str) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await res.send(b"a" * 400000, True)
        await res.send("b")

    async with served(on_http(work), peer) as client:
        client.hold()
        client.request()
        await turns(50)
        client.release()
        assert (await client.response()).body == b"a" * 800000 + b"b"


async def test_several_tasks_may_await_what_they_send() -> None:
    order = []

    async def work(res: SSGIHttpResponse) -> None:
        async def one(number: int) -> None:
            await res.send(b"%d" % number * 100000, True)
            order.append(number)

        await asyncio.gather(*(one(number) for number in range(8)))
        res.send(None)

    async with served(on_http(work)) as client:
        client.hold()
        client.request()
        await turns(50)
        assert len(order) <= 1
        client.release()
        body = (await client.response()).body
        assert body == b"".join(b"%d" % number * 100000 for number in range(8))
        assert order == list(range(8))


async def test_an_awaitable_may_be_awaited_twice() -> None:
    async def work(res: SSGIHttpResponse) -> None:
        sent = res.send(bytes(3 * MIB), True)
        await asyncio.gather(sent_by(sent), sent_by(sent))
        await sent
        chunk = res.send_chunk(bytes(3 * MIB))
        assert await chunk == await chunk == (True, False)
        await res.send(None)

    async def sent_by(sent: Any) -> None:
        await sent

    async with served(on_http(work)) as client:
        client.hold()
        client.request()
        await turns()
        client.release()
        assert len((await client.response()).body) == 6 * MIB


async def test_nothing_is_warned_of_what_nobody_awaits() -> None:
    async def work(res: SSGIHttpResponse) -> None:
        res.send("a", True)
        res.send(bytes(3 * MIB), True)
        res.send_chunk("b")
        res.send(None)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with served(on_http(work)) as client:
            client.hold()
            client.request()
            await turns()
            client.leave()
            await turns()
        gc.collect()
    assert [str(each.message) for each in caught] == []


# -- The client leaves -------------------------------------------------------------------------


@each_peer
@each_style
async def test_handlers_are_called_once_when_the_client_leaves(style: str, peer: str) -> None:
    calls: list[Any] = []
    ended = asyncio.Event()

    def plain(res: SSGIHttpResponse, *arguments: Any) -> None:
        calls.append(("plain", res.aborted, arguments))

    async def waiting(res: SSGIHttpResponse, *arguments: Any) -> None:
        await asyncio.sleep(0)
        calls.append(("waiting", res.aborted, arguments))

    async def forever(res: SSGIHttpResponse) -> None:
        await ended.wait()  # nobody cancels it
        calls.append("ended")

    async def work(res: SSGIHttpResponse) -> None:
        assert not res.aborted
        res.on_aborted(plain)
        res.on_aborted(waiting, 1, "2")
        res.on_aborted(plain, *range(3))
        res.run_async(forever, res)

    async with served(in_style(style, work), peer) as client:
        client.request()
        await turns()
        assert calls == []
        client.leave()
        await turns()
        assert calls == [
            ("plain", True, ()),
            ("waiting", True, (1, "2")),
            ("plain", True, (0, 1, 2)),
        ]
        ended.set()
        await turns()
        assert calls[3:] == ["ended"]


@each_peer
async def test_a_handler_that_comes_late_is_called_too(peer: str) -> None:
    called = asyncio.Event()
    left = asyncio.Event()

    async def work(res: SSGIHttpResponse) -> None:
        await left.wait()
        assert res.aborted
        res.on_aborted(lambda each: called.set())
        await called.wait()

    async with served(on_http(work), peer) as client:
        client.request()
        await turns()
        client.leave()
        left.set()
        await called.wait()


@each_peer
async def test_handlers_are_not_called_after_a_whole_answer(peer: str) -> None:
    calls: list[Any] = []
    go_on = asyncio.Event()

    async def work(res: SSGIHttpResponse) -> None:
        res.on_aborted(calls.append)
        await res.send("ok")
        await go_on.wait()
        calls.append(res.aborted)

    async with served(on_http(work), peer) as client:
        client.request()
        assert (await client.response()).body == b"ok"
        client.leave()
        await turns()
        go_on.set()
        await turns()
    assert calls == [False]


@each_peer
@pytest.mark.parametrize("begun", [False, True])
async def test_sending_to_a_client_that_is_gone(
    begun: bool, peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    done = []
    left = asyncio.Event()

    async def work(res: SSGIHttpResponse) -> None:
        if begun:
            await res.send("a", True)
        await left.wait()
        res.send("b", True)  # may be ignored
        with pytest.raises(ConnectionError):
            await res.send("b", True)
        assert await res.send_chunk("c") == (False, True)
        with pytest.raises(ConnectionError):
            await res.send(None)
        done.append(res.aborted)
        await res.send("d")  # whoever lets it through is not blamed

    async with served(on_http(work), peer) as client:
        client.request()
        await turns()
        client.leave()
        await turns()
        left.set()
        await turns()
    assert done == [True]
    assert lines_of(caplog) == []


@each_peer
async def test_who_never_looks_at_what_becomes_of_chunks_keeps_no_loop_busy(peer: str) -> None:
    left = asyncio.Event()
    ends = []

    async def work(res: SSGIHttpResponse) -> None:
        await left.wait()
        while True:
            await res.send_chunk("x")
            ends.append(res.aborted)

    async with served(on_http(work), peer) as client:
        client.request()
        await turns()
        client.leave()
        left.set()
        await turns()
    assert all(ends)
    assert 5 < len(ends) < 100


@each_peer
async def test_a_client_that_leaves_while_it_is_slow(
    peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Any] = []

    async def chunks(res: SSGIHttpResponse) -> None:
        outcomes.append(await res.send_chunk(bytes(8 * MIB), 9 * MIB))

    async def parts(res: SSGIHttpResponse) -> None:
        first = res.send(bytes(8 * MIB), True)
        second = res.send(None)
        for sent in (first, second):
            try:
                await sent
            except ConnectionError:
                outcomes.append("gone")

    for work, expected in ((chunks, [(False, True)]), (parts, ["gone", "gone"])):
        outcomes.clear()
        async with served(on_http(work), peer) as client:
            client.hold()
            client.request()
            await turns(50)
            assert outcomes == []
            client.leave()
            await turns()
            assert outcomes == expected
    assert lines_of(caplog) == []


@each_peer
async def test_a_handler_of_aborted_that_raises(
    peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Any] = []

    def plain(res: SSGIHttpResponse) -> None:
        raise ValueError("plain")

    async def waiting(res: SSGIHttpResponse) -> None:
        await asyncio.sleep(0)
        raise ValueError("waiting")

    async def sending(res: SSGIHttpResponse) -> None:
        await res.send("gone")

    def breaking(res: SSGIHttpResponse) -> None:
        res.send_status(7)

    async def work(res: SSGIHttpResponse) -> None:
        for handler in (plain, waiting, sending, breaking, calls.append):
            res.on_aborted(handler)
        await asyncio.Event().wait()

    async with served(on_http(work), peer) as client:
        client.request()
        await turns()
        client.leave()
        await turns(30)
        assert len(calls) == 1
    place = "GET /: ssgi application site:app: "
    assert lines_of(caplog) == [
        f"{place}unhandled error in a handler of on_aborted()",
        f"{place}unhandled error in a handler of on_aborted()",
        f"{place}send_status() takes a status from 200 to 599, not 7"
        " (in a handler of on_aborted())",
    ]
