"""Resources: classes whose methods answer the methods of HTTP."""

# ruff: noqa: A002 - what handlers look like

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from asphalt.core import resource as injected
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import RequestRedirect
from werkzeug.test import EnvironBuilder

from kyoukai import (
    Blueprint,
    HTTPRequestContext,
    Kyoukai,
    Resource,
    Route,
    WebSocket,
    WebSocketContext,
)
from kyoukai.exceptions import RouteError
from kyoukai.resource import responder
from kyoukai.routing import UpgradeRequired
from kyoukai.testing import Client, WebSocketDenied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asphalt.core import Context

    from kyoukai.testing import ClientResponse


class Accounts(Resource):
    """One with most that a resource may have."""

    def __init__(self, name: str = "accounts") -> None:
        self.name = name

    async def on_get(self, ctx: HTTPRequestContext, id: int) -> Any:
        return {"id": id, "of": self.name}

    def on_put(self, ctx: HTTPRequestContext, id: int) -> Any:
        return f"in a thread: {id} {ctx.request.get_data(as_text=True)}"

    async def on_delete(self, ctx: HTTPRequestContext, id: int) -> AsyncIterator[str]:
        yield "going, "
        yield "gone"

    async def on_propfind(self, ctx: HTTPRequestContext, id: int) -> Any:
        return "found", 207

    async def on_get_collection(self, ctx: HTTPRequestContext) -> Any:
        return [self.name]

    async def on_post_collection(self, ctx: HTTPRequestContext) -> Any:
        return "made", 201

    async def on_websocket(self, ctx: Any, ws: Any, id: int) -> None:
        await ws.accept(id, self.name)

    async def on_websocket_live(self, ctx: Any, ws: Any) -> None: ...

    on_sale = True

    def helper(self) -> None: ...


def accounts() -> Kyoukai:
    app = Kyoukai("test")
    resource = Accounts()
    app.add_resource("/accounts/<int:id>", resource)
    app.add_resource("/accounts", resource, suffix="collection")
    return app


def url(app: Kyoukai, endpoint: str, **values: Any) -> str:
    return app.url_for(EnvironBuilder().get_environ(), endpoint, **values)


async def ask(app: Kyoukai, method: str, path: str, **options: Any) -> ClientResponse:
    async with Client(app) as client:
        return await client.request(method, path, **options)


# -- Requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/accounts/12", 200, '{"id":12,"of":"accounts"}'),
        ("HEAD", "/accounts/12", 200, ""),
        ("PUT", "/accounts/12", 200, "in a thread: 12 body"),
        ("DELETE", "/accounts/12", 200, "going, gone"),
        ("PROPFIND", "/accounts/12", 207, "found"),
        ("GET", "/accounts", 200, '["accounts"]'),
        ("POST", "/accounts", 201, "made"),
    ],
)
async def test_responders(method: str, path: str, status: int, text: str) -> None:
    body = "body" if method == "PUT" else None
    response = await ask(accounts(), method, path, body=body)
    assert (response.status, response.text) == (status, text)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/accounts/12", "DELETE, GET, HEAD, OPTIONS, PROPFIND, PUT"),
        ("/accounts", "GET, HEAD, OPTIONS, POST"),
    ],
)
async def test_methods_without_responders(path: str, allowed: str) -> None:
    response = await ask(accounts(), "PATCH", path)
    assert (response.status, response.headers["Allow"]) == (405, allowed)
    response = await ask(accounts(), "OPTIONS", path)
    assert (response.status, response.headers["Allow"]) == (204, allowed)


