"""The application that Autobahn's test suite and our own cases talk to: it sends all back."""

from kyoukai import Kyoukai, WebSocket, WebSocketContext

app = Kyoukai("echo")


@app.websocket("/")
async def echo(ctx: WebSocketContext, ws: WebSocket) -> None:
    """Send every message back, as text or as binary, as it came."""
    await ws.accept()
    async for message in ws:
        if isinstance(message, str):
            await ws.send_text(message)
        else:
            await ws.send_data(message)
