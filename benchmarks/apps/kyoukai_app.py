"""The work of the benchmark, as a Kyoukai application."""

import asyncio

from kyoukai import HTTPRequestContext, Kyoukai

app = Kyoukai("bench")

TEN_MIB = 10 << 20
BLOCK_SIZE = 65536
BLOCK = b"x" * BLOCK_SIZE


@app.route("/")
async def index(ctx: HTTPRequestContext):
    return "Hello, world!"


@app.route("/users/<int:id>")
async def user(ctx: HTTPRequestContext, id: int):
    return {"id": id, "q": ctx.request.args.get("q")}


@app.route("/download")
async def download(ctx: HTTPRequestContext):
    for _ in range(TEN_MIB // BLOCK_SIZE):
        yield BLOCK


@app.route("/upload", methods=["POST"], stream=True, max_body_size=1 << 30)
async def upload(ctx: HTTPRequestContext):
    """Answer 200 only if the whole body came."""
    size = 0
    async for chunk in ctx.request.chunks():
        size += len(chunk)
    return "Hello, world!", 200 if size == TEN_MIB else 400


@app.route("/endless")
async def endless(ctx: HTTPRequestContext):
    """Send 200 MB in blocks of their own: references to one would weigh nothing in a queue."""
    for number in range(200 * 16):
        yield bytes((number % 256,)) * BLOCK_SIZE


@app.route("/wait")
async def wait(ctx: HTTPRequestContext):
    """Keep the stream open until the client leaves."""
    await asyncio.Event().wait()
