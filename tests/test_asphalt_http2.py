"""Components that speak HTTP/2: their keys, what they offer, and every way to HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from asphalt.core import Component, Context
from h2client import H2Client, connect_h2, get_h2, upgrade_to_h2
from support import connect, get

from kyoukai import H2KyoukaiComponent, HTTPRequestContext, Kyoukai, KyoukaiComponent
from kyoukai.asphalt import KyoukaiBaseComponent
from kyoukai.backends.base import BaseProtocol
from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.exceptions import ConfigurationError
from kyoukai.server.listener import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from support import Certificates, Program

    from kyoukai.stream import StreamState

PAIR = {"ssl_keyfile": "k", "ssl_certfile": "c"}


def make_app() -> Kyoukai:
    app = Kyoukai("site")

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        return f"HTTP/{ctx.request.head.http_version}"

    return app


@contextlib.asynccontextmanager
async def started(*components: Component) -> AsyncIterator[Context]:
    async with Context() as ctx:
        await asyncio.gather(*(each.start(ctx) for each in components))
        yield ctx


def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a client that blocks."""
    return asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *arguments))


def pair(certificates: Certificates) -> dict[str, str]:
    return {f"ssl_{name}": path for name, path in certificates.pair("a").items()}


# -- Keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "bind", "tls_bind"),
    [
        (PAIR, (), ("127.0.0.1:4444",)),
        ({**PAIR, "ip": "::1", "port": 8000}, (), ("[::1]:8000",)),
        ({**PAIR, "tls_bind": ["a:1", "a:2"]}, (), ("a:1", "a:2")),
        ({**PAIR, "bind": "a:1", "tls_bind": "a:2"}, ("a:1",), ("a:2",)),
        ({"ssl": PAIR, "port": 1}, (), ("127.0.0.1:1",)),
        ({"settings": {"certfile": "c", "keyfile": "k"}}, (), ("127.0.0.1:4444",)),
        ({"bind": "127.0.0.1:1"}, ("127.0.0.1:1",), ()),
    ],
)
def test_addresses(keys: dict[str, Any], bind: tuple[str, ...], tls_bind: tuple[str, ...]) -> None:
    config = H2KyoukaiComponent("a:b", **keys).config
    assert (config.bind, config.tls_bind) == (bind, tls_bind)
    if tls_bind:
        assert (config.keyfile, config.certfile) == ("k", "c")


