"""
Upgraded connections through a proxy: the handshake with the server, and two pumps at once.

Towards the server it is always HTTP/1.1's Upgrade (RFC 9110 section 7.8). A client on HTTP/2 asks
by an extended CONNECT (RFC 8441), which has no key: there, the handshake of a WebSocket is ours.
"""

from __future__ import annotations

import asyncio
import base64
import os
from typing import TYPE_CHECKING

from kyoukai.exceptions import PeerGone, UpstreamError
from kyoukai.stream import CLOSED, OPEN
from kyoukai.ws.handshake import accept_of

if TYPE_CHECKING:
    from kyoukai.rules import Header
    from kyoukai.stream import StreamState
    from kyoukai.upstream_connection import UpstreamConnection
    from kyoukai.upstream_head import ResponseHead

__all__ = ("Handshake", "run_tunnel")

#: What ends a tunnel, and is nobody's fault here.
_EXPECTED = (PeerGone, UpstreamError)


class Handshake:
    """
    The handshake with the server, on behalf of a client.

    :param stream: the client's request for an upgrade
    """

    def __init__(self, stream: StreamState) -> None:
        head = stream.head
        self._token = (head.protocol or "").encode("latin-1")
        self._key = b""
        #: Header lines that ask the server.
        self.lines = b"connection: upgrade\r\nupgrade: %b\r\n" % self._token
        self._is_http2 = head.method == "CONNECT"
        if self._is_http2 and self._token == b"websocket":
            self._key = base64.b64encode(os.urandom(16))
            self.lines += b"sec-websocket-key: %b\r\n" % self._key

    def check(self, head: ResponseHead) -> None:
        """
        Refuse an answer that makes no sense.

        :param head: the head of the server's answer
        :raises UpstreamError: if it is none to this request
        """
        if head.status == 101:
            if head.upgrade != self._token:
                raise UpstreamError("it switches to another protocol than it was asked for")
            if self._key:
                accepts = [v for n, v in head.headers if n == b"sec-websocket-accept"]
                if accepts != [accept_of(self._key)]:
                    raise UpstreamError("its Sec-WebSocket-Accept is not that of the key")
        elif self._is_http2 and head.status < 300:
            raise UpstreamError(f"it answers {head.status} to a request for an upgrade")

    def answer(self, head: ResponseHead) -> tuple[Header, ...]:
        """
        Return the headers of the answer that accepts the client's request.

        :param head: the head of the server's answer
        """
        if not self._key:
            return head.headers
        return tuple(pair for pair in head.headers if pair[0] != b"sec-websocket-accept")


async def run_tunnel(
    stream: StreamState,
    connection: UpstreamConnection,
    headers: list[Header],
    timeout: float,
    buffer: int,
) -> None:
    """
    Accept an upgrade, and pass bytes on in both directions until both have ended.

    :param stream: the client's request
    :param connection: the connection to the server, which has answered 101
    :param headers: headers of the answer to the client
    :param timeout: seconds without a byte in either direction; 0 for no limit
    :param buffer: bytes that may wait in each direction
    """
    connection.tune(buffer)
    stream.cancel_on_disconnect = False  # what has come until then goes on to the server
    # Some servers send a length with their 101, where it means nothing (RFC 9112 section 6.3).
    stream.accept_upgrade([pair for pair in headers if pair[0].lower() != b"content-length"])
    tunnel = _Tunnel(stream, connection, timeout)
    await tunnel.run()


class _Tunnel:
    """
    The two pumps.

    :param stream: the client's end
    :param connection: the server's end
    :param timeout: seconds without a byte in either direction; 0 for no limit
    """

    def __init__(self, stream: StreamState, connection: UpstreamConnection, timeout: float) -> None:
        self._stream = stream
        self._connection = connection
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] = self._loop.create_future()
        # Whether the client has to take something, and whether that is the last.
        self._sending = self._parting = False

    async def run(self) -> None:
        """Run both pumps; when one fails, or nothing comes for too long, cut both sides."""
        stream, connection = self._stream, self._connection
        lost, idle = connection.when_lost(), self._idle
        up = asyncio.create_task(self._upwards())
        down = asyncio.create_task(self._downwards())
        stopping = asyncio.create_task(stream.stopping())
        gone: asyncio.Task[None] | None = None
        orderly = False
        if self._timeout:
            self._watch()
        try:
            # What has come from a server that is gone is still passed on to the client.
            while not (down.done() and (up.done() or lost.done())):
                waiting = [each for each in (up, down, stopping, lost, idle) if not each.done()]
                if up.done() and not up.exception():
                    # Over TLS, the end of its direction is that of the other as well.
                    gone = gone or asyncio.create_task(stream.disconnected())
                    waiting.append(gone)
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if gone is not None and gone.done():
                    orderly = True  # it had said all that it had to say
                    break
                if self._is_cut(up, down):
                    break
                if idle.done() and (self._sending or connection.write_paused):
                    break  # what one of them has not taken would be missing
                if idle.done() or stopping.done():
                    await self._part(up, down)
                    orderly = not self._sending
                    break
            else:
                took_all = up.done() and not up.exception()
                orderly = took_all or lost.result() is None
        finally:
            if self._timer is not None:
                self._timer.cancel()
            idle.cancel()
            tasks = [up, down, stopping] if gone is None else [up, down, stopping, gone]
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            if orderly:
                connection.close()
                # Whoever takes it back would cut it, with what the server has not yet.
                await asyncio.wait((lost,))
            else:
                connection.abort()
            if stream.sending is OPEN or (stream.receiving is OPEN and not orderly):
                stream.reset("cancelled")
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, _EXPECTED):
                raise outcome

    def _is_cut(self, up: asyncio.Task[None], down: asyncio.Task[None]) -> bool:
        """Whether a pump has failed in such a way that the other is of no use."""
        if down.done() and down.exception():
            # What a client has sent before it ended its direction still goes on.
            has_ended = self._stream.receiving is CLOSED
            return not (has_ended and isinstance(down.exception(), PeerGone))
        return up.done() and bool(up.exception()) and not isinstance(up.exception(), UpstreamError)

    async def _part(self, up: asyncio.Task[None], down: asyncio.Task[None]) -> None:
        """Close both sides in good order: nothing has come for too long, or the server stops."""
        up.cancel()
        self._parting = True
        if not self._sending:
            down.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        if self._stream.sending is OPEN:
            await self._stream.end()

    async def _upwards(self) -> None:
        """From the client to the server."""
        stream, connection = self._stream, self._connection
        while data := await stream.receive():
            self._last = self._loop.time()
            if connection.is_lost:
                raise UpstreamError("the connection was closed")
            connection.write(data)
            if connection.write_paused:
                await connection.drain()
        if not connection.close_output():
            connection.close()

    async def _downwards(self) -> None:
        """From the server to the client."""
        stream, connection = self._stream, self._connection
        while data := await connection.receive():
            self._last = self._loop.time()
            self._sending = True
            await stream.send_data(data)
            if self._parting:
                await stream.send_data(connection.take())
            self._sending = False
            if self._parting:
                return
        await stream.end()

    def _watch(self) -> None:
        self._timer = self._loop.call_at(self._last + self._timeout, self._look)

    def _look(self) -> None:
        if self._loop.time() + 0.001 < self._last + self._timeout:
            self._watch()
        elif not self._idle.done():
            self._idle.set_result(None)
