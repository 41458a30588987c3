"""
``Proxy``: which servers a reverse proxy passes requests on to, and how.

It is mounted like an application: ``app.mount("/legacy", Proxy("http://127.0.0.1:9000"))``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from kyoukai.config import check_keys
from kyoukai.config_checks import convert_fields
from kyoukai.exceptions import ConfigurationError, ProtocolError
from kyoukai.rules import check_authority, is_token

__all__ = ("Proxy", "UpstreamAddress", "is_upstream")

_SCHEMES = ("http://", "https://", "unix:")
_FORMS = "http://HOST:PORT, https://HOST:PORT or unix:PATH"
_DEFAULT_PORTS = {"http": 80, "https": 443}

_CHOICES = {
    "balance": ("round_robin", "least_connections"),
    "forwarded": ("x-forwarded", "forwarded", "both", "off"),
}
#: Settings whose least value is not 0.
_MINIMUM: dict[str, float] = {
    "buffer_size": 1024,
    "max_connections": 1,
    "max_head_size": 256,
    "protocol_receive_buffer": 1024,
}
_ABOVE_ZERO = ("connect_timeout", "fail_backoff", "max_backoff", "read_timeout")
#: Uvloop counts the bytes of a transport's buffer in C.
_WITH_MAXIMUM = ("buffer_size", "protocol_receive_buffer")


def is_upstream(target: object) -> bool:
    """Return whether a target is the URL of an upstream server, and not ``module:attribute``."""
    return isinstance(target, str) and target.startswith(_SCHEMES)


def _check_name(setting: str, name: str) -> None:
    """Refuse the name of a host that nobody could look up, which would fail for each request."""
    try:
        name.encode("idna")
    except UnicodeError:
        raise ConfigurationError(f"{setting}: {name[:80]!r} is no name of a host") from None


@dataclass(frozen=True)
class UpstreamAddress:
    """
    Where an upstream server is.

    :param url: how it was written
    :param host: its name or IP address; empty for a unix socket
    :param port: its TCP port
    :param path: the path of its unix socket
    :param tls: whether it is spoken to over TLS
    :param base: what replaces the prefix of a mount, without a slash at its end; None if requests
        are passed on with the target that they came with
    :param authority: what its own requests would have as Host
    """

    url: str
    host: str = ""
    port: int = 0
    path: str | None = None
    tls: bool = False
    base: bytes | None = None
    authority: str = "localhost"

    @classmethod
    def parse(cls, url: str) -> UpstreamAddress:
        """
        Read the URL of an upstream server.

        :param url: ``http://HOST[:PORT][/PATH]``, ``https://…`` or ``unix:PATH``
        :raises ConfigurationError: if it has none of these forms
        """
        if url.startswith("unix:"):
            path = url.removeprefix("unix:").removeprefix("//")
            if not path or "\0" in path:
                raise ConfigurationError(f"upstreams: {url!r} names no socket; write unix:PATH")
            return cls(url, path=path)
        scheme = url.partition("://")[0]
        if not url.startswith(_SCHEMES):
            raise ConfigurationError(f"upstreams: {url!r} is no upstream; write {_FORMS}")
        try:
            parts = urlsplit(url)
            port = parts.port
            authority = check_authority(parts.netloc.encode())
        except (ValueError, ProtocolError):
            raise ConfigurationError(
                f"upstreams: {url!r} has no valid host and port; write {_FORMS}"
            ) from None
        if parts.query or parts.fragment or "?" in url or "#" in url:
            raise ConfigurationError(f"upstreams: {url!r} may have a path, but no query")
        if not parts.path.isascii() or not parts.path.isprintable() or " " in parts.path:
            raise ConfigurationError(f"upstreams: {url!r}: write its path with percent escapes")
        if port == 0:
            raise ConfigurationError(f"upstreams: {url!r}: nobody listens on port 0")
        _check_name(f"upstreams: {url!r}", parts.hostname or "")
        return cls(
            url,
            host=parts.hostname or "",
            port=port or _DEFAULT_PORTS[scheme],
            tls=scheme == "https",
            base=parts.path.rstrip("/").encode() if parts.path else None,
            authority=authority,
        )

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Proxy:
    """
    A reverse proxy: the servers that requests are passed on to, and how.

    :raises ConfigurationError: if a value has the wrong type or lies outside its range; the
        message names the setting
    """

    upstreams: tuple[str, ...]
    """
    The servers: ``http://HOST:PORT``, ``https://HOST:PORT`` or ``unix:PATH``. Requests keep their
    target; where the URL has a path, even ``/``, that takes the place of the mount's prefix.
    """

    _: dataclasses.KW_ONLY

    balance: str = "round_robin"
    """
    Which of several servers gets a request: each in turn (``round_robin``), or the one with the
    fewest requests in progress (``least_connections``).
    """

    host: str = "keep"
    """
    The Host that the server gets: the client's (``keep``), the server's own (``upstream``;
    ``localhost`` for a unix socket), or this one.
    """

    forwarded: str = "x-forwarded"
    """
    How the server is told of the client: ``x-forwarded`` (``X-Forwarded-For``, ``-Proto``,
    ``-Host``, ``-Prefix``), ``forwarded`` (RFC 7239), ``both``, or ``off``. What a client says of
    itself is removed, unless it is one of ``trusted_proxies``.
    """

    via: str = "kyoukai"
    """Our name in the ``Via`` header (RFC 9110 section 7.6.3), both ways. Empty: no such header."""

    ca: str | None = None
    """
    Path of the certificates, PEM, that those of ``https`` servers must be signed by. None: the
    system's.
    """

    tls_server_name: str | None = None
    """The name in the certificate of ``https`` servers. None: the host in the URL."""

    connect_timeout: float = 5.0
    """
    Seconds that a connection may take, with its TLS handshake, and that a request waits when there
    are ``max_connections``.
    """

    read_timeout: float = 60.0
    """
    Seconds between two reads from the server, while it is its turn. Beyond: 504, or the answer is
    cut if it has begun.
    """

    pool_size: int = 100
    """
    Idle connections that are kept to each server; those beyond are closed after a second. 0: each
    request gets one of its own.
    """

    max_connections: int = 1000
    """
    Connections that may be open to each server at once, those of WebSockets too. Beyond, requests
    wait for ``connect_timeout``, and then get 503 with Retry-After.
    """

    half_closed: bool = False
    """
    Whether a client that closes its direction of a connection in the clear, while the server is at
    its request, still gets its answer. Otherwise it is taken to be gone, as it nearly always is,
    and the request is given up.
    """

    keep_alive_timeout: float = 30.0
    """
    Seconds that an idle connection is kept; less, if the server says so (``Keep-Alive``). 0: each
    request gets one of its own.
    """

    retries: int = 1
    """
    How often a request is sent again whose connection broke before any byte of the answer. Only
    idempotent requests are (RFC 9110 section 9.2.2), and none of whose body something was sent.
    """

    fail_backoff: float = 1.0
    """
    Seconds that a server is passed over which could not be reached, or gave no answer, while there
    are others. Then one request tries it, and until that is answered the others go on passing it
    over. The time doubles with each failure in a row.
    """

    max_backoff: float = 30.0
    """The most seconds that a server is passed over."""

    buffer_size: int = 65536
    """
    Bytes of an answer that may wait for the client before reading from the server stops, and of a
    request's body that may wait for the server.
    """

    max_head_size: int = 65536
    """Bytes of an answer's head, and of its trailers. Beyond: 502."""

    protocol_receive_timeout: float = 600.0
    """
    Seconds without a byte in either direction after which an upgraded connection is closed. 0: no
    limit.
    """

    protocol_receive_buffer: int = 65536
    """Bytes that may wait in each direction of an upgraded connection."""

    def __post_init__(self) -> None:
        convert_fields(self, _MINIMUM, _ABOVE_ZERO, _WITH_MAXIMUM)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                known = ", ".join(choices)
                raise ConfigurationError(f"{name} must be one of {known}, not {value!r}")
        if not self.upstreams:
            raise ConfigurationError(f"upstreams is missing: name one or more as {_FORMS}")
        addresses = self.addresses()
        for number, address in enumerate(addresses):
            if address.url in self.upstreams[:number]:
                raise ConfigurationError(f"upstreams: {address.url!r} is there twice")
        if self.host not in ("keep", "upstream"):
            try:
                check_authority(self.host.encode())
            except ProtocolError:
                raise ConfigurationError(
                    f"host: {self.host!r} is neither keep, nor upstream, nor a host"
                ) from None
        if self.via and not is_token(self.via.encode()):
            raise ConfigurationError(f"via: {self.via!r} is no token (RFC 9110 section 5.6.2)")
        for name in ("ca", "tls_server_name"):
            if getattr(self, name) is not None and not any(address.tls for address in addresses):
                raise ConfigurationError(f"{name} is for https upstreams, and there is none")
        _check_name("tls_server_name", self.tls_server_name or "")

    def addresses(self) -> list[UpstreamAddress]:
        """
        Return where the servers are.

        :raises ConfigurationError: for a URL that leads nowhere
        """
        return [UpstreamAddress.parse(url) for url in self.upstreams]

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> Proxy:
        """
        Make a proxy of a mapping, as YAML gives it.

        :param settings: field names and values; lists stand for tuples
        :raises ConfigurationError: for a name that is no setting, with the nearest right one, or
            a value that cannot work
        """
        check_keys(settings, cls.field_names(), "key")
        return cls(**{"upstreams": (), **settings})

    def __repr__(self) -> str:
        return f"<Proxy {', '.join(self.upstreams)}>"
