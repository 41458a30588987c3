"""What people do with Starlette."""

import asyncio
import contextlib
import os

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

events: dict[str, asyncio.Event] = {}


def event(name):
    return events.setdefault(name, asyncio.Event())


@contextlib.asynccontextmanager
async def lifespan(app):
    print("starlette starts", flush=True)
    yield {"counter": [0]}
    print("starlette ends", flush=True)


async def index(request):
    request.state.counter[0] += 1
    return JSONResponse(
        {
            "count": request.state.counter[0],
            "root_path": request.scope["root_path"],
            "path": request.scope["path"],
            "url": str(request.url_for("index")),
            "version": request.scope["http_version"],
        }
    )


async def stream(request):
    async def pieces():
        for number in range(int(request.path_params["number"])):
            yield f"{number}\n".encode()

    return StreamingResponse(pieces(), media_type="text/plain")


async def file(request):
    return FileResponse(os.environ["SITE_FILE"], filename="a file.txt")


async def echo(request):
    """Answer while the body is read."""
    return StreamingResponse(request.stream(), media_type=request.headers["content-type"])


async def set_event(request):
    event(request.path_params["name"]).set()
    return Response(status_code=204)


async def wait_event(request):
    await event(request.path_params["name"]).wait()
    return PlainTextResponse("it is set\n")


async def background(request):
    """Answer at once, and end what was begun when somebody else says so."""
    name = request.path_params["name"]

    async def work():
        await event(f"go-{name}").wait()
        event(f"done-{name}").set()
        print(f"{name} is done", flush=True)

    return PlainTextResponse("begun\n", background=BackgroundTask(work))


async def endless(request):
    """Note that the client left."""

    async def pieces():
        try:
            while True:
                yield b"x" * 65536
        finally:
            event(f"left-{request.path_params['name']}").set()

    return StreamingResponse(pieces())


async def broken(request):
    raise ValueError("on purpose")


async def teapot(request):
    raise HTTPException(418, headers={"X-Pot": "tea"})


async def socket(websocket):
    await websocket.accept(headers=[(b"x-socket", b"yes")])
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"])
            if message.get("text") == "close":
                await websocket.close(4001, "as you wish")
                return
            if message.get("text") is not None:
                await websocket.send_text(message["text"].upper())
            else:
                await websocket.send_bytes(message["bytes"][::-1])
    except WebSocketDisconnect as error:
        event(f"closed-{error.code}").set()


async def denied(websocket):
    await websocket.send_denial_response(PlainTextResponse("not you\n", 403))


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/", index, name="index"),
        Route("/stream/{number}", stream),
        Route("/file", file),
        Route("/echo", echo, methods=["POST"]),
        Route("/set/{name}", set_event, methods=["POST"]),
        Route("/wait/{name}", wait_event),
        Route("/background/{name}", background, methods=["POST"]),
        Route("/endless/{name}", endless),
        Route("/broken", broken),
        Route("/teapot", teapot),
        WebSocketRoute("/socket", socket),
        WebSocketRoute("/denied", denied),
    ],
)
