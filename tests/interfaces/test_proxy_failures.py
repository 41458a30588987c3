"""What a proxy does when its server fails, or its client: an answer in time, or a clear end."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import Clock, turns
from fronts import Front, Http1Talk, both, front
from talks import lines_of
from upstreams import OK, ScriptedUpstream, Seen, Wire

from kyoukai import Kyoukai, Middleware, Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
STARTS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
    "chunked": CHUNKED + b"4\r\nhalf\r\n",
    "eof": b"HTTP/1.1 200 OK\r\n\r\nhalf",
}

#: Whether the proxy is alone, alone with a connection that is open already, so that requests need
#: no task, or its requests pass an application's middlewares.
ways = pytest.mark.parametrize("way", ["bare", "warm", "app"])


@pytest.fixture(autouse=True)
def nothing_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No task may fail without anybody who sees it, and nothing here is the proxy's fault."""
    yield
    records = caplog.get_records("call")
    assert [r.getMessage() for r in records if r.name == "asyncio" or r.exc_info] == []


class Notes(Middleware):
    """Notes what passes back."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.errors: list[Any] = []

    async def process_response(self, ctx: Any, response: Any) -> None:
        self.statuses.append(response.status_code)
        self.errors.append(ctx.exception)


@both
async def test_requests_without_a_task_are_counted(wire: Any) -> None:
    async with ScriptedUpstream(b"") as up, front(Proxy(up.url), wire=wire) as fr:
        fr.server.connections.tasks = tasks = set()
        talks = [fr.talk() for _ in range(2)]
        for count, talk in enumerate(talks, 1):
            talk.ask()
            await up.wait(lambda count=count: len(up.requests) == count)
            assert fr.server.connections.requests == count
        for talk in talks:
            talk.leave()
        await fr.rest()
        assert fr.server.connections.requests == len(tasks) == 0


def proxied(way: str, *urls: str, **options: Any) -> Any:
    proxy = Proxy(urls, **options)
    if way != "app":
        return proxy
    app = Kyoukai("front", middleware=Notes())
    app.mount("/", proxy)
    return app


@asynccontextmanager
async def behind(
    way: str, up: ScriptedUpstream, wire: Any, settings: Any = None, **options: Any
) -> AsyncIterator[Front]:
    """A proxy of a server; a connection to it is there already if it is warm."""
    async with front(proxied(way, up.url, **options), wire, **(settings or {})) as fr:
        if way == "warm":
            up.answers.insert(0, OK)
            assert (await fr.ask()).status == 200
            await fr.rest()
            assert fr.upstream.open == 1
            up.requests.clear()
        yield fr


def hang(data: bytes = b"") -> Any:
    """An answer that begins, and never ends; the proxy has to leave."""

    async def answer(seen: Seen, wire: Wire) -> None:
        await wire.send(data)
        while await wire.body():
            pass
        await wire.read()

    return answer


def cut(data: bytes = b"") -> Any:
    """An answer that begins, and a connection that ends."""

    async def answer(seen: Seen, wire: Wire) -> None:
        while await wire.body():
            pass
        await wire.send(data)
        raise ConnectionResetError

    return answer


async def gone(up: ScriptedUpstream) -> None:
    """Wait until the last connection to a server is closed."""
    async with asyncio.timeout(5):
        await up.wires[-1].closed.wait()


# -- Before the head ---------------------------------------------------------------------------


@both
@ways
async def test_nobody_there(wire: Any, way: str, caplog: pytest.LogCaptureFixture) -> None:
    async with ScriptedUpstream(tcp=True) as up, behind(way, up, wire) as fr:
        await up.stop()
        for body in (None, b"body") * 3:
            talk = await fr.ask("POST" if body else "GET", body=body)
            assert talk.status == 502
            assert b"refused" not in talk.body  # nothing of what is behind
            assert up.url.encode() not in talk.body
    # One line in all, and not one for each request.
    assert lines_of(caplog) == [f"upstream {up.url}: no connection: connection refused"]


@both
@ways
@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200\r\nA\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
    ids=["ssh", "line", "version", "lengths", "large", "upgrade"],
)
async def test_a_broken_head(
    wire: Any, way: str, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedUpstream(hang(head)) as up, behind(way, up, wire) as fr:
        assert (await fr.ask()).status == 502
        await gone(up)
        assert len(up.requests) == 1
        await fr.rest()
        assert fr.upstream.open == 0
    (line,) = lines_of(caplog)
    assert line.startswith(f"GET /: upstream {up.url}: ")


@both
@ways
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_answer_in_time(
    wire: Any, way: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        ScriptedUpstream(hang()) as up,
        behind(way, up, wire, read_timeout=7) as fr,
    ):
        clock = Clock()
        talk = fr.talk()
        talk.ask(method, body=b"x" * 10 if method == "POST" else None)
        await up.wait(lambda: up.requests and up.requests[0].complete)
        await clock.advance(6.9)
        assert not talk.status
        await clock.advance(0.2)
        assert await talk.answer() == 504
        await gone(up)
        assert len(up.requests) == 1
    assert lines_of(caplog) == [
        f"{method} /: upstream {up.url}: it has sent nothing for 7 seconds (read_timeout)"
    ]


@both
@ways
async def test_a_server_that_takes_nothing(
    wire: Any, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = asyncio.Event()

    async def answer(seen: Seen, up: Wire) -> None:
        await stuck.wait()

    async with (
        ScriptedUpstream(answer) as up,
        behind(way, up, wire, settings={"min_body_grace": 100}, read_timeout=7) as fr,
    ):
        clock = Clock()
        talk = fr.talk()
        talk.begin("POST", headers=[("content-length", "100000000")])
        for _ in range(40):
            talk.send(b"x" * 100_000)
        await up.wait(lambda: up.requests)
        await turns(100)
        await clock.advance(6.8, step=1)
        assert not talk.status
        await clock.advance(0.4)
        await talk.until(lambda talk: talk.status)
        assert talk.status == 504
        stuck.set()
        await gone(up)
    (line,) = lines_of(caplog)
    assert line.endswith("it has taken nothing for 7 seconds (read_timeout)")


@both
@ways
async def test_it_closes_without_an_answer(wire: Any, way: str) -> None:
    async with ScriptedUpstream(cut()) as up, behind(way, up, wire) as fr:
        assert (await fr.ask("POST", body=b"x")).status == 502
        assert len(up.requests) == 1
        assert (await fr.ask("GET")).status == 502
        assert len(up.requests) == 3  # sent again once
        up.answer = cut(b"HTTP/1.1 2")
        assert (await fr.ask("GET")).status == 502
        assert len(up.requests) == 4  # some of an answer came


# -- Sending again -----------------------------------------------------------------------------


def stale(count: int) -> list[Any]:
    """Answers of a server that closes a connection on which it has answered, at the next one."""
    return [OK, *[cut()] * count]


@both
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "PUT"])
async def test_idempotent_requests_are_sent_again(
    wire: Any, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url), wire) as fr:
        up.answers = stale(1)
        await fr.ask()
        assert (await fr.ask(method, "/again")).status == 200
        assert [str(seen) for seen in up.requests] == ["GET /", *[f"{method} /again"] * 2]
        assert [len(each.requests) for each in up.wires] == [2, 1]
    assert lines_of(caplog) == []


@both
@pytest.mark.parametrize(
    ("method", "body", "options"),
    [
        ("POST", None, {}),
        ("POST", b"x", {}),
        ("PATCH", None, {}),
        ("QUERY", None, {}),
        ("PUT", b"x", {}),
        ("GET", None, {"retries": 0}),
    ],
)
async def test_others_never_are(wire: Any, method: str, body: Any, options: Any) -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url, **options), wire) as fr:
        up.answers = stale(1)
        await fr.ask()
        assert (await fr.ask(method, "/once", body=body)).status == 502
        assert len(up.requests) == 2


async def test_how_often() -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url, retries=3)) as fr:
        up.answers = stale(3)
        await fr.ask()
        assert (await fr.ask()).status == 200
        assert len(up.requests) == 5
        up.answers = stale(4)
        await fr.ask()
        assert (await fr.ask()).status == 502
        assert not up.answers


@both
async def test_a_body_that_has_not_begun_is_sent_to_the_next_connection(wire: Any) -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url), wire) as fr:

        async def leave(seen: Seen, up: Wire) -> None:
            raise ConnectionResetError

        up.answers = [leave]
        talk = fr.talk()
        talk.begin("PUT")
        await up.wait(lambda: len(up.requests) == 2)
        talk.send(b"body")
        talk.end()
        assert await talk.answer() == 200
        assert up.requests[1].body == b"body"
        await fr.rest()
        assert fr.upstream.open == 1


# -- After the head ----------------------------------------------------------------------------


@both
@ways
@pytest.mark.parametrize("framing", STARTS)
async def test_too_slow_in_the_body(
    wire: Any, way: str, framing: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        ScriptedUpstream(hang(STARTS[framing])) as up,
        behind(way, up, wire, read_timeout=7) as fr,
    ):
        clock = Clock()
        talk = fr.talk()
        talk.ask()
        await talk.until(lambda talk: talk.body == b"half")
        await clock.advance(6.9)
        assert not talk.cut
        await clock.advance(0.2)
        await talk.answer()
        assert talk.cut
        assert not talk.done
        await gone(up)
        await fr.rest()
        assert fr.upstream.open == 0
    assert lines_of(caplog) == [
        f"GET /: upstream {up.url}: it has sent nothing for 7 seconds (read_timeout)"
    ]


@both
@ways
@pytest.mark.parametrize("framing", ["length", "chunked", "malformed", "eof"])
async def test_it_breaks_in_the_body(
    wire: Any, way: str, framing: str, caplog: pytest.LogCaptureFixture
) -> None:
    start = STARTS.get(framing, STARTS["chunked"])
    more = b"zz\r\n" if framing == "malformed" else b""

    async def answer(seen: Seen, up: Wire) -> None:
        await up.send(start)
        await go.wait()
        await up.send(more)
        if framing == "eof":
            up.abort()
            return
        if more:
            await up.read()
        raise ConnectionResetError

    go = asyncio.Event()
    tcp = framing == "eof"  # a reset, which unix sockets do not have
    async with ScriptedUpstream(answer, tcp=tcp) as up, behind(way, up, wire) as fr:
        talk = fr.talk()
        talk.ask()
        await talk.until(lambda talk: talk.body == b"half")
        if framing == "eof":
            up.wires[0].writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        go.set()
        await talk.answer()
        assert talk.cut
        assert not talk.done
        await fr.rest()
        assert fr.upstream.open == 0
    (line,) = lines_of(caplog)
    assert line.startswith(f"GET /: upstream {up.url}: ")


# -- The client --------------------------------------------------------------------------------


@both
@ways
@pytest.mark.parametrize(
    "when", ["connecting", "waiting", "posted", "uploading", "downloading", "done"]
)
async def test_a_client_that_leaves(
    wire: Any, way: str, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedUpstream() as up, behind(way, up, wire) as fr:
        talk = fr.talk()
        if when == "connecting":
            talk.ask()
            await turns(2)
            talk.leave()
            await fr.rest()
            assert fr.upstream.open <= (way == "warm")  # whose answer may be there already
            return
        if when in ("waiting", "posted"):
            up.answers = [hang()]
            talk.ask(*(("POST", "/", (), b"body") if when == "posted" else ()))
            await up.wait(lambda: up.requests and up.requests[0].complete)
        elif when == "uploading":
            talk.begin("POST")
            talk.send(b"some")
            await up.wait(lambda: up.requests)
        elif when == "downloading":
            up.answers = [hang(STARTS["chunked"])]
            talk.ask()
            await talk.until(lambda talk: talk.body)
        else:
            talk.ask()
            await talk.answer()
        talk.leave()
        if when != "done":
            await gone(up)
        await fr.rest()
        assert fr.upstream.open == (when == "done")
        if when == "uploading":
            assert not up.requests[0].complete
    assert lines_of(caplog) == []


@ways
async def test_a_client_that_sends_no_more_is_gone(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedUpstream() as up, behind(way, up, Http1Talk) as fr:
        up.answers = [hang()]
        talk = fr.talk()
        talk.ask()
        await up.wait(lambda: up.requests and up.requests[0].complete)
        talk.transport.feed_eof()
        await gone(up)  # at once, and not after read_timeout
        await fr.rest()
        assert fr.upstream.open == 0
    assert lines_of(caplog) == []


@pytest.mark.parametrize("stays", [False, True], ids=["gone", "half_closed"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_that_sends_no_more_before_its_request_goes_on(
    method: str, stays: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """However long a middleware takes."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Middleware):
        async def process_request(self, ctx: Any) -> None:
            entered.set()
            await go_on.wait()

    app = Kyoukai("front", middleware=Slow())
    async with ScriptedUpstream() as up:
        app.mount("/", Proxy(up.url, half_closed=stays))
        async with front(app) as fr:
            talk = fr.talk()
            talk.ask(method, body=b"x" if method == "POST" else None)
            await entered.wait()
            talk.transport.feed_eof()
            go_on.set()
            assert await talk.answer() == (200 if stays else 0)
            assert talk.cut == (not stays)
            await fr.rest()
            assert [each.method for each in up.requests] == [method] * stays
    assert lines_of(caplog) == []


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("stays", [False, True], ids=["gone", "half_closed"])
async def test_a_client_that_sends_no_more_before_the_turn_of_its_request(
    stays: bool, warm: bool, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = asyncio.Event()
    app = Kyoukai("front")

    @app.route("/slow")
    async def slow(ctx: Any) -> str:
        await go_on.wait()
        return "slow"

    async with ScriptedUpstream() as up:
        app.mount("/", Proxy(up.url, half_closed=stays))
        async with front(app) as fr:
            if warm:
                await fr.ask()
                await fr.rest()
            talk = fr.talk()
            talk.ask("GET", "/slow")
            talk.ask("GET", "/next")
            talk.transport.feed_eof()
            go_on.set()
            while not (talk.transport.closed or talk.transport.aborted):
                await talk.event()
            await fr.rest()
            assert [each.target for each in up.requests] == ["/"] * warm + ["/next"] * stays
            assert talk.transport.aborted == (not stays)
    assert lines_of(caplog) == []


@both
@ways
async def test_a_client_that_is_slow_is_nobodys_fault(wire: Any, way: str) -> None:
    """Neither before its body nor within it, however short the server's time."""
    settings = {"min_body_grace": 1000}
    some_came = asyncio.Event()

    async def answer(seen: Seen, wire: Wire) -> bytes:
        while await wire.body():
            some_came.set()
        return OK

    async with (
        ScriptedUpstream(answer) as up,
        behind(way, up, wire, settings=settings, read_timeout=2) as fr,
    ):
        clock = Clock()
        talk = fr.talk()
        talk.begin("POST", headers=[("content-length", "6")])
        await up.wait(lambda: up.requests)
        await clock.advance(30, step=1)
        talk.send(b"abc")
        await some_came.wait()
        assert up.requests[0].body == b"abc"
        await clock.advance(30, step=1)
        talk.send(b"def")
        talk.end()
        assert await talk.answer() == 200
        assert up.requests[0].body == b"abcdef"
        await fr.rest()
        assert fr.upstream.open == 1


@both
@ways
async def test_after_a_slow_client_it_is_the_servers_turn_again(wire: Any, way: str) -> None:
    answer = hang(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 400_000)
    async with ScriptedUpstream() as up, behind(way, up, wire, read_timeout=5) as fr:
        up.answer = answer
        clock = Clock()
        talk = fr.talk()
        talk.hold()
        talk.ask()
        await turns(100)
        await clock.advance(30, step=1)
        assert not talk.cut
        talk.release()
        await talk.until(lambda talk: len(talk.body) == 400_000)
        await clock.advance(4.9)
        assert not talk.cut
        await clock.advance(0.2)
        await talk.until(lambda talk: talk.cut)
        await gone(up)


@both
@pytest.mark.parametrize("first", ["answer", "request"])
async def test_a_client_that_neither_takes_nor_is_waited_for(wire: Any, first: str) -> None:
    """All buffers are full in both directions, whichever was the first: the client is behind."""

    async def echo(seen: Seen, up: Wire) -> None:
        await up.send(CHUNKED)
        up.keeps_bodies = False
        if first == "request":
            await go.wait()
            for _ in range(20):
                await up.send(b"186a0\r\n%b\r\n" % (b"y" * 100_000))
        while data := await up.body():
            await up.send(b"%x\r\n%b\r\n" % (len(data), data))
        await up.send(b"0\r\n\r\n")

    go = asyncio.Event()
    total = 6_000_000
    settings = {"min_body_grace": 1000, "send_stall_timeout": 1000}
    async with (
        ScriptedUpstream(echo) as up,
        front(Proxy(up.url, read_timeout=3), wire, **settings) as fr,
    ):
        clock = Clock()
        talk = fr.talk()
        talk.hold()
        talk.begin("POST", headers=[("content-length", str(total))])
        for _ in range(total // 100_000):
            talk.send(b"x" * 100_000)
        talk.end()
        await turns(200)
        go.set()
        await turns(100)
        assert talk.untaken > 2_000_000
        await clock.advance(30, step=1)
        assert not talk.cut
        talk.release()
        assert await talk.answer() == 200
        assert len(talk.body) == total + (2_000_000 if first == "request" else 0)


@both
@ways
@pytest.mark.parametrize("fault", ["slow", "large", "malformed"])
async def test_the_body_of_the_client(
    wire: Any, way: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    if fault == "malformed" and wire is not Http1Talk:
        fault = "short"
    proxy = Proxy("unix:x")
    settings = {"min_body_rate": 1000, "min_body_grace": 3}
    async with ScriptedUpstream() as up:
        app = Kyoukai("front", middleware=Notes()) if way == "app" else Kyoukai("front")
        proxy = Proxy(up.url)
        app.mount("/", proxy, max_body_size=10 if fault == "large" else None)
        async with front(app, wire, **settings) as fr:
            clock = Clock()
            talk = fr.talk()
            talk.begin("POST", headers=[("content-length", "8")] if fault == "short" else ())
            talk.send(b"four")
            await up.wait(lambda: up.requests)
            status = {"slow": 408, "large": 413}.get(fault, 400)
            if fault == "slow":
                await clock.advance(5, step=0.5)
            elif fault == "large":
                talk.send(b"seven b")
            elif fault == "malformed":
                talk.transport.feed(b"zz\r\n")
            else:
                talk.end()
            if fault == "short":  # a malformed request on HTTP/2 is reset
                await talk.answer()
                assert talk.cut or talk.status == 400
            else:
                await talk.until(lambda talk: talk.status)
                assert talk.status == status
            await gone(up)
            assert not up.requests[0].complete
            await fr.rest()
            assert fr.upstream.open == 0
    assert lines_of(caplog) == []


@both
@ways
@pytest.mark.parametrize("fault", ["slow", "leaves"])
async def test_the_body_of_the_client_after_the_head_of_the_answer(
    wire: Any, way: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"min_body_rate": 1000, "min_body_grace": 3}
    async with (
        ScriptedUpstream(hang(STARTS["chunked"])) as up,
        behind(way, up, wire, settings=settings) as fr,
    ):
        clock = Clock()
        talk = fr.talk()
        talk.begin("POST")
        talk.send(b"some")
        await talk.until(lambda talk: talk.body == b"half")
        if fault == "slow":
            await clock.advance(5, step=0.5)
            await talk.answer()
            assert talk.cut
            assert not talk.done
        else:
            talk.leave()
        await gone(up)
        await fr.rest()
        assert fr.upstream.open == 0
    assert lines_of(caplog) == []


# -- The application ---------------------------------------------------------------------------


@both
async def test_middlewares_and_error_handlers_see_the_errors(wire: Any) -> None:
    notes = Notes()
    app = Kyoukai("front", middleware=notes)

    @app.errorhandler(502)
    async def bad(ctx: Any, error: Any) -> Any:
        return f"own page: {type(error).__name__} {type(error.__cause__).__name__}", 502

    @app.errorhandler(504)
    async def late(ctx: Any, error: Any) -> Any:
        return "from the cache", 200

    async with ScriptedUpstream(cut()) as up:
        app.mount("/", Proxy(up.url, read_timeout=5, max_connections=1))
        async with front(app, wire) as fr:
            talk = await fr.ask("POST")
            assert (talk.status, talk.body) == (502, b"own page: BadGateway UpstreamError")
            up.answer = hang()
            clock = Clock()
            talk = fr.talk()
            talk.ask("POST")
            await up.wait(lambda: len(up.requests) == 2)
            second = fr.talk()
            second.ask("POST")
            await clock.advance(4.9, step=1)
            await clock.advance(0.3)
            assert await talk.answer() == 200
            assert talk.body == b"from the cache"
            assert await second.answer() in (503, 504, 200)
    assert notes.statuses[:2] == [502, 200]
    assert type(notes.errors[0]).__name__ in ("UpstreamError", "BadGateway")


@both
@ways
async def test_busy(wire: Any, way: str) -> None:
    async with (
        ScriptedUpstream(hang()) as up,
        behind(way, up, wire, max_connections=1, connect_timeout=3) as fr,
    ):
        first, second = fr.talk(), fr.talk()
        first.ask()
        await up.wait(lambda: up.requests)
        second.ask()
        await Clock().advance(3.1, step=1)
        assert await second.answer() == 503
        assert int(second.headers["retry-after"]) >= 1


# -- The proxy's own end -----------------------------------------------------------------------


@both
@ways
@pytest.mark.parametrize("patient", [True, False])
async def test_the_proxy_stops_with_a_request_in_progress(
    wire: Any, way: str, patient: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for the answer; and where it does not, the server's connection is closed too."""
    go = asyncio.Event()

    async def answer(seen: Seen, up: Wire) -> bytes:
        if patient:
            await go.wait()
            return OK
        await up.read()
        raise ConnectionResetError

    async with ScriptedUpstream() as up, behind(way, up, wire) as fr:
        up.answer = answer
        talk = fr.talk()
        talk.ask()
        await up.wait(lambda: up.requests)
        connections = fr.server.connections
        connections.shutdown()
        idle = asyncio.create_task(connections.wait_idle())
        await turns(20)
        assert not idle.done()
        if patient:
            go.set()
            assert await talk.answer() == 200
            assert talk.done
            assert talk.body == b"ok"
        else:
            connections.abort()
            await talk.answer()
            assert talk.cut
            await gone(up)
        if wire is Http1Talk:
            talk.leave()
        else:
            talk.transport.feed_eof()
        async with asyncio.timeout(5):
            await idle
        await fr.rest()
    assert lines_of(caplog) == []


# -- Killed and started again ------------------------------------------------------------------


@both
@ways
async def test_killed_and_started_again_under_load(
    wire: Any, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While it is gone there are 502s and nothing else, none of them late; and then it is back."""
    loop = asyncio.get_running_loop()
    seen: list[tuple[str, int, float, bytes]] = []
    phase = "up"
    stop = False

    async def client(number: int) -> None:
        turn = 0
        while not stop:
            turn += 1
            began, during = loop.time(), phase
            talk = fr.talk()
            talk.ask(("GET", "POST")[(number + turn) % 2], body=b"x" * (number * 3000))
            await talk.answer()
            assert talk.done
            assert not talk.cut
            if during == phase:
                seen.append((during, talk.status, loop.time() - began, talk.body))

    def count(name: str) -> int:
        return sum(each[0] == name for each in seen)

    async with (
        ScriptedUpstream() as up,
        behind(way, up, wire, connect_timeout=60, read_timeout=60) as fr,
    ):
        clients = [asyncio.create_task(client(number)) for number in range(6)]
        for name in ("up", "down", "up again", "down again", "up at last"):
            phase = name
            if "down" in name:
                await up.stop()
            elif name != "up":
                await up.start()
            while count(name) < 40:
                await turns(1)
                assert not any(each.done() for each in clients)
        stop = True
        await asyncio.gather(*clients)
        await fr.rest()
        # What was idle for a second carries no POST, so a pause of the machine adds connections.
        assert fr.upstream.open <= 6 or max(took for _, _, took, _ in seen) > 0.5
    for name, status, took, body in seen:
        assert status == (502 if "down" in name else 200), (name, status, body)
        assert took < 20  # who waits, waits for a time limit
    lines = [line for line in lines_of(caplog) if "no connection" in line]
    assert len(lines) == 2  # and not one for each request
    assert len(lines_of(caplog)) < 2 + 2 * 12  # those that were in progress
