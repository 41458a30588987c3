"""
What an SSGI application is told of a request: addresses, headers, ``res.extensions``.

And the way back: the headers that it sends, from pairs of ``str`` to those of bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import InterfaceError, InvalidResponse
from kyoukai.rules import check_response_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kyoukai.rules import Header
    from kyoukai.stream import RequestHead

__all__ = (
    "RequestHeaders",
    "address_of",
    "extensions_of",
    "fields_of",
    "server_address_of",
)

#: Sets of headers remembered at once.
_REMEMBERED = 512


class RequestHeaders:
    """
    ``get_header``: the headers of a request, for as long as an application may have them.

    :param headers: byte pairs, names in lower case
    """

    __slots__ = ("_headers",)

    def __init__(self, headers: Sequence[Header]) -> None:
        self._headers: Sequence[Header] | None = headers

    def __call__(self, name: str | None = None) -> Any:
        """
        Return one header, or all of them.

        Values of the same name are joined by ``", "``, those of ``cookie`` by ``"; "``.

        :param name: its name, in any case; None for all
        :return: its value, None if there is none; or a new dict of all, names in lower case
        :raises InterfaceError: a ``RuntimeError``, when the time of the headers is over, or for a
            name that is no ``str``
        """
        headers = self._headers
        if headers is None:
            raise InterfaceError(
                "get_header() after its time: headers are kept until the call ends, with a"
                " coroutine or run_async() until that ends, and never beyond accept() or reject()"
            )
        if name is None:
            found: dict[str, str] = {}
            for key, value in headers:
                text = key.decode("latin-1")
                if text in found:
                    found[text] += _separator(key) + value.decode("latin-1")
                else:
                    found[text] = value.decode("latin-1")
            return found
        if not isinstance(name, str):
            raise InterfaceError(f"get_header() takes a str or None, not {type(name).__name__}")
        wanted = name.lower().encode("utf-8", "replace")  # what is not ASCII is found nowhere
        values = [value.decode("latin-1") for key, value in headers if key == wanted]
        if not values:
            return None
        return values[0] if len(values) == 1 else _separator(wanted).join(values)

    def end(self) -> None:
        """From now on, there are no headers."""
        self._headers = None


def _separator(name: bytes) -> str:
    """Return what joins several values of a header (RFC 9110 section 5.3, RFC 9113 8.2.3)."""
    return "; " if name == b"cookie" else ", "


def address_of(address: tuple[str, int | None] | None, missing: str = "") -> str:
    """
    Return an address as SSGI writes it: ``1.2.3.4:80``, ``[::1]:80``, ``unix:PATH``.

    :param address: host and port, port 0 if it is not known; or a path and None
    :param missing: what to say of no address
    """
    if address is None:
        return missing
    host, port = address
    if port is None:
        return f"unix:{host}"
    if ":" in host:
        host = f"[{host}]"
    return f"{host}:{port}" if port else host


#: The same for a server's own addresses, of which there are few.
server_address_of = lru_cache(maxsize=64)(address_of)


def extensions_of(head: RequestHead) -> dict[str, Any]:
    """Return what ``res.extensions`` tells of a request beyond the draft."""
    return {
        "root_path": head.root_path,
        "raw_path": head.raw_path.decode("latin-1"),
        "scheme": head.scheme,
        "http_version": head.http_version,
        "authority": head.authority,
        "server": head.server,
        "client": head.client,
        "tls": head.tls,
    }


#: Headers as applications give them, and the tuple that they make: rendered heads are remembered by
#: its identity.
_known: dict[tuple[tuple[str, str], ...], tuple[Header, ...]] = {}


def fields_of(headers: Iterable[tuple[str, str]]) -> tuple[Header, ...]:
    """
    Return headers as the stream takes them.

    :param headers: pairs of ``str``, names in ASCII and values in Latin-1
    :raises InterfaceError: if they are not such pairs, or may not be sent
    """
    try:
        given = tuple(headers)
    except TypeError:
        raise InterfaceError(
            f"headers are pairs of str, not of type {type(headers).__name__}"
        ) from None
    try:
        known = _known.get(given)
    except TypeError:  # pairs that are lists
        return _checked(given)
    if known is None:
        known = _checked(given)
        if len(_known) >= _REMEMBERED:
            _known.clear()
        _known[given] = known
    return known


def _checked(headers: tuple[tuple[str, str], ...]) -> tuple[Header, ...]:
    fields = tuple([_field(pair) for pair in headers])
    try:
        check_response_head(200, fields)
    except InvalidResponse as error:
        raise InterfaceError(str(error)) from None
    return fields


def _field(pair: Any) -> Header:
    if isinstance(pair, tuple | list) and len(pair) == 2:
        name, value = pair
        if isinstance(name, str) and isinstance(value, str):
            try:
                return name.encode("ascii"), value.encode("latin-1")
            except UnicodeEncodeError:
                raise InterfaceError(f"a header is not in Latin-1: {pair!r:.120}") from None
    raise InterfaceError(f"a header is a pair of str, not {pair!r:.120}")
