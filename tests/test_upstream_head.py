"""Heads of upstream servers' answers: what they say, and which are refused."""

from __future__ import annotations

import pytest

from kyoukai.exceptions import UpstreamError
from kyoukai.upstream_head import HeadReader, ResponseHead, nominated, passed_trailers


def read(lines: bytes, via: str = "", first: bytes = b"HTTP/1.1 200 OK") -> ResponseHead:
    return HeadReader(via).read(first + b"\r\n" + lines + b"\r\n")


#: Header lines that are refused, with a length of 2 and chunks among them.
REFUSED = [
    # Two framings, or one that is not beyond doubt.
    b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
    b"Content-Length: 2\r\nContent-Length: 2\r\n",
    b"Content-Length: 2\r\nContent-Length: 3\r\n",
    b"Content-Length: 2, 2\r\n",
    b"Content-Length: +2\r\n",
    b"Content-Length: -2\r\n",
    b"Content-Length: 0x2\r\n",
    b"Content-Length: 2 2\r\n",
    b"Content-Length: 2.0\r\n",
    b"Content-Length: \xb2\r\n",
    b"Content-Length:\r\n",
    b"Content-Length: 18446744073709551618\r\n",
    b"Content-Length : 2\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: chunkedx\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    b"Transfer-Encoding: chunked;q=1\r\n",
    b'Transfer-Encoding: "chunked"\r\n',
    b"Transfer-Encoding:\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding\t: chunked\r\n",
    b"Transfer-Encoding: chunk\r\n ed\r\n",
    # Lines that are none.
    b"A: b\r\n c\r\n",
    b" A: b\r\n",
    b"\tA: b\r\n",
    b"A: b\nContent-Length: 2\r\n",
    b"A: b\rContent-Length: 2\r\n",
    b"A: b\x00c\r\n",
    b"A: b\x1bc\r\n",
    b"A: b\x7fc\r\n",
    b"A\x00: b\r\n",
    b"A b: c\r\n",
    b"A(b): c\r\n",
    b"\xc4: c\r\n",
    b": b\r\n",
    b"junk\r\n",
]


@pytest.mark.parametrize("lines", REFUSED, ids=repr)
def test_refused(lines: bytes) -> None:
    with pytest.raises(UpstreamError, match="answer"):
        read(lines)


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1 -20 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1 2x0 OK",
        b"HTTP/1.1 000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 600 OK",
        b"HTTP/1.1 999 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 O\nK: v",
        b"HTTP/1.1 ",
        b"HTTP/1.2 200 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/2 200 OK",
        b"HTTP/0.9 200 OK",
        b"http/1.1 200 OK",
        b" HTTP/1.1 200 OK",
        b"ICY 200 OK",
        b"GET / HTTP/1.1",
    ],
    ids=repr,
)
def test_refused_first_lines(first: bytes) -> None:
    with pytest.raises(UpstreamError, match="answer"):
        read(b"Content-Length: 2\r\n", first=first)


def test_chunks_are_not_for_http_1_0() -> None:
    with pytest.raises(UpstreamError, match="Transfer-Encoding"):
        read(b"Transfer-Encoding: chunked\r\n", first=b"HTTP/1.0 200 OK")


def test_framing_is_taken_off() -> None:
    head = read(b"Content-Length: 007\r\nServer:  up \t\r\nX-Empty:\r\nX-Text: \xe4\r\n")
    assert head.length == 7
    assert not head.chunked
    assert head.headers == ((b"server", b"up"), (b"x-empty", b""), (b"x-text", b"\xe4"))
    head = read(b"Transfer-Encoding: Chunked\r\n")
    assert (head.length, head.chunked, head.headers) == (None, True, ())


def test_what_is_about_the_connection_is_taken_off() -> None:
    """RFC 9110 section 7.6.1: the known fields, and those that Connection names."""
    head = read(
        b"Connection: X-One , close,,x-TWO\r\nConnection: set-cookie\r\nX-One: 1\r\nX-Two: 2\r\n"
        b"X-Three: 3\r\nSet-Cookie: a=b\r\nKeep-Alive: max=5\r\nProxy-Connection: close\r\n"
        b"Proxy-Authenticate: Basic\r\nTE: trailers\r\nUpgrade: h2c\r\nContent-Length: 0\r\n"
        b"HTTP2-Settings: x\r\n"
    )
    assert head.headers == ((b"x-three", b"3"),)
    assert not head.keeps


def test_lines_of_the_same_name_stay_apart() -> None:
    head = read(b"Set-Cookie: a=1\r\nVia: 1.0 x\r\nSet-Cookie: b=2, c=3\r\n", "us")
    assert head.headers == (
        (b"set-cookie", b"a=1"),
        (b"via", b"1.0 x"),
        (b"set-cookie", b"b=2, c=3"),
        (b"via", b"1.1 us"),
    )


