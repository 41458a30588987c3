"""Requests and responses."""

from __future__ import annotations

import asyncio
import errno
import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from streams import on_stream, request_bytes
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge
from werkzeug.wrappers import Request as WerkzeugRequest

from kyoukai import Kyoukai, Request
from kyoukai.exceptions import BodyNotReady
from kyoukai.testing import Client, MemoryServer
from kyoukai.wrappers import lazy
from kyoukai.wsgi import create_wsgi_environment, to_wsgi_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from kyoukai import HTTPRequestContext
    from kyoukai.stream import StreamState

FORM = "Content-Type: application/x-www-form-urlencoded"


def multipart(*parts: tuple[str, str | None, bytes], boundary: str = "bnd") -> bytes:
    """A multipart body of parts: name, file name, content."""
    body = b""
    for name, filename, content in parts:
        disposition = f'form-data; name="{name}"'
        if filename is not None:
            disposition += f'; filename="{filename}"'
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
        body += content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


MULTIPART = "Content-Type: multipart/form-data; boundary=bnd"
PARTS = multipart(("a", None, b"1"), ("f", "x.bin", b"\r\n--bn\x00d\r\n"), ("a", None, b"2"))

# -- The same as Werkzeug's own ----------------------------------------------------------------

REQUESTS: dict[str, bytes] = {
    "plain": request_bytes(),
    "args": request_bytes("/x?a=1&b=2&a=3&c"),
    "args with escapes": request_bytes("/x?a=%31&b=x+y&%C3%A9=%E2%82%AC&c=a%26b&d=%ff"),
    "args that are odd": request_bytes("/x?&&a=&=b&=&a==c&;d=1&e"),
    "path": request_bytes("/caf%C3%A9/%2F%20/%E2%82%AC?q"),
    "path with broken UTF-8": request_bytes("/%ff%fe/x"),
    "double slashes": request_bytes("//a//b"),
    "root": request_bytes("/app/x?y"),
    "root itself": request_bytes("/app"),
    "no root": request_bytes("/application"),
    "host with port": request_bytes(host="Example.COM:8000"),
    "host with the usual port": request_bytes(host="example.com:80"),
    "IPv6 host": request_bytes(host="[::1]:8000"),
    "absolute target": request_bytes("http://other.example/x?y=1", host="other.example"),
    "HTTP/1.0 without a host": b"GET /x HTTP/1.0\r\n\r\n",
    "duplicates": request_bytes("/", "X-A: 1", "X-A: 2", "Accept: a/b", "Accept: c/d;q=0.5"),
    "latin-1": request_bytes("/", "X-A: caf\xe9"),
    "cookies": request_bytes("/", 'Cookie: a=1; b="x y"; a=2', "Cookie: c=%20; d"),
    "conditions": request_bytes(
        "/",
        'If-None-Match: "a", W/"b"',
        "If-Modified-Since: Sat, 01 Jan 2022 00:00:00 GMT",
        "Range: bytes=0-4,9-",
        'If-Range: "x"',
        'If-Match: "m"',
    ),
    "client": request_bytes(
        "/",
        "User-Agent: test/1",
        "Referer: http://r.example/",
        "Accept-Language: en, de;q=0.5",
        "Accept-Encoding: gzip, br;q=0",
        "Authorization: Basic dTpw",
        "Cache-Control: no-cache, max-age=3",
        "Pragma: x",
        "Origin: http://o.example",
        "Max-Forwards: 3",
        "Date: Sat, 01 Jan 2022 00:00:00 GMT",
        "Content-Encoding: gzip",
    ),
    "forwarded": request_bytes("/", "X-Forwarded-For: 1.1.1.1, 2.2.2.2", "Forwarded: for=3.3.3.3"),
    "form": request_bytes("/", FORM, method="POST", body=b"a=1&b=%C3%A9+x&a=2"),
    "form that is none": request_bytes("/", FORM, method="POST", body=b"\xff\xfe=%%%&&"),
    "json": request_bytes("/", "Content-Type: application/json", method="PUT", body=b'{"a": [1]}'),
    "json of another kind": request_bytes(
        "/", "Content-Type: application/x+json; charset=utf-8", method="POST", body=b"[1]"
    ),
    "files": request_bytes("/?q=1", MULTIPART, method="POST", body=PARTS),
    "multipart without a boundary": request_bytes(
        "/", "Content-Type: multipart/form-data", method="POST", body=PARTS
    ),
    "bytes": request_bytes("/", "Content-Type: a/b; c=d", method="POST", body=b"\x00\xff"),
    "empty": request_bytes("/", FORM, "Content-Length: 0", method="POST"),
    "chunked form": request_bytes("/", FORM, "Transfer-Encoding: chunked", method="POST")
    + b"3\r\na=1\r\n4\r\n&b=2\r\n0\r\n\r\n",
    "OPTIONS *": request_bytes("*", method="OPTIONS"),
    "unknown method": request_bytes("/", method="PROPFIND"),
}


