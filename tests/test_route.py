"""Routes: what kind of handler, which arguments, which resources."""

# ruff: noqa: A002, A006 - what handlers look like

from __future__ import annotations

import functools
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NewType,
    Optional,
    Protocol,
    Union,
    runtime_checkable,
)

import pytest
from asphalt.core import Context, inject, resource
from asphalt.core.context import _current_context

from kyoukai.blueprint import Blueprint
from kyoukai.exceptions import RouteError
from kyoukai.route import UNSET, Route

if TYPE_CHECKING:
    from kyoukai.elsewhere import Unknown

UserId = NewType("UserId", int)


@runtime_checkable
class Named(Protocol):
    name: str


class Silent(Protocol):
    name: str


class Store:
    name = "store"


async def coroutine(ctx: Any) -> str:
    return "coroutine"


def sync(ctx: Any) -> str:
    return "sync"


async def agen(ctx: Any) -> AsyncIterator[str]:
    yield "agen"


def gen(ctx: Any) -> Iterator[str]:
    yield "gen"


class Calling:
    async def __call__(self, ctx: Any) -> str:
        return "calling"

    def method(self, ctx: Any, id: int) -> None: ...


# -- Kinds and options -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (coroutine, "coroutine"),
        (functools.partial(coroutine), "coroutine"),
        (Calling(), "coroutine"),
        (sync, "sync"),
        (Calling().method, "sync"),
        (functools.partial(sync), "sync"),
        (dict, "sync"),
        (agen, "async generator"),
        (gen, "generator"),
    ],
)
def test_kinds(function: Any, kind: str) -> None:
    route = Route(function)
    assert route.function is function
    assert route.is_coroutine == (kind == "coroutine")
    assert route.is_async_gen == (kind == "async generator")
    assert route.is_generator == kind.endswith("generator")
    assert route.is_sync == (kind == "sync")


def test_calling_a_route_calls_its_function() -> None:
    assert Route(sync)(None) == "sync"


def test_names() -> None:
    assert Route(sync).name == f"{__name__}.sync"
    assert Route(functools.partial(sync)).name == f"{__name__}.sync"
    assert Route(Calling()).name == f"{__name__}.Calling"
    assert Route(sync, endpoint="own").name == "own"


def test_endpoint_names() -> None:
    bp = Blueprint("bp")
    route = bp.route("/")(functools.partial(sync))
    assert route.get_endpoint_name() == "bp.sync"
    assert route.get_endpoint_name(Blueprint("other")) == "other.sync"
    assert Route(sync).get_endpoint_name() == ".sync"
    assert Route(sync, endpoint="own").get_endpoint_name(bp) == "own"


def test_options() -> None:
    route = Route(sync)
    assert route.max_body_size is UNSET
    assert (route.stream, route.cancel_on_disconnect) == (False, True)
    assert Route(sync, max_body_size=None).max_body_size is None
    assert Route(sync, max_body_size=0).max_body_size == 0


@pytest.mark.parametrize("size", [-1, True, "1", 1.5])
def test_wrong_body_sizes(size: Any) -> None:
    with pytest.raises(RouteError, match="max_body_size"):
        Route(sync, max_body_size=size)


def test_no_function() -> None:
    with pytest.raises(RouteError, match="'x' is not callable"):
        Route("x")  # type: ignore[arg-type]


def test_add_path() -> None:
    route = Route(sync)
    assert route.add_path("/a", iter(["get", "POST", "get"])) is route
    route.add_path("/a", ["GET", "POST"])
    route.add_path("/b")
    assert route.routes == [("/a", ("GET", "POST")), ("/b", ("GET",))]


@pytest.mark.parametrize(
    ("url", "methods", "message"),
    [
        ("a", ["GET"], "must begin with '/', not be 'a'"),
        ("", ["GET"], "must begin with '/'"),
        ("/", "GET", "must be a list, not 'GET'"),
        ("/", [], "must be names"),
        ("/", [1], "must be names"),
        ("/", [""], "must be names"),
    ],
)
def test_wrong_paths(url: str, methods: Any, message: str) -> None:
    with pytest.raises(RouteError, match=message):
        Route(sync).add_path(url, methods)


# -- Hooks -------------------------------------------------------------------------------------


