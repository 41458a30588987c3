"""
The files of a WSGI environ (PEP 3333): ``wsgi.input``, ``wsgi.errors`` and ``wsgi.file_wrapper``.
"""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any, cast

from werkzeug.exceptions import (
    BadRequest,
    ClientDisconnected,
    HTTPException,
    RequestEntityTooLarge,
    RequestTimeout,
)

from kyoukai.exceptions import BodyError, PeerGone
from kyoukai.interfaces.wsgi_exchange import READ

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kyoukai.interfaces.wsgi_exchange import Exchange

__all__ = ("ErrorLog", "FileWrapper", "InputError", "InputLost", "open_input")

logger = logging.getLogger("kyoukai.wsgi")

#: Bytes that are read from a body that is still arriving, when the application asks for few.
_BUFFER_SIZE = 65536
#: Bytes that are read from a file at a time, at least.
_BLOCK_SIZE = 131072
#: Characters that may wait for the end of their line.
_LONGEST_LINE = 65536


# -- wsgi.input ------------------------------------------------------------------------------------


class InputError(BodyError, HTTPException, OSError):
    """
    The request's body cannot be had: ``read`` raises this.

    It is an ``OSError``, as frameworks expect of a file. Its subclasses are Werkzeug's exceptions
    of their status, which Flask answers by its pages and its error handlers for that.

    :param error: why it cannot be had
    """

    def __init__(self, error: BodyError) -> None:
        OSError.__init__(self, str(error))
        self.error = error
        self.status = error.status
        self.description = f"{error}."
        self.response = None

    def __str__(self) -> str:
        return str(self.error)


class InputMalformed(InputError, BadRequest):
    """400."""


class InputTimeout(InputError, RequestTimeout):
    """408."""


class InputTooLarge(InputError, RequestEntityTooLarge):
    """413."""


_INPUT_ERRORS: dict[int, type[InputError]] = {
    400: InputMalformed,
    408: InputTimeout,
    413: InputTooLarge,
}


class InputLost(PeerGone, ClientDisconnected):
    """The client left before the end of the request's body; Werkzeug knows what that is."""

    def __init__(self) -> None:
        PeerGone.__init__(self)
        self.description = "The client is gone."
        self.response = None

    def __str__(self) -> str:
        return "the client is gone"


def open_input(exchange: Exchange, body: bytes | None) -> io.BufferedIOBase:
    """
    Return the body of a request as a file.

    :param body: all of it, or None if there is more to come
    """
    if body is not None:
        return io.BytesIO(body)
    return io.BufferedReader(cast("io.RawIOBase", _Arriving(exchange)), _BUFFER_SIZE)


class _Arriving(io.RawIOBase):
    """The body of a request that is still arriving."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._rest = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        rest = self._rest or self._next()
        size = min(len(buffer), len(rest))
        buffer[:size] = rest[:size]
        self._rest = rest[size:]
        return size

    def readall(self) -> bytes:
        pieces = []
        rest, self._rest = self._rest or self._next(), memoryview(b"")
        while rest:
            pieces.append(rest)
            rest = self._next()
        return b"".join(pieces)

    def _next(self) -> memoryview:
        """Wait for some more; empty at the end."""
        if self._ended:
            return memoryview(b"")
        try:
            data, self._ended = self._exchange.ask(READ)
        except BodyError as error:
            raise _INPUT_ERRORS.get(error.status, InputError)(error) from error
        except PeerGone:
            raise InputLost from None
        return memoryview(data)


# -- wsgi.errors -----------------------------------------------------------------------------------


class ErrorLog:
    """
    ``wsgi.errors``: whole lines go into the log ``kyoukai.wsgi``, those of one call as one entry.
    """

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial = ""

    def write(self, text: str) -> int:
        """Write some text; the part behind the last line's end waits for the rest of its line."""
        if type(text) is not str:
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        lines, newline, rest = (self._partial + text).rpartition("\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = f"{lines}{newline}{rest}", ""
        self._partial = rest
        if lines or newline:
            logger.error("%s", lines)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Log what waits for the end of its line."""
        partial, self._partial = self._partial, ""
        if partial:
            logger.error("%s", partial)


# -- wsgi.file_wrapper -----------------------------------------------------------------------------


class FileWrapper:
    """
    ``wsgi.file_wrapper``: the pieces of a file, each large enough to be worth its way.

    :param file: anything with ``read(size)``; if it has ``close``, so has the wrapper
    :param block_size: bytes to read at a time; fewer than 128 KiB become that many
    """

    def __init__(self, file: Any, block_size: int = 8192) -> None:
        self.file = file
        self.block_size = max(block_size, _BLOCK_SIZE)
        if hasattr(file, "close"):
            self.close = file.close
        if hasattr(file, "seekable"):  # for Werkzeug, which seeks to the beginning of a range
            self.seekable = file.seekable
            self.seek = file.seek
            self.tell = file.tell

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        data: bytes = self.file.read(self.block_size)
        if data:
            return data
        raise StopIteration
