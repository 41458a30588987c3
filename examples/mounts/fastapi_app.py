"""A FastAPI application: its pages of documentation find their way below the prefix, too."""

import contextlib

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI):
    """Run once for the process, though two addresses serve the application."""
    yield {"greeting": "Hello"}


app = FastAPI(title="Mounted", lifespan=lifespan)


class Item(BaseModel):
    """What is posted; anything else is answered 422."""

    name: str
    price: float


@app.get("/hello/{name}", response_class=PlainTextResponse)
async def hello(request: Request, name: str):
    version = request.scope["http_version"]
    return f"{request.state.greeting}, {name}! This is FastAPI, over HTTP/{version}.\n"


@app.post("/items")
async def create(item: Item):
    return {"name": item.name, "with_tax": round(item.price * 1.2, 2)}


@app.websocket("/socket")
async def socket(websocket: WebSocket):
    await websocket.accept()
    async for message in websocket.iter_text():
        await websocket.send_text(f"FastAPI has received {message}")
