"""What an RSGI application is told of a request."""

from __future__ import annotations

from typing import Any

import pytest
from interfaces.rsgi_peers import ask, hosted, wires

from kyoukai.interfaces.rsgi import Headers, Scope, WebsocketScope
from kyoukai.stream import RequestHead
from kyoukai.testing import Client


class Seen:
    """Keeps what it is told."""

    scope: Any

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        self.scope = scope
        proto.response_empty(204, [])


def head(**changes: Any) -> RequestHead:
    options: dict[str, Any] = {
        "method": "GET",
        "target": b"/",
        "raw_path": b"/",
        "path": "/",
        "query": b"",
        "scheme": "http",
        "authority": "example.org",
        "http_version": "1.1",
        "headers": [(b"host", b"example.org")],
    }
    return RequestHead(**{**options, **changes})


@wires
async def test_every_member(wire: str) -> None:
    app = Seen()
    fields = [("X-Name", "Value"), ("x-twice", "one"), ("X-Twice", "two")]
    if wire != "http1":
        fields = [(name.lower(), value) for name, value in fields]
    async with hosted(app, wire) as peer:
        peer.request("DELETE", "/caf%C3%A9%2Fx?q=%20a&b", headers=fields)
        await peer.response()
    scope = app.scope
    assert (scope.proto, scope.rsgi_version) == ("http", "1.6")
    assert scope.http_version == peer.version
    assert (scope.server, scope.client) == ("127.0.0.1:8000", "127.0.0.1:50000")
    assert (scope.scheme, scope.method) == ("http", "DELETE")
    assert (scope.path, scope.query_string) == ("/café/x", "q=%20a&b")
    assert scope.root_path == ""
    assert scope.authority == (None if wire == "http1" else "localhost")
    assert scope.headers["x-name"] == "Value"
    assert scope.headers.get_all("x-twice") == ["one", "two"]
    assert scope.headers is scope.headers
    assert repr(scope) == "<Scope DELETE '/café/x'>"


async def test_http_1_0_is_1() -> None:
    app = Seen()
    async with hosted(app) as peer:
        peer.connection.send(b"GET / HTTP/1.0\r\n\r\n", "GET")
        await peer.response()
    assert app.scope.http_version == "1"


async def test_a_target_with_an_authority() -> None:
    app = Seen()
    await ask(app, method="GET", target="http://Example.org:81/x", headers=[("Host", "a")])
    assert app.scope.authority == "example.org:81"
    await ask(app, method="OPTIONS", target="*")
    assert app.scope.authority is None


def test_addresses() -> None:
    scope = Scope(head(client=("::1", 5), server=("::1", 80)))
    assert (scope.client, scope.server) == ("[::1]:5", "[::1]:80")
    scope = Scope(head(client=None, server=("/run/x.sock", None)))
    assert (scope.client, scope.server) == ("", "/run/x.sock")


def test_the_prefix_is_no_part_of_the_path() -> None:
    scope = Scope(head(path="/api/x", root_path="/api"))
    assert (scope.path, scope.root_path) == ("/x", "/api")
    assert Scope(head(path="/api", root_path="/api")).path == "/"
    assert Scope(head(path="/apix", root_path="/api")).path == "/apix"


def test_a_query_that_is_no_utf_8() -> None:
    assert Scope(head(query=b"a=\xe9")).query_string == "a=é"
    assert Scope(head(query="a=é".encode())).query_string == "a=é"


def test_members_cannot_be_changed() -> None:
    scope = Scope(head())
    for name in ("method", "path", "headers", "other"):
        with pytest.raises(AttributeError):
            setattr(scope, name, "x")


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
async def test_a_handshake(http2: bool) -> None:
    seen: list[Any] = []

    async def app(scope: Any, proto: Any) -> None:
        seen.append(scope)
        await proto.accept()

    async with (
        Client(app, interface="rsgi") as client,
        client.websocket("/a?b", http2=http2, headers=[("x-a", "b")]),
    ):
        pass
    (scope,) = seen
    assert isinstance(scope, WebsocketScope)
    assert (scope.proto, scope.scheme, scope.method) == ("ws", "http", "GET")
    assert (scope.path, scope.query_string) == ("/a", "b")
    assert scope.http_version == ("2" if http2 else "1.1")
    assert scope.headers["x-a"] == "b"


# -- Headers -----------------------------------------------------------------------------------

HEADERS = Headers(
    [(b"host", b"h"), (b"a", b"1"), (b"b", b"\xc3\xa9"), (b"a", b"2"), (b"c", b"\xe9")]
)


def test_headers_are_a_mapping() -> None:
    assert HEADERS["A"] == HEADERS.get("a") == "1"
    assert "A" in HEADERS
    assert "x" not in HEADERS
    assert 5 not in HEADERS
    assert list(HEADERS) == HEADERS.keys() == ["host", "a", "b", "c"]
    assert len(HEADERS) == 4
    assert HEADERS.values() == ["h", "1", "é", "2", "é"]
    assert HEADERS.items()[3] == ("a", "2")
    assert dict(HEADERS) == {"host": "h", "a": "1", "b": "é", "c": "é"}  # type: ignore[call-overload]
    assert HEADERS.get_all("A") == ["1", "2"]
    assert repr(Headers([(b"a", b"b")])) == "Headers([('a', 'b')])"


def test_headers_that_are_not_there() -> None:
    assert HEADERS.get("x") is None
    assert HEADERS.get("x", 5) == 5
    assert HEADERS.get("é\udc80") is None
    assert HEADERS.get_all("x") == []
    with pytest.raises(KeyError, match="x"):
        HEADERS["x"]
