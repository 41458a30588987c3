"""SSGI: the body of a request, and tasks that outlive the call."""

from __future__ import annotations

import asyncio
import gc
import inspect
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns
from ssgi_peers import ANSWERING, answered, each_peer, in_style, on_http, served
from talks import lines_of

from kyoukai.exceptions import BodyError, BodyTooLarge, InterfaceError

if TYPE_CHECKING:
    from kyoukai.interfaces.ssgi import SSGIHttpResponse

MIB = 1048576


# -- The request's body ------------------------------------------------------------------------


@each_peer
@pytest.mark.parametrize("style", ["async", "run_async"])
async def test_the_whole_body(style: str, peer: str) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        data = await res.get_data()
        assert type(data) is BytesIO
        assert data.tell() == 0
        assert await res.get_data() is None
        assert await res.get_chunk() is None
        res.send(data.getvalue())

    for body in (b"abc", bytes(range(256)) * 4096):
        answer = await answered(in_style(style, work), peer, "POST", body=body)
        assert answer.body == body


@each_peer
async def test_no_body(peer: str) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        assert await res.get_chunk() is None
        assert await res.get_data() is None
        res.send("none")

    assert (await answered(on_http(work), peer)).body == b"none"
    assert (await answered(on_http(work), peer, "POST", body=b"")).body == b"none"


@each_peer
async def test_chunks_of_the_body(peer: str) -> None:
    found: list[bytes] = []

    async def work(res: SSGIHttpResponse) -> None:
        while (chunk := await res.get_chunk()) is not None:
            assert type(chunk) is BytesIO
            found.append(chunk.read())
        res.send("ok")

    async with served(on_http(work), peer) as client:
        client.begin()
        for part in (b"abc", b"def"):
            client.data(part)
            await turns()
            assert found[-1] == part
        client.end()
        assert (await client.response()).body == b"ok"
    assert found == [b"abc", b"def"]


@each_peer
async def test_what_is_left_after_a_chunk(peer: str) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        first = await res.get_chunk()
        rest = await res.get_data()
        assert first is not None
        assert rest is not None
        res.send(first.read() + b"|" + rest.read())

    async with served(on_http(work), peer, max_body_size=7) as client:  # but it is not too long
        client.begin(length=9)
        client.data(b"abc")
        await turns()
        client.data(b"def")
        client.data(b"ghi")
        if peer != "http1":
            client.end()
        assert (await client.response()).body == b"abc|defghi"


