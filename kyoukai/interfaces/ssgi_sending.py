"""
Sending without waiting, in order: what ``res.send`` does while its caller goes on.

A step is a coroutine of the stream, such as ``send_data(chunk)``. Nearly every step ends without a
pause, and is taken at once. One that waits for the client is gone on with by a task, and those that
come meanwhile queue behind it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kyoukai.exceptions import InterfaceError, PeerGone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

__all__ = ("GONE", "MOST_WAITING", "SENT", "Later", "SendQueue", "Settled", "payload_of")

T = TypeVar("T")

#: Bytes of earlier payload that may wait when more is sent.
MOST_WAITING: Final = 1048576


class Settled:
    """
    What is known already, for who awaits it; and for who does not, nothing is left behind.

    :param value: what awaiting returns
    :param gone: whether it raises :class:`PeerGone` instead
    :param turn: whether others get their turn before
    """

    __slots__ = ("_gone", "_turn", "_value")

    def __init__(self, value: Any = None, gone: bool = False, turn: bool = False) -> None:
        self._value = value
        self._gone = gone
        self._turn = turn

    def __await__(self) -> Generator[Any, None, Any]:
        if self._gone:
            raise PeerGone
        if self._turn:
            yield
        return self._value


#: It has been handed over.
SENT: Final = Settled()
#: It has not, as the client is gone.
GONE: Final = Settled(gone=True)


class Later:
    """
    What will be known, for who awaits it.

    :param wait: waits for it
    """

    __slots__ = ("_arguments", "_wait")

    def __init__(self, wait: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> None:
        self._wait = wait
        self._arguments = arguments

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait(*self._arguments).__await__()


class SendQueue:
    """
    Steps that wait for their turn, the first of which waits for the client.
    """

    __slots__ = ("_handed", "_put", "_steps", "_waiters", "busy", "gone", "waiting")

    def __init__(self) -> None:
        self._steps: deque[tuple[Awaitable[None], int]] = deque()
        self._put = 0
        self._handed = 0
        self._waiters: dict[int, list[asyncio.Future[None]]] = {}
        #: Whether there is anything in it.
        self.busy = False
        #: Whether it ended before all was handed over.
        self.gone = False
        #: Bytes in it.
        self.waiting = 0

    def put(self, step: Awaitable[None], size: int) -> int:
        """
        Add a step.

        :param size: its bytes
        :return: its number, for ``wait``
        """
        self.busy = True
        self._steps.append((step, size))
        self.waiting += size
        self._put += 1
        return self._put

    async def run(self) -> None:
        """Take all steps."""
        steps = self._steps
        try:
            while steps:
                step, size = steps.popleft()
                await step
                self.waiting -= size
                self._handed += 1
                self._wake(self._handed)
        except PeerGone:
            pass
        finally:
            self.busy = False
            if self._handed < self._put:
                self.drop()

    def drop(self) -> None:
        """Take no further steps: the client is gone, or the server is."""
        self.busy = False
        self.gone = True
        for step, _ in self._steps:
            step.close()  # type: ignore[attr-defined]
        self._steps.clear()
        for number in tuple(self._waiters):
            self._wake(number)

    def _wake(self, number: int) -> None:
        for waiter in self._waiters.pop(number, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, number: int) -> None:
        """
        Wait until a step has been taken.

        :raises PeerGone: if it never will be
        """
        if self._handed < number and not self.gone:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.setdefault(number, []).append(waiter)
            await waiter
        if self._handed < number:
            raise PeerGone


def payload_of(payload: Any, what: str) -> bytes:
    """
    Return a payload as bytes that nobody changes: it may wait.

    :param payload: ``str``, ``bytes``, ``bytearray`` or ``memoryview``
    :param what: the call, for the message
    :raises InterfaceError: if it is none of these
    """
    if type(payload) is bytes:
        return payload
    if isinstance(payload, str):
        try:
            return payload.encode()
        except UnicodeEncodeError as error:
            raise InterfaceError(f"{what}: the text is not Unicode: {error.reason}") from None
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    raise InterfaceError(
        f"{what} takes str, bytes, bytearray or memoryview, not {type(payload).__name__}"
    )
