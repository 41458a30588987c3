"""What handlers return, and the responses that it becomes."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import pytest
from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response

from kyoukai import util
from kyoukai.exceptions import MediaError
from kyoukai.util import as_html, as_json, as_plaintext, plain_response, wrap_response


class Special(Response):
    pass


class Text(str):
    __slots__ = ()


@dataclass
class Point:
    x: int


def facts(response: Response) -> tuple[int, str | None, bytes]:
    return response.status_code, response.headers.get("Content-Type"), response.get_data()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("hé", (200, "text/plain; charset=utf-8", "hé".encode())),
        (Text("t"), (200, "text/plain; charset=utf-8", b"t")),
        (b"\x00", (200, "application/octet-stream", b"\x00")),
        (bytearray(b"\x01"), (200, "application/octet-stream", b"\x01")),
        ({"a": [1, None]}, (200, "application/json", b'{"a":[1,null]}')),
        ([], (200, "application/json", b"[]")),
        (None, (204, None, b"")),
        (("no", 404), (404, "text/plain; charset=utf-8", b"no")),
        (({"a": 1}, HTTPStatus.CREATED), (201, "application/json", b'{"a":1}')),
        ((None, 404), (404, None, b"")),
        ((None, {"X-A": "1"}), (204, None, b"")),
        (("x", "418 Teapot"), (418, "text/plain; charset=utf-8", b"x")),
        (("x", None, {"Content-Type": "text/css"}), (200, "text/css", b"x")),
        ((b"x", 206, [("Content-Type", "image/png")]), (206, "image/png", b"x")),
        (("x", Headers([("Content-Type", "text/css")])), (200, "text/css", b"x")),
        ((Response("r", 400), 401), (401, "text/plain; charset=utf-8", b"r")),
    ],
)
def test_wrap_response(value: Any, expected: tuple[int, str | None, bytes]) -> None:
    assert facts(wrap_response(value)) == expected
    made = wrap_response(value, Special)
    assert facts(made) == expected
    given = value[0] if isinstance(value, tuple) else value
    assert isinstance(made, Special) != isinstance(given, Response)


@pytest.mark.parametrize(
    "value", ["hé", b"\x00", {"a": [1, None]}, [1], None, ("no", 404), ({}, 201), (None, 404)]
)
def test_plain_response_says_what_wrap_response_says(value: Any) -> None:
    plain = plain_response(value)
    assert plain is not None
    status, headers, body = plain
    kind = dict(headers).get(b"content-type")
    assert (status, kind and kind.decode(), body) == facts(wrap_response(value))
    again = plain_response(value)
    assert again is not None
    assert again[1] is headers  # the wire remembers the tuple


@pytest.mark.parametrize(
    "value",
    [
        Response("x"),
        iter(()),
        object(),
        ("x", 200, {}),
        ("x", {}),
        ("x", True),
        (("x", 200), 200),
        (Response("x"), 200),
        ("x",),
        Text("x"),
    ],
)
def test_plain_response_leaves_the_rest(value: Any) -> None:
    assert plain_response(value) is None


def test_headers_of_a_tuple_are_added() -> None:
    response = wrap_response(("x", 200, [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]))
    assert response.headers.getlist("Set-Cookie") == ["a=1", "b=2"]
    assert response.headers["Content-Length"] == "1"


def test_a_response_stays_what_it_is() -> None:
    response = Special("x")
    assert wrap_response(response) is response


def test_iterators_are_streamed() -> None:
    def numbers() -> Iterator[bytes]:
        yield b"1"

    async def letters() -> AsyncIterator[bytes]:
        yield b"a"

    for source in (numbers(), letters()):
        response = wrap_response(source)
        assert response.response is source
        assert response.is_streamed
        assert response.headers["Content-Type"] == util.TEXT


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "builtins.object"),
        (7, "builtins.int"),
        ({1, 2}, "builtins.set"),
        (Point(1), "test_util.Point"),
        ((), "a tuple of 0"),
        (("x",), "a tuple of 1"),
        (("x", 1, {}, 4), "a tuple of 4"),
        (("x", 2.5), "a status of type float"),
        (("x", True), "a status of type bool"),
        (("x", 200, 5), "headers of type int"),
        ((("x", 1), 200), "a tuple in a tuple"),
        ((object(), 200), "builtins.object"),
    ],
)
def test_wrong_types_are_named(value: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"{named}; allowed: str, bytes, dict"):
        wrap_response(value)


def test_json_that_cannot_be() -> None:
    with pytest.raises(TypeError, match="object"):
        as_json({"a": object()})
    for convert in (plain_response, wrap_response):
        with pytest.raises(MediaError) as caught:
            convert({"a": object()})
        assert str(caught.value) == (
            "dict cannot be written as application/json: "
            "TypeError: Encoding objects of type object is unsupported"
        )
        assert caught.value.payload_type == "application/json"
        assert not caught.value.received
        assert isinstance(caught.value.__cause__, TypeError)


def test_helpers() -> None:
    assert facts(as_html("<p>")) == (200, "text/html; charset=utf-8", b"<p>")
    assert facts(as_plaintext("p", 404)) == (404, "text/plain; charset=utf-8", b"p")
    made = as_json([Point(1), uuid.UUID(int=0), datetime.date(2020, 1, 2)], 201)
    assert facts(made) == (
        201,
        "application/json",
        b'[{"x":1},"00000000-0000-0000-0000-000000000000","2020-01-02"]',
    )


def test_helpers_take_headers_and_leave_them_alone() -> None:
    headers = Headers([("X-A", "1")])
    response = as_html("x", headers=headers)
    assert response.headers["X-A"] == "1"
    assert list(headers) == [("X-A", "1")]
    problem = as_json({}, 400, {"Content-Type": "application/problem+json"})
    assert problem.headers.getlist("Content-Type") == ["application/problem+json"]
