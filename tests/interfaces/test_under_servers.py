"""Kyoukai applications below the servers that people have, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support import Program, connect, reserve_port
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as open_websocket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support import Certificates

APPLICATION = r"""
import asyncio
import os
import sys
from kyoukai import HTTPRequestContext, Kyoukai, Response
from kyoukai.interfaces.under_asgi import as_asgi
from kyoukai.interfaces.under_wsgi import as_wsgi

app = Kyoukai("served")


def say(text):
    os.write(1, f"{text}\n".encode())  # whole, whatever the server writes in between


@app.before_serving
async def before(ctx):
    say("up")


@app.after_serving
async def after(ctx):
    if (3, 12) <= sys.version_info < (3, 12, 2):  # which start no threads then (gh-113964)
        say("down")
    else:
        await asyncio.to_thread(say, "down")


@app.route("/about")
async def about(ctx: HTTPRequestContext):
    head = ctx.request.head
    return {"version": head.http_version, "url": ctx.request.url, "for": ctx.url_for("about")}


@app.route("/count", methods=["POST"], stream=True, max_body_size=None)
async def count(ctx: HTTPRequestContext):
    size = 0
    async for chunk in ctx.request.chunks():
        size += len(chunk)
    return {"size": size}


@app.route("/form", methods=["POST"])
async def form(ctx: HTTPRequestContext):
    return {"name": ctx.request.form["name"], "size": len(ctx.request.files["file"].read())}


@app.route("/letters")
async def letters(ctx: HTTPRequestContext):
    await ctx.early_hints(["</style.css>; rel=preload"])

    async def parts():
        for letter in "abc":
            yield letter
        ctx.trailers["X-Sum"] = "3"

    return Response(parts())


@app.route("/endless")
async def endless(ctx: HTTPRequestContext):
    try:
        while True:
            yield bytes(65536)
            await asyncio.sleep(0)
    finally:
        say("hung up")


@app.route("/breaks")
async def breaks(ctx: HTTPRequestContext):
    yield "some"
    raise LookupError("of it")


@app.websocket("/echo")
async def echo(ctx, ws):
    await ws.accept("b" if "b" in ws.subprotocols else None)
    try:
        while True:
            message = await ws.receive()
            if message == "close":
                return await ws.close(4001, "as you wish")
            await (ws.send_text(message) if isinstance(message, str) else ws.send_data(message))
    finally:
        say(f"closed {ws.close_code}")


@app.websocket("/private")
async def private(ctx, ws):
    await ws.deny(401, "not you")


asgi = as_asgi(app)
wsgi = as_wsgi(app)
"""


@dataclass
class Served:
    """A server that runs."""

    name: str
    program: Program
    port: int
    client: httpx.Client
    secure: bool
    #: What keeps its port from others.
    reserved: socket.socket

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://localhost:{self.port}"


def start(name: str, folder: Path, certificates: Certificates) -> Served:
    (folder / "served.py").write_text(APPLICATION)
    reserved = reserve_port()
    port = reserved.getsockname()[1]
    bind = "127.0.0.1:0"
    pair = certificates.pair("a")
    tls = ["--certfile", pair["certfile"], "--keyfile", pair["keyfile"]]
    arguments, ready = {
        "uvicorn": (["uvicorn", "served:asgi", "--port", "0"], "running on http"),
        "uvicorn without lifespan": (
            ["uvicorn", "served:asgi", "--port", "0", "--lifespan", "off"],
            "running on http",
        ),
        "hypercorn": (["hypercorn", "served:asgi", "--bind", bind, *tls], "Running on"),
        "granian": (
            ["granian", "--interface", "asgi", "--port", str(port), "served:asgi"],
            "Started worker",
        ),
        "gunicorn": (
            ["gunicorn", "--threads", "2", "--bind", bind, "--no-control-socket", "served:wsgi"],
            "Listening at",
        ),
    }[name]
    env = {"PYTHONUNBUFFERED": "1"}
    program = Program(
        *arguments[1:], module=arguments[0], cwd=folder, env=env, start_new_session=True
    )
    try:
        if name == "granian":  # its log goes to standard output
            program.wait_for_output(ready)
        else:
            port = port_in(program.wait_for(ready))
    except BaseException:
        reserved.close()
        end(program)
        raise
    secure = name == "hypercorn"
    context = certificates.trusting("a")
    # Granian is ready a moment after it has said so.
    transport = httpx.HTTPTransport(verify=context, http2=secure, trust_env=False, retries=5)
    client = httpx.Client(transport=transport, trust_env=False, timeout=30)
    return Served(name, program, port, client, secure, reserved)


def port_in(line: str) -> int:
    found = re.search(r"://127\.0\.0\.1:(\d+)", line)
    assert found, line
    return int(found[1])


def end(program: Program) -> None:
    """Kill a server that still runs, and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(program.process.pid, signal.SIGKILL)
    program.kill()


