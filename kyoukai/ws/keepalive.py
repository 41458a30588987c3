"""
``Keepalive``: the pings of a socket (RFC 6455 section 5.5.2), in both directions.

Ours say whether the client is still there; anything that comes after one is an answer. The
client's are answered by the library, and counted here: they cost it less than us.
"""

from __future__ import annotations

import asyncio
import struct
from contextvars import Context
from typing import TYPE_CHECKING

from websockets.frames import Frame, Opcode

from kyoukai.bucket import Bucket

if TYPE_CHECKING:
    from kyoukai.config import ServerConfig
    from kyoukai.ws.session import Session

__all__ = ("Keepalive",)

#: Pings and pongs that a client may save up by sending messages.
_FREE_AT_MOST = 1000
#: Seconds by which the clock of a loop may be behind.
_TICK = 0.001


class Keepalive:
    """
    What a session knows of pings.

    :param session: the session
    :param config: the server's settings
    """

    __slots__ = (
        "_bucket",
        "_config",
        "_free",
        "_loop",
        "_pinged",
        "_session",
        "_timer",
        "_waiting",
        "heard",
    )

    def __init__(self, session: Session, config: ServerConfig) -> None:
        #: Whether anything has come, or was taken, since the last ping.
        self.heard = True
        self._session = session
        self._config = config
        self._loop = asyncio.get_running_loop()
        # The time of the last ping, and what fires next.
        self._pinged = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # Pings that somebody waits for, by their payload.
        self._waiting: dict[bytes, asyncio.Future[bool]] = {}
        # Pings and pongs that the client may send: for free, and beyond that.
        self._free = 0
        self._bucket: Bucket | None = None

    def begin(self) -> None:
        """The socket is open."""
        if self._config.ws_ping_interval:
            self._wait(self._config.ws_ping_interval)

    def end(self) -> None:
        """The socket is not open any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(False)

    def release(self) -> None:
        """The socket is over: nothing is left to do, and to the collector."""
        self._session = None  # type: ignore[assignment]

    # -- Ours ----------------------------------------------------------------------------------

    async def ping(self) -> float | None:
        """
        Send a ping and wait for its answer.

        :return: seconds that it took; None if the socket is closed or lost meanwhile
        """
        started = stamp = self._loop.time()
        while (payload := struct.pack("!d", stamp)) in self._waiting:  # in one tick of the clock
            stamp += 1e-6
        self._waiting[payload] = answer = self._loop.create_future()
        self._send(payload)
        try:
            answered = await answer
        finally:
            self._waiting.pop(payload, None)
        return self._loop.time() - started if answered else None

    def _send(self, payload: bytes) -> None:
        self._free += 1
        self._session.send_ping(payload)

    def _wait(self, seconds: float) -> None:
        # The loop keeps cancelled timers for a while: not with all that the handler's has.
        self._timer = self._loop.call_later(seconds, self._beat, context=Context())

    def _beat(self) -> None:
        """Send a ping, or look whether the last one was answered in time."""
        self._timer = None
        interval, timeout = self._config.ws_ping_interval, self._config.ws_ping_timeout
        now = self._loop.time()
        if self._pinged and timeout and not (self.heard or self._session.full):
            wait = self._pinged + timeout - now
            if wait <= _TICK:
                self._session.not_answering()
                return
        else:
            wait = self._pinged + interval - now
            if not self._pinged or wait <= _TICK:
                self._pinged = now
                self.heard = False
                self._send(b"")
                wait = min(interval, timeout or interval)
        self._wait(wait)

    # -- The client's --------------------------------------------------------------------------

    def earn(self, count: int) -> None:
        """So many messages have come, each of which pays for a ping or a pong."""
        self._free += count

    def affords(self, frame: Frame) -> bool:
        """Count a ping or a pong of the client; False if there were too many."""
        if frame.opcode is Opcode.PONG:
            waiting = self._waiting.pop(bytes(frame.data), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(True)
        if self._free > 0 and not self._session.is_clogged:  # pongs it does not take would pile up
            self._free = min(self._free, _FREE_AT_MOST) - 1
            return True
        if self._bucket is None:
            self._bucket = Bucket(self._config.ws_ping_burst, self._config.ws_ping_rate)
        return self._bucket.take(self._loop.time())
