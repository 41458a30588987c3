"""What people do with FastAPI."""

import asyncio
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, UploadFile, WebSocket
from pydantic import BaseModel

app = FastAPI(title="Hosted")

log: list[str] = []


class Item(BaseModel):
    name: str
    price: float


async def store():
    """A dependency that is taken back when its request is over."""
    log.append("opened")
    try:
        yield {"apple": 1.5}
    finally:
        log.append("closed")


Store = Annotated[dict, Depends(store)]


@app.get("/items/{name}")
async def item(name: str, prices: Store):
    if name not in prices:
        raise HTTPException(404, f"There is no {name}.")
    return Item(name=name, price=prices[name])


@app.post("/items", status_code=201)
async def create(item: Item):
    return {"created": item.name}


@app.get("/log")
def read_log():
    """A sync handler, which FastAPI runs in a thread."""
    return log


@app.post("/upload")
async def upload(file: UploadFile):
    return {"name": file.filename, "size": len(await file.read())}


done: dict[str, asyncio.Event] = {}


@app.post("/later/{text}")
async def later(text: str, tasks: BackgroundTasks):
    done[text] = asyncio.Event()

    def work():
        """A sync function, which runs in a thread."""
        log.append(text)
        loop.call_soon_threadsafe(done[text].set)

    loop = asyncio.get_running_loop()
    tasks.add_task(work)
    return {"accepted": text}


@app.get("/later/{text}")
async def has_been_done(text: str):
    await done[text].wait()
    return "done"


@app.websocket("/socket/{room}")
async def socket(websocket: WebSocket, room: str, prices: Store):
    await websocket.accept(subprotocol=websocket.scope["subprotocols"][0])
    await websocket.send_json({"room": room, "url": str(websocket.url), "prices": prices})
    async for message in websocket.iter_json():
        await websocket.send_json({"echo": message})


@app.websocket("/refused")
async def refused(websocket: WebSocket):
    raise HTTPException(401)
