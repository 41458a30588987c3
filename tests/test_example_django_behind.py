"""The example with Django on a second process: people use it through the proxy, over every wire."""

from __future__ import annotations

import doctest
import io
import json
import os
import re
import select
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from blocking_sockets import connect as connect_socket
from example_programs import EXAMPLES, ROOT
from h2client import Answer, H2Client, connect_h2
from support import Program, only_line
from test_docs import blocks_of, commands_of
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from kyoukai.server.tls import write_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = EXAMPLES / "django_behind"


def copy_example(folder: Path) -> Path:
    """Copy the example, with ports that the system chooses and a certificate of its own."""
    copy = folder / "example"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("data", "certs", "__pycache__"))
    write_certificate(copy / "certs")
    text = (copy / "config.yaml").read_text()
    for port in (8000, 8443):
        assert text.count(f"127.0.0.1:{port}") == 1
        text = text.replace(f"127.0.0.1:{port}", "127.0.0.1:0")
    (copy / "config.yaml").write_text(text)
    return copy


class Site:
    """``start.py`` and what it has started."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.program = Program("start.py", *arguments, cwd=folder, module=None)
        # Somebody must read the access log, or Kyoukai waits for room in the pipe.
        self.reader = threading.Thread(target=self.program.output, daemon=True)
        self.reader.start()
        try:
            self.django = 0
            self.wait_for_django()
            self.port = self.wait_for_port("http")
            self.tls_port = self.wait_for_port("https")
        except BaseException:
            self.close()
            raise

    def wait_for_django(self) -> None:
        """Wait until it says that there is another process."""
        line = self.program.wait_for("Django listens on unix:data/django.sock (process ")
        before, self.django = self.django, int(re.search(r"process (\d+)", line)[1])
        assert self.django != before

    def wait_for_port(self, scheme: str) -> int:
        line = self.program.wait_for(f"Kyoukai listening on {scheme}://")
        return int(re.search(r"127\.0\.0\.1:(\d+) ", line)[1])

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "certs" / "localhost.pem"))

    def client(self, wire: str = "HTTP/2 over TLS", **options: Any) -> httpx.Client:
        secure = wire.endswith("over TLS")
        return httpx.Client(
            base_url=f"https://localhost:{self.tls_port}"
            if secure
            else f"http://127.0.0.1:{self.port}",
            verify=self.trusting() if secure else False,
            http2=wire.startswith("HTTP/2"),
            timeout=30,
            **options,
        )

    def children(self) -> list[int]:
        """Return the numbers of Kyoukai's process and Django's."""
        pid = self.program.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in children.split()]

    def processes(self) -> list[int]:
        """Return descriptors of all processes, which can be read when they have ended."""
        return [os.pidfd_open(pid) for pid in (*self.children(), self.program.process.pid)]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Tell it to stop, and check that it does so in order, with all that it has started."""
        processes = self.processes()
        assert len(processes) == 3
        self.program.signal(number)
        assert self.program.finish() == 0, self.program.stderr
        for process in processes:
            assert has_ended(process, 0)
            os.close(process)
        # Django says more than enough of a Host that is not its own.
        said = re.sub(r"(?s)Traceback.*?DisallowedHost: ", "", self.program.stderr)
        assert "Traceback" not in said, said
        assert not list((self.folder / "data").glob("*.sock"))

    def close(self) -> None:
        """End all that has not ended."""
        for process in self.processes() if self.program.process.poll() is None else ():
            signal.pidfd_send_signal(process, signal.SIGKILL)
            has_ended(process)
            os.close(process)
        self.program.process.wait()
        self.reader.join(30)
        self.program.kill()


