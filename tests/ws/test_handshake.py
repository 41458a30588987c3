"""Handshakes: what is refused, what is accepted, and from which pages, on both wires."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from backends.support import connect, turns
from backends.wires import FIELDS, KEY, Http2Line, both

from kyoukai import Kyoukai
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.stream import RequestHead
from kyoukai.testing import ClientResponse, MemoryServer
from kyoukai.ws.handshake import Handshake, is_handshake, origin_allowed


class Door:
    """An application with one socket, and what it has seen."""

    def __init__(self, subprotocol: str | None = None) -> None:
        self.app = Kyoukai("test")
        self.offered: list[tuple[str, ...]] = []

        @self.app.websocket("/")
        async def socket(ctx: Any, ws: Any) -> None:
            self.offered.append(ws.subprotocols)
            await ws.accept(subprotocol)
            await ws.wait_closed()

        @self.app.route("/page", methods=["GET", "POST"])
        async def page(ctx: Any) -> str:
            return f"page {ctx.request.get_data().decode()}"


@asynccontextmanager
async def door(
    wire: Any, subprotocol: str | None = None, **settings: Any
) -> AsyncIterator[tuple[Door, Any]]:
    """An application, and a line to it."""
    site = Door(subprotocol)
    async with MemoryServer(site.app, wire.protocol_class, **settings) as server:
        yield site, wire(server)


UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
THE_KEY = f"Sec-WebSocket-Key: {KEY}\r\n"
VERSION = "Sec-WebSocket-Version: 13\r\n"
GOOD = UPGRADE + THE_KEY + VERSION


async def shake(
    lines: str = GOOD, *, first: str = "GET / HTTP/1.1", body: str = "", **settings: Any
) -> tuple[ClientResponse, ClientResponse | None]:
    """Send a handshake as bytes; return its answer, and that to a request behind it, if any."""
    async with MemoryServer(Door().app, HttpToolsProtocol, **settings) as server:
        connection = connect(server)
        head = f"{first}\r\nHost: localhost\r\n{lines}\r\n{body}"
        connection.send(head.encode("latin-1"), first.split()[0])
        answer = await connection.response()
        if answer.status == 101 or connection.transport.eof_written:
            return answer, None
        connection.request("GET", "/page")
        try:
            return answer, await connection.response()
        except ConnectionError:
            return answer, None


# -- HTTP/1.1 ----------------------------------------------------------------------------------


async def test_a_good_one() -> None:
    answer, _ = await shake()
    digest = hashlib.sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    assert answer.status == 101
    assert answer.headers["upgrade"] == "websocket"
    assert answer.headers["connection"] == "Upgrade"
    assert answer.headers["sec-websocket-accept"] == base64.b64encode(digest).decode()
    assert "sec-websocket-protocol" not in answer.headers
    assert "sec-websocket-extensions" not in answer.headers
    assert "content-length" not in answer.headers
    assert "transfer-encoding" not in answer.headers


def test_the_example_of_the_rfc() -> None:
    pairs = Handshake(b"dGhlIHNhbXBsZSBub25jZQ==", (), None, []).answer(None)
    assert pairs == [(b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]


@pytest.mark.parametrize(
    "lines",
    [
        GOOD.replace("websocket\r\n", "WebSocket\r\n", 1),
        GOOD.replace("websocket\r\n", "WEBSOCKET\r\n", 1),
        GOOD.replace("websocket\r\n", "h2c, websocket\r\n", 1),
        GOOD.replace("websocket\r\n", "websocket , other/2\r\n", 1),
        GOOD.replace("websocket\r\n", "other\r\nUpgrade: websocket\r\n", 1),
        GOOD.replace("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        GOOD.replace("Connection: Upgrade", "Connection: UPGRADE"),
        GOOD.replace("Connection: Upgrade", "Connection: ,upgrade ,, close"),
        GOOD.replace("Connection: Upgrade", "Connection: keep-alive\r\nConnection: upgrade"),
        GOOD + "Content-Length: 0\r\n",
        GOOD + "Expect: 100-continue\r\n",
        GOOD + "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
        GOOD.replace(": 13", ":   13  "),
    ],
)
async def test_accepted(lines: str) -> None:
    answer, _ = await shake(lines)
    assert answer.status == 101


KEYS = {
    "none": "",
    "empty": "Sec-WebSocket-Key:\r\n",
    "twice": THE_KEY * 2,
    "two in one": f"Sec-WebSocket-Key: {KEY}, {KEY}\r\n",
    "15 bytes": "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0O\r\n",
    "17 bytes": "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODxA=\r\n",
    "not padded": f"Sec-WebSocket-Key: {KEY.rstrip('=')}\r\n",
    "padded too much": f"Sec-WebSocket-Key: {KEY}==\r\n",
    "no Base64": f"Sec-WebSocket-Key: {'!' * 22}==\r\n",
    "Base64 for URLs": f"Sec-WebSocket-Key: {'_' * 22}==\r\n",
    "a space within": f"Sec-WebSocket-Key: {KEY[:4]} {KEY[4:]}\r\n",
    "not ASCII": f"Sec-WebSocket-Key: {'ÿ' * 22}==\r\n",
}


@pytest.mark.parametrize("line", KEYS.values(), ids=KEYS)
async def test_keys(line: str) -> None:
    answer, after = await shake(UPGRADE + VERSION + line)
    assert answer.status == 400
    assert "Sec-WebSocket-Key" in answer.text
    assert answer.headers["sec-websocket-version"] == "13"
    assert after is not None
    assert after.text == "page "


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("", 400),
        (VERSION * 2, 400),
        (VERSION + VERSION.replace("13", "8"), 400),
        (VERSION.replace("13", "12"), 426),
        (VERSION.replace("13", "14"), 426),
        (VERSION.replace("13", "013"), 426),
        (VERSION.replace("13", "13, 8"), 426),
        (VERSION.replace("13", ""), 426),
        (VERSION.replace("13", "x" * 5000), 426),
    ],
)
async def test_versions(line: str, status: int) -> None:
    answer, after = await shake(UPGRADE + THE_KEY + line)
    assert answer.status == status
    assert answer.headers["sec-websocket-version"] == "13"
    assert answer.headers.get("upgrade") == ("websocket" if status == 426 else None)
    assert after is not None
    assert after.status == 200


#: What is no handshake: method, version and headers.
PLAIN = {
    "no Connection": ("GET / HTTP/1.1", GOOD.replace("Connection: Upgrade\r\n", "")),
    "no Upgrade": ("GET / HTTP/1.1", GOOD.replace("Upgrade: websocket\r\n", "")),
    "another Connection": ("GET / HTTP/1.1", GOOD.replace("Connection: Upgrade", "Connection: x")),
    "another Upgrade": ("GET / HTTP/1.1", GOOD.replace("websocket\r\n", "other\r\n", 1)),
    "a version of it": ("GET / HTTP/1.1", GOOD.replace("websocket\r\n", "websocket/13\r\n", 1)),
    "not a token": ("GET / HTTP/1.1", GOOD.replace("websocket\r\n", "web socket\r\n", 1)),
    "HEAD": ("HEAD / HTTP/1.1", GOOD),
    "POST": ("POST / HTTP/1.1", GOOD + "Content-Length: 0\r\n"),
    "HTTP/1.0": ("GET / HTTP/1.0", GOOD),
    "HTTP/1.0 that stays": ("GET / HTTP/1.0", GOOD + "Connection: keep-alive\r\n"),
}


@pytest.mark.parametrize(("first", "lines"), PLAIN.values(), ids=PLAIN)
async def test_what_is_no_handshake(first: str, lines: str) -> None:
    answer, after = await shake(lines, first=first)
    assert answer.status == 426
    assert answer.headers["upgrade"] == "websocket"
    assert after is None or after.status == 200
    on_a_page, after = await shake(lines, first=first.replace(" / ", " /page "))
    assert on_a_page.status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Content-Length: 23\r\n", "GET /evil HTTP/1.1\r\n\r\n\n"),
        ("Transfer-Encoding: chunked\r\n", "17\r\nGET /evil HTTP/1.1\r\n\r\n\n\r\n0\r\n\r\n"),
    ],
)
async def test_a_body_is_no_frames_and_no_request(method: str, framing: str, body: str) -> None:
    answer, after = await shake(GOOD + framing, first=f"{method} / HTTP/1.1", body=body)
    assert answer.status == (400 if method == "GET" else 426)
    assert after is not None
    assert (after.status, after.text) == (200, "page ")


@pytest.mark.parametrize("lines", ["Host: other\r\n" + GOOD, "Content-Length: x\r\n" + GOOD])
async def test_a_head_that_is_wrong(lines: str) -> None:
    answer, after = await shake(lines)
    assert answer.status == 400
    assert after is None


# -- HTTP/2 ------------------------------------------------------------------------------------


async def test_a_good_one_over_http2() -> None:
    async with door(Http2Line) as (_, line):
        line.ask()
        await turns()
        assert line.status == 200
        names = set(line.headers)
        assert not names & {"sec-websocket-accept", "content-length", "upgrade", "connection"}
        assert not line.ended


@pytest.mark.parametrize(
    "fields", [(), (("sec-websocket-version", "12"),), FIELDS * 2, (("sec-websocket-version", ""),)]
)
async def test_versions_over_http2(fields: Any) -> None:
    async with door(Http2Line) as (_, line):
        line.ask(headers=fields)
        answer = await line.exchange.finished()
        assert answer.status == 400
        assert answer.headers["sec-websocket-version"] == "13"
        assert "upgrade" not in answer.headers


async def test_a_key_says_nothing_over_http2() -> None:
    async with door(Http2Line) as (_, line):
        line.ask(headers=[*FIELDS, ("sec-websocket-key", "nonsense")])
        await turns()
        assert line.status == 200


# -- Subprotocols and extensions ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "offered"),
    [
        ([], ()),
        ([""], ()),
        (["chat"], ("chat",)),
        (["chat, superchat"], ("chat", "superchat")),
        (["b ,a", "c"], ("b", "a", "c")),
        ([",a,,b,"], ("a", "b")),
        (["a, b, a"], ("a", "b")),
        (["Chat, chat"], ("Chat", "chat")),
        (["v1.chat!#$%&'*+-.^_`|~"], ("v1.chat!#$%&'*+-.^_`|~",)),
    ],
)
@both
async def test_subprotocols(wire: Any, values: list[str], offered: tuple[str, ...]) -> None:
    chosen = offered[-1] if offered else None
    async with door(wire, chosen) as (site, line):
        line.ask(headers=[*FIELDS, *(("sec-websocket-protocol", value) for value in values)])
        await turns()
        assert line.status == (200 if wire is Http2Line else 101)
        assert site.offered == [offered]
        assert line.headers.get("sec-websocket-protocol") == chosen


@pytest.mark.parametrize("value", ["a b", 'a"b"', "a/b", "ä", "a;q=1", "a,b c"])
@both
async def test_subprotocols_that_are_no_names(wire: Any, value: str) -> None:
    async with door(wire) as (site, line):
        line.ask(headers=[*FIELDS, ("sec-websocket-protocol", value)])
        await turns()
        assert line.status == 400
        assert site.offered == []


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        ([], None),
        (["x-other"], None),
        (["permessage-deflate; unknown_parameter"], None),
        (["permessage-deflate; server_max_window_bits=7"], None),
        (["permessage-deflate; client_max_window_bits=16"], None),
        (["permessage-deflate"], "permessage-deflate; server_max_window_bits=12"),
        (
            ["x-other, permessage-deflate; client_max_window_bits"],
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        ),
        (
            ["permessage-deflate; bad", "permessage-deflate; server_max_window_bits=10"],
            "permessage-deflate; server_max_window_bits=10",
        ),
        (
            ["permessage-deflate; server_no_context_takeover, permessage-deflate"],
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=12",
        ),
    ],
)
@both
async def test_compression(wire: Any, offers: list[str], answer: str | None) -> None:
    fields = [*FIELDS, *(("sec-websocket-extensions", offer) for offer in offers)]
    for wanted in (True, False):
        async with door(wire, ws_deflate=wanted) as (_, line):
            line.ask(headers=fields)
            await turns()
            assert line.status == (200 if wire is Http2Line else 101)
            found = line.headers.get("sec-websocket-extensions")
            assert found == (answer if wanted else None)


@pytest.mark.parametrize("value", ["permessage-deflate;", "=", "a;b=", 'a;b="', "ä", "a b"])
@both
async def test_extensions_that_make_no_sense(wire: Any, value: str) -> None:
    for wanted, status in ((True, 400), (False, 200 if wire is Http2Line else 101)):
        async with door(wire, ws_deflate=wanted) as (_, line):
            line.ask(headers=[*FIELDS, ("sec-websocket-extensions", value)])
            await turns()
            assert line.status == status


# -- Origins -----------------------------------------------------------------------------------


def head(authority: str, *origins: str, scheme: str = "http") -> RequestHead:
    pairs = [(b"host", authority.encode())]
    pairs += [(b"origin", origin.encode("latin-1")) for origin in origins]
    return RequestHead("GET", b"/", b"/", "/", b"", scheme, authority, "1.1", pairs)


@pytest.mark.parametrize(
    ("authority", "scheme", "origin"),
    [
        ("example.com", "http", "http://example.com"),
        ("example.com", "https", "https://example.com"),
        ("example.com", "http", "https://example.com"),  # a proxy has ended the TLS
        ("example.com", "http", "HTTP://Example.COM"),
        ("example.com", "http", "http://example.com:80"),
        ("example.com:80", "http", "http://example.com"),
        ("example.com:443", "https", "https://example.com"),
        ("example.com:443", "http", "https://example.com"),
        ("example.com:8080", "http", "http://example.com:8080"),
        ("example.com:8443", "http", "https://example.com:8443"),
        ("[::1]", "http", "http://[::1]"),
        ("[::1]:8000", "http", "http://[::1]:8000"),
        ("[fe80::80]:443", "https", "https://[fe80::80]"),
        ("127.0.0.1:5000", "http", "http://127.0.0.1:5000"),
    ],
)
def test_the_own_host(authority: str, scheme: str, origin: str) -> None:
    assert origin_allowed(head(authority, origin, scheme=scheme), ())


@pytest.mark.parametrize(
    ("authority", "origin"),
    [
        ("example.com", "null"),
        ("example.com", ""),
        ("example.com", "example.com"),
        ("example.com", "http://evil.com"),
        ("example.com", "http://example.com.evil.com"),
        ("example.com", "http://evilexample.com"),
        ("example.com", "http://sub.example.com"),
        ("sub.example.com", "http://example.com"),
        ("example.com", "https://example.com@evil.com"),
        ("example.com", "https://evil.com@example.com"),
        ("example.com", "https://evil.com/example.com"),
        ("example.com", "https://example.com/"),
        ("example.com", "https://evil.com#://example.com"),
        ("example.com", "https://evil.com?example.com"),
        ("example.com", "https://evil.com://example.com"),
        ("example.com", "https:///example.com"),
        ("example.com", "https://example.com, https://evil.com"),
        ("example.com", "https://example.com https://evil.com"),
        ("example.com", "https://example.com."),
        ("example.com", "https://example.com:444"),
        ("example.com", "http://example.com:8080"),
        ("example.com:8080", "http://example.com"),
        ("example.com:8080", "http://example.com:80"),
        ("example.com", "http://example.com:443"),
        ("example.com", "https://example.com:80"),
        ("example.com", "://example.com"),
        ("example.com", "//example.com"),
        ("localhost", "capacitor://localhost"),
        ("localhost", "file://localhost"),
        ("localhost", "file://"),
        ("[::1]", "http://::1"),
        ("[::1]:80", "http://[::1]:8000"),
        ("example.com", "http://exampl\xe9.com"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_other_hosts(authority: str, origin: str, scheme: str) -> None:
    assert not origin_allowed(head(authority, origin, scheme=scheme), ())


def test_an_origin_without_tls_for_a_server_with_it() -> None:
    for origin, expected in ("http://example.com", False), ("https://example.com", True):
        for authority in "example.com", "example.com:443":
            request = head(authority, origin, scheme="https")
            assert origin_allowed(request, ()) is expected


def test_two_origins() -> None:
    for origins in ((), ("*",), ("http://a",)):
        assert not origin_allowed(head("a", "http://a", "http://a"), origins)
        assert origin_allowed(head("a"), origins)


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        (("https://example.com",), "https://example.com", True),
        (("HTTPS://Example.com",), "https://EXAMPLE.com", True),
        (("https://example.com",), "http://example.com", False),
        (("https://example.com",), "https://example.com:8443", False),
        (("https://example.com",), "https://example.com.evil", False),
        (("https://example.com",), "http://own", False),
        (("https://example.com", "http://own"), "http://own", True),
        (("https://example.com",), "null", False),
        (("null",), "null", True),
        (("capacitor://localhost",), "capacitor://localhost", True),
        (("*",), "https://evil", True),
        (("*",), "null", True),
        (("https://*.example.com",), "https://a.example.com", False),
    ],
)
def test_origins_of_the_settings(allowed: tuple[str, ...], origin: str, expected: bool) -> None:
    assert origin_allowed(head("own", origin), allowed) is expected


@both
async def test_a_page_of_another_host(wire: Any) -> None:
    for settings, origin, ok in (
        ({}, "http://localhost", True),
        ({}, "http://evil", False),
        ({"ws_origins": ("http://evil",)}, "http://evil", True),
        ({"ws_origins": ("http://evil",)}, "http://localhost", False),
    ):
        async with door(wire, **settings) as (site, line):  # type: ignore[arg-type]
            line.ask(headers=[*FIELDS, ("origin", origin)])
            await turns()
            assert line.status == ((200 if wire is Http2Line else 101) if ok else 403)
            assert len(site.offered) == ok


def test_what_a_handshake_is() -> None:
    for method, protocol, expected in (
        ("GET", "websocket", True),
        ("CONNECT", "websocket", True),
        ("POST", "websocket", False),
        ("GET", "h2c", False),
        ("GET", None, False),
    ):
        request = head("a")
        request.method, request.protocol = method, protocol
        assert is_handshake(request) is expected
