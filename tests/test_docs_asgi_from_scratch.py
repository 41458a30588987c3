"""The table from the talk's names to ours: each has a row, and what the rows name is there."""

from __future__ import annotations

import inspect
import pkgutil
import shlex
from typing import Any

import pytest
from test_docs_tables import literals_of, rows_of

from kyoukai.cli import cli
from kyoukai.interfaces.asgi import AsgiInterface
from kyoukai.testing import Client

ROWS = rows_of("asgi_from_scratch.rst")

#: What the slides define, call, or name, in their order.
THEIRS = """
asyncio.run(coroutine_function()) asyncio.start_server(echo_server,host,port)
application(environ,start_response) echo_server(reader,writer) reader.at_eof() reader.read(100)
writer.write(data) writer.drain() writer.close() server.serve_forever()
HTTPParser HTTPParser.part HTTPParser.headers HTTPParser.body_length HTTPParser.feed_line(line)
"REQUEST" "HEADERS" "BODY" HTTPParser.method HTTPParser.path HTTPParser.version
http_parser_server(reader,writer) reader.readline() body.extend(awaitreader.read(100))
print(parser.method,parser.path,parser.headers)
create_scope(parser) scope["type"] scope["method"] scope["scheme"] scope["raw_path"] scope["path"]
scope["headers"] create_message(body,more_body) "http.request" message["body"]
message["more_body"] "http.response.start" message["status"] message["headers"]
"http.response.body" echo_app(scope,receive,send) asgi_http_parser_server(reader,writer)
to_app=asyncio.Queue() from_app=asyncio.Queue() awaitapp(scope,to_app.get,from_app.put)
"""
#: What the last slide says a whole server has.
LAST_SLIDE = ["Asyncio", "Trio", "HTTP/1 [h11]", "HTTP/2 [h2]", "HTTP/3 [aioquic]"]


def test_everything_of_the_talk_has_a_row():
    found = {each.replace(" ", "") for row in ROWS for each in literals_of(row.theirs)}
    assert [each for each in THEIRS.split() if each not in found] == []
    plain = {row.theirs for row in ROWS}
    assert [each for each in (*LAST_SLIDE, "WebSockets [wsproto]") if each not in plain] == []


def test_our_names_exist():
    names = [name for row in ROWS for name in row.names]
    assert len(names) > 25
    for name in names:
        if name.startswith("kyoukai run "):
            _, command, *rest = shlex.split(name)
            cli.commands[command].make_context(command, rest)
        else:
            found = pkgutil.resolve_name(name)  # raises if there is none
            assert found is not None


def test_rows_without_a_name_say_why():
    for row in ROWS:
        assert row.names or row.ours in ("the same", "gone"), row
        assert row.remark, row


# -- What the remarks say ------------------------------------------------------------------------


@pytest.mark.parametrize("http2", [False, True])
async def test_scope_and_messages_are_as_the_rows_say(http2: bool):
    """Where a row says that something is the same, it is there, and of the type that it says."""
    seen: list[dict[str, Any]] = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        seen.append(scope)
        if scope["type"] == "http":
            seen.append(await receive())
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            seen.append(await receive())
            return
        await receive()
        await send({"type": "websocket.accept"})

    async with Client(app, interface="asgi", access_log=False) as client:
        await client.post("/a%20b?q=1", headers={"X-Name": "Value"}, body="Hello")
        async with client.websocket("/", http2=http2):
            pass
    scope, message, last, socket_scope = seen
    keys = {
        literal.split('"')[1]
        for row in ROWS
        for literal in literals_of(row.theirs)
        if literal.startswith("scope[")
    }
    assert keys == {"type", "method", "scheme", "raw_path", "path", "headers"}
    assert {key: scope[key] for key in keys - {"headers"}} == {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "raw_path": b"/a%20b",
        "path": "/a b",
    }
    assert (b"x-name", b"Value") in scope["headers"]
    assert {"query_string", "client", "state", "extensions"} <= scope.keys()
    assert message == {"type": "http.request", "body": b"Hello", "more_body": False}
    assert last == {"type": "http.disconnect"}
    assert socket_scope["type"] == "websocket"


async def test_what_the_talk_leaves_unchecked_is_refused(caplog):
    """Status and lengths, as their rows say."""
    starts = [
        {"status": 99, "headers": []},
        {"status": 600, "headers": []},
        {"status": 200, "headers": [(b"a", b"b\r\nc: d")]},
        {"status": 200, "headers": [(b"content-length", b"1")]},
    ]

    async def app(scope, receive, send):
        start = starts[int(scope["path"][1:])]
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": b"two"})

    async with Client(app, interface="asgi", lifespan="off", access_log=False) as client:
        for number, _ in enumerate(starts):
            assert (await client.get(f"/{number}")).status == 500
    assert caplog.text.count("asgi application") == len(starts)


def test_the_interface_knows_nothing_of_versions():
    source = inspect.getsource(inspect.getmodule(AsgiInterface))
    assert "httptools" not in source
    assert "h2" not in source
