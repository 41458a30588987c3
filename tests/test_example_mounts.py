"""The example with five kinds of applications: every mount and every socket, over every wire."""

from __future__ import annotations

import doctest
import re
import shlex
import ssl
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import httpx
import pytest
from blocking_sockets import connect
from example_programs import EXAMPLES, ROOT, RUNNERS, Program, load_app, started
from ruamel.yaml import YAML
from test_docs import blocks_of, commands_of
from websockets.exceptions import InvalidStatus

from kyoukai import ServerConfig
from kyoukai.interfaces.build import interface_for
from kyoukai.mount import Mount
from kyoukai.server.tls import write_certificate
from kyoukai.testing import Client, WebSocketDenied

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = EXAMPLES / "mounts"
MOUNTS = "/flask: wsgi, /fastapi: asgi, /rsgi: rsgi, /ssgi: ssgi"

#: What is where, and how it calls itself.
APPLICATIONS = {
    "": "Kyoukai",
    "/flask": "Flask",
    "/fastapi": "FastAPI",
    "/rsgi": "RSGI",
    "/ssgi": "SSGI",
}
SOCKETS = {prefix: name for prefix, name in APPLICATIONS.items() if name != "Flask"}


@contextmanager
def running(runner: str, folder: Path) -> Iterator[Program]:
    """The program, with ports that the system chooses, and a certificate of its own."""
    write_certificate(folder / "certs")
    text = (FOLDER / "config.yaml").read_text()
    for port in (8000, 8443):
        assert text.count(f"127.0.0.1:{port}") == 1
        text = text.replace(f"127.0.0.1:{port}", "127.0.0.1:0")
    (folder / "config.yaml").write_text(text)
    arguments = (*RUNNERS[runner], str(folder / "config.yaml"))
    with started(*arguments, folder=folder, addresses=2, PYTHONPATH=str(FOLDER)) as program:
        yield program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mounts")


@pytest.fixture(scope="module")
def program(folder: Path) -> Iterator[Program]:
    with running("kyoukai", folder) as program:
        yield program
        said = program.stop()
        for scheme in ("http", "https"):
            line = rf"Kyoukai listening on {scheme}://\S+ \(httptools, http2, kyoukai; {MOUNTS}\)\n"
            assert re.search(line, said), said


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "certs" / "localhost.pem"))


@pytest.fixture(params=["http/1.1", "http/1.1 over TLS", "http/2"])
def client(
    program: Program, folder: Path, request: pytest.FixtureRequest
) -> Iterator[httpx.Client]:
    if request.param == "http/1.1":
        url, context = f"http://127.0.0.1:{program.port}", False
    else:
        url, context = f"https://localhost:{program.tls_port}", trusting(folder)
    http2 = request.param == "http/2"
    with httpx.Client(base_url=url, verify=context, http2=http2, timeout=30) as client:
        assert client.get("/").http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        yield client


def test_every_mount_says_hello(client):
    version = client.get("/").http_version
    for prefix, name in APPLICATIONS.items():
        answer = client.get(f"{prefix}/hello/Jo%C3%ABl")
        assert answer.status_code == 200
        assert answer.text.startswith(f"Hello, Joël! This is {name}, ")
        if name != "SSGI":  # which does not tell
            assert answer.text.endswith(f", over {version}.\n")
        missing = client.get(f"{prefix}/no/such")
        assert missing.status_code == 404


def test_what_each_does_besides(client):
    lines = [f"{number} for 127.0.0.1\n" for number in range(1, 2001)]
    assert client.get("/flask/count/2000").text == "".join(lines)
    redirect = client.get("/flask/")
    assert (redirect.status_code, redirect.headers["location"]) == (302, "/flask/hello/stranger")
    body = bytes(range(256)) * 4000
    assert client.post("/flask/digest", content=body).json()["size"] == len(body)
    assert client.post("/rsgi/shout", content=b"abc" * 100_000).content == b"ABC" * 100_000
    size = client.post("/ssgi/size", content=body, headers={"Content-Type": "text/x-any"})
    assert size.text == "1024000 bytes of text/x-any\n"
    assert client.get("/flask/native").text.startswith("This path is Kyoukai's")
    assert client.get("/flasks").status_code == 404


def test_fastapis_documentation_is_found(client):
    page = client.get("/fastapi/docs").text
    (url,) = re.findall(r"url: '([^']*)'", page)
    assert url == "/fastapi/openapi.json"
    found = client.get(url).json()
    assert (found["info"]["title"], found["servers"]) == ("Mounted", [{"url": "/fastapi"}])


