"""Granian itself, and Kyoukai beside it: the same application gets the same from both."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from contextlib import ExitStack, closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from interfaces.rsgi_peers import ask
from support import Program, reserve_port
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from kyoukai.exceptions import InterfaceError, PeerGone
from kyoukai.interfaces.rsgi import RSGIProtocolClosed, RSGIProtocolError, RSGIRangeError
from kyoukai.interfaces.rsgi_errors import make_error

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION = """
import asyncio
import json

from granian.rsgi import ProtocolClosed, ProtocolError, WebsocketMessageType

HEADERS = [("content-type", "text/plain"), ("X-Name", "value")]
STATE = []
RELEASED = asyncio.Event()


def name(error):
    if isinstance(error, ValueError):
        return "ValueError"
    if isinstance(error, ProtocolClosed):
        return "ProtocolClosed"
    return "ProtocolError" if isinstance(error, ProtocolError) else type(error).__name__


def attempt(function, *arguments):
    try:
        return repr(function(*arguments))
    except Exception as error:
        return name(error)


async def http(scope, proto):
    path = scope.path
    if path == "/scope":
        members = "proto http_version rsgi_version scheme method path query_string authority"
        told = {each: getattr(scope, each) for each in members.split()}
        told["server"] = scope.server.rpartition(":")[0]
        told["client"] = scope.client.rpartition(":")[0]
        headers = scope.headers
        told["headers"] = sorted(set(headers.keys()) - {"host"})
        told["items"] = sorted(pair for pair in headers.items() if pair[0] != "host")
        told["get"] = [headers.get("X-A"), headers.get("x"), headers.get("x", 5), headers["x-a"]]
        told["all"] = [headers.get_all("X-A"), "X-a" in headers, "x" in headers]
        told["iter"] = sorted(headers) == sorted(headers.keys())
        told["len"] = len(headers) - len(headers.keys())
        told["missing"] = attempt(headers.__getitem__, "x")
        proto.response_str(200, HEADERS, json.dumps(told))
    elif path == "/state":
        proto.response_str(200, HEADERS, repr(STATE))
    elif path == "/empty":
        proto.response_empty(204, HEADERS)
    elif path == "/bytes":
        proto.response_bytes(201, HEADERS, bytearray(b"bytes"))
    elif path == "/defaults":
        proto.response_str()
    elif path == "/utf8":
        proto.response_str(200, [*HEADERS, ("x-utf8", "\\u0142")], "\\u0142")
    elif path == "/file":
        proto.response_file(200, HEADERS, __file__)
    elif path == "/missing":
        proto.response_file(200, HEADERS, __file__ + "x")
    elif path == "/range":
        proto.response_file_range(206, HEADERS, __file__, 3, 9)
    elif path == "/long":
        proto.response_file_range(206, HEADERS, __file__, 3, 10**9)
    elif path == "/norange":
        proto.response_str(200, HEADERS, attempt(proto.response_file_range, 206, [], "x", 5, 5))
    elif path == "/echo":
        proto.response_bytes(200, HEADERS, await proto())
    elif path == "/pieces":
        transport = proto.response_stream(200, HEADERS)
        async for piece in proto:
            await transport.send_bytes(piece)
        await transport.send_str("!")
    elif path == "/again":
        await proto()
        found = [attempt(aiter, proto)]
        try:
            await proto()
        except Exception as error:
            found.append(name(error))
        proto.response_str(200, HEADERS, repr(found))
    elif path == "/dropped":
        await stream(proto)
        await RELEASED.wait()
    elif path == "/release":
        RELEASED.set()
        proto.response_empty()
    elif path == "/second":
        proto.response_str(200, HEADERS, "first")
        STATE.append(attempt(proto.response_stream, 200, HEADERS))
    elif path == "/raises":
        raise LookupError
    elif path == "/short":
        transport = proto.response_stream(200, [*HEADERS, ("content-length", "5")])
        await transport.send_str("abc")


async def stream(proto):
    transport = proto.response_stream(200, HEADERS)
    await transport.send_str("all")


