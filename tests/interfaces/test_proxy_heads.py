"""What a proxy passes on of a message, and what stays on the connection that it came on."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any

import pytest
from backends.frames import headers, request
from backends.support import Tls
from interfaces.proxy_peers import Front, both, both_ways, fronted
from upstreams import ScriptedUpstream

from kyoukai import Proxy, ServerConfig
from kyoukai.interfaces.proxy import ProxyInterface
from kyoukai.interfaces.proxy_heads import RequestWriter, rewrite_location
from kyoukai.proxy import UpstreamAddress
from kyoukai.testing import MemoryServer

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

#: What every request says of its client, in tests that look at something else.
TOLD = {"host", "via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}


def others(seen: Any) -> list[tuple[str, str]]:
    """Return the header lines of a request that came, without those that every one has."""
    return [pair for pair in seen.headers if pair[0] not in TOLD]


def answer(*lines: str, status: str = "200 OK", body: str = "ok") -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", body))
    return head.encode("latin-1")


# -- The connection (RFC 9110 section 7.6.1) ---------------------------------------------------


@both_ways
async def test_what_is_about_the_clients_connection(way: str) -> None:
    async with fronted(way=way) as front:
        await front.ask(
            headers=[
                ("Connection", "X-One, keep-alive,,TE , close"),
                ("X-One", "1"),
                ("Connection", "x-TWO"),
                ("X-Two", "2"),
                ("X-Three", "3"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Connection", "close"),
                ("Proxy-Authorization", "Basic eA=="),
                ("HTTP2-Settings", "AAMAAABk"),
                ("Upgrade", "h2c, foo"),
                ("Proxy", "http://evil/"),
                ("TE", "gzip, deflate;q=0.5"),
                ("Content-Length", "0"),
            ]
        )
        assert others(front.last) == [("x-three", "3")]


async def test_te_goes_on_for_trailers_alone() -> None:
    async with fronted() as front:
        await front.ask(headers=[("TE", "gzip;q=0.3, Trailers"), ("Connection", "TE")])
        assert others(front.last) == [("te", "trailers"), ("connection", "te")]
        await front.ask(True, headers=[("te", "trailers")])
        assert others(front.last) == [("te", "trailers"), ("connection", "te")]


async def test_what_connection_cannot_take_away() -> None:
    """A client that names a field in Connection changes nothing of what we say ourselves."""
    names = (
        "host, content-length, transfer-encoding, via, forwarded, x-forwarded-for, "
        "x-forwarded-proto, x-forwarded-host, x-real-ip, max-forwards, expect, connection"
    )
    async with fronted() as front:
        plain, tricked = [], []
        for seen, value in ((plain, "keep-alive"), (tricked, names)):
            await front.ask(
                method="POST",
                target="/x",
                headers=[("Connection", value), ("Via", "1.0 before"), ("Max-Forwards", "7")],
                body=b"1234",
            )
            await front.ask(method="PUT", headers=[("Connection", value)], chunks=[b"12", b"34"])
            seen += [(each.headers, each.body) for each in front.upstream.requests[-2:]]
        assert plain == tricked
        assert plain[0][1] == plain[1][1] == b"1234"
        # Its own fields are the client's to drop.
        await front.ask(headers=[("Connection", "cookie, authorization"), ("Cookie", "a=b")])
        assert front.last["cookie"] is None


@both
@both_ways
async def test_what_is_about_the_servers_connection(way: str, http2: bool) -> None:
    data = answer(
        "Connection: X-One, keep-alive",
        "X-One: 1",
        "connection: x-two",
        "X-Two: 2",
        "X-Three: 3",
        "Keep-Alive: timeout=50",
        "Proxy-Connection: close",
        "Proxy-Authenticate: Basic",
        "Upgrade: h2c",
        "TE: x",
        "Server: up",
        "Date: Sat, 01 Jan 2000 00:00:00 GMT",
    )
    async with fronted(data, way=way) as front:
        for _ in range(2):
            response = await front.ask(http2)
            assert response.body == b"ok"
            names = sorted(name.lower() for name, _ in response.headers)
            assert names == ["content-length", "date", "server", "via", "x-three"]
            assert response.headers["server"] == "up"
            assert response.headers["date"] == "Sat, 01 Jan 2000 00:00:00 GMT"
        assert len(front.upstream.wires) == 1


@both
async def test_a_close_of_the_servers_is_not_the_clients(http2: bool) -> None:
    async with fronted(answer("Connection: close"), closes=True) as front:
        if http2:
            client = front.http2()
            assert [(await client.get()).body for _ in range(3)] == [b"ok"] * 3
        else:
            connection = front.http1()
            for _ in range(3):
                connection.request("GET", "/")
                response = await connection.response()
                assert response.body == b"ok"
                assert "connection" not in response.headers
        assert len(front.upstream.wires) == 3


# -- Who the client is -------------------------------------------------------------------------


@both
@both_ways
async def test_via_both_ways(way: str, http2: bool) -> None:
    version = "2.0" if http2 else "1.1"
    old = b"HTTP/1.0 200 OK\r\nVia: 1.0 far\r\n\r\nok"
    async with fronted(old, way=way, closes=True) as front:
        response = await front.ask(http2, headers=[("Via", "1.0 a, 1.1 b"), ("Via", "1.1 c")])
        assert front.last.all("via") == [f"1.0 a, 1.1 b, 1.1 c, {version} kyoukai"]
        assert response.headers.getlist("via") == ["1.0 far", "1.0 kyoukai"]
        await front.ask(http2)
        assert front.last["via"] == f"{version} kyoukai"
    async with fronted(way=way, via="edge-1") as front:
        response = await front.ask(http2)
        assert front.last["via"] == f"{version} edge-1"
        assert response.headers["via"] == "1.1 edge-1"
    async with fronted(way=way, via="") as front:
        response = await front.ask(http2, headers=[("Via", "1.1 a")])
        assert front.last["via"] in (None, "1.1 a")
        assert "via" not in response.headers


@both
@both_ways
async def test_a_request_that_comes_back(way: str, http2: bool) -> None:
    """RFC 9110 section 7.6: whoever is sent to itself must not go on doing that."""
    async with fronted(way=way) as front:
        for method in ("GET", "GET", "POST"):
            count = len(front.upstream.requests)
            others = [("Via", "1.1 a, 1.0 b (kyoukai), 1.1 kyoukais")] * 20
            assert (await front.ask(http2, method, headers=others)).status == 200
            some = [("Via", "1.1 kyoukai, 2.0 kyoukai")] * 4
            assert (await front.ask(http2, method, headers=some)).status == 200
            many = [("Via", "1.1 a, 1.1 kyoukai"), ("Via", "2.0 kyoukai")] * 20
            assert (await front.ask(http2, method, headers=many)).status in (502, 508)
            assert len(front.upstream.requests) == count + 2
        assert len(front.upstream.wires) == 1
    async with fronted(way=way, via="") as front:
        assert (await front.ask(http2, headers=many)).status == 200


#: What a client may say of itself, to be believed.
CLAIMS = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil"),
    ("X-Forwarded-Port", "1"),
    ("X-Forwarded-Prefix", "/evil"),
    ("X-Forwarded-Server", "evil"),
    ("X-Forwarded-Ssl", "on"),
    ("X-Forwarded-By", "evil"),
    ("X-Forwarded-User", "root"),
    ("X-Forwarded-Client-Cert", "Subject=root"),
    ("X-Forwarded-Uri", "/evil"),
    ("X-Real-IP", "6.6.6.6"),
    ("Forwarded", "for=6.6.6.6;host=evil;proto=https"),
]
OURS = [
    ("x-forwarded-for", "127.0.0.1"),
    ("x-forwarded-proto", "http"),
    ("x-forwarded-host", "localhost"),
]
FORWARDED = [("forwarded", "for=127.0.0.1;host=localhost;proto=http")]


@both
@pytest.mark.parametrize(
    ("setting", "expected"),
    [("x-forwarded", OURS), ("forwarded", FORWARDED), ("both", OURS + FORWARDED), ("off", [])],
)
async def test_who_the_client_is(setting: str, expected: Any, http2: bool) -> None:
    """By setting; what an untrusted client says of itself goes no further in any of them."""
    async with fronted(forwarded=setting, via="") as front:
        for headers in ((), CLAIMS, [("X_Forwarded_For", "6.6.6.6")]):
            await front.ask(http2, headers=headers)
            assert front.last.headers[1:] == expected
            assert front.last["host"] == "localhost"


@both
async def test_what_a_trusted_proxy_says_is_carried_on(http2: bool) -> None:
    headers = [("X-Forwarded-For", "1.1.1.1, 2.2.2.2"), *CLAIMS[1:-1]]
    settings = {"trusted_proxies": ("127.0.0.1",)}
    async with fronted(settings=settings, forwarded="both") as front:
        # What it does not write itself is the client's word.
        await front.ask(http2, headers=[*headers, ("Forwarded", "for=7.7.7.7;host=b;proto=http")])
        seen = front.last
        assert seen["x-forwarded-for"] == "1.1.1.1, 2.2.2.2, 127.0.0.1"
        assert seen["x-forwarded-proto"] == "https"
        assert seen["x-forwarded-host"] == seen["host"] == "evil"
        assert seen["forwarded"] == "for=127.0.0.1;host=evil;proto=https"
        for name, value in CLAIMS[3:-1]:
            assert seen[name.lower()] == value
        await front.ask(http2, headers=headers, extra={"peername": ("9.9.9.9", 1)})
        assert front.last["x-forwarded-for"] == "9.9.9.9"
        assert front.last["forwarded"] == "for=9.9.9.9;host=localhost;proto=http"
        assert others(front.last) == [("forwarded", front.last["forwarded"])]
    settings["forwarded_headers"] = "forwarded"
    async with fronted(settings=settings, forwarded="both") as front:
        await front.ask(http2, headers=[*CLAIMS[-1:], ("X-Forwarded-For", "7.7.7.7")])
        seen = front.last
        assert seen["forwarded"] == f"{CLAIMS[-1][1]}, for=127.0.0.1;host=evil;proto=https"
        assert seen["x-forwarded-for"] == "6.6.6.6, 127.0.0.1"


@both
async def test_what_a_trusted_proxy_says_by_forwarded_is_carried_on(http2: bool) -> None:
    """It writes one kind, and passes on what clients say by the other."""
    settings = {"trusted_proxies": ("127.0.0.1",), "forwarded_headers": "forwarded"}
    async with fronted(settings=settings, forwarded="both") as front:
        for told, client in [
            ("for=6.6.6.6;host=evil;proto=https", "6.6.6.6"),
            ('For="[2001:db8::1]:8";Proto=HTTPS;Host=evil', "2001:db8::1"),
            ('for="x y";host=evil;proto=https', None),
        ]:
            await front.ask(http2, headers=[*CLAIMS[:-1], ("Forwarded", told)])
            seen = front.last
            assert others(seen) == [("forwarded", seen["forwarded"])]
            assert seen["forwarded"] == f"{told}, for=127.0.0.1;host=evil;proto=https"
            assert seen["x-forwarded-for"] == ", ".join(filter(None, (client, "127.0.0.1")))
            assert (seen["x-forwarded-proto"], seen["x-forwarded-host"]) == ("https", "evil")


@pytest.mark.parametrize(
    ("peer", "told", "node"),
    [
        (("2001:db8::17", 5, 0, 0), "2001:db8::17", '"[2001:db8::17]"'),
        (("::1", 5, 0, 0), "::1", '"[::1]"'),
        (("192.0.2.1", 5), "192.0.2.1", "192.0.2.1"),
        ("", None, "unknown"),
    ],
)
async def test_addresses_of_clients(peer: Any, told: str | None, node: str) -> None:
    async with fronted(forwarded="both", settings={"trusted_proxies": ("unix",)}) as front:
        extra = {"peername": peer, "sockname": ("::1", 80, 0, 0)}
        await front.ask(headers=[("Host", "[::1]:80")], extra=extra)
        assert front.last["x-forwarded-for"] == told
        assert front.last["x-forwarded-host"] == "[::1]:80"
        assert front.last["forwarded"] == f'for={node};host="[::1]:80";proto=http'
        await front.ask(headers=[("X-Forwarded-For", "1.1.1.1")], extra=extra)
        assert front.last["x-forwarded-for"] == (told or "1.1.1.1")


@both
@both_ways
@pytest.mark.parametrize(
    ("host", "expected"), [("keep", "Shop.Example:81"), ("upstream", None), ("a.b:80", "a.b:80")]
)
async def test_host(host: str, expected: str | None, way: str, http2: bool) -> None:
    async with fronted(way=way, path="", host=host) as front:
        await front.ask(http2, headers=[] if http2 else [("Host", "Shop.Example:81")])
        told = "localhost" if http2 else "Shop.Example:81"
        if host == "upstream":
            expected = f"127.0.0.1:{front.upstream.port}"
        elif host == "keep":
            expected = told
        assert front.last["host"] == expected
        assert front.last["x-forwarded-host"] == told.lower()


@pytest.mark.parametrize("host", ["x;for=6.6.6.6", "x,y", "a=b", "x;proto=https,for=6.6.6.6"])
async def test_a_host_that_would_say_more(host: str) -> None:
    """Not every reader of Forwarded minds the quotes; such a host is no host anyway."""
    async with fronted(forwarded="both", host="up") as front:
        await front.ask(headers=[("Host", host)])
        assert front.last["forwarded"] == "for=127.0.0.1;proto=http"
        assert front.last["x-forwarded-host"] is None
        assert host not in front.last.raw.decode()


async def test_heads_that_differ_a_little() -> None:
    """Lines that are remembered are those of the same head, and of no other one."""
    async with fronted() as front:
        for peer in ("1.1.1.1", "2.2.2.2", "1.1.1.1"):
            for method, left in (("GET", "5"), ("OPTIONS", "4"), ("GET", "5")):
                await front.ask(
                    method=method,
                    headers=[("Max-Forwards", "5"), ("Cookie", "a")],
                    extra={"peername": (peer, 1)},
                )
                assert front.last["x-forwarded-for"] == peer
                assert front.last["max-forwards"] == left
        for extra, scheme in (({}, "http"), ({"ssl_object": Tls()}, "https"), ({}, "http")):
            await front.ask(headers=[("Cookie", "a")], extra=extra)
            assert front.last["x-forwarded-proto"] == scheme
        await front.ask(headers=[("Max-Forwards", "5"), ("Cookie", "b")])
        assert front.last["cookie"] == "b"
        for host in ("a", "b"):
            await front.raw(f"GET http://{host}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert front.last["host"] == front.last["x-forwarded-host"] == host


# -- Fields ------------------------------------------------------------------------------------


@both
@both_ways
async def test_fields_go_on_as_they_are(way: str, http2: bool) -> None:
    headers = [
        ("Accept", "a"),
        ("Accept", "b, c"),
        ("X-Empty", ""),
        ("X-Text", "\xe4\tb"),
        ("Range", "bytes=0-1"),
        ("If-None-Match", '"x"'),
        ("Accept-Encoding", "gzip"),
        ("Authorization", "Basic eA=="),
        ("Origin", "null"),
    ]
    headers = [(name, value.encode("latin-1").decode("latin-1")) for name, value in headers]
    if http2:  # whose client encodes text as UTF-8
        headers = [(name, value.replace("\xe4", "x")) for name, value in headers]
    lines = ["Set-Cookie: a=1; Path=/", "Set-Cookie: b=2, c", "ETag: W/x", "Age: 1", "Trailer: x"]
    data = answer(*lines, "X-Empty:", "Content-Type: a/b", "Accept-Ranges: bytes", body="x" * 9)
    async with fronted(data, way=way) as front:
        response = await front.ask(http2, headers=headers)
        assert others(front.last) == [(name.lower(), value) for name, value in headers]
        assert response.status == 200
        assert response.headers.getlist("set-cookie") == ["a=1; Path=/", "b=2, c"]
        for name, value in (("etag", "W/x"), ("age", "1"), ("trailer", "x"), ("x-empty", "")):
            assert response.headers.getlist(name) == [value]


async def test_a_cookie_in_pieces_is_one() -> None:
    """RFC 9113 section 8.2.3."""
    async with fronted() as front:
        await front.ask(True, headers=[("cookie", "a=1"), ("x-a", "b"), ("cookie", "c=2; d=3")])
        assert front.last["cookie"] == "a=1; c=2; d=3"


@both
@both_ways
async def test_bodies_are_framed_anew(way: str, http2: bool) -> None:
    """By their length if that is known, by chunks if it is not, and never by both."""
    async with fronted(lambda seen: answer(body=seen.body.decode()), way=way) as front:
        for method in ("POST", "PUT", "PATCH", "DELETE", "GET", "REPORT"):
            response = await front.ask(http2, method, body=b"1234")
            assert (response.body, front.last["content-length"]) == (b"1234", "4")
            assert front.last["transfer-encoding"] is None
            response = await front.ask(http2, method, chunks=[b"12", b"34"])
            assert response.body == b"1234"
            framing = (front.last["content-length"], front.last["transfer-encoding"])
            assert framing in (("4", None), (None, "chunked"))
            await front.ask(http2, method)
            nothing = "0" if method in ("POST", "PUT", "PATCH") else None
            assert front.last["content-length"] == nothing
            assert front.last["transfer-encoding"] is None
        if http2:
            exchange = front.http2().begin("POST")
        else:
            connection = front.http1()
            connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        count = len(front.upstream.requests)
        await front.upstream.wait(lambda: len(front.upstream.requests) > count)
        assert front.last["transfer-encoding"] == "chunked"
        if http2:
            exchange.data(b"12")
            exchange.data(b"34", end=True)
            assert (await exchange.finished()).body == b"1234"
        else:
            connection.send(b"2;x=y\r\n12\r\n002\r\n34\r\n0\r\n\r\n", "POST")
            assert (await connection.response()).body == b"1234"


@both
@both_ways
async def test_trailers_both_ways(way: str, http2: bool) -> None:
    evil = "Connection: x\r\nX-Forwarded-For: 6.6.6.6\r\nHost: evil\r\nKeep-Alive: x\r\n"
    data = (
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"2\r\nok\r\n0\r\nX-Sum: 1\r\n{evil}X-Sum: 2\r\n\r\n"
    )
    async with fronted(data.encode(), way=way) as front:
        response = await front.ask(
            http2,
            "POST",
            headers=[("TE", "trailers"), ("Trailer", "X-End")],
            chunks=[b"1", b"2"],
            trailers=[("X-End", "3"), ("X-Forwarded-For", "6.6.6.6"), ("Via", "1.1 evil")],
        )
        assert (response.status, response.body) == (200, b"ok")
        assert response.headers["trailer"] == "X-Sum"
        assert [(n.lower(), v) for n, v in response.trailers] == [("x-sum", "1"), ("x-sum", "2")]
        assert front.last.trailers == [("x-end", "3")]
        assert front.last.body == b"12"
        assert front.last["trailer"] == "X-End"


@both
@both_ways
async def test_interim_answers(way: str, http2: bool) -> None:
    hints = "HTTP/1.1 103 Early Hints\r\nLink: </{}>\r\nConnection: x-a\r\nX-A: b\r\n\r\n"
    data = "HTTP/1.1 100 Continue\r\n\r\n" + hints.format("a") + hints.format("b")
    async with fronted(data.encode() + answer(), way=way) as front:
        response = await front.ask(http2)
        assert response.body == b"ok"
        interim = [(status, dict(headers.items())) for status, headers in response.informational]
        assert [(status, {k.lower(): v for k, v in each.items()}) for status, each in interim] == [
            (103, {"link": "</a>", "via": "1.1 kyoukai"}),
            (103, {"link": "</b>", "via": "1.1 kyoukai"}),
        ]


@both
@both_ways
async def test_expect(way: str, http2: bool) -> None:
    """The server decides whether the client may send its body."""

    async def willing(seen: Any, wire: Any) -> bytes:
        assert seen["expect"] == "100-continue"
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while await wire.body():
            pass
        return answer(body=seen.body.decode())

    async with fronted(willing, way=way) as front:
        if http2:
            exchange = front.http2().begin("POST", "/", [("expect", "100-continue")])
            while not exchange.response.informational:
                await exchange.client.event()
            exchange.data(b"body", end=True)
            response = await exchange.finished()
        else:
            connection = front.http1()
            connection.send(
                b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 4\r\n\r\n"
            )
            while b" 100 " not in connection.transport.output:
                connection.transport.changed.clear()
                await connection.transport.changed.wait()
            connection.send(b"body", "POST")
            response = await connection.response()
        assert [status for status, _ in response.informational] == [100]
        assert response.body == b"body"


@both
@both_ways
async def test_a_server_that_expects_nothing(way: str, http2: bool) -> None:
    """Its answer comes without 100 Continue before it, and nobody asks for the body."""

    async def unwilling(seen: Any, wire: Any) -> None:
        await wire.send(answer(status="401 Unauthorized", body="no"))
        assert await wire.read() == b""  # the connection ends: its request never does
        raise ConnectionResetError

    async with fronted(unwilling, way=way) as front:
        headers = [("expect", "100-continue"), ("content-length", "4")]
        if http2:
            response = await front.http2().begin("POST", "/", headers).finished()
        else:
            connection = front.http1()
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
            connection.send(f"POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode(), "POST")
            response = await connection.response()
            assert connection.transport.closed or response.headers.get("connection") == "close"
        assert (response.status, response.body, response.informational) == (401, b"no", [])


@both
@both_ways
async def test_conditions_and_ranges_are_the_servers_to_judge(way: str, http2: bool) -> None:
    async with fronted(answer('ETag: "x"', "Content-Type: text/plain"), way=way) as front:
        for pair in [
            ("if-none-match", '"x"'),
            ("range", "bytes=0-0"),
            ("accept-encoding", "gzip"),
            ("if-match", '"y"'),
        ]:
            response = await front.ask(http2, headers=[pair])
            assert (response.status, response.body) == (200, b"ok")
            assert others(front.last) == [pair]


@both
@both_ways
async def test_handshakes(way: str, http2: bool) -> None:
    """The server is asked on HTTP/1.1, once and in good order, whatever the client speaks."""
    key = "AAECAwQFBgcICQoLDA0ODw=="

    async def switch(seen: Any, wire: Any) -> None:
        told = hashlib.sha1(f"{seen['sec-websocket-key']}{GUID}".encode(), usedforsecurity=False)
        accept = base64.b64encode(told.digest()).decode()
        lines = f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: a\r\nKeep-Alive: x\r\n"
        await wire.send(f"HTTP/1.1 101 S\r\nConnection: X, Upgrade\r\nX: y\r\n{lines}".encode())
        await wire.send(b"Upgrade: WebSocket\r\n\r\nhello")
        assert await wire.read() == b"there"
        assert await wire.read() == b""

    headers = [
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "a, b"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Extensions", "x"),
        ("TE", "trailers"),
        ("X-Forwarded-For", "6.6.6.6"),
    ]
    async with fronted(switch, way=way, prefix="/m", path="/app") as front, asyncio.timeout(5):
        if http2:
            exchange = front.http2().begin(
                "CONNECT", "/m/x", [(":protocol", "websocket"), *headers]
            )
            exchange.data(b"there")
            while exchange.body != b"hello":
                await exchange.client.event()
            exchange.end()
            response = await exchange.finished()
            assert response.status == 200
        else:
            upgrade = [("Connection", "keep-alive, Upgrade, TE"), ("Upgrade", "foo, WebSocket")]
            connection = front.http1()
            connection.request("GET", "/m/x", [*upgrade, *headers])
            response = await connection.response()
            connection.send(b"there")
            connection.transport.feed_eof()
            await connection.closed()
            assert connection.take_rest() == b"hello"
            assert response.status == 101
            assert response.headers["upgrade"].lower() == "websocket"
            assert response.headers["connection"].lower() == "upgrade"
        assert response.headers["sec-websocket-protocol"] == "a"
        assert ("sec-websocket-accept" in response.headers) is not http2
        assert not {"x", "keep-alive"} & {name.lower() for name, _ in response.headers}
        seen = front.last
        assert (seen.method, seen.target) == ("GET", "/app/x")
        assert (seen["connection"], seen["upgrade"]) == ("upgrade", "websocket")
        assert seen["sec-websocket-version"] == "13"
        assert (seen["sec-websocket-key"] == key) is not http2
        assert seen["sec-websocket-extensions"] == "x"
        assert seen["x-forwarded-for"] == "127.0.0.1"
        assert seen["x-forwarded-prefix"] == "/m"
        assert seen["te"] is None


@both
@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["101 S", "Connection: Upgrade", "Upgrade: foo"], 502),
        (["101 S", "Connection: Upgrade", "Upgrade: websocket, foo"], 502),
        (["101 S", "Connection: Upgrade"], 502),
        (["101 S", "Upgrade: websocket"], 502),
        (["101 S", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: x"], None),
        (["101 S", "Connection: Upgrade", "Upgrade: websocket"], None),
        (["200 OK", "Content-Length: 2"], 200),
        (["403 Forbidden", "Content-Length: 2"], 403),
        (["302 Found", "Content-Length: 2"], 302),
    ],
)
async def test_answers_to_handshakes(lines: list[str], status: int | None, http2: bool) -> None:
    """A switch to something else is none, and neither is success without a switch on HTTP/2."""
    async with fronted(
        "\r\n".join((f"HTTP/1.1 {lines[0]}", *lines[1:], "", "no")).encode()
    ) as front:
        headers = [("sec-websocket-version", "13")]
        if http2:
            pairs = [(":protocol", "websocket"), *headers]
            response = await front.http2().begin("CONNECT", "/", pairs).finished()
            assert response.status == (502 if status in (None, 200) else status)
        else:
            connection = front.http1()
            upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
            key = ("Sec-WebSocket-Key", "AAECAwQFBgcICQoLDA0ODw==")
            connection.request("GET", "/", [*upgrade, *headers, key])
            response = await connection.response()
            assert response.status == (status or 101)  # the client checks its key itself
            connection.close()


@both
@both_ways
async def test_answers_without_bodies(way: str, http2: bool) -> None:
    async with fronted(way=way) as front:
        for method, data, status, length in [
            ("HEAD", "200 OK\r\nContent-Length: 7\r\nX-A: b", 200, "7"),
            ("HEAD", "200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b", 200, None),
            ("GET", "204 No Content\r\nX-A: b", 204, None),
            ("GET", "204 No Content\r\nX-A: b\r\nContent-Length: 0", 204, None),
            ("GET", "304 Not Modified\r\nX-A: b\r\nETag: x", 304, None),
            ("GET", "304 Not Modified\r\nX-A: b\r\nContent-Length: 7", 304, None),
            ("HEAD", "404 Not Found\r\nContent-Length: 7\r\nX-A: b", 404, "7"),
        ]:
            front.upstream.answer = f"HTTP/1.1 {data}\r\n\r\n".encode()
            response = await front.ask(http2, method)
            assert (front.last.method, response.status, response.body) == (method, status, b"")
            assert response.headers["x-a"] == "b"
            if status != 304:  # which may do without (RFC 9110 section 8.6)
                assert response.headers.get("content-length") == length, data
            assert "transfer-encoding" not in response.headers
        assert len(front.upstream.wires) == 1


@both
@both_ways
async def test_max_forwards(way: str, http2: bool) -> None:
    """RFC 9110 section 7.6.2: it counts down for OPTIONS and TRACE, and stops them at 0."""
    async with fronted(way=way) as front:
        for method, value, expected in [
            ("OPTIONS", "10", "9"),
            ("TRACE", "1", "0"),
            ("OPTIONS", "x", "x"),
            ("GET", "3", "3"),
            ("GET", "0", "0"),
        ]:
            await front.ask(http2, method, headers=[("Max-Forwards", value)])
            assert (front.last.method, front.last["max-forwards"]) == (method, expected)
        count = len(front.upstream.requests)
        response = await front.ask(http2, "OPTIONS", headers=[("Max-Forwards", "0")])
        assert response.status in (200, 204)
        response = await front.ask(http2, "TRACE", headers=[("Max-Forwards", "0")])
        assert response.status == 405
        assert len(front.upstream.requests) == count


# -- Targets -----------------------------------------------------------------------------------


@both
@both_ways
@pytest.mark.parametrize(
    ("prefix", "path", "targets"),
    [
        # Without a path in the URL, the target goes on as it came.
        (
            "/",
            "",
            {
                "/": "/",
                "/a%2Fb/%7e/%2e%2ec//d;x=1/?%26&?/../": "/a%2Fb/%7e/%2e%2ec//d;x=1/?%26&?/../",
                "/?": "/?",
                "//evil/x": "//evil/x",
                # What is no segment of dots is left alone.
                "/.a/..b/c../.../..%00": "/.a/..b/c../.../..%00",
                "/%252e%252e/a?x=/../": "/%252e%252e/a?x=/../",
            },
        ),
        ("/m", "", {"/m": "/m", "/%6d/a%20b?c": "/%6d/a%20b?c"}),
        # With one, it takes the place of the prefix.
        (
            "/m",
            "/",
            {
                "/m": "/",
                "/m?a": "/?a",
                "/m/": "/",
                "/m/a%2Fb?c=/m/": "/a%2Fb?c=/m/",
                "/%6D/m/x": "/m/x",
                "/m%2Fx%2fy": "/x%2fy",
            },
        ),
        ("/m", "/app", {"/m%2fx": "/app/x"}),
        ("/m", "/app/", {"/m": "/app", "/m/x/?a=b": "/app/x/?a=b"}),
        ("/m", "/a%20b", {"/m/x": "/a%20b/x"}),
        ("/m/n", "/app", {"/m/n/o": "/app/o", "/m%2Fn%2Fo": "/app/o"}),
        ("/", "/app", {"/x": "/app/x", "/": "/app/"}),
        ("/é", "/", {"/%C3%A9/%C3%a9": "/%C3%a9"}),
    ],
)
async def test_targets(
    prefix: str, path: str, targets: dict[str, str], way: str, http2: bool
) -> None:
    async with fronted(prefix=prefix, path=path, way=way) as front:
        for target, expected in targets.items():
            response = await front.ask(http2, target=target)
            assert response.body == b"ok", target
            assert front.last.target == expected
            shown = prefix if path and prefix != "/" else None
            assert front.last["x-forwarded-prefix"] == (shown and shown.replace("é", "%C3%A9"))


@both
@both_ways
async def test_dot_segments(way: str, http2: bool) -> None:
    """They may lead out of the mount; the server never hears of them."""
    async with fronted(prefix="/m", path="/app", way=way) as front:
        targets = (
            "/m/..",
            "/m/../x",
            "/m/./x",
            "/m/.",
            "/m/%2e%2e/x",
            "/m/%2E./x",
            "/m/x/..%2f..%2fetc",
            "/m/..%5cx",
            "/m/x\\..\\y",
            "/m%2f..%2fx",
            "/m/..;/x",
            "/m/..;a=b/x",
            "/m/%2e%2e%3b/x",
            "/../m/x",
            "/./m/x",
        )
        for count in (0, 1):  # a connection is there the second time
            for target in targets:
                response = await front.ask(http2, target=target)
                assert response.status in (400, 404), target
            assert len(front.upstream.wires) == len(front.upstream.requests) == count
            assert (await front.ask(http2, target="/m/x")).body == b"ok"
        assert len(front.upstream.wires) == 1


@both_ways
async def test_forms_of_targets(way: str) -> None:
    """RFC 9112 section 3.2: a server gets origin-form, or ``*`` with OPTIONS."""
    async with fronted(way=way) as front:
        for line, host, target in [
            (b"GET http://Shop.example:81/a?b#c", "Shop.example:81", "/a?b"),
            (b"GET HTTPS://shop.example", "shop.example", "/"),
            (b"GET http://shop.example?x=//y", "shop.example", "/?x=//y"),
            (b"GET /a#b?c", "x", "/a"),
        ]:
            response = await front.raw(line + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert response.body == b"ok", line
            assert (front.last["host"], front.last.target) == (host, target)
        for line in (b"GET http://a@b/", b"GET ftp://b/", b"GET b", b"CONNECT b:1", b"GET *"):
            response = await front.raw(line + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert response.status in (400, 405)
        assert len(front.upstream.requests) == 4
        # HTTP/2 lets bytes pass that a request line may not have.
        client = front.frames()
        client.send(headers(1, request(b"/\xc3\xa4?\xff")))
        await client.answer(1)
        assert front.last.target == "/%C3%A4?%FF"


@both
@pytest.mark.parametrize(("path", "expected"), [("", "*"), ("/", "/"), ("/app", "/app")])
async def test_options_of_the_server_as_a_whole(path: str, expected: str, http2: bool) -> None:
    """``*`` is of no mount; a server that is nothing but a proxy passes it on."""
    async with fronted(path=path) as front:
        assert (await front.ask(http2, "OPTIONS", "*")).status < 500
        assert front.upstream.requests == []
    async with ScriptedUpstream(tcp=True, path=path) as upstream:
        interface = ProxyInterface(Proxy(upstream.url), ServerConfig())
        async with MemoryServer(interface) as server:
            front = Front(server, upstream)
            assert (await front.ask(http2, "OPTIONS", "*")).body == b"ok"
            assert front.seen == [f"OPTIONS {expected}"]


@both
@both_ways
async def test_below_a_root_path(way: str, http2: bool) -> None:
    """Whether a proxy before this one has taken it off or not."""
    options: Any = {"prefix": "/m", "path": "/app", "settings": {"root_path": "/api"}}
    async with fronted(answer("Location: /app/y"), way=way, **options) as front:
        for target, expected in [
            ("/api/m/x", "/app/x"),
            ("/m/x", "/app/x"),
            ("/api/m", "/app"),
            ("/ap%69/m%2fx", "/app/x"),
            ("/api%2Fm/x%2F", "/app/x%2F"),
        ]:
            response = await front.ask(http2, target=target)
            assert front.last.target == expected
            assert front.last["x-forwarded-prefix"] == "/api/m"
            assert response.headers["location"] == "/api/m/y"


@both_ways
async def test_http_1_0_clients(way: str) -> None:
    data = b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    data += b"2\r\nok\r\n0\r\nX-A: b\r\n\r\n"
    async with fronted(data, way=way) as front:
        connection = front.http1()
        connection.send(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        await connection.closed()
        head, _, body = connection.transport.take().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert body == b"ok"
        assert front.last["via"] == "1.0 kyoukai"
        response = await front.raw(b"GET / HTTP/1.0\r\n\r\n")
        assert response.body == b"ok"
        assert front.last["host"]
        assert len(front.upstream.wires) == 1


@both
@both_ways
async def test_a_loop_ends(way: str, http2: bool) -> None:
    async with fronted(way=way) as front:
        hops = ", ".join(["1.1 other", *["1.1 kyoukai"] * 9])
        assert (await front.ask(http2, headers=[("Via", hops)])).status == 200
        assert (await front.ask(http2, headers=[("Via", hops)])).status == 200
        response = await front.ask(http2, headers=[("Via", f"1.1 kyoukai, {hops}")])
        assert response.status == 502
        assert len(front.upstream.requests) == 2


# -- Location ----------------------------------------------------------------------------------


def location_for(url: str, prefix: str, value: str, **options: Any) -> str:
    """Return what becomes of a Location for a client that asks for the host "shop"."""
    address = UpstreamAddress.parse(url)
    own = RequestWriter(Proxy(url, **options), ServerConfig()).own_authorities(address)
    headers = ((b"x-a", b"/app"), (b"location", value.encode()), (b"link", b"/app"))
    changed = rewrite_location(headers, address, prefix, "shop", own)
    assert (changed[0], changed[2]) == (headers[0], headers[2])
    assert changed[1][0] == b"location"
    return changed[1][1].decode()


@pytest.mark.parametrize(
    ("url", "prefix", "value", "expected"),
    [
        ("http://up:9/app", "/m", "/app", "/m"),
        ("http://up:9/app", "/m", "/app/x?y#z", "/m/x?y#z"),
        ("http://up:9/app", "/m", "/app?y", "/m?y"),
        ("http://up:9/app", "/m", "/application", "/application"),
        ("http://up:9/app", "/m", "/other", "/other"),
        ("http://up:9/app", "/m", "HTTP://UP:9/app/x", "/m/x"),
        ("http://up:9/app", "/m", "https://up:9/app/x", "/m/x"),
        ("http://up:9/app", "/m", "http://up:9", "/"),
        ("http://up:9/app", "/m", "http://up:9?x", "/?x"),
        ("http://up:9/app", "/m", "http://up:99/app/x", "http://up:99/app/x"),
        ("http://up:9/app", "/m", "http://up:9.evil/app/x", "http://up:9.evil/app/x"),
        ("http://up:9/app", "/m", "http://up:9@evil/app/x", "http://up:9@evil/app/x"),
        ("http://up:9/app", "/m", "ftp://up:9/app/x", "ftp://up:9/app/x"),
        ("http://up:9/app", "/m", "//up:9/app/x", "//up:9/app/x"),
        ("http://up:9/app", "/m", "x/y", "x/y"),
        ("http://up:9/app", "/m", "", ""),
        ("http://up:9/", "/m", "/", "/m/"),
        ("http://up:9/", "/m", "/x", "/m/x"),
        ("http://up:9/", "/m", "http://up:9/x", "/m/x"),
        ("http://up:9/", "/m", "http://up:9", "/m/"),
        ("http://up:9/", "/m", "/m/x", "/m/x"),  # of one that minds X-Forwarded-Prefix
        ("http://up:9/", "/é", "/x", "/%C3%A9/x"),
        ("http://up:9/app", "", "/app/x", "/x"),
        ("http://up:9/app", "", "/app", "/"),
        ("http://up:9", "/m", "http://up:9/m/x", "/m/x"),
        ("http://up:9", "/m", "/x", "/x"),
        ("https://up/app", "/m", "https://up/app/x", "/m/x"),
        ("unix:/up", "/m", "/m/x", "/m/x"),
        # By the Host that it was sent; its scheme may be what it wants to change.
        ("http://up:9/", "/m", "http://shop/x", "http://shop/m/x"),
        ("http://up:9/", "/m", "https://Shop/x?y", "https://Shop/m/x?y"),
        ("http://up:9/", "/m", "https://shop/m/x", "https://shop/m/x"),
        ("http://up:9/", "/m", "http://shop", "http://shop/m/"),
        ("http://up:9/", "/m", "http://shop?x", "http://shop/m/?x"),
        ("http://up:9/app", "/m", "http://shop/app/x", "http://shop/m/x"),
        ("http://up:9/app", "/m", "http://shop/other", "http://shop/other"),
        ("http://up:9/app", "/m", "http://shop:9/app/x", "http://shop:9/app/x"),
        ("http://up:9", "/m", "https://shop/m/x", "https://shop/m/x"),
    ],
)
def test_locations(url: str, prefix: str, value: str, expected: str) -> None:
    assert location_for(url, prefix, value) == expected


@both
@both_ways
async def test_a_location_on_its_way(way: str, http2: bool) -> None:
    async with fronted(path="/app", prefix="/m", way=way) as front:
        for place in ("/app/x", f"http://127.0.0.1:{front.upstream.port}/app/x"):
            front.upstream.answer = answer(f"Location: {place}", status="302 Found")
            response = await front.ask(http2, target="/m/y")
            assert (response.status, response.headers["location"]) == (302, "/m/x")


@pytest.mark.parametrize(
    ("url", "host", "value", "expected"),
    [
        ("http://up:9/app", "Inner", "http://inner/app/x", "/m/x"),
        ("http://up:9/app", "inner", "https://INNER/app", "/m"),
        ("http://up:9/app", "inner", "http://up:9/app/x", "/m/x"),
        ("http://up:9/app", "inner", "http://inner.evil/app/x", "http://inner.evil/app/x"),
        ("http://up:9/app", "upstream", "http://up:9/app/x", "/m/x"),
        ("http://up:9/app", "upstream", "http://localhost/app/x", "http://localhost/app/x"),
        ("unix:/up", "upstream", "http://localhost/x", "/x"),
        ("unix:/up", "inner", "http://INNER/x", "/x"),
        ("unix:/up", "inner", "http://localhost/x", "http://localhost/x"),
        ("unix:/up", "keep", "http://localhost/x", "http://localhost/x"),
    ],
)
def test_locations_by_what_the_server_takes_for_its_own(
    url: str, host: str, value: str, expected: str
) -> None:
    assert location_for(url, "/m", value, host=host) == expected


async def test_the_host_that_is_sent_is_the_one_of_its_locations() -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://inner.test/x\r\nContent-Length: 0\r\n\r\n"
    async with fronted(answer, host="inner.test") as front:
        assert (await front.ask(False)).headers["location"] == "/x"