async def test_own_head_and_options() -> None:
    class Own(Resource):
        async def on_get(self, ctx: HTTPRequestContext) -> str:
            return "get"

        async def on_head(self, ctx: HTTPRequestContext) -> Any:
            return "", {"X-Own": "head"}

        async def on_options(self, ctx: HTTPRequestContext) -> Any:
            return "own options"

    app = Kyoukai("test")
    app.add_resource("/", Own())
    assert (await ask(app, "GET", "/")).text == "get"
    assert (await ask(app, "HEAD", "/")).headers["X-Own"] == "head"
    assert (await ask(app, "OPTIONS", "/")).text == "own options"
    allowed = (await ask(app, "PUT", "/")).headers["Allow"]
    assert allowed == "GET, HEAD, OPTIONS"


async def test_the_resource_of_a_blueprint() -> None:
    app = Kyoukai("test")
    api = Blueprint("api", app.root, "/api")
    api.add_resource("/accounts/<int:id>", Accounts("api's"))

    @api.before_request
    async def hook(ctx: HTTPRequestContext) -> None:
        assert ctx.route is not None
        assert ctx.bp is api
        seen.append(ctx.route.name)

    seen: list[str] = []
    response = await ask(app, "GET", "/api/accounts/3")
    assert response.json() == {"id": 3, "of": "api's"}
    assert seen == ["api.Accounts.on_get"]
    assert url(app, "api.Accounts", id=3) == "/api/accounts/3"


# -- Inheritance -------------------------------------------------------------------------------


async def test_inheritance() -> None:
    class Archive(Accounts):
        on_put = None  # type: ignore[assignment]

        async def on_get(self, ctx: HTTPRequestContext, id: int) -> Any:
            return {"archived": await super().on_get(ctx, id)}

    app = Kyoukai("test")
    app.add_resource("/<int:id>", Archive("archive"))
    assert (await ask(app, "GET", "/1")).json() == {"archived": {"id": 1, "of": "archive"}}
    assert (await ask(app, "DELETE", "/1")).text == "going, gone"
    response = await ask(app, "PUT", "/1")
    assert (response.status, response.headers["Allow"]) == (
        405,
        "DELETE, GET, HEAD, OPTIONS, PROPFIND",
    )


class Abstract:
    """No Resource: any object with responders is one."""

    async def on_get(self, ctx: HTTPRequestContext) -> str:
        return "duck"


class WithSlots(Abstract):
    __slots__ = ()


class StaticOnes:
    @staticmethod
    async def on_get(ctx: HTTPRequestContext) -> str:
        return "duck"

    @classmethod
    async def on_post(cls, ctx: HTTPRequestContext) -> str:
        return cls.__name__


class OfTheInstance:
    def __init__(self) -> None:
        async def answer(word: str, ctx: HTTPRequestContext) -> str:
            return word

        self.on_get = functools.partial(answer, "duck")


@pytest.mark.parametrize("class_", [Abstract, WithSlots, StaticOnes, OfTheInstance])
async def test_any_object_with_responders(class_: type) -> None:
    app = Kyoukai("test")
    duck = class_()
    routes = app.add_resource("/", duck)
    assert all(route.owner is duck for route in routes)
    assert (await ask(app, "GET", "/")).text == "duck"
    if class_ is StaticOnes:
        assert (await ask(app, "POST", "/")).text == "StaticOnes"


async def test_injected_resources() -> None:
    class Wants(Resource):
        async def on_get(self, ctx: HTTPRequestContext, cache: dict = injected()) -> Any:  # type: ignore[type-arg]
            return cache

    app = Kyoukai("test")
    app.add_resource("/", Wants())

    @app.before_serving
    async def before(ctx: Context) -> None:
        ctx.add_resource({"cache": "warm"}, types=dict)

    assert app.injected_resources() == [(dict, "default")]
    assert (await ask(app, "GET", "/")).json() == {"cache": "warm"}


# -- Options -----------------------------------------------------------------------------------


class WithOptions(Resource):
    @responder(stream=True, max_body_size=None)
    async def on_post(self, ctx: HTTPRequestContext) -> Any:
        return str(len(await ctx.request.read_async()))

    @responder(max_body_size=2)
    @responder(max_body_size=1, should_invoke_hooks=False)
    async def on_put(self, ctx: HTTPRequestContext) -> Any: ...

    async def on_patch(self, ctx: HTTPRequestContext) -> Any: ...


