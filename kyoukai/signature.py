"""
What the signature of a handler says: the types of its arguments and the resources it wants.

Annotations are resolved one by one, and late: with ``from __future__ import annotations`` they
are strings, and some name classes that are imported for type checkers only. Such an argument is
simply not checked.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter
from typing import Any

from asphalt.core import current_context
from asphalt.core.context import _Dependency

from kyoukai.exceptions import RouteError

__all__ = ("Signature", "caller_locals", "inject_resources", "is_injected")

#: Stands for an annotation that cannot be resolved.
_UNKNOWN = object()


class Signature:
    """
    The signature of a handler, whose first parameter is the context.

    :param function: the handler as the user wrote it
    :param local_names: names that its annotations may use beside its module's globals
    :param websocket: whether the second parameter is a socket
    """

    def __init__(
        self,
        function: Callable[..., Any],
        local_names: Mapping[str, Any],
        websocket: bool = False,
    ) -> None:
        self.function = function
        self.websocket = websocket
        self.resources: dict[str, Parameter] = {}
        self.arguments: dict[str, Parameter] = {}
        #: How many of the first parameters, which do not come from the path, are missing, and
        #: whether any name is taken.
        self.lacking = 2 if websocket else 1
        self.takes_any = False
        self._local_names = local_names
        self._types: dict[str, tuple[type, ...] | None] = {}
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # written in C, without a signature: nothing to check
            self.lacking = 0
            self.takes_any = True
            return
        for parameter in parameters:
            if parameter.kind is Parameter.VAR_KEYWORD:
                self.takes_any = True
            elif parameter.kind is Parameter.VAR_POSITIONAL:
                self.lacking = 0
            elif isinstance(parameter.default, _Dependency):
                self._add_resource(parameter)
            elif self.lacking and parameter.kind is not Parameter.KEYWORD_ONLY:
                self.lacking -= 1
            else:
                self.arguments[parameter.name] = parameter

    @property
    def takes_socket(self) -> bool:
        """Whether an error handler takes ``ws`` beside the context and the exception."""
        names = list(self.arguments)
        if "ws" not in names:
            return False
        # The exception is a positional argument too, whatever it is called.
        return names[0] != "ws" or self.arguments["ws"].kind is Parameter.KEYWORD_ONLY

    # -- Arguments -----------------------------------------------------------------------------

    def check_names(self, names: typing.Collection[str]) -> None:
        """
        Check the names of the arguments that a path gives.

        :raises TypeError: if one is missing or unexpected; the message names it
        """
        if self.lacking:
            wanted = "the context as its first argument"
            if self.websocket:
                wanted = "the context and the socket as its first two arguments"
            raise TypeError(f"must take {wanted}")
        for name, parameter in self.arguments.items():
            if name in names and parameter.kind is Parameter.POSITIONAL_ONLY:
                raise TypeError(f"argument {name!r} must not be positional-only")
            if name not in names and parameter.default is Parameter.empty:
                raise TypeError(f"argument {name!r} is not in the path")
        for name in names:
            if name not in self.arguments and not self.takes_any:
                raise TypeError(f"takes no argument {name!r}")

    def check(self, params: Mapping[str, Any]) -> None:
        """
        Check names and types of arguments.

        :raises TypeError: if they do not fit; the message names the first that does not
        """
        self.check_names(params)
        for name, value in params.items():
            allowed = self.allowed_types(name)
            if allowed is not None and not isinstance(value, allowed):
                annotation = self.arguments[name].annotation
                wanted = annotation if isinstance(annotation, str) else _type_name(annotation)
                raise TypeError(
                    f"argument {name!r} must be of type {wanted}, not {type(value).__name__}"
                )

    def allowed_types(self, name: str) -> tuple[type, ...] | None:
        """Return the types that an argument may have, None if it may be anything."""
        if name not in self._types:
            parameter = self.arguments.get(name)
            if parameter is None or parameter.annotation is Parameter.empty:
                self._types[name] = None
            else:
                self._types[name] = _checkable(self._resolve(parameter))
        return self._types[name]

    # -- Resources -----------------------------------------------------------------------------

    def _add_resource(self, parameter: Parameter) -> None:
        where = f"parameter {parameter.name!r} of {self.function!r} is a resource"
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            raise RouteError(f"{where} and must not be positional-only")
        if parameter.annotation is Parameter.empty:
            raise RouteError(f"{where} and needs an annotation that says of which type")
        self.resources[parameter.name] = parameter

    def resource(self, name: str) -> tuple[type, str, bool]:
        """
        Return type and name of the resource for a parameter, and whether it may be missing.

        :raises RouteError: if the annotation does not say which type it is
        """
        parameter = self.resources[name]
        annotation = self._resolve(parameter)
        members = [member for member in _members(annotation) if member is not types.NoneType]
        if annotation is _UNKNOWN or len(members) != 1:
            raise RouteError(
                f"parameter {name!r} of {self.function!r} is a resource, but its annotation "
                f"{parameter.annotation!r} does not name one type that exists when it runs"
            )
        optional = types.NoneType in _members(annotation)
        return members[0], parameter.default.name, optional

    def _resolve(self, parameter: Parameter) -> Any:
        """Return a parameter's annotation, with names replaced by what they stand for."""
        function = inspect.unwrap(self.function)
        # get_type_hints would fail for all parameters if one has an annotation that it cannot
        # resolve, so it gets one at a time.
        alone = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
        names = getattr(function, "__globals__", {})
        try:
            return typing.get_type_hints(alone, names, dict(self._local_names))[parameter.name]
        except Exception:
            return _UNKNOWN


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return what a union consists of, or the annotation alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _checkable(annotation: Any) -> tuple[type, ...] | None:
    """Return the types for ``isinstance``, or None if it cannot tell."""
    found: list[type] = []
    for member in _members(annotation):
        while isinstance(member, typing.NewType):
            member = member.__supertype__
        member = typing.get_origin(member) or member
        if member is Any or not isinstance(member, type):
            return None
        try:
            isinstance(None, member)
        except TypeError:  # a protocol that exists for type checkers only
            return None
        found.append(member)
    return tuple(found)


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


