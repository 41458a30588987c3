"""What PEP 3333 forbids an application, and what it, the log and the client get to see of it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from talks import lines_of
from wsgi_apps import PLAIN, Body, Gate, both, hosted, saying

from kyoukai.exceptions import InterfaceError, InvalidResponse
from kyoukai.interfaces.wsgi_files import ErrorLog


def starting(*arguments: Any, times: int = 1) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        for _ in range(times):
            start_response(*arguments)
        return [b"body"]

    return app


def head(*headers: Any, status: Any = "200 OK") -> Any:
    return starting(status, list(headers))


def silent(environ: dict[str, Any], start_response: Any) -> Any:
    return []


def silent_iterator(environ: dict[str, Any], start_response: Any) -> Any:
    return iter(())


def too_soon(environ: dict[str, Any], start_response: Any) -> Any:
    yield b""
    start_response("200 OK", [])
    yield b"x"


def writing(data: Any, length: int | None = None) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        headers = [] if length is None else [("Content-Length", str(length))]
        start_response("200 OK", headers)(data)
        return []

    return app


STATUS = "the status must be like '200 OK', a number from 200 to 599 and its reason, not "

#: Applications that break a rule before anything is sent, and the rule.
BAD: dict[str, tuple[Any, str]] = {
    "None": (saying(None), "the application returned NoneType, not an iterable of bytes"),
    "number": (saying(5), "the application returned int, not an iterable of bytes"),
    "str": (saying("body"), "the application returned str, not an iterable of bytes"),
    "bytes": (saying(b"body"), "the application returned bytes, not an iterable of bytes"),
    "str-in-list": (saying(["x"]), "the body must come in bytes, not str"),
    "str-in-parts": (saying([b"x", "x"]), "the body must come in bytes, not str"),
    "str-in-iterator": (saying(lambda: iter(["x"])), "the body must come in bytes, not str"),
    "bytearray": (saying([bytearray(b"x")]), "the body must come in bytes, not bytearray"),
    "None-in-iterator": (saying(lambda: iter([None])), "the body must come in bytes, not NoneType"),
    "dict": (saying({"a": 1}), "the body must come in bytes, not str"),
    "silent": (silent, "the application returned without calling start_response()"),
    "silent-iterator": (
        silent_iterator,
        "the application returned without calling start_response()",
    ),
    "too-soon": (too_soon, "the body began before start_response() was called"),
    "twice": (
        starting("200 OK", [], times=2),
        "start_response() was called twice, without exc_info",
    ),
    "write-str": (writing("x"), "the body must come in bytes, not str"),
    "write-None": (writing(None), "the body must come in bytes, not NoneType"),
    "write-too-long": (writing(b"xyz", 2), "the body is longer than its Content-Length"),
    "status-number": (head(status=200), "the status must be str, not int"),
    "status-bytes": (head(status=b"200 OK"), "the status must be str, not bytes"),
    "status-bare": (head(status="200"), f"{STATUS}'200'"),
    "status-word": (head(status="OK"), f"{STATUS}'OK'"),
    "status-short": (head(status="20 OK"), f"{STATUS}'20 OK'"),
    "status-long": (head(status="2000 OK"), f"{STATUS}'2000 OK'"),
    "status-interim": (head(status="100 Continue"), f"{STATUS}'100 Continue'"),
    "status-switch": (head(status="101 Switching"), f"{STATUS}'101 Switching'"),
    "status-600": (head(status="600 Far"), f"{STATUS}'600 Far'"),
    "status-lines": (head(status="200 OK\r\nX: y"), f"{STATUS}'200 OK\\r\\nX: y'"),
    "status-digits": (head(status="٢٠٠ OK"), f"{STATUS}'٢٠٠ OK'"),
    "headers-tuple": (starting("200 OK", ()), "the headers must be a list, not tuple"),
    "headers-dict": (starting("200 OK", {}), "the headers must be a list, not dict"),
    "headers-none": (starting("200 OK", None), "the headers must be a list, not NoneType"),
    "pair-list": (head(["A", "b"]), "a header must be a tuple of two str, not ['A', 'b']"),
    "pair-three": (
        head(("A", "b", "c")),
        "a header must be a tuple of two str, not ('A', 'b', 'c')",
    ),
    "pair-bytes": (head((b"A", b"b")), "a header must be a tuple of two str, not (b'A', b'b')"),
    "pair-number": (head(("A", 1)), "a header must be a tuple of two str, not ('A', 1)"),
    "name-space": (head(("A b", "c")), "header name b'A b' is no token"),
    "name-colon": (head(("A:", "c")), "header name b'A:' is no token"),
    "name-empty": (head(("", "c")), "header name b'' is no token"),
    "value-crlf": (head(("A", "b\r\nC: d")), "header 'A' has an illegal value b'b\\r\\nC: d'"),
    "value-nul": (head(("A", "b\0")), "header 'A' has an illegal value b'b\\x00'"),
    "value-unicode": (
        head(("A", "\u20ac")),
        "the header 'A' has characters beyond Latin-1: '\\u20ac'",
    ),
    "name-unicode": (
        head(("\u20ac", "a")),
        "the header '\\u20ac' has characters beyond Latin-1: 'a'",
    ),
    "connection": (
        head(("Connection", "close")),
        "the header 'Connection' belongs to the connection, which is the server's",
    ),
    "transfer-encoding": (
        head(("transfer-encoding", "chunked")),
        "the header 'transfer-encoding' belongs to the connection, which is the server's",
    ),
    "upgrade": (
        head(("Upgrade", "h2c")),
        "the header 'Upgrade' belongs to the connection, which is the server's",
    ),
    "length-word": (
        head(("Content-Length", "four")),
        "Content-Length 'four' is not the body's length",
    ),
    "length-sign": (head(("Content-Length", "+4")), "Content-Length '+4' is not the body's length"),
    "length-huge": (
        head(("Content-Length", "9" * 5000)),
        f"Content-Length '{'9' * 80}' is not the body's length",
    ),
    "lengths": (
        head(("Content-Length", "4"), ("content-length", "5")),
        "Content-Length '5' is not the body's length",
    ),
    "longer": (head(("Content-Length", "3")), "the body has 4 bytes, its Content-Length says 3"),
    "shorter": (head(("Content-Length", "5")), "the body has 4 bytes, its Content-Length says 5"),
    "first-chunk-longer": (
        saying(lambda: iter([b"abc"]), headers=[("Content-Length", "2")]),
        "the body is longer than its Content-Length",
    ),
    "nothing": (
        saying(lambda: iter([b""]), headers=[("Content-Length", "2")]),
        "the body has 0 bytes, its Content-Length says 2",
    ),
}


@both
@pytest.mark.parametrize("name", BAD)
async def test_a_broken_rule_is_named_and_answered_by_500(
    wire: str, name: str, caplog: Any
) -> None:
    app, rule = BAD[name]
    async with hosted(app, wire) as site:
        response = await site.ask("GET", "/bad")
    assert (response.status, response.text) == (500, "Internal Server Error\n")
    assert lines_of(caplog) == [f"GET /bad: wsgi application project:app: {rule}"]


#: Applications that break a rule when some of their answer is out.
LATE: dict[str, tuple[Any, str]] = {
    "str": (saying(lambda: iter([b"x", "y"])), "the body must come in bytes, not str"),
    "longer": (
        saying(lambda: iter([b"xy", b"z", b"xyz"]), headers=[("Content-Length", "5")]),
        "the body is longer than its Content-Length",
    ),
    "shorter": (
        saying(lambda: iter([b"x", b"y"]), headers=[("Content-Length", "5")]),
        "the body is 3 bytes shorter than its Content-Length",
    ),
    "written": (writing(b"x", 2), "the body is 1 bytes shorter than its Content-Length"),
}


@both
@pytest.mark.parametrize("name", LATE)
async def test_a_broken_rule_cuts_an_answer_that_has_begun(
    wire: str, name: str, caplog: Any
) -> None:
    app, rule = LATE[name]
    async with hosted(app, wire) as site:
        with pytest.raises(ConnectionError):
            await site.ask()
    assert lines_of(caplog) == [f"GET /: wsgi application project:app: {rule}"]


@both
async def test_more_than_the_whole_is_logged(wire: str, caplog: Any) -> None:
    """The client has all that it was promised, and no more."""
    app = saying(lambda: iter([b"whole", b"more"]), headers=[("Content-Length", "5")])
    async with hosted(app, wire) as site:
        response = await site.ask()
    assert (response.status, response.body) == (200, b"whole")
    assert lines_of(caplog) == [
        "GET /: wsgi application project:app: the body is longer than its Content-Length"
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("200", []), InterfaceError),
        (("200 OK", [("Connection", "x")]), InterfaceError),
        (("200 OK", [("A", "\n")]), InvalidResponse),
    ],
)
async def test_the_error_is_raised_where_the_application_called(
    arguments: Any, error: type[Exception], caplog: Any
) -> None:
    """It may catch it, and start its response after all."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        with pytest.raises(error):
            start_response(*arguments)
        start_response("200 OK", PLAIN)
        return [b"caught"]

    async with hosted(app) as site:
        assert (await site.ask()).body == b"caught"
    assert not lines_of(caplog)


