"""Extended CONNECT (RFC 8441): what opens a tunnel, what does not, and tunnels beside requests."""

from __future__ import annotations

from typing import Any

import pytest

from kyoukai.exceptions import InvalidResponse, WebSocketDisconnected
from kyoukai.stream import CLOSED, StreamState
from kyoukai.ws.session import Session

from .. import frames as f
from ..support import Clock, Mirror, Stage, turns
from ..wires import BINARY, CLOSE, FIELDS, TEXT, Booth, close_frame, frame, read_frames, text
from .support import Exchange, serving, serving_client
from .trial import Feed, Prober, feeds, h2_server, table, trial

Pairs = list[tuple[bytes, bytes]]

CONNECT: Pairs = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"http"),
    (b":authority", b"localhost"),
    (b":path", b"/bad"),
    (b"sec-websocket-version", b"13"),
]


def replaced(name: bytes, *values: bytes) -> Pairs:
    """The request with other values of one field, none of them, or several."""
    at = next(index for index, pair in enumerate(CONNECT) if pair[0] == name)
    return CONNECT[:at] + [(name, value) for value in values] + CONNECT[at + 1 :]


class Echo:
    """An application that sends back what it gets, and answers what is no tunnel as a mirror."""

    def __init__(self) -> None:
        self.mirror = Mirror()
        self.sessions: list[Session] = []

    async def __call__(self, stream: StreamState) -> None:
        if not stream.upgradable:
            await self.mirror(stream)
            return
        session = Session(stream, stream.protocol.config, [], 4)  # type: ignore[attr-defined]
        stream.accept_upgrade((), session)
        stream.cancel_on_disconnect = False
        session.begin()
        self.sessions.append(session)
        try:
            while True:
                message = await session.receive()
                data = message.encode() if isinstance(message, str) else message
                if session.put(TEXT if isinstance(message, str) else BINARY, data):
                    await session.drain()
        except WebSocketDisconnected:
            await session.wait_over()


def ask(client: Any, target: str = "/") -> Exchange:
    """Open a tunnel with the client that keeps the rules."""
    exchange: Exchange = client.begin("CONNECT", target, [(":protocol", "websocket"), *FIELDS])
    return exchange


def got(exchange: Exchange) -> list[bytes]:
    """The messages that have come whole."""
    return [payload for _, payload in read_frames(bytes(exchange.body), whole=False)]


# -- What is malformed -------------------------------------------------------------------------


@feeds
@table(
    {
        "GET": replaced(b":method", b"GET"),
        "POST": replaced(b":method", b"POST"),
        "lower case": replaced(b":method", b"connect"),
        "no path": replaced(b":path"),
        "empty path": replaced(b":path", b""),
        "a relative path": replaced(b":path", b"bad"),
        "an asterisk": replaced(b":path", b"*"),
        "an authority for a path": replaced(b":path", b"localhost:80"),
        "two paths": replaced(b":path", b"/", b"/"),
        "no scheme": replaced(b":scheme"),
        "another scheme": replaced(b":scheme", b"ws"),
        "no authority": replaced(b":authority"),
        "two authorities": replaced(b":authority", b"a", b"a"),
        "two protocols": replaced(b":protocol", b"websocket", b"websocket"),
        "the protocol late": [*replaced(b":protocol"), (b":protocol", b"websocket")],
        "an upgrade": [*CONNECT, (b"upgrade", b"websocket")],
        "a connection": [*CONNECT, (b"connection", b"upgrade")],
        "a coding": [*CONNECT, (b"transfer-encoding", b"chunked")],
        "te": [*CONNECT, (b"te", b"gzip")],
        "an unknown pseudo-header": [(b":version", b"13"), *CONNECT],
        "another host": [*CONNECT, (b"host", b"evil")],
    }
)
async def test_malformed(bad: Pairs, feed: Feed) -> None:
    app = Echo()
    seen, _ = await trial(app, feed, f.headers(5, bad, end=False), f.data(5, b"late"))
    assert seen.resets == {5: [f.PROTOCOL_ERROR]}
    assert app.sessions == []


