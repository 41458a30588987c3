"""What TLS connections read into: one buffer for all, and the bytes each one's own."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from kyoukai.backends.tls_reader import TlsReader, replace_protocol
from kyoukai.testing import MemoryTransport


class Recorder(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.calls.append(data)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


def decrypt(reader: TlsReader, data: bytes) -> None:
    """Do what a loop does."""
    buffer = reader.get_buffer(-1)
    buffer[: len(data)] = data
    reader.buffer_updated(len(data))


def test_what_is_read_stays_what_it_was() -> None:
    one, two = Recorder(), Recorder()
    first, second = TlsReader(one), TlsReader(two)
    decrypt(first, b"abc")
    decrypt(second, b"defgh")
    decrypt(first, b"i")
    assert one.calls == [b"abc", b"i"]
    assert two.calls == [b"defgh"]


def test_everything_is_passed_on() -> None:
    protocol = Recorder()
    reader = TlsReader(protocol)
    reader.connection_made(asyncio.BaseTransport())
    reader.pause_writing()
    reader.resume_writing()
    assert reader.eof_received() is True
    reader.connection_lost(None)
    assert protocol.calls == ["made", "pause", "resume", "eof", "lost"]


async def test_another_protocol_goes_on() -> None:
    old, new = Recorder(), Recorder()
    reader = TlsReader(old)
    transport = MemoryTransport(old)
    transport.protocol = reader  # type: ignore[assignment]
    replace_protocol(transport, new)
    assert transport.get_protocol() is reader
    decrypt(reader, b"abc")
    assert (old.calls, new.calls) == ([], [b"abc"])
    plain = MemoryTransport(old)
    replace_protocol(plain, new)
    assert plain.get_protocol() is new


def test_threads_have_buffers_of_their_own() -> None:
    """Decrypting releases the interpreter's lock: another thread's loop may decrypt meanwhile."""
    here = TlsReader(Recorder())
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(lambda: TlsReader(Recorder())).result()
    assert here.get_buffer(-1) is TlsReader(Recorder()).get_buffer(-1)
    there.get_buffer(-1)[:3] = b"abc"
    here.get_buffer(-1)[:3] = b"def"
    assert bytes(there.get_buffer(-1)[:3]) == b"abc"
