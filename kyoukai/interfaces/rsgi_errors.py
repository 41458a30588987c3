"""
The errors of RSGI, by Granian's names.

An application that imports Granian catches ``granian.rsgi.ProtocolError`` and ``ProtocolClosed``.
Where Granian is imported, ours are subclasses of these; we never import it.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar, cast

from kyoukai.exceptions import InterfaceError, PeerGone, WebSocketDisconnected

__all__ = (
    "RSGIProtocolClosed",
    "RSGIProtocolError",
    "RSGIRangeError",
    "comes_of_leaving",
    "make_error",
)


class RSGIProtocolError(InterfaceError):
    """
    The application broke a rule of RSGI: a second answer, a wrong type, …

    :param rule: what it did and what RSGI asks for, in one line
    """


class RSGIRangeError(RSGIProtocolError, ValueError):
    """The range of a file is empty or upside down; Granian raises a ``ValueError`` for it."""


class RSGIProtocolClosed(PeerGone, RuntimeError):
    """There is nobody to send to or to receive from: the client is gone, or has its answer."""


_Error = TypeVar("_Error", bound=Exception)

#: Where Granian's errors are, and what they are called.
_GRANIAN = "granian._granian"

#: Our errors as subclasses of Granian's.
_both: dict[tuple[type[Exception], type[Exception]], type[Exception]] = {}


def make_error(kind: type[_Error], message: str) -> _Error:
    """
    Return an error, one of Granian's too if Granian is imported by now.

    :param kind: which of ours it is
    :param message: what it says
    """
    granian = sys.modules.get(_GRANIAN)
    if granian is None:
        return kind(message)
    name = "RSGIProtocolClosed" if issubclass(kind, RSGIProtocolClosed) else "RSGIProtocolError"
    theirs: Any = getattr(granian, name, None)
    if not (isinstance(theirs, type) and issubclass(theirs, Exception)):
        return kind(message)
    both = _both.get((kind, theirs))
    if both is None:
        namespace = {"__doc__": kind.__doc__, "__module__": kind.__module__}
        both = _both[kind, theirs] = type(kind.__name__, (kind, theirs), namespace)
    return cast(_Error, both(message))


def comes_of_leaving(error: BaseException | None) -> bool:
    """
    Whether each of an error's roots is one that says that the client is gone.

    Frameworks put errors of their own around it, and task groups put several together.
    """
    for _ in range(64):
        if error is None:
            break
        if isinstance(error, PeerGone | WebSocketDisconnected):
            return True
        if isinstance(error, BaseExceptionGroup):
            return all(comes_of_leaving(each) for each in error.exceptions)
        error = error.__cause__ or error.__context__
    return False
