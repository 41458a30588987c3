"""Components that serve applications of other kinds, and several applications at once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from asphalt.core import Component, Context
from test_asphalt import fetch, make_app, started

from kyoukai import Kyoukai, KyoukaiComponent
from kyoukai.exceptions import ConfigurationError, KyoukaiError, TargetError
from kyoukai.server.listener import Server

#: What the applications below have lived through.
events: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    events.clear()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        scope["state"]["since"] = len(events)
        while True:
            message = await receive()
            events.append(message["type"])
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    text = f"asgi {scope['root_path']} {scope['path']} {scope['state']} {len(body)}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


async def failing(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [f"wsgi {environ['SCRIPT_NAME']} {environ['PATH_INFO']} {len(body)}".encode()]


def make_wsgi() -> Any:
    events.append("made")
    return wsgi


def target(name: str) -> str:
    return f"{__name__}:{name}"


def port_of(component: KyoukaiComponent) -> int | None:
    return component.server.port


@pytest.mark.parametrize(
    ("app", "keys", "label", "body"),
    [
        (asgi, {}, "asgi", b"asgi  /x {'since': 0} 0"),
        (target("asgi"), {}, "asgi", b"asgi  /x {'since': 0} 0"),
        (asgi, {"lifespan": "off"}, "asgi", b"asgi  /x {} 0"),
        (asgi, {"root_path": "/r", "interface": "asgi"}, "asgi", b"asgi /r /r/x {'since': 0} 0"),
        (wsgi, {}, "wsgi", b"wsgi  /x 0"),
        (target("make_wsgi"), {"factory": True}, "wsgi", b"wsgi  /x 0"),
        (make_wsgi, {"factory": True, "interface": "wsgi"}, "wsgi", b"wsgi  /x 0"),
    ],
)
async def test_an_application_of_another_kind(
    app: Any, keys: dict[str, Any], label: str, body: bytes
) -> None:
    component = KyoukaiComponent(app, port=0, **keys)
    async with started(component) as ctx:
        assert component.server.label == f"httptools, http2, {label}"
        assert await fetch(port_of(component), "/x") == body
        assert ctx.get_resource(Kyoukai) is None
        assert ctx.get_resource(Server, component.resource_name or "") is component.server
    assert events.count("lifespan.shutdown") == events.count("lifespan.startup") <= 1


async def test_several_kinds_behind_one_address() -> None:
    app = make_app()
    app.mount("/code", wsgi)
    component = KyoukaiComponent(
        app,
        port=0,
        mounts={
            "/asgi": target("asgi"),
            "/off": {"app": target("asgi"), "lifespan": "off"},
            "/wsgi": {"app": target("make_wsgi"), "factory": True, "interface": "wsgi"},
        },
    )
    async with started(component) as ctx:
        assert component.server.label == (
            "httptools, http2, kyoukai; /asgi: asgi, /off: asgi, /wsgi: wsgi, /code: wsgi"
        )
        port = port_of(component)
        assert await fetch(port) == b"hello"
        assert await fetch(port, "/asgi/x") == b"asgi /asgi /asgi/x {'since': 1} 0"
        assert await fetch(port, "/off") == b"asgi /off /off {} 0"
        assert await fetch(port, "/wsgi/y") == b"wsgi /wsgi /y 0"
        assert await fetch(port, "/code") == b"wsgi /code  0"
        assert ctx.require_resource(Kyoukai) is app
    assert events == ["made", "lifespan.startup", "lifespan.shutdown"]


async def test_two_components_share_what_a_factory_makes_and_a_lifespan() -> None:
    one, other = (
        KyoukaiComponent(
            asgi,
            port=0,
            resource_name=name,
            mounts={"/w": {"app": target("make_wsgi"), "factory": True}},
        )
        for name in ("one", "other")
    )
    async with started(one, other):
        for each in (one, other):
            assert await fetch(port_of(each), "/w") == b"wsgi /w  0"
            assert await fetch(port_of(each)) == b"asgi  / {'since': 1} 0"
        assert sorted(events) == ["lifespan.startup", "made"]
    assert sorted(events) == ["lifespan.shutdown", "lifespan.startup", "made"]


async def test_mounted_applications_have_their_components_and_hooks() -> None:
    inner = Kyoukai("inner")

    class Database(Component):
        async def start(self, ctx: Context) -> None:
            events.append("component")

    inner.add_component("database", Database)

    @inner.before_serving
    async def before(ctx: Context) -> None:
        events.append("before")

    @inner.after_serving
    async def after(ctx: Context) -> None:
        events.append("after")

    component = KyoukaiComponent(make_app(), port=0, mounts={"/inner": inner})
    async with started(component) as ctx:
        assert events == ["component", "before"]
        assert ctx.require_resource(Kyoukai, "inner") is inner
        assert ctx.require_resource(Kyoukai).name == "site"
    assert events == ["component", "before", "after"]


async def test_a_lifespan_that_fails_ends_what_has_started() -> None:
    component = KyoukaiComponent(asgi, port=0, mounts={"/f": target("failing")})
    with pytest.raises(KyoukaiError, match="failing.*no database"):
        async with started(component):
            raise AssertionError("it must not start")
    assert events == ["lifespan.startup", "lifespan.shutdown"]


async def send_body(port: int | None, path: str, size: int) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + b"x" * size)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    answer: bytes = await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("settings", "mount", "path", "accepted"),
    [
        ({}, {}, "/", True),
        ({}, {}, "/w", True),
        ({"max_body_size": 100}, {}, "/", False),
        ({"max_body_size": 100}, {}, "/w", True),
        ({}, {"max_body_size": 100}, "/w", False),
        ({}, {"max_body_size": 100}, "/", True),
    ],
)
async def test_bodies_are_limited_where_somebody_says_so(
    settings: dict[str, Any], mount: dict[str, Any], path: str, accepted: bool
) -> None:
    size = 200 if settings or mount else (1 << 24) + 1  # more than native routes take
    component = KyoukaiComponent(
        asgi, port=0, settings=settings, mounts={"/w": {"app": wsgi, **mount}}
    )
    async with started(component):
        answer = await send_body(port_of(component), path, size)
    status = answer.split(b" ", 2)[1]
    assert status == (b"200" if accepted else b"413")
    if accepted:
        assert answer.endswith(f" {size}".encode())


@pytest.mark.parametrize(
    ("app", "keys", "message"),
    [
        (asgi, {"interface": "kyoukai"}, "app: .*:asgi' is of type .*function, not a Kyoukai"),
        (asgi, {"interface": "asg"}, "interface: there is no 'asg'; did you mean 'asgi'"),
        (asgi, {"interface": 1}, "interface must be of type str, not 1"),
        (asgi, {"factory": "yes"}, "factory must be true or false, not 'yes'"),
        (asgi, {"lifespan": "maybe"}, "lifespan must be auto, on or off, not 'maybe'"),
        (asgi, {"root_path": "x"}, "root_path must start with '/'"),
        (asgi, {"mounts": ["/a"]}, "mounts must be a mapping of prefixes"),
        (asgi, {"mounts": {"/a": {"ap": "x:y"}}}, "mounts: /a: unknown key 'ap'; did you mean"),
        (asgi, {"mounts": {"/a": "x_nowhere:y"}}, "mounts: /a: 'x_nowhere:y': there is no module"),
        (asgi, {"config": {"debug": True}}, "config is for Kyoukai applications"),
        (make_wsgi, {}, "app: .* takes no arguments; .*factory: true"),
        (make_app(), {"interface": "asgi"}, "app: .* is a Kyoukai application; interface must"),
    ],
)
async def test_what_is_wrong(app: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        async with started(KyoukaiComponent(app, port=0, **keys)):
            pass
    assert "\n" not in str(caught.value)


async def test_an_application_that_is_none_does_not_take_the_address() -> None:
    component = KyoukaiComponent(7, port=0)
    with pytest.raises(TargetError):
        async with started(component):
            pass
    assert component.server.sockets == []