class Overridden(WithOptions):
    async def on_post(self, ctx: HTTPRequestContext) -> Any: ...

    @responder(cancel_on_disconnect=False)
    async def on_put(self, ctx: HTTPRequestContext) -> Any: ...


def test_options_of_responders() -> None:
    blueprint = Blueprint("test")
    post, put, patch = blueprint.add_resource("/", WithOptions(), max_body_size=7)
    assert (post.stream, post.max_body_size) == (True, None)
    assert (put.max_body_size, put.should_invoke_hooks) == (2, False)
    assert (patch.max_body_size, patch.stream, patch.should_invoke_hooks) == (7, False, True)


def test_options_of_overridden_responders() -> None:
    post, put, patch = Blueprint("test").add_resource("/", Overridden())
    assert (post.stream, post.max_body_size) == (True, None)
    assert (put.max_body_size, put.cancel_on_disconnect) == (2, False)
    assert patch.cancel_on_disconnect


async def test_a_responder_that_streams() -> None:
    app = Kyoukai("test")
    app.add_resource("/", WithOptions())
    async with Client(app, max_body_size=3) as client:
        assert (await client.post("/", body="x" * 99)).text == "99"
        assert (await client.put("/", body="xxx")).status == 413


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steam": True}, "no option 'steam'; did you mean 'stream'?"),
        ({"websocket": True}, "no option 'websocket'"),
        ({"methods": ["GET"]}, "no option 'methods'"),
    ],
)
def test_options_that_responders_do_not_have(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouteError) as caught:
        responder(**options)
    assert message in str(caught.value)
    with pytest.raises(RouteError) as caught:
        Blueprint("test").add_resource("/", Accounts(), **options)
    assert message in str(caught.value)
    with pytest.raises(RouteError, match="no option 'endpoint'"):
        responder(endpoint="name")


# -- Paths and endpoints -----------------------------------------------------------------------


def test_endpoints() -> None:
    app = accounts()
    assert [route.get_endpoint_name() for route in app.root.routes] == [
        "test.Accounts.on_get",
        "test.Accounts.on_put",
        "test.Accounts.on_delete",
        "test.Accounts.on_propfind",
        "test.Accounts.on_websocket",
        "test.Accounts.on_get_collection",
        "test.Accounts.on_post_collection",
    ]
    route = app.root.get_route("test.Accounts.on_get")
    assert isinstance(route, Route)
    assert app.root.get_route("Accounts.on_get") is route
    assert app.root.get_route("Accounts") is None  # which is several


def test_urls() -> None:
    app = accounts()
    assert url(app, "Accounts", id=3) == "/accounts/3"
    assert url(app, "test.Accounts", id=3, q="x") == "/accounts/3?q=x"
    assert url(app, "Accounts") == "/accounts"
    assert url(app, "Accounts", method="POST") == "/accounts"
    assert url(app, "Accounts", method="PUT", id=3) == "/accounts/3"
    assert url(app, "Accounts.on_get_collection") == "/accounts"
    assert url(app, "Accounts.on_websocket", id=3) == "/accounts/3"
    assert url(app, "Accounts.on_websocket", id=3, _external=True) == "ws://localhost/accounts/3"
    with pytest.raises(RouteError, match="cannot build a URL for 'test.Accounts': values missing"):
        url(app, "Accounts", method="PUT")
    with pytest.raises(RouteError, match="did you mean 'test.Accounts'?"):
        url(app, "Acounts")


def test_the_url_of_a_resource_with_nothing_but_a_socket() -> None:
    app = Kyoukai("test")
    app.add_resource("/live", Accounts(), suffix="live")
    assert url(app, "Accounts") == "/live"
    assert url(app, "Accounts", _scheme="https") == "wss://localhost/live"


