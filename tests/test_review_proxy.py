"""What real programs in front of proxies and behind them have shown."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import weakref
from typing import Any

import pytest
from fronts import both, front
from upstreams import OK, ScriptedUpstream

from kyoukai import Kyoukai, Middleware, Proxy
from kyoukai.exceptions import ConfigurationError, UpstreamError
from kyoukai.server.access_log import AccessLog
from kyoukai.stream import RequestHead, StreamState
from kyoukai.upstream_connection import UpstreamConnection
from kyoukai.upstream_head import HeadReader


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"buffer_size": 2**31}, "buffer_size must be at most 2147483647"),
        ({"protocol_receive_buffer": 2**31}, "protocol_receive_buffer must be at most 2147483647"),
        ({"tls_server_name": "name"}, "tls_server_name is for https upstreams, and there is none"),
        (
            {"upstreams": "https://name", "tls_server_name": "."},
            "tls_server_name: '.' is no name of a host",
        ),
        ({"upstreams": "http://a..b"}, "upstreams: 'http://a..b': 'a..b' is no name of a host"),
    ],
)
def test_what_would_fail_for_each_request(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Proxy(**{"upstreams": "http://name", **settings})
    assert str(caught.value) == message


def test_a_request_whose_turn_never_came_took_no_time(caplog: pytest.LogCaptureFixture) -> None:
    """It was pipelined, and its client left: its duration was that of the machine's being up."""
    head = RequestHead("GET", b"/", b"/", "/", b"", "http", "localhost", "1.1", [])
    stream: Any = StreamState(head, None)  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO, "kyoukai.access"):
        AccessLog("%(status)s %(duration).3f")(stream)
    assert caplog.messages == ["0 0.000"]


class Keeper(Middleware):
    """Knows whether the contexts of requests are still there."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[Any]] = []

    async def process_request(self, ctx: Any) -> None:
        self.seen.append(weakref.ref(ctx))


@both
async def test_a_connection_keeps_no_request(wire: Any) -> None:
    """The transport, and the timer, were made in the context of the request that needed them."""
    app, keeper = Kyoukai("front"), Keeper()
    app.add_middleware(keeper)
    async with ScriptedUpstream(OK) as upstream:
        app.mount("/", Proxy(upstream.url))
        async with front(app, wire) as fr:
            talk = fr.talk()
            talk.ask()
            assert await talk.answer() == 200
            assert len(upstream.wires) == 1
            await asyncio.sleep(0)
            gc.collect()
            gc.collect()
            assert [each() for each in keeper.seen] == [None]


LARGE = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: "


async def meet_a_reset(answer: bytes) -> UpstreamConnection:
    """Send a body to a server that has sent its answer and closed without reading anything."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy("http://127.0.0.1:9000", buffer_size=1024)
        _, connection = await loop.create_connection(
            lambda: UpstreamConnection(proxy, HeadReader(""), lambda lost: None),
            *listener.getsockname(),
        )
        peer, _ = listener.accept()
        connection.begin("POST", b"POST / HTTP/1.1\r\nContent-Length: 9000\r\n\r\n", False)
        peer.sendall(answer)
        peer.close()  # with bytes unread: a reset
    connection.write(b"x")  # which fails, before the loop has seen that there is something to read
    await connection.when_lost()
    return connection


@pytest.mark.parametrize("size", [2, 100_000], ids=["small", "larger than the buffer"])
async def test_an_answer_that_came_before_the_write_failed(size: int) -> None:
    connection = await meet_a_reset(LARGE + b"%d\r\n\r\n" % size + b"n" * size)
    assert (await connection.final_head()).status == 413
    assert await connection.receive() == b"n" * size
    assert await connection.receive() == b""
    assert not connection.reusable


async def test_half_an_answer_that_came_before_the_write_failed() -> None:
    connection = await meet_a_reset(LARGE + b"9\r\n\r\nhalf")
    assert (await connection.final_head()).status == 413
    assert await connection.receive() == b"half"
    with pytest.raises(UpstreamError, match="in the middle of its answer"):
        await connection.receive()


async def test_nothing_came_before_the_write_failed() -> None:
    connection = await meet_a_reset(b"")
    with pytest.raises(UpstreamError, match="without an answer"):
        await connection.final_head()
