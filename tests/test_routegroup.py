"""Route groups: classes whose methods are routes."""

# ruff: noqa: A002 - what handlers look like

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
from asphalt.core import inject, resource
from werkzeug.exceptions import NotFound

from kyoukai.blueprint import Blueprint
from kyoukai.exceptions import RouteError
from kyoukai.routegroup import (
    RouteGroup,
    RouteGroupType,
    after_request,
    before_request,
    errorhandler,
    get_rg_bp,
    hook,
    route,
    websocket,
)


class Store: ...


class Api(RouteGroup, prefix="/api"):
    def __init__(self, name: str = "api") -> None:
        self.name = name

    @route("/also", methods=["POST"])
    @route("/ping", endpoint="ping", stream=True)
    async def ping(self, ctx: Any) -> str:
        return f"ping of {self.name}"

    @ping.before_request
    def check(self, ctx: Any) -> str:
        return f"check of {self.name}"

    @ping.hook("post")
    def log(self, ctx: Any, response: Any) -> str:
        return f"log of {self.name}"

    @route("/items/<int:id>")
    async def item(self, ctx: Any, id: int) -> str:
        return f"item of {self.name}"

    @errorhandler(404)
    @errorhandler(400, 403)
    @errorhandler(LookupError)
    async def wrong(self, ctx: Any, exc: Exception) -> str:
        return f"wrong of {self.name}"

    @before_request
    def before(self, ctx: Any) -> str:
        return f"before of {self.name}"

    @after_request
    def after(self, ctx: Any, response: Any) -> str:
        return f"after of {self.name}"

    @hook("pre")
    def again(self, ctx: Any) -> str:
        return f"again of {self.name}"


async def run(group: Any, path: str, method: str = "GET") -> Any:
    hit = get_rg_bp(group).match_head(method, path, "h")
    return await hit.route(None, **hit.params)


def paths(group: Any) -> set[str]:
    blueprint = get_rg_bp(group)
    return {
        blueprint.computed_prefix + path for each in blueprint.routes for path, _ in each.routes
    }


# -- One class ---------------------------------------------------------------------------------


async def test_methods_are_routes() -> None:
    group = Api("mine")
    root = Blueprint("root")
    assert root.add_route_group(group) is root
    assert root.children == (get_rg_bp(group),)
    assert get_rg_bp(group).name == "Api"
    assert await run(group, "/api/ping") == "ping of mine"
    assert await run(group, "/api/also", "POST") == "ping of mine"
    assert await run(group, "/api/items/3") == "item of mine"
    hit = root.match_head("GET", "/api/items/3", "h")
    assert not hit.needs_check
    assert hit.route.get_endpoint_name() == "Api.item"
    assert root.match_head("GET", "/api/ping", "h").stream
    assert root.get_route("ping") is root.match_head("POST", "/api/also", "h").route
    assert await group.ping(None) == "ping of mine"


def test_hooks() -> None:
    group = Api("mine")
    blueprint = get_rg_bp(group)
    ping = blueprint.match_head("GET", "/api/ping", "h")
    assert [each(None) for each in ping.before] == [
        "before of mine",
        "again of mine",
        "check of mine",
    ]
    assert [each(None, None) for each in ping.after] == ["after of mine", "log of mine"]
    item = blueprint.match_head("GET", "/api/items/3", "h")
    assert [each(None) for each in item.before] == ["before of mine", "again of mine"]
    assert [each(None, None) for each in item.after] == ["after of mine"]


async def test_error_handlers() -> None:
    blueprint = get_rg_bp(Api("mine"))
    for wrong in (400, 402, 404, KeyError(), NotFound()):
        handler = blueprint.get_errorhandler(wrong)
        assert handler is not None
        assert await handler(None, wrong) == "wrong of mine"
    assert blueprint.get_errorhandler(403) is None


async def test_instances_are_independent() -> None:
    one, two = Api("one"), Api("two")
    get_rg_bp(one).route("/more")(Store)
    get_rg_bp(two).prefix = "/two"
    assert await run(one, "/api/ping") == "ping of one"
    assert await run(two, "/two/ping") == "ping of two"
    assert paths(one) - {"/api/more"} == {path.replace("two", "api") for path in paths(two)}
    get_rg_bp(two).name = "Second"
    root = Blueprint("root")
    root.add_route_group(one)
    root.add_route_group(two)
    with pytest.raises(RouteError, match="the endpoint 'ping'"):
        root.finalize()


