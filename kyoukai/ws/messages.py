"""
Messages from frames and frames from messages (RFC 6455 section 5).

``websockets`` has the protocol: masking, control frames, the closing handshake, extensions. What is
whole and ordinary, one unfragmented, uncompressed frame for each message, is read and written here,
which is several times quicker. Frames are split here for that, and the library never holds a part
of one while the next is read. It checks neither UTF-8 nor how many fragments there are: that is
done here as well.
"""

from __future__ import annotations

import codecs
import logging
from collections import deque
from typing import Any

from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from kyoukai.ws.codes import BAD_TEXT, POLICY, PROTOCOL_ERROR

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform that the library is not compiled for
    from websockets.utils import apply_mask

__all__ = ("BINARY", "MOST_CONTROL", "TEXT", "MessageReader", "frame_of")

TEXT, BINARY = 1, 2
#: Pings and pongs after which ``read`` returns: whether there were too many is for others to say.
MOST_CONTROL = 64
#: First bytes of whole, uncompressed messages.
_WHOLE_BINARY = 0x80 | BINARY
_WHOLE = (0x80 | TEXT, _WHOLE_BINARY)

# The library says at INFO that a connection is closed, for each.
_logger = logging.getLogger("kyoukai.ws.frames")
_logger.setLevel(logging.WARNING)


def frame_of(opcode: int, payload: bytes) -> bytes:
    """
    Return a server's frame: a whole message, uncompressed.

    :param opcode: ``TEXT`` or ``BINARY``
    :param payload: its bytes; text in UTF-8
    """
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return bytes((0x80 | opcode, 126, size >> 8, size & 255)) + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


