"""``WebSocket``: media, with the handlers by default and those of an application."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from talks import both, ends

from kyoukai import (
    Kyoukai,
    MediaError,
    WebSocketPayloadType,
)

if TYPE_CHECKING:
    pass

# -- Media -------------------------------------------------------------------------------------


class Cards:
    """A handler of the application's: no base class is needed."""

    def serialize(self, media: Any) -> str:
        return "|".join(media)

    def deserialize(self, payload: str) -> Any:
        if not payload:
            raise LookupError("no cards\nat all")
        return payload.split("|")


class Reversed:
    def serialize(self, media: Any) -> memoryview:
        return memoryview(media)[::-1]

    def deserialize(self, payload: bytes) -> Any:
        return payload[::-1]


@both
async def test_media(http2: bool) -> None:
    async with ends(http2) as pair:
        await pair.server.send_media({"a": [1, None]})
        await pair.server.send_media({"a": b"\0"}, WebSocketPayloadType.BINARY)
        await pair.server.send_media(0, payload_type=WebSocketPayloadType.TEXT)
        assert await pair.client.receive() == '{"a":[1,null]}'
        assert await pair.client.receive() == b"\x81\xa1a\xc4\x01\0"
        assert await pair.client.receive() == "0"
        pair.client_says('{"a": 1}', b"\x81\xa1a\x02")
        assert await pair.server.receive_media() == {"a": 1}
        assert await pair.server.receive_media() == {"a": 2}


@both
async def test_media_that_cannot_be_read_or_written(http2: bool) -> None:
    async with ends(http2) as pair:
        pair.client_says("[1,", b"\xc1", "next")
        with pytest.raises(MediaError) as text:
            await pair.server.receive_media()
        assert isinstance(text.value, json.JSONDecodeError)
        assert isinstance(text.value, ValueError)
        assert (text.value.payload_type, text.value.received) == ("text", True)
        with pytest.raises(MediaError) as binary:
            await pair.server.receive_media()
        assert not isinstance(binary.value, json.JSONDecodeError)
        assert (binary.value.payload_type, binary.value.received) == ("binary", True)
        for kind in WebSocketPayloadType:
            with pytest.raises(MediaError) as unwritable:
                await pair.server.send_media(object(), kind)
            assert unwritable.value.payload_type == kind.value
            assert not unwritable.value.received
        with pytest.raises(MediaError, match="there is no media handler for text messages"):
            await pair.server.send_media({}, "text")  # type: ignore[arg-type]
        assert await pair.server.receive() == "next"  # the socket is as before


@both
async def test_media_handlers_of_the_application(http2: bool) -> None:
    app = Kyoukai("test")
    handlers = app.ws_options.media_handlers
    assert set(handlers) == set(WebSocketPayloadType)
    assert handlers is not Kyoukai("other").ws_options.media_handlers
    handlers[WebSocketPayloadType.TEXT] = Cards()
    handlers[WebSocketPayloadType.BINARY] = Reversed()
    async with ends(http2, app) as pair:
        await pair.server.send_media(["a", "b"])
        await pair.server.send_media(b"abc", WebSocketPayloadType.BINARY)
        assert await pair.client.receive() == "a|b"
        assert await pair.client.receive() == b"cba"
        pair.client_says("x|y", b"xyz", "")
        assert await pair.server.receive_media() == ["x", "y"]
        assert await pair.server.receive_media() == b"zyx"
        with pytest.raises(MediaError, match="a text message cannot be read: .*no cards$"):
            await pair.server.receive_media()
        del handlers[WebSocketPayloadType.BINARY]
        with pytest.raises(MediaError, match="no media handler for binary messages"):
            await pair.server.send_media(b"", WebSocketPayloadType.BINARY)
        assert "application/json" in app.media_handlers  # the table of HTTP is another
