"""The specification of SSGI: its tables have all names of the draft and of ours, as they are."""

from __future__ import annotations

import ast
import inspect
import re
import types
from typing import Any

import pytest
from backends.support import turns
from ssgi_peers import interface, served
from test_docs import DOCS, blocks_of
from test_docs_tables import literals_of, rows_of

from kyoukai.interfaces.ssgi import SSGIFramework, SSGIHttpResponse, SSGIWebSocket
from kyoukai.interfaces.ssgi_headers import RequestHeaders
from kyoukai.interfaces.ssgi_negotiation import SUPPORTED
from kyoukai.testing import Client

PAGE = "ssgi.rst"
TEXT = (DOCS / PAGE).read_text()
ROWS = rows_of(PAGE)

#: The draft: every member with its arguments, defaults and types, and every rule.
DRAFT = """
SSGIHttpResponse
SSGIHttpResponse.aborted
aborted: bool = False
SSGIHttpResponse.extensions
extensions: Optional[dict] = None
SSGIHttpResponse.send(payload)
send(payload: str)
send(payload: bytes, bytearray, memoryview)
send(payload=None)
send(has_more=False)
has_more
SSGIHttpResponse.send_chunk(chunk)
send_chunk(total_size=False)
total_size
tuple(bool, bool)
SSGIHttpResponse.send_status(status_code)
send_status(status_code=200)
SSGIHttpResponse.send_headers(headers)
headers: iter(tuple(str, str))
SSGIHttpResponse.run_async(handler, *arguments)
SSGIHttpResponse.get_data()
get_data
SSGIHttpResponse.get_chunk()
get_chunk
BytesIO
SSGIHttpResponse.on_aborted(handler, *arguments)
handler: Union[Awaitable, Callable]
SSGIWebSocket
SSGIWebSocket.status
status: int = 0
SSGIWebSocket.extensions
SSGIWebSocket.accept(protocol)
accept(protocol=None)
SSGIWebSocket.reject(status_code, payload, headers)
reject(status_code=403)
reject(payload=None)
reject(headers=None)
SSGIWebSocket.send(payload)
SSGIWebSocket.close(code)
close(code=1000)
SSGIWebSocket.run_async(handler, *arguments)
SSGIWebSocket.on_receive(handler, *arguments)
on_receive
msg
SSGIWebSocket.on_close(handler, *arguments)
on_close
reason: Optional[str] = None
ssgi
ssgi(type)
ssgi(server_address)
ssgi(remote_address)
:{port}
ssgi(method)
ssgi(path)
ssgi(query_string)
ssgi(get_header)
ssgi(res)
get_header(name)
get_header(name=None)
res.run_async
accept
reject
run_async
SSGIFramework
SSGIFramework.get_supported(supported_interfaces)
supported_interfaces
"http"
"websockets"
tuple(interface_name, interface_handler)
wsgi(environ, start_response)
asgi(scope, receive, send)
rsgi(scope, proto)
"""

#: Rules of the draft that have no name: what a row says of each.
RULES = (
    ": no body",
    "the answer goes on",
    "less pressure",
    "passes the arguments on",
    "pending",
    "1: rejected",
    "2: closed",
    "3: accepted",
    "the outcome may be ignored",
    "in lower case",
    "end with the call",
    "or later, with ``res.run_async``",
    "but with ``accept`` and ``reject``",
    "a coroutine needs no ``run_async``",
    "one call for each request and each handshake",
    "sync or async",
    "names and versions",
    "one for HTTP, another for WebSockets",
    "None: nothing serves the protocol",
)


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The page's own first program."""
    module = types.ModuleType("shop")
    block = next(block for block in blocks_of(DOCS / PAGE) if block.language == "python")
    exec(compile(block.text, PAGE, "exec"), vars(module))
    return vars(module)


class Framework(SSGIFramework):
    def get_supported(self, supported_interfaces: dict[str, str]) -> Any:
        return {"http": ("ssgi", print), "websockets": ("ssgi", print)}


async def live_names(page: dict[str, Any]) -> dict[str, Any]:
    """Return what the second column is written with."""
    seen: dict[str, Any] = {}

    def application(*arguments: Any) -> None:
        if arguments[0] == "http":
            seen["res"] = arguments[7]
            arguments[7].send("ok")
        else:
            seen["ws"] = arguments[7]
            arguments[7].accept()
            arguments[7].close()

    async with Client(interface(application)) as client:
        await client.get("/")
        async with client.websocket("/"):
            await turns()
    classes = (SSGIFramework, SSGIHttpResponse, SSGIWebSocket)
    return {
        **seen,
        **{each.__name__: each for each in classes},
        "ssgi": page["ssgi"],
        "get_header": RequestHeaders([]),
        "SUPPORTED": SUPPORTED,
        "negotiated": interface(Framework()).negotiated,
    }


