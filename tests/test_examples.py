"""Every example: its handlers through the memory client, and its program as a process."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import ssl
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from example_programs import (
    EXAMPLES,
    ROOT,
    RUNNERS,
    Program,
    config_with_free_ports,
    load_app,
    started,
    talk,
)
from h2client import connect_h2

from kyoukai.server.tls import write_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kyoukai import Kyoukai


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Kyoukai]:
    """Return a function that imports an example's application, as if it were the only one."""
    return partial(load_app, monkeypatch)


def multipart(*parts: tuple[str, str | None, bytes]) -> tuple[dict[str, str], bytes]:
    """Make headers and body of a form: field, file name or None, and content of each part."""
    body = b""
    for field, filename, content in parts:
        disposition = f'form-data; name="{field}"'
        if filename is not None:
            disposition += f'; filename="{filename}"\r\nContent-Type: application/octet-stream'
        body += b"--limit\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (
            disposition.encode(),
            content,
        )
    return {"Content-Type": "multipart/form-data; boundary=limit"}, body + b"--limit--\r\n"


# -- The handlers ------------------------------------------------------------------------------


def test_hello(load):
    async def conversation(client):
        assert (await client.get("/")).text == "Hello, world!\n"
        assert (await client.get("/hello/Ada")).text == "Hello, Ada!\n"
        assert (await client.get("/hello/")).status == 404

    talk(load("hello"), conversation)


def test_side_by_side_pages(load):
    async def conversation(client):
        index = await client.get("/", headers={"Host": "a.example"})
        assert index.status == 200
        assert index.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "<td>HTTP/1.1</td>" in index.text
        assert "<td>127.0.0.1 port 50000</td>" in index.text
        assert "<td>127.0.0.1 port 8000</td>" in index.text
        assert "<td>a.example</td>" in index.text
        for link in re.findall("href='([^']*)'", index.text):
            expected = 404 if link == "/no/such/page" else 200
            if not link.startswith("/slow"):
                answer = await client.get(link)
                assert (link, answer.status) == (link, expected)

        user = await client.get("/users/12?q=1")
        assert user.headers["Content-Type"] == "application/json"
        assert user.json() == {"id": 12, "q": "1"}
        assert (await client.get("/users/x")).status == 404
        assert (await client.get("/slow/0")).text == "That took 0 seconds.\n"
        assert (await client.get("/slow/21")).status == 404

    talk(load("side_by_side"), conversation)


def test_side_by_side_index_on_unix_socket(load):
    async def conversation(client):
        connection = client.connect(peername="", sockname="/run/app.sock")
        connection.request("GET", "/")
        answer = await connection.response()
        assert "<td>unknown</td>" in answer.text
        assert "<td>/run/app.sock</td>" in answer.text

    talk(load("side_by_side"), conversation)


def test_side_by_side_escapes_what_it_was_sent(load):
    async def conversation(client):
        assert "<form method='post'>" in (await client.get("/form")).text
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await client.post("/form", headers=kind, body="name=%3Cb%3E&message=1+%3C+2+%26+3")
        assert answer.status == 200
        assert "<p>&lt;b&gt; says:</p>" in answer.text
        assert "1 &lt; 2 &amp; 3" in answer.text
        assert (await client.post("/form", headers=kind, body="message=x")).status == 400

        missing = await client.get("/%3Cscript%3E")
        assert missing.status == 404
        assert "<code>/&lt;script&gt;</code>" in missing.text

    talk(load("side_by_side"), conversation)


def test_side_by_side_upload(load):
    content = bytes(range(256)) * 1000

    async def conversation(client):
        assert "multipart/form-data" in (await client.get("/upload")).text
        headers, body = multipart(
            ("note", None, "naïve".encode()), ("files", "a.bin", content), ("files", "b", b"")
        )
        for options in (
            {"body": body},
            {"chunks": [body[i : i + 999] for i in range(0, len(body), 999)]},
        ):
            answer = await client.post("/upload", headers=headers, **options)
            assert answer.json() == {
                "fields": {"note": "naïve"},
                "files": [
                    {
                        "field": "files",
                        "filename": "a.bin",
                        "size": len(content),
                        "sha256": hashlib.sha256(content).hexdigest(),
                    },
                    {
                        "field": "files",
                        "filename": "b",
                        "size": 0,
                        "sha256": hashlib.sha256(b"").hexdigest(),
                    },
                ],
            }
        assert (await client.post("/upload", body="no form")).status == 400

    talk(load("side_by_side"), conversation)


