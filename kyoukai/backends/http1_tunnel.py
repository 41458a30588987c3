"""
HTTP/1.1 connections that become tunnels (RFC 9110 section 7.8).

What comes after a request for an upgrade is held until it is answered: only then is it known
whether it is the tunnel's, or the next request.

The bytes of a raw tunnel are written at once, as those of a body are; what a :class:`Tunnel` sends
gathers for a turn of the loop. Over TLS there are no half-closed connections: the end of either
direction is that of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kyoukai.backends.base import NEVER
from kyoukai.backends.http1 import H1State
from kyoukai.backends.http1_body import HEAD, HELD, TUNNEL, BodyReceiver
from kyoukai.backends.http1_heads import token_as_sent
from kyoukai.exceptions import PeerGone
from kyoukai.rules import HOP_BY_HOP
from kyoukai.stream import CLOSED, OPEN, StreamState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asphalt.core import Context

    from kyoukai.backends.connections import Component
    from kyoukai.rules import Header

__all__ = ("Http1Tunnel",)

#: Seconds in which nothing more must have come, before a tunnel over TLS is closed whose client
#: may still be sending: a close with bytes unread destroys what is on its way.
_QUIET = 0.25
#: Headers that say what the connection becomes, which is not the application's to say.
_OWN = HOP_BY_HOP | {b"upgrade"}


class Http1Tunnel(BodyReceiver):
    """
    One HTTP/1.x connection, which may become a tunnel.

    :param component: what it serves
    :param parent_context: the Asphalt context of its requests' contexts
    """

    __slots__ = ("_flush_due", "_out", "_out_size", "_quiet_by")

    def __init__(self, component: Component, parent_context: Context | None = None) -> None:
        super().__init__(component, parent_context)
        # What has been written since the last turn of the loop; None if there is no ``Tunnel``.
        self._out: list[bytes] | None = None
        self._out_size = 0
        self._flush_due = False
        # When a connection that waits for quiet is closed though something comes; 0 otherwise.
        self._quiet_by = 0.0

    # -- From a request to a tunnel ------------------------------------------------------------

    def release_input(self) -> None:
        """The request was answered otherwise: what follows are requests."""
        if self._phase is HELD and not self._streams:
            self._phase = HEAD

    def accept_upgrade(self, stream: StreamState, headers: Sequence[Header]) -> None:
        """Answer 101: from now on, the connection is the stream's."""
        assert isinstance(stream, H1State)
        lines = b"".join([b"%b: %b\r\n" % pair for pair in headers if pair[0].lower() not in _OWN])
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n"
            b"upgrade: %b\r\n%b\r\n" % (token_as_sent(stream.head), lines)
        )
        stream.status = 101
        stream.closes = True
        self._phase = TUNNEL
        self._incoming = stream
        self._read_deadline = NEVER
        self._parser = None  # it would only take room
        if not stream.is_raw:
            self._out = []
            self.write_limit = self.config.ws_write_limit // (1 if self.tls is None else 4)
            self.transport.set_write_buffer_limits(high=self.write_limit)
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            stream.insert_data(data)
        if self._half_closed:
            self.loop.call_soon(self.tunnel_ended)
        if self.connections.closing:
            self.loop.call_soon(stream.going_away)

    # -- Bytes in ------------------------------------------------------------------------------

    def tunnelled(self, data: bytes) -> None:
        """Bytes of the tunnel have come."""
        stream = self._incoming
        if stream is None or self._phase is not TUNNEL:
            if self._quiet_by:
                self.set_read_deadline(min(_QUIET, self._quiet_by - self.loop.time()))
            return  # it was closed in the meantime
        if stream.tunnel is None:
            stream.insert_data(data)
        else:
            stream.pass_on(data, len(data))
        if stream.buffered:
            self._check_reading()

    def tunnel_ended(self) -> bool:
        """
        The client has closed its direction of the tunnel; over TLS, the connection.

        :return: whether the transport stays open
        """
        stream = self._incoming
        if stream is not None and (stream.is_raw or self.tls is None):
            stream.stream_complete()
            if stream.is_raw and stream.sending is CLOSED:
                self._both_ended(stream)
        return self.tls is None and not self.transport.is_closing()

    # -- The end of a raw tunnel ---------------------------------------------------------------

    def end_direction(self, stream: H1State) -> None:
        """
        Close our direction, and the other with it where there is no closing one alone.

        :raises PeerGone: if the client left
        """
        if self.transport.is_closing():
            raise PeerGone
        if stream.receiving is not OPEN:
            self._both_ended(stream)
        elif self.close_output():
            stream.sending = CLOSED
            if self.transport.get_write_buffer_size():
                self.watch_writes()
        else:
            stream.stream_complete()
            stream.sending = CLOSED
            if self._logs_access:
                self.component.log_access(stream)
            self.linger()
            self._phase = TUNNEL  # what comes now is seen, and dropped
            self._quiet_by = self.loop.time() + self.config.linger_timeout
            self.set_read_deadline(min(_QUIET, self.config.linger_timeout))

    def _both_ended(self, stream: H1State) -> None:
        self._incoming = None
        self._response_complete(stream)

    def lingered(self) -> None:
        """Nothing came for a while; what is still unsent gets more time."""
        if self._quiet_by and self.transport.get_write_buffer_size():
            self.set_read_deadline(_QUIET)
        else:
            super().lingered()

    # -- Bytes out -----------------------------------------------------------------------------

    def tunnel_write(self, stream: StreamState, data: bytes) -> None:
        """Send bytes, all those of one turn of the loop in one write."""
        out = self._out
        if out is None or self.is_lost:
            return
        out.append(data)
        self._out_size += len(data)
        stream.bytes_sent += len(data)
        if self._out_size >= self.write_limit:
            self._flush_out()
        elif not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        self._flush_due = False
        self._flush_out()

    def _flush_out(self) -> None:
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._out_size = 0
            if not self.transport.is_closing():
                self.transport.write(data)

    def tunnel_waiting(self, stream: StreamState) -> int:
        """Return how many bytes wait for the client."""
        return self._out_size + self.transport.get_write_buffer_size()

    def tunnel_full(self, stream: StreamState) -> bool:
        """Whether the transport's buffer is full."""
        return self.write_paused

    def resume_writing(self) -> None:
        """The transport's buffer has drained."""
        super().resume_writing()
        stream = self._incoming
        if self._phase is TUNNEL and stream is not None and stream.tunnel is not None:
            stream.tunnel.writable()

    def tunnel_end(self, stream: StreamState, complete: bool) -> None:
        """
        Close the connection once all is sent.

        A client that may still be sending gets ``linger_timeout`` to read what was sent; what it
        sends is dropped.
        """
        assert isinstance(stream, H1State)
        raw, stream.is_raw = stream.is_raw, False
        if (stream.sending is not OPEN and not raw) or self.is_lost:
            return
        self._flush_out()
        self._out = None
        if complete:
            stream.receiving = CLOSED
        self._response_complete(stream)
        if stream.tunnel is not None:
            stream.tunnel.ended()

    def shutdown(self) -> None:
        """Take no further requests; a tunnel is told."""
        super().shutdown()
        stream = self._incoming
        if self._phase is TUNNEL and stream is not None:
            stream.going_away()
