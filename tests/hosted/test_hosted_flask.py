"""Flask applications under WSGI, as their clients see them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hosted_site import echo_during_the_stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hosted_site import Site

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def site(start_site: Callable[..., Site]) -> Iterator[Site]:
    with start_site("flask_site:app") as site:
        yield site
        site.stop()


def test_what_it_is_is_said(site):
    assert site.labels == {
        "root": "httptools, http2, wsgi",
        "below": "httptools, http2, kyoukai; /below: wsgi",
    }


def test_pages_and_places(client, place, http2):
    answer = client.get("/")
    version = "HTTP/2" if http2 else "HTTP/1.1"
    root = "/below" if place == "below" else "/"
    assert (answer.http_version, answer.text) == (version, f"flask over {version} at {root}\n")
    assert answer.headers["server"] == "Kyoukai"
    missing = client.get("/no/such")
    assert (missing.status_code, missing.text) == (404, "Flask knows no /no/such\n")
    assert client.post("/").status_code == 405
    head = client.head("/")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(answer.content)))


def test_beside_a_native_application(site, http2):
    with site.client("below", http2) as client:
        native = client.build_request("GET", client.base_url.join("/"))
        assert client.send(native).text == "native\n"
        assert client.get("/native").text == "native below\n"
        assert client.post("/native").status_code == 405
        assert client.get("/natives").text == "Flask knows no /natives\n"


def test_streamed_answers_keep_their_request(client):
    with client.stream("GET", "/stream/5000") as answer:
        lines = list(answer.iter_lines())
    assert lines == [f"{number} /stream/5000" for number in range(5000)]


def test_an_endless_answer_ends_with_its_client(site, place, http2):
    path = f"/endless/{place}{http2}"
    with site.client(place, http2) as client, client.stream("GET", path) as answer:
        assert next(answer.iter_bytes())
    with site.client(place, http2) as other:
        assert other.get(f"{path}/closed").json() == {"closed": True}


async def test_requests_run_side_by_side(site, place, http2):
    """On one connection of HTTP/2, on many of HTTP/1.1: each waits for all the others."""
    verify = site.context() if http2 else False
    async with httpx.AsyncClient(http2=http2, verify=verify, timeout=30) as client:
        url = site.url(place, http2, "/together")
        answers = await asyncio.gather(*[client.get(url) for _ in range(12)])
    assert {answer.text for answer in answers} == {"all are here\n"}


def test_forms_with_files(client):
    content = bytes(range(256)) * 4000
    answer = client.post(
        "/form",
        data={"name": "Ada", "note": "naïve"},
        files={"one": ("a b.bin", content), "two": ("empty", b"")},
    )
    assert answer.json() == {
        "fields": {"name": "Ada", "note": "naïve"},
        "files": {
            "one": ["a b.bin", hashlib.sha256(content).hexdigest()],
            "two": ["empty", hashlib.sha256(b"").hexdigest()],
        },
    }


def test_bodies_without_a_length(client):
    pieces = [b"%d," % number * 100 for number in range(1000)]
    answer = client.post("/digest", content=iter(pieces))
    body = b"".join(pieces)
    assert answer.json() == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def test_sessions(client, place):
    refused = client.get("/me")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Basic"
    login = client.post("/login", data={"name": "Ada"})
    assert (login.status_code, login.headers["location"]) == (
        302,
        "/below/me" if place == "below" else "/me",
    )
    client.cookies.set("second", "2")  # on HTTP/2, each may come in a header of its own
    assert client.get("/me").json() == {"name": "Ada", "cookies": ["second", "session"]}


def test_errors(site, client):
    broken = client.get("/broken")
    assert broken.status_code == 500
    assert "Internal Server Error" in broken.text
    site.program.wait_for("ValueError: on purpose")  # Flask's own log
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        client.get("/broken/later")
    said = site.program.wait_for("wsgi application")
    assert re.search(r"GET (/below)?/broken/later: wsgi application flask_site:app: ", said)
    assert client.get("/").status_code == 200


def test_an_answer_is_completed_though_the_server_is_told_to_stop(start_site):
    with start_site("flask_site:app") as site:
        echo_during_the_stop(site)


class Zeros(io.RawIOBase):
    """A file of so many bytes that are 0, which is nowhere."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        size = min(len(buffer), self.left)
        buffer[:size] = bytes(size)
        self.left -= size
        return size


def peak_memory(site: Site) -> int:
    """The most memory that a program has ever had, in MB."""
    status = Path(f"/proc/{site.program.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def test_100_megabytes_to_a_slow_client_in_flat_memory(site):
    """A client that takes nothing for a while: what it does not take is not made."""
    with socket.create_connection(("127.0.0.1", site.port()), timeout=30) as sock:
        sock.sendall(b"GET /blocks/100 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        before = peak_memory(site)
        with site.client("root", False) as client:
            made = client.get("/blocks/made").json()
            assert made["made"] < 50
        size = 0
        while data := sock.recv(1 << 20):
            size += len(data)
    assert size > 100 * MEGABYTE
    assert peak_memory(site) - before < 40


# The form over HTTP/1.1 only, and less over HTTP/2: there the client alone takes long.
@pytest.mark.parametrize(
    "http2, how, megabytes", [(False, "raw", 200), (False, "form", 100), (True, "raw", 100)]
)
def test_large_uploads_in_flat_memory(site, http2, how, megabytes):
    digest = hashlib.sha256()
    for _ in range(megabytes):
        digest.update(bytes(MEGABYTE))

    def upload(client: httpx.Client, size: int) -> dict[str, Any]:
        if how == "form":
            return client.post("/form", files={"file": ("zeros", Zeros(size))}).json()
        headers = {"Content-Length": str(size)}
        pieces = (bytes(65536) for _ in range(size // 65536))
        return client.post("/digest", content=pieces, headers=headers).json()

    with site.client("root", http2) as client:
        upload(client, MEGABYTE)
        before = peak_memory(site)
        answer = upload(client, megabytes * MEGABYTE)
    if how == "form":
        assert answer["files"] == {"file": ["zeros", digest.hexdigest()]}
    else:
        assert answer == {"size": megabytes * MEGABYTE, "sha256": digest.hexdigest()}
    assert peak_memory(site) - before < 40
