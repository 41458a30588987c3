"""What the client of WebSockets says of servers that are wrong, slow or gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from backends.support import Clock
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side
from websockets.utils import accept_key

from kyoukai.exceptions import WebSocketDisconnected
from kyoukai.memory import MemoryTransport
from kyoukai.memory_handshake import open_websocket
from kyoukai.stream import StreamState
from kyoukai.testing import Client, WebSocketDenied

Header = tuple[bytes, bytes]

both = pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])


class Puppet:
    """The server's side of a WebSocket, whose bytes the test has a hand in."""

    full = False

    def __init__(self, stream: StreamState, *, deaf: bool = False) -> None:
        self.stream = stream
        self.protocol = Protocol(Side.SERVER)
        self.deaf = deaf
        self.received: list[Frame] = []
        self.gone = asyncio.Event()

    def accept(self, *headers: Header) -> None:
        head = self.stream.head
        key = (head.get(b"sec-websocket-key") or b"").decode()
        own = [(b"sec-websocket-accept", accept_key(key).encode())] if key else []
        self.stream.accept_upgrade((*own, *headers), self)

    def write(self, data: bytes) -> None:
        self.stream.protocol.tunnel_write(self.stream, data)

    def send(self, opcode: Opcode, data: bytes, fin: bool = True) -> None:
        self.write(Frame(opcode, data, fin).serialize(mask=False))

    def end(self) -> None:
        self.stream.protocol.tunnel_end(self.stream, True)

    def bytes_received(self, data: bytes) -> None:
        if self.deaf:
            return
        self.protocol.receive_data(data)
        self.received += self.protocol.events_received()
        for each in self.protocol.data_to_send():
            if each:
                self.write(each)
            else:
                self.end()

    def end_received(self) -> None:
        self.gone.set()

    def lost(self) -> None:
        self.gone.set()

    def writable(self) -> None:
        pass

    def ended(self) -> None:
        pass

    def going_away(self) -> None:
        pass


def served_by(
    work: Callable[[Puppet], Awaitable[None] | None], *headers: Header, **options: Any
) -> Callable[[StreamState], Awaitable[None]]:
    """An interface that accepts WebSockets, lets the test work on each, and waits for its end."""

    async def interface(stream: StreamState) -> None:
        stream.cancel_on_disconnect = False
        puppet = Puppet(stream, **options)
        puppet.accept(*headers)
        result = work(puppet)
        if result is not None:
            await result
        await puppet.gone.wait()

    return interface


def idle(puppet: Puppet) -> None:
    pass


# -- Handshakes --------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "header, complaint",
    [
        ((b"sec-websocket-protocol", b"other"), "unsupported subprotocol: other"),
        ((b"sec-websocket-extensions", b"permessage-deflate"), "no extensions supported"),
    ],
)
async def test_what_was_not_offered(http2: bool, header: Header, complaint: str) -> None:
    async with Client(served_by(idle, header)) as client:
        with pytest.raises(AssertionError, match=f"handshake is wrong: {complaint}"):
            async with client.websocket("/", http2=http2, subprotocols=["one"]):
                raise RuntimeError


async def test_an_accept_for_another_key() -> None:
    async with Client(served_by(idle)) as client:
        with pytest.raises(AssertionError, match="invalid Sec-WebSocket-Accept"):
            async with client.websocket("/", headers={"sec-websocket-KEY": "x" * 22 + "=="}):
                raise RuntimeError


@both
async def test_a_server_that_gives_up_before_it_answers(http2: bool) -> None:
    async def interface(stream: StreamState) -> None:
        stream.reset()

    async with Client(interface) as client:
        with pytest.raises(ConnectionError, match="before its answer ended"):
            async with client.websocket("/", http2=http2):
                raise RuntimeError


@both
async def test_an_answer_of_many_parts(http2: bool) -> None:
    """Its body is read to the end, beyond the windows of HTTP/2."""

    async def interface(stream: StreamState) -> None:
        stream.send_informational(103, ((b"link", b"</a.css>"),))
        stream.send_head(403, ((b"content-type", b"text/plain"), (b"x-why", b"because")))
        for _ in range(3):
            await stream.send_data(b"no\n " * 25_000)
        await stream.end()

    async with Client(interface) as client:
        with pytest.raises(WebSocketDenied) as caught:
            async with client.websocket("/", http2=http2):
                raise RuntimeError
    response = caught.value.response
    assert (response.status, response.reason) == (403, "Forbidden")
    assert response.headers["x-why"] == "because"
    assert response.body == b"no\n " * 75_000
    assert response.informational[0][0] == 103
    assert str(caught.value) == f"the WebSocket was denied: 403 Forbidden: {('no ' * 67)[:200]}"


