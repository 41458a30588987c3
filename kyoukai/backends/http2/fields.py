"""
Header compression (RFC 7541): a faster decoder on hpack's tables, and blocks that need no table.

The decoder remembers what became of whole blocks, as clients send the same one again and again.
Answers are sent as literals with names from the static table: no state of the connection is in
them, so that one block serves every connection.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from hpack import Decoder
from hpack.exceptions import HPACKDecodingError, InvalidTableSizeError, OversizedHeaderListError
from hpack.huffman_table import (
    HUFFMAN_COMPLETE,
    HUFFMAN_EMIT_SYMBOL,
    HUFFMAN_FAIL,
    HUFFMAN_TABLE,
)
from hpack.table import HeaderTable

from kyoukai.backends.answers import ResponseHeads
from kyoukai.rules import HOP_BY_HOP, Header

__all__ = ("SIZE_UPDATE", "FieldDecoder", "ResponseBlocks", "block_of", "response_blocks")

#: A dynamic table size update to 0 (section 6.3): this encoder never uses the table.
SIZE_UPDATE = b"\x20"

#: First bytes of a literal :path that does not go into the table (section 6.2.2 and 6.2.3).
_PATH_LITERALS = (0x04, 0x14)

#: Blocks that a connection remembers, how long each may be, and how many fields it may have.
_BLOCKS = 8
_BLOCK_SIZE = 2048
_BLOCK_FIELDS = 40

_STATIC: tuple[Header, ...] = HeaderTable.STATIC_TABLE
_STATIC_LENGTH = len(_STATIC)


# -- In ----------------------------------------------------------------------------------------


class _HuffmanSteps(dict[int, tuple[int, bytes, bool]]):
    """
    hpack's state machine for Huffman codes, a byte a step instead of four bits.

    The key is the state and the byte; the value the next state, the octets that are complete,
    and whether the string may end there.
    """

    def __missing__(self, key: int) -> tuple[int, bytes, bool]:
        state, octets, flags = key >> 8, b"", 0
        for nibble in ((key >> 4) & 15, key & 15):
            state, flags, octet = HUFFMAN_TABLE[state * 16 + nibble]
            if flags & HUFFMAN_FAIL:
                raise HPACKDecodingError("a Huffman code is wrong")
            if flags & HUFFMAN_EMIT_SYMBOL:
                octets += bytes((octet,))
        step = self[key] = (state, octets, bool(flags & HUFFMAN_COMPLETE))
        return step


_huffman_steps = _HuffmanSteps()


def _decode_huffman(data: bytes) -> bytes:
    """Decode a string literal (section 5.2)."""
    state, complete = 0, True
    parts = []
    steps = _huffman_steps
    for byte in data:
        state, octets, complete = steps[state << 8 | byte]
        parts.append(octets)
    if not complete:
        raise HPACKDecodingError("a Huffman code is not complete")
    return b"".join(parts)


def _integer(data: bytes, position: int, prefix: int) -> tuple[int, int]:
    """Decode the rest of an integer that did not fit into its prefix (section 5.1)."""
    for shift in (0, 7, 14, 21):  # what is larger than this could only be meant to hurt
        byte = data[position]
        position += 1
        prefix += (byte & 127) << shift
        if byte < 128:
            return prefix, position
    raise HPACKDecodingError("an integer is too large")


def _string(data: bytes, position: int) -> tuple[bytes, int]:
    """Decode a string literal (section 5.2)."""
    first = data[position]
    position += 1
    length = first & 127
    if length == 127:
        length, position = _integer(data, position, 127)
    end = position + length
    if end > len(data):
        raise HPACKDecodingError("a string is longer than its block")
    raw = data[position:end]
    return (_decode_huffman(raw) if first & 128 else raw), end


class FieldDecoder(Decoder):
    """
    Decodes header blocks.

    :param limit: bytes that a block may come to, 32 more for each field
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        #: What the last block came to, counted the same way.
        self.size = 0
        #: What was made of whole blocks, since the table changed last.
        self.known: dict[bytes, Any] = {}
        # The same without the path, which is what differs between the requests of a client; and
        # where the path began and ended in the last block (0: there was none as a literal).
        self._known_but_path: dict[tuple[int, bytes], tuple[Any, int]] = {}
        self._path = self._path_end = 0
        self._changed = False
        self._count = 0

    def remember(self, block: bytes, made: Any) -> None:
        """Keep what was made of the block that was decoded last, unless it changed the table."""
        if self._changed or len(block) > _BLOCK_SIZE:
            return
        if self.size <= 2 * _BLOCK_SIZE and self._count <= _BLOCK_FIELDS:
            if len(self.known) >= _BLOCKS:
                self.known.pop(next(iter(self.known)))
            self.known[block] = made
            if self._path:
                if len(self._known_but_path) >= _BLOCKS:
                    self._known_but_path.pop(next(iter(self._known_but_path)))
                rest = block[: self._path] + block[self._path_end :]
                self._known_but_path[self._path, rest] = made, self.size

    def recall_but_path(self, block: bytes) -> tuple[Any, bytes, int] | None:
        """
        Look for a block that differs from a known one in nothing but its path.

        :return: what was made of that one, the path of this one, and what that one came to; None
            if there is none, or the path is malformed
        """
        start = self._path
        if not start or len(block) <= start or block[start - 1] not in _PATH_LITERALS:
            return None
        try:
            path, end = _string(block, start)
        except (HPACKDecodingError, IndexError):
            return None
        known = self._known_but_path.get((start, block[:start] + block[end:]))
        return None if known is None else (known[0], path, known[1])

    def decode(self, data: bytes, raw: bool = True) -> list[Header]:  # type: ignore[override]
        """
        Decode a block.

        :param data: the whole block
        :param raw: ignored: fields are pairs of bytes
        :raises HPACKDecodingError: if it is malformed; the connection cannot go on
        :raises OversizedHeaderListError: if it comes to more than the limit; the same
        """
        table = self.header_table
        entries = table.dynamic_entries
        headers: list[Header] = []
        size = position = updates = 0
        end = len(data)
        self._changed = False
        self._path = 0
        try:
            while position < end:
                first = data[position]
                position += 1
                if first >= 0x80:  # an indexed field (section 6.1)
                    index = first & 0x7F
                    if index == 0x7F:
                        index, position = _integer(data, position, 0x7F)
                    index -= 1
                    if index < _STATIC_LENGTH:
                        if index < 0:
                            raise HPACKDecodingError("an index is 0")
                        field = _STATIC[index]
                    else:
                        field = entries[index - _STATIC_LENGTH]
                elif 0x20 <= first < 0x40:  # a dynamic table size update (section 6.3)
                    updates += 1
                    if headers or updates > 2:
                        raise HPACKDecodingError("the table's size is updated late or too often")
                    most = first & 0x1F
                    if most == 0x1F:
                        most, position = _integer(data, position, 0x1F)
                    if most > self.max_allowed_table_size:
                        raise InvalidTableSizeError("the table's size is beyond our limit")
                    table.maxsize = most
                    self._table_changed()
                    continue
                else:  # a literal field (section 6.2), with or without indexing
                    full = 0x3F if first >= 0x40 else 0x0F
                    index = first & full
                    if index == full:
                        index, position = _integer(data, position, full)
                    if not index:
                        name, position = _string(data, position)
                    elif index <= _STATIC_LENGTH:
                        name = _STATIC[index - 1][0]
                    else:
                        name = entries[index - _STATIC_LENGTH - 1][0]
                    if first in _PATH_LITERALS:
                        self._path = position
                        value, position = _string(data, position)
                        self._path_end = position
                    else:
                        value, position = _string(data, position)
                    field = (name, value)
                    if first >= 0x40:
                        table.add(name, value)
                        self._table_changed()
                headers.append(field)
                size += len(field[0]) + len(field[1]) + 32
                if size > self.max_header_list_size:
                    raise OversizedHeaderListError("the header list is too large")
        except IndexError:
            raise HPACKDecodingError("an index is beyond the table, or the block is cut") from None
        self._assert_valid_table_size()
        self.size = size
        self._count = len(headers)
        return headers

    def _table_changed(self) -> None:
        self._changed = True
        self.known.clear()
        self._known_but_path.clear()


