"""
The Asphalt component of a reverse proxy: ``type: kyoukai_proxy`` in YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kyoukai.asphalt import KyoukaiComponent
from kyoukai.config import ServerConfig
from kyoukai.exceptions import ConfigurationError
from kyoukai.proxy import Proxy

__all__ = ("KyoukaiProxyComponent", "unfold")


class KyoukaiProxyComponent(KyoukaiComponent):
    """
    Passes requests on to other servers, over HTTP/1.1 and HTTP/2 on the same addresses.

    :param upstreams: the URL of a server, or several
    :param app: an application in front of them: what none of its routes matches goes on to the
        servers, through its middlewares; by default there is none
    :param options: settings of :class:`~kyoukai.proxy.Proxy`, and the options of
        :class:`~kyoukai.asphalt.KyoukaiComponent`
    :raises ConfigurationError: if a key is unknown or a value cannot work
    """

    def __init__(self, upstreams: Any = (), app: Any = "", **options: Any) -> None:
        super().__init__(**unfold({"upstreams": upstreams, "app": app, **options}))

    def _allowed_keys(self) -> set[str]:
        return super()._allowed_keys() | set(Proxy.field_names())


def unfold(options: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what an ordinary component would have to be told to do the same.

    :param options: those of a proxy's component
    :raises ConfigurationError: if a value cannot work
    """
    known = Proxy.field_names()
    for name in options.get("settings") or ():
        if name in known and name not in ServerConfig.field_names():
            raise ConfigurationError(f"settings: {name!r} is a proxy's; write it beside upstreams")
    proxy = Proxy.from_mapping({name: options[name] for name in known if name in options})
    rest = {name: value for name, value in options.items() if name not in known}
    mounts = rest.get("mounts") or {}
    if not rest.get("app"):
        rest["app"] = proxy
    elif not isinstance(mounts, Mapping):
        raise ConfigurationError(f"mounts must be a mapping of prefixes, not {mounts!r}")
    elif "/" in mounts:
        raise ConfigurationError("mounts: /: the servers of upstreams are there")
    else:
        rest["mounts"] = {**mounts, "/": proxy}
    return rest
