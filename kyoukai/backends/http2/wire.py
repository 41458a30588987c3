"""
The frames of HTTP/2 (RFC 9113 section 4 and 6), as names.

Every frame begins with nine bytes::

    +-----------------------------------------------+
    |                 Length (24)                   |
    +---------------+---------------+---------------+
    |   Type (8)    |   Flags (8)   |
    +-+-------------+---------------+-------------------------------+
    |R|                 Stream Identifier (31)                      |
    +=+=============================================================+
    |                   Frame Payload (0...)                      ...

Stream 0 is the connection itself.
"""

from __future__ import annotations

import struct

__all__ = (
    "ACK",
    "CONTINUATION",
    "DATA",
    "DEFAULT_WINDOW",
    "END_HEADERS",
    "END_STREAM",
    "GOAWAY",
    "HAS_PRIORITY",
    "HEADERS",
    "LARGEST_WINDOW",
    "MAX_FRAME_SIZE",
    "PADDED",
    "PING",
    "PREFACE",
    "PRIORITY",
    "PRIORITY_UPDATE",
    "PUSH_PROMISE",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "frame_head",
)

#: What a client's first bytes are (section 3.4).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Types.
DATA = 0
HEADERS = 1
PRIORITY = 2
RST_STREAM = 3
SETTINGS = 4
PUSH_PROMISE = 5
PING = 6
GOAWAY = 7
WINDOW_UPDATE = 8
CONTINUATION = 9
PRIORITY_UPDATE = 16  # RFC 9218 section 7.1

# Flags; the same bit means END_STREAM on DATA and HEADERS, and ACK on SETTINGS and PING.
END_STREAM = 0x01
ACK = 0x01
END_HEADERS = 0x04
PADDED = 0x08
HAS_PRIORITY = 0x20

#: The longest frame that we take, and the shortest limit that a client may have.
MAX_FRAME_SIZE = 16384
#: Windows begin with this (section 6.9.2), and none may be larger than the other (6.9.1).
DEFAULT_WINDOW = 65535
LARGEST_WINDOW = 2**31 - 1

_pack = struct.Struct(">HBBBL").pack


def frame_head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Return the nine bytes that a frame begins with."""
    return _pack(length >> 8, length & 255, kind, flags, stream_id)
