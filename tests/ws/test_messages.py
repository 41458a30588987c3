"""Frames to messages: held to websockets' own protocol, at every border, and cut everywhere."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from time import process_time

import pytest
from backends.wires import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
    text,
)
from ws_reading import ALL, LARGE, WORDS, cut, oracle, read, read_all

from kyoukai.ws.messages import MOST_CONTROL, MessageReader, frame_of

# -- Random streams ----------------------------------------------------------------------------

SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 20, 124, 125, 126, 127, 300)


def random_frames(rng: random.Random) -> list[bytes]:
    """Frames of a client that keeps most of the rules."""
    frames: list[bytes] = []

    def mask() -> bytes:
        return rng.choice((bytes(4), rng.randbytes(4)))

    def control() -> None:
        size = rng.choice((0, 1, 8, 125))
        frames.append(frame(rng.choice((PING, PONG)), rng.randbytes(size), mask=mask()))

    def message() -> None:
        if rng.random() < 0.5:
            data = "".join(rng.choices(WORDS, k=rng.randrange(40))).encode()
            opcode = TEXT
        else:
            data = rng.randbytes(rng.choice(SIZES))
            opcode = BINARY
        if rng.random() < 0.03:
            data += b"\xff"
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 0, 1, 2, 6))))
        parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        for number, part in enumerate(parts):
            code = CONT if number else opcode
            frames.append(frame(code, part, fin=number == len(parts) - 1, mask=mask()))
            if rng.random() < 0.1:
                control()

    def wrong() -> None:
        kind = rng.randrange(8)
        if kind == 0:
            frames.append(frame(rng.choice((3, 4, 7, 11, 15)), b"x"))
        elif kind == 1:
            frames.append(frame(rng.choice((TEXT, BINARY, PING)), b"x", rsv=rng.randrange(1, 8)))
        elif kind == 2:
            frames.append(frame(rng.choice((TEXT, BINARY, CONT, CLOSE)), b"abcd", mask=None))
        elif kind == 3:
            frames.append(frame(CONT, b"x", fin=rng.random() < 0.5))
        elif kind == 4:
            frames.append(frame(rng.choice((PING, PONG, CLOSE)), b"", fin=False))
        elif kind == 5:
            frames.append(frame(rng.choice((PING, PONG, CLOSE)), bytes(126)))
        elif kind == 6:
            frames.append(frame(rng.choice((TEXT, BINARY)), bytes(2001)))
        else:
            frames.append(frame(TEXT, b"begun", fin=False))

    for _ in range(rng.randrange(1, 12)):
        chance = rng.random()
        if chance < 0.7:
            message()
        elif chance < 0.85:
            control()
        elif chance < 0.92:
            wrong()
        elif chance < 0.96:
            code = rng.choice((None, 1000, 1001, 1005, 1006, 1015, 999, 1016, 2999, 3000, 4999))
            reason = rng.choice((b"", b"bye", b"\xff", "😀".encode()))
            frames.append(close_frame(code, reason if code else b""))
        else:
            frames.append(frame(CLOSE, b"\x03"))
    return frames


@pytest.mark.parametrize("batch", range(5))
def test_random_streams_are_read_as_websockets_reads_them(batch: int) -> None:
    for seed in range(600 * batch, 600 * (batch + 1)):
        rng = random.Random(seed)
        frames = random_frames(rng)
        most = rng.choice((1, 2, 3, ALL))
        most_bytes = rng.choice((1, 10, 500, ALL))
        slow = rng.choice((0, 0, 0.5, 0.9))
        # A read that ends for its bytes may have left messages: those are read without a limit.
        turns = iter(range(ALL))
        found = read(
            cut(rng, b"".join(frames)),
            max_size=2000,
            max_fragments=5,
            limits=lambda: (most, (most_bytes, ALL)[next(turns) % 2]),  # noqa: B023
            pauses=lambda: rng.random() < slow,  # noqa: B023
        )
        expected = oracle(frames, 2000, 5)
        assert found.messages == expected.messages, seed
        assert found.control == expected.control, seed
        assert found.code == expected.code, seed
        if found.code not in (1007, 1008):  # whose reasons are our own
            assert found.output == expected.output, seed
        else:
            assert found.output[:-1] == expected.output[:-1], seed


@pytest.mark.parametrize("seed", range(40))
def test_random_noise_ends_as_with_websockets(seed: int) -> None:
    rng = random.Random(seed)
    noise = rng.randbytes(200)
    found = read(cut(rng, noise))
    expected = oracle([noise])
    assert (found.messages, found.code) == (expected.messages, expected.code)


# -- Borders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 65537, LARGE])
def test_lengths(size: int, opcode: int) -> None:
    payload = (b"0123456789" * (size // 10 + 1))[:size]
    expected = payload.decode() if opcode == TEXT else payload
    data = frame(opcode, payload) + text("after")
    assert read([data]).messages == [expected, "after"]
    head = 14 if size > 65535 else 8
    for place in range(1, head + 2):
        assert read([data[:place], data[place:]]).messages == [expected, "after"], place
    assert read([data[:-12], data[-12:]]).messages == [expected, "after"]
    assert frame_of(opcode, payload) == frame(opcode, payload, mask=None)


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_that_is_too_large(opcode: int, fin: bool) -> None:
    for size, code in ((1000, None), (1001, 1009)):
        found = read_all(frame(opcode, bytes(size), fin=fin), max_size=1000)
        assert found.code == code
        assert len(found.messages) == (code is None and fin)


@pytest.mark.parametrize("size", [65537, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_length_alone_is_too_large(size: int) -> None:
    head = frame(BINARY, size=size, form=8)
    assert read_all(head, max_size=65536).code == 1009
    assert read([head[i : i + 1] for i in range(len(head))], max_size=65536).code == 1009


def test_fragments_together_are_too_large() -> None:
    part = frame(CONT, bytes(400), fin=False)
    for last, code in ((200, None), (201, 1009)):
        found = read_all(
            frame(BINARY, bytes(400), fin=False), part, frame(CONT, bytes(last)), max_size=1000
        )
        assert found.code == code
        assert found.messages == ([] if code else [bytes(1000)])


def test_the_number_of_fragments() -> None:
    for number, code in ((8, None), (9, 1008)):
        parts = [frame(CONT, fin=False)] * (number - 2)
        one = b"".join([text("a", fin=False), *parts, frame(CONT, b"z")])
        found = read_all(one, text("next"), one, max_fragments=8)
        assert found.code == code
        assert found.messages == ([] if code else ["az", "next", "az"])


def test_every_cut_of_every_kind() -> None:
    frames = [
        text("whole ü"),
        frame(BINARY, b"\xff" * 130),
        text("in ", fin=False),
        frame(PING, b"p"),
        frame(CONT, "pieces €".encode()[:-1], fin=False),
        frame(PONG, b""),
        frame(CONT, "€".encode()[-1:]),
        frame(BINARY, b""),
        close_frame(3001, "enough"),
    ]
    data = b"".join(frames)
    expected = read([data])
    assert expected.messages == ["whole ü", b"\xff" * 130, "in pieces €", b""]
    assert expected.output == [(PONG, b"p"), (CLOSE, b"\x0b\xb9enough")]
    for place in range(1, len(data)):
        assert read([data[:place], data[place:]]) == expected, place
    assert read([data[i : i + 1] for i in range(len(data))]) == expected


# -- What is wrong -----------------------------------------------------------------------------


WRONG: dict[str, tuple[bytes, int]] = {
    "short form of 2": (text("hello", form=2), 1002),
    "border of 2": (frame(BINARY, bytes(125), form=2), 1002),
    "short form of 8": (text("hello", form=8), 1002),
    "border of 8": (frame(BINARY, bytes(65535), form=8), 1002),
    "short form of a fragment": (text("hello", form=2, fin=False), 1002),
    "short form of a ping": (frame(PING, b"hello", form=2), 1002),
    "not masked": (text("hello", mask=None), 1002),
    "not masked, empty": (frame(BINARY, mask=None), 1002),
    "a ping not masked": (frame(PING, mask=None), 1002),
    "reserved bit 1": (text("hello", rsv=4), 1002),
    "reserved bit 2": (text("hello", rsv=2), 1002),
    "reserved bit 3": (frame(BINARY, b"", rsv=1), 1002),
    "reserved bit of a ping": (frame(PING, b"", rsv=4), 1002),
    "opcode 3": (frame(3, b"x"), 1002),
    "opcode 11": (frame(11, b""), 1002),
    "nothing to continue": (frame(CONT, b"x"), 1002),
    "a message within one": (text("a", fin=False) + text("b"), 1002),
    "a binary one within text": (text("a", fin=False) + frame(BINARY, b"b"), 1002),
    "a long ping": (frame(PING, bytes(126)), 1002),
    "a ping in fragments": (frame(PING, b"", fin=False), 1002),
    "a Close frame in fragments": (close_frame(fin=False), 1002),
    "a Close frame of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a long reason": (close_frame(1000, bytes(124)), 1002),
    "a reason that is no UTF-8": (close_frame(1000, b"\xff"), 1007),
    "no UTF-8": (frame(TEXT, b"\xff"), 1007),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "beyond Unicode": (frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "overlong": (frame(TEXT, b"\xc0\x80"), 1007),
    "a character cut": (frame(TEXT, "€".encode()[:2]), 1007),
    "no UTF-8 in a fragment": (frame(TEXT, b"ok \xff", fin=False), 1007),
    "a character cut at the end": (text("a", fin=False) + frame(CONT, "€".encode()[:2]), 1007),
}


@pytest.mark.parametrize(("wrong", "code"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_ends_it(wrong: bytes, code: int) -> None:
    before, after = text("before"), text("dropped") + frame(PING) + close_frame(1000)
    for pieces in (
        [before + wrong + after],
        [before, wrong, after],
        [bytes([byte]) for byte in before + wrong + after],
    ):
        found = read(pieces)
        assert found.messages == ["before"]
        assert found.control == []
        assert found.code == code
        ((opcode, payload),) = found.output
        assert (opcode, int.from_bytes(payload[:2])) == (CLOSE, code)
        assert 2 < len(payload) <= 125


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_close_codes_that_clients_may_send(code: int) -> None:
    found = read_all(close_frame(code, "why"), text("dropped"))
    assert found.output == [(CLOSE, code.to_bytes(2) + b"why")]
    assert found.messages == []


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535])
def test_close_codes_that_they_may_not(code: int) -> None:
    assert read_all(close_frame(code)).code == 1002


def test_a_close_frame_within_a_message() -> None:
    found = read_all(text("begun", fin=False), close_frame(1001), frame(CONT, b"dropped"))
    assert (found.messages, found.output) == ([], [(CLOSE, b"\x03\xe9")])


def test_pings_are_answered_in_their_order() -> None:
    payloads = [b"", b"a", bytes(125), b"\xff"]
    found = read_all(*(frame(PING, payload) for payload in payloads), frame(PONG, b"not asked"))
    assert found.output == [(PONG, payload) for payload in payloads]
    assert found.control[-1] == (PONG, b"not asked")


def test_much_control_is_read_piece_by_piece() -> None:
    reader = MessageReader(LARGE, 8, [])
    reader.feed(frame(PING) * 1000 + text("last"))
    messages: deque[str | bytes] = deque()
    assert reader.read(messages, ALL, ALL) == 0
    assert len(reader.control) == MOST_CONTROL  # who counts them may have had enough
    reader.fail(1008, "too many")
    assert reader.read(messages, ALL, ALL) == 0
    assert len(reader.output()[0]) == 2 * MOST_CONTROL + 4 + len("too many")
    assert not messages


def test_limits_of_a_read() -> None:
    reader = MessageReader(LARGE, 8, [])
    reader.feed(b"".join(frame(BINARY, bytes(10)) for _ in range(10)))
    messages: deque[str | bytes] = deque()
    assert reader.read(messages, 3, ALL) == 3
    assert reader.read(messages, ALL, 25) == 3  # the third is the one that passes the limit
    assert reader.read(messages, ALL, 20) == 2
    assert reader.read(messages, 0, ALL) == reader.read(messages, ALL, 0) == 0
    assert reader.read(messages, ALL, ALL) == 2
    assert len(messages) == 10


@pytest.mark.parametrize("end", [close_frame(), frame(3)])
def test_after_the_end_nothing_is_kept(end: bytes) -> None:
    reader = MessageReader(LARGE, 8, [])
    for _ in range(3):
        reader.feed(end + text("dropped") + b"\x81")
        assert reader.read(deque(), ALL, ALL) == 0
        assert not reader.waiting
        assert len(reader._data) == 0


# -- What it costs -----------------------------------------------------------------------------

SHAPES: dict[str, Callable[[int], bytes]] = {
    "whole": lambda size: frame(BINARY, bytes(size), mask=bytes(4)),
    "first fragment": lambda size: frame(TEXT, bytes(size), mask=bytes(4), fin=False),
    "many": lambda size: frame(BINARY, bytes(100)) * (size // 100),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_tiny_pieces_cost_what_they_weigh(shape: Callable[[int], bytes]) -> None:
    def cost(size: int) -> float:
        data = shape(size)
        pieces = [data[start : start + 64] for start in range(0, len(data), 64)]
        best = 1e9
        for _ in range(3):
            reader = MessageReader(LARGE, 8, [])
            messages: deque[str | bytes] = deque()
            started = process_time()
            for piece in pieces:
                reader.feed(piece)
                reader.read(messages, ALL, ALL)
            best = min(best, process_time() - started)
        return best

    # Sixteen times the bytes: the square of that would be 256.
    assert cost(LARGE) < 64 * cost(LARGE // 16)
