"""What the tests of frames share: reading them as the server does, and as websockets does."""

from __future__ import annotations

import codecs
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from backends.wires import CLOSE, read_frames
from websockets.frames import Opcode
from websockets.protocol import Protocol, Side, State

from kyoukai.ws.messages import MOST_CONTROL, MessageReader

#: Characters of one to four bytes.
WORDS = ("", "a", "ü", "€", "😀", "text", "\0", "\x7f")
LARGE = 2**20
ALL = 2**62


@dataclass
class Result:
    """What was made of some bytes."""

    messages: list[str | bytes] = field(default_factory=list)
    #: Pings and pongs, as they came.
    control: list[tuple[int, bytes]] = field(default_factory=list)
    #: What is to be sent: pongs, and at the end Close.
    output: list[tuple[int, bytes]] = field(default_factory=list)
    #: The code that it was closed with.
    code: int | None = None


def read(
    pieces: Iterable[bytes],
    *,
    max_size: int = LARGE,
    max_fragments: int = 1024,
    extensions: Any = (),
    limits: Callable[[], tuple[int, int]] = lambda: (ALL, ALL),
    pauses: Callable[[], bool] = lambda: False,
) -> Result:
    """Read pieces as they come; ``limits`` of each read, and ``pauses`` that leave pieces be."""
    reader = MessageReader(max_size, max_fragments, list(extensions))
    result = Result()
    output = b""

    def take() -> None:
        nonlocal output
        while True:
            messages: deque[str | bytes] = deque()
            most, most_bytes = limits()
            count = reader.read(messages, most, most_bytes)
            control, reader.control = reader.control, []
            assert count == len(messages) <= most
            result.messages += messages
            result.control += [(each.opcode, bytes(each.data)) for each in control]
            output += reader.output()[0]
            if count < most and len(control) < MOST_CONTROL and most_bytes == ALL:
                return

    for piece in pieces:
        reader.feed(piece)
        if not pauses():
            take()
    take()
    protocol = reader.protocol
    if protocol.close_sent is not None:
        result.code = int(protocol.close_sent.code)
    result.output = read_frames(output)
    return result


def read_all(*frames: bytes, **options: Any) -> Result:
    """Read frames that come at once."""
    return read([b"".join(frames)], **options)


def oracle(frames: list[bytes], max_size: int = LARGE, max_fragments: int = 1024) -> Result:
    """What websockets makes of frames; UTF-8 and the number of fragments are counted here."""
    protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=max_size)
    protocol.logger.disabled = True
    result = Result()
    parts: list[Any] = []
    decoder: Any = None
    for each in frames:
        if each[0] & 0x0F == CLOSE:
            protocol.current_size = None  # it may come within a message
        protocol.receive_data(each)
        for event in protocol.events_received():
            opcode, data = event.opcode, bytes(event.data)  # type: ignore[union-attr]
            if opcode in (Opcode.PING, Opcode.PONG):
                result.control.append((int(opcode), data))
                continue
            if opcode is Opcode.CLOSE:
                continue
            if opcode is not Opcode.CONT:
                new = codecs.getincrementaldecoder("utf-8")
                decoder = new() if opcode is Opcode.TEXT else None
            if len(parts) == max_fragments:
                protocol.fail(1008)
                break
            fin = event.fin  # type: ignore[union-attr]
            try:
                parts.append(data if decoder is None else decoder.decode(data, fin))
            except UnicodeDecodeError:
                protocol.fail(1007)
                break
            if fin:
                result.messages.append((b"" if decoder is None else "").join(parts))
                parts = []
    result.output = read_frames(b"".join(protocol.data_to_send()))
    if protocol.close_sent is not None:
        result.code = int(protocol.close_sent.code)
    return result


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    """Cut bytes at random places, often ones."""
    few = rng.choice((0, 1, 3, 10, 40))
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(few))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [piece for piece in pieces if piece]