NAMES = ("uvicorn", "uvicorn without lifespan", "hypercorn", "granian", "gunicorn")


@pytest.fixture(params=NAMES)
def served(
    request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates
) -> Iterator[Served]:
    server = start(request.param, tmp_path, certificates)
    try:
        with server.reserved, server.client:
            yield server
    finally:
        end(server.program)


def test_everything_that_a_server_has_to_carry(served: Served, certificates: Certificates) -> None:
    talk_http(served, served.client)
    if served.secure:
        with httpx.Client(verify=certificates.trusting("a"), trust_env=False) as http1:
            talk_http(served, http1)
    hang_up(served, certificates)
    if served.name == "gunicorn":
        with connect(served.port) as sock:
            sock.sendall(b"GET /letters HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>")
    else:
        talk_websockets(served, certificates)
    served.client.close()  # the end of TLS takes both sides
    # By SIGTERM, uvicorn dies before its loop can be closed in good order.
    stop = signal.SIGINT if served.name == "uvicorn without lifespan" else signal.SIGTERM
    served.program.signal(stop)
    served.program.finish()
    lines = served.program.output().splitlines()
    assert (lines.count("up"), lines.count("down")) == (1, 1)
    assert lines.index("up") < lines.index("hung up") < lines.index("down")


def talk_http(served: Served, client: httpx.Client) -> None:
    url = served.url
    about = client.get(f"{url}/about?q=1")
    version = about.http_version.removeprefix("HTTP/")
    assert about.json() == {"version": version, "url": f"{url}/about?q=1", "for": "/about"}
    names = [name.lower() for name, _ in about.headers.multi_items()]
    assert len(names) == len(set(names)), names
    assert "Kyoukai" not in about.headers.get("server", "")

    assert client.head(f"{url}/about").status_code == 200
    assert client.get(f"{url}/none").status_code == 404
    for _ in range(5):
        refused = client.post(f"{url}/about")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")

    pieces = (bytes(100000) for _ in range(50))
    assert client.post(f"{url}/count", content=pieces).json() == {"size": 5000000}
    assert client.post(f"{url}/count", content=bytes(300000)).json() == {"size": 300000}
    upload = {"file": ("f", bytes(200000))}
    form = client.post(f"{url}/form", data={"name": "Ada"}, files=upload)
    assert form.json() == {"name": "Ada", "size": 200000}
    for te in ({}, {"TE": "trailers"}):
        assert client.get(f"{url}/letters", headers=te).text == "abc"
    if version != "2":  # Hypercorn resets no stream: it waits until nobody uses the connection
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"{url}/breaks")


def hang_up(served: Served, certificates: Certificates) -> None:
    """Ask for an answer without an end, take some of it, and go."""
    context = certificates.trusting("a") if served.secure else None
    with connect(served.port, context) as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
    served.program.wait_for_output("hung up")


def talk_websockets(served: Served, certificates: Certificates) -> None:
    url = served.url.replace("http", "ws", 1)
    options: dict[str, Any] = {"ssl": certificates.trusting("a")} if served.secure else {}
    options["proxy"] = None
    with open_websocket(f"{url}/echo", subprotocols=["a", "b"], **options) as ws:
        assert ws.subprotocol == "b"
        ws.send("grüße")
        assert ws.recv() == "grüße"
        ws.send(bytes(200000))
        assert ws.recv() == bytes(200000)
        ws.close(4002, "bye")
    # Hypercorn does not say what the client has said.
    served.program.wait_for_output(f"closed {1006 if served.name == 'hypercorn' else 4002}")
    with open_websocket(f"{url}/echo", **options) as ws:
        ws.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")
    with pytest.raises(InvalidStatus) as denied, open_websocket(f"{url}/private", **options):
        pass
    response = denied.value.response
    assert (response.status_code, response.body) == (401, b"not you")


def test_gunicorn_forks_after_the_import(tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "served.py").write_text(APPLICATION)
    program = Program(
        *("--preload", "--workers", "2", "--threads", "2", "--bind", "127.0.0.1:0"),
        *("--no-control-socket", "served:wsgi"),
        module="gunicorn",
        cwd=tmp_path,
        start_new_session=True,
    )
    try:
        port = port_in(program.wait_for("Listening at"))
        with httpx.Client(trust_env=False, timeout=30) as client:
            answer = client.get(f"http://127.0.0.1:{port}/about")
            assert json.loads(answer.content)["version"] == "1.1"
        program.signal(signal.SIGTERM)
        assert program.finish() == 0
        assert program.output().split() == ["up", "down"]
    finally:
        end(program)
