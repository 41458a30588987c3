"""What real programs in front of proxies and behind them have shown."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from typing import Any

import pytest
from fronts import both, front
from upstreams import OK, ScriptedUpstream

from kyoukai import Kyoukai, Middleware, Proxy
from kyoukai.exceptions import ConfigurationError
from kyoukai.server.access_log import AccessLog
from kyoukai.stream import RequestHead, StreamState


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
