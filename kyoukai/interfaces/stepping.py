"""
Steps of a stream that are begun where nothing can be awaited.

A step is a coroutine, such as ``stream.send_data(chunk)``. Nearly every step ends without a pause;
one that has to wait for the client is gone on with by a task.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Generator

__all__ = ("begin",)

T = TypeVar("T")

#: What ``next`` returns of a coroutine that has ended. (``send`` would raise ``StopIteration``,
#: which takes longer than all the rest.)
_DONE: Final = object()


def begin(step: Coroutine[Any, Any, T]) -> Awaitable[T] | None:
    """
    Take a step as far as it goes without waiting.

    What it raises by then is raised here.

    :return: None if that was all of it, else what is left of it, to be awaited by a task
    """
    waited = next(step.__await__(), _DONE)
    return None if waited is _DONE else _rest(step, waited)


@types.coroutine
def _rest(step: Coroutine[Any, Any, T], waited: Any) -> Generator[Any, Any, T]:
    """Go on with a step that has begun, and now waits."""
    try:
        while True:
            try:
                value = yield waited
            except BaseException as error:
                waited = step.throw(error)
            else:
                waited = step.send(value)
    except StopIteration as end:
        result: T = end.value
        return result
