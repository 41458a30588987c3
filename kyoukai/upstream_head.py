"""
Heads of upstream servers' answers: what they say, and which of them are refused.

Whoever is between a client and a server must frame messages as both of them do, or one can be made
to take part of a message for another one (RFC 9112 section 11.1). So a head whose framing is not
beyond doubt is an error, and what it says of its own connection goes no further.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import httptools

from kyoukai.exceptions import InvalidResponse, UpstreamError
from kyoukai.rules import FORWARDED, HOP_BY_HOP, check_response_head, check_trailers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kyoukai.rules import Header

__all__ = ("CONNECTION_FIELDS", "HeadReader", "ResponseHead", "nominated", "passed_trailers")

#: Fields that are about one connection (RFC 9110 section 7.6.1), whatever Connection names.
CONNECTION_FIELDS = HOP_BY_HOP | {
    b"http2-settings",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"te",
    b"upgrade",
}
#: Fields that are no trailers: whoever takes them for headers would frame or route by them (RFC
#: 9110 section 6.5.1).
_NO_TRAILERS = (
    CONNECTION_FIELDS
    | FORWARDED
    | {b"content-length", b"expect", b"host", b"max-forwards", b"trailer", b"via", b"x-real-ip"}
)

_VERSIONS = (b"HTTP/1.1 ", b"HTTP/1.0 ")

#: Heads that are remembered, and how long each may be.
_REMEMBERED = 128
_HEAD_SIZE = 1024


class ResponseHead(NamedTuple):
    """
    The head of an answer.

    :param status: its status
    :param headers: its header lines, names in lower case, without those that are about the
        connection and the framing
    :param length: its Content-Length
    :param chunked: whether its body is chunked
    :param keeps: whether the connection stays, as far as the head says
    :param idle: seconds that the server keeps an idle connection, if it says so
    :param upgrade: the protocol that a 101 switches to, in lower case
    :param has_location: whether there is a Location among the headers
    """

    status: int
    headers: tuple[Header, ...]
    length: int | None = None
    chunked: bool = False
    keeps: bool = True
    idle: float | None = None
    upgrade: bytes = b""
    has_location: bool = False


class HeadReader:
    """
    Reads heads, and remembers those that come again byte for byte.

    :param via: our name in ``Via``; empty for no such header
    """

    def __init__(self, via: str) -> None:
        self._via = via.encode()
        self._known: dict[bytes, ResponseHead] = {}

    def recall(self, data: bytes) -> ResponseHead | None:
        """
        Return a head that has come before.

        :param data: its bytes, from the status line to the blank line
        """
        return self._known.get(data)

    def read(self, data: bytes) -> ResponseHead:
        """
        Read a head.

        :param data: its bytes, from the status line to the blank line
        :raises UpstreamError: if it breaks HTTP
        """
        known = self._known.get(data)
        if known is None:
            known, constant = self._read(data)
            if constant and len(data) <= _HEAD_SIZE:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[data] = known
        return known

    def _read(self, data: bytes) -> tuple[ResponseHead, bool]:
        version = data[:9]
        if version not in _VERSIONS:
            raise UpstreamError("its answer is not in HTTP/1.0 or HTTP/1.1")
        if b"\0" in data:
            raise UpstreamError("the head of its answer is malformed")
        fields = _Fields()
        parser = httptools.HttpResponseParser(fields)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            raise UpstreamError("the head of its answer is malformed") from None
        head = _judge(parser.get_status_code(), fields.lines, version == b"HTTP/1.0 ", self._via)
        # Cookies mostly differ from answer to answer: such heads would only push others out.
        constant = not any(name == b"set-cookie" for name, _ in head.headers)
        return head, constant


class _Fields:
    """Takes what the parser finds."""

    def __init__(self) -> None:
        self.lines: list[Header] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name.lower(), value.rstrip(b" \t")))


def nominated(connection: bytes) -> frozenset[bytes]:
    """Return the names that a Connection header nominates, in lower case."""
    return frozenset(part.strip() for part in connection.lower().split(b","))


def passed_trailers(lines: Iterable[Header]) -> list[Header]:
    """
    Return those of a message's trailers that go on with it.

    :param lines: its trailers
    """
    passed = []
    for name, value in lines:
        known = name.lower()
        if known not in _NO_TRAILERS and not known.startswith(b"x-forwarded-"):
            passed.append((known, value))
    try:
        check_trailers(passed)
    except InvalidResponse:
        return []
    return passed


def _judge(status: int, lines: list[Header], is_old: bool, via: bytes) -> ResponseHead:
    """Decide over the framing and the connection (RFC 9112 section 6 and 9)."""
    special: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        if name in CONNECTION_FIELDS or name == b"content-length":
            special.setdefault(name, []).append(value)
    options = nominated(b",".join(special.get(b"connection", ())))
    headers = [
        pair
        for pair in lines
        if not (pair[0] in CONNECTION_FIELDS or pair[0] in options or pair[0] == b"content-length")
    ]
    if via:
        headers.append((b"via", (b"1.0 " if is_old else b"1.1 ") + via))
    try:
        if 100 <= status <= 199:
            check_trailers(headers)
        else:
            check_response_head(status, headers)
    except InvalidResponse as error:
        raise UpstreamError(f"the head of its answer is malformed: {error}") from None

    codings = special.get(b"transfer-encoding", [])
    lengths = special.get(b"content-length", [])
    chunked = bool(codings)
    if chunked and (is_old or len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise UpstreamError("the Transfer-Encoding of its answer is not 'chunked' alone")
    if chunked and lengths:
        raise UpstreamError("its answer has both Transfer-Encoding and Content-Length")
    if len(lengths) > 1 or (lengths and not (lengths[0].isdigit() and len(lengths[0]) < 20)):
        raise UpstreamError("the Content-Length of its answer is not valid, or not the only one")
    length = int(lengths[0]) if lengths else None
    keeps = b"keep-alive" in options if is_old else b"close" not in options
    if status == 204 and (chunked or length):
        keeps = False  # what it announces may still come
    if any(_is_of_connection(*pair) for pair in headers):
        keeps = False  # the next client would be taken for this one
    return ResponseHead(
        status,
        tuple(headers),
        length,
        chunked,
        keeps,
        _idle_seconds(special.get(b"keep-alive", ())),
        b", ".join(special.get(b"upgrade", ())).lower(),
        any(name == b"location" for name, _ in headers),
    )


def _is_of_connection(name: bytes, value: bytes) -> bool:
    """Whether a header tells of authentication that holds for a connection (RFC 4559)."""
    return name == b"www-authenticate" and value.lower().startswith((b"ntlm", b"negotiate"))


def _idle_seconds(values: list[bytes] | tuple[()]) -> float | None:
    """Read ``Keep-Alive: timeout=5``."""
    for part in b",".join(values).split(b","):
        name, _, value = part.strip().partition(b"=")
        if name.lower() == b"timeout" and value.isdigit() and len(value) < 9:
            return float(value)
    return None
