"""The last steps of a response: order, failures, conditional requests, ranges, headers."""

from __future__ import annotations

import asyncio
import gzip
import logging
from typing import TYPE_CHECKING, Any

import pytest
from exchanges import HANDSHAKE, WIRES, exchange
from upstreams import ScriptedUpstream
from werkzeug.exceptions import NotFound

from kyoukai import HTTPRequestContext, Kyoukai, Middleware, Proxy, Request, Response
from kyoukai.exceptions import ConfigurationError, PeerGone
from kyoukai.pipeline import RequestPipeline
from kyoukai.security_headers import DEFAULT_SECURITY_HEADERS
from kyoukai.testing import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from exchanges import Exchange

BEFORE = "Tue, 20 Oct 2015 07:28:00 GMT"
MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"
AFTER = "Thu, 22 Oct 2015 07:28:00 GMT"
BODY = b"0123456789"


def app_with(response: Any, **options: Any) -> Kyoukai:
    """Return an application that answers with what a function makes."""
    app = Kyoukai("test", **options)

    @app.route("/", methods=["GET", "POST"])
    async def handler(ctx: HTTPRequestContext) -> Any:
        return response()

    return app


def document(status: int = 200, etag: str | None = '"v1"', modified: str | None = MODIFIED) -> Any:
    headers = {"Set-Cookie": "a=1", "Content-Type": "text/x"}
    if etag is not None:
        headers["ETag"] = etag
    if modified is not None:
        headers["Last-Modified"] = modified
    return lambda: Response(BODY, status, headers)


async def it_later() -> AsyncIterator[bytes]:
    yield b"i"
    yield b"t"


async def ask(made: Any, headers: dict[str, str], method: str = "GET", **more: Any) -> Exchange:
    return await exchange(app_with(made), "/", method, headers, **more)


# -- Conditional requests ----------------------------------------------------------------------

CONDITIONS: list[tuple[dict[str, str], int]] = [
    ({"If-None-Match": '"v1"'}, 304),
    ({"If-None-Match": 'W/"v1"'}, 304),
    ({"If-None-Match": '"a", W/"b", "v1"'}, 304),
    ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": '"v2"'}, 200),
    ({"If-None-Match": '"v2"', "If-Modified-Since": MODIFIED}, 200),
    ({"If-None-Match": '"v1"', "If-Modified-Since": BEFORE}, 304),
    ({"If-Modified-Since": MODIFIED}, 304),
    ({"If-Modified-Since": AFTER}, 304),
    ({"If-Modified-Since": BEFORE}, 200),
    ({"If-Modified-Since": "yesterday"}, 200),
    ({"If-Match": '"v1"'}, 200),
    ({"If-Match": '"a", "v1"'}, 200),
    ({"If-Match": "*"}, 200),
    ({"If-Match": '"v2"'}, 412),
    ({"If-Match": 'W/"v1"'}, 412),
    ({"If-Match": '"v1"', "If-Unmodified-Since": BEFORE}, 200),
    ({"If-Unmodified-Since": MODIFIED}, 200),
    ({"If-Unmodified-Since": BEFORE}, 412),
    ({"If-Unmodified-Since": "yesterday"}, 200),
    ({"If-Match": '"v1"', "If-None-Match": '"v1"'}, 304),
    ({"If-Match": '"v2"', "If-None-Match": '"v1"'}, 412),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("headers", "status"), CONDITIONS)
async def test_conditions(headers: dict[str, str], status: int, method: str) -> None:
    answer = await ask(document(), headers, method)
    assert answer.status == status
    assert answer.headers["Set-Cookie"] == "a=1"
    assert answer.headers.get("ETag") == (None if status == 412 else '"v1"')
    if status == 200:
        assert answer.body == (BODY if method == "GET" else b"")
        assert answer.headers["Content-Length"] == "10"
        assert answer.headers["Accept-Ranges"] == "bytes"
    elif status == 304:
        assert answer.body == b""
        assert not {"Content-Length", "Content-Type"} & set(answer.headers.keys())
    else:
        assert "Last-Modified" not in answer.headers
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert int(answer.headers["Content-Length"]) > 50
        assert (b"Precondition Failed" in answer.body) == (method == "GET")


