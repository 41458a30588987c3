"""Quart applications under ASGI, as their clients see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from blocking_sockets import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hosted_site import Site


@pytest.fixture(scope="module")
def site(start_site: Callable[..., Site]) -> Iterator[Site]:
    with start_site("quart_site:app") as site:
        yield site
        site.stop()
        assert site.program.output() == "quart ends\n"


def test_pages_and_places(client, place, http2):
    prefix = "/below" if place == "below" else ""
    assert client.get("/").json() == {
        "started": 1,
        "url": f"{prefix}/",
        "version": "2" if http2 else "1.1",
        "root": prefix,
    }
    missing = client.get("/no/such")
    assert missing.status_code == 404
    assert missing.text == "Quart knows no such path\n"


def test_streams(client):
    with client.stream("GET", "/stream/5000") as answer:
        assert "content-length" not in answer.headers
        assert list(answer.iter_lines()) == [str(number) for number in range(5000)]


def test_forms_and_bodies(client):
    answer = client.post("/form", data={"name": "Ada"}, files={"one": ("a", bytes(500_000))})
    assert answer.json() == {"fields": {"name": "Ada"}, "files": {"one": 500_000}}
    pieces = (bytes(10_000) for _ in range(100))
    assert client.post("/size", content=pieces).json() == {"size": 1_000_000}


def test_errors(site, client):
    broken = client.get("/broken")
    assert broken.status_code == 500
    assert "Internal Server Error" in broken.text
    site.program.wait_for("ValueError: on purpose")


@pytest.mark.parametrize("secure", [False, True])
def test_sockets(site, place, secure):
    url = site.url(place, secure, "/socket").replace("http", "ws", 1)
    with connect(url, ssl=site.context() if secure else None) as ws:
        assert ws.response.headers["X-Socket"] == "yes"
        ws.send("häh")
        assert ws.recv(timeout=30) == "HÄH"
        ws.send(b"\x01\x02\x03" * 30_000)
        assert ws.recv(timeout=30) == b"\x03\x02\x01" * 30_000
        ws.send("close")
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=30)
        assert (ws.close_code, ws.close_reason) == (4001, "as you wish")


def test_a_refused_socket(site, place):
    for path, status in (("/refused", 403), ("/no/such", 404)):
        with pytest.raises(InvalidStatus) as caught:
            connect(site.url(place, False, path).replace("http", "ws", 1))
        assert caught.value.response.status_code == status
