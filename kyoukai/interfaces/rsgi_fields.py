"""
What RSGI applications send, checked where they send it: headers, statuses, bodies.

Most applications send the same few heads over and over. The wire gets the same tuple for the same
headers each time, and remembers the bytes that it has rendered for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kyoukai.interfaces.fields import LENGTH_DIGITS, Fields
from kyoukai.interfaces.rsgi_errors import RSGIProtocolError, make_error

if TYPE_CHECKING:
    from kyoukai.rules import Header

__all__ = ("Fields", "as_bytes", "encoded", "fields_of", "known_fields", "status_of")


#: Headers that have been sent before, by the pairs that the application gave.
known_fields: dict[Any, Fields] = {}
_REMEMBERED = 256
#: Characters of headers that are worth remembering.
_SIZE = 2048


def fields_of(headers: Any, call: str) -> Fields:
    """
    Return headers as the wire wants them. Values are sent in UTF-8.

    :param headers: pairs of ``str``
    :param call: what the application has called, for errors
    :raises RSGIProtocolError: if they are no such pairs
    """
    try:
        pairs = tuple(headers)
    except TypeError:
        raise make_error(
            RSGIProtocolError,
            f"{call}: headers must be a list of (str, str), not {_name(headers)}",
        ) from None
    size = 0
    encoded: list[Header] = []
    length: int | None = None
    for pair in pairs:
        if (
            not isinstance(pair, tuple)
            or len(pair) != 2
            or not isinstance(pair[0], str)
            or not isinstance(pair[1], str)
        ):
            raise make_error(
                RSGIProtocolError, f"{call}: a header must be a (str, str), not {pair!r:.80}"
            )
        name, value = pair
        size += len(name) + len(value)
        try:
            field = (name.encode("ascii"), value.encode())
        except UnicodeEncodeError:
            raise make_error(
                RSGIProtocolError, f"{call}: the header {pair!r:.80} cannot be encoded"
            ) from None
        if field[0].lower() == b"content-length":
            length = int(value) if field[1].isdigit() and len(value) <= LENGTH_DIGITS else -1
        encoded.append(field)
    fields = tuple(encoded)
    bare = fields
    if length is not None:
        bare = tuple([field for field in encoded if field[0].lower() != b"content-length"])
        if len(bare) != len(fields) - 1:
            length = -1  # more than one of them: the wire says what is wrong with that
    found = Fields(fields, bare, length)
    if size <= _SIZE:
        if len(known_fields) >= _REMEMBERED:
            known_fields.clear()  # those that are used will be back
        known_fields[pairs] = found
    return found


def status_of(status: Any, call: str) -> int:
    """
    Return a status as the number that it is; ``http.HTTPStatus`` has such numbers.

    :param call: what the application has called, for errors
    :raises RSGIProtocolError: if it is none
    """
    if not isinstance(status, int) or isinstance(status, bool):
        raise make_error(RSGIProtocolError, f"{call}: status must be an int, not {_name(status)}")
    return int(status)


def encoded(text: Any, what: str) -> bytes:
    """
    Return text in UTF-8.

    :param what: what it is, for errors
    :raises RSGIProtocolError: if it is not text, or cannot be encoded
    """
    if not isinstance(text, str):
        kind = type(text).__name__
        raise make_error(RSGIProtocolError, f"{what} must be a str, not {kind}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise make_error(RSGIProtocolError, f"{what} cannot be encoded: {error}") from error


def as_bytes(data: Any, what: str) -> bytes:
    """
    Return bytes that are nobody else's to change.

    :param what: what it is, for errors
    :raises RSGIProtocolError: if they are no bytes
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        kind = type(data).__name__
        raise make_error(RSGIProtocolError, f"{what} must be bytes, not {kind}")
    return bytes(data)


def _name(thing: object) -> str:
    return type(thing).__name__