@pytest.mark.parametrize(
    ("etag", "modified", "headers", "status"),
    [
        ('W/"v1"', None, {"If-None-Match": '"v1"'}, 304),
        ('W/"v1"', None, {"If-Match": '"v1"'}, 412),
        (None, MODIFIED, {"If-Match": '"v1"'}, 412),
        (None, MODIFIED, {"If-Match": "*"}, 200),
        (None, MODIFIED, {"If-None-Match": '"v1"', "If-Modified-Since": MODIFIED}, 200),
        (None, MODIFIED, {"If-Modified-Since": MODIFIED}, 304),
        ('"v1"', None, {"If-Modified-Since": MODIFIED}, 200),
        ('"v1"', None, {"If-Unmodified-Since": BEFORE}, 200),
        ('"v1"', "once", {"If-Unmodified-Since": BEFORE}, 200),
        (None, None, {"If-None-Match": "*", "If-Match": '"v1"'}, 200),
    ],
)
async def test_conditions_on_one_validator(
    etag: str | None, modified: str | None, headers: dict[str, str], status: int
) -> None:
    assert (await ask(document(etag=etag, modified=modified), headers)).status == status


@pytest.mark.parametrize("status", [201, 404, 301, 500])
async def test_conditions_are_for_what_would_succeed(status: int) -> None:
    answer = await ask(document(status), {"If-None-Match": "*"})
    assert answer.status == (304 if status < 300 else status)


async def test_conditions_of_other_methods_are_the_handlers() -> None:
    """What a POST does has been done: it must not be said that it has failed."""
    answer = await ask(document(), {"If-Match": '"v2"', "If-None-Match": "*"}, "POST")
    assert (answer.status, answer.body) == (200, BODY)
    assert "Accept-Ranges" not in answer.headers


async def test_streamed_answers_are_left_alone() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield BODY

    made = lambda: Response(pieces(), headers={"ETag": '"v1"'})  # noqa: E731
    answer = await ask(made, {"If-None-Match": '"v1"', "Range": "bytes=0-1"})
    assert (answer.status, answer.body) == (200, BODY)


@pytest.mark.parametrize("wire", WIRES)
async def test_both_wires(wire: str) -> None:
    assert (await ask(document(), {"If-None-Match": "*"}, wire=wire)).status == 304
    answer = await ask(document(), {"Range": "bytes=-3"}, wire=wire)
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (206, b"789", "3")
    answer = await ask(document(), {"Range": "bytes=-3"}, "HEAD", wire=wire)
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "10")


# -- Ranges ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "part", "described"),
    [
        ("bytes=0-0", b"0", "bytes 0-0/10"),
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=7-99", b"789", "bytes 7-9/10"),
        ("bytes=-4", b"6789", "bytes 6-9/10"),
        ("bytes=-99", BODY, "bytes 0-9/10"),
        ("BYTES=0-1", b"01", "bytes 0-1/10"),
    ],
)
async def test_ranges(value: str, part: bytes, described: str) -> None:
    answer = await ask(document(), {"Range": value})
    assert (answer.status, answer.body) == (206, part)
    assert answer.headers["Content-Range"] == described
    assert answer.headers["Content-Length"] == str(len(part))
    assert (answer.headers["ETag"], answer.headers["Content-Type"]) == ('"v1"', "text/x")


@pytest.mark.parametrize("value", ["bytes=10-", "bytes=10-12", "bytes=99-100"])
async def test_ranges_that_are_not_there(value: str) -> None:
    answer = await ask(document(), {"Range": value})
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */10")
    assert b"Requested Range Not Satisfiable" in answer.body
    assert "ETag" not in answer.headers


@pytest.mark.parametrize(
    "value", ["bytes=0-1,4-5", "lines=0-1", "bytes=4-2", "bytes=-0", "bytes", "0-1", "bytes=a-b"]
)
async def test_ranges_that_get_the_whole(value: str) -> None:
    answer = await ask(document(), {"Range": value})
    assert (answer.status, answer.body) == (200, BODY)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ('"v1"', 206),
        ('"v2"', 200),
        ('W/"v1"', 200),
        (MODIFIED, 206),
        (AFTER, 200),
        (BEFORE, 200),
        ("v1", 200),
    ],
)
async def test_if_range(value: str, status: int) -> None:
    answer = await ask(document(), {"Range": "bytes=0-1", "If-Range": value})
    assert (answer.status, answer.body) == (status, BODY[:2] if status == 206 else BODY)
    assert (await ask(document(), {"If-Range": value})).status == 200


