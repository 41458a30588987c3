"""The command line with applications of other kinds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from support import Program, get, only_line

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from support import Commands

    Start = Callable[..., Program]
    Run = Callable[..., subprocess.CompletedProcess[str]]

APPS = """
number = 7

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        message = await receive()
        print(message["type"], flush=True)
        await send({"type": "lifespan.startup.complete"})
        message = await receive()
        print(message["type"], flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = f"{scope['root_path']} {scope['path']}".encode()
    await send({"type": "http.response.body", "body": body})

async def failing(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [environ["SCRIPT_NAME"].encode() + b" " + environ["PATH_INFO"].encode()]

def make():
    print("made", flush=True)
    return wsgi

async def rsgi(scope, proto):
    proto.response_str(200, [], scope.path)

def ssgi(type, server, client, method, path, query, get_header, res):
    res.send(path)

def anything(*arguments):
    raise RuntimeError("called to find out what it is")

class Framework:
    def get_supported(self, supported):
        return {"http": ("wsgi", wsgi), "websocket": None}

framework = Framework()
"""

YAML = """
component:
  type: asphalt.core:ContainerComponent
  components:
    kyoukai:
      app: "apps:asgi"
      port: 0
      mounts:
        /wsgi: {app: "apps:make", factory: true, interface: wsgi}
        /rsgi: "apps:rsgi"
    second: {type: kyoukai, app: "apps:asgi", port: 0}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "apps.py").write_text(APPS)
    (tmp_path / "config.yaml").write_text(YAML)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> object:
    programs: list[Program] = []

    def begin(*arguments: str) -> Program:
        programs.append(Program(*arguments, cwd=folder))
        return programs[-1]

    yield begin
    for program in programs:
        program.kill()


@pytest.fixture
def run(folder: Path, commands: Commands) -> Run:
    return partial(commands.run, cwd=folder)


@pytest.mark.parametrize(
    ("arguments", "kind", "body"),
    [
        (("apps:asgi",), "asgi", b" /x"),
        (("apps:asgi", "--interface", "asgi", "--root-path", "/r"), "asgi", b"/r /r/x"),
        (("apps:wsgi",), "wsgi", b" /x"),
        (("apps:wsgi", "--root-path", "/r"), "wsgi", b"/r /x"),
        (("apps:make", "--factory"), "wsgi", b" /x"),
        (("apps:rsgi",), "rsgi", b"/x"),
        (("apps:ssgi",), "ssgi", b"/x"),
        (("apps:framework",), "ssgi", b" /x"),
    ],
)
def test_the_start_up_line_says_what_was_found(
    start: Start, arguments: tuple[str, ...], kind: str, body: bytes
) -> None:
    program = start("run", *arguments, "--bind", "127.0.0.1:0")
    line = program.wait_for("listening on")
    assert line.partition("(")[2].startswith(f"httptools, http2, {kind}")
    port = int(line.partition("127.0.0.1:")[2].partition(" ")[0])
    assert get(port, "/x") == (200, body)
    program.signal()
    assert program.finish() == 0


@pytest.mark.parametrize(
    ("lifespan", "output"),
    [("auto", "lifespan.startup\nlifespan.shutdown\n"), ("off", "")],
)
def test_lifespan(start: Start, lifespan: str, output: str) -> None:
    options = ("--lifespan", lifespan, "--no-access-log", "--bind", "127.0.0.1:0")
    program = start("run", "apps:asgi", *options)
    assert get(program.port(), "/x") == (200, b" /x")
    program.signal()
    assert program.finish() == 0
    assert program.output() == output


def test_a_file_with_several_kinds(start: Start) -> None:
    program = start("run", "config.yaml", "--no-access-log")
    first, second = (program.wait_for("listening on") for _ in "12")
    assert first.endswith(" (httptools, http2, asgi; /wsgi: wsgi, /rsgi: rsgi)")
    assert second.endswith(" (httptools, http2, asgi)")
    port = int(first.partition("127.0.0.1:")[2].partition(" ")[0])
    assert get(port, "/wsgi/x") == (200, b"/wsgi /x")
    assert get(port, "/rsgi/x") == (200, b"/x")
    assert get(port, "/x") == (200, b" /x")
    program.signal()
    assert program.finish() == 0
    assert program.output() == "made\nlifespan.startup\nlifespan.shutdown\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("apps:number",), 1, "Error: app: 'apps:number' is of type int, which is no application"),
        (("apps:make",), 2, "Error: app: 'apps:make' takes no arguments; if it makes the appl"),
        (("apps:anything",), 2, "Error: app: 'apps:anything': its signature does not tell what"),
        (("apps:asgi", "--interface", "asgj"), 2, "Error: Invalid value for '--interface': 'asgj'"),
        (("apps:asgi", "--lifespan", "x"), 2, "Error: Invalid value for '--lifespan': 'x' is not"),
        (("apps:asgi", "--root-path", "x"), 2, "Error: Invalid value for '--root-path': root_path"),
        (("apps:number", "--factory"), 1, "Error: 'apps:number' cannot be called: it is no fact"),
        (
            ("apps:failing", "--bind", "127.0.0.1:0"),
            1,
            "Error: apps:failing: the application cannot start: no data",
        ),
        (("config.yaml", "--interface", "asgi"), 1, "Error: --interface: config.yaml has several"),
        (("config.yaml", "--factory"), 1, "Error: --factory: config.yaml has several components"),
    ],
)
def test_failures(run: Run, arguments: tuple[str, ...], status: int, message: str) -> None:
    ran = run("run", *arguments, "--set", "access_log=false")
    assert only_line(ran.stderr).startswith(message)
    assert ran.returncode == status


def test_nothing_is_called_to_find_out(run: Run) -> None:
    assert "called to find out" not in run("run", "apps:anything").stderr


def test_routes_show_mounts(run: Run) -> None:
    ran = run("routes", "config.yaml")
    assert [line.split() for line in ran.stdout.splitlines()] == [
        ["apps:asgi:"],
        ["path", "methods", "endpoint", "host"],
        ["/rsgi/…", "any", "apps:rsgi", "any"],
        ["/wsgi/…", "any", "apps:make", "any"],
        ["/…", "any", "apps:asgi", "any"],
        ["apps:asgi:"],
        ["path", "methods", "endpoint", "host"],
        ["/…", "any", "apps:asgi", "any"],
    ]
