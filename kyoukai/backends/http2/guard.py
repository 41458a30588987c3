"""
What h2 does not count: buckets for what costs us more than the client, and the errors that end a
connection.
"""

from __future__ import annotations

import logging
from time import monotonic

from h2.errors import ErrorCodes

__all__ = ("Bucket", "ConnectionFault", "report")

logger = logging.getLogger("kyoukai.server")


class ConnectionFault(Exception):
    """
    The client broke a rule in a way that ends the connection (RFC 9113 section 5.4.1).

    :param code: the error code of the GOAWAY
    :param text: its debug text, one sentence
    """

    def __init__(self, code: ErrorCodes, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Bucket:
    """
    A token bucket: so many at once, and so many a second from then on.

    :param burst: tokens at the start, and at most
    :param rate: tokens that come back each second
    """

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = self._left = float(burst)
        self._rate = rate
        self._at = -1.0

    def take(self, now: float, count: int = 1) -> bool:
        """
        Take tokens.

        :param now: the time, by any clock that only goes forward
        :param count: how many
        :return: False if there are not so many
        """
        if self._at < 0:
            self._at = now
        left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        self._left = left - count
        return self._left >= 0


class _Reports:
    """The log of what clients do: one line a second at most, whatever they do."""

    def __init__(self) -> None:
        self._next = 0.0
        self._left_out = 0

    def __call__(self, client: object, text: str) -> None:
        now = monotonic()
        if now < self._next:
            self._left_out += 1
            return
        more = f" ({self._left_out} more such lines left out)" if self._left_out else ""
        self._next = now + 1
        self._left_out = 0
        logger.warning("HTTP/2 connection of %s ended: %s%s", client, text, more)


#: Log, in one line and not too often, why a connection was ended.
report = _Reports()