async def websocket(scope, proto):
    path = scope.path
    if path == "/refused":
        return proto.close()
    if path == "/refused401":
        return proto.close(401)
    if path == "/returns":
        return None
    transport = await proto.accept()
    assert (scope.proto, scope.method, scope.scheme) == ("ws", "GET", "http")
    steps = []
    while True:
        try:
            message = await transport.receive()
        except Exception as error:
            steps.append(name(error))
            break
        kind = WebsocketMessageType(message.kind)
        steps.append(kind.name)
        if kind == WebsocketMessageType.bytes:
            await transport.send_bytes(message.data)
        elif kind == WebsocketMessageType.string:
            await transport.send_str(message.data)
            if message.data == "bye":
                proto.close()
                try:
                    await transport.send_str("late")
                except Exception as error:
                    steps.append("send " + name(error))
    try:
        await transport.send_bytes(b"late")
    except Exception as error:
        steps.append("send " + name(error))
    STATE.append(steps)


class Application:
    def __rsgi_init__(self, loop):
        STATE.append(loop.run_until_complete(asyncio.sleep(0, "init")))

    def __rsgi_del__(self, loop):
        print(loop.run_until_complete(asyncio.sleep(0, "ended")), flush=True)

    async def __rsgi__(self, scope, proto):
        await (http if scope.proto == "http" else websocket)(scope, proto)


app = Application()
"""


@pytest.fixture(scope="module", name="servers")
def servers_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Both servers: their programs and ports."""
    folder = tmp_path_factory.mktemp("granian")
    (folder / "both.py").write_text(APPLICATION)
    with ExitStack() as stack:
        port = stack.enter_context(reserve_port()).getsockname()[1]
        arguments = ("--interface", "rsgi", "--port", str(port), "both:app")
        granian = Program(*arguments, module="granian", cwd=folder)
        stack.callback(granian.kill)
        own = Program("run", "both:app", "--bind", "127.0.0.1:0", cwd=folder)
        stack.callback(own.kill)
        own_port = own.port()
        granian.wait_for_output("Started worker-1 runtime-1")
        # It is ready a moment after it has said so.
        with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as client:
            assert client.get(f"http://127.0.0.1:{port}/empty").status_code < 300
        yield {"granian": (granian, port), "kyoukai": (own, own_port)}


def fetch(port: int, target: str, method: str = "GET", body: Any = None, **headers: str) -> Any:
    """Send a request, and return status, headers that are the application's, and body."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as client:
        client.putrequest(method, target, skip_accept_encoding=True)
        if body is not None:
            client.putheader("Content-Length", str(len(body)))
        for name, value in headers.items():
            client.putheader(name.replace("_", "-"), value)
        client.endheaders(body)
        answer = client.getresponse()
        own = ("content-length", "transfer-encoding", "date", "server", "connection")
        told = sorted((k.lower(), v) for k, v in answer.getheaders() if k.lower() not in own)
        return answer.status, told, answer.read()


def talk(port: int, path: str, *messages: str | bytes) -> tuple[Any, ...]:
    """Open a WebSocket, send messages, and return their answers; or the status of a refusal."""
    try:
        with connect(f"ws://127.0.0.1:{port}{path}", compression=None, proxy=None) as ws:
            answers = []
            for message in messages:
                ws.send(message)
                try:
                    answers.append(ws.recv(timeout=20))
                except ConnectionClosed:
                    break
            return tuple(answers)
    except InvalidStatus as error:
        return (error.response.status_code,)


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/scope", None),
        ("GET", "/scope?a=%20b&c", None),
        ("POST", "/scope", b"x"),
        ("GET", "http://localhost:99/scope", None),
        ("GET", "/empty", None),
        ("HEAD", "/bytes", None),
        ("GET", "/bytes", None),
        ("GET", "/%62ytes", None),
        ("GET", "/defaults", None),
        ("GET", "/utf8", None),
        ("GET", "/file", None),
        ("HEAD", "/file", None),
        ("GET", "/range", None),
        ("GET", "/long", None),
        ("GET", "/norange", None),
        ("POST", "/echo", b""),
        ("POST", "/echo", b"x" * 300_000),
        ("POST", "/pieces", b"x" * 300_000),
        ("GET", "/again", None),
        ("GET", "/dropped", None),
    ],
)
def test_the_same_answers(servers: Any, method: str, target: str, body: Any) -> None:
    answers = [fetch(port, target, method, body, X_A="1", x_a="2") for _, port in servers.values()]
    assert answers[0] == answers[1]
    assert answers[0][0] < 300


@pytest.mark.parametrize("target", ["/missing", "/raises", "/none"])
def test_the_same_statuses(servers: Any, target: str) -> None:
    """Of answers that are the server's own."""
    statuses = [fetch(port, target)[0] for _, port in servers.values()]
    assert statuses[0] == statuses[1] >= 400


