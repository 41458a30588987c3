"""Bodies through a proxy: passed on as they come, both ways, and no faster than they are taken."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import Clock, connect, turns
from fronts import Http1Talk, Http2Talk, both, front, quiet
from upstreams import OK, ScriptedUpstream, Seen, Wire

from kyoukai import Kyoukai, Middleware, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What sockets, readers and writers may hold between a proxy and its server.
KERNEL = 1_300_000
PIECE = bytes(range(256)) * 256
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def nothing_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No task may fail without anybody who sees it, and nothing here is worth a line."""
    yield
    records = caplog.get_records("call")
    assert [r.getMessage() for r in records if r.name == "asyncio" or r.levelname == "ERROR"] == []


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# -- As it comes -------------------------------------------------------------------------------


@both
async def test_an_answer_passes_while_it_comes(wire: Any) -> None:
    async def answer(seen: Seen, up: Wire) -> None:
        await up.send(CHUNKED)
        for number in range(3):
            await steps[number].wait()
            await up.send(chunk(b"part %d" % number))
        await steps[3].wait()
        await up.send(b"0\r\n\r\n")

    steps = [asyncio.Event() for _ in range(4)]
    async with ScriptedUpstream(answer) as upstream, front(Proxy(upstream.url), wire) as fr:
        talk = fr.talk()
        talk.ask()
        await talk.until(lambda talk: talk.status)
        for number in range(3):
            assert len(talk.body) == number * 6
            steps[number].set()
            await talk.until(lambda talk, n=number: len(talk.body) == (n + 1) * 6)
        await turns(20)
        assert not talk.done
        steps[3].set()
        assert await talk.answer() == 200
        assert talk.body == b"part 0part 1part 2"


@both
async def test_a_request_passes_while_it_comes(wire: Any) -> None:
    async def answer(seen: Seen, up: Wire) -> bytes:
        while await up.body():
            await upstream._tell()
        return OK

    async with ScriptedUpstream(answer) as upstream, front(Proxy(upstream.url), wire) as fr:
        talk = fr.talk()
        talk.begin("POST")
        await upstream.wait(lambda: upstream.requests)
        for number in range(3):
            talk.send(b"part %d" % number)
            await upstream.wait(lambda n=number: len(upstream.requests[0].body) == (n + 1) * 6)
        assert not upstream.requests[0].complete
        talk.end()
        assert await talk.answer() == 200
        assert upstream.requests[0].body == b"part 0part 1part 2"
        assert upstream.requests[0]["transfer-encoding"] == "chunked"
        await fr.rest()
        assert fr.upstream.open == 1


@both
async def test_a_conversation_within_one_request(wire: Any) -> None:
    """Each side waits for the other; and neither for longer than it takes."""

    async def echo(seen: Seen, up: Wire) -> None:
        await up.send(CHUNKED)
        while data := await up.body():
            await up.send(chunk(data.upper()))
        await up.send(b"0\r\n\r\n")

    async with (
        ScriptedUpstream(echo) as up,
        front(Proxy(up.url, read_timeout=10), wire, min_body_grace=1000) as fr,
    ):
        clock = Clock()
        talk = fr.talk()
        talk.begin("POST")
        for number in range(4):
            talk.send(b"part %d" % number)
            await talk.until(lambda talk, n=number: len(talk.body) == (n + 1) * 6)
            await clock.advance(25, step=1)
        talk.end()
        await talk.answer()
        assert talk.body == b"PART 0PART 1PART 2PART 3"
        await fr.rest()
        assert fr.upstream.open == 1