def plain(value: Any) -> Any:
    """What two values are compared by."""
    if hasattr(value, "to_header"):
        return value.to_header()
    if hasattr(value, "lists"):
        return [(name, [plain(each) for each in values]) for name, values in value.lists()]
    if hasattr(value, "filename"):
        return value.name, value.filename, list(value.headers), value.read()
    if hasattr(value, "string"):
        return value.string
    if isinstance(value, str | bytes | int | float | None | dict | list | tuple):
        return value
    return repr(value) if not hasattr(value, "__iter__") else sorted(value)


HEAD_ATTRIBUTES = """method scheme server root_path path full_path script_root url base_url root_url
host host_url url_root remote_addr access_route is_secure query_string args headers cookies
content_type mimetype mimetype_params content_length content_encoding content_md5 accept_mimetypes
accept_languages accept_encodings accept_charsets if_none_match if_match if_modified_since
if_unmodified_since range if_range authorization referrer user_agent date cache_control pragma
max_forwards origin is_multithread is_multiprocess is_run_once remote_user is_json
want_form_data_parsed access_control_request_method max_content_length shallow""".split()
BODY_ATTRIBUTES = ("form", "files", "values", "data", "json", "stream")


def outcome(request: Any, name: str) -> Any:
    try:
        value = getattr(request, name)
    except Exception as error:
        return type(error), getattr(error, "code", None)
    if name == "stream":
        return value.read()
    return dict(value) if name in ("headers", "cookies") else plain(value)


@pytest.mark.parametrize("name", REQUESTS)
async def test_each_attribute_is_werkzeugs(name: str) -> None:
    def look(stream: StreamState) -> dict[str, tuple[Any, Any]]:
        found = {}
        for attribute in HEAD_ATTRIBUTES:  # each on a request of its own, so the order is no help
            request = Request(stream)
            own = outcome(request, attribute)
            assert outcome(request, attribute) == own
            found[attribute] = (
                own,
                outcome(WerkzeugRequest(create_wsgi_environment(stream)), attribute),
            )
        return found

    found = await on_stream(REQUESTS[name], look, root_path="/app")
    assert {key: own for key, (own, _) in found.items()} == {
        key: theirs for key, (_, theirs) in found.items()
    }


@pytest.mark.parametrize("attribute", BODY_ATTRIBUTES)
@pytest.mark.parametrize("name", REQUESTS)
async def test_each_view_of_the_body_is_werkzeugs(name: str, attribute: str) -> None:
    async def look(stream: StreamState) -> tuple[Any, Any]:
        await stream.receive_body(1 << 20)
        body = stream.read()
        theirs = WerkzeugRequest({**create_wsgi_environment(stream), "wsgi.input": BytesIO(body)})
        expected = outcome(theirs, attribute)
        theirs.close()
        stream._file.seek(0)
        own = Request(stream)
        found = outcome(own, attribute)
        own.close()
        return found, expected

    found, expected = await on_stream(REQUESTS[name], look)
    assert found == expected


