"""
Close codes of WebSockets (RFC 6455 section 7.4, and IANA's registry).
"""

from __future__ import annotations

from typing import Final

__all__ = (
    "ABNORMAL",
    "BAD_TEXT",
    "FAILED",
    "GOING_AWAY",
    "NORMAL",
    "POLICY",
    "PROTOCOL_ERROR",
    "TRY_AGAIN_LATER",
    "check_close",
    "shorten",
)

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
#: Never on the wire: the client is lost.
ABNORMAL: Final = 1006
BAD_TEXT: Final = 1007
POLICY: Final = 1008
FAILED: Final = 1011
TRY_AGAIN_LATER: Final = 1013

#: What a Close frame may carry, beside 3000 to 4999.
_CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))
#: Bytes of a reason in UTF-8 (RFC 6455 section 5.5).
_REASON_SIZE = 123


def check_close(code: int, reason: str) -> None:
    """
    Check what a Close frame is to say.

    :raises ValueError: if it may not
    """
    if type(code) is not int or not (code in _CODES or 3000 <= code <= 4999):
        raise ValueError(
            f"{code!r} is no close code to send: 1000 to 1003, 1007 to 1014, 3000 to 4999"
        )
    if len(reason.encode()) > _REASON_SIZE:
        raise ValueError(f"the reason of a close has at most {_REASON_SIZE} bytes")


def shorten(reason: str) -> str:
    """Return as much of a reason as a Close frame can carry."""
    return reason.encode()[:_REASON_SIZE].decode(errors="ignore")
