"""Flask, as most will use it: streams with their context, files, forms, errors; real sockets."""

from __future__ import annotations

import asyncio
import gc
import http.client
import logging
from typing import TYPE_CHECKING, Any

import flask
import pytest
from wsgi_apps import Gate, both, hosted, saying

from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.interfaces.wsgi_request import WsgiRequest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def app(tmp_path: Path) -> flask.Flask:
    app = flask.Flask(__name__)
    app.secret_key = "secret"
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(range(256)) * 2000)

    @app.get("/")
    def hello() -> str:
        flask.session["seen"] = flask.session.get("seen", 0) + 1
        return f"Hello {flask.session['seen']}"

    @app.get("/stream/<int:number>")
    def stream(number: int) -> Any:
        @flask.stream_with_context
        def lines() -> Any:
            for index in range(number):
                yield f"{index} {flask.request.path}\n"

        return flask.Response(lines(), mimetype="text/plain")

    @app.get("/file")
    def file() -> Any:
        return flask.send_file(large, conditional=True)

    @app.post("/form")
    def form() -> Any:
        name = flask.request.form["name"]
        upload = flask.request.files["upload"]
        return {"name": name, "file": upload.filename, "size": len(upload.read())}

    @app.post("/json")
    def json() -> Any:
        return flask.jsonify(flask.request.get_json())

    @app.get("/error")
    def error() -> Any:
        raise KeyError("an error of a view")

    @app.get("/async")
    async def coroutine() -> str:
        await asyncio.sleep(0)
        return "from a coroutine"

    return app


@both
async def test_answers(wire: str, app: flask.Flask) -> None:
    async with hosted(app, wire) as site:
        first = await site.ask()
        assert (first.status, first.text) == (200, "Hello 1")
        assert first.headers["content-length"] == "7"
        cookie = first.headers["set-cookie"].partition(";")[0]
        assert (await site.ask(headers=[("Cookie", cookie)])).text == "Hello 2"
        assert (await site.ask("HEAD")).body == b""
        assert (await site.ask("GET", "/none")).status == 404
        assert (await site.ask("POST", "/")).status == 405
        # Each of them in a context of its own, all at once.
        paths = [f"/stream/{number}" for number in range(20)]
        for path, answer in zip(
            paths, await asyncio.gather(*[site.ask("GET", path) for path in paths]), strict=True
        ):
            number = int(path.rpartition("/")[2])
            assert answer.text == "".join(f"{index} {path}\n" for index in range(number))


@both
async def test_files(wire: str, app: flask.Flask) -> None:
    content = bytes(range(256)) * 2000
    async with hosted(app, wire) as site:
        whole = await site.ask("GET", "/file")
        assert (whole.status, whole.body) == (200, content)
        assert whole.headers["content-length"] == str(len(content))
        part = await site.ask("GET", "/file", headers=[("Range", "bytes=300000-300009")])
        assert (part.status, part.body) == (206, content[300000:300010])
        etag = whole.headers["etag"]
        assert (await site.ask("GET", "/file", headers=[("If-None-Match", etag)])).status == 304
        head = await site.ask("HEAD", "/file")
        assert (head.body, head.headers["content-length"]) == (b"", str(len(content)))


@both
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies(wire: str, chunked: bool, app: flask.Flask) -> None:
    form = (
        b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nvalue\r\n'
        b'--b\r\nContent-Disposition: form-data; name="upload"; filename="f.bin"\r\n\r\n'
        + b"x" * 300000
        + b"\r\n--b--\r\n"
    )
    kinds = {"/form": (form, "multipart/form-data; boundary=b")}
    kinds["/json"] = (b"[1]", "application/json")
    async with hosted(app, wire) as site:
        for path, (body, kind) in kinds.items():
            parts = {"chunks": [body[:1000], body[1000:]]} if chunked else {"body": body}
            parts = {"chunks": [body]} if chunked and len(body) < 1000 else parts
            response = await site.ask("POST", path, headers=[("Content-Type", kind)], **parts)
            assert response.status == 200
            expected = {"name": "value", "file": "f.bin", "size": 300000}
            assert response.json() == ([1] if path == "/json" else expected)


@both
async def test_errors_go_into_the_log(wire: str, app: flask.Flask, caplog: Any) -> None:
    async with hosted(app, wire) as site:
        response = await site.ask("GET", "/error")
    assert response.status == 500
    assert "Internal Server Error" in response.text
    assert "an error of a view" in caplog.text


@pytest.mark.parametrize("times", [1, 10])
async def test_over_sockets(times: int, loop_factory: Any, app: flask.Flask) -> None:
    def client(port: int) -> list[bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        found = []
        for _ in range(times):
            connection.request("GET", "/stream/3")
            found.append(connection.getresponse().read())
            connection.request("POST", "/json", b"[%s]" % (b"1," * 50000 + b"2"), _JSON)
            found.append(connection.getresponse().read())
        connection.close()
        return found

    async with hosted(app) as site:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: HttpToolsProtocol(site.server), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        both = await asyncio.gather(*[asyncio.to_thread(client, port) for _ in range(4)])
        server.close()
    for found in both:
        assert len(found) == 2 * times
        assert set(found[::2]) == {b"0 /stream/3\n1 /stream/3\n2 /stream/3\n"}
        assert {len(each) for each in found[1::2]} == {100004}


_JSON = {"Content-Type": "application/json"}


@both
async def test_requests_leave_nothing_for_the_collector(wire: str, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL, "kyoukai")  # tracebacks keep what they lead through
    gone, endless = Gate(), Gate()

    def chunks() -> Any:
        while True:
            endless.open()
            yield b"x" * 100000

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/raises":
            raise KeyError
        if environ["PATH_INFO"] == "/endless":
            start_response("200 OK", [])
            return chunks()
        if environ["REQUEST_METHOD"] == "POST":
            gone.open()
            environ["wsgi.input"].read()
        return saying(iter([b"a", "text" if environ["PATH_INFO"] == "/wrong" else b"b"]))(
            environ, start_response
        )

    async with hosted(app, wire) as site:
        gc.collect()
        others = requests_left()  # of tests before, which their records keep
        gc.disable()
        try:
            await site.ask()
            assert (await site.ask("GET", "/raises")).status == 500
            with pytest.raises(ConnectionError):
                await site.ask("GET", "/wrong")
            peer = site.dial()
            peer.begin()
            await gone.opened()
            peer.leave()
            slow = site.dial()
            slow.hold()
            slow.request("GET", "/endless")
            await endless.opened()
            slow.leave()
            while tasks := tuple(site.server.connections.tasks):
                await asyncio.wait(tasks)
            while site.interface._pool.busy:
                await asyncio.to_thread(lambda: None)
            left = [each for each in requests_left() if each not in others]
        finally:
            gc.enable()
    assert not left


def requests_left() -> list[WsgiRequest]:
    return [each for each in gc.get_objects() if type(each) is WsgiRequest]
