"""Our Asphalt components: their keys, what they publish, and when they serve."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
from asphalt.core import Component, ContainerComponent, Context, resource
from support import get

from kyoukai import HTTPRequestContext, Kyoukai, KyoukaiComponent
from kyoukai.asphalt import KyoukaiBaseComponent, find_components
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.config import ServerConfig
from kyoukai.exceptions import ConfigurationError, TargetError
from kyoukai.server.group import ServerGroup
from kyoukai.server.listener import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from support import Certificates, Program

HEAD = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def make_app(name: str = "site") -> Kyoukai:
    app = Kyoukai(name)

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        return "hello"

    return app


async def fetch(port: int | None, path: str = "/") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD.format(path).encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\r\n\r\n")[2]


@contextlib.asynccontextmanager
async def started(*components: Component) -> AsyncIterator[Context]:
    async with Context() as ctx:
        await asyncio.gather(*(each.start(ctx) for each in components))
        yield ctx


# -- Keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "bind", "tls_bind"),
    [
        ({}, ("127.0.0.1:8000",), ()),
        ({"ip": "0.0.0.0", "port": 80}, ("0.0.0.0:80",), ()),
        ({"ip": "::1"}, ("[::1]:8000",), ()),
        ({"bind": "unix:a"}, ("unix:a",), ()),
        ({"bind": ["127.0.0.1:1", "fd://3"]}, ("127.0.0.1:1", "fd://3"), ()),
        ({"settings": {"bind": ["127.0.0.1:1"]}}, ("127.0.0.1:1",), ()),
        ({"settings": {"bind": ["a:1"]}, "bind": ["a:2"]}, ("a:2",), ()),
        ({"ssl_certfile": "c", "ssl_keyfile": "k"}, (), ("127.0.0.1:8000",)),
        ({"ssl": {"enabled": True, "ssl_certfile": "c", "ssl_keyfile": "k"}, "port": 1}, (), None),
        ({"ssl": {"ssl_certfile": "c", "ssl_keyfile": "k"}, "port": 1}, (), ("127.0.0.1:1",)),
        ({"ssl": {"enabled": False, "ssl_certfile": "c"}, "port": 1}, ("127.0.0.1:1",), ()),
        ({"tls_bind": "a:1", "ssl_certfile": "c", "ssl_keyfile": "k"}, (), ("a:1",)),
        (
            {"bind": "a:1", "tls_bind": "a:2", "ssl_certfile": "c", "ssl_keyfile": "k"},
            ("a:1",),
            ("a:2",),
        ),
    ],
)
def test_addresses(keys: dict[str, Any], bind: tuple[str, ...], tls_bind: Any) -> None:
    config = KyoukaiComponent("a:b", **keys).config
    assert config.bind == bind
    assert config.tls_bind == (("127.0.0.1:1",) if tls_bind is None else tls_bind)
    if tls_bind != ():
        assert (config.certfile, config.keyfile) == ("c", "k")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"app": ""}, "app is missing; name it as module:attribute"),
        ({"prot": 1}, "unknown key 'prot'; did you mean 'port'"),
        ({"bakend": "x"}, "unknown key 'bakend'; did you mean 'backend'"),
        ({"max_body_size": 1}, "unknown key 'max_body_size'; it belongs under 'settings'"),
        ({"settings": {"max_bodysize": 1}}, "unknown setting .* did you mean 'max_body_size'"),
        ({"settings": {"max_body_size": "big"}}, "max_body_size must be of type int"),
        ({"settings": 1}, "settings must be a mapping"),
        ({"config": 1}, "config must be a mapping"),
        ({"ip": 1}, "ip must be of type str"),
        ({"ip": "a b"}, "ip: 'a b' is no host"),
        ({"port": "80"}, "port must be a number from 0 to 65535"),
        ({"port": 65536}, "port must be a number from 0 to 65535"),
        ({"port": 1, "bind": "a:1"}, "ip and port: give either these, or bind and tls_bind"),
        ({"bind": "a"}, "bind: 'a' is no address"),
        ({"ssl": True}, "ssl must be a mapping"),
        ({"ssl": {"cert": "c"}}, "unknown key of ssl 'cert'"),
        ({"ssl_certfile": "c"}, "keyfile is missing: TLS needs"),
        ({"ssl": {"enabled": "maybe"}}, "ssl: enabled must be true or false, not 'maybe'"),
        (
            {"ssl": {"enabled": False}, "tls_bind": "a:1"},
            "ssl: enabled must be true where there is a TLS address",
        ),
        (
            {"bind": "a:1", "ssl_certfile": "c", "ssl_keyfile": "k"},
            "certfile is given, but there is no TLS address: name one with tls_bind",
        ),
        ({"tls_bind": "a:1"}, "certfile is missing: TLS needs"),
        ({"resource_name": "a-b"}, "resource_name: 'a-b' may only have letters"),
        ({"interface": "kyoukia"}, "interface: there is no 'kyoukia'; did you mean 'kyoukai'"),
        ({"interface": 1}, "interface must be of type str"),
        ({"backend": "httptool"}, "backend: there is no 'httptool'; did you mean 'httptools'"),
        ({"backend": "no.such"}, "backend: there is no module 'no'"),
        ({"backend": "kyoukai.stream"}, "'kyoukai.stream' has no PROTOCOL_CLASS"),
        ({"backend": "kyoukai.stream:StreamState"}, "leads to no protocol class"),
        ({"backend": 1}, "backend must be of type str"),
        ({"http2": "yes"}, "http2 must be true or false"),
        ({"settings": {"access_log_format": "%(x)s"}}, "access_log_format: unknown field 'x'"),
    ],
)
def test_keys_that_are_wrong(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        KyoukaiComponent(**{"app": "a:b", **keys})


@pytest.mark.parametrize(
    "backend", ["httptools", "kyoukai.backends.httptools_", "kyoukai.backends.httptools_:"]
)
def test_backends(backend: str) -> None:
    if backend.endswith(":"):
        backend += "HttpToolsProtocol"
    assert KyoukaiComponent("a:b", backend=backend).protocol_class is HttpToolsProtocol


def test_the_label_names_backend_and_interface() -> None:
    assert KyoukaiComponent(make_app()).server.label == "httptools, http2, kyoukai"
    component = KyoukaiComponent(make_app(), backend="kyoukai.backends.httptools_", http2=False)
    assert component.server.label == "httptools, kyoukai"


def test_a_subclass_has_keys_of_its_own() -> None:
    class Site(KyoukaiComponent):
        def __init__(self, *arguments: Any, motto: str = "", **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.motto = motto

    assert Site("a:b", motto="x").motto == "x"
    with pytest.raises(ConfigurationError, match="unknown key 'moto'; did you mean 'motto'"):
        Site("a:b", moto="x")


def test_the_server_name() -> None:
    app = make_app()
    assert KyoukaiComponent(app, port=1).get_server_name() == "127.0.0.1:1"
    app.server_name = "example.org"
    assert KyoukaiComponent(app, port=1).get_server_name() == "example.org"


# -- Serving --------------------------------------------------------------------------------------


async def test_it_serves_until_the_context_closes() -> None:
    component = KyoukaiComponent(make_app(), port=0, config={"motto": "x"})
    async with started(component):
        port = component.server.port
        assert await fetch(port) == b"hello"
        assert component.app.config["motto"] == "x"
    with pytest.raises(ConnectionRefusedError):
        await fetch(port)


async def test_the_application_and_the_server_are_resources() -> None:
    component = KyoukaiComponent(make_app("my-site"), port=0)
    async with started(component) as ctx:
        assert ctx.require_resource(Kyoukai, "my_site") is component.app
        assert ctx.require_resource(Kyoukai) is component.app
        name = f"http_{component.server.port}"
        assert ctx.require_resource(Server, name) is component.server
        assert component.resource_name == name


async def test_two_components_serve_one_application() -> None:
    app = make_app()
    serving = []

    @app.while_serving
    async def count(ctx: Context) -> AsyncIterator[None]:
        serving.append("begin")
        yield
        serving.append("end")

    first = KyoukaiComponent(app, port=0)
    second = KyoukaiComponent(app, port=0, resource_name="second")
    async with started(first, second) as ctx:
        for component in (first, second):
            assert await fetch(component.server.port) == b"hello"
        assert ctx.get_resources(Kyoukai) == {app}
        assert ctx.require_resource(Server, "second") is second.server
        assert ctx.require_resource(ServerGroup).servers == [first.server, second.server]
        assert serving == ["begin"]
    assert serving == ["begin", "end"]


async def test_two_applications_have_a_default_and_their_names() -> None:
    one, two = make_app("one"), make_app("two")
    async with started(KyoukaiComponent(one, port=0), KyoukaiComponent(two, port=0)) as ctx:
        assert ctx.require_resource(Kyoukai) is one
        assert ctx.require_resource(Kyoukai, "two") is two
    with pytest.raises(ConfigurationError, match="two applications are called 'one'"):
        async with started(
            KyoukaiComponent(one, port=0), KyoukaiComponent(make_app("one"), port=0)
        ):
            pass


async def test_a_subclass_is_published_under_both_classes() -> None:
    class Site(Kyoukai):
        pass

    app = Site("site")
    async with started(KyoukaiComponent(app, port=0)) as ctx:
        assert ctx.require_resource(Site) is ctx.require_resource(Kyoukai) is app


async def test_server_names_that_meet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    app = make_app()
    components = [KyoukaiComponent(app, bind=f"unix:{name}.sock") for name in "ab"]
    async with started(*components):
        assert [each.resource_name for each in components] == ["http_unix", "http_unix_2"]
    components = [KyoukaiComponent(app, port=0, resource_name="x") for _ in "ab"]
    with pytest.raises(ConfigurationError, match="resource_name: 'x' is taken by another server"):
        async with started(*components):
            pass
    assert all(each.server.sockets[0].sock.fileno() == -1 for each in components)


async def test_without_a_server_the_application_is_published_only() -> None:
    component = KyoukaiComponent(make_app(), port=0, run_server=False)
    async with started(component) as ctx:
        assert ctx.require_resource(Kyoukai) is component.app
        assert ctx.get_resources(Server) == set()
        assert component.server.sockets == []
        assert component.app.root.finalized


async def test_tls(certificates: Certificates) -> None:
    pair = certificates.pair("a")
    component = KyoukaiComponent(
        make_app(), port=0, ssl_certfile=pair["certfile"], ssl_keyfile=pair["keyfile"]
    )
    async with started(component):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            component.server.port,
            ssl=certificates.trusting("a"),
            server_hostname="localhost",
        )
        writer.write(HEAD.format("/").encode())
        assert (await reader.read()).endswith(b"hello")
        writer.close()


async def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        component = KyoukaiComponent(make_app(), port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="is taken by another program; change bind"):
            async with started(component):
                pass


async def test_signals_of_connections() -> None:
    component = KyoukaiComponent(make_app(), port=0)
    events: list[Any] = []
    lost = asyncio.Event()
    component.connection_made.connect(events.append)
    component.connection_lost.connect(events.append)
    component.connection_lost.connect(lambda event: lost.set())
    async with started(component):
        await fetch(component.server.port)
        await lost.wait()
    assert [event.topic for event in events] == ["connection_made", "connection_lost"]
    assert events[0].source is component
    assert isinstance(events[0].protocol, HttpToolsProtocol)
    assert events[0].protocol is events[1].protocol


async def test_a_protocol_class_of_the_users() -> None:
    seen: list[Any] = []

    class Protocol(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            seen.append((self.component, self.parent_context))
            super().connection_made(transport)

    class Site(KyoukaiComponent):
        protocol_class = Protocol

    component = Site(make_app(), port=0)
    assert component.server.label == "Protocol, http2, kyoukai"
    async with started(component) as ctx:
        assert await fetch(component.server.port) == b"hello"
        assert seen == [(component, ctx)]
        made = component.get_protocol(ctx, ("127.0.0.1", component.server.port))
        assert isinstance(made, Protocol)
        assert made.config is component.config
        assert isinstance(component.config, ServerConfig)


async def test_started_without_a_current_context() -> None:
    component = KyoukaiComponent(make_app(), port=0)
    ctx = Context()
    await component.start(ctx)
    assert await fetch(component.server.port) == b"hello"
    await ctx.close()


# -- Targets --------------------------------------------------------------------------------------


async def test_a_target_is_imported_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asphalt_target.py").write_text(
        "from kyoukai import Kyoukai\napp = Kyoukai('target')\nother = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    async with started(KyoukaiComponent("asphalt_target:app", port=0)) as ctx:
        assert ctx.require_resource(Kyoukai).name == "target"
    for target, message in (
        ("asphalt_target:other", "app: 'asphalt_target:other' is of type int, which is no app"),
        ("asphalt_target:ap", "has no 'ap'; did you mean 'app'"),
    ):
        with pytest.raises(TargetError, match=message):
            async with started(KyoukaiComponent(target, port=0)):
                pass


async def test_something_else_as_the_application() -> None:
    with pytest.raises(TargetError, match="app: .* is of type builtins.object|of type object"):
        async with started(KyoukaiComponent(object(), port=0)):  # type: ignore[arg-type]
            pass


# -- Components and resources ---------------------------------------------------------------------


class Store:
    def __init__(self) -> None:
        self.closed = False


class StoreComponent(Component):
    def __init__(self, name: str = "default", log: list[str] | None = None) -> None:
        self.name = name
        self.log = log if log is not None else []
        self.released = asyncio.Event()
        self.released.set()

    async def start(self, ctx: Context) -> None:
        await self.released.wait()
        store = Store()
        ctx.add_teardown_callback(lambda: self.log.append("store closed"))
        ctx.add_resource(store, self.name)


def make_injected_app(log: list[str]) -> Kyoukai:
    app = make_app()

    @app.route("/store")
    async def read(ctx: HTTPRequestContext, store: Store = resource()) -> str:
        log.append("answered")
        return str(store.closed)

    return app


async def test_it_waits_for_injected_resources_and_ends_before_them() -> None:
    log: list[str] = []
    app = make_injected_app(log)

    @app.after_serving
    async def ended(ctx: Context) -> None:
        log.append("serving ended")

    component, store = KyoukaiComponent(app, port=0), StoreComponent(log=log)
    store.released.clear()
    async with Context() as ctx:
        starting = [asyncio.create_task(each.start(ctx)) for each in (component, store)]
        await ctx.request_resource(Server, await published_name(ctx))
        assert not starting[0].done()
        with pytest.raises(ConnectionRefusedError):
            await fetch(component.server.port)
        store.released.set()
        await asyncio.gather(*starting)
        assert await fetch(component.server.port, "/store") == b"False"
    assert log == ["answered", "serving ended", "store closed"]


async def published_name(ctx: Context) -> str:
    event = await ctx.resource_added.wait_event(lambda event: Server in event.resource_types)
    return event.resource_name


async def test_a_resource_that_never_comes_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kyoukai.server.injection._TIMEOUT", 0.01)
    component = KyoukaiComponent(make_injected_app([]), port=0)
    async with started(component):
        assert await fetch(component.server.port) == b"hello"
    assert "no component has added the resource" in caplog.text
    assert "Store 'default' that handlers inject" in caplog.text


async def test_a_factorys_resource_is_not_made_for_the_root_context() -> None:
    made: list[Context] = []

    def make(ctx: Context) -> Store:
        made.append(ctx)
        return Store()

    component = KyoukaiComponent(make_injected_app([]), port=0)
    async with Context() as ctx:
        ctx.add_resource_factory(make, [Store])
        await component.start(ctx)
        await fetch(component.server.port, "/store")
        assert ctx not in made
        assert made


async def test_components_of_the_application_start_first() -> None:
    app = make_injected_app([])
    app.add_component("store", StoreComponent)
    components = [KyoukaiComponent(app, port=0) for _ in range(2)]
    async with started(*components) as ctx:
        assert ctx.get_resource(Store) is not None
        for component in components:
            assert await fetch(component.server.port, "/store") == b"False"


# -- In a configuration ---------------------------------------------------------------------------


def test_components_are_found_in_a_configuration() -> None:
    class Site(KyoukaiBaseComponent):
        pass

    config = {
        "type": "asphalt.core:ContainerComponent",
        "components": {
            "kyoukai": None,
            "site": {"type": Site},
            "other": {"type": StoreComponent},
            "unknown": {},
            "inner": {"type": ContainerComponent, "components": {"web": {"type": "kyoukai"}}},
            "kyoukai_http2": {},
        },
    }
    found = [name for name, _ in find_components(config)]
    assert found == ["kyoukai", "site", "web", "kyoukai_http2"]
    assert [name for name, _ in find_components({"type": "kyoukai"})] == ["kyoukai"]


# -- Under Asphalt's own runner -------------------------------------------------------------------

APP = """
import asyncio
from asphalt.core import Component, ContainerComponent, resource
from kyoukai import Kyoukai
app = Kyoukai("site")

