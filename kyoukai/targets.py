"""
Targets of the form ``module:attribute``, and what is found by its name.

Errors are one line each. Where the cause is an exception in the user's own code, it is the
``__cause__`` of the error, for whoever reports it.
"""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any

from kyoukai.config import nearest_name
from kyoukai.exceptions import ConfigurationError, TargetError

__all__ = (
    "add_to_path",
    "call_factory",
    "describe",
    "entry_point",
    "is_target",
    "load_target",
)

_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def add_to_path(folder: Path) -> None:
    """
    Let modules be imported from a folder, before all others.

    :param folder: the folder
    """
    path = str(folder.resolve())
    if path not in sys.path:
        sys.path.insert(0, path)


def is_target(text: str) -> bool:
    """Whether a text has the form ``module:attribute``."""
    return _TARGET.fullmatch(text) is not None


def load_target(target: str) -> object:
    """
    Import what a target names.

    :param target: ``module:attribute``
    :raises TargetError: if it cannot be had; an exception of the module's own is the cause
    """
    if not is_target(target):
        raise TargetError(f"{target!r} is no target; write module:attribute")
    name, _, attribute = target.partition(":")
    try:
        found: object = import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise TargetError(
                f"{target!r}: there is no module {error.name!r} in {os.getcwd()!r} or among the"  # noqa: PTH109
                " installed ones"
            ) from None
        raise TargetError(
            f"{target!r}: the module {name!r} cannot be imported: {describe(error)}"
        ) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = nearest_name(part, [each for each in dir(found) if each[0] != "_"])
            hint = f"; did you mean {near!r}?" if near else ""
            raise TargetError(f"{target!r}: {name!r} has no {part!r}{hint}") from None
    return found


def describe(error: BaseException) -> str:
    """Return an exception's type and message in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def call_factory(factory: Any, source: str) -> Any:
    """
    Make an application by its factory.

    :param factory: what is called, without arguments
    :param source: what messages call it
    :raises TargetError: if that fails; an exception of the factory's own is the cause
    """
    if not callable(factory):
        raise TargetError(f"{source} cannot be called: it is no factory, so leave factory out")
    try:
        made = factory()
    except Exception as error:
        raise TargetError(f"{source}: the factory failed: {describe(error)}") from error
    if hasattr(made, "__await__"):
        close = getattr(made, "close", None)
        if close is not None:
            close()
        raise TargetError(f"{source}: the factory must not be a coroutine function")
    return made


def entry_point(what: str, name: str) -> EntryPoint:
    """
    Return what is registered by that name, to be loaded.

    :param what: ``backend`` or ``interface``; the entry-point group is ``kyoukai.backends`` or
        ``kyoukai.interfaces``
    :param name: the name of the entry point
    :raises ConfigurationError: if there is none
    """
    known = _registered(f"kyoukai.{what}s")
    if name not in known.names:
        near = nearest_name(name, known.names)
        hint = f"did you mean {near!r}?" if near else f"known: {', '.join(sorted(known.names))}"
        raise ConfigurationError(f"{what}: there is no {name!r}; {hint}")
    return known[name]


@cache
def _registered(group: str) -> EntryPoints:
    """Look through all installed distributions, once for a group."""
    return entry_points(group=group)
