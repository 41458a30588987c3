"""Where a proxy is said to be one: components, mounts, and the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from support import Program, get
from test_asphalt import fetch, make_app, started
from upstreams import ScriptedUpstream

from kyoukai import Kyoukai, KyoukaiComponent, Proxy, ServerConfig
from kyoukai.exceptions import ConfigurationError
from kyoukai.interfaces.proxy import ProxyInterface
from kyoukai.pipeline import RequestPipeline
from kyoukai.proxy_component import KyoukaiProxyComponent
from kyoukai.server.listener import Server
from kyoukai.testing import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support import Commands

URL = "http://127.0.0.1:9000"


def port_of(ctx: Any) -> int:
    (server,) = ctx.get_resources(Server)
    return server.port


# -- Components -----------------------------------------------------------------------------------


async def test_a_component_that_is_nothing_else() -> None:
    async with ScriptedUpstream() as up:
        component = KyoukaiProxyComponent(up.url, port=0, read_timeout=7)
        async with started(component) as ctx:
            assert await fetch(port_of(ctx), "/x") == b"ok"
        assert [str(seen) for seen in up.requests] == ["GET /x"]
        assert isinstance(component.interface, ProxyInterface)
        assert component.interface.proxy == Proxy(up.url, read_timeout=7)
        assert component.server.label == "httptools, http2, proxy"


async def test_a_client_for_tests_knows_a_proxy() -> None:
    async with ScriptedUpstream(tcp=True) as up:
        for app in (Proxy(up.url), up.url):
            async with Client(app) as client:
                assert (await client.get("/x")).text == "ok"


async def test_an_application_in_front() -> None:
    async with ScriptedUpstream() as up:
        app = make_app()
        component = KyoukaiProxyComponent(up.url, app, port=0, mounts={"/b": up.url})
        async with started(component) as ctx:
            assert await fetch(port_of(ctx), "/") == b"hello"
            assert await fetch(port_of(ctx), "/x") == b"ok"
            assert await fetch(port_of(ctx), "/b") == b"ok"
        assert component.server.label == "httptools, http2, kyoukai; /b: proxy, /: proxy"


@pytest.mark.parametrize("form", ["url", "mapping", "object"])
async def test_a_mount(form: str) -> None:
    async with ScriptedUpstream() as up:
        forms = {
            "url": up.url,
            "mapping": {"upstreams": [up.url], "via": "", "max_body_size": 5},
            "object": Proxy(up.url),
        }
        component = KyoukaiComponent(make_app(), port=0, mounts={"/p": forms[form]})
        async with started(component) as ctx:
            assert await fetch(port_of(ctx), "/p/x") == b"ok"
            assert await fetch(port_of(ctx), "/") == b"hello"
        ((_, interface),) = component.interface.mounted
        assert interface.max_body_size == (5 if form == "mapping" else None)


class Signing(RequestPipeline):
    async def finalize_response(self, response: Any, request: Any = None) -> Any:
        response.set_data(b"signed")
        return response


@pytest.mark.parametrize("pipeline", [Signing, f"{__name__}:Signing"])
@pytest.mark.parametrize("native", [False, True])
async def test_a_pipeline_by_name(
    pipeline: Any, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kyoukai.interfaces.build.load_target", lambda target: Signing)
    async with ScriptedUpstream() as up:
        if native:
            component: Any = KyoukaiComponent(make_app(), port=0, pipeline=pipeline)
        else:
            component = KyoukaiProxyComponent(up.url, port=0, pipeline=pipeline)
        async with started(component) as ctx:
            assert await fetch(port_of(ctx)) == b"signed"


async def test_a_pipeline_is_for_what_has_one() -> None:
    async def asgi(scope: Any, receive: Any, send: Any) -> None: ...

    for app, pipeline, message in (
        (asgi, Signing, "pipeline is for Kyoukai applications and proxies"),
        (make_app(), Kyoukai, "pipeline: <class 'kyoukai.app.Kyoukai'> is no subclass"),
    ):
        component = KyoukaiComponent(app, port=0, pipeline=pipeline)
        with pytest.raises(ConfigurationError, match=re.escape(message)):
            async with started(component):
                pass


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "upstreams is missing"),
        ({"upstreams": []}, "upstreams is missing"),
        ({"upstreams": "ftp://a"}, "upstreams: 'ftp://a' is no upstream"),
        ({"upstreams": "http://"}, "upstreams: 'http://' has no valid host and port"),
        ({"upstreams": "http://a:0"}, "nobody listens on port 0"),
        ({"upstreams": "http://a/?b"}, "may have a path, but no query"),
        ({"upstreams": "http://a/b c"}, "write its path with percent escapes"),
        ({"upstreams": "http://me:secret@a"}, "has no valid host and port"),
        ({"upstreams": "unix:"}, "names no socket"),
        ({"upstreams": [URL, URL]}, f"'{URL}' is there twice"),
        ({"upstreams": URL, "balanc": 1}, "unknown key 'balanc'; did you mean 'balance'?"),
        ({"upstreams": URL, "balance": "best"}, "balance must be one of round_robin, least_"),
        ({"upstreams": URL, "forwarded": "yes"}, "forwarded must be one of x-forwarded"),
        ({"upstreams": URL, "host": "a b"}, "host: 'a b' is neither keep, nor upstream"),
        ({"upstreams": URL, "via": "a b"}, "via: 'a b' is no token"),
        ({"upstreams": URL, "ca": "x.pem"}, "ca is for https upstreams"),
        ({"upstreams": URL, "read_timeout": 0}, "read_timeout must be greater than 0"),
        ({"upstreams": URL, "retries": -1}, "retries must be at least 0"),
        ({"upstreams": URL, "pool_size": "x"}, "pool_size must be of type int"),
        ({"upstreams": URL, "buffer_size": 1}, "buffer_size must be at least 1024"),
        (
            {"upstreams": URL, "settings": {"read_timeout": 5}},
            "settings: 'read_timeout' is a proxy's; write it beside upstreams",
        ),
        ({"upstreams": URL, "access_log": False}, "'access_log'; it belongs under 'settings'"),
        ({"upstreams": URL, "app": "a:b", "mounts": {"/": URL}}, "mounts: /: the servers of"),
        ({"upstreams": URL, "app": "a:b", "mounts": []}, None),
        ({"upstreams": URL, "app": "a:b", "mounts": [1]}, "mounts must be a mapping of prefixes"),
        (
            {"upstreams": URL, "mounts": {"/a": {"upstreams": URL, "app": "b:c"}}},
            "mounts: /a: give",
        ),
        (
            {"upstreams": URL, "mounts": {"/a": {"upstreams": URL, "read": 1}}},
            "mounts: /a: unknown",
        ),
        ({"upstreams": URL, "mounts": {"/a": "http://"}}, None),
    ],
)
def test_wrong_keys_are_one_line(keys: dict[str, Any], message: str | None) -> None:
    if message is None:  # nothing to complain of yet
        KyoukaiProxyComponent(**keys)
        return
    with pytest.raises(ConfigurationError) as caught:
        KyoukaiProxyComponent(**keys)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ca", "message"), [("nothere.pem", "ca: cannot read 'nothere.pem'"), (__file__, "no certif")]
)
def test_a_ca_that_cannot_be_used(ca: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ProxyInterface(Proxy("https://127.0.0.1:1", ca=ca), ServerConfig())


def test_a_proxy_has_an_interface_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match="interface: 'asgi' is not that of a proxy"):
        KyoukaiProxyComponent(URL, port=0, interface="asgi")._prepare(_Group())


class _Group:
    applications: dict[str, Any] = {}


async def test_an_application_of_another_kind_would_get_nothing() -> None:
    async def asgi(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="mounts: /: it would take every request"):
        async with started(KyoukaiProxyComponent(URL, asgi, port=0)):
            pass


# -- The command line -----------------------------------------------------------------------------


@pytest.fixture
def up_program(tmp_path: Path) -> Iterator[Program]:
    (tmp_path / "up.py").write_text(
        "from kyoukai import Kyoukai\napp = Kyoukai('up')\n"
        "@app.route('/x')\nasync def x(ctx):\n    return 'from up'\n"
    )
    program = Program("run", "up:app", "--bind", "unix:up.sock", cwd=tmp_path)
    program.wait_for("listening on")
    yield program
    program.kill()


def test_run_a_url(up_program: Program, tmp_path: Path) -> None:
    program = Program(
        *("run", "unix:up.sock", "--bind", "127.0.0.1:0", "--set", "read_timeout=5"), cwd=tmp_path
    )
    try:
        line = program.wait_for("listening on")
        assert line.endswith("(httptools, http2, proxy)")
        port = int(line.partition("127.0.0.1:")[2].partition(" ")[0])
        assert get(port, "/x") == (200, b"from up")
        program.signal()
        assert program.finish() == 0, program.stderr
    finally:
        program.kill()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("http://",), 1, "Error: upstreams: 'http://' has no valid host and port"),
        ((URL, "--set", "read_timeout=x"), 1, "Error: read_timeout must be of type float"),
        ((URL, "--set", "read_timeou=1"), 2, "'read_timeou'; did you mean 'read_timeout'?"),
        (("up:app", "--set", "retries=1"), 1, "Error: --set retries: it is for proxies"),
        ((URL, "--interface", "asgi"), 1, "Error: interface: 'asgi' is not that of a proxy"),
        ((URL, "--factory"), 1, "cannot be called: it is no factory"),
    ],
)
def test_wrong_commands(
    commands: Commands, tmp_path: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    (tmp_path / "up.py").write_text("from kyoukai import Kyoukai\napp = Kyoukai('up')\n")
    result = commands.run("run", *arguments, "--bind", "127.0.0.1:0", cwd=tmp_path)
    assert result.returncode == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_server_s_own_setting_of_a_name_that_both_have(
    commands: Commands, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(
        f"component: {{type: kyoukai_proxy, upstreams: '{URL}', max_head_size: 5}}\n"
    )
    result = commands.run("run", "c.yaml", "--set", "max_head_size=4096", cwd=tmp_path)
    assert (
        "max_head_size must be at least 256, not 5" in result.stderr
    )  # the proxy's is still there


def test_routes(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "up.py").write_text(
        "from kyoukai import Kyoukai\napp = Kyoukai('up')\n"
        "@app.route('/x')\nasync def x(ctx):\n    return ''\n"
    )
    (tmp_path / "c.yaml").write_text(
        f"component: {{type: kyoukai_proxy, app: 'up:app', upstreams: '{URL}'}}\n"
    )
    result = commands.run("routes", "c.yaml", cwd=tmp_path)
    assert [line.split() for line in result.stdout.splitlines()[1:]] == [
        ["/x", "GET,", "HEAD", "up.x", "any"],
        ["/…", "any", "proxy", "to", URL, "any"],
    ]
    result = commands.run("routes", URL, cwd=tmp_path)
    assert f"proxy to {URL}" in result.stdout