def test_what_is_too_short_is_cut(servers: Any) -> None:
    for _, port in servers.values():
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            fetch(port, "/short")


def test_the_same_websockets(servers: Any) -> None:
    for path, *messages in (
        ("/refused",),
        ("/refused401",),
        ("/returns",),
        ("/echo", "text", b"bytes", "", b""),
        ("/echo", "bye"),
    ):
        outcomes = [talk(port, path, *messages) for _, port in servers.values()]
        assert outcomes[0] == outcomes[1]


def test_the_same_errors_and_lives(servers: Any) -> None:
    """Run last: what the applications have noted, and that they are told of the end."""
    for _, port in servers.values():
        fetch(port, "/release")
        assert fetch(port, "/second")[2] == b"first"
        for messages in (("text",), ("bye",)):
            talk(port, "/notes", *messages)
    notes = []
    for _, port in servers.values():
        while (state := fetch(port, "/state")[2].decode()).count("send") < 3:
            pass  # its end may come a moment after its client's
        notes.append(state)
    assert notes[0].startswith("['init', ")
    assert notes[1].startswith("['init', ")
    for state in notes:
        assert state.endswith(
            "'ProtocolError',"
            " ['string', 'close', 'ProtocolClosed', 'send ProtocolClosed'],"
            " ['string', 'send ProtocolError', 'close', 'ProtocolClosed', 'send ProtocolError']]"
        )
    for program, _ in servers.values():
        program.signal()
        program.finish()
        assert "ended" in program.output()


# -- Errors ------------------------------------------------------------------------------------


class TheirError(RuntimeError):
    """As Granian's."""


class TheirClosed(RuntimeError):
    """As Granian's."""


async def test_errors_are_granians_where_granian_is_imported(monkeypatch: Any) -> None:
    granian = SimpleNamespace(RSGIProtocolError=TheirError, RSGIProtocolClosed=TheirClosed)
    monkeypatch.setitem(sys.modules, "granian._granian", granian)
    for kind, theirs, other in (
        (RSGIProtocolError, TheirError, InterfaceError),
        (RSGIRangeError, TheirError, ValueError),
        (RSGIProtocolClosed, TheirClosed, PeerGone),
    ):
        error = make_error(kind, "text")
        assert isinstance(error, kind)
        assert isinstance(error, theirs)
        assert isinstance(error, other)
        assert str(error) == "text"
        assert type(error).__name__ == kind.__name__
        assert type(error) is type(make_error(kind, "other"))

    caught: list[Any] = []

    async def app(scope: Any, proto: Any) -> None:
        try:
            proto.response_str(200, [], b"x")
        except TheirError as error:
            caught.append(error)
            raise

    assert (await ask(app)).status == 500
    assert len(caught) == 1


def test_errors_without_granian(monkeypatch: Any) -> None:
    monkeypatch.delitem(sys.modules, "granian._granian", raising=False)
    for kind in (RSGIProtocolError, RSGIRangeError, RSGIProtocolClosed):
        assert type(make_error(kind, "text")) is kind
    broken = SimpleNamespace(RSGIProtocolError=5)
    monkeypatch.setitem(sys.modules, "granian._granian", broken)
    for kind in (RSGIProtocolError, RSGIProtocolClosed):
        assert type(make_error(kind, "text")) is kind


def test_granian_is_not_imported() -> None:
    code = "import sys, kyoukai.interfaces.rsgi; print([n for n in sys.modules if 'granian' in n])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) == []
