"""
Asphalt components that serve a Kyoukai application.

A component publishes the application and its server as resources, starts the components that the
application brings along, and serves once the resources that handlers inject are there.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asphalt.core import Component, ContainerComponent, Context, Event, Signal, qualified_name
from asphalt.core.component import component_types

from kyoukai.app import Kyoukai
from kyoukai.config import ServerConfig, check_keys
from kyoukai.context import reset_current, set_current
from kyoukai.exceptions import ConfigurationError, TargetError
from kyoukai.server.address import Address
from kyoukai.server.group import ServerGroup, current_group
from kyoukai.server.injection import await_resources
from kyoukai.server.listener import Server
from kyoukai.server.loading import add_to_path, load_target
from kyoukai.server.options import (
    DEFAULT_IP,
    DEFAULT_PORT,
    backend_class,
    interface_class,
    is_backend,
    server_config,
)

if TYPE_CHECKING:
    from kyoukai.backends.base import BaseProtocol
    from kyoukai.backends.connections import Connections
    from kyoukai.stream import Interface, StreamState

__all__ = (
    "ConnectionLostEvent",
    "ConnectionMadeEvent",
    "H2KyoukaiComponent",
    "KyoukaiBaseComponent",
    "KyoukaiComponent",
    "find_components",
)


class ConnectionEvent(Event):
    """
    Something happened to a connection.

    :param source: the component
    :param topic: the signal's name
    :param protocol: the connection's protocol
    """

    __slots__ = ("protocol",)

    def __init__(self, source: KyoukaiBaseComponent, topic: str, protocol: BaseProtocol) -> None:
        super().__init__(source, topic)
        self.protocol = protocol


class ConnectionMadeEvent(ConnectionEvent):
    """A client has connected."""

    __slots__ = ()


class ConnectionLostEvent(ConnectionEvent):
    """A connection is closed."""

    __slots__ = ()


class KyoukaiBaseComponent(Component):
    """
    What every component that serves an application has in common.

    It is the ``component`` of the protocols that it makes. Subclasses set ``protocol_class``, or
    override ``get_protocol``; for connections that begin with HTTP/1.1 and turn out to speak
    HTTP/2, ``h2_protocol_class`` counts.

    :param app: the application, or ``module:attribute`` that leads to one
    :param ip: the address to listen on, short for one ``bind``, or one ``tls_bind`` with TLS
    :param port: the TCP port; 0 lets the system choose
    :param ssl: ``enabled``, ``ssl_certfile`` and ``ssl_keyfile`` in a mapping
    :param ssl_certfile: path of the certificate chain, PEM
    :param ssl_keyfile: path of the certificate's key, PEM
    :param run_server: whether to serve; otherwise the application is published only
    :param bind: plain addresses, instead of ``ip`` and ``port``
    :param tls_bind: TLS addresses, instead of ``ip`` and ``port``
    :param settings: fields of :class:`~kyoukai.config.ServerConfig`
    :param config: added to ``app.config``
    :param resource_name: the name that the server is published under; by default ``http_PORT``
    :param interface: name of the kind of application, in the entry-point group
        ``kyoukai.interfaces``
    :raises ConfigurationError: if a key is unknown or a value cannot work
    """

    connection_made = Signal(ConnectionMadeEvent)
    connection_lost = Signal(ConnectionLostEvent)

    #: The class of the connections' protocols.
    protocol_class: Callable[..., BaseProtocol]
    #: The class of those that turn out to speak HTTP/2, by ALPN, by upgrade or by their first
    #: bytes; None where they may not.
    h2_protocol_class: Callable[..., BaseProtocol] | None = None
    #: What TLS offers (ALPN), the best first.
    alpn_protocols: Sequence[str] = ("http/1.1",)
    #: What the server's resource name begins with.
    resource_prefix = "http"
    #: The port that ``port`` need not name, and whether ``ip`` and ``port`` always mean TLS.
    default_port = DEFAULT_PORT
    needs_tls = False

    def __init__(
        self,
        app: Kyoukai | str = "",
        ip: str = DEFAULT_IP,
        port: int = DEFAULT_PORT,
        *,
        ssl: Mapping[str, Any] | None = None,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        run_server: bool = True,
        bind: str | Sequence[str] = (),
        tls_bind: str | Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        resource_name: str | None = None,
        interface: str = "kyoukai",
        **unknown: Any,
    ) -> None:
        self._check_unknown(unknown)
        if not app:
            raise ConfigurationError("app is missing; name it as module:attribute")
        if config is not None and not isinstance(config, Mapping):
            raise ConfigurationError("config must be a mapping")
        if resource_name is not None and not re.fullmatch(r"\w+", str(resource_name)):
            raise ConfigurationError(
                f"resource_name: {resource_name!r} may only have letters, digits and underscores"
            )
        #: The application; until it is needed, it may be the text that leads to it.
        self.app: Any = app
        self.ip = ip
        self.port = port
        self.run_server = run_server
        self.resource_name = resource_name
        self._app_config = config or {}
        self._make_interface = interface_class(interface)
        self.server = Server(
            server_config(
                ip,
                port,
                ssl,
                settings,
                default_port=self.default_port,
                needs_tls=self.needs_tls,
                certfile=ssl_certfile,
                keyfile=ssl_keyfile,
                bind=bind,
                tls_bind=tls_bind,
            ),
            self._make_protocol,
            alpn=self.alpn_protocols,
            label=self._label(interface),
        )
        self.server.before_listening = self._await_resources
        self._context: Context | None = None
        self._prepared = False
        self._watch_connections()
        group = current_group.get()
        if group is not None and group.held:
            # Under `kyoukai run`: every address is bound before any component starts.
            self._prepare(group)

    def _check_unknown(self, unknown: Mapping[str, Any]) -> None:
        if not unknown:
            return
        allowed = {
            name
            for cls in type(self).__mro__
            if issubclass(cls, KyoukaiBaseComponent) and "__init__" in vars(cls)
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
        }
        for key in unknown:
            if key in ServerConfig.field_names():
                raise ConfigurationError(f"unknown key {key!r}; it belongs under 'settings'")
        check_keys(unknown, allowed, "key")

    def _watch_connections(self) -> None:
        made, lost = self.connection_made, self.connection_lost

        def on_made(protocol: BaseProtocol) -> None:
            if made.listeners:
                made.dispatch(protocol)

        def on_lost(protocol: BaseProtocol) -> None:
            if lost.listeners:
                lost.dispatch(protocol)

        self.server.connections.on_made = on_made
        self.server.connections.on_lost = on_lost

    # -- For protocols -------------------------------------------------------------------------

    @property
    def config(self) -> ServerConfig:
        """The server's settings. (The application's own are ``app.config``.)"""
        return self.server.config

    @property
    def interface(self) -> Interface:
        """The application, as protocols call it."""
        return self.server.interface

    @property
    def connections(self) -> Connections:
        """The server's connections."""
        return self.server.connections

    def log_access(self, stream: StreamState) -> None:
        """Write the access line of a stream that is over."""
        self.server.log_access(stream)

    def switch_target(self, name: str) -> BaseProtocol | None:
        """
        Make the protocol that a connection is handed over to.

        :param name: what the client speaks: ``h2`` is HTTP/2
        :return: the protocol, or None if that is not spoken here
        """
        if name != "h2" or self.h2_protocol_class is None:
            return None
        return self.h2_protocol_class(self, self._context)

    # -- For subclasses ------------------------------------------------------------------------

    @property
    def backend_name(self) -> str:
        """What the line that says where the server listens calls the backend."""
        return getattr(self.protocol_class, "__name__", "protocol")

    def _label(self, interface: str) -> str:
        also = "" if self.h2_protocol_class in (None, self.protocol_class) else ", http2"
        return f"{self.backend_name}{also}, {interface}"

    def get_server_name(self) -> str:
        """Return the host, and the port if it is not in the host's name, that clients know."""
        if isinstance(self.app, Kyoukai) and self.app.server_name:
            return self.app.server_name
        sockets = self.server.sockets
        return sockets[0].place if sockets else str(Address.from_host(self.ip, self.port))

    def get_protocol(self, ctx: Context | None, serv_info: tuple[Any, ...]) -> BaseProtocol:
        """
        Make the protocol of a connection.

        :param ctx: the component's context
        :param serv_info: the server's name and port
        """
        return self.protocol_class(self, ctx)

    def _make_protocol(self, server: Server) -> BaseProtocol:
        return self.get_protocol(self._context, (self.ip, self.port))

    # -- Starting ------------------------------------------------------------------------------

    async def start(self, ctx: Context) -> None:
        """
        Publish the application and the server, and serve.

        :param ctx: the root context
        :raises ConfigurationError: in one line, if the target, the certificate or an address
            cannot be had
        """
        self._context = ctx
        group = _group_of(ctx)
        token = set_current(ctx)  # in a program of the user's it need not be
        try:
            self._prepare(group)
            await self._publish_app(ctx)
            if not self.run_server:
                self.app.finalize()
                return
            self.server.interface = self._make_interface(self.app, self.config, ctx)
            self._publish_server(ctx)
            await group.serve_one(self.server, ctx)
        except BaseException:
            self.server.close_listeners()
            raise
        finally:
            reset_current(token)

    def _prepare(self, group: ServerGroup) -> None:
        """Find the application, and bind the addresses."""
        if self._prepared:
            return
        self._prepared = True
        target = self.app
        if isinstance(target, str):
            if current_group.get() is None:
                add_to_path(Path())  # `asphalt run` does not
            self.app = load_target(target)
        if not isinstance(self.app, Kyoukai):
            kind = qualified_name(self.app)
            raise TargetError(f"app: {target!r} is of type {kind}, not a Kyoukai application")
        self.app.config.update(self._app_config)
        if self.run_server:
            group.add(self.server)

    async def _publish_app(self, ctx: Context) -> None:
        """Publish the application, and start its components, unless another component has."""
        name = re.sub(r"\W", "_", self.app.name) or "default"
        published = ctx.get_resource(Kyoukai, name)
        if published is self.app:
            await ctx.require_resource(_Started, name).wait()
            return
        if published is not None:
            raise ConfigurationError(
                f"two applications are called {self.app.name!r}; give each a name of its own"
            )
        started = _Started()
        ctx.add_resource(started, name)
        types: list[type] = list(dict.fromkeys((type(self.app), Kyoukai)))
        ctx.add_resource(self.app, name, types=types)
        if ctx.get_resource(Kyoukai) is None:
            ctx.add_resource(self.app, types=types)
        if self.app.components:
            container = ContainerComponent()
            for alias, (kind, config) in self.app.components.items():
                container.add_component(alias, kind, **config)
            await container.start(ctx)
        started.set()

    def _publish_server(self, ctx: Context) -> None:
        name = self.resource_name
        if name is not None:
            if ctx.get_resource(Server, name) is not None:
                raise ConfigurationError(f"resource_name: {name!r} is taken by another server")
        else:
            name = first = f"{self.resource_prefix}_{self.server.port or 'unix'}"
            number = 2
            while ctx.get_resource(Server, name) is not None:  # the same port on another address
                name = f"{first}_{number}"
                number += 1
            self.resource_name = name
        ctx.add_resource(self.server, name)

    async def _await_resources(self, ctx: Context) -> None:
        await await_resources(self.app.name, self.app.injected_resources())


