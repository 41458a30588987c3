"""
A client's frames, right and wrong ones, and a strict reader of the server's (RFC 6455 section 5).

``websockets`` writes messages that are compressed, and inflates what comes; everything else is made
by hand, so that it can be wrong, and so that nothing is forgiven.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from websockets.exceptions import WebSocketException
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
RSV1, RSV2, RSV3 = 0x40, 0x20, 0x10
MASK = bytes.fromhex("37fa213d")

#: The payload lengths at which the length is written in another form.
SHORT, MEDIUM, LONG = 125, 65535, 2**63 - 1


class WrongFrame(Exception):
    """The server's bytes break the protocol; the message says how."""


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    form: int = 0,
    length: int | None = None,
) -> bytes:
    """
    Return a frame.

    :param mask: the key; None for a frame without
    :param form: bytes that the length takes at least: 2 or 8
    :param length: the length that is written, if that is not true
    """
    size = len(payload) if length is None else length
    masked = 0x80 if mask is not None else 0
    head = bytes((0x80 * fin | rsv | opcode,))
    if size > MEDIUM or form == 8:
        head += bytes((masked | 127,)) + size.to_bytes(8, "big")
    elif size > SHORT or form == 2:
        head += bytes((masked | 126,)) + size.to_bytes(2, "big")
    else:
        head += bytes((masked | size,))
    if mask is None:
        return head + payload
    return head + mask + xor(payload, mask)


def xor(payload: bytes, mask: bytes) -> bytes:
    """Mask a payload."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def text(payload: str | bytes, **options: object) -> bytes:
    """Return a text frame."""
    data = payload.encode() if isinstance(payload, str) else payload
    return frame(TEXT, data, **options)  # type: ignore[arg-type]


def binary(payload: bytes = b"", **options: object) -> bytes:
    """Return a binary frame."""
    return frame(BINARY, payload, **options)  # type: ignore[arg-type]


def more(payload: str | bytes = b"", **options: object) -> bytes:
    """Return a continuation frame."""
    data = payload.encode() if isinstance(payload, str) else payload
    return frame(CONTINUATION, data, **options)  # type: ignore[arg-type]


def ping(payload: bytes = b"", **options: object) -> bytes:
    """Return a ping."""
    return frame(PING, payload, **options)  # type: ignore[arg-type]


def pong(payload: bytes = b"", **options: object) -> bytes:
    """Return a pong."""
    return frame(PONG, payload, **options)  # type: ignore[arg-type]


def close(code: int | None = 1000, reason: str | bytes = b"", **options: object) -> bytes:
    """Return a Close frame; None is one without a code."""
    data = reason.encode() if isinstance(reason, str) else reason
    body = b"" if code is None else code.to_bytes(2, "big") + data
    return frame(CLOSE, body, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Message:
    """A message or a control frame that came, or must come."""

    opcode: int
    payload: bytes

    def __str__(self) -> str:
        name = {TEXT: "text", BINARY: "binary", CLOSE: "Close", PING: "ping", PONG: "pong"}
        if self.opcode == CLOSE and len(self.payload) >= 2:
            said = f" {int.from_bytes(self.payload[:2], 'big')} {self.payload[2:]!r}"
        else:
            said = f" {self.payload[:24]!r}" + f"… ({len(self.payload)})" * (len(self.payload) > 24)
        return name.get(self.opcode, f"opcode {self.opcode}") + said


class FrameReader:
    """
    Messages from the server's frames.

    :param deflate: the extension, if it was accepted
    """

    def __init__(self, deflate: PerMessageDeflate | None = None) -> None:
        self._deflate = deflate
        self._data = b""
        self._pieces: list[bytes] = []
        self._opcode = 0

    @property
    def is_between(self) -> bool:
        """Whether no frame and no message has begun."""
        return not self._data and not self._opcode

    def feed(self, data: bytes) -> Iterator[Message]:
        """
        Return the messages and the control frames that are complete.

        :raises WrongFrame: if a frame is wrong
        """
        self._data += data
        while True:
            parsed = self._next()
            if parsed is None:
                return
            message = self._take(*parsed)
            if message is not None:
                yield message

    def _next(self) -> tuple[int, bytes] | None:
        """Split a frame off: its first byte, and its payload."""
        data = self._data
        if len(data) < 2:
            return None
        size, start = data[1] & 0x7F, 2
        if data[1] & 0x80:
            raise WrongFrame("a frame is masked")
        if size > SHORT:
            start = 4 if size == 126 else 10
            if len(data) < start:
                return None
            size = int.from_bytes(data[2:start], "big")
            if size <= (SHORT if start == 4 else MEDIUM):
                raise WrongFrame(f"the length {size} is not in its shortest form")
        if len(data) < start + size:
            return None
        self._data = data[start + size :]
        return data[0], data[start : start + size]

    def _take(self, first: int, payload: bytes) -> Message | None:
        fin, rsv, opcode = bool(first & 0x80), first & 0x70, first & 0x0F
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise WrongFrame(f"a frame has opcode {opcode}")
        if opcode & 8:
            if rsv or not fin or len(payload) > SHORT:
                raise WrongFrame("a control frame is compressed, in fragments or too long")
            return Message(opcode, payload)
        if (opcode == CONTINUATION) != bool(self._opcode):
            raise WrongFrame("a frame continues nothing, or a message is not finished")
        if rsv & ~RSV1 or (rsv and (self._deflate is None or opcode == CONTINUATION)):
            raise WrongFrame(f"a frame has reserved bits: {rsv:#x}")
        if self._deflate is not None:
            payload = self._inflate(fin, bool(rsv), opcode, payload)
        self._opcode = self._opcode or opcode
        self._pieces.append(payload)
        if not fin:
            return None
        message = Message(self._opcode, b"".join(self._pieces))
        self._pieces.clear()
        self._opcode = 0
        return message

    def _inflate(self, fin: bool, rsv1: bool, opcode: int, payload: bytes) -> bytes:
        assert self._deflate is not None
        try:
            found = self._deflate.decode(Frame(Opcode(opcode), payload, fin, rsv1))
        except WebSocketException as error:
            raise WrongFrame(f"a message cannot be inflated: {error}") from None
        return bytes(found.data)