def test_side_by_side_download(load):
    async def conversation(client):
        for size in (0, 1, 65536, 200_001):
            answer = await client.get(f"/download?size={size}")
            assert answer.headers["Content-Length"] == str(size)
            assert answer.body == (bytes(range(256)) * 800)[:size]
        head = await client.head("/download")
        assert head.headers["Content-Length"] == str(1 << 20)
        assert head.body == b""
        assert (await client.get(f"/download?size={(1 << 30) + 1}")).status == 400
        assert (await client.get("/download?size=-1")).status == 400

    talk(load("side_by_side"), conversation)


def test_route_group(load):
    async def conversation(client):
        colours = await client.get("/colours/")
        assert colours.json() == ["blue", "red"]
        assert float(colours.headers["Server-Timing"].removeprefix("handler;dur=")) >= 0
        assert (await client.get("/colours/red")).json() == {"name": "red", "value": "#f00"}
        green = await client.get("/colours/green")
        assert (green.status, green.json()) == (404, {"error": "There is no 'green' here."})
        assert (await client.put("/colours/green", body="#0f0")).status == 405

        assert (await client.put("/notes/today", body="buy milk")).status == 401
        word = {"X-Word": "please"}
        assert (await client.put("/notes/today", headers=word, body="buy milk")).status == 204
        assert (await client.get("/notes/today")).json() == {"name": "today", "value": "buy milk"}

        links = (await client.get("/admin/")).json()
        assert links == {"notes": "/notes/", "crash": "/admin/crash"}
        crash = await client.get("/admin/crash")
        assert (crash.status, crash.text) == (500, "Something in /admin failed.\n")
        assert "<!doctype html>" in (await client.get("/elsewhere")).text

    talk(load("route_group"), conversation)


def test_resources(load, tmp_path):
    app = load("resources")
    app.add_component("store", "store:StoreComponent", path=str(tmp_path / "notes.db"))

    async def first(client):
        added = await client.post("/notes", body="buy milk")
        assert (added.status, added.headers["Location"]) == (201, "/notes/1")
        assert (await client.get("/notes/1")).json() == {"id": 1, "text": "buy milk"}
        assert (await client.get("/notes/2")).status == 404

    async def second(client):
        assert (await client.get("/notes")).json() == [{"id": 1, "text": "buy milk"}]
        assert (await client.get("/count")).json() == {"notes": 1}

    talk(app, first)
    talk(app, second)


# -- The programs ------------------------------------------------------------------------------


@contextmanager
def side_by_side(runner: str, folder: Path) -> Iterator[Program]:
    """Run the main example with both its addresses, and a certificate of its own."""
    write_certificate(folder / "certs")
    config = config_with_free_ports("side_by_side", folder, 8000, 8443)
    path = str(EXAMPLES / "side_by_side")
    with started(*RUNNERS[runner], config, folder=folder, addresses=2, PYTHONPATH=path) as program:
        yield program


def https(program: Program, folder: Path, http2: bool = True) -> httpx.Client:
    """Return a client that speaks HTTP/2, and trusts the example's certificate."""
    base = f"https://localhost:{program.tls_port}"
    return httpx.Client(http2=http2, verify=trusting(folder), base_url=base, timeout=30)


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "certs" / "localhost.pem"))


def test_hello_by_target():
    with started(
        "kyoukai", "run", "app:app", "--bind", "127.0.0.1:0", folder=EXAMPLES / "hello"
    ) as program:
        assert program.get("/hello/Ada") == (200, b"Hello, Ada!\n")
        program.stop()


def test_route_group_by_target():
    with started(
        "kyoukai",
        "run",
        "app:app",
        "--app-dir",
        str(EXAMPLES / "route_group"),
        "--bind",
        "127.0.0.1:0",
        folder=ROOT,
    ) as program:
        status, body = program.get("/colours/red")
        assert (status, json.loads(body)) == (200, {"name": "red", "value": "#f00"})
        program.stop()


def test_make_serve(tmp_path):
    """The very command of ``make serve``, but for the ports."""
    makefile = (ROOT / "Makefile").read_text()
    config = "examples/side_by_side/config.yaml"
    assert f"$(BIN)/kyoukai run {config}\n" in makefile
    assert re.search(r"^serve: .* certs/localhost\.pem$", makefile, re.MULTILINE)
    assert re.search(
        r"^certs/localhost\.pem: .*\n\t\$\(BIN\)/kyoukai cert certs$", makefile, re.MULTILINE
    )
    with side_by_side("kyoukai", tmp_path) as program:
        labels = [line.partition(" listening on ")[2].strip() for line in program.lines]
        assert labels == [
            f"http://127.0.0.1:{program.port} (httptools, http2, kyoukai)",
            f"https://127.0.0.1:{program.tls_port} (http2, kyoukai)",
        ]
        status, body = program.get("/")
        assert status == 200
        assert b"<td>HTTP/1.1</td>" in body
        assert f"port {program.port}</td>".encode() in body
        program.stop()


