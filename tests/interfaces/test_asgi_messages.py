"""ASGI applications that break the rules: what they are told, what the log and the client get."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest
from interfaces.asgi_peers import TEXT, ask, body, hosted, sends, sound, start, wires  # noqa: F401
from talks import lines_of, turns

from kyoukai.exceptions import InterfaceError, InvalidResponse, KyoukaiError
from kyoukai.interfaces.asgi_messages import fields_of, known_fields

END = {"type": "http.response.trailers", "headers": []}

#: Messages, the rule that the last of them breaks, and whether part of an answer is out by then.
BROKEN: list[tuple[list[Any], str, bool]] = [
    # Nothing, or not enough.
    ([], "the application returned without an answer", False),
    ([start()], "the application returned where http.response.body is due", False),
    (
        [start(), body(b"a", True)],
        "the application returned where http.response.body without more_body is due",
        True,
    ),
    (
        [start(200, trailers=True), body(b"a")],
        "the application returned where http.response.trailers is due",
        True,
    ),
    (
        [start(200, trailers=True), body(b"a"), {**END, "more_trailers": True}],
        "the application returned where http.response.trailers is due",
        True,
    ),
    # Out of order.
    ([body(b"a")], "http.response.body before http.response.start", False),
    ([body(b"a", True)], "http.response.body before http.response.start", False),
    ([start(), start()], "a second http.response.start", False),
    ([start(), body(b"a", True), start()], "a second http.response.start", True),
    ([END], "http.response.trailers before http.response.start", False),
    (
        [start(), END],
        "http.response.trailers: http.response.start has announced no trailers",
        False,
    ),
    (
        [start(), body(b"a", True), END],
        "http.response.trailers: http.response.start has announced no trailers",
        True,
    ),
    ([start(200, trailers=True), END], "http.response.trailers before the end of the body", False),
    (
        [start(200, trailers=True), body(b"a"), body(b"b")],
        "http.response.body where http.response.trailers is due",
        True,
    ),
    (
        [start(200, trailers=True), body(b"a"), start()],
        "http.response.start where http.response.trailers is due",
        True,
    ),
    (
        [{"type": "http.response.pathsend", "path": "/"}],
        "http.response.pathsend before http.response.start",
        False,
    ),
    (
        [start(), body(b"a", True), {"type": "http.response.pathsend", "path": "/"}],
        "http.response.pathsend before the end of the body",
        True,
    ),
    (
        [{"type": "http.response.zerocopysend", "file": 0}],
        "http.response.zerocopysend before http.response.start",
        False,
    ),
    (
        [start(), {"type": "http.response.debug", "info": {}}],
        "http.response.debug after http.response.start",
        False,
    ),
    # No messages.
    ([None], "a message is a dict, not NoneType", False),
    (["http.response.start"], "a message is a dict, not str", False),
    ([[]], "a message is a dict, not list", False),
    ([{}], "the type of a message is a str, not NoneType", False),
    ([{"type": 1}], "the type of a message is a str, not int", False),
    ([{"type": []}], "the type of a message is a str, not list", False),
    ([{"type": b"http.response.start"}], "the type of a message is a str, not bytes", False),
    ([{"type": "http.response.push"}], "http.response.push is no message of an http scope", False),
    ([{"type": "websocket.accept"}], "websocket.accept is no message of an http scope", False),
    # Wrong types.
    ([{"type": "http.response.start"}], "http.response.start: status is missing", False),
    ([start("200")], "http.response.start: status must be an int, not str", False),
    ([start(None)], "http.response.start: status must be an int, not NoneType", False),
    ([start(True)], "http.response.start: status must be an int, not bool", False),
    ([start(200.0)], "http.response.start: status must be an int, not float", False),
    ([start(99)], "99 is no status of a final response (200 to 599)", False),
    ([start(100)], "100 is no status of a final response (200 to 599)", False),
    ([start(600)], "600 is no status of a final response (200 to 599)", False),
    (
        [{**start(), "headers": None}],
        "http.response.start: headers must be pairs of bytes, not None",
        False,
    ),
    (
        [{**start(), "headers": "ab"}],
        "http.response.start: a header must be a pair of bytes, not ('a',)",
        False,
    ),
    (
        [{**start(), "headers": {b"a": b"b"}}],
        "http.response.start: a header must be a pair of bytes, not (97,)",
        False,
    ),
    (
        [start(200, 1)],
        "http.response.start: headers must be pairs of bytes, not (1,)",
        False,
    ),
    (
        [start(200, ("a", "b"))],
        "http.response.start: a header must be a pair of bytes, not ('a', 'b')",
        False,
    ),
    (
        [start(200, (b"a", "b"))],
        "http.response.start: a header must be a pair of bytes, not (b'a', 'b')",
        False,
    ),
    (
        [start(200, (b"a",))],
        "http.response.start: a header must be a pair of bytes, not (b'a',)",
        False,
    ),
    (
        [start(200, (b"a", b"b", b"c"))],
        "http.response.start: a header must be a pair of bytes, not (b'a', b'b', b'c')",
        False,
    ),
    ([start(), body("text")], "http.response.body: body must be bytes, not str", False),
    ([start(), body(None)], "http.response.body: body must be bytes, not NoneType", False),
    ([start(), body([b"a"])], "http.response.body: body must be bytes, not list", False),
    (
        [start(), body(b"a", True), body("b")],
        "http.response.body: body must be bytes, not str",
        True,
    ),
    (
        [start(200, trailers=True), body(b"a"), {"type": "http.response.trailers"}],
        "http.response.trailers: headers is missing",
        True,
    ),
    (
        [start(200, trailers=True), body(b"a"), {**END, "headers": [("a", "b")]}],
        "http.response.trailers: a header must be a pair of bytes, not ('a', 'b')",
        True,
    ),
    (
        [{"type": "http.response.early_hint"}],
        "http.response.early_hint: links is missing",
        False,
    ),
    (
        [{"type": "http.response.early_hint", "links": ["a"]}],
        "http.response.early_hint: links must be a list of bytes",
        False,
    ),
    (
        [{"type": "http.response.early_hint", "links": b"a"}],
        "http.response.early_hint: links must be a list of bytes",
        False,
    ),
    (
        [{"type": "http.response.early_hint", "links": 1}],
        "http.response.early_hint: links must be a list of bytes",
        False,
    ),
    ([{"type": "http.response.debug"}], "http.response.debug: info is missing", False),
    (
        [{"type": "http.response.debug", "info": 1}],
        "http.response.debug: info must be a dict, not int",
        False,
    ),
    (
        [start(), {"type": "http.response.pathsend"}],
        "http.response.pathsend: path is missing",
        False,
    ),
    (
        [start(), {"type": "http.response.pathsend", "path": b"/"}],
        "http.response.pathsend: path must be a str, not bytes",
        False,
    ),
    (
        [start(), {"type": "http.response.zerocopysend"}],
        "http.response.zerocopysend: file is missing",
        False,
    ),
    (
        [start(), {"type": "http.response.zerocopysend", "file": "/"}],
        "http.response.zerocopysend: file must have an open descriptor; str has none",
        False,
    ),
    (
        [start(), {"type": "http.response.zerocopysend", "file": 0, "offset": -1}],
        "http.response.zerocopysend: offset must be an int of 0 or more, not -1",
        False,
    ),
    (
        [start(), {"type": "http.response.zerocopysend", "file": 0, "count": "1"}],
        "http.response.zerocopysend: count must be an int of 0 or more, not '1'",
        False,
    ),
    # What may not be sent.
    (
        [start(200, (b"a", b"b\r\nc: d"))],
        "header 'a' has an illegal value b'b\\r\\nc: d'",
        False,
    ),
    ([start(200, (b"a", b"b\0"))], "header 'a' has an illegal value b'b\\x00'", False),
    ([start(200, (b"a b", b"c"))], "header name b'a b' is no token", False),
    ([start(200, (b":status", b"200"))], "header name b':status' is no token", False),
    ([start(200, (b"", b"c"))], "header name b'' is no token", False),
    (
        [start(200, (b"content-length", b"-1"))],
        "content-length b'-1' is no number, or not the only one",
        False,
    ),
    (
        [start(200, (b"content-length", b"9" * 5000))],
        f"content-length {b'9' * 80!r} is no number, or not the only one",
        False,
    ),
    (
        [start(200, (b"content-length", b"1")), body(b"ab")],
        "the body has 2 bytes, its Content-Length says 1",
        False,
    ),
    (
        [start(200, (b"content-length", b"3")), body(b"ab")],
        "the body has 2 bytes, its Content-Length says 3",
        False,
    ),
    (
        [start(200, (b"content-length", b"2")), body(b"a", True), body(b"bc", True)],
        "the body is longer than its Content-Length",
        True,
    ),
    (
        [start(200, (b"content-length", b"2")), body(b"a", True), body(b"bc")],
        "the body is longer than its Content-Length",
        True,
    ),
    (
        [start(200, (b"content-length", b"3")), body(b"a", True), body(b"b")],
        "the body is shorter than its Content-Length",
        True,
    ),
    (
        [start(200, trailers=True), body(b"a"), {**END, "headers": [(b"x", b"a\nb")]}],
        "header 'x' has an illegal value b'a\\nb'",
        True,
    ),
    (
        [start(200, trailers=True), body(b"a"), {**END, "headers": [(b"content-length", b"1")]}],
        "'content-length' may not be a trailer",
        True,
    ),
]
_NAMES = [f"{index}-{rule[:40]}" for index, (_, rule, _) in enumerate(BROKEN)]


@wires
@pytest.mark.parametrize(("messages", "rule", "begun"), BROKEN, ids=_NAMES)
async def test_a_broken_rule(
    wire: str, messages: Any, rule: str, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once; the client gets 500, or a stream that is cut; the next has its answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/good":
            await sends(start(), body(b"good"))(scope, receive, send)
        else:
            await sends(*messages)(scope, receive, send)

    async with hosted(app, wire) as peer:
        peer.request()
        if begun:
            with pytest.raises(ConnectionError):
                await peer.response()
        else:
            response = await peer.response()
            assert (response.status, response.body) == (500, b"Internal Server Error\n")
        await turns()
        if begun and wire == "http1":
            assert peer.transport.aborted
        else:
            peer.request("GET", "/good")
            assert (await peer.response()).body == b"good"
    assert lines_of(caplog) == [f"GET /: asgi application test:app: {rule}"]


@wires
@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (body(b"b"), "http.response.body after the end of the response"),
        (start(), "http.response.start after the end of the response"),
        (END, "http.response.trailers after the end of the response"),
        (
            {"type": "http.response.early_hint", "links": []},
            "http.response.early_hint after the end of the response",
        ),
        (
            {"type": "http.response.pathsend", "path": "/"},
            "http.response.pathsend after the end of the response",
        ),
        (
            {"type": "http.response.zerocopysend", "file": 0},
            "http.response.zerocopysend after the end of the response",
        ),
        (
            {"type": "http.response.debug", "info": {}},
            "http.response.debug after http.response.start",
        ),
        ({"type": "http.response.push"}, "http.response.push is no message of an http scope"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_after_the_end(
    wire: str, message: Any, rule: str, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The client has its answer; the connection is unharmed."""
    parts = [body(b"o", True), body(b"k")] if streamed else [body(b"ok")]
    async with hosted(sends(start(), *parts, message), wire) as peer:
        for _ in range(2):
            peer.request()
            assert (await peer.response()).body == b"ok"
            await turns()
    assert lines_of(caplog) == [f"GET /: asgi application test:app: {rule}"] * 2