@both
@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
async def test_framings_of_answers(wire: Any, framing: str) -> None:
    body = PIECE * 3
    answers = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body),
        "chunked": CHUNKED + chunk(body[:5]) + chunk(body[5:]) + b"0\r\n\r\n",
        "eof": b"HTTP/1.1 200 OK\r\n\r\n" + body,
    }
    async with (
        ScriptedUpstream(answers[framing], closes=framing == "eof") as up,
        front(Proxy(up.url), wire) as fr,
    ):
        for _ in range(2):
            talk = await fr.ask()
            assert (talk.done, talk.cut, talk.body == body) == (True, False, True)
            if framing == "length":
                assert talk.headers["content-length"] == str(len(body))
        assert len(up.wires) == 1 + (framing == "eof")


@both
async def test_an_answer_in_single_bytes(wire: Any) -> None:
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Sum: 7\r\n\r\n"
    )

    async def dribble(seen: Seen, up: Wire) -> None:
        for index in range(len(answer)):
            await up.send(answer[index : index + 1])
            await turns(1)

    async with ScriptedUpstream(dribble) as up, front(Proxy(up.url), wire) as fr:
        for _ in range(2):
            talk = await fr.ask(headers=[("te", "trailers")])
            assert talk.body == b"abc0123456789"
            assert talk.trailers == {"x-sum": "7"}
            assert talk.informational == [103]
        assert len(up.wires) == 1


@both
@pytest.mark.parametrize("kind", ["known", "chunked", "empty", "empty chunked", "none"])
async def test_framings_of_requests(wire: Any, kind: str) -> None:
    body = PIECE * 2 if kind in ("known", "chunked") else b""
    async with ScriptedUpstream() as up, front(Proxy(up.url), wire) as fr:
        talk = fr.talk()
        if "chunked" in kind:
            talk.begin("PUT")
            if body:
                talk.send(body[:7])
                await up.wait(lambda: up.requests)
                talk.send(body[7:])
            talk.end([("x-sum", "9")] if body else ())
        elif kind == "none":
            talk.ask("GET")
        else:
            talk.ask("PUT", body=body)
        assert await talk.answer() == 200
        (seen,) = up.requests
        assert seen.complete
        assert seen.body == body
        if kind == "none":
            assert seen["content-length"] is seen["transfer-encoding"] is None
        elif not body:
            assert seen["content-length"] == "0" or seen["transfer-encoding"] == "chunked"
        else:
            assert seen["content-length"] == (str(len(body)) if kind == "known" else None)
        assert seen.trailers == ([("x-sum", "9")] if kind == "chunked" else [])
        assert up.wrong == []
        await fr.rest()
        assert fr.upstream.open == 1


async def test_what_follows_a_whole_answer_is_no_part_of_it() -> None:
    """Nor of any other, though it came with it."""
    for more in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Sum: 8\r\n\r\nstolen",
        b"HTTP/1.1 101 No\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nstolen",
        b"junk",
    ):
        for trailer in (b"", b"X-Sum: 7\r\n"):
            whole = CHUNKED + chunk(b"mine") + b"0\r\n" + trailer + b"\r\n"
            async with ScriptedUpstream(whole + more) as up, front(Proxy(up.url)) as fr:
                for _ in range(2):
                    talk = await fr.ask(headers=[("te", "trailers")])
                    assert talk.body == b"mine"
                    assert talk.trailers == ({"x-sum": "7"} if trailer else {})
                    await fr.rest()
                assert len(up.wires) == 2
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine"
        async with ScriptedUpstream(answer + more) as up, front(Proxy(up.url)) as fr:
            assert [(await fr.ask()).body for _ in range(2)] == [b"mine"] * 2
            assert len(up.wires) == 2


# -- No faster than it is taken ----------------------------------------------------------------


