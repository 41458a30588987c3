"""Heads below other servers: from ASGI scopes, and from WSGI environs."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.testing import ApplicationCommunicator
from under_ways import answer_of, ask, environ_of, hello, http_app, http_scope

from kyoukai import HTTPRequestContext, Kyoukai
from kyoukai.interfaces.recognition import recognise
from kyoukai.interfaces.under_asgi import as_asgi
from kyoukai.interfaces.under_wsgi import as_wsgi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kyoukai.interfaces.under_wsgi import WsgiApplication


def test_servers_that_look_for_the_kind_find_it() -> None:
    app = http_app(hello)
    assert recognise(as_asgi(app), "it") == "asgi"
    assert recognise(as_wsgi(app), "it") == "wsgi"


# -- From scopes ---------------------------------------------------------------------------------


async def show(ctx: HTTPRequestContext) -> dict[str, Any]:
    head = ctx.request.head
    return {
        "headers": [[name.decode(), value.decode()] for name, value in head.headers],
        "authority": head.authority,
        "path": head.path,
        "raw_path": head.raw_path.decode(),
        "length": head.content_length,
        "client": head.client,
    }


async def shown(**changes: Any) -> dict[str, Any]:
    app = Kyoukai("test")
    app.route("/", methods=["GET", "POST"])(show)
    app.route("/<path:rest>", methods=["GET", "POST"])(lambda ctx, rest: show(ctx))
    answer = await ask(as_asgi(app), **changes)
    assert answer.status == 200, answer
    found: dict[str, Any] = json.loads(answer.body)
    return found


async def test_names_with_underscores_are_dropped_and_the_host_comes_first() -> None:
    headers = [(b"X-One", b"1"), (b"x_two", b"2"), (b"Host", b"Example.COM:81"), (b"x-one", b"3")]
    found = await shown(headers=headers[:2] + headers[3:])
    assert found["headers"] == [["host", "example.com"], ["x-one", "1"], ["x-one", "3"]]
    scope = {**http_scope(), "headers": headers}
    communicator = ApplicationCommunicator(as_asgi(http_app(show)), scope)
    await communicator.send_input({"type": "http.request"})
    answer = await answer_of(communicator)
    assert b'"authority":"example.com:81"' in answer.body
    assert b'[["host","Example.COM:81"],["x-one","1"],["x-one","3"]]' in answer.body


async def test_cookies_in_pieces_are_one() -> None:
    found = await shown(headers=[(b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")])
    assert [value for name, value in found["headers"] if name == "cookie"] == ["a=1; b=2"] * 1


@pytest.mark.parametrize(
    "headers, status",
    [
        ([(b"host", b"a"), (b"host", b"b")], 400),
        ([(b"host", b"a b")], 400),
        ([(b"host", b"a"), (b"content-length", b"5x")], 400),
        ([(b"host", b"a"), (b"content-length", b"5"), (b"content-length", b"6")], 400),
        ([(b"host", b"a"), (b"expect", b"miracles")], 417),
        ([(b"host", b"a"), (b"host", b"a")], 200),
        ([], 200),
    ],
)
async def test_what_decides_must_be_clear(headers: Any, status: int) -> None:
    scope = {**http_scope(), "headers": headers}
    communicator = ApplicationCommunicator(as_asgi(http_app(hello)), scope)
    await communicator.send_input({"type": "http.request"})
    assert (await answer_of(communicator)).status == status


@pytest.mark.parametrize(
    "changes, path, raw_path",
    [
        ({"path": "/a b/c", "raw_path": b"/a%20b%2Fc"}, "/a b/c", "/a%20b%2Fc"),
        ({"path": "/a b", "raw_path": None}, "/a b", "/a%20b"),
        ({"path": "/a/é", "raw_path": b"/other"}, "/a/é", "/a/%C3%A9"),
        ({"path": "/x", "raw_path": b"/x", "root_path": "/pre"}, "/pre/x", "/pre/x"),
        ({"path": "/pre/x", "raw_path": b"/pre/x", "root_path": "/pre"}, "/pre/x", "/pre/x"),
        ({"path": "/pre/a ", "raw_path": b"/a%20", "root_path": "/pre"}, "/pre/a ", "/pre/a%20"),
        ({"path": "/prex", "raw_path": b"/prex", "root_path": "/pre"}, "/pre/prex", "/pre/prex"),
        ({"path": "", "raw_path": b""}, "/", "/"),
        ({"path": "/x?y", "raw_path": b"/x%3Fy"}, "/x?y", "/x%3Fy"),
    ],
)  # fmt: skip
async def test_paths(changes: dict[str, Any], path: str, raw_path: str) -> None:
    found = await shown(**changes)
    assert (found["path"], found["raw_path"]) == (path, raw_path)


async def test_a_unix_socket_has_no_client_and_no_port() -> None:
    found = await shown(client=None, server=("/run/app.sock", None))
    assert found["client"] is None
    scope = {**http_scope(client=None, server=("/run/app.sock", None)), "headers": []}
    communicator = ApplicationCommunicator(as_asgi(http_app(show)), scope)
    await communicator.send_input({"type": "http.request"})
    assert b'"authority":"localhost"' in (await answer_of(communicator)).body


# -- From environs -------------------------------------------------------------------------------


async def show_environ(ctx: HTTPRequestContext) -> dict[str, Any]:
    head = ctx.request.head
    return {
        "target": head.target.decode(),
        "raw": head.raw_path.decode(),
        "path": head.path,
        "root": head.root_path,
        "authority": head.authority,
        "version": head.http_version,
        "client": head.client,
        "length": head.content_length,
    }


@pytest.fixture(scope="module")
def shows() -> Iterator[WsgiApplication]:
    app = Kyoukai("test")
    app.route("/", methods=["GET", "POST"])(show_environ)

    @app.route("/<path:rest>", methods=["GET", "POST"])
    async def rest(ctx: HTTPRequestContext, rest: str) -> dict[str, Any]:
        return await show_environ(ctx)

    with closing(as_wsgi(app)) as application:
        yield application


@pytest.mark.parametrize(
    "changes, found",
    [
        ({}, {"target": "/", "raw": "/", "path": "/", "root": ""}),
        ({"PATH_INFO": ""}, {"target": "/", "path": "/"}),
        ({"PATH_INFO": "/a b/\xc3\xa9"}, {"raw": "/a%20b/%C3%A9", "path": "/a b/é"}),
        (
            {"PATH_INFO": "/a/b", "REQUEST_URI": "/a%2Fb?q", "QUERY_STRING": "q"},
            {"raw": "/a%2Fb", "target": "/a%2Fb?q", "path": "/a/b"},
        ),
        ({"PATH_INFO": "/a/b", "RAW_URI": "http://h/a%2Fb"}, {"raw": "/a%2Fb"}),
        ({"PATH_INFO": "/a/b", "REQUEST_URI": "/elsewhere"}, {"raw": "/a/b"}),
        ({"PATH_INFO": "/a/b", "REQUEST_URI": "not a target"}, {"raw": "/a/b"}),
        (
            {"SCRIPT_NAME": "/p", "PATH_INFO": "/a/b", "REQUEST_URI": "/p/a%2Fb"},
            {"raw": "/p/a%2Fb", "path": "/p/a/b", "root": "/p"},
        ),
        (
            {"SCRIPT_NAME": "/p", "PATH_INFO": "/a/b", "REQUEST_URI": "/a%2Fb"},
            {"raw": "/p/a%2Fb", "path": "/p/a/b", "target": "/a%2Fb"},
        ),
        ({"SCRIPT_NAME": "/p", "PATH_INFO": ""}, {"path": "/p", "root": "/p"}),
        ({"HTTP_HOST": "Example.ORG:81"}, {"authority": "example.org:81"}),
        ({"SERVER_NAME": "::1", "HTTP_HOST": None}, {"authority": "[::1]:8000"}),
        ({"SERVER_PORT": "80", "HTTP_HOST": None}, {"authority": "127.0.0.1"}),
        ({"SERVER_PROTOCOL": "HTTP/2.0"}, {"version": "2"}),
        ({"SERVER_PROTOCOL": "HTTP/1.0"}, {"version": "1.0"}),
        ({"REMOTE_ADDR": "", "REMOTE_PORT": ""}, {"client": None}),
        ({"REMOTE_PORT": None}, {"client": ["192.0.2.1", 0]}),
        ({"CONTENT_LENGTH": ""}, {"length": None}),
        ({"CONTENT_LENGTH": "0"}, {"length": 0}),
    ],
)
def test_the_environ_becomes_a_head(
    shows: WsgiApplication, changes: dict[str, Any], found: dict[str, Any]
) -> None:
    environ = environ_of(**changes)
    for key, value in changes.items():
        if value is None:
            del environ[key]
    head, body = begin_unchecked(shows, environ)
    assert head[0] == "200 OK", body
    shown = json.loads(body)
    assert {key: shown[key] for key in found} == found


def begin_unchecked(application: Any, environ: dict[str, Any]) -> tuple[list[Any], bytes]:
    head: list[Any] = []
    body = application(environ, lambda status, headers: head.extend((status, headers)))
    return head, b"".join(body)


@pytest.mark.parametrize(
    "changes, status",
    [
        ({"HTTP_HOST": "a b"}, 400),
        ({"CONTENT_LENGTH": "many"}, 400),
        ({"HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade"}, 404),
    ],
)
def test_what_is_refused(shows: WsgiApplication, changes: dict[str, str], status: int) -> None:
    head, _ = begin_unchecked(shows, environ_of(**changes))
    assert int(head[0].split()[0]) == status
