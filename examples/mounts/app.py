"""
One server for five kinds of applications: this one, and four that are mounted on it.

``kyoukai run examples/mounts/config.yaml`` starts them; the README has commands to try.
"""

from pathlib import Path

from kyoukai import HTTPRequestContext, Kyoukai, WebSocket, WebSocketContext
from kyoukai.util import as_html

app = Kyoukai("mounts")

PAGE = (Path(__file__).parent / "page.html").read_text()


@app.route("/")
async def index(ctx: HTTPRequestContext):
    """Show the page with links to all five, and a line for each socket."""
    return as_html(PAGE)


@app.route("/hello/<name>")
async def hello(ctx: HTTPRequestContext, name: str):
    return f"Hello, {name}! This is Kyoukai, over HTTP/{ctx.request.head.http_version}.\n"


@app.route("/flask/native")
async def native(ctx: HTTPRequestContext):
    """Take one path from Flask: a route wins over a mount that is no longer."""
    return "This path is Kyoukai's, though it is below /flask.\n"


@app.websocket("/socket")
async def socket(ctx: WebSocketContext, ws: WebSocket):
    await ws.accept()
    async for message in ws:
        await ws.send_text(f"Kyoukai has received {message}")
