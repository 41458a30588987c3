"""Upgraded connections through a proxy: bytes both ways, and how each direction ends."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import socket
import ssl
import struct
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from backends import frames as f
from backends.support import Clock, turns
from fronts import Http1Talk, Http2Talk, both, front, over_tls, quiet
from talks import lines_of
from upstreams import OK, ScriptedUpstream, Seen, Wire

from kyoukai import HTTPRequestContext, Kyoukai, Middleware, Proxy, Response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support import Certificates

KERNEL = 1_300_000
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

#: Whether the proxy is reached over TLS; HTTP/2 is the same either way.
legs = pytest.mark.parametrize(
    ("wire", "extra"),
    [(Http1Talk, {}), (Http1Talk, over_tls()), (Http2Talk, {})],
    ids=["http1", "http1-tls", "http2"],
)


@pytest.fixture(autouse=True)
def nothing_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No task may fail without anybody who sees it."""
    yield
    records = caplog.get_records("call")
    assert [r.getMessage() for r in records if r.name == "asyncio" or r.levelname == "ERROR"] == []


def accept_of(seen: Seen) -> bytes:
    key = seen["sec-websocket-key"]
    assert key is not None
    assert len(base64.b64decode(key, validate=True)) == 16
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest())


class Far:
    """
    The server's end of a tunnel, which the test plays.

    :param first: what it sends with its head
    :param token: what it switches to
    :param lines: more lines of its head
    """

    def __init__(self, first: bytes = b"", token: bytes = b"websocket", lines: bytes = b"") -> None:
        self.first, self.token, self.lines = first, token, lines
        self.seen: Seen
        self.wire: Wire
        self.open = asyncio.Event()

    async def __call__(self, seen: Seen, wire: Wire) -> None:
        self.seen, self.wire = seen, wire
        lines = self.lines
        if self.token == b"websocket" and b"Sec-WebSocket-Accept" not in lines:
            lines += b"Sec-WebSocket-Accept: %b\r\n" % accept_of(seen)
        await wire.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n%b\r\n%b"
            % (self.token, lines, self.first)
        )
        self.open.set()
        await asyncio.Event().wait()

    async def read(self, size: int) -> bytes:
        """Read that many bytes, or up to the end."""
        data = b""
        while len(data) < size and (piece := await self.wire.read()):
            data += piece
        return data

    async def end(self) -> bytes:
        """Read up to the end."""
        async with asyncio.timeout(5):
            return await self.read(10**9)

    def reset(self) -> None:
        """Cut the connection, as a kernel does."""
        sock = self.wire.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wire.abort()


class Near:
    """Both ends of a tunnel that is open, and what is between them."""

    def __init__(self, wire: Any, far: Far | None = None, **options: Any) -> None:
        self.wire = wire
        self.far = far or Far()
        self.extra = options.pop("extra", {})
        self.context = options.pop("context", None)
        self.tcp = options.pop("tcp", self.context is not None)
        self.early = options.pop("early", b"")
        self.settings = options.pop("settings", {})
        self.options = options
        self._stack: Any = None

    async def __aenter__(self) -> Near:
        self._stack = AsyncExitStack()
        await self._stack.__aenter__()
        enter = self._stack.enter_async_context
        self.up = await enter(
            ScriptedUpstream(self.far.__call__, tcp=self.tcp, context=self.context)
        )
        self.fr = await enter(front(Proxy(self.up.url, **self.options), self.wire, **self.settings))
        self.talk = self.fr.talk(**self.extra)
        token = self.far.token.decode()
        self.talk.upgrade(token)
        if self.early:
            self.talk.send(self.early)
        await self.talk.until(lambda talk: talk.status)
        assert self.talk.status == (101 if self.wire is Http1Talk else 200)
        await self.far.open.wait()
        return self

    async def __aexit__(self, kind: Any, *rest: Any) -> None:
        try:
            if kind is None:
                await self.fr.rest()
                assert self.fr.upstream.open == 0
                assert self.up.wrong == []
        finally:
            await self._stack.__aexit__(kind, *rest)


