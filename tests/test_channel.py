"""Channels: members, messages, slow readers, and what they cost."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
import weakref
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from talks import both, turns

from kyoukai import Channel, Kyoukai, OperationNotAllowed, WebSocketDisconnected
from kyoukai.memory import MemoryTransport
from kyoukai.testing import Client, WebSocketDenied
from kyoukai.ws.messages import frame_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kyoukai import WebSocket, WebSocketContext
    from kyoukai.testing import ClientWebSocket


class Site:
    """An application whose one handler joins a channel, and keeps the server's ends."""

    def __init__(self, **options: Any) -> None:
        self.app = Kyoukai("test")
        #: The channel, held only for tests that ask for it.
        self.options = options
        self.servers: list[WebSocket] = []
        self.joined = asyncio.Event()
        self.client: Client

        @self.app.websocket("/")
        async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
            await ws.accept()
            await self.channel.subscribe(ws)
            self.servers.append(ws)
            self.joined.set()
            async for message in ws:
                if message == "leave":
                    return
                await self.channel.publish(message)

    @property
    def channel(self) -> Channel:
        return self.app.channel("news", **self.options)

    @asynccontextmanager
    async def member(self, http2: bool = False, **options: Any) -> AsyncIterator[ClientWebSocket]:
        self.joined.clear()
        async with self.client.websocket("/", http2=http2, **options) as ws:
            await self.joined.wait()
            yield ws


@asynccontextmanager
async def site(*, settings: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Site]:
    made = Site(**options)
    async with Client(made.app, **(settings or {})) as made.client:
        yield made


# -- Members -----------------------------------------------------------------------------------


@both
async def test_everybody_gets_everything(http2: bool) -> None:
    async with site() as at, AsyncExitStack() as stack:
        members = [await stack.enter_async_context(at.member(http2)) for _ in range(5)]
        assert await at.channel.count() == 5
        for message in ("text é", b"bytes", bytearray(b"array"), memoryview(b"a-view")[2:], ""):
            await at.channel.publish(message)
        for ws in members:
            got = [await ws.receive() for _ in range(5)]
            assert got == ["text é", b"bytes", b"array", b"view", ""]


async def test_both_protocols_in_one_channel() -> None:
    async with site() as at, at.member(False) as one, at.member(True) as two:
        await one.send_text("from HTTP/1.1")  # a handler publishes, to its own client too
        assert await one.receive() == await two.receive() == "from HTTP/1.1"
        await two.send_data(b"from HTTP/2")
        assert await one.receive() == await two.receive() == b"from HTTP/2"


@both
async def test_the_order_is_the_same_for_all(http2: bool) -> None:
    async with site() as at, at.member(http2) as one, at.member(not http2) as two:

        async def publish(name: str) -> None:
            for number in range(50):
                await at.channel.publish(f"{name}{number}")

        await asyncio.gather(publish("a"), publish("b"), publish("c"))
        first = [await one.receive() for _ in range(150)]
        assert first == [await two.receive() for _ in range(150)]
        for name in "abc":
            own = [message for message in first if message[0] == name]
            assert own == [f"{name}{number}" for number in range(50)]


@both
@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 200_000])
async def test_messages_of_every_size(http2: bool, size: int) -> None:
    async with site() as at, at.member(http2) as ws:
        await at.channel.publish("x" * size)
        await at.channel.publish(bytes(size))
        assert await ws.receive() == "x" * size
        assert await ws.receive() == bytes(size)


async def test_messages_that_are_none() -> None:
    channel = Channel("news")
    for wrong in (None, 1, ["a"], {"a": 1}):
        with pytest.raises(TypeError, match="publish takes a str or bytes, not "):
            await channel.publish(wrong)  # type: ignore[arg-type]
    await channel.publish("nobody hears this")


@both
async def test_leaving(http2: bool) -> None:
    async with site() as at, at.member(http2) as one, at.member(http2) as two:
        channel = at.channel
        first, second = at.servers
        await channel.unsubscribe(first)
        assert await channel.count() == 1
        await channel.unsubscribe(first)  # again: nothing
        await channel.publish("for the second")
        await first.send_text("by itself")
        assert await two.receive() == "for the second"
        assert await one.receive() == "by itself"
        await channel.subscribe(first)
        await channel.subscribe(first)  # again: nothing
        assert await channel.count() == 2
        await channel.publish("once")
        await channel.publish("and no more")
        assert [await one.receive(), await one.receive()] == ["once", "and no more"]


@both
@pytest.mark.parametrize("how", ["client closes", "lost", "server closes", "handler returns"])
async def test_members_leave_by_themselves(http2: bool, how: str) -> None:
    async with site() as at, at.member(http2) as stays, at.member(http2) as goes:
        channel = at.channel
        server = at.servers[1]
        assert await channel.count() == 2
        if how == "client closes":
            await goes.close(4000)
        elif how == "lost":
            goes.abort()
        elif how == "server closes":
            await server.close(4001)
        else:
            await goes.send_text("leave")
        await server.wait_closed()
        assert await channel.count() == 1
        await channel.publish("still here")
        assert await stays.receive() == "still here"
        with pytest.raises(WebSocketDisconnected) as caught:
            await channel.subscribe(server)
        assert caught.value.code == server.close_code
        await channel.unsubscribe(server)
        assert await channel.count() == 1


