"""Proxied requests on an application's way: middlewares, error handlers, steps; and settings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns
from fronts import both, front
from support import Program, get
from talks import lines_of
from test_asphalt import fetch, started
from upstreams import OK, ScriptedUpstream, Seen, Wire
from werkzeug.exceptions import Forbidden

from kyoukai import (
    Kyoukai,
    KyoukaiComponent,
    Middleware,
    Proxy,
    ProxyResponse,
    Response,
    ServerConfig,
)
from kyoukai.exceptions import ConfigurationError
from kyoukai.interfaces.build import interface_for
from kyoukai.mount import Mount
from kyoukai.pipeline import RequestPipeline
from kyoukai.proxy_component import KyoukaiProxyComponent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = CHUNKED + b"4\r\nbody\r\n0\r\n\r\n"


@pytest.fixture(autouse=True)
def nothing_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No task may fail without anybody who sees it."""
    yield
    records = caplog.get_records("call")
    assert [r.getMessage() for r in records if r.name == "asyncio"] == []


class Step(Middleware):
    """Writes down when it is called, and does what it is told."""

    def __init__(
        self, name: str, log: list[str], request: Any = None, response: Any = None
    ) -> None:
        self.name, self.log = name, log
        self.does = (request, response)

    async def process_request(self, ctx: Any) -> Any:
        self.log.append(f"{self.name} in")
        return await self.does[0](ctx) if self.does[0] else None

    async def process_resource(self, ctx: Any, resource: Any, params: Any) -> None:
        self.log.append(f"{self.name} resource")

    async def process_response(self, ctx: Any, response: Any) -> Any:
        self.log.append(f"{self.name} out {response.status_code}")
        return await self.does[1](ctx, response) if self.does[1] else None


def app_of(up: ScriptedUpstream, *steps: Middleware, prefix: str = "/", **options: Any) -> Kyoukai:
    app = Kyoukai("front", middleware=list(steps))

    @app.route("/native")
    async def native(ctx: Any) -> str:
        return "native"

    app.mount(prefix, Proxy(up.url, **options))
    return app


def only(request: Any = None, response: Any = None) -> Step:
    return Step("only", [], request, response)


# -- The order ---------------------------------------------------------------------------------


@both
async def test_middlewares_in_order_and_back(wire: Any) -> None:
    log: list[str] = []
    contexts = []

    async def look(ctx: Any, response: Any) -> None:
        assert isinstance(response, ProxyResponse)
        assert response.is_passed_on
        contexts.append((ctx.route, ctx.exception, ctx.request.path, ctx.request.method))

    async def answer(seen: Seen, wire: Wire) -> bytes:
        log.append("server")
        return BODY

    async with ScriptedUpstream(answer) as up:
        app = app_of(up, Step("a", log, response=look), Step("b", log), Step("c", log))
        async with front(app, wire) as fr:
            talk = await fr.ask("GET", "/x/y?q")
            assert (talk.status, talk.body) == (200, b"body")
            assert log == ["a in", "b in", "c in", "server", "c out 200", "b out 200", "a out 200"]
            assert contexts == [(None, None, "/x/y", "GET")]
            log.clear()
            assert (await fr.ask("GET", "/native")).body == b"native"
            assert "a resource" in log
            assert "server" not in log


@both
async def test_a_middleware_answers_first(wire: Any) -> None:
    log: list[str] = []

    async def answers(ctx: Any) -> str:
        return "from b"

    async def refuses(ctx: Any) -> None:
        raise Forbidden

    async with ScriptedUpstream() as up:
        app = app_of(up, Step("a", log), Step("b", log, answers), Step("c", log))
        async with front(app, wire) as fr:
            talk = await fr.ask("POST", "/x", body=b"x" * 1000)
            assert (talk.status, talk.body) == (200, b"from b")
            assert log == ["a in", "b in", "b out 200", "a out 200"]
        log.clear()
        async with front(app_of(up, Step("a", log), Step("b", log, refuses)), wire) as fr:
            assert (await fr.ask()).status == 403
            assert log == ["a in", "b in", "b out 403", "a out 403"]
        assert up.wires == []