def test_hooks_in_order() -> None:
    root, child = Blueprint("root"), Blueprint("child")
    root.add_child(child)
    calls = [functools.partial(print, number) for number in range(6)]
    root.before_request(calls[0])
    child.add_hook("pre", calls[1])
    root.after_request(calls[2])
    route = child.route("/")(sync)
    reverse = child.route("/r", reverse_hooks=True)(agen)
    bare = child.route("/b", should_invoke_hooks=False)(gen)
    for each in (route, reverse, bare):
        assert each.before_request(calls[3]) is calls[3]
        each.after_request(calls[4])
    assert route.all_hooks("pre") == (calls[0], calls[1], calls[3])
    assert reverse.all_hooks("pre") == (calls[1], calls[0], calls[3])
    assert route.all_hooks("post") == (calls[2], calls[4])
    assert bare.all_hooks("pre") == bare.all_hooks("post") == ()
    assert route.get_hooks("pre") == [calls[3]]
    hit = root.match_head("GET", "/", "h")
    assert (hit.before, hit.after) == (route.all_hooks("pre"), route.all_hooks("post"))
    route.add_hook("post", calls[5])
    assert root.match_head("GET", "/", "h").after[-1] is calls[5]


def test_wrong_hooks() -> None:
    route = Route(sync)
    with pytest.raises(RouteError, match="not 'before'"):
        route.add_hook("before", sync)
    with pytest.raises(RouteError, match="must be callable; 3"):
        route.add_hook("pre", 3)  # type: ignore[type-var]


# -- Arguments ---------------------------------------------------------------------------------


def plain_args(ctx, a, *, b=1): ...  # type: ignore[no-untyped-def]


def test_names_of_arguments() -> None:
    route = Route(plain_args)
    route.check_route_args({"a": object()})
    route.check_route_args({"a": 1, "b": 2})
    with pytest.raises(TypeError, match=f"route {__name__}.plain_args: argument 'a' is not in"):
        route.check_route_args({"b": 1})
    with pytest.raises(TypeError, match="takes no argument 'c'"):
        route.check_route_args({"a": 1, "c": 1})
    with pytest.raises(TypeError, match="takes no argument 'ctx'"):
        route.check_route_args({"a": 1, "ctx": 1})
    with pytest.raises(TypeError, match="argument 'a'"):
        route.check_route_args()


def test_context_is_needed() -> None:
    with pytest.raises(TypeError, match="must take the context"):
        Route(lambda: None).check_route_args({})
    with pytest.raises(TypeError, match="must take the context"):
        Route(lambda *, id: None).check_route_args({"id": 1})


def test_arguments_that_cannot_be_passed_by_name() -> None:
    def handler(ctx: Any, id: int, /) -> None: ...

    with pytest.raises(TypeError, match="'id' must not be positional-only"):
        Route(handler).check_route_args({"id": 1})


def test_anything_goes() -> None:
    Route(lambda *args, **kwargs: None).check_route_args({"a": 1})
    Route(lambda ctx, **kwargs: None).check_route_args({"a": 1})
    Route(dict).check_route_args({"anything": 1})


def typed(
    ctx: Unknown,
    number: int = 0,
    text: str = "",
    maybe: int | None = None,
    old: Optional[int] = None,  # noqa: UP045
    either: Union[int, uuid.UUID] = 0,  # noqa: UP007
    listed: list[int] = [],  # noqa: B006
    new: UserId = UserId(0),
    whatever: Any = None,
    choice: Literal["a"] = "a",
    unknown: Unknown = None,  # type: ignore[assignment]
    maybe_unknown: int | Unknown = 0,
    number_f: float = 0.0,
    named: Named = None,  # type: ignore[assignment]
    silent: Silent = None,  # type: ignore[assignment]
) -> None: ...


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("number", [1, True], ["1", 1.0, None]),
        ("text", ["x"], [1, b"x"]),
        ("maybe", [1, None], ["x"]),
        ("old", [1, None], ["x"]),
        ("either", [1, uuid.UUID(int=0)], ["x", None]),
        ("listed", [[1], ["x"]], [(), "x"]),
        ("new", [1], ["x"]),
        ("whatever", [1, None], []),
        ("choice", ["a", "b"], []),
        ("unknown", [1], []),
        ("maybe_unknown", ["x"], []),
        ("number_f", [1.5], [1, "1"]),
        ("named", [Store()], [1]),
        ("silent", [1], []),
    ],
)
def test_types_of_arguments(name: str, right: list[Any], wrong: list[Any]) -> None:
    route = Route(typed)
    for value in right:
        route.check_route_args({name: value})
    for value in wrong:
        with pytest.raises(TypeError) as caught:
            route.check_route_args({name: value})
        message = str(caught.value)
        assert f"route {__name__}.typed: argument {name!r} must be of type " in message
        assert message.endswith(f"not {type(value).__name__}")


