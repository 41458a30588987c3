"""The WSGI environ."""

from __future__ import annotations

import ssl
import sys
from io import BytesIO
from typing import Any
from wsgiref.validate import check_environ

import pytest
from streams import on_stream, request_bytes
from werkzeug.wrappers import Request as WerkzeugRequest
from werkzeug.wrappers import Response as WerkzeugResponse

from kyoukai import wsgi
from kyoukai.stream import StreamState
from kyoukai.wsgi import (
    application_path,
    create_wsgi_environment,
    get_formatted_response,
    to_wsgi_environment,
)


async def environ_of(data: bytes, extra: dict[str, Any] | None = None, **settings: Any) -> Any:
    return await on_stream(data, create_wsgi_environment, extra, **settings)


async def test_every_key_of_a_plain_request() -> None:
    def look(stream: StreamState) -> dict[str, Any]:
        environ = create_wsgi_environment(stream)
        assert environ.pop("wsgi.input") is stream
        assert environ.pop("kyoukai.stream") is stream
        assert hasattr(environ.pop("wsgi.errors"), "write")
        return environ

    environ = await on_stream(
        request_bytes(
            "/a%20b?x=%31&y", "Content-Type: text/plain", "X-One: 1", method="POST", body=b"abc"
        ),
        look,
        {"peername": ("192.0.2.7", 4711), "sockname": ("192.0.2.1", 8080)},
    )
    assert environ == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "x=%31&y",
        "REQUEST_URI": "/a%20b?x=%31&y",
        "RAW_URI": "/a%20b?x=%31&y",
        "SERVER_NAME": "192.0.2.1",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "4711",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "3",
        "HTTP_HOST": "localhost",
        "HTTP_X_ONE": "1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


REQUESTS = {
    "plain": request_bytes(),
    "query": request_bytes("/?a=%20&b=%fc+"),
    "body": request_bytes("/", "Content-Type: x/y", method="POST", body=b"abc"),
    "root": request_bytes("/app/inner"),
    "outside": request_bytes("/application"),
    "non-ascii": request_bytes("/%C3%A4/%e4"),
    "absolute": request_bytes("http://other.example:81/x?y", host="other.example:81"),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_environ_passes_the_validator(name: str) -> None:
    environ = await environ_of(REQUESTS[name], root_path="/app")
    check_environ({**environ, "wsgi.input": _Input()})
    for key, value in environ.items():
        if "." not in key:
            assert type(value) is str
            value.encode("latin-1")


class _Input(BytesIO):
    """What the validator wants; the stream has the same methods."""


def test_the_stream_has_the_methods_of_an_input() -> None:
    for name in ("read", "readline", "readlines", "__iter__"):
        assert callable(getattr(StreamState, name))


async def test_each_environ_is_the_callers_own() -> None:
    def change(stream: StreamState) -> dict[str, Any]:
        first = create_wsgi_environment(stream)
        first["SERVER_NAME"] = "changed"
        first["HTTP_X_MORE"] = "1"
        return create_wsgi_environment(stream)

    environ = await on_stream(request_bytes(), change)
    assert environ["SERVER_NAME"] == "127.0.0.1"
    assert "HTTP_X_MORE" not in environ


@pytest.mark.parametrize(
    ("headers", "key", "value"),
    [
        (("X-A: 1", "X-A: 2", "x-a: 3"), "HTTP_X_A", "1,2,3"),
        (("Cookie: a=1", "Cookie: b=2"), "HTTP_COOKIE", "a=1; b=2"),
        (("Accept: text/html", "Accept: text/plain"), "HTTP_ACCEPT", "text/html,text/plain"),
        (("X-Empty:",), "HTTP_X_EMPTY", ""),
        (("X-Latin: caf\xe9",), "HTTP_X_LATIN", "caf\xe9"),
        (("X-Dash-And-Dots.1: y",), "HTTP_X_DASH_AND_DOTS.1", "y"),
    ],
)
async def test_headers(headers: tuple[str, ...], key: str, value: str) -> None:
    assert (await environ_of(request_bytes("/", *headers)))[key] == value


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("Proxy: http://evil", "HTTP_PROXY"),
        ("PROXY: http://evil", "HTTP_PROXY"),
        ("X_Forwarded_For: 1.1.1.1", "HTTP_X_FORWARDED_FOR"),
        ("X-Forwarded-For: 1.1.1.1", "HTTP_X_FORWARDED_FOR"),
        ("Forwarded: for=1.1.1.1", "HTTP_FORWARDED"),
        ("Content_Length: 5", "CONTENT_LENGTH"),
        ("Content_Type: text/evil", "CONTENT_TYPE"),
        ("Content_Length: 5", "HTTP_CONTENT_LENGTH"),
        ("HTTP_HOST: evil", "HTTP_HTTP_HOST"),
    ],
)
async def test_headers_that_stay_out(header: str, key: str) -> None:
    assert key not in await environ_of(request_bytes("/", header))


async def test_an_underscored_name_does_not_reach_the_dashed_one() -> None:
    environ = await environ_of(request_bytes("/", "X-User: me", "X_User: root", "X-User: too"))
    assert environ["HTTP_X_USER"] == "me,too"


async def test_content_headers_have_no_second_key() -> None:
    data = request_bytes("/", "Content-Type: a/b", method="POST", body=b"1")
    environ = await environ_of(data)
    assert "HTTP_CONTENT_TYPE" not in environ
    assert "HTTP_CONTENT_LENGTH" not in environ


