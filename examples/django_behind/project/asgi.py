"""
Django and its WebSockets as one ASGI application.

Static files are Django's own, too. On a public site, let something else send them.
"""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
pages = ASGIStaticFilesHandler(get_asgi_application())

from notes.sockets import websocket  # noqa: E402 - after Django's setup


async def application(scope, receive, send):
    if scope["type"] == "http":
        await pages(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        raise NotImplementedError(f"no {scope['type']} here")
