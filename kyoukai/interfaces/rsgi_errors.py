"""
The errors of RSGI, by Granian's names.

An application that imports Granian catches ``granian.rsgi.ProtocolError`` and ``ProtocolClosed``.
Where Granian is imported, ours are subclasses of these; we never import it.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar, cast

from kyoukai.exceptions import InterfaceError, PeerGone

__all__ = (
    "RSGIProtocolClosed",
    "RSGIProtocolError",
    "RSGIRangeError",
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