def test_class_arguments() -> None:
    parent = Blueprint("parent", prefix="/p")

    class Full(
        RouteGroup, name="full", parent=parent, prefix="/f", host="example.com", host_matching=True
    ):
        @route("/x")
        async def x(self, ctx: Any) -> None: ...

    group = Full()
    blueprint = get_rg_bp(group)
    assert (blueprint.name, blueprint.host, blueprint.host_matching) == (
        "full",
        "example.com",
        True,
    )
    assert parent.children == (blueprint,)
    assert paths(group) == {"/p/f/x"}
    assert parent.add_route_group(group) is parent


def test_wrong_class_arguments() -> None:
    with pytest.raises(RouteError, match="class Wrong: unknown argument 'prefx'; known: name"):

        class Wrong(RouteGroup, prefx="/x"): ...


def test_the_metaclass_alone() -> None:
    class Alone(metaclass=RouteGroupType, prefix="/alone"):
        @route("/x")
        async def x(self, ctx: Any) -> None: ...

    assert paths(Alone()) == {"/alone/x"}


async def test_a_frozen_dataclass() -> None:
    @dataclass(frozen=True)
    class Frozen(RouteGroup):
        name: str

        @route("/x")
        async def x(self, ctx: Any) -> str:
            return self.name

    assert await run(Frozen("cold"), "/x") == "cold"


def test_a_singleton() -> None:
    class Single(RouteGroup):
        one: Any = None

        def __new__(cls) -> Any:
            cls.one = cls.one or super().__new__(cls)
            return cls.one

    assert get_rg_bp(Single()) is get_rg_bp(Single())


# -- Inheritance -------------------------------------------------------------------------------


class Base(RouteGroup, prefix="/base", host="example.com", name="named"):
    @route("/kept")
    async def kept(self, ctx: Any) -> str:
        return "kept"

    @route("/replaced")
    async def replaced(self, ctx: Any) -> str:
        return "of the base"

    @route("/moved")
    async def moved(self, ctx: Any) -> str:
        return "of the base"

    @route("/dropped")
    async def dropped(self, ctx: Any) -> str:
        return "of the base"

    @kept.before_request
    def check(self, ctx: Any) -> str:
        return "of the base"


class Mixin:
    @route("/mixed")
    async def mixed(self, ctx: Any) -> str:
        return "mixed"


class Derived(Mixin, Base, prefix="/derived"):
    async def replaced(self, ctx: Any) -> str:
        return f"derived, not {await super().replaced(ctx)}"

    @route("/elsewhere")
    async def moved(self, ctx: Any) -> str:
        return "derived"

    dropped = None

    def check(self, ctx: Any) -> str:
        return "derived"


async def test_inheritance() -> None:
    base, derived = Base(), Derived()
    assert paths(base) == {f"/base/{name}" for name in ("kept", "replaced", "moved", "dropped")}
    assert paths(derived) == {
        f"/derived/{name}" for name in ("kept", "replaced", "elsewhere", "mixed")
    }
    for group, name in ((base, "named"), (derived, "Derived")):
        assert (get_rg_bp(group).name, get_rg_bp(group).host) == (name, "example.com")

    async def answer(path: str) -> Any:
        hit = get_rg_bp(derived).match_head("GET", path, "example.com")
        return await hit.route(None)

    assert await answer("/derived/kept") == "kept"
    assert await answer("/derived/replaced") == "derived, not of the base"
    assert await answer("/derived/elsewhere") == "derived"
    assert await answer("/derived/mixed") == "mixed"
    hit = get_rg_bp(derived).match_head("GET", "/derived/kept", "example.com")
    assert [each(None) for each in hit.before] == ["derived"]


def test_base_and_derived_in_one_tree() -> None:
    root = Blueprint("root")
    root.add_route_group(Base())
    root.add_route_group(Derived())
    assert root.get_route("named.kept") is not root.get_route("Derived.kept")


