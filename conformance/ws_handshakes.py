"""The cases of handshakes, right and wrong (RFC 6455 section 4, RFC 8441 section 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ws_wires import ACCEPT, KEY, Fields, Http1, Http1Wire, Http2, Lost, Way

SECTION = "handshake"

#: A right one on HTTP/1.1, and on HTTP/2 beside the pseudo-headers.
GET = "GET / HTTP/1.1"
RIGHT = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY.decode(),
}
CONNECT = {"sec-websocket-version": "13"}


@dataclass(frozen=True)
class Handshake:
    """
    A handshake, and its answer.

    :param first: the request line, or for HTTP/2 what differs in the pseudo-headers
    :param changes: what differs in its headers; None is one that is not there
    :param statuses: those that may answer it
    :param fields: headers that the answer must have, in lower case; None is one that it must not
    """

    name: str
    first: Any
    changes: dict[str, str | None]
    statuses: tuple[int, ...]
    fields: dict[str, str | None]
    section: str = SECTION

    def run(self, way: Way) -> str | None:
        """Try it; return what was wrong, None if nothing."""
        try:
            status, came = ASK[type(way)](way, self)
        except Lost as lost:
            return str(lost)
        if status not in self.statuses:
            return f"it was answered with {status}, not {' or '.join(map(str, self.statuses))}"
        for name, wanted in self.fields.items():
            values = [value for field, value in came if field == name]
            if values != ([] if wanted is None else [wanted]):
                return f"the answer has {values} for {name}, not {wanted}"
        return None


def handshakes(kind: type[Way]) -> list[Handshake]:
    """Return those for one way."""
    return HTTP1 if kind is Http1 else HTTP2


def _ask_http1(way: Http1, case: Handshake) -> tuple[int, Fields]:
    wire = Http1Wire(way.port)
    fields = {**RIGHT, **case.changes}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    try:
        return wire.ask("\r\n".join([case.first, *lines, "", ""])), wire.fields
    finally:
        wire.close()


def _ask_http2(way: Http2, case: Handshake) -> tuple[int, Fields]:
    fields = {**CONNECT, **case.changes}
    present = [(name, value) for name, value in fields.items() if value is not None]
    wire = way.ask(present, **case.first)
    try:
        return wire.status, wire.fields
    finally:
        wire.close()


ASK: dict[type, Callable[[Any, Handshake], tuple[int, Fields]]] = {
    Http1: _ask_http1,
    Http2: _ask_http2,
}

_UPGRADED = {"sec-websocket-accept": ACCEPT, "sec-websocket-extensions": None}
_REFUSED: dict[str, str | None] = {"sec-websocket-accept": None, "sec-websocket-version": "13"}


def _http1(
    name: str, status: int, first: str = GET, wanted: Any = None, **changes: str | None
) -> Handshake:
    """Return a case; headers are given with underscores."""
    differ = {key.replace("_", "-"): value for key, value in changes.items()}
    fields = wanted or (_UPGRADED if status == 101 else {"sec-websocket-accept": None})
    return Handshake(name, first, differ, (status,), fields)


HTTP1 = [
    _http1("right", 101),
    _http1("names in capitals", 101, Upgrade="WebSocket", Connection="UPGRADE"),
    _http1("Connection with two names", 101, Connection="keep-alive, Upgrade"),
    _http1("the same host as origin", 101, Origin="http://localhost"),
    _http1(
        *("subprotocols that it does not speak", 101),
        wanted={**_UPGRADED, "sec-websocket-protocol": None},
        Sec_WebSocket_Protocol="a, b",
    ),
    _http1("an extension that it does not know", 101, Sec_WebSocket_Extensions="x-a; b=1"),
    _http1("a foreign origin", 403, Origin="http://example.com"),
    _http1("an origin that is none", 403, Origin="null"),
    _http1("version 8", 426, wanted=_REFUSED, Sec_WebSocket_Version="8"),
    _http1("version 12", 426, wanted=_REFUSED, Sec_WebSocket_Version="12"),
    _http1("version 14", 426, wanted=_REFUSED, Sec_WebSocket_Version="14"),
    _http1("no version", 400, wanted=_REFUSED, Sec_WebSocket_Version=None),
    _http1("no key", 400, Sec_WebSocket_Key=None),
    _http1("an empty key", 400, Sec_WebSocket_Key=""),
    _http1("a key of 15 bytes", 400, Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAA"),
    _http1("a key that is no Base64", 400, Sec_WebSocket_Key="!" * 24),
    _http1("extensions that are no list", 400, Sec_WebSocket_Extensions="permessage-deflate; ="),
    _http1("no Upgrade", 426, wanted={"upgrade": "websocket"}, Upgrade=None),
    _http1("no Connection", 426, wanted={"upgrade": "websocket"}, Connection=None),
    _http1("another path", 404, "GET /no/such HTTP/1.1"),
    _http1("HTTP/1.0", 426, "GET / HTTP/1.0"),
]


def _http2(
    name: str, status: int, wanted: Any = None, *others: int, first: Any = None, **changes: Any
) -> Handshake:
    differ = {key.replace("_", "-"): value for key, value in changes.items()}
    fields = {"sec-websocket-accept": None, "upgrade": None, "connection": None, **(wanted or {})}
    return Handshake(name, first or {}, differ, (status, *others), fields)


HTTP2 = [
    _http2("right", 200),
    _http2("a key, which means nothing", 200, sec_websocket_key=KEY.decode()),
    _http2("the same host as origin", 200, origin="http://localhost"),
    _http2(
        *("subprotocols that it does not speak", 200, {"sec-websocket-protocol": None}),
        sec_websocket_protocol="a, b",
    ),
    _http2("a foreign origin", 403, origin="http://example.com"),
    _http2("version 12", 400, {"sec-websocket-version": "13"}, sec_websocket_version="12"),
    _http2("no version", 400, {"sec-websocket-version": "13"}, sec_websocket_version=None),
    _http2("another path", 404, first={"path": "/no/such"}),
    _http2("another protocol", 501, first={"protocol": "connect-udp"}),
    _http2("a plain request", 400, first={"method": "GET", "protocol": ""}),
]