@feeds
async def test_a_tunnel_that_ends_with_its_head(feed: Feed) -> None:
    app = Echo()
    seen, _ = await trial(app, feed, f.headers(5, CONNECT, end=True))
    assert seen.resets == {5: [f.PROTOCOL_ERROR]}
    # The same block again, which is known by then, and one that differs in its path alone.
    good = f.headers(5, CONNECT, end=False)
    other = f.headers(9, replaced(b":path", b"/other"), end=True)
    async with h2_server(app) as server:
        client = Prober(server)
        client.push(feed, good, f.headers(7, CONNECT, end=True), other)
        client.push(feed, f.headers(11, CONNECT, end=False))
        seen = await client.settle()
        assert seen.resets == {7: [f.PROTOCOL_ERROR], 9: [f.PROTOCOL_ERROR]}
        assert sorted(seen.begun) == [5, 11]


@feeds
@table({"udp": b"connect-udp", "h2c": b"h2c", "none": b"", "version": b"websocket/13"})
async def test_other_protocols(bad: bytes, feed: Feed) -> None:
    head = f.headers(5, replaced(b":protocol", bad), end=False)
    seen, client = await trial(Echo(), feed, head, f.data(5, end=True))
    assert seen.status(5) == 501
    assert seen.resets == {}


@table({"capitals": b"WebSocket", "plain": b"websocket"})
async def test_the_protocols_name(bad: bytes) -> None:
    async with serving(Echo()) as (_, client):
        client.send(f.headers(1, replaced(b":protocol", bad), end=False), f.data(1, text("hi")))
        assert client.decode(await client.next(f.HEADERS))[0] == (b":status", b"200")
        assert (await client.next(f.DATA)).payload == b"\x81\x02hi"


@pytest.mark.parametrize("length", [b"0", b"1", b"99999"])
async def test_a_length_does_not_count(length: bytes) -> None:
    async with serving(Echo()) as (_, client):
        client.send(f.headers(1, [*CONNECT, (b"content-length", length)], end=False))
        client.send(f.data(1, text("hello")))
        assert (await client.next(f.DATA)).payload == b"\x81\x05hello"
        client.send(f.data(1, close_frame(), end=True))
        status, headers, body = await client.answer(1)
        assert (status, body) == (200, b"\x88\x02\x03\xe8")
        assert b"content-length" not in headers


@pytest.mark.parametrize("accepted", [True, False])
async def test_trailers_break_a_tunnel(accepted: bool) -> None:
    app = Echo()
    async with serving(app) as (_, client):
        client.send(f.headers(1, CONNECT, end=False), f.data(1, text("hi")))
        if accepted:
            await turns()
        client.send(f.headers(1, [(b"x-sum", b"1")]), f.headers(3))
        assert (await client.next(f.RST_STREAM)).code == f.PROTOCOL_ERROR
        assert (await client.answer(3))[0] == 200
        found = [(session.close_code, session.is_over) for session in app.sessions]
        assert found == [(1006, True)] * accepted


# -- Applications that know of no tunnels ------------------------------------------------------


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("headers", [(), []])
@pytest.mark.parametrize("status", [200, 201, 204, 206, 299])
async def test_success_is_no_answer_to_connect(status: int, headers: Any, ends: bool) -> None:
    async with serving() as (stage, client):
        client.send(f.headers(1, CONNECT, end=False))
        if ends:
            client.send(f.data(1, end=True))
        stream = await stage.next()
        await turns()
        for body in (b"", b"body"):
            with pytest.raises(InvalidResponse, match="accept_upgrade"):
                await stream.send_response(status, headers, body)
        with pytest.raises(InvalidResponse, match="accept_upgrade"):
            stream.send_head(status, headers)
        await stream.send_response(404, headers, b"not here")
        answer = await client.answer(1)
        assert (answer[0], answer[2]) == (404, b"not here")


