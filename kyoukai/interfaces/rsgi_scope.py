"""
What an RSGI application is told of a request: its scope, and the headers in it.

Applications read little of it, so that everything is looked up or decoded when it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kyoukai.stream import RequestHead
from kyoukai.wsgi import application_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kyoukai.rules import Header

__all__ = ("RSGI_VERSION", "Headers", "Scope", "WebsocketScope")

#: The version of RSGI that is spoken here.
RSGI_VERSION = "1.6"


class Headers:
    """
    The headers of a request: a mapping from names to values, both ``str``.

    Names are in lower case, and asked for in any. Where a header came more than once, the mapping
    has its first value; ``get_all``, ``values`` and ``items`` have all of them. Values are UTF-8,
    or Latin-1 where they are not.

    :param pairs: the headers as they came
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: list[Header]) -> None:
        self._pairs = pairs

    def get(self, key: str, default: Any = None) -> Any:
        """Return the first value of that name, or the default."""
        wanted = _wanted(key)
        for name, value in self._pairs:
            if name == wanted:
                return _text(value)
        return default

    def get_all(self, key: str) -> list[str]:
        """Return all values of that name, in the order in which they came."""
        wanted = _wanted(key)
        return [_text(value) for name, value in self._pairs if name == wanted]

    def keys(self) -> list[str]:
        """Return the names, each once."""
        return list(dict.fromkeys(name.decode("latin-1") for name, _ in self._pairs))

    def values(self) -> list[str]:
        """Return all values."""
        return [_text(value) for _, value in self._pairs]

    def items(self) -> list[tuple[str, str]]:
        """Return all names and values, in the order in which they came."""
        return [(name.decode("latin-1"), _text(value)) for name, value in self._pairs]

    def __getitem__(self, key: str) -> str:
        wanted = _wanted(key)
        for name, value in self._pairs:
            if name == wanted:
                return _text(value)
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        wanted = _wanted(key)
        return any(name == wanted for name, _ in self._pairs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len({name for name, _ in self._pairs})

    def __repr__(self) -> str:
        return f"Headers({self.items()!r})"


class Scope(msgspec.Struct, eq=False, gc=False):  # made for each request: twice as fast so
    """
    A request, as RSGI has it.

    :param head: the request's head
    """

    _head: RequestHead
    _headers: Headers | None = None

    #: What is spoken: ``http`` or ``ws``.
    proto = "http"
    #: The version of RSGI.
    rsgi_version = RSGI_VERSION

    @property
    def http_version(self) -> str:
        """``1`` for HTTP/1.0, ``1.1`` or ``2``."""
        version = self._head.http_version
        return "1" if version == "1.0" else version

    @property
    def server(self) -> str:
        """Address and port that the connection came in on; the path of a unix socket."""
        return _address(self._head.server)

    @property
    def client(self) -> str:
        """Address and port of the client; empty on a unix socket."""
        return _address(self._head.client)

    @property
    def scheme(self) -> str:
        """``http`` or ``https``, for WebSockets too."""
        return self._head.scheme

    @property
    def method(self) -> str:
        """The method."""
        return self._head.method

    @property
    def path(self) -> str:
        """The path, decoded, without the prefix that the application is published under."""
        return application_path(self._head)

    @property
    def root_path(self) -> str:
        """That prefix, which is no part of RSGI; empty without one."""
        return self._head.root_path

    @property
    def query_string(self) -> str:
        """What comes after the ``?``, escapes kept."""
        return _text(self._head.query)

    @property
    def authority(self) -> str | None:
        """
        Host and port as the request's target names them.

        On HTTP/1.1 a target is a path, nearly always: then it is None, and the Host is a header.
        """
        head = self._head
        if head.http_version == "2" or head.target[:1] not in (b"/", b"*"):
            return head.authority
        return None

    @property
    def headers(self) -> Headers:
        """The headers."""
        headers = self._headers
        if headers is None:
            self._headers = headers = Headers(self._head.headers)
        return headers

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method} {self.path!r}>"


class WebsocketScope(Scope, eq=False, gc=False):
    """A WebSocket's handshake, as RSGI has it."""

    proto = "ws"

    @property
    def method(self) -> str:
        """``GET``: on HTTP/2, a CONNECT stands for it (RFC 8441 section 5)."""
        return "GET"


def _wanted(key: str) -> bytes:
    return key.lower().encode("utf-8", "replace")


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _address(address: tuple[str, int | None] | None) -> str:
    if address is None:
        return ""
    host, port = address
    if port is None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