@each_peer
@pytest.mark.parametrize("style", ["async", "run_async"])
@pytest.mark.parametrize("length", [None, 10000])
@pytest.mark.parametrize("limits", [{"max_body_size": 100}, {"body_limit": 100}])
async def test_a_body_that_is_too_large_to_keep(
    limits: dict[str, int],
    length: int | None,
    style: str,
    peer: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        for read in (res.get_data, res.get_chunk):
            with pytest.raises(BodyTooLarge):
                await read()
            assert res._stream.buffered == 0  # what has come is dropped
        await res.get_data()  # let through

    async with served(in_style(style, work), peer, **limits) as client:
        client.begin(length=length)
        for _ in range(5):
            client.data(bytes(2000))
        client.end()
        answer = await client.response()
        assert answer.status == 413
        assert answer.text.endswith("the body is larger than 100 bytes.\n")
    assert lines_of(caplog) == []


async def test_chunks_have_no_limit_without_one_of_the_mount() -> None:
    async def work(res: SSGIHttpResponse) -> None:
        size = 0
        while chunk := await res.get_chunk():
            size += len(chunk.read())
        res.send(str(size))

    async with served(on_http(work), max_body_size=100) as client:
        client.request("POST", body=bytes(1000))
        assert (await client.response()).body == b"1000"
    async with served(on_http(work), body_limit=100) as client:
        client.request("POST", body=bytes(1000))
        assert (await client.response()).status == 413


@each_peer
async def test_a_client_that_leaves_in_its_body(
    peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    ends = []

    async def work(res: SSGIHttpResponse) -> None:
        for read in (res.get_data, res.get_chunk):
            with pytest.raises(ConnectionError):
                await read()
        ends.append(res.aborted)

    async with served(on_http(work), peer) as client:
        client.begin(length=10)
        client.data(b"abc")
        await turns()
        client.leave()
        await turns()
    assert ends == [True]
    assert lines_of(caplog) == []


async def test_the_body_is_gone_with_the_answer() -> None:
    raised = []

    async def work(res: SSGIHttpResponse) -> None:
        await res.send("early")
        try:
            await res.get_data()
        except BodyError as error:
            raised.append(str(error))

    async with served(on_http(work)) as client:
        client.begin(length=3)
        assert (await client.response()).body == b"early"
        await turns()
    assert raised == ["the answer is complete: the rest of the body is dropped"]


# -- run_async ---------------------------------------------------------------------------------


async def test_what_run_async_calls_and_returns() -> None:
    calls: list[Any] = []

    async def waiting(*arguments: Any) -> str:
        calls.append(arguments)
        return "waited"

    def plain(*arguments: Any) -> str:
        calls.append(arguments)
        return "called"

    async def work(res: SSGIHttpResponse) -> None:
        tasks = [
            res.run_async(waiting),
            res.run_async(waiting, 1, 2),
            res.run_async(plain, 3),
            res.run_async(waiting(4)),
            res.run_async(lambda: waiting(5)),
        ]
        assert all(isinstance(task, asyncio.Task) for task in tasks)
        assert calls == []
        res.send(" ".join(await asyncio.gather(*tasks)))

    assert (await answered(on_http(work))).body == b"waited waited called waited waited"
    assert calls == [(), (1, 2), (3,), (4,), (5,)]


async def test_run_async_refuses_what_it_cannot_call() -> None:
    async def coroutine() -> None: ...

    async def work(res: SSGIHttpResponse) -> None:
        with pytest.raises(InterfaceError, match="takes no arguments"):
            res.run_async(coroutine(), 1)
        with pytest.raises(InterfaceError, match="cannot call int"):
            res.run_async(7)  # type: ignore[arg-type]
        with pytest.raises(InterfaceError, match="takes a callable, not coroutine"):
            res.on_aborted(coroutine())  # type: ignore[arg-type]
        res.send("ok")

    assert (await answered(on_http(work))).body == b"ok"


@each_peer
async def test_the_answer_may_come_from_a_task_of_a_task(peer: str) -> None:
    async def last(res: SSGIHttpResponse) -> None:
        await turns(3)
        res.send("last")

    async def first(res: SSGIHttpResponse) -> None:
        await turns(3)
        res.run_async(last, res)

    answer = await answered(on_http(lambda res: res.run_async(first, res)), peer)
    assert answer.body == b"last"


@each_peer
async def test_work_goes_on_after_the_answer(peer: str) -> None:
    go_on = asyncio.Event()
    ends = []

    async def later(res: SSGIHttpResponse) -> None:
        await go_on.wait()
        ends.append(res.aborted)

    def application(res: SSGIHttpResponse) -> None:
        res.run_async(later, res)
        res.send("ok")

    async with served(on_http(application), peer) as client:
        for _ in range(2):  # the connection is free for the next request
            client.request()
            assert (await client.response()).body == b"ok"
        client.leave()
        await turns()
        assert ends == []
        go_on.set()
        await turns()
    assert ends == [False, False]


async def test_nothing_begins_when_the_request_is_over() -> None:
    kept = []

    async def coroutine() -> None: ...

    def application(res: SSGIHttpResponse) -> None:
        kept.append(res)
        res.send("ok")

    async with served(on_http(application)) as client:
        client.request()
        await client.response()
        await turns()
        [res] = kept
        with pytest.raises(InterfaceError, match="run_async\\(\\) after the request is over"):
            res.run_async(coroutine)
        with pytest.raises(InterfaceError, match="run_async\\(\\) after the request is over"):
            res.run_async(coroutine())
        with pytest.raises(InterfaceError, match="on_aborted\\(\\) after the request is over"):
            res.on_aborted(print)
        with pytest.raises(InterfaceError, match="send\\(\\) after the end"):
            res.send("more")


async def test_a_res_that_was_kept_without_run_async_has_been_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = []
    async with served(on_http(kept.append)) as client:
        client.request()
        assert (await client.response()).status == 500
        [res] = kept
        for late in (res.send, res.send_chunk):
            with pytest.raises(InterfaceError, match="after the server has answered"):
                late("late")
    assert lines_of(caplog) == [f"GET /: ssgi application site:app: {ANSWERING}"]


# -- Tasks that raise --------------------------------------------------------------------------


@each_peer
async def test_a_task_that_raises_ends_the_answer_at_once(
    peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    ends = []

    async def raises() -> None:
        raise ValueError

    async def heartbeat(res: SSGIHttpResponse) -> None:
        while not res.aborted and not ends:  # noqa: ASYNC110 - as they are written
            await asyncio.sleep(0)

    def application(res: SSGIHttpResponse) -> None:
        res.run_async(heartbeat, res)
        res.run_async(raises)

    async with served(on_http(application), peer) as client:
        client.request()
        assert (await client.response()).status == 500
        ends.append(1)
    assert lines_of(caplog) == [
        "GET /: ssgi application site:app: unhandled error in the application"
    ]


@pytest.mark.parametrize("how", ["await", "gather", "wait"])
async def test_a_task_that_is_awaited_is_the_applications(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def raises() -> None:
        await asyncio.sleep(0)
        raise ValueError("7")

    async def work(res: SSGIHttpResponse) -> None:
        task = res.run_async(raises)
        try:
            if how == "await":
                await task
            elif how == "gather":
                await asyncio.gather(task)
            else:
                await asyncio.wait([task])
                task.result()
        except ValueError as error:
            res.send_status(400)
            res.send(str(error))

    answer = await answered(on_http(work))
    assert (answer.status, answer.body) == (400, b"7")
    assert lines_of(caplog) == []


async def test_what_two_raise_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    ends = []

    async def raises() -> None:
        raise ValueError

    async def work(res: SSGIHttpResponse) -> None:
        task = res.run_async(raises)
        await turns()  # the task has failed, and the server has answered
        ends.append(1)
        await task

    async with served(on_http(work)) as client:
        client.request()
        assert (await client.response()).status == 500
        await turns()
        assert ends == [1]
    assert len(lines_of(caplog)) == 1


@each_peer
async def test_a_task_that_is_cancelled_is_no_error(
    peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        task = res.run_async(asyncio.Event().wait)
        await asyncio.sleep(0)
        task.cancel()
        res.send("ok")

    assert (await answered(on_http(work), peer)).body == b"ok"
    assert lines_of(caplog) == []


@each_peer
async def test_tasks_end_with_the_server(peer: str) -> None:
    ends: list[str] = []

    async def forever(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append(name)

    async def work(res: SSGIHttpResponse) -> None:
        res.on_aborted(lambda res: None)
        res.run_async(forever, "task")
        res.run_async(forever, "other")
        res.send(bytes(3 * MIB), True)
        res.send("x", True)
        await forever("call")

    async with served(on_http(work), peer) as client:
        client.hold()
        client.request()
        await turns()
    assert sorted(ends) == ["call", "other", "task"]
    current = asyncio.current_task()
    assert [task for task in asyncio.all_tasks() if task is not current] == []


@each_peer
async def test_an_application_that_ends_itself(peer: str, caplog: pytest.LogCaptureFixture) -> None:
    """With work that has not even begun; nothing is warned of."""

    async def work(res: SSGIHttpResponse) -> None:
        res.on_aborted(print)
        res.run_async(asyncio.Event().wait)
        res.send(bytes(900000), True)
        res.send("x", True)
        raise asyncio.CancelledError

    async with served(on_http(work), peer) as client:
        client.hold()
        client.request()
        await turns()
        client.release()
        with pytest.raises(ConnectionError):
            await client.response()
    gc.collect()
    assert lines_of(caplog) == ["GET /: ssgi application site:app was cancelled"]


def test_members_have_the_signatures_of_the_draft() -> None:
    from kyoukai.interfaces.ssgi import SSGIHttpResponse

    signature = inspect.signature
    names = {
        name: [*signature(getattr(SSGIHttpResponse, name)).parameters][1:]
        for name in ("send", "send_chunk", "send_status", "send_headers", "run_async")
    }
    assert names == {
        "send": ["payload", "has_more"],
        "send_chunk": ["chunk", "total_size"],
        "send_status": ["status_code"],
        "send_headers": ["headers"],
        "run_async": ["handler", "arguments"],
    }


async def test_it_works_on_both_loops(loop_factory: Any) -> None:
    async def upper(res: SSGIHttpResponse) -> None:
        while (chunk := await res.get_chunk()) is not None:
            await res.send(chunk.read().upper(), True)
        res.send(None)

    def application(res: SSGIHttpResponse) -> None:
        res.run_async(upper, res)

    body = b"abc" * 300000
    for peer in ("http1", "http2"):
        async with served(on_http(application), peer) as client:
            client.hold()
            client.request("POST", body=body)
            await turns()
            client.release()
            assert (await client.response()).body == body.upper()