def has_ended(process: int, timeout: float = 30) -> bool:
    return bool(select.select([process], [], [], timeout)[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_example(tmp_path_factory.mktemp("django"))


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    try:
        assert "The database is new. Log in as ada with the password lovelace." in (
            site.program.stderr
        )
        yield site
        site.stop()
        site.reader.join(30)
        check_the_access_log(site)
    finally:
        site.close()


@pytest.fixture(params=["HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2 over TLS"])
def wire(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def client(site: Site, wire: str) -> Iterator[httpx.Client]:
    """Somebody without a session."""
    with site.client(wire) as client:
        yield client


@pytest.fixture(scope="module")
def session(site: Site) -> dict[str, str]:
    """The cookies of somebody who has logged in; it takes Django a while to check a password."""
    with site.client(follow_redirects=True) as client:
        assert log_in(client).url.path == "/admin/"
        return dict(client.cookies)


@pytest.fixture
def ada(site: Site, session: dict[str, str]) -> Iterator[httpx.Client]:
    """Somebody who has logged in, over HTTP/2."""
    with site.client(follow_redirects=True, cookies=session) as client:
        yield client


def hidden_fields(page: str) -> dict[str, str]:
    """What a form sends along without being asked."""
    found = {}
    for tag in re.findall(r'<input type="hidden"[^>]*>', page):
        attributes = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        found[attributes["name"]] = unescape(attributes.get("value", ""))
    return found


def send_form(client: httpx.Client, page: str, to: str, fields: dict[str, Any], **options: Any):
    """Load a page, and send its form, as a browser does."""
    shown = client.get(page)
    assert shown.status_code == 200
    fields = {**hidden_fields(shown.text), **fields}
    # Over https, Django wants to know where a form comes from.
    headers = {"Referer": str(shown.url), "Origin": str(shown.url.join("/")).rstrip("/")}
    return client.post(to, data=fields, headers=headers, **options)


def log_in(client: httpx.Client, password: str = "lovelace"):
    path = "/admin/login/"
    return send_form(client, path, path, {"username": "ada", "password": password})


def version_of(wire: str) -> str:
    return wire.split()[0].removeprefix("HTTP/")


def cookies_of(client: httpx.Client) -> str:
    return "; ".join(f"{name}={value}" for name, value in client.cookies.items())


# -- Answers of both -----------------------------------------------------------------------------


def test_native_routes_and_djangos(client, wire):
    hello = client.get("/api/hello")
    assert hello.json() == {"hello": "from Kyoukai", "http": version_of(wire)}
    assert hello.headers["x-answered-by"] == "Kyoukai"
    index = client.get("/")
    assert "<h1>Notes</h1>" in index.text
    assert index.headers["x-answered-by"] == "Django"
    for answer in (hello, index):
        assert answer.http_version == wire.split()[0]
        assert re.fullmatch(r"front;dur=\d+\.\d{3}", answer.headers["server-timing"])
        for name in ("x-answered-by", "server-timing", "date", "server"):
            assert len(answer.headers.get_list(name)) == 1, name
    # Whoever has the path says which methods there are.
    assert client.post("/api/hello").headers["x-answered-by"] == "Kyoukai"
    missing = client.get("/api/no/such")
    assert (missing.status_code, missing.headers["x-answered-by"]) == (404, "Django")
    slash = client.get("/admin")
    assert (slash.status_code, slash.headers["location"]) == (301, "/admin/")


def test_django_knows_the_browser(client, wire):
    expected = {
        "user": None,
        "url": f"{str(client.base_url).rstrip('/')}/whoami?x=%2F",
        "secure": wire.endswith("TLS"),
        "address": "127.0.0.1",
        "via": "2.0 kyoukai" if wire.startswith("HTTP/2") else "1.1 kyoukai",
    }
    lies = {
        "X-Forwarded-For": "192.0.2.1",
        "X-Forwarded-Proto": "http" if expected["secure"] else "https",
        "X-Forwarded-Host": "elsewhere.example",
        "X-Forwarded-Prefix": "/below",
        "Forwarded": "for=192.0.2.1;host=elsewhere.example",
    }
    for headers in ({}, lies):
        told = client.get("/whoami?x=%2F", headers=headers).json()
        forwarded = told.pop("forwarded")
        assert told == expected
        assert forwarded == {
            "X-Forwarded-For": "127.0.0.1",
            "X-Forwarded-Host": client.base_url.netloc.decode(),
            "X-Forwarded-Proto": client.base_url.scheme,
        }
    wrong = client.get("/whoami", headers={"Host": "elsewhere.example"})
    assert (wrong.status_code, wrong.headers["x-answered-by"]) == (400, "Django")


def test_static_files(client):
    page = client.get("/admin/login/")
    links = re.findall(r'(?:href|src)="(/static/[^"]*)"', page.text)
    assert len(links) >= 3
    for path in (*links, "/static/notes/notes.js"):
        file = client.get(path)
        assert file.status_code == 200
        assert int(file.headers["content-length"]) == len(file.content) > 0
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == file.headers["content-length"]
    again = {"If-Modified-Since": file.headers["last-modified"]}
    unchanged = client.get(path, headers=again)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["x-answered-by"] == "Django"


def test_long_answers(site, client, wire):
    with client.stream("GET", "/lines/300000") as answer:
        assert "content-length" not in answer.headers
        number = -1
        for number, line in enumerate(answer.iter_lines()):
            assert line == f"line {number}"
        assert number == 299_999
    # Who leaves in the middle is no trouble for those who come after.
    with site.client(wire) as other, other.stream("GET", "/lines/100000000") as answer:
        next(answer.iter_bytes())
    assert client.get("/lines/2").text == "line 0\nline 1\n"


# -- The admin -----------------------------------------------------------------------------------


def test_who_is_nobody_must_log_in(site):
    with site.client() as client:
        answer = client.get("/admin/")
        assert (answer.status_code, answer.headers["location"]) == (
            302,
            "/admin/login/?next=/admin/",
        )
        assert "Please enter the correct username and password" in log_in(client, "wrong").text
        # Without the token of the form, nothing goes, and from other sites neither.
        fields = {"username": "ada", "password": "lovelace"}
        client.cookies.clear()
        assert client.post("/admin/login/", data=fields).status_code == 403
        fields |= hidden_fields(client.get("/admin/login/").text)
        elsewhere = {"Origin": "https://elsewhere.example"}
        assert client.post("/admin/login/", data=fields, headers=elsewhere).status_code == 403
        assert "sessionid" not in client.cookies


def test_the_admin(site, wire):
    with site.client(wire, follow_redirects=True) as client:
        assert log_in(client).url.path == "/admin/"
        assert client.get("/whoami").json()["user"] == "ada"
        name = f"naïve {wire}"
        add = "/admin/notes/note/add/"
        content = bytes(range(256)) * 20_000  # more than Django, and Kyoukai, keep in memory
        file = {"file": ("häh.bin", content)}
        added = send_form(client, add, add, {"text": name}, files=file)
        assert added.url.path == "/admin/notes/note/"
        assert "was added successfully" in added.text
        (number,) = set(re.findall(rf"/note/(\d+)/change/[^>]*>{name}<", added.text))

        change = f"/admin/notes/note/{number}/change/"
        (link,) = re.findall(r'<a href="(/media/notes/[^"]*\.bin)"', client.get(change).text)
        back = client.get(link)
        assert back.content == content
        assert back.headers["content-length"] == str(len(content))
        assert back.headers["content-disposition"].startswith("attachment")
        changed = send_form(client, change, change, {"text": f"{name}, too"})
        assert "was changed successfully" in changed.text
        assert f"{name}, too" in client.get("/").text
        delete = f"/admin/notes/note/{number}/delete/"
        assert "was deleted successfully" in send_form(client, delete, delete, {"post": "yes"}).text
        assert name not in client.get("/").text

        out = send_form(client, "/admin/", "/admin/logout/", {})
        assert "Logged out" in out.text
        assert client.get("/admin/").url.path == "/admin/login/"


def test_a_large_upload_comes_back(ada, site):
    content = os.urandom(1 << 20) * 40
    file = {"file": ("large", io.BytesIO(content))}  # which httpx reads in pieces
    shown = send_form(ada, "/", "/notes/", {"text": "large"}, files=file)
    assert shown.url.path == "/"
    (link,) = re.findall(r'large <a href="([^"]*)"', shown.text)
    assert ada.get(link).content == content
    with site.client("HTTP/1.1") as nobody:
        assert nobody.get(link).headers["location"].startswith("/admin/login/")
    assert send_form(ada, "/", "/notes/", {"text": ""}).status_code == 400


# -- WebSockets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True])
def test_a_socket_over_http11(site, ada, secure):
    url = f"wss://localhost:{site.tls_port}" if secure else f"ws://127.0.0.1:{site.port}"
    options = {"ssl": site.trusting() if secure else None, "proxy": None}
    with connect_socket(f"{url}/ws/echo", **options) as ws:
        assert ws.response.headers["x-answered-by"] == "Django"
        for message in ("Hello!", "", "naïve " * 20_000, b"\0\xff" * 50_000):
            ws.send(message)
            assert ws.recv(timeout=30) == message
        for number in range(1000):
            ws.send(str(number))
        assert [ws.recv(timeout=30) for _ in range(1000)] == [str(n) for n in range(1000)]
    assert ws.close_code == 1000
    cookies = {"Cookie": cookies_of(ada)}
    with connect_socket(f"{url}/ws/notes", additional_headers=cookies, **options) as ws:
        told = json.loads(ws.recv(timeout=30))
        assert told["user"] == "ada"
        assert send_form(ada, "/", "/notes/", {"text": "one more"}).status_code == 200
        assert json.loads(ws.recv(timeout=30)) == {"user": "ada", "notes": told["notes"] + 1}
    own = re.sub("^ws", "http", url)
    with connect_socket(f"{url}/ws/echo", origin=own, **options) as ws:
        ws.send("from a page")
        assert ws.recv(timeout=30) == "from a page"
    refusals = {"/ws/echo": "https://elsewhere.example", "/ws/no/such": own}
    for path, origin in refusals.items():
        with pytest.raises(InvalidStatus) as caught:
            connect_socket(url + path, origin=origin, **options)
        assert caught.value.response.status_code == 403


class SocketOnStream:
    """A WebSocket on a stream of an HTTP/2 connection (RFC 8441)."""

    def __init__(self, client: H2Client, path: str, *headers: tuple[str, str]) -> None:
        while not client._h2.remote_settings.enable_connect_protocol:
            assert client.read()
        self.client = client
        self.stream = client._h2.get_next_available_stream_id()
        client.answers[self.stream] = Answer()
        head = {
            ":method": "CONNECT",
            ":protocol": "websocket",
            ":scheme": "https" if hasattr(client.sock, "version") else "http",
            ":authority": f"localhost:{client.sock.getpeername()[1]}",
            ":path": path,
            "sec-websocket-version": "13",
        }
        client._h2.send_headers(self.stream, [*head.items(), *headers])
        client.send()
        self.answer = client.answers[self.stream]
        self.protocol = ClientProtocol(parse_uri("wss://localhost/"), state=OPEN)
        self.events: deque[Any] = deque()
        while not self.answer.status:
            assert client.read()

    def send(self, text: str) -> None:
        self.protocol.send_text(text.encode())
        self._flush()

    def receive(self) -> str:
        """Return the next text that is one frame."""
        while True:
            # It may have come already, while somebody else was reading.
            data, self.answer.body = self.answer.body, b""
            self.protocol.receive_data(data)
            self._flush()
            self.events += self.protocol.events_received()
            while self.events:
                event = self.events.popleft()
                if event.opcode is Opcode.TEXT:
                    return event.data.decode()
            assert not self.answer.is_whole
            assert self.client.read()

    def close(self) -> int:
        """Close it, and return the code that comes back."""
        self.protocol.send_close(1000)
        self._flush()
        self.client.wait(self.stream)
        self.protocol.receive_data(self.answer.body)
        return self.protocol.close_rcvd.code

    def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.client._h2.send_data(self.stream, data)
        self.client.send()


@pytest.mark.parametrize("secure", [False, True])
def test_a_socket_over_http2(site, ada, secure):
    port = site.tls_port if secure else site.port
    client = connect_h2(port, site.trusting() if secure else None)
    cookies = ("cookie", cookies_of(ada))
    echo = SocketOnStream(client, "/ws/echo", cookies)
    notes = SocketOnStream(client, "/ws/notes", cookies)
    for socket in (echo, notes):
        assert socket.answer.status == 200
        names = dict(socket.answer.headers)
        assert names["x-answered-by"] == "Django"
        assert not {"upgrade", "connection", "sec-websocket-accept"} & set(names)
    for text in ("Hello!", "naïve " * 1000, ""):
        echo.send(text)
        assert echo.receive() == text
    told = json.loads(notes.receive())
    assert told["user"] == "ada"
    # Requests go on beside them, on the same connection.
    assert client.get("/lines/1") == (200, b"line 0\n")
    assert send_form(ada, "/", "/notes/", {"text": "by HTTP/2"}).status_code == 200
    assert json.loads(notes.receive())["notes"] == told["notes"] + 1
    assert (echo.close(), notes.close()) == (1000, 1000)
    elsewhere = ("origin", "https://elsewhere.example")
    refused = SocketOnStream(client, "/ws/echo", cookies, elsewhere)
    assert client.wait(refused.stream).status == 403
    client.close()


# -- Django comes and goes -----------------------------------------------------------------------


def test_django_is_killed_and_started_again(site, ada):
    """Natives go on, and the rest is told at once; the session is there again afterwards."""
    ended = os.pidfd_open(site.django)
    with (
        site.client("HTTP/1.1") as old,
        connect_socket(f"ws://127.0.0.1:{site.port}/ws/echo", proxy=None) as ws,
    ):
        assert old.get("/whoami").status_code == 200
        os.kill(site.django, signal.SIGKILL)
        assert has_ended(ended)
        os.close(ended)
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=30)
        assert ws.close_code == 1006
        line = site.program.wait_for("Django has ended: SIGKILL. Kyoukai goes on; ")
        assert line.endswith(f"kill -USR1 {site.program.process.pid}")
        for client in (ada, old):
            for method, path in (("GET", "/admin/"), ("POST", "/notes/"), ("GET", "/static/x")):
                began = time.monotonic()
                gone = client.request(method, path)
                assert time.monotonic() - began < 4.5  # whoever waits, waits for connect_timeout
                assert gone.status_code == 502
                assert gone.headers["x-answered-by"] == "Kyoukai"
                assert (gone.headers["retry-after"], gone.headers["cache-control"]) == (
                    "2",
                    "no-store",
                )
                assert "<h1>Django is not there</h1>" in gone.text
                assert "status 502" in gone.text
            assert client.get("/api/hello").status_code == 200
        with pytest.raises(InvalidStatus) as caught:
            connect_socket(f"ws://127.0.0.1:{site.port}/ws/echo", proxy=None)
        assert caught.value.response.status_code == 502
        http2 = connect_h2(site.tls_port, site.trusting())
        refused = SocketOnStream(http2, "/ws/echo")
        assert http2.wait(refused.stream).status == 502
        assert http2.get("/api/hello")[0] == 200

        site.program.signal(signal.SIGUSR1)
        site.wait_for_django()
        # On the very connections that have seen the 502.
        assert ada.get("/whoami").json()["user"] == "ada"
        assert old.get("/whoami").status_code == 200
        socket = SocketOnStream(http2, "/ws/echo")
        socket.send("again")
        assert socket.receive() == "again"
        assert socket.close() == 1000
        http2.close()


def test_django_is_killed_under_load(site):
    """There is nothing but 502 in between, and nobody waits for one."""
    enough = threading.Event()

    def ask(wire: str) -> Counter[int]:
        found = Counter()
        with site.client(wire) as client:
            while not enough.is_set():
                found[client.get("/whoami?load").status_code] += 1
        return found

    with ThreadPoolExecutor() as pool, site.client() as client:
        asking = [pool.submit(ask, wire) for wire in ("HTTP/1.1", "HTTP/2 over TLS") * 2]
        try:
            for _ in range(2):
                assert client.get("/whoami").status_code == 200
                os.kill(site.django, signal.SIGKILL)
                site.program.wait_for("Django has ended: SIGKILL")
                for _ in range(20):
                    assert client.get("/whoami").status_code == 502
                site.program.signal(signal.SIGUSR1)
                site.wait_for_django()
            assert client.get("/whoami").status_code == 200
        finally:
            enough.set()
        for each in asking:
            found = each.result()
            assert set(found) == {200, 502}, found


def check_the_access_log(site: Site) -> None:
    """
    Who was answered 502 did not wait for it: once Django has ended, nobody is asked again.

    Some were being answered when it ended, as slowly as this machine was at that time.
    """
    lines = re.findall(r'"GET /whoami\?load HTTP/\S+" (\d+) \d+ ([\d.]+)\n', site.program.stdout)
    late = [float(seconds) for status, seconds in lines if status == "502"]
    good = [float(seconds) for status, seconds in lines if status == "200"]
    assert len(late) > 10
    assert max(late) < 1 + max(good)
    assert sorted(late)[len(late) * 3 // 4] < 1


def test_a_new_django_takes_over(site, ada):
    """Nobody notices, but for sockets, which are told to come again."""
    before = os.pidfd_open(site.django)
    with connect_socket(f"ws://127.0.0.1:{site.port}/ws/notes", proxy=None) as ws:
        assert ws.recv(timeout=30)
        site.program.signal(signal.SIGUSR1)
        requests = 0
        while not has_ended(before, 0) or requests < 20:
            assert ada.get("/whoami").json()["user"] == "ada"
            requests += 1
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=30)
        assert ws.close_code == 1001
    os.close(before)
    site.wait_for_django()


# -- The README ----------------------------------------------------------------------------------


def curl(site: Site, arguments: list[str]) -> str:
    """Do what the README's commands do; HTTP/2 where TLS is."""
    *options, url = arguments
    headers = {}
    with_head = to_file = False
    while options:
        option = options.pop(0)
        if option == "-i":
            with_head = True
        elif option == "-H":
            name, _, value = options.pop(0).partition(": ")
            headers[name] = value
        elif option == "-o":
            to_file = bool(options.pop(0))
        else:
            assert (option, options.pop(0)) == ("--cacert", "certs/localhost.pem")
    secure = url.startswith("https://localhost:8443/")
    assert secure or url.startswith("http://127.0.0.1:8000/")
    with site.client("HTTP/2 over TLS" if secure else "HTTP/1.1") as client:
        answer = client.get("/" + url.split("/", 3)[3], headers=headers)
    lines = [f"{answer.http_version} {answer.status_code}"]
    if not secure:
        lines[0] += f" {answer.reason_phrase}"
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    text = ("\n".join([*lines, "", ""]) if with_head else "") + answer.text
    text = text.replace(f":{site.port}/", ":8000/").replace(f":{site.tls_port}/", ":8443/")
    return "" if to_file else text


def test_the_readme(site):
    checker = doctest.OutputChecker()
    commands = 0
    for block in blocks_of(EXAMPLE / "README.md"):
        for command, expected in commands_of(block.text):
            words = shlex.split(command)
            commands += 1
            if words[0] == "curl":
                output = curl(site, words[1:])
                output += "" if output.endswith("\n") or not output else "\n"
                assert checker.check_output(expected, output, doctest.ELLIPSIS), (command, output)
            else:
                name, url = words
                sent, received = re.fullmatch("> (.*)\n< (.*)\n", expected).groups()
                with connect_socket(url.replace(":8000", f":{site.port}"), proxy=None) as ws:
                    ws.send(sent)
                    assert (name, ws.recv(timeout=30)) == ("websockets", received)
    assert commands > 6


def test_the_readme_says_what_files_there_are():
    text = (EXAMPLE / "README.md").read_text()
    table = set(re.findall(r"`([^`]*)`", " ".join(re.findall(r"^\| (`.*?) \|", text, re.M))))
    found = {f"{each.name}/" if each.is_dir() else each.name for each in EXAMPLE.iterdir()}
    assert table == found - {".gitignore", "README.md", "certs/", "data/", "__pycache__/"}
    assert (EXAMPLE / "certs").resolve() == ROOT / "certs"
    assert "/: proxy)" in text


# -- start.py ------------------------------------------------------------------------------------


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "start.py", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_runs_only_once(site):
    done = start(site.folder)
    assert (done.returncode, done.stdout) == (1, "")
    data = site.folder / "data"
    assert only_line(done.stderr) == f"start.py: it is running already, with {data}"
    # The others have the lock as well, as they go on if start.py is killed.
    children = site.children()
    assert len(children) == 2
    for child in children:
        assert data in [each.readlink() for each in Path(f"/proc/{child}/fd").iterdir()]


def test_what_is_missing_is_said_in_one_line(tmp_path):
    copy = copy_example(tmp_path)
    (copy / "certs" / "localhost.pem").unlink()
    done = start(copy)
    path = copy / "certs"
    assert only_line(done.stderr) == (
        f"start.py: there is no {path / 'localhost.pem'}; this makes one: kyoukai cert {path}"
    )
    # As if it was not installed.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['django'] = None\n")
    without = start(copy, PYTHONPATH=str(tmp_path))
    assert only_line(without.stderr) == (
        f"start.py: Django is not installed for {sys.executable} (pip install django)"
    )
    for each in (done, without):
        assert (each.returncode, each.stdout) == (1, "")
    assert not (copy / "data").exists()


def test_uvicorn_may_run_django_and_the_next_start_is_not_the_first(tmp_path):
    copy = copy_example(tmp_path)
    # A database that is there already, without anybody in it.
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, cwd=copy, check=True, timeout=60)
    site = Site(copy, "--server", "uvicorn")
    try:
        assert "The database is new" not in site.program.stderr
        with site.client() as client:
            told = client.get("/whoami").json()
            assert (told["secure"], told["address"]) == (True, "127.0.0.1")
            assert "Please enter the correct username" in log_in(client).text
        url = f"wss://localhost:{site.tls_port}/ws/echo"
        with connect_socket(url, ssl=site.trusting(), proxy=None) as ws:
            ws.send("Hello!")
            assert ws.recv(timeout=30) == "Hello!"
            site.stop(signal.SIGINT)
            with pytest.raises(ConnectionClosed):
                ws.recv(timeout=30)
    finally:
        site.close()