@both
async def test_failures_pass_back_too(wire: Any) -> None:
    log: list[str] = []
    async with (
        ScriptedUpstream(b"junk\r\n") as up,
        front(app_of(up, Step("a", log), Step("b", log)), wire) as fr,
    ):
        assert (await fr.ask()).status == 502
    assert log == ["a in", "b in", "b out 502", "a out 502"]


# -- The response ------------------------------------------------------------------------------


@both
async def test_status_and_headers_are_changed(wire: Any) -> None:
    async def change(ctx: Any, response: Any) -> None:
        response.status_code = 203
        response.headers["X-New"] = "1"
        del response.headers["X-Old"]
        response.set_cookie("own", "2")

    lines = b"X-Old: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nTransfer-Encoding: chunked\r\n"
    answer = b"HTTP/1.1 200 OK\r\n%b\r\n4\r\nbody\r\n0\r\n\r\n" % lines
    async with ScriptedUpstream(answer) as up, front(app_of(up, only(None, change)), wire) as fr:
        talk = await fr.ask()
        assert (talk.status, talk.body) == (203, b"body")
        assert talk.headers["x-new"] == "1"
        assert "x-old" not in talk.headers
        await fr.rest()
        assert fr.upstream.open == 1


@both
@pytest.mark.parametrize("how", ["another", "set_data", "string"])
@pytest.mark.parametrize("complete", [True, False])
async def test_another_body(wire: Any, how: str, complete: bool) -> None:
    """The server's connection is not kept for a body that nobody will take."""

    async def change(ctx: Any, response: Any) -> Any:
        if how == "another":
            return Response("another", status=201)
        if how == "set_data":
            response.set_data("set_data")
            return response
        return "string"

    async def answer(seen: Seen, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nETag: x\r\n\r\n")
        try:
            await wire.send(b"x" * (1_000_000 if complete else 1000))
        except OSError:
            return
        await wire.read()

    async with ScriptedUpstream(answer) as up, front(app_of(up, only(None, change)), wire) as fr:
        talk = await fr.ask()
        assert talk.body == how.encode()
        assert talk.headers["content-length"] == str(len(how))
        assert talk.status == {"another": 201, "set_data": 200, "string": 200}[how]
        await fr.rest()
        assert fr.upstream.open == 0
        await up.wires[0].closed.wait()


@both
async def test_another_body_is_another_version(wire: Any) -> None:
    """No condition of the server's version is true of it, no digest and no range."""

    async def change(ctx: Any, response: Any) -> Any:
        response.set_data("another")

    told = {
        "accept-ranges": "bytes",
        "content-digest": "sha-256=:x:",
        "content-encoding": "br",
        "content-location": "/b",
        "content-md5": "x",
        "digest": "sha-256=x",
        "etag": '"x"',
        "last-modified": "Mon, 20 Nov 1995 19:12:08 GMT",
        "repr-digest": "sha-256=:x:",
    }
    kept = {"cache-control": "no-cache", "content-language": "de", "x-y": "z"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in (told | kept).items())
    answer = f"HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok".encode()
    asks = [("if-modified-since", told["last-modified"]), ("range", "bytes=0-1")]
    async with ScriptedUpstream(answer) as up, front(app_of(up, only(None, change)), wire) as fr:
        for headers in ((), asks):
            talk = await fr.ask("GET", "/", headers)
            assert (talk.status, talk.body) == (200, b"another")
            assert kept.items() <= talk.headers.items()
            assert told.keys() & talk.headers.keys() == set()


@both
@pytest.mark.parametrize("answer", [OK, BODY], ids=["whole", "chunked"])
async def test_an_answer_that_is_closed_on_its_way(
    wire: Any, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be sent, which nobody would know."""

    async def drop(ctx: Any, response: Any) -> None:
        response.close()

    async with ScriptedUpstream(answer) as up, front(app_of(up, only(None, drop)), wire) as fr:
        talk = await fr.ask()
        assert talk.cut
        await fr.rest()
        assert lines_of(caplog) == [
            f"GET /: upstream {up.url}: its answer was dropped: the response was closed"
        ]


@both
async def test_process_response_that_fails(wire: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(ctx: Any, response: Any) -> None:
        raise RuntimeError("oops")

    log: list[str] = []
    async with ScriptedUpstream(BODY) as up:
        app = app_of(up, Step("a", log), Step("b", log, None, fail))
        async with front(app, wire) as fr:
            talk = await fr.ask()
            assert (talk.status, talk.body) == (200, b"body")  # it goes out as it was
            await fr.rest()
            assert fr.upstream.open == 1
    assert log[-1] == "a out 200"
    (line,) = lines_of(caplog)
    assert "process_response of" in line


@both
async def test_a_middleware_that_reads_the_whole_answer(wire: Any) -> None:
    """With what it makes of it sent in its place."""

    async def shout(ctx: Any, response: Any) -> Response:
        text = b"".join([data async for data in response.response])
        return Response(text.upper())

    async with ScriptedUpstream(BODY) as up, front(app_of(up, only(None, shout)), wire) as fr:
        talk = await fr.ask()
        assert (talk.status, talk.body) == (200, b"BODY")
        await fr.rest()
        assert fr.upstream.open == 1


@both
@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_what_has_no_body(wire: Any, method: str) -> None:
    status = b"200 OK" if method == "HEAD" else b"304 Not Modified"
    answer = b'HTTP/1.1 %b\r\nContent-Length: 999\r\nETag: "x"\r\n\r\n' % status
    async with ScriptedUpstream(answer) as up, front(app_of(up, only()), wire) as fr:
        for _ in range(2):
            talk = await fr.ask(method)
            assert talk.status == int(status[:3])
            assert talk.body == b""
            assert talk.headers["etag"] == '"x"'
            await fr.rest()
        assert len(up.wires) == 1


# -- The request -------------------------------------------------------------------------------


@both
async def test_a_middleware_that_keeps_the_body(wire: Any) -> None:
    async def read(ctx: Any) -> None:
        assert len(await ctx.request.read_async()) == 100_000

    async with ScriptedUpstream() as up, front(app_of(up, only(read)), wire) as fr:
        assert (await fr.ask("POST", body=b"x" * 100_000)).status == 200
        talk = fr.talk()
        talk.begin("POST")
        talk.send(b"y" * 60_000)
        talk.send(b"y" * 40_000)
        talk.end()
        assert await talk.answer() == 200
        assert [seen.body for seen in up.requests] == [b"x" * 100_000, b"y" * 100_000]
        assert up.wrong == []
        await fr.rest()


@both
async def test_a_middleware_that_takes_the_body(
    wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What it did not keep cannot be passed on; and half a request never is."""

    async def take(ctx: Any) -> None:
        if ctx.request.path == "/some":
            await ctx.request.read_async(False)
            return
        async for _ in ctx.request.chunks():
            pass

    async with ScriptedUpstream() as up, front(app_of(up, only(take)), wire) as fr:
        for path in ("/some", "/all"):
            talk = await fr.ask("POST", path, body=b"x" * 100)
            assert talk.status == 500
        assert up.requests == []
        assert (await fr.ask("GET", "/some")).status == 200
    assert all("failed" in line for line in lines_of(caplog))
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert ["read and not kept" in str(error) for error in errors] == [True] * 2


@both
async def test_the_limit_of_a_mount(wire: Any) -> None:
    async with ScriptedUpstream() as up:
        app = Kyoukai("front", middleware=only())
        app.mount("/small", Proxy(up.url), max_body_size=10)
        app.mount("/", Proxy(up.url))
        async with front(app, wire, max_body_size=20) as fr:
            assert (await fr.ask("POST", "/small", body=b"x" * 10)).status == 200
            assert (await fr.ask("POST", "/small", body=b"x" * 11)).status == 413
            assert len(up.requests) == 1
            # The server's is for native routes: others have theirs.
            assert (await fr.ask("POST", "/", body=b"x" * 30)).status == 200


# -- Steps -------------------------------------------------------------------------------------


class Steps(RequestPipeline):
    """Overrides steps, and says so."""

    done: list[str]

    async def start_response(self, request: Any, response: Any = None) -> None:
        self.done.append("start_response")
        await super().start_response(request, response)

    async def get_response(self, request: Any) -> Any:
        self.done.append("get_response")
        return await super().get_response(request)

    async def finalize_response(self, response: Any, request: Any = None) -> Any:
        self.done.append("finalize_response")
        response.headers["X-Final"] = "1"
        return await super().finalize_response(response, request)

    async def send_response(self, response: Any, stream: Any, *rest: Any, **options: Any) -> None:
        self.done.append("send_response")
        await super().send_response(response, stream, *rest, **options)


@both
async def test_the_steps_of_a_pipeline(wire: Any) -> None:
    class Own(Steps):
        done: list[str] = []

    async with ScriptedUpstream(BODY) as up:
        app = Kyoukai("front", pipeline_class=Own)
        app.mount("/", Proxy(up.url))
        async with front(app, wire) as fr:
            talk = await fr.ask()
            assert (talk.status, talk.body) == (200, b"body")
            assert talk.headers["x-final"] == "1"
            assert Own.done[-4:] == [
                "start_response",
                "get_response",
                "finalize_response",
                "send_response",
            ]


# -- Handshakes --------------------------------------------------------------------------------


def switching(first: bytes = b"hello") -> Any:
    async def answer(seen: Seen, wire: Wire) -> None:
        await wire.send(
            b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: acme\r\nX-Up: 1\r\n\r\n" + first
        )
        while data := await wire.read():
            await wire.send(data.upper())

    return answer


TOKENS = {"upgrade_tokens": ["acme"]}


@both
async def test_handshakes_pass_middlewares(wire: Any) -> None:
    log: list[str] = []

    async def change(ctx: Any, response: Any) -> None:
        assert isinstance(response, ProxyResponse)
        response.headers["X-New"] = "1"
        del response.headers["X-Up"]

    async with ScriptedUpstream(switching()) as up:
        app = app_of(up, Step("a", log), Step("b", log, None, change))
        async with front(app, wire, **TOKENS) as fr:
            talk = fr.talk()
            talk.upgrade("acme")
            await talk.until(lambda talk: talk.body == b"hello")
            assert log == ["a in", "b in", "b out 101", "a out 101"]
            assert talk.headers["x-new"] == "1"
            assert "x-up" not in talk.headers
            talk.send(b"more")
            await talk.until(lambda talk: talk.body == b"helloMORE")
            talk.end()
            await talk.until(lambda talk: talk.done)
            await fr.rest()


@both
@pytest.mark.parametrize("where", ["request", "response", "status", "status alone"])
async def test_handshakes_may_be_denied(wire: Any, where: str) -> None:
    async def deny(ctx: Any, response: Any = None) -> Any:
        if "status" in where:
            response.status_code = 403
            if where == "status":
                response.set_data("no")
            return None
        return Response("no", status=403)

    step = only(deny) if where == "request" else only(None, deny)
    async with (
        ScriptedUpstream(switching()) as up,
        front(app_of(up, step), wire, **TOKENS) as fr,
    ):
        talk = fr.talk()
        talk.upgrade("acme")
        assert await talk.answer() == 403
        assert talk.body == (b"" if where == "status alone" else b"no")
        assert len(up.requests) == (where != "request")
        await fr.rest()
        assert fr.upstream.open == 0


@both
async def test_an_answer_becomes_no_tunnel(wire: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def change(ctx: Any, response: Any) -> None:
        response.status_code = 101

    async with (
        ScriptedUpstream(BODY) as up,
        front(app_of(up, only(None, change)), wire, **TOKENS) as fr,
    ):
        talk = fr.talk()
        talk.upgrade("acme")
        assert await talk.answer() == 500
        assert (await fr.ask()).status == 500
        await fr.rest()
    assert sum("cannot be sent" in line for line in lines_of(caplog)) == 2


@both
async def test_a_pipeline_of_ones_own_for_tunnels(wire: Any) -> None:
    class Own(RequestPipeline):
        seen: list[Any] = []

        async def handle_connection_upgrade(
            self, request: Any, response: Any, timeout: Any = None, buffer: Any = None
        ) -> None:
            self.seen.append((request.path, response.status_code, timeout, buffer))
            await super().handle_connection_upgrade(request, response, 0, 5000)
            self.seen.append("over")

    async with ScriptedUpstream(switching()) as up:
        app = Kyoukai("front", pipeline_class=Own)
        app.mount("/", Proxy(up.url))
        async with front(app, wire, **TOKENS) as fr:
            talk = fr.talk()
            talk.upgrade("acme", "/x")
            await talk.until(lambda talk: talk.body == b"hello")
            talk.end()
            await talk.until(lambda talk: talk.done)
            await fr.rest()
    assert Own.seen == [("/x", 101, None, None), "over"]


@both
async def test_an_upgrade_that_is_dropped_by_a_pipeline(wire: Any) -> None:
    class Own(RequestPipeline):
        async def handle_connection_upgrade(
            self, request: Any, response: Any, timeout: Any = None, buffer: Any = None
        ) -> None:
            response.close()
            raise Forbidden

    async with ScriptedUpstream(switching()) as up:
        app = Kyoukai("front", pipeline_class=Own)
        app.mount("/", Proxy(up.url))
        async with front(app, wire, **TOKENS) as fr:
            talk = fr.talk()
            talk.upgrade("acme")
            assert await talk.answer() in (403, 500)
            await fr.rest()
            assert fr.upstream.open == 0


# -- Settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"upstreams": "http://a", "read_timeout": 0}, "read_timeout must be greater than 0"),
        ({"upstreams": "http://a", "read_timeout": "x"}, "read_timeout"),
        ({"upstreams": "http://a", "buffer_size": 3}, "buffer_size must be at least 1024, not 3"),
        ({"upstreams": "http://a", "max_connections": 0}, "max_connections must be at least 1"),
        ({"upstreams": "http://a", "pool_size": -1}, "pool_size must be at least 0, not -1"),
        ({"upstreams": "http://a", "connect_timeout": float("nan")}, "connect_timeout"),
        ({"upstreams": "http://a", "balance": "random"}, "balance must be one of round_robin"),
        ({"upstreams": "http://a", "forwarded": "no"}, "forwarded must be one of x-forwarded"),
        ({"upstreams": "http://a", "host": "a b"}, "host: 'a b' is neither keep, nor upstream"),
        ({"upstreams": "http://a", "via": "a b"}, "via: 'a b' is no token"),
        ({"upstreams": "http://a", "ca": "x.pem"}, "ca is for https upstreams"),
        ({"upstreams": "https://a", "ca": "/no/x.pem"}, "ca: cannot read '/no/x.pem': no such"),
        ({"upstreams": "http://a", "readtimeout": 1}, "readtimeout"),
        ({"upstreams": []}, "upstreams is missing"),
        ({"upstreams": ["http://a", "http://a"]}, "upstreams: 'http://a' is there twice"),
        ({"upstreams": "ftp://a"}, "upstreams: 'ftp://a' is no upstream; write http://HOST"),
        ({"upstreams": "http://"}, "upstreams: 'http://' has no valid host"),
        ({"upstreams": "http://a:x"}, "upstreams: 'http://a:x' has no valid host and port"),
        ({"upstreams": "http://a:0"}, "nobody listens on port 0"),
        ({"upstreams": "http://a/?x"}, "may have a path, but no query"),
        ({"upstreams": "unix:"}, "upstreams: 'unix:' names no socket"),
        ({"upstreams": 7}, "upstreams"),
        ({"upstreams": "http://a", "app": "a:b"}, "give either app or upstreams"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as mounted:
        interface_for(
            Kyoukai("front"),
            ServerConfig(access_log=False),
            mounts=[Mount.from_setting("/legacy", settings)],
        )
    text = str(mounted.value)
    assert "\n" not in text
    assert text.startswith("mounts: /legacy: ")
    assert message in text
    if "app" not in settings and settings["upstreams"] and "ca" not in settings:
        with pytest.raises(ConfigurationError) as alone:
            KyoukaiProxyComponent(**settings)
        assert message in str(alone.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "upstreams"),
        ({"upstreams": "http://a", "reed_timeout": 3}, "reed_timeout"),
        ({"upstreams": "http://a", "app": "a:b", "mounts": {"/": "c:d"}}, "mounts: /"),
        ({"upstreams": "http://a", "app": "a:b", "mounts": 3}, "mounts must be a mapping"),
    ],
)
def test_wrong_keys_of_the_component(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        KyoukaiProxyComponent(**options)
    assert "\n" not in str(caught.value)


native = Kyoukai("native")


@native.route("/native")
async def _native(ctx: Any) -> str:
    return "native"


def says(name: bytes) -> Callable[[Seen], bytes]:
    def answer(seen: Seen) -> bytes:
        body = b"%b %b" % (name, seen.target.encode())
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    return answer


@pytest.mark.parametrize("form", ["component", "url", "mapping", "front", "front and mounts"])
async def test_forms_in_yaml(form: str) -> None:
    async with ScriptedUpstream(says(b"up"), tcp=True) as up:
        component: Any
        if form == "component":
            component = KyoukaiProxyComponent(upstreams=up.url, read_timeout=5, port=0)
        elif form == "url":
            component = KyoukaiComponent(native, port=0, mounts={"/": up.url})
        elif form == "mapping":
            mounts = {"/": {"upstreams": [up.url], "read_timeout": 5, "max_body_size": 3}}
            component = KyoukaiComponent(native, port=0, mounts=mounts)
        else:
            mounts = {"/other": f"{up.url}/base"} if "mounts" in form else None
            component = KyoukaiProxyComponent([up.url], app=native, port=0, mounts=mounts)
        async with started(component):
            port = component.server.port
            assert await fetch(port, "/x?y") == b"up /x?y"
            expected = b"up /native" if form == "component" else b"native"
            assert await fetch(port, "/native") == expected
            if form == "front and mounts":
                assert await fetch(port, "/other/x") == b"up /base/x"
        await turns()
        for wire in up.wires:
            await wire.closed.wait()


async def test_the_command_line(program: Callable[..., Program]) -> None:
    async with ScriptedUpstream(says(b"up"), tcp=True) as up:
        started = program("run", up.url, "--bind", "127.0.0.1:0")
        port = await asyncio.to_thread(started.port)
        assert await asyncio.to_thread(get, port, "/x?y") == (200, b"up /x?y")
        started.signal()
        assert await asyncio.to_thread(started.finish) == 0
    assert "Traceback" not in started.stderr


def test_a_wrong_url_on_the_command_line(program: Callable[..., Program]) -> None:
    started = program("run", "http://a:0", "--bind", "127.0.0.1:0")
    assert started.finish() != 0
    assert "upstreams: " in started.stderr
    assert "Traceback" not in started.stderr