async def test_a_request_that_nobody_reads_builds_no_environ() -> None:
    request = await on_stream(request_bytes("/x?a=1", host="h:1"), Request)
    assert request.method == "GET"
    assert request.path == "/x"
    assert request.args["a"] == "1"
    assert request.query_string == b"a=1"
    assert "environ" not in request.__dict__
    assert request.host == "h:1"
    assert request.environ is request.environ
    assert "werkzeug.request" not in request.environ  # it would refer back, for the collector


async def test_a_request_from_an_environ() -> None:
    environ = to_wsgi_environment({"X-A": "1"}, "POST", "/p?q=1", "1.1", BytesIO(b"body"))
    request = Request(environ)
    assert request.environ is environ
    assert (request.method, request.path, request.args["q"]) == ("POST", "/p", "1")
    assert request.headers["x-a"] == "1"
    assert request.state is None
    assert await request.read_async() == b"body"
    assert not request.trailers


async def test_a_request_from_an_environ_with_a_stream_finds_it() -> None:
    request = await on_stream(
        request_bytes("/x"), lambda stream: Request(create_wsgi_environment(stream))
    )
    assert request.state is not None
    assert request.head is request.state.head


async def test_attributes_may_be_assigned() -> None:
    request = await on_stream(request_bytes("/x"), Request)
    request.path = "/other"
    request.method = "PUT"
    assert (request.path, request.method) == ("/other", "PUT")


def test_lazy_computes_once() -> None:
    class Thing:
        calls = 0

        @lazy
        def value(self) -> int:
            """What it is."""
            self.calls += 1
            return 7

        @lazy
        def broken(self) -> int:
            return self.missing

    thing = Thing()
    assert (thing.value, thing.value, thing.calls) == (7, 7, 1)
    assert Thing.value.__doc__ == "What it is."
    with pytest.raises(RuntimeError, match=r"Thing\.broken failed: .*'missing'") as caught:
        _ = thing.broken
    assert isinstance(caught.value.__cause__, AttributeError)


# -- Bodies ------------------------------------------------------------------------------------


async def posted(handler: Callable[[HTTPRequestContext], Any], **request: Any) -> Any:
    """Answer one POST by a streaming handler; the request may come in odd pieces."""
    pieces: Iterable[bytes] | None = request.pop("pieces", None)
    settings = request.pop("settings", {})
    app = Kyoukai("test")
    app.route("/", methods=["POST"], stream=request.pop("stream", True))(handler)
    async with Client(app, **settings) as client:
        if pieces is None:
            return await client.post("/", **request)
        connection = client.connect()
        for piece in pieces:
            connection.send(piece)
        return await connection.response()


async def test_read_async_keeps_the_body() -> None:
    async def handler(ctx: HTTPRequestContext) -> Any:
        first = await ctx.request.read_async()
        again = await ctx.request.read_async()
        return [first.decode(), again.decode(), ctx.request.form["a"], ctx.request.form["b"]]

    headers = [("Content-Type", "application/x-www-form-urlencoded")]
    response = await posted(handler, headers=headers, body="a=1&b=2")
    assert response.json() == ["a=1&b=2", "a=1&b=2", "1", "2"]


async def test_read_async_makes_json_work() -> None:
    async def handler(ctx: HTTPRequestContext) -> Any:
        await ctx.request.read_async()
        return [ctx.request.json, ctx.request.get_data().decode()]

    response = await posted(handler, json={"a": 1})
    assert response.json() == [{"a": 1}, '{"a":1}']


