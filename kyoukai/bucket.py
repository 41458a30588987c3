"""
``Bucket``: counting what costs the server more than it costs the client.
"""

from __future__ import annotations

__all__ = ("Bucket",)


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