@pytest.mark.parametrize(
    "made",
    [
        document(etag=None, modified=None),
        document(404),
        document(206),
        lambda: Response(BODY, headers={"ETag": '"v1"', "Accept-Ranges": "none"}),
        lambda: Response(b"", headers={"ETag": '"v1"'}),
    ],
)
async def test_where_no_range_is_cut(made: Any) -> None:
    plain = await ask(made, {})
    answer = await ask(made, {"Range": "bytes=2-3"})
    assert (answer.status, answer.body) == (plain.status, plain.body)
    assert "Content-Range" not in answer.headers


async def test_a_condition_comes_before_a_range() -> None:
    assert (await ask(document(), {"Range": "bytes=0-1", "If-None-Match": "*"})).status == 304
    assert (await ask(document(), {"Range": "bytes=99-", "If-Match": '"a"'})).status == 412
    answer = await ask(document(etag='W/"v1"'), {"Range": "bytes=0-1", "If-Range": 'W/"v1"'})
    assert answer.status == 200


@pytest.mark.parametrize(
    ("asked", "status", "digests"),
    [
        ({}, 200, {"Content-Digest", "Content-MD5", "Digest", "Repr-Digest"}),
        ({"Range": "bytes=0-1"}, 206, {"Digest", "Repr-Digest"}),
        ({"Range": "bytes=99-"}, 416, set()),
        ({"If-Match": '"v2"'}, 412, set()),
    ],
)
async def test_a_digest_is_of_what_is_sent(
    asked: dict[str, str], status: int, digests: set[str]
) -> None:
    known = dict.fromkeys(("Content-Digest", "Content-MD5", "Digest", "Repr-Digest"), "x")
    answer = await ask(lambda: (BODY.decode(), {"ETag": '"v1"', **known}), asked)
    assert (answer.status, known.keys() & set(answer.headers.keys())) == (status, digests)


async def test_pieces_of_text_are_counted_in_bytes() -> None:
    made = lambda: Response(["h\u00e9", "llo"], headers={"ETag": '"v1"'})  # noqa: E731
    answer = await ask(made, {"Range": "bytes=1-3"})
    assert (answer.body, answer.headers["Content-Range"]) == (b"\xc3\xa9l", "bytes 1-3/6")


# -- Steps of one's own ------------------------------------------------------------------------


def with_steps(*steps: Any, keep: bool = True) -> type[RequestPipeline]:
    class Own(RequestPipeline):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.finalizers = (*self.finalizers, *steps) if keep else steps

    return Own


async def mark(response: Response, request: Request) -> None:
    response.headers["X-Mark"] = request.path


@pytest.mark.parametrize("path", ["/", "/missing"])
async def test_a_step_sees_every_answer(path: str) -> None:
    app = app_with(lambda: "plain", pipeline_class=with_steps(mark))
    assert (await exchange(app, path)).headers["X-Mark"] == path
    answer = await exchange(app, "/", "OPTIONS")
    assert (answer.status, answer.headers["X-Mark"]) == (204, "/")


async def test_steps_may_be_taken_away() -> None:
    app = app_with(document(), pipeline_class=with_steps(keep=False))
    assert (await exchange(app, "/", headers={"If-None-Match": "*"})).status == 200


async def test_a_step_may_be_added_to_a_pipeline_at_work() -> None:
    app = app_with(lambda: "plain")
    async with Client(app) as client:
        pipeline = client.server.interface.pipeline  # type: ignore[attr-defined]
        assert "X-Mark" not in (await client.get("/")).headers
        pipeline.finalizers += (mark,)
        assert (await client.get("/")).headers["X-Mark"] == "/"
        pipeline.finalizers = (pipeline.apply_conditions,)
        assert "X-Mark" not in (await client.get("/")).headers
        with pytest.raises(AttributeError):
            pipeline.finalizers.append(mark)


async def test_a_step_may_be_a_plain_function_and_put_another_response_in_place() -> None:
    seen = []

    def another(response: Response, request: Request) -> Response:
        seen.append((response.get_data(), request.method))
        return Response("another", 203)

    answer = await exchange(app_with(lambda: "it", pipeline_class=with_steps(another)), "/")
    assert (answer.status, answer.body, seen) == (203, b"another", [(b"it", "GET")])


