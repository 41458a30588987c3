"""
``Kyoukai``: the application.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from asphalt.core import Component, Context, Signal, run_application
from asphalt.core.component import component_types

from kyoukai.blueprint import Blueprint
from kyoukai.channel import Channel
from kyoukai.config import ServerConfig
from kyoukai.context import (
    HTTPRequestContext,
    RouteCompletedEvent,
    RouteInvokedEvent,
    RouteMatchedEvent,
)
from kyoukai.exceptions import ConfigurationError
from kyoukai.media import MediaHandlers
from kyoukai.mount import Mount
from kyoukai.pipeline import RequestPipeline
from kyoukai.websocket import WebSocketOptions
from kyoukai.wrappers import Request, Response

if TYPE_CHECKING:
    from werkzeug.routing import Map
    from werkzeug.wrappers import Response as WerkzeugResponse

    from kyoukai.route import Route
    from kyoukai.routegroup import RouteGroup

__all__ = ("Kyoukai",)

logger = logging.getLogger("kyoukai")

F = TypeVar("F", bound=Callable[..., Any])

_END: Any = object()


class Kyoukai:
    """
    A web application.

    :param name: the application's name, which is also its root blueprint's
    :param server_name: the host that URLs are built for outside a request
    :param host_matching: whether routes may be bound to hosts
    :param host: the host of all routes that name no other; implies ``host_matching``
    :param application_root: the prefix of URLs that are built outside a request
    :param request_class: the class of requests
    :param response_class: the class of responses made from what handlers return
    :param context_class: the class of requests' contexts
    :param pipeline_class: the class of the pipeline that handles requests
    :param middleware: a middleware, or several, the outermost first; see :meth:`add_middleware`
    :param config: the application's own configuration, kept as ``app.config``; ``debug=True`` is
        for development, see :attr:`debug`
    """

    route_matched = Signal(RouteMatchedEvent)
    route_invoked = Signal(RouteInvokedEvent)
    route_completed = Signal(RouteCompletedEvent)

    request_class: type[Request] = Request
    response_class: type[WerkzeugResponse] = Response
    context_class: type[HTTPRequestContext] = HTTPRequestContext
    pipeline_class: type[RequestPipeline] = RequestPipeline

    def __init__(
        self,
        name: str,
        *,
        server_name: str | None = None,
        host_matching: bool = False,
        host: str | None = None,
        application_root: str = "/",
        request_class: type[Request] | None = None,
        response_class: type[WerkzeugResponse] | None = None,
        context_class: type[HTTPRequestContext] | None = None,
        pipeline_class: type[RequestPipeline] | None = None,
        middleware: Any = (),
        **config: Any,
    ) -> None:
        self.name = name
        self.server_name = server_name
        self.application_root = application_root
        self.request_class = request_class or self.request_class
        self.response_class = response_class or self.response_class
        self.context_class = context_class or self.context_class
        self.pipeline_class = pipeline_class or self.pipeline_class
        self.config = config
        #: The component that ``start`` made.
        self.component: Component | None = None
        #: Components that are started with the application, by alias: type and configuration.
        self.components: dict[str, tuple[str | type, dict[str, Any]]] = {}
        #: The blueprint at the root of the routing tree.
        self.root = Blueprint(name, host_matching=host_matching, host=host)
        for each in middleware if isinstance(middleware, Iterable) else (middleware,):
            self.root.add_middleware(each)
        #: Applications of any kind below prefixes; see :meth:`mount`.
        self.mounts: list[Mount] = []
        #: What reads and writes bodies, by content type.
        self.media_handlers = MediaHandlers()
        #: What goes for all sockets.
        self.ws_options = WebSocketOptions()
        # What has neither members nor users is forgotten: clients may choose names of rooms.
        self._channels: WeakValueDictionary[str, Channel] = WeakValueDictionary()
        self._before_serving: list[Callable[[Context], Awaitable[None]]] = []
        self._after_serving: list[Callable[[Context], Awaitable[None]]] = []
        self._while_serving: list[Callable[[Context], AsyncGenerator[None, None]]] = []
        self._running: list[AsyncGenerator[None, None]] = []
        self._servers = 0
        self._process = 0
        self._context: Context | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._own_pipeline: RequestPipeline | None = None

    def __repr__(self) -> str:
        return f"<Kyoukai {self.name!r}>"

    @property
    def debug(self) -> bool:
        """
        Whether developers look at it: ``config["debug"]``, as it is when a server starts.

        Errors then show their traceback to browsers on the same machine.
        """
        return bool(self.config.get("debug", False))

    @debug.setter
    def debug(self, value: bool) -> None:
        self.config["debug"] = value

    # -- The routing tree ----------------------------------------------------------------------

    def register_blueprint(self, child: Blueprint) -> Blueprint:
        """Add a blueprint below the root."""
        return self.root.add_child(child)

    def route(
        self, url: str, methods: Iterable[str] = ("GET",), **options: Any
    ) -> Callable[[Any], Route]:
        """Add a route to the root blueprint; see :meth:`Blueprint.route`."""
        return self.root.route(url, methods, **options)

    def websocket(self, url: str, **options: Any) -> Callable[[Any], Route]:
        """Add a handler of WebSockets to the root blueprint; see :meth:`Blueprint.websocket`."""
        return self.root.websocket(url, **options)

    def add_route(self, route: Route, url: str, methods: Iterable[str] = ("GET",)) -> Route:
        """Add a route object to the root blueprint."""
        return self.root.add_route(route, url, methods)

    def wrap_route(self, function: Callable[..., Any], **options: Any) -> Route:
        """Make a route of a function without adding it anywhere."""
        return self.root.wrap_route(function, **options)

    def add_route_group(self, group: RouteGroup) -> Blueprint:
        """Add a route group below the root."""
        return self.root.add_route_group(group)

    def add_resource(
        self,
        path: str,
        resource: Any,
        *,
        suffix: str | None = None,
        endpoint: str | None = None,
        **route_options: Any,
    ) -> list[Route]:
        """Add a path of a resource below the root; see :meth:`Blueprint.add_resource`."""
        return self.root.add_resource(
            path, resource, suffix=suffix, endpoint=endpoint, **route_options
        )

    def add_middleware(self, middleware: Any) -> Any:
        """
        Add a middleware for all requests, inside those that are there already.

        :param middleware: a :class:`~kyoukai.middleware.Middleware`, or any object with one of
            its methods
        :return: the middleware
        :raises RouteError: if it is none
        """
        return self.root.add_middleware(middleware)

    def mount(self, prefix: str, application: Any, interface: str = "auto", **options: Any) -> Any:
        """
        Let another application, or a server behind a proxy, answer the paths below a prefix.

        Middlewares, hooks and error handlers of this one do not count there, but what a proxy
        passes on goes through the middlewares and the error handlers. Routes win over a prefix
        that is not longer than what they have before their first variable.

        :param prefix: such as ``/admin``; ``/`` for what no route matches
        :param application: the application, ``module:attribute`` that leads to one, a
            :class:`~kyoukai.proxy.Proxy`, or the URL of a server that requests are passed on to
        :param interface: its kind: ``asgi``, ``kyoukai``, ``proxy``, ``rsgi``, ``ssgi`` or
            ``wsgi``; ``auto`` finds out
        :param options: ``factory``, ``lifespan``, ``root_path`` and ``max_body_size``, see
            :class:`~kyoukai.mount.Mount`
        :return: the application
        :raises ConfigurationError: if one of these cannot work
        """
        made = Mount(prefix, application, interface, **options)
        if any(each.prefix == made.prefix for each in self.mounts):
            raise ConfigurationError(f"mounts: {made.place}: there are two of them")
        self.mounts.append(made)
        return application

    def errorhandler(
        self,
        code: int | type[BaseException],
        endcode: int | None = None,
        step: int | None = None,
    ) -> Callable[[F], F]:
        """Add an error handler for the whole application; see :meth:`Blueprint.errorhandler`."""
        return self.root.errorhandler(code, endcode, step)

    def add_errorhandler(
        self,
        function: Callable[..., Any],
        startcode: int | type[BaseException],
        endcode: int | None = None,
        step: int | None = None,
    ) -> Route:
        """Add an error handler for the whole application."""
        return self.root.add_errorhandler(function, startcode, endcode, step)

    def before_request(self, function: F) -> F:
        """Add a hook before every handler."""
        return self.root.before_request(function)

    def after_request(self, function: F) -> F:
        """Add a hook after every handler."""
        return self.root.after_request(function)

    def add_hook(self, type_: str, function: F) -> F:
        """Add a hook: ``pre`` before or ``post`` after every handler."""
        return self.root.add_hook(type_, function)

    def url_for(
        self, environ: dict[str, Any], endpoint: str, *, method: str | None = None, **values: Any
    ) -> str:
        """Build the URL of an endpoint; see :meth:`HTTPRequestContext.url_for`."""
        self.finalize()
        return self.root.url_for(environ, endpoint, method=method, **values)

    def finalize(self, **map_options: Any) -> Map:
        """
        Build the routing table; done by itself before the first request.

        :param map_options: options of Werkzeug's ``Map``
        :raises RouteError: if routes contradict each other
        """
        return self.root.finalize(**map_options)

    def injected_resources(self) -> list[tuple[type, str]]:
        """Return the resources that handlers have injected: their types and names."""
        found: dict[tuple[type, str], None] = {}
        for route in self.root.tree_routes:
            found.update(dict.fromkeys(route.injected_resources()))
        return list(found)

    # -- Requests ------------------------------------------------------------------------------

    @property
    def overrides_processing(self) -> bool:
        """Whether a subclass has a ``process_request`` of its own."""
        return type(self).process_request is not Kyoukai.process_request

    async def process_request(
        self, request: Request, parent_context: Context | None = None
    ) -> WerkzeugResponse:
        """
        Handle a request. Whatever fails, a response comes back; only cancellation gets through.

        :param request: the request
        :param parent_context: the parent of the request's context; None means the current one
        :raises ExpectingNoResponse: if a handler has taken the connection over
        """
        pipeline: RequestPipeline | None = request.pipeline
        if pipeline is None:
            if self._own_pipeline is None:
                self._own_pipeline = self.pipeline_class(self, ServerConfig())
            pipeline = self._own_pipeline
        request.parent_context = parent_context
        try:
            return await pipeline.produce_final_response_failsafe(request, pipeline.get_response)
        finally:
            if request.pipeline is None:  # otherwise the pipeline does it, after sending
                await pipeline.close_context(request)

    def thread_pool(self, threads: int = 16) -> ThreadPoolExecutor:
        """
        Return the pool that runs synchronous handlers.

        :param threads: its size, when it is made
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"kyoukai-{self.name}")
        return self._pool

    # -- Channels ------------------------------------------------------------------------------

    def channel(self, name: str, **options: Any) -> Channel:
        """
        Return the channel of that name, which lasts as long as it has members or you keep it.

        :param name: the name
        :param options: for a :class:`Channel` that is made: ``queue`` and ``slow``
        :raises ValueError: if there is one with other options
        """
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, **options)
        elif any(getattr(channel, option, None) != given for option, given in options.items()):
            raise ValueError(f"the channel {name!r} has other options: {channel!r}")
        return channel

    # -- Serving -------------------------------------------------------------------------------

    def before_serving(self, function: Callable[[Context], Awaitable[None]]) -> Any:
        """Call a coroutine function with the root context before sockets accept."""
        self._before_serving.append(function)
        return function

    def after_serving(self, function: Callable[[Context], Awaitable[None]]) -> Any:
        """Call a coroutine function with the root context after the last request."""
        self._after_serving.append(function)
        return function

    def while_serving(self, function: Callable[[Context], AsyncGenerator[None, None]]) -> Any:
        """Run an async generator function up to its ``yield`` before serving, the rest after."""
        self._while_serving.append(function)
        return function

    def add_component(
        self,
        alias: str,
        type: str | type | None = None,  # noqa: A002 - Asphalt's name for it
        **config: Any,
    ) -> None:
        """
        Add an Asphalt component that is started before the application serves.

        :param alias: its name, and its type if that is not given
        :param type: the component's class, entry-point name or ``module:class``
        :param config: its configuration
        """
        self.components[alias] = (type or alias, config)

    async def startup(self, context: Context) -> None:
        """
        Run what comes before serving; for several servers of one application, once.

        :param context: the root context
        """
        self.finalize()
        if self._process != os.getpid():  # what another process has started is not started here
            self._process = os.getpid()
            self._servers = 0
            self._running.clear()
            self._pool = None
        self._servers += 1
        if self._servers > 1:
            return
        self._context = context
        for function in self._before_serving:
            await function(context)
        for generator_function in self._while_serving:
            generator = generator_function(context)
            if await anext(generator, _END) is _END:
                raise ConfigurationError(f"{generator_function!r} ended without a yield")
            self._running.append(generator)

    async def shutdown(self) -> None:
        """Run what comes after serving, when the last server of the application stops."""
        if self._servers == 0:
            return
        self._servers -= 1
        if self._servers:
            return
        running, self._running = self._running, []
        for generator in reversed(running):
            try:
                await anext(generator, None)
                await generator.aclose()
            except Exception:
                logger.exception("%s: a while_serving function failed", self.name)
        for function in self._after_serving:
            try:
                await function(self._context)  # type: ignore[arg-type]
            except Exception:
                logger.exception("%s: after_serving function %r failed", self.name, function)
        self._context = None
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    async def start(
        self,
        ip: str = "127.0.0.1",
        port: int = 8000,
        *,
        component: Component | None = None,
        base_context: Context | None = None,
    ) -> None:
        """
        Start a server for the application inside a running program.

        :param ip: the address to listen on
        :param port: the port to listen on
        :param component: a component to start instead of an ordinary ``KyoukaiComponent``
        :param base_context: the context to start it in; closing that context stops the server
        """
        self.component = component or self._make_component(ip, port)
        await self.component.start(Context() if base_context is None else base_context)

    def run(
        self, ip: str = "127.0.0.1", port: int = 8000, *, component: Component | None = None
    ) -> None:
        """Run a server for the application until the program is stopped; as for ``start``."""
        self.component = component or self._make_component(ip, port)
        run_application(self.component)

    def _make_component(self, ip: str, port: int) -> Component:
        made: Component = component_types.create_object("kyoukai", app=self, ip=ip, port=port)
        return made
