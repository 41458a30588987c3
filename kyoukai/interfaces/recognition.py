"""
Which kind of application is it? Nothing is ever called to find out.

In this order: a ``Kyoukai``; a ``Proxy``; an object with ``get_supported`` (SSGI's negotiation);
one with ``__rsgi__``; then the required positional parameters of the callable: 8 are SSGI, 3 ASGI,
2 RSGI for a coroutine function and WSGI otherwise, 1 ASGI 2.
"""

from __future__ import annotations

import inspect
from typing import Any

from kyoukai.app import Kyoukai
from kyoukai.exceptions import TargetError, UnknownKindError
from kyoukai.proxy import Proxy, is_upstream

__all__ = ("is_double_callable", "recognise")

_HINT = "name its kind with interface (--interface): asgi, kyoukai, rsgi, ssgi or wsgi"


def recognise(app: Any, source: str) -> str:
    """
    Return the name of an application's interface.

    :param app: the application
    :param source: what messages call it
    :raises TargetError: in one line, if it cannot be told
    """
    if isinstance(app, Kyoukai):
        return "kyoukai"
    if isinstance(app, Proxy) or is_upstream(app):
        return "proxy"
    if isinstance(app, type) and issubclass(app, Kyoukai):
        raise TargetError(
            f"app: {source!r} is a class of applications, not one; name an instance of it"
        )
    if callable(getattr(app, "get_supported", None)):
        return "ssgi"
    if callable(getattr(app, "__rsgi__", None)):
        return "rsgi"
    if not callable(app):
        kind = type(app).__name__
        raise TargetError(f"app: {source!r} is of type {kind}, which is no application")
    count = _required(app)
    if count is None:
        raise UnknownKindError(
            f"app: {source!r}: its signature does not tell what kind it is; {_HINT}"
        )
    if count == 8:
        return "ssgi"
    if count == 3 or (count == 1 and is_double_callable(app)):
        return "asgi"
    if count == 2:
        return "rsgi" if _is_coroutine_function(app) else "wsgi"
    if count == 0:
        raise UnknownKindError(
            f"app: {source!r} takes no arguments; if it makes the application, say factory: true"
            " (--factory)"
        )
    raise UnknownKindError(
        f"app: {source!r} takes {count} argument{'s'[: count != 1]}, as no kind of application"
        f" does; {_HINT}"
    )


def is_double_callable(app: Any) -> bool:
    """
    Whether an ASGI application is of version 2: called with the scope, it returns what is called.

    :param app: the application, a function or a class
    """
    return _required(app) == 1 and not _is_coroutine_function(app)


def _required(app: Any) -> int | None:
    """Return how many arguments a call must have; None if that cannot be told."""
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return None
    count = 0
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return None
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            count += parameter.default is parameter.empty
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            return None
    return count


def _is_coroutine_function(app: Any) -> bool:
    """Whether calling it makes a coroutine; for an object, its ``__call__``."""
    if isinstance(app, type):
        return False
    while hasattr(app, "func"):  # of a functools.partial
        app = app.func
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(
        getattr(app, "__call__", None)  # noqa: B004 - the method itself is looked at
    )