def check(literal: str, names: dict[str, Any]) -> None:
    """Raise unless a name exists, with the parameters and defaults that it is written with."""
    node = ast.parse(literal, mode="eval").body
    call = node if isinstance(node, ast.Call) else None
    path = node.func if isinstance(node, ast.Call) else node
    parts = []
    while isinstance(path, ast.Attribute):
        parts.append(path.attr)
        path = path.value
    assert isinstance(path, ast.Name), literal
    found = names[path.id]
    owner = None
    for part in reversed(parts):
        owner, found = found, getattr(found, part)
    if call is None:
        return
    parameters = list(inspect.signature(found).parameters.values())
    if inspect.isclass(owner):
        parameters = parameters[1:]
    given = [*call.args, *call.keywords]
    assert len(given) <= len(parameters)
    for argument in call.args:
        parameter = parameters[call.args.index(argument)]
        if isinstance(argument, ast.Starred):
            assert parameter.kind is parameter.VAR_POSITIONAL
            argument = argument.value
        assert isinstance(argument, ast.Name)
        assert argument.id == parameter.name
    for keyword in call.keywords:
        parameter = next(each for each in parameters if each.name == keyword.arg)
        default = ast.literal_eval(keyword.value)
        assert parameter.default == default
        assert type(parameter.default) is type(default)  # False is not 0


# -- The table ---------------------------------------------------------------------------------


async def test_our_names_exist(page: dict[str, Any]) -> None:
    names = await live_names(page)
    wrong = []
    for row in ROWS:
        assert row.names, f"{PAGE}:{row.line}: no name of ours"
        for literal in row.names:
            try:
                check(literal, names)
            except Exception as error:
                wrong.append(f"{PAGE}:{row.line}: {literal}: {error!r}")
    assert wrong == []


async def test_wrong_names_are_noticed(page: dict[str, Any]) -> None:
    """Else nothing of the table would be checked."""
    names = await live_names(page)
    for wrong in (
        "SSGIHttpResponse.sent",
        "res.status",
        "ws.aborted",
        "SSGIHttpResponse.send(data)",
        "SSGIHttpResponse.send(payload, has_more=True)",
        "SSGIHttpResponse.send_chunk(chunk, total_size=0)",
        "SSGIHttpResponse.run_async(*arguments)",
        "SSGIWebSocket.reject(payload)",
        "SSGIWebSocket.close(code, reason)",
        "ssgi(kind)",
        "1 + 1",
    ):
        with pytest.raises((AssertionError, AttributeError, KeyError)):
            check(wrong, names)


def test_every_row_is_whole_and_there_once() -> None:
    assert len(ROWS) > 80
    for row in ROWS:
        assert row.theirs.strip(), row.line
        assert len(row.remark.split()) >= 1, row.line
    theirs = [row.theirs for row in ROWS]
    assert len(set(theirs)) == len(theirs)


def test_every_name_and_rule_of_the_draft_has_a_row() -> None:
    literals = {literal for row in ROWS for literal in literals_of(row.theirs)}
    assert [name for name in DRAFT.strip().splitlines() if name not in literals] == []
    for rule in RULES:
        assert [row for row in ROWS if rule in row.theirs], rule


def test_every_literal_of_the_first_column_is_the_drafts() -> None:
    known = {*DRAFT.strip().splitlines(), "send", "on_aborted", "status", "ws", "code"}
    known |= {"reason", "*arguments", "dict", "send_chunk", "SSGIWebSocket.send"}
    for row in ROWS:
        assert set(literals_of(row.theirs)) <= known, f"{PAGE}:{row.line}"


# -- The rest of the page ----------------------------------------------------------------------


def simple_tables() -> list[list[tuple[str, str]]]:
    """Return the first two columns of the simple tables; lines that go on belong to the last."""
    tables: list[list[tuple[str, str]]] = []
    edge: int | None = None
    for line in TEXT.splitlines():
        if re.fullmatch(r"=+  =+", line):
            if edge is None:
                edge = line.index("  ") + 2
                tables.append([])
            else:
                edge = None
        elif edge is not None and line[:1] not in ("", " "):
            tables[-1].append((line[: edge - 2].strip("` ").removeprefix("await "), line[edge:]))
    return tables


ARGUMENTS, HTTP, SOCKET, EXTENSIONS = simple_tables()


def members(owner: type) -> set[str]:
    """Return what a class has in public, but for what the server alone calls."""
    ours = {"fail", "finish", "goes_on", "abandon", "socket_writable", "socket_closed"}
    return {name for name in dir(owner) if not name.startswith("_")} - ours


@pytest.mark.parametrize(("table", "owner"), [(HTTP, SSGIHttpResponse), (SOCKET, SSGIWebSocket)])
def test_the_tables_of_members_are_whole(table: Any, owner: type) -> None:
    assert {name.partition("(")[0] for name, _ in table} == members(owner)
    for name, _ in table:
        check(f"{owner.__name__}.{name}", {owner.__name__: owner})


def test_the_table_of_arguments_is_whole(page: dict[str, Any]) -> None:
    assert [name for name, _ in ARGUMENTS] == list(inspect.signature(page["ssgi"]).parameters)


async def test_the_table_of_extensions_is_whole(page: dict[str, Any]) -> None:
    names = await live_names(page)
    told = [name for name, _ in EXTENSIONS]
    assert told == list(names["ws"].extensions)
    sockets = [name for name, text in EXTENSIONS if text.startswith("of a WebSocket")]
    assert list(names["res"].extensions) == [name for name in told if name not in sockets]


def test_what_frameworks_are_told_is_on_the_page() -> None:
    [told] = re.findall(r'^   (\{"asgi".*\})$', TEXT, re.MULTILINE)
    assert ast.literal_eval(told) == SUPPORTED


async def test_the_example_is_an_application_by_itself(page: dict[str, Any]) -> None:
    async with served(page["ssgi"], "http2") as client:
        client.request("POST", "/upper", body=b"abc")
        assert (await client.response()).text == "ABC\n"
