"""Clients that leave ASGI applications, seen from the log, and half of a connection that closes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from talks import lines_of, turns

from kyoukai.config import ServerConfig
from kyoukai.interfaces.asgi import AsgiInterface
from kyoukai.interfaces.rsgi import RsgiInterface
from kyoukai.interfaces.ssgi import SsgiInterface
from kyoukai.testing import Client


def ssgi_of(application: Any) -> Any:
    """Return an SSGI application of a coroutine function, which is told by its arguments."""

    async def ssgi(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, res: Any) -> None:
        await application(res)

    return ssgi


CONFIG = ServerConfig(access_log=False, lifespan="off")
UPLOAD = b"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class ClientLeft(Exception):
    """What a framework makes of the disconnect message."""


async def strict(scope: Any, receive: Any, send: Any) -> None:
    """Read the body as frameworks do, to which the end of the client is an error."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        if not message["more_body"]:
            raise ValueError("a fault of its own")


async def test_an_error_of_the_frameworks_own_about_a_client_that_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "kyoukai")
    async with Client(AsgiInterface(strict, CONFIG, name="site:app")) as client:
        connection = client.connect()
        connection.send(UPLOAD)
        await turns(6)
        connection.transport.lose()
        await client.server.connections.wait_idle()
    (record,) = [each for each in caplog.records if each.name == "kyoukai"]
    assert record.levelno == logging.INFO
    assert record.exc_info is None
    assert record.getMessage() == (
        "POST /up: asgi application site:app failed after its client had left: ClientLeft"
    )


async def test_a_fault_while_the_client_is_there_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Client(AsgiInterface(strict, CONFIG)) as client:
        assert (await client.post("/up", body=b"12345")).status == 500
    (line,) = lines_of(caplog, logging.ERROR)
    assert "unhandled error in the application" in line


@pytest.mark.parametrize("kind", ["asgi", "rsgi", "ssgi"])
async def test_who_waits_for_the_client_to_leave_hears_of_a_half_close(kind: str) -> None:
    """A client that closes its socket says no more than that it sends no more."""
    waiting, heard = asyncio.Event(), asyncio.Event()

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waiting.set()
        assert (await receive())["type"] == "http.disconnect"
        heard.set()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"still there?"})

    async def rsgi(scope: Any, proto: Any) -> None:
        waiting.set()
        await proto.client_disconnect()
        heard.set()
        proto.response_str(200, [], "still there?")

    async def ssgi(res: Any) -> None:
        left = asyncio.Event()
        res.on_aborted(lambda res: left.set())
        assert not res.aborted
        waiting.set()
        await left.wait()
        assert res.aborted
        heard.set()
        res.send("still there?")

    made: Any = {
        "asgi": AsgiInterface(asgi, CONFIG),
        "rsgi": RsgiInterface(rsgi, CONFIG),
        "ssgi": SsgiInterface(ssgi_of(ssgi), CONFIG),
    }[kind]
    async with Client(made) as client:
        connection = client.connect()
        connection.send(GET)
        await waiting.wait()
        await turns(6)
        assert not heard.is_set()
        connection.transport.feed_eof()
        async with asyncio.timeout(10):
            await heard.wait()
        # One that has only closed its direction still gets its answer.
        assert (await connection.response()).text == "still there?"
        await connection.closed()
