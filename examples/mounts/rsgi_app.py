"""An RSGI application without a framework: two methods, and the server's protocol objects."""

#: Kinds of WebSocket messages, as RSGI numbers them.
CLOSE, BYTES, TEXT = 0, 1, 2


class Application:
    """Holds what the process needs."""

    def __init__(self):
        self.greeting = ""

    def __rsgi_init__(self, loop):
        """Get ready: called once, before the server accepts connections."""
        self.greeting = "Hello"

    async def __rsgi__(self, scope, protocol):
        """Answer a request, or a handshake. ``scope.path`` is without the prefix."""
        if scope.proto == "ws":
            await self.converse(protocol)
        elif scope.path.startswith("/hello/"):
            name = scope.path.removeprefix("/hello/")
            text = f"{self.greeting}, {name}! This is RSGI, over HTTP/{scope.http_version}.\n"
            protocol.response_str(200, [("content-type", "text/plain; charset=utf-8")], text)
        elif scope.path == "/shout" and scope.method == "POST":
            transport = protocol.response_stream(200, [("content-type", "text/plain")])
            async for piece in protocol:
                await transport.send_bytes(piece.upper())
        else:
            protocol.response_str(404, [("content-type", "text/plain")], "Not Found\n")

    async def converse(self, protocol):
        socket = await protocol.accept()
        while (message := await socket.receive()).kind != CLOSE:
            if message.kind == TEXT:
                await socket.send_str(f"RSGI has received {message.data}")


app = Application()
