"""
What ``ServerConfig`` and ``Proxy`` refuse: values of the wrong type, or outside their range.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import ConfigurationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from kyoukai.config import ServerConfig

__all__ = ("check_server", "convert_fields")

#: Settings whose least value is not 0.
_MINIMUM: dict[str, float] = {
    "backlog": 1,
    "h2_max_concurrent_streams": 1,
    "h2_stream_window": 1024,
    "h2_connection_window": 65535,
    "h2_reset_burst": 1,
    "h2_control_burst": 10,
    "max_connections": 1,
    "max_head_size": 256,
    "max_target_size": 1,
    "max_headers": 1,
    "max_pipelined": 1,
    "read_buffer_size": 1024,
    "write_buffer_size": 1024,
    "handler_threads": 1,
    "wsgi_threads": 1,
    "max_form_parts": 1,
    "ws_max_message_size": 1,
    "ws_max_fragments": 1,
    "ws_ping_burst": 1,
    "ws_write_limit": 1024,
}

#: Time-outs that would never let anything happen if they were 0.
_ABOVE_ZERO = (
    "tls_handshake_timeout",
    "header_timeout",
    "keep_alive_timeout",
    "send_stall_timeout",
    "ws_close_timeout",
)


#: A scheme, a host and perhaps a port; the port of the scheme itself is not named (RFC 6454).
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/@\s?#]+")

#: A protocol, perhaps with its version (RFC 9110 section 7.8), in lower case.
_UPGRADE = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+(?:/[!#$%&'*+\-.^_`|~0-9a-z]+)?")

#: The largest window that HTTP/2 knows (RFC 9113 section 6.9.1); uvloop knows no larger buffers.
_LARGEST = 2**31 - 1
#: How the settings end that have this maximum.
_WITH_MAXIMUM = ("_window", "_buffer_size", "ws_write_limit")

#: What an error page may be for.
_ERRORS = re.compile(r"[45](?:\d\d|xx)|default")

#: A header as a setting has it.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
#: Headers that frame messages.
_FRAMING = frozenset(
    (
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


def convert_fields(
    settings: DataclassInstance,
    minimum: Mapping[str, float],
    above_zero: Collection[str],
    with_maximum: tuple[str, ...],
) -> None:
    """
    Give settings their declared types, and refuse numbers out of range.

    :param settings: a dataclass
    :param minimum: for each setting whose least value is not 0, what it is
    :param above_zero: the settings that may be any number, but not 0
    :param with_maximum: endings of the names of settings that are at most 2**31 - 1
    :raises ConfigurationError: in one line that names the setting
    """
    for field in dataclasses.fields(settings):
        name = field.name
        value = convert_field(name, field.type, getattr(settings, name))
        object.__setattr__(settings, name, value)  # it is frozen
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        least = minimum.get(name, 0)
        if not value >= least:  # also refuses NaN
            raise ConfigurationError(f"{name} must be at least {least}, not {value}")
        if name.endswith(with_maximum) and value > _LARGEST:
            raise ConfigurationError(f"{name} must be at most {_LARGEST}")
        if name in above_zero and value == 0:
            raise ConfigurationError(f"{name} must be greater than 0")


def check_server(config: ServerConfig) -> None:
    """
    Refuse what cannot work.

    :raises ConfigurationError: in one line that names the setting
    """
    convert_fields(config, _MINIMUM, _ABOVE_ZERO, _WITH_MAXIMUM)
    if config.client_cert_optional and config.client_ca is None:
        raise ConfigurationError("client_ca is missing: client_cert_optional is for it")
    for proxy in config.trusted_proxies:
        if proxy in ("*", "unix"):
            continue
        try:
            ipaddress.ip_network(proxy, strict=False)
        except ValueError:
            raise ConfigurationError(
                f"trusted_proxies: {proxy!r} is no address, no network, and neither 'unix' nor '*'"
            ) from None
    for origin in config.ws_origins:
        if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
            raise ConfigurationError(
                f"ws_origins: {origin!r} is no origin such as 'https://example.com', and not '*'"
            )
    for token in config.upgrade_tokens:
        if token in ("h2", "h2c"):
            raise ConfigurationError(
                f"upgrade_tokens: {token!r} is HTTP/2 itself, which the server answers"
            )
        if not _UPGRADE.fullmatch(token):
            raise ConfigurationError(
                f"upgrade_tokens: {token!r} is no protocol such as 'websocket', in lower case"
            )
    if config.root_path and (not config.root_path.startswith("/") or config.root_path[-1] == "/"):
        raise ConfigurationError("root_path must start with '/' and must not end with it")
    if config.forwarded_headers not in ("x-forwarded", "forwarded"):
        raise ConfigurationError(
            f"forwarded_headers must be x-forwarded or forwarded, not {config.forwarded_headers!r}"
        )
    if config.lifespan not in ("auto", "on", "off"):
        raise ConfigurationError(f"lifespan must be auto, on or off, not {config.lifespan!r}")
    header = config.server_header
    if header is not None and (not header.isascii() or not header.isprintable()):
        raise ConfigurationError("server_header must be printable ASCII")
    _check_lines("security_headers", config.security_headers, ("default",))
    for status in config.error_pages or ():
        if not _ERRORS.fullmatch(status):
            raise ConfigurationError(
                f"error_pages: {status!r} is no status of an error such as 404, and neither 4xx, "
                "5xx nor 'default'"
            )
    for pattern in config.compress_types:
        if pattern.count("/") != 1 or ";" in pattern:
            raise ConfigurationError(
                f"compress_types: {pattern!r} is no media type such as 'text/*', 'application/json'"
            )


def _check_lines(name: str, lines: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Refuse what is neither a header line nor one of some words."""
    for line in lines:
        if line in words:
            continue
        field, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(field) or not _VALUE.fullmatch(value):
            raise ConfigurationError(f"{name}: {line!r} is no 'Name: value', and not 'default'")
        if field.lower() in _FRAMING:
            raise ConfigurationError(f"{name}: {field} is the server's to send")


def convert_field(name: str, declared: Any, value: Any) -> Any:
    """
    Return the value of a setting in its declared type.

    :param name: the setting
    :param declared: its annotation, as text
    :param value: what was given
    :raises ConfigurationError: if that is of another type
    """
    optional = declared.endswith(" | None")
    kind = declared.removesuffix(" | None")
    if value is None:
        if optional:
            return None
        raise ConfigurationError(f"{name} must not be empty")
    if name == "unix_mode" and isinstance(value, str):
        try:
            return int(value, 8)
        except ValueError:
            raise ConfigurationError(f"unix_mode must be octal, not {value!r}") from None
    if name == "lifespan" and isinstance(value, bool):  # on and off, to some readers of YAML
        return "on" if value else "off"
    if kind == "tuple[str, ...]":
        values = (value,) if isinstance(value, str) else value
        if isinstance(values, list | tuple) and all(isinstance(item, str) for item in values):
            return tuple(values)
        raise ConfigurationError(f"{name} must be a list of strings, not {value!r}")
    if kind == "Mapping[str, str]":
        if isinstance(value, Mapping) and all(isinstance(each, str) for each in value.values()):
            return {str(key): each for key, each in value.items()}  # statuses are numbers in YAML
        raise ConfigurationError(f"{name} must be a mapping to strings, not {value!r}")
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind == "str" and isinstance(value, str):
        return value
    raise ConfigurationError(f"{name} must be of type {kind}, not {value!r}")
