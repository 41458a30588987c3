"""
What every wire shares: the registry of connections, tasks, deadlines, backpressure, shutdown.

A backend subclasses :class:`BaseProtocol`, turns bytes into streams and starts each with
``start_stream``. Everything that is not about one protocol's bytes happens here, once.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from abc import ABC, abstractmethod
from contextvars import copy_context
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from kyoukai.backends.answers import refusal
from kyoukai.backends.connections import Component
from kyoukai.backends.tls_reader import replace_protocol
from kyoukai.exceptions import PeerGone
from kyoukai.outcome import settle
from kyoukai.rules import apply_forwarded
from kyoukai.stream import CLOSED, Interface, StreamState

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from contextvars import Context

    from asphalt.core import Context as AsphaltContext

    from kyoukai.rules import Header
    from kyoukai.stream import RequestHead

__all__ = ("NEVER", "PART", "TURN", "BaseProtocol")

#: ``struct linger``: closing drops what is unsent, and resets.
_NO_LINGER = struct.pack("ii", 1, 0)

#: Bytes that answers in parts send before the loop gets a turn, and what each part counts beside
#: its own.
TURN = 1048576
PART = 1024

#: A deadline that does not come.
NEVER = float("inf")

#: Seconds that an idle connection keeps at shutdown for a request that is already on its way.
_LAST_CALL = 0.25


class BaseProtocol(asyncio.Protocol, ABC):
    """
    One connection, whatever it speaks.

    :param component: what it serves, see :class:`Component`
    :param parent_context: the Asphalt context that requests are children of; for protocols made
        by hand, as the interface of a component knows its own
    """

    #: Whether an upgraded stream can be a raw tunnel.
    has_raw_tunnels = True

    # Slots, because a connection has more attributes than Python keeps fast in a dict.
    __slots__ = (
        "__weakref__",
        "_context",
        "_logs_access",
        "_make_task",
        "_read_deadline",
        "_start_at_once",
        "_timer",
        "_timer_at",
        "_unsent",
        "_write_deadline",
        "_write_waiters",
        "client",
        "closing",
        "component",
        "config",
        "connections",
        "interface",
        "is_lost",
        "loop",
        "parent_context",
        "peer_forwards",
        "reading_paused",
        "scheme",
        "server",
        "tls",
        "transport",
        "turn_left",
        "write_limit",
        "write_paused",
    )

    def __init__(self, component: Component, parent_context: AsphaltContext | None = None) -> None:
        self.transport: asyncio.Transport
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int | None] | None = None
        self.tls: Any = None
        self.scheme = "http"
        #: Whether the transport is closed.
        self.is_lost = False
        #: Whether the connection takes no more requests.
        self.closing = False
        #: Whether its requests have named clients behind the peer, which so is a proxy.
        self.peer_forwards = False
        self.write_paused = False
        #: What answers in parts may still send before all others get a turn of the loop.
        self.turn_left = TURN
        #: Bytes that wait in the transport before it says that it is full.
        self.write_limit = 0
        self.reading_paused = False
        self._read_deadline = NEVER
        self._write_deadline = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._unsent = 0
        self.component = component
        self.parent_context = parent_context
        self.config = component.config
        self.interface = component.interface
        # Some interfaces need no task for what they can answer at once.
        self._start_at_once = getattr(component.interface, "start_at_once", None)
        self.connections = component.connections
        self.loop = asyncio.get_running_loop()
        # Each request runs in a copy: the task of the one before may be what starts it.
        self._context = copy_context()
        factory = self.loop.get_task_factory()
        self._make_task: Any = asyncio.Task if factory is None else _by_factory
        self._logs_access = component.config.access_log
        self._write_waiters: list[asyncio.Future[None]] = []

    # -- Transport callbacks -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast(asyncio.Transport, transport)
        if not self.connections.add(self):
            self.is_lost = True
            self.refuse_connection()
            return
        info = transport.get_extra_info
        self.tls = info("ssl_object")
        self.write_limit = self.config.write_buffer_size
        if self.tls is not None:
            self.scheme = "https"
            self.write_limit //= 4  # what is encrypted waits in buffers of its own
        self.transport.set_write_buffer_limits(high=self.write_limit)
        peer, local = info("peername"), info("sockname")
        if isinstance(peer, tuple | list):
            self.client = (peer[0], peer[1])
        if isinstance(local, tuple | list):
            self.server = (local[0], local[1])
        elif isinstance(local, str) and local:
            self.server = (local, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed: every stream in progress has lost its client."""
        if self.is_lost and self not in self.connections.open:
            return
        self.is_lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake_writers()
        self.streams_lost()
        self.connections.discard(self)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self.write_paused = True
        self.watch_writes()

    def resume_writing(self) -> None:
        """The transport's buffer has drained."""
        self.write_paused = False
        self._write_deadline = NEVER
        self._wake_writers()

    async def drain(self) -> None:
        """
        Wait until the transport takes more, and let others have their turn.

        A transport never pauses while its client is as fast as we are, nor when the client is
        gone and the loop has had no turn to say so.

        :raises PeerGone: if the client left, or took nothing for ``send_stall_timeout``
        """
        closing = self.transport.is_closing()
        if self.turn_left < 0 or closing:
            self.turn_left = TURN
            await asyncio.sleep(0)
        while self.write_paused and not self.is_lost:
            waiter = self.loop.create_future()
            self._write_waiters.append(waiter)
            await waiter
        if self.is_lost or closing:
            raise PeerGone

    def _wake_writers(self) -> None:
        waiters, self._write_waiters = self._write_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def pause_reading(self) -> None:
        """Take nothing more from the client for now."""
        if not self.reading_paused and not self.transport.is_closing():
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the client again."""
        if self.reading_paused and not self.transport.is_closing():
            self.reading_paused = False
            self.transport.resume_reading()

    def switch_protocol(self, protocol: BaseProtocol, data: bytes = b"") -> None:
        """
        Hand the connection over.

        :param protocol: what goes on with it
        :param data: what has come from the client and belongs to that protocol
        """
        self.is_lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.connections.discard(self)
        replace_protocol(self.transport, protocol)
        protocol.peer_forwards = self.peer_forwards
        self.resume_reading()
        protocol.connection_made(self.transport)
        if self.write_paused:  # the transport will not say so again
            protocol.pause_writing()
        if data and not protocol.is_lost:
            protocol.data_received(data)

    def begin_with(
        self, head: RequestHead, body: bytes, trailers: Sequence[Header], settings: bytes
    ) -> bool:
        """
        Answer a request that came before the switch, once connected.

        :param head: its head
        :param body: its whole body
        :param trailers: its trailers
        :param settings: what the client says of itself, as its upgrade has it
        :return: False if that cannot be used
        """
        return False

    # -- Deadlines -----------------------------------------------------------------------------
    # One timer serves both. Deadlines move with every request, so they are only noted; the timer
    # looks at them when it fires and sets itself again.

    def set_read_deadline(self, seconds: float) -> None:
        """Call ``read_timed_out`` after that many seconds, unless the deadline moves."""
        self._read_deadline = deadline = self.loop.time() + seconds
        if deadline < self._timer_at:
            self._arm(deadline)

    def watch_writes(self) -> None:
        """Cut the connection if the client takes nothing for ``send_stall_timeout``."""
        self._unsent = self.transport.get_write_buffer_size()
        self._write_deadline = deadline = self.loop.time() + self.config.send_stall_timeout
        if deadline < self._timer_at:
            self._arm(deadline)

    def _arm(self, deadline: float) -> None:
        """Let the timer fire by then."""
        if deadline >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self.loop.call_at(deadline, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._timer_at = NEVER
        if self.is_lost:
            return
        now = self.loop.time() + 0.001  # the clock of a loop is cached, and may be a tick behind
        if self._write_deadline <= now:
            self._write_deadline = NEVER
            unsent = self.transport.get_write_buffer_size()
            if unsent >= self._unsent > 0:
                self.abort()
                return
            if unsent:
                self.watch_writes()
        if self._read_deadline <= now:
            self._read_deadline = NEVER
            if self.transport.is_closing():
                self._closing_late()
            else:
                self.read_timed_out()
        deadline = min(self._read_deadline, self._write_deadline)
        if deadline != NEVER:
            self._arm(deadline)

    # -- Closing -------------------------------------------------------------------------------

    def close(self, error_code: int = 0) -> None:
        """Close the connection once what has been written is sent."""
        if not self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self.watch_writes()
            self._read_deadline = NEVER
            self.transport.close()
            if self.tls is not None and not self.is_lost:
                self.set_read_deadline(self.config.linger_timeout)

    def _closing_late(self) -> None:
        """
        Over TLS, the transport waits for the client to close too, which nobody need do.

        Idle clients do not even read. (RFC 8446 section 6.1)
        """
        if self.transport.get_write_buffer_size():
            self.set_read_deadline(self.config.linger_timeout)
        else:
            self.transport.abort()

    def close_output(self) -> bool:
        """Close our direction alone; False where that cannot be, as over TLS."""
        if self.tls is not None or not self.transport.can_write_eof():
            return False
        try:
            self.transport.write_eof()
        except OSError:
            pass  # the client has reset the connection, which the transport is about to learn
        return True

    def abort(self) -> None:
        """Cut the connection at once, with a reset, so that nothing looks like an orderly end."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # Otherwise the kernel goes on sending what it has, and then ends in good order.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def shutdown(self) -> None:
        """Take no further requests; close when the last answer is out."""
        self.closing = True
        if self.is_idle():
            self.set_read_deadline(_LAST_CALL)

    # -- What a backend defines ----------------------------------------------------------------

    @abstractmethod
    def is_idle(self) -> bool:
        """Whether no request is in progress, not even in part."""

    @property
    def unanswered(self) -> int:
        """How many requests have no whole answer yet."""
        return 0 if self.is_idle() else 1

    @abstractmethod
    def read_timed_out(self) -> None:
        """The read deadline has passed."""

    @abstractmethod
    def streams_lost(self) -> None:
        """The connection is closed: call ``lose`` on every stream in progress."""

    def refuse_connection(self) -> None:
        """There are too many connections: say so, where the protocol can, and close."""
        self.transport.close()

    # -- Heads ---------------------------------------------------------------------------------

    def own_authority(self) -> str:
        """The server's own address, for a request that may name no host."""
        if self.server is None or self.server[1] is None:
            return "localhost"
        host, port = self.server
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def peer(self, stream: StreamState) -> tuple[str, int] | None:
        """Return address and port of whoever holds the connection; None on a unix socket."""
        return self.client

    def apply_forwarded(
        self, headers: list[Header], authority: str
    ) -> tuple[list[Header], tuple[str, int] | None, str, str]:
        """
        Believe a trusted proxy what it says of the client; from all others, remove it.

        :param headers: the request's headers, host first, with forwarding ones among them
        :param authority: the authority so far
        :return: headers, client, scheme and authority to go on with
        """
        self.peer_forwards = True
        config = self.config
        return apply_forwarded(
            headers,
            authority,
            self.client,
            self.scheme,
            config.trusted_proxies,
            config.forwarded_headers,
        )

    # -- Streams -------------------------------------------------------------------------------

    def start_stream(self, stream: StreamState, interface: Interface | None = None) -> None:
        """
        Answer a stream, in a task of its own unless its interface needs none.

        :param interface: what answers, instead of the component's interface
        """
        if self._logs_access and not stream.started:
            stream.started = perf_counter()
        if interface is None:
            interface = self.interface
            at_once = self._start_at_once
            if at_once is not None and at_once(stream, self.start_stream):
                return
        task = self._make_task(
            self.run_stream(stream, interface),
            loop=self.loop,
            name="kyoukai request",  # a name of its own would be made for each, and rarely read
            context=self._context.copy(),
        )
        if self._make_task is not asyncio.Task and task.done():
            return  # the loop's own factory runs tasks at once
        stream.task = task
        self.connections.tasks.add(task)

    def lose(self, stream: StreamState) -> None:
        """The stream's client is gone."""
        task = stream.task
        stream.lost()
        if task is not None:
            # A task that is cancelled before it began cannot take itself off the registry.
            task.add_done_callback(self.connections.task_done)

    async def run_stream(self, stream: StreamState, interface: Interface) -> None:
        """Run an interface, and see to it that the stream ends whatever happens."""
        try:
            try:
                await interface(stream)
            except BaseException as error:
                is_stopping = self.is_lost or self.connections.closing
                await settle(stream, error, is_stopping, _refuse)
            else:
                if stream.sending is not CLOSED or stream.is_raw:
                    await settle(stream, None, False, _refuse)
        finally:
            if stream.received:
                stream.close()
            task = stream.task
            stream.task = None
            if task is not None:
                connections = self.connections
                connections.tasks.discard(task)
                if connections.waited_for:
                    connections.check_idle()


def _by_factory(
    coroutine: Coroutine[Any, Any, None],
    *,
    loop: asyncio.AbstractEventLoop,
    name: str,
    context: Context,
) -> asyncio.Task[None]:
    """Make a task as ``asyncio.Task`` does, by the loop's task factory."""
    return loop.create_task(coroutine, name=name, context=context)


async def _refuse(stream: StreamState, status: int, detail: str) -> None:
    await stream.send_response(*refusal(status, detail))