class MessageReader:
    """
    The frames of one socket.

    :param max_size: bytes of a message, inflated
    :param max_fragments: frames of a message
    :param extensions: those that were accepted
    """

    __slots__ = (
        "_data",
        "_decoder",
        "_fragments",
        "_max_fragments",
        "_max_size",
        "_needed",
        "_passing",
        "_pieces",
        "_position",
        "control",
        "protocol",
    )

    def __init__(self, max_size: int, max_fragments: int, extensions: list[Extension]) -> None:
        #: The library's half: it reads what is not ordinary, and writes what is to be answered.
        self.protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=max_size, logger=_logger)
        self.protocol.extensions = extensions
        #: Pings and pongs that were read, for whoever looks at them.
        self.control: list[Frame] = []
        self._max_size = max_size
        self._max_fragments = max_fragments
        # What has come and was not read; how much of it was; how much it takes to go on.
        self._data: bytes | bytearray = b""
        self._position = 0
        self._needed = 2
        # Bytes of the library's frame that are still to come.
        self._passing = 0
        # A message in fragments: how many, what they say, and for text, what decodes it.
        self._fragments = 0
        self._pieces: list[Any] = []
        self._decoder: codecs.IncrementalDecoder | None = None

    @property
    def waiting(self) -> bool:
        """Whether something has come that may be read."""
        return len(self._data) - self._position >= self._needed

    def feed(self, data: bytes) -> None:
        """Add bytes from the client."""
        if self._position == len(self._data):
            self._data = data
            self._position = 0
        else:
            rest = self._data
            if self._position or type(rest) is not bytearray:
                rest = bytearray(memoryview(rest)[self._position :])
                self._position = 0
            rest += data
            self._data = rest

    def read(self, messages: deque[str | bytes], most: int, most_bytes: int) -> int:
        """
        Read messages from what has come.

        :param messages: takes them, each whole: text as ``str``, binary as ``bytes``
        :param most: how many may be read
        :param most_bytes: after how many bytes no other is read
        :return: how many were read; fewer than ``most`` if there are not so many, or if
            ``MOST_CONTROL`` pings and pongs were read
        """
        protocol = self.protocol
        data, position = self._data, self._position
        end = len(data)
        count = 0
        while count < most and most_bytes > 0:
            if protocol.eof_sent:  # nothing that follows a Close frame or a failure counts
                position, self._passing, self._needed = end, 0, 2
                break
            left = end - position
            if not self._passing:
                if left < self._needed:
                    break
                first, second = data[position], data[position + 1]
                size = second & 0x7F
                start = position + 6
                if size == 126:
                    if left < 4:
                        self._needed = 4
                        break
                    size = data[position + 2] << 8 | data[position + 3]
                    if size < 126:
                        self._bad_length()
                        continue
                    start += 2
                elif size == 127:
                    if left < 10:
                        self._needed = 10
                        break
                    size = int.from_bytes(data[position + 2 : position + 10], "big")
                    if size < 65536:
                        self._bad_length()
                        continue
                    start += 8
                stop = start + size
                if (
                    first in _WHOLE
                    and second & 0x80
                    and size <= self._max_size
                    and not self._fragments
                ):
                    if stop > end:
                        self._needed = stop - position
                        break
                    payload = apply_mask(data[start:stop], data[start - 4 : start])
                    position = stop
                    self._needed = 2
                    if first == _WHOLE_BINARY:
                        messages.append(payload)
                    else:
                        try:
                            messages.append(payload.decode())
                        except UnicodeDecodeError as error:
                            self._bad_text(error)
                            continue
                    count += 1
                    most_bytes -= size
                    continue
                self._needed = 2
                self._passing = stop - position
                if first & 0x0F == Opcode.CLOSE:
                    # It may come within a message (section 5.4), which the library refuses.
                    protocol.current_size = None
            elif not left:
                break
            size = min(left, self._passing)
            self._passing -= size
            protocol.receive_data(data[position : position + size])
            position += size
            for frame in protocol.events_received():
                message = self._take_frame(frame)  # type: ignore[arg-type]
                if message is not None:
                    messages.append(message)
                    count += 1
                    most_bytes -= len(message)
            if len(self.control) >= MOST_CONTROL:
                break
        if position == end:
            self._data, self._position = b"", 0
        else:
            self._data, self._position = data, position
        return count

    def _take_frame(self, frame: Frame) -> str | bytes | None:
        """Take a frame that the library has read; return a message if it completes one."""
        opcode = frame.opcode
        if opcode is Opcode.PING or opcode is Opcode.PONG:
            self.control.append(frame)
            return None
        if opcode is Opcode.CLOSE:
            return None
        if opcode is not Opcode.CONT:
            self._decoder = _utf8() if opcode is Opcode.TEXT else None
        self._fragments += 1
        if self._fragments > self._max_fragments:
            self.fail(POLICY, f"a message has more than {self._max_fragments} fragments")
            return None
        try:
            if self._decoder is None:
                self._pieces.append(frame.data)
            else:  # piece by piece, so that what is wrong is found when it comes
                self._pieces.append(self._decoder.decode(frame.data, frame.fin))
        except UnicodeDecodeError as error:
            self._bad_text(error)
            return None
        if not frame.fin:
            return None
        pieces, self._pieces = self._pieces, []
        self._fragments = 0
        return b"".join(pieces) if self._decoder is None else "".join(pieces)

    def _bad_length(self) -> None:
        self.fail(PROTOCOL_ERROR, "the length of a frame is not in its shortest form")

    def _bad_text(self, error: UnicodeDecodeError) -> None:
        self.fail(BAD_TEXT, f"the text is no UTF-8: {error.reason}")

    # -- What is to be sent --------------------------------------------------------------------

    def fail(self, code: int, reason: str) -> None:
        """Give the socket up, with a Close frame (RFC 6455 section 7.1.7)."""
        if not self.protocol.eof_sent:
            self._pieces.clear()
            self.protocol.fail(code, reason)

    def frame(self, opcode: int, payload: bytes) -> bytes:
        """Return a message as a frame, as the extensions have it."""
        protocol = self.protocol
        (protocol.send_text if opcode == TEXT else protocol.send_binary)(payload)
        return b"".join(protocol.data_to_send())

    def output(self) -> tuple[bytes, bool]:
        """Return what the library wants to send, and whether that is the end."""
        pieces = self.protocol.data_to_send()
        return b"".join(pieces), bool(pieces) and not pieces[-1]


_utf8 = codecs.getincrementaldecoder("utf-8")