def test_hosts() -> None:
    app = Kyoukai("test", host="example.com")
    app.add_resource("/accounts/<int:id>", Accounts())
    assert url(app, "Accounts", id=1) == "http://example.com/accounts/1"
    assert url(app, "Accounts.on_websocket", id=1) == "ws://example.com/accounts/1"
    app.root.match_socket("/accounts/1", "example.com")
    with pytest.raises(NotFound):
        app.root.match_socket("/accounts/1", "example.org")


async def test_a_second_path() -> None:
    app = Kyoukai("test")
    resource = Accounts()
    first = app.add_resource("/accounts/<int:id>", resource, max_body_size=5)
    second = app.add_resource("/old/<int:id>", resource)
    assert first == second
    assert app.root.routes == first
    for path in ("/accounts/1", "/old/1"):
        assert (await ask(app, "GET", path)).json()["id"] == 1
    with pytest.raises(
        RouteError, match="is a route already; give max_body_size with its first path"
    ):
        app.add_resource("/older/<int:id>", resource, max_body_size=6)


async def test_two_instances_need_two_names() -> None:
    app = Kyoukai("test")
    app.add_resource("/a/<int:id>", Accounts("a"))
    app.add_resource("/b/<int:id>", Accounts("b"), endpoint="Others")
    assert (await ask(app, "GET", "/b/1")).json() == {"id": 1, "of": "b"}
    assert url(app, "Others", id=1) == "/b/1"
    assert url(app, "Others.on_put", id=1) == "/b/1"
    app.add_resource("/c/<int:id>", Accounts("c"))
    with pytest.raises(RouteError, match="two routes have the endpoint 'test.Accounts.on_get'"):
        app.finalize()


def test_one_instance_in_two_blueprints() -> None:
    root = Blueprint("root")
    child = Blueprint("child", root, "/child")
    resource = Accounts()
    for blueprint in (root, child):
        blueprint.add_resource("/<int:id>", resource)
    assert root.match_head("GET", "/1", "h").route is not child.routes[0]
    assert root.match_head("GET", "/child/1", "h").route is child.routes[0]


def test_a_resource_and_a_function_of_one_name() -> None:
    app = accounts()

    @app.route("/function", endpoint="test.Accounts")
    async def function(ctx: HTTPRequestContext) -> None: ...

    with pytest.raises(RouteError, match="have the endpoint 'test.Accounts'"):
        app.finalize()


def test_two_resources_at_one_path() -> None:
    app = accounts()
    app.add_resource("/accounts/<name>", Abstract())
    app.finalize()  # another converter, another path
    app.add_resource("/accounts/<int:other>", Abstract(), endpoint="More")
    with pytest.raises(RouteError, match="belongs to two routes"):
        app.finalize()


# -- Sockets -----------------------------------------------------------------------------------


def test_sockets() -> None:
    root = accounts().root
    hit = root.match_socket("/accounts/12", "h")
    assert hit.route.is_websocket
    assert isinstance(hit.route.owner, Accounts)
    assert hit.params == {"id": 12}
    assert not hit.needs_check
    with pytest.raises(MethodNotAllowed) as caught:
        root.match_socket("/accounts", "h")
    assert caught.value.valid_methods == ("GET", "HEAD", "OPTIONS", "POST")


def test_a_resource_with_nothing_but_a_socket() -> None:
    root = Blueprint("root")
    (route,) = root.add_resource("/live/", Accounts(), suffix="live")
    assert route.is_websocket
    for method in ("GET", "OPTIONS", "POST"):
        with pytest.raises(UpgradeRequired):
            root.match_head(method, "/live/", "h")
    with pytest.raises(RequestRedirect, match="308"):
        root.match_head("GET", "/live", "h")


