"""ASGI 2, and what asgiref, the reference, has for servers and applications."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from asgiref.compatibility import double_to_single_callable, guarantee_single_callable
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from asgiref.wsgi import WsgiToAsgi
from interfaces.asgi_peers import ask, body, hosted, interface, sends, sound, start, wires  # noqa: F401
from talks import both, converse, lines_of, turns

from kyoukai.testing import Client

# -- ASGI 2 ------------------------------------------------------------------------------------


class Double:
    """An application of ASGI 2: a class that is made for each scope."""

    scopes: list[Any] = []

    def __init__(self, scope: Any) -> None:
        self.scope = scope
        Double.scopes.append(scope)

    async def __call__(self, receive: Any, send: Any) -> None:
        kind = self.scope["type"]
        if kind == "lifespan":
            await receive()
            self.scope["state"]["started"] = True
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif kind == "http":
            await receive()
            await sends(start(), body(b"double"))(self.scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "double"})


def double_function(scope: Any) -> Any:
    return Double(scope)


@both
@pytest.mark.parametrize("app", [Double, double_function])
async def test_a_double_callable(http2: bool, app: Any, caplog: pytest.LogCaptureFixture) -> None:
    Double.scopes.clear()
    async with Client(interface(app, lifespan="on")) as client:
        assert (await client.get("/")).body == b"double"
        assert (await converse(client, http2=http2)).messages == ("double",)
    lifespan, http, websocket = Double.scopes
    assert lifespan["asgi"] == {"version": "2.0", "spec_version": "2.0"}
    assert http["asgi"] == websocket["asgi"] == {"version": "2.0", "spec_version": "2.5"}
    assert http["state"] == {"started": True}
    assert lines_of(caplog) == []


async def test_a_double_callable_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    def app(scope: Any) -> Any:
        raise LookupError

    assert (await ask(app)).status == 500
    assert lines_of(caplog) == [
        "GET /: asgi application test:app: unhandled error in the application"
    ]


# -- asgiref.compatibility ---------------------------------------------------------------------


@wires
@pytest.mark.parametrize("wrap", [double_to_single_callable, guarantee_single_callable])
async def test_what_asgiref_makes_of_double_callables(wire: str, wrap: Any) -> None:
    assert (await ask(wrap(Double), wire)).body == b"double"


# -- asgiref.testing ---------------------------------------------------------------------------


async def test_the_reference_sees_what_we_send() -> None:
    """The same application, driven by asgiref with our scope, and by us: the same messages."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        parts = []
        while True:
            message = await receive()
            parts.append(message["body"])
            if not message["more_body"]:
                break
        await send(start(201, (b"content-type", b"text/plain")))
        await send(body(b"|".join(parts)))

    async with hosted(app) as peer:
        peer.request("POST", "/a?b", body=b"abc")
        response = await peer.response()
    communicator = ApplicationCommunicator(app, scopes[0])
    await communicator.send_input({"type": "http.request", "body": b"abc", "more_body": False})
    head = await communicator.receive_output()
    assert (head["status"], response.status) == (201, 201)
    assert (await communicator.receive_output())["body"] == response.body == b"abc"
    await communicator.wait()


# -- asgiref.wsgi ------------------------------------------------------------------------------


@wires
async def test_a_wsgi_application_in_asgirefs_adapter(
    wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As asgiref tests its adapter, with a server around it."""
    environs = []

    def app(environ: Any, start_response: Any) -> Any:
        environs.append(environ)
        size = int(environ.get("CONTENT_LENGTH") or 0)
        content = environ["wsgi.input"].read(size)
        start_response("200 OK", [("Content-Type", "text/plain"), ("X-A", "1"), ("X-A", "2")])
        return [b"first ", b"second ", content]

    async with hosted(WsgiToAsgi(app), wire) as peer:
        for _ in range(2):
            peer.request("POST", "/a%20b?q=1", headers=[("X-B", "3")], body=b"third")
            response = await peer.response()
            assert (response.status, response.body) == (200, b"first second third")
            assert response.headers.getlist("x-a") == ["1", "2"]
    environ = environs[0]
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a b", "q=1")
    assert (environ["HTTP_X_B"], environ["CONTENT_LENGTH"]) == ("3", "5")
    assert lines_of(caplog) == []


@wires
async def test_a_wsgi_application_that_fails_in_asgirefs_adapter(
    wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise LookupError

    assert (await ask(WsgiToAsgi(app), wire)).status == 500
    assert len(lines_of(caplog)) == 1


# -- asgiref.sync ------------------------------------------------------------------------------


@wires
async def test_send_from_threads(wire: str) -> None:
    """What Django does: synchronous code in a thread, which sends through the loop."""
    threads = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        def work() -> None:
            threads.append(threading.current_thread() is threading.main_thread())
            message = async_to_sync(receive)()
            async_to_sync(send)(start())
            async_to_sync(send)(body(message["body"], True))
            async_to_sync(send)(body(b"!"))

        await sync_to_async(work)()

    async with hosted(app, wire) as peer:
        for _ in range(3):
            peer.request("POST", "/", body=b"hello")
            assert (await peer.response()).body == b"hello!"
            await turns()
    assert threads == [False] * 3


@wires
async def test_send_is_what_tasks_take(wire: str) -> None:
    """``create_task`` and ``wait_for`` take coroutines only, so ``send`` makes one."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.wait_for(receive(), 10)
        await asyncio.create_task(send(start()))
        await asyncio.gather(send(body(b"a", True)), send(body(b"b", True)))
        await asyncio.wait_for(send(body(b"c")), 10)

    assert (await ask(app, wire)).body == b"abc"
