"""Starlette applications under ASGI, as their clients see them."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from blocking_sockets import connect
from hosted_site import echo_during_the_stop
from websockets.exceptions import ConnectionClosed, InvalidStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hosted_site import Site

FILE = "".join(f"line {number}\n" for number in range(20_000))


@pytest.fixture(scope="module")
def site(
    start_site: Callable[..., Site], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    path: Path = tmp_path_factory.mktemp("files") / "file.txt"
    path.write_text(FILE)
    with start_site("starlette_site:app", SITE_FILE=str(path)) as site:
        # One lifespan, though two servers have the application.
        site.program.wait_for_output("starlette starts")
        yield site
        site.stop()
        said = site.program.output().splitlines()
        assert [each for each in said if "done" not in each] == [
            "starlette starts",
            "starlette ends",
        ]


def test_what_it_is_is_said(site):
    assert site.labels == {
        "root": "httptools, http2, asgi",
        "below": "httptools, http2, kyoukai; /below: asgi",
    }


def test_pages_and_state(client, place, http2):
    answer = client.get("/")
    prefix = "/below" if place == "below" else ""
    assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    found = answer.json()
    count = found.pop("count")
    assert found == {
        "root_path": prefix,
        "path": f"{prefix}/",
        "url": str(client.base_url.join("/below/" if prefix else "/")),
        "version": "2" if http2 else "1.1",
    }
    # What is in the state is shared by all requests, over every wire.
    assert client.get("/").json()["count"] == count + 1


def test_streams(client):
    with client.stream("GET", "/stream/5000") as answer:
        assert "content-length" not in answer.headers
        assert list(answer.iter_lines()) == [str(number) for number in range(5000)]


def test_an_answer_that_is_streamed_while_its_request_comes(client):
    pieces = [b"%d," % number * 100 for number in range(1000)]
    answer = client.post("/echo", content=iter(pieces), headers={"Content-Type": "text/x-digits"})
    assert answer.headers["content-type"].startswith("text/x-digits")
    assert answer.content == b"".join(pieces)


def test_files(client):
    answer = client.get("/file")
    assert answer.text == FILE
    assert answer.headers["content-length"] == str(len(FILE))
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''a%20file.txt"
    part = client.get("/file", headers={"Range": "bytes=5-11"})
    assert (part.status_code, part.text) == (206, FILE[5:12])
    etag = {"If-Range": '"another"', "Range": "bytes=5-11"}
    assert client.get("/file", headers=etag).status_code == 200
    head = client.head("/file")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(FILE)))


def test_errors(site, client):
    assert client.get("/no/such").status_code == 404
    teapot = client.get("/teapot")
    assert (teapot.status_code, teapot.headers["x-pot"]) == (418, "tea")
    broken = client.get("/broken")
    assert (broken.status_code, broken.text) == (500, "Internal Server Error")
    # Starlette answers, and then lets the error through to the server's log.
    said = site.program.wait_for("broken: asgi application starlette_site:app")
    assert said.endswith("unhandled error in the application")
    site.program.wait_for("ValueError: on purpose")


def test_a_background_task_ends_though_its_client_hung_up(site, place, http2):
    """It is held until the client is gone, and the connection with it."""
    name = f"{place}{http2}"
    with site.client(place, http2) as client:
        assert client.post(f"/background/{name}").text == "begun\n"
    with site.client(place, not http2) as other:
        other.post(f"/set/go-{name}")
        assert other.get(f"/wait/done-{name}").text == "it is set\n"


def test_a_background_task_ends_though_its_client_reset_the_connection(site):
    with closing(socket.create_connection(("127.0.0.1", site.port()))) as sock:
        sock.sendall(b"POST /background/reset HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        received = b""
        while not received.endswith(b"begun\n"):
            received += sock.recv(4096)
        # Closing sends RST instead of FIN.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
    with site.client("root", False) as other:
        other.post("/set/go-reset")
        assert other.get("/wait/done-reset").text == "it is set\n"


def test_an_endless_answer_ends_with_its_client(site, place, http2):
    name = f"{place}{http2}"
    with site.client(place, http2) as client, client.stream("GET", f"/endless/{name}") as answer:
        assert next(answer.iter_bytes())
    with site.client(place, http2) as other:
        assert other.get(f"/wait/left-{name}").text == "it is set\n"


# -- WebSockets --------------------------------------------------------------------------------


def open_socket(site: Site, place: str, secure: bool, path: str):
    url = site.url(place, secure, path).replace("http", "ws", 1)
    return connect(url, ssl=site.context() if secure else None, open_timeout=30)


@pytest.mark.parametrize("secure", [False, True])
def test_sockets(site, place, secure):
    with open_socket(site, place, secure, "/socket") as ws:
        assert ws.response.headers["X-Socket"] == "yes"
        ws.send("häh")
        assert ws.recv(timeout=30) == "HÄH"
        ws.send(b"\x01\x02\x03" * 30_000)
        assert ws.recv(timeout=30) == b"\x03\x02\x01" * 30_000
        ws.send("close")
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=30)
        assert (ws.close_code, ws.close_reason) == (4001, "as you wish")


def test_who_closes_is_noticed(site, place):
    code = {"root": 3001, "below": 3002}[place]
    with open_socket(site, place, False, "/socket") as ws:
        ws.close(code)
    with site.client(place, False) as client:
        assert client.get(f"/wait/closed-{code}").text == "it is set\n"


def test_a_denied_socket(site, place):
    with pytest.raises(InvalidStatus) as caught, open_socket(site, place, False, "/denied"):
        pass
    response = caught.value.response
    assert (response.status_code, response.body) == (403, b"not you\n")
    with pytest.raises(InvalidStatus) as caught, open_socket(site, place, False, "/no/such"):
        pass
    assert caught.value.response.status_code in (403, 404)


# -- The end -----------------------------------------------------------------------------------


def test_an_answer_is_completed_though_the_server_is_told_to_stop(start_site):
    with start_site("starlette_site:app", SITE_FILE="none") as site:
        echo_during_the_stop(site)
        assert site.program.output() == "starlette starts\nstarlette ends\n"


def test_a_background_task_is_awaited_at_the_end(start_site):
    """Its event is set by a request that is answered during the stop."""
    with start_site("starlette_site:app", SITE_FILE="none") as site:
        with site.client("root", False) as client:
            assert client.post("/background/late").text == "begun\n"
        with socket.create_connection(("127.0.0.1", site.port()), timeout=30) as sock:
            sock.sendall(
                b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
                b"Content-Length: 2\r\n\r\nx"
            )
            received = b""
            while b"x" not in received.partition(b"\r\n\r\n")[2]:
                received += sock.recv(4096)
            site.program.signal()
            # The last request of a pipeline is answered, too.
            sock.sendall(b"yPOST /set/go-late HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            while data := sock.recv(4096):
                received += data
        assert site.program.finish() == 0, site.program.stderr
        assert site.program.output() == "starlette starts\nlate is done\nstarlette ends\n"