@pytest.mark.parametrize("http2", [False, True])
async def test_a_conversation(http2: bool) -> None:
    class Echo(Resource):
        word = "echo"

        async def on_get(self, ctx: HTTPRequestContext, name: str) -> str:
            return "page"

        async def on_websocket(self, ctx: WebSocketContext, ws: WebSocket, name: str) -> None:
            await ws.accept()
            async for message in ws:
                await ws.send_text(f"{self.word} {name} {message!r}")

    app = Kyoukai("test")
    app.add_resource("/echo/<name>", Echo())
    async with Client(app) as client:
        assert (await client.get("/echo/ada")).text == "page"
        async with client.websocket("/echo/ada", http2=http2) as ws:
            await ws.send_text("one")
            assert await ws.receive_text() == "echo ada 'one'"


async def test_handshakes_that_are_answered_with_a_status() -> None:
    app = accounts()
    async with Client(app) as client:
        for path, status in (("/accounts", 405), ("/nothing", 404)):
            with pytest.raises(WebSocketDenied) as denied:
                async with client.websocket(path):
                    pass
            assert denied.value.response.status == status
            allowed = "GET, HEAD, OPTIONS, POST" if status == 405 else None
            assert denied.value.response.headers.get("Allow") == allowed


# -- What is no resource -----------------------------------------------------------------------


class Typo:
    async def onget(self, ctx: Any) -> None: ...


class Bare:
    async def get(self, ctx: Any) -> None: ...


class Shouting:
    async def on_GET(self, ctx: Any) -> None: ...  # noqa: N802


class Suffixed:
    async def on_get_collection(self, ctx: Any) -> None: ...


class SyncSocket:
    async def on_get(self, ctx: Any) -> None: ...

    def on_websocket(self, ctx: Any, ws: Any) -> None: ...


class Lazy:
    @property
    def on_the_way(self) -> None:
        raise AssertionError("looked at")


@pytest.mark.parametrize(
    ("wrong", "suffix", "message"),
    [
        (Accounts, None, "Accounts is a class; add an instance: Accounts()"),
        (Typo(), None, "such as 'on_get' (did you mean that by 'onget'?)"),
        (Bare(), None, "such as 'on_get' (did you mean that by 'get'?)"),
        (Shouting(), None, "such as 'on_get' (did you mean that by 'on_GET'?)"),
        (Suffixed(), None, "without a suffix; give suffix='collection' for 'on_get_collection'"),
        (Suffixed(), "colection", "such as 'on_get_colection' (did you mean that by 'on_get_coll"),
        (Lazy(), None, "has no responder such as 'on_get'"),
        (None, None, "None has no responder such as 'on_get'"),
        (Accounts(), "a-b", "a suffix must be the end of a method's name, not 'a-b'"),
        (Accounts(), "", "a suffix must be the end of a method's name, not ''"),
        (SyncSocket(), None, "SyncSocket.on_websocket handles WebSockets, so it must be a corout"),
    ],
)
def test_what_is_no_resource(wrong: Any, suffix: str | None, message: str) -> None:
    blueprint = Blueprint("test")
    with pytest.raises(RouteError) as caught:
        blueprint.add_resource("/", wrong, suffix=suffix)
    assert message in str(caught.value)
    assert blueprint.routes == []


def test_a_path_that_is_none() -> None:
    blueprint = Blueprint("test")
    with pytest.raises(RouteError, match="must begin with '/'"):
        blueprint.add_resource("accounts", Accounts())
    assert blueprint.routes == []


def test_what_cannot_be_a_responder() -> None:
    with pytest.raises(RouteError, match="a responder must be callable"):
        responder()(None)  # type: ignore[type-var]


async def test_what_is_no_method_of_http_is_no_responder():
    class Job(Resource):
        async def on_get(self, ctx):
            return "job"

        async def on_propfind(self, ctx):
            return "properties"

        def on_error(self, error):
            raise error

    app = Kyoukai("jobs")
    app.add_resource("/", Job())
    async with Client(app) as client:
        assert (await client.request("PROPFIND", "/")).text == "properties"
        assert (await client.options("/")).headers["Allow"] == "GET, HEAD, OPTIONS, PROPFIND"