def test_the_key_comes_before_the_certificate() -> None:
    config = H2KyoukaiComponent("a:b", "key.pem", "cert.pem").config
    assert (config.keyfile, config.certfile) == ("key.pem", "cert.pem")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"app": ""}, "app is missing; name it as module:attribute"),
        ({"ssl_certfile": "", "ssl_keyfile": ""}, "certfile is missing: TLS needs ssl_certfile"),
        ({"ssl_keyfile": None}, "keyfile is missing: TLS needs"),
        ({"prot": 1}, "unknown key 'prot'; did you mean 'port'"),
        ({"ssl_keyfiel": 1}, "unknown key 'ssl_keyfiel'; did you mean 'ssl_keyfile'"),
        ({"backend": "httptools"}, "unknown key 'backend'"),
        ({"http2": False}, "unknown key 'http2'"),
        ({"h2_stream_window": 1}, "unknown key 'h2_stream_window'; it belongs under 'settings'"),
        ({"settings": {"h2_stream_windw": 1}}, "did you mean 'h2_stream_window'"),
        ({"port": "80"}, "port must be a number from 0 to 65535"),
        ({"port": 8000, "tls_bind": "a:1"}, "ip and port: give either these, or bind and tls_bind"),
        ({"interface": "kyoukia"}, "interface: there is no 'kyoukia'; did you mean 'kyoukai'"),
    ],
)
def test_keys_that_are_wrong(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        H2KyoukaiComponent(**{"app": "a:b", **PAIR, **keys})


def test_a_subclass_has_keys_and_a_protocol_of_its_own() -> None:
    class Protocol(H2KyoukaiProtocol):
        pass

    class Site(H2KyoukaiComponent):
        protocol_class = Protocol

        def __init__(self, *arguments: Any, motto: str = "", **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.motto = motto

    site = Site(make_app(), "k", "c", motto="x")
    assert site.motto == "x"
    assert site.server.label == "Protocol, kyoukai"
    with pytest.raises(ConfigurationError, match="unknown key 'moto'; did you mean 'motto'"):
        Site("a:b", "k", "c", moto="x")


def test_the_server_name() -> None:
    app = make_app()
    assert H2KyoukaiComponent(app, "k", "c").get_server_name() == "127.0.0.1:4444"
    app.server_name = "example.org"
    assert H2KyoukaiComponent(app, "k", "c").get_server_name() == "example.org"


# -- What is offered ------------------------------------------------------------------------------


async def answer(stream: StreamState) -> None:
    """Do nothing."""


class Foreign(HttpToolsProtocol):
    """A protocol of the user's."""


class Own(BaseProtocol):
    """A wire of the user's, which does not know how to hand a connection over."""


class Site(KyoukaiComponent):
    protocol_class = Foreign


class Strange(KyoukaiComponent):
    protocol_class = Own


class Choosy(KyoukaiComponent):
    alpn_protocols = ("http/1.1", "h2")


@pytest.mark.parametrize(
    ("cls", "keys", "label", "alpn", "switches"),
    [
        (KyoukaiComponent, {}, "httptools, http2, kyoukai", ("h2", "http/1.1"), True),
        (KyoukaiComponent, {"http2": False}, "httptools, kyoukai", ("http/1.1",), False),
        (KyoukaiComponent, {"backend": "http2"}, "http2, kyoukai", ("h2",), True),
        (Site, {}, "Foreign, http2, kyoukai", ("h2", "http/1.1"), True),
        (Site, {"http2": False}, "Foreign, kyoukai", ("http/1.1",), False),
        (Strange, {}, "Own, kyoukai", ("http/1.1",), False),
        (Choosy, {}, "httptools, http2, kyoukai", ("http/1.1", "h2"), True),
        (H2KyoukaiComponent, PAIR, "http2, kyoukai", ("h2",), True),
    ],
)
async def test_what_a_component_speaks(
    cls: type[KyoukaiBaseComponent],
    keys: dict[str, Any],
    label: str,
    alpn: tuple[str, ...],
    switches: bool,
) -> None:
    component = cls(make_app(), **keys)
    component.server.interface = answer
    assert component.server.label == label
    assert tuple(component.alpn_protocols) == alpn
    target = component.switch_target("h2")
    assert isinstance(target, H2KyoukaiProtocol) is switches
    assert (target is None) is not switches
    assert component.switch_target("h3") is None
    if target is not None:
        assert target.component is component
        assert target is not component.switch_target("h2")


async def test_the_class_of_handed_over_connections_can_be_chosen() -> None:
    class Protocol(H2KyoukaiProtocol):
        pass

    class Site(KyoukaiComponent):
        h2_protocol_class = Protocol

    component = Site(make_app())
    component.server.interface = answer
    assert isinstance(component.switch_target("h2"), Protocol)
    assert Site(make_app(), http2=False).switch_target("h2") is None


async def test_a_server_without_a_component_hands_nothing_over() -> None:
    server = Server(KyoukaiComponent("a:b").config, HttpToolsProtocol)
    assert server.switch_target("h2") is None


# -- Ways to HTTP/2 -------------------------------------------------------------------------------


async def test_alpn_on_one_port_for_both(certificates: Certificates) -> None:
    component = KyoukaiComponent(make_app(), port=0, **pair(certificates))
    async with started(component):
        port = component.server.port
        context = certificates.trusting("a")
        assert await in_thread(get_h2, port, "/", context) == (200, b"HTTP/2")
        for offered in (["http/1.1"], ["spdy/3"], None):
            context = certificates.trusting("a")
            if offered is not None:
                context.set_alpn_protocols(offered)
            assert await in_thread(get, port, "/", context) == (200, b"HTTP/1.1")


async def test_prior_knowledge_and_upgrade_on_a_plain_port() -> None:
    component = KyoukaiComponent(make_app(), port=0)
    async with started(component):
        port = component.server.port
        assert await in_thread(get, port) == (200, b"HTTP/1.1")
        assert await in_thread(get_h2, port) == (200, b"HTTP/2")
        client = await in_thread(upgrade_to_h2, port, "/")
        answer = await in_thread(client.wait, 1)
        assert (answer.status, answer.body) == (200, b"HTTP/2")
        assert await in_thread(client.get, "/") == (200, b"HTTP/2")
        client.close()


async def test_prior_knowledge_over_tls(certificates: Certificates) -> None:
    """A client without ALPN may begin with HTTP/2's preface all the same."""
    for component in (
        KyoukaiComponent(make_app(), port=0, **pair(certificates)),
        H2KyoukaiComponent(make_app(), port=0, **pair(certificates)),
    ):
        async with started(component):
            port = component.server.port
            client = await in_thread(connect_without_alpn, port, certificates.trusting("a"))
            assert await in_thread(client.get, "/") == (200, b"HTTP/2")
            client.close()


def connect_without_alpn(port: int, context: ssl.SSLContext) -> H2Client:
    sock = connect(port, context)
    assert sock.selected_alpn_protocol() is None
    client = H2Client(sock)
    client.send()
    return client


def ask(port: int, request: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Send bytes, and return all that comes back up to the end."""
    answer = b""
    with connect(port, context) as sock:
        sock.sendall(request)
        with contextlib.suppress(ConnectionError):
            while data := sock.recv(65536):
                answer += data
    return answer


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
)


async def test_http2_turned_off(certificates: Certificates) -> None:
    keys = {"http2": False, "bind": "127.0.0.1:0", "tls_bind": "127.0.0.1:0"}
    component = KyoukaiComponent(make_app(), **keys, **pair(certificates))
    async with started(component):
        plain, secure = (int(url.rpartition(":")[2]) for url in component.server.urls)
        context = certificates.trusting("a")
        context.set_alpn_protocols(["h2", "http/1.1"])
        assert await in_thread(get, secure, "/", context) == (200, b"HTTP/1.1")
        assert (await in_thread(ask, plain, PREFACE)).startswith(b"HTTP/1.1 505 ")
        answer = await in_thread(ask, plain, UPGRADE)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"HTTP/1.1")


# -- HTTP/2 alone ---------------------------------------------------------------------------------


async def test_http2_alone(certificates: Certificates) -> None:
    component = H2KyoukaiComponent(
        make_app(), bind="127.0.0.1:0", tls_bind="127.0.0.1:0", **pair(certificates)
    )
    async with started(component) as ctx:
        plain, secure = (int(url.rpartition(":")[2]) for url in component.server.urls)
        assert ctx.require_resource(Server, f"h2_{plain}") is component.server
        assert component.resource_name == f"h2_{plain}"
        assert await in_thread(get_h2, plain) == (200, b"HTTP/2")
        assert await in_thread(get_h2, secure, "/", certificates.trusting("a")) == (200, b"HTTP/2")
        # Whoever speaks HTTP/1.1 here gets no answer to it, whatever ALPN has come to.
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        for port, context in ((plain, None), (secure, certificates.trusting("a"))):
            answer = await in_thread(ask, port, request, context)
            assert not answer.startswith(b"HTTP/1.1")


async def test_side_by_side(certificates: Certificates) -> None:
    app = make_app()
    serving = []

    @app.while_serving
    async def count(ctx: Context) -> AsyncIterator[None]:
        serving.append("begin")
        yield
        serving.append("end")

    first = KyoukaiComponent(app, port=0)
    second = H2KyoukaiComponent(app, port=0, **pair(certificates))
    async with started(first, second):
        assert await in_thread(get, first.server.port) == (200, b"HTTP/1.1")
        context = certificates.trusting("a")
        assert await in_thread(get_h2, second.server.port, "/", context) == (200, b"HTTP/2")
        assert serving == ["begin"]
    assert serving == ["begin", "end"]


async def test_signals_of_connections(certificates: Certificates) -> None:
    """A connection that is handed over is lost to one protocol and made for the other."""
    component = KyoukaiComponent(
        make_app(), bind="127.0.0.1:0", tls_bind="127.0.0.1:0", **pair(certificates)
    )
    events: asyncio.Queue[Any] = asyncio.Queue()
    component.connection_made.connect(events.put_nowait)
    component.connection_lost.connect(events.put_nowait)
    async with started(component):
        plain, secure = (int(url.rpartition(":")[2]) for url in component.server.urls)
        classes = [H2KyoukaiProtocol]  # ALPN says it before anything is made of the connection
        for port, context in ((secure, certificates.trusting("a")), (plain, None)):
            client = await in_thread(connect_h2, port, context)
            await in_thread(client.get, "/")
            assert len(component.connections) == 1
            client.close()
            for cls in classes:
                made, lost = await events.get(), await events.get()
                assert (made.topic, lost.topic) == ("connection_made", "connection_lost")
                assert made.protocol is lost.protocol
                assert type(made.protocol) is cls
            classes = [HttpToolsProtocol, H2KyoukaiProtocol]
    assert events.empty()


# -- Under both runners ---------------------------------------------------------------------------

APP = """
from kyoukai import Kyoukai
app = Kyoukai("site")

@app.route("/")
async def index(ctx):
    return "HTTP/" + ctx.request.head.http_version

@app.route("/slow", methods=["POST"], stream=True)
async def slow(ctx):
    print("slow", flush=True)
    async for _ in ctx.request.chunks():  # which its client sends when the server is stopping
        pass
    return "done"
"""

CONFIG = """
component:
  type: asphalt.core:ContainerComponent
  components:
    kyoukai: {app: "app:app", port: 0}
    kyoukai_http2: {app: "app:app", port: 0, ssl_certfile: a.pem, ssl_keyfile: a-key.pem}
"""


@pytest.mark.parametrize("module", ["kyoukai", "asphalt"])
def test_both_components_in_one_file(
    tmp_path: Path, program: Callable[..., Program], certificates: Certificates, module: str
) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "config.yaml").write_text(CONFIG)
    for name in ("a.pem", "a-key.pem"):
        (tmp_path / name).symlink_to(certificates.path(name))
    running = program("run", "config.yaml", module=module)
    urls = dict(url.rsplit(":", 1) for url in running.urls(2))
    labels = {line.partition(" (")[2] for line in running.stderr.splitlines() if " (h" in line}
    assert labels == {"httptools, http2, kyoukai)", "http2, kyoukai)"}
    plain, secure = int(urls["http://127.0.0.1"]), int(urls["https://127.0.0.1"])
    if module == "asphalt":
        running.wait_for("Application started")  # only then does it answer signals
    assert get(plain) == (200, b"HTTP/1.1")
    client = connect_h2(secure, certificates.trusting("a"))
    assert client.get("/") == (200, b"HTTP/2")
    slow = client.request("/slow", "POST", 1)
    running.wait_for_output("slow")
    running.signal()
    while not client.goaways:  # the drain has begun
        assert client.read()
    client.send_body(slow, b"x")
    answer = client.wait(slow)
    assert (answer.status, answer.body) == (200, b"done")
    while client.read():
        pass
    client.close()
    assert running.finish() == 0
    assert "Traceback" not in running.stderr
    assert " ERROR " not in running.stderr