async def test_an_application_that_answers_all_with_200(caplog: pytest.LogCaptureFixture) -> None:
    async def app(stream: StreamState) -> None:
        await stream.send_response(200, (), b"ok")

    async with serving(app) as (_, client):
        client.send(f.headers(1, CONNECT, end=False), f.headers(3))
        assert (await client.answer(1))[0] == 500
        assert (await client.answer(3))[0] == 200
    assert "200 would accept CONNECT" in caplog.text
    caplog.clear()


async def test_a_denial_in_parts() -> None:
    async with serving() as (stage, client):
        client.send(f.headers(1, CONNECT, end=False), f.data(1, b"early" * 1000))
        stream = await stage.next()
        stream.send_informational(103)
        stream.send_head(403, ())
        await stream.send_data(b"some ")
        await stream.send_data(b"more")
        await stream.end()
        interim = await client.next(f.HEADERS)
        assert client.decode(interim) == [(b":status", b"103")]
        assert (await client.answer(1))[2] == b"some more"
        assert stream.sending is CLOSED
        assert stream.buffered == 0


# -- Windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 7, 100, 1000])
async def test_small_windows(window: int) -> None:
    """Each frame waits for credit, in both directions; the frames of two tunnels never mix."""
    size = min(40 * window, 5000)
    async with serving_client(Echo(), {"window": window}, h2_stream_window=1024) as (_, client, _):
        one, two = ask(client), ask(client)
        for exchange, byte in (one, b"1"), (two, b"2"):
            exchange.data(frame(BINARY, byte * size) + text(""))
        while not (len(got(one)) == len(got(two)) == 2):
            await client.event()
        assert got(one) == [b"1" * size, b""]
        assert got(two) == [b"2" * size, b""]
        assert max(len(each.payload) for each in client.frames if each.kind == f.DATA) <= window


async def test_settings_change_the_windows_midway() -> None:
    async with serving_client(Booth(), {"window": 1000, "gives_credit": False}) as (
        booth,
        client,
        _,
    ):
        one, two = ask(client), ask(client)
        first, second = await booth.sessions.get(), await booth.sessions.get()
        for session in first, second:
            session.put(BINARY, bytes(5000))
        await turns()
        assert (len(one.body), len(two.body)) == (1000, 1000)

        def announce(window: int) -> None:
            for exchange in one, two:
                exchange.credit += window - client.own_window
            client.own_window = window
            client.send(f.settings({f.INITIAL_WINDOW_SIZE: window}))

        announce(0)  # below what is on its way
        await turns()
        announce(900)
        await turns()
        assert (len(one.body), len(two.body)) == (1000, 1000)
        announce(1500)
        await turns()
        assert (len(one.body), len(two.body)) == (1500, 1500)
        two.credit += 10
        client.send(f.window_update(two.number, 10))
        await turns()
        assert (len(one.body), len(two.body)) == (1500, 1510)
        announce(50_000)
        await turns()
        assert len(one.body) == len(two.body) == 5004
        assert first.buffered == second.buffered == 0


async def test_a_stalled_tunnel_stops_no_others() -> None:
    app = Echo()
    async with serving_client(app, {"window": 1000}) as (_, client, _):
        stalled, lively = ask(client), ask(client)
        await turns()
        client.gives_credit = False
        app.sessions[0].put(BINARY, bytes(100_000))
        await turns()
        assert len(stalled.body) == 1000
        client.gives_credit = True
        for number in range(20):
            lively.data(text(f"message {number}"))
            assert (await client.get(f"/{number}")).body == b"GET /%d " % number
        await turns()
        assert got(lively) == [b"message %d" % number for number in range(20)]
        assert app.sessions[0].buffered == 99_010
        stalled.credit += 200_000
        client.send(f.window_update(stalled.number, 200_000))
        await turns(40)
        assert got(stalled) == [bytes(100_000)]


