"""The page on the pipeline: its steps are the class's, and the seed's members have their rows."""

from __future__ import annotations

import ast
import inspect
import re
from typing import TYPE_CHECKING, Any

import pytest
from test_docs import DOCS
from test_docs_tables import Row, literals_of, resolve

import kyoukai
from kyoukai import HTTPRequestContext, Kyoukai, Middleware
from kyoukai.pipeline import RequestPipeline
from kyoukai.testing import Client

if TYPE_CHECKING:
    from pathlib import Path

PAGE = "pipeline.rst"
TEXT = (DOCS / PAGE).read_text()


def list_tables() -> list[list[list[str]]]:
    """Return the rows of the list tables, without their heads."""
    tables = []
    for table in re.findall(r"\.\. list-table::\n(?:   .*\n|\n)+", TEXT):
        rows = re.split(r"\n   \* - ", table)[2:]
        cells = [re.split(r"\n     -(?: |$)", row) for row in rows]
        tables.append([[" ".join(cell.split()) for cell in row] for row in cells])
    return tables


STEPS, FAILURES, SEED_ROWS = list_tables()
ROWS = [Row(number, *cells) for number, cells in enumerate(SEED_ROWS, 1)]

#: The seed: its module, members, arguments with their types and defaults, and exceptions.
SEED = """
duck.http.core.asgi
ASGI
ASGI(settings: Dict[str, Any])
__call__(application, client_socket, client_address, request_data)
application
client_socket: socket.socket
client_address: Tuple[str, int]
request_data: RequestData
Optional[HttpRequest]
if_error_log_then_raise
apply_middlewares_to_response(response, request)
django_apply_middlewares_to_response(response, request)
HttpProxyResponse
finalize_response(response, request)
finalize_response(request=None)
get_request(client_socket, client_address, request_data)
client_socket: duck.utils.xsocket.xsocket
HttpRequest
get_response(request)
HttpResponse
ExpectingNoResponse
WebSocketView
handle_django_connection_upgrade(upgrade_request, upgrade_response)
upgrade_request: HttpRequest
upgrade_response: HttpProxyResponse
protocol_receive_timeout: Union[int, float] = 10
protocol_receive_buffer: int = 4096
WebSockets
produce_final_response_failsafe(request, response_producer_callable, processor)
response_producer_callable: Callable
processor: Optional[AsyncRequestProcessor] = None
AsyncRequestProcessor
send_response(response, client_socket, request, disable_logging)
send_response(request=None)
send_response(disable_logging=False)
start_response(request, response)
start_response(response=None)
RequestData
xsocket
async
"""

#: What it says of them in words, and which member says so.
NOTES = (
    "the entry point, called for each incoming request",
    "handles the request and sends the response to the client",
    "sends requests to remote servers like Django",
    "implement ``get_request``, ``start_response`` and ``__call__``",
    "``__call__``: returns ``Optional[HttpRequest]``, the handled request",
    "``get_request``: static",
    "``get_request``: ``client_address: Tuple[str, int]``",
    "``get_request``: ``request_data: RequestData``",
    "``get_request``: returns ``HttpRequest``",
    "from the failed middleware or the last in the list to the first",
    "``finalize_response``: adds final touches",
    "``finalize_response``: and sends the response to the client",
    "``get_response``: returns the full response, with all middlewares applied",
    "``get_response``: raises ``ExpectingNoResponse``",
    "``WebSocketView``: never a response",
    "any external protocol like ``WebSockets``",
    "from Django to the client, from the client to Django, forever",
    "handles all errors, and produces a final response no matter what",
    "``produce_final_response_failsafe``: returns the full response, with middlewares",
    "``produce_final_response_failsafe``: raises ``ExpectingNoResponse``",
    "``send_response``: ``client_socket: duck.utils.xsocket.xsocket``",
    "or the response is resolved by normal means",
)


# -- The steps ---------------------------------------------------------------------------------


def test_the_table_of_steps_is_whole_and_exact() -> None:
    told = {}
    for what, _ in STEPS:
        [literal] = literals_of(what)
        name, _, arguments = literal.rstrip(")").partition("(")
        told[name] = arguments
    names = [
        name
        for name, member in vars(RequestPipeline).items()
        if inspect.iscoroutinefunction(member) and (name == "__call__" or name[0] != "_")
    ]
    inherited = ["finalize_response"]  # and ``run``, by which the interface calls
    assert sorted(told) == sorted({*names, *inherited} - {"run"})
    for name, arguments in told.items():
        parameters = list(inspect.signature(getattr(RequestPipeline, name)).parameters.values())
        plain = [
            p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters[1:]
        ]
        assert arguments == ", ".join(plain), name


