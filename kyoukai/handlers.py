"""
The tables that a blueprint keeps beside its routes: ``HookTable`` and ``ErrorTable``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from werkzeug.exceptions import HTTPException, InternalServerError

from kyoukai.exceptions import RouteError

if TYPE_CHECKING:
    from kyoukai.route import Route

__all__ = ("ErrorTable", "Hook", "HookTable")

Hook: TypeAlias = Callable[..., Any]

#: Classes that say nothing of what happened: handlers of a status come before theirs.
_GENERAL = (HTTPException, Exception, BaseException)


class HookTable:
    """The hooks of a blueprint or a route: ``pre`` run before the handler, ``post`` after it."""

    def __init__(self) -> None:
        self._hooks: dict[str, list[Hook]] = {"pre": [], "post": []}

    def add(self, type_: str, hook: Hook) -> None:
        """
        Add a hook at the end.

        :raises RouteError: for a type that is neither ``pre`` nor ``post``, or no callable
        """
        self.get(type_)
        if not callable(hook):
            raise RouteError(f"a hook must be callable; {hook!r} is not")
        self._hooks[type_].append(hook)

    def get(self, type_: str) -> list[Hook]:
        """Return the hooks of one type, as a new list; raises as ``add`` does."""
        if type_ not in self._hooks:
            raise RouteError(f"hooks are of type 'pre' or 'post', not {type_!r}")
        return list(self._hooks[type_])


class ErrorTable:
    """The error handlers of one blueprint, by status and by class of exception."""

    def __init__(self) -> None:
        self.codes: dict[int, Route] = {}
        self.classes: dict[type[BaseException], Route] = {}

    def add(
        self, route: Route, start: int | type[BaseException], end: int | None, step: int | None
    ) -> None:
        """
        Add a handler for a class, a status, or the statuses from ``start`` up to before ``end``.

        :raises RouteError: if these are no statuses and no class of exceptions
        """
        if isinstance(start, type) and issubclass(start, BaseException):
            if end is not None or step is not None:
                raise RouteError(f"a range of statuses cannot begin with {start.__name__}")
            self.classes[start] = route
        else:
            self.codes.update(dict.fromkeys(_codes(start, end, step), route))

    def particular(self, exc: BaseException) -> Route | None:
        """Return the handler of the exception's class or its nearest base, general ones aside."""
        for class_ in type(exc).__mro__:
            if class_ in self.classes and class_ not in _GENERAL:
                return self.classes[class_]
        return None

    def general(self, exc: BaseException) -> Route | None:
        """Return the handler of ``HTTPException``, ``Exception`` or ``BaseException``."""
        for class_ in _GENERAL:
            if class_ in self.classes and isinstance(exc, class_):
                return self.classes[class_]
        return None

    @property
    def handles_failures(self) -> bool:
        """Whether there is a handler of status 500."""
        return 500 in self.codes or InternalServerError in self.classes


def _codes(start: Any, end: int | None, step: int | None) -> range:
    given = [start, *(number for number in (end, step) if number is not None)]
    if not all(isinstance(code, int) and not isinstance(code, bool) for code in given):
        raise RouteError(f"an error handler takes a status or a class of exceptions, not {start!r}")
    codes = range(start, start + 1 if end is None else end, 1 if step is None else step or -1)
    if codes.step < 1 or not codes or codes[0] < 100 or codes[-1] > 599:
        raise RouteError(f"no statuses: {start!r} up to before {end!r} in steps of {step or 1}")
    return codes