@pytest.mark.parametrize(
    "kind, body, says",
    [
        (
            "text/html; charset=x",
            b"<title>T</title><h1>Bad Request</h1>\n<p>a &lt;b&gt;</p>",
            "a <b>",
        ),
        ("text/plain", b"<p>", "<p>"),
        ("application/json", b'{"a":\n 1}', '{"a": 1}'),
    ],
)
async def test_what_the_denial_says(kind: str, body: bytes, says: str) -> None:
    async def interface(stream: StreamState) -> None:
        await stream.send_response(400, ((b"content-type", kind.encode()),), body)

    async with Client(interface) as client:
        with pytest.raises(WebSocketDenied) as caught:
            async with client.websocket("/"):
                raise RuntimeError
    assert str(caught.value) == f"the WebSocket was denied: 400 Bad Request: {says}"


class Scripted(asyncio.Protocol):
    """A server that says what the test wants, once something has come for each piece of it."""

    def __init__(self, *script: bytes) -> None:
        self.script = list(script)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.script:
            self.transport.write(self.script.pop(0))


def goaway(last: int, code: int) -> bytes:
    return b"\0\0\x08\x07\0\0\0\0\0" + last.to_bytes(4) + code.to_bytes(4)


SETTINGS = b"\0\0\x06\x04\0\0\0\0\0" + b"\0\x08\0\0\0\x01"


@pytest.mark.parametrize(
    "script, error, complaint",
    [
        ([b"\0\0\0\x04\0\0\0\0\0"], AssertionError, "SETTINGS do not allow WebSockets"),
        ([SETTINGS, goaway(0, 11)], ConnectionError, "gave the connection up .ENHANCE_YOUR_CALM"),
        ([SETTINGS, goaway(0, 0)], ConnectionError, "gave the connection up .NO_ERROR"),
        ([SETTINGS, goaway(1, 999)], ConnectionError, "gave the connection up .code 999"),
        ([SETTINGS, b"\0\0\0\0\0\0\0\0\x01"], AssertionError, "broke HTTP/2"),
    ],
)
async def test_wrong_servers_of_http2(script: list[bytes], error: Any, complaint: str) -> None:
    protocol = Scripted(*script)
    transport = MemoryTransport(protocol)
    protocol.connection_made(transport)
    with pytest.raises(error, match=complaint):
        async with open_websocket(transport, "/", http2=True):
            raise RuntimeError
    assert transport.closed


async def test_frames_in_pieces() -> None:
    protocol = Scripted(SETTINGS[5:], goaway(0, 11))
    transport = MemoryTransport(protocol)
    protocol.connection_made(transport)
    transport.write(SETTINGS[:5])
    with pytest.raises(ConnectionError, match="ENHANCE_YOUR_CALM"):
        async with open_websocket(transport, "/", http2=True):
            raise RuntimeError


# -- Frames ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "data, complaint",
    [
        (b"\x83\x00", "broke the WebSocket protocol: invalid opcode"),
        (b"\x81\x80\0\0\0\0", "broke the WebSocket protocol: incorrect masking"),
        (b"\x81\x01\xff", "sent text that is no UTF-8"),
    ],
)
async def test_frames_that_break_the_rules(http2: bool, data: bytes, complaint: str) -> None:
    async with Client(served_by(lambda puppet: puppet.write(data))) as client:
        with pytest.raises(AssertionError, match=complaint):
            async with client.websocket("/", http2=http2):
                pass  # found even if nobody looks
        with pytest.raises(AssertionError, match=complaint):
            async with client.websocket("/", http2=http2) as ws:
                await ws.receive()
        with pytest.raises(AssertionError, match=complaint):
            async with client.websocket("/", http2=http2) as ws:
                with contextlib.suppress(AssertionError):
                    await ws.wait_closed()
                await ws.send_text("a")


@both
async def test_fragments_with_a_ping_among_them(http2: bool) -> None:
    def work(puppet: Puppet) -> None:
        text = "ä€".encode()
        puppet.send(Opcode.TEXT, text[:1], fin=False)
        puppet.send(Opcode.PING, b"here")
        puppet.send(Opcode.CONT, text[1:3], fin=False)
        puppet.send(Opcode.CONT, text[3:])
        puppets.append(puppet)

    puppets: list[Puppet] = []
    async with Client(served_by(work)) as client, client.websocket("/", http2=http2) as ws:
        assert await ws.receive() == "ä€"
        assert await ws.ping() >= 0
    pong, ping, close = puppets[0].received
    assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"here")
    assert (ping.opcode, close.opcode) == (Opcode.PING, Opcode.CLOSE)


# -- Flow control ------------------------------------------------------------------------------


async def turns(count: int = 50) -> None:
    """Let everything go on that can."""
    for _ in range(count):
        await asyncio.sleep(0)