class Links(HTMLParser):
    """What a page leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.sockets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "href":
                self.links.append(str(value))
            elif name == "data-socket":
                self.sockets.append(str(value))


def test_the_page_leads_to_all_of_them(client):
    page = Links()
    page.feed(client.get("/").text)
    assert page.sockets == [f"{prefix}/socket" for prefix in SOCKETS]
    for prefix in APPLICATIONS:
        assert any(link.startswith(f"{prefix}/") for link in page.links)
    for link in page.links:
        assert client.get(link, follow_redirects=True).status_code == 200, link


# -- WebSockets --------------------------------------------------------------------------------


@pytest.fixture(params=["ws", "wss"])
def url(program: Program, request: pytest.FixtureRequest) -> str:
    if request.param == "ws":
        return f"ws://127.0.0.1:{program.port}"
    return f"wss://localhost:{program.tls_port}"


def test_every_socket_answers(url, folder):
    context = trusting(folder) if url.startswith("wss") else None
    for prefix, name in SOCKETS.items():
        with connect(f"{url}{prefix}/socket", ssl=context) as ws:
            for text in ("Hello!", "naïve " * 2000, ""):
                ws.send(text)
                assert ws.recv(timeout=30) == f"{name} has received {text}"
        assert ws.close_code == 1000


@pytest.mark.parametrize("http2", [False, True])
async def test_every_socket_answers_in_memory(monkeypatch, http2):
    """Over HTTP/2 as well, which the library's client does not speak."""
    app = load_app(monkeypatch, "mounts")
    component = YAML(typ="safe").load(FOLDER / "config.yaml")["component"]
    mounts = [Mount.from_setting(*entry) for entry in component["mounts"].items()]
    interface = interface_for(app, ServerConfig(access_log=False), mounts=mounts)
    async with Client(interface) as client:
        for prefix, name in SOCKETS.items():
            async with client.websocket(f"{prefix}/socket", http2=http2) as ws:
                await ws.send_text("Hello!")
                assert await ws.receive_text() == f"{name} has received Hello!"
        with pytest.raises(WebSocketDenied, match="404 Not Found"):
            async with client.websocket("/flask/socket", http2=http2):
                pass


def test_wsgi_has_none(url, folder):
    context = trusting(folder) if url.startswith("wss") else None
    with pytest.raises(InvalidStatus) as caught:
        connect(f"{url}/flask/socket", ssl=context)
    assert caught.value.response.status_code == 404


# -- The README, and the other runner -------------------------------------------------------------


def curl(program: Program, folder: Path, arguments: list[str]) -> str:
    """Do what the README's commands do; HTTP/2 where TLS is."""
    *options, url = arguments
    request = {"method": "GET", "headers": {}}
    with_head = False
    while options:
        option = options.pop(0)
        if option == "-i":
            with_head = True
        elif option == "-H":
            name, _, value = options.pop(0).partition(": ")
            request["headers"][name] = value
        elif option == "-d":
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            request["headers"] = {**form, **request["headers"]}
            request.update(method="POST", content=options.pop(0))
        else:
            assert (option, options.pop(0)) == ("--cacert", "certs/localhost.pem")
    url = url.replace("127.0.0.1:8000", f"127.0.0.1:{program.port}")
    url = url.replace("localhost:8443", f"localhost:{program.tls_port}")
    secure = url.startswith("https")
    with httpx.Client(verify=trusting(folder) if secure else False, http2=secure) as client:
        answer = client.request(url=url, timeout=30, **request)
    head = f"{answer.http_version} {answer.status_code} {answer.reason_phrase}\n"
    return (head if with_head else "") + answer.text


def test_the_readme(program, folder):
    checker = doctest.OutputChecker()
    commands = 0
    for block in blocks_of(FOLDER / "README.md"):
        for command, expected in commands_of(block.text):
            words = shlex.split(command)
            commands += 1
            if words[0] == "curl":
                output = curl(program, folder, words[1:])
                output += "" if output.endswith("\n") else "\n"
                assert checker.check_output(expected, output, doctest.ELLIPSIS), (command, output)
            else:
                name, url = words
                sent, received = re.fullmatch("> (.*)\n< (.*)\n", expected).groups()
                with connect(url.replace(":8000", f":{program.port}")) as ws:
                    ws.send(sent)
                    assert (name, ws.recv(timeout=30)) == ("websockets", received)
    assert commands > 15
    assert MOUNTS in (FOLDER / "README.md").read_text()


def test_asphalts_runner_takes_the_same_file(tmp_path):
    with running("asphalt", tmp_path) as program:
        for prefix in APPLICATIONS:
            status, body = program.get(f"{prefix}/hello/Ada")
            assert (status, body[:13]) == (200, b"Hello, Ada! T")
        for prefix, name in SOCKETS.items():
            with connect(f"ws://127.0.0.1:{program.port}{prefix}/socket") as ws:
                ws.send("x")
                assert ws.recv(timeout=30) == f"{name} has received x"
        program.stop()


def test_the_certificate_is_found_from_both_folders():
    assert (FOLDER / "certs").resolve() == ROOT / "certs"