@both
@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
async def test_a_slow_client_stops_the_reading_from_the_server(wire: Any, framing: str) -> None:
    total, sent = 12_000_000, 0

    async def answer(seen: Seen, up: Wire) -> None:
        nonlocal sent
        lines = {"length": b"Content-Length: %d\r\n" % total, "eof": b""}
        await up.send(
            b"HTTP/1.1 200 OK\r\n%b\r\n" % lines[framing] if framing in lines else CHUNKED
        )
        while sent < total:
            data = PIECE[: total - sent]
            await up.send(chunk(data) if framing == "chunked" else data)
            sent += len(data)
        if framing == "chunked":
            await up.send(b"0\r\n\r\n")

    async with (
        ScriptedUpstream(answer, closes=framing == "eof") as up,
        front(Proxy(up.url, buffer_size=100_000, read_timeout=5), wire) as fr,
    ):
        talk = fr.talk()
        talk.hold()
        talk.ask()
        first = await quiet(lambda: sent)
        assert 50_000 < first < KERNEL
        # Nobody is at fault but the client, however long it takes.
        await Clock().advance(20, step=1)
        assert await quiet(lambda: sent) < KERNEL
        assert not talk.cut
        connection = next(iter(fr.upstream._all))
        assert connection._buffered <= 100_000 + 262_144
        talk.release()
        async with asyncio.timeout(30):
            assert await talk.answer() == 200
        assert len(talk.body) == total
        assert talk.body[-500:] == (PIECE * 184)[:total][-500:]


@both
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_slow_server_stops_the_reading_from_the_client(wire: Any, framing: str) -> None:
    total, taken = 12_000_000, 0
    go = asyncio.Event()

    async def answer(seen: Seen, up: Wire) -> bytes:
        nonlocal taken
        up.keeps_bodies = False
        await go.wait()
        while data := await up.body():
            taken += len(data)
        return OK

    async with ScriptedUpstream(answer) as up, front(Proxy(up.url), wire) as fr:
        talk = fr.talk()
        lines = [("content-length", str(total))] if framing == "length" else []
        talk.begin("POST", headers=lines)
        for _ in range(0, total, 200_000):
            talk.send(PIECE[:200] * 1000)
        talk.end()
        left = await quiet(lambda: talk.untaken)
        assert total - left < KERNEL
        go.set()
        async with asyncio.timeout(30):
            assert await talk.answer() == 200
        assert taken == total
        await fr.rest()
        assert fr.upstream.open == 1