async def test_the_connections_window_is_shared_fairly() -> None:
    async with serving_client(Booth(), {"window": 2**20, "gives_credit": False}) as (
        booth,
        client,
        _,
    ):
        exchanges = [ask(client) for _ in range(8)]
        sessions = [await booth.sessions.get() for _ in range(8)]
        for session in sessions:
            session.put(BINARY, bytes(100_000))
        await turns(40)
        assert sum(len(exchange.body) for exchange in exchanges) == 65535
        for _ in range(100):
            client.credit += 16_384
            client.send(f.window_update(0, 16_384))
            await turns(3)
        assert all(len(exchange.body) == 100_010 for exchange in exchanges)


async def test_a_receiver_that_is_slow_stops_its_own_tunnel_alone() -> None:
    booth = Booth()
    async with serving_client(booth, h2_stream_window=100_000) as (_, client, _):
        slow, quick = ask(client), ask(client)
        sessions = [await booth.sessions.get(), await booth.sessions.get()]
        for number in range(100):
            slow.data(frame(BINARY, number.to_bytes(4) * 2500))
            quick.data(frame(BINARY, number.to_bytes(4) * 2500))
            assert await sessions[1].receive() == number.to_bytes(4) * 2500
        assert slow.waiting
        assert not quick.waiting
        for number in range(100):
            assert await sessions[0].receive() == number.to_bytes(4) * 2500
        assert not slow.waiting


async def test_padding_is_paid_back() -> None:
    booth = Booth()
    async with serving(booth) as (_, client):
        client.send(f.headers(1, CONNECT, end=False))
        session = await booth.sessions.get()
        for number in range(3000):
            client.send(f.data(1, text(f"{number}"), padding=200))
            if number % 100 == 99:
                for _ in range(100):
                    await session.receive()
                await turns(3)
        sent = 3000 * 201 + sum(6 + len(f"{number}") for number in range(3000))
        credit = sum(x.number for x in client.take() if x.kind == f.WINDOW_UPDATE and x.stream == 1)
        assert sent - 131_072 <= credit <= sent


async def test_tiny_pieces_are_no_flood() -> None:
    app = Echo()
    data = b"".join(text(f"{number}") for number in range(500))
    async with serving(app) as (_, client):
        client.send(f.headers(1, CONNECT, end=False))
        for byte in data:
            client.send(f.data(1, bytes([byte])))
        await turns(1200)
        body = b"".join(x.payload for x in client.take() if x.kind == f.DATA)
        assert [payload for _, payload in read_frames(body)] == [b"%d" % n for n in range(500)]
        assert not client.closed
        client.send(*[f.data(1)] * 1000)  # empty ones are
        assert (await client.next(f.GOAWAY)).code == f.ENHANCE_YOUR_CALM
        assert app.sessions[0].close_code == 1006


# -- Many of them ------------------------------------------------------------------------------


async def test_many_tunnels_beside_requests() -> None:
    app = Echo()
    async with serving_client(app) as (_, client, _):
        tunnels = [ask(client) for _ in range(60)]
        for number in range(10):
            for which, exchange in enumerate(tunnels):
                exchange.data(text(f"{which}: {number} " + "x" * 500))
            assert (await client.get(f"/{number}")).body == b"GET /%d " % number
        await turns(40)
        for which, exchange in enumerate(tunnels):
            assert got(exchange) == [f"{which}: {n} {'x' * 500}".encode() for n in range(10)]
        for exchange in tunnels:
            exchange.data(close_frame(), end=True)
        await turns(40)
        assert all(exchange.done for exchange in tunnels)
        assert all(session.is_over for session in app.sessions)
        assert client.goaways == []


