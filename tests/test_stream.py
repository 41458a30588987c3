"""Streams alone, on a wire that writes down what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from kyoukai.exceptions import (
    BodyMalformed,
    BodyNotReady,
    BodyTimeout,
    BodyTooLarge,
    InvalidResponse,
    PeerGone,
    StreamStateError,
)
from kyoukai.rules import Header
from kyoukai.stream import CLOSED, IDLE, OPEN, RESET, RequestHead, StreamState


class PaperWire:
    """A wire on paper."""

    def __init__(self) -> None:
        self.written: list[tuple[Any, ...]] = []
        self.acknowledged: list[int] = []

    def send_informational(
        self, stream: StreamState, status: int, headers: Sequence[Header]
    ) -> None:
        self.written.append(("interim", status, list(headers)))

    def send_head(
        self, stream: StreamState, status: int, headers: Sequence[Header], length: int | None
    ) -> None:
        if status == 599:
            raise InvalidResponse("not on this wire")
        self.written.append(("head", status, length))

    async def send_response(
        self, stream: StreamState, status: int, headers: Sequence[Header], body: Any
    ) -> None:
        if status == 599:
            raise InvalidResponse("not on this wire")
        self.written.append(("response", status, bytes(body)))
        stream.finished()

    async def send_data(self, stream: StreamState, data: Any) -> None:
        self.written.append(("data", bytes(data)))

    async def end(self, stream: StreamState, trailers: Sequence[Header]) -> None:
        self.written.append(("end", list(trailers)))
        stream.finished()

    def reset(self, stream: StreamState, error: str) -> None:
        self.written.append(("reset", error))

    def acknowledge(self, stream: StreamState, size: int) -> None:
        self.acknowledged.append(size)


def make(method: str = "POST", length: int | None = None) -> tuple[StreamState, PaperWire]:
    head = RequestHead(
        method, b"/a?b", b"/a", "/a", b"b", "http", "h", "1.1", [(b"host", b"h")], length
    )
    wire = PaperWire()
    return StreamState(head, wire), wire


async def step() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_names_for_people() -> None:
    stream, _ = make()
    assert repr(stream) == "<StreamState <RequestHead POST b'/a?b'> open/idle>"


# -- Flow control ------------------------------------------------------------------------------


async def test_bytes_are_acknowledged_when_they_are_taken() -> None:
    stream, wire = make()
    stream.insert_data(b"x" * 2000)
    stream.insert_data(b"y" * 3000)
    assert stream.buffered == 5000
    assert wire.acknowledged == []
    assert await stream.receive() == b"x" * 2000
    assert wire.acknowledged == [2000]
    assert await stream.receive() == b"y" * 3000
    assert wire.acknowledged == [2000, 3000]
    assert (stream.buffered, stream.received) == (0, 5000)


async def test_padding_is_acknowledged_too() -> None:
    stream, wire = make()
    stream.insert_data(b"abc", 100)
    stream.insert_data(b"x" * 2000, 2050)
    assert stream.received == 2003
    assert stream.buffered == 2150
    while stream.buffered:
        await stream.receive()
    assert sum(wire.acknowledged) == 2150


async def test_a_frame_that_is_all_padding() -> None:
    stream, wire = make()
    stream.insert_data(b"", 256)
    stream.insert_data(b"abc")
    stream.stream_complete()
    assert await stream.read_async() == b"abc"
    assert sum(wire.acknowledged) == 259
    assert stream.buffered == 0


async def test_a_frame_that_is_all_padding_is_not_the_end() -> None:
    stream, _ = make()
    stream.insert_data(b"", 256)
    reading = asyncio.ensure_future(stream.receive())
    await step()
    stream.insert_data(b"abc")
    assert await reading == b"abc"


async def test_what_is_dropped_is_acknowledged() -> None:
    stream, wire = make()
    stream.insert_data(b"abc", 10)
    stream.discard()
    assert wire.acknowledged == [10]
    assert stream.buffered == 0
    stream.insert_data(b"abc", 7)
    assert wire.acknowledged == [10, 7]
    assert stream.buffered == 0


async def test_what_nobody_reads_is_dropped_with_the_answer() -> None:
    stream, wire = make()
    stream.insert_data(b"abc")
    await stream.send_response(200, ())
    assert wire.acknowledged == [3]
    stream.insert_data(b"def")
    assert wire.acknowledged == [3, 3]
    assert stream.receiving is OPEN


async def test_small_pieces_are_joined() -> None:
    stream, wire = make()
    for _ in range(100_000):
        stream.insert_data(b"xy", 3)
    assert len(stream._chunks) < 1000
    data = b""
    while stream.buffered:
        data += await stream.receive()
    assert data == b"xy" * 100_000
    assert sum(wire.acknowledged) == 300_000


# -- Errors of the body ------------------------------------------------------------------------


@pytest.mark.parametrize("error", [BodyMalformed("m"), BodyTimeout("t")])
async def test_an_error_of_the_body_wakes_the_reader(error: Any) -> None:
    stream, wire = make()
    reading = asyncio.ensure_future(stream.read_async())
    await step()
    stream.insert_data(b"abc")
    await step()
    stream.body_failed(error)
    stream.body_failed(BodyTooLarge(1))
    with pytest.raises(type(error)):
        await reading
    with pytest.raises(type(error)):
        await stream.receive()
    with pytest.raises(BodyNotReady):
        stream.read()


async def test_an_error_after_the_end_changes_nothing() -> None:
    stream, _ = make()
    stream.insert_data(b"abc")
    stream.stream_complete()
    stream.body_failed(BodyTimeout("late"))
    assert await stream.read_async() == b"abc"


async def test_the_limit_is_exact() -> None:
    stream, wire = make()
    stream.set_body_limit(3)
    stream.insert_data(b"abc")
    assert await stream.receive() == b"abc"
    stream.insert_data(b"d")
    with pytest.raises(BodyTooLarge):
        await stream.receive()
    assert sum(wire.acknowledged) == 4
    assert BodyTooLarge(3).status == 413


async def test_a_limit_of_nothing() -> None:
    stream, _ = make(length=0)
    stream.set_body_limit(0)
    stream.stream_complete()
    assert await stream.read_async() == b""


# -- Continue ----------------------------------------------------------------------------------


async def test_continue_is_asked_for_once() -> None:
    stream, wire = make()
    stream.continue_expected = True
    reading = asyncio.ensure_future(stream.read_async())
    await step()
    assert wire.written == [("interim", 100, [])]
    stream.insert_data(b"abc")
    await step()
    stream.stream_complete()
    assert await reading == b"abc"
    assert len(wire.written) == 1


async def test_continue_is_not_asked_for_after_the_answer() -> None:
    stream, wire = make()
    stream.continue_expected = True
    stream.send_head(200, ())
    reading = asyncio.ensure_future(stream.receive())
    await step()
    assert wire.written == [("head", 200, None)]
    stream.lost()
    with pytest.raises(PeerGone):
        await reading


# -- Answers -----------------------------------------------------------------------------------


async def test_an_answer_in_pieces() -> None:
    stream, wire = make()
    stream.send_head(200, [(b"Content-LENGTH", b"4")])
    await stream.send_data(b"ab")
    await stream.send_data(b"")
    await stream.send_data(bytearray(b"cd"))
    await stream.end([(b"x-a", b"b")])
    assert wire.written == [
        ("head", 200, 4),
        ("data", b"ab"),
        ("data", b"cd"),
        ("end", [(b"x-a", b"b")]),
    ]
    assert (stream.sending, stream.status) == (CLOSED, 200)


async def test_a_head_answer_sends_no_data() -> None:
    stream, wire = make("HEAD")
    stream.send_head(200, [(b"content-length", b"4")])
    await stream.send_data(b"abcdefgh")
    await stream.end()
    assert wire.written == [("head", 200, 4), ("end", [])]


async def test_what_the_wire_refuses_can_be_tried_again() -> None:
    stream, wire = make()
    with pytest.raises(InvalidResponse):
        stream.send_head(599, [(b"content-length", b"5")])
    with pytest.raises(InvalidResponse):
        await stream.send_response(599, ())
    assert (stream.sending, stream.status) == (IDLE, 0)
    stream.send_head(200, ())
    await stream.send_data(b"longer than five")
    await stream.end()


async def test_two_lengths_of_an_answer() -> None:
    stream, wire = make()
    with pytest.raises(InvalidResponse):
        stream.send_head(200, [(b"content-length", b"x")])
    assert (stream.sending, wire.written) == (IDLE, [])


# -- Losing the client -------------------------------------------------------------------------


async def test_lost_cancels_the_task() -> None:
    stream, wire = make()

    async def work() -> None:
        await asyncio.Event().wait()

    stream.task = asyncio.ensure_future(work())
    await step()
    stream.lost()
    await step()
    assert stream.task.cancelled()
    assert (stream.receiving, stream.sending) == (RESET, RESET)
    assert wire.written == []


@pytest.mark.parametrize("why", ["complete", "asked not to"])
async def test_lost_does_not_cancel(why: str) -> None:
    stream, _ = make()

    async def work() -> None:
        await asyncio.Event().wait()

    stream.task = asyncio.ensure_future(work())
    await step()
    if why == "complete":
        await stream.send_response(200, ())
    else:
        stream.cancel_on_disconnect = False
    stream.lost()
    await step()
    assert not stream.task.done()
    stream.task.cancel()
    await step()


async def test_lost_while_receiving_completed() -> None:
    stream, _ = make()
    stream.insert_data(b"abc")
    stream.stream_complete()
    stream.lost()
    assert stream.receiving is CLOSED
    assert await stream.read_async() == b"abc"
    with pytest.raises(PeerGone):
        await stream.send_data(b"x")


async def test_several_wait_for_the_client_to_leave() -> None:
    stream, _ = make()
    waiting = [asyncio.ensure_future(stream.disconnected()) for _ in range(3)]
    await step()
    waiting[0].cancel()
    await step()
    assert not waiting[1].done()
    stream.lost()
    await asyncio.gather(*waiting[1:])


async def test_reset_tells_the_wire_once() -> None:
    stream, wire = make()
    stream.reset("because")
    stream.reset("again")
    assert wire.written == [("reset", "because")]
    with pytest.raises(PeerGone):
        await stream.send_response(200, ())


async def test_reset_after_an_early_answer_still_ends_the_request() -> None:
    stream, wire = make()
    await stream.send_response(200, ())
    stream.reset("the body goes on and on")
    assert wire.written[-1] == ("reset", "the body goes on and on")
    assert stream.receiving is RESET


async def test_reset_after_everything_is_nothing() -> None:
    stream, wire = make()
    stream.stream_complete()
    await stream.send_response(200, ())
    stream.reset()
    assert [entry[0] for entry in wire.written] == ["response"]


async def test_out_of_order() -> None:
    stream, _ = make()
    with pytest.raises(StreamStateError, match="before the head"):
        await stream.send_data(b"x")
    await stream.send_response(200, ())
    with pytest.raises(StreamStateError, match="after the end"):
        await stream.end()


def test_a_body_without_a_loop_is_not_ready() -> None:
    stream, _ = make()
    with pytest.raises(BodyNotReady):
        stream.read()


def test_closing_a_stream_without_a_body() -> None:
    stream, _ = make()
    stream.close()
