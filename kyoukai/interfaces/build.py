"""
From an application to the interface that answers streams by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kyoukai.app import Kyoukai
from kyoukai.exceptions import ConfigurationError, TargetError
from kyoukai.interfaces.hosted import Hosted, name_of_application
from kyoukai.interfaces.mounts import MountedInterface
from kyoukai.interfaces.native import NativeInterface
from kyoukai.interfaces.proxy import ProxyInterface
from kyoukai.interfaces.recognition import recognise
from kyoukai.pipeline import RequestPipeline
from kyoukai.proxy import Proxy
from kyoukai.targets import entry_point, load_target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asphalt.core import Context

    from kyoukai.config import ServerConfig
    from kyoukai.mount import Mount
    from kyoukai.stream import Interface

__all__ = ("interface_for", "make_interface")


def make_interface(
    name: str,
    app: Any,
    config: ServerConfig,
    context: Context | None = None,
    *,
    source: str = "",
    max_body_size: int | None = None,
    pipeline: Any = None,
) -> Interface:
    """
    Make the interface of that name for an application.

    :param name: an entry point of ``kyoukai.interfaces``, or ``auto``
    :param app: the application
    :param config: the server's settings
    :param context: the root context of the program
    :param source: what messages call the application
    :param max_body_size: the most bytes of a request's body, for applications of other kinds
    :param pipeline: the class of the pipeline, or ``module:Class``, for Kyoukai applications and
        proxies
    :raises ConfigurationError: in one line, if there is no such interface, or it is not the
        application's
    """
    source = source or name_of_application(app)
    if not isinstance(name, str):
        raise ConfigurationError(f"interface must be of type str, not {name!r}")
    if name == "auto":
        name = recognise(app, source)
    factory = entry_point("interface", name).load()
    if name == "kyoukai" and not isinstance(app, Kyoukai):
        raise TargetError(f"app: {source!r} is of type {_type(app)}, not a Kyoukai application")
    if name != "kyoukai" and isinstance(app, Kyoukai):
        raise TargetError(f"app: {source!r} is a Kyoukai application; interface must be kyoukai")
    if name != "proxy" and isinstance(app, Proxy):
        raise TargetError(f"interface: {name!r} is not that of a proxy; leave it out")
    kind = factory if isinstance(factory, type) else object
    if issubclass(kind, NativeInterface | ProxyInterface):
        steps = None if pipeline is None else _pipeline_class(pipeline)
        if issubclass(kind, NativeInterface):
            return kind(app, config, context, pipeline_class=steps)
        limit = max_body_size
        return kind(app, config, context, name=source, max_body_size=limit, pipeline_class=steps)
    if pipeline is not None:
        raise ConfigurationError("pipeline is for Kyoukai applications and proxies")
    if isinstance(factory, type) and issubclass(factory, Hosted):
        if not (callable(app) or hasattr(app, "__rsgi__") or hasattr(app, "get_supported")):
            raise TargetError(f"app: {source!r} is of type {_type(app)}, which cannot be called")
        return factory(app, config, context, name=source, max_body_size=max_body_size)
    made: Interface = factory(app, config, context)
    return made


def interface_for(
    app: Any,
    config: ServerConfig,
    context: Context | None = None,
    *,
    interface: str = "auto",
    source: str = "",
    max_body_size: int | None = None,
    mounts: Iterable[Mount] = (),
    made: dict[str, Any] | None = None,
    pipeline: Any = None,
) -> Interface:
    """
    Make the interface of an application, and of all that are mounted on it.

    :param app: the application
    :param config: the server's settings
    :param context: the root context of the program
    :param interface: the application's kind; ``auto`` finds out
    :param source: what messages call the application
    :param max_body_size: the most bytes of a request's body, for applications of other kinds
    :param mounts: what the server mounts, before what the application does
    :param made: what factories have made, by their targets
    :param pipeline: see :func:`make_interface`
    :raises ConfigurationError: in one line that names the mount, if one cannot work
    """
    made = {} if made is None else made
    base = make_interface(
        interface,
        app,
        config,
        context,
        source=source,
        max_body_size=max_body_size,
        pipeline=pipeline,
    )
    found: dict[str, Mount] = {}
    for mount in (*mounts, *(app.mounts if isinstance(app, Kyoukai) else ())):
        if mount.prefix in found:
            raise ConfigurationError(f"mounts: {mount.place}: there are two of them")
        found[mount.prefix] = mount
    if not found:
        return base
    if "" in found and not isinstance(base, NativeInterface):
        raise ConfigurationError(
            "mounts: /: it would take every request from app, which is no Kyoukai application"
        )
    mounted = [(mount, _mounted(mount, config, context, made)) for mount in found.values()]
    return MountedInterface(base, mounted)


def _mounted(
    mount: Mount, config: ServerConfig, context: Context | None, made: dict[str, Any]
) -> Interface:
    app = mount.find(made)
    settings = mount.settings(config)
    try:
        mounted = interface_for(
            app,
            settings,
            context,
            interface=mount.interface,
            source=mount.source,
            max_body_size=mount.max_body_size,
            made=made,
        )
        if isinstance(mounted, ProxyInterface):
            if mount.root_path is not None:
                raise ConfigurationError(
                    "root_path is not for a proxy; the path of its URL says what its server sees"
                )
            if mount.lifespan is not None:
                raise ConfigurationError("lifespan is not for a proxy")
        return mounted
    except ConfigurationError as error:
        raise type(error)(f"mounts: {mount.place}: {error}") from error.__cause__


def _pipeline_class(pipeline: Any) -> type[RequestPipeline]:
    found = load_target(pipeline) if isinstance(pipeline, str) else pipeline
    if not isinstance(found, type) or not issubclass(found, RequestPipeline):
        raise ConfigurationError(f"pipeline: {pipeline!r} is no subclass of RequestPipeline")
    return found


def _type(app: Any) -> str:
    return f"{type(app).__module__}.{type(app).__qualname__}"
