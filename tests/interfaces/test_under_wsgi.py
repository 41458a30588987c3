"""Kyoukai applications as WSGI applications: what only a WSGI server can see."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest
from talks import lines_of
from under_ways import call, environ_of, hello, http_app

from kyoukai import HTTPRequestContext, Kyoukai, Response
from kyoukai.exceptions import KyoukaiError, StreamError
from kyoukai.interfaces.under_wsgi import as_wsgi
from kyoukai.testing import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asphalt.core import Context


#: How long another thread may take, in seconds: only a test that fails waits so long.
SOON = 10


def begin(application: Any, environ: dict[str, Any] | None = None) -> tuple[list[Any], Any]:
    """Call an application; return what it said of its head, and its body."""
    head: list[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        head.extend((status, headers))
        return lambda data: None

    body = validator(application)(environ or environ_of(), start_response)
    return head, iter(body)


# -- Life ------------------------------------------------------------------------------------------


def app_with_a_log() -> tuple[Kyoukai, list[str]]:
    app = http_app(hello)
    log: list[str] = []

    @app.before_serving
    async def before(ctx: Context) -> None:
        log.append("up")

    @app.after_serving
    async def after(ctx: Context) -> None:
        await asyncio.to_thread(log.append, "down")

    return app, log


def test_one_loop_answers_many_threads_and_ends_in_order() -> None:
    app, log = app_with_a_log()
    loops = set()

    @app.route("/loop")
    async def loop(ctx: HTTPRequestContext) -> str:
        loops.add((asyncio.get_running_loop(), threading.get_ident()))
        return "yes"

    application = as_wsgi(app)
    assert log == []
    with closing(application), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: call(application, environ_of()), range(50)))
        assert {answer.body for answer in answers} == {b"hello"}
        list(pool.map(lambda _: call(application, environ_of(target="/loop")), range(20)))
        assert log == ["up"]
    assert len(loops) == 1
    assert loops.pop()[1] != threading.get_ident()
    assert log == ["up", "down"]
    application.close()
    assert log == ["up", "down"]


def test_after_close_a_request_starts_it_again() -> None:
    app, log = app_with_a_log()
    application = as_wsgi(app)
    for _ in range(2):
        with closing(application):
            assert call(application, environ_of()).body == b"hello"
    assert log == ["up", "down"] * 2


def test_a_start_that_fails_is_raised_and_tried_again() -> None:
    app = http_app(hello)
    tries = []

    @app.before_serving
    async def before(ctx: Context) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("no database")

    application = as_wsgi(app)
    with closing(application):
        with pytest.raises(KyoukaiError, match="failed to start: OSError: no database"):
            call(application, environ_of())
        assert call(application, environ_of()).body == b"hello"


def test_a_loop_that_dies_answers_500_and_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    app = http_app(hello)
    waiting = threading.Event()

    @app.route("/waits")
    async def waits(ctx: HTTPRequestContext) -> str:
        waiting.set()
        await asyncio.Event().wait()
        return ""

    @app.route("/kills")
    async def kills(ctx: HTTPRequestContext) -> str:
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.Event().wait()
        return ""

    application = as_wsgi(app)
    with closing(application), ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, application, environ_of(target="/waits"))
        assert waiting.wait(SOON)
        assert call(application, environ_of(target="/kills")).status == 500
        assert first.result(SOON).status == 500
        assert "the loop of the application has ended" in caplog.text
        assert call(application, environ_of()).body == b"hello"


def test_requests_in_progress_end_before_the_application() -> None:
    app, log = app_with_a_log()
    waiting = threading.Event()

    @app.route("/waits")
    async def waits(ctx: HTTPRequestContext) -> str:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")
        return ""

    application = as_wsgi(app, settings={"graceful_timeout": 0})
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, application, environ_of(target="/waits"))
        assert waiting.wait(SOON)
        application.close()
        assert answer.result(SOON).status == 500
    assert log == ["up", "cancelled", "down"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_has_a_loop_of_its_own() -> None:
    async def where(ctx: HTTPRequestContext) -> str:
        return f"{os.getpid()}"

    application = as_wsgi(http_app(where))
    with closing(application):
        assert call(application, environ_of()).body == b"%d" % os.getpid()
        child = os.fork()
        if not child:  # pragma: no cover - in another process
            signal.alarm(SOON)  # a request to the parent's loop would wait for ever
            status = 1
            try:
                if call(application, environ_of()).body == b"%d" % os.getpid():
                    application.close()
                    status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert call(application, environ_of()).body == b"%d" % os.getpid()


# -- Bodies ----------------------------------------------------------------------------------------


class Input:
    """A ``wsgi.input`` that counts."""

    def __init__(self, size: int, fails: Exception | None = None) -> None:
        self.left = size
        self.given = 0
        self.threads: set[int] = set()
        self._fails = fails

    def read(self, size: int) -> bytes:
        self.threads.add(threading.get_ident())
        if self._fails is not None and not self.left:
            raise self._fails
        size = min(size, self.left)
        self.left -= size
        self.given += size
        return bytes(size)

    def readline(self, *args: Any) -> bytes:
        raise AssertionError

    readlines = __iter__ = readline


async def count(ctx: HTTPRequestContext) -> str:
    size = 0
    async for chunk in ctx.request.chunks():
        size += len(chunk)
    return str(size)


def test_a_body_of_20_mb_is_read_as_it_is_taken() -> None:
    size = 20 * 1024 * 1024
    source = Input(size)
    most = 0

    async def watch(ctx: HTTPRequestContext) -> str:
        nonlocal most
        taken = 0
        async for chunk in ctx.request.chunks():
            taken += len(chunk)
            most = max(most, source.given - taken)
            await asyncio.sleep(0)
        return str(taken)

    application = as_wsgi(http_app(watch, stream=True, max_body_size=None))
    environ = environ_of("POST", CONTENT_LENGTH=str(size))
    environ["wsgi.input"] = source
    with closing(application):
        assert call(application, environ).body == b"%d" % size
    assert most <= 65536
    assert source.threads == {threading.get_ident()}, "the server's input is the server's thread's"


@pytest.mark.parametrize(
    "changes, body",
    [
        ({}, b"0"),
        ({"wsgi.input_terminated": True}, b"200000"),
        ({"CONTENT_LENGTH": "150000"}, b"150000"),
        ({"CONTENT_LENGTH": "0"}, b"0"),
    ],
)
def test_where_a_body_ends(changes: dict[str, Any], body: bytes) -> None:
    environ = environ_of("POST", **changes)
    environ["wsgi.input"] = source = Input(200000)
    with closing(as_wsgi(http_app(count, stream=True))) as application:
        assert call(application, environ).body == body
    assert source.given == int(body), "nothing else is read"


def test_a_body_that_nobody_takes_is_not_read() -> None:
    environ = environ_of("POST", CONTENT_LENGTH="200000")
    environ["wsgi.input"] = source = Input(200000)
    with closing(as_wsgi(http_app(hello, stream=True))) as application:
        assert call(application, environ).body == b"hello"
    assert source.given == 0


def test_a_body_that_is_cut_is_a_400() -> None:
    environ = environ_of("POST", CONTENT_LENGTH="200000")
    environ["wsgi.input"] = Input(100000)
    with closing(as_wsgi(http_app(count))) as application:
        answer = call(application, environ)
    assert (answer.status, b"ended early" in answer.body) == (400, True)


def test_an_input_that_fails_cancels_the_handler_and_the_server_gets_its_error() -> None:
    cancelled = threading.Event()

    async def read(ctx: HTTPRequestContext) -> str:
        try:
            await ctx.request.read_async()
        finally:
            cancelled.set()
        return ""

    environ = environ_of("POST", CONTENT_LENGTH="200000")
    environ["wsgi.input"] = Input(70000, ConnectionResetError("the client has left"))
    with closing(as_wsgi(http_app(read, stream=True))) as application:
        with pytest.raises(ConnectionResetError, match="has left"):
            call(application, environ)
        assert cancelled.wait(SOON)


# -- Answers ---------------------------------------------------------------------------------------


def test_an_answer_is_made_no_faster_than_it_is_taken() -> None:
    made = 0
    stopped = threading.Event()

    async def endless(ctx: HTTPRequestContext) -> AsyncIterator[bytes]:
        nonlocal made
        try:
            while True:
                made += 1
                yield bytes(10000)
        finally:
            stopped.set()

    with closing(as_wsgi(http_app(endless))) as application:
        head, body = begin(application)
        assert head[0] == "200 OK"
        for _ in range(100):
            next(body)
        assert made <= 100 + 8
        body.close()
        assert stopped.wait(SOON), "a server that iterates no more has lost its client"


def test_a_server_that_closes_before_it_iterates_has_lost_its_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped = threading.Event()

    async def late(ctx: HTTPRequestContext) -> AsyncIterator[bytes]:
        yield b"first"
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    with closing(as_wsgi(http_app(late))) as application:
        _, body = begin(application)
        assert next(body) == b"first"
        body.close()
        assert stopped.wait(SOON)
    assert lines_of(caplog) == []


def test_an_answer_that_is_not_whole_raises(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks(ctx: HTTPRequestContext) -> AsyncIterator[bytes]:
        yield b"some"
        raise LookupError("of it")

    with closing(as_wsgi(http_app(breaks))) as application:
        _, body = begin(application)
        assert next(body) == b"some"
        with pytest.raises(StreamError, match="not whole"):
            next(body)
        body.close()
    assert "of it" in caplog.text


def test_a_start_response_that_fails_ends_the_handler() -> None:
    stopped = threading.Event()

    async def endless(ctx: HTTPRequestContext) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(100000)
        finally:
            stopped.set()

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        raise RuntimeError("the server does not like it")

    with closing(as_wsgi(http_app(endless))) as application:
        with pytest.raises(RuntimeError, match="does not like"):
            application(environ_of(), start_response)
        assert stopped.wait(SOON)


def test_statuses_have_reasons_and_headers_are_native_strings() -> None:
    async def odd(ctx: HTTPRequestContext) -> Response:
        response = Response("x", 299)
        response.headers["X-Name"] = "Zoë"
        response.headers["Proxy-Authenticate"] = "Basic"
        return response

    with closing(as_wsgi(http_app(odd))) as application:
        head, body = begin(application)
        assert next(body) == b"x"
        body.close()
    assert head[0] == "299 Unknown"
    assert ("x-name", "Zoë") in head[1]
    assert "proxy-authenticate" not in dict(head[1])


def test_early_hints_go_to_a_server_that_knows_them() -> None:
    async def hints(ctx: HTTPRequestContext) -> str:
        await ctx.early_hints(["</style.css>; rel=preload"])
        return "x"

    hinted: list[Any] = []
    with closing(as_wsgi(http_app(hints))) as application:
        environ = environ_of(**{"wsgi.early_hints": hinted.append})
        assert call(application, environ).body == b"x"
        assert call(application, environ_of()).body == b"x"
    assert hinted == [[("link", "</style.css>; rel=preload")]]


def test_what_an_outer_middleware_says_is_seen_by_the_handler() -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")

    async def who(ctx: HTTPRequestContext) -> str:
        return user.get()

    with closing(as_wsgi(http_app(who))) as application:
        assert call(application, environ_of()).body == b"nobody"
        token = user.set("ada")
        assert call(application, environ_of()).body == b"ada"
        user.reset(token)


def test_a_synchronous_handler_may_read_the_body_as_it_comes() -> None:
    def sums(ctx: HTTPRequestContext) -> str:
        return str(len(ctx.request.stream.read()))

    environ = environ_of("POST", CONTENT_LENGTH="300000")
    environ["wsgi.input"] = io.BytesIO(bytes(300000))
    with closing(as_wsgi(http_app(sums, stream=True))) as application:
        assert call(application, environ).body == b"300000"


async def test_below_our_own_wsgi_interface(caplog: pytest.LogCaptureFixture) -> None:
    app = http_app(hello)
    app.route("/count", methods=["POST"], stream=True)(count)
    application = as_wsgi(app)
    outer = Kyoukai("outer")
    outer.mount("/in", application, interface="wsgi")
    async with Client(outer, access_log=False) as client:
        assert (await client.get("/in/")).body == b"hello"
        assert (await client.post("/in/count", body=bytes(300000))).body == b"300000"
        assert (await client.get("/in/none")).status == 404
    await asyncio.to_thread(application.close)
    assert lines_of(caplog) == []
