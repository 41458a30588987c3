"""
Requests that break HTTP/1.1, and requests that look as if they did.

Each is fed whole and byte by byte, with a good request before and after it: the one before is
answered, the one after is answered only if the connection can go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kyoukai.app import Kyoukai
from kyoukai.testing import MemoryServer

from .support import GOOD, Mirror, by_byte, connect, parse_answers, send_in_pieces, turns, whole

Feed = Callable[[bytes], Iterator[bytes]]
feeds = pytest.mark.parametrize("feed", [whole, by_byte])


def get(
    headers: bytes = b"", line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a\r\n"
) -> bytes:
    return line + b"\r\n" + host + headers + b"\r\n"


def post(headers: bytes, body: bytes = b"") -> bytes:
    return get(headers, b"POST / HTTP/1.1") + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


#: What the parser itself refuses: always 400. If one of these turns up as accepted, a leniency
#: was switched on, or a new parser has changed its mind.
REJECTED_HEADS = {
    "length-then-chunked": post(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", b"abc"),
    "chunked-then-length": post(b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", b"abc"),
    "zero-length-and-chunked": post(b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
    "length-twice": post(b"Content-Length: 3\r\nContent-Length: 4\r\n", b"abcd"),
    "length-twice-the-same": post(b"Content-Length: 3\r\nContent-Length: 3\r\n", b"abc"),
    "length-listed": post(b"Content-Length: 3, 3\r\n", b"abc"),
    "length-plus": post(b"Content-Length: +3\r\n", b"abc"),
    "length-minus": post(b"Content-Length: -3\r\n", b"abc"),
    "length-hex": post(b"Content-Length: 0x3\r\n", b"abc"),
    "length-underscore": post(b"Content-Length: 1_0\r\n", b"abc"),
    "length-two-words": post(b"Content-Length: 1 0\r\n", b"abc"),
    "length-overflow": post(b"Content-Length: 18446744073709551616\r\n"),
    "length-long-overflow": post(b"Content-Length: " + b"9" * 100 + b"\r\n"),
    "length-empty": post(b"Content-Length:\r\n", b"abc"),
    "length-blank": post(b"Content-Length:  \r\n", b"abc"),
    "xchunked": post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
    "identity": post(b"Transfer-Encoding: identity\r\n", b"abc"),
    "chunked-gzip": post(b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"),
    "chunked-parameter": post(b"Transfer-Encoding: chunked;q=1\r\n", b"0\r\n\r\n"),
    "chunked-twice": post(
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"
    ),
    "chunked-chunked": post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"),
    "chunked-vertical-tab": post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"),
    "coding-empty": post(b"Transfer-Encoding:\r\n", b"0\r\n\r\n"),
    "folded": get(b"X-A: b\r\n c\r\n"),
    "folded-tab": get(b"X-A: b\r\n\tc\r\n"),
    "folded-first": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "bare-lf": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare-lf-in-headers": b"GET / HTTP/1.1\r\nHost: a\nX-B: c\r\n\r\n",
    "bare-lf-at-end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare-cr": b"GET / HTTP/1.1\rHost: a\r\r",
    "bare-cr-in-value": get(b"X-A: b\rX-B: c\r\n"),
    "nul-in-value": get(b"X-A: b\0c\r\n"),
    "control-in-value": get(b"X-A: b\x01c\r\n"),
    "delete-in-value": get(b"X-A: b\x7fc\r\n"),
    "space-before-colon": get(b"X-A : b\r\n"),
    "space-before-length-colon": post(b"Content-Length : 3\r\n", b"abc"),
    "tab-before-colon": get(b"X-A\t: b\r\n"),
    "name-no-token": get(b"X@A: b\r\n"),
    "name-not-ascii": get(b"X\xe9: b\r\n"),
    "name-empty": get(b": b\r\n"),
    "nul-in-name": get(b"X\0A: b\r\n"),
    "no-colon": get(b"X-A\r\n"),
    "lower-case-method": get(line=b"get / HTTP/1.1"),
    "unknown-method": get(line=b"BREW / HTTP/1.1"),
    "no-target": get(line=b"GET HTTP/1.1"),
    "extra-word": get(line=b"GET / x HTTP/1.1"),
    "space-after-version": get(line=b"GET / HTTP/1.1 "),
    "relative-target": get(line=b"GET good HTTP/1.1"),
    "control-in-target": get(line=b"GET /\x01 HTTP/1.1"),
    "tab-in-target": get(line=b"GET /\t HTTP/1.1"),
    "delete-in-target": get(line=b"GET /\x7f HTTP/1.1"),
    "nul-in-target": get(line=b"GET /\0 HTTP/1.1"),
    "version-long": get(line=b"GET / HTTP/1.10"),
    "version-padded": get(line=b"GET / HTTP/01.1"),
    "version-lower-case": get(line=b"GET / http/1.1"),
    "other-protocol": get(line=b"GET / HTCPCP/1.0"),
    "tls-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "binary": bytes(range(256)),
    "spaces": b"   \r\n\r\n",
}

#: What the parser lets through, and the rules of HTTP do not.
REFUSED_HEADS = {
    "no-host": (400, get(host=b"")),
    "two-hosts": (400, get(b"Host: b\r\n")),
    "two-equal-hosts": (400, get(b"Host: a\r\n")),
    "host-with-path": (400, get(host=b"Host: a b/../\r\n")),
    "host-with-slash": (400, get(host=b"Host: a/b\r\n")),
    "host-with-user": (400, get(host=b"Host: u@a\r\n")),
    "host-with-query": (400, get(host=b"Host: a?b\r\n")),
    "host-empty": (400, get(host=b"Host:\r\n")),
    "host-port-alone": (400, get(host=b"Host: :80\r\n")),
    "host-port-word": (400, get(host=b"Host: a:b\r\n")),
    "host-port-beyond": (400, get(host=b"Host: a:65536\r\n")),
    "host-port-long": (400, get(host=b"Host: a:0000000000080\r\n")),
    "host-two-ports": (400, get(host=b"Host: a:1:2\r\n")),
    "host-open-bracket": (400, get(host=b"Host: [::1\r\n")),
    "host-bracket-word": (400, get(host=b"Host: [a]\r\n")),
    "host-zone": (400, get(host=b"Host: [fe80::1%25eth0]\r\n")),
    "host-not-ascii": (400, get(host=b"Host: \xe9\r\n")),
    "host-bad-escape": (400, get(host=b"Host: a%zz\r\n")),
    "host-on-1.0-bad": (400, get(line=b"GET / HTTP/1.0", host=b"Host: a b\r\n")),
    "two-hosts-on-1.0": (400, get(b"Host: b\r\n", line=b"GET / HTTP/1.0")),
    "absolute-without-host": (400, get(line=b"GET http://a/ HTTP/1.1", host=b"")),
    "absolute-two-hosts": (400, get(b"Host: b\r\n", line=b"GET http://a/ HTTP/1.1")),
    "absolute-bad-host-header": (
        400,
        get(line=b"GET http://a/ HTTP/1.1", host=b"Host: a b\r\n"),
    ),
    "absolute-user": (400, get(line=b"GET http://u:p@a/ HTTP/1.1")),
    "absolute-empty": (400, get(line=b"GET http:// HTTP/1.1")),
    "absolute-empty-host": (400, get(line=b"GET http:///x HTTP/1.1")),
    "absolute-other-scheme": (400, get(line=b"GET ftp://a/ HTTP/1.1")),
    "absolute-bad-port": (400, get(line=b"GET http://a:x/ HTTP/1.1")),
    "asterisk-get": (400, get(line=b"GET * HTTP/1.1")),
    "asterisk-and-more": (400, get(line=b"OPTIONS *x HTTP/1.1")),
    "HTTP/0.9": (505, get(line=b"GET / HTTP/0.9")),
    "HTTP/2.0": (505, get(line=b"GET / HTTP/2.0")),
    "HTTP/1.2": (400, get(line=b"GET / HTTP/1.2")),
    "HTTP/3.0": (400, get(line=b"GET / HTTP/3.0")),
    "no-version": (400, get(line=b"GET /")),
    "SOURCE": (400, get(line=b"SOURCE /x ICE/1.0")),
    "RTSP-method": (400, get(line=b"DESCRIBE /x RTSP/1.0")),
    "RTSP-get": (400, get(line=b"GET /x RTSP/1.0")),
    "h2-preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "gzip-chunked": (501, post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n")),
    "comma-chunked": (501, post(b"Transfer-Encoding: ,chunked\r\n", b"0\r\n\r\n")),
    "two-codings": (
        400,
        post(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    ),
    "coding-on-1.0": (
        400,
        get(b"Transfer-Encoding: chunked\r\n", b"POST / HTTP/1.0") + b"0\r\n\r\n",
    ),
    "coding-on-1.0-kept-alive": (
        400,
        get(b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n", b"POST / HTTP/1.0")
        + b"0\r\n\r\n",
    ),
    "connect": (405, get(line=b"CONNECT a:443 HTTP/1.1")),
    "connect-with-path": (405, get(line=b"CONNECT / HTTP/1.1")),
    "connect-with-length": (405, get(b"Content-Length: 3\r\n", b"CONNECT a:443 HTTP/1.1") + b"abc"),
    "expect-junk": (417, get(b"Expect: junk\r\n")),
    "expect-two": (417, get(b"Expect: 100-continue\r\nExpect: junk\r\n")),
    "101-headers": (431, get(b"X-A: b\r\n" * 100)),
}

#: Chunked bodies that cannot be framed: the application learns of it, 400.
BROKEN_CHUNKS = {
    "size-word": b"xyz\r\nabc\r\n0\r\n\r\n",
    "size-empty": b"\r\nabc\r\n0\r\n\r\n",
    "size-minus": b"-3\r\nabc\r\n0\r\n\r\n",
    "size-plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "size-0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size-underscore": b"1_0\r\nabc\r\n0\r\n\r\n",
    "size-after-space": b" 3\r\nabc\r\n0\r\n\r\n",
    "size-overflow": b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "size-bare-lf": b"3\nabc\r\n0\r\n\r\n",
    "size-bare-cr": b"3\rabc\r\n0\r\n\r\n",
    "data-too-long": b"3\r\nabcd\r\n0\r\n\r\n",
    "data-without-end": b"3\r\nabc0\r\n\r\n",
    "data-bare-lf": b"3\r\nabc\n0\r\n\r\n",
    "extension-control": b"3;a\x01b\r\nabc\r\n0\r\n\r\n",
    "extension-bare-lf": b"3;a\nabc\r\n0\r\n\r\n",
    "extension-bare-cr": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "end-bare-lf": b"3\r\nabc\r\n0\r\n\n",
    "trailer-no-colon": b"3\r\nabc\r\n0\r\nX\r\n\r\n",
    "trailer-no-token": b"3\r\nabc\r\n0\r\nX@Y: z\r\n\r\n",
    "trailer-folded": b"3\r\nabc\r\n0\r\nX: y\r\n z\r\n\r\n",
    "trailer-nul": b"3\r\nabc\r\n0\r\nX: \0\r\n\r\n",
    "trailer-space-before-colon": b"3\r\nabc\r\n0\r\nX : y\r\n\r\n",
    "trailer-length": b"3\r\nabc\r\n0\r\nContent-Length : 5\r\n\r\n",
    "trailer-frames": b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
    "trailer-codes": b"3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "too-many-trailers": b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n",
    "trailers-too-large": b"0\r\n" + b"X: %b\r\n" % (b"y" * 8000) * 5 + b"\r\n",
    "extension-too-long": b"3;" + b"x" * 20000 + b"\r\nabc\r\n0\r\n\r\n",
    "extensions-add-up": b"1;" + b"x" * 500 + b"\r\na\r\n",
}
BROKEN_CHUNKS["extensions-add-up"] = BROKEN_CHUNKS["extensions-add-up"] * 40 + b"0\r\n\r\n"

#: What looks odd and is right: status 200, and the connection goes on.
ACCEPTED = {
    "plain": (get(), "GET / "),
    "blank-lines-before": (b"\r\n\r\n" + get(), "GET / "),
    "bare-newlines-before": (b"\n\n\r\n" + get(), "GET / "),
    "value-padded": (get(b"X-A: \t b \t \r\n"), "GET / "),
    "value-empty": (get(b"X-A:\r\n"), "GET / "),
    "value-latin-1": (get(b"X-A: \xe9\r\n"), "GET / "),
    "value-without-space": (get(b"X-A:b\r\n"), "GET / "),
    "name-tokens": (get(b"!#$%&'*+-.^`|~0aZ: b\r\n"), "GET / "),
    "100-headers": (get(b"X-A: b\r\n" * 99), "GET / "),
    "length": (post(b"Content-Length: 3\r\n", b"abc"), "POST / abc"),
    "length-padded": (post(b"Content-Length: \t3 \t\r\n", b"abc"), "POST / abc"),
    "length-zeros": (post(b"Content-Length: 0003\r\n", b"abc"), "POST / abc"),
    "length-zero": (post(b"Content-Length: 0\r\n"), "POST / "),
    "length-on-get": (get(b"Content-Length: 3\r\n") + b"abc", "GET / abc"),
    "chunked": (chunked(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "POST / abcde"),
    "chunked-capital": (
        post(b"Transfer-Encoding: Chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
        "POST / abc",
    ),
    "chunked-upper-hex": (chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), "POST / 0123456789"),
    "chunked-zeros": (chunked(b"0003\r\nabc\r\n000\r\n\r\n"), "POST / abc"),
    "chunked-extension": (chunked(b'3;a=b;c="d"\r\nabc\r\n0;e\r\n\r\n'), "POST / abc"),
    "chunked-holds-blank-lines": (
        chunked(b"8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n"),
        "POST / " + "\r\n" * 4,
    ),
    "chunked-holds-an-end": (chunked(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"), "POST / 0\r\n\r\n"),
    "chunked-trailers": (chunked(b"3\r\nabc\r\n0\r\nX-T: y\r\n\r\n"), "POST / abc"),
    "body-holds-a-request": (
        post(b"Content-Length: %d\r\n" % len(GOOD), GOOD),
        "POST / " + GOOD.decode(),
    ),
    "absolute": (get(line=b"GET http://b/x HTTP/1.1"), "GET /x "),
    "absolute-no-path": (get(line=b"GET http://b HTTP/1.1"), "GET / "),
    "absolute-query": (get(line=b"GET HTTPS://b?x HTTP/1.1"), "GET / "),
    "host-port": (get(host=b"Host: a:80\r\n"), "GET / "),
    "host-v6": (get(host=b"Host: [::1]:80\r\n"), "GET / "),
    "host-last": (get(b"X-A: b\r\nHost: a\r\n", host=b""), "GET / "),
    "asterisk": (get(line=b"OPTIONS * HTTP/1.1"), "OPTIONS * "),
    "two-slashes": (get(line=b"GET //a/b HTTP/1.1"), "GET //a/b "),
    "query": (get(line=b"GET /?a=b&c=%00 HTTP/1.1"), "GET / "),
    "expect-on-bodyless": (get(b"Expect: 100-continue\r\n"), "GET / "),
    "1.0-kept-alive": (get(b"Connection: keep-alive\r\n", b"GET / HTTP/1.0"), "GET / "),
    "1.0-no-host": (get(b"Connection: keep-alive\r\n", b"GET / HTTP/1.0", b""), "GET / "),
    "upgrade": (get(b"Connection: upgrade\r\nUpgrade: x\r\n"), "GET / "),
    "upgrade-with-body": (
        post(b"Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n", b"abc"),
        "POST / abc",
    ),
}


def params(table: dict[str, bytes]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("data", table.values(), ids=table)


async def exchange(
    data: bytes, feed: Feed
) -> tuple[Mirror, list[tuple[int, dict, bytes]], bool, int]:
    """Feed bytes to a fresh connection; return the application, answers, closed, lines logged."""
    app = Mirror()
    async with MemoryServer(app, access_log=True) as server:
        connection = connect(server)
        send_in_pieces(connection, feed(data))
        await turns(40)
        transport = connection.transport
        closed = transport.closed or transport.eof_written
        methods = [stream.head.method for stream in server.logged]
        answers = parse_answers(transport.take(), methods, closed)
    return app, answers, closed, len(server.logged)


def check_refused(answers: list, closed: bool, status: int) -> None:
    assert [answer[0] for answer in answers] == [200, status]
    assert answers[0][2] == b"GET /good "
    assert b"connection" not in answers[0][1]
    assert answers[1][1][b"connection"] == b"close"
    assert closed


@feeds
@params(REJECTED_HEADS)
async def test_what_the_parser_rejects(data: bytes, feed: Feed) -> None:
    app, answers, closed, _ = await exchange(GOOD + data + GOOD, feed)
    check_refused(answers, closed, 400)
    assert app.paths == ["/good"]


@feeds
@params(REJECTED_HEADS)
async def test_what_the_parser_rejects_comes_first(data: bytes, feed: Feed) -> None:
    app, answers, closed, _ = await exchange(data + GOOD, feed)
    assert [answer[0] for answer in answers] == [400]
    assert closed
    assert app.paths == []


@feeds
@pytest.mark.parametrize("status, data", REFUSED_HEADS.values(), ids=REFUSED_HEADS)
async def test_what_the_server_refuses(status: int, data: bytes, feed: Feed) -> None:
    app, answers, closed, _ = await exchange(GOOD + data + GOOD, feed)
    check_refused(answers, closed, status)
    assert app.paths == ["/good"]


@feeds
@params(BROKEN_CHUNKS)
async def test_broken_chunks(data: bytes, feed: Feed) -> None:
    app, answers, closed, _ = await exchange(GOOD + chunked(data) + GOOD, feed)
    check_refused(answers, closed, 400)
    assert app.paths == ["/good", "/"]
    assert len(app.errors) == 1


@feeds
@params(BROKEN_CHUNKS)
async def test_broken_chunks_and_a_native_application(data: bytes, feed: Feed) -> None:
    app = Kyoukai("test")

    @app.route("/", methods=["POST"])
    async def take(ctx: object) -> str:
        raise AssertionError("the body is broken, and the handler never sees it")

    async with MemoryServer(app) as server:
        connection = connect(server)
        send_in_pieces(connection, feed(chunked(data) + GOOD))
        response = await connection.response()
        assert response.status == 400
        assert response.headers["Connection"] == "close"
        await connection.closed()
        assert connection.transport.take() == b""


@feeds
@pytest.mark.parametrize("data, text", ACCEPTED.values(), ids=ACCEPTED)
async def test_what_is_right(data: bytes, text: str, feed: Feed) -> None:
    app, answers, closed, _ = await exchange(GOOD + data + GOOD, feed)
    assert [answer[0] for answer in answers] == [200, 200, 200]
    assert answers[1][2] == text.encode()
    assert answers[2][2] == b"GET /good "
    assert not closed


LARGE = {
    "url": (414, b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n", b"x"),
    "query": (414, b"GET /?%b HTTP/1.1\r\nHost: a\r\n\r\n", b"x"),
    "absolute": (414, b"GET http://a/%b HTTP/1.1\r\nHost: a\r\n\r\n", b"x"),
    "value": (431, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: %b\r\n\r\n", b"x"),
    "name": (431, b"GET / HTTP/1.1\r\nHost: a\r\n%b: b\r\n\r\n", b"x"),
    "host": (431, b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n", b"x"),
    "headers": (431, b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n", b"A: b\r\n"),
    "dropped-headers": (431, b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n", b"A_B: c\r\n"),
    "blank-lines": (431, b"%b" + GOOD, b"\r\n"),
}


@pytest.mark.parametrize("feed, size", [(whole, 1_000_000), (by_byte, 40_000)])
@pytest.mark.parametrize("status, form, filler", LARGE.values(), ids=LARGE)
async def test_large_heads(status: int, form: bytes, filler: bytes, feed: Feed, size: int) -> None:
    data = form % (filler * (size // len(filler)))
    app, answers, closed, logged = await exchange(GOOD + data, feed)
    check_refused(answers, closed, status)
    assert app.paths == ["/good"]
    assert logged == 2


@feeds
async def test_limits_are_exact(feed: Feed) -> None:
    target = b"/" + b"x" * 99
    line = b"GET %b HTTP/1.1\r\nHost: a\r\n" % target
    for size, target_size, status in ((512, 100, 200), (511, 100, 431), (512, 99, 414)):
        data = line + b"X: %b\r\n\r\n" % (b"y" * (512 - len(line) - 7))
        assert len(data) == 512
        app = Mirror()
        async with MemoryServer(app, max_head_size=size, max_target_size=target_size) as server:
            connection = connect(server)
            send_in_pieces(connection, feed(data))
            assert (await connection.response()).status == status


@feeds
async def test_a_broken_line_is_answered_before_the_head_ends(feed: Feed) -> None:
    _, answers, closed, _ = await exchange(b"GET / HTTP/1.1\r\nX A: b\r\n", feed)
    assert [answer[0] for answer in answers] == [400]
    assert closed


@feeds
async def test_a_refusal_is_logged_once(feed: Feed) -> None:
    app = Mirror()
    async with MemoryServer(app, access_log=True) as server:
        connection = connect(server)
        send_in_pieces(connection, feed(b"GET /x HTTP/2.0\r\n\r\n"))
        await connection.closed()
        (stream,) = server.logged
        assert stream.status == 505
        assert stream.head.method == "GET"
        assert stream.head.target == b"/x"
        assert stream.head.client == ("127.0.0.1", 50000)


@pytest.mark.parametrize("half_closed", [False, True])
@pytest.mark.parametrize("data", [chunked(b"zz\r\n"), b"BREW / HTTP/1.1\r\n\r\n", get(host=b"")])
async def test_a_refusal_reaches_a_client_that_has_said_all(data: bytes, half_closed: bool) -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        connection.send(data)
        if half_closed:
            connection.transport.feed_eof()
        response = await connection.response()
        assert response.status == 400
        await connection.closed()


async def test_forbidden_trailers_are_dropped() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        trailers = (
            b"X-Sum: 1\r\nHost: evil\r\nExpect: junk\r\nUpgrade: x\r\n"
            b"X-Forwarded-For: 6.6.6.6\r\nX_Under: 2\r\n"
        )
        connection.send(chunked(b"1\r\na\r\n0\r\n" + trailers + b"\r\n") + GOOD)
        assert (await connection.response()).status == 200
        assert app.trailers == [[(b"x-sum", b"1")]]
        assert [name for name, _ in app.heads[0].headers] == [b"host", b"transfer-encoding"]
        assert (await connection.response()).text == "GET /good "


async def test_a_trailer_does_not_close_the_connection() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        connection.send(chunked(b"1\r\na\r\n0\r\nConnection: close\r\n\r\n") + GOOD)
        first, second = await connection.response(), await connection.response()
        assert "Connection" not in first.headers
        assert second.status == 200