def test_local_classes_in_annotations() -> None:
    class Local: ...

    def handler(ctx: Any, thing: Local) -> None: ...

    route = Route(handler)
    route.check_route_args({"thing": Local()})
    with pytest.raises(TypeError, match="must be of type Local, not int"):
        route.check_route_args({"thing": 1})


def test_annotations_that_are_no_strings() -> None:
    def handler(ctx, a, b): ...  # type: ignore[no-untyped-def]

    handler.__annotations__ = {"a": int, "b": int | None}
    route = Route(handler)
    with pytest.raises(TypeError, match="'a' must be of type int, not str"):
        route.check_route_args({"a": "1", "b": 1})
    with pytest.raises(TypeError, match=r"'b' must be of type int \| None, not str"):
        route.check_route_args({"a": 1, "b": "1"})


def test_methods_are_checked_without_self() -> None:
    route = Route(Calling().method)
    route.check_route_args({"id": 1})
    with pytest.raises(TypeError, match="'id' must be of type int, not str"):
        route.check_route_args({"id": "1"})


@pytest.mark.parametrize(
    ("path", "name", "needed"),
    [
        ("/<int:number>", "number", False),
        ("/<number>", "number", True),
        ("/<float:number>", "number", True),
        ("/<text>", "text", False),
        ("/<path:text>", "text", False),
        ("/<any(a, b):text>", "text", False),
        ("/<int:text>", "text", True),
        ("/<int:maybe>", "maybe", False),
        ("/<uuid:either>", "either", False),
        ("/<int:new>", "new", False),
        ("/<whatever>", "whatever", False),
        ("/<unknown>", "unknown", False),
        ("/<float:number_f>", "number_f", False),
        ("/<int:number_f>", "number_f", True),
        ("/<named>", "named", True),
        ("/<int:nobody>", "nobody", True),
    ],
)
def test_checks_that_are_not_needed(path: str, name: str, needed: bool) -> None:
    value = {
        "i": "12", "f": "1.5", "u": str(uuid.UUID(int=0)), "a": "a", "p": "p"
    }.get(path[2] if ":" in path else "p", "p")  # fmt: skip
    bp = Blueprint("bp")
    bp.route(path, endpoint="checked")(typed)
    hit = bp.match_head("GET", f"/{value}", "h")
    assert list(hit.params) == [name]
    assert hit.needs_check is needed
    loose = Blueprint("bp")
    loose.route(path, do_argument_checking=False)(typed)
    assert not loose.match_head("GET", f"/{value}", "h").needs_check


# -- Sockets -----------------------------------------------------------------------------------


async def socket(ctx: Any, ws: Any, id: int = 0) -> str:
    return "socket"


@pytest.mark.parametrize("function", [sync, agen, gen])
def test_a_socket_needs_a_coroutine_function(function: Any) -> None:
    with pytest.raises(RouteError, match="must be a coroutine function"):
        Route(function, websocket=True)


def test_the_paths_of_a_socket_have_no_methods() -> None:
    route = Route(socket, websocket=True)
    assert route.is_websocket
    assert not Route(socket).is_websocket
    route.add_path("/a", ["POST"]).add_path("/b").add_path("/b", ())
    assert route.routes == [("/a", ("WEBSOCKET",)), ("/b", ("WEBSOCKET",))]


async def only_context(ctx: Any) -> None: ...


async def only_names(ctx: Any, *, ws: Any, id: int) -> None: ...


async def any_positions(*args: Any, id: int) -> None: ...


async def with_store(ctx: Any, store: Store = resource(), ws: Any = None, id: int = 0) -> None: ...


