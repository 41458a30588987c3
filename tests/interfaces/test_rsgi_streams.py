"""Responses of RSGI applications that are sent piece by piece, and clients that leave."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest
from backends.support import turns
from interfaces.rsgi_peers import TEXT, ask, hosted, wires
from talks import lines_of

from kyoukai.interfaces.rsgi import RSGIProtocolClosed, RSGIProtocolError


@wires
async def test_pieces(wire: str) -> None:
    async def app(scope: Any, proto: Any) -> None:
        transport = proto.response_stream(201, [TEXT])
        await transport.send_bytes(b"one ")
        await transport.send_str("twö ")
        await transport.send_bytes(bytearray(b"three"))
        await transport.send_bytes(b"")

    answer = await ask(app, wire)
    assert (answer.status, answer.text) == (201, "one twö three")
    assert "content-length" not in answer.headers


@wires
async def test_pieces_leave_at_once(wire: str) -> None:
    go = asyncio.Event()

    async def app(scope: Any, proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT])
        await transport.send_str("first")
        await go.wait()

    async with hosted(app, wire) as peer:
        peer.request("GET", "/")
        await turns()
        if wire == "http1":
            assert b"first" in peer.transport.output
        else:
            assert bytes(peer.exchanges[0].body) == b"first"
        go.set()
        assert (await peer.response()).text == "first"


@wires
async def test_echo_while_it_comes(wire: str) -> None:
    async def app(scope: Any, proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT])
        async for piece in proto:
            await transport.send_bytes(piece.upper())

    async with hosted(app, wire) as peer:
        peer.begin()
        for piece in (b"one ", b"two"):
            peer.data(piece)
            await turns()
        peer.end()
        assert (await peer.response()).text == "ONE TWO"


@wires
async def test_an_empty_stream(wire: str) -> None:
    async def app(scope: Any, proto: Any) -> None:
        proto.response_stream()

    answer = await ask(app, wire)
    assert (answer.status, answer.body) == (200, b"")


@wires
async def test_a_stream_that_answers_head(wire: str) -> None:
    async def app(scope: Any, proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT])
        await transport.send_bytes(b"nobody sees this")

    async with hosted(app, wire) as peer:
        peer.request("HEAD", "/")
        assert (await peer.response()).body == b""
        peer.request("GET", "/")
        assert (await peer.response()).body == b"nobody sees this"


@wires
async def test_a_slow_client_makes_sending_wait(wire: str) -> None:
    """No more than the wire's own buffers is taken from the application."""
    sent = 0

    async def app(scope: Any, proto: Any) -> None:
        nonlocal sent
        transport = proto.response_stream(200, [TEXT])
        for _ in range(64):
            await transport.send_bytes(b"x" * 65536)
            sent += 65536

    async with hosted(app, wire) as peer:
        peer.hold()
        peer.request("GET", "/")
        await turns(100)
        assert sent < 1_000_000
        peer.release()
        assert len((await peer.response()).body) == 64 * 65536


@wires
async def test_two_tasks_send_whole_pieces(wire: str) -> None:
    async def app(scope: Any, proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT])
        async with asyncio.TaskGroup() as group:
            for letter in (b"a", b"b", b"c"):
                group.create_task(transport.send_bytes(letter * 200_000))

    async with hosted(app, wire) as peer:
        peer.hold()
        peer.request("GET", "/")
        await turns()
        peer.release()
        body = (await peer.response()).body
    assert body == b"a" * 200_000 + b"b" * 200_000 + b"c" * 200_000


# -- The end -----------------------------------------------------------------------------------


@wires
async def test_the_response_ends_when_nobody_has_its_transport(wire: str) -> None:
    """As in Granian: what the application does afterwards is not waited for."""
    go, ended = asyncio.Event(), []

    async def send(proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT])
        await transport.send_str("all")

    async def app(scope: Any, proto: Any) -> None:
        await send(proto)
        await go.wait()
        ended.append(scope.path)

    async with hosted(app, wire) as peer:
        peer.request("GET", "/x")
        assert (await peer.response()).text == "all"
        assert not ended
        go.set()
        await turns()
    assert ended == ["/x"]


