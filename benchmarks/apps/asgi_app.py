"""Raw ASGI functions: the least that an ASGI server can be asked to run, one for each work."""

from urllib.parse import parse_qs

import msgspec

HEADERS = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"13")]
KILOBYTE = b"x" * 1024
KILOBYTE_HEADERS = [(b"content-type", b"application/octet-stream"), (b"content-length", b"1024")]
BLOCK = b"x" * 65536
TEN_MIB = 10 << 20

#: A body of 1 GiB and what it is made of: a number that has nothing to do with blocks and frames
#: comes round, so that a place in the body can be told from others.
GIB = 1 << 30
ROUND = 251
PIECE = bytes(range(ROUND)) * 1000


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


async def kilobyte_app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": KILOBYTE_HEADERS})
    await send({"type": "http.response.body", "body": KILOBYTE})


async def json_app(scope, receive, send):
    """Answer ``/users/<int:id>``, without a router."""
    query = parse_qs(scope["query_string"].decode("latin-1"))
    user = {"id": int(scope["path"].removeprefix("/users/")), "q": query.get("q", [None])[0]}
    body = msgspec.json.encode(user)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def download_app(scope, receive, send):
    headers = [(b"content-length", str(TEN_MIB).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(TEN_MIB // len(BLOCK)):
        await send({"type": "http.response.body", "body": BLOCK, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def upload_app(scope, receive, send):
    """Answer 200 only if the whole body came."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message["body"])
        more = message["more_body"]
    status = 200 if size == TEN_MIB else 400
    await send({"type": "http.response.start", "status": status, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


async def gibibyte_app(scope, receive, send):
    """Send 1 GiB to who asks for it, or take 1 GiB and answer 200 only if every byte came."""
    if scope["method"] == "POST":
        await _take_gibibyte(receive, send)
        return
    headers = [(b"content-length", str(GIB).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for sent in range(0, GIB, len(PIECE)):
        piece = PIECE[: GIB - sent]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _take_gibibyte(receive, send):
    size, good, more = 0, True, True
    while more:
        message = await receive()
        chunk = message["body"]
        good = good and same(chunk, size)
        size += len(chunk)
        more = message["more_body"]
    status = 200 if good and size == GIB else 400
    await send({"type": "http.response.start", "status": status, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


def same(chunk, place):
    """See whether this is what the body of 1 GiB has at a place."""
    start = place % ROUND
    while chunk:
        wanted = PIECE[start : start + len(chunk)]
        if chunk[: len(wanted)] != wanted:
            return False
        chunk, start = chunk[len(wanted) :], 0
    return True


async def echo_app(scope, receive, send):
    """Echo the text messages of a WebSocket."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