def test_via_names_the_version_of_the_server() -> None:
    assert read(b"", "us", b"HTTP/1.0 200 OK").headers == ((b"via", b"1.0 us"),)


@pytest.mark.parametrize(
    ("first", "lines", "keeps"),
    [
        (b"HTTP/1.1 200 OK", b"", True),
        (b"HTTP/1.1 200 OK", b"Connection: Close\r\n", False),
        (b"HTTP/1.1 200 OK", b"Connection: keep-alive, close\r\n", False),
        (b"HTTP/1.0 200 OK", b"", False),
        (b"HTTP/1.0 200 OK", b"Connection: Keep-Alive\r\n", True),
        (b"HTTP/1.1 204 No Content", b"", True),
        (b"HTTP/1.1 204 No Content", b"Content-Length: 0\r\n", True),
        # What these announce may come, though no 204 has a body.
        (b"HTTP/1.1 204 No Content", b"Content-Length: 2\r\n", False),
        (b"HTTP/1.1 204 No Content", b"Transfer-Encoding: chunked\r\n", False),
    ],
)
def test_whether_the_connection_stays(first: bytes, lines: bytes, keeps: bool) -> None:
    assert read(lines, first=first).keeps is keeps


@pytest.mark.parametrize("value", [b"NTLM", b"Negotiate", b"negotiate YII=", b"ntlm TlRM"])
def test_a_connection_that_a_client_has_logged_in_is_nobody_elses(value: bytes) -> None:
    """These schemes are about the connection and not the request (RFC 4559 section 6)."""
    for first in (b"HTTP/1.1 401 Unauthorized", b"HTTP/1.1 200 OK"):
        lines = b"WWW-Authenticate: Basic\r\nWWW-Authenticate: " + value + b"\r\n"
        assert not read(lines, first=first).keeps
    assert read(b"WWW-Authenticate: Basic\r\n", first=b"HTTP/1.1 401 U").keeps


def test_how_long_the_connection_stays() -> None:
    assert read(b"").idle is None
    assert read(b"Keep-Alive: max=3, Timeout=5\r\n").idle == 5
    assert read(b"Keep-Alive: timeout=x\r\n").idle is None
    assert read(b"Keep-Alive: timeout=-1\r\n").idle is None


def test_an_upgrade_and_interim_answers() -> None:
    head = read(b"Connection: Upgrade\r\nUpgrade: WebSocket\r\nX-A: b\r\n", "", b"HTTP/1.1 101 S")
    assert (head.status, head.upgrade, head.headers) == (101, b"websocket", ((b"x-a", b"b"),))
    hints = read(b"Link: </a>\r\nContent-Length: 5\r\nConnection: x\r\n", "us", b"HTTP/1.1 103 E")
    assert hints.headers == ((b"link", b"</a>"), (b"via", b"1.1 us"))


def test_heads_are_remembered_but_for_cookies() -> None:
    """A head that comes again is the same one; one with a cookie is nobody else's."""
    reader = HeadReader("us")
    plain = b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n"
    assert reader.read(plain) is reader.read(plain)
    assert reader.read(plain.replace(b"b", b"c")).headers[0] == (b"x-a", b"c")
    cookie = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\n\r\n"
    assert reader.read(cookie) is not reader.read(cookie)
    for number in range(1000):
        reader.read(b"HTTP/1.1 200 OK\r\nX-A: %d\r\n\r\n" % number)
    assert len(reader._known) < 200
    broken = b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"
    for _ in range(2):
        with pytest.raises(UpstreamError):
            reader.read(broken)


def test_trailers_that_go_on() -> None:
    kept = [(b"x-sum", b"1"), (b"grpc-status", b"0"), (b"set-cookie", b"a=b")]
    dropped = (
        b"connection content-length expect forwarded host http2-settings keep-alive max-forwards "
        b"proxy-authorization proxy-connection te trailer transfer-encoding upgrade via x-real-ip "
        b"x-forwarded-for x-forwarded-host x-forwarded-proto"
    ).split()
    assert passed_trailers([*((name, b"1") for name in dropped), *kept]) == kept
    assert passed_trailers([(name.title(), b"1") for name in dropped]) == []
    assert passed_trailers([(b"x-a", b"1"), (b"x-b", b"1\r\nx-c: 2")]) == []
    assert passed_trailers([(b"x-a", b"1"), (b"x b", b"1")]) == []


def test_nominated() -> None:
    assert nominated(b" X-A ,x-b,, Close") == {b"x-a", b"x-b", b"", b"close"}