@wires
async def test_the_response_ends_when_the_application_returns(wire: str) -> None:
    kept: list[Any] = []
    failed: list[str] = []

    async def send(transport: Any) -> None:
        with pytest.raises(RSGIProtocolClosed, match="the response has ended") as caught:
            while True:
                await transport.send_str("x")
                await asyncio.sleep(0)
        failed.append(str(caught.value))

    async def app(scope: Any, proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT])
        kept.append(asyncio.create_task(send(transport)))
        await turns(3)

    async with hosted(app, wire) as peer:
        peer.request("GET", "/")
        answer = await peer.response()
        assert set(answer.text) == {"x"}
        await kept[0]
    assert failed


async def test_a_transport_that_a_thread_lets_go() -> None:
    """Its end is the application's: nothing is done in another thread."""

    async def app(scope: Any, proto: Any) -> None:
        box = [proto.response_stream(200, [TEXT])]
        await box[0].send_str("x")
        thread = threading.Thread(target=box.clear)
        thread.start()
        await asyncio.to_thread(thread.join)
        await turns()
        assert proto.stream.sending.value == "open"

    assert (await ask(app)).text == "x"


async def test_a_transport_that_the_collector_finds() -> None:
    async def app(scope: Any, proto: Any) -> None:
        cycle: list[Any] = [proto.response_stream(200, [TEXT])]
        cycle.append(cycle)
        await cycle[0].send_str("x")
        del cycle
        gc.collect()
        await turns()
        assert proto.stream.sending.value == "closed"

    assert (await ask(app)).text == "x"


@wires
async def test_a_body_that_is_too_long_or_too_short(wire: str, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT, ("content-length", "3")])
        await transport.send_str(scope.path[1:])

    async with hosted(app, wire) as peer:
        peer.request("GET", "/abc")
        assert (await peer.response()).text == "abc"
    for path, rule in (
        ("/abcd", "the body is longer than its Content-Length"),
        ("/a", "the body is shorter than its Content-Length"),
    ):
        caplog.clear()
        async with hosted(app, wire) as peer:
            peer.request("GET", path)
            with pytest.raises((ConnectionError, AssertionError)):
                await peer.response()
        assert lines_of(caplog) == [f"GET {path}: rsgi application test:app: {rule}"]


@wires
async def test_too_short_and_the_application_goes_on(wire: str, caplog: Any) -> None:
    """The client does not wait for it."""
    go = asyncio.Event()

    async def send(proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT, ("content-length", "3")])
        await transport.send_str("x")

    async def app(scope: Any, proto: Any) -> None:
        await send(proto)
        await go.wait()

    async with hosted(app, wire) as peer:
        peer.request("GET", "/")
        with pytest.raises((ConnectionError, AssertionError)):
            await peer.response()
        go.set()
        await turns()
    assert lines_of(caplog) == [
        "GET /: rsgi application test:app: the body is shorter than its Content-Length"
    ]


@wires
async def test_an_error_in_the_middle_cuts_the_response(wire: str, caplog: Any) -> None:
    async def send(proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT])
        await transport.send_str("some")
        raise LookupError("mine")

    async def app(scope: Any, proto: Any) -> None:
        await send(proto)

    async with hosted(app, wire) as peer:
        peer.request("GET", "/")
        with pytest.raises((ConnectionError, AssertionError)):
            await peer.response()
    assert lines_of(caplog) == [
        "GET /: rsgi application test:app: unhandled error in the application"
    ]


@pytest.mark.parametrize(("name", "data"), [("send_bytes", "x"), ("send_str", b"x")])
async def test_pieces_of_wrong_types(name: str, data: Any, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT])
        with pytest.raises(RSGIProtocolError, match=f"{name}: data must be"):
            await getattr(transport, name)(data)
        await transport.send_str("right")

    assert (await ask(app)).text == "right"
    assert not lines_of(caplog)


@wires
async def test_the_loss_of_another_client_is_a_fault(wire: str, caplog: Any) -> None:
    """Let through, it fails the request that it came up in."""
    others: list[Any] = []

    async def app(scope: Any, proto: Any) -> None:
        if scope.path == "/other":
            others.append(proto.response_stream(200, [TEXT]))
            return
        if scope.path == "/begun":
            await proto.response_stream(200, [TEXT]).send_str("x")
        await others[0].send_str("x")

    for path in ("/none", "/begun"):
        caplog.clear()
        async with hosted(app, wire) as peer:
            peer.request("GET", "/other")
            await peer.response()
            peer.request("GET", path)
            if path == "/none":
                assert (await peer.response()).status == 500
            else:
                with pytest.raises((ConnectionError, AssertionError)):
                    await peer.response()
            await turns()
        assert lines_of(caplog) == [
            f"GET {path}: rsgi application test:app: unhandled error in the application"
        ]


