"""
Heads of answers, rendered for HTTP/1.1, and the answers that the server gives by itself.

A head that an application sends again and again is checked and rendered once a second: the date
is part of it.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

from kyoukai.exceptions import InvalidResponse
from kyoukai.rules import HOP_BY_HOP, check_response_head, reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kyoukai.rules import Header

    #: The head's bytes, its Content-Length, and whether it asks to close the connection.
    Rendered = tuple[bytes, int | None, bool]

__all__ = (
    "ResponseHeads",
    "http_date",
    "refusal",
    "response_heads",
)

#: Constant heads remembered at once.
_REMEMBERED = 512


def refusal(status: int, detail: str = "") -> tuple[int, tuple[Header, ...], bytes]:
    """
    Return status, headers and body of an answer that the server gives by itself.

    :param status: the HTTP status
    :param detail: one sentence that says why
    """
    headers: tuple[Header, ...] = ((b"content-type", b"text/plain; charset=utf-8"),)
    if status == 405:
        headers += ((b"allow", b"GET, HEAD, OPTIONS"),)
    elif status == 503:
        headers += ((b"retry-after", b"1"),)
    body = reason(status) + b"\n"
    if detail:
        body += detail.encode() + b"\n"
    return status, headers, body


def http_date(now: int) -> bytes:
    """Return a time as the Date header has it (RFC 9110 section 5.6.7)."""
    return formatdate(now, usegmt=True).encode()


class ResponseHeads:
    """
    Renders heads, up to the headers that depend on the body and the connection.

    :param server_header: value of the Server header, or None for no such header
    """

    def __init__(self, server_header: str | None) -> None:
        self._server = None if server_header is None else server_header.encode()
        self._second = 0
        self._date = b""
        # By the identity of the headers, which are kept along so that it stays theirs.
        self._whole: dict[tuple[int, int, int], tuple[bytes, tuple[Header, ...]]] = {}
        self._known: dict[tuple[int, Sequence[Header]], tuple[Rendered, Sequence[Header]]] = {}

    def render(self, status: int, headers: Sequence[Header]) -> Rendered:
        """
        Check and render a head.

        :param status: the HTTP status
        :param headers: byte pairs; a tuple of them is remembered
        :return: the bytes, without Content-Length, Connection and the blank line; the
            Content-Length among the headers; whether they ask to close the connection
        :raises InvalidResponse: if it may not be sent
        """
        self._tick()
        return self._look_up(status, headers)[0]

    def _look_up(
        self, status: int, headers: Sequence[Header]
    ) -> tuple[Rendered, Sequence[Header] | None]:
        """Return what was rendered, now or before, and the headers that it is remembered by."""
        if type(headers) is not tuple:
            return self._render(status, headers), None
        key = (status, headers)
        try:
            return self._known[key]
        except KeyError:
            rendered = self._render(status, headers)
        except TypeError:  # a header that cannot be hashed is no pair of bytes
            return self._render(status, headers), None
        if len(self._known) >= _REMEMBERED:
            return rendered, None
        self._known[key] = rendered, headers
        return rendered, headers

    def whole(self, status: int, headers: tuple[Header, ...], size: int) -> bytes | None:
        """
        Return the whole head, for an answer to an ordinary request on a connection that stays.

        :param size: bytes of the body
        :return: None for a head that needs a closer look
        """
        if int(time.time()) != self._second:
            self._tick()
        key = (status, id(headers), size)
        known = self._whole.get(key)
        if known is not None:
            return known[0]
        (prefix, length, close), remembered = self._look_up(status, headers)
        if close or length is not None or status in (204, 205, 304):
            return None
        head = self.with_length(prefix, size)
        # What only equals something remembered was made for this answer, and will not come again.
        if remembered is headers and len(self._whole) < _REMEMBERED:
            self._whole[key] = (head, headers)
        return head

    def _tick(self) -> None:
        """Begin anew when a second has passed: the date is part of every head."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._date = http_date(now)
            self._known.clear()
            self._whole.clear()

    def _render(self, status: int, headers: Sequence[Header]) -> Rendered:
        check_response_head(status, headers)
        length: int | None = None
        close = date = server = False
        lines = [self._status_line(status)]
        for name, value in headers:
            lower = name.lower()
            if lower in HOP_BY_HOP:
                if lower == b"connection" and b"close" in value.lower():
                    close = True
                continue
            if lower == b"content-length":
                if not value.isdigit() or (length is not None and length != int(value)):
                    raise InvalidResponse(
                        f"content-length {value[:80]!r} is no number, or not the only one"
                    )
                length = int(value)
                continue
            if lower == b"upgrade":
                lines.append(self._upgrade(value))
                continue
            date = date or lower == b"date"
            server = server or lower == b"server"
            lines.append(self._field(name, value))
        if not date:
            lines.append(self._field(b"date", self._date))
        if not server and self._server is not None:
            lines.append(self._field(b"server", self._server))
        return b"".join(lines), length, close

    # -- What another wire does differently ----------------------------------------------------

    def _status_line(self, status: int) -> bytes:
        return b"HTTP/1.1 %d %b\r\n" % (status, reason(status))

    def _field(self, name: bytes, value: bytes) -> bytes:
        return b"%b: %b\r\n" % (name, value)

    def _upgrade(self, value: bytes) -> bytes:
        """What the client should ask for next time (RFC 9110 section 7.8)."""
        return b"upgrade: %b\r\nconnection: upgrade\r\n" % value

    def with_length(self, prefix: bytes, size: int) -> bytes:
        """Return the whole head of an answer whose body has that many bytes."""
        return b"%bcontent-length: %d\r\n\r\n" % (prefix, size)


@lru_cache(maxsize=16)
def response_heads(server_header: str | None) -> ResponseHeads:
    """Return the renderer that every server with this Server header shares."""
    return ResponseHeads(server_header)
