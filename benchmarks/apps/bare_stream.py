"""What an interface is to the server, without an application."""

HEADERS = ((b"content-type", b"text/plain; charset=utf-8"),)


async def answer(stream):
    await stream.send_response(200, HEADERS, b"Hello, world!")
