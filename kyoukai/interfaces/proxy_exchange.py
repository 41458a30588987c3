"""
``Exchange``: a client's request at an upstream server.

The request's body is passed on while it arrives, by a task of its own unless it is short and there
already, as servers may answer before its end. What the client or the server cannot take yet waits
in one bounded buffer for each direction.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from kyoukai.exceptions import (
    BodyError,
    BodyMalformed,
    InvalidResponse,
    PeerGone,
    ProtocolError,
    UpstreamError,
    UpstreamTimeout,
)
from kyoukai.interfaces.proxy_heads import body_length, check_path, rewrite_location
from kyoukai.interfaces.proxy_tunnel import Handshake, run_tunnel
from kyoukai.outcome import request_line
from kyoukai.rules import bodyless
from kyoukai.stream import CLOSED
from kyoukai.upstream_head import passed_trailers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from kyoukai.interfaces.proxy import ProxyInterface
    from kyoukai.rules import Header
    from kyoukai.stream import Interface, StreamState
    from kyoukai.upstream import Upstream
    from kyoukai.upstream_connection import UpstreamConnection
    from kyoukai.upstream_head import ResponseHead

__all__ = ("Exchange",)

logger = logging.getLogger("kyoukai.proxy")

#: Methods that may be sent again (RFC 9110 section 9.2.2).
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
#: Seconds that a client which has asked for 100 Continue waits for the server to say it.
_CONTINUE_WAIT = 1.0


class _Message(NamedTuple):
    """
    What comes with the head of a request.

    :param lines: header lines that are about the connection to the server
    :param length: how many bytes of body follow; None for a chunked one
    :param has_body: whether a body follows, which may be empty
    """

    lines: bytes = b""
    length: int | None = 0
    has_body: bool = False


class Exchange:
    """
    One request at a server.

    The interface makes it and has it ``begin``, or has it ``start`` without a task. What cannot be
    answered at once then goes back to the interface's ``pass_on``, in a task.

    :param interface: the interface that it is for
    :param stream: the client's request
    """

    # Defaults live on the class: most exchanges never touch these, and each request has one.
    #: Who has it: there once there is a connection.
    _upstream: Upstream
    _connection: UpstreamConnection | None = None
    _handshake: Handshake | None = None
    _pump: asyncio.Task[None] | None = None
    #: Set when a body that the client holds back may be asked for.
    _go: asyncio.Event | None = None
    _body_sent: bool = False
    #: Starts a task for the rest, if it was started without one.
    _in_task: Callable[[StreamState, Interface], None] | None = None

    def __init__(self, interface: ProxyInterface, stream: StreamState) -> None:
        self._interface = interface
        self._settings = interface.proxy
        self._stream = stream

    # -- The request ---------------------------------------------------------------------------

    async def begin(self) -> ResponseHead:
        """
        Send the request, and wait for the head of the answer.

        :raises UpstreamError: if no server can be reached, or it does not answer in HTTP
        :raises BodyError: if the rest of the request's body cannot be had
        :raises ProtocolError: 400, if its path or its head may not be passed on
        :raises StreamStateError: if some of its body was read, and not kept
        :raises PeerGone: if the client left
        """
        method = self._stream.head.method
        check_path(self._stream.head.path)
        self._mind_the_client()
        message = self._prepare()
        # An extended CONNECT is a GET for the server.
        is_idempotent = method in _IDEMPOTENT or method == "CONNECT"
        retries = self._settings.retries if is_idempotent else 0
        repeatable = retries > 0 and not message.has_body  # of which some will have been sent
        anew = False
        while True:
            connection = self._connection  # the request may have been sent, see start
            if connection is None:
                connection = await self._send(message, repeatable, anew)
            try:
                return self._checked(await connection.final_head(), connection)
            except UpstreamError as error:
                is_late = isinstance(error, UpstreamTimeout)
                if connection.head is None and (
                    is_late or connection.answered or connection.is_new
                ):
                    self._upstream.failed()
                once = connection.answered or self._body_sent or is_late
                if once or not retries:
                    self._complain(error)
                    raise
            retries -= 1
            anew = True
            self.close()

    def _prepare(self) -> _Message:
        """Look at what comes with the request's head, for the first connection and any other."""
        stream = self._stream
        if stream.upgradable:
            self._handshake = Handshake(stream)
            return _Message(self._handshake.lines)
        if stream.receiving is CLOSED and not stream.received:
            return _Message()
        length = body_length(stream)  # once: the rest may come at any time
        stream.rewind()
        if stream.continue_expected and stream.head.get(b"expect") is not None:
            self._go = asyncio.Event()
            return _Message(b"expect: 100-continue\r\n", length, True)
        return _Message(b"", length, True)

    async def _send(self, message: _Message, repeatable: bool, anew: bool) -> UpstreamConnection:
        """
        Send the request, with all of its body or a task that sends it.

        :param message: what comes with its head
        :param repeatable: whether it may be sent again
        :param anew: whether it is sent again: on a new connection
        :return: the connection that it is sent on
        """
        stream = self._stream
        connection = None if anew else self._take_idle(repeatable)
        if connection is None:
            connection = await self._connect(repeatable, anew)
        try:
            data = self._interface.writer.write(
                stream, self._upstream.address, message.lines, message.length
            )
        except UpstreamError as error:
            self._complain(error)
            raise
        connection.on_interim = self._interim
        connection.begin(stream.head.method, data, not message.has_body)
        if message.has_body:
            if stream.receiving is CLOSED and stream.received <= self._settings.buffer_size:
                await self._send_body(message.length, in_one_go=True)
            else:
                self._pump = asyncio.create_task(self._send_body(message.length))
        return connection

    def _checked(self, head: ResponseHead, connection: UpstreamConnection) -> ResponseHead:
        """Return the head of an answer, unless it is none to this request."""
        if self._upstream.failures:
            self._upstream.answered()
        if self._handshake is not None:
            self._handshake.check(head)
        elif head.status == 101:
            connection.abort()
            raise UpstreamError("it switches protocols, and nobody has asked for that")
        return head

    def start(self, in_task: Callable[[StreamState, Interface], None]) -> bool:
        """
        Send an ordinary request, without a task: its answer is mostly there at once.

        :param in_task: starts a task, for what turns out not to be ordinary
        :return: False if that cannot be; nothing is done then
        """
        stream = self._stream
        head = stream.head
        if head.method != "GET" or stream.receiving is not CLOSED or stream.received:
            return False
        if "." in head.path or stream.upgradable or stream.input_is_closed:
            return False  # as it may have to be refused, or its client be gone
        connection = self._take_idle(self._settings.retries > 0)
        if connection is None:
            return False
        try:
            data = self._interface.writer.write(stream, self._upstream.address)
        except (ProtocolError, UpstreamError):  # the task says so
            self.close()
            return False
        self._in_task = in_task
        stream.ends_with_input = not self._settings.half_closed
        stream.on_lost = self.close
        connection.on_interim = self._interim
        connection.begin("GET", data, True, self._answer_started)
        return True

    def _answer_started(self) -> None:
        """The head of the answer has come, or an error: send it at once, or by a task."""
        stream, connection, in_task = self._stream, self._connection, self._in_task
        stream.on_lost = None
        if connection is None or in_task is None:
            return  # the client is gone
        head = connection.head
        body = None if head is None else self.whole_body("GET", head.status)
        if head is None or body is None:
            in_task(stream, partial(self._interface.pass_on, exchange=self))
            return
        headers = self.headers_of(head) if head.has_location else head.headers
        if self._upstream.failures:
            self._upstream.answered()
        try:
            if stream.send_now(head.status, headers, body):
                return
        except PeerGone:
            return
        except InvalidResponse:
            pass  # the task says so
        in_task(stream, partial(_send_whole, head.status, headers, body))

    def _mind_the_client(self) -> None:
        """
        Take a client that sends no more for one that is gone, unless a setting says otherwise.

        :raises PeerGone: if that is so already, because the request's turn came late
        """
        stream = self._stream
        stream.ends_with_input = not self._settings.half_closed
        if stream.ends_with_input and stream.input_is_closed:
            stream.reset()
            raise PeerGone

    def _take_idle(self, repeatable: bool) -> UpstreamConnection | None:
        """Return an idle connection to the only server, if there is one: as nearly always."""
        upstream = self._interface.upstreams.only
        connection = None if upstream is None else upstream.take(not repeatable)
        if upstream is not None and connection is not None:
            upstream.active += 1
            self._upstream = upstream
            self._connection = connection
        return connection

    async def _connect(self, repeatable: bool, anew: bool) -> UpstreamConnection:
        """
        Find a server and a connection to it.

        :param repeatable: whether the request may be sent again if the connection turns out to be
            closed
        :param anew: whether idle connections do not do
        """
        failure: UpstreamError | None = None
        for upstream in self._interface.upstreams.in_order():
            connection = None if anew else upstream.take(not repeatable)
            if connection is None:
                try:
                    connection = await upstream.connect(anew)
                except UpstreamError as error:
                    logger.debug(
                        "%s: upstream %s: %s", request_line(self._stream), upstream.address, error
                    )
                    failure = error  # nothing was sent: another one may do
                    continue
            upstream.active += 1
            self._upstream = upstream
            self._connection = connection
            return connection
        assert failure is not None
        raise failure

    async def _send_body(self, length: int | None, in_one_go: bool = False) -> None:
        """
        Pass the request's body on.

        :param length: what the server was told of its length; None if it is chunked
        :param in_one_go: whether it is there and so short that the server need not keep up with it
        """
        stream, connection = self._stream, self._connection
        assert connection is not None
        left = length
        try:
            if self._go is not None and stream.continue_expected:
                await self._wait_to_go()
            while True:
                connection.expect_nothing()
                data = await stream.receive()
                if not data:
                    break
                if left is not None:
                    left -= len(data)
                    if left < 0:  # the server would take the rest for another request
                        raise BodyMalformed("the body is longer than its Content-Length")
                self._body_sent = True
                connection.write(b"%x\r\n%b\r\n" % (len(data), data) if left is None else data)
                if connection.write_paused and not in_one_go:
                    await connection.drain()
            if left:
                raise BodyMalformed("the body is shorter than its Content-Length")
            if left is None:
                lines = [b"%b: %b\r\n" % pair for pair in passed_trailers(stream.trailers)]
                connection.write(b"0\r\n%b\r\n" % b"".join(lines))
            connection.complete_request()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # whoever waits for the answer is told
            connection.fail(error)

    async def _wait_to_go(self) -> None:
        """Wait until the server asks for the body, or is known not to do so."""
        assert self._go is not None
        try:
            async with asyncio.timeout(_CONTINUE_WAIT):
                await self._go.wait()
        except TimeoutError:
            if self._connection is not None and self._connection.head is not None:
                await self._go.wait()  # the answer is on its way, perhaps without the body

    def _interim(self, head: ResponseHead) -> None:
        """Pass an interim answer on."""
        stream = self._stream
        try:
            if head.status != 100:
                stream.send_informational(head.status, head.headers)
            elif self._go is not None:
                if stream.continue_expected:
                    stream.ask_for_body()
                self._go.set()
        except PeerGone:
            pass

    # -- The answer ----------------------------------------------------------------------------

    def headers_of(self, head: ResponseHead) -> tuple[Header, ...]:
        """
        Return the headers for the client.

        :param head: the head of the server's answer
        """
        if self._handshake is not None and head.status == 101:
            return self._handshake.answer(head)
        if head.has_location:
            address = self._upstream.address
            public = self._stream.head.authority
            prefix = self._interface.public_prefix(self._stream)
            own = self._interface.writer.own_authorities(address)
            return rewrite_location(head.headers, address, prefix, public, own)
        return head.headers

    @property
    def trailers(self) -> Sequence[Header]:
        """Header lines after the body, complete at its end."""
        return () if self._connection is None else self._connection.trailers

    def whole_body(self, method: str, status: int) -> bytes | None:
        """
        Return the body, if all of the answer is there, to be sent with its head.

        The connection is given back: the next request need not wait until this client has its
        answer.

        :param method: the request's method
        :param status: the answer's status
        :return: None if more is to come, there are trailers, or nothing may be sent
        """
        connection = self._connection
        if (
            connection is None
            or not connection.complete
            or connection.trailers
            or bodyless(method, status)
        ):
            return None
        body = connection.take()
        self.close()
        return body

    async def receive(self) -> bytes:
        """
        Return the next bytes of the body; ``b""`` at its end.

        :raises UpstreamError: if the rest does not come
        """
        connection = self._connection
        if connection is None:
            dropped = UpstreamError("its answer was dropped: the response was closed")
            self._complain(dropped)
            raise dropped
        if self._go is not None:
            self._go.set()  # it may go on only with the rest of the request
        try:
            return await connection.receive()
        except UpstreamError as error:
            self._complain(error)
            raise
        except BodyError as error:  # the client's fault, who gets no more of this answer
            raise UpstreamError(f"the request was given up: {error}") from error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.receive():
            yield data

    async def converse(
        self, headers: list[Header], timeout: float | None, buffer: int | None
    ) -> None:
        """
        Accept the client's upgrade, as the server has, and pass bytes on in both directions.

        :param headers: headers of the answer
        :param timeout: seconds without a byte after which both sides are closed, 0 for no limit;
            None for the proxy's setting
        :param buffer: bytes that may wait in each direction; None for the proxy's setting
        """
        connection = self._connection
        assert connection is not None
        if timeout is None:
            timeout = self._settings.protocol_receive_timeout
        if buffer is None:
            buffer = self._settings.protocol_receive_buffer
        await run_tunnel(self._stream, connection, headers, timeout, buffer)

    # -- The end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Give the connection back, or close it if either message is not complete."""
        pump, self._pump = self._pump, None
        if pump is not None:
            pump.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            self._upstream.active -= 1
            self._upstream.release(connection)

    def _complain(self, error: UpstreamError) -> None:
        where = self._upstream.address
        logger.warning("%s: upstream %s: %s", request_line(self._stream), where, error)


async def _send_whole(
    status: int, headers: tuple[Header, ...], body: bytes, stream: StreamState
) -> None:
    await stream.send_response(status, headers, body)