class KyoukaiComponent(KyoukaiBaseComponent):
    """
    Serves an application over HTTP/1.1 and HTTP/2, on the same addresses.

    :param app: the application, or ``module:attribute`` that leads to one
    :param ip: the address to listen on, short for one ``bind``, or one ``tls_bind`` with TLS
    :param port: the TCP port; 0 lets the system choose
    :param backend: name of the wire protocol in the entry-point group ``kyoukai.backends``, or
        the path of a module with a ``PROTOCOL_CLASS``
    :param http2: whether HTTP/1.1's backend hands connections over that ask for HTTP/2
    :param options: those of :class:`KyoukaiBaseComponent`
    :raises ConfigurationError: if a key is unknown or a value cannot work
    """

    alpn_protocols: Sequence[str] = ("h2", "http/1.1")

    def __init__(
        self,
        app: Kyoukai | str = "",
        ip: str = DEFAULT_IP,
        port: int = DEFAULT_PORT,
        *,
        backend: str = "httptools",
        http2: bool = True,
        **options: Any,
    ) -> None:
        self._backend = backend
        if not isinstance(http2, bool):
            raise ConfigurationError("http2 must be true or false")
        if not hasattr(type(self), "protocol_class"):
            self.protocol_class = backend_class(backend)
        self._choose_http2(http2)
        super().__init__(app, ip, port, **options)

    def _choose_http2(self, wanted: bool) -> None:
        """Find out whether connections may be handed over, and what ALPN offers then."""
        if is_backend(self.protocol_class, "httptools"):
            speaks = wanted
        else:
            speaks = is_backend(self.protocol_class, "http2")
            if speaks:  # and nothing else
                self.h2_protocol_class = self.protocol_class
                self.alpn_protocols = ("h2",)
        if not speaks:  # no backend of somebody else's knows how to hand over
            self.h2_protocol_class = None
            self.alpn_protocols = tuple(name for name in self.alpn_protocols if name != "h2")
        elif self.h2_protocol_class is None:
            self.h2_protocol_class = backend_class("http2")

    @property
    def backend_name(self) -> str:
        """What the line that says where the server listens calls the backend."""
        if hasattr(type(self), "protocol_class"):
            return super().backend_name
        return self._backend.rpartition(".")[2].rstrip("_")


