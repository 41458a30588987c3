"""
Classes in Falcon's style: a resource with HTTP and a WebSocket side by side, a middleware, and
media handlers of the application's own.

Every account has messages. ``GET`` lists them and ``POST`` adds one. The WebSocket of the same path
does what ``?mode=`` says: ``feed`` sends what is added, ``requests`` answers one request after the
other, and without a mode both sides talk whenever they like.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
from werkzeug.exceptions import NotFound

from kyoukai import (
    BinaryBaseHandlerWS,
    HTTPRequestContext,
    Kyoukai,
    MediaError,
    PayloadTypeError,
    Resource,
    TextBaseHandlerWS,
    WebSocket,
    WebSocketContext,
    WebSocketDisconnected,
    WebSocketPayloadType,
)

logger = logging.getLogger("falcon_style")

PAGE = 10


@dataclass
class Message:
    number: int
    text: str
    price: Decimal | None = None


@dataclass
class Receipt:
    number: int
    size: int


class Account:
    """Messages, and who waits for the next."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._added = asyncio.Event()

    def add(self, text: str, price: Decimal | None = None) -> Message:
        message = Message(len(self.messages) + 1, text, price)
        self.messages.append(message)
        self._added.set()
        self._added = asyncio.Event()
        return message

    async def new_messages(self) -> AsyncIterator[Message]:
        """Iterate over what is added from now on."""
        seen = len(self.messages)
        while True:
            while seen == len(self.messages):
                await self._added.wait()
            seen += 1
            yield self.messages[seen - 1]


class SomeResource(Resource):
    """The messages of an account."""

    # -- HTTP ----------------------------------------------------------------------------------

    async def on_get(self, ctx: HTTPRequestContext, account: Account) -> Any:
        start = ctx.request.args.get("start", 0, int)
        page = account.messages[start : start + PAGE]
        return {"messages": [message.text for message in page], "of": len(account.messages)}

    async def on_post(self, ctx: HTTPRequestContext, account: Account) -> Any:
        message = account.add((await ctx.request.get_media())["text"])
        return {"number": message.number}, 201

    # -- The WebSocket -------------------------------------------------------------------------

    async def on_websocket(self, ctx: WebSocketContext, ws: WebSocket, account: Account) -> None:
        # The handshake is an ordinary request, and can be refused: by a status and a body, or by
        # close(), which is a plain 403.
        mode = ctx.request.args.get("mode", "both")
        if mode not in ("feed", "requests", "both"):
            await ws.deny(400, f"no such mode: {mode}\n")
            return
        if ctx.request.headers.get("Some-Header") != "some value":
            await ws.close()
            return
        if "wamp" not in ws.subprotocols:
            return  # neither accepted nor denied: 403 as well
        await ws.accept(subprotocol="wamp")
        await getattr(self, mode)(ws, account)
        # When the handler returns, the socket is closed with 1000.

    async def feed(self, ws: WebSocket, account: Account) -> None:
        """Only send. A client that leaves shows at the next message."""
        try:
            async for message in account.new_messages():
                await ws.send_text(message.text)
                await ws.send_data(message.text.encode())  # or bytearray, or memoryview
                await ws.send_media(message)  # text, as JSONHandler below writes it
        except WebSocketDisconnected as error:
            logger.info("the feed has ended: %d", error.code)  # clean up, then leave
            raise  # to the error handler below; without one, it would be a warning in the log

    async def requests(self, ws: WebSocket, account: Account) -> None:
        """Answer one request after the other: a text, a binary message, and a media object."""
        while True:
            try:
                text = await ws.receive_text()
                if text == "done":
                    await ws.close(code=1000, reason="you are done")
                    return
                attachment = await ws.receive_data()
                media = await ws.receive_media()
            except PayloadTypeError as error:  # text where binary was expected, or the reverse
                await ws.send_media({"error": str(error)})
                continue
            except MediaError as error:  # no JSON, or not a Receipt
                await ws.send_media({"error": f"unreadable {error.payload_type}"})
                continue
            message = account.add(text, media.get("price"))
            receipt = Receipt(message.number, len(attachment))
            await ws.send_media(receipt, payload_type=WebSocketPayloadType.BINARY)

    async def both(self, ws: WebSocket, account: Account) -> None:
        """Send and receive, neither waiting for the other: two tasks."""

        async def sink() -> None:
            async for message in ws:  # ends when the client is gone
                account.add(str(message))

        async def source() -> None:
            async for message in account.new_messages():
                await ws.send_text(message.text)

        tasks = [asyncio.create_task(sink()), asyncio.create_task(source())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SomeMiddleware:
    """Finds the account, so that the resource gets it and not its name."""

    def __init__(self, *names: str) -> None:
        self.accounts = {name: Account() for name in names}
        #: Handshakes so far, those that match nothing too.
        self.handshakes = 0

    async def process_request_ws(self, ctx: WebSocketContext, ws: WebSocket) -> None:
        """A handshake, before it is matched."""
        self.handshakes += 1

    async def process_resource_ws(
        self, ctx: WebSocketContext, ws: WebSocket, resource: Any, params: dict[str, Any]
    ) -> None:
        """A handshake that matches a route."""
        self.find_account(params)

    async def process_resource(
        self, ctx: HTTPRequestContext, resource: Any, params: dict[str, Any]
    ) -> None:
        """The same for plain requests."""
        self.find_account(params)

    def find_account(self, params: dict[str, Any]) -> None:
        name = params.pop("account_id")
        if name not in self.accounts:
            raise NotFound(f"There is no account {name}.")
        params["account"] = self.accounts[name]


# -- Media ---------------------------------------------------------------------------------------


class JSONHandler(TextBaseHandlerWS):
    """Another way with JSON: members in order, and numbers that are exact both ways."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder(order="sorted", decimal_format="number")
        self._decoder = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)

    def serialize(self, media: object) -> str:
        return self._encoder.encode(media).decode()

    def deserialize(self, payload: str) -> object:
        return self._decoder.decode(payload)


class ReceiptHandler(BinaryBaseHandlerWS):
    """Messages of one type, which a schema checks: MessagePack of a dataclass."""

    def __init__(self) -> None:
        self._decoder = msgspec.msgpack.Decoder(Receipt)

    def serialize(self, media: Receipt) -> bytes:
        return msgspec.msgpack.encode(media)

    def deserialize(self, payload: bytes) -> Receipt:
        return self._decoder.decode(payload)


app = Kyoukai("falcon_style", middleware=SomeMiddleware("ada", "grace"))
app.add_resource("/<account_id>/messages", SomeResource())
app.ws_options.media_handlers[WebSocketPayloadType.TEXT] = JSONHandler()
app.ws_options.media_handlers[WebSocketPayloadType.BINARY] = ReceiptHandler()


@app.errorhandler(WebSocketDisconnected)
async def disconnected(
    ctx: HTTPRequestContext, error: WebSocketDisconnected, ws: WebSocket
) -> None:
    """In place of the warning that there would be otherwise."""
    logger.info("%s: the client has left (%d)", ctx.request.path, error.code)