@both
async def test_only_accepted_sockets_can_join(http2: bool) -> None:
    app = Kyoukai("test")
    seen: list[str] = []

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        for _ in range(2):
            try:
                await app.channel("news").subscribe(ws)
            except OperationNotAllowed as error:
                seen.append(str(error))
            await app.channel("news").unsubscribe(ws)
            await ws.close()

    async with Client(app) as client:
        with pytest.raises(WebSocketDenied):
            async with client.websocket("/", http2=http2):
                raise RuntimeError
    assert seen == ["only an accepted WebSocket can subscribe to a channel"] * 2


@both
async def test_several_channels(http2: bool) -> None:
    app = Kyoukai("test")
    joined = asyncio.Event()

    @app.websocket("/<names>")
    async def handler(ctx: WebSocketContext, ws: WebSocket, names: str) -> None:
        await ws.accept()
        for name in names:
            await app.channel(name).subscribe(ws)
        joined.set()
        await ws.wait_closed()

    async with Client(app) as client, client.websocket("/ab", http2=http2) as ws:
        await joined.wait()
        for name in "abc":
            await app.channel(name).publish(name)
        assert [await ws.receive(), await ws.receive()] == ["a", "b"]
        await ws.close()
        assert (await app.channel("a").count(), await app.channel("b").count()) == (0, 0)


# -- The channel itself ------------------------------------------------------------------------


def test_options() -> None:
    app = Kyoukai("test")
    channel = app.channel("a", queue=3, slow="close")
    assert (channel.name, channel.queue, channel.slow) == ("a", 3, "close")
    assert repr(channel) == "<Channel 'a' queue=3 slow='close'>"
    assert app.channel("a") is channel
    assert app.channel("a", queue=3) is channel
    assert app.channel("b") is not channel
    assert Kyoukai("other").channel("a") is not channel
    with pytest.raises(ValueError, match="the channel 'a' has other options"):
        app.channel("a", queue=4)
    default = app.channel("c")
    assert (default.queue, default.slow) == (64, "drop")


@pytest.mark.parametrize("queue", [0, -1, True, 1.0, "4", None])
def test_a_queue_that_cannot_work(queue: Any) -> None:
    with pytest.raises(ValueError, match="queue must be a number of messages, at least 1"):
        Channel("a", queue=queue)


@pytest.mark.parametrize("slow", ["keep", "", None])
def test_a_policy_that_is_none(slow: Any) -> None:
    with pytest.raises(ValueError, match="slow must be 'drop' or 'close'"):
        Kyoukai("test").channel("a", slow=slow)


async def test_a_channel_that_nobody_has_is_forgotten() -> None:
    """Clients may choose names: a channel lasts as long as it has members, or somebody keeps it."""
    async with site() as at, at.member() as one, at.member() as two:
        channel = weakref.ref(at.channel)
        gc.collect()
        assert channel() is not None
        assert channel() is at.channel
        await one.close()
        await at.servers[0].wait_closed()
        gc.collect()
        assert channel() is not None
        two.abort()
        await at.servers[1].wait_closed()
        await turns()
        gc.collect()
        assert channel() is None
        assert await at.channel.count() == 0


# -- What a message costs ----------------------------------------------------------------------


@both
async def test_a_message_is_encoded_once(http2: bool) -> None:
    """The very same bytes go to every member; nothing is made for each of them."""
    async with site() as at, AsyncExitStack() as stack:
        members = [await stack.enter_async_context(at.member(http2)) for _ in range(20)]
        channel = at.channel
        message = "é" * 5000
        encoded = 0
        serialized = 0
        written: list[int] = []
        kept: list[Any] = []

        def watch(frame: Any, event: str, argument: Any) -> None:
            nonlocal encoded, serialized
            if event == "call":
                if frame.f_code is frame_of.__code__:
                    encoded += 1
                elif frame.f_code.co_name == "serialize":  # as websockets calls it
                    serialized += 1
                elif frame.f_code is MemoryTransport.write.__code__:
                    data = frame.f_locals["data"]
                    kept.append(data)  # or another might get its identity
                    written.append(id(data))
            elif event == "c_call" and argument.__name__ == "encode":
                encodings.append(argument.__self__)

        encodings: list[Any] = []
        sys.setprofile(watch)
        try:
            await channel.publish(message)
            await turns()
        finally:
            sys.setprofile(None)
        assert encoded == 1
        assert serialized == 0
        assert [each for each in encodings if each is message] == [message]
        if not http2:  # which puts frames of its own around it
            assert len(written) == 20
            assert len(set(written)) == 1
        for ws in members:
            assert await ws.receive() == message


