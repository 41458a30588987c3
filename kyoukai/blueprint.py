"""
``Blueprint``: routes under one prefix, with what surrounds them, in a tree.

The blueprint at the top makes the routing table of its tree when it is finalized. Whatever is
added later is seen by the next match, which makes the table anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import get_host

from kyoukai.branch import Branch
from kyoukai.exceptions import RouteError
from kyoukai.resource import check_options, find_responders
from kyoukai.route import Route
from kyoukai.routing import Hit, RouteTable

if TYPE_CHECKING:
    from werkzeug.routing import Map, Rule

__all__ = ("Blueprint", "Hit")

#: Where a route group keeps its blueprint.
GROUP_BLUEPRINT = "_kyoukai_blueprint"


class Blueprint(Branch):
    """
    A part of an application.

    :param name: name of the blueprint; endpoints begin with it
    :param parent: the blueprint that this one becomes a child of
    :param prefix: what all paths begin with, after the parent's prefix
    :param host_matching: whether hosts tell routes apart in this tree; implied by any ``host``
    :param host: the host that the routes answer to, with its port unless it is the scheme's own,
        in Werkzeug's notation (``<user>.example.com``); by default the parent's, or any
    :raises RouteError: if the prefix does not begin with a slash
    """

    def __init__(
        self,
        name: str,
        parent: Blueprint | None = None,
        prefix: str = "",
        *,
        host_matching: bool = False,
        host: str | None = None,
    ) -> None:
        self.routes: list[Route] = []
        # By resource and name, the routes of its responders: further paths are added to them.
        self._resources: dict[tuple[int, str], dict[str, Route]] = {}
        self._table: RouteTable | None = None
        self._map_options: dict[str, Any] = {}
        super().__init__(name, parent, prefix, host_matching=host_matching, host=host)

    @property
    def tree_routes(self) -> Iterator[Route]:
        """All routes, this blueprint's first."""
        yield from self.routes
        for child in self.children:
            yield from child.tree_routes

    def add_route_group(self, group: Any) -> Blueprint:
        """
        Add the routes of a route group below this blueprint.

        :param group: an instance of a ``RouteGroup``
        :raises RouteError: if it is none
        """
        blueprint = getattr(group, GROUP_BLUEPRINT, None)
        if isinstance(group, type):
            raise RouteError(f"{group.__name__} is a class; add an instance: {group.__name__}()")
        if not isinstance(blueprint, Blueprint):
            raise RouteError(f"{group!r} is no route group")
        self.add_child(blueprint)
        return self

    # -- Routes --------------------------------------------------------------------------------

    def route(
        self, url: str, methods: Iterable[str] = ("GET",), **options: Any
    ) -> Callable[[Callable[..., Any]], Route]:
        """
        Decorator that makes a function a route; on a route of this blueprint, adds a path.

        :param url: the path after the prefix, in Werkzeug's notation
        :param methods: HTTP methods
        :param options: for :class:`Route`
        """

        def decorate(function: Callable[..., Any]) -> Route:
            if not isinstance(function, Route):
                return self.add_route(self.wrap_route(function, **options), url, methods)
            if function.is_websocket:
                raise RouteError(f"{function.name} handles WebSockets; requests need a function")
            _refuse_options(function, options, "to the decorator next to the function")
            return self.add_route(function, url, methods)

        return decorate

    def websocket(self, url: str, **options: Any) -> Callable[[Callable[..., Any]], Route]:
        """
        Decorator that makes a coroutine function a handler of WebSockets; on one that is so
        already, adds a path. It is called with context, socket and the path's arguments.

        :param url: the path after the prefix; it may be the path of other routes as well
        :param options: for :class:`Route`
        :raises RouteError: if the function cannot handle sockets
        """

        def decorate(function: Callable[..., Any]) -> Route:
            if not isinstance(function, Route):
                return self.add_route(self.wrap_route(function, websocket=True, **options), url)
            if not function.is_websocket:
                raise RouteError(f"{function.name} handles requests; WebSockets need a function")
            _refuse_options(function, options, "to the decorator next to the function")
            return self.add_route(function, url)

        return decorate

    def add_route(self, route: Route, url: str, methods: Iterable[str] = ("GET",)) -> Route:
        """
        Add a path of a route.

        :param route: the route; it may be in this blueprint already
        :param url: the path after the prefix
        :param methods: HTTP methods
        :raises RouteError: if the route belongs to another blueprint
        """
        if route.bp is not None and route.bp is not self:
            raise RouteError(
                f"{route.name} belongs to blueprint {route.bp.name!r}; to have it in "
                f"{self.name!r} too, add its function there"
            )
        route.add_path(url, methods)
        route.bp = self
        if not any(known is route for known in self.routes):
            self.routes.append(route)
        self.invalidate()
        return route

    def add_resource(
        self,
        path: str,
        resource: Any,
        *,
        suffix: str | None = None,
        endpoint: str | None = None,
        **route_options: Any,
    ) -> list[Route]:
        """
        Add a path of a resource; the same instance may have several.

        The endpoints of its responders are ``blueprint.Class.on_get`` and the like.
        ``blueprint.Class`` stands for them all in :meth:`url_for`.

        :param path: the path after the prefix, in Werkzeug's notation
        :param resource: an instance of a :class:`~kyoukai.resource.Resource`, or any object with
            responders
        :param suffix: take the responders that end with it: ``on_get_collection`` for
            ``collection``
        :param endpoint: what stands in the place of the class's name in the endpoints
        :param route_options: for the :class:`Route` of each responder
        :return: the routes, one for each responder
        :raises RouteError: if it has no responders, or options come with a further path
        """
        check_options(route_options)
        name = endpoint or type(resource).__name__
        known = self._resources.get((id(resource), name), {})
        found: dict[str, tuple[Route, tuple[str, ...]]] = {}
        for responder in find_responders(resource, suffix):
            route = known.get(responder.name)
            if route is None:
                route = self.wrap_route(
                    responder.function,
                    endpoint=f"{self.name}.{name}.{responder.name}",
                    websocket=responder.method is None,
                    **{**route_options, **responder.options},
                )
                route.owner = resource
                route.alias = f"{self.name}.{name}"
            else:
                _refuse_options(route, route_options, "with its first path")
            found[responder.name] = route, () if responder.method is None else (responder.method,)
        routes = {
            key: self.add_route(route, path, methods) for key, (route, methods) in found.items()
        }
        self._resources[id(resource), name] = {**known, **routes}
        return list(routes.values())

    def get_route(self, endpoint: str) -> Route | None:
        """
        Return the route of an endpoint, or None.

        :param endpoint: ``blueprint.function``; without a dot, of the blueprint at the top
        """
        table = self.root._ready()
        full = table.resolve(endpoint)
        return None if full is None else table.endpoints.get(full)

    # -- The routing table ---------------------------------------------------------------------

    @property
    def finalized(self) -> bool:
        """Whether the routing table is made and up to date."""
        return self._table is not None

    @property
    def map(self) -> Map:
        """Werkzeug's map of this blueprint and those below."""
        return self._ready().map

    @property
    def socket_map(self) -> Map | None:
        """Werkzeug's map of the paths of sockets; None if there are none."""
        return self._ready().sockets

    def finalize(self, **map_options: Any) -> Map:
        """
        Make the routing table of this blueprint and those below, unless that is done.

        :param map_options: for Werkzeug's map; kept for when the table is made anew
        :raises RouteError: if routes contradict each other; the message names both
        """
        if map_options and map_options != self._map_options:
            self._map_options = map_options
            self._table = None
        return self._ready().map

    def _forget(self) -> None:
        super()._forget()
        self._table = None

    def match(self, environ: dict[str, Any]) -> tuple[Route, dict[str, Any], Rule]:
        """
        Match a WSGI environ; raises as ``match_head`` does.

        :return: the route, the arguments from the path, and Werkzeug's rule
        """
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        root_path = environ.get("SCRIPT_NAME", "").encode("latin-1").decode("utf-8", "replace")
        hit = self.match_head(
            environ["REQUEST_METHOD"],
            path,
            get_host(environ).lower(),
            environ["wsgi.url_scheme"],
            root_path,
            environ.get("QUERY_STRING", "").encode("latin-1"),
        )
        return hit.route, hit.params, hit.rule

    def match_head(
        self,
        method: str,
        path: str,
        host: str,
        scheme: str = "http",
        root_path: str = "",
        query: bytes = b"",
    ) -> Hit:
        """
        Match a request, quickly.

        :param method: the method
        :param path: the path below ``root_path``, decoded
        :param host: host and port in lower case; it counts with host matching and in redirects
        :param scheme: for redirects, as are the following
        :param root_path: the prefix that the application is published under
        :param query: the query
        :return: the match; for an OPTIONS that no route lists, an :class:`OptionsHit`
        :raises NotFound: if there is no such path
        :raises MethodNotAllowed: if it does not take the method; ``valid_methods`` is sorted
        :raises UpgradeRequired: if it is a socket's alone
        :raises RequestRedirect: if it lacks its last slash, or has double ones
        :raises BadHost: if the host cannot be one
        """
        table = self._table
        if table is None:
            table = self._ready()
        hits = table.exact.get(path)
        if hits is not None:
            hit: Hit | None = hits.get(method)
            if hit is not None:
                return hit
        return table.match(method, path, host, scheme, root_path, query)

    def match_socket(
        self,
        path: str,
        host: str,
        scheme: str = "http",
        root_path: str = "",
        query: bytes = b"",
    ) -> Hit:
        """
        Match a WebSocket handshake; parameters and errors as for :meth:`match_head`.

        :raises NotFound: if there is no such path
        :raises MethodNotAllowed: if it has handlers of requests only; ``valid_methods`` is sorted
        """
        return self._ready().match_socket(path, host, scheme, root_path, query)

    def static_part(self, path: str, host: str, scheme: str = "http") -> str | None:
        """
        Return what the rule that matches a path has before its first variable.

        :param path: the path below ``root_path``, decoded; methods do not matter
        :param host: host and port in lower case; it counts with host matching
        :param scheme: the scheme
        :return: such as ``/users`` for ``/users/<name>``; None if no rule matches
        :raises BadHost: if the host cannot be one
        """
        return self._ready().static_part(path, host, scheme)

    def url_for(
        self, environ: dict[str, Any], endpoint: str, *, method: str | None = None, **values: Any
    ) -> str:
        """
        Build the URL of a route.

        :param environ: the request's environ; the URL is relative to it where it can be
        :param endpoint: ``blueprint.function``; without a dot, of the blueprint at the top
        :param method: the method that the URL is for, if the endpoint has several paths
        :param values: values for the path's variables; what is left over becomes the query.
            ``_external=True`` makes the URL absolute, ``_scheme`` too, ``_anchor`` adds a
            fragment. The absolute URLs of sockets begin with ``ws:`` or ``wss:``.
        :raises RouteError: if there is no such endpoint, or values are missing
        """
        table = self.root._ready()
        root_path = environ.get("SCRIPT_NAME", "").encode("latin-1").decode("utf-8", "replace")
        host = get_host(environ).lower()
        return table.build(host, environ["wsgi.url_scheme"], root_path, endpoint, method, values)

    def _ready(self) -> RouteTable:
        table = self._table
        if table is None:
            table = self._table = RouteTable(self, self._map_options)
        return table


def _refuse_options(route: Route, options: dict[str, Any], where: str) -> None:
    if options:
        raise RouteError(f"{route.name} is a route already; give {', '.join(options)} {where}")
