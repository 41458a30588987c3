"""
The tables from other frameworks' names to ours: every name of ours exists, as it is written.

A literal in the second column is a name, perhaps called. It is found in the page's own code, on the
objects of a live conversation, or by import. Arguments of a call are parameters of that name, in
their order; what is given to a keyword is its default.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from talks import ends
from test_docs import DOCS, blocks_of

import kyoukai
from kyoukai.testing import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What a row says that has no name of ours.
NO_NAME = ("the same", "gone")


@dataclass(frozen=True)
class Row:
    """A row of a table: their name or rule, ours, and what is to be said of it."""

    line: int
    theirs: str
    ours: str
    remark: str

    @property
    def names(self) -> list[str]:
        return literals_of(self.ours)


def literals_of(cell: str) -> list[str]:
    return re.findall(r"``(.*?)``", cell)


def rows_of(page: str) -> list[Row]:
    return list(_rows((DOCS / page).read_text().splitlines()))


def _rows(lines: list[str]) -> Iterator[Row]:
    cells: list[str] = []
    start = 0
    header = False
    for number, line in enumerate([*lines, ""], 1):
        if re.match(r"   \* - ", line):
            cells = [line[7:]]
            start = number
        elif re.match(r"     -($| )", line) and cells:
            cells.append(line[7:])
        elif line.startswith("       ") and cells:
            cells[-1] += f" {line.strip()}"
        if line == ".. list-table::":
            header = True
        following = lines[number] if number < len(lines) else ""
        if cells and not re.match(r"     -($| )|       ", following):
            assert len(cells) == 3, f"line {start} has {len(cells)} columns"
            if not header:
                yield Row(start, *cells)
            header = False
            cells = []


ROWS = rows_of("falcon.rst")


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What is known without importing it: our public names, and those that the page defines."""
    module = types.ModuleType("page")
    for block in blocks_of(DOCS / "falcon.rst"):
        if block.language == "python":
            exec(compile(block.text, "falcon.rst", "exec"), vars(module))
    return {**vars(builtins), **vars(kyoukai), **vars(module)}


# -- Names -------------------------------------------------------------------------------------


def resolve(node: ast.expr, names: dict[str, Any]) -> Any:
    """Return what a name stands for; in calls, what is called."""
    match node:
        case ast.Name(name):
            return names[name] if name in names else importlib.import_module(name)
        case ast.Attribute(value, name):
            parent = resolve(value, names)
            if isinstance(parent, types.ModuleType) and not hasattr(parent, name):
                return importlib.import_module(f"{parent.__name__}.{name}")
            return getattr(parent, name)
        case ast.Call(function, arguments, keywords):
            called = resolve(function, names)
            check_arguments(called, arguments, keywords, names)
            return called
    raise AssertionError(f"neither a name nor a call: {ast.unparse(node)}")


def check_arguments(
    called: Any, arguments: list[ast.expr], keywords: list[ast.keyword], names: dict[str, Any]
) -> None:
    parameters = list(inspect.signature(called).parameters.values())
    by_name = {parameter.name: parameter for parameter in parameters}
    if parameters and parameters[0].name == "self":  # a method of a class
        parameters = parameters[1:]
    given = [argument.id for argument in arguments if isinstance(argument, ast.Name)]
    assert len(given) == len(arguments)
    assert given == [parameter.name for parameter in parameters][: len(given)]
    for keyword in keywords:
        default = eval(ast.unparse(keyword.value), dict(names))
        assert by_name[keyword.arg].default == default, keyword.arg


@pytest.mark.parametrize("http2", [False, True])
async def test_our_names_exist(http2: bool, names: dict[str, Any]) -> None:
    async with ends(http2) as pair, Client(pair.app) as client:
        alive = {
            "app": pair.app,
            "ctx": pair.ctx,
            "request": pair.ctx.request,
            "ws": pair.server,
            "error": kyoukai.WebSocketDisconnected(),
            "client": client,
            "socket": pair.client,
        }
        wrong = []
        for row in ROWS:
            for literal in row.names:
                try:
                    resolve(ast.parse(literal, mode="eval").body, {**names, **alive})
                except Exception as error:
                    wrong.append(f"falcon.rst:{row.line}: {literal}: {error!r}")
        assert wrong == []


def test_wrong_names_are_noticed(names: dict[str, Any]) -> None:
    """Else nothing of the tables would be checked."""
    for wrong in (
        "WebSocket.recieve",
        "kyoukai.websockets",
        "WebSocket.accept(protocol)",
        "WebSocket.accept(subprotocol='')",
        "WebSocket.accept(none=None)",
        "WebSocket.accept(headers, subprotocol)",
        "1 + 1",
    ):
        with pytest.raises((AssertionError, AttributeError, ImportError, KeyError)):
            resolve(ast.parse(wrong, mode="eval").body, names)
    resolve(ast.parse("WebSocket.accept(subprotocol, headers=None)", mode="eval").body, names)


