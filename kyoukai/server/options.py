"""
What the arguments of our components mean: addresses, TLS, settings and backends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from kyoukai.backends.base import BaseProtocol
from kyoukai.config import ServerConfig, check_keys
from kyoukai.exceptions import ConfigurationError
from kyoukai.server.address import Address
from kyoukai.targets import entry_point, load_target

__all__ = (
    "DEFAULT_IP",
    "DEFAULT_PORT",
    "backend_class",
    "is_backend",
    "server_config",
)

DEFAULT_IP = "127.0.0.1"
DEFAULT_PORT = 8000


def server_config(
    ip: str,
    port: int,
    ssl: Mapping[str, Any] | None,
    settings: Mapping[str, Any] | None,
    *,
    default_port: int = DEFAULT_PORT,
    needs_tls: bool = False,
    **fields: Any,
) -> ServerConfig:
    """
    Return the settings of a component's server.

    :param ip: the component's address, which counts if no other is given
    :param port: its TCP port
    :param ssl: its ``ssl`` mapping
    :param settings: its ``settings`` mapping
    :param default_port: the port if the component names none
    :param needs_tls: whether ``ip`` and ``port`` mean TLS also without a certificate
    :param fields: settings that are arguments of their own; empty ones do not count
    :raises ConfigurationError: in one line that names the key
    """
    for name, value in (("ssl", ssl), ("settings", settings)):
        if value is not None and not isinstance(value, Mapping):
            raise ConfigurationError(f"{name} must be a mapping, not {value!r}")
    given = {**_tls_fields(ssl), **{name: value for name, value in fields.items() if value}}
    merged = {**(settings or {}), **given}
    if not merged.get("bind") and not merged.get("tls_bind"):
        wants_tls = needs_tls or merged.get("certfile") or merged.get("keyfile")
        merged["tls_bind" if wants_tls else "bind"] = str(_tcp(ip, port))
    elif (ip, port) != (DEFAULT_IP, default_port):
        raise ConfigurationError("ip and port: give either these, or bind and tls_bind")
    config = ServerConfig.from_mapping(merged)
    for name in ("certfile", "keyfile"):
        if config.tls_bind and getattr(config, name) is None:
            if ssl is not None and not ssl.get("enabled", True):
                raise ConfigurationError("ssl: enabled must be true where there is a TLS address")
            raise ConfigurationError(
                f"{name} is missing: TLS needs ssl_certfile and ssl_keyfile "
                "(--certfile and --keyfile)"
            )
        if not config.tls_bind and getattr(config, name) is not None:
            raise ConfigurationError(
                f"{name} is given, but there is no TLS address: name one with tls_bind (--tls-bind)"
            )
    return config


def _tls_fields(ssl: Mapping[str, Any] | None) -> dict[str, Any]:
    if ssl is None:
        return {}
    check_keys(ssl, ("enabled", "ssl_certfile", "ssl_keyfile"), "key of ssl")
    enabled = ssl.get("enabled", True)
    if not isinstance(enabled, bool):
        raise ConfigurationError(f"ssl: enabled must be true or false, not {enabled!r}")
    if not enabled:
        return {}
    fields = {name: ssl.get(f"ssl_{name}") for name in ("certfile", "keyfile")}
    return {name: value for name, value in fields.items() if value}


def _tcp(ip: object, port: object) -> Address:
    if not isinstance(ip, str):
        raise ConfigurationError(f"ip must be of type str, not {ip!r}")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise ConfigurationError(f"port must be a number from 0 to 65535, not {port!r}")
    try:
        return Address.from_host(ip.strip("[]"), port)
    except ConfigurationError:
        raise ConfigurationError(f"ip: {ip!r} is no host") from None


def backend_class(name: str) -> Callable[..., BaseProtocol]:
    """
    Return the protocol class of a backend.

    :param name: an entry point of ``kyoukai.backends``, the path of a module with a
        ``PROTOCOL_CLASS``, or ``module:class``
    :raises ConfigurationError: if it leads to none
    """
    if not isinstance(name, str):
        raise ConfigurationError(f"backend must be of type str, not {name!r}")
    if "." in name and ":" not in name:
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"backend: there is no module {error.name!r}") from None
        found = getattr(module, "PROTOCOL_CLASS", None)
        found = getattr(module, found, None) if isinstance(found, str) else found
        if found is None:
            raise ConfigurationError(f"backend: the module {name!r} has no PROTOCOL_CLASS")
    else:
        found = load_target(name) if ":" in name else entry_point("backend", name).load()
    if not isinstance(found, type) or not issubclass(found, BaseProtocol):
        raise ConfigurationError(f"backend: {name!r} leads to no protocol class")
    return found


def is_backend(made: object, name: str) -> bool:
    """
    Return whether a component's protocols are a backend's, or derived from it.

    :param made: the component's protocol class, or a function that makes protocols
    :param name: an entry point of ``kyoukai.backends``
    """
    return isinstance(made, type) and issubclass(made, backend_class(name))  # type: ignore[arg-type]
