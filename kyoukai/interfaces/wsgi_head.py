"""
Heads of WSGI answers: from the arguments of ``start_response`` (PEP 3333) to those of a stream.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from wsgiref.util import is_hop_by_hop

from kyoukai.exceptions import InterfaceError
from kyoukai.rules import check_response_head

if TYPE_CHECKING:
    from kyoukai.rules import Header

__all__ = ("ResponseHead", "read_head")

_STATUS = re.compile(r"([2-5][0-9][0-9]) [^\x00-\x1f\x7f]*")
_LENGTH = re.compile(r"[0-9]{1,18}")

#: Heads seen before: applications send the same ones again and again.
_known: dict[tuple[Any, ...], ResponseHead] = {}
_HEADS_KEPT = 512
_HEAD_SIZE = 512


class ResponseHead(NamedTuple):
    """The head of an answer."""

    status: int
    #: Without Content-Length.
    headers: tuple[Header, ...]
    #: Its Content-Length, None without one.
    length: int | None

    @property
    def all_headers(self) -> tuple[Header, ...]:
        """The headers, with Content-Length if there is one."""
        if self.length is None:
            return self.headers
        return (*self.headers, (b"content-length", b"%d" % self.length))


def read_head(status: str, headers: list[tuple[str, str]]) -> ResponseHead:
    """
    Check and translate a head.

    :param status: such as ``200 OK``
    :param headers: names and values
    :raises InterfaceError: if they are not what PEP 3333 wants
    :raises InvalidResponse: if HTTP does not have such headers
    """
    if type(headers) is not list:
        raise InterfaceError(f"the headers must be a list, not {type(headers).__name__}")
    for pair in headers:
        if (
            type(pair) is not tuple
            or len(pair) != 2
            or type(pair[0]) is not str
            or type(pair[1]) is not str
        ):
            raise InterfaceError(f"a header must be a tuple of two str, not {pair!r:.80}")
    if type(status) is not str:
        raise InterfaceError(f"the status must be str, not {type(status).__name__}")
    key = (status, *headers)
    head = _known.get(key)
    if head is None:
        head, size = _read(status, headers)
        if size <= _HEAD_SIZE:
            if len(_known) >= _HEADS_KEPT:
                _known.clear()
            _known[key] = head
    return head


def _read(status: str, headers: list[tuple[str, str]]) -> tuple[ResponseHead, int]:
    match = _STATUS.fullmatch(status)
    if match is None:
        raise InterfaceError(
            f"the status must be like '200 OK', a number from 200 to 599 and its reason,"
            f" not {status[:80]!r}"
        )
    size = len(status)
    length: int | None = None
    pairs: list[Header] = []
    for name, value in headers:
        try:
            pair = name.encode("latin-1"), value.encode("latin-1")
        except UnicodeEncodeError:
            raise InterfaceError(
                f"the header {name[:80]!a} has characters beyond Latin-1: {value[:80]!a}"
            ) from None
        if is_hop_by_hop(name):
            raise InterfaceError(
                f"the header {name!r} belongs to the connection, which is the server's"
            )
        size += len(name) + len(value)
        if name.lower() == "content-length":
            if not _LENGTH.fullmatch(value) or length not in (None, int(value)):
                raise InterfaceError(f"Content-Length {value[:80]!r} is not the body's length")
            length = int(value)
        else:
            pairs.append(pair)
    check_response_head(int(match[1]), pairs)
    return ResponseHead(int(match[1]), tuple(pairs), length), size
