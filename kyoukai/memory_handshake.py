"""
Opening a WebSocket to a server in memory, and what happens if the server does not want to.
"""

from __future__ import annotations

import html
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from websockets.client import ClientProtocol
from websockets.datastructures import Headers as HandshakeHeaders
from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import enable_client_permessage_deflate
from websockets.headers import build_extension, build_subprotocol
from websockets.http11 import Response as HandshakeResponse
from websockets.protocol import OPEN
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from kyoukai.exceptions import KyoukaiError
from kyoukai.memory_http2 import Http2ClientTunnel
from kyoukai.memory_tunnel import Http1ClientTunnel
from kyoukai.memory_websocket import ClientWebSocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from kyoukai.memory import MemoryTransport
    from kyoukai.memory_http1 import ClientResponse, HeaderList

__all__ = ("WebSocketDenied", "open_websocket")

_MARKUP = re.compile(r"<title>.*?</title>|<[^>]*>", re.DOTALL)


class WebSocketDenied(KyoukaiError):
    """
    The server answered a handshake with a response of HTTP.

    :param response: that response
    """

    def __init__(self, response: ClientResponse) -> None:
        super().__init__(f"the WebSocket was denied: {_one_line(response)}")
        self.response = response


@asynccontextmanager
async def open_websocket(
    transport: MemoryTransport,
    target: str,
    *,
    headers: HeaderList = (),
    subprotocols: Iterable[str] = (),
    http2: bool = False,
    deflate: bool = False,
    close_timeout: float = 10.0,
) -> AsyncIterator[ClientWebSocket]:
    """
    Open a WebSocket on a connection of its own, and close it at the end.

    :param transport: the connection
    :param target: path and query
    :param headers: more headers; they replace those of the handshake that have the same name
    :param subprotocols: the subprotocols to offer
    :param http2: whether the server speaks HTTP/2 on that connection, otherwise HTTP/1.1
    :param deflate: whether to offer permessage-deflate
    :param close_timeout: seconds that the server has to end the connection at the end
    :raises WebSocketDenied: if the server answers with anything but a WebSocket
    :raises AssertionError: if the server breaks a protocol
    :raises ConnectionError: if the server closes before it has answered
    """
    offered = [Subprotocol(each) for each in subprotocols]
    protocol = ClientProtocol(
        parse_uri("ws://localhost/"),
        extensions=enable_client_permessage_deflate(None) if deflate else None,
        subprotocols=offered or None,
        state=OPEN,
        max_size=None,
    )
    fields = [("Sec-WebSocket-Version", "13")]
    if offered:
        fields.append(("Sec-WebSocket-Protocol", build_subprotocol(offered)))
    for each in protocol.available_extensions or ():
        extension = build_extension([(each.name, each.get_request_params())])
        fields.append(("Sec-WebSocket-Extensions", extension))
    tunnel = (Http2ClientTunnel if http2 else Http1ClientTunnel)(transport)
    try:
        if not await tunnel.open(target, protocol.key, fields, headers):
            raise WebSocketDenied(tunnel.response)
        _check_handshake(protocol, tunnel.response, http2)
    except BaseException:
        tunnel.close()
        raise
    socket = ClientWebSocket(tunnel, protocol, close_timeout)
    try:
        yield socket
        await socket.close()
    except BaseException:
        tunnel.abort()
        raise
    finally:
        await socket.leave()


def _check_handshake(protocol: ClientProtocol, response: ClientResponse, http2: bool) -> None:
    """Check what the server says of the WebSocket, and take it over (RFC 6455 section 4.1)."""
    headers = HandshakeHeaders(list(response.headers))
    try:
        if http2:
            protocol.extensions = protocol.process_extensions(headers)
            protocol.subprotocol = protocol.process_subprotocol(headers)
        else:
            protocol.process_response(HandshakeResponse(response.status, response.reason, headers))
    except InvalidHandshake as error:
        raise AssertionError(f"the server's handshake is wrong: {error}") from error


def _one_line(response: ClientResponse) -> str:
    """Return status, reason and what the body says."""
    text = response.body.decode("utf-8", "replace")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        text = html.unescape(_MARKUP.sub(" ", text))
    text = " ".join(text.split()).removeprefix(response.reason).strip()
    line = f"{response.status} {response.reason}"
    return f"{line}: {text[:200]}" if text else line
