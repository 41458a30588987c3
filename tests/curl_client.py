"""
What ``curl`` does with the command lines of the documentation.

HTTP/1.1 in the clear goes through the client of ``kyoukai.testing``, without sockets. TLS and
HTTP/2 are spoken by h2 over sockets, with a server of the component that users configure.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import threading
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from asphalt.core import Context
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection

from kyoukai import Kyoukai, KyoukaiComponent
from kyoukai.rules import reason
from kyoukai.testing import Client, ClientResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ("Site", "run_curl", "serving", "uses_site")

#: The addresses that the documentation uses.
PLAIN, SECURE = "http://127.0.0.1:8000/", "https://localhost:8443/"


@dataclass
class Command:
    """What a command line asks for."""

    url: SplitResult = field(default_factory=lambda: urlsplit(""))
    method: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: str | None = None
    #: Whether the heads are shown, and the version that is asked for.
    with_head: bool = False
    version: str = ""
    cacert: str | None = None

    @property
    def target(self) -> str:
        return self.url.path + (f"?{self.url.query}" if self.url.query else "")


def parse(arguments: Iterable[str]) -> Command:
    """Parse the options that the pages use, and no others."""
    command, fields, parts = Command(), [], []
    rest = iter(arguments)
    for argument in rest:
        if argument == "-X":
            command.method = next(rest)
        elif argument == "-H":
            name, _, value = next(rest).partition(":")
            command.headers.append((name, value.strip()))
        elif argument == "-A":
            command.headers.append(("User-Agent", next(rest)))
        elif argument == "-d":
            fields.append(next(rest))
        elif argument == "-F":
            parts.append(next(rest).partition("="))
        elif argument == "-i":
            command.with_head = True
        elif argument in ("--http1.1", "--http2", "--http2-prior-knowledge"):
            command.version = argument.removeprefix("--")
        elif argument == "--cacert":
            command.cacert = next(rest)
        else:
            assert argument.startswith((PLAIN, SECURE)), argument
            command.url = urlsplit(argument)
    if not any(name == "Host" for name, _ in command.headers):
        command.headers.append(("Host", command.url.netloc))
    if fields:
        command.body = "&".join(fields)
        if not any(name == "Content-Type" for name, _ in command.headers):
            command.headers.append(("Content-Type", "application/x-www-form-urlencoded"))
    elif parts:
        command.body = "".join(
            f'--limit\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, _, value in parts
        )
        command.body += "--limit--\r\n"
        command.headers.append(("Content-Type", "multipart/form-data; boundary=limit"))
    command.method = command.method or ("GET" if command.body is None else "POST")
    return command


def uses_site(command: str) -> bool:
    """Whether a command line needs a server with sockets."""
    return "--http2" in command or SECURE in command


async def run_curl(client: Client | Site, arguments: list[str]) -> str:
    """Return what curl would print."""
    command = parse(arguments)
    if isinstance(client, Site):
        version, response = await client.request(command)
    else:
        version = "1.1"
        response = await client.request(
            command.method, command.target, headers=command.headers, body=command.body
        )
    return _with_heads(response, version) if command.with_head else response.text


def _with_heads(response: ClientResponse, version: str) -> str:
    """Return a response with all of its heads and its trailers."""
    text = ""
    for status, headers in response.informational:
        # An upgrade's is HTTP/1.1 whatever follows.
        text += _head("1.1" if status == 101 else version, status, headers.items())
    text += _head(version, response.status, response.headers.items())
    return text + response.text + _lines(response.trailers.items())


def _head(version: str, status: int, headers: Iterable[tuple[str, str]]) -> str:
    words = "" if version == "2" else f" {reason(status).decode()}"
    return f"HTTP/{version} {status}{words}\n{_lines(headers)}\n"


def _lines(headers: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in headers)


# -- With sockets ------------------------------------------------------------------------------


class Site:
    """
    An application on a plain address and on one with TLS, by the component ``kyoukai``.

    :param app: the application
    :param folder: the working folder of the commands, with a pair in ``certs``
    """

    def __init__(self, app: Kyoukai, folder: Path) -> None:
        self._folder = folder
        self._component = KyoukaiComponent(
            app,
            bind="127.0.0.1:0",
            tls_bind="127.0.0.1:0",
            ssl_certfile=str(folder / "certs" / "localhost.pem"),
            ssl_keyfile=str(folder / "certs" / "localhost-key.pem"),
            settings={"access_log": False},
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Site:
        await self._component.start(await self._stack.enter_async_context(Context()))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def request(self, command: Command) -> tuple[str, ClientResponse]:
        """Do a request on a connection of its own; return the HTTP version and the answer."""
        plain, secure = (sock.port for sock in self._component.server.sockets)
        port, context = plain, None
        http1 = command.version in ("", "http1.1")
        if command.url.scheme == "https":
            http1 = command.version == "http1.1"
            context = ssl.create_default_context(cafile=self._folder / (command.cacert or ""))
            context.set_alpn_protocols(["http/1.1"] if http1 else ["h2"])
            port = secure
        if http1:
            return "1.1", await asyncio.to_thread(_over_http1, command, port, context)
        host = command.url.hostname
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        try:
            if context is not None:
                tls = writer.get_extra_info("ssl_object")
                assert tls.selected_alpn_protocol() == "h2"
            exchange = _Exchange(command, reader, writer)
            return "2", await asyncio.wait_for(exchange.run(), 10)
        finally:
            writer.close()
            await writer.wait_closed()


def _over_http1(command: Command, port: int, context: ssl.SSLContext | None) -> ClientResponse:
    host = command.url.hostname or ""
    connection: HTTPConnection = HTTPConnection(host, port, timeout=10)
    if context is not None:
        connection = HTTPSConnection(host, port, context=context, timeout=10)
    connection.request(command.method, command.target, command.body, dict(command.headers))
    answer = connection.getresponse()
    response = ClientResponse()
    response.status, response.body = answer.status, answer.read()
    response.headers.extend(answer.getheaders())
    connection.close()
    return response


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an application in a thread, to whoever is on this machine; return its URL."""
    started: Future[tuple[int, Callable[[], object]]] = Future()
    settings = {"access_log": False, "trusted_proxies": ["127.0.0.1"]}

    async def main() -> None:
        component = KyoukaiComponent(app, bind="127.0.0.1:0", settings=settings)
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with Context() as context:
            await component.start(context)
            port = component.server.sockets[0].port
            started.set_result((port, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    port, stop = started.result(10)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop()
        thread.join()


class _Exchange:
    """One request and its answer on HTTP/2, by prior knowledge or after an upgrade."""

    def __init__(
        self, command: Command, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._command = command
        self._reader = reader
        self._writer = writer
        self._h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self._response = ClientResponse()
        self._over = False

    async def run(self) -> ClientResponse:
        """Return the answer."""
        if self._command.url.scheme == "http" and self._command.version == "http2":
            await self._upgrade()
        else:
            self._h2.initiate_connection()
            self._send()
        self._flush()
        while not self._over:
            data = await self._reader.read(65536)
            assert data, "the server closed the connection"
            for event in self._h2.receive_data(data):
                self._take(event)
            self._flush()
        return self._response

    def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())

    async def _upgrade(self) -> None:
        settings = self._h2.initiate_upgrade_connection()
        assert base64.urlsafe_b64decode(settings + b"==")
        command = self._command
        body = (command.body or "").encode()
        lines = [
            f"{command.method} {command.target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in command.headers),
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            f"HTTP2-Settings: {settings.decode()}",
            *([f"Content-Length: {len(body)}"] if body else []),
        ]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        assert head[0] == "HTTP/1.1 101 Switching Protocols"
        pairs = [tuple(line.split(": ", 1)) for line in head[1:-1]]
        self._note_interim(101, pairs)

    def _send(self) -> None:
        command = self._command
        body = None if command.body is None else command.body.encode()
        headers = [
            (":method", command.method),
            (":scheme", command.url.scheme),
            (":authority", dict(command.headers)["Host"]),
            (":path", command.target),
            *((name.lower(), value) for name, value in command.headers if name != "Host"),
        ]
        if body is not None:
            headers.append(("content-length", str(len(body))))
        self._h2.send_headers(1, headers, end_stream=body is None)
        if body is not None:
            self._h2.send_data(1, body, end_stream=True)  # short enough for any window

    def _take(self, event: Any) -> None:
        response = self._response
        if isinstance(event, events.InformationalResponseReceived):
            pairs = list(event.headers)
            self._note_interim(int(pairs[0][1]), pairs[1:])
        elif isinstance(event, events.ResponseReceived):
            response.status = int(event.headers[0][1])
            response.headers.extend(list(event.headers[1:]))
        elif isinstance(event, events.DataReceived):
            response.body += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, 1)
        elif isinstance(event, events.TrailersReceived):
            response.trailers.extend(list(event.headers))
        elif isinstance(event, events.StreamEnded):
            self._over = True
        assert not isinstance(event, events.StreamReset | events.ConnectionTerminated), event

    def _note_interim(self, status: int, pairs: Iterable[tuple[str, str]]) -> None:
        found = ClientResponse()
        found.headers.extend(list(pairs))
        self._response.informational.append((status, found.headers))
