"""
What a program needs before it runs: its components, an event loop, logging.
"""

from __future__ import annotations

import asyncio
import logging
import logging.config
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from asphalt.core import Component, ContainerComponent
from asphalt.core.component import CLIApplicationComponent, component_types
from asphalt.core.runner import policies

from kyoukai.config import nearest_name
from kyoukai.exceptions import ConfigurationError, KyoukaiError
from kyoukai.server.access_log import AccessFormatter
from kyoukai.targets import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai.server.loading import Application

__all__ = ("make_component", "make_loop", "set_up_logging")


# -- Components -----------------------------------------------------------------------------------


def make_component(application: Application) -> Component:
    """
    Make the root component, and below it every component that its configuration names.

    Containers make their children when they start. Ours are made before that, so that their
    sockets are bound before any component starts. A container of the user's that has a ``start``
    of its own makes its children there, before it starts them.

    :param application: the program
    :raises KyoukaiError: in one line, with the component's place in the configuration
    """
    config = dict(application.component)
    create = partial(component_types.create_object, **config)
    component: Component = _make(application.source, "component", create)
    _make_children(application.source, "component", component)
    return component


def _make_children(source: str, place: str, parent: Component) -> None:
    starts_plainly = type(parent).start in (ContainerComponent.start, CLIApplicationComponent.start)
    if not isinstance(parent, ContainerComponent) or not starts_plainly:
        return
    for alias in parent.component_configs:
        below = f"{place}.components.{alias}"
        if alias not in parent.child_components:
            _make(source, below, partial(parent.add_component, alias))
    for alias, child in parent.child_components.items():
        _make_children(source, f"{place}.components.{alias}", child)


def _make(source: str, place: str, make: Callable[[], Any]) -> Any:
    where = f"{source}: {place}: " if source else ""
    try:
        return make()
    except ConfigurationError as error:
        raise type(error)(f"{where}{error}") from error.__cause__
    except Exception as error:
        if type(error) is not LookupError:
            message = f"{where}the component cannot be made: {describe(error)}"
            raise KyoukaiError(message) from error
        # A type that Asphalt does not find; one that fails to import has a cause.
        message = " ".join(str(error).split())
        wrong = message.rpartition(": ")[2]
        near = nearest_name(wrong, component_types.names) if "entry point" in message else None
        hint = f"; did you mean {near!r}?" if near else ""
        cause = error.__cause__
        if cause is not None:
            message += f": {describe(cause)}"
            if isinstance(cause, ModuleNotFoundError):
                cause = None
        raise ConfigurationError(f"{where}{message}{hint}") from cause


# -- Loops ----------------------------------------------------------------------------------------


def make_loop(name: str, policy: str | None = None) -> asyncio.AbstractEventLoop:
    """
    Make an event loop.

    :param name: ``asyncio``, ``uvloop``, or ``auto``: the policy's, else uvloop's if there is one
    :param policy: name of an event loop policy, in Asphalt's entry-point group
    :raises ConfigurationError: if there is no such loop here
    """
    if name == "auto" and policy is not None:
        return _loop_of_policy(policy)
    if name != "asyncio":
        # Imported here because it is an extra, and does not exist for every system.
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise ConfigurationError(
                    '--loop: uvloop is not installed; pip install "kyoukai[uvloop]"'
                ) from None
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def _loop_of_policy(name: str) -> asyncio.AbstractEventLoop:
    try:
        policy = policies.resolve(name)()
    except (LookupError, ImportError) as error:
        near = nearest_name(name, policies.names)
        hint = f"; did you mean {near!r}?" if near and near != name else f": {error}"
        raise ConfigurationError(f"event_loop_policy: cannot use {name!r}{hint}") from None
    asyncio.set_event_loop_policy(policy)
    return asyncio.new_event_loop()


# -- Logging --------------------------------------------------------------------------------------

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logging(setting: dict[str, Any] | str | int | None, level: str | None = None) -> None:
    """
    Set up logging as the configuration says.

    By default messages go to standard error, and access lines to standard output.

    :param setting: a configuration for ``dictConfig``, a level, or None for no set-up
    :param level: a level that comes before the configuration's
    :raises ConfigurationError: if the configuration cannot be used
    """
    if isinstance(setting, dict):
        try:
            logging.config.dictConfig(setting)
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            reasons = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
            raise ConfigurationError(f"logging: {' '.join(reasons.split())}") from None
        # It silences the loggers that exist already, ours among them, and under Asphalt's own
        # runner ours would not exist yet.
        for name in list(logging.root.manager.loggerDict):
            if name.partition(".")[0] in ("kyoukai", "asphalt"):
                logging.getLogger(name).disabled = False
        if level is not None:
            logging.root.setLevel(level.upper())
    elif setting is not None or level is not None:
        chosen = level if level is not None else setting
        try:
            logging.basicConfig(
                level=chosen.upper() if isinstance(chosen, str) else chosen, format=_FORMAT
            )
        except ValueError:
            raise ConfigurationError(f"logging: {chosen!r} is no level") from None
        access = logging.getLogger("kyoukai.access")
        if not access.handlers:
            handler = logging.StreamHandler(sys.stdout)
            handler.setFormatter(AccessFormatter())
            access.addHandler(handler)
            access.propagate = False
