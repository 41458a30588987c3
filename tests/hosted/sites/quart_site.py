"""What people do with Quart."""

from quart import Quart, abort, jsonify, request, url_for, websocket

app = Quart(__name__)
started = []


@app.before_serving
async def before():
    started.append(True)


@app.after_serving
async def after():
    print("quart ends", flush=True)


@app.get("/")
async def index():
    return jsonify(
        started=len(started),
        url=url_for("index"),
        version=request.http_version,
        root=request.root_path,
    )


@app.get("/stream/<int:number>")
async def stream(number):
    async def lines():
        for each in range(number):
            yield f"{each}\n"

    return lines(), {"Content-Type": "text/plain"}


@app.post("/form")
async def form():
    files = await request.files
    fields = await request.form
    return {
        "fields": fields.to_dict(),
        "files": {name: len(file.read()) for name, file in files.items()},
    }


@app.post("/size")
async def size():
    """Read the body as it comes."""
    found = 0
    async for piece in request.body:
        found += len(piece)
    return {"size": found}


@app.get("/broken")
async def broken():
    raise ValueError("on purpose")


@app.errorhandler(404)
async def not_found(error):
    return "Quart knows no such path\n", 404


@app.websocket("/socket")
async def socket():
    await websocket.accept(headers={"x-socket": "yes"})
    while True:
        message = await websocket.receive()
        if message == "close":
            await websocket.close(4001, "as you wish")
            return
        await websocket.send(message.upper() if isinstance(message, str) else message[::-1])


@app.websocket("/refused")
async def refused():
    abort(403)
