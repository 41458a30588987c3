"""A raw RSGI function."""

HEADERS = [("content-type", "text/plain; charset=utf-8")]


async def app(scope, proto):
    proto.response_bytes(200, HEADERS, b"Hello, world!")
