"""
``RequestHead``: what a client asks for, the same for every wire and interface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kyoukai.rules import Header

__all__ = ("RequestHead",)


class RequestHead:
    """
    A request's head, checked and decoded once, the same for every wire and interface.

    :param method: as sent, such as ``GET``
    :param target: the request target's bytes as sent
    :param raw_path: the target's path, escapes kept
    :param path: the path, decoded once as UTF-8
    :param query: the target's query without ``?``, escapes kept
    :param scheme: ``http`` or ``https``
    :param authority: host and port, lower case, as the client named them
    :param http_version: ``1.0``, ``1.1`` or ``2``
    :param headers: byte pairs, names in lower case, in wire order with duplicates, ``host`` first
    :param content_length: bytes of the body if the client said so
    :param protocol: the token that an upgrade asks for, if any
    :param client: address and port of the client; None on a unix socket
    :param server: address and port that the connection came in on; a path and None on a unix socket
    :param tls: the connection's ``ssl.SSLObject``, None without TLS
    :param root_path: the prefix that a proxy publishes the application under
    """

    __slots__ = (
        "authority",
        "client",
        "content_length",
        "headers",
        "http_version",
        "method",
        "path",
        "protocol",
        "query",
        "raw_path",
        "root_path",
        "scheme",
        "server",
        "target",
        "tls",
    )

    def __init__(
        self,
        method: str,
        target: bytes,
        raw_path: bytes,
        path: str,
        query: bytes,
        scheme: str,
        authority: str,
        http_version: str,
        headers: list[Header],
        content_length: int | None = None,
        protocol: str | None = None,
        client: tuple[str, int] | None = None,
        server: tuple[str, int | None] | None = None,
        tls: Any = None,
        root_path: str = "",
    ) -> None:
        self.method = method
        self.target = target
        self.raw_path = raw_path
        self.path = path
        self.query = query
        self.scheme = scheme
        self.authority = authority
        self.http_version = http_version
        self.headers = headers
        self.content_length = content_length
        self.protocol = protocol
        self.client = client
        self.server = server
        self.tls = tls
        self.root_path = root_path

    def copy(self) -> RequestHead:
        """Return a head that can be changed without changing this one."""
        return RequestHead(
            self.method,
            self.target,
            self.raw_path,
            self.path,
            self.query,
            self.scheme,
            self.authority,
            self.http_version,
            self.headers.copy(),
            self.content_length,
            self.protocol,
            self.client,
            self.server,
            self.tls,
            self.root_path,
        )

    def below(self, prefix: str) -> bytes:
        """
        Return what comes after a prefix of the path, with its escapes.

        :param prefix: what the decoded path begins with; as it was sent, any byte of it may be an
            escape
        """
        raw, position = self.raw_path, 0
        for _ in prefix.encode():
            position += 3 if raw[position : position + 1] == b"%" else 1
        return raw[position:]

    def get(self, name: bytes) -> bytes | None:
        """Return the first header of that lower-case name, or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def __repr__(self) -> str:
        return f"<RequestHead {self.method} {self.target!r}>"
