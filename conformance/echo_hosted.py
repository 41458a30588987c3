"""The echo application for ASGI, RSGI and SSGI."""

from __future__ import annotations

from typing import Any


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send every message back; a request that opens no socket gets a 404."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            content = {"text": text} if text is not None else {"bytes": message["bytes"]}
            await send({"type": "websocket.send", **content})


async def rsgi(scope: Any, proto: Any) -> None:
    """The same by RSGI."""
    if scope.proto != "ws":
        proto.response_empty(404, [])
        return
    transport = await proto.accept()
    while (message := await transport.receive()).kind != 0:
        if message.kind == 1:
            await transport.send_bytes(message.data)
        else:
            await transport.send_str(message.data)
    proto.close()


async def ssgi(
    kind: str,
    server_address: str,
    remote_address: str,
    method: str,
    path: str,
    query_string: str,
    get_header: Any,
    res: Any,
) -> None:
    """The same by SSGI."""
    if kind == "http":
        res.send_status(404)
        res.send(None)
        return

    async def back(ws: Any, message: str | bytes) -> None:
        await ws.send(message)

    res.on_receive(back)
    await res.accept()