class Store(str):
    pass

class StoreComponent(Component):
    async def start(self, ctx):
        ctx.add_teardown_callback(lambda: print("store closed", flush=True))
        ctx.add_resource(Store("goods"))

class Root(ContainerComponent):
    async def start(self, ctx):
        self.add_component("store", StoreComponent)
        self.add_component("kyoukai", app=app)
        await super().start(ctx)

@app.route("/")
async def index(ctx):
    return "hello"

@app.route("/slow", methods=["POST"], stream=True)
async def slow(ctx, store: Store = resource()):
    print("slow", flush=True)
    async for _ in ctx.request.chunks():  # which its client sends when the server is stopping
        pass
    print("answered", flush=True)
    return store

@app.route("/endless")
async def endless(ctx):
    print("endless", flush=True)
    await asyncio.Event().wait()

@app.after_serving
async def ended(ctx):
    print("serving ended", flush=True)
"""

CONFIG = """
component:
  type: asphalt.core:ContainerComponent
  components:
    kyoukai: {app: "app:app", port: 0, settings: {graceful_timeout: 20}}
    second: {type: kyoukai, app: "app:app", port: 0, settings: {graceful_timeout: 20}}
    store: {type: "app:StoreComponent"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asphalt_run_drains_all_servers_before_resources_go(
    folder: Path, program: Callable[..., Program], number: int
) -> None:
    running = program("run", "config.yaml", module="asphalt")
    ports = [int(url.rpartition(":")[2]) for url in running.urls(2)]
    running.wait_for("Application started")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(send(port, "/slow", 1)) for port in ports]
        idles = [stack.enter_context(send(port, "/")) for port in ports]
        running.wait_for_output("slow", len(ports))
        running.signal(number)
        for client, idle in zip(clients, idles, strict=True):
            read(idle)  # up to its end: the drain has begun
            client.sendall(b"x")
            assert read(client).endswith(b"goods")
    assert running.finish() == 0
    assert running.output().splitlines()[-2:] == ["serving ended", "store closed"]
    assert "Traceback" not in running.stderr


