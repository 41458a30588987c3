"""
HTTP/2 streams that become tunnels: extended CONNECT (RFC 8441).

What a tunnel sends in one turn of the loop leaves in as few DATA frames as it fits in. What the
windows do not let pass waits for its turn as any answer does, but without a task that waits for it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kyoukai.backends.http2.sending import H2Sender
from kyoukai.backends.http2.wire import DATA, END_STREAM, frame_head
from kyoukai.stream import CLOSED, OPEN, StreamState

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from asphalt.core import Context

    from kyoukai.backends.connections import Component
    from kyoukai.backends.http2.state import H2State
    from kyoukai.rules import Header

__all__ = ("H2Tunnels",)


class H2Tunnels(H2Sender):
    """
    One HTTP/2 connection, with the tunnels among its streams.

    :param component: what it serves
    :param parent_context: the Asphalt context of its requests' contexts
    """

    __slots__ = ("_due",)

    def __init__(self, component: Component, parent_context: Context | None = None) -> None:
        super().__init__(component, parent_context)
        # Tunnels that have something to send in this turn of the loop.
        self._due: list[H2State] = []

    def accept_upgrade(self, stream: StreamState, headers: Sequence[Header]) -> None:
        """Answer 200: from now on, DATA frames carry the tunnel's bytes."""
        state = self.with_h2(stream)
        block, _, _ = self._blocks.render(200, headers)
        self.h2.send_block(state.stream_id, block)
        self.schedule_flush()
        state.status = 200
        state.outgoing = []
        if self.h2.has_ended(state.stream_id):  # the client did not wait
            self.loop.call_soon(self.tunnel_ended, state)
        if self.connections.closing:
            self.loop.call_soon(stream.going_away)

    def tunnel_ended(self, stream: H2State) -> None:
        """The client has ended its direction of a tunnel."""
        stream.stream_complete()
        if stream.is_raw and stream.sending is CLOSED and stream.stream_id in self.streams:
            self._response_complete(stream)  # both have ended

    # -- Bytes out -----------------------------------------------------------------------------

    def tunnel_write(self, stream: StreamState, data: bytes) -> None:
        """Send bytes at the end of this turn of the loop, or when the windows let them pass."""
        state: H2State = stream  # type: ignore[assignment]
        state.outgoing.append(data)
        state.outgoing_size += len(data)
        if state.outgoing_size >= self.config.ws_write_limit and state.turn is None:
            self._send_outgoing(state)  # more of it would only look as if the client were slow
        else:
            self._schedule(state)

    def _schedule(self, state: H2State) -> None:
        if state.due or state.turn is not None:
            return
        state.due = True
        self._due.append(state)
        if len(self._due) == 1:
            self.loop.call_soon(self._send_due)

    def _send_due(self) -> None:
        due, self._due = self._due, []
        for state in due:
            state.due = False
            full = state.outgoing_size >= self.config.ws_write_limit
            self._send_outgoing(state)
            if full:  # whoever waits has no turn to wake it
                self._tell_writable(state)

    def _send_outgoing(self, state: H2State) -> None:
        """Send what a tunnel has; what cannot be sent waits for its turn."""
        if state.turn is not None:
            return
        if state.sending is not OPEN:
            state.outgoing.clear()
            return
        if state.outgoing:
            outgoing = state.outgoing
            data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
            outgoing.clear()
            state.outgoing_size = 0
            state.unsent = memoryview(data)
            state.ends = False
        if not (self._scheduler or self.write_paused):
            while state.unsent and self._write_frame(state):
                pass
        if state.unsent:
            state.turn = self.loop.create_future()
            state.turn.add_done_callback(partial(self._turn_came, state))
            self._await_turn(state)
        elif state.end_due:
            self.h2.count_data(state.stream_id, 0, end_stream=True)
            self._put(0, frame_head(0, DATA, END_STREAM, state.stream_id))
            self._response_complete(state)
            if state.tunnel is not None:
                state.tunnel.ended()

    def _turn_came(self, state: H2State, turn: asyncio.Future[None]) -> None:
        """All that waited has been sent, or the stream is over."""
        state.turn = None
        self._scheduler.discard(state)
        self._send_outgoing(state)
        self._tell_writable(state)

    def _tell_writable(self, state: H2State) -> None:
        tunnel = state.tunnel
        if tunnel is not None and state.sending is OPEN and not self.tunnel_full(state):
            tunnel.writable()

    def tunnel_waiting(self, stream: StreamState) -> int:
        """Return how many bytes wait for windows and for the transport."""
        state: H2State = stream  # type: ignore[assignment]
        return state.outgoing_size + (len(state.unsent) if state.unsent else 0)

    def tunnel_full(self, stream: StreamState) -> bool:
        """Whether too many bytes wait, or the connection takes none."""
        return self.write_paused or self.tunnel_waiting(stream) >= self.config.ws_write_limit

    def resume_writing(self) -> None:
        """The transport's buffer has drained."""
        super().resume_writing()
        for stream in tuple(self.streams.values()):
            if stream.tunnel is not None:
                self._tell_writable(stream)

    def tunnel_end(self, stream: StreamState, complete: bool) -> None:
        """Send END_STREAM after all the rest; of a raw tunnel, it has been sent."""
        state: H2State = stream  # type: ignore[assignment]
        raw, state.is_raw = state.is_raw, False
        if raw and state.stream_id in self.streams:
            self._response_complete(state)
        elif state.sending is OPEN:
            state.end_due = True
            self._schedule(state)

    def tunnels_going_away(self) -> None:
        """Tell the tunnels that the server is stopping."""
        for stream in tuple(self.streams.values()):
            stream.going_away()
