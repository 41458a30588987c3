"""
WebSockets in plain ASGI, without Channels.

``/ws/echo`` sends back what it gets. ``/ws/notes`` tells who one is, and how many notes there are,
again whenever that changes.
"""

import asyncio
import json
from urllib.parse import urlsplit

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection, transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from django.http import HttpRequest, parse_cookie

from notes.models import Note


async def websocket(scope, receive, send):
    """Answer a handshake, and see to the socket until it is over."""
    await receive()  # websocket.connect
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    handler = {"/ws/echo": echo, "/ws/notes": tell_notes}.get(scope["path"])
    if handler is None or not is_ours(headers):
        await send({"type": "websocket.close"})  # a 403
        return
    await send({"type": "websocket.accept"})
    await handler(headers, receive, send)


def is_ours(headers: dict[bytes, str]) -> bool:
    """
    Whether a page of this site opens the socket: browsers send their cookies for any other, too.

    Kyoukai has kept Host, so it is what the browser knows.
    """
    origin = headers.get(b"origin")
    return origin is None or urlsplit(origin).netloc == headers.get(b"host")


async def echo(headers, receive, send):
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def tell_notes(headers, receive, send):
    user = await sync_to_async(find_user)(headers.get(b"cookie", ""))
    changed = asyncio.Event()

    async def tell():
        try:
            while True:
                changed.clear()
                told = {"user": user, "notes": await sync_to_async(count_notes)()}
                await send({"type": "websocket.send", "text": json.dumps(told)})
                await changed.wait()
        except OSError:
            pass  # the browser is gone

    watcher = asyncio.get_running_loop(), changed
    watchers.add(watcher)
    try:
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(tell())
            while (await receive())["type"] != "websocket.disconnect":
                pass  # it listens to nobody
            telling.cancel()
    finally:
        watchers.discard(watcher)


# -- In threads --------------------------------------------------------------------------------

#: Who waits for a change, in this process.
watchers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()


@receiver([post_save, post_delete], sender=Note)
def notes_changed(**_):
    transaction.on_commit(wake_watchers)


def wake_watchers():
    for loop, changed in tuple(watchers):
        loop.call_soon_threadsafe(changed.set)


def count_notes() -> int:
    try:
        return Note.objects.count()
    finally:
        connection.close()  # as at the end of a request


def find_user(cookies: str) -> str | None:
    """Return the name of whom a session belongs to."""
    request = HttpRequest()
    request.session = SessionStore(parse_cookie(cookies).get(settings.SESSION_COOKIE_NAME))
    try:
        return get_user(request).get_username() or None
    finally:
        connection.close()
