"""
``Route``: a handler with its paths, its hooks and its options.
"""

from __future__ import annotations

import functools
import inspect
import uuid
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from werkzeug.routing import (
    AnyConverter,
    FloatConverter,
    IntegerConverter,
    PathConverter,
    UnicodeConverter,
    UUIDConverter,
)

from kyoukai.exceptions import RouteError
from kyoukai.handlers import Hook, HookTable
from kyoukai.signature import Signature, caller_locals, inject_resources, is_injected

if TYPE_CHECKING:
    from werkzeug.routing import Rule

    from kyoukai.blueprint import Blueprint

__all__ = ("UNSET", "WEBSOCKET", "Route", "Unset")

F = TypeVar("F", bound=Callable[..., Any])

#: Stands in the place of a method where a path is a socket's.
WEBSOCKET: Final = "WEBSOCKET"

#: What Werkzeug's own converters return. Exact classes only: a subclass may return anything.
_RESULTS: dict[type, type] = {
    UnicodeConverter: str,
    PathConverter: str,
    AnyConverter: str,
    IntegerConverter: int,
    FloatConverter: float,
    UUIDConverter: uuid.UUID,
}


class Unset(Enum):
    """The type of ``UNSET``, which stands for an option that was not given."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


class Route:
    """
    A handler with its paths, its hooks and its options.

    Calling a route calls its function, so that a decorated function stays usable.

    :param function: a coroutine function, a function (run in a thread), an async generator
        function or a generator function (both streamed); its first argument is the context
    :param reverse_hooks: whether the blueprints' hooks run from child to parent
    :param should_invoke_hooks: whether hooks run at all
    :param do_argument_checking: whether arguments from the path are checked against the
        function's signature
    :param endpoint: name for ``url_for``; by default the blueprint's name, a dot, and the
        function's name
    :param max_body_size: bytes that a request's body may have, None for no limit; by default the
        server's ``max_body_size``
    :param stream: whether the handler reads the body as it arrives; otherwise the body is
        complete before the handler runs
    :param cancel_on_disconnect: whether the handler is cancelled when the client leaves
    :param websocket: whether it handles WebSockets: a coroutine function, whose second argument is
        the socket. Its paths have no methods; of the three options before this one, the last
        counts until the socket is accepted, and the others mean nothing.
    :raises RouteError: if the function cannot be called, or an option has a wrong value
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        reverse_hooks: bool = False,
        should_invoke_hooks: bool = True,
        do_argument_checking: bool = True,
        endpoint: str | None = None,
        max_body_size: int | Literal[Unset.UNSET] | None = UNSET,
        stream: bool = False,
        cancel_on_disconnect: bool = True,
        websocket: bool = False,
    ) -> None:
        if not callable(function):
            raise RouteError(f"a route needs a function; {function!r} is not callable")
        if isinstance(max_body_size, bool) or not isinstance(max_body_size, int | None | Unset):
            raise RouteError(f"max_body_size must be a number of bytes, not {max_body_size!r}")
        if isinstance(max_body_size, int) and max_body_size < 0:
            raise RouteError(f"max_body_size must be at least 0, not {max_body_size!r}")
        self._signature = Signature(function, caller_locals(function), websocket)
        #: The user's function; if it wants resources, it is wrapped so that it gets them.
        self.function = function if is_injected(function) else inject_resources(self._signature)
        self.reverse_hooks = reverse_hooks
        self.should_invoke_hooks = should_invoke_hooks
        self.do_argument_checking = do_argument_checking
        self.endpoint = endpoint
        self.max_body_size = max_body_size
        self.stream = stream
        self.cancel_on_disconnect = cancel_on_disconnect
        self.is_websocket = websocket
        #: What ``process_resource`` of a middleware gets: the object whose method this is, a
        #: ``Resource`` or a ``RouteGroup`` for instance, else the user's function.
        self.owner: Any = _owner(function)
        #: The endpoint that stands for all routes of a resource, if it belongs to one.
        self.alias: str | None = None
        #: As an error handler: whether it takes the socket.
        self.takes_socket = self._signature.takes_socket
        #: The blueprint that the route belongs to, once it was added to one.
        self.bp: Blueprint | None = None
        #: Paths with their methods.
        self.routes: list[tuple[str, tuple[str, ...]]] = []
        self._hooks = HookTable()

        plain = _innermost(function)
        #: What kind of handler it is. ``is_generator`` means both kinds of generator function,
        #: ``is_sync`` whatever must run in a thread.
        self.is_coroutine = inspect.iscoroutinefunction(plain)
        self.is_async_gen = inspect.isasyncgenfunction(plain)
        self.is_generator = self.is_async_gen or inspect.isgeneratorfunction(plain)
        self.is_sync = not self.is_coroutine and not self.is_generator
        if websocket and not self.is_coroutine:
            raise RouteError(f"{self.name} handles WebSockets, so it must be a coroutine function")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Route {self.name} {' '.join(path for path, _ in self.routes)}>"

    @property
    def name(self) -> str:
        """A name for logs: the endpoint if the route has its own, else module and function."""
        if self.endpoint is not None:
            return self.endpoint
        function: Any = _without_partial(self.function)
        module = getattr(function, "__module__", None) or type(function).__module__
        qualified = getattr(function, "__qualname__", None) or type(function).__qualname__
        return f"{module}.{qualified}"

    def get_endpoint_name(self, bp: Blueprint | None = None) -> str:
        """
        Return the route's endpoint.

        :param bp: the blueprint whose name goes in front; by default the route's own. An endpoint
            given to the route is used as it is.
        """
        if self.endpoint is not None:
            return self.endpoint
        function: Any = _without_partial(self.function)
        name = getattr(function, "__name__", None) or type(function).__name__
        bp = bp or self.bp
        return f"{bp.name if bp is not None else ''}.{name}"

    def add_path(self, url: str, methods: Iterable[str] = ("GET",)) -> Route:
        """
        Add a path.

        :param url: in Werkzeug's notation, such as ``/users/<int:id>``
        :param methods: HTTP methods; ``GET`` brings ``HEAD`` with it. A socket's route has none.
        :raises RouteError: if path or methods cannot be right
        """
        if not isinstance(url, str) or not url.startswith("/"):
            raise RouteError(f"the path of {self.name} must begin with '/', not be {url!r}")
        if isinstance(methods, str):
            raise RouteError(f"the methods of {self.name} must be a list, not {methods!r}")
        listed = (WEBSOCKET,) if self.is_websocket else tuple(methods)
        if not listed or not all(isinstance(method, str) and method for method in listed):
            raise RouteError(f"the methods of {self.name} must be names, not {listed!r}")
        upper = tuple(dict.fromkeys(method.upper() for method in listed))
        if (url, upper) not in self.routes:
            self.routes.append((url, upper))
            self._changed()
        return self

    # -- Hooks ---------------------------------------------------------------------------------

    def add_hook(self, type_: str, hook: F) -> F:
        """
        Add a hook of this route alone; it runs after those of the blueprints.

        :param type_: ``pre``: called with the context, may return another one; ``post``: called
            with context and response, may return another response
        :param hook: a function or a coroutine function
        """
        self._hooks.add(type_, hook)
        self._changed()
        return hook

    def before_request(self, func: F) -> F:
        """Decorator for a hook that runs before the handler."""
        return self.add_hook("pre", func)

    def after_request(self, func: F) -> F:
        """Decorator for a hook that runs after the handler."""
        return self.add_hook("post", func)

    def get_hooks(self, type_: str) -> list[Hook]:
        """Return the route's own hooks of one type."""
        return self._hooks.get(type_)

    def all_hooks(self, type_: str) -> tuple[Hook, ...]:
        """Return all hooks of one type that run for this route, in their order."""
        if not self.should_invoke_hooks:
            return ()
        inherited = [] if self.bp is None else self.bp.get_hooks(type_)
        if self.reverse_hooks:
            inherited.reverse()
        return (*inherited, *self.get_hooks(type_))

    def _changed(self) -> None:
        if self.bp is not None:
            self.bp.invalidate()

    # -- Arguments -----------------------------------------------------------------------------

    def check_route_args(self, params: Mapping[str, Any] | None = None) -> None:
        """
        Check arguments from the path against the function's signature.

        Resources are not looked at, nor are annotations that ``isinstance`` cannot tell.

        :param params: names and values
        :raises TypeError: naming the route and the first argument that does not fit
        """
        try:
            self._signature.check({} if params is None else params)
        except TypeError as error:
            raise TypeError(f"route {self.name}: {error}") from None

    def needs_check(self, rule: Rule) -> bool:
        """
        Whether arguments must be checked when this rule matches.

        They need not be if the rule's names fit, and Werkzeug's own converters make nothing but
        what the annotations ask for.
        """
        if not self.do_argument_checking:
            return False
        try:
            self._signature.check_names(rule.arguments)
        except TypeError:
            return True
        for name in rule.arguments:
            allowed = self._signature.allowed_types(name)
            result = _RESULTS.get(type(rule._converters.get(name)))
            if allowed is None:
                continue
            try:
                if result is None or not issubclass(result, allowed):
                    return True
            except TypeError:  # a protocol that issubclass cannot tell
                return True
        return False

    def injected_resources(self) -> list[tuple[type, str]]:
        """
        Return type and name of each resource that the handler cannot do without.

        :raises RouteError: if a resource's annotation cannot be resolved
        """
        wanted = [self._signature.resource(name) for name in self._signature.resources]
        return [(kind, name) for kind, name, optional in wanted if not optional]


def _without_partial(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _owner(function: Any) -> Any:
    """Return the object that a method is bound to, or the function itself."""
    while True:
        if inspect.ismethod(function):
            return function.__self__
        if isinstance(function, functools.partial):
            function = function.func
        elif is_injected(function):
            function = function.__wrapped__
        else:
            return function


def _innermost(function: Any) -> Any:
    """Return the function that says what kind of handler this is."""
    while is_injected(function) or isinstance(function, functools.partial):
        function = _without_partial(getattr(function, "__wrapped__", function))
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return type(function).__call__  # an object with a method of that name
