"""Error pages by status: which page, what is in it, what stays, what is refused at the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asphalt.core import Context
from exchanges import HANDSHAKE, WIRES, exchange
from ruamel.yaml import YAML
from werkzeug.exceptions import (
    HTTPException,
    NotFound,
    ServiceUnavailable,
    Unauthorized,
    abort,
)

from kyoukai import HTTPRequestContext, Kyoukai, KyoukaiComponent, Response, ServerConfig
from kyoukai.exceptions import ConfigurationError
from kyoukai.testing import Client

if TYPE_CHECKING:
    from pathlib import Path

    from exchanges import Exchange

PAGE = "<h1>$status $reason</h1><p>${description}</p><i>$path</i> $$5"


class Own(HTTPException):
    """An error with a page of its own."""

    code = 404

    def get_body(self, *args: Any) -> str:
        return "own"


class OwnResponse(HTTPException):
    code = 404

    def get_response(self, *args: Any, **kwargs: Any) -> Any:
        return Response("own response", 404)


ERRORS: dict[str, Any] = {
    "/own": Own,
    "/own-response": OwnResponse,
    "/said": lambda: NotFound("no <b> & no '\"'"),
    "/unsaid": lambda: type("Unsaid", (HTTPException,), {"code": 418})(),
    "/busy": lambda: ServiceUnavailable(retry_after=7),
    "/who": lambda: Unauthorized(www_authenticate=None),
    "/moved": lambda: type("Moved", (HTTPException,), {"code": 302})(),
    "/fails": lambda: ValueError("internal"),
    "/strange": lambda: type("Strange", (HTTPException,), {"code": 599})(),
}


def site() -> Kyoukai:
    app = Kyoukai("test")

    @app.route("/<path:name>", methods=["GET"])
    async def handler(ctx: HTTPRequestContext, name: str) -> Any:
        if name == "aborted":
            abort(Response("aborted", 404))
        if name == "unsendable":
            return "x", {"X-A": "\x01"}
        raise ERRORS[f"/{name}"]()

    return app


@pytest.fixture
def pages(tmp_path: Path) -> Any:
    """Return a function that writes pages and returns the setting."""

    def write(**texts: str) -> dict[Any, str]:
        found: dict[Any, str] = {}
        for name, text in texts.items():
            key = name.removeprefix("s")
            path = tmp_path / f"{key}.html"
            path.write_text(text, encoding="utf-8")
            found[int(key) if key.isdigit() else key] = str(path)
        return found

    return write


async def ask(path: str, setting: Any, method: str = "GET", **more: Any) -> Exchange:
    return await exchange(site(), path, method, error_pages=setting, **more)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_page_is_filled_in_and_escaped(pages: Any, wire: str) -> None:
    setting = pages(s404=PAGE)
    answer = await ask("/said", setting, wire=wire)
    assert answer.body.decode() == (
        "<h1>404 Not Found</h1><p>no &lt;b&gt; &amp; no &#x27;&quot;&#x27;</p><i>/said</i> $5"
    )
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    answer = await exchange(Kyoukai("test"), "/%3Cb%3E", wire=wire, error_pages=setting)
    assert b"<i>/&lt;b&gt;</i>" in answer.body


async def test_the_path_is_the_clients(pages: Any) -> None:
    answer = await ask("/app/said", pages(default="$path"), root_path="/app")
    assert answer.body == b"/app/said"


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/said", "own page of 404"),
        ("/unsaid", "page of 4xx: 418 I'm a Teapot: "),
        ("/busy", "page of others: 503"),
        ("/fails", "page of others: 500"),
        ("/strange", "page of others: 599"),
        ("/unsendable", "page of others: 500"),
        ("/own", "own"),
        ("/own-response", "own response"),
        ("/aborted", "aborted"),
    ],
)
async def test_which_page(pages: Any, path: str, page: str) -> None:
    setting = pages(
        s404="own page of 404",
        s4xx="page of 4xx: $status $reason: $description",
        default="page of others: $status",
    )
    answer = await ask(path, setting)
    assert answer.body.decode().replace("&#x27;", "'") == page


async def test_werkzeugs_page_is_for_the_rest(pages: Any) -> None:
    setting = pages(s5xx="mine")
    plain = await exchange(site(), "/said")
    answer = await ask("/said", setting)
    assert answer.body == plain.body
    assert b"<title>404 Not Found</title>" in answer.body
    assert b"mine" not in (await ask("/moved", setting)).body


async def test_headers_stay(pages: Any) -> None:
    setting = pages(default="page")
    answer = await ask("/busy", setting)
    assert (answer.headers["Retry-After"], answer.body) == ("7", b"page")
    answer = await ask("/said", setting, "DELETE")
    assert (answer.status, answer.body) == (405, b"page")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    answer = await ask("/said", setting, "HEAD")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (404, b"", "4")


async def test_error_handlers_come_first(pages: Any) -> None:
    app = site()

    @app.errorhandler(404)
    async def missing(ctx: HTTPRequestContext, error: HTTPException) -> str:
        return "handled"

    @app.errorhandler(500)
    async def failed(ctx: HTTPRequestContext, error: HTTPException) -> str:
        raise NotFound

    setting = pages(s404="page", s500="failed")
    assert (await exchange(app, "/said", error_pages=setting)).body == b"handled"
    answer = await exchange(app, "/fails", error_pages=setting)
    assert (answer.status, answer.body) == (404, b"page")


async def test_conditions_have_pages_too(pages: Any) -> None:
    app = Kyoukai("test")

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> Any:
        return "body", {"ETag": '"v1"'}

    setting = pages(s4xx="page of $status")
    answer = await exchange(app, "/", headers={"If-Match": '"v2"'}, error_pages=setting)
    assert (answer.status, answer.body) == (412, b"page of 412")
    answer = await exchange(app, "/", headers={"Range": "bytes=9-"}, error_pages=setting)
    assert (answer.status, answer.body) == (416, b"page of 416")
    assert answer.headers["Content-Range"] == "bytes */4"


async def test_a_refused_handshake_has_one(pages: Any) -> None:
    app = Kyoukai("test")

    @app.websocket("/")
    async def socket(ctx: Any, ws: Any) -> None:
        raise NotFound

    setting = pages(default="page of $status")
    for own, status in (({}, 404), ({"Origin": "http://evil.example"}, 403)):
        answer = await exchange(app, "/", headers={**HANDSHAKE, **own}, error_pages=setting)
        assert (answer.status, answer.body) == (status, b"page of %d" % status)


# -- The setting -------------------------------------------------------------------------------


def test_the_setting_in_yaml(pages: Any) -> None:
    paths = pages(s404="a", s5xx="b", default="c")
    text = f"{{404: {paths[404]}, 5xx: {paths['5xx']}, default: {paths['default']}}}"
    config = ServerConfig.from_mapping({"error_pages": YAML(typ="safe").load(text)})
    assert config.error_pages == {
        "404": paths[404],
        "5xx": paths["5xx"],
        "default": paths["default"],
    }
    assert config.replace(backlog=5).error_pages == config.error_pages
    assert ServerConfig(error_pages=None).error_pages is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({200: "a"}, "error_pages: '200' is no status of an error such as 404, and neither"),
        ({"6xx": "a"}, "error_pages: '6xx' is no status"),
        ({"404 ": "a"}, "error_pages: '404 ' is no status"),
        ({404: 1}, "error_pages must be a mapping to strings"),
        ("page.html", "error_pages must be a mapping to strings, not 'page.html'"),
    ],
)
def test_settings_that_cannot_be(setting: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ServerConfig.from_mapping({"error_pages": setting})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        (b"\xff", "not in UTF-8, at byte 0"),
        (b"a $staus", r"unknown placeholder \$staus; known: \$status, \$reason, \$description"),
        (b"one\ncosts $ 5", r"a '\$' by itself is written '\$\$' \(line 2, col 7\)"),
    ],
)
def test_pages_that_cannot_be(tmp_path: Path, text: bytes | None, message: str) -> None:
    path = tmp_path / "page.html"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigurationError, match=f"^error_pages: 5xx: {path}: {message}") as caught:
        Client(Kyoukai("test"), error_pages={"5xx": str(path)})
    assert "\n" not in str(caught.value)


def test_a_path_that_cannot_be() -> None:
    with pytest.raises(ConfigurationError, match="^error_pages: 404: a\0b: .*null byte"):
        Client(Kyoukai("test"), error_pages={404: "a\0b"})


async def test_a_component_reads_them_before_it_listens(tmp_path: Path) -> None:
    component = KyoukaiComponent(
        Kyoukai("test"), port=0, settings={"error_pages": {404: str(tmp_path)}}
    )
    with pytest.raises(ConfigurationError, match="error_pages: 404: .*: Is a directory"):
        await component.start(Context())
