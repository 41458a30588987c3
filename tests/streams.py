"""Streams for tests: real bytes through the real protocol, and what a function makes of them."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from kyoukai.testing import MemoryServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai.stream import StreamState


def request_bytes(
    target: str = "/",
    *headers: str,
    method: str = "GET",
    body: bytes = b"",
    host: str | None = "localhost",
) -> bytes:
    """A request as bytes; a body brings its length."""
    lines = [f"{method} {target} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines.extend(headers)
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


async def on_stream(
    data: bytes,
    work: Callable[[StreamState], Any],
    extra: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """Send bytes to a server, and return (or raise) what a function makes of the stream."""
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def interface(stream: StreamState) -> None:
        try:
            value = work(stream)
            result.set_result(await value if inspect.isawaitable(value) else value)
        except Exception as error:
            result.set_exception(error)
        await stream.send_response(204, ())

    async with MemoryServer(interface, **settings) as server:
        connection = server.connect(**(extra or {}))
        connection.send(data)
        response = await connection.response()
        assert result.done(), f"the server refused the request: {response.status} {response.text}"
        return result.result()