async def test_a_chunked_body_has_no_length() -> None:
    data = request_bytes("/", "Transfer-Encoding: chunked", method="POST") + b"1\r\na\r\n0\r\n\r\n"
    environ = await environ_of(data)
    assert "CONTENT_LENGTH" not in environ
    assert environ["wsgi.input_terminated"] is True


@pytest.mark.parametrize(
    ("target", "path_info"),
    [
        ("/caf%C3%A9", "caf\u00e9"),
        ("/%E2%82%AC", "\u20ac"),
        ("/%F0%9F%8C%B8", "\U0001f338"),
    ],
)
async def test_non_ascii_paths_are_utf8_in_latin1(target: str, path_info: str) -> None:
    environ = await environ_of(request_bytes(target))
    assert environ["PATH_INFO"].encode("latin-1").decode("utf-8") == "/" + path_info


async def test_a_path_is_decoded_once() -> None:
    assert (await environ_of(request_bytes("/%2541")))["PATH_INFO"] == "/%41"


@pytest.mark.parametrize(
    ("target", "root", "path"),
    [
        ("/app/x", "/app", "/x"),
        ("/app", "/app", ""),
        ("/app/", "/app", "/"),
        ("/application", "/app", "/application"),
        ("/x", "/app", "/x"),
        ("/%61pp/x", "/app", "/x"),
        ("/caf%C3%A9/x", "/caf\u00e9", "/x"),
    ],
)
async def test_the_root_path(target: str, root: str, path: str) -> None:
    environ = await environ_of(request_bytes(target), root_path=root)
    assert environ["SCRIPT_NAME"].encode("latin-1").decode() == root
    assert environ["PATH_INFO"] == path
    head_path = await on_stream(
        request_bytes(target), lambda stream: application_path(stream.head), root_path=root
    )
    assert head_path == (path or "/")
    assert WerkzeugRequest(environ).root_path == root


async def test_a_unix_socket_has_no_client() -> None:
    environ = await environ_of(request_bytes(), {"peername": "", "sockname": "/run/k.sock"})
    assert "REMOTE_ADDR" not in environ
    assert "REMOTE_PORT" not in environ
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "80")


async def test_tls() -> None:
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    environ = await environ_of(request_bytes(), {"ssl_object": tls})
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"
    plain = await environ_of(request_bytes())
    assert "HTTPS" not in plain


async def test_http_1_0() -> None:
    environ = await environ_of(b"GET / HTTP/1.0\r\n\r\n")
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert environ["HTTP_HOST"] == "127.0.0.1:8000"


async def test_a_trusted_proxy_names_client_and_scheme() -> None:
    environ = await environ_of(
        request_bytes("/", "X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https"),
        trusted_proxies=["127.0.0.1"],
    )
    assert environ["REMOTE_ADDR"] == "192.0.2.9"
    assert environ["wsgi.url_scheme"] == "https"


async def test_many_names_and_addresses_are_not_remembered_for_ever() -> None:
    for number in range(30):
        names = [f"X-{number}-{index}: 1" for index in range(60)]
        environ = await environ_of(
            request_bytes("/", *names), {"sockname": ("127.0.0.1", 1000 + number * 3)}
        )
        assert environ["HTTP_X_%d_59" % number] == "1"
    for number in range(100):
        await environ_of(request_bytes(), {"sockname": ("127.0.0.1", 20000 + number)})
    assert len(wsgi._keys) <= wsgi._KEYS_KEPT
    assert len(wsgi._templates) <= wsgi._TEMPLATES_KEPT


# -- Made-up environs --------------------------------------------------------------------------


def test_to_wsgi_environment() -> None:
    environ = to_wsgi_environment(
        {"Host": "example.com:81", "Content-Type": "a/b", "X-A": "1"},
        "PUT",
        "/caf%C3%A9?x=1",
        "1.0",
        BytesIO(b"body"),
    )
    check_environ(environ)
    request = WerkzeugRequest(environ)
    assert request.method == "PUT"
    assert request.path == "/caf\u00e9"
    assert request.args.to_dict() == {"x": "1"}
    assert request.host == "example.com:81"
    assert request.headers["X-A"] == "1"
    assert request.mimetype == "a/b"
    assert request.get_data() == b"body"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert environ["wsgi.errors"] is sys.stderr


def test_to_wsgi_environment_joins_duplicates_and_drops_what_the_wire_drops() -> None:
    environ = to_wsgi_environment(
        [("X-A", "1"), ("x-a", "2"), ("Cookie", "a=1"), ("Cookie", "b=2"), ("Proxy", "evil")],
        "GET",
        "/",
    )
    assert environ["HTTP_X_A"] == "1,2"
    assert WerkzeugRequest(environ).cookies.to_dict() == {"a": "1", "b": "2"}
    assert "HTTP_PROXY" not in environ
    assert environ["wsgi.input"].read() == b""


def test_get_formatted_response() -> None:
    response = WerkzeugResponse("h\u00e9llo", status=201, headers={"X-A": "1"})
    data = get_formatted_response(response, to_wsgi_environment({}, "GET", "/"))
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 201 CREATED"
    assert b"X-A: 1" in lines
    assert b"Content-Length: 6" in lines
    assert body == "h\u00e9llo".encode()


def test_get_formatted_response_to_head_and_of_an_iterable() -> None:
    environ = to_wsgi_environment({}, "HEAD", "/")
    assert get_formatted_response(WerkzeugResponse("body"), environ).endswith(b"\r\n\r\n")
    streamed = WerkzeugResponse(iter([b"a", "b"]))
    assert get_formatted_response(streamed, to_wsgi_environment({}, "GET", "/")).endswith(b"ab")