@both
async def test_members_with_compression(http2: bool) -> None:
    """What is published is not compressed, what is sent is, and both are understood."""
    async with (
        site(settings={"ws_deflate": True}) as at,
        at.member(http2, deflate=True) as one,
        at.member(http2) as two,
    ):
        assert (one.deflated, two.deflated) == (True, False)
        text = "to be or not to be " * 50
        for number in range(3):
            await at.channel.publish(f"{text}{number}")
            await at.servers[0].send_text(f"{text}by itself {number}")
        for number in range(3):
            assert await one.receive() == f"{text}{number}"
            assert await one.receive() == f"{text}by itself {number}"
            assert await two.receive() == f"{text}{number}"
        await one.send_text(text)
        assert await two.receive() == text


# -- Slow readers ------------------------------------------------------------------------------

SIZE = 4096


def numbered(number: int) -> bytes:
    return b"%06d" % number + bytes(SIZE - 6)


async def receive_numbers(ws: ClientWebSocket, last: int) -> list[int]:
    """Receive up to the message of that number."""
    numbers: list[int] = []
    while not numbers or numbers[-1] != last:
        message = await ws.receive()
        assert isinstance(message, bytes)
        numbers.append(int(message[:6]))
    return numbers


@both
async def test_a_slow_member_loses_the_oldest(http2: bool) -> None:
    async with site(queue=10) as at, at.member(http2) as slow, at.member(http2) as quick:
        server = at.servers[0]
        slow.pause()
        most = 0
        for number in range(500):
            await at.channel.publish(numbered(number))
            assert await quick.receive() == numbered(number)
            most = max(most, server.buffered_amount)
        assert most <= 2 * 65536 + SIZE
        assert server.ready
        slow.resume()
        numbers = await receive_numbers(slow, 499)
        # Those that were on their way, and the newest ten.
        assert numbers[-10:] == list(range(490, 500))
        assert numbers[:-10] == list(range(len(numbers) - 10))
        assert 10 < len(numbers) < 100
        await at.channel.publish("now it is quick again")
        assert await slow.receive() == "now it is quick again"


@both
async def test_a_slow_member_is_closed(http2: bool) -> None:
    async with (
        site(queue=10, slow="close") as at,
        at.member(http2) as slow,
        at.member(http2) as quick,
    ):
        server = at.servers[0]
        slow.pause()
        number = 0
        while server.ready:
            await at.channel.publish(numbered(number))
            assert await quick.receive() == numbered(number)
            number += 1
            assert number < 500
        assert (server.close_code, server.close_reason) == (1013, "too slow")
        assert await at.channel.count() == 1
        await at.channel.publish("for the other")
        assert await quick.receive() == "for the other"
        slow.resume()
        numbers = [int(message[:6]) async for message in slow]
        assert numbers == list(range(len(numbers)))  # none is missing before the end
        assert (slow.close_code, slow.close_reason) == (1013, "too slow")


@both
async def test_what_waits_is_bounded(http2: bool) -> None:
    """However much is published, a member that takes nothing holds its queue and the limit."""
    async with site(queue=4) as at, at.member(http2) as slow:
        slow.pause()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(200):
                await at.channel.publish(f"{number:06d}" + "x" * 20_000)
                await turns(3)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 600_000  # of 4,000,000 bytes
        slow.resume()
        numbers = []
        while not numbers or numbers[-1] != 199:
            numbers.append(int((await slow.receive())[:6]))
        assert numbers[-4:] == [196, 197, 198, 199]
        assert len(numbers) < 20


@both
async def test_what_waits_for_a_member_that_leaves(http2: bool) -> None:
    async with site() as at, at.member(http2) as slow:
        slow.pause()
        for number in range(60):
            await at.channel.publish(numbered(number))
            await turns(2)
        await at.channel.unsubscribe(at.servers[0])
        slow.resume()
        await turns()
        await at.servers[0].send_text("last")
        messages = []
        while (message := await slow.receive()) != "last":
            messages.append(int(message[:6]))
        assert messages == list(range(len(messages)))
        assert len(messages) < 60


@both
async def test_a_slow_member_that_is_lost(http2: bool) -> None:
    async with site() as at, at.member(http2) as slow, at.member(http2) as quick:
        slow.pause()
        for number in range(60):
            await at.channel.publish(numbered(number))
        slow.abort()
        await at.servers[0].wait_closed()
        assert await at.channel.count() == 1
        await at.channel.publish("last")
        assert (await receive_numbers(quick, 59))[-1] == 59
        assert await quick.receive() == "last"


@both
async def test_publishing_does_not_wait(http2: bool) -> None:
    """Not for members that take nothing: it gives up one turn of the loop at most."""
    async with site() as at, at.member(http2) as slow:
        slow.pause()
        others = 0

        async def other() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await turns(1)
        before = others
        for number in range(100):
            await at.channel.publish(numbered(number))
        assert others - before <= 100
        task.cancel()
        slow.abort()