async def test_steps_come_last(caplog: pytest.LogCaptureFixture) -> None:
    order = []

    class Noting(Middleware):
        async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None:
            order.append("middleware")

    async def step(response: Response, request: Request) -> None:
        order.append("step")

    app = app_with(lambda: "it", middleware=Noting(), pipeline_class=with_steps(step))
    await exchange(app, "/")
    assert order == ["middleware", "step"]


class Stranger(BaseException):
    """Something that is no Exception."""


async def spoil(response: Response) -> None:
    response.status_code = 299
    response.headers["X-Spoilt"] = "yes"
    response.headers.pop("X-Kept", None)
    response.set_data(b"spoilt")


async def spoils_and_fails(response: Response, request: Request) -> None:
    await spoil(response)
    raise ValueError("the step")


async def spoils_and_exits(response: Response, request: Request) -> None:
    await spoil(response)
    raise Stranger("the step")


async def spoils_and_returns_nonsense(response: Response, request: Request) -> Any:
    await spoil(response)
    return "the step"


def fails_in_a_thread(response: Response, request: Request) -> None:
    response.headers.clear()
    raise StopIteration("the step")


@pytest.mark.parametrize(
    "step", [spoils_and_fails, spoils_and_exits, spoils_and_returns_nonsense, fails_in_a_thread]
)
@pytest.mark.parametrize("made", [lambda: ("it", {"X-Kept": "1"}), lambda: Response(["i", "t"])])
@pytest.mark.parametrize("wire", WIRES)
async def test_a_step_that_fails_loses_nothing(
    step: Any, made: Any, wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = await exchange(app_with(made), "/", wire=wire)
    app = app_with(made, pipeline_class=with_steps(step, mark))
    answer = await exchange(app, "/", wire=wire)
    assert answer.headers.pop("X-Mark") == "/"  # the next step has its turn
    assert (answer.status, answer.body) == (plain.status, plain.body)
    assert sorted(answer.headers.keys()) == sorted(plain.headers.keys())
    assert f"finalizer {step.__qualname__} failed" in caplog.text
    assert "index" in caplog.text or "handler (GET '/')" in caplog.text


async def test_a_step_of_ours_that_fails_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(Response):
        def calculate_content_length(self) -> int:
            raise ValueError("odd")

    made = lambda: Odd(BODY, headers={"ETag": '"v1"'})  # noqa: E731
    settings = {"compress": True, "compress_types": ["*/*"], "compress_min_size": 0}
    answer = await ask(made, {"Accept-Encoding": "gzip"}, **settings)
    assert (answer.status, answer.body) == (200, BODY)
    for name in ("negotiate_encoding", "apply_conditions", "compress"):
        assert f"finalizer Finaliser.{name} failed" in caplog.text


async def test_what_ends_a_request_passes(caplog: pytest.LogCaptureFixture) -> None:
    async def step(response: Response, request: Request) -> None:
        raise PeerGone

    caplog.set_level(logging.DEBUG)
    answer = await exchange(app_with(lambda: "it", pipeline_class=with_steps(step)), "/")
    assert answer.status in (0, 500)
    assert "finalizer" not in caplog.text


async def test_a_step_is_cancelled_with_its_request(caplog: pytest.LogCaptureFixture) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def step(response: Response, request: Request) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    caplog.set_level(logging.DEBUG)
    async with Client(app_with(lambda: "it", pipeline_class=with_steps(step))) as client:
        connection = client.connect()
        connection.request("GET", "/")
        await started.wait()
        connection.close()
        await ended.wait()
    assert "finalizer" not in caplog.text


@pytest.mark.parametrize("in_thread", [False, True])
async def test_what_a_step_waits_for_may_be_cancelled(
    in_thread: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def step(response: Response, request: Request) -> None:
        response.headers["X-Lost"] = "1"
        shared = asyncio.get_running_loop().create_future()
        shared.cancel()  # as when another request had begun it, and its client left
        await shared

    def plain(response: Response, request: Request) -> None:
        raise asyncio.CancelledError

    steps = with_steps(plain if in_thread else step, mark)
    answer = await exchange(app_with(lambda: "it", pipeline_class=steps), "/")
    assert (answer.status, answer.body, answer.headers["X-Mark"]) == (200, b"it", "/")
    assert "X-Lost" not in answer.headers
    assert f"finalizer {(plain if in_thread else step).__qualname__} failed" in caplog.text


async def test_without_a_request_nothing_is_done() -> None:
    pipeline = pipeline_of(app_with(document()), security_headers="default")
    response = document()()
    assert await pipeline.finalize_response(response) is response
    assert "X-Frame-Options" not in response.headers


async def test_one_response_for_all_requests() -> None:
    """What is done to it for one request must not show in the next."""
    closed: list[int] = []
    kept = Response("The same again. " * 100, headers={"ETag": '"v1"'}, content_type="text/plain")
    kept.call_on_close(lambda: closed.append(1))
    app = app_with(lambda: kept)
    zipped = {"Accept-Encoding": "gzip"}
    async with Client(app, compress=True, security_headers="default") as client:
        first = await client.get("/")
        for headers in (
            {"If-None-Match": "*"},
            {"Range": "bytes=0-1"},
            {"If-Match": '"a"'},
            zipped,
        ):
            await client.get("/", headers=headers)
        last = await client.get("/")
        assert (await client.get("/", headers=zipped)).headers["Content-Encoding"] == "gzip"
    assert (last.status, last.body) == (first.status, first.body)
    assert sorted(last.headers.keys()) == sorted(first.headers.keys())
    assert (kept.status_code, kept.get_etag()) == (200, ("v1", False))
    assert len(closed) == 7


async def test_a_step_may_write_to_the_body() -> None:
    def made() -> Response:
        response = Response()
        response.stream.write("one")
        return response

    async def step(response: Response, request: Request) -> None:
        response.stream.write("two")

    answer = await exchange(app_with(made, pipeline_class=with_steps(step)))
    assert answer.body == b"onetwo"


# -- Date and HEAD -----------------------------------------------------------------------------


async def grow(response: Response, request: Request) -> None:
    response.set_data(response.get_data() + b"-and-more")
    response.headers["X-Grown"] = "1"


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("made", [lambda: "x" * 5000, document(), lambda: ("x", 404)])
async def test_head_gets_the_headers_of_get(made: Any, wire: str) -> None:
    app = app_with(made, pipeline_class=with_steps(grow))
    settings: dict[str, Any] = {"compress": True, "security_headers": "default", "wire": wire}
    get = await exchange(app, "/", headers={"Accept-Encoding": "gzip"}, **settings)
    head = await exchange(app, "/", "HEAD", {"Accept-Encoding": "gzip"}, **settings)
    assert (head.status, head.body) == (get.status, b"")
    assert "X-Grown" in head.headers
    assert int(head.headers["Content-Length"]) == len(get.body)
    assert "Date" in head.headers
    for headers in (get.headers, head.headers):
        headers.pop("Date")
    assert sorted(head.headers) == sorted(get.headers)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "made",
    [
        lambda: ("it", 205),
        lambda: (None, 205),
        lambda: Response("it", 205, {"Content-Length": "2"}),
        lambda: Response(it_later(), 205),
        lambda: Response(iter(["i", "t"]), 205, {"Content-Length": "2"}),
    ],
)
async def test_a_205_has_no_body(made: Any, method: str, wire: str) -> None:
    answer = await ask(made, {}, method, wire=wire)
    assert (answer.status, answer.body, answer.whole) == (205, b"", True)
    assert answer.headers["Content-Length"] == "0"


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("rewrites", [False, True])
@pytest.mark.parametrize(
    "framed",
    [b"Content-Length: 2\r\n\r\nit", b"Transfer-Encoding: chunked\r\n\r\n2\r\nit\r\n0\r\n\r\n"],
)
async def test_a_proxied_205_has_no_body(framed: bytes, rewrites: bool, wire: str) -> None:
    async with ScriptedUpstream(b"HTTP/1.1 205 Reset Content\r\n" + framed) as upstream:
        app = Kyoukai("front", middleware=Rewriting() if rewrites else ())
        app.mount("/", Proxy(upstream.url))
        answer = await exchange(app, "/", wire=wire)
    assert (answer.status, answer.body, answer.whole) == (205, b"", True)
    assert answer.headers["Content-Length"] == "0"


@pytest.mark.parametrize("wire", WIRES)
async def test_a_date_of_ones_own_stays_the_only_one(wire: str) -> None:
    async def dated(response: Response, request: Request) -> None:
        response.headers["Date"] = BEFORE

    app = app_with(lambda: "it", pipeline_class=with_steps(dated))
    assert (await exchange(app, "/", wire=wire)).headers.getlist("Date") == [BEFORE]


# -- Security headers --------------------------------------------------------------------------

HSTS = "Strict-Transport-Security: max-age=60"


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("path", ["/", "/missing", "/fails", "/streamed", "/unsendable"])
async def test_security_headers_are_everywhere(path: str, wire: str) -> None:
    app = app_with(lambda: "plain")

    @app.route("/fails")
    async def fails(ctx: HTTPRequestContext) -> None:
        raise ValueError

    @app.route("/streamed")
    async def streamed(ctx: HTTPRequestContext) -> Any:
        return iter(["a", "b"])

    @app.route("/unsendable")
    async def unsendable(ctx: HTTPRequestContext) -> Any:
        return "x", {"X-A": "\x01"}

    answer = await exchange(app, path, wire=wire, security_headers=["default", HSTS, "X-Own: a: b"])
    for name, value in DEFAULT_SECURITY_HEADERS:
        assert answer.headers.getlist(name) == [value]
    assert answer.headers["X-Own"] == "a: b"
    assert "Strict-Transport-Security" not in answer.headers


async def test_hsts_is_for_tls() -> None:
    app = app_with(lambda: "plain")
    https = {"X-Forwarded-Proto": "https"}
    answer = await exchange(app, "/", headers=https, security_headers=[HSTS])
    assert "Strict-Transport-Security" not in answer.headers
    settings: dict[str, Any] = {"security_headers": [HSTS], "trusted_proxies": "*"}
    answer = await exchange(app, "/", headers=https, **settings)
    assert answer.headers["Strict-Transport-Security"] == "max-age=60"


async def test_security_headers_give_way() -> None:
    made = lambda: ("x", {"x-frame-options": "DENY", "Referrer-Policy": ""})  # noqa: E731
    answer = await exchange(app_with(made), "/", security_headers="default")
    assert answer.headers.getlist("X-Frame-Options") == ["DENY"]
    assert answer.headers.getlist("Referrer-Policy") == [""]


async def test_a_default_may_be_changed_or_taken_away() -> None:
    lines = ["x-frame-options: DENY", "Referrer-Policy:", "default"]
    answer = await exchange(app_with(lambda: "x"), "/", security_headers=lines)
    assert answer.headers.getlist("X-Frame-Options") == ["DENY"]
    assert "Referrer-Policy" not in answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_denied_handshake_has_them_too() -> None:
    app = Kyoukai("test")

    @app.websocket("/")
    async def socket(ctx: Any, ws: Any) -> None:
        raise NotFound

    for own, status in (({}, 404), ({"Origin": "http://evil.example"}, 403)):
        answer = await exchange(app, "/", headers={**HANDSHAKE, **own}, security_headers="default")
        assert (answer.status, answer.headers["X-Frame-Options"]) == (status, "SAMEORIGIN")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nosniff", "security_headers: 'nosniff' is no 'Name: value', and not 'default'"),
        ("X A: 1", "security_headers: 'X A: 1' is no 'Name: value'"),
        ("X-A: a\r\nb: c", "is no 'Name: value'"),
        ("Content-Length: 1", "security_headers: Content-Length is the server's to send"),
    ],
)
def test_security_headers_that_cannot_be(line: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Client(Kyoukai("test"), security_headers=["default", line])


# -- Answers of a proxy's server ---------------------------------------------------------------


class Rewriting(Middleware):
    async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None:
        if ctx.request.args.get("rewrite"):
            response.set_data("another " * 500)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_proxied_answer_gets_headers_and_keeps_its_body(method: str, wire: str) -> None:
    text = b"the same again " * 200
    head = b'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: "v1"\r\nX-Frame-Options: DENY'
    upstream = ScriptedUpstream(b"%b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(text), text))
    if method == "HEAD":
        upstream = ScriptedUpstream(b"%b\r\nContent-Length: %d\r\n\r\n" % (head, len(text)))
    asked = {"Accept-Encoding": "gzip", "If-None-Match": '"v1"', "Range": "bytes=0-1"}
    settings: dict[str, Any] = {"compress": True, "security_headers": "default", "wire": wire}
    async with upstream:
        app = Kyoukai("front", pipeline_class=with_steps(mark, spoils_and_fails))
        app.mount("/", Proxy(upstream.url))
        answer = await exchange(app, "/a", method, asked, **settings)
    assert (answer.status, answer.body) == (200, text if method == "GET" else b"")
    assert answer.headers["Content-Length"] == str(len(text))
    assert (answer.headers["ETag"], answer.headers["X-Mark"]) == ('"v1"', "/a")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers.getlist("X-Frame-Options") == ["DENY"]
    assert not {"Vary", "Content-Encoding", "Accept-Ranges"} & set(answer.headers.keys())


async def test_a_proxied_answer_with_another_body_is_like_any_other() -> None:
    answered = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
    async with ScriptedUpstream(answered) as upstream:
        app = Kyoukai("front", middleware=Rewriting())
        app.mount("/", Proxy(upstream.url))
        headers = {"Accept-Encoding": "gzip"}
        answer = await exchange(app, "/?rewrite=1", headers=headers, compress=True)
    assert gzip.decompress(answer.body) == b"another " * 500


async def test_a_proxys_own_errors_are_finished_too() -> None:
    app = Kyoukai("front")
    async with ScriptedUpstream(b"") as upstream:
        pass  # nobody is there any more
    app.mount("/", Proxy(upstream.url))
    answer = await exchange(app, "/", security_headers="default")
    assert (answer.status, answer.headers["X-Frame-Options"]) == (502, "SAMEORIGIN")


# -- The short way -----------------------------------------------------------------------------


def pipeline_of(app: Kyoukai, **settings: Any) -> Any:
    return Client(app, **settings).server.interface.pipeline  # type: ignore[attr-defined]


def test_only_what_is_set_costs_plain_answers_anything(tmp_path: Any) -> None:
    app = Kyoukai("test")
    (tmp_path / "page.html").write_text("$status")
    assert not pipeline_of(app)._finalizes_all
    assert not pipeline_of(app, error_pages={404: str(tmp_path / "page.html")})._finalizes_all
    assert not pipeline_of(with_own(keep=False))._finalizes_all
    assert pipeline_of(app, compress=True)._finalizes_all
    assert pipeline_of(app, security_headers="default")._finalizes_all
    assert pipeline_of(with_own(mark))._finalizes_all
    assert not pipeline_of(Kyoukai("test", debug=True))._lean


def with_own(*steps: Any, keep: bool = True) -> Kyoukai:
    return Kyoukai("test", pipeline_class=with_steps(*steps, keep=keep))


class OwnSecurity(RequestPipeline):
    async def add_security_headers(self, response: Response, request: Request) -> None:
        await super().add_security_headers(response, request)
        response.headers["X-Own"] = "1"


class Slow(RequestPipeline):
    """Takes no short way."""

    async def get_request(self, stream: Any) -> Request:
        return await super().get_request(stream)


PLAIN_SETTINGS: list[dict[str, Any]] = [
    {},
    {"security_headers": "default"},
    {"security_headers": ["default", "Content-Type: x", "Allow: y"]},
    {"compress": True},
    {"compress": True, "compress_min_size": 1, "security_headers": "default"},
]


@pytest.mark.parametrize("settings", PLAIN_SETTINGS)
@pytest.mark.parametrize("made", [lambda: "x" * 3000, lambda: {"a": 1}, lambda: None, lambda: b""])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
async def test_both_ways_end_alike(made: Any, settings: dict[str, Any], method: str) -> None:
    answers = []
    for pipeline_class in (RequestPipeline, Slow):
        app = app_with(made, pipeline_class=pipeline_class)
        async with Client(app, **settings) as client:
            for _ in range(2):
                answer = await client.request(method, "/", headers={"Accept-Encoding": "gzip"})
                headers = sorted((name.lower(), value) for name, value in answer.headers)
                answers.append((answer.status, answer.body, headers))
    first = answers[0]
    assert all(each[:2] == first[:2] for each in answers)
    for _, _, headers in answers:
        assert [each for each in headers if each[0] != "date"] == [
            each for each in first[2] if each[0] != "date"
        ]


async def test_a_step_that_is_overridden_is_called_for_plain_answers() -> None:
    app = app_with(lambda: "plain", pipeline_class=OwnSecurity)
    answer = await exchange(app, security_headers="default")
    assert (answer.headers["X-Own"], answer.headers["X-Frame-Options"]) == ("1", "SAMEORIGIN")
