"""
The opening handshake of a WebSocket, on HTTP/1.1 (RFC 6455 section 4.2) and HTTP/2 (RFC 8441).

The two differ in what asks for it: a GET with Upgrade and a key, or a CONNECT with ``:protocol``.
The version, the origin, subprotocols and extensions are the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.extensions import Extension
from websockets.server import ServerProtocol

from kyoukai.rules import is_token
from kyoukai.ws.deflate import DEFLATE

if TYPE_CHECKING:
    from kyoukai.config import ServerConfig
    from kyoukai.rules import Header
    from kyoukai.stream import RequestHead, StreamState

__all__ = (
    "Handshake",
    "HandshakeError",
    "accept_of",
    "check_handshake",
    "is_handshake",
    "origin_allowed",
)

#: The version of the protocol (RFC 6455 section 4.4).
VERSION = b"13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class HandshakeError(Exception):
    """
    A handshake is wrong.

    :param status: the HTTP status that answers it
    :param detail: one sentence for the client
    :param headers: headers of the answer
    """

    def __init__(self, status: int, detail: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = list(headers)


class Handshake:
    """
    What a client offers.

    :param key: its Sec-WebSocket-Key; None on HTTP/2
    :param subprotocols: the subprotocols, by its preference
    :param extensions: what is accepted of its extensions, for the answer; None for nothing
    :param accepted: these extensions
    """

    __slots__ = ("_extensions", "_key", "accepted", "subprotocols")

    def __init__(
        self,
        key: bytes | None,
        subprotocols: tuple[str, ...],
        extensions: str | None,
        accepted: list[Extension],
    ) -> None:
        self.subprotocols = subprotocols
        self.accepted = accepted
        self._key = key
        self._extensions = extensions

    def answer(self, subprotocol: str | None) -> list[Header]:
        """
        Return the headers that accept the handshake.

        :param subprotocol: the subprotocol, one of those offered, or None
        :raises ValueError: if it was not offered
        """
        headers: list[Header] = []
        if self._key is not None:
            headers.append((b"sec-websocket-accept", accept_of(self._key)))
        if self._extensions is not None:
            headers.append((b"sec-websocket-extensions", self._extensions.encode()))
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                offered = ", ".join(self.subprotocols) or "none"
                raise ValueError(f"the client does not offer {subprotocol!r}; it offers: {offered}")
            headers.append((b"sec-websocket-protocol", subprotocol.encode()))
        return headers


def accept_of(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def is_handshake(head: RequestHead) -> bool:
    """Whether a request asks for a WebSocket, rightly or not."""
    return head.protocol == "websocket" and head.method in ("GET", "CONNECT")


def check_handshake(stream: StreamState, config: ServerConfig) -> Handshake:
    """
    Check the handshake that a request is.

    :param stream: the request
    :param config: the server's settings
    :raises HandshakeError: with 400, or with 426 for another version of the protocol
    """
    head = stream.head
    found: dict[bytes, list[bytes]] = {}
    for name, value in head.headers:
        if name.startswith(b"sec-websocket-"):
            found.setdefault(name, []).append(value)
    versions = found.get(b"sec-websocket-version", [])
    if versions != [VERSION]:
        detail = "Sec-WebSocket-Version must be 13, once."
        if len(versions) == 1 and head.method == "GET":
            raise _refuse(426, detail, ("Upgrade", "websocket"))
        raise _refuse(400, detail)
    if not stream.upgradable:
        raise _refuse(400, "A handshake has no body.")
    key = None
    if head.method == "GET":
        keys = found.get(b"sec-websocket-key", [])
        if len(keys) != 1 or not _is_key(keys[0]):
            raise _refuse(400, "Sec-WebSocket-Key must be 16 bytes in Base64, once.")
        key = keys[0]
    subprotocols = _subprotocols(found.get(b"sec-websocket-protocol", ()))
    extensions: str | None = None
    accepted: list[Extension] = []
    offers = found.get(b"sec-websocket-extensions")
    if offers is not None and config.ws_deflate:
        extensions, accepted = _negotiate(offers)
    return Handshake(key, subprotocols, extensions, accepted)


def origin_allowed(head: RequestHead, origins: Sequence[str]) -> bool:
    """
    Whether a page of the request's origin may open a WebSocket (RFC 6455 section 10.2).

    :param head: the request's head; one without an Origin comes from no page
    :param origins: those that may; empty for the request's own host
    """
    given = [value.decode("latin-1").lower() for name, value in head.headers if name == b"origin"]
    if not given:
        return True
    if len(given) > 1:
        return False
    if origins:
        return "*" in origins or given[0] in [origin.lower() for origin in origins]
    scheme, _, host = given[0].partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if port is None:  # "null", or what is no page of a server's
        return False
    if scheme == "http" and head.scheme == "https":
        return False  # whoever is on the network may have written that page
    # The other way round, a proxy may have ended the TLS.
    own = head.authority.removesuffix(_DEFAULT_PORTS.get(head.scheme, ""))
    return host.removesuffix(port) in (own, head.authority.removesuffix(port))


def _refuse(status: int, detail: str, *headers: tuple[str, str]) -> HandshakeError:
    version = ("Sec-WebSocket-Version", VERSION.decode())
    return HandshakeError(
        status, f"The WebSocket handshake is wrong: {detail}", (version, *headers)
    )


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def _subprotocols(values: Sequence[bytes]) -> tuple[str, ...]:
    """Return the subprotocols that were offered (RFC 6455 section 11.3.4)."""
    names = [name.strip() for value in values for name in value.split(b",")]
    if not all(is_token(name) for name in names if name):
        raise _refuse(400, "Sec-WebSocket-Protocol must be a list of names.")
    return tuple(dict.fromkeys(name.decode() for name in names if name))


def _negotiate(offers: Sequence[bytes]) -> tuple[str | None, list[Extension]]:
    """Accept what is known of the extensions that were offered (RFC 7692 section 5)."""
    headers = Headers()
    for offer in offers:
        headers["Sec-WebSocket-Extensions"] = offer.decode("latin-1")
    negotiator: Any = ServerProtocol(extensions=(DEFLATE,))
    try:
        answer: tuple[str | None, list[Extension]] = negotiator.process_extensions(headers)
    except InvalidHandshake:
        raise _refuse(400, "Sec-WebSocket-Extensions is not valid.") from None
    return answer