@both
async def test_sending_waits_for_a_slow_server(http2: bool) -> None:
    puppets: list[Puppet] = []
    message = bytes(range(256)) * 20_000
    interface = served_by(puppets.append)
    async with Client(interface) as client, client.websocket("/", http2=http2) as ws:
        (puppet,) = puppets
        puppet.protocol.max_message_size = None
        puppet.full = True
        sending = asyncio.create_task(ws.send_data(message))
        await turns()
        assert not sending.done()
        assert puppet.received == []
        puppet.full = False
        puppet.stream.taken()
        await sending
        await ws.ping()
        assert bytes(puppet.received[0].data) == message


@both
async def test_a_slow_reader_makes_the_server_wait(http2: bool) -> None:
    puppets: list[Puppet] = []
    message = bytes(range(256)) * 20_000
    interface = served_by(puppets.append)
    async with Client(interface) as client, client.websocket("/", http2=http2) as ws:
        (puppet,) = puppets
        wire, stream = puppet.stream.protocol, puppet.stream
        ws.pause()
        puppet.send(Opcode.BINARY, message)
        await turns()
        assert len(message) - 65535 <= wire.tunnel_waiting(stream)
        assert wire.tunnel_full(stream)
        await ws.send_text("still heard")
        await turns()
        assert bytes(puppet.received[0].data) == b"still heard"
        ws.resume()
        assert await ws.receive() == message
        assert wire.tunnel_waiting(stream) == 0


@both
async def test_leaving_while_nothing_is_taken(http2: bool) -> None:
    """What waits for a slow reader is taken at the end, as the answer to Close comes after it."""

    def work(puppet: Puppet) -> None:
        puppet.send(Opcode.BINARY, bytes(1_000_000))

    async with Client(served_by(work)) as client:
        async with client.websocket("/", http2=http2) as ws:
            ws.pause()
        assert ws.close_code == 1000
        assert len(await ws.receive()) == 1_000_000


# -- Ends --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_an_end_without_a_close_frame(http2: bool, how: str) -> None:
    def work(puppet: Puppet) -> None:
        puppet.send(Opcode.BINARY, b"last")
        if how == "end":
            puppet.end()
        else:
            asyncio.get_running_loop().call_soon(puppet.stream.reset)
            puppet.gone.set()

    async with Client(served_by(work)) as client, client.websocket("/", http2=http2) as ws:
        if how == "end":
            assert await ws.receive() == b"last"
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (1006, "")
        with pytest.raises(WebSocketDisconnected) as caught:
            await ws.send_text("a")
        assert caught.value.code == 1006
        with pytest.raises(WebSocketDisconnected):
            await ws.ping()


@both
async def test_a_server_that_is_lost_wakes_who_waits(http2: bool) -> None:
    puppets: list[Puppet] = []
    interface = served_by(puppets.append, deaf=True)
    async with Client(interface) as client, client.websocket("/", http2=http2) as ws:
        puppets[0].full = True
        calls = (ws.ping(), ws.send_data(bytes(5_000_000)), ws.receive(), ws.wait_closed())
        tasks = [asyncio.ensure_future(call) for call in calls]
        await turns()
        assert not any(task.done() for task in tasks)
        puppets[0].stream.reset()
        *failed, closed = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(error, "code", None) for error in failed] == [1006, 1006, 1006]
        assert closed is None


@both
async def test_a_close_frame_without_a_code(http2: bool) -> None:
    interface = served_by(lambda puppet: puppet.send(Opcode.CLOSE, b""))
    async with Client(interface) as client, client.websocket("/", http2=http2) as ws:
        assert ws.close_code is ws.close_reason is None
        with pytest.raises(WebSocketDisconnected) as caught:
            await ws.receive()
        assert caught.value.code == ws.close_code == 1005


@both
@pytest.mark.parametrize("deaf", [True, False])
async def test_a_server_that_does_not_close(http2: bool, deaf: bool) -> None:
    """Leaving takes ``ws_close_timeout`` at most, and says what is missing."""

    def work(puppet: Puppet) -> None:
        puppet.end = lambda: None  # type: ignore[method-assign]

    what = "answer the Close frame" if deaf else "end the connection"
    clock = Clock()
    async with Client(served_by(work, deaf=deaf), ws_close_timeout=50) as client:
        with pytest.raises(TimeoutError, match=rf"did not {what} within 50 seconds"):
            async with client.websocket("/", http2=http2) as ws:
                await ws.send_text("a")
                waiting = asyncio.ensure_future(clock.advance(200, step=1))
        waiting.cancel()


@both
async def test_an_error_in_the_test_cuts_the_socket(http2: bool) -> None:
    """It is seen at once, whatever the server does."""
    puppets: list[Puppet] = []
    async with Client(served_by(puppets.append, deaf=True)) as client:
        with pytest.raises(LookupError):
            async with client.websocket("/", http2=http2) as ws:
                await ws.send_text("a")
                raise LookupError
        assert puppets[0].gone.is_set()
        with pytest.raises(TimeoutError):
            async with client.websocket("/", http2=http2) as ws, asyncio.timeout(0.01):
                await ws.receive()
        assert puppets[1].gone.is_set()
