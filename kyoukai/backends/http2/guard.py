"""
The errors that end an HTTP/2 connection, and their lines in the log.
"""

from __future__ import annotations

import logging
from time import monotonic

from h2.errors import ErrorCodes

__all__ = ("ConnectionFault", "report")

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
