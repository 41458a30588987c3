"""
Bodies that are not as long as their heads say, and trailers that break HTTP (RFC 9113 section 8.1).

Each comes whole and byte by byte, with a healthy stream before, beside and after it.
"""

from __future__ import annotations

import pytest

from kyoukai.app import Kyoukai
from kyoukai.context import HTTPRequestContext

from ..frames import GET, PROTOCOL_ERROR, data, headers, literals, request
from ..support import Clock, Mirror, Stage, whole
from .trial import TRAILERS, Feed, Pairs, Prober, feeds, h2_server, in_parts, post, table, trial

#: Bodies that are not as long as their head says, at every kind of end.
WRONG_LENGTHS = {
    "no-body": post(b"3", end=True),
    "short": post(b"3") + data(5, b"ab", end=True),
    "short-by-the-padding": post(b"3") + data(5, b"ab", end=True, padding=1),
    "short-and-an-empty-end": post(b"3") + data(5, b"ab") + data(5, end=True),
    "nothing-and-an-empty-end": post(b"3") + data(5, end=True),
    "short-and-trailers": post(b"3") + data(5, b"ab") + TRAILERS,
    "nothing-and-trailers": post(b"3") + TRAILERS,
    "long": post(b"3") + data(5, b"abcd", end=True),
    "long-before-the-end": post(b"3") + data(5, b"abcd"),
    "long-in-two": post(b"3") + data(5, b"abc") + data(5, b"d"),
    "long-and-trailers": post(b"3") + data(5, b"abcd") + TRAILERS,
    "zero-and-a-body": post(b"0") + data(5, b"a", end=True),
    "far-from-it": post(b"99999999999") + data(5, b"a", end=True),
}

TRAILER_FAULTS: dict[str, Pairs] = {
    "pseudo": [(b":path", b"/")],
    "status": [(b":status", b"200")],
    "interim-status": [(b":status", b"103")],
    "upper-case": [(b"X-Sum", b"1")],
    "no-token": [(b"x sum", b"1")],
    "empty-name": [(b"", b"1")],
    "line": [(b"x-sum", b"1\r\nx: y")],
    "blank-after": [(b"x-sum", b"1 ")],
    "connection": [(b"connection", b"close")],
    "transfer-encoding": [(b"transfer-encoding", b"chunked")],
}

BAD_BODIES = {
    **WRONG_LENGTHS,
    **{
        f"trailer-{name}": post(None) + data(5, b"abc") + headers(5, pairs)
        for name, pairs in TRAILER_FAULTS.items()
    },
    "trailers-without-an-end": post(None)
    + data(5, b"abc")
    + headers(5, [(b"x-sum", b"1")], end=False),
    "a-second-head": post(None) + data(5, b"abc") + headers(5, GET, end=False),
}


@feeds
@table(BAD_BODIES)
async def test_malformed_bodies(bad: bytes, feed: Feed) -> None:
    app = Mirror()
    seen, _ = await trial(app, feed, bad)
    assert seen.resets == {5: [PROTOCOL_ERROR]}
    assert 5 not in seen.answers
    assert len(app.bodies) == 3, "the application took a body that is not whole"
    assert app.trailers == [[], [], []]


@feeds
@table(BAD_BODIES)
async def test_malformed_bodies_of_answered_streams(bad: bytes, feed: Feed) -> None:
    """An upload that is cut short after its answer harms nobody: curl does it after a 413."""
    stage = Stage()
    clock = Clock()
    async with h2_server(stage) as server:
        client = Prober(server)
        head = 9 + int.from_bytes(bad[:3])
        client.push(feed, bad[:head])
        if len(bad) > head:
            await stage.answer(b"early")
        client.push(feed, bad[head:])
        client.push(feed, headers(7, request(b"/after")))
        await stage.answer(b"after")
        seen = await client.settle()
        if len(bad) > head:
            assert seen.body(5) == b"early"
        assert seen.body(7) == b"after"
        assert seen.goaways == []
        await clock.advance(0.5, 0.1)  # some leave the stream open, which lasts a moment
        assert not client.protocol.streams
        assert not client.closed


async def test_a_short_upload_beside_others_on_native_routes() -> None:
    app = Kyoukai("test")

    @app.route("/<name>", methods=["POST"], max_body_size=1000)
    async def take(ctx: HTTPRequestContext, name: str) -> str:
        return f"{name} {len(ctx.request.data)}"

    async with h2_server(app) as server:
        client = Prober(server)
        client.send(headers(1, request(b"/a", b"POST"), end=False), data(1, b"a" * 500))
        length = [(b"content-length", b"1000000")]
        client.send(headers(3, request(b"/b", b"POST", length), end=False))
        client.send(data(3, b"b" * 5000))
        assert (await client.settle()).status(3) == 413
        client.send(data(3, b"b" * 16000, end=True))  # as curl does, answered 413
        client.send(headers(5, request(b"/c", b"POST", length), end=False), data(5, end=True))
        client.send(data(1, b"a" * 500, end=True))
        seen = await client.settle()
        assert seen.body(1) == b"a 1000"
        assert seen.status(5) == 413 or seen.resets[5] == [PROTOCOL_ERROR]
        assert 3 not in seen.resets or seen.resets[3] == [0]
        assert seen.goaways == []


@feeds
async def test_trailers_that_frame_are_dropped(feed: Feed) -> None:
    """As on HTTP/1.1: what would change the head's meaning does not reach the application."""
    app = Mirror()
    fields = [(b"x-sum", b"1"), (b"host", b"evil"), (b"expect", b"junk"), (b"x_under", b"2")]
    fields += [(b"content-length", b"9"), (b"x-forwarded-for", b"6.6.6.6")]
    await trial(app, feed, post(b"3") + data(5, b"abc") + headers(5, fields))
    assert [(b"x-sum", b"1")] in app.trailers


@pytest.mark.parametrize("fields", [[(b"x-a", b"b")] * 101, [(b"x-a", b"b" * 310)] * 99])
async def test_trailers_have_the_limits_of_heads(fields: Pairs) -> None:
    app = Mirror()
    trailers = in_parts(5, literals(fields))
    seen, _ = await trial(app, whole, post(None) + data(5, b"abc") + trailers)
    assert 5 in seen.resets or seen.status(5) in (400, 431)
    assert not any(app.trailers)