# -- Rows --------------------------------------------------------------------------------------


def test_every_row_has_a_name_or_a_reason() -> None:
    assert len(ROWS) > 150
    for row in ROWS:
        place = f"falcon.rst:{row.line}"
        assert row.theirs.strip(), place
        assert row.names or row.ours.strip() in NO_NAME, place
        if row.ours.strip() == "gone":
            assert len(row.remark.split()) >= 3, f"{place}: why is it gone?"


def test_no_row_is_there_twice() -> None:
    theirs = [row.theirs for row in ROWS if row.theirs != "nothing like it"]
    assert len(set(theirs)) == len(theirs)


#: The proposal, and what Falcon 4.4 has made of it: members, arguments with their defaults,
#: exceptions. Each has a row.
THEIRS = """
App App(middleware) App(request_type) App(response_type) App(media_type) App(router)
App(independent_middleware) App(cors_enable) App(sink_before_static_route)
App.add_route(uri_template,resource) App.add_route(suffix) App.add_route(compile)
App.add_middleware(middleware) App.add_error_handler(exception,handler)
App.set_error_serializer App.set_error_reporter App.add_sink App.add_static_route App.ws_options
App.req_options.media_handlers App.resp_options.media_handlers process_startup process_shutdown
falcon.create_task
on_get on_websocket on_get_{suffix} falcon.before falcon.after req.get_header req.params req.path
req.context req.get_media req.media resp.media resp.status resp.set_header
WebSocket ws.subprotocols ws.unaccepted ws.ready ws.closed ws.supports_accept_headers ws.accept
accept(subprotocol) accept(headers) ws.close close(code) close(reason) ws.send_text(payload)
ws.send_data(payload) ws.send_media(media) send_media(payload_type) ws.receive_text
ws.receive_data ws.receive_media
WebSocketOptions ws_options.error_close_code ws_options.max_receive_queue
ws_options.default_close_reasons ws_options.media_handlers
WebSocketPayloadType.TEXT WebSocketPayloadType.BINARY TextBaseHandlerWS
TextBaseHandlerWS.serialize(media) TextBaseHandlerWS.deserialize(payload) BinaryBaseHandlerWS
BinaryBaseHandlerWS.serialize(media) BinaryBaseHandlerWS.deserialize(payload)
JSONHandlerWS(dumps,loads) MessagePackHandlerWS MissingDependencyHandler BaseHandler
BaseHandler.serialize(media,content_type)
BaseHandler.deserialize(stream,content_type,content_length) BaseHandler.serialize_async
BaseHandler.deserialize_async BaseHandler.exhaust_stream JSONHandler(dumps,loads)
MessagePackHandler URLEncodedFormHandler MultipartFormHandler Handlers MediaNotFoundError
MediaMalformedError HTTPUnsupportedMediaType json.JSONDecodeError
process_request(req,resp) process_resource(req,resp,resource,params)
process_response(req,resp,resource,req_succeeded) process_request_ws(req,ws)
process_resource_ws(req,ws,resource,params) resp.complete
WebSocketDisconnected WebSocketDisconnected(code) WebSocketDisconnected.code PayloadTypeError
OperationNotAllowed WebSocketPathNotFound WebSocketHandlerNotFound WebSocketServerError
handler(req,resp,ex,params,ws) HTTPError falcon.HTTPStatus
ASGIConductor(app) conductor.simulate_ws(path) simulate_ws(timeout) simulate_ws(headers)
simulate_ws(subprotocols) simulate_ws(http_version) simulate_ws(query_string) simulate_ws
ASGIWebSocketSimulator ws.wait_ready(timeout) ws.close_code ws.close_reason ws.subprotocol
ws.headers ws.close(code,reason) ws.send_json(media) ws.send_msgpack(media) ws.receive_json
ws.receive_msgpack
"""


def test_every_name_of_theirs_has_a_row() -> None:
    found: set[str] = set()
    for row in ROWS:
        for literal in literals_of(row.theirs):
            name = re.sub(r"^(await|raise|@) ?|=[^,)]*| ", "", literal)
            found |= {name, name.partition("(")[0]}
            # With and without their package.
            short = re.sub(r"^falcon\.((asgi|media|testing)\.)?", "", name)
            found |= {short, short.partition("(")[0]}
    missing = [name for name in THEIRS.split() if name not in found]
    assert missing == []
