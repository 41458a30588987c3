"""
The hinge between the wire and the application: ``RequestHead`` and ``StreamState``.

A stream is one request and its response, whatever the protocol. The backend puts in what arrives
(``insert_data``, ``stream_complete``, ``lost``); the interface takes it out and answers. What
differs between protocols is the short list of methods in :class:`Wire`.

Each direction has a state of its own, as in RFC 9113 section 5.1: ``IDLE`` before the head,
``OPEN`` while bytes may follow, ``CLOSED`` after the end, ``RESET`` when either side gave up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from kyoukai.body import CLOSED, IDLE, OPEN, RESET, RequestBody, Side
from kyoukai.exceptions import BodyError, InvalidResponse, PeerGone, StreamStateError
from kyoukai.head import RequestHead
from kyoukai.rules import Header, bodyless, check_response_head, check_trailers
from kyoukai.wire import Payload, Tunnel, Wire

__all__ = (
    "CLOSED",
    "IDLE",
    "OPEN",
    "RESET",
    "Interface",
    "Payload",
    "RequestHead",
    "Side",
    "StreamState",
    "Tunnel",
    "Wire",
)


class StreamState(RequestBody):
    """
    One request and its response.

    :param head: the request's head
    :param protocol: the connection's protocol
    """

    # Defaults live on the class: most streams never touch most of these, and each request has one.
    sending: Side = IDLE
    #: Bytes of the response's body handed to the transport.
    bytes_sent: int = 0
    #: The response's status, 0 before its head.
    status: int = 0
    #: When the request's head was complete, by ``time.perf_counter``; 0.0 with the access log off.
    started: float = 0.0
    #: Whether the task ends when the client leaves; native streams say so, see ``lost``.
    cancel_on_disconnect: bool = True
    #: What messages call whoever answers it.
    application: str = "the application"
    #: Whether the client asks for a tunnel, and ``accept_upgrade`` can make the stream one.
    upgradable: bool = False
    #: What takes the bytes of a tunnel.
    tunnel: Tunnel | None = None
    #: What makes the response of a native stream instead of a route: a proxy's way to its servers.
    forward: Callable[[Any], Awaitable[Any]] | None = None
    #: Called when the client is gone, while no task answers.
    on_lost: Callable[[], None] | None = None
    #: Whether a client that sends no more, and has no byte of its answer, is taken to be gone.
    ends_with_input: bool = False
    #: Whether it is a raw tunnel, whose bytes are received and sent as those of bodies are.
    is_raw: bool = False

    _gone: asyncio.Future[None] | None = None
    _stopping: asyncio.Future[None] | None = None  # of a raw tunnel: done when the server stops
    #: Whether the client sends no more, on a connection in the clear: it may be gone.
    input_is_closed: bool = False
    _input_counts: bool = False
    _length_left: int | None = None
    _bodyless: bool = False

    def __init__(self, head: RequestHead, protocol: Wire) -> None:
        self.head = head
        self.protocol = protocol

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.head!r} {self.receiving.value}/{self.sending.value}>"

    # -- What the backend puts in --------------------------------------------------------------

    def lost(self) -> None:
        """
        The client is gone: wake the reader and whoever waits for this, and end the task.

        A stream whose response is complete, or that was reset, is over; its task goes on.
        """
        over = self.sending is CLOSED or self.sending is RESET
        if self.is_raw and self.receiving is OPEN:
            over = False  # only our direction is
        self._give_up()
        if self.tunnel is not None and not over:
            self.tunnel.lost()
        if self.on_lost is not None:
            self.on_lost()
        if self.cancel_on_disconnect and not over and self.task is not None:
            self.task.cancel()

    def _give_up(self) -> None:
        if self.receiving is OPEN:
            self.receiving = RESET
        if self.sending is not CLOSED:
            self.sending = RESET
        self._wake_reader()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def consumed(self, size: int) -> None:
        """That many bytes were taken, or will never be: the peer may send as many more."""
        self.protocol.acknowledge(self, size)

    def ask_for_body(self) -> None:
        """The application wants the body that the client holds back (RFC 9110 section 10.1.1)."""
        self.send_informational(100)

    # -- Tunnels -------------------------------------------------------------------------------

    def accept_upgrade(self, headers: Sequence[Header], tunnel: Tunnel | None = None) -> None:
        """
        Make the stream a tunnel: 101 on HTTP/1.1 (RFC 9110 section 7.8), 200 on HTTP/2 (RFC 8441).

        Without a :class:`Tunnel` it is a raw one. ``receive`` returns the client's bytes, and
        ``b""`` once it has closed its direction; ``send_data`` sends. ``end`` closes our direction
        alone, and both where the transport cannot do that (HTTP/1.1 over TLS): what has come
        can still be received then. When both are closed, the stream is over. ``reset`` cuts
        it. An interface that returns without having done either has its stream reset; one that
        returns while only the client's direction is open leaves what comes to be dropped.

        A raw tunnel holds up the server's stop for ``graceful_timeout``: see :meth:`stopping`.

        :param headers: headers of the answer, in their order; Upgrade and Connection are the
            wire's to send, and left out
        :param tunnel: gets the client's bytes as they come; without one, ``receive`` returns them
        :raises InvalidResponse: for an illegal header
        :raises StreamStateError: if the client has asked for no tunnel, or has its answer, or if
            the wire has no raw ones
        :raises PeerGone: if the client left
        """
        if self.sending is not IDLE:
            self._out_of_order("an upgrade")
        if not self.upgradable:
            raise StreamStateError("the client has asked for no upgrade that can be had")
        check_trailers(headers)
        before = self.receiving
        self.sending = self.receiving = OPEN
        self.tunnel = tunnel
        self.is_raw = tunnel is None
        try:
            self.protocol.accept_upgrade(self, headers)
        except StreamStateError:
            self.sending, self.receiving = IDLE, before
            self.tunnel, self.is_raw = None, False
            raise
        self.upgradable = self.continue_expected = False
        self.body_limit = None
        if tunnel is None:
            self._stopping = asyncio.get_running_loop().create_future()
            self._file = None  # of the request's body, if anyone has asked for that
        elif self._chunks:  # the client did not wait
            data, size = b"".join(self._chunks), self.buffered
            self._chunks = ()
            self.buffered = self.received = 0
            self.pass_on(data, size)

    def going_away(self) -> None:
        """For the wire: the server is stopping, which whoever has a tunnel must know."""
        if self.tunnel is not None:
            self.tunnel.going_away()
        elif self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(None)

    async def stopping(self) -> None:
        """
        Wait until the server is stopping: then a raw tunnel should come to its end.

        :raises StreamStateError: if this is no raw tunnel; others are not told
        """
        if self._stopping is None:
            raise StreamStateError("only a raw tunnel hears that the server is stopping")
        await asyncio.shield(self._stopping)

    def leave(self) -> None:
        """Drop what still comes through a raw tunnel: nobody is there to receive it."""
        if self.is_raw and self.receiving is OPEN:
            self.protocol.tunnel_end(self, False)

    def pass_on(self, data: bytes, cost: int) -> None:
        """For the wire: bytes for the tunnel have come."""
        assert self.tunnel is not None
        self.received += len(data)
        self.buffered += cost
        self.tunnel.bytes_received(data)
        if not self.tunnel.full:
            self.taken()

    def taken(self) -> None:
        """The tunnel has taken what has come."""
        size, self.buffered = self.buffered, 0
        if size:
            self.consumed(size)

    def stream_complete(self, event: object = None) -> None:
        """The request has ended, or the client's half of a tunnel."""
        super().stream_complete(event)
        if self.tunnel is not None:
            self.tunnel.end_received()

    # -- The response --------------------------------------------------------------------------

    def send_informational(self, status: int, headers: Sequence[Header] = ()) -> None:
        """
        Send an interim response, such as 103 Early Hints, ahead of the final one.

        :param status: 100 to 199, but not 101
        :raises InvalidResponse: for any other status or an illegal header
        """
        if not 100 <= status <= 199 or status == 101:
            raise InvalidResponse(f"{status} is no interim status")
        check_trailers(headers)
        if self.sending is IDLE:
            if status == 100:
                self.continue_expected = False
            self.protocol.send_informational(self, status, headers)

    def send_response(
        self, status: int, headers: Sequence[Header], body: Payload = b""
    ) -> Coroutine[Any, Any, None]:
        """
        Send a whole response, when awaited: one write, without a pause while the client keeps up.

        Date, Server and Content-Length are added. A tuple of headers is checked and rendered
        once and then remembered, so constant heads should be tuples.

        :raises InvalidResponse: if the head may not be sent; another may then be
        :raises StreamStateError: if a head has been sent
        :raises PeerGone: if the client left
        """
        if self.sending is not IDLE:
            self._out_of_order("a response")
        if type(body) is not bytes:
            body = memoryview(body).cast("B")
        return self.protocol.send_response(self, status, headers, body)

    def send_now(self, status: int, headers: Sequence[Header], body: bytes = b"") -> bool:
        """
        Send a whole response, as ``send_response`` does, if nothing has to wait for it.

        Most responses are so short that nothing has. It costs less, and nothing is awaited.

        :return: False if that is not certain; nothing is done then, and ``send_response`` is due
        :raises InvalidResponse: if the head may not be sent; another may then be
        :raises StreamStateError: if a head has been sent
        :raises PeerGone: if the client left
        """
        if self.sending is not IDLE:
            self._out_of_order("a response")
        return self.protocol.send_now(self, status, headers, body)

    def send_head(self, status: int, headers: Sequence[Header]) -> None:
        """
        Send the head of a response whose body follows; raises as ``send_response`` does.

        Without a Content-Length, the body ends where the stream ends.
        """
        if self.sending is not IDLE:
            self._out_of_order("a head")
        check_response_head(status, headers)
        length = None
        for name, value in headers:
            if name == b"content-length" or name.lower() == b"content-length":
                if not value.isdigit():
                    raise InvalidResponse(
                        f"content-length {value[:80]!r} is no number, or not the only one"
                    )
                length = int(value)
        self.sending = OPEN
        self.status = status
        self._bodyless = bodyless(self.head.method, status)
        self._length_left = None if self._bodyless else length
        try:
            self.protocol.send_head(self, status, headers, 0 if status == 205 else length)
        except InvalidResponse:
            self._take_back()
            raise

    async def send_data(self, data: Payload) -> None:
        """
        Send some of the body; waits while the client or the transport is slow.

        :raises InvalidResponse: if the body grows longer than its Content-Length
        :raises StreamStateError: before the head or after the end
        :raises PeerGone: if the client left
        """
        if self.sending is not OPEN:
            self._out_of_order("data")
        if not isinstance(data, bytes):
            data = memoryview(data).cast("B")
        size = len(data)
        if not size or self._bodyless:
            return
        if self._length_left is not None:
            if size > self._length_left:
                raise InvalidResponse("the body is longer than its Content-Length")
            self._length_left -= size
        await self.protocol.send_data(self, data)

    async def end(self, trailers: Sequence[Header] = ()) -> None:
        """
        Finish the response.

        :param trailers: header lines after the body, where the protocol has them
        :raises InvalidResponse: if the body is shorter than its Content-Length, or for an illegal
            trailer; the stream is reset then
        :raises PeerGone: if the client left
        """
        if self.sending is not OPEN:
            self._out_of_order("an end")
        try:
            if self._length_left:
                raise InvalidResponse("the body is shorter than its Content-Length")
            if trailers:
                if self.is_raw:
                    raise InvalidResponse("a tunnel has no trailers")
                check_trailers(trailers)
        except InvalidResponse:
            self.reset("the response is not whole")
            raise
        await self.protocol.end(self, trailers)

    def finished(self) -> None:
        """For the wire: the whole response has been handed over."""
        self.sending = CLOSED
        if self.receiving is OPEN:
            self.body_failed(BodyError("the answer is complete: the rest of the body is dropped"))
            self.discard()

    def reset(self, error: str = "cancelled") -> None:
        """
        Give the stream up in both directions.

        :param error: why, for the log; ``cancelled`` is CANCEL on HTTP/2, and no fault of ours
        """
        if self.sending in (CLOSED, RESET) and self.receiving is not OPEN:
            return
        self.protocol.reset(self, error)
        self._give_up()
        if self.tunnel is not None:
            self.tunnel.lost()

    def input_closed(self) -> None:
        """For the wire: the client has sent all it will send, also for later requests."""
        self.input_is_closed = True
        if self.ends_with_input and self.sending is IDLE:
            self.protocol.reset(self, "cancelled")
        if self._input_counts and self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    async def disconnected(self, or_closed_input: bool = False) -> None:
        """
        Wait until the client is gone.

        :param or_closed_input: return also when it has closed its direction of a connection in the
            clear. Nothing but writing tells whether it is gone then, so that who writes nothing
            would wait for ever; an answer can still be sent
        """
        if self.sending is RESET or self.receiving is RESET:
            return
        if or_closed_input:
            if self.input_is_closed:
                return
            self._input_counts = True
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._gone)

    def _take_back(self) -> None:
        self.sending = IDLE
        self.status = 0
        self._length_left = None

    def _out_of_order(self, what: str) -> None:
        if self.sending is RESET:
            raise PeerGone
        place = "before the head" if self.sending is IDLE else "after another head"
        if self.sending is CLOSED:
            place = "after the end"
        raise StreamStateError(f"{what} {place} of the response")


#: An application interface: takes a stream, answers it, and returns when it has.
Interface = Callable[[StreamState], Awaitable[None]]