def test_a_shared_function_keeps_nothing() -> None:
    async def shared(self: Any, ctx: Any) -> None: ...

    class One(RouteGroup):
        x = route("/one")(shared)

    class Two(RouteGroup):
        x = route("/two")(route("/too")(shared))

        @x.before_request
        def check(self, ctx: Any) -> None: ...

    class Three(RouteGroup):
        x = route("/three")(shared)

    assert paths(One()) == {"/one"}
    assert paths(Two()) == {"/two", "/too"}
    assert paths(Three()) == {"/three"}
    assert not get_rg_bp(Three()).match_head("GET", "/three", "h").before
    assert not vars(shared)


def test_decorators_of_others() -> None:
    def logged(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    async def outside(ctx: Any) -> None: ...

    class Mixed(RouteGroup):
        @logged
        @route("/outer")
        async def outer(self, ctx: Any) -> None: ...

        @route("/inner")
        @logged
        async def inner(self, ctx: Any) -> None: ...

        @staticmethod
        @route("/static")
        async def static(ctx: Any) -> None: ...

        @route("/injected")
        @inject
        async def injected(self, ctx: Any, store: Store = resource()) -> None: ...

        @route("/wants/<int:id>")
        async def wants(self, ctx: Any, id: int, *, store: Store = resource("b")) -> None: ...

    Mixed.inner.before_request(outside)
    blueprint = get_rg_bp(Mixed())
    assert paths(Mixed()) == {"/outer", "/inner", "/static", "/injected", "/wants/<int:id>"}
    assert blueprint.match_head("GET", "/inner", "h").before == (outside,)
    for path in ("/outer", "/inner", "/static", "/injected", "/wants/1"):
        hit = blueprint.match_head("GET", path, "h")
        assert not hit.needs_check
        assert hit.route.is_coroutine
    found = [each.injected_resources() for each in blueprint.routes]
    assert found == [[], [], [], [(Store, "default")], [(Store, "b")]]


# -- Sockets -----------------------------------------------------------------------------------


class Live(RouteGroup, prefix="/live"):
    @websocket("/again")
    @websocket("/<int:id>", endpoint="live")
    async def show(self, ctx: Any, ws: Any, id: int = 0) -> Any:
        return self, ws, id

    @staticmethod
    @websocket("/static")
    async def static(ctx: Any, ws: Any) -> None: ...

    @route("/page")
    async def page(self, ctx: Any) -> None: ...


class Later(Live, prefix="/later"):
    async def show(self, ctx: Any, ws: Any, id: int = 0) -> Any:
        return "later", *await super().show(ctx, ws, id)


async def test_sockets() -> None:
    group = Live()
    blueprint = get_rg_bp(group)
    hit = blueprint.match_socket("/live/12", "h")
    assert (hit.route.is_websocket, hit.route.endpoint, hit.needs_check) == (True, "live", False)
    assert await hit.route(None, "socket", **hit.params) == (group, "socket", 12)
    assert blueprint.match_socket("/live/again", "h").route is hit.route
    for path in ("/live/12", "/live/static"):
        assert blueprint.match_socket(path, "h").route.owner is group
    assert not blueprint.match_head("GET", "/live/page", "h").route.is_websocket


async def test_sockets_are_inherited() -> None:
    group = Later()
    hit = get_rg_bp(group).match_socket("/later/12", "h")
    assert await hit.route(None, "socket", **hit.params) == ("later", group, "socket", 12)


def test_a_method_is_for_requests_or_for_sockets() -> None:
    async def method(self: Any, ctx: Any, ws: Any) -> None: ...

    for first, second in ((route, websocket), (websocket, route)):
        with pytest.raises(RouteError, match="method cannot handle requests and WebSockets both"):
            second("/b")(first("/a")(method))


# -- Faults ------------------------------------------------------------------------------------


def test_no_group() -> None:
    root = Blueprint("root")
    with pytest.raises(RouteError, match=r"Api is a class; add an instance: Api\(\)"):
        root.add_route_group(Api)
    with pytest.raises(RouteError, match="no route group"):
        root.add_route_group(object())
    for wrong in (Api, object()):
        with pytest.raises(RouteError, match="no instance of a route group"):
            get_rg_bp(wrong)


def test_wrong_decorators() -> None:
    with pytest.raises(RouteError, match="'/x' must be a list, not 'GET'"):
        route("/x", methods="GET")
    with pytest.raises(RouteError, match="only functions"):
        route("/x")(functools.partial(print))
    with pytest.raises(RouteError, match="not 'before'"):
        hook("before")
    with pytest.raises(RouteError, match="not 'after'"):
        Api.ping.hook("after")
