"""The command line as users meet it: real processes, their lines, and their exit statuses."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from h2client import ANY_STREAM, Answer, H2Client, connect_h2, get_h2
from support import Program, connect, get, only_line

from kyoukai import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Certificates, Commands

    Start = Callable[..., Program]
    Run = Callable[..., subprocess.CompletedProcess[str]]

APP = """
import asyncio, os, threading, time
from kyoukai import Kyoukai

app = Kyoukai("site")
number = 7

@app.route("/")
async def index(ctx):
    return "hello"

@app.route("/users/<int:id>", methods=["GET", "PUT"])
async def user(ctx, id: int):
    return {"id": id, "root": ctx.request.script_root}

@app.route("/slow")
async def slow(ctx):
    print("slow", flush=True)
    await asyncio.sleep(0.5)
    return "done"

@app.route("/upload", methods=["POST"], stream=True)
async def upload(ctx):
    print("upload", flush=True)
    await ctx.request.read_async()
    return "done"

@app.route("/endless")
async def endless(ctx):
    print("endless", flush=True)
    await asyncio.Event().wait()

@app.route("/stuck")
def stuck(ctx):
    print("stuck", flush=True)
    time.sleep(3600)

@app.before_serving
async def begin(ctx):
    print("begin", flush=True)

@app.after_serving
async def end(ctx):
    print("end", flush=True)
"""

COMPONENTS = """
from asphalt.core import Component