def test_every_failure_has_an_answer() -> None:
    assert len(FAILURES) == 8
    assert all(len(row) == 2 and all(row) for row in FAILURES)


@pytest.mark.parametrize("within", [True, False])
async def test_a_step_of_ones_own_fails_as_the_table_says(within: bool, tmp_path: Path) -> None:
    row = FAILURES[-2 if within else -1]
    assert ("within" in row[0], "without finalisation" in row[1]) == (within, not within)

    async def fail(*arguments: Any) -> None:
        raise RuntimeError("inside")

    step = "get_response" if within else "finalize_response"
    app = Kyoukai("own", pipeline_class=type("Own", (RequestPipeline,), {step: fail}))
    page = tmp_path / "500.html"
    page.write_text("<h1>$status</h1>")
    settings = {"security_headers": ["default"], "error_pages": {500: str(page)}}
    async with Client(app, **settings) as client:
        response = await client.get("/")
    assert (response.status, response.text) == (500, "<h1>500</h1>")
    assert ("X-Frame-Options" in response.headers) == within


# -- The seed ----------------------------------------------------------------------------------


class Seen(Middleware):
    """Keeps what the second column is written with."""

    async def process_request(self, ctx: HTTPRequestContext) -> None:
        self.ctx = ctx


async def live_names() -> dict[str, Any]:
    seen = Seen()
    app = Kyoukai("seed", middleware=seen)
    async with Client(app) as client:
        await client.get("/")
    request = seen.ctx.request
    return {
        **vars(kyoukai),
        "ctx": seen.ctx,
        "request": request,
        "stream": request.state,
        "pipeline": request.pipeline,
        "RequestPipeline": RequestPipeline,
    }


async def test_our_names_exist() -> None:
    names = await live_names()
    wrong = []
    for row in ROWS:
        for literal in row.names:
            try:
                resolve(ast.parse(literal, mode="eval").body, names)
            except Exception as error:
                wrong.append(f"{PAGE}: {row.theirs}: {literal}: {error!r}")
    assert wrong == []


async def test_wrong_names_are_noticed() -> None:
    """Else nothing of the table would be checked."""
    names = await live_names()
    for wrong in (
        "RequestPipeline.finalise_response",
        "RequestPipeline.send_response(response, request)",
        "RequestPipeline.send_response(disable_logging=True)",
        "RequestPipeline.handle_connection_upgrade(protocol_receive_timeout=10)",
        "Proxy(protocol_receive_timeout=10)",
        "Proxy(protocol_recieve_timeout=600.0)",
        "kyoukai.interfaces.proxy_tunnel.run",
        "request.remote_address",
        "stream.socket",
    ):
        with pytest.raises((AssertionError, AttributeError, ImportError, KeyError)):
            resolve(ast.parse(wrong, mode="eval").body, names)


def test_every_row_has_a_name_or_a_reason() -> None:
    assert len(ROWS) > 50
    for row in ROWS:
        assert row.names or row.ours in ("gone", "the same"), row
        assert row.ours != "gone" or len(row.remark.split()) >= 3, row
        assert row.remark, row
    assert len({row.theirs for row in ROWS}) == len(ROWS)


def test_every_member_and_note_of_the_seed_has_a_row() -> None:
    literals = {literal for row in ROWS for literal in literals_of(row.theirs)}
    assert [name for name in SEED.strip().splitlines() if name not in literals] == []
    for note in NOTES:
        assert len([row for row in ROWS if note in row.theirs]) == 1, note


def test_every_literal_of_the_first_column_is_the_seeds() -> None:
    members = {re.match(r"\w+", line)[0] for line in SEED.strip().splitlines()}
    known = members | set(SEED.strip().splitlines())
    for row in ROWS:
        assert set(literals_of(row.theirs)) <= known, row


def test_all_steps_are_coroutine_functions() -> None:
    """As the last row says."""
    assert (ROWS[-1].theirs, ROWS[-1].ours) == ("``async``: every method", "the same")
    for what, _ in STEPS:
        name = literals_of(what)[0].partition("(")[0]
        assert inspect.iscoroutinefunction(getattr(RequestPipeline, name)), name