def test_asphalt_run_replaces_certificates(
    folder: Path, program: Callable[..., Program], certificates: Certificates
) -> None:
    for name, source in (("cert.pem", "a.pem"), ("key.pem", "a-key.pem")):
        shutil.copy(certificates.path(source), folder / name)
    (folder / "tls.yaml").write_text(
        "component: {type: kyoukai, app: 'app:app', port: 0, ssl_certfile: cert.pem,"
        " ssl_keyfile: key.pem}\n"
    )
    running = program("run", "tls.yaml", module="asphalt")
    port = running.port()
    running.wait_for("Application started")  # only then does it answer signals
    assert get(port, context=certificates.trusting("a")) == (200, b"hello")
    for name, source in (("cert.pem", "b.pem"), ("key.pem", "b-key.pem")):
        shutil.copy(certificates.path(source), folder / name)
    running.signal(signal.SIGHUP)
    running.wait_for("was read again")
    assert get(port, context=certificates.trusting("b")) == (200, b"hello")
    running.signal()
    assert running.finish() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_cuts_the_drain_of_asphalt_run(
    folder: Path, program: Callable[..., Program], number: int
) -> None:
    running = program("run", "config.yaml", module="asphalt")
    port = int(running.urls(2)[0].rpartition(":")[2])
    running.wait_for("Application started")
    with send(port, "/endless") as client, send(port, "/") as idle:
        running.wait_for_output("endless")
        running.signal(number)
        with contextlib.suppress(ConnectionError):
            read(idle)  # up to its end: the drain has begun
        running.signal(number)
        with contextlib.suppress(ConnectionError):
            assert read(client) == b""
    assert running.finish(10) == 0
    assert running.output().splitlines()[-1] == "store closed"
    assert "Traceback" not in running.stderr


