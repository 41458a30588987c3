"""One request to an application, over HTTP/1.1 or over HTTP/2, without sockets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset
from werkzeug.datastructures import Headers

from kyoukai.testing import MemoryServer

if TYPE_CHECKING:
    from kyoukai import Kyoukai

#: What asks for a WebSocket over HTTP/1.1.
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAECAwQFBgcICQoLDA0ODw==",
}
WIRES = ("1.1", "2")


@dataclass
class Exchange:
    """What came back; ``whole`` says whether the answer was complete."""

    status: int = 0
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    whole: bool = True


async def exchange(
    app: Kyoukai,
    path: str = "/",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    *,
    wire: str = "1.1",
    extra: dict[str, Any] | None = None,
    **settings: Any,
) -> Exchange:
    """
    Send a request on a connection of its own.

    :param wire: ``1.1`` or ``2``
    :param extra: what the transport says of itself
    :param settings: settings of ``ServerConfig``
    """
    async with MemoryServer(app, **settings) as server:
        talk = _over_http1 if wire == "1.1" else _over_http2
        return await talk(server, path, method, headers or {}, extra or {})


async def _over_http1(
    server: MemoryServer, path: str, method: str, headers: dict[str, str], extra: dict[str, Any]
) -> Exchange:
    connection = server.connect(**extra)
    connection.request(method, path, list(headers.items()))
    try:
        response = await connection.response()
    except ConnectionError:
        return Exchange(whole=False)
    return Exchange(response.status, response.headers, response.body)


async def _over_http2(
    server: MemoryServer, path: str, method: str, headers: dict[str, str], extra: dict[str, Any]
) -> Exchange:
    client = H2Connection(H2Configuration(client_side=True, header_encoding="latin-1"))
    client.initiate_connection()
    host = {name.lower(): value for name, value in headers.items()}.pop("host", "localhost")
    head = [(":method", method), (":scheme", "http"), (":authority", host), (":path", path)]
    head += [(name.lower(), value) for name, value in headers.items() if name.lower() != "host"]
    client.send_headers(1, head, end_stream=True)
    transport = server.connect_http2(**extra)
    transport.feed(client.data_to_send())
    found = Exchange(whole=False)
    while True:
        await transport.changed.wait()
        transport.changed.clear()
        for event in client.receive_data(transport.take()):
            if isinstance(event, ResponseReceived):
                found.status = int(dict(event.headers)[":status"])
                found.headers = Headers(
                    [pair for pair in event.headers if not pair[0].startswith(":")]
                )
            elif isinstance(event, DataReceived):
                found.body += event.data
                client.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, StreamEnded):
                found.whole = True
                return found
            elif isinstance(event, StreamReset | ConnectionTerminated):
                return found
        if unsent := client.data_to_send():
            transport.feed(unsent)
