"""Faults that reading the code brought to light, each with what it did."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from typing import Any

import pytest

from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.exceptions import PeerGone
from kyoukai.stream import StreamState
from kyoukai.testing import MemoryServer

from ..frames import (
    CANCEL,
    DATA,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    NO_ERROR,
    PREFACE,
    REFUSED_STREAM,
    RST_STREAM,
    FrameClient,
    data,
    headers,
    request,
    rst_stream,
    settings,
    window_update,
)
from ..support import Clock, Mirror, Stage, StrictTransport, turns
from .trial import h2_server

POST = request(method=b"POST")


async def test_a_connection_that_was_refused_starts_nothing() -> None:
    """Over TLS, asyncio delivers what has come while the transport closes."""
    stage = Stage()
    async with h2_server(stage, max_connections=1) as server:
        FrameClient(server)
        refused = server.protocol_class(server)
        refused.connection_made(StrictTransport(refused))
        refused.data_received(PREFACE + settings() + headers(1, POST, end=False))
        await turns()
        assert not server.connections.tasks
        assert not refused.streams  # type: ignore[attr-defined]


async def test_incremental_answers_in_pieces_take_turns() -> None:
    async def app(stream: StreamState) -> None:
        stream.send_head(200, ())
        while True:
            await stream.send_data(bytes(1000))

    async with h2_server(app, h2_control_burst=10_000) as server:
        client = FrameClient(server)
        client.send(settings({INITIAL_WINDOW_SIZE: 2**30}))
        for number in (1, 3, 5, 7):
            client.send(headers(number, request(extra=[(b"priority", b"i")])))
        await turns()
        client.take()
        client.frames.clear()
        got = dict.fromkeys((1, 3, 5, 7), 0)
        for _ in range(200):
            client.send(window_update(0, 2000))
            await turns(4)
            for frame in client.take():
                got[frame.stream] += len(frame.payload) if frame.kind == DATA else 0
            client.frames.clear()
        assert min(got.values()) > 0.5 * max(got.values()), got


async def test_an_answer_that_comes_after_the_reset(caplog: pytest.LogCaptureFixture) -> None:
    """It is checked when it is made, and then may wait for its task."""
    stage = Stage()
    async with h2_server(stage) as server:
        client = FrameClient(server)
        client.send(headers(1))
        stream = await stage.next()
        stream.cancel_on_disconnect = False
        answer = stream.send_response(200, (), b"late")
        client.send(rst_stream(1))
        with pytest.raises(PeerGone):
            await answer
        await turns()
        assert not [frame for frame in client.take() if frame.stream == 1]
        stage.leave(stream)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_fields_that_http2_forbids_are_left_out() -> None:
    async def app(stream: StreamState) -> None:
        fields = [(b"Connection", b"close"), (b"upgrade", b"x"), (b"keep-alive", b"1")]
        stream.send_informational(103, [*fields, (b"link", b" </a> ")])
        stream.send_head(200, [*fields, (b"x-a", b"\tb ")])
        await stream.send_data(b"abc")
        await stream.end([*fields, (b"x-sum", b"3 ")])

    async with h2_server(app) as server:
        client = FrameClient(server)
        client.send(headers(1))
        found = [client.decode(await client.next(HEADERS)) for _ in range(3)]
        assert found[0] == [(b":status", b"103"), (b"link", b"</a>")]
        assert [pair for pair in found[1] if pair[0] not in (b"date", b"server")] == [
            (b":status", b"200"),
            (b"x-a", b"b"),
        ]
        assert found[2] == [(b"x-sum", b"3")]


async def test_an_early_answer_is_whole_whatever_its_task_does() -> None:
    async def app(stream: StreamState) -> None:
        await stream.send_response(200, ())
        stream.reset()

    async with MemoryServer(app, H2KyoukaiProtocol, access_log=True) as server:
        client = FrameClient(server)
        client.send(headers(1, POST, end=False))
        assert (await client.answer(1))[0] == 200
        assert (await client.next(RST_STREAM)).code == NO_ERROR
        assert len(server.logged) == 1


async def test_waiting_behind_others_is_no_stall() -> None:
    """The client takes all that it is sent, slowly; the less urgent answers wait long."""
    async with h2_server(Stage(), send_stall_timeout=10, keep_alive_timeout=1000) as server:
        stage: Stage = server.interface  # type: ignore[assignment]
        clock = Clock()
        client = FrameClient(server)
        client.send(settings({INITIAL_WINDOW_SIZE: 2**20}))
        sending = []
        for number, urgency in ((1, b"u=0"), (3, b"u=7")):
            client.send(headers(number, request(extra=[(b"priority", urgency)])))
            stream = await stage.next()
            stream.send_head(200, ())
            sending.append(asyncio.ensure_future(stream.send_data(bytes(500_000))))
        for _ in range(12):
            await clock.advance(4)
            client.send(window_update(0, 1000))
        assert RST_STREAM not in {frame.kind for frame in client.take()}
        await clock.advance(25, 1)
        resets = [frame.code for frame in client.take() if frame.kind == RST_STREAM]
        assert resets == [CANCEL, CANCEL]
        for each in sending:
            with pytest.raises((PeerGone, asyncio.CancelledError)):
                await each


async def test_windows_of_one_byte_do_not_pay_for_their_updates() -> None:
    async def app(stream: StreamState) -> None:
        await stream.send_response(200, (), bytes(100_000))

    async with h2_server(app) as server:
        client = FrameClient(server)
        client.send(settings({INITIAL_WINDOW_SIZE: 0}), headers(1))
        await turns()
        for _ in range(1000):
            client.send(window_update(1, 1))
            await turns(2)
        assert (await client.next(GOAWAY)).code == ENHANCE_YOUR_CALM


async def test_tasks_of_streams_that_the_application_reset_count() -> None:
    running: list[StreamState] = []

    async def app(stream: StreamState) -> None:
        running.append(stream)
        stream.reset()
        await asyncio.Event().wait()

    async with h2_server(app, h2_max_concurrent_streams=5) as server:
        client = FrameClient(server)
        for number in range(1, 21, 2):
            client.send(headers(number))
            await turns()
        assert len(running) == 5
        resets = [frame.code for frame in client.take() if frame.kind == RST_STREAM]
        assert resets == [CANCEL] * 5 + [REFUSED_STREAM] * 5


FACTORIES = [asyncio.Task]
if hasattr(asyncio, "eager_task_factory"):
    FACTORIES.append(asyncio.eager_task_factory)


@pytest.mark.parametrize("factory", FACTORIES)
async def test_factories_of_tasks(factory: Any) -> None:
    """One of them runs a task at once, as far as it can."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(
        lambda loop, coro, **options: (
            factory(coro, loop=loop, **options)
            if factory is asyncio.Task
            else factory(loop, coro, **options)
        )
    )
    async with h2_server(Mirror()) as server:
        client = FrameClient(server)
        client.send(headers(1), headers(3, POST, end=False), data(3, b"abc", end=True))
        assert (await client.answer(1))[2] == b"GET / "
        assert (await client.answer(3))[2] == b"POST / abc"
        await turns()
        assert not server.connections.tasks


def test_the_first_half_of_a_connection_is_freed() -> None:
    """What began with HTTP/1.1 and chose HTTP/2 in the handshake leaves no cycle behind."""

    class ChosenH2:
        def selected_alpn_protocol(self) -> str:
            return "h2"

    async def connect() -> bool:
        async with MemoryServer(Mirror()) as server:
            first = HttpToolsProtocol(server)
            transport = StrictTransport(first, {"ssl_object": ChosenH2()})
            first.connection_made(transport)
            assert isinstance(transport.protocol, H2KyoukaiProtocol)
            watched = weakref.ref(first)
            del first
            return watched() is None

    gc.disable()
    try:
        assert asyncio.run(connect())
    finally:
        gc.enable()
