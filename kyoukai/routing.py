"""
``RouteTable``: the routing table of a tree of blueprints, and ``Hit``, what a match gives.

Everything that depends on the route alone is looked up when the table is made, so that a match
costs a dict lookup for a path without variables, and a short walk for most others.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import quote

from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import BuildError, MapAdapter, Rule

from kyoukai.claims import Claims
from kyoukai.config import nearest_name
from kyoukai.exceptions import RouteError
from kyoukai.matcher import ANY_HOST, AnyHostConverter, AnyHostRule, RouteMap

if TYPE_CHECKING:
    from kyoukai.blueprint import Blueprint
    from kyoukai.handlers import Hook
    from kyoukai.middleware import Bound
    from kyoukai.route import Route, Unset

__all__ = ("Hit", "OptionsHit", "RouteTable", "UpgradeRequired")

#: A rule, its route, and the methods that the route lists for it.
_Declared: TypeAlias = "tuple[Rule, Route, tuple[str, ...]]"

#: URL adapters kept, by host. The client chooses the host, so there must be an end to them.
ADAPTERS_KEPT = 256


#: The schemes that URLs of sockets have (RFC 6455 section 3).
_SOCKET_SCHEMES = {"http": "ws", "https": "wss"}

#: A method that no route lists: a match for it tells which methods a path takes.
_NO_METHOD = " "


class UpgradeRequired(HTTPException):
    """426: the path takes WebSockets alone, and this is no handshake (RFC 9110 section 15.5.22)."""

    code = 426
    description = "This path takes WebSocket connections only."

    def get_headers(self, *args: Any, **kwargs: Any) -> list[tuple[str, str]]:
        """Return the headers, with what the path can be upgraded to."""
        return [*super().get_headers(*args, **kwargs), ("Upgrade", "websocket")]


class Hit:
    """
    A match: the route, the arguments from the path, and what the pipeline needs to know.

    :param route: the route
    :param rule: the Werkzeug rule that matched
    :param params: the arguments; None for none
    :param before: all hooks to run before the handler, in order
    :param after: all hooks to run after it, in order
    :param needs_check: whether ``route.check_route_args`` must be called
    :param max_body_size: the route's limit, ``UNSET`` for the server's
    :param stream: whether the handler reads the body as it arrives
    :param cancel_on_disconnect: whether the handler is cancelled when the client leaves
    """

    __slots__ = (
        "_params",
        "after",
        "automatic_options",
        "before",
        "cancel_on_disconnect",
        "max_body_size",
        "needs_check",
        "route",
        "rule",
        "stream",
    )

    allowed: tuple[str, ...] = ()

    def __init__(
        self,
        route: Route,
        rule: Rule,
        params: dict[str, Any] | None,
        before: tuple[Hook, ...],
        after: tuple[Hook, ...],
        needs_check: bool,
        max_body_size: int | Literal[Unset.UNSET] | None,
        stream: bool,
        cancel_on_disconnect: bool,
    ) -> None:
        #: Whether this is an OPTIONS request that no route answers itself: an ``OptionsHit``.
        self.automatic_options = False
        self.route = route
        self.rule = rule
        self._params = params
        self.before = before
        self.after = after
        self.needs_check = needs_check
        self.max_body_size = max_body_size
        self.stream = stream
        self.cancel_on_disconnect = cancel_on_disconnect

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.route.name} {self.params!r}>"

    @property
    def middlewares(self) -> tuple[Bound, ...]:
        """The middlewares of the route's blueprints below the root, the outermost first."""
        # Not a field of its own, which each match would have to copy.
        blueprint = self.route.bp
        return () if blueprint is None else blueprint.middlewares_below_root

    @property
    def params(self) -> dict[str, Any]:
        """The arguments from the path; a new dict each time if there are none."""
        # A hit without arguments is shared by all requests, so its dict must not be.
        return {} if self._params is None else self._params

    def with_params(self, params: dict[str, Any]) -> Hit:
        """Return a copy with arguments."""
        hit = Hit.__new__(Hit)  # a call of __init__ would cost as much as the rest
        hit.automatic_options = False
        hit.route = self.route
        hit.rule = self.rule
        hit._params = params
        hit.before = self.before
        hit.after = self.after
        hit.needs_check = self.needs_check
        hit.max_body_size = self.max_body_size
        hit.stream = self.stream
        hit.cancel_on_disconnect = self.cancel_on_disconnect
        return hit


