"""
``RouteGroup``: a class whose methods are routes.

.. code-block:: python

    class Notes(RouteGroup, prefix="/notes"):
        def __init__(self, store: Store) -> None:
            self.store = store

        @route("/<int:id>")
        async def show(self, ctx: HTTPRequestContext, id: int):
            return self.store[id]

    app.add_route_group(Notes(store))

Each instance has a blueprint of its own, made from what the decorators noted on the methods.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from kyoukai.blueprint import GROUP_BLUEPRINT, Blueprint
from kyoukai.exceptions import RouteError
from kyoukai.handlers import HookTable

__all__ = (
    "RouteGroup",
    "RouteGroupType",
    "after_request",
    "before_request",
    "errorhandler",
    "get_rg_bp",
    "hook",
    "route",
    "websocket",
)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_NOTES = "__kyoukai_notes__"
_CLASS_ARGUMENTS = ("name", "parent", "prefix", "host_matching", "host")


class _Notes:
    """What the decorators say of a method."""

    def __init__(self, before: _Notes | None = None) -> None:
        self.routes = [] if before is None else list(before.routes)
        self.options = {} if before is None else dict(before.options)
        self.route_hooks = [] if before is None else list(before.route_hooks)
        self.errors = [] if before is None else list(before.errors)
        self.hooks = [] if before is None else list(before.hooks)

    routes: list[tuple[str, tuple[str, ...]]]
    options: dict[str, Any]
    route_hooks: list[tuple[str, Callable[..., Any]]]
    errors: list[tuple[int | type[BaseException], int | None, int | None]]
    hooks: list[str]


# -- Decorators --------------------------------------------------------------------------------


def route(url: str, methods: Iterable[str] = ("GET",), **options: Any) -> Callable[[Any], Any]:
    """
    Make a method a route; several of these add several paths.

    The method gets ``before_request``, ``after_request`` and ``hook(type_)``, decorators for
    hooks of this route alone. Such a hook may be a method too.

    :param url: the path after the group's prefix, in Werkzeug's notation
    :param methods: HTTP methods
    :param options: for :class:`~kyoukai.route.Route`
    """
    if isinstance(methods, str):
        raise RouteError(f"the methods of {url!r} must be a list, not {methods!r}")
    listed = tuple(methods)

    def decorate(function: Any) -> Any:
        marked, notes = _noted(function)
        socket = options.get("websocket", False)
        if notes.routes and notes.options.get("websocket", False) is not socket:
            raise RouteError(f"{function.__qualname__} cannot handle requests and WebSockets both")
        notes.routes.append((url, listed))
        notes.options.update(options)
        return marked

    return decorate


def websocket(url: str, **options: Any) -> Callable[[Any], Any]:
    """
    Make a method a handler of WebSockets, called with context, socket and the path's arguments.

    :param url: the path after the group's prefix, in Werkzeug's notation
    :param options: for :class:`~kyoukai.route.Route`
    """
    return route(url, websocket=True, **options)


def errorhandler(
    startcode: int | type[BaseException], endcode: int | None = None, step: int | None = None
) -> Callable[[F], F]:
    """
    Make a method an error handler of the group, called with context and exception.

    :param startcode: a status, or a class of exceptions
    :param endcode: the end of a range of statuses, itself not in it
    :param step: the distance between two statuses of the range
    """

    def decorate(function: F) -> F:
        marked, notes = _noted(function)
        notes.errors.append((startcode, endcode, step))
        return marked

    return decorate


def hook(type_: str) -> Callable[[F], F]:
    """
    Make a method a hook of the group.

    :param type_: ``pre`` to run before handlers, ``post`` to run after them
    :raises RouteError: for any other type
    """
    HookTable().get(type_)

    def decorate(function: F) -> F:
        marked, notes = _noted(function)
        notes.hooks.append(type_)
        return marked

    return decorate


def before_request(func: F) -> F:
    """Make a method a hook that runs before the group's handlers."""
    return hook("pre")(func)


def after_request(func: F) -> F:
    """Make a method a hook that runs after the group's handlers."""
    return hook("post")(func)


def _noted(function: F) -> tuple[F, _Notes]:
    """
    Return a copy of a function with notes of its own, and the notes.

    A copy, because the same function may be decorated for several classes, and none of them
    should see what was noted for another.
    """
    if not isinstance(function, types.FunctionType):
        raise RouteError(f"only functions can be parts of a route group, not {function!r}")
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = function.__annotations__
    copy.__doc__ = function.__doc__
    copy.__module__ = function.__module__
    copy.__qualname__ = function.__qualname__
    copy.__dict__.update(function.__dict__)
    notes = _Notes(getattr(function, _NOTES, None))

    def route_hook(type_: str) -> Callable[[T], T]:
        HookTable().get(type_)

        def decorate(hook: T) -> T:
            notes.route_hooks.append((type_, hook))  # type: ignore[arg-type]
            return hook

        return decorate

    copy.__dict__.update(
        {
            _NOTES: notes,
            "hook": route_hook,
            "before_request": route_hook("pre"),
            "after_request": route_hook("post"),
        }
    )
    return copy, notes  # type: ignore[return-value]