# -- Injection ---------------------------------------------------------------------------------


def is_injected(function: Callable[..., Any]) -> bool:
    """Whether Asphalt's ``@inject`` has wrapped the function."""
    names = getattr(function, "__globals__", {})
    return names.get("__name__") == "asphalt.core.context" and hasattr(function, "__wrapped__")


def inject_resources(signature: Signature) -> Callable[..., Any]:
    """
    Return the handler with its resources filled in from the current context at each call.

    It does what ``asphalt.core.inject`` does, but needs no annotation besides those of the
    resources. A handler without resources is returned as it is.
    """
    function = signature.function
    if not signature.resources:
        return function
    wanted: dict[str, tuple[type, str, bool]] = {}

    def collect(given: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal wanted
        if not wanted:  # set at once, for handlers run in threads
            wanted = {name: signature.resource(name) for name in signature.resources}
        context = current_context()
        return {
            name: (context.get_resource if optional else context.require_resource)(kind, key)
            for name, (kind, key, optional) in wanted.items()
            if name not in given
        }

    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def with_resources(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs, **collect(kwargs))

        return with_resources

    @wraps(function)
    def calling(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs, **collect(kwargs))

    return calling


def caller_locals(function: Callable[..., Any]) -> dict[str, Any]:
    """
    Return the local names where a function is being decorated, outside of Kyoukai.

    Only a function that is defined in another one can need them.
    """
    if "<locals>" not in getattr(function, "__qualname__", ""):
        return {}
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("kyoukai."):
        frame = frame.f_back
    return {} if frame is None else dict(frame.f_locals)