@both
async def test_memory_stays_flat(wire: Any) -> None:
    total = 30_000_000

    async def download(seen: Seen, up: Wire) -> None:
        await up.send(CHUNKED)
        for _ in range(total // 60_000):
            await up.send(chunk(PIECE[:60_000]))
        await up.send(b"0\r\n\r\n")

    async def upload(seen: Seen, up: Wire) -> bytes:
        up.keeps_bodies = False
        size = 0
        while data := await up.body():
            size += len(data)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%d" % size

    async with ScriptedUpstream() as up, front(Proxy(up.url), wire) as fr:
        up.answers = [download, upload]
        size = 0
        talk = fr.talk()
        talk.ask()
        await talk.until(lambda talk: talk.status)
        tracemalloc.start()
        try:
            while not talk.done:
                await talk.event()
                size += len(talk.body)
                forget(talk)
            down = tracemalloc.get_traced_memory()[1]
            assert size == total
            talk = fr.talk()
            talk.begin("POST", headers=[("content-length", str(total))])
            tracemalloc.reset_peak()
            for _ in range(total // 60_000):
                talk.send(PIECE[:60_000])
                while talk.untaken:
                    await turns(1)
            talk.end()
            await talk.answer()
            upwards = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert talk.body == b"%d" % total
        assert down < 4_000_000
        assert upwards < 4_000_000


def forget(talk: Any) -> None:
    """Drop the body so far."""
    if isinstance(talk, Http1Talk):
        talk._body.clear()
    else:
        talk.exchange.body.clear()
        del talk.client.frames[1:]


# -- Answers before the end of the request -----------------------------------------------------


@both
@pytest.mark.parametrize("closes", [False, True])
async def test_an_early_answer(wire: Any, closes: bool) -> None:
    async def answer(seen: Seen, up: Wire) -> None:
        await up.send(b"HTTP/1.1 413 No\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        if closes:
            raise ConnectionResetError
        await up.read()

    async with ScriptedUpstream(answer) as up, front(Proxy(up.url), wire) as fr:
        talk = fr.talk()
        talk.begin("POST", headers=[("content-length", "10000000")])
        for _ in range(20):
            talk.send(PIECE)
        await talk.until(lambda talk: talk.done)
        assert (talk.status, talk.body) == (413, b"big")
        await fr.rest()
        assert fr.upstream.open == 0
        assert (await fr.ask()).status == 413


@both
async def test_an_early_answer_to_a_body_that_was_kept(wire: Any) -> None:
    """The server takes none of a body that is here as a whole, and is larger than all buffers."""

    class Keeps(Middleware):
        async def process_request(self, ctx: Any) -> None:
            await ctx.request.read_async()

    async def answer(seen: Seen, up: Wire) -> None:
        await up.send(b"HTTP/1.1 413 No\r\nContent-Length: 3\r\n\r\nbig")
        await asyncio.Event().wait()

    app = Kyoukai("front", middleware=Keeps())
    async with ScriptedUpstream(answer) as up:
        app.mount("/", Proxy(up.url))
        async with front(app, wire, max_body_size=100_000_000) as fr:
            talk = fr.talk()
            talk.ask("POST", body=PIECE * 60)
            assert await talk.answer() == 413
            await fr.rest()
            assert fr.upstream.open == 0


@both
async def test_an_early_head_and_a_late_end(wire: Any) -> None:
    async def answer(seen: Seen, up: Wire) -> None:
        await up.send(CHUNKED + chunk(b"early"))
        while await up.body():
            pass
        await up.send(chunk(b" and late") + b"0\r\n\r\n")

    async with ScriptedUpstream(answer) as up, front(Proxy(up.url), wire) as fr:
        talk = fr.talk()
        talk.begin("POST", headers=[("content-length", "6")])
        await talk.until(lambda talk: talk.body == b"early")
        talk.send(b"abc")
        await turns(5)
        talk.send(b"def")
        talk.end()
        await talk.answer()
        assert talk.body == b"early and late"
        await fr.rest()
        assert fr.upstream.open == 1


# -- Expect ------------------------------------------------------------------------------------

EXPECTS = (("expect", "100-continue"), ("content-length", "4"))


@both
async def test_a_server_that_says_continue(wire: Any) -> None:
    async def answer(seen: Seen, up: Wire) -> bytes:
        assert seen["expect"] == "100-continue"
        await ready.wait()
        await up.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while await up.body():
            pass
        return OK

    ready = asyncio.Event()
    async with ScriptedUpstream(answer) as up, front(Proxy(up.url), wire) as fr:
        for _ in range(2):
            ready.clear()
            talk = fr.talk()
            talk.begin("POST", headers=EXPECTS)
            await up.wait(lambda: not up.requests or not up.requests[-1].complete)
            await turns(30)
            assert talk.informational == []  # only the server knows
            ready.set()
            await talk.until(lambda talk: talk.informational)
            assert talk.informational == [100]
            talk.send(b"body")
            talk.end()
            assert await talk.answer() == 200
            assert up.requests[-1].body == b"body"
            assert talk.informational == [100]
        assert up.wrong == []
        assert len(up.wires) == 1


@both
async def test_a_server_that_does_not_say_continue(wire: Any) -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url), wire) as fr:
        clock = Clock()
        talk = fr.talk()
        talk.begin("POST", headers=EXPECTS)
        await up.wait(lambda: up.requests)
        await turns(30)
        assert talk.informational == []
        await clock.advance(1.1)
        await talk.until(lambda talk: talk.informational == [100])
        talk.send(b"body")
        talk.end()
        assert await talk.answer() == 200
        assert up.requests[0].body == b"body"


@both
async def test_a_client_that_does_not_wait_for_continue(wire: Any) -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url), wire) as fr:
        talk = fr.talk()
        clock = Clock()
        talk.begin("POST", headers=EXPECTS)
        talk.send(b"body")
        talk.end()
        await clock.advance(1.1)
        assert await talk.answer() == 200
        assert talk.informational == []
        assert up.requests[0].body == b"body"