class H2KyoukaiComponent(KyoukaiBaseComponent):
    """
    Serves an application over HTTP/2 alone.

    Clients choose it by ALPN (RFC 7301). On plain addresses (``bind``), they must know that it is
    HTTP/2 (RFC 9113 section 3.3).

    :param app: the application, or ``module:attribute`` that leads to one
    :param ssl_keyfile: path of the certificate's key, PEM
    :param ssl_certfile: path of the certificate chain, PEM
    :param ip: the address to listen on, short for one ``tls_bind``
    :param port: the TCP port; 0 lets the system choose
    :param options: those of :class:`KyoukaiBaseComponent`
    :raises ConfigurationError: if a key is unknown or a value cannot work
    """

    alpn_protocols = ("h2",)
    resource_prefix = "h2"
    default_port = 4444
    needs_tls = True

    def __init__(
        self,
        app: Kyoukai | str = "",
        ssl_keyfile: str | None = None,
        ssl_certfile: str | None = None,
        *,
        ip: str = DEFAULT_IP,
        port: int = default_port,
        **options: Any,
    ) -> None:
        if not hasattr(type(self), "protocol_class"):
            self.protocol_class = backend_class("http2")
        self.h2_protocol_class = self.protocol_class
        super().__init__(
            app, ip, port, ssl_keyfile=ssl_keyfile, ssl_certfile=ssl_certfile, **options
        )

    @property
    def backend_name(self) -> str:
        """What the line that says where the server listens calls the backend."""
        return super().backend_name if hasattr(type(self), "protocol_class") else "http2"


class _Started(asyncio.Event):
    """A resource that says when an application's own components have started."""


def _group_of(ctx: Context) -> ServerGroup:
    """The servers of the program that a context is the root of."""
    group = ctx.get_resource(ServerGroup)
    if group is None:
        group = ServerGroup()
        ctx.add_resource(group)
    return group


# -- Components in a configuration ----------------------------------------------------------------


def find_components(config: Mapping[str, Any], alias: str = "") -> Iterator[tuple[str, Any]]:
    """
    Find the components of ours in a component's configuration.

    :param config: the configuration, as in YAML
    :param alias: its name, which stands for its type where that is missing
    :return: pairs of a name and a configuration, which may be changed
    """
    kind = config.get("type", alias)
    try:
        found = component_types.resolve(kind)
    except Exception:
        found = None  # whoever makes the component says what is wrong
    if isinstance(found, type) and issubclass(found, KyoukaiBaseComponent):
        yield alias or str(kind), config
    children = config.get("components")
    if isinstance(children, dict):
        for name, child in children.items():
            if child is None:
                child = children[name] = {}
            if isinstance(child, dict):
                yield from find_components(child, str(name))
