"""
What to run, from Asphalt's YAML files. Errors are one line each.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from asphalt.core import merge_config
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from kyoukai.config import check_keys
from kyoukai.exceptions import ConfigurationError

__all__ = ("Application", "load_yaml", "parse_yaml")

_KEYS = frozenset(
    ("component", "event_loop_policy", "logging", "max_threads", "services", "start_timeout")
)


@dataclass(frozen=True)
class Application:
    """
    A program: what Asphalt's ``run_application`` takes, with where it came from.

    :param component: the root component's configuration, with its ``type``
    :param source: the file or target, for messages
    :param logging: a configuration for ``dictConfig``, a level, or None for no set-up
    :param max_threads: size of the event loop's own thread pool
    :param event_loop_policy: name of an event loop policy, in Asphalt's entry-point group
    """

    component: dict[str, Any]
    source: str = ""
    logging: dict[str, Any] | str | int | None = "INFO"
    max_threads: int | None = None
    event_loop_policy: str | None = None


# -- YAML -----------------------------------------------------------------------------------------


def load_yaml(path: Path, service: str | None = None) -> Application:
    """
    Read a configuration file of Asphalt's, and choose one of its services.

    :param path: the file
    :param service: the service's name; by default the environment's ``ASPHALT_SERVICE``, the only
        one, or the one called ``default``
    :raises ConfigurationError: in one line, with the number of the line that is wrong
    """
    if path.suffix == ".py":
        raise ConfigurationError(
            f"{str(path)!r} is no YAML file; name the application in it as {path.stem}:app"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigurationError(f"cannot read {str(path)!r}: {reason}") from None
    config = parse_yaml(text, str(path))
    try:
        return _choose_service(config, str(path), service or os.environ.get("ASPHALT_SERVICE"))
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def parse_yaml(text: str, source: str) -> Any:
    """
    Parse YAML with Asphalt's tags ``!Env``, ``!TextFile`` and ``!BinaryFile``.

    :param text: the YAML
    :param source: its name in messages
    :raises ConfigurationError: in one line, with the number of the line that is wrong
    """
    # Pure Python: the C parser has other messages, and is not always there.
    yaml = YAML(typ="safe", pure=True)
    # A class of its own, so that the tags stay out of ruamel's shared tables.
    yaml.Constructor = type("Constructor", (yaml.Constructor,), {})
    for tag, read in _TAGS.items():
        yaml.constructor.add_constructor(tag, read)
    try:
        return yaml.load(StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}, line {mark.line + 1}" if mark is not None else source
        problem = " ".join((error.problem or error.context or "not valid YAML").split())
        raise ConfigurationError(f"{where}: {problem}") from None
    except (YAMLError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise ConfigurationError(f"{source}: {problem}") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise ConfigurationError(f"{source}: cannot read {error.filename!r}: {reason}") from None


_TAGS = {
    "!Env": lambda loader, node: os.environ.get(loader.construct_scalar(node)),
    "!TextFile": lambda loader, node: Path(loader.construct_scalar(node)).read_text(),
    "!BinaryFile": lambda loader, node: Path(loader.construct_scalar(node)).read_bytes(),
}


def _choose_service(config: Any, source: str, wanted: str | None) -> Application:
    if not isinstance(config, dict):
        raise ConfigurationError("the file must be a mapping with the key 'component'")
    check_keys(config, _KEYS, "key")
    services = config.pop("services", None) or {}
    if not isinstance(services, dict):
        raise ConfigurationError("'services' must be a mapping")
    if "component" in config:
        services = {"default": {"component": config.pop("component")}, **services}
    if not services:
        raise ConfigurationError("there is no 'component', and no service either")
    name = wanted or ("default" if len(services) > 1 else next(iter(services)))
    if name not in services:
        known = ", ".join(map(str, services))
        problem = f"no service {wanted!r}" if wanted else "no service 'default', choose one"
        raise ConfigurationError(f"there is {problem} (--service); services: {known}")
    chosen = services[name]
    if not isinstance(chosen, dict):
        raise ConfigurationError(f"service {name!r} must be a mapping")
    check_keys(chosen, _KEYS - {"services"}, "key")
    merged = merge_config(config, chosen)
    merged.pop("start_timeout", None)  # the limit is for Asphalt's own runner
    return Application(source=source, **_checked(merged))


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    component = config.get("component")
    if not isinstance(component, dict) or not isinstance(component.get("type"), str | type):
        raise ConfigurationError("'component' must be a mapping with the key 'type'")
    if not isinstance(config.get("logging"), dict | str | int | None):
        raise ConfigurationError("'logging' must be a mapping or a level")
    threads = config.get("max_threads")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ConfigurationError("'max_threads' must be a whole number above 0")
    policy = config.get("event_loop_policy")
    if policy is not None and not isinstance(policy, str):
        raise ConfigurationError("'event_loop_policy' must be a name")
    return config
