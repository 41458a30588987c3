"""Django under WSGI and under ASGI: the admin, as somebody who uses it sees it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest
from hosted_site import SITES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx
    from hosted_site import Site


@pytest.fixture(scope="module", params=("wsgi", "asgi"))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def site(
    kind: str, start_site: Callable[..., Site], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = str(tmp_path_factory.mktemp("django"))
    # Django is set up in processes of its own: its settings are for ever.
    subprocess.run(
        [sys.executable, "-m", "django_site"],
        cwd=SITES,
        env={**os.environ, "SITE_FOLDER": folder},
        check=True,
        timeout=60,
    )
    module = f"django_site.{kind}"
    with start_site(f"{module}:application", f"{module}:mounted", SITE_FOLDER=folder) as site:
        yield site
        site.stop()


def hidden_fields(page: str) -> dict[str, str]:
    """What a form sends along without being asked."""
    found = {}
    for tag in re.findall(r'<input type="hidden"[^>]*>', page):
        attributes = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        found[attributes["name"]] = unescape(attributes.get("value", ""))
    return found


def send_form(client: httpx.Client, path: str, fields: dict[str, Any], **options: Any):
    """Load a page, and send its form, as a browser does."""
    page = client.get(path)
    assert page.status_code == 200
    fields = {**hidden_fields(page.text), **fields}
    # Over https, Django wants to know where a form comes from.
    referer = {"Referer": str(page.url)}
    return client.post(path, data=fields, headers=referer, **options)


def log_in(client: httpx.Client, password: str = "lovelace"):
    fields = {"username": "ada", "password": password}
    return send_form(client, "/admin/login/", fields)


def test_what_it_is_is_said(site, kind):
    assert site.labels["root"] == f"httptools, http2, {kind}"


def test_where_it_is(client, kind, place, http2):
    found = client.get("/").json()
    del found["notes"]
    assert found == {
        "handler": "WSGIRequest" if kind == "wsgi" else "ASGIRequest",
        "path": "/below/" if place == "below" else "/",
        "secure": http2,
    }
    lost = client.get("/admin")
    assert (lost.status_code, lost.headers["location"]) == (
        301,
        "/below/admin/" if place == "below" else "/admin/",
    )
    assert client.get("/no/such").status_code == 404


def test_who_is_nobody_must_log_in(client, place):
    prefix = "/below" if place == "below" else ""
    answer = client.get("/admin/")
    assert (answer.status_code, answer.headers["location"]) == (
        302,
        f"{prefix}/admin/login/?next={prefix}/admin/",
    )
    wrong = log_in(client, "wrong")
    assert wrong.status_code == 200
    assert "Please enter the correct username and password" in wrong.text
    # Without the token of the form, nothing goes.
    client.cookies.clear()
    forged = client.post("/admin/login/", data={"username": "ada", "password": "lovelace"})
    assert forged.status_code == 403


def test_the_admin(client, place, http2):
    prefix = "/below" if place == "below" else ""
    client.follow_redirects = True
    assert log_in(client).url.path == f"{prefix}/admin/"
    assert client.cookies["sessionid"]
    name = f"naïve {place} {http2}"
    content = bytes(range(256)) * 12_000  # more than Django keeps in memory
    added = send_form(
        client,
        "/admin/django_site/note/add/",
        {"text": name},
        files={"file": (f"{place}-{http2}.bin", content)},
    )
    assert added.url.path == f"{prefix}/admin/django_site/note/"
    assert "was added successfully" in added.text
    assert name in client.get("/").json()["notes"]
    # The change form has a link to what was uploaded; the view streams it.
    (number,) = set(re.findall(rf"/note/(\d+)/change/[^>]*>{name}", added.text))
    page = client.get(f"/admin/django_site/note/{number}/change/").text
    (link,) = re.findall(r'<a href="([^"]*\.bin)"', page)
    file = client.get(f"/media/{link.partition('media/')[2]}")
    assert file.content == content
    assert file.headers["content-length"] == str(len(content))
    delete = f"/admin/django_site/note/{number}/delete/"
    assert "was deleted successfully" in send_form(client, delete, {"post": "yes"}).text
    assert name not in client.get("/").json()["notes"]
    out = client.post(
        "/admin/logout/",
        data=hidden_fields(added.text),
        headers={"Referer": str(added.url)},
    )
    assert "Logged out" in out.text
    assert "/login/" in client.get("/admin/").url.path


def test_static_files(client):
    page = client.get("/admin/login/")
    links = re.findall(r'(?:href|src)="([^"]*static/(admin/[^"]*))"', page.text)
    assert len(links) >= 3
    for _, path in links:
        file = client.get(f"/static/{path}")
        assert file.status_code == 200
        assert int(file.headers["content-length"]) == len(file.content) > 0
    again = {"If-Modified-Since": file.headers["last-modified"]}
    unchanged = client.get(f"/static/{path}", headers=again)
    assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_streams(client):
    with client.stream("GET", "/stream") as answer:
        assert list(answer.iter_lines()) == [str(number) for number in range(1000)]
