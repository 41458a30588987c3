"""
Asphalt components that serve an application, a Kyoukai application or one of another kind.

A component publishes its Kyoukai applications and its server as resources, starts the components
that these applications bring along, and serves once the resources that handlers inject are there.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asphalt.core import Component, Context, Signal
from asphalt.core.component import component_types

from kyoukai.app import Kyoukai
from kyoukai.component_events import ConnectionLostEvent, ConnectionMadeEvent
from kyoukai.config import ServerConfig, check_keys
from kyoukai.context import reset_current, set_current
from kyoukai.exceptions import ConfigurationError
from kyoukai.interfaces.build import interface_for
from kyoukai.interfaces.mounts import kind_of, natives_of
from kyoukai.mount import Mount, find_application
from kyoukai.publishing import publish_app
from kyoukai.server.address import Address
from kyoukai.server.group import ServerGroup, current_group
from kyoukai.server.injection import await_resources
from kyoukai.server.listener import Server
from kyoukai.server.options import (
    DEFAULT_IP,
    DEFAULT_PORT,
    backend_class,
    is_backend,
    server_config,
)
from kyoukai.server.resources import group_of, publish_server
from kyoukai.targets import add_to_path, entry_point

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


class KyoukaiBaseComponent(Component):
    """
    What every component that serves an application has in common.

    It is the ``component`` of the protocols that it makes. Subclasses set ``protocol_class``, or
    override ``get_protocol``; for connections that begin with HTTP/1.1 and turn out to speak
    HTTP/2, ``h2_protocol_class`` counts.

    :param app: the application, ``module:attribute`` that leads to one, or the URL of a server
        that requests are passed on to
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
        ``kyoukai.interfaces``; ``auto`` finds out
    :param factory: whether ``app`` is to be called, without arguments, for the application
    :param lifespan: short for the setting ``lifespan``
    :param root_path: short for the setting ``root_path``
    :param pipeline: ``module:Class`` of the pipeline that the requests of a Kyoukai application or
        of a proxy pass; by default the application's own
    :param mounts: applications below prefixes: for each prefix ``module:attribute``, the URL of a
        server, or a mapping of the parameters of :class:`~kyoukai.mount.Mount`, or of ``upstreams``
        and the settings of a :class:`~kyoukai.proxy.Proxy`
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
        app: Any = "",
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
        interface: str = "auto",
        factory: bool = False,
        lifespan: str | None = None,
        root_path: str | None = None,
        pipeline: Any = None,
        mounts: Mapping[str, Any] | None = None,
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
        if mounts is not None and not isinstance(mounts, Mapping):
            raise ConfigurationError(f"mounts must be a mapping of prefixes, not {mounts!r}")
        if not isinstance(interface, str):
            raise ConfigurationError(f"interface must be of type str, not {interface!r}")
        if interface != "auto":
            entry_point("interface", interface)
        if not isinstance(factory, bool):
            raise ConfigurationError(f"factory must be true or false, not {factory!r}")
        #: The application; until it is needed, it may be the text that leads to it.
        self.app: Any = app
        self.ip = ip
        self.port = port
        self.run_server = run_server
        self.resource_name = resource_name
        self._app_config = config or {}
        self._interface_name = interface
        self._factory = factory
        self._pipeline = pipeline
        self._mounts = [Mount.from_setting(*entry) for entry in (mounts or {}).items()]
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
                lifespan=lifespan,
                root_path=root_path,
            ),
            self._make_protocol,
            alpn=self.alpn_protocols,
            label=self._label("kyoukai" if isinstance(app, Kyoukai) else interface),
        )
        # For applications of other kinds there is no limit unless somebody has set one.
        self._body_limited = "max_body_size" in (settings or ())
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
        for key in unknown:
            if key in ServerConfig.field_names():
                raise ConfigurationError(f"unknown key {key!r}; it belongs under 'settings'")
        check_keys(unknown, self._allowed_keys(), "key")

    def _allowed_keys(self) -> set[str]:
        """Return the keys that a configuration may have."""
        return {
            name
            for cls in type(self).__mro__
            if issubclass(cls, KyoukaiBaseComponent) and "__init__" in vars(cls)
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
        }

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
        group = group_of(ctx)
        token = set_current(ctx)  # in a program of the user's it need not be
        try:
            self._prepare(group)
            interface = self.server.interface
            for native in natives_of(interface):
                native.pipeline.parent_context = ctx
                await publish_app(native.app, ctx)
                native.app.finalize()
            if not self.run_server:
                return
            self.resource_name = publish_server(
                self.server, ctx, self.resource_name, self.resource_prefix
            )
            await group.serve_one(self.server, ctx)
        except BaseException:
            self.server.close_listeners()
            raise
        finally:
            reset_current(token)

    def _prepare(self, group: ServerGroup) -> None:
        """Find the applications, and bind the addresses."""
        if self._prepared:
            return
        self._prepared = True
        target = self.app
        if current_group.get() is None:
            add_to_path(Path())  # `asphalt run` does not
        self.app = find_application(target, self._factory, group.applications)
        if isinstance(self.app, Kyoukai):
            self.app.config.update(self._app_config)
        elif self._app_config:
            raise ConfigurationError("config is for Kyoukai applications, and app is none")
        config = self.config
        self.server.interface = interface_for(
            self.app,
            config,
            interface=self._interface_name,
            source=target if isinstance(target, str) else "",
            max_body_size=config.max_body_size if self._body_limited else None,
            mounts=self._mounts,
            made=group.applications,
            pipeline=self._pipeline,
        )
        self.server.label = self._label(kind_of(self.server.interface))
        if self.run_server:
            group.add(self.server)

    async def _await_resources(self, ctx: Context) -> None:
        for native in natives_of(self.interface):
            await await_resources(native.app.name, native.app.injected_resources())


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
        app: Any = "",
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
        app: Any = "",
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
