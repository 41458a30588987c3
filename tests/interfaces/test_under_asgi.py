"""Kyoukai applications as ASGI applications: what only an ASGI server can see."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from talks import lines_of, turns
from under_ways import AsgiWay, answer_of, ask, hello, http_app, http_scope, talk

from kyoukai import HTTPRequestContext, Kyoukai, Response
from kyoukai.exceptions import StreamError
from kyoukai.interfaces.under_asgi import as_asgi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


# -- Bodies ----------------------------------------------------------------------------------------


class Server:
    """An ASGI server that counts what is asked of it, and waits when it is told to."""

    def __init__(
        self, application: Any, pieces: int = 0, size: int = 65536, **changes: Any
    ) -> None:
        self.asked = 0
        self.sent: list[dict[str, Any]] = []
        self.changed = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self._left = pieces
        self._piece = bytes(size)
        scope = http_scope(**{"method": "POST", **changes})
        self.gone = asyncio.Event()
        self.task = asyncio.create_task(application(scope, self.receive, self.send))

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        self.changed.set()
        if self._left:
            self._left -= 1
            return {"type": "http.request", "body": self._piece, "more_body": bool(self._left)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        await self.open.wait()
        self.sent.append(message)
        self.changed.set()


async def test_a_body_of_20_mb_is_asked_for_as_it_is_taken() -> None:
    most = 0

    async def count(ctx: HTTPRequestContext) -> str:
        nonlocal most
        size = 0
        async for chunk in ctx.request.chunks():
            size += len(chunk)
            most = max(most, server.asked * 65536 - size)
            await asyncio.sleep(0)
        return str(size)

    app = http_app(count, stream=True, max_body_size=None)
    server = Server(as_asgi(app), pieces=320)
    await server.task
    assert server.sent[-1]["body"] == b"%d" % (20 * 1024 * 1024)
    assert most <= 3 * 65536


async def test_a_body_that_nobody_takes_is_not_asked_for() -> None:
    release = asyncio.Event()

    async def wait(ctx: HTTPRequestContext) -> str:
        await release.wait()
        return "done"

    server = Server(as_asgi(http_app(wait, stream=True)), pieces=100)
    await turns()
    assert server.asked == 1
    release.set()
    await server.task
    assert server.sent[-1]["body"] == b"done"


async def test_a_body_that_the_client_holds_back_is_asked_for_when_it_is_wanted() -> None:
    wanted = asyncio.Event()

    async def wait(ctx: HTTPRequestContext) -> str:
        await wanted.wait()
        return str(len(await ctx.request.read_async()))

    headers = [(b"expect", b"100-continue"), (b"content-length", b"65536")]
    server = Server(as_asgi(http_app(wait, stream=True)), pieces=1, headers=headers)
    await turns()
    assert server.asked == 0
    wanted.set()
    await server.task
    assert server.sent[-1]["body"] == b"65536"


async def test_a_body_can_be_read_after_the_head_of_the_answer() -> None:
    async def echo(ctx: HTTPRequestContext) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"head"
            yield await ctx.request.read_async()

        return Response(parts())

    headers = [(b"expect", b"100-continue"), (b"content-length", b"3")]
    server = Server(as_asgi(http_app(echo, stream=True)), pieces=1, size=3, headers=headers)
    await server.task
    assert [message.get("body") for message in server.sent] == [None, b"head", bytes(3), b""]


async def test_over_http2_the_end_of_a_request_without_a_body_comes_before_its_answer() -> None:
    """There are servers that close the connection if it comes later."""
    application = as_asgi(http_app(hello))
    for method, headers in (("GET", []), ("POST", [(b"content-length", b"0")])):
        communicator = talk(application, method=method, headers=headers, http_version="2")
        assert not communicator.future.done()
        await turns()
        assert communicator.output_queue.empty()
        await communicator.send_input({"type": "http.request"})
        assert (await answer_of(communicator)).body == b"hello"
        communicator = talk(application, method=method, headers=headers, http_version="2")
        await communicator.send_input({"type": "http.disconnect"})
        await communicator.wait()
        assert communicator.output_queue.empty()


async def test_over_http2_an_answer_may_begin_before_the_body() -> None:
    async def echo(ctx: HTTPRequestContext) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"begin"
            async for chunk in ctx.request.chunks():
                yield chunk

        return Response(parts())

    communicator = talk(as_asgi(http_app(echo, stream=True)), method="POST", http_version="2")
    assert (await communicator.receive_output())["status"] == 200
    assert (await communicator.receive_output())["body"] == b"begin"
    await communicator.send_input({"type": "http.request", "body": b"1", "more_body": True})
    assert (await communicator.receive_output())["body"] == b"1"
    await communicator.send_input({"type": "http.request", "body": b"2"})
    assert (await communicator.receive_output())["body"] == b"2"
    assert (await communicator.receive_output())["more_body"] is False
    await communicator.wait()


async def test_a_receive_that_fails_ends_the_request_and_is_raised() -> None:
    cancelled = asyncio.Event()

    async def wait(ctx: HTTPRequestContext) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return ""

    async def receive() -> dict[str, Any]:
        raise RuntimeError("the middleware has had enough")

    async def send(message: dict[str, Any]) -> None:
        raise AssertionError(message)

    application = as_asgi(http_app(wait))
    with pytest.raises(RuntimeError, match="had enough"):
        await application(http_scope(), receive, send)
    assert cancelled.is_set()


# -- Answers ---------------------------------------------------------------------------------------


async def test_a_slow_client_makes_the_handler_wait() -> None:
    made = 0

    async def endless(ctx: HTTPRequestContext) -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bytes(1000)

    server = Server(as_asgi(http_app(endless)), method="GET")
    server.open.clear()
    await turns()
    assert made == 1
    server.open.set()
    while len(server.sent) < 100:
        server.changed.clear()
        await server.changed.wait()
    server.open.clear()
    before = made
    await turns()
    assert made <= before + 1
    server.gone.set()
    await server.task


async def test_the_head_is_sent_before_the_first_piece_is_made() -> None:
    release = asyncio.Event()

    async def late(ctx: HTTPRequestContext) -> AsyncIterator[bytes]:
        await release.wait()
        yield b"late"

    server = Server(as_asgi(http_app(late)), method="GET")
    while not server.sent:
        server.changed.clear()
        await server.changed.wait()
    assert [message["type"] for message in server.sent] == ["http.response.start"]
    release.set()
    await server.task
    assert server.sent[1]["body"] == b"late"


async def test_a_client_that_hangs_up_cancels_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    log = []
    began = asyncio.Event()

    async def wait(ctx: HTTPRequestContext) -> str:
        ctx.add_teardown_callback(lambda: log.append("context closed"))
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        return ""

    server = Server(as_asgi(http_app(wait)), method="GET")
    await began.wait()
    server.gone.set()
    await server.task
    assert log == ["cancelled", "context closed"]
    assert server.sent == []
    assert lines_of(caplog) == []


async def test_a_handler_may_live_on_without_its_client() -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    log = []

    async def wait(ctx: HTTPRequestContext) -> str:
        began.set()
        await ctx.disconnected()
        await go_on.wait()
        log.append("done")
        return ""

    server = Server(as_asgi(http_app(wait, cancel_on_disconnect=False)), method="GET")
    await began.wait()
    server.gone.set()
    await turns()
    go_on.set()
    await server.task
    assert log == ["done"]


async def test_a_send_that_says_that_the_client_is_gone_ends_the_handler() -> None:
    ended = asyncio.Event()

    async def endless(ctx: HTTPRequestContext) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1000)
        finally:
            ended.set()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    sent = []

    async def send(message: dict[str, Any]) -> None:
        if len(sent) == 3:
            raise ConnectionResetError
        sent.append(message["type"])

    await as_asgi(http_app(endless))(http_scope(), receive, send)
    assert ended.is_set()
    assert len(sent) == 3


async def test_a_head_that_the_server_does_not_take_ends_the_request() -> None:
    async def letters(ctx: HTTPRequestContext) -> AsyncIterator[str]:
        while True:
            yield "x"

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        raise RuntimeError("the server does not like it")

    with pytest.raises(RuntimeError, match="does not like"):
        await as_asgi(http_app(letters))(http_scope(), receive, send)


async def test_a_server_that_waits_no_longer_cancels_the_handler() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait(ctx: HTTPRequestContext) -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    server = Server(as_asgi(http_app(wait, cancel_on_disconnect=False)), method="GET")
    await began.wait()
    server.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server.task
    assert ended.is_set()


async def test_an_answer_that_is_not_whole_is_an_exception_for_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def breaks(ctx: HTTPRequestContext) -> AsyncIterator[bytes]:
        yield b"some"
        raise LookupError("of it")

    communicator = talk(as_asgi(http_app(breaks)))
    await communicator.send_input({"type": "http.request"})
    assert (await communicator.receive_output())["status"] == 200
    assert (await communicator.receive_output())["body"] == b"some"
    with pytest.raises(StreamError, match="the server must close this connection"):
        await communicator.wait()
    assert "of it" in caplog.text


async def test_a_body_that_is_shorter_than_it_says_is_not_ended() -> None:
    async def short(ctx: HTTPRequestContext) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"12345"

        return Response(parts(), headers={"Content-Length": "10"})

    communicator = talk(as_asgi(http_app(short)))
    await communicator.send_input({"type": "http.request"})
    assert (b"content-length", b"10") in (await communicator.receive_output())["headers"]
    assert (await communicator.receive_output())["more_body"]
    with pytest.raises(StreamError):
        await communicator.wait()


async def test_a_handler_that_cancels_itself_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def cancels(ctx: HTTPRequestContext) -> str:
        raise asyncio.CancelledError

    answer = await ask(as_asgi(http_app(cancels)))
    assert answer.status == 500
    assert "(GET '/') failed" in caplog.text
    assert "asyncio.exceptions.CancelledError" in caplog.text


async def test_early_hints_and_trailers_go_to_a_server_that_knows_them() -> None:
    async def rich(ctx: HTTPRequestContext) -> Response:
        await ctx.early_hints(["</style.css>; rel=preload"])

        async def parts() -> AsyncIterator[bytes]:
            yield b"x"
            ctx.trailers["X-Sum"] = "1"

        return Response(parts())

    both = {"http.response.trailers": {}, "http.response.early_hint": {}}
    answer = await ask(as_asgi(http_app(rich)), extensions=both)
    assert answer.body == b"x"
    assert answer.others == [
        {"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]},
        {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]},
    ]
    answer = await ask(as_asgi(http_app(rich)))
    assert (answer.status, answer.body, answer.others) == (200, b"x", [])


# -- Other frameworks around it --------------------------------------------------------------------


async def test_below_starlettes_mount() -> None:
    app = Kyoukai("test")

    @app.route("/where/<path:rest>")
    async def where(ctx: HTTPRequestContext, rest: str) -> str:
        return f"{ctx.request.root_path}|{rest}|{ctx.url_for('where', rest='x')}"

    outer = Starlette(routes=[Mount("/kyoukai", app=as_asgi(app))])
    answer = await ask(outer, target="/kyoukai/where/a%20b")
    assert answer.body == b"/kyoukai|a b|/kyoukai/where/x"
    answer = await ask(outer, target="/pre/kyoukai/where/a", root_path="/pre")
    assert answer.body == b"/pre/kyoukai|a|/pre/kyoukai/where/x"


async def test_what_an_outer_middleware_says_is_seen_by_the_handler() -> None:
    user: ContextVar[str] = ContextVar("user")

    async def who(ctx: HTTPRequestContext) -> str:
        return user.get()

    inner = as_asgi(http_app(who))

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        user.set("ada")
        await inner(scope, receive, send)

    async with AsgiWay(http_app(hello)):
        assert (await ask(outer)).body == b"ada"
