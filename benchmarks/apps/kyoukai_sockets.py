"""WebSockets of the benchmark, as a Kyoukai application."""

import kyoukai.channel
from kyoukai import HTTPRequestContext, Kyoukai, WebSocket, WebSocketContext

app = Kyoukai("sockets")
news = app.channel("news")

#: How many frames channels have built.
encoded = 0


@app.websocket("/echo")
async def echo(ctx: WebSocketContext, ws: WebSocket):
    await ws.accept()
    async for message in ws:
        await ws.send_text(message)


@app.websocket("/members")
async def members(ctx: WebSocketContext, ws: WebSocket):
    """Get what is published."""
    await ws.accept()
    await news.subscribe(ws)
    await ws.wait_closed()


@app.websocket("/publish")
async def publish(ctx: WebSocketContext, ws: WebSocket):
    """Publish every message that comes."""
    await ws.accept()
    async for message in ws:
        await news.publish(message)


@app.route("/encoded")
async def count_encoded(ctx: HTTPRequestContext):
    """Return how many members there are, and how many frames were built for them."""
    return {"members": await news.count(), "encoded": encoded}


def _counted(build):
    """Count what builds a channel's frames."""

    def counting(opcode, payload):
        global encoded
        encoded += 1
        return build(opcode, payload)

    return counting


kyoukai.channel.frame_of = _counted(kyoukai.channel.frame_of)
