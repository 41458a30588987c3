"""
Files, or parts of them, that an RSGI application lets the server send.

They are opened and read in threads, a piece at a time: the next one when the client has taken the
last.
"""

from __future__ import annotations

import asyncio
import io
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("PIECE", "FilePart", "open_part")

T = TypeVar("T")

#: Bytes read at a time.
PIECE = 131072


class FilePart:
    """
    What is to be sent of a file.

    :param file: the file, where the part begins
    :param size: how many bytes the part has
    :param whole_size: how many the file has
    """

    def __init__(self, file: io.FileIO, size: int, whole_size: int) -> None:
        self.size = size
        self.whole_size = whole_size
        self._file = file
        self._left = size
        #: The first bytes, read when it was opened.
        self.first = self._read()

    def _read(self) -> bytes:
        piece: bytes = self._file.read(min(PIECE, self._left)) if self._left else b""
        self._left -= len(piece)
        return piece

    async def read(self) -> bytes:
        """
        Return the next bytes; ``b""`` at the end, or where the file has become shorter.

        :raises OSError: if they cannot be read
        """
        return await _in_thread(self._read) if self._left else b""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


async def open_part(path: str, start: int, end: int | None) -> FilePart:
    """
    Open a file.

    :param path: its path
    :param start: where the part to send begins
    :param end: the byte after its last one, cut off at the end of the file; None for all of it
    :raises OSError: if it cannot be opened or read
    :raises ValueError: if it is no regular file, or the path is none
    """
    return await _in_thread(partial(_open, path, start, end), _close)


def _open(path: str, start: int, end: int | None) -> FilePart:
    # Without O_NONBLOCK, a pipe would keep the thread until somebody writes to it.
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        state = os.fstat(number)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is no regular file")
    except BaseException:
        os.close(number)
        raise
    file = io.FileIO(number)
    try:
        last = state.st_size if end is None else min(end, state.st_size)
        file.seek(start)
        return FilePart(file, max(last - start, 0), state.st_size)
    except BaseException:
        file.close()
        raise


def _close(part: FilePart) -> None:
    part.close()


async def _in_thread(work: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
    """
    Run something in a thread; when cancelled, wait until it has let go of the file.

    :param undo: called with what it returned, if nobody takes that
    """
    result = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        await asyncio.wait((result,))
        if not result.cancelled() and result.exception() is None and undo is not None:
            undo(result.result())
        raise
