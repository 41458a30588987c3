"""SSGI's ``res`` for HTTP: status, headers, body and chunks, in order and out of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns
from ssgi_peers import answered, each_peer, each_style, in_style, on_http, served
from talks import lines_of

from kyoukai.exceptions import InterfaceError, InvalidResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai.interfaces.ssgi import SSGIHttpResponse

# -- Whole answers -----------------------------------------------------------------------------


@each_peer
@each_style
async def test_status_headers_and_body(style: str, peer: str) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        res.send_headers([("Content-Type", "text/plain"), ("X-A", "1")])
        res.send_status(201)
        res.send_headers((("X-A", "é"),))
        assert not res.aborted
        res.send("Grüße")

    answer = await answered(in_style(style, work), peer)
    assert answer.status == 201
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.headers.getlist("X-A") == ["1", "é"]
    assert answer.headers["Content-Length"] == "7"
    assert answer.text == "Grüße"


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        ("text", b"text"),
        (b"bytes", b"bytes"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"a view"), b"a view"),
        (memoryview(b"a-view")[::2], b"ave"),
        (memoryview(bytes(8)).cast("I"), bytes(8)),
        ("", b""),
        (b"", b""),
        (None, b""),
    ],
)
@pytest.mark.parametrize("parts", [False, True])
async def test_payloads(payload: Any, body: bytes, parts: bool) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        if parts:
            assert await res.send(payload, True) is None
            assert await res.send(payload, has_more=None) is None
        else:
            assert await res.send(payload) is None

    answer = await answered(on_http(work))
    assert answer.status == 200
    assert answer.body == (2 * body if parts else body)
    assert "Content-Type" not in answer.headers


@pytest.mark.parametrize("call", ["send", "send_chunk"])
@pytest.mark.parametrize("payload", [7, ["a"], {"a": 1}, object(), "\ud800"])
async def test_payloads_of_another_type(call: str, payload: Any) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        with pytest.raises(InterfaceError, match=rf"^{call}\(\)"):
            getattr(res, call)(payload)
        res.send("fine")

    assert (await answered(on_http(work))).body == b"fine"


async def test_a_chunk_is_never_none() -> None:
    async def work(res: SSGIHttpResponse) -> None:
        with pytest.raises(InterfaceError, match="not NoneType"):
            res.send_chunk(None)  # type: ignore[arg-type]
        res.send(None)

    assert (await answered(on_http(work))).status == 200


@each_peer
@pytest.mark.parametrize("status", [200, 204, 304])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("how", ["whole", "parts", "chunks"])
async def test_answers_without_a_body(peer: str, status: int, method: str, how: str) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        res.send_status(status)
        if how == "whole":
            res.send("body")
        elif how == "parts":
            res.send("bo", True)
            res.send("dy")
        else:
            assert await res.send_chunk("bo", 4) == (True, False)
            assert await res.send_chunk("dy") == (True, True)

    async with served(on_http(work), peer) as client:
        for _ in range(2):  # the connection goes on
            client.request(method)
            answer = await client.response()
            assert answer.status == status
            assert answer.body == (b"body" if (status, method) == (200, "GET") else b"")


# -- Status and headers out of order -----------------------------------------------------------


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 600, -1, 200.0, "200", True])
async def test_a_status_that_is_none(status: Any) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        with pytest.raises(InterfaceError, match="status from 200 to 599"):
            res.send_status(status)
        res.send_status(418)
        res.send(None)

    assert (await answered(on_http(work))).status == 418


async def test_the_default_status() -> None:
    async def work(res: SSGIHttpResponse) -> None:
        res.send_status()
        res.send(None)

    assert (await answered(on_http(work))).status == 200

    async def none(res: SSGIHttpResponse) -> None:
        res.send_status(None)
        res.send(None)

    assert (await answered(on_http(none))).status == 200


def second_status(res: SSGIHttpResponse) -> None:
    res.send_status(200)
    res.send_status(404)


def late_status(res: SSGIHttpResponse) -> None:
    res.send("a", True)
    res.send_status(404)


def late_headers(res: SSGIHttpResponse) -> None:
    res.send("a", True)
    res.send_headers([("x", "y")])


def status_after_the_end(res: SSGIHttpResponse) -> None:
    res.send("a")
    res.send_status(404)


def headers_after_the_end(res: SSGIHttpResponse) -> None:
    res.send("a")
    res.send_headers([("x", "y")])


def send_twice(res: SSGIHttpResponse) -> None:
    res.send("a")
    res.send("b")


def send_after_the_end(res: SSGIHttpResponse) -> None:
    res.send("a", True)
    res.send(None)
    res.send(None)


def chunk_after_the_end(res: SSGIHttpResponse) -> None:
    res.send_chunk("abc", 3)
    res.send_chunk("")


def chunk_after_an_answer(res: SSGIHttpResponse) -> None:
    res.send("a")
    res.send_chunk("b", 1)


def more_than_total(res: SSGIHttpResponse) -> None:
    res.send_chunk("abc", 4)
    res.send_chunk("de")


def more_at_once(res: SSGIHttpResponse) -> None:
    res.send_chunk("abc", 2)


def another_total(res: SSGIHttpResponse) -> None:
    res.send_chunk("abc", 5)
    res.send_chunk("d", 6)


def negative_total(res: SSGIHttpResponse) -> None:
    res.send_chunk("abc", -1)


def total_true(res: SSGIHttpResponse) -> None:
    res.send_chunk("abc", True)


def less_than_total(res: SSGIHttpResponse) -> None:
    res.send_chunk("abc", 5)
    res.send(None)


def less_than_a_late_total(res: SSGIHttpResponse) -> None:
    res.send("ab", True)
    res.send_chunk("c", 5)
    res.send(None)


def more_than_a_late_total(res: SSGIHttpResponse) -> None:
    res.send("ab", True)
    res.send_chunk("c", 5)
    res.send("def")


def longer_than_declared(res: SSGIHttpResponse) -> None:
    res.send_headers([("Content-Length", "3")])
    res.send("ab", True)
    res.send("cd", True)


def shorter_than_declared(res: SSGIHttpResponse) -> None:
    res.send_headers([("content-length", "3")])
    res.send("ab", True)
    res.send(None)


def whole_and_not_as_declared(res: SSGIHttpResponse) -> None:
    res.send_headers([("content-length", "3")])
    res.send("abcd")


def total_and_another_length(res: SSGIHttpResponse) -> None:
    res.send_headers([("content-length", "3")])
    res.send_chunk("abcd", 4)


def bad_length(res: SSGIHttpResponse) -> None:
    res.send_headers([("content-length", "x")])
    res.send("abcd", True)


def split_header(res: SSGIHttpResponse) -> None:
    res.send_headers([("x", "a\r\n\r\nb")])


def wrong_handler(res: SSGIHttpResponse) -> None:
    res.on_aborted("handler")  # type: ignore[arg-type]


def wrong_work(res: SSGIHttpResponse) -> None:
    res.run_async("work")  # type: ignore[arg-type]


#: What breaks the rules, the rule as it is told, and whether the client has part of an answer.
BROKEN: list[tuple[Callable[..., Any], str, str]] = [
    (second_status, "send_status(404) after send_status(200)", "500"),
    (late_status, "send_status() after the head of the answer", "cut"),
    (late_headers, "send_headers() after the head of the answer", "cut"),
    (status_after_the_end, "send_status() after the head of the answer", "whole"),
    (headers_after_the_end, "send_headers() after the head of the answer", "whole"),
    (send_twice, "send() after the end of the answer", "whole"),
    (send_after_the_end, "send() after the end of the answer", "whole"),
    (chunk_after_the_end, "send_chunk() after the end of the answer", "whole"),
    (chunk_after_an_answer, "send_chunk() after the end of the answer", "whole"),
    (more_than_total, "send_chunk() of 5 bytes in all, with total_size 4", "cut"),
    (more_at_once, "send_chunk() of 3 bytes in all, with total_size 2", "500"),
    (another_total, "total_size was 5, and is now 6", "cut"),
    (negative_total, "total_size is a number of bytes, not -1", "500"),
    (total_true, "total_size is a number of bytes, not True", "500"),
    (less_than_total, "send(): the body is 2 bytes shorter than declared", "cut"),
    (less_than_a_late_total, "send(): the body is 2 bytes shorter than declared", "cut"),
    (more_than_a_late_total, "send(): the body is longer than declared", "cut"),
    (longer_than_declared, "send(): the body is longer than declared", "cut"),
    (shorter_than_declared, "send(): the body is 1 bytes shorter than declared", "cut"),
    (whole_and_not_as_declared, "the body has 4 bytes, its Content-Length says 3", "500"),
    (total_and_another_length, "total_size is 4, and the Content-Length 3", "500"),
    (bad_length, "content-length b'x' is no number, or not the only one", "500"),
    (split_header, "header 'x' has an illegal value b'a\\r\\n\\r\\nb'", "500"),
    (wrong_handler, "on_aborted() takes a callable, not str", "500"),
    (wrong_work, "run_async() cannot call str", "500"),
]


@each_peer
@each_style
@pytest.mark.parametrize(
    ("broken", "rule", "end"), BROKEN, ids=[broken.__name__ for broken, _, _ in BROKEN]
)
async def test_rules_are_told_where_they_are_broken_and_in_the_log(
    broken: Any, rule: str, end: str, style: str, peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    raised = []

    def work(res: SSGIHttpResponse) -> None:
        try:
            broken(res)
        except (InterfaceError, InvalidResponse) as error:
            raised.append(str(error))
            raise

    async def waiting(res: SSGIHttpResponse) -> None:
        work(res)

    application = on_http(work) if style == "sync" else in_style(style, waiting)
    async with served(application, peer) as client:
        client.request()
        if end == "cut":
            with pytest.raises(ConnectionError):
                await client.response()
        else:
            assert (await client.response()).status == (500 if end == "500" else 200)
        await turns()
    assert raised == [rule]
    assert lines_of(caplog) == [f"GET /: ssgi application site:app: {rule}"]


@each_peer
@pytest.mark.parametrize(
    "broken", [broken for broken, _, end in BROKEN if end == "500"], ids=lambda f: f.__name__
)
async def test_a_rule_that_was_broken_before_the_head_can_be_made_good(
    broken: Any, peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        with pytest.raises((InterfaceError, InvalidResponse)):
            broken(res)
        if broken is bad_length:
            raise ValueError  # its headers stay as they are
        res.send("abc")

    answer = await answered(on_http(work), peer)
    if broken is bad_length:
        assert answer.status == 500
    else:
        assert (answer.status, answer.body) == (200, b"abc")
        assert lines_of(caplog) == []


@each_peer
async def test_what_does_not_fit_its_length_is_not_sent(peer: str) -> None:
    """Not even the head of it."""

    async def work(res: SSGIHttpResponse) -> None:
        with pytest.raises(InterfaceError, match="total_size"):
            res.send_chunk("abcd", 3)
        res.send_headers([("Content-Length", "3")])
        with pytest.raises(InterfaceError, match="longer"):
            res.send("abcd", True)
        with pytest.raises(InterfaceError, match="another|is 4, and"):
            res.send_chunk("abcd", 4)
        res.send_headers([("x", "y")])  # so the head has not gone out
        res.send("ab", True)
        with pytest.raises(InterfaceError, match="longer"):
            res.send("cd", True)
        with pytest.raises(InterfaceError, match="1 bytes shorter"):
            res.send(None)
        res.send("c")

    answer = await answered(on_http(work), peer)
    assert (answer.body, answer.headers["x"]) == (b"abc", "y")


# -- Answers in parts --------------------------------------------------------------------------


@each_peer
@each_style
async def test_parts_go_out_in_order(style: str, peer: str) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        for number in range(100):
            res.send(f"{number} ", has_more=True)
        res.send(bytearray(b"end"))

    answer = await answered(in_style(style, work), peer)
    assert answer.text == " ".join([*map(str, range(100)), "end"])
    assert "Content-Length" not in answer.headers


@each_peer
async def test_a_head_goes_out_alone(peer: str) -> None:
    go_on = asyncio.Event()

    async def work(res: SSGIHttpResponse) -> None:
        res.send_headers([("x", "y")])
        await res.send(None, True)
        await go_on.wait()
        res.send(None)

    async with served(on_http(work), peer) as client:
        client.request()
        await turns()
        if peer == "http1":
            assert b"x: y\r\n" in client.transport.output
        else:
            assert client.exchanges[-1].response.headers["x"] == "y"
        go_on.set()
        assert (await client.response()).body == b""


@each_peer
async def test_declared_lengths_are_kept(peer: str) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        res.send_headers([("Content-Length", "6")])
        res.send("abc", True)
        res.send("def")

    answer = await answered(on_http(work), peer)
    assert (answer.body, answer.headers["Content-Length"]) == (b"abcdef", "6")


@each_peer
async def test_chunks_with_their_total(peer: str) -> None:
    outcomes = []

    async def work(res: SSGIHttpResponse) -> None:
        for chunk in ("abc", b"", bytearray(b"def"), memoryview(b"ghi")):
            outcomes.append(await res.send_chunk(chunk, 9))

    answer = await answered(on_http(work), peer)
    assert outcomes == [(True, False), (True, False), (True, False), (True, True)]
    assert (answer.body, answer.headers["Content-Length"]) == (b"abcdefghi", "9")


@each_peer
async def test_chunks_without_a_total(peer: str) -> None:
    async def work(res: SSGIHttpResponse) -> None:
        assert await res.send_chunk("abc") == (True, False)
        assert await res.send_chunk("def", None) == (True, False)
        assert await res.send_chunk("ghi", False) == (True, False)
        res.send(None)

    answer = await answered(on_http(work), peer)
    assert answer.body == b"abcdefghi"
    assert "Content-Length" not in answer.headers


async def test_a_total_that_is_known_late_counts_what_was_sent() -> None:
    async def work(res: SSGIHttpResponse) -> None:
        res.send("abc", True)
        assert await res.send_chunk("def") == (True, False)
        assert await res.send_chunk("ghi", 9) == (True, True)

    assert (await answered(on_http(work))).body == b"abcdefghi"


async def test_a_total_of_nothing() -> None:
    async def work(res: SSGIHttpResponse) -> None:
        assert await res.send_chunk("", 0) == (True, True)

    answer = await answered(on_http(work))
    assert (answer.body, answer.headers["Content-Length"]) == (b"", "0")


async def test_a_total_and_the_same_content_length() -> None:
    async def work(res: SSGIHttpResponse) -> None:
        res.send_headers([("Content-Length", "3")])
        assert await res.send_chunk("abc", 3) == (True, True)

    assert (await answered(on_http(work))).headers.getlist("Content-Length") == ["3"]
