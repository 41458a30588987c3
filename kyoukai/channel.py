"""
``Channel``: what is published to it goes to every socket that has subscribed.

.. code-block:: python

    @app.websocket("/news")
    async def news(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()
        await app.channel("news").subscribe(ws)
        await ws.wait_closed()

A message becomes a frame once, whatever the number of members. No member waits for another: what a
slow one does not take waits in a queue of its own, and when that is full, the channel's policy says
what happens. This channel is one process's; one with a broker behind it has the same methods.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Literal

from kyoukai.exceptions import OperationNotAllowed
from kyoukai.ws.codes import TRY_AGAIN_LATER
from kyoukai.ws.messages import BINARY, TEXT, frame_of

if TYPE_CHECKING:
    from kyoukai.websocket import WebSocket
    from kyoukai.ws.session import Session

__all__ = ("Channel",)


class Channel:
    """
    A channel within one process, as ``app.channel(name)`` makes it.

    :param name: its name
    :param queue: messages that may wait for each member that takes none
    :param slow: what happens to a member whose queue is full: ``drop`` its oldest message, or
        ``close`` it with 1013
    :raises ValueError: if that cannot work
    """

    def __init__(
        self, name: str, *, queue: int = 64, slow: Literal["drop", "close"] = "drop"
    ) -> None:
        if isinstance(queue, bool) or not isinstance(queue, int) or queue < 1:
            raise ValueError(f"queue must be a number of messages, at least 1, not {queue!r}")
        if slow not in ("drop", "close"):
            raise ValueError(f"slow must be 'drop' or 'close', not {slow!r}")
        self.name = name
        self.queue = queue
        self.slow = slow
        self._members: dict[Session, _Member] = {}

    def __repr__(self) -> str:
        return f"<Channel {self.name!r} queue={self.queue} slow={self.slow!r}>"

    async def subscribe(self, ws: WebSocket) -> None:
        """
        Let a socket get what is published from now on; it leaves by itself when it is closed.

        :param ws: the socket; if it is a member already, nothing happens
        :raises OperationNotAllowed: if it has not been accepted
        :raises WebSocketDisconnected: if it is closed
        """
        session = ws.session
        if session is None:
            raise OperationNotAllowed("only an accepted WebSocket can subscribe to a channel")
        if not session.is_open:
            raise session.disconnected()
        if session not in self._members:
            member = self._members[session] = _Member(self)
            session.listeners.append(member)

    async def unsubscribe(self, ws: WebSocket) -> None:
        """Let a socket get nothing more, not even what waits for it; others are left alone."""
        session = ws.session
        member = self._members.get(session) if session is not None else None
        if session is not None and member is not None:
            session.listeners.remove(member)
            self.leave(session)

    async def publish(self, message: str | bytes | bytearray | memoryview) -> None:
        """
        Send a message to every member.

        It waits for none of them, and is never compressed (RFC 7692 section 6 allows that).

        :param message: a ``str`` is sent as text, anything else as binary
        :raises TypeError: if it is neither
        """
        if isinstance(message, str):
            frame = frame_of(TEXT, message.encode())
        elif isinstance(message, bytes | bytearray | memoryview):
            frame = frame_of(BINARY, bytes(message))
        else:
            raise TypeError(f"publish takes a str or bytes, not {type(message).__name__}")
        slow = False
        for session, member in tuple(self._members.items()):
            if member.waiting or session.is_clogged:
                member.wait(session, frame)
                slow = True
            else:
                session.put_frame(frame)
        if slow:  # those that read may take what waits before the next message comes
            await asyncio.sleep(0)

    async def count(self) -> int:
        """Return how many members there are."""
        return len(self._members)

    def leave(self, session: Session) -> None:
        """A member is gone."""
        self._members.pop(session, None)


class _Member:
    """One membership: what waits for a socket that takes nothing."""

    __slots__ = ("_channel", "waiting")

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.waiting: deque[bytes] | None = None

    def wait(self, session: Session, frame: bytes) -> None:
        """Keep a frame until there is room, or do what the policy says."""
        channel = self._channel
        if self.waiting is None:
            self.waiting = deque(maxlen=channel.queue)
        if len(self.waiting) == channel.queue and channel.slow == "close":
            session.close(TRY_AGAIN_LATER, "too slow")
        else:
            self.waiting.append(frame)  # which drops the oldest when it is full

    def socket_writable(self, session: Session) -> None:
        """Send what has waited."""
        waiting = self.waiting
        while waiting and not session.is_clogged:
            session.put_frame(waiting.popleft())
        if not waiting:
            self.waiting = None

    def socket_closed(self, session: Session) -> None:
        """It leaves by itself."""
        self.waiting = None
        self._channel.leave(session)