@wires
async def test_a_body_that_cannot_be_had_while_the_response_goes_on(wire: str, caplog: Any) -> None:
    """It is the client's doing: nothing is logged, and its response is cut."""

    async def app(scope: Any, proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT])
        async for piece in proto:
            await transport.send_bytes(piece)

    async with hosted(app, wire, max_body_size=10) as peer:
        peer.begin()
        peer.data(b"x" * 5)
        await turns()
        peer.data(b"x" * 6)
        with pytest.raises((ConnectionError, AssertionError)):
            await peer.response()
    assert not lines_of(caplog)


@wires
async def test_two_tasks_read_the_body(wire: str, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        pieces = aiter(proto)
        first = asyncio.ensure_future(anext(pieces))
        await turns(2)
        with pytest.raises(RSGIProtocolError, match="two tasks read the body at once"):
            await anext(pieces)
        proto.response_bytes(200, [TEXT], await first)

    async with hosted(app, wire) as peer:
        peer.begin()
        await turns()
        peer.data(b"data")
        peer.end()
        assert (await peer.response()).body == b"data"
    assert not lines_of(caplog)


# -- Clients that leave ------------------------------------------------------------------------


@wires
async def test_client_disconnect(wire: str, caplog: Any) -> None:
    ends: list[str] = []

    async def app(scope: Any, proto: Any) -> None:
        await proto.client_disconnect()
        await proto.client_disconnect()  # and it stays so
        ends.append(scope.path)

    async with hosted(app, wire) as peer:
        peer.request("GET", "/gone")
        await turns()
        assert not ends
        peer.leave()
        await turns()
        assert ends == ["/gone"]
    assert not lines_of(caplog)


async def test_client_disconnect_when_the_client_sends_no_more() -> None:
    """A client that has closed its socket may look just so."""
    ends: list[str] = []

    async def app(scope: Any, proto: Any) -> None:
        await proto.client_disconnect()
        ends.append(scope.path)
        proto.response_str(200, [TEXT], "it may read on")

    async with hosted(app) as peer:
        peer.request("GET", "/half")
        await turns()
        assert not ends
        peer.transport.feed_eof()
        assert (await peer.response()).text == "it may read on"
    assert ends == ["/half"]


@wires
async def test_client_disconnect_resolves_at_the_end_of_the_response(wire: str) -> None:
    """Nobody waits for ever on a connection that stays."""
    ends: list[str] = []

    async def watch(scope: Any, proto: Any) -> None:
        await proto.client_disconnect()
        ends.append(scope.path)

    async def app(scope: Any, proto: Any) -> None:
        task = asyncio.create_task(watch(scope, proto))
        await turns(2)
        assert not task.done()
        if scope.path == "/stream":
            await proto.response_stream(200, [TEXT]).send_str("x")
        else:
            proto.response_str(200, [TEXT], "x")
        await task if scope.path == "/waits" else None
        tasks.append(task)

    tasks: list[Any] = []
    async with hosted(app, wire) as peer:
        for path in ("/stream", "/waits", "/left"):
            peer.request("GET", path)
            assert (await peer.response()).text == "x"
        await turns()
        assert ends == ["/stream", "/waits", "/left"]
    for task in tasks:
        await task


@wires
async def test_sending_to_a_client_that_is_gone(wire: str, caplog: Any) -> None:
    errors: list[Any] = []

    async def app(scope: Any, proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT])
        await transport.send_str("x")
        await proto.client_disconnect()
        try:
            await transport.send_str("y")
        except RSGIProtocolClosed as error:
            errors.append(error)
            raise

    async with hosted(app, wire) as peer:
        peer.request("GET", "/")
        await turns()
        peer.leave()
        await turns()
    assert len(errors) == 1
    assert isinstance(errors[0], RuntimeError)
    assert not lines_of(caplog)


@wires
async def test_a_sender_that_waits_is_woken(wire: str, caplog: Any) -> None:
    ended = asyncio.Event()

    async def app(scope: Any, proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT])
        with pytest.raises(RSGIProtocolClosed):
            while True:
                await transport.send_bytes(b"x" * 65536)
        ended.set()

    async with hosted(app, wire) as peer:
        peer.hold()
        peer.request("GET", "/")
        await turns(100)
        assert not ended.is_set()
        peer.leave()
        await ended.wait()
    assert not lines_of(caplog)
