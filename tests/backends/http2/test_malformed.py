"""
Heads that break HTTP, and some that only look as if they did (RFC 9113 section 8).

Each comes whole and byte by byte, with a healthy stream before, beside and after it: a malformed
request costs its own stream and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from kyoukai.stream import StreamState

from ..frames import (
    COMPRESSION_ERROR,
    END_HEADERS,
    END_STREAM,
    GET,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PROTOCOL_ERROR,
    data,
    frame,
    headers,
    literals,
    request,
    rst_stream,
)
from ..support import Mirror
from .trial import (
    TRAILERS,
    Feed,
    Pairs,
    Prober,
    feeds,
    h2_server,
    in_parts,
    incremental,
    indexed,
    integer,
    post,
    table,
    table_size,
    trial,
)


def replaced(name: bytes, *values: bytes) -> Pairs:
    """A request with other values of one pseudo-header, none of them, or several."""
    kept = [pair for pair in GET if pair[0] != name]
    return [(name, value) for value in values] + kept


def extra(name: bytes, value: bytes) -> Pairs:
    return request(extra=[(name, value)])


def no_authority(*pairs: tuple[bytes, bytes]) -> Pairs:
    return [*replaced(b":authority"), *pairs]


#: What is a stream error of type PROTOCOL_ERROR.
MALFORMED: dict[str, Pairs] = {
    "nothing": [],
    "no-method": replaced(b":method"),
    "no-scheme": replaced(b":scheme"),
    "no-path": replaced(b":path"),
    "no-authority": replaced(b":authority"),
    "two-methods": replaced(b":method", b"GET", b"POST"),
    "two-equal-methods": replaced(b":method", b"GET", b"GET"),
    "two-schemes": replaced(b":scheme", b"http", b"https"),
    "two-paths": replaced(b":path", b"/", b"/admin"),
    "two-authorities": replaced(b":authority", b"localhost", b"evil"),
    "two-equal-authorities": replaced(b":authority", b"localhost", b"localhost"),
    "unknown-pseudo": [(b":foo", b"bar"), *GET],
    "empty-pseudo": [(b":", b"bar"), *GET],
    "status": [(b":status", b"200"), *GET],
    "status-first-interim": [(b":status", b"103"), *GET],
    "status-alone": [(b":status", b"100")],
    "protocol": [(b":protocol", b"websocket"), *GET],
    "upper-case-pseudo": [*replaced(b":method"), (b":METHOD", b"GET")],
    "late-pseudo": [*replaced(b":path"), (b"x-a", b"b"), (b":path", b"/")],
    "late-second-path": [*GET, (b"x-a", b"b"), (b":path", b"/admin")],
    "method-empty": replaced(b":method", b""),
    "method-is-a-line": replaced(b":method", b"GET /evil HTTP/1.1"),
    "method-split": replaced(b":method", b"GET\r\nX: y"),
    "method-nul": replaced(b":method", b"G\0T"),
    "method-blank-after": replaced(b":method", b"GET "),
    "method-brackets": replaced(b":method", b"(GET)"),
    "method-not-ascii": replaced(b":method", b"G\xc3\x89T"),
    "method-colon": replaced(b":method", b"GET:"),
    "path-empty": replaced(b":path", b""),
    "path-relative": replaced(b":path", b"foo"),
    "path-blank": replaced(b":path", b"/a b"),
    "path-is-a-line": replaced(b":path", b"/ HTTP/1.1\r\nHost: evil\r\n"),
    "path-cr": replaced(b":path", b"/a\rb"),
    "path-lf": replaced(b":path", b"/a\nb"),
    "path-tab": replaced(b":path", b"/a\tb"),
    "path-nul": replaced(b":path", b"/\0"),
    "path-control": replaced(b":path", b"/\x01"),
    "path-delete": replaced(b":path", b"/\x7f"),
    "path-absolute": replaced(b":path", b"http://evil/"),
    "path-absolute-upper-case": replaced(b":path", b"HTTPS://evil/"),
    "path-query-alone": replaced(b":path", b"?a=b"),
    "path-asterisk-get": replaced(b":path", b"*"),
    "path-asterisk-and-more": request(b"*x", b"OPTIONS"),
    "path-authority": replaced(b":path", b"evil:80"),
    "scheme-empty": replaced(b":scheme", b""),
    "scheme-blank": replaced(b":scheme", b"ht tp"),
    "scheme-line": replaced(b":scheme", b"http\r\nx: y"),
    "scheme-script": replaced(b":scheme", b"javascript"),
    "scheme-colon": replaced(b":scheme", b"http:"),
    "scheme-url": replaced(b":scheme", b"http://evil/?"),
    "scheme-nul": replaced(b":scheme", b"http\0"),
    "authority-empty": replaced(b":authority", b""),
    "authority-blank": replaced(b":authority", b"a b/../"),
    "authority-path": replaced(b":authority", b"a/b"),
    "authority-user": replaced(b":authority", b"u@a"),
    "authority-query": replaced(b":authority", b"a?b"),
    "authority-line": replaced(b":authority", b"a\r\nx: y"),
    "authority-nul": replaced(b":authority", b"a\0"),
    "authority-port-alone": replaced(b":authority", b":80"),
    "authority-port-word": replaced(b":authority", b"a:b"),
    "authority-port-beyond": replaced(b":authority", b"a:65536"),
    "authority-two-ports": replaced(b":authority", b"a:1:2"),
    "authority-open-bracket": replaced(b":authority", b"[::1"),
    "authority-not-ascii": replaced(b":authority", b"\xe9"),
    "authority-bad-escape": replaced(b":authority", b"a%zz"),
    "authority-and-other-host": extra(b"host", b"evil"),
    "authority-and-other-port": extra(b"host", b"localhost:81"),
    "authority-and-two-hosts": request(extra=[(b"host", b"localhost"), (b"host", b"localhost")]),
    "authority-and-empty-host": extra(b"host", b""),
    "two-hosts": no_authority((b"host", b"a"), (b"host", b"b")),
    "two-equal-hosts": no_authority((b"host", b"a"), (b"host", b"a")),
    "host-empty": no_authority((b"host", b"")),
    "host-path": no_authority((b"host", b"a/b")),
    "host-user": no_authority((b"host", b"u@a")),
    "name-upper-case": extra(b"X-A", b"b"),
    "name-one-upper-case": extra(b"x-aB", b"b"),
    "name-dropped-upper-case": extra(b"X_A", b"b"),
    "name-empty": extra(b"", b"b"),
    "name-blank": extra(b"x a", b"b"),
    "name-blank-before": extra(b" x", b"b"),
    "name-blank-after": extra(b"x ", b"b"),
    "name-tab": extra(b"x\t", b"b"),
    "name-colon": extra(b"x:a", b"b"),
    "name-colon-after": extra(b"x:", b"b"),
    "name-line": extra(b"x: y\r\nz", b"b"),
    "name-cr": extra(b"x\r", b"b"),
    "name-lf": extra(b"x\n", b"b"),
    "name-nul": extra(b"x\0", b"b"),
    "name-delete": extra(b"x\x7f", b"b"),
    "name-at": extra(b"x@a", b"b"),
    "name-not-ascii": extra(b"x\xc3\xa9", b"b"),
    "name-dropped-no-token": extra(b"x_a b", b"c"),
    "value-line": extra(b"x-a", b"b\r\nx-evil: c"),
    "value-cr": extra(b"x-a", b"b\rc"),
    "value-lf": extra(b"x-a", b"b\nc"),
    "value-nul": extra(b"x-a", b"b\0c"),
    "value-control": extra(b"x-a", b"b\x01c"),
    "value-delete": extra(b"x-a", b"b\x7fc"),
    "value-blank-before": extra(b"x-a", b" b"),
    "value-blank-after": extra(b"x-a", b"b "),
    "value-tab-before": extra(b"x-a", b"\tb"),
    "value-tab-after": extra(b"x-a", b"b\t"),
    "value-blank": extra(b"x-a", b" "),
    "value-of-a-dropped-name": extra(b"x_a", b"b\r\nc"),
    "value-of-a-cookie": extra(b"cookie", b"a=b\r\nx: y"),
    "value-of-a-forwarding-header": extra(b"x-forwarded-for", b"1\n2"),
    "connection": extra(b"connection", b"close"),
    "connection-empty": extra(b"connection", b""),
    "keep-alive": extra(b"keep-alive", b"timeout=5"),
    "proxy-connection": extra(b"proxy-connection", b"keep-alive"),
    "transfer-encoding": extra(b"transfer-encoding", b"chunked"),
    "transfer-encoding-other": extra(b"transfer-encoding", b"identity"),
    "upgrade": extra(b"upgrade", b"h2c"),
    "te-gzip": extra(b"te", b"gzip"),
    "te-list": extra(b"te", b"trailers, gzip"),
    "te-weighted": extra(b"te", b"trailers;q=0.5"),
    "te-twice": request(extra=[(b"te", b"trailers"), (b"te", b"gzip")]),
    "length-word": extra(b"content-length", b"abc"),
    "length-empty": extra(b"content-length", b""),
    "length-plus": extra(b"content-length", b"+0"),
    "length-minus": extra(b"content-length", b"-0"),
    "length-hex": extra(b"content-length", b"0x0"),
    "length-underscore": extra(b"content-length", b"0_0"),
    "length-listed": extra(b"content-length", b"0, 0"),
    "length-point": extra(b"content-length", b"0.0"),
    "length-other-digits": extra(b"content-length", "٠".encode()),
    "length-latin-1-digit": extra(b"content-length", b"\xb2"),
    "length-twice": request(extra=[(b"content-length", b"0"), (b"content-length", b"1")]),
    "length-and-no-body": extra(b"content-length", b"1"),
    "length-and-no-body-head": request(method=b"HEAD", extra=[(b"content-length", b"1")]),
    "length-of-5000-digits": extra(b"content-length", b"1" * 5000),
    "length-of-20-digits": extra(b"content-length", b"18446744073709551617"),
}


@feeds
@table(MALFORMED)
async def test_malformed_heads(bad: Pairs, feed: Feed) -> None:
    app = Mirror()
    seen, _ = await trial(app, feed, headers(5, bad))
    assert seen.resets == {5: [PROTOCOL_ERROR]}
    assert 5 not in seen.answers
    assert sorted(app.paths) == ["/after", "/before", "/beside"]
    for head in app.heads:
        assert head.headers[0] == (b"host", b"localhost")


@feeds
@pytest.mark.parametrize("name", ["no-path", "name-upper-case", "length-twice", "upgrade"])
async def test_what_was_already_on_its_way_to_a_malformed_stream(name: str, feed: Feed) -> None:
    """A client cannot know of the reset yet: what it still sends is dropped without a word."""
    app = Mirror()
    bad = headers(5, MALFORMED[name], end=False) + data(5, b"x" * 100)
    late = data(5, b"y", padding=3) + headers(5, [(b"x-trailer", b"z")]) + rst_stream(5)
    seen, _ = await trial(app, feed, bad, late)
    assert seen.resets == {5: [PROTOCOL_ERROR]}
    assert sorted(app.paths) == ["/after", "/before", "/beside"]


@feeds
async def test_a_malformed_head_leaves_the_dynamic_table_right(feed: Feed) -> None:
    """What is refused is decoded all the same, or every later head would be another."""
    app = Mirror()
    block = literals(replaced(b":path")) + incremental(b"x-kept", b"1") + incremental(b"X-B", b"2")
    bad = frame(HEADERS, END_HEADERS | END_STREAM, 5, block)
    again = frame(HEADERS, END_HEADERS | END_STREAM, 9, literals(GET) + indexed(63))
    async with h2_server(app) as server:
        client = Prober(server)
        client.push(feed, bad, again)
        seen = await client.settle()
        assert seen.resets == {5: [PROTOCOL_ERROR]}
        assert seen.status(9) == 200
        assert (b"x-kept", b"1") in app.heads[0].headers


async def test_the_same_bytes_mean_another_head_when_the_table_has_changed() -> None:
    """What was decoded before may be remembered, but only as long as its table is the same."""
    app = Mirror()
    async with h2_server(app) as server:
        client = Prober(server)

        def send(number: int, more: bytes) -> None:
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, number, literals(GET) + more))

        send(1, incremental(b"x-user", b"alice"))
        send(3, indexed(62))
        send(5, indexed(62))
        send(7, incremental(b"x-user", b"bob"))
        send(9, indexed(62))
        send(11, indexed(63))
        client.send(headers(13))
        client.send(frame(HEADERS, 5, 15, table_size(0) + literals(GET)))
        await client.settle()
        users = [head.get(b"x-user") for head in app.heads]
        alice, bob = b"alice", b"bob"
        assert users == [alice, alice, alice, bob, bob, alice, None, None]
        send(17, indexed(62))  # there is none any more
        assert (await client.settle()).codes == [COMPRESSION_ERROR]


@pytest.mark.parametrize("prefix", [b"\x04", b"\x14", b"\0\5:path"])
async def test_paths_are_told_apart_however_alike_the_rest_is(prefix: bytes) -> None:
    """Heads that differ in their path alone may be made from one another; the path may not."""
    app = Mirror()
    base = [pair for pair in GET if pair[0] != b":path"]
    paths = [b"/", b"/a", b"/a?b=c", b"/%41%2f", b"/\xc3\xa9", b"/a b", b"", b"x", b"/\r\n", b"/c"]
    paths += [b"http://evil/", b"/" + b"x" * 8192, b"*", b"/#", b"/d", b"/" + b"y" * 100]
    async with h2_server(app) as server:
        client = Prober(server)
        for number, path in enumerate(paths):
            value = integer(len(path), 7) + path
            block = literals(base[:1]) + prefix + value + literals([*base[1:], (b"x-a", b"/b")])
            client.send(in_parts(2 * number + 1, block))
        seen = await client.settle()
        for number, path in enumerate(paths):
            stream = 2 * number + 1
            if len(path) > 8192:
                assert seen.status(stream) == 414
            elif path[:1] != b"/" or b" " in path or b"\r" in path:
                assert seen.resets[stream] == [PROTOCOL_ERROR], path
            else:
                assert seen.body(stream) == b"GET %b " % path.partition(b"?")[0].partition(b"#")[0]
        assert [head.target for head in app.heads] == [
            path for number, path in enumerate(paths) if seen.status(2 * number + 1) == 200
        ]
        assert all(head.get(b"x-a") == b"/b" for head in app.heads)


async def test_what_comes_after_the_path_is_told_apart_too() -> None:
    app = Mirror()
    async with h2_server(app) as server:
        client = Prober(server)
        expected = []
        for number in range(1, 41, 2):
            user = b"user-%d" % (number % 5)
            path = b"/%d" % (number % 3) + b"/x" * (number % 2)
            pairs = [*request(path, (b"GET", b"PUT")[number % 4 == 1]), (b"x-user", user)]
            value = integer(len(path), 7) + path
            block = literals(pairs[:3]) + b"\x04" + value + literals(pairs[4:])
            client.send(in_parts(number, block))
            expected.append((pairs[0][1].decode(), path, user))
        await client.settle()
        found = [(head.method, head.target, head.get(b"x-user")) for head in app.heads]
        assert found == expected


async def test_heads_that_are_alike_share_nothing_that_changes() -> None:
    """An application that adds to one request's headers must not add to the next one's."""
    found = []

    async def app(stream: StreamState) -> None:
        found.append(list(stream.head.headers))
        stream.head.headers.append((b"x-role", b"admin"))
        await stream.send_response(200, ((b"x-a", b"b"),), b"")

    async with h2_server(app) as server:
        client = Prober(server)
        for number, path in (1, b"/"), (3, b"/"), (5, b"/other"), (7, b"/"), (9, b"/other"):
            client.send(headers(number, request(path)))
            await client.settle()
        assert found == [[(b"host", b"localhost")]] * 5


async def test_a_path_that_makes_a_head_too_large() -> None:
    """It is known but for its path, and the path brings it over the limit."""
    app = Mirror()
    async with h2_server(app, max_head_size=400) as server:
        client = Prober(server)
        base = [pair for pair in GET if pair[0] != b":path"]
        for number, length in (1, 10), (3, 227), (5, 11), (7, 228):
            path = b"/" * length
            value = integer(length, 7) + path
            client.send(in_parts(number, literals(base) + b"\x04" + value))
        seen = await client.settle()
        assert [seen.status(number) for number in (1, 3, 5, 7)] == [200, 200, 200, 431]


# -- Heads that get an answer ------------------------------------------------------------------

ANSWERED: dict[str, tuple[int, Pairs]] = {
    "connect": (405, [(b":method", b"CONNECT"), (b":authority", b"a:443")]),
    "target-too-long": (414, request(b"/" + b"x" * 8192)),
    "query-too-long": (414, request(b"/?" + b"x" * 8192)),
    "101-headers": (431, request(extra=[(b"x-a", b"b")] * 101)),
    "101-dropped-headers": (431, request(extra=[(b"x_a", b"b")] * 101)),
    "101-cookies": (431, request(extra=[(b"cookie", b"a=b")] * 101)),
    "expect-junk": (417, extra(b"expect", b"junk")),
    "expect-two": (417, request(extra=[(b"expect", b"100-continue"), (b"expect", b"junk")])),
}


@feeds
@pytest.mark.parametrize("end", [True, False])
@table(ANSWERED, "status, pairs")
async def test_heads_that_get_an_answer(status: int, pairs: Pairs, feed: Feed, end: bool) -> None:
    app = Mirror()
    late = b"" if end else data(5, b"what comes after all", end=True)
    seen, _ = await trial(app, feed, headers(5, pairs, end=end), late)
    assert seen.status(5) == status
    assert seen.answers[5][1][b"content-length"] == b"%d" % len(seen.body(5))
    assert seen.resets == {}
    assert sorted(app.paths) == ["/after", "/before", "/beside"]


@pytest.mark.parametrize("size, status", [(512, 200), (513, 431)])
async def test_the_size_of_a_head_is_exact(size: int, status: int) -> None:
    """Name, value and 32 for each field, as SETTINGS_MAX_HEADER_LIST_SIZE counts them."""
    left = size - sum(len(name) + len(value) + 32 for name, value in GET) - 32 - len(b"x-a")
    async with h2_server(Mirror(), max_head_size=512) as server:
        client = Prober(server)
        client.send(headers(1, extra(b"x-a", b"b" * left)))
        assert (await client.settle()).status(1) == status
        assert not client.closed


@pytest.mark.parametrize("number, status", [(100, 200), (101, 431)])
async def test_the_number_of_headers_is_exact(number: int, status: int) -> None:
    """Pseudo-header fields are none."""
    async with h2_server(Mirror()) as server:
        client = Prober(server)
        client.send(headers(1, [*GET, *[(b"x-a", b"b")] * number]))
        assert (await client.settle()).status(1) == status


# -- What is right -----------------------------------------------------------------------------

BLOCK = literals(GET)


def head(block: bytes, flags: int = END_HEADERS | END_STREAM) -> bytes:
    return frame(HEADERS, flags, 5, block)


def get(*fields: tuple[bytes, bytes], **options: bytes) -> bytes:
    return headers(5, request(extra=fields, **options))


RIGHT: dict[str, tuple[bytes, bytes]] = {
    "plain": (get(), b"GET / "),
    "https": (headers(5, replaced(b":scheme", b"https")), b"GET / "),
    "pseudo-in-any-order": (headers(5, GET[::-1]), b"GET / "),
    "equal-host": (get((b"host", b"localhost")), b"GET / "),
    "equal-host-other-case": (get((b"host", b"LocalHost")), b"GET / "),
    "host-alone": (headers(5, no_authority((b"host", b"localhost"))), b"GET / "),
    "te-trailers": (get((b"te", b"trailers")), b"GET / "),
    "value-empty": (get((b"x-a", b"")), b"GET / "),
    "value-latin-1": (get((b"x-a", b"\xe9")), b"GET / "),
    "value-not-utf-8": (get((b"x-a", b"\xff\xfe")), b"GET / "),
    "value-tab-inside": (get((b"x-a", b"b\tc")), b"GET / "),
    "name-tokens": (get((b"!#$%&'*+-.^`|~0az", b"b")), b"GET / "),
    "name-dropped": (get((b"content_length", b"5")), b"GET / "),
    "length-zero": (get((b"content-length", b"0")), b"GET / "),
    "length-twice-the-same": (get(*[(b"content-length", b"0")] * 2), b"GET / "),
    "length": (post(b"3") + data(5, b"abc", end=True), b"POST /bad abc"),
    "length-zeros": (post(b"0003") + data(5, b"abc", end=True), b"POST /bad abc"),
    "length-padded": (post(b"3") + data(5, b"abc", end=True, padding=9), b"POST /bad abc"),
    "length-and-an-empty-end": (post(b"3") + data(5, b"abc") + data(5, end=True), b"POST /bad abc"),
    "length-and-trailers": (post(b"3") + data(5, b"abc") + TRAILERS, b"POST /bad abc"),
    "length-zero-and-an-empty-end": (post(b"0") + data(5, end=True), b"POST /bad "),
    "empty-frames": (post(None) + data(5) * 9 + data(5, b"a", end=True), b"POST /bad a"),
    "all-padding": (post(None) + data(5, padding=255) + data(5, end=True), b"POST /bad "),
    "trailers-alone": (post(None) + TRAILERS, b"POST /bad "),
    "asterisk": (get(path=b"*", method=b"OPTIONS"), b"OPTIONS * "),
    "two-slashes": (get(path=b"//evil/"), b"GET //evil/ "),
    "query": (get(path=b"/?a=b&c=%00"), b"GET / "),
    "unknown-method": (get(method=b"BREW"), b"BREW / "),
    "expect": (get((b"expect", b"100-continue")), b"GET / "),
    "priority-junk": (get((b"priority", b"u=99, i=?7, ;;, \xff")), b"GET / "),
    "padded": (head(b"\4" + BLOCK + bytes(4), END_HEADERS | END_STREAM | PADDED), b"GET / "),
    "with-priority": (
        head(b"\x80\0\0\x03\x10" + BLOCK, END_HEADERS | END_STREAM | HAS_PRIORITY),
        b"GET / ",
    ),
    "padded-with-priority": (
        head(b"\2\0\0\0\0\xff" + BLOCK + bytes(2), 1 | END_HEADERS | PADDED | HAS_PRIORITY),
        b"GET / ",
    ),
    "indexed": (head(bytes((0x82, 0x84, 0x86)) + b"\x41\x09localhost"), b"GET / "),
    "table-size-changes": (head(table_size(0) + table_size(4096) + BLOCK), b"GET / "),
}


@feeds
@table(RIGHT, "good, body")
async def test_what_is_right(good: bytes, body: bytes, feed: Feed) -> None:
    app = Mirror()
    seen, _ = await trial(app, feed, good)
    assert seen.resets == {}
    assert seen.status(5) == 200
    assert seen.body(5) == body
    for each in app.heads:
        assert each.headers[0] == (b"host", b"localhost")
        assert not any(b"_" in name for name, _ in each.headers)


FIELDS: list[tuple[Pairs, Iterable[tuple[bytes, bytes]]]] = [
    ([(b"cookie", b"a=1"), (b"x-a", b"b"), (b"cookie", b"c=2")], [(b"cookie", b"a=1; c=2")]),
    ([(b"x_forwarded_for", b"6.6.6.6"), (b"x-forwarded-for", b"6.6.6.6")], []),
    ([(b"forwarded", b"for=6.6.6.6"), (b"x-forwarded-proto", b"https")], []),
]


@pytest.mark.parametrize("sent, kept", FIELDS)
async def test_what_becomes_of_fields(sent: Pairs, kept: Any) -> None:
    app = Mirror()
    async with h2_server(app) as server:
        client = Prober(server)
        client.send(get(*sent))
        assert (await client.settle()).status(5) == 200
        (found,) = app.heads
        assert [pair for pair in found.headers[1:] if pair[0] != b"x-a"] == kept
        assert found.client == ("127.0.0.1", 50000)
        assert found.scheme == "http"
        assert found.http_version == "2"