@pytest.mark.parametrize("function", [socket, any_positions, with_store])
def test_the_socket_is_no_argument_from_the_path(function: Any) -> None:
    route = Route(function, websocket=True)
    route.check_route_args({"id": 3})
    with pytest.raises(TypeError, match="argument 'id' must be of type int, not str"):
        route.check_route_args({"id": "3"})
    if function is socket:
        with pytest.raises(TypeError, match="takes no argument 'ws'"):
            route.check_route_args({"ws": 1})


@pytest.mark.parametrize("function", [only_context, only_names])
def test_a_handler_without_a_place_for_the_socket(function: Any) -> None:
    route = Route(function, websocket=True)
    with pytest.raises(TypeError, match="the context and the socket as its first two arguments"):
        route.check_route_args({"id": 3})


def test_the_owner() -> None:
    class Owner:
        async def method(self, ctx: Any) -> None: ...

        @inject
        async def injected(self, ctx: Any, store: Store = resource()) -> None: ...

        @classmethod
        async def of_class(cls, ctx: Any) -> None: ...

    owner = Owner()
    assert Route(owner.method).owner is owner
    assert Route(owner.injected).owner is owner
    assert Route(functools.partial(owner.method)).owner is owner
    assert Route(owner.of_class).owner is Owner
    assert Route(coroutine).owner is coroutine
    assert Route(functools.partial(socket, id=3)).owner is socket
    assert Route(inject(with_store)).owner is with_store


# -- Resources ---------------------------------------------------------------------------------


async def wants(ctx: Unknown, id: int, store: Store = resource()) -> Any:
    return id, store


def wants_sync(
    ctx: Any, store: Store = resource("b"), maybe: Store | None = resource("none")
) -> Any:
    return store, maybe


async def wants_stream(ctx: Any, store: Store = resource()) -> AsyncIterator[Any]:
    yield store


@inject
async def injected(ctx: Any, store: Store = resource()) -> Any:
    return store


async def test_resources_are_filled_in() -> None:
    async with Context() as context:
        first, second = Store(), Store()
        context.add_resource(first)
        context.add_resource(second, "b")
        token = _current_context.set(context)
        try:
            assert await Route(wants).function(None, id=3) == (3, first)
            assert Route(wants_sync).function(None) == (second, None)
            assert [value async for value in Route(wants_stream).function(None)] == [first]
            assert await Route(injected).function(None) is first
            assert await Route(wants).function(None, id=3, store=second) == (3, second)
        finally:
            _current_context.reset(token)


def test_kinds_with_resources() -> None:
    assert Route(wants).is_coroutine
    assert Route(injected).is_coroutine
    assert Route(injected).function is injected
    assert Route(wants_sync).is_sync
    assert Route(wants_stream).is_async_gen
    assert Route(inject(wants_stream)).is_async_gen
    assert Route(wants).name == f"{__name__}.wants"


def test_resources_are_no_arguments() -> None:
    Route(wants).check_route_args({"id": 1})
    Route(injected).check_route_args({})
    with pytest.raises(TypeError, match="takes no argument 'store'"):
        Route(wants).check_route_args({"id": 1, "store": 1})


def test_injected_resources() -> None:
    assert Route(wants).injected_resources() == [(Store, "default")]
    assert Route(wants_sync).injected_resources() == [(Store, "b")]
    assert Route(injected).injected_resources() == [(Store, "default")]
    assert Route(sync).injected_resources() == []


def test_resources_of_local_classes() -> None:
    class Local: ...

    async def handler(ctx: Any, thing: Local = resource()) -> None: ...

    assert Blueprint("b").route("/")(handler).injected_resources() == [(Local, "default")]


def test_wrong_resources() -> None:
    def bare(ctx, thing=resource()): ...  # type: ignore[no-untyped-def]

    def positional(ctx: Any, thing: Store = resource(), /) -> None: ...

    def unknown(ctx: Any, thing: Unknown = resource()) -> None: ...

    def several(ctx: Any, thing: Store | int = resource()) -> None: ...

    with pytest.raises(RouteError, match="'thing' .* needs an annotation"):
        Route(bare)
    with pytest.raises(RouteError, match="'thing' .* positional-only"):
        Route(positional)
    for function in (unknown, several):
        with pytest.raises(RouteError, match="'thing' .* does not name one type"):
            Route(function).injected_resources()