async def test_tunnels_count_as_streams() -> None:
    stage = Stage()
    async with serving_client(stage, h2_max_concurrent_streams=3) as (_, client, _):
        tunnels = [ask(client) for _ in range(4)]
        await turns()
        assert [exchange.reset_code for exchange in tunnels] == [None] * 3 + [f.REFUSED_STREAM]
        stream = await stage.next()
        stream.accept_upgrade(())
        tunnels[0].reset()
        await turns()
        assert stage.cancelled == [stream]
        ask(client)
        await turns()
        assert client.exchanges[9].reset_code is None


async def test_a_reset_is_of_one_tunnel() -> None:
    app = Echo()
    async with serving_client(app) as (_, client, _):
        tunnels = [ask(client) for _ in range(3)]
        await turns()
        app.sessions[1].put(BINARY, bytes(500_000))  # some of it waits
        await turns(2)
        tunnels[1].reset()
        tunnels[0].data(text("0"))
        tunnels[2].data(text("2"))
        await turns(30)
        assert [session.close_code for session in app.sessions] == [None, 1006, None]
        assert (got(tunnels[0]), got(tunnels[2])) == ([b"0"], [b"2"])
        assert client.goaways == []


async def test_resets_of_tunnels_are_counted() -> None:
    app = Echo()
    async with serving(app, h2_reset_burst=20, h2_reset_rate=0) as (_, client):
        for number in range(21):
            client.send(f.headers(2 * number + 1, CONNECT, end=False), f.rst_stream(2 * number + 1))
            await turns()
        assert (await client.next(f.GOAWAY)).code == f.ENHANCE_YOUR_CALM
        assert all(session.is_over for session in app.sessions)


async def test_a_client_that_goes_away_keeps_its_tunnels() -> None:
    app = Echo()
    async with serving_client(app) as (_, client, transport):
        clock = Clock()
        one, two = ask(client), ask(client)
        await turns()
        client.send(f.frame(f.GOAWAY, 0, 0, bytes(8)))
        await clock.advance(15, step=1)
        for number in range(3):
            one.data(text(f"{number}"))
            await clock.advance(5, step=1)
        assert [payload for payload in got(one) if payload] == [b"0", b"1", b"2"]
        assert not transport.closed
        for exchange in one, two:
            exchange.data(close_frame(), end=True)
        await clock.advance(2, step=0.1)
        assert one.done
        assert two.done
        assert transport.closed or transport.eof_written


async def test_the_server_stops_with_tunnels_and_requests() -> None:
    app = Booth()
    async with serving_client(app) as (_, client, transport):
        clock = Clock()
        tunnels = [ask(client) for _ in range(3)]
        upload = client.begin("POST", "/upload")
        await turns()
        transport.protocol.connections.shutdown()
        await turns()
        for exchange in tunnels:
            frames = read_frames(bytes(exchange.body))
            assert frames == [(CLOSE, b"\x03\xe9the server is stopping")]
            assert not exchange.done
        late = ask(client, "/late")  # on its way before the client has read of the end
        await turns()
        for exchange in tunnels:
            exchange.data(close_frame(1001), end=True)
        upload.data(b"body", end=True)
        assert (await upload.finished()).body == b"/upload body"
        await clock.advance(1.5, step=0.1)
        assert all(exchange.done for exchange in tunnels)
        if late.response.status:
            late.data(close_frame(1001), end=True)
        await clock.advance(1.5, step=0.1)
        assert transport.closed or transport.eof_written
        assert not transport.protocol.connections.tasks


async def test_a_connection_error_ends_them_all() -> None:
    app = Echo()
    async with serving(app) as (_, client):
        for stream in 1, 3, 5:
            client.send(f.headers(stream, CONNECT, end=False))
        await turns()
        client.send(f.frame(f.WINDOW_UPDATE, 0, 0, bytes(4)))
        assert (await client.next(f.GOAWAY)).code == f.PROTOCOL_ERROR
        await turns()
        assert [session.close_code for session in app.sessions] == [1006] * 3
        assert all(session.is_over for session in app.sessions)
