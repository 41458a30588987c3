"""permessage-deflate with blocks that say they are the last (RFC 7692 section 7.2.3.4)."""

from __future__ import annotations

import zlib

import pytest
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from kyoukai.ws.deflate import Deflate

WINDOW = 1 << 12


def block(data: bytes, window: bytes = b"") -> bytes:
    """One deflate stream to its end, which may refer to what was there before."""
    compressor = zlib.compressobj(wbits=-12, zdict=window)
    return compressor.compress(data) + compressor.flush(zlib.Z_FINISH)


def text(payload: bytes, fin: bool = True) -> Frame:
    return Frame(Opcode.TEXT, payload, fin, True)


@pytest.fixture(params=[False, True], ids=["takeover", "no takeover"])
def forgets(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def deflate(forgets: bool) -> Deflate:
    return Deflate(PerMessageDeflate(forgets, False, 12, 12))


@pytest.mark.parametrize("padding", [b"", b"\x00"], ids=["bare", "padded"])
def test_every_message_of_a_client_that_ends_them_so(
    deflate: Deflate, forgets: bool, padding: bytes
) -> None:
    said = b""
    for message in (b"Hello", b"Hello Hello", b"x" * 5000, b"Hello again " * 400, b"", b"Hello"):
        window = b"" if forgets else said[-WINDOW:]
        frame = text(block(message, window) + padding)
        assert deflate.decode(frame, max_size=10000).data == message
        said += message


def test_more_blocks_after_the_last(deflate: Deflate) -> None:
    payload = block(b"abc") + block(b"abcdef", b"abc")
    assert deflate.decode(text(payload), max_size=100).data == b"abcabcdef"


def test_they_count_for_the_limit(deflate: Deflate) -> None:
    payload = block(b"abc") + block(b"y" * 100000)
    with pytest.raises(PayloadTooBig):
        deflate.decode(text(payload), max_size=1000)
    with pytest.raises(PayloadTooBig):
        deflate.decode(text(block(b"z" * 1000) + block(b"y")), max_size=1000)


def test_what_follows_must_be_blocks(deflate: Deflate) -> None:
    with pytest.raises(ProtocolError):
        deflate.decode(text(block(b"abc") + b"\xff\xff\xff"), max_size=1000)


def test_fragments(deflate: Deflate) -> None:
    first = deflate.decode(text(block(b"abc"), fin=False), max_size=100)
    rest = deflate.decode(Frame(Opcode.CONT, block(b"def", b"abc"), True), max_size=97)
    assert (first.data, rest.data) == (b"abc", b"def")


def test_ordinary_messages_after_it(deflate: Deflate, forgets: bool) -> None:
    assert deflate.decode(text(block(b"Hello")), max_size=100).data == b"Hello"
    compressor = zlib.compressobj(wbits=-12, zdict=b"" if forgets else b"Hello")
    data = compressor.compress(b"Hello Hello") + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert deflate.decode(text(data[:-4]), max_size=100).data == b"Hello Hello"