async def test_chunks_come_as_they_arrive() -> None:
    seen: list[bytes] = []
    came: asyncio.Queue[None] = asyncio.Queue()

    async def handler(ctx: HTTPRequestContext) -> Any:
        async for chunk in ctx.request.chunks():
            seen.append(chunk)
            came.put_nowait(None)
        assert await ctx.request.read_async(to_end=False) == b""
        return "done"

    app = Kyoukai("test")
    app.route("/", methods=["POST"], stream=True)(handler)
    async with MemoryServer(app) as server:
        connection = server.connect()
        connection.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n")
        for piece in (b"ab", b"c", b"def"):
            connection.send(piece)
            await came.get()
        assert (await connection.response()).text == "done"
    assert seen == [b"ab", b"c", b"def"]


async def test_an_early_sync_read_says_what_to_do() -> None:
    seen: asyncio.Queue[Exception] = asyncio.Queue()

    async def handler(ctx: HTTPRequestContext) -> Any:
        try:
            _ = ctx.request.form
        except BodyNotReady as error:
            seen.put_nowait(error)
        return (await ctx.request.read_async()).decode()

    head = request_bytes("/", FORM, "Content-Length: 3", method="POST")
    app = Kyoukai("test")
    app.route("/", methods=["POST"], stream=True)(handler)
    async with MemoryServer(app) as server:
        connection = server.connect()
        connection.send(head)
        assert "read_async" in str(await seen.get())
        connection.send(b"a=1")
        assert (await connection.response()).text == "a=1"


def sync_body(ctx: HTTPRequestContext) -> Any:
    return [ctx.request.stream.readline().decode(), ctx.request.stream.read().decode()]


async def test_a_thread_waits_for_the_body() -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n"
    response = await posted(sync_body, pieces=[head, b"line", b"\nre", b"st"])
    assert response.json() == ["line\n", "rest"]


async def test_trailers_are_complete_after_the_body() -> None:
    async def handler(ctx: HTTPRequestContext) -> Any:
        body = await ctx.request.read_async()
        return [body.decode(), list(ctx.request.trailers), "x-sum" in ctx.request.headers]

    response = await posted(handler, chunks=[b"ab", b"c"], trailers=[("X-Sum", "6")])
    assert response.json() == ["abc", [["x-sum", "6"]], False]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_body_over_the_limit(stream: bool, chunked: bool) -> None:
    calls: list[int] = []

    async def handler(ctx: HTTPRequestContext) -> Any:
        body = await ctx.request.read_async()
        calls.append(len(body))
        return "ok"

    for size, status in ((10, 200), (11, 413)):
        body: dict[str, Any] = {"chunks": [b"x" * size]} if chunked else {"body": b"x" * size}
        settings = {"max_body_size": 10}
        response = await posted(handler, stream=stream, settings=settings, **body)
        assert response.status == status
    assert calls == [10]


async def spool(settings: dict[str, Any], body: bytes) -> tuple[Any, list[Any]]:
    files: list[Any] = []

    async def handler(ctx: HTTPRequestContext) -> Any:
        files.append(ctx.request.state._file)
        return [ctx.request.form["a"][:3], len(ctx.request.form["a"])]

    data = request_bytes("/", FORM, method="POST", body=body)
    response = await posted(handler, stream=False, settings=settings, pieces=sliced(data))
    return response, files


def sliced(data: bytes, size: int = 40_000) -> list[bytes]:
    """A body in pieces: the server stops reading before it has all of them."""
    return [data[start : start + size] for start in range(0, len(data), size)]


async def test_a_large_body_is_spooled_and_the_file_closed(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"body_spool_size": 100_000, "body_spool_dir": str(tmp_path)}
    settings["max_form_memory_size"] = 1_000_000
    response, files = await spool(settings, b"a=" + b"x" * 500_000)
    assert response.json() == ["xxx", 500_000]
    assert not isinstance(files[0], BytesIO)
    assert files[0].closed
    response, files = await spool(settings, b"a=" + b"x" * 99_000)
    assert response.json() == ["xxx", 99_000]
    assert isinstance(files[0], BytesIO)
    assert not list(tmp_path.iterdir())