async def test_what_breaks_a_rule_is_closed(caplog: Any) -> None:
    bodies = [Body([b"x", "y"]), Body(["x"]), Body([]), Body([b"long"])]
    lengths = [None, None, "3", "3"]

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        index = int(environ["QUERY_STRING"])
        length = lengths[index]
        start_response("200 OK", [("Content-Length", length)] if length else [])
        return bodies[index]

    async with hosted(app) as site:
        for index, body in enumerate(bodies):
            if index:
                assert (await site.ask("GET", f"/?{index}")).status == 500
            else:
                with pytest.raises(ConnectionError):
                    await site.ask("GET", "/?0")
            await body.closed.opened()
            assert body.closings == 1
            assert len(body.threads) == 2  # the one that made it here, and the application's
    assert len(lines_of(caplog)) == 4


async def test_an_object_that_cannot_be_iterated_is_closed(caplog: Any) -> None:
    class Closable:
        closed = Gate()

        def close(self) -> None:
            self.closed.open()

    async with hosted(saying(Closable())) as site:
        assert (await site.ask()).status == 500
        assert Closable.closed.is_open


# -- The environ -----------------------------------------------------------------------------------


async def test_the_environ() -> None:
    environs = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environs.append(environ)
        start_response("200 OK", PLAIN)
        return []

    async with hosted(app) as site:
        await site.ask("PUT", "/a%C3%A4/b?c=%20", body=b"x", headers={"X-Y": "caf\xe9"})
        await site.ask("OPTIONS", "*")
    first, second = environs
    assert type(first) is dict
    assert first["PATH_INFO"] == "/a\xc3\xa4/b"
    assert (first["SCRIPT_NAME"], first["QUERY_STRING"]) == ("", "c=%20")
    assert (first["CONTENT_LENGTH"], first["HTTP_X_Y"]) == ("1", "caf\xe9")
    assert "CONTENT_TYPE" not in first
    assert first["wsgi.multithread"] is True
    assert first["wsgi.multiprocess"] is first["wsgi.run_once"] is False
    assert first["wsgi.input_terminated"] is True
    assert "kyoukai.stream" not in first  # it belongs to the loop
    assert second["PATH_INFO"] == ""
    assert "CONTENT_LENGTH" not in second
    assert first["wsgi.input"] is not second["wsgi.input"]


