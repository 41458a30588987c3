"""
The ways from HTTP/1.1 to HTTP/2: ALPN, prior knowledge, and the upgrade to h2c.

All of them end in ``switch_protocol``: the connection goes on with another protocol, which the
component makes.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, cast

from kyoukai.backends.http1 import H1State
from kyoukai.backends.http1_heads import chosen_upgrade
from kyoukai.backends.http1_tunnel import Http1Tunnel
from kyoukai.backends.tls_reader import replace_protocol

if TYPE_CHECKING:
    from asphalt.core import Context

    from kyoukai.backends.base import BaseProtocol
    from kyoukai.backends.connections import Component

__all__ = ("Http2Entrance",)

#: What an HTTP/2 client's first bytes are (RFC 9113 section 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: First bytes of no HTTP at all, though they look like a request line: three words of capitals.
#: (Conformance tests send that for a wrong preface of HTTP/2.)
_WRONG_PREFACE = re.compile(rb"[A-Z]+ [A-Z]+ [A-Z]+\r\n\r\n")
#: The longest body that is waited for before an upgrade.
_LONGEST_BODY = 65536
#: What an upgrade leaves of its request.
_UPGRADE_HEADERS = frozenset((b"connection", b"http2-settings", b"transfer-encoding", b"upgrade"))

_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n"


class Http2Entrance(Http1Tunnel):
    """
    One connection that starts with HTTP/1.x, and may go on with HTTP/2.

    :param component: what it serves
    :param parent_context: the Asphalt context of its requests' contexts
    """

    __slots__ = ("_held", "_offered")

    def __init__(self, component: Component, parent_context: Context | None = None) -> None:
        super().__init__(component, parent_context)
        # A request that waits for its body before the upgrade, and its HTTP2-Settings.
        self._held: H1State | None = None
        self._offered = b""

    # -- ALPN ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected, and may have chosen HTTP/2 in its handshake (RFC 7301)."""
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            target = self.component.switch_target("h2")
            if target is not None:
                self.is_lost = True
                replace_protocol(cast(asyncio.Transport, transport), target)
                target.connection_made(transport)
                del self._parser  # each refers to the other
                return
        super().connection_made(transport)

    # -- Prior knowledge -----------------------------------------------------------------------

    def begins_http2(self, buffer: bytearray) -> bool:
        """
        Look whether a connection's first bytes are HTTP/2's, and hand it over if they are.

        :param buffer: all that has come
        :return: whether they are, or may yet be
        """
        start = bytes(buffer[: len(_PREFACE)])
        if not _PREFACE.startswith(start):
            return False
        if len(start) < len(_PREFACE):
            return True
        target = self.component.switch_target("h2")
        if target is None:
            return False
        self.hand_over(target)
        return True

    def hang_up(self, data: bytes) -> bool:
        """
        Close a connection that begins with a wrong preface of HTTP/2.

        An answer on HTTP/1.1 would be taken for frames (RFC 9113 section 3.4).

        :param data: its first bytes
        :return: False if they are none
        """
        if not _WRONG_PREFACE.fullmatch(data):
            return False
        self.drop_input()
        self.close()
        return True

    # -- The upgrade (RFC 7540 section 3.2) ----------------------------------------------------

    def weigh_upgrade(self, stream: H1State, expects: bool, has_body: bool) -> bool:
        """
        Look which of the upgrades that a request offers can be had: that is its protocol.

        :param stream: the request
        :param expects: whether its client waits for ``100 Continue``
        :param has_body: whether it has a body: then it becomes no tunnel
        :return: whether it is the one to h2c
        """
        head, tokens = stream.head, self.config.upgrade_tokens
        head.protocol = name = chosen_upgrade(head, tokens)
        if name in tokens:
            stream.upgradable = not has_body and (name != "websocket" or head.method == "GET")
            return False
        return name == "h2c" and self.offers_h2c(stream, expects)

    def offers_h2c(self, stream: H1State, expects: bool) -> bool:
        """
        Look whether a request's upgrade can be taken, once its body is complete.

        :param stream: the request
        :param expects: whether its client waits for ``100 Continue``
        """
        head = stream.head
        offers = [value for name, value in head.headers if name == b"http2-settings"]
        length = head.content_length or 0
        if (
            len(offers) != 1
            or self.tls is not None
            or self.closing
            or self._streams
            or expects
            or head.http_version != "1.1"
            or length > min(_LONGEST_BODY, self.config.read_buffer_size)
        ):
            return False
        self._offered = offers[0]
        return True

    def hold(self, stream: H1State) -> None:
        """Wait for the request's body before it is answered: the upgrade comes after it."""
        self._held = stream
        self._streams.append(stream)

    def release_held(self) -> None:
        """Answer the request on HTTP/1.1 after all."""
        stream, self._held = self._held, None
        if stream is not None:
            self.start_stream(stream, stream.interface)

    def _deliver(self) -> None:
        super()._deliver()
        held = self._held
        limit = min(_LONGEST_BODY, self.config.read_buffer_size)
        if held is not None and held.received > limit:
            self.release_held()

    def _message_complete(self) -> None:
        stream = self._held
        super()._message_complete()
        if stream is not None and stream is self._held and not self.take_upgrade(stream):
            self.release_held()

    def take_upgrade(self, stream: H1State) -> bool:
        """
        Answer a request that is complete on HTTP/2, as stream 1.

        :return: False if it must be answered on HTTP/1.1
        """
        target = None if self.closing else self.component.switch_target("h2")
        if target is None:
            return False
        head = stream.head.copy()
        head.http_version = "2"
        head.protocol = None
        head.headers = [pair for pair in head.headers if pair[0] not in _UPGRADE_HEADERS]
        body = b"".join(stream._chunks)
        if not target.begin_with(head, body, stream.trailers, self._offered):
            return False
        self.transport.write(_SWITCHING)
        self.hand_over(target)
        return True

    def hand_over(self, target: BaseProtocol) -> None:
        """Go on with another protocol, which gets what has come already."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._held = None
        self._streams.clear()
        self.switch_protocol(target, rest)
        del self._parser  # each refers to the other
