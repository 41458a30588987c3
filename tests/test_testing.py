"""The client in memory, and applications under test."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from asphalt.core import Component, Context

from kyoukai.app import Kyoukai
from kyoukai.blueprint import Blueprint
from kyoukai.context import HTTPRequestContext
from kyoukai.stream import StreamState
from kyoukai.testing import Client, MemoryServer, MemoryTransport, TestKyoukai


def make_app() -> Kyoukai:
    app = Kyoukai("test")

    @app.route("/", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def index(ctx: HTTPRequestContext) -> dict[str, Any]:
        request = ctx.request
        return {
            "method": request.method,
            "query": request.query_string.decode(),
            "body": request.get_data(as_text=True),
            "type": request.headers.get("Content-Type"),
            "header": request.headers.get("X-A"),
        }

    return app


# -- The client --------------------------------------------------------------------------------


async def test_methods() -> None:
    async with Client(make_app()) as client:
        for method in ("get", "post", "put", "patch", "delete"):
            response = await getattr(client, method)("/?q=1", headers={"X-A": "b"})
            assert response.status == 200
            answer = response.json()
            assert answer["method"] == method.upper()
            assert (answer["query"], answer["header"]) == ("q=1", "b")
        response = await client.head("/")
        assert (response.status, response.body) == (200, b"")
        assert int(response.headers["Content-Length"]) > 0
        response = await client.options("/")
        assert response.status == 204
        assert "DELETE" in response.headers["Allow"]
        assert (await client.get("/")).reason == "OK"


@pytest.mark.parametrize(
    "options, body, kind",
    [
        ({"body": b"bytes"}, "bytes", None),
        ({"body": "töxt"}, "töxt", None),
        ({"json": {"a": 1}}, '{"a":1}', "application/json"),
        ({"chunks": [b"ab", b"", b"cd"]}, "abcd", None),
        ({"body": b""}, "", None),
    ],
)
async def test_bodies(options: dict[str, Any], body: str, kind: str | None) -> None:
    async with Client(make_app()) as client:
        answer = (await client.post("/", **options)).json()
        assert (answer["body"], answer["type"]) == (body, kind)


async def test_one_connection_for_all_requests() -> None:
    async with Client(make_app()) as client:
        for _ in range(3):
            await client.get("/")
            assert len(client.server.connections) == 1


async def test_a_new_connection_after_one_that_closed() -> None:
    async def app(stream: StreamState) -> None:
        await stream.send_response(200, ((b"connection", b"close"),), b"bye")

    async with Client(app) as client:
        assert (await client.get("/")).text == "bye"
        assert (await client.get("/")).text == "bye"
        assert (await client.post("/", body=b"x" * 100_000)).text == "bye"
        assert (await client.get("/")).text == "bye"


async def test_settings_reach_the_server() -> None:
    async with make_and_wrap().client(max_body_size=3) as client:
        assert (await client.post("/", body=b"abc")).status == 200
        assert (await client.post("/", body=b"abcd")).status == 413
        assert client.server.config.access_log is False


def make_and_wrap() -> TestKyoukai:
    return TestKyoukai.wrap_existing_app(make_app())


async def test_streamed_answers_trailers_and_interim_answers() -> None:
    app = Kyoukai("test")

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> Any:
        await ctx.early_hints(["</a.css>; rel=preload"])
        ctx.trailers["X-Sum"] = "3"

        async def body() -> Any:
            for part in ("a", "b", "c"):
                yield part

        return body()

    async with Client(app) as client:
        response = await client.get("/")
        assert response.text == "abc"
        assert response.trailers["x-sum"] == "3"
        ((status, headers),) = response.informational
        assert status == 103
        assert headers["Link"] == "</a.css>; rel=preload"
        assert (await client.get("/")).text == "abc"


async def test_an_answer_that_is_cut_short_is_a_connection_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(stream: StreamState) -> None:
        stream.send_head(200, ((b"content-length", b"10"),))
        await stream.send_data(b"abc")

    async with Client(app) as client:
        with pytest.raises(ConnectionError):
            await client.get("/")
    assert "did not end its answer" in caplog.text


async def test_life_of_the_application() -> None:
    app = make_app()
    seen: list[str] = []

    class Part(Component):
        async def start(self, ctx: Context) -> None:
            seen.append("component")
            ctx.add_resource("thing", name="thing")

    app.add_component("part", Part)

    @app.before_serving
    async def before(ctx: Context) -> None:
        assert ctx.require_resource(str, "thing") == "thing"
        seen.append("before")

    @app.while_serving
    async def during(ctx: Context) -> Any:
        seen.append("up")
        yield
        seen.append("down")

    @app.after_serving
    async def after(ctx: Context) -> None:
        seen.append("after")

    async with Client(app) as client:
        assert seen == ["component", "before", "up"]
        assert (await client.get("/")).status == 200
    assert seen == ["component", "before", "up", "down", "after"]


async def test_leaving_a_client_ends_what_runs() -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def app(stream: StreamState) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Client(app) as client:
        client.connect().request("GET", "/")
        await begun.wait()
    assert ended.is_set()
    assert not client.server.connections.open


# -- The connection ----------------------------------------------------------------------------


async def test_bytes_as_they_are() -> None:
    async with Client(make_app()) as client:
        connection = client.connect(peername=("10.0.0.1", 1))
        connection.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD")
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET")
        assert (await connection.response()).body == b""
        assert (await connection.response()).json()["method"] == "GET"
        await connection.closed()
        with pytest.raises(ConnectionError):
            await connection.response()


async def test_a_transport_is_slow_when_held() -> None:
    events: list[str] = []

    async def app(stream: StreamState) -> None:
        stream.send_head(200, ())
        await stream.send_data(b"x" * 2000)
        events.append("sent")
        await stream.end()

    server = MemoryServer(app, write_buffer_size=1024)
    connection = server.connect()
    connection.transport.hold()
    connection.request("GET", "/")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert events == []
    assert connection.transport.get_write_buffer_size() > 1024
    data = connection.transport.release()
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    await connection.transport.changed.wait()
    await asyncio.sleep(0)
    assert events == ["sent"]
    connection.close()
    await server.connections.wait_idle()


async def test_reading_goes_on_in_a_later_turn() -> None:
    """As with sockets: a protocol that resumes reading is not called back from within."""

    class Taker(asyncio.Protocol):
        def __init__(self) -> None:
            self.taken: list[bytes] = []

        def data_received(self, data: bytes) -> None:
            self.taken.append(data)

    protocol = Taker()
    transport = MemoryTransport(protocol)
    transport.pause_reading()
    transport.feed(b"a")
    assert protocol.taken == []
    transport.resume_reading()
    assert protocol.taken == []
    await asyncio.sleep(0)
    assert protocol.taken == [b"a"]


async def test_a_body_that_ends_with_the_connection() -> None:
    async def app(stream: StreamState) -> None:
        stream.send_head(200, ())
        await stream.send_data(b"abc")
        await stream.end()

    async with Client(app) as client:
        connection = client.connect()
        connection.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await connection.response()).text == "abc"


# -- Applications under test -------------------------------------------------------------------


async def test_inject_request() -> None:
    app = make_and_wrap()
    response = await app.inject_request({"X-A": "b"}, "/?q=1", "POST", body="töxt")
    assert response.status_code == 200
    assert response.get_json() == {
        "method": "POST",
        "query": "q=1",
        "body": "töxt",
        "type": None,
        "header": "b",
    }
    assert (await app.inject_request({}, "/missing")).status_code == 404
    assert (await app.inject_request({}, "/", "BREW")).status_code == 405


async def test_inject_request_with_a_base_context() -> None:
    async with Context() as base:
        base.add_resource("thing", name="thing")
        app = TestKyoukai("test", base_context=base)

        @app.route("/")
        async def index(ctx: HTTPRequestContext) -> str:
            return ctx.require_resource(str, "thing")

        response = await app.inject_request({}, "/")
        assert response.get_data() == b"thing"


async def test_a_blueprint_for_the_length_of_a_test() -> None:
    app = make_and_wrap()
    before = app.root
    with app.testing_bp() as blueprint:
        assert isinstance(blueprint, Blueprint)

        @blueprint.route("/new")
        async def new(ctx: HTTPRequestContext) -> str:
            return "new"

        assert (await app.inject_request({}, "/new")).get_data() == b"new"
        assert (await app.inject_request({}, "/")).status_code == 404
    assert app.root is before
    assert (await app.inject_request({}, "/new")).status_code == 404
    assert (await app.inject_request({}, "/")).status_code == 200


async def test_a_blueprint_goes_away_after_an_error() -> None:
    app = TestKyoukai("test")
    before = app.root
    with pytest.raises(LookupError), app.testing_bp():
        raise LookupError
    assert app.root is before


async def test_wrapping_leaves_the_application_alone() -> None:
    app = make_app()
    wrapped = TestKyoukai.wrap_existing_app(app)
    assert wrapped.name == app.name
    assert wrapped.root is app.root
    with wrapped.testing_bp():
        async with Client(app) as client:
            assert (await client.get("/")).status == 200


# -- Applications of other kinds ------------------------------------------------------------------


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode()]


@pytest.mark.parametrize("interface", ["auto", "wsgi"])
async def test_a_client_of_another_kind_of_application(interface: str) -> None:
    async with Client(wsgi, interface=interface) as client:
        assert (await client.get("/here")).text == "/here"


async def test_a_client_reaches_what_is_mounted() -> None:
    app = Kyoukai("site")
    app.mount("/below", wsgi)
    async with Client(app) as client:
        assert (await client.get("/below/here")).text == "/here"


async def test_a_process_that_was_forked_starts_the_application_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Kyoukai("site")
    started = []

    @app.before_serving
    async def before(ctx: Any) -> None:
        started.append(os.getpid())

    async with Client(app), Client(app):
        assert len(started) == 1
        monkeypatch.setattr(os, "getpid", lambda: -1)  # as a child sees itself
        async with Client(app):
            assert started[1:] == [-1]