# -- Bytes -------------------------------------------------------------------------------------


@legs
async def test_both_talk_first(wire: Any, extra: Any) -> None:
    early, first = b"client first " * 1000, b"server first " * 1000
    async with Near(wire, Far(first), early=early, extra=extra) as near:
        await near.talk.until(lambda talk: len(talk.body) == len(first))
        assert near.talk.body == first
        assert await near.far.read(len(early)) == early
        near.talk.send(b"more")
        assert await near.far.read(4) == b"more"
        await near.far.wire.send(b"more")
        await near.talk.until(lambda talk: talk.body.endswith(b"more"))
        near.far.wire.writer.close()
        await near.talk.until(lambda talk: talk.done)
        if not near.extra:
            near.talk.end()


@both
async def test_bytes_in_order_and_none_lost(wire: Any) -> None:
    size = 1_500_000
    up, down = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    async with Near(wire, protocol_receive_buffer=2000) as near:

        async def send_down() -> None:
            sizes = random.Random(3)
            start = 0
            while start < size:
                step = sizes.choice((1, 700, 5000, 90_000))
                await near.far.wire.send(down[start : start + step])
                start += step
            near.far.wire.writer.write_eof()

        async def send_up() -> None:
            sizes = random.Random(4)
            start = 0
            while start < size:
                step = sizes.choice((1, 700, 5000, 16_000))
                near.talk.send(up[start : start + step])
                start += step
                while near.talk.untaken > 200_000:
                    await turns(1)
            near.talk.end()

        async with asyncio.timeout(30):
            _, _, heard = await asyncio.gather(send_down(), send_up(), near.far.end())
            await near.talk.until(lambda talk: len(talk.body) == size and talk.done)
        assert heard == up
        assert near.talk.body == down
        assert not near.talk.cut or wire is Http1Talk


@both
async def test_a_slow_client_stops_the_server(wire: Any) -> None:
    sent = 0
    async with Near(wire, protocol_receive_buffer=10_000) as near:

        async def flood() -> None:
            nonlocal sent
            while sent < 8_000_000:
                await near.far.wire.send(b"x" * 50_000)
                sent += 50_000
            near.far.wire.writer.write_eof()

        near.talk.hold()
        flooding = asyncio.create_task(flood())
        assert 10_000 < await quiet(lambda: sent) < KERNEL
        near.talk.release()
        await flooding
        await near.talk.until(lambda talk: len(talk.body) == 8_000_000 and talk.done)
        near.talk.end()