async def refused(settings: dict[str, Any]) -> int:
    """The status of a body that cannot be kept; the next request must be served."""
    app = Kyoukai("test")

    @app.route("/", methods=["POST"])
    async def handler(ctx: HTTPRequestContext) -> str:
        return "not reached"

    @app.route("/next")
    async def following(ctx: HTTPRequestContext) -> str:
        return "next"

    async with Client(app, body_spool_size=10, **settings) as client:
        connection = client.connect()
        for piece in sliced(request_bytes("/", method="POST", body=b"x" * 200_000)):
            connection.send(piece)
        status = (await connection.response()).status
        assert (await client.get("/next")).text == "next"
        return status


async def test_a_missing_folder_is_507(tmp_path: Path) -> None:
    assert await refused({"body_spool_dir": str(tmp_path / "missing")}) == 507


async def test_a_full_disk_is_507(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        closed = False

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            self.closed = True

    file = Full()
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **options: file)
    assert await refused({}) == 507
    assert file.closed


async def test_uploaded_files_are_closed() -> None:
    kept: list[Any] = []

    async def handler(ctx: HTTPRequestContext) -> Any:
        kept.append(ctx.request.files["f"].stream)
        return str(len(kept[0].read()))

    body = multipart(("f", "big.bin", b"x" * 700_000))
    headers = [("Content-Type", "multipart/form-data; boundary=bnd")]
    response = await posted(handler, stream=False, headers=headers, body=body)
    assert response.text == "700000"
    assert kept[0].closed


@pytest.mark.parametrize(
    ("settings", "status"),
    [({}, 200), ({"max_form_memory_size": 10}, 413), ({"max_form_parts": 2}, 413)],
)
async def test_the_limits_of_buffered_forms(settings: dict[str, Any], status: int) -> None:
    async def handler(ctx: HTTPRequestContext) -> Any:
        return [ctx.request.form.getlist("a"), ctx.request.files["f"].read().decode("latin-1")]

    body = multipart(("a", None, b"x" * 11), ("f", "f", b"data"), ("a", None, b"2"))
    headers = [("Content-Type", "multipart/form-data; boundary=bnd")]
    response = await posted(handler, stream=False, headers=headers, body=body, settings=settings)
    assert response.status == status


# -- Parts -------------------------------------------------------------------------------------


async def show_parts(ctx: HTTPRequestContext) -> Any:
    found = []
    async for part in ctx.request.parts():
        content = await part.read()
        found.append([part.name, part.filename, len(content), content[:40].decode("latin-1")])
    return found


def parts_request(body: bytes, content_type: str = MULTIPART) -> bytes:
    return request_bytes("/", content_type, method="POST", body=body)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
async def test_parts_in_odd_pieces(size: int) -> None:
    data = parts_request(PARTS)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    response = await posted(show_parts, pieces=pieces)
    assert response.json() == [
        ["a", None, 1, "1"],
        ["f", "x.bin", 10, "\r\n--bn\x00d\r\n"],
        ["a", None, 1, "2"],
    ]


async def test_parts_that_nobody_reads_are_dropped() -> None:
    async def handler(ctx: HTTPRequestContext) -> Any:
        return [[part.name, repr(part)] async for part in ctx.request.parts()]

    body = multipart(("a", None, b"x" * 5000), ("b", "n", b"y" * 200_000), ("c", None, b"z"))
    response = await posted(handler, pieces=[parts_request(body)])
    assert [name for name, _ in response.json()] == ["a", "b", "c"]
    assert response.json()[1][1] == "<Part 'b' filename='n'>"


async def test_a_part_that_is_read_in_part() -> None:
    async def handler(ctx: HTTPRequestContext) -> Any:
        names = []
        async for part in ctx.request.parts():
            names.append(part.name)
            async for _ in part.chunks():
                break
        return names

    body = multipart(("a", "a", b"x" * 300_000), ("b", "b", b"y" * 300_000))
    response = await posted(handler, pieces=[parts_request(body)])
    assert response.json() == ["a", "b"]


