"""
One request to a WSGI application, from the call to ``close()``, in one thread and one context.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from kyoukai.exceptions import InterfaceError, PeerGone
from kyoukai.interfaces.wsgi_exchange import DATA, DONE, END, FLUSH, HEAD, WHOLE, Exchange
from kyoukai.interfaces.wsgi_files import ErrorLog, FileWrapper, open_input
from kyoukai.interfaces.wsgi_head import read_head
from kyoukai.rules import bodyless
from kyoukai.stream import RESET
from kyoukai.wsgi import create_wsgi_environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai.config import ServerConfig
    from kyoukai.interfaces.wsgi_head import ResponseHead
    from kyoukai.interfaces.wsgi_pool import WsgiPool
    from kyoukai.stream import StreamState

__all__ = ("WsgiRequest",)

#: Bytes that the application may be ahead of what the client's connection has taken.
_AHEAD = 16384
#: Bytes of a body in several parts that are joined, to be sent as one.
_JOINED = 65536


class Owner(Protocol):
    """What a request asks of its interface."""

    app: Any
    config: ServerConfig

    def complain(
        self, stream: StreamState, problem: str, error: BaseException | None = None
    ) -> None:
        """Log what the application did wrong."""


class WsgiRequest(Exchange):
    """
    A request for a thread.

    :param owner: its interface
    :param pool: the threads
    :param stream: its stream
    :param body: the whole body; None if there is more to come
    """

    __slots__ = ("_ahead", "_body", "_head", "_left", "_owner", "_sent", "_whole", "_written")

    def __init__(
        self, owner: Owner, pool: WsgiPool, stream: StreamState, body: bytes | None
    ) -> None:
        super().__init__(pool, stream)
        self._owner = owner
        self._body = body
        #: What start_response was given.
        self._head: ResponseHead | None = None
        #: Whether the head is out, and whether all of the answer is.
        self._sent = False
        self._whole = False
        #: Whether some of the body came by ``write``.
        self._written = False
        #: How much of the body is missing, where Content-Length says it.
        self._left: int | None = None
        #: Bytes that were posted since the task last said that it has taken all.
        self._ahead = 0

    def run(self) -> None:
        """Run the application, in the thread."""
        error: BaseException | None = None
        try:
            if self.stream.sending is not RESET:
                self._run()
        except BaseException as raised:  # SystemExit ends neither the thread nor the server
            error = raised
        self.post(DONE, error)
        error = None  # its traceback leads to this frame

    def unheard(self, error: BaseException | None) -> None:
        """Log what the application has raised after its request was given up."""
        if error is not None and not isinstance(error, PeerGone):
            self._owner.complain(self.stream, "error after its request was given up", error)

    def _run(self) -> None:
        environ = create_wsgi_environment(self.stream)
        del environ["kyoukai.stream"]  # it is the loop's
        if environ["PATH_INFO"] == "*":
            environ["PATH_INFO"] = ""  # a path begins with a slash or is empty (RFC 3875)
        errors = ErrorLog()
        environ["wsgi.input"] = open_input(self, self._body)
        environ["wsgi.errors"] = errors
        environ["wsgi.file_wrapper"] = FileWrapper
        self._body = None
        try:
            result = self._owner.app(environ, self.start_response)
            try:
                self._send(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        finally:
            errors.flush()

    # -- What the application calls ------------------------------------------------------------

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """
        Begin the answer (PEP 3333).

        :param status: such as ``200 OK``
        :param headers: names and values
        :param exc_info: ``sys.exc_info()``, to replace the head by that of an error
        :raises InterfaceError: if they are not what PEP 3333 wants, or this is the second head;
            another one may then be
        """
        if exc_info is not None:
            try:
                if self._sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # its traceback leads to this frame
        elif self._head is not None:
            raise InterfaceError("start_response() was called twice, without exc_info")
        self._head = read_head(status, headers)
        return self.write

    def write(self, data: bytes) -> None:
        """
        Send some of the body, before what the application returns.

        :raises InterfaceError: if it is not bytes, or more than Content-Length says
        :raises PeerGone: if the client left
        """
        if self.stream.sending is RESET:
            raise PeerGone
        data = _checked(data)
        if data:
            self._written = True
            if not self._is_bodyless:
                self._put(data)

    # -- The answer ----------------------------------------------------------------------------

    @property
    def _is_bodyless(self) -> bool:
        assert self._head is not None
        return bodyless(self.stream.head.method, self._head.status)

    def _send(self, result: Any) -> None:
        """Send what the application has returned."""
        if (type(result) is list or type(result) is tuple) and not self._sent:
            self._send_sequence(result)
            return
        if isinstance(result, bytes | bytearray | memoryview | str):
            raise InterfaceError(
                f"the application returned {type(result).__name__}, not an iterable of bytes"
            )
        try:
            chunks = iter(result)
        except TypeError:
            raise InterfaceError(
                f"the application returned {type(result).__name__}, not an iterable of bytes"
            ) from None
        if self._head is not None and self._is_bodyless:
            self._send_bare()
            return
        stream = self.stream
        for chunk in chunks:
            data = chunk if type(chunk) is bytes else _checked(chunk)
            if self._head is None:
                raise InterfaceError("the body began before start_response() was called")
            if self._is_bodyless:
                break
            if data:
                try:
                    self._put(data)
                except PeerGone:
                    return
            if stream.sending is RESET:
                return
        self._end()

    def _send_sequence(self, parts: list[bytes] | tuple[bytes, ...]) -> None:
        """Send a body that is there already."""
        size = 0
        for part in parts:
            size += len(_checked(part))
        head = self._head
        if head is None:
            raise InterfaceError("the application returned without calling start_response()")
        if self._is_bodyless:
            if (
                size
                and head.length is None
                and not self._written
                and self.stream.head.method == "HEAD"
            ):
                self._head = head._replace(length=size)
            self._send_bare()
            return
        if head.length is not None and head.length != size:
            raise InterfaceError(
                f"the body has {size} bytes, its Content-Length says {head.length}"
            )
        if len(parts) == 1 or size <= _JOINED:
            self._sent = self._whole = True
            self.post(WHOLE, head.status, head.headers, b"".join(parts))
            return
        self._head = head._replace(length=size)
        for part in parts:
            if part:
                try:
                    self._put(part)
                except PeerGone:
                    return
        self._end()

    def _put(self, data: bytes) -> None:
        """Send some of the body; waits while the client is slow."""
        trouble = self.failure and self.trouble()
        if trouble is not None:
            raise trouble
        size = len(data)
        if not self._sent:
            head = self._head
            assert head is not None
            if head.length == size:
                self._sent = self._whole = True
                self._left = 0
                self.post(WHOLE, head.status, head.headers, data)
                return
            if head.length is not None and size > head.length:
                self._too_long()
            self._sent = True
            self._left = head.length
            self._notes.append((HEAD, head.status, head.all_headers))
        if self._left is not None:
            if size > self._left:
                self._too_long()
            self._left -= size
        self._ahead += size
        if self._ahead < min(_AHEAD, self._owner.config.write_buffer_size):
            self.post(DATA, data)
            return
        self._notes.append((DATA, data))
        self._ahead = 0
        self.ask(FLUSH)

    def _too_long(self) -> None:
        raise InterfaceError("the body is longer than its Content-Length")

    def _end(self) -> None:
        head = self._head
        if head is None:
            raise InterfaceError("the application returned without calling start_response()")
        if self._whole:
            return
        if self._is_bodyless:
            self._send_bare()
        elif not self._sent:
            self._send_sequence(())
        elif self._left:
            raise InterfaceError(f"the body is {self._left} bytes shorter than its Content-Length")
        else:
            self.post(END)

    def _send_bare(self) -> None:
        """Send the head alone: there is no body (RFC 9110 section 6.4.1)."""
        head = self._head
        assert head is not None
        self._sent = self._whole = True
        if head.length is None and self.stream.head.method == "HEAD":
            # What GET would say is not known, and an empty body's length would be a lie.
            self._notes.append((HEAD, head.status, head.headers))
            self.post(END)
        else:
            self.post(WHOLE, head.status, head.all_headers, b"")


def _checked(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise InterfaceError(f"the body must come in bytes, not {type(data).__name__}")
    return data