def send(port: int, path: str, length: int = 0) -> socket.socket:
    """Send a GET, or the head of a POST whose body has a length."""
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    start = f"POST {path}" if length else f"GET {path}"
    framing = f"Content-Length: {length}\r\n" if length else ""
    client.sendall(f"{start} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n".encode())
    return client


def read(client: socket.socket) -> bytes:
    answer = b""
    while data := client.recv(65536):
        answer += data
    return answer


@pytest.mark.parametrize("module", ["kyoukai", "asphalt"])
def test_a_container_of_the_users(
    folder: Path, program: Callable[..., Program], module: str
) -> None:
    (folder / "own.yaml").write_text(
        "component:\n  type: app:Root\n  components: {kyoukai: {port: 0}}\n"
    )
    # The file names a class of the user's: Asphalt itself must find it.
    running = program("run", "own.yaml", module=module)
    port = running.port()
    if module == "asphalt":
        running.wait_for("Application started")  # only then does it answer signals
    with send(port, "/slow", 1) as client, send(port, "/") as idle:
        running.wait_for_output("slow")
        running.signal()
        read(idle)  # up to its end: the drain has begun
        client.sendall(b"x")
        assert read(client).endswith(b"goods")
    assert running.finish() == 0
    assert running.output().splitlines()[-2:] == ["serving ended", "store closed"]
