"""The names of Kyoukai 2's HTTP/2 backend, which are importable with their signatures."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kyoukai.app import Kyoukai
from kyoukai.asphalt import KyoukaiBaseComponent
from kyoukai.backends import http2
from kyoukai.exceptions import BodyNotReady
from kyoukai.stream import StreamState
from kyoukai.testing import MemoryServer

from .. import frames as f
from ..frames import FrameClient
from ..support import Stage, turns

FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "localhost"),
    (":path", "/a%20b?c=d"),
    ("x-a", "1"),
    ("content-type", "text/plain"),
]


def parameters(function: Any) -> dict[str, Any]:
    """The names of a function's parameters, with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self"
    }


@asynccontextmanager
async def state() -> AsyncIterator[tuple[http2.H2State, FrameClient]]:
    """A state that was made by hand."""
    async with MemoryServer(Stage(), http2.H2KyoukaiProtocol) as server:
        client = FrameClient(server)
        yield http2.H2State(FIELDS, 1, client.protocol), client


def test_what_there_is() -> None:
    assert {
        "H2KyoukaiComponent",
        "H2KyoukaiProtocol",
        "H2State",
        "create_wsgi_environment",
        "get_header",
    } == set(http2.__all__)


def test_signatures() -> None:
    empty = inspect.Parameter.empty
    assert parameters(http2.get_header) == {"headers": empty, "name": empty}
    assert parameters(http2.create_wsgi_environment) == {"r": empty}
    assert parameters(http2.H2State) == {"headers": empty, "stream_id": empty, "protocol": empty}
    assert parameters(http2.H2State.read_async) == {"to_end": True}
    assert parameters(http2.H2State.read) == {"size": -1}
    assert parameters(http2.H2State.get_chunk) == {}
    assert list(parameters(http2.H2KyoukaiProtocol)) == ["component", "parent_context"]
    assert list(parameters(http2.H2KyoukaiProtocol.sending_loop)) == ["stream_id"]
    assert list(parameters(http2.H2KyoukaiProtocol.stream_complete)) == ["event"]
    assert parameters(http2.H2KyoukaiProtocol.close) == {"error_code": 0}
    assert list(parameters(http2.H2KyoukaiProtocol.connection_made)) == ["transport"]
    assert list(parameters(http2.H2KyoukaiProtocol.data_received)) == ["data"]
    for name in ("eof_received", "pause_writing", "resume_writing"):
        assert parameters(getattr(http2.H2KyoukaiProtocol, name)) == {}


def test_kinds() -> None:
    assert issubclass(http2.H2KyoukaiProtocol, asyncio.Protocol)
    assert issubclass(http2.H2KyoukaiComponent, KyoukaiBaseComponent)
    assert issubclass(http2.H2State, StreamState)
    assert inspect.iscoroutinefunction(http2.H2State.read_async)
    assert inspect.iscoroutinefunction(http2.H2KyoukaiProtocol.sending_loop)


def test_the_component() -> None:
    signature = inspect.signature(http2.H2KyoukaiComponent)
    names = list(signature.parameters)
    assert names[:3] == ["app", "ssl_keyfile", "ssl_certfile"]
    for name, default in (("ip", "127.0.0.1"), ("port", 4444)):
        parameter = signature.parameters[name]
        assert parameter.default == default
        assert parameter.kind is parameter.KEYWORD_ONLY


async def test_the_components_protocol() -> None:
    """It is an attribute of a subclass."""

    class Polite(http2.H2KyoukaiProtocol):
        pass

    class Site(http2.H2KyoukaiComponent):
        protocol_class = Polite

    app = Kyoukai("test")
    component = http2.H2KyoukaiComponent(app, "a-key.pem", "a.pem")
    assert component.protocol_class is http2.H2KyoukaiProtocol
    site = Site(app, "a-key.pem", "a.pem")
    assert site.protocol_class is site.h2_protocol_class is Polite


async def test_the_name_of_the_components_server() -> None:
    app = Kyoukai("test")
    component = http2.H2KyoukaiComponent(app, "a-key.pem", "a.pem")
    assert component.get_server_name() == "127.0.0.1:4444"
    assert (component.config.keyfile, component.config.certfile) == ("a-key.pem", "a.pem")
    named = Kyoukai("test", server_name="example.com")
    assert http2.H2KyoukaiComponent(named, "k", "c").get_server_name() == "example.com"


