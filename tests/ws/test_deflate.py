"""Compressed messages (RFC 7692)."""

from __future__ import annotations

import random
import zlib
from time import process_time

import pytest
from backends.wires import BINARY, CONT, PING, TEXT, frame, text
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import Protocol, Side, State
from ws_reading import LARGE, WORDS, cut, read, read_all

from kyoukai.ws.deflate import Deflate
from kyoukai.ws.messages import MessageReader


def deflate() -> PerMessageDeflate:
    return PerMessageDeflate(False, False, 12, 12, {"memLevel": 5})


def compressing() -> Protocol:
    """A client that compresses."""
    protocol = Protocol(Side.CLIENT, state=State.OPEN)
    protocol.extensions = [deflate()]
    return protocol


@pytest.mark.parametrize("seed", range(30))
def test_random_streams_compressed(seed: int) -> None:
    rng = random.Random(seed)
    client = compressing()
    expected: list[str | bytes] = []
    for _ in range(rng.randrange(1, 15)):
        payload = "".join(rng.choices(WORDS, k=rng.choice((0, 1, 5, 300)))).encode()
        is_text = rng.random() < 0.5
        expected.append(payload.decode() if is_text else payload)
        send = client.send_text if is_text else client.send_binary
        cuts = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.choice((0, 0, 1, 3))))
        parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            (client.send_continuation if number else send)(part, last)
            if rng.random() < 0.2:
                client.send_ping(b"between")
        if rng.random() < 0.3:  # it may send one as it is
            client.writes.append(text("plain"))
            expected.append("plain")
    found = read(cut(rng, b"".join(client.data_to_send())), extensions=[deflate()])
    assert found.messages == expected
    assert found.code is None


def test_messages_are_compressed_when_that_was_agreed_on() -> None:
    reader = MessageReader(LARGE, 8, [deflate()])
    client = compressing()
    for opcode, payload in (TEXT, b"text " * 100), (BINARY, b""), (BINARY, bytes(100_000)):
        data = reader.frame(opcode, payload)
        assert len(data) < max(20, len(payload) // 8)
        client.receive_data(data)
        (event,) = client.events_received()
        assert (event.opcode, event.data) == (opcode, payload)  # type: ignore[union-attr]


@pytest.mark.parametrize("fragments", [1, 4])
def test_bombs(fragments: int) -> None:
    for size, code in ((100_000, None), (100_001, 1009), (10_000_000, 1009)):
        client = compressing()
        step = size // fragments
        for number in range(fragments - 1):
            part = bytes(step)
            client.send_continuation(part, False) if number else client.send_binary(part, False)
        rest = bytes(size - step * (fragments - 1))
        client.send_continuation(rest, True) if fragments > 1 else client.send_binary(rest)
        data = b"".join(client.data_to_send())
        found = read([data], max_size=100_000, extensions=[deflate()])
        assert found.code == code
        assert found.messages == ([] if code else [bytes(size)])


def test_what_does_not_inflate() -> None:
    for wrong in b"\xff\xff\xff\xff", b"\x06\x00":
        assert read_all(frame(BINARY, wrong, rsv=4), extensions=[deflate()]).code == 1002
    # Only the first fragment says that a message is compressed.
    begun = frame(BINARY, b"\0", fin=False)
    assert read_all(begun + frame(CONT, b"", rsv=4), extensions=[deflate()]).code == 1002
    assert read_all(frame(PING, b"", rsv=4), extensions=[deflate()]).code == 1002


def ours() -> Deflate:
    """The server's extension."""
    return Deflate(PerMessageDeflate(False, False, 12, 12, {"memLevel": 5}))


def finished(data: bytes) -> bytes:
    """Compress a message such that its last block says so (RFC 7692 section 7.2.3.4)."""
    compressor = zlib.compressobj(wbits=-12)
    return compressor.compress(data) + compressor.flush() + b"\0"


@pytest.mark.parametrize("seed", range(20))
def test_random_messages_with_last_blocks(seed: int) -> None:
    rng = random.Random(seed)
    frames: list[bytes] = []
    expected: list[str | bytes] = []
    for _ in range(20):
        payload = "".join(rng.choices(WORDS, k=rng.choice((0, 1, 5, 300)))).encode()
        expected.append(payload)
        parts = [payload[:7], payload[7:]] if rng.random() < 0.3 else [payload]
        data = b""
        for part in parts:
            data = data[:-1] + finished(part)
        if rng.random() < 0.3:
            middle = len(data) // 2
            frames.append(frame(BINARY, data[:middle], rsv=4, fin=False))
            frames.append(frame(CONT, data[middle:]))
        else:
            frames.append(frame(BINARY, data, rsv=4))
    found = read(cut(rng, b"".join(frames)), extensions=[ours()])
    assert found.code is None
    assert found.messages == expected


def test_the_limit_counts_after_a_last_block() -> None:
    for size, code in ((1000, None), (1001, 1009), (10_000_000, 1009)):
        data = finished(bytes(500))[:-1] + finished(bytes(size - 500))
        found = read_all(frame(BINARY, data, rsv=4), max_size=1000, extensions=[ours()])
        assert found.code == code
        assert found.messages == ([] if code else [bytes(1000)])


def test_many_last_blocks_cost_no_more_than_they_weigh() -> None:
    assert read_all(
        frame(BINARY, b"\x03\x00" * 20 + b"\0", rsv=4), extensions=[ours()]
    ) == read_all(frame(BINARY, b""))
    started = process_time()
    found = read_all(frame(BINARY, b"\x03\x00" * 500_000, rsv=4), extensions=[ours()])
    assert found.code == 1002
    assert process_time() - started < 5  # the square would take a minute