class Loud(Component):
    def __init__(self, fails=False):
        self.fails = fails

    async def start(self, ctx):
        print("loud starts", flush=True)
        ctx.add_teardown_callback(lambda: print("loud ends", flush=True))
        if self.fails:
            raise RuntimeError("out of tune")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "components.py").write_text(COMPONENTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start(folder: Path, program: Start) -> Start:
    return program


@pytest.fixture
def run(folder: Path, commands: Commands) -> Run:
    return partial(commands.run, cwd=folder)


@pytest.fixture
def taken() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def fail(start: Start, *arguments: str) -> tuple[int, str]:
    """Run a command that fails; return its status and its one line."""
    running = start(*arguments)
    status = running.finish()
    return status, only_line(running.stderr)


# -- kyoukai run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["auto", "asyncio", "uvloop"])
def test_a_target_is_served_and_stops(start: Start, loop: str) -> None:
    running = start("run", "app:app", "--bind", "127.0.0.1:0", "--loop", loop)
    line = running.wait_for("Kyoukai")
    found = re.fullmatch(
        r"Kyoukai listening on http://127\.0\.0\.1:(\d+) \(httptools, http2, kyoukai\)", line
    )
    assert found is not None
    port = int(found[1])
    assert get(port) == (200, b"hello")
    assert get(port, "/users/7") == (200, b'{"id":7,"root":""}')
    running.signal()
    assert running.finish() == 0
    assert running.stderr == line + "\n"
    begin, first, second, end = running.output().splitlines()
    assert (begin, end) == ("begin", "end")
    assert re.match(r'\d{4}-.* 127\.0\.0\.1 "GET / HTTP/1\.1" 200 5 0\.\d+$', first)
    assert '"GET /users/7 HTTP/1.1" 200' in second


def test_the_installed_command() -> None:
    command = Path(sys.executable).with_name("kyoukai")
    ran = subprocess.run([command, "version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith(f"Kyoukai {__version__}\n")


def test_a_file_is_served(start: Start, folder: Path) -> None:
    (folder / "config.yaml").write_text(
        """
        component:
          type: asphalt.core:ContainerComponent
          components:
            loud: {type: "components:Loud"}
            kyoukai: {app: "app:app", port: 0, settings: {root_path: /site}}
            second: {type: kyoukai, app: "app:app", port: 0, settings: {access_log: false}}
        """
    )
    running = start("run", "config.yaml")
    first, second = (int(url.rpartition(":")[2]) for url in running.urls(2))
    assert get(first, "/site/users/7")[1] == b'{"id":7,"root":"/site"}'
    assert get(second, "/users/7")[1] == b'{"id":7,"root":""}'
    running.signal(signal.SIGINT)
    assert running.finish() == 0
    lines = running.output().splitlines()
    assert lines[:2] == ["loud starts", "begin"]
    assert lines[-2:] == ["end", "loud ends"]
    assert len(lines) == 5


def test_services_loops_and_folders(start: Start, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "app.py").rename(folder / "sub" / "app.py")
    (folder / "config.yaml").write_text(
        """
        event_loop_policy: uvloop
        max_threads: 2
        logging:
          version: 1
          formatters: {json: {"()": kyoukai.server.access_log.JsonFormatter}}
          handlers: {out: {class: logging.StreamHandler, formatter: json, stream: ext://sys.stdout}}
          root: {handlers: [out], level: INFO}
        services:
          one: {component: {type: "components:Loud"}}
          two: {component: {type: kyoukai, app: "app:app", port: !Env PORT_TEXT}}
          three: {component: {type: kyoukai, app: "app:app", port: 0}}
        """
    )
    running = start("run", "config.yaml", "--app-dir", "sub", env={"ASPHALT_SERVICE": "three"})
    assert get(running.port()) == (200, b"hello")
    running.signal()
    assert running.finish() == 0
    entries = [json.loads(line) for line in running.output().splitlines() if line[0] == "{"]
    (access,) = [each for each in entries if each["logger"] == "kyoukai.access"]
    assert (access["path"], access["status"]) == ("/", 200)
    status, line = fail(start, "run", "config.yaml", "--app-dir", "sub", "--service", "two")
    assert status == 1
    assert "component: port must be a number from 0 to 65535, not None" in line


def test_several_addresses_and_tls(start: Start, folder: Path, certificates: Certificates) -> None:
    running = start(
        "run",
        "app:app",
        *("--bind", "127.0.0.1:0", "--bind", "unix:app.sock", "--tls-bind", "127.0.0.1:0"),
        *("--certfile", certificates.path("a.pem"), "--keyfile", certificates.path("a-key.pem")),
        "--no-access-log",
    )
    plain, unix, secure = running.urls(3)
    assert get(int(plain.rpartition(":")[2])) == (200, b"hello")
    assert unix == "unix:app.sock"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("app.sock")
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.makefile("rb").read().endswith(b"hello")
    assert secure.startswith("https://127.0.0.1:")
    assert running.stderr.count(" (httptools, http2, kyoukai)\n") == 3
    context = certificates.trusting("a")
    assert get(int(secure.rpartition(":")[2]), context=context) == (200, b"hello")
    assert get_h2(int(secure.rpartition(":")[2]), context=context) == (200, b"hello")
    assert get_h2(int(plain.rpartition(":")[2])) == (200, b"hello")
    running.signal()
    assert running.finish() == 0
    assert running.output() == "begin\nend\n"
    assert not (folder / "app.sock").exists()


def test_http2_alone(start: Start, folder: Path, certificates: Certificates) -> None:
    (folder / "config.yaml").write_text("component: {type: kyoukai_http2, app: 'app:app'}\n")
    running = start(
        *("run", "config.yaml", "--tls-bind", "127.0.0.1:0", "--bind", "127.0.0.1:0"),
        *("--certfile", certificates.path("a.pem"), "--keyfile", certificates.path("a-key.pem")),
        *("--set", "h2_max_concurrent_streams=7"),
    )
    plain, secure = running.urls(2)
    assert running.stderr.count(" (http2, kyoukai)\n") == 2
    assert get_h2(int(plain.rpartition(":")[2])) == (200, b"hello")
    client = connect_h2(int(secure.rpartition(":")[2]), certificates.trusting("a"))
    assert client.get("/") == (200, b"hello")
    assert client.max_streams == 7
    client.close()
    running.signal()
    assert running.finish() == 0
    assert running.output().count('"GET / HTTP/2" 200 5 ') == 2


def test_http2_turned_off(start: Start, folder: Path) -> None:
    (folder / "config.yaml").write_text(
        "component: {type: kyoukai, app: 'app:app', port: 0, http2: false}\n"
    )
    running = start("run", "config.yaml")
    port = running.port()
    assert running.stderr.endswith(" (httptools, kyoukai)\n")
    assert get(port) == (200, b"hello")
    with connect(port) as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 505 ")
    running.signal()
    assert running.finish() == 0


def test_settings_of_the_command_line_come_first(start: Start, folder: Path) -> None:
    (folder / "config.yaml").write_text(
        "component: {type: kyoukai, app: 'app:app', ip: 192.0.2.1, port: 80,"
        " settings: {root_path: /old, access_log: true}}\n"
    )
    running = start(
        "run",
        "config.yaml",
        *("--bind", "127.0.0.1:0", "--root-path", "/new", "--no-access-log"),
        *("--set", "server_header=Test", "--set", "max_headers=5"),
    )
    port = running.port()
    assert get(port, "/new/users/7")[1] == b'{"id":7,"root":"/new"}'
    with connect(port) as client:
        client.sendall(b"GET / HTTP/1.0\r\n" + b"a: b\r\n" * 6 + b"\r\n")
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"\r\nserver: test\r\n" in answer.lower()
    running.signal()
    assert running.finish() == 0
    assert running.output() == "begin\nend\n"


def test_an_inherited_socket(start: Start, taken: socket.socket) -> None:
    number = taken.fileno()
    running = start("run", "app:app", "--bind", f"fd://{number}", pass_fds=(number,))
    assert running.port() == taken.getsockname()[1]
    taken.close()
    running.signal()
    assert running.finish() == 0


# -- The end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_slow_answer_is_finished(start: Start, loop: str) -> None:
    """It needs what the client says during the drain, so that it cannot end before."""
    running = start("run", "app:app", "--bind", "127.0.0.1:0", "--loop", loop)
    port = running.port()
    with connect(port) as client, connect(port) as idle:
        client.sendall(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
        running.wait_for_output("upload")
        running.signal()
        assert idle.recv(1) == b""  # the drain has begun
        with pytest.raises(ConnectionRefusedError):
            connect(port)
        client.sendall(b"x")
        answer = client.makefile("rb").read()
    assert answer.endswith(b"done")
    assert b"connection: close" in answer.lower()
    assert running.finish() == 0
    assert running.output().splitlines()[-1] == "end"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("secure", [False, True])
def test_no_request_is_lost_under_load(
    start: Start, certificates: Certificates, loop: str, secure: bool
) -> None:
    """Clients that go on asking over HTTP/2 until they are told to stop get all they asked for."""
    pair = ("--certfile", certificates.path("a.pem"), "--keyfile", certificates.path("a-key.pem"))
    running = start(
        *("run", "app:app", "--tls-bind" if secure else "--bind", "127.0.0.1:0"),
        *(pair if secure else ()),
        *("--loop", loop, "--no-access-log"),
    )
    port = running.port()
    busy = threading.Barrier(4)

    def load() -> tuple[H2Client, float]:
        client = connect_h2(port, certificates.trusting("a") if secure else None)
        waiting = {client.request("/slow")} | {client.request("/users/7") for _ in range(10)}
        warm = False
        told = 0.0
        while waiting and client.read():
            if not warm and len(client.answers) >= 100:
                warm = True
                busy.wait(100)
            over = {stream for stream in waiting if client.answers[stream].is_whole}
            waiting -= over
            if not client.goaways:
                waiting |= {client.request("/users/7") for _ in over}
            else:
                told = told or time.monotonic()
        while client.read():
            pass
        client.close()
        return client, told

    with ThreadPoolExecutor() as pool:
        loads = [pool.submit(load) for _ in range(3)]
        busy.wait(100)
        before = time.monotonic()
        running.signal()
        ended = [each.result() for each in loads]
    for client, told in ended:
        first, (last, code) = client.goaways
        assert (first, code) == ((ANY_STREAM, 0), 0)
        # The server waits a second for whoever is told of the end; then it must leave the rest.
        assert last == max(client.answers) or told - before > 1
        for stream in [each for each in client.answers if each > last]:
            assert client.answers.pop(stream) == Answer()
        for stream, answer in client.answers.items():
            body = b"done" if stream == 1 else b'{"id":7,"root":""}'
            assert (stream, answer.status, answer.body) == (stream, 200, body)
            assert answer.is_whole
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    assert running.finish() == 0
    assert len(running.stderr.splitlines()) == 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_an_idle_tls_client_does_not_hold_up_the_stop(
    start: Start, certificates: Certificates, loop: str, protocol: str
) -> None:
    """A pool of connections reads nothing before it uses one again, so it misses every farewell."""
    running = start(
        *("run", "app:app", "--tls-bind", "127.0.0.1:0", "--loop", loop),
        *("--certfile", certificates.path("a.pem"), "--keyfile", certificates.path("a-key.pem")),
        *("--set", "linger_timeout=0.2", "--no-access-log"),
    )
    port, context = running.port(), certificates.trusting("a")
    context.set_alpn_protocols([protocol])
    with connect(port, context) as sock:
        if protocol == "h2":
            client = H2Client(sock)
            client.send()
            client.get("/")
        else:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b""
            while not answer.endswith(b"hello"):
                answer += sock.recv(65536)
        before = time.monotonic()
        running.signal()
        assert running.finish() == 0
        assert time.monotonic() - before < 20
    assert len(running.stderr.splitlines()) == 1


@pytest.mark.parametrize("path", ["/endless", "/stuck"])
def test_the_end_comes_within_a_second_of_the_time_limit(start: Start, path: str) -> None:
    running = start("run", "app:app", "--bind", "127.0.0.1:0", "--set", "graceful_timeout=0.2")
    with connect(running.port()) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        running.wait_for_output(path[1:])
        running.signal()
        before = time.monotonic()
        assert running.finish() == 0
        # The limit and a second, and the interpreter's own end on a machine that is busy.
        assert time.monotonic() - before < 15
    assert "cutting 1 connections and 1 requests" in running.stderr
    assert running.output().splitlines()[-1] == "end"


@pytest.mark.parametrize("path", ["/endless", "/stuck"])
def test_a_second_signal_ends_at_once(start: Start, path: str) -> None:
    running = start("run", "app:app", "--bind", "127.0.0.1:0", "--bind", "unix:app.sock")
    port = int(running.urls(2)[0].rpartition(":")[2])
    with connect(port) as client, connect(port) as idle:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        running.wait_for_output(path[1:])
        running.signal()
        assert idle.recv(1) == b""
        running.signal()
        assert running.finish() == 128 + signal.SIGTERM
    assert "second signal" in running.stderr
    assert not Path("app.sock").exists()


def test_a_signal_during_the_start(start: Start, folder: Path) -> None:
    (folder / "app.py").write_text(
        APP + "\n@app.before_serving\nasync def wait(ctx):\n    await asyncio.Event().wait()\n"
    )
    running = start("run", "app:app", "--bind", "127.0.0.1:0")
    running.wait_for_output("begin")
    running.signal()
    assert running.finish() == 0
    assert running.stderr == ""


def test_certificates_are_replaced(start: Start, folder: Path, certificates: Certificates) -> None:
    def copy(certificate: str, key: str) -> None:
        shutil.copy(certificates.path(certificate), folder / "cert.pem")
        shutil.copy(certificates.path(key), folder / "key.pem")

    copy("a.pem", "a-key.pem")
    running = start(
        *("run", "app:app", "--tls-bind", "127.0.0.1:0"),
        *("--certfile", "cert.pem", "--keyfile", "key.pem"),
    )
    port = running.port()
    with connect(port, certificates.trusting("a")) as old:
        copy("b.pem", "b-key.pem")
        running.signal(signal.SIGHUP)
        running.wait_for("was read again")
        assert get(port, context=certificates.trusting("b")) == (200, b"hello")
        copy("junk.pem", "a-key.pem")
        running.signal(signal.SIGHUP)
        line = running.wait_for("was not replaced")
        assert "certfile: 'cert.pem' holds no certificate" in line
        assert get(port, context=certificates.trusting("b")) == (200, b"hello")
        with pytest.raises(ssl.SSLError):
            get(port, context=certificates.trusting("a"))
        old.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert old.makefile("rb").read().endswith(b"hello")
    running.signal()
    assert running.finish() == 0


def test_a_hangup_without_tls_changes_nothing(start: Start) -> None:
    running = start("run", "app:app", "--bind", "127.0.0.1:0")
    port = running.port()
    running.signal(signal.SIGHUP)
    assert get(port) == (200, b"hello")
    running.signal()
    assert running.finish() == 0


def was_closed(client: socket.socket) -> bool:
    """Whether the other side closes without a byte."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def get_unless_closed(port: int) -> tuple[int, bytes] | None:
    try:
        return get(port)
    except ConnectionError:
        return None


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_it_recovers_when_descriptors_have_run_out(start: Start, loop: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    running = start(
        *("run", "app:app", "--bind", "127.0.0.1:0", "--loop", loop, "--no-access-log"),
        *("--set", "max_connections=1000"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard)),
    )
    port = running.port()
    before = time.monotonic()
    clients = [connect(port) for _ in range(60)]
    if loop == "asyncio":
        running.wait_for("cannot accept connections: Too many open files")
    else:
        assert was_closed(clients[-1])
    for client in clients:
        client.close()
    # libuv closes all that wait to be accepted, and whoever comes while it does
    closed = time.monotonic()
    while (answer := get_unless_closed(port)) is None:
        assert time.monotonic() - closed < 20
    assert answer == (200, b"hello")
    assert time.monotonic() - closed < 20
    seconds = time.monotonic() - before
    running.signal()
    assert running.finish() == 0
    complaints = running.stderr.count("cannot accept")
    assert complaints <= 2 + seconds  # one a second
    assert len(running.stderr.splitlines()) == 1 + complaints


def test_the_default_limit_leaves_descriptors_free(start: Start) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    running = start(
        *("run", "app:app", "--bind", "127.0.0.1:0", "--set", "keep_alive_timeout=100"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard)),
    )
    port = running.port()
    clients = []
    for _ in range(80):
        clients.append(connect(port))
        clients[-1].sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert clients[-1].recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
    with connect(port) as client:
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 503 ")
    for client in clients:
        client.close()
    running.signal()
    assert running.finish() == 0


# -- What is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "Missing argument 'TARGET'"),
        (("run", "app"), "'app' is no target; write module:attribute, the name of a YAML"),
        (("run", "none.yaml"), "there is no file 'none.yaml'"),
        (("run", "app:app", "--bnd", "x"), "No such option"),
        (("run", "app:app", "--bind", "8000"), "'8000' is no address; write HOST:PORT"),
        (("run", "app:app", "--loop", "trio"), "'trio' is not one of"),
        (("run", "app:app", "--log-level", "loud"), "'loud' is not one of"),
        (("run", "app:app", "--app-dir", "none"), "Directory 'none' does not exist"),
        (("run", "app:app", "--set", "a"), "'a' is not of the form NAME=VALUE"),
        (("run", "app:app", "--set", "max_heders=1"), "did you mean 'max_headers'"),
        (("run", "app:app", "--set", "max_headers=x"), "max_headers must be of type int"),
        (("run", "app:app", "--set", "max_headers={"), "max_headers, line 1: "),
        (("run", "app:app", "--set", "h2_stream_window=0"), "h2_stream_window must be at least"),
        (("run", "app:app", "--root-path", "x"), "'--root-path': root_path must start with '/'"),
        (("rum", "app:app"), "No such command 'rum'"),
    ],
)
def test_usage(run: Run, arguments: tuple[str, ...], message: str) -> None:
    ran = run(*arguments)
    assert ran.returncode == 2
    line = only_line(ran.stderr)
    assert line.startswith("Error: ")
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no_module:app",), "'no_module:app': there is no module 'no_module' in "),
        (("app:ap",), "'app:ap': 'app' has no 'ap'; did you mean 'app'?"),
        (("app:number",), "app: 'app:number' is of type int, which is no application"),
        (("app:app", "--bind", "192.0.2.1:80"), "this machine does not have that address"),
        (("app:app", "--tls-bind", "127.0.0.1:0"), "certfile is missing"),
        (("app.py",), "'app.py' is no YAML file; name the application in it as app:app"),
        (("app:app", "--certfile", "none", "--keyfile", "none"), "certfile: cannot read 'none'"),
        (("h2.yaml",), "h2.yaml: component: certfile is missing: TLS needs ssl_certfile and"),
        (
            ("app:app", "--certfile", "a.pem", "--keyfile", "a-key.pem", "--set", "ciphers=ALL"),
            "ciphers: HTTP/2 prohibits ",
        ),
        (("config.yaml",), "config.yaml, line 3: "),
        (("wrong.yaml",), "wrong.yaml: component.components.kyoukai: unknown key 'prot'; did you"),
        (("none.yml", "--set", "backlog=1"), "--set backlog: none.yml names no component"),
        (("two.yaml", "--bind", "127.0.0.1:0"), "--bind: two.yaml has several components (a, b)"),
        (("none.yml", "--no-access-log"), "--no-access-log: none.yml names no component"),
    ],
)
def test_failures(
    run: Run,
    folder: Path,
    certificates: Certificates,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    for name in ("a.pem", "a-key.pem"):
        shutil.copy(certificates.path(name), name)
    (folder / "h2.yaml").write_text("component: {type: kyoukai_http2, app: 'app:app'}\n")
    container = "component:\n  type: asphalt.core:ContainerComponent\n  components:\n"
    (folder / "config.yaml").write_text("component:\n  type: kyoukai\n app: x\n")
    (folder / "wrong.yaml").write_text(container + "    kyoukai: {app: 'app:app', prot: 1}\n")
    ours = "{type: kyoukai, app: 'app:app', port: 0}\n"
    (folder / "two.yaml").write_text(container + f"    a: {ours}    b: {ours}")
    (folder / "none.yml").write_text("component: {type: 'components:Loud'}\n")
    ran = run("run", *arguments)
    assert ran.returncode == 1
    line = only_line(ran.stderr)
    assert line.startswith("Error: ")
    assert message in line


def test_a_taken_port_shows_before_any_component_starts(
    start: Start, folder: Path, taken: socket.socket
) -> None:
    port = taken.getsockname()[1]
    (folder / "config.yaml").write_text(
        "component:\n  type: asphalt.core:ContainerComponent\n  components:\n"
        "    loud: {type: 'components:Loud'}\n"
        f"    kyoukai: {{app: 'app:app', port: {port}}}\n"
    )
    running = start("run", "config.yaml")
    assert running.finish() == 1
    assert only_line(running.stderr) == (
        f"Error: config.yaml: component.components.kyoukai: cannot listen on 127.0.0.1:{port}:"
        " it is taken by another program; change bind"
    )
    assert running.output() == ""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import missing_thing", "ModuleNotFoundError: No module named 'missing_thing'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_the_users_own_error_has_its_traceback_and_one_line(
    start: Start, folder: Path, code: str, message: str
) -> None:
    (folder / "app.py").write_text(f"import os\n{code}\n")
    running = start("run", "app:app")
    assert running.finish() == 1
    *traceback, line = running.stderr.splitlines()
    assert line == f"Error: 'app:app': the module 'app' cannot be imported: {message}"
    assert sum(each.lstrip().startswith("File ") for each in traceback) == 1
    assert 'app.py", line 2' in running.stderr


def test_a_component_that_fails_to_start(start: Start, folder: Path) -> None:
    (folder / "config.yaml").write_text(
        "component:\n  type: asphalt.core:ContainerComponent\n  components:\n"
        "    kyoukai: {app: 'app:app', port: 0}\n"
        "    loud: {type: 'components:Loud', fails: true}\n"
    )
    running = start("run", "config.yaml")
    assert running.finish() == 1
    assert running.stderr.splitlines()[-1] == (
        "Error: the application failed to start: RuntimeError: out of tune"
    )
    assert 'components.py", line 12' in running.stderr
    assert running.output() == "loud starts\nloud ends\n"


# -- The other commands ---------------------------------------------------------------------------


def test_routes(run: Run) -> None:
    ran = run("routes", "app:app")
    assert ran.returncode == 0
    lines = [line.split("  ") for line in ran.stdout.splitlines()]
    table = [[cell.strip() for cell in line if cell] for line in lines]
    assert table[0] == ["path", "methods", "endpoint", "host"]
    assert ["/", "GET, HEAD", "site.index", "any"] in table
    assert ["/users/<int:id>", "GET, HEAD, PUT", "site.user", "any"] in table


def test_routes_of_a_file(run: Run, folder: Path) -> None:
    (folder / "other.py").write_text(
        "from kyoukai import Kyoukai\napp = Kyoukai('other', host='example.org')\n"
        "@app.route('/there')\nasync def there(ctx): ...\n"
    )
    (folder / "config.yaml").write_text(
        "component:\n  type: asphalt.core:ContainerComponent\n  components:\n"
        "    kyoukai: {app: 'app:app'}\n"
        "    again: {type: kyoukai, app: 'app:app'}\n"
        "    other: {type: kyoukai, app: 'other:app'}\n"
    )
    ran = run("routes", "config.yaml")
    assert ran.returncode == 0
    lines = ran.stdout.splitlines()
    assert lines.count("site:") == lines.count("other:") == 1
    assert re.search(r"^/there +GET, HEAD +other\.there +example\.org$", ran.stdout, re.M)


def test_routes_of_sockets_and_resources(run: Run, folder: Path) -> None:
    (folder / "live.py").write_text(
        "from kyoukai import Kyoukai, Resource\napp = Kyoukai('live')\n"
        "@app.websocket('/both')\nasync def socket(ctx, ws): ...\n"
        "@app.route('/both')\nasync def page(ctx): ...\n"
        "class Thing(Resource):\n"
        "    async def on_put(self, ctx, id): ...\n"
        "    async def on_websocket(self, ctx, ws, id): ...\n"
        "app.add_resource('/things/<id>', Thing())\n"
    )
    ran = run("routes", "live:app")
    assert [re.split("  +", line) for line in ran.stdout.splitlines()] == [
        ["path", "methods", "endpoint", "host"],
        ["/both", "GET, HEAD", "live.page", "any"],
        ["/both", "WEBSOCKET", "live.socket", "any"],
        ["/things/<id>", "PUT", "live.Thing.on_put", "any"],
        ["/things/<id>", "WEBSOCKET", "live.Thing.on_websocket", "any"],
    ]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("app:number", "app: 'app:number' is of type int, which is no application"),
        ("none.yml", "'none.yml' has no component that serves an application"),
    ],
)
def test_routes_of_something_else(run: Run, folder: Path, target: str, message: str) -> None:
    (folder / "none.yml").write_text("component: {type: 'components:Loud'}\n")
    ran = run("routes", target)
    assert ran.returncode == 1
    assert only_line(ran.stderr) == f"Error: {message}"


def test_cert(run: Run) -> None:
    ran = run("cert", "certs")
    assert ran.returncode == 0
    assert ran.stdout.splitlines() == ["certs/localhost.pem", "certs/localhost-key.pem"]
    again = run("cert", "certs")
    assert again.returncode == 1
    assert only_line(again.stderr) == "Error: certs/localhost.pem exists; --force replaces it"
    assert run("cert", "--force", "certs").returncode == 0


def test_cert_without_its_extra(run: Run, folder: Path) -> None:
    (folder / "cryptography.py").write_text("raise ImportError\n")
    ran = run("cert")
    assert ran.returncode == 1
    assert 'pip install "kyoukai[cert]"' in only_line(ran.stderr)


def test_help_lists_what_there_is(run: Run) -> None:
    ran = run("run", "--help")
    assert ran.returncode == 0
    options = set(re.findall(r"--[a-z-]+", ran.stdout))
    assert options == {
        *("--bind", "--tls-bind", "--certfile", "--keyfile", "--root-path", "--loop"),
        *("--app-dir", "--service", "--log-level", "--access-log", "--no-access-log"),
        *("--set", "--help", "--interface", "--factory", "--lifespan"),
    }
    assert run().returncode == 2
    assert all(name in run("-h").stdout for name in ("run", "cert", "routes", "version"))
