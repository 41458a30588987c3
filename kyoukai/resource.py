"""
``Resource``: a class whose methods answer the methods of HTTP.

.. code-block:: python

    class Account(Resource):
        def __init__(self, store: Store) -> None:
            self.store = store

        async def on_get(self, ctx: HTTPRequestContext, account_id: int):
            return self.store[account_id]

        async def on_websocket(self, ctx: WebSocketContext, ws: WebSocket, account_id: int):
            await ws.accept()

    app.add_resource("/accounts/<int:account_id>", Account(store))
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from kyoukai.config import nearest_name
from kyoukai.exceptions import RouteError
from kyoukai.route import Route

__all__ = ("Resource", "Responder", "check_options", "find_responders", "responder")

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = "__kyoukai_responder__"
_SOCKET = "websocket"

#: Methods that a responder may be for, WebDAV's among them. (``on_error`` is no responder.)
_METHODS = frozenset(
    (
        "get",
        "post",
        "put",
        "patch",
        "delete",
        "head",
        "options",
        "trace",
        "query",
        "search",
        "purge",
        "link",
        "unlink",
        "checkin",
        "checkout",
        "copy",
        "lock",
        "mkcol",
        "move",
        "propfind",
        "proppatch",
        "report",
        "unlock",
    )
)
#: For hints: what is most likely meant.
_USUAL = ("get", "post", "put", "patch", "delete", "head", "options", "trace", _SOCKET)

#: What may be said of a responder's route: the others follow from its name and its resource.
_ALLOWED = tuple(
    name
    for name, parameter in inspect.signature(Route).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in ("endpoint", "websocket")
)


class Resource:
    """
    A base class for resources. Any object with responders is a resource as well.

    A responder is a method called ``on_`` and the name of an HTTP method in lower case, such as
    ``on_get``: it is called with the context and the arguments from the path, and is in all else
    like the function of a route. ``on_websocket`` is called with the context, the socket and the
    arguments. A subclass ends a responder of its base class by setting it to None.
    """


class Responder(NamedTuple):
    """
    A responder of a resource.

    :param name: its name
    :param method: the HTTP method, None for ``on_websocket``
    :param function: the responder itself, bound to the resource
    :param options: options of its route
    """

    name: str
    method: str | None
    function: Callable[..., Any]
    options: dict[str, Any]


def responder(**options: Any) -> Callable[[F], F]:
    """
    Give options to the route of a responder; those given here win over ``add_resource``'s.

    A method that overrides the responder has them too.

    :param options: for :class:`~kyoukai.route.Route`, such as ``stream=True``
    :raises RouteError: for options that a responder cannot have
    """
    check_options(options)

    def decorate(function: F) -> F:
        if not callable(function):
            raise RouteError(f"a responder must be callable; {function!r} is not")
        setattr(function, _OPTIONS, {**getattr(function, _OPTIONS, {}), **options})
        return function

    return decorate


def check_options(options: Iterable[str]) -> None:
    """
    Refuse options that the route of a responder cannot have.

    :raises RouteError: naming the first one
    """
    for name in options:
        if name not in _ALLOWED:
            near = nearest_name(name, _ALLOWED)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(_ALLOWED)}"
            raise RouteError(f"a responder has no option {name!r}; {hint}")


def find_responders(resource: Any, suffix: str | None = None) -> list[Responder]:
    """
    Return the responders of a resource.

    :param resource: any object with responders
    :param suffix: what their names end with, after another underscore
    :raises RouteError: if there are none
    """
    if isinstance(resource, type):
        name = resource.__name__
        raise RouteError(f"{name} is a class; add an instance: {name}()")
    if suffix is not None and not (isinstance(suffix, str) and suffix.isidentifier()):
        raise RouteError(f"a suffix must be the end of a method's name, not {suffix!r}")
    pattern = re.compile(r"on_([a-z0-9]+)" + ("" if suffix is None else f"_{suffix}"))
    found = []
    for name in _names(resource):
        matched = pattern.fullmatch(name)
        if matched is None or not (matched[1] in _METHODS or matched[1] == _SOCKET):
            continue
        function = getattr(resource, name)
        if callable(function):
            method = None if matched[1] == _SOCKET else matched[1].upper()
            found.append(Responder(name, method, function, _options_of(resource, name)))
    if not found:
        raise RouteError(f"{resource!r} has no responder {_hint(resource, suffix)}")
    return found


def _names(resource: Any) -> Iterator[str]:
    """Iterate over the public names of an object, in the order of their definition."""
    seen = dict.fromkeys(
        name for class_ in reversed(type(resource).__mro__) for name in vars(class_)
    )
    seen.update(dict.fromkeys(getattr(resource, "__dict__", ())))
    return (name for name in seen if not name.startswith("_"))


def _options_of(resource: Any, name: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    own = getattr(resource, "__dict__", {})
    for space in (*(vars(class_) for class_ in reversed(type(resource).__mro__)), own):
        value = space.get(name)
        # A static or class method has the function's attributes since Python 3.10.
        options.update(getattr(value, _OPTIONS, {}))
    return options


def _hint(resource: Any, suffix: str | None) -> str:
    """Return the end of a message: what a resource without responders may have meant."""
    end = "" if suffix is None else f"_{suffix}"
    wanted = {f"on{method}{end}".replace("_", ""): f"on_{method}{end}" for method in _USUAL}
    for name in _names(resource):
        if not callable(inspect.getattr_static(resource, name)):
            continue
        if suffix is None and re.fullmatch(r"on_[a-z0-9]+_\w+", name):
            return f"without a suffix; give suffix={name.split('_', 2)[2]!r} for {name!r}"
        near = nearest_name(name.lower().replace("_", ""), wanted)
        if near is not None:
            return f"such as {wanted[near]!r} (did you mean that by {name!r}?)"
    return f"such as 'on_get{end}'"