async def test_a_large_part_streams() -> None:
    async def handler(ctx: HTTPRequestContext) -> Any:
        largest = total = 0
        async for part in ctx.request.parts():
            async for chunk in part.chunks():
                largest = max(largest, len(chunk))
                total += len(chunk)
        return [total, largest <= 200_000]

    body = multipart(("f", "f", bytes(range(256)) * 8000))
    response = await posted(handler, pieces=[parts_request(body)])
    assert response.json() == [256 * 8000, True]


async def test_the_headers_of_a_part() -> None:
    async def handler(ctx: HTTPRequestContext) -> Any:
        return [part.headers["Content-Type"] async for part in ctx.request.parts()]

    body = (
        b'--bnd\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n'
        b"Content-Type: image/png\r\n\r\nx\r\n--bnd--\r\n"
    )
    response = await posted(handler, pieces=[parts_request(body)])
    assert response.json() == ["image/png"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (PARTS, "Content-Type: multipart/form-data"),
        (PARTS, "Content-Type: text/plain; boundary=bnd"),
        (PARTS, "Content-Type: multipart/form-data; boundary*=utf-8''%E2%82%AC"),
        (PARTS[:-9], MULTIPART),
        (PARTS[:30], MULTIPART),
        (PARTS[:80], MULTIPART),
        (b"no boundary at all", MULTIPART),
        (b"", MULTIPART),
        (b"--bnd\r\nX-Other: 1\r\n\r\nx\r\n--bnd--\r\n", MULTIPART),
    ],
)
async def test_malformed_parts_are_400(body: bytes, content_type: str) -> None:
    response = await posted(show_parts, pieces=[parts_request(body, content_type)])
    assert response.status == 400


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, 200),
        ({"max_form_parts": 3}, 200),
        ({"max_form_parts": 2}, 413),
        ({"max_form_memory_size": 999}, 413),
        ({"max_form_memory_size": 1000}, 200),
        ({"max_body_size": 1500}, 413),
    ],
)
async def test_the_limits_of_streamed_parts(settings: dict[str, Any], status: int) -> None:
    body = multipart(("a", None, b"x" * 1000), ("f", "f", b"y" * 3000), ("b", None, b"z"))
    response = await posted(show_parts, pieces=[parts_request(body)], settings=settings)
    assert response.status == status


async def test_endless_part_headers_are_refused() -> None:
    body = b"--bnd\r\nX-A: " + b"x" * 5000
    settings = {"max_form_memory_size": 2000}
    response = await posted(show_parts, pieces=[parts_request(body)], settings=settings)
    assert response.status == 413


async def test_parts_of_a_request_from_an_environ() -> None:
    environ = to_wsgi_environment(
        {"Content-Type": "multipart/form-data; boundary=bnd"}, "POST", "/", "1.1", BytesIO(PARTS)
    )
    names = [part.name async for part in Request(environ).parts()]
    assert names == ["a", "f", "a"]
    with pytest.raises(BadRequest):
        await anext(Request(to_wsgi_environment({}, "POST", "/")).parts())


async def test_a_request_class_may_have_limits_of_its_own() -> None:
    class Small(Request):
        max_form_parts = 1

    async def look(stream: StreamState) -> Any:
        return [part.name async for part in Small(stream).parts()]

    with pytest.raises(RequestEntityTooLarge):
        await on_stream(parts_request(PARTS), look)


async def test_json_that_is_none_is_400() -> None:
    async def handler(ctx: HTTPRequestContext) -> Any:
        return ctx.request.json

    headers = [("Content-Type", "application/json")]
    response = await posted(handler, stream=False, headers=headers, body=b"{")
    assert response.status == 400
    response = await posted(handler, stream=False, headers=headers, body=json.dumps({"a": 1}))
    assert response.json() == {"a": 1}