async def test_the_protocol_without_a_context() -> None:
    """Seed 002 gives one; streams of protocols that are made by hand may do without."""
    async with MemoryServer(Stage(), http2.H2KyoukaiProtocol) as server:
        assert http2.H2KyoukaiProtocol(server, None).parent_context is None
        assert http2.H2KyoukaiProtocol(server).parent_context is None


def test_get_header() -> None:
    headers = [(":path", "/"), ("x-a", "1"), ("x-a", "2"), ("x-empty", "")]
    assert http2.get_header(headers, "x-a") == "1"
    assert http2.get_header(headers, ":path") == "/"
    assert http2.get_header(headers, "x-empty") == ""
    assert http2.get_header(headers, "x-b") is None
    assert http2.get_header([], "x-b") is None


async def test_headers_are_text() -> None:
    async with MemoryServer(Stage(), http2.H2KyoukaiProtocol) as server:
        stage: Any = server.interface
        client = FrameClient(server)
        pairs = [(name.encode(), value.encode()) for name, value in FIELDS]
        client.send(f.headers(1, pairs, end=False))
        stream = await stage.next()
        assert isinstance(stream, http2.H2State)
        assert stream.stream_id == 1
        assert stream.protocol is client.protocol
        assert stream.headers == FIELDS
        assert stream.headers is stream.headers
        assert http2.get_header(stream.headers, "x-a") == "1"
        assert client.protocol.streams == {1: stream}


async def test_a_state_made_by_hand() -> None:
    async with state() as (made, _):
        assert made.headers == FIELDS
        assert (made.head.method, made.head.path, made.head.query) == ("POST", "/a b", b"c=d")
        assert made.head.http_version == "2"
        assert made.head.headers[0] == (b"host", b"localhost")


async def test_reading_asynchronously() -> None:
    async with state() as (made, _):
        whole = asyncio.ensure_future(made.read_async())
        await turns()
        made.insert_data(b"abc")
        made.insert_data(b"def", 300)
        await turns()
        assert not whole.done()
        made.stream_complete()
        assert await whole == b"abcdef"
        assert made.read(2) == b"ab"
        assert made.read() == b"cdef"


async def test_reading_chunks() -> None:
    async with state() as (made, _):
        made.insert_data(b"a" * 2000)
        made.insert_data(b"b" * 2000)
        assert await made.get_chunk() == b"a" * 2000
        assert await made.read_async(to_end=False) == b"b" * 2000
        chunk = asyncio.ensure_future(made.get_chunk())
        await turns()
        assert not chunk.done()
        made.stream_complete()
        assert await chunk == b""
        assert await made.get_chunk() == b""


async def test_reading_at_once() -> None:
    async with state() as (made, _):
        made.insert_data(b"abc")
        with pytest.raises(BodyNotReady):
            made.read()
        made.stream_complete()
        assert made.read(1) == b"a"
        assert made.read(-1) == b"bc"
        assert made.read() == b""


async def test_the_environ() -> None:
    async with state() as (made, _):
        environ = http2.create_wsgi_environment(made)
        made.insert_data(b"abc")
        made.stream_complete()
        expected = {
            "REQUEST_METHOD": "POST",
            "SERVER_PROTOCOL": "HTTP/2",
            "PATH_INFO": "/a b",
            "QUERY_STRING": "c=d",
            "SCRIPT_NAME": "",
            "HTTP_HOST": "localhost",
            "HTTP_X_A": "1",
            "CONTENT_TYPE": "text/plain",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.url_scheme": "http",
            "wsgi.input_terminated": True,
        }
        assert {key: environ.get(key) for key in expected} == expected
        assert not any(":" in key for key in environ)
        assert environ["wsgi.input"].read() == b"abc"


async def test_the_methods_of_the_protocol() -> None:
    """By hand, as seed 002's users would: what h2's events do otherwise."""
    async with MemoryServer(Stage(), http2.H2KyoukaiProtocol) as server:
        stage: Any = server.interface
        client = FrameClient(server)
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 2}), f.headers(1))
        stream = await stage.next()
        sending = asyncio.ensure_future(stream.send_response(200, (), b"abcd"))
        await turns()
        waiting = asyncio.ensure_future(client.protocol.sending_loop(1))
        waiting.cancel()
        assert not sending.done()
        client.protocol.pause_writing()
        client.send(f.window_update(1, 1))
        await turns()
        assert [x.payload for x in client.take() if x.kind == f.DATA] == [b"ab"]
        client.protocol.resume_writing()
        await turns()
        assert [x.payload for x in client.take() if x.kind == f.DATA] == [b"ab", b"c"]
        client.send(f.window_update(1, 1))
        await sending
        assert not client.protocol.eof_received()
