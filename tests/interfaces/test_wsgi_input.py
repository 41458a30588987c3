"""``wsgi.input``: bodies that are there, that arrive, that are too long, and that never end."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import flask
import pytest
from backends.support import turns
from talks import lines_of
from wsgi_apps import PLAIN, Gate, both, hosted, leaving

from kyoukai.exceptions import BodyError, PeerGone
from kyoukai.testing import MemoryServer

TEXT = b"first line\nsecond\r\n\nlast without an end"
LINES = [b"first line\n", b"second\r\n", b"\n", b"last without an end"]


def reader(read: Any) -> Any:
    """An application that reads, and keeps what it has read in ``found``."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        app.found.append(read(environ["wsgi.input"]))  # type: ignore[attr-defined]
        start_response("200 OK", PLAIN)
        return [b"read"]

    app.found = []  # type: ignore[attr-defined]
    return app


def small_reads(body: Any) -> Any:
    pieces = []
    while piece := body.read(7):
        pieces.append(piece)
    assert all(len(piece) == 7 for piece in pieces[:-1]), "a read that was not to the end is short"
    return b"".join(pieces)


def mixed(body: Any) -> Any:
    return [body.read(3), body.readline(), body.readline(4), body.read(0), *body, body.read()]


#: Ways to read the text, and what they must find.
READS: dict[str, tuple[Any, Any]] = {
    "all": (lambda body: body.read(), TEXT),
    "negative": (lambda body: body.read(-1), TEXT),
    "exact": (lambda body: body.read(len(TEXT)), TEXT),
    "more": (lambda body: body.read(10**6), TEXT),
    "part": (lambda body: body.read(5), b"first"),
    "none": (lambda body: None, None),
    "twice": (lambda body: (body.read(), body.read(), body.read(5)), (TEXT, b"", b"")),
    "small": (small_reads, TEXT),
    "line": (lambda body: body.readline(), LINES[0]),
    "lines": (lambda body: body.readlines(), LINES),
    "lines-hint": (lambda body: body.readlines(12), LINES[:2]),
    "iterate": (list, LINES),
    "mixed": (mixed, [b"fir", b"st line\n", b"seco", b"", b"nd\r\n", *LINES[2:], b""]),
}


@both
@pytest.mark.parametrize("framing", ["length", "chunks", "arriving", "arriving-chunks"])
@pytest.mark.parametrize("name", READS)
async def test_ways_to_read(wire: str, framing: str, name: str) -> None:
    read, expected = READS[name]
    app = reader(read)
    async with hosted(app, wire) as site:
        peer = site.dial()
        if framing == "length":
            peer.request("POST", body=TEXT)
        elif framing == "chunks":
            peer.request("POST", chunks=[TEXT[:15], TEXT[15:]])
        else:
            peer.begin("POST", length=None if framing == "arriving-chunks" else len(TEXT))
            for start in range(0, len(TEXT), 10):
                await turns(2)
                peer.data(TEXT[start : start + 10])
            peer.end()
        assert (await peer.response()).body == b"read"
    assert app.found == [expected]


@both
async def test_no_body_is_an_end(wire: str) -> None:
    app = reader(lambda body: (body.read(10), body.readline(), list(body), body.read()))
    async with hosted(app, wire) as site:
        await site.ask("GET")
        await site.ask("POST", body=b"")
    assert app.found == [(b"", b"", [], b"")] * 2


@both
async def test_a_read_waits_for_what_is_missing_and_no_longer(wire: str) -> None:
    steps = [Gate() for _ in range(3)]

    def read(body: Any) -> Any:
        first = body.readline()
        steps[0].open()
        second = body.read(4)
        steps[1].open()
        third = body.read1()
        steps[2].open()
        return first, second, third, body.read()

    app = reader(read)
    async with hosted(app, wire) as site:
        peer = site.dial()
        peer.begin()
        peer.data(b"li")
        await turns()
        assert not steps[0].is_open
        peer.data(b"ne\nab")
        await steps[0].opened()
        await turns()
        assert not steps[1].is_open
        peer.data(b"cd")
        await steps[1].opened()
        peer.data(b"now")
        await steps[2].opened()
        peer.end()
        await peer.response()
    assert app.found == [(b"line\n", b"abcd", b"now", b"")]


