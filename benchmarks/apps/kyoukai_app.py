"""The work of the benchmark, as a Kyoukai application."""

from kyoukai import HTTPRequestContext, Kyoukai

app = Kyoukai("bench")

BLOCK = b"x" * 65536


@app.route("/")
async def index(ctx: HTTPRequestContext):
    return "Hello, world!"


@app.route("/users/<int:id>")
async def user(ctx: HTTPRequestContext, id: int):
    return {"id": id, "q": ctx.request.args.get("q")}


@app.route("/download")
async def download(ctx: HTTPRequestContext):
    for _ in range(200 * 16):
        yield BLOCK