def test_the_certificate_is_found_from_both_folders():
    """From the project's, as ``make serve`` runs, and the example's own, as the README says."""
    text = (EXAMPLES / "side_by_side" / "config.yaml").read_text()
    assert "ssl_certfile: certs/localhost.pem" in text
    assert "ssl_keyfile: certs/localhost-key.pem" in text
    assert (EXAMPLES / "side_by_side" / "certs").resolve() == ROOT / "certs"


@pytest.mark.parametrize("runner", RUNNERS)
def test_side_by_side_by_yaml(runner, tmp_path):
    with side_by_side(runner, tmp_path) as program:
        status, body = program.get("/users/12?q=1")
        assert (status, json.loads(body)) == (200, {"id": 12, "q": "1"})
        status, body = program.get("/download?size=3000000")
        assert (status, len(body)) == (200, 3_000_000)
        headers, form = multipart(("files", "big.bin", b"x" * 8_000_000))
        status, body = program.request("POST", "/upload", form, headers)
        assert (status, json.loads(body)["files"][0]["size"]) == (200, 8_000_000)
        # The file's max_body_size holds for every other route.
        with socket.create_connection(("127.0.0.1", program.port), timeout=30) as sock:
            sock.sendall(b"POST /form HTTP/1.1\r\nHost: a\r\nContent-Length: 16777217\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")
        program.stop()


@pytest.mark.parametrize("runner", RUNNERS)
def test_side_by_side_over_http2(runner, tmp_path):
    with side_by_side(runner, tmp_path) as program, https(program, tmp_path) as client:
        index = client.get("/")
        assert (index.http_version, index.status_code) == ("HTTP/2", 200)
        for value in ("HTTP/2", "https", f"localhost:{program.tls_port}"):
            assert f"<td>{value}</td>" in index.text
        assert client.get("/users/12?q=1").json() == {"id": 12, "q": "1"}
        assert client.get("/download?size=1000000").content == (bytes(range(256)) * 3907)[:1000000]
        answer = client.post("/upload", files={"files": ("big.bin", b"x" * 2_000_000)})
        assert answer.json()["files"][0]["size"] == 2_000_000
        assert client.get("/no/such/page").status_code == 404
        client.close()
        # What is too large is refused before it comes.
        one = connect_h2(program.tls_port, trusting(tmp_path))
        assert one.wait(one.request("/form", "POST", 16_777_217)).status == 413
        one.close()
        program.stop()


def test_the_tls_address_speaks_http2_alone(tmp_path):
    with side_by_side("kyoukai", tmp_path) as program:
        with https(program, tmp_path, http2=False) as client, pytest.raises(httpx.TransportError):
            client.get("/")
        program.stop()


@pytest.mark.parametrize("runner", RUNNERS)
def test_resources_by_yaml(runner, tmp_path):
    config = config_with_free_ports("resources", tmp_path, 8000)
    with started(*RUNNERS[runner], config, folder=EXAMPLES / "resources") as program:
        assert program.get("/count") == (200, b'{"notes":0}')
        said = program.stop()
    order = ["the store is open", "Kyoukai listening on", "the store is closed"]
    found = [re.search(text, said) for text in order]
    assert None not in found, said
    assert found == sorted(found, key=lambda match: match.start())


@pytest.mark.parametrize("runner", RUNNERS)
def test_slow_answer_survives_the_stop(runner, tmp_path):
    with side_by_side(runner, tmp_path) as program:
        where = ("127.0.0.1", program.port)
        with (
            socket.create_connection(where, timeout=30) as idle,
            socket.create_connection(where, timeout=30) as sock,
        ):
            before = time.monotonic()
            # Both requests come in one read, so with the first answer the second has arrived.
            sock.sendall(
                b"GET /users/1 HTTP/1.1\r\nHost: a\r\n\r\nGET /slow/1 HTTP/1.1\r\nHost: a\r\n\r\n"
            )
            received = sock.recv(65536)
            assert received.startswith(b"HTTP/1.1 200 ")
            program.process.send_signal(signal.SIGTERM)
            assert idle.recv(1) == b""  # the drain has begun
            seconds = time.monotonic() - before
            while data := sock.recv(65536):
                received += data
        assert received.endswith(b"\r\n\r\nThat took 1 seconds.\n")
        # On a machine that is very busy, the answer may have gone before the drain began.
        assert b"connection: close\r\n" in received.rpartition(b"HTTP/1.1")[2] or seconds > 1
        program.ended()
