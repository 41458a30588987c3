"""The page on proxies: what its tables say happens, and the settings that they name exist."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import re
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import Clock
from curl_client import serving
from example_programs import ROOT
from test_docs_tables import literals_of
from upstreams import OK, ScriptedUpstream

import kyoukai
from kyoukai import Kyoukai, KyoukaiComponent, Middleware, Proxy, ServerConfig
from kyoukai.proxy_component import KyoukaiProxyComponent
from kyoukai.testing import Client, WebSocketDenied

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai import HTTPRequestContext, Response, WebSocket, WebSocketContext

TEXT = (ROOT / "docs" / "proxy.rst").read_text()
DEFAULTS = Proxy("unix:a")


def section(heading: str) -> str:
    """What is below a heading, up to the next one."""
    after = re.split(rf"\n{heading}\n[-.]+\n", TEXT)[1]
    return re.split(r"\n[^\n ]+[^\n]*\n[-.]{3,}\n", after)[0]


def rows_of(heading: str) -> list[list[str]]:
    """The rows of the list table below a heading, without its head."""
    text = re.split(r"\n\n(?=\S)", section(heading).partition(".. list-table::")[2])[0]
    rows = re.split(r"\n   \* - ", text)[2:]
    return [[" ".join(cell.split()) for cell in re.split(r"\n     -(?:\s|$)", row)] for row in rows]


def front(upstream: ScriptedUpstream, prefix: str = "/", **options: Any) -> Kyoukai:
    app = Kyoukai("front")
    app.mount(prefix, Proxy(upstream.url, **options))
    return app


# -- Prefixes ------------------------------------------------------------------------------------


async def test_the_table_of_prefixes() -> None:
    table = re.findall(
        r"(?m)^``http://127\.0\.0\.1:9000(\S*)``  +``(\S+)``  +``(\S+)``$", section("Servers")
    )
    assert len(table) == 4
    for path, target, told in table:
        async with ScriptedUpstream(tcp=True, path=path) as upstream:
            async with Client(front(upstream, "/shop")) as client:
                assert (await client.get(target)).status == 200
            assert upstream.requests[0].target == told
            replaced = "/shop" if path else None
            assert upstream.requests[0]["x-forwarded-prefix"] == replaced


# -- Heads ---------------------------------------------------------------------------------------

REQUEST = [
    ("Host", "shop.example"),
    ("Accept", "text/html"),
    ("Accept", "text/plain"),
    ("Connection", "x-gone, keep-alive"),
    ("X-Gone", "1"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Connection", "keep-alive"),
    ("Proxy-Authorization", "Basic eA=="),
    ("TE", "trailers, deflate"),
    ("HTTP2-Settings", "AAMAAABk"),
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-User", "root"),
    ("X-Real-IP", "6.6.6.6"),
    ("Forwarded", "for=6.6.6.6"),
    ("Via", "1.0 other"),
    ("Proxy", "http://evil.example"),
    ("X_Forwarded_For", "6.6.6.6"),
    ("Max-Forwards", "5"),
    ("Cookie", "a=1"),
]


@pytest.mark.parametrize("trusted", [False, True])
async def test_a_request_arrives_as_the_table_says(trusted: bool) -> None:
    trusting = {"trusted_proxies": ["127.0.0.1"]} if trusted else {}
    async with ScriptedUpstream() as upstream:
        app = front(upstream, forwarded="both")
        async with Client(app, **trusting) as client:
            await client.request("OPTIONS", "/%C3%A4//b?c=%20", headers=REQUEST)
            ours = await client.request("OPTIONS", "/", headers=[("Max-Forwards", "0")])
        [seen] = upstream.requests
    assert (ours.status, str(seen)) == (204, "OPTIONS /%C3%A4//b?c=%20")
    of_proxies = [
        ("forwarded", "for=127.0.0.1;host=shop.example;proto=http"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-proto", "http"),
    ]
    if trusted:
        of_proxies = [
            ("forwarded", "for=127.0.0.1;host=shop.example;proto=http"),  # it writes the others
            ("x-forwarded-for", "6.6.6.6, 127.0.0.1"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-user", "root"),
            ("x-real-ip", "6.6.6.6"),
        ]
    assert [pair for pair in seen.headers if pair[0] in ("host", "accept", "cookie")] == [
        ("host", "shop.example"),
        ("accept", "text/html"),
        ("accept", "text/plain"),
        ("cookie", "a=1"),
    ]
    assert sorted(seen.headers) == sorted(
        [
            ("host", "shop.example"),
            ("accept", "text/html"),
            ("accept", "text/plain"),
            ("cookie", "a=1"),
            ("te", "trailers"),
            ("connection", "te"),
            ("max-forwards", "4"),
            ("via", "1.0 other, 1.1 kyoukai"),
            *of_proxies,
        ]
    )


async def test_an_answer_arrives_as_the_table_says() -> None:
    lines = (
        "HTTP/1.1 201 Made",
        "Date: Mon, 01 Jan 2024 00:00:00 GMT",
        "Server: other",
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
        "Connection: x-gone",
        "X-Gone: 1",
        "Keep-Alive: timeout=5",
        "Upgrade: x",
        "Proxy-Authenticate: Basic",
        "Location: http://127.0.0.1:%d/x",
        "Transfer-Encoding: chunked",
    )
    async with ScriptedUpstream(tcp=True) as upstream:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        head = "\r\n".join([*lines, "", ""]) % upstream.port
        upstream.answer = hints + head.encode() + b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
        async with Client(front(upstream)) as client:
            response = await client.get("/")
    [(status, early)] = response.informational
    assert (status, early["Link"]) == (103, "</a>")
    assert (response.status, response.body) == (201, b"ok")
    assert sorted((name.lower(), value) for name, value in response.headers) == [
        ("date", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ("location", "/x"),
        ("server", "other"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("transfer-encoding", "chunked"),
        ("via", "1.1 kyoukai"),
    ]
    assert response.trailers["X-Sum"] == "1"


# -- Failures ------------------------------------------------------------------------------------


async def silence(seen: Any, wire: Any) -> None:
    await wire.read()


async def cut(seen: Any, wire: Any) -> None:
    wire.abort()


FAILURES: dict[str, Callable[[ScriptedUpstream], Any]] = {
    "the connection is closed before an answer": lambda upstream: cut,
    "the head of the answer breaks HTTP": lambda upstream: b"HTTP/1.1 200\r\nno colon\r\n\r\n",
    "it switches protocols unasked": lambda upstream: (
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    ),
    "the server says nothing": lambda upstream: silence,
}


@pytest.mark.parametrize("what", FAILURES)
async def test_failures_have_the_status_of_the_table(what: str) -> None:
    [status] = [row[1] for row in rows_of("When it fails") if row[0].startswith(what)]
    async with ScriptedUpstream() as upstream:
        upstream.answer = FAILURES[what](upstream)
        limit = 0.05 if upstream.answer is silence else 60
        async with Client(front(upstream, retries=0, read_timeout=limit)) as client:
            assert str((await client.get("/")).status) == status


async def test_the_other_failures_of_the_table() -> None:
    told = {row[0].partition(":")[0]: row[1] for row in rows_of("When it fails")}
    async with ScriptedUpstream() as upstream:
        async with Client(front(upstream, "/x", max_connections=1)) as client:
            response = await client.get("/x/..")
            assert str(response.status) == told["a path with a segment ``.`` or ``..``"]
            assert upstream.requests == []
            upstream.answers = [silence]
            client.server.connect().request("GET", "/x")
            await upstream.wait(lambda: upstream.requests)
            asking = asyncio.ensure_future(client.get("/x"))
            await Clock().advance(20, step=1)
            response = await asking
            [busy] = [text for what, text in told.items() if what.startswith("``max_connections``")]
            assert busy == f"{response.status} with ``Retry-After``"
            assert "Retry-After" in response.headers
        await upstream.stop()
        async with Client(front(upstream)) as client:
            assert str((await client.get("/")).status) == told["no connection"]
        assert upstream.wrong == []


async def test_security_headers_need_no_application() -> None:
    async with (
        ScriptedUpstream() as upstream,
        Client(Proxy(upstream.url), security_headers=["default"]) as client,
    ):
        response = await client.get("/")
        assert (response.status, response.body) == (200, b"ok")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        await upstream.stop()
        response = await client.get("/")
    assert (response.status, response.headers["X-Frame-Options"]) == (502, "SAMEORIGIN")
    assert "Bad Gateway" in response.text


@pytest.mark.parametrize(
    ("name", "is_whole", "status"),
    [
        ("Host", True, 200),
        ("Trailer", True, 200),
        ("Transfer-Encoding", True, 400),
        ("Content-Length", False, 400),
    ],
)
async def test_trailers_that_frame_are_dropped_or_refused(
    name: str, is_whole: bool, status: int
) -> None:
    async with ScriptedUpstream() as upstream, Client(front(upstream)) as client:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        upstream.answers = [head + b"2\r\nok\r\n0\r\n%b: 3\r\n\r\n" % name.encode()]
        if is_whole:
            response = await client.get("/")
            assert (response.body, len(response.trailers)) == (b"ok", 0)
        else:
            with pytest.raises(ConnectionError):
                await client.get("/")
        response = await client.post("/", chunks=[b"ab"], trailers=[(name, "3")])
        assert response.status == status
        assert not any(each.trailers for each in upstream.requests)


async def test_half_an_answer_is_cut() -> None:
    short = OK.replace(b": 2", b": 20")
    async with ScriptedUpstream(short, closes=True) as upstream, Client(front(upstream)) as client:
        with pytest.raises(ConnectionError):
            await client.get("/")


async def test_the_lines_of_the_log_are_as_shown(caplog: pytest.LogCaptureFixture) -> None:
    shown = re.findall(r"(?m)^   ([A-Z]+) (kyoukai\.proxy): (.*)$", section("When it fails"))
    assert len(shown) == 4
    caplog.set_level("INFO", "kyoukai.proxy")
    async with ScriptedUpstream(tcp=True) as upstream:
        upstream.answers = [silence, cut]
        async with Client(front(upstream)) as client:
            asking = asyncio.ensure_future(client.get("/a"))
            await upstream.wait(lambda: upstream.requests)
            await Clock().advance(61)
            await asking
            await client.post("/b")
            await upstream.stop()
            await client.get("/c")
            await upstream.start()
            await client.get("/d")
        lines = [
            (
                record.levelname,
                record.name,
                record.getMessage().replace(upstream.url, "http://127.0.0.1:9000"),
            )
            for record in caplog.records
            if record.name == "kyoukai.proxy"
        ]
    assert lines == shown


# -- WebSockets ----------------------------------------------------------------------------------


class Refuses(Middleware):
    """Changes the status of what it is asked to."""

    async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None:
        if "refuse" in ctx.request.args:
            response.status_code = 403


@pytest.mark.parametrize("http2", [False, True])
async def test_a_middleware_that_changes_the_status_refuses(http2: bool) -> None:
    back = Kyoukai("back")

    @back.websocket("/chat")
    async def chat(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text("hello")

    with serving(back) as url:
        app = Kyoukai("front", middleware=Refuses())
        app.mount("/", Proxy(url))
        async with Client(app) as client:
            async with client.websocket("/chat", http2=http2) as ws:
                assert await ws.receive_text() == "hello"
            with pytest.raises(WebSocketDenied) as denied:
                async with asyncio.timeout(50), client.websocket("/chat?refuse", http2=http2):
                    pass
    response = denied.value.response
    assert (response.status, response.body) == (403, b"")
    assert not [name for name, _ in response.headers if name.lower().startswith("sec-")]


# -- Names and defaults --------------------------------------------------------------------------


def test_seconds_are_the_defaults() -> None:
    found = set()
    for _, limit in rows_of("Time"):
        for name, seconds in re.findall(r"``(\w+)``, (\d+) seconds", limit):
            assert getattr(DEFAULTS, name) == float(seconds), name
            found.add(name)
    assert found == {
        "connect_timeout",
        "read_timeout",
        "protocol_receive_timeout",
        "keep_alive_timeout",
    }


def test_every_setting_is_explained_above_the_reference() -> None:
    text = TEXT.partition("\nSettings of a proxy\n")[0]
    for name in Proxy.field_names():
        assert re.search(rf"\b{name}\b", text), name


def test_what_stands_for_nginx_is_ours() -> None:
    ours = set(Proxy.field_names())
    for component in (KyoukaiComponent, KyoukaiProxyComponent):
        for each in component.__mro__:
            ours |= set(inspect.signature(each.__init__).parameters)
    ours |= set(ServerConfig.field_names())
    rows = rows_of("From nginx")
    assert len(rows) > 20
    for row in rows:
        assert len(row) == 3, row
        literals = literals_of(row[1])
        names = re.findall(r":confval:`(\w+)`", row[1])
        assert literals or names or row[1] == "gone", row
        assert row[1] != "gone" or row[2], row
        for name in names:
            assert name in ServerConfig.field_names()
        for literal in literals:
            name, _, value = literal.partition(": ")
            if value:
                dataclasses.replace(DEFAULTS, **{name: value})
            elif "." in name:
                owner, _, member = name.partition(".")
                assert hasattr(getattr(kyoukai, owner), member)
            else:
                assert name in ours or hasattr(Kyoukai, name), name
