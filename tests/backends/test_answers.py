"""Heads of answers as bytes."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from kyoukai.backends.answers import ResponseHeads, http_date, refusal, response_heads
from kyoukai.exceptions import InvalidResponse
from kyoukai.rules import reason


class Time:
    """``time.time``, as a test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000_000.5
        monkeypatch.setattr(time, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def test_reasons() -> None:
    assert reason(200) == b"OK"
    assert reason(413) == b"Content Too Large"
    assert reason(299) == b""


def test_dates() -> None:
    assert http_date(784111777) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert parsedate_to_datetime(http_date(1).decode()).timestamp() == 1


def test_a_head(clock: Time) -> None:
    data, length, closes = ResponseHeads("Kyoukai").render(200, [(b"X-A", b"b"), (b"x-a", b"c")])
    assert data == (
        b"HTTP/1.1 200 OK\r\nX-A: b\r\nx-a: c\r\n"
        b"date: Sun, 09 Sep 2001 01:46:40 GMT\r\nserver: Kyoukai\r\n"
    )
    assert length is None
    assert closes is False


def test_an_unknown_status_keeps_its_space(clock: Time) -> None:
    assert ResponseHeads(None).render(299, ())[0].startswith(b"HTTP/1.1 299 \r\n")


def test_what_the_application_says_wins(clock: Time) -> None:
    data, _, _ = ResponseHeads("Kyoukai").render(200, [(b"Date", b"x"), (b"SERVER", b"y")])
    assert data == b"HTTP/1.1 200 OK\r\nDate: x\r\nSERVER: y\r\n"


def test_no_server_header(clock: Time) -> None:
    assert b"server" not in ResponseHeads(None).render(200, ())[0]


def test_headers_of_the_connection_are_the_server_s(clock: Time) -> None:
    headers = [
        (b"Connection", b"Close"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Transfer-Encoding", b"gzip"),
        (b"Proxy-Connection", b"x"),
        (b"Content-Length", b"12"),
    ]
    data, length, closes = ResponseHeads(None).render(200, headers)
    assert data == b"HTTP/1.1 200 OK\r\ndate: Sun, 09 Sep 2001 01:46:40 GMT\r\n"
    assert length == 12
    assert closes is True


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1,1", b"0x1", b" 1", b"1.0", b"\xb2"])
def test_lengths_that_are_no_numbers(value: bytes) -> None:
    with pytest.raises(InvalidResponse):
        ResponseHeads(None).render(200, [(b"Content-Length", value)])


def test_two_lengths_must_agree() -> None:
    heads = ResponseHeads(None)
    pair = (b"content-length", b"1")
    assert heads.render(200, (pair, pair))[1] == 1
    with pytest.raises(InvalidResponse):
        heads.render(200, (pair, (b"content-length", b"2")))


@pytest.mark.parametrize(
    "status, headers",
    [
        (100, ()),
        (200, ((b"a\r\nb", b"c"),)),
        (200, ((b"a", b"b\r\nc: d"),)),
        (200, ((b"a", "b"),)),
        (200, ((b"a", [b"b"]),)),
        (200, ((bytearray(b"a"), b"b"),)),
        (200, ((b"a",),)),
        (200, None),
        ("200", ()),
        ([], ()),
    ],
)
def test_what_may_not_be_sent(status: Any, headers: Any) -> None:
    heads = ResponseHeads(None)
    for _ in range(2):  # a refusal is not remembered as good
        with pytest.raises(InvalidResponse):
            heads.render(status, headers)


def test_a_tuple_is_rendered_once_a_second(clock: Time) -> None:
    heads = ResponseHeads(None)
    headers = ((b"x-a", b"b"),)
    first = heads.render(200, headers)
    assert heads.render(200, headers) is first
    assert heads.render(201, headers)[0].startswith(b"HTTP/1.1 201 ")
    clock.now += 1
    second = heads.render(200, headers)
    assert b"01:46:41 GMT" in second[0]


def test_a_list_may_change_between_answers(clock: Time) -> None:
    heads = ResponseHeads(None)
    headers = [(b"x-a", b"b")]
    heads.render(200, headers)
    headers[0] = (b"x-a", b"c")
    assert b"x-a: c\r\n" in heads.render(200, headers)[0]


def test_few_heads_are_remembered(clock: Time) -> None:
    heads = ResponseHeads(None)
    for index in range(2000):
        heads.render(200, ((b"etag", b"%d" % index),))
    assert len(heads._known) <= 512


def test_servers_with_one_name_share_a_renderer() -> None:
    assert response_heads("a") is response_heads("a")
    assert response_heads("a") is not response_heads(None)


@pytest.mark.parametrize(
    "status, header",
    [(400, None), (405, (b"allow", b"GET, HEAD, OPTIONS")), (503, (b"retry-after", b"1"))],
)
def test_refusals(status: int, header: tuple[bytes, bytes] | None) -> None:
    code, headers, body = refusal(status, "Because.")
    assert code == status
    assert headers[0] == (b"content-type", b"text/plain; charset=utf-8")
    assert headers[1:] == (() if header is None else (header,))
    assert body == reason(status) + b"\nBecause.\n"
    assert refusal(status)[2] == reason(status) + b"\n"


def test_a_whole_head(clock: Time) -> None:
    heads = ResponseHeads(None)
    headers = ((b"x-a", b"b"),)
    date = b"date: Sun, 09 Sep 2001 01:46:40 GMT"
    expected = b"HTTP/1.1 200 OK\r\nx-a: b\r\n" + date + b"\r\ncontent-length: %d\r\n\r\n"
    assert heads.whole(200, headers, 3) == expected % 3
    assert heads.whole(200, headers, 3) is heads.whole(200, headers, 3)
    assert heads.whole(200, headers, 4) == expected % 4
    clock.now += 1
    assert date not in (heads.whole(200, headers, 3) or date)


def test_what_may_change_is_rendered_anew(clock: Time) -> None:
    heads = ResponseHeads(None)
    pair: Any = [b"x-a", b"b"]
    headers = (pair,)
    assert b"x-a: b\r\n" in (heads.whole(200, headers, 1) or b"")
    pair[1] = b"c"
    assert b"x-a: c\r\n" in (heads.whole(200, headers, 1) or b"")


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (204, ()),
        (304, ()),
        (200, ((b"connection", b"close"),)),
        (200, ((b"content-length", b"1"),)),
    ],
)
def test_heads_that_need_a_closer_look(status: int, headers: Any) -> None:
    assert ResponseHeads(None).whole(status, headers, 1) is None
