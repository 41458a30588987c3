"""The talk's application: on the whole server, it does what the talk's server could not."""

from __future__ import annotations

import doctest
import re
import shlex
import socket
from typing import TYPE_CHECKING

import httpx
import pytest
from blocking_sockets import connect
from example_programs import EXAMPLES, ROOT, Program, load_app, started
from test_docs import blocks_of, commands_of

from kyoukai.testing import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = EXAMPLES / "asgi_from_scratch"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    return Client(load_app(monkeypatch, "asgi_from_scratch"), interface="asgi", access_log=False)


async def test_the_echo(client):
    async with client:
        answer = await client.post("/", body="Hello")
        assert (answer.status, answer.body, answer.headers["content-length"]) == (
            200,
            b"Hello",
            "5",
        )
        assert (await client.get("/")).body == b""
        # More than the talk's server reads at a time; and without a length.
        body = bytes(range(256)) * 1000
        assert (await client.post("/", body=body)).body == body
        assert (await client.post("/", chunks=[b"a", b"bc", b"def"])).body == b"abcdef"
        assert (await client.get("/no/such")).status == 404


async def test_the_scope_is_as_the_specification_says(client):
    async with client:
        answer = await client.get("/scope?q=%C3%A9", headers={"X-Name": "Value"})
        lines = answer.text.splitlines()
        assert lines[:5] == [
            "method: 'GET'",
            "path: '/scope'",
            "raw_path: b'/scope'",
            "query_string: b'q=%C3%A9'",
            "http_version: '1.1'",
        ]
        assert "(b'x-name', b'Value')" in lines[5]


@pytest.mark.parametrize("http2", [False, True])
async def test_the_echo_of_a_bare_connection(client, http2):
    async with client, client.websocket("/", http2=http2) as ws:
        for message in ("hello", "goodbye"):
            await ws.send_text(message)
            assert await ws.receive_text() == message
        await ws.send_data(b"\x00\xff")
        assert await ws.receive_data() == b"\x00\xff"


# -- The README --------------------------------------------------------------------------------


@pytest.fixture
def program() -> Iterator[Program]:
    with started("kyoukai", "run", "app:app", "--bind", "127.0.0.1:0", folder=FOLDER) as program:
        yield program
        said = program.stop()
        assert re.search(r"Kyoukai listening on \S+ \(httptools, http2, asgi\)\n", said)


def test_an_answer_begins_before_its_request_ends(program):
    with socket.create_connection(("127.0.0.1", program.port), timeout=30) as sock:
        sock.sendall(b"POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        received = b""
        while not received.endswith(b"\r\n5\r\nhello\r\n"):
            received += sock.recv(4096)
        sock.sendall(b"world")
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += sock.recv(4096)
        assert received == b"5\r\nworld\r\n0\r\n\r\n"


def curl(command: list[str], port: int) -> str:
    """Do what the README's commands do."""
    *options, url = command
    shown = "-i" in options
    body = options[options.index("-d") + 1].encode() if "-d" in options else b""
    if "--data-binary" in options:
        body = (FOLDER / options[options.index("--data-binary") + 1].removeprefix("@")).read_bytes()
    answer = httpx.post(url.replace(":8000", f":{port}"), content=body, timeout=30)
    head = f"{answer.http_version} {answer.status_code} {answer.reason_phrase}\n"
    head += "".join(f"{name}: {value}\n" for name, value in answer.headers.items())
    return (f"{head}\n" if shown else "") + answer.text.replace(str(port), "8000")


def test_the_readme(program):
    commands = []
    for block in blocks_of(FOLDER / "README.md"):
        for command, expected in commands_of(block.text):
            words = shlex.split(command)
            commands.append(words[0])
            if words[0] == "curl":
                output = curl(words[1:], program.port)
                output += "" if output.endswith("\n") else "\n"
                flags = doctest.ELLIPSIS
                assert doctest.OutputChecker().check_output(expected, output, flags), output
            else:
                with connect(words[1].replace(":8000", f":{program.port}")) as ws:
                    for sent, received in re.findall("> (.*)\n< (.*)\n", expected):
                        ws.send(sent)
                        assert ws.recv(timeout=30) == received
    assert sorted(set(commands)) == ["curl", "websockets"]


def test_the_files_that_the_readme_names_exist():
    named = re.findall(r"`((?:kyoukai|docs)/[^`]*)`", (FOLDER / "README.md").read_text())
    assert len(named) > 8
    for name in named:
        assert (ROOT / name).exists(), name