@both
@pytest.mark.parametrize("through", [False, True], ids=["bare", "pipeline"])
async def test_a_server_that_refuses_the_body(wire: Any, through: bool) -> None:
    """Then the client is not asked for it, whatever middlewares do in the meantime."""

    class Slow(Middleware):
        async def process_response(self, ctx: Any, response: Any) -> None:
            await clock.advance(3, step=0.5)

    async def answer(seen: Seen, up: Wire) -> bytes:
        return b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno"

    app = Kyoukai("front", middleware=Slow()) if through else Kyoukai("front")
    async with ScriptedUpstream(answer) as up:
        app.mount("/", Proxy(up.url))
        async with front(app, wire) as fr:
            clock = Clock()
            talk = fr.talk()
            talk.begin("POST", headers=EXPECTS)
            assert await talk.answer() == 401
            assert talk.informational == []
            await fr.rest()
            assert fr.upstream.open == 0  # it may still wait for the body


@both
async def test_other_interim_answers(wire: Any) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\nConnection: x\r\n\r\n"
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\n\r\n" + hints + OK
    async with ScriptedUpstream(answer) as up, front(Proxy(up.url), wire) as fr:
        talk = await fr.ask()
        assert (talk.status, talk.informational) == (200, [102, 103])  # 100 was not asked for
        endless: Any = b"HTTP/1.1 103 Early Hints\r\n\r\n" * 33 + OK
        up.answer = endless
        talk = await fr.ask()
        assert talk.status == 502


# -- Many at once ------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Those that need no task and those that do, with interim answers between them."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with (
        ScriptedUpstream(lambda seen: hints + says(seen)) as up,
        front(Proxy(up.url)) as fr,
    ):
        await fr.ask()
        await fr.rest()
        connection = connect(fr.server)
        methods = [("POST", "GET", "GET")[number % 3] for number in range(30)]
        for number, method in enumerate(methods):
            body = b"x" * number if method == "POST" else None
            connection.request(method, f"/{number}", body=body)
        for number, method in enumerate(methods):
            answer = await connection.response()
            size = number if method == "POST" else 0
            assert answer.text == f"{method} /{number} {size}"
            assert [status for status, _ in answer.informational] == [103]
        await fr.rest()
        assert len(up.wires) == 1


async def test_a_client_that_has_closed_its_direction_gets_its_answer() -> None:
    async with ScriptedUpstream(says) as up, front(Proxy(up.url, half_closed=True)) as fr:
        for _ in range(2):
            connection = connect(fr.server)
            connection.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            connection.transport.feed_eof()
            assert (await connection.response()).text == "GET /x 0"
            await fr.rest()


async def test_streams_of_one_connection() -> None:
    """More than there are connections to the server, and some are reset."""
    async with (
        ScriptedUpstream(says) as up,
        front(Proxy(up.url, max_connections=5), Http2Talk) as fr,
    ):
        client = fr.talk().client
        exchanges = [
            client.request("PUT", f"/{number}", body=b"x" * number * 300)
            if number % 3
            else client.request("GET", f"/{number}")
            for number in range(90)
        ]
        for number, exchange in enumerate(exchanges):
            if number % 7 == 0:
                exchange.reset()
                continue
            answer = await exchange.finished()
            method, size = ("PUT", number * 300) if number % 3 else ("GET", 0)
            assert answer.text == f"{method} /{number} {size}"
        await fr.rest()
        assert fr.upstream.open <= 5
        assert up.wrong == []


def says(seen: Seen) -> bytes:
    body = f"{seen.method} {seen.target} {len(seen.body)}".encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