class OptionsHit(Hit):
    """
    An OPTIONS request for a path whose routes do not list OPTIONS: answered with ``allowed``.

    :param hit: a match of the same path by one of the allowed methods
    :param allowed: the methods that the path takes, sorted, OPTIONS among them
    """

    __slots__ = ("allowed",)

    def __init__(self, hit: Hit, allowed: tuple[str, ...]) -> None:
        super().__init__(hit.route, hit.rule, hit._params, (), (), False, 0, True, True)
        self.automatic_options = True
        self.allowed = allowed


class RouteTable:
    """
    The routing table of a blueprint and its children.

    :param blueprint: the blueprint at the top
    :param options: for Werkzeug's map
    :raises RouteError: if two routes have the same endpoint, or the same path and method
    """

    def __init__(self, blueprint: Blueprint, options: Mapping[str, Any]) -> None:
        tree = [blueprint, *blueprint.traverse_tree()]
        self.name = blueprint.name
        self.endpoints: dict[str, Route] = {}
        #: What stands for several endpoints, with one of their routes: it tells in which map.
        self._aliases: dict[str, Route] = {}
        self._hits: dict[int, Hit] = {}
        self._adapters: dict[tuple[str, str, str, bool], MapAdapter] = {}
        self._lock = Lock()
        self._claims: Claims | None = None
        host_matching = any(member.host_matching for member in (*tree, *blueprint.ancestors))
        converters = {**(options.get("converters") or {}), "any_host": AnyHostConverter}
        options = {"host_matching": host_matching, **options, "converters": converters}
        self.map = RouteMap(self._hit_for, **options)
        #: The paths of sockets; None if there are none.
        self.sockets: RouteMap | None = None
        if any(route.is_websocket for member in tree for route in member.routes):
            self.sockets = RouteMap(self._hit_for, **options)
        # Each kind has its own paths: one of a socket may be a handler's too.
        declared: dict[RouteMap, list[_Declared]] = {}
        for member in tree:
            for route in member.routes:
                self._add_endpoint(route)
                map_ = self._map_of(route)
                for path, methods in route.routes:
                    rule = self._add_rule(map_, member, route, path, methods)
                    declared.setdefault(map_, []).append((rule, route, methods))
        self._add_aliases(tree)
        for map_, rules in declared.items():
            _settle_conflicts(rules)
            map_.update()
        self.map.update()
        self.exact = self.map.exact

    # -- Making --------------------------------------------------------------------------------

    def _add_endpoint(self, route: Route) -> None:
        endpoint = route.get_endpoint_name()
        other = self.endpoints.setdefault(endpoint, route)
        if other is not route:
            raise RouteError(
                f"two routes have the endpoint {endpoint!r}: {_where(other)} and {_where(route)}; "
                "give one an endpoint of its own, or its blueprint another name"
            )

    def _add_aliases(self, tree: list[Blueprint]) -> None:
        """Make an alias build the paths of its routes, those of requests if there are any."""
        routes = [
            (member, route, route.alias)
            for member in tree
            for route in member.routes
            if route.alias is not None
        ]
        routes.sort(key=lambda found: found[1].is_websocket)
        for member, route, alias in routes:
            if alias in self.endpoints:
                raise RouteError(
                    f"a resource and a route have the endpoint {alias!r}: "
                    f"{_where(self.endpoints[alias])} and {_where(route)}; give one another"
                )
            first = self._aliases.setdefault(alias, route)
            if first.is_websocket is route.is_websocket:
                for path, methods in route.routes:
                    self._add_rule(self._map_of(route), member, route, path, methods, alias)

    def _map_of(self, route: Route) -> RouteMap:
        return self.sockets if route.is_websocket and self.sockets is not None else self.map

    def _add_rule(
        self,
        map_: RouteMap,
        member: Blueprint,
        route: Route,
        path: str,
        methods: tuple[str, ...],
        alias: str | None = None,
    ) -> Rule:
        path = member.computed_prefix + path
        options: dict[str, Any] = {
            "methods": None if route.is_websocket else methods,
            "endpoint": alias or route.get_endpoint_name(),
            "build_only": alias is not None,
        }
        try:
            if not map_.host_matching:
                rule = Rule(path, **options)
            elif member.host is None:
                rule = AnyHostRule(path, **options)
            else:
                rule = Rule(path, host=member.host.lower(), **options)
            map_.add(rule)
        except (LookupError, TypeError, ValueError) as error:
            raise RouteError(f"the path {path!r} of {route.name}: {error}") from error
        return rule

    def _hit_for(self, rule: Rule) -> Hit | None:
        hit = self._hits.get(id(rule))
        if hit is None and rule.endpoint in self.endpoints:
            route = self.endpoints[rule.endpoint]
            hit = self._hits[id(rule)] = Hit(
                route,
                rule,
                None,
                route.all_hooks("pre"),
                route.all_hooks("post"),
                route.needs_check(rule),
                route.max_body_size,
                route.stream,
                route.cancel_on_disconnect,
            )
        return hit

    # -- Matching ------------------------------------------------------------------------------

    def match(
        self, method: str, path: str, host: str, scheme: str, root_path: str, query: bytes
    ) -> Hit:
        """Match a request; see :meth:`Blueprint.match_head`."""
        server_name = ""
        if self.map.host_matching:
            server_name = self.adapter(host, scheme, root_path).server_name
        found = self.map.find(server_name, path, method)
        if found is not None:
            leaf, values = found
            if not values:
                return leaf.payload  # type: ignore[no-any-return]
            try:
                params = leaf.params(values)
            except ValueError:
                pass
            else:
                return leaf.payload.with_params(params)  # type: ignore[no-any-return]
        adapter = self.adapter(host, scheme, root_path)
        text = query.decode("utf-8", "replace")
        try:
            return self._match_slowly(adapter, method, path, text)
        except NotFound:
            if self.sockets is None:
                raise
            self._match_slowly(self.adapter(host, scheme, root_path, True), "GET", path, text)
            raise UpgradeRequired() from None

    def match_socket(self, path: str, host: str, scheme: str, root_path: str, query: bytes) -> Hit:
        """Match a handshake; see :meth:`Blueprint.match_socket`."""
        text = query.decode("utf-8", "replace")
        if self.sockets is not None:
            scheme_ = _SOCKET_SCHEMES.get(scheme, scheme)
            try:
                return self._match_slowly(
                    self.adapter(host, scheme_, root_path, True), "GET", path, text
                )
            except NotFound:
                pass
        self._match_slowly(self.adapter(host, scheme, root_path), _NO_METHOD, path, text)
        raise NotFound()  # no route takes that method, so this is not reached

    def _match_slowly(self, adapter: MapAdapter, method: str, path: str, query: str) -> Hit:
        """Match as Werkzeug does, redirects and errors included."""
        try:
            rule, params = adapter.match(
                path, method, return_rule=True, query_args=query, websocket=False
            )
        except MethodNotAllowed as error:
            methods = tuple(sorted({*(error.valid_methods or ()), "OPTIONS"}))
            if method.upper() == "OPTIONS":
                other = next(known for known in methods if known != "OPTIONS")
                return OptionsHit(self._match_slowly(adapter, other, path, query), methods)
            raise MethodNotAllowed(valid_methods=methods) from None
        hit = self._hit_for(rule)
        if hit is None:
            raise RouteError(f"the rule {rule!r} has the endpoint {rule.endpoint!r} of no route")
        arguments = {name: value for name, value in params.items() if name != ANY_HOST}
        return hit.with_params(arguments) if arguments else hit

    def static_part(self, path: str, host: str, scheme: str) -> str | None:
        """Say which rule claims a path; see :meth:`Blueprint.static_part`."""
        if self._claims is None:
            maps = [self.map] if self.sockets is None else [self.map, self.sockets]
            self._claims = Claims(maps)
        server_name = ""
        if self.map.host_matching:
            server_name = self.adapter(host, scheme, "").server_name
        return self._claims.static_part(path, server_name)

    def adapter(self, host: str, scheme: str, root_path: str, sockets: bool = False) -> MapAdapter:
        """
        Return Werkzeug's adapter for a host.

        :param sockets: whether it is for the paths of sockets
        :raises BadHost: if the host cannot be one
        """
        key = (host, scheme, root_path, sockets)
        adapter = self._adapters.get(key)
        if adapter is None:
            name = host.removesuffix(":443" if scheme in ("https", "wss") else ":80")
            map_ = self.sockets if sockets and self.sockets is not None else self.map
            adapter = map_.bind(name, root_path or None, url_scheme=scheme)
            with self._lock:
                if len(self._adapters) >= ADAPTERS_KEPT:
                    del self._adapters[next(iter(self._adapters))]
                self._adapters[key] = adapter
        return adapter

    # -- Building ------------------------------------------------------------------------------

    def resolve(self, endpoint: str) -> str | None:
        """Return the full endpoint for one that may lack the top blueprint's name, or None."""
        for full in (endpoint, f"{self.name}.{endpoint}"):
            if full in self.endpoints or full in self._aliases:
                return full
        return None

    def build(
        self,
        host: str,
        scheme: str,
        root_path: str,
        endpoint: str,
        method: str | None,
        values: dict[str, Any],
    ) -> str:
        """Build a URL; see :meth:`Blueprint.url_for`."""
        external = values.pop("_external", None)
        wanted = values.pop("_scheme", None)
        anchor = values.pop("_anchor", None)
        full = self.resolve(endpoint)
        if full is None:
            near = nearest_name(endpoint, [*self.endpoints, *self._aliases])
            raise RouteError(
                f"there is no endpoint {endpoint!r}"
                + (f"; did you mean {near!r}?" if near is not None else "")
            )
        route = self._aliases.get(full) or self.endpoints[full]
        socket = route.is_websocket
        if socket:
            method = None
        try:
            url = self.adapter(host, scheme, root_path, socket).build(
                full,
                values,
                method,
                force_external=bool(wanted) if external is None else bool(external),
                url_scheme=wanted,
            )
        except BuildError:
            raise RouteError(self._why_not(full, route, method, values)) from None
        except (TypeError, ValueError) as error:
            raise RouteError(f"cannot build a URL for {full!r}: {error}") from error
        if socket and url.startswith("http"):
            url = "ws" + url[4:]
        if anchor is not None:
            url += "#" + quote(str(anchor), safe="!$&'()*+,/:;=?@")
        return url

    def _why_not(
        self, endpoint: str, route: Route, method: str | None, values: Mapping[str, Any]
    ) -> str:
        message = f"cannot build a URL for {endpoint!r}"
        given = {name for name, value in values.items() if value is not None}
        rules = [
            rule
            for rule in self._map_of(route).iter_rules(endpoint)
            if method is None or rule.methods is None or method.upper() in rule.methods
        ]
        if not rules:
            return f"{message}: it does not take the method {method}"
        missing = min((rule.arguments - given for rule in rules), key=len)
        if missing:
            return f"{message}: values missing: {', '.join(sorted(missing))}"
        return f"{message} from these values: {dict(values)!r}"


def _where(route: Route) -> str:
    paths = ", ".join(path for path, _ in route.routes)
    blueprint = route.bp.name if route.bp is not None else "none"
    return f"{route.name} ({paths}; blueprint {blueprint!r})"


def _settle_conflicts(declared: list[_Declared]) -> None:
    """
    Refuse a path and method that belong to two routes; let a HEAD that a route lists itself win.

    Paths are the same if they look the same to the map, whatever their variables are called.
    """
    taken: dict[tuple[Any, ...], dict[str, Route]] = {}
    for rule, route, methods in declared:
        owners = taken.setdefault(_path_key(rule), {})
        for method in methods:
            other = owners.setdefault(method, route)
            if other is not route:
                raise RouteError(
                    f"{method} {rule.rule} belongs to two routes: {_where(other)} "
                    f"and {_where(route)}"
                )
    for rule, route, _ in declared:
        if taken[_path_key(rule)].get("HEAD", route) is not route and rule.methods is not None:
            rule.methods.discard("HEAD")


def _path_key(rule: Rule) -> tuple[Any, ...]:
    return tuple((part.content, part.static, part.final) for part in rule._parts)
