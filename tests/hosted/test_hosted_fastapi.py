"""FastAPI applications under ASGI, as their clients see them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from blocking_sockets import connect
from websockets.exceptions import InvalidStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hosted_site import Site


@pytest.fixture(scope="module")
def site(start_site: Callable[..., Site]) -> Iterator[Site]:
    with start_site("fastapi_site:app") as site:
        yield site
        site.stop()


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_the_docs_page_finds_what_it_shows(client, place, page):
    prefix = "/below" if place == "below" else ""
    answer = client.get(page)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    (url,) = re.findall(r"(?:url: '|spec-url=\")([^'\"]*openapi.json)", answer.text)
    assert url == f"{prefix}/openapi.json"
    # As a browser does: from the server's root.
    found = client.send(client.build_request("GET", client.base_url.join(url))).json()
    assert found["info"]["title"] == "Hosted"
    assert {"/items/{name}", "/items"} <= found["paths"].keys()
    # "Try it out" calls what it says here.
    assert found.get("servers", [{"url": ""}]) == [{"url": prefix}]


def test_dependencies_are_taken_back(client):
    before = client.get("/log").json()
    assert client.get("/items/apple").json() == {"name": "apple", "price": 1.5}
    missing = client.get("/items/pear")
    assert (missing.status_code, missing.json()) == (404, {"detail": "There is no pear."})
    assert client.get("/log").json()[len(before) :] == ["opened", "closed"] * 2


def test_bodies_are_checked(client):
    created = client.post("/items", json={"name": "pear", "price": 2})
    assert (created.status_code, created.json()) == (201, {"created": "pear"})
    wrong = client.post("/items", json={"name": "pear", "price": "much"})
    assert wrong.status_code == 422
    assert wrong.json()["detail"][0]["loc"] == ["body", "price"]
    assert client.put("/items", json={}).status_code == 405


def test_uploads(client):
    answer = client.post("/upload", files={"file": ("a.bin", bytes(3_000_000))})
    assert answer.json() == {"name": "a.bin", "size": 3_000_000}


def test_background_tasks(client, place, http2):
    text = f"later {place} {http2}"
    assert client.post(f"/later/{text}").json() == {"accepted": text}
    assert client.get(f"/later/{text}").json() == "done"
    assert text in client.get("/log").json()


@pytest.mark.parametrize("secure", [False, True])
def test_sockets(site, place, secure):
    url = site.url(place, secure, "/socket/kitchen?q=1").replace("http", "ws", 1)
    context = site.context() if secure else None
    with connect(url, ssl=context, subprotocols=["one", "two"]) as ws:
        assert ws.subprotocol == "one"
        assert json.loads(ws.recv(timeout=30)) == {
            "room": "kitchen",
            "url": url,
            "prices": {"apple": 1.5},
        }
        ws.send('["x"]')
        assert json.loads(ws.recv(timeout=30)) == {"echo": ["x"]}


def test_a_refused_socket(site, place):
    url = site.url(place, False, "/refused").replace("http", "ws", 1)
    with pytest.raises(InvalidStatus) as caught, connect(url):
        pass
    assert caught.value.response.status_code == 401
