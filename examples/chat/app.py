"""
A chat over WebSockets: rooms, names, and what was said before one came.

``kyoukai run examples/chat/config.yaml`` starts it; the README says what to try.
"""

import json
import logging
import time
from collections import deque
from pathlib import Path

from werkzeug.exceptions import NotFound

from kyoukai import (
    HTTPRequestContext,
    Kyoukai,
    Middleware,
    Resource,
    WebSocket,
    WebSocketContext,
    WebSocketDisconnected,
)
from kyoukai.util import as_html

logger = logging.getLogger("chat")
app = Kyoukai("chat")

PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

# Whatever people can make a server keep needs a limit.
MAX_ROOMS = 100
MAX_PEOPLE = 50  # in a room
MAX_NAME = 20  # characters
MAX_TEXT = 500  # characters
HISTORY = 50  # messages of a room


class Room:
    """The people in a room, and what they said last."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Who reads too slowly is closed, comes again, and finds what was missed in the history.
        self.channel = app.channel(f"room:{name}", slow="close")
        self.people: dict[str, str] = {}
        self.history: deque[dict] = deque(maxlen=HISTORY)

    def names(self) -> list[str]:
        return sorted(self.people.values())

    async def say(self, name: str, text: str) -> None:
        """Tell a message to everybody here, and keep it for those who come later."""
        message = {"name": name, "text": text, "time": time.time()}
        self.history.append(message)
        await self.tell({"type": "message", **message})

    async def tell(self, event: dict) -> None:
        await self.channel.publish(json.dumps(event))


class Chat(Resource):
    """All rooms. The same path shows a room to HTTP, and takes WebSockets that come to talk."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}

    async def on_get(self, ctx: HTTPRequestContext, room: str):
        if room not in self.rooms:
            raise NotFound(f"Nobody has been in {room}.")
        return {"names": self.rooms[room].names(), "messages": list(self.rooms[room].history)}

    async def on_websocket(self, ctx: WebSocketContext, ws: WebSocket, room: str):
        name = " ".join(ctx.request.args.get("name", "").split())
        # Browsers do not tell a page why a handshake was denied. So accept first: the code and
        # the reason of a close, they do tell. Codes from 4000 on are the application's own.
        await ws.accept()
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            await ws.close(4400, f"A name has 1 to {MAX_NAME} characters.")
        elif (place := self.find_room(room)) is None or len(place.people) >= MAX_PEOPLE:
            await ws.close(4503, "There is no room.")
        elif name.casefold() in place.people:
            await ws.close(4409, "Somebody here has that name.")
        else:
            await self.talk(ws, place, name)

    def find_room(self, name: str) -> Room | None:
        """Return a room, a new one if need be, or None if all rooms are in use."""
        if name not in self.rooms:
            if len(self.rooms) >= MAX_ROOMS:
                empty = next((room for room in self.rooms.values() if not room.people), None)
                if empty is None:
                    return None
                del self.rooms[empty.name]
            self.rooms[name] = Room(name)
        return self.rooms[name]

    async def talk(self, ws: WebSocket, room: Room, name: str) -> None:
        """Let one person talk in a room until the socket is closed or lost."""
        room.people[name.casefold()] = name
        try:
            await room.channel.subscribe(ws)
            await ws.send_media(
                {"type": "welcome", "names": room.names(), "messages": list(room.history)}
            )
            await room.tell({"type": "join", "name": name, "names": room.names()})
            while True:
                try:
                    text = read_text(await ws.receive_media())
                except ValueError as error:  # ours, or the MediaError of what is no JSON
                    await ws.send_media({"type": "error", "text": str(error)})
                else:
                    await room.say(name, text)
        except WebSocketDisconnected as gone:
            logger.info("%r left %r with code %d", name, room.name, gone.code)
        finally:
            # The channel forgets by itself a socket that is closed.
            del room.people[name.casefold()]
            await room.tell({"type": "leave", "name": name, "names": room.names()})


def read_text(media: object) -> str:
    """Return the text of a message; nothing of what was sent is taken on trust."""
    text = media.get("text") if isinstance(media, dict) else None
    if not isinstance(text, str):
        raise ValueError('A message is an object with a "text".')
    if not 1 <= len(text.strip()) <= MAX_TEXT:
        raise ValueError(f"A message has 1 to {MAX_TEXT} characters.")
    return text.strip()


class Log(Middleware):
    """Say who comes; the access log has a line for a socket only when it is over."""

    async def process_resource_ws(self, ctx: WebSocketContext, ws: WebSocket, resource, params):
        head = ctx.request.head
        name = ctx.request.args.get("name")
        logger.info("%r comes to %r by HTTP/%s", name, params["room"], head.http_version)


@app.route("/")
async def index(ctx: HTTPRequestContext):
    return as_html(PAGE)


app.add_middleware(Log())
app.add_resource("/rooms/<string(maxlength=20):room>", Chat())
