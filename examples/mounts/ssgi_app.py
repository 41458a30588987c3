"""An SSGI application: one function, for requests and for sockets."""


async def app(type, server_address, remote_address, method, path, query_string, get_header, res):  # noqa: A002
    """Answer a request, or a handshake. ``path`` is without the prefix."""
    if type == "websocket":
        res.on_receive(received)
        await res.accept()
    elif path.startswith("/hello/"):
        name = path.removeprefix("/hello/")
        plainly(res, f"Hello, {name}! This is SSGI, for {remote_address}.\n")
    elif path == "/size" and method == "POST":
        size = 0
        while (chunk := await res.get_chunk()) is not None:
            size += len(chunk.getvalue())
        plainly(res, f"{size} bytes of {get_header('content-type')}\n")
    else:
        res.send_status(404)
        plainly(res, "Not Found\n")


def plainly(res, text):
    res.send_headers([("content-type", "text/plain; charset=utf-8")])
    res.send(text)


def received(ws, message):
    ws.send(f"SSGI has received {message}")