@both
async def test_a_slow_server_stops_the_client(wire: Any) -> None:
    total = 8_000_000
    async with Near(wire, protocol_receive_buffer=10_000) as near:
        for _ in range(total // 100_000):
            near.talk.send(b"x" * 100_000)
        near.talk.end()
        assert total - await quiet(lambda: near.talk.untaken) < KERNEL
        near.far.wire.writer.write_eof()
        assert len(await near.far.end()) == total
        await near.talk.until(lambda talk: talk.done)


# -- Ends --------------------------------------------------------------------------------------


@both
async def test_the_client_ends_first(wire: Any) -> None:
    async with Near(wire) as near:
        near.talk.send(b"all")
        near.talk.end()
        assert await near.far.end() == b"all"
        assert not near.talk.done
        await near.far.wire.send(b"still here")
        await near.talk.until(lambda talk: talk.body == b"still here")
        near.far.wire.writer.close()
        await near.talk.until(lambda talk: talk.done)
        assert wire is Http1Talk or not near.talk.cut


@both
async def test_the_server_ends_first(wire: Any) -> None:
    async with Near(wire) as near:
        await near.far.wire.send(b"all")
        near.far.wire.writer.write_eof()
        await near.talk.until(lambda talk: talk.done)
        assert near.talk.body == b"all"
        near.talk.send(b"still here")
        assert await near.far.read(10) == b"still here"
        near.talk.end()
        assert await near.far.end() == b""
        assert wire is Http1Talk or not near.talk.cut


async def test_a_client_over_tls_ends_both_directions_at_once() -> None:
    """What it has sent before that still arrives."""
    size = 3_000_000
    options = {"extra": over_tls(), "protocol_receive_buffer": size * 2}
    async with Near(Http1Talk, tcp=True, **options) as near:
        near.talk.send(b"x" * size)
        await quiet(lambda: near.talk.untaken)
        near.talk.transport.feed_eof()
        assert len(await near.far.end()) == size


async def test_a_client_that_leaves_after_its_end() -> None:
    """What it has sent goes on to the server, which is told that nobody listens any more."""
    size = 3_000_000
    async with Near(Http2Talk, tcp=True, protocol_receive_buffer=size * 2) as near:
        near.talk.send(b"x" * size)
        near.talk.end()
        await quiet(lambda: near.talk.untaken)
        near.talk.leave()
        assert len(await near.far.end()) == size


def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    pair = certificates.pair("a")
    context.load_cert_chain(pair["certfile"], pair["keyfile"])
    return context


@both
@pytest.mark.parametrize("first", ["client", "server"])
async def test_a_server_over_tls(
    wire: Any, first: str, certificates: Certificates, loop_factory: Any
) -> None:
    """Which cannot close one direction alone: the other ends too, and in good order."""
    context, ca = server_context(certificates), certificates.path("a.pem")
    async with Near(wire, Far(b"hello "), context=context, ca=ca) as near:
        near.talk.send(b"x" * 300_000)
        assert len(await near.far.read(300_000)) == 300_000
        await near.far.wire.send(b"all")
        await near.talk.until(lambda talk: talk.body == b"hello all")
        if first == "client":
            near.talk.end()
            assert await near.far.end() == b""
        near.far.wire.writer.close()
        await near.talk.until(lambda talk: talk.done)
        if wire is Http2Talk:
            # CANCEL would say that something went wrong.
            assert near.talk.exchange.reset_code in (None, f.NO_ERROR)


@legs
async def test_the_client_cuts_it(wire: Any, extra: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with Near(wire, tcp=True, extra=extra) as near:
        near.talk.send(b"last words")
        await turns(2)
        near.talk.leave()
        with pytest.raises(ConnectionResetError):
            assert await near.far.end() == b"last words"
    assert lines_of(caplog) == []


@legs
async def test_the_server_cuts_it(wire: Any, extra: Any) -> None:
    async with Near(wire, tcp=True, extra=extra) as near:
        await near.far.wire.send(b"last words")
        await near.talk.until(lambda talk: talk.body)
        near.far.reset()
        await near.talk.until(lambda talk: talk.cut)
        assert not near.talk.done
        if wire is Http2Talk:
            assert near.talk.exchange.reset_code == f.CANCEL


@both
async def test_the_server_is_killed(wire: Any) -> None:
    async with Near(wire, tcp=True) as near:
        near.talk.send(b"unread")
        await turns(5)
        await near.up.stop()
        await near.talk.until(lambda talk: talk.cut or talk.done)
        for _ in range(30):  # a kernel that has sent an end takes one piece more, perhaps
            near.talk.send(b"more")
            await turns(3)
            if near.talk.cut:
                break
        assert near.talk.cut


@both
@pytest.mark.parametrize("moment", range(0, 12, 2))
async def test_cut_in_any_moment(wire: Any, moment: int) -> None:
    """During the handshake and after it, with bytes on the way; nothing is left behind."""
    far = Far(b"x" * 100_000)
    async with ScriptedUpstream(far.__call__) as up, front(Proxy(up.url), wire) as fr:
        talk = fr.talk()
        talk.upgrade()
        talk.send(b"y" * 10_000)
        await turns(moment)
        talk.leave()
        await fr.rest()
        assert fr.upstream.open == 0


# -- Time --------------------------------------------------------------------------------------


@both
async def test_nothing_for_too_long(wire: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A byte in either direction counts."""
    # By TCP, where an end in good order and a cut are told apart.
    async with Near(wire, tcp=True, protocol_receive_timeout=100, read_timeout=3) as near:
        clock = Clock()
        for _ in range(3):
            await clock.advance(90)
            near.talk.send(b"a")
            await near.far.read(1)
            await clock.advance(90)
            before = len(near.talk.body)
            await near.far.wire.send(b"b")
            await near.talk.until(lambda talk, n=before: len(talk.body) > n)
        await clock.advance(99)
        assert not near.talk.done
        await clock.advance(2)
        await near.talk.until(lambda talk: talk.done)
        assert await near.far.end() == b""
        assert wire is Http1Talk or near.talk.exchange.reset_code in (None, f.NO_ERROR)
    assert lines_of(caplog) == []


@both
async def test_an_idle_limit_of_0_is_none(wire: Any) -> None:
    async with Near(wire, protocol_receive_timeout=0) as near:
        await Clock().advance(1_000_000, step=100_000)
        near.talk.send(b"a")
        assert await near.far.read(1) == b"a"
        near.far.wire.writer.close()
        await near.talk.until(lambda talk: talk.done)
        near.talk.end()


@both
async def test_a_client_that_takes_nothing_for_too_long(wire: Any) -> None:
    """It is cut: an end in good order would hide what is missing."""
    settings = {"send_stall_timeout": 10_000}
    async with Near(wire, protocol_receive_timeout=100, settings=settings) as near:
        near.talk.hold()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            try:
                while True:
                    await near.far.wire.send(b"x" * 50_000)
                    sent += 1
            except OSError:
                pass

        flooding = asyncio.create_task(flood())
        await quiet(lambda: sent)
        await Clock().advance(101)
        await near.talk.until(lambda talk: talk.cut)
        assert not near.talk.done
        flooding.cancel()


@both
async def test_a_server_that_takes_nothing_for_too_long(wire: Any) -> None:
    async with Near(wire, tcp=True, protocol_receive_timeout=100) as near:
        for _ in range(80):
            near.talk.send(b"x" * 100_000)
        await quiet(lambda: near.talk.untaken)
        await Clock().advance(101)
        await near.talk.until(lambda talk: talk.cut)
        assert not near.talk.done
        with pytest.raises(ConnectionResetError):
            await near.far.end()


@both
@pytest.mark.parametrize("busy", [False, True])
async def test_the_server_stops(wire: Any, busy: bool) -> None:
    """Tunnels end at once, in good order, with what was on the way."""
    async with Near(wire, tcp=True, settings={"graceful_timeout": 30}) as near:
        near.talk.send(b"up")
        assert await near.far.read(2) == b"up"
        if busy:
            await near.far.wire.send(b"x" * 500_000)
            await near.talk.until(lambda talk: talk.body)
        near.fr.server.connections.shutdown()
        await near.talk.until(lambda talk: talk.done)
        if wire is Http2Talk:
            assert near.talk.exchange.reset_code in (None, f.NO_ERROR)
        try:
            assert await near.far.end() == b""
        except ConnectionResetError:
            assert busy  # some of what it has sent went nowhere, as it is told so
        async with asyncio.timeout(5):
            if wire is Http1Talk:
                near.talk.transport.feed_eof()
            await near.fr.server.connections.wait_idle()


@both
async def test_what_the_server_has_not_taken_is_still_sent_at_a_stop(wire: Any) -> None:
    size = 3_000_000
    async with Near(wire, tcp=True, protocol_receive_buffer=size * 2) as near:
        near.talk.send(b"x" * size)
        await quiet(lambda: near.talk.untaken)
        near.fr.server.connections.shutdown()
        await near.talk.until(lambda talk: talk.done)
        assert len(await near.far.end()) == size
        if wire is Http1Talk:
            near.talk.transport.feed_eof()


# -- Handshakes --------------------------------------------------------------------------------


@both
async def test_what_the_server_is_asked(wire: Any) -> None:
    far = Far(lines=b"Sec-WebSocket-Protocol: chat\r\nX-Up: 1\r\n")
    async with ScriptedUpstream(far.__call__) as up, front(Proxy(up.url), wire) as fr:
        talk = fr.talk()
        headers = [
            ("sec-websocket-protocol", "chat, other"),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("cookie", "a=b"),
        ]
        talk.upgrade(target="/chat?q=1", headers=headers)
        await talk.until(lambda talk: talk.status)
        (seen,) = up.requests
        assert str(seen) == "GET /chat?q=1"
        assert seen["upgrade"] == "websocket"
        assert seen["connection"] == "upgrade"
        assert seen["sec-websocket-version"] == "13"
        for name, value in headers:
            assert seen[name] == value
        assert seen["content-length"] is seen["transfer-encoding"] is None
        assert talk.headers["sec-websocket-protocol"] == "chat"
        assert talk.headers["x-up"] == "1"
        if wire is Http1Talk:
            assert seen["sec-websocket-key"] == "AAECAwQFBgcICQoLDA0ODw=="
            assert talk.headers["sec-websocket-accept"] == accept_of(seen).decode()
            assert talk.headers["upgrade"] == "websocket"
        else:
            assert "sec-websocket-accept" not in talk.headers
            assert "upgrade" not in talk.headers
        talk.leave()


class Longer(Middleware):
    """Gives each answer a length."""

    async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None:
        response.headers["Content-Length"] = "3"


@both
@pytest.mark.parametrize("by", ["server", "middleware"])
async def test_a_switch_with_a_length(wire: Any, by: str) -> None:
    """It means nothing (RFC 9112 section 6.3)."""
    app = Kyoukai("front", middleware=[Longer()] if by == "middleware" else [])
    far = Far(b"hello", lines=b"Content-Length: 0\r\n" if by == "server" else b"")
    async with ScriptedUpstream(far.__call__) as up:
        app.mount("/", Proxy(up.url))
        async with front(app, wire) as fr:
            talk = fr.talk()
            talk.upgrade()
            await talk.until(lambda talk: talk.status)
            assert talk.status in (101, 200)
            assert "content-length" not in talk.headers
            await talk.until(lambda talk: talk.body == b"hello")
            talk.leave()


@both
@pytest.mark.parametrize("token", ["acme", "tcp"])
async def test_another_token(wire: Any, token: str) -> None:
    settings = {"upgrade_tokens": ["tcp", "acme"]}
    async with Near(wire, Far(b"hi", token=token.encode()), settings=settings) as near:
        assert near.far.seen["upgrade"] == token
        assert near.far.seen["sec-websocket-key"] is None
        near.talk.send(b"ping")
        assert await near.far.read(4) == b"ping"
        await near.talk.until(lambda talk: talk.body == b"hi")
        near.far.wire.writer.close()
        await near.talk.until(lambda talk: talk.done)
        near.talk.end()


async def test_a_token_that_is_not_allowed_is_an_ordinary_request() -> None:
    async with ScriptedUpstream() as up, front(Proxy(up.url)) as fr:
        talk = fr.talk()
        talk.upgrade("acme")
        assert await talk.answer() == 200
        assert up.requests[0]["upgrade"] is None
        assert up.requests[0]["connection"] is None


@both
@pytest.mark.parametrize("status", [401, 403, 404, 426, 500, 302])
async def test_a_server_that_refuses(wire: Any, status: int) -> None:
    answer = b"HTTP/1.1 %d No\r\nContent-Length: 2\r\nX-Why: y\r\n\r\nno" % status
    async with ScriptedUpstream(answer) as up, front(Proxy(up.url), wire) as fr:
        talk = fr.talk()
        talk.upgrade()
        assert await talk.answer() == status
        assert talk.body == b"no"
        assert talk.headers["x-why"] == "y"
        await fr.rest()
        if wire is Http1Talk:
            assert fr.upstream.open == 1
            talk = fr.talk()
            talk.ask()
            assert await talk.answer() == status


async def test_an_ordinary_answer() -> None:
    """On HTTP/1.1 it is one; on HTTP/2 200 would accept the tunnel."""
    async with ScriptedUpstream(OK) as up, front(Proxy(up.url)) as fr:
        talk = fr.talk()
        talk.upgrade()
        assert await talk.answer() == 200
        assert talk.body == b"ok"
    async with ScriptedUpstream(OK) as up, front(Proxy(up.url), Http2Talk) as fr:
        talk = fr.talk()
        talk.upgrade()
        assert await talk.answer() == 502


@both
@pytest.mark.parametrize("fault", ["token", "no token", "accept", "no accept"])
async def test_a_switch_that_nobody_has_asked_for(
    wire: Any, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    token = {"token": b"Upgrade: chat\r\n", "no token": b""}.get(fault, b"Upgrade: WebSocket\r\n")
    accept = b"" if fault == "no accept" else b"Sec-WebSocket-Accept: AAAA\r\n"
    head = b"HTTP/1.1 101 X\r\nConnection: upgrade\r\n%b%b\r\n" % (token, accept)
    async with ScriptedUpstream(head) as up, front(Proxy(up.url), wire) as fr:
        talk = fr.talk()
        talk.upgrade()
        await talk.until(lambda talk: talk.status)
        if wire is Http1Talk and "token" not in fault:
            assert talk.status == 101  # the key is the client's to check
            talk.leave()
            await fr.rest()
            return
        assert await talk.answer() == 502
        await up.wires[0].closed.wait()
        await fr.rest()
        assert fr.upstream.open == 0
    (line,) = lines_of(caplog)
    assert f"upstream {up.url}: " in line


@both
async def test_a_handshake_that_meets_the_end_of_a_connection(wire: Any) -> None:
    """The server gets a GET, whatever the client has sent: it is sent again."""
    far = Far(b"hello")

    async def answer(seen: Seen, wire: Wire) -> None:
        if seen["upgrade"] is None:
            await wire.send(OK)
        elif len(up.wires) == 1:
            wire.writer.close()
        else:
            await far(seen, wire)

    async with ScriptedUpstream(answer) as up, front(Proxy(up.url), wire) as fr:
        assert (await fr.ask()).status == 200
        talk = fr.talk()
        talk.upgrade()
        await talk.until(lambda talk: talk.done or talk.body == b"hello")
        assert talk.status == (101 if wire is Http1Talk else 200)
        assert len(up.wires) == 2
        talk.leave()


@both
async def test_no_answer_to_a_handshake_in_time(wire: Any) -> None:
    async def answer(seen: Seen, up: Wire) -> None:
        await up.read()

    async with ScriptedUpstream(answer) as up, front(Proxy(up.url, read_timeout=5), wire) as fr:
        talk = fr.talk()
        talk.upgrade()
        await up.wait(lambda: up.requests)
        await Clock().advance(5.1)
        assert await talk.answer() == 504


@both
async def test_tunnels_count_as_connections(wire: Any) -> None:
    async with Near(wire, max_connections=1, connect_timeout=2) as near:
        talk = near.fr.talk()
        talk.ask()
        await Clock().advance(2.1)
        assert await talk.answer() == 503
        near.talk.leave()
        await near.fr.rest()
        near.up.answer = OK
        assert (await near.fr.ask()).status == 200
        await near.fr.rest()
        near.fr.upstream.close()


@both
async def test_a_tunnel_below_a_prefix_of_an_application(wire: Any) -> None:
    app = Kyoukai("front")
    far = Far(b"hello")
    async with ScriptedUpstream(far.__call__) as up:
        app.mount("/live", Proxy(up.url))
        async with front(app, wire) as fr:
            talk = fr.talk()
            talk.upgrade(target="/live/x")
            await talk.until(lambda talk: talk.body == b"hello")
            talk.send(b"up")
            assert await far.read(2) == b"up"
            assert far.seen.target == "/live/x"
            talk.leave()