async def test_the_error_is_raised_where_the_application_sends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It may see its mistake and go on; then nothing is logged."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(InterfaceError, match="before http.response.start") as told:
            await send(body(b"a"))
        assert isinstance(told.value, RuntimeError)
        assert not isinstance(told.value, OSError)
        await send(start())
        with pytest.raises(InterfaceError, match="second"):
            await send(start())
        await send(body(b"a", True))
        with pytest.raises(InterfaceError, match="bytes"):
            await send(body("b", True))
        await send(body(b"b"))

    assert (await ask(app)).body == b"ab"
    assert lines_of(caplog) == []


async def test_the_traceback_leads_to_the_application(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(body(b"here"))

    await ask(app)
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.exc_text is not None
    assert 'await send(body(b"here"))' in record.exc_text


@wires
async def test_exceptions_before_and_in_the_answer(
    wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/before":
            await send(start())
        if scope["path"] == "/in":
            await send(body(b"a", True))
        raise LookupError

    for path in ("/before", "/held", "/in"):
        async with hosted(app, wire) as peer:
            peer.request("GET", path)
            if path == "/in":
                with pytest.raises(ConnectionError):
                    await peer.response()
            else:
                assert (await peer.response()).status == 500
    assert len(lines_of(caplog)) == 3


# -- What is remembered ------------------------------------------------------------------------


def test_heads_are_remembered_within_bounds() -> None:
    known_fields.clear()
    first = fields_of([(b"A", b"1"), (b"Content-Length", b"3")], "k")
    assert first == (((b"a", b"1"), (b"content-length", b"3")), ((b"a", b"1"),), 3)
    assert fields_of([[b"A", b"1"], [b"Content-Length", b"3"]], "k") is first
    assert fields_of([(b"a", b"x" * 5000)], "k").length is None
    assert len(known_fields) == 1
    for number in range(2000):
        fields_of([(b"a", b"%d" % number)], "k")
        assert len(known_fields) <= 512
    known_fields.clear()


def test_two_lengths() -> None:
    pair = (b"content-length", b"3")
    assert fields_of([pair, pair], "k").length == 3
    with pytest.raises(InvalidResponse, match="not the only one"):
        fields_of([pair, (b"content-length", b"4")], "k")


# -- Anything at all ---------------------------------------------------------------------------

#: Messages that an application may come up with, right or wrong.
ANY = [
    start(),
    start(200, TEXT, (b"content-length", b"2")),
    start(204),
    start(200, trailers=True),
    start(200, (b"a", b"\n")),
    start("200"),
    body(b"a"),
    body(b"ab"),
    body(b"a", True),
    body(b"", True),
    body(),
    body("a"),
    END,
    {**END, "more_trailers": True},
    {"type": "http.response.early_hint", "links": [b"</a>; rel=preload"]},
    {"type": "http.response.pathsend", "path": __file__},
    {"type": "http.response.pathsend", "path": "/nowhere"},
    {"type": "http.response.debug", "info": {}},
    {"type": "http.response.push"},
    {},
    None,
]


@wires
@pytest.mark.parametrize("seed", range(4))
async def test_random_conversations(wire: str, seed: int) -> None:
    """Whatever it sends, its client has an answer or a cut, and the next one its own."""
    rng = random.Random(seed)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/good":
            await sends(start(), body(b"good"))(scope, receive, send)
            return
        for number in range(rng.randrange(8)):
            step = rng.randrange(12)
            if step == 0:
                raise LookupError
            if step == 1:
                listening = asyncio.create_task(receive())
                await turns(2)
                listening.cancel()
            elif step == 2:
                await turns(1)
            message = rng.choice(ANY)
            if rng.random() < 0.6:  # what is likely to be right, so that answers get somewhere
                message = rng.choice(ANY[6:11] if number else ANY[:4])
            try:
                await send(message)
            except KyoukaiError:
                if rng.random() < 0.3:
                    raise

    made = hosted(app, wire)
    answered = cut = 0
    peer: Any = None
    for _ in range(60):
        if peer is None:
            made = hosted(app, wire)
            peer = await made.__aenter__()
        method = rng.choice(("GET", "HEAD", "POST"))
        peer.request(method, "/", body=b"x" * 10 if method == "POST" else None)
        try:
            async with asyncio.timeout(10):
                await peer.response()
            answered += 1
            if rng.random() < 0.5:
                peer.request("GET", "/good")
                async with asyncio.timeout(10):
                    assert (await peer.response()).body == b"good"
        except ConnectionError:
            cut += 1
            if wire == "http1":  # the connection is cut, and the next has another
                await made.__aexit__(None, None, None)
                peer = None
        if rng.random() < 0.1 and peer is not None:
            peer.request()
            peer.leave()
            await made.__aexit__(None, None, None)
            peer = None
    if peer is not None:
        await turns()
        assert not peer.server.connections.tasks
        await made.__aexit__(None, None, None)
    assert answered > 10
    assert cut > 0