# -- Out ---------------------------------------------------------------------------------------


def _length(size: int) -> bytes:
    """Encode a length with a prefix of seven bits (section 5.1)."""
    if size < 127:
        return bytes((size,))
    encoded = bytearray((127,))
    size -= 127
    while size >= 128:
        encoded.append(size & 127 | 128)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)


#: What a literal without indexing starts with, for names of the static table (section 6.2.2).
_PREFIXES = {
    name: bytes((number,)) if number < 15 else bytes((15, number - 15))
    for number, (name, _) in reversed(list(enumerate(_STATIC, 1)))
}
_STATUSES = {
    int(value): bytes((0x80 | number,))
    for number, (name, value) in enumerate(_STATIC, 1)
    if name == b":status"
}


def _literal(name: bytes, value: bytes) -> bytes:
    prefix = _PREFIXES.get(name)
    if prefix is None:
        name = name.lower()
        prefix = _PREFIXES.get(name) or b"\0" + _length(len(name)) + name
    value = value.strip(b" \t")  # RFC 9113 section 8.2.1
    return prefix + _length(len(value)) + value


def _status(status: int) -> bytes:
    return _STATUSES.get(status) or b"\x08\x03%d" % status


#: Fields of a connection, which HTTP/2 has other means for (RFC 9113 section 8.2.2).
_FORBIDDEN = HOP_BY_HOP | {b"upgrade"}


def block_of(headers: Any, status: int | None = None) -> bytes:
    """Encode fields, after a status if there is one."""
    parts = [] if status is None else [_status(status)]
    parts += [_literal(name, value) for name, value in headers if name.lower() not in _FORBIDDEN]
    return b"".join(parts)


class ResponseBlocks(ResponseHeads):
    """Renders heads of answers as header blocks; see :class:`ResponseHeads` for what is cached."""

    def _status_line(self, status: int) -> bytes:
        return _status(status)

    def _field(self, name: bytes, value: bytes) -> bytes:
        return b"" if name.lower() in _FORBIDDEN else _literal(name, value)

    def _upgrade(self, value: bytes) -> bytes:
        return b""  # HTTP/2 has no such thing

    def with_length(self, prefix: bytes, size: int) -> bytes:
        """Return the whole head of an answer whose body has that many bytes."""
        return prefix + _literal(b"content-length", b"%d" % size)


@lru_cache(maxsize=16)
def response_blocks(server_header: str | None) -> ResponseBlocks:
    """Return the renderer that every server with this Server header shares."""
    return ResponseBlocks(server_header)
