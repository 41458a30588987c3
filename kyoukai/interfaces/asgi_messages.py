"""
What ASGI messages may hold: headers, bodies, statuses, each checked where the application sends it.

Most applications send the same few heads over and over. Those that have been checked once are
remembered, and the wire gets the same tuple each time, for which it remembers the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import InterfaceError, InvalidResponse
from kyoukai.interfaces.fields import LENGTH_DIGITS, Fields
from kyoukai.rules import check_response_head

if TYPE_CHECKING:
    from kyoukai.rules import Header
    from kyoukai.stream import Payload

__all__ = (
    "Fields",
    "body_of",
    "fields_of",
    "known_fields",
    "required",
    "status_of",
    "text_of",
    "type_of",
)


#: Headers that have been checked, as the application gave them.
known_fields: dict[Any, Fields] = {}
_REMEMBERED = 512
#: Bytes of headers that are worth remembering.
_SIZE = 4096


def type_of(message: Any) -> str:
    """
    Return what kind of message it is.

    :raises InterfaceError: if it is no message
    """
    if not isinstance(message, Mapping):
        raise InterfaceError(f"a message is a dict, not {_name(message)}")
    kind = message.get("type")
    if not isinstance(kind, str):
        raise InterfaceError(f"the type of a message is a str, not {_name(kind)}")
    return kind


def required(message: Mapping[str, Any], key: str) -> Any:
    """
    Return what a message must have.

    :raises InterfaceError: if it has not
    """
    try:
        return message[key]
    except KeyError:
        raise InterfaceError(f"{message['type']}: {key} is missing") from None


def status_of(status: Any, kind: str) -> int:
    """
    Return a status as the number that it is; ``http.HTTPStatus`` has such numbers.

    :param kind: of which message
    :raises InterfaceError: if it is none
    """
    if not isinstance(status, int) or isinstance(status, bool):
        raise InterfaceError(f"{kind}: status must be an int, not {_name(status)}")
    return int(status)


def body_of(body: Any, kind: str) -> Payload:
    """
    Return a body, if it is one.

    :param kind: of which message
    :raises InterfaceError: if it is none
    """
    if isinstance(body, bytes | bytearray | memoryview):
        return body
    raise InterfaceError(f"{kind}: body must be bytes, not {_name(body)}")


def text_of(message: Mapping[str, Any], key: str) -> str | None:
    """
    Return text that a message may have.

    :raises InterfaceError: if it is something else
    """
    text = message.get(key)
    if text is None or isinstance(text, str):
        return text
    raise InterfaceError(f"{message['type']}: {key} must be a str or None, not {_name(text)}")


def fields_of(headers: Any, kind: str) -> Fields:
    """
    Return the headers of a message, checked.

    :param headers: pairs of bytes, of whatever makes them up
    :param kind: of which message
    :raises InterfaceError: if they are no such pairs
    :raises InvalidResponse: if they may not be sent, such as a value with a line break
    """
    try:
        if type(headers) is not tuple:
            headers = tuple(headers)
        given: tuple[tuple[Any, ...], ...] = tuple([tuple(pair) for pair in headers])
    except TypeError:
        raise InterfaceError(
            f"{kind}: headers must be pairs of bytes, not {headers!r:.80}"
        ) from None
    size = 0
    for pair in given:
        if len(pair) != 2 or not isinstance(pair[0], bytes) or not isinstance(pair[1], bytes):
            raise InterfaceError(f"{kind}: a header must be a pair of bytes, not {pair!r:.80}")
        size += len(pair[0]) + len(pair[1])
    known = known_fields.get(given)
    if known is not None:
        return known
    pairs = tuple([(name.lower(), value) for name, value in given])
    check_response_head(200, pairs)
    fields = Fields(
        pairs,
        tuple([pair for pair in pairs if pair[0] != b"content-length"]),
        _length_of(pairs),
    )
    if size <= _SIZE:
        if len(known_fields) >= _REMEMBERED:
            known_fields.clear()
        known_fields[given] = fields
    return fields


def _length_of(pairs: tuple[Header, ...]) -> int | None:
    lengths = {value for name, value in pairs if name == b"content-length"}
    if not lengths:
        return None
    value = lengths.pop()
    if lengths or not value.isdigit() or len(value) > LENGTH_DIGITS:
        raise InvalidResponse(f"content-length {value[:80]!r} is no number, or not the only one")
    return int(value)


def _name(value: Any) -> str:
    return type(value).__name__
