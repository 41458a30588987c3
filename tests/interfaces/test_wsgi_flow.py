"""Slow clients, clients that leave, and requests that are given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import Clock, turns
from backends.wires import FIELDS
from talks import lines_of
from wsgi_apps import PLAIN, Body, Gate, both, hosted, leaving, saying

from kyoukai.exceptions import PeerGone

if TYPE_CHECKING:
    from collections.abc import Iterator


async def threads_run(times: int = 20) -> None:
    """Let other threads have their turns, and the loop."""
    for _ in range(times):
        await asyncio.to_thread(lambda: None)
        await turns(3)


def endless(size: int) -> Iterator[bytes]:
    while True:
        yield b"x" * size


# -- Slow clients ----------------------------------------------------------------------------------


@leaving
@pytest.mark.parametrize("size", [1, 700, 16384, 65536, 300000])
@pytest.mark.parametrize("by_write", [False, True], ids=["iterable", "write"])
async def test_an_application_waits_for_a_slow_client(
    wire: str, size: int, by_write: bool, caplog: Any
) -> None:
    """It is never ahead by more than what may wait for the client, and a chunk of its own."""
    body = Body(endless(size))
    filled = Gate()
    stopped = Gate()
    room = 65536  # the transport's buffer, or the windows of HTTP/2
    least = 8192 // size  # small chunks cost more than their size

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", PLAIN)
        if not by_write:
            return Watched()
        try:
            for chunk in body:
                seen()
                write(chunk)
        finally:
            stopped.open()

    def seen() -> None:
        if body.taken > least:
            filled.open()

    class Watched:
        def __iter__(self) -> Any:
            for chunk in body:
                seen()
                yield chunk

        def close(self) -> None:
            body.close()
            stopped.open()

    async with hosted(app, wire, wsgi_threads=1) as site:
        peer = site.dial()
        peer.hold()
        peer.request()
        await filled.opened()
        await threads_run()
        most = (room + 2 * 16384) // size + 3  # what is handed over, and what waits for that
        assert body.taken <= most
        peer.release()
        peer.hold()
        await threads_run()
        peer.leave()
        await stopped.opened()
    assert body.closings == (not by_write)
    assert not lines_of(caplog)


@both
async def test_an_application_goes_on_when_the_client_does(wire: str) -> None:
    app = saying(lambda: iter([bytes([65 + each % 26]) * 10000 for each in range(100)]))
    async with hosted(app, wire) as site:
        peer = site.dial()
        peer.hold()
        peer.request()
        await threads_run()
        peer.release()
        response = await peer.response()
    assert response.body == b"".join(bytes([65 + each % 26]) * 10000 for each in range(100))


async def test_a_client_that_takes_nothing_is_cut(caplog: Any) -> None:
    body = Body(endless(10000))
    async with hosted(saying(body), send_stall_timeout=5.0) as site:
        clock = Clock()
        peer = site.dial()
        peer.hold()
        peer.request()
        while not peer.transport.protocol.write_paused:
            await threads_run(1)
        await clock.advance(11, 1)
        assert peer.transport.aborted
        await body.closed.opened()
    assert body.closings == 1
    assert not lines_of(caplog)


# -- Clients that leave ----------------------------------------------------------------------------


@leaving
async def test_a_client_that_leaves_stops_the_iteration(wire: str, caplog: Any) -> None:
    begun, go = Gate(), Gate()

    def chunks() -> Iterator[bytes]:
        yield b"first"
        begun.open()
        go.wait()
        yield b""  # the application may be at work, and have nothing to say
        raise AssertionError("the iteration went on")

    body = Body(chunks())
    async with hosted(saying(body), wire) as site:
        peer = site.dial()
        peer.request()
        await begun.opened()
        peer.leave()
        await turns()
        go.open()
        await body.closed.opened()
    assert (body.taken, body.closings) == (2, 1)
    assert not lines_of(caplog)


@leaving
async def test_write_raises_when_the_client_has_left(wire: str, caplog: Any) -> None:
    begun, go, raised = Gate(), Gate(), Gate()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", PLAIN)
        begun.open()
        go.wait()
        with pytest.raises(PeerGone) as caught:
            write(b"to nobody")
        raised.open()
        raise caught.value

    async with hosted(app, wire) as site:
        peer = site.dial()
        peer.request()
        await begun.opened()
        peer.leave()
        await turns()
        go.open()
        await raised.opened()
    assert not lines_of(caplog)


@leaving
async def test_what_an_application_raises_for_nobody_is_logged(wire: str, caplog: Any) -> None:
    begun, go = Gate(), Gate()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        begun.open()
        go.wait()
        raise KeyError("mine")

    async with hosted(app, wire) as site:
        peer = site.dial()
        peer.request()
        await begun.opened()
        peer.leave()
        await turns()
        go.open()
    assert lines_of(caplog) == [
        "GET /: wsgi application project:app: unhandled error in the application"
    ]


@leaving
async def test_a_request_whose_client_leaves_the_queue_never_runs(wire: str, caplog: Any) -> None:
    begun, go = Gate(), Gate()
    called = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        called.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/first":
            begun.open()
            go.wait()
        start_response("200 OK", PLAIN)
        return [b"done"]

    async with hosted(app, wire, wsgi_threads=1) as site:
        first, second, third = site.dial(), site.dial(), site.dial()
        first.request("GET", "/first")
        await begun.opened()
        pool = site.interface._pool
        second.request("GET", "/second")
        third.request("GET", "/third")
        await turns()
        assert (pool.busy, pool.waiting) == (1, 2)
        second.leave()
        await turns()
        assert (pool.busy, pool.waiting) == (1, 1)
        assert len(site.server.connections.tasks) == 2  # nor does it take a stream's place
        go.open()
        assert (await third.response()).body == b"done"
    assert called == ["/first", "/third"]
    assert not lines_of(caplog)


@leaving
async def test_a_thread_is_counted_until_it_is_done(wire: str) -> None:
    """A client that leaves makes no room for another: its thread cannot be cancelled."""
    begun = [Gate(), Gate()]
    go, third_called = Gate(), Gate()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        number = int(environ["QUERY_STRING"])
        if number == 2:
            third_called.open()
        else:
            begun[number].open()
            go.wait()
        start_response("200 OK", PLAIN)
        return [b"done"]

    async with hosted(app, wire, wsgi_threads=2) as site:
        leavers = [site.dial(), site.dial()]
        for number, peer in enumerate(leavers):
            peer.request("GET", f"/?{number}")
            await begun[number].opened()
        for peer in leavers:
            peer.leave()
        await turns()
        pool = site.interface._pool
        assert (pool.busy, pool.started) == (2, 2)
        assert len(site.server.connections.tasks) == 2
        last = site.dial()
        last.request("GET", "/?2")
        await threads_run()
        assert not third_called.is_open
        assert pool.waiting == 1
        go.open()
        assert (await last.response()).body == b"done"


# -- Requests that are given up --------------------------------------------------------------------


@both
@pytest.mark.parametrize("doing", ["computing", "reading", "sending"])
async def test_a_server_that_stops_does_not_wait_for_a_thread(
    wire: str, doing: str, caplog: Any
) -> None:
    begun, go = Gate(), Gate()
    body = Body(endless(100000))
    raised = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        begun.open()
        if doing == "computing":
            go.wait()
            raise KeyError("late")
        if doing == "reading":
            try:
                environ["wsgi.input"].read()
            except ConnectionError as error:
                raised.append(error)
                raise
            finally:
                go.open()
        start_response("200 OK", PLAIN)
        return body

    async with hosted(app, wire) as site:
        peer = site.dial()
        peer.hold()
        if doing == "reading":
            peer.begin()
        else:
            peer.request()
        await begun.opened()
        await threads_run()
        interface = site.interface
        pool = interface._pool
        # What the server does at its end; the rest is for the `async with`.
        site.server.connections.abort()
        await site.server.connections.wait_idle()
    assert interface._pool is None
    if doing == "computing":
        assert pool.busy == 1
        go.open()
    elif doing == "reading":
        await go.opened()
        assert raised
    else:
        await body.closed.opened()
    while pool.busy:
        await threads_run(1)
    if doing == "computing":
        while not lines_of(caplog):
            await threads_run(1)
        assert lines_of(caplog) == [
            "GET /: wsgi application project:app: error after its request was given up"
        ]
    else:
        assert not lines_of(caplog)


async def test_an_answer_that_the_wire_refuses(caplog: Any) -> None:
    """The thread is done by then, and cannot say so."""
    async with hosted(saying([b"x"]), "http2") as site:
        interface = site.interface
        # A handshake is not for WSGI; 200 would accept it.
        site.server.interface = interface.answer
        peer = site.dial()
        exchange = peer.client.begin("CONNECT", "/", [(":protocol", "websocket"), *FIELDS])
        assert (await exchange.finished()).status == 500
    assert lines_of(caplog) == [
        "CONNECT /: wsgi application project:app: 200 would accept CONNECT:"
        " only accept_upgrade() does that"
    ]