@pytest.mark.parametrize(
    ("target", "script", "path"),
    [
        ("/shop/a%2Fb/", "/shop", "/a/b/"),
        ("/shop/", "/shop", "/"),
        ("/shop", "/shop", ""),
        ("/other", "/shop", "/other"),
    ],
)
async def test_paths_below_a_prefix(target: str, script: str, path: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode("latin-1")]

    async with hosted(app, root_path="/shop") as site:
        assert (await site.ask("GET", target)).text == f"{script}|{path}"


# -- wsgi.errors -----------------------------------------------------------------------------------


def test_errors_are_logged_by_lines(caplog: Any) -> None:
    def logged() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    errors = ErrorLog()
    assert errors.write("half") == 4
    assert not logged()
    print(" and half", file=errors)
    assert logged() == ["half and half"]
    errors.write("Traceback:\n  one\n  two\nrest")
    assert logged() == ["Traceback:\n  one\n  two"]
    errors.flush()
    errors.flush()
    assert logged() == ["rest"]
    errors.writelines(["a\n", "b", "\n"])
    assert logged() == ["a\nb"]
    errors.write("\n")
    assert logged() == [""]
    errors.write("%s %d\n")
    assert logged() == ["%s %d"]
    for _ in range(70):
        errors.write("x" * 1000)
    assert [len(line) for line in logged()] == [66000]  # it does not grow without bounds
    with pytest.raises(TypeError, match="wsgi.errors takes str, not bytes"):
        errors.write(b"bytes")  # type: ignore[arg-type]


@both
async def test_what_is_left_of_errors_is_logged_at_the_end(wire: str, caplog: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.errors"].write("no end of line")
        start_response("200 OK", PLAIN)
        return [b""]

    async with hosted(app, wire) as site:
        await site.ask()
    (record,) = [each for each in caplog.records if each.name == "kyoukai.wsgi"]
    assert (record.getMessage(), record.levelno) == ("no end of line", logging.ERROR)
