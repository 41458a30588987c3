"""
``HTTPRequestContext``: one request as an Asphalt context.

Asphalt makes five containers for each context and enters and leaves it; a request that uses none
of that pays for none of it. Asphalt's private names are touched in this file alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from asphalt.core import Context, Event, Signal
from asphalt.core.context import ContextState, _current_context
from werkzeug.datastructures import Headers

from kyoukai.wrappers import Request, lazy

if TYPE_CHECKING:
    from werkzeug.routing import Rule
    from werkzeug.wrappers import Response

    from kyoukai.app import Kyoukai
    from kyoukai.blueprint import Blueprint
    from kyoukai.middleware import Bound
    from kyoukai.route import Route
    from kyoukai.websocket import WebSocket

__all__ = (
    "ContextEvent",
    "HTTPRequestContext",
    "RouteCompletedEvent",
    "RouteInvokedEvent",
    "RouteMatchedEvent",
    "WebSocketContext",
)


C = TypeVar("C", bound="HTTPRequestContext")


class ContextEvent(Event):
    """Something happened to a request; its context is ``ctx``."""

    def __init__(self, source: Any, topic: str, *, ctx: HTTPRequestContext) -> None:
        super().__init__(source, topic)
        self.ctx = ctx


class RouteMatchedEvent(ContextEvent):
    """A route was found: ``ctx.route`` and ``ctx.params`` are set."""


class RouteInvokedEvent(ContextEvent):
    """The route's hooks and handler are about to run."""


class RouteCompletedEvent(ContextEvent):
    """The handler and the hooks after it have run; the response is ``result``."""

    def __init__(
        self, source: Any, topic: str, *, ctx: HTTPRequestContext, result: Response
    ) -> None:
        super().__init__(source, topic, ctx=ctx)
        self.result = result


class HTTPRequestContext(Context):
    """
    The context of one request: handlers and hooks get it as their first argument.

    :param app: the application
    :param request: the request
    :param parent: the parent context; None means the current one
    """

    route_matched = Signal(RouteMatchedEvent)
    route_invoked = Signal(RouteInvokedEvent)
    route_completed = Signal(RouteCompletedEvent)

    #: The route that matched, its blueprint, its parameters and the Werkzeug rule.
    route: Route | None = None
    bp: Blueprint | None = None
    rule: Rule | None = None
    #: What ended the handler or its streamed answer, for teardown callbacks that ask for it.
    exception: BaseException | None = None

    _state = ContextState.open

    def __init__(self, app: Kyoukai, request: Request, parent: Context | None = None) -> None:
        # Not super().__init__(): see the module's docstring.
        self.app = app
        self.request = request
        self._parent = _current_context.get() if parent is None else parent

    @lazy
    def params(self) -> Mapping[str, Any]:
        """The arguments that the route takes from the path."""
        return {}

    @lazy
    def entered_middlewares(self) -> list[Bound]:
        """The middlewares that the response is going to pass, the outermost first."""
        return []

    @lazy
    def _resources(self) -> dict[Any, Any]:
        return {}

    @lazy
    def _resource_factories(self) -> dict[Any, Any]:
        return {}

    @lazy
    def _resource_factories_by_context_attr(self) -> dict[str, Any]:
        return {}

    @lazy
    def _teardown_callbacks(self) -> list[tuple[Callable[..., Any], bool]]:
        return []

    @property
    def environ(self) -> dict[str, Any]:
        """The request's WSGI environ."""
        return self.request.environ

    @property
    def proto(self) -> Any:
        """The protocol of the connection that the request came in on; None in tests."""
        state = self.request.state
        return None if state is None else state.protocol

    @lazy
    def trailers(self) -> Headers:
        """
        Trailers to send after the response's body.

        They count until the body ends, and are dropped where the protocol has none.
        """
        return Headers()

    def url_for(self, endpoint: str, *, method: str | None = None, **values: Any) -> str:
        """
        Build the URL of an endpoint.

        :param endpoint: ``blueprint.function``; the function alone for the root's routes, and
            ``.function`` for those of this request's blueprint
        :param method: tells routes of one endpoint apart
        :param values: the route's parameters; more become the query. ``_external=True`` gives an
            absolute URL, ``_scheme`` and ``_anchor`` are as in Flask
        :raises RouteError: if there is no such endpoint, or a parameter is missing
        """
        if endpoint.startswith("."):
            blueprint = self.bp or self.app.root
            endpoint = blueprint.name + endpoint
        return self.app.url_for(self.environ, endpoint, method=method, **values)

    async def early_hints(self, links: str | Iterable[str]) -> None:
        """
        Send 103 Early Hints (RFC 8297) ahead of the response.

        :param links: values of Link headers, such as ``</style.css>; rel=preload; as=style``, or
            one of them
        """
        state = self.request.state
        if isinstance(links, str):
            links = (links,)
        if state is not None:
            state.send_informational(103, [(b"link", link.encode("latin-1")) for link in links])

    async def disconnected(self) -> None:
        """
        Wait until the client is gone; for ever, if it stays or there is none.

        A client that has closed its sending direction counts as gone: only writing could tell.
        """
        state = self.request.state
        if state is not None:
            await state.disconnected(or_closed_input=True)

    @property
    def has_teardown(self) -> bool:
        """Whether anything is to be done when the context closes."""
        return bool(self.__dict__.get("_teardown_callbacks"))


class WebSocketContext(HTTPRequestContext):
    """
    The context of a WebSocket; ``request`` is its handshake.

    :param app: the application
    :param request: the handshake
    :param parent: the parent context; None means the current one
    """

    #: The socket.
    ws: WebSocket


def context_factory(
    context_class: type[C],
) -> Callable[[Kyoukai, Request, Context | None], C]:
    """
    Return what makes contexts of a class, whose constructor need not take the parent.

    :param context_class: the class, as the application names it
    """
    try:
        signature(context_class).bind(None, None, None)
    except TypeError:

        def make(app: Kyoukai, request: Request, parent: Context | None) -> C:
            ctx = context_class(app, request)
            if parent is not None:
                ctx._parent = parent
            return ctx

        return make
    return context_class


def replace(old: HTTPRequestContext, new: HTTPRequestContext) -> None:
    """A hook has put another context in place: it knows what the old one knew, and ends with it."""
    for name in ("route", "bp", "rule", "params", "trailers", "entered_middlewares"):
        setattr(new, name, getattr(old, name))
    # Closing the new one closes the old one; the pipeline asks the old one whether to close.
    new._teardown_callbacks.insert(0, (old.close, True))
    old._teardown_callbacks = old._teardown_callbacks
    old.request.context = new
    _current_context.set(new)


#: Make a context the current one; ``reset_current`` takes that back.
set_current: Callable[[Context], Token[Any]] = _current_context.set


def reset_current(token: Token[Any]) -> None:
    """Make the context current again that was before."""
    _current_context.reset(token)


def get_current() -> Context | None:
    """Return the current context, if there is one."""
    return _current_context.get()


def listens(signal: Signal[Any], ctx: HTTPRequestContext) -> bool:
    """Whether a signal of this context has listeners; does not make the bound signal."""
    bound = signal.bound_signals
    return bool(bound) and ctx in bound and bool(bound[ctx].listeners)
