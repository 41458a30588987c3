"""
Files that an ASGI application lets the server send: by path, or by descriptor.

They are read in threads, a piece at a time; the next is read when the client has room for it. (The
kernel's ``sendfile`` knows neither TLS, nor chunks, nor the frames of HTTP/2.)
"""

from __future__ import annotations

import asyncio
import io
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import InterfaceError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("PIECE", "Pieces", "open_descriptor", "open_path")

#: Bytes read at a time.
PIECE = 262144


class Pieces:
    """
    What is to be sent of a file.

    :param read: returns up to so many bytes, ``b""`` at the end
    :param left: how many there are; None for all up to the end
    :param kind: the type of the message, for errors
    """

    def __init__(self, read: Callable[[int], Any], left: int | None, kind: str) -> None:
        self._read = read
        self._left = left
        self._kind = kind
        self._file: io.FileIO | None = None
        #: Whether the last piece that was read is known to be the last one.
        self.done = left == 0

    async def read(self) -> bytes:
        """
        Return the next piece, ``b""`` at the end.

        :raises InterfaceError: if the file cannot be read
        """
        left = self._left
        if left == 0:
            return b""
        size = PIECE if left is None else min(PIECE, left)
        try:
            piece = await _in_thread(partial(self._read, size))
        except (OSError, ValueError) as error:
            raise InterfaceError(
                f"{self._kind}: the file cannot be read: {_text(error)}"
            ) from error
        if not isinstance(piece, bytes):
            raise InterfaceError(f"{self._kind}: the file gives {type(piece).__name__}, not bytes")
        if left is not None:
            self._left = left - len(piece)
            self.done = self._left == 0
        return piece

    def own(self, file: io.FileIO) -> Pieces:
        """Close the file, too, when ``close`` is called."""
        self._file = file
        return self

    def close(self) -> None:
        """Close what was opened here."""
        if self._file is not None:
            self._file.close()


async def open_path(path: str, kind: str) -> Pieces:
    """
    Open a file, as long as it is now.

    :param path: its path
    :param kind: the type of the message, for errors
    :raises InterfaceError: if there is no such file, or it cannot be read
    """
    try:
        file, size = await _in_thread(partial(_open, path))
    except (OSError, ValueError) as error:
        raise InterfaceError(f"{kind}: {path!r} cannot be sent: {_text(error)}") from error
    return Pieces(file.read, size, kind).own(file)


def open_descriptor(file: Any, offset: Any, count: Any, kind: str) -> Pieces:
    """
    Return what is to be sent of a file that is open; the application closes it.

    :param file: a file object with a descriptor, or the descriptor
    :param offset: where it begins; None for where the file is
    :param count: how many bytes; None for all up to the end
    :param kind: the type of the message, for errors
    :raises InterfaceError: if these are not of the right types
    """
    for name, value in (("offset", offset), ("count", count)):
        if value is not None and (type(value) is not int or value < 0):
            raise InterfaceError(f"{kind}: {name} must be an int of 0 or more, not {value!r:.80}")
    if type(file) is int:
        number = file
    else:
        try:
            number = file.fileno()
        except (AttributeError, OSError, ValueError):
            name = type(file).__name__
            raise InterfaceError(
                f"{kind}: file must have an open descriptor; {name} has none"
            ) from None
    if offset is not None:
        return Pieces(_Part(number, offset).read, count, kind)
    if isinstance(file, io.BufferedIOBase | io.RawIOBase):
        return Pieces(file.read, count, kind)  # it may have read ahead of its position
    return Pieces(partial(os.read, number), count, kind)


class _Part:
    """Reads from a place of a file, whose own position stays."""

    def __init__(self, number: int, offset: int) -> None:
        self._number = number
        self._offset = offset

    def read(self, size: int) -> bytes:
        piece = os.pread(self._number, size, self._offset)
        self._offset += len(piece)
        return piece


def _open(path: str) -> tuple[io.FileIO, int]:
    file = io.FileIO(path, opener=_opener)
    state = os.fstat(file.fileno())
    if not stat.S_ISREG(state.st_mode):
        file.close()
        raise ValueError("it is no regular file")
    return file, state.st_size


def _opener(path: str, flags: int) -> int:
    """Open at once: without O_NONBLOCK, a pipe would keep the thread until it has a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


async def _in_thread(work: Callable[[], Any]) -> Any:
    """Run something in a thread; when cancelled, wait until it has let go of the file."""
    result = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        await asyncio.wait((result,))
        if not result.cancelled():
            result.exception()
        raise


def _text(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