async def test_the_client_is_told_to_go_on_when_the_application_reads() -> None:
    asked = Gate()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        asked.wait()
        body = environ["wsgi.input"].read()
        start_response("200 OK", PLAIN)
        return [body]

    async with hosted(app) as site:
        connection = site.dial().connection
        connection.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
            "POST",
        )
        await turns()
        assert not connection.transport.output
        asked.open()
        while b"100 Continue" not in connection.transport.output:
            connection.transport.changed.clear()
            await connection.transport.changed.wait()
        connection.send(b"body")
        assert (await connection.response()).body == b"body"


# -- Bodies that cannot be had ---------------------------------------------------------------------


@both
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_a_body_that_is_too_long(wire: str, declared: bool, caplog: Any) -> None:
    raised = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raised.append(error)
            raise
        raise AssertionError("all of it was read")

    async with hosted(app, wire, max_body_size=1000) as site:
        peer = site.dial()
        peer.begin(length=2000 if declared else None)
        peer.data(b"x" * 900)
        if not declared:
            await turns()
            peer.data(b"x" * 200)
        response = await peer.response()
    assert response.status == 413
    assert not lines_of(caplog)  # the client's doing
    if declared:
        assert not raised  # the application was not even called
    else:
        (error,) = raised
        assert isinstance(error, BodyError)
        assert error.status == 413
        assert str(error) == "the body is larger than 1000 bytes"


async def test_a_body_that_is_malformed(caplog: Any) -> None:
    began = Gate()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        began.open()
        start_response("200 OK", PLAIN)
        return [environ["wsgi.input"].read()]

    async with hosted(app) as site:
        connection = site.dial().connection
        connection.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
            "POST",
        )
        await began.opened()
        connection.send(b"zz\r\n")
        response = await connection.response()
    assert response.status == 400
    assert not lines_of(caplog)


@both
async def test_flask_has_its_own_page_for_a_body_that_is_too_long(wire: str, caplog: Any) -> None:
    app = flask.Flask(__name__)

    @app.post("/")
    def post() -> str:
        return str(len(flask.request.get_data()))

    @app.errorhandler(413)
    def too_long(error: Any) -> Any:
        return f"Flask says: {error.description}", 413

    async with hosted(app, wire, max_body_size=1000) as site:
        assert (await site.ask("POST", chunks=[b"x" * 1000])).text == "1000"
        peer = site.dial()
        peer.begin()
        await turns()
        peer.data(b"x" * 1001)
        response = await peer.response()
    assert response.status == 413
    assert response.text == "Flask says: the body is larger than 1000 bytes."
    assert not lines_of(caplog)


@leaving
@pytest.mark.parametrize("catches", [False, True])
async def test_a_client_that_leaves_during_a_read(wire: str, catches: bool, caplog: Any) -> None:
    raised: list[BaseException] = []
    reading = Gate()
    done = Gate()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        body = environ["wsgi.input"]
        body.read(2)
        reading.open()
        try:
            body.read()
        except ConnectionError as error:
            raised.append(error)
            if not catches:
                raise
        finally:
            done.open()
        start_response("200 OK", PLAIN)
        return [b"to nobody"]

    async with hosted(app, wire) as site:
        peer = site.dial()
        peer.begin()
        peer.data(b"some")
        await reading.opened()
        peer.leave()
        await done.opened()
    assert isinstance(raised[0], PeerGone)
    assert not lines_of(caplog)


async def test_flask_does_not_complain_of_clients_that_leave(caplog: Any) -> None:
    app = flask.Flask(__name__)
    reading = Gate()

    @app.post("/")
    def post() -> str:
        flask.request.stream.read(1)
        reading.open()
        return str(len(flask.request.get_data()))

    async with hosted(app) as site:
        peer = site.dial()
        peer.begin()
        peer.data(b"x")
        await reading.opened()
        peer.leave()
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


