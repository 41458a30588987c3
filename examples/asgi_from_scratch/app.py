"""
The echo of P G Jones's talk "An ASGI Server from Scratch" (2020), on a whole server.

The README goes through the talk's steps. ``kyoukai run app:app`` serves all of this.
"""

from http import HTTPStatus


async def echo_app(scope, receive, send):
    """The talk's application: take the whole body, and send it back."""
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] == "http.request":
            body.extend(event.get("body", b""))
            if not event.get("more_body", False):
                break
        elif event["type"] == "http.disconnect":  # the talk's server never says so
            return
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"Content-Length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def stream_app(scope, receive, send):
    """
    Send each piece back when it comes.

    The talk's server calls an application when it has the whole request, and sends when the
    application has returned. Here, ``receive`` and ``send`` are the connection itself.
    """
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        more = event.get("more_body", False)
        await send(
            {"type": "http.response.body", "body": event.get("body", b""), "more_body": more}
        )


async def scope_app(scope, receive, send):
    """What the talk's parser prints: the request as the application sees it."""
    lines = [f"{name}: {scope[name]!r}\n" for name in ("method", "path", "raw_path")]
    lines += [f"{name}: {scope[name]!r}\n" for name in ("query_string", "http_version", "headers")]
    await answer(send, 200, "".join(lines))


async def socket_app(scope, receive, send):
    """The talk's first server, an echo on a bare connection: today one for WebSockets."""
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] != "websocket.disconnect":
        await send({**event, "type": "websocket.send"})


async def answer(send, status, text):
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


ROUTES = {"/": echo_app, "/stream": stream_app, "/scope": scope_app}


async def app(scope, receive, send):
    """Choose one of them; what ASGI applications do with scopes they do not know is raise."""
    if scope["type"] == "websocket":
        await socket_app(scope, receive, send)
    elif scope["type"] != "http":
        raise NotImplementedError(f"nothing is known of {scope['type']} here")
    elif scope["path"] in ROUTES:
        await ROUTES[scope["path"]](scope, receive, send)
    else:
        await answer(send, 404, f"{HTTPStatus(404).phrase}\n")
