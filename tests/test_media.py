"""Media handlers, and how bodies and answers go through them."""

from __future__ import annotations

import asyncio
import csv
import datetime
import io
import json
import logging
import math
import pickle
import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from werkzeug.exceptions import UnsupportedMediaType

from kyoukai import HTTPRequestContext, Kyoukai, Request, Response, TestKyoukai
from kyoukai.exceptions import MediaError
from kyoukai.media import (
    BaseHandler,
    BinaryBaseHandlerWS,
    JSONHandler,
    JSONHandlerWS,
    JSONMediaError,
    MediaHandlers,
    MessagePackHandler,
    MessagePackHandlerWS,
    TextBaseHandlerWS,
    WebSocketPayloadType,
    read_message,
    websocket_handlers,
    write_message,
)
from kyoukai.testing import Client
from kyoukai.util import plain_response, wrap_response
from kyoukai.wsgi import to_wsgi_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from kyoukai.testing import ClientResponse

TEXT, BINARY = WebSocketPayloadType
JSON = {"Content-Type": "application/json"}
MSGPACK = {"Content-Type": "application/msgpack"}


@dataclass
class Point:
    x: int


class Repeating(TextBaseHandlerWS, BinaryBaseHandlerWS):
    """Does what it is told, with either type."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def serialize(self, media: Any) -> Any:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    deserialize = serialize


class Unfinished:
    """Methods that somebody thought would be awaited."""

    async def serialize(self, media: Any) -> str:
        return ""

    async def deserialize(self, payload: Any) -> Any:
        return None


class CSV(BaseHandler):
    """Rows as CSV."""

    def serialize(self, media: Any) -> bytes:
        text = io.StringIO()
        csv.writer(text).writerows(media)
        return text.getvalue().encode()

    def deserialize(self, payload: bytes) -> Any:
        return list(csv.reader(io.StringIO(payload.decode())))


class Loud:
    """JSON that can be told apart; no subclass of anything."""

    def serialize(self, media: Any) -> bytes:
        return json.dumps(media).upper().encode()

    def deserialize(self, payload: bytes) -> Any:
        return {"loud": json.loads(payload)}


# -- Random objects ----------------------------------------------------------------------------


def some_text(source: random.Random) -> str:
    alphabet = 'aB\n\t\x00"\\/ é€\u2028\U0001f600\x7f'
    return "".join(source.choices(alphabet, k=source.randrange(6)))


def some_object(source: random.Random, depth: int = 4) -> Any:
    """An object that JSON and MessagePack can both say."""
    kind = source.randrange(9 if depth else 7)
    if kind == 0:
        return source.choice((None, True, False))
    if kind == 1:
        return source.choice((0, -1, 2**63, -(2**63), 2**64 - 1, source.randrange(1 << 32)))
    if kind == 2:
        return source.choice((0.5, -1e300, 5e-24, source.random()))
    if kind < 7:
        return some_text(source)
    size = source.randrange(5)
    if kind == 7:
        return [some_object(source, depth - 1) for _ in range(size)]
    return {some_text(source): some_object(source, depth - 1) for _ in range(size)}


OBJECTS = [some_object(random.Random(seed)) for seed in range(400)]


def test_objects_survive_messages_and_bodies() -> None:
    sockets, bodies = websocket_handlers(), MediaHandlers()
    assert {type(each) for each in OBJECTS} >= {list, dict, str, int, float, bool, type(None)}
    for media in OBJECTS:
        text = write_message(sockets, media, TEXT)
        assert type(text) is str
        assert json.loads(text) == media
        assert read_message(sockets, text) == media
        assert read_message(sockets, json.dumps(media, indent=1)) == media
        data = write_message(sockets, media, BINARY)
        assert type(data) is bytes
        assert msgspec.msgpack.decode(data) == media
        assert read_message(sockets, data) == media
        assert bodies.write(media, "application/json") == text.encode()
        assert bodies.write(media, "application/msgpack") == data
        assert bodies.read(text.encode(), "application/json") == media
        assert bodies.read(data, "application/msgpack") == media


def test_damaged_json_is_read_as_by_the_standard_library_or_refused() -> None:
    sockets, bodies = websocket_handlers(), MediaHandlers()
    source = random.Random(5)
    refused = 0
    for media in OBJECTS:
        text = json.dumps(media, ensure_ascii=False)
        at = source.randrange(len(text) + 1)
        damage = source.choice(("", "x", "é", '"', "}", "\n", ",", "\\", "{"))
        text = text[:at] + damage + text[at + source.randrange(3) :] + "\n"
        for read in (
            lambda: read_message(sockets, text),  # noqa: B023
            lambda: bodies.read(text.encode(), "application/json"),  # noqa: B023
        ):
            try:
                expected = json.loads(text)
            except json.JSONDecodeError as error:
                with pytest.raises(JSONMediaError) as caught:
                    read()
                for name in ("msg", "doc", "pos", "lineno", "colno"):
                    assert getattr(caught.value, name) == getattr(error, name)  # noqa: PT017
                refused += 1
            else:
                assert read() == expected
    assert refused > len(OBJECTS) / 2


def test_messagepack_cut_short_is_refused() -> None:
    handlers = websocket_handlers()
    for media in OBJECTS:
        data = write_message(handlers, media, BINARY)
        for cut in range(0, len(data), max(1, len(data) // 7)):
            with pytest.raises(MediaError) as caught:
                read_message(handlers, data[:cut])
            assert caught.value.payload_type == "binary"
            assert caught.value.received


# -- Messages that cannot be read --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message", "position", "line", "column"),
    [
        ("", "Expecting value", 0, 1, 1),
        ("[1,\n 2", "Expecting ',' delimiter", 6, 2, 3),
        ("nope", "Expecting value", 0, 1, 1),
        ('"é€" x', "Extra data", 5, 1, 6),
        ('{"\U0001f600":\n\n é}', "Expecting value", 8, 3, 2),
        ('"é\\q"', "Invalid \\escape", 2, 1, 3),
        ('"a\tb"', "Invalid control character at", 2, 1, 3),
        ("\ufeff1", "Unexpected UTF-8 BOM (decode using utf-8-sig)", 0, 1, 1),
        # What the standard library would read.
        ("[1,\n-Infinity]", "JSON is malformed: invalid character", 5, 2, 2),
        ('["é", NaN]', "JSON is malformed: invalid character", 6, 1, 7),
    ],
)
def test_what_is_wrong_with_json(
    text: str, message: str, position: int, line: int, column: int
) -> None:
    for kind, read in {
        "text": lambda: read_message(websocket_handlers(), text),
        "application/json": lambda: MediaHandlers().read(text.encode(), "application/json"),
    }.items():
        if kind != "text" and not text:
            continue  # an empty body is refused before any handler sees it
        with pytest.raises(json.JSONDecodeError) as caught:
            read()
        error = caught.value
        assert isinstance(error, MediaError)
        assert (error.msg, error.doc) == (message, text)
        assert (error.pos, error.lineno, error.colno) == (position, line, column)
        assert (error.payload_type, error.received) == (kind, True)
        what = "a text message" if kind == "text" else "a body of application/json"
        place = f"line {line} column {column} (char {position})"
        assert str(error) == f"{what} cannot be read: {message}: {place}"
        assert isinstance(error.__cause__, json.JSONDecodeError)
        assert isinstance(error.__cause__.__cause__, msgspec.DecodeError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "maximum recursion depth exceeded"),
        ("1e999", "Number out of range"),
        ("1" * 5000, "Integer value out of range"),
        ('"\\ud800"', "Input data was truncated"),
    ],
)
def test_json_that_only_msgspec_refuses(text: str, message: str) -> None:
    with pytest.raises(JSONMediaError) as caught:
        read_message(websocket_handlers(), text)
    assert caught.value.msg.startswith(message)
    assert (caught.value.doc, caught.value.pos) == (text, 0)
    assert "char" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "doc", "position"),
    [
        (b'["\xc3\xa9", "a\xffb"]', '["é", "a\ufffdb"]', 8),
        (b'"\xf0\x9f"', '"\ufffd"', 1),
        (b'"\xed\xa0\x80"', '"\ufffd\ufffd\ufffd"', 1),
    ],
)
def test_bodies_that_are_not_utf_8(body: bytes, doc: str, position: int) -> None:
    with pytest.raises(JSONMediaError) as caught:
        MediaHandlers().read(body, "application/json")
    error = caught.value
    assert (error.msg, error.doc, error.pos) == ("Invalid UTF-8", doc, position)


def test_text_that_is_no_unicode() -> None:
    """It cannot come from a client; but a handler may be called by anyone."""
    with pytest.raises(JSONMediaError, match="surrogates not allowed"):
        read_message(websocket_handlers(), '"\ud800"')


def test_an_error_survives_pickle() -> None:
    with pytest.raises(JSONMediaError) as caught:
        read_message(websocket_handlers(), "[1,\n x]")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert vars(again) == vars(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a binary message cannot be read: DecodeError: Input data was truncated"),
        (
            b"\x01\x01",
            "a binary message cannot be read: DecodeError: MessagePack data is malformed",
        ),
        (b"\xa1\xff", "a binary message cannot be read: UnicodeDecodeError: 'utf-8' codec"),
        (b"\x91" * 100_000, "a binary message cannot be read: RecursionError: maximum"),
    ],
)
def test_what_is_wrong_with_messagepack(data: bytes, message: str) -> None:
    with pytest.raises(MediaError) as caught:
        read_message(websocket_handlers(), data)
    assert str(caught.value).startswith(message)
    assert not isinstance(caught.value, json.JSONDecodeError)
    assert (caught.value.payload_type, caught.value.received) == ("binary", True)


# -- Messages that cannot be written -----------------------------------------------------------


def endless() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("media", "kind", "message"),
    [
        (object(), TEXT, "object cannot be written as a text message: TypeError: Encoding objects"),
        ({(1,): 2}, TEXT, "dict cannot be written as a text message: TypeError: Only dicts with"),
        (endless(), TEXT, "list cannot be written as a text message: RecursionError: maximum"),
        ("\ud800", TEXT, "str cannot be written as a text message: UnicodeEncodeError: 'utf-8'"),
        (2**64, BINARY, "int cannot be written as a binary message: OverflowError: can't"),
        ([object], BINARY, "list cannot be written as a binary message: TypeError: Encoding"),
    ],
)
def test_what_cannot_be_written(media: Any, kind: WebSocketPayloadType, message: str) -> None:
    with pytest.raises(MediaError) as caught:
        write_message(websocket_handlers(), media, kind)
    assert str(caught.value).startswith(message)
    assert (caught.value.payload_type, caught.value.received) == (kind.value, False)
    assert type(caught.value.__cause__).__name__ in message


# -- The application's own handlers ------------------------------------------------------------

#: The ways to a handler: payload type, whether something is received, and a call.
WAYS: list[tuple[str, bool, Callable[[Any], Any]]] = [
    ("text", True, lambda handler: read_message({TEXT: handler}, "")),
    ("binary", True, lambda handler: read_message({BINARY: handler}, b"")),
    ("text", False, lambda handler: write_message({TEXT: handler}, None, TEXT)),
    ("binary", False, lambda handler: write_message({BINARY: handler}, None, BINARY)),
    ("a/b", True, lambda handler: MediaHandlers({"a/b": handler}).read(b"x", "A/B; c=d")),
    ("a/b", False, lambda handler: MediaHandlers({"a/b": handler}).write(None, "A/B; c=d")),
]
NAMES = {
    ("text", True): "a text message cannot be read",
    ("binary", True): "a binary message cannot be read",
    ("text", False): "NoneType cannot be written as a text message",
    ("binary", False): "NoneType cannot be written as a binary message",
    ("a/b", True): "a body of a/b cannot be read",
    ("a/b", False): "NoneType cannot be written as a/b",
}


@pytest.mark.parametrize(("name", "received", "call"), WAYS)
@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("broken\nin two lines"), "RuntimeError: broken"),
        (KeyError("k"), "KeyError: 'k'"),
        (StopIteration(), "StopIteration"),
        (MediaError("own", "own", False), "MediaError: own"),
        (NotImplementedError(""), "NotImplementedError"),
    ],
)
def test_a_handler_that_fails(
    name: str, received: bool, call: Any, raised: Exception, said: str
) -> None:
    with pytest.raises(MediaError) as caught:
        call(Repeating(raised))
    assert str(caught.value) == f"{NAMES[name, received]}: {said}"
    assert (caught.value.payload_type, caught.value.received) == (name, received)
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize(("name", "received", "call"), WAYS)
@pytest.mark.parametrize("raised", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit()])
def test_what_ends_a_task_is_let_through(
    name: str, received: bool, call: Any, raised: BaseException
) -> None:
    with pytest.raises(type(raised)) as caught:
        call(Repeating(raised))
    assert caught.value is raised


@pytest.mark.parametrize(("name", "received", "call"), WAYS)
def test_a_handler_must_not_be_a_coroutine_function(name: str, received: bool, call: Any) -> None:
    method = "deserialize" if received else "serialize"
    with pytest.raises(MediaError, match=f"Unfinished.{method} must not be a coroutine function"):
        call(Unfinished())  # nor is a coroutine left that nobody awaits: that would be a warning


@pytest.mark.parametrize(
    ("way", "result", "said"),
    [
        (2, b"x", "TypeError: Repeating.serialize returned bytes, not str"),
        (2, None, "TypeError: Repeating.serialize returned NoneType, not str"),
        (3, "x", "TypeError: Repeating.serialize returned str, not bytes"),
        (3, [1], "TypeError: Repeating.serialize returned list, not bytes"),
        (5, "x", "TypeError: Repeating.serialize returned str, not bytes"),
        (5, None, "TypeError: Repeating.serialize returned NoneType, not bytes"),
    ],
)
def test_a_handler_that_returns_something_else(way: int, result: Any, said: str) -> None:
    name, received, call = WAYS[way]
    with pytest.raises(MediaError) as caught:
        call(Repeating(result))
    assert str(caught.value) == f"{NAMES[name, received]}: {said}"
    assert caught.value.payload_type == name


@pytest.mark.parametrize("way", [3, 5])
@pytest.mark.parametrize(
    "result", [b"abc", bytearray(b"abc"), memoryview(b"abc"), memoryview(b"abcde")[:3]]
)
def test_a_binary_handler_may_return_what_is_like_bytes(way: int, result: Any) -> None:
    data = WAYS[way][2](Repeating(result))
    assert type(data) is bytes
    assert data == b"abc"


def test_a_handler_may_reuse_its_buffer() -> None:
    buffer = bytearray(b"one")
    data = write_message({BINARY: Repeating(buffer)}, None, BINARY)
    buffer[:] = b"two"
    assert data == b"one"


@pytest.mark.parametrize(("kind", "other"), [(TEXT, BINARY), (BINARY, TEXT)])
def test_a_type_without_a_handler(kind: WebSocketPayloadType, other: WebSocketPayloadType) -> None:
    handlers = websocket_handlers()
    del handlers[kind]
    message = f"there is no media handler for {kind.value} messages"
    for received in (True, False):
        with pytest.raises(MediaError) as caught:
            if received:
                read_message(handlers, "1" if kind is TEXT else b"\x01")
            else:
                write_message(handlers, 1, kind)
        assert str(caught.value) == message
        assert (caught.value.payload_type, caught.value.received) == (kind.value, received)
    assert read_message(handlers, write_message(handlers, [1], other)) == [1]


def test_something_that_is_no_payload_type() -> None:
    with pytest.raises(MediaError, match="no media handler for text messages"):
        write_message(websocket_handlers(), 1, "text")


@pytest.mark.parametrize("base", [TextBaseHandlerWS, BinaryBaseHandlerWS, BaseHandler])
def test_what_a_subclass_leaves_out(base: type) -> None:
    class Silent(base):
        pass

    with pytest.raises(NotImplementedError, match="Silent does not write"):
        Silent().serialize(1)
    with pytest.raises(NotImplementedError, match="Silent does not read"):
        Silent().deserialize("")


def test_tables_are_new_each_time() -> None:
    assert websocket_handlers() is not websocket_handlers()
    assert [type(each) for each in websocket_handlers().values()] == [
        JSONHandlerWS,
        MessagePackHandlerWS,
    ]
    first, second = Kyoukai("first"), Kyoukai("second")
    del first.media_handlers["application/json"]
    assert "application/json" in second.media_handlers
    assert TEXT in websocket_handlers()


def test_json_by_another_library() -> None:
    dumps = partial(json.dumps, sort_keys=True)
    text = JSONHandlerWS(dumps=dumps, loads=partial(json.loads, parse_float=str))
    assert write_message({TEXT: text}, {"b": 1, "a": 2}, TEXT) == '{"a": 2, "b": 1}'
    assert read_message({TEXT: text}, "[1.50]") == ["1.50"]
    in_bytes = JSONHandlerWS(dumps=msgspec.json.Encoder(order="sorted").encode)
    assert write_message({TEXT: in_bytes}, {"é": 1, "a": 2}, TEXT) == '{"a":2,"é":1}'
    body = MediaHandlers({"application/json": JSONHandler(dumps=dumps)})
    assert body.write({"b": "é", "a": 2}, "application/json") == b'{"a": 2, "b": "\\u00e9"}'
    with pytest.raises(JSONMediaError) as caught:
        read_message({TEXT: text}, "[1,\nx]")
    assert (caught.value.pos, caught.value.lineno) == (4, 2)
    assert caught.value.msg == "Expecting value"


def test_json_of_a_type() -> None:
    handlers = {TEXT: JSONHandlerWS(loads=msgspec.json.Decoder(Point).decode)}
    assert read_message(handlers, '{"x": 1}') == Point(1)
    with pytest.raises(MediaError) as caught:
        read_message(handlers, '{"x": "1"}')
    expected = "a text message cannot be read: Expected `int`, got `str` - at `$.x`"
    assert str(caught.value) == expected
    with pytest.raises(JSONMediaError, match="char 7"):
        read_message(handlers, '{"x": 1')


# -- The table of HTTP -------------------------------------------------------------------------


def test_content_types_are_compared_without_case_and_parameters() -> None:
    handlers = MediaHandlers()
    assert list(handlers) == ["application/json", "application/msgpack"]
    assert repr(handlers) == "<MediaHandlers application/json, application/msgpack>"
    rows = CSV()
    handlers["Text/CSV; header=present"] = rows
    assert handlers["text/csv"] is handlers["TEXT/csv;charset=utf-8"] is rows
    assert "text/csv ; x=y" in handlers
    assert "text/plain" not in handlers
    assert list(handlers)[2:] == ["text/csv"]
    assert handlers.find(" text/csv ;header=absent") is rows
    assert handlers.find("text/plain") is None
    assert handlers.pop("TEXT/CSV") is rows
    assert len(handlers) == 2
    with pytest.raises(KeyError):
        handlers["text/csv"]
    with pytest.raises(KeyError):
        del handlers["text/csv"]


def test_a_suffix_says_how_a_type_is_written() -> None:
    handlers = MediaHandlers()
    for content_type in ("application/problem+json; a=b", "image/X+JSON", "a/b+c+json"):
        assert handlers.find(content_type) is handlers["application/json"]
    assert handlers.find("application/x+msgpack") is handlers["application/msgpack"]
    for content_type in ("application/x+xml", "application/+", "json", "+json/a", "", "+"):
        assert handlers.find(content_type) is None
    handlers["application/problem+json"] = Loud()
    assert handlers.find("application/problem+json") is not handlers["application/json"]


def test_keys_and_handlers_that_are_none() -> None:
    handlers = MediaHandlers()
    for key in ("", "json", "a/b/c", "a b/c", "é/a", "a/", "/b", "a/b, c/d"):
        with pytest.raises(ValueError, match="not a content type: '"):
            handlers[key] = CSV()
    for wrong in (None, CSV, object(), json):
        with pytest.raises(TypeError, match="handler of a/b is no object with a method serialize"):
            handlers["a/b"] = wrong
    assert len(handlers) == 2


def test_whether_json_is_written_as_by_default() -> None:
    class Reading(JSONHandler):
        def deserialize(self, payload: bytes) -> Any:
            return {"read": super().deserialize(payload)}

    class Writing(JSONHandler):
        def serialize(self, media: Any) -> bytes:
            return b"written"

    handlers = MediaHandlers()
    assert handlers.plain
    for handler, plain in (
        (Loud(), False),
        (JSONHandler(), True),
        (JSONHandler(dumps=json.dumps), False),
        (JSONHandler(loads=json.loads), True),
        (MessagePackHandler(), False),
        (Reading(), True),
        (Writing(), False),
    ):
        handlers["Application/JSON"] = handler
        assert handlers.plain is plain
        written = handlers.write({"a": [1]}, "application/json")
        assert (written == b'{"a":[1]}') is plain
        assert (plain_response({"a": [1]}, handlers) is not None) is plain
    handlers.update({"application/json": JSONHandler()})
    assert handlers.plain
    handlers["a/b"] = Loud()
    assert handlers.plain
    handlers.clear()
    assert not handlers.plain
    assert not MediaHandlers({}).plain


def test_what_the_table_cannot_do() -> None:
    handlers = MediaHandlers()
    known = "there are: application/json, application/msgpack"
    for received in (True, False):
        with pytest.raises(MediaError) as caught:
            if received:
                handlers.read(b"1", "Text/CSV; a=b")
            else:
                handlers.write(1, "Text/CSV; a=b")
        assert str(caught.value) == f"there is no media handler for text/csv; {known}"
        assert (caught.value.payload_type, caught.value.received) == ("text/csv", received)
    with pytest.raises(MediaError, match=f"for a body without a content type; {known}"):
        handlers.read(b"1", "")
    with pytest.raises(MediaError, match="there are: none"):
        MediaHandlers({}).read(b"1", "a/b")
    with pytest.raises(MediaError, match="^the body is empty$") as caught:
        handlers.read(b"", "application/json")
    assert caught.value.received


# -- Bodies of requests ------------------------------------------------------------------------


def reading_app(**options: Any) -> Kyoukai:
    """An application that shows what it reads."""
    app = Kyoukai("reading")

    @app.route("/", methods=["GET", "POST"], **options)
    async def read(ctx: HTTPRequestContext) -> Any:
        media = await ctx.request.get_media()
        return repr(media)

    return app


async def post(app: Kyoukai, body: bytes | None, *headers: str, **settings: Any) -> ClientResponse:
    pairs = [tuple(header.split(": ", 1)) for header in headers]
    async with Client(app, **settings) as client:
        return await client.post("/", body=body, headers=pairs)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"a": [1]}'),
        ("Application/JSON;charset=utf-8", b' {"a":[1]}\n'),
        ("application/vnd.api+json; a=b", b'{"a":[1]}'),
        ("application/msgpack", msgspec.msgpack.encode({"a": [1]})),
    ],
)
async def test_bodies_are_read(content_type: str, body: bytes, stream: bool) -> None:
    response = await post(reading_app(stream=stream), body, f"Content-Type: {content_type}")
    assert (response.status, response.text) == (200, "{'a': [1]}")


@pytest.mark.parametrize("stream", [False, True])
async def test_bodies_that_come_in_pieces_or_are_spooled(stream: bool) -> None:
    app = reading_app(stream=stream)
    async with Client(app, body_spool_size=3) as client:
        chunks = [b'["', "é".encode()[:1], "é".encode()[1:], b'"]']
        response = await client.post("/", chunks=chunks, headers=JSON)
        assert response.text == "['é']"
        response = await client.post("/", json=["x" * 1000])
        assert response.text == repr(["x" * 1000])


@pytest.mark.parametrize("stream", [False, True])
async def test_the_body_is_read_once(stream: bool) -> None:
    app = Kyoukai("once")

    @app.route("/", methods=["POST"], stream=stream)
    async def read(ctx: HTTPRequestContext) -> Any:
        request = ctx.request
        assert await request.read_async() == b"[1]"
        first = await request.get_media()
        first.append(2)
        assert await request.get_media() is first
        assert await request.get_media(default_when_empty=None) is first
        assert await request.read_async() == request.get_data() == b"[1]"
        assert request.json == [1]
        return first

    assert (await post(app, b"[1]", "Content-Type: application/json")).json() == [1, 2]


async def test_a_body_that_is_null_is_read_once() -> None:
    calls = []
    app = Kyoukai("null")
    app.media_handlers["application/json"] = JSONHandler(loads=calls.append)

    @app.route("/", methods=["POST"])
    async def read(ctx: HTTPRequestContext) -> Any:
        return repr([await ctx.request.get_media(), await ctx.request.get_media()])

    assert (await post(app, b"null", "Content-Type: application/json")).text == "[None, None]"
    assert calls == [b"null"]


async def test_a_body_after_its_form() -> None:
    app = Kyoukai("form")
    app.media_handlers["application/x-www-form-urlencoded"] = Repeating("read")

    @app.route("/", methods=["POST"])
    async def read(ctx: HTTPRequestContext) -> Any:
        return [ctx.request.form["a"], await ctx.request.get_media()]

    response = await post(app, b"a=1", "Content-Type: application/x-www-form-urlencoded")
    assert response.json() == ["1", "read"]


KNOWN = "there are: application/json, application/msgpack"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        (["Content-Type: text/csv; a=b"], b"1,2", "for text/csv"),
        (["Content-Type: text/csv"], b"", "for text/csv"),
        (["Content-Type: application/jsonx"], b"{}", "for application/jsonx"),
        (["Content-Type: ;"], b"{}", "for a body without a content type"),
        ([], b"{}", "for a body without a content type"),
    ],
)
async def test_content_types_that_nobody_reads(
    headers: list[str], body: bytes, said: str, stream: bool
) -> None:
    response = await post(reading_app(stream=stream), body, *headers)
    assert response.status == 415
    assert f"there is no media handler {said}; {KNOWN}" in response.text


async def test_a_wrong_content_type_is_refused_before_the_body_is_asked_for() -> None:
    async with Client(reading_app(stream=True)) as client:
        connection = client.connect()
        connection.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
            b"Content-Type: text/csv\r\nContent-Length: 9\r\n\r\n"
        )
        response = await connection.response()
    assert response.status == 415
    assert response.informational == []


async def test_a_body_without_a_content_type_may_be_read() -> None:
    app = reading_app()
    app.media_handlers.default = "application/json"
    assert (await post(app, b"[1]")).text == "[1]"
    assert (await post(app, b"[1]", "Content-Type:  ")).text == "[1]"
    assert (await post(app, b"1,2", "Content-Type: text/csv")).status == 415


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("headers", [[], ["Content-Type: application/json"]])
@pytest.mark.parametrize("body", [b"", None])
async def test_an_empty_body(headers: list[str], body: bytes | None, stream: bool) -> None:
    response = await post(reading_app(stream=stream), body, *headers)
    assert response.status == 400
    assert "body is empty" in response.text

    app = Kyoukai("default")
    default = object()

    @app.route("/", methods=["POST"], stream=stream)
    async def read(ctx: HTTPRequestContext) -> Any:
        assert await ctx.request.get_media(default_when_empty=default) is default
        assert await ctx.request.get_media(None) is None
        with pytest.raises(MediaError, match="the body is empty"):
            await ctx.request.get_media()

    assert (await post(app, body, *headers)).status == 204


async def test_a_body_that_is_broken() -> None:
    app = reading_app()
    for content_type, body, said in (
        ("application/json", b"[1,", "Expecting value: line 1 column 4 (char 3)"),
        ("application/vnd.a+json", b"[", "body of application/vnd.a+json cannot be read"),
        ("application/msgpack", b"\xc1", "body of application/msgpack cannot be read"),
    ):
        response = await post(app, body, f"Content-Type: {content_type}")
        assert response.status == 400
        assert said.lower() in response.text.lower()


async def test_a_handler_may_catch_what_is_broken() -> None:
    app = Kyoukai("catching")

    @app.route("/", methods=["POST"])
    async def read(ctx: HTTPRequestContext) -> Any:
        try:
            return await ctx.request.get_media()
        except json.JSONDecodeError as error:
            return {"at": error.pos, "media": isinstance(error, MediaError)}, 422

    response = await post(app, b'["\xc3\xa9" x]', "Content-Type: application/json")
    assert (response.status, response.json()) == (422, {"at": 5, "media": True})


async def test_an_error_handler_may_answer_what_is_broken() -> None:
    app = reading_app()

    @app.errorhandler(MediaError)
    async def broken(ctx: HTTPRequestContext, error: MediaError) -> Any:
        return {"received": error.received}, 422

    response = await post(app, b"{", "Content-Type: application/json")
    assert (response.status, response.json()) == (422, {"received": True})


async def test_a_middleware_reads_what_the_handler_gets() -> None:
    app = Kyoukai("watched")
    seen = []

    class Reader:
        async def process_request(self, ctx: HTTPRequestContext) -> None:
            seen.append(await ctx.request.get_media())

    app.add_middleware(Reader())

    @app.route("/", methods=["POST"])
    async def read(ctx: HTTPRequestContext) -> Any:
        assert await ctx.request.get_media() is seen[0]
        return ctx.request.json

    response = await post(app, b'{"a": 1}', "Content-Type: application/json")
    assert response.json() == seen[0] == {"a": 1}


async def test_requests_outside_a_pipeline_read_by_default() -> None:
    environ = to_wsgi_environment(JSON, "POST", "/", "1.1", io.BytesIO(b'{"a":1}'))
    environ["CONTENT_LENGTH"] = "7"
    request = Request(environ)
    assert await request.get_media() == {"a": 1}
    assert list(request.media_handlers) == ["application/json", "application/msgpack"]
    request = Request(to_wsgi_environment({}, "POST", "/", "1.1", io.BytesIO(b"")))
    assert await request.get_media(default_when_empty=7) == 7
    environ = to_wsgi_environment({"Content-Type": "a/b"}, "POST", "/", "1.1", io.BytesIO(b""))
    with pytest.raises(UnsupportedMediaType, match="no media handler for a/b"):
        await Request(environ).get_media()


async def test_requests_that_are_injected_read_as_the_application_says() -> None:
    app = TestKyoukai("injected")
    app.media_handlers["application/json"] = Loud()

    @app.route("/", methods=["POST"])
    async def read(ctx: HTTPRequestContext) -> Any:
        return await ctx.request.get_media()

    response = await app.inject_request(JSON, "/", "POST", '{"a": 1}')
    assert response.get_data() == b'{"LOUD": {"A": 1}}'


async def test_a_middle_context_does_not_hide_the_application() -> None:
    """A hook may put another context in place."""
    app = reading_app()
    app.media_handlers["text/csv"] = CSV()

    class Other(HTTPRequestContext):
        pass

    @app.before_request
    async def other(ctx: HTTPRequestContext) -> HTTPRequestContext:
        return Other(ctx.app, ctx.request, ctx)

    assert (await post(app, b"1,2\n", "Content-Type: text/csv")).text == "[['1', '2']]"


# -- Answers -----------------------------------------------------------------------------------


async def answer(value: Any, app: Kyoukai | None = None, method: str = "GET") -> ClientResponse:
    """What a client gets for what a handler returns."""
    app = app or Kyoukai("answers")

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> Any:
        return value

    async with Client(app) as client:
        return await client.request(method, "/")


WRITTEN = [
    ({"a": 1}, MSGPACK),
    ([1, "é"], MSGPACK),
    (Point(3), MSGPACK),
    (Point(3), JSON),
    (7, JSON),
    (True, JSON),
    (1.5, MSGPACK),
    ({"a"}, {"content-type": "Application/JSON; x=y"}),
    (datetime.date(2020, 1, 2), [("Content-Type", "application/json")]),
    ({"title": "no"}, {"Content-Type": "application/problem+json"}),
    (frozenset({1}), {"X-A": "1", "Content-Type": ["application/msgpack"]}),
]


@pytest.mark.parametrize(("media", "headers"), WRITTEN)
@pytest.mark.parametrize("status", [None, 200, 201, "418 Teapot"])
async def test_answers_are_written_as_their_content_type_says(
    media: Any, headers: Any, status: Any
) -> None:
    response = await answer((media, status, headers) if status else (media, headers))
    assert response.status == int(str(status or 200)[:3])
    pairs = dict(headers)
    (name,) = (name for name in pairs if name.lower() == "content-type")
    value = pairs[name] if isinstance(pairs[name], str) else pairs[name][0]
    assert response.headers.getlist("Content-Type") == [value]
    module = msgspec.msgpack if "msgpack" in value else msgspec.json
    assert response.body == module.encode(media)
    assert response.headers["Content-Length"] == str(len(response.body))


async def test_head_knows_the_length_of_what_would_be_written() -> None:
    response = await answer(({"a": 1}, MSGPACK), method="HEAD")
    assert response.body == b""
    assert response.headers["Content-Length"] == "4"
    assert response.headers["Content-Type"] == "application/msgpack"


@pytest.mark.parametrize("headers", [JSON, MSGPACK, {"Content-Type": "text/x"}])
async def test_what_is_a_body_already_is_not_written_again(headers: dict[str, str]) -> None:
    def numbers() -> Iterator[bytes]:
        yield b"{}"

    async def letters() -> AsyncIterator[str]:
        yield "{}"

    bodies = ("{}", b"{}", bytearray(b"{}"), memoryview(b"{}"), numbers(), letters())
    for body in (*bodies, Response("{}")):
        response = await answer((body, headers))
        assert response.body == b"{}"
        assert response.headers.getlist("Content-Type") == [headers["Content-Type"]]
    response = await answer((None, headers))
    assert (response.status, response.body) == (204, b"")


async def test_a_handler_of_another_type() -> None:
    app = Kyoukai("csv")
    app.media_handlers["text/csv"] = CSV()
    response = await answer(([[1, 2], ["a", "b,c"]], {"Content-Type": "text/csv"}), app)
    assert response.text == '1,2\r\na,"b,c"\r\n'
    assert response.headers["Content-Type"] == "text/csv"


@pytest.mark.parametrize(
    "value",
    [{"a": 1}, ["b"], ({"a": 1}, 201), ({"a": 1}, {"X-A": "1"}), ({"a": 1}, 201, {"X-A": "1"})],
)
async def test_another_json_handler_writes_dicts_and_lists(value: Any) -> None:
    app = Kyoukai("loud")
    app.media_handlers["application/json"] = Loud()
    response = await answer(value, app)
    body = value[0] if isinstance(value, tuple) else value
    assert response.text == json.dumps(body).upper()
    assert response.headers["Content-Type"] == "application/json"
    assert response.status == (201 if isinstance(value, tuple) and 201 in value else 200)


async def test_another_table_is_used_from_then_on() -> None:
    app = Kyoukai("replaced")

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> Any:
        return {"a": 1}

    async with Client(app) as client:
        assert (await client.get("/")).text == '{"a":1}'
        app.media_handlers = MediaHandlers({"application/json": Loud()})
        assert (await client.get("/")).text == '{"A": 1}'
        app.media_handlers["application/json"] = JSONHandler()
        assert (await client.get("/")).text == '{"a":1}'


async def test_hooks_and_error_handlers_answer_the_same_way() -> None:
    app = Kyoukai("everywhere")
    app.media_handlers["application/json"] = Loud()

    @app.before_request
    async def before(ctx: HTTPRequestContext) -> Any:
        return {"by": "hook"} if "hook" in ctx.request.args else None

    @app.after_request
    async def after(ctx: HTTPRequestContext, response: Any) -> Any:
        return (Point(1), MSGPACK) if "after" in ctx.request.args else None

    @app.errorhandler(404)
    async def not_found(ctx: HTTPRequestContext, error: Any) -> Any:
        return {"error": error.code}

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> Any:
        return {"by": "route"}

    async with Client(app) as client:
        assert (await client.get("/")).text == '{"BY": "ROUTE"}'
        assert (await client.get("/?hook")).text == '{"BY": "HOOK"}'
        assert msgspec.msgpack.decode((await client.get("/?after")).body) == {"x": 1}
        response = await client.get("/nothing")
        assert (response.status, response.text) == (404, '{"ERROR": 404}')


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": object()}, "dict cannot be written as application/json: TypeError: "),
        ([{1, object()}], "list cannot be written as application/json: TypeError: "),
        (({"a": object()}, 201), "dict cannot be written as application/json: TypeError: "),
        ((math, JSON), "module cannot be written as application/json: TypeError: "),
        ((2**64, MSGPACK), "int cannot be written as application/msgpack: OverflowError: "),
        (
            ({"a": 1}, {"Content-Type": "text/html"}),
            f"there is no media handler for text/html; {KNOWN}",
        ),
    ],
)
async def test_answers_that_cannot_be_written(
    value: Any, said: str, custom: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = Kyoukai("failing")
    if custom:
        app.media_handlers["application/json"] = Loud()
    response = await answer(value, app)
    assert response.status == 500
    (record,) = (each for each in caplog.records if each.levelno >= logging.ERROR)
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert isinstance(error, MediaError)
    assert str(error).startswith(said)
    assert not error.received
    assert "index" in record.getMessage()


def test_answers_without_a_json_handler() -> None:
    handlers = MediaHandlers({"application/msgpack": MessagePackHandler()})
    assert plain_response({}, handlers) is None
    assert plain_response("x", handlers) == plain_response("x")
    with pytest.raises(MediaError, match="no media handler for application/json; there are: appl"):
        wrap_response({}, handlers=handlers)
    made = wrap_response(({}, MSGPACK), handlers=handlers)
    assert made.get_data() == b"\x80"
