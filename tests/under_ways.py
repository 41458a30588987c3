"""Kyoukai applications below servers that are the test: an ASGI server, and a WSGI one."""

from __future__ import annotations

import asyncio
import io
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, unquote_to_bytes
from wsgiref.validate import validator

from asgiref.testing import ApplicationCommunicator
from werkzeug.datastructures import Headers

from kyoukai import Kyoukai
from kyoukai.interfaces.under_asgi import as_asgi
from kyoukai.interfaces.under_wsgi import as_wsgi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kyoukai import HTTPRequestContext


async def hello(ctx: HTTPRequestContext) -> str:
    return "hello"


def http_app(handler: Callable[..., Any], **options: Any) -> Kyoukai:
    """An application with one route."""
    app = Kyoukai("test")
    app.route("/", methods=["GET", "POST"], **options)(handler)
    return app


@dataclass
class Answer:
    status: int = 0
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    #: The pieces that the body came in.
    pieces: list[bytes] = field(default_factory=list)
    #: What an ASGI server was sent, beside the head and the body.
    others: list[dict[str, Any]] = field(default_factory=list)


def http_scope(method: str = "GET", target: str = "/", **changes: Any) -> dict[str, Any]:
    """A scope as uvicorn makes it."""
    path, _, query = target.partition("?")
    headers = [(b"host", b"example.com"), *changes.pop("headers", ())]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers,
        "client": ("192.0.2.1", 4000),
        "server": ("127.0.0.1", 8000),
        **changes,
    }


def socket_scope(target: str = "/", **changes: Any) -> dict[str, Any]:
    """A scope of a WebSocket, as uvicorn makes it."""
    key = (b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA==")
    headers = [key, (b"sec-websocket-version", b"13"), *changes.pop("headers", ())]
    scope = http_scope("GET", target, headers=headers)
    del scope["method"]
    return {**scope, "type": "websocket", "scheme": "ws", "subprotocols": [], **changes}


class Lifespan:
    """An ASGI server's lifespan around an application, as a context manager."""

    def __init__(self, application: Any) -> None:
        self.communicator = ApplicationCommunicator(application, {"type": "lifespan"})
        self.messages: list[dict[str, Any]] = []

    async def begin(self) -> dict[str, Any]:
        await self.communicator.send_input({"type": "lifespan.startup"})
        return await self.communicator.receive_output()

    async def end(self) -> dict[str, Any]:
        await self.communicator.send_input({"type": "lifespan.shutdown"})
        message = await self.communicator.receive_output(10)
        await self.communicator.wait()
        return message

    async def __aenter__(self) -> Lifespan:
        message = await self.begin()
        assert message == {"type": "lifespan.startup.complete"}, message["message"]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert await self.end() == {"type": "lifespan.shutdown.complete"}


async def answer_of(communicator: ApplicationCommunicator) -> Answer:
    """Take a whole answer from an application, and wait for its end."""
    answer = Answer()
    trailers = False
    while True:
        message = await communicator.receive_output(5)
        kind = message["type"].rpartition(".")[2]
        if kind == "start":
            answer.status = message["status"]
            for name, value in message["headers"]:
                answer.headers.add(name.decode(), value.decode())
            trailers = message.get("trailers", False)
        elif kind == "body":
            if message["body"]:
                answer.pieces.append(message["body"])
            if not message.get("more_body") and not trailers:
                break
        else:
            answer.others.append(message)
            if kind == "trailers":
                break
    answer.body = b"".join(answer.pieces)
    await communicator.wait(5)
    return answer


def talk(application: Any, **changes: Any) -> ApplicationCommunicator:
    """Begin a request of an ASGI server."""
    return ApplicationCommunicator(application, http_scope(**changes))


async def ask(application: Any, **changes: Any) -> Answer:
    """Send a request without a body."""
    communicator = talk(application, **changes)
    await communicator.send_input({"type": "http.request"})
    return await answer_of(communicator)


class AsgiWay:
    """Below an ASGI server."""

    name = "asgi"

    def __init__(self, app: Kyoukai, **settings: Any) -> None:
        self.application = as_asgi(app, settings=settings)
        self._lifespan = Lifespan(self.application)

    async def __aenter__(self) -> AsgiWay:
        await self._lifespan.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._lifespan.__aexit__()

    async def ask(
        self,
        method: str = "GET",
        target: str = "/",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        root_path: str = "",
    ) -> Answer:
        pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        if body:
            pairs.append((b"content-length", b"%d" % len(body)))
        scope = http_scope(method, root_path + target, headers=pairs, root_path=root_path)
        communicator = ApplicationCommunicator(self.application, scope)
        pieces = [body[i : i + 50000] for i in range(0, len(body), 50000)] or [b""]
        for number, piece in enumerate(pieces, 1):
            more = number < len(pieces)
            await communicator.send_input(
                {"type": "http.request", "body": piece, "more_body": more}
            )
        return await answer_of(communicator)


def environ_of(method: str = "GET", target: str = "/", **changes: Any) -> dict[str, Any]:
    """An environ with what PEP 3333 asks for, and no more."""
    path, _, query = target.partition("?")
    return {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "example.com",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "4000",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **changes,
    }


def call(application: Any, environ: dict[str, Any]) -> Answer:
    """Be a WSGI server for one request, with a validator in between."""
    answer = Answer()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        answer.status = int(status.split()[0])
        answer.headers = Headers(headers)
        return answer.pieces.append

    iterable: Iterable[bytes] = validator(application)(environ, start_response)
    try:
        for piece in iterable:
            if piece:
                answer.pieces.append(piece)
    finally:
        iterable.close()  # type: ignore[attr-defined]
    answer.body = b"".join(answer.pieces)
    return answer


class WsgiWay:
    """Below a WSGI server."""

    name = "wsgi"

    def __init__(self, app: Kyoukai, **settings: Any) -> None:
        self.application = as_wsgi(app, settings=settings)

    async def __aenter__(self) -> WsgiWay:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.application.close)

    async def ask(
        self,
        method: str = "GET",
        target: str = "/",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        root_path: str = "",
    ) -> Answer:
        environ = environ_of(method, target, SCRIPT_NAME=root_path)
        environ["REQUEST_URI"] = quote(root_path) + target
        for name, value in (headers or {}).items():
            key = name.upper().replace("-", "_")
            environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
        if body:
            environ["CONTENT_LENGTH"] = str(len(body))
            environ["wsgi.input"] = io.BytesIO(body)
        return await asyncio.to_thread(call, self.application, environ)