@both
async def test_a_body_that_nobody_reads(wire: str) -> None:
    """The answer does not wait for it, and the connection is of use again."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        return [environ["PATH_INFO"].encode()]

    async with hosted(app, wire, linger_timeout=100) as site:
        peer = site.dial()
        peer.begin("POST", "/one", length=10)
        peer.data(b"x" * 5)
        assert (await peer.response()).body == b"/one"
        peer.data(b"x" * 5)
        peer.end()
        peer.request("GET", "/two")
        assert (await peer.response()).body == b"/two"


@both
async def test_two_threads_of_an_application_may_read(wire: str) -> None:
    def read(body: Any) -> Any:
        found = []
        threads = [threading.Thread(target=lambda: found.append(body.read(3))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(found)

    app = reader(read)
    async with hosted(app, wire) as site:
        peer = site.dial()
        peer.begin()
        for piece in (b"aaa", b"bbb", b"ccc", b"ddd"):
            await turns()
            peer.data(piece)
        peer.end()
        await peer.response()
    assert app.found == [[b"aaa", b"bbb", b"ccc", b"ddd"]]


async def test_reading_after_the_request_is_over(caplog: Any) -> None:
    kept = []
    over = Gate()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        kept.append(environ["wsgi.input"])
        start_response("200 OK", PLAIN)
        return [b"over"]

    def late() -> Any:
        try:
            return kept[0].read()
        except OSError as error:
            return error

    async with hosted(app) as site:
        peer = site.dial()
        peer.begin(length=10)
        assert (await peer.response()).body == b"over"
        await asyncio.wait(
            tuple(site.server.connections.tasks) or (asyncio.ensure_future(turns()),)
        )
        assert isinstance(await asyncio.to_thread(late), PeerGone)
        over.open()


# -- Large bodies ----------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@both
@pytest.mark.parametrize("size", [1000, 65536, 10**9], ids=["small", "pieces", "whole-pieces"])
async def test_an_upload_of_200_megabytes_needs_no_memory(wire: str, size: int) -> None:
    total = (200 if size == 65536 else 4) * 1024 * 1024
    streams = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        body = environ["wsgi.input"]
        count = 0
        read = body.read1 if size == 10**9 else body.read
        while piece := read(size):
            count += len(piece)
        start_response("200 OK", PLAIN)
        return [str(count).encode()]

    async with hosted(validator(app) if size == 1000 else app, wire) as site:
        inner = site.server.interface

        async def watched(stream: Any) -> None:
            streams.append(stream)
            await inner(stream)

        site.server.interface = watched
        peer = site.dial()
        peer.begin(length=total)
        piece = b"x" * 65536
        before, most, waits = resident(), 0, 0
        for _ in range(total // len(piece)):
            peer.data(piece)
            while unsent(peer, wire) > 262144:
                waits += 1
                most = max(most, resident() - before, *(each.buffered for each in streams))
                await asyncio.sleep(0)
        peer.end()
        assert int((await peer.response()).text) == total
    assert waits, "the server took all there was"
    assert most < 32 * 1024 * 1024


def unsent(peer: Any, wire: str) -> int:
    if wire == "http1":
        return int(peer.transport.untaken)
    return sum(len(data) for data, _ in peer.exchanges[-1].waiting)


@both
async def test_a_body_waits_at_the_client_until_the_application_reads(wire: str) -> None:
    go = Gate()
    began = Gate()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        began.open()
        go.wait()
        count = len(environ["wsgi.input"].read())
        start_response("200 OK", PLAIN)
        return [str(count).encode()]

    async with hosted(app, wire) as site:
        assert isinstance(site.server, MemoryServer)
        peer = site.dial()
        peer.begin(length=3000000)
        for _ in range(30):
            peer.data(b"x" * 100000)
        await began.opened()
        await turns()
        assert unsent(peer, wire) > 3000000 - 700000
        go.open()
        peer.end()
        assert (await peer.response()).text == "3000000"