# -- Classes -----------------------------------------------------------------------------------


class RouteGroupType(type):
    """
    The metaclass of route groups: it keeps the blueprint's arguments, and makes the blueprint.

    A subclass inherits the arguments that it does not give itself, but for the name.
    """

    def __new__(
        mcs, name: str, bases: tuple[type, ...], body: dict[str, Any], /, **arguments: Any
    ) -> RouteGroupType:
        """Make a class, with the blueprint's arguments from the class statement."""
        for argument in arguments:
            if argument not in _CLASS_ARGUMENTS:
                raise RouteError(
                    f"class {name}: unknown argument {argument!r}; "
                    f"known: {', '.join(_CLASS_ARGUMENTS)}"
                )
        made = super().__new__(mcs, name, bases, body)
        made._arguments = arguments
        return made

    def __init__(
        cls, name: str, bases: tuple[type, ...], body: dict[str, Any], /, **arguments: Any
    ) -> None:
        super().__init__(name, bases, body)

    _arguments: dict[str, Any]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance with its blueprint."""
        group = super().__call__(*args, **kwargs)
        if getattr(group, GROUP_BLUEPRINT, None) is None:
            # Not setattr(): a frozen dataclass may be a group as well.
            object.__setattr__(group, GROUP_BLUEPRINT, cls._make_blueprint(group))
        return group

    def _make_blueprint(cls, group: Any) -> Blueprint:
        arguments: dict[str, Any] = {}
        for class_ in reversed(cls.__mro__):
            arguments.pop("name", None)
            arguments.update(class_.__dict__.get("_arguments", {}))
        parent = arguments.pop("parent", None)
        blueprint = Blueprint(arguments.pop("name", cls.__name__), **arguments)
        methods = {
            id(value): name for class_ in cls.__mro__ for name, value in vars(class_).items()
        }
        for name, notes in _members(cls):
            method = getattr(group, name)
            _add_member(blueprint, method, notes, group, methods)
        if parent is not None:
            parent.add_child(blueprint)
        return blueprint


def _members(cls: type) -> Iterator[tuple[str, _Notes]]:
    """
    Iterate over the names of noted methods with their notes.

    A method that overrides another without a decorator has the other's notes; whatever is not
    callable, such as None, ends them.
    """
    found: dict[str, _Notes] = {}
    for class_ in reversed(cls.__mro__):
        for name, value in vars(class_).items():
            function = getattr(value, "__func__", value)  # of a static or class method
            notes = getattr(function, _NOTES, None)
            if isinstance(notes, _Notes):
                found[name] = notes
            elif name in found and not callable(function):
                del found[name]
    return iter(found.items())


def _add_member(
    blueprint: Blueprint, method: Any, notes: _Notes, group: Any, methods: dict[int, str]
) -> None:
    """
    Put a method into the blueprint.

    :param methods: names in the class by the identity of what is there: hooks that are methods
        are bound to the group
    """
    if notes.routes:
        made = blueprint.wrap_route(method, **notes.options)
        made.owner = group  # which a static method does not know
        for url, listed in notes.routes:
            blueprint.add_route(made, url, listed)
        for type_, function in notes.route_hooks:
            name = methods.get(id(function))
            made.add_hook(type_, function if name is None else getattr(group, name))
    for start, end, step in notes.errors:
        blueprint.add_errorhandler(method, start, end, step)
    for type_ in notes.hooks:
        blueprint.add_hook(type_, method)


def get_rg_bp(group: Any) -> Blueprint:
    """
    Return the blueprint of a route group.

    :param group: an instance of a route group
    :raises RouteError: if it is none
    """
    blueprint = None if isinstance(group, type) else getattr(group, GROUP_BLUEPRINT, None)
    if not isinstance(blueprint, Blueprint):
        raise RouteError(f"{group!r} is no instance of a route group")
    return blueprint


class RouteGroup(metaclass=RouteGroupType):
    """
    A group of routes that share an instance.

    The class statement takes the arguments of a :class:`~kyoukai.blueprint.Blueprint`:
    ``class Api(RouteGroup, prefix="/api")``. Subclasses inherit routes, hooks and error handlers,
    and override them by the names of the methods.
    """
