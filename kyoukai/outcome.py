"""
How a stream ends when its interface has not ended it: by an error page, or by a reset.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from kyoukai.exceptions import BodyError, BodyStorageError, PeerGone
from kyoukai.stream import IDLE, OPEN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kyoukai.stream import StreamState

__all__ = ("request_line", "settle")

logger = logging.getLogger("kyoukai.server")


def request_line(stream: StreamState) -> str:
    """Return method and target, for the log."""
    head = stream.head
    return f"{head.method} {head.target[:200].decode('ascii', 'backslashreplace')}"


async def settle(
    stream: StreamState,
    error: BaseException | None,
    is_stopping: bool,
    refuse: Callable[[StreamState, int, str], Awaitable[None]],
) -> None:
    """
    End a stream whose interface has returned, or has raised something; and say so in the log.

    :param stream: the stream, which may be over
    :param error: what was raised
    :param is_stopping: whether the connection is lost or the server stops, so that cancellation
        is in order
    :param refuse: answers with a status and a sentence, which may be empty
    :raises KeyboardInterrupt: which is nobody's to catch
    """
    who = stream.application
    try:
        if error is None:
            if stream.sending is IDLE:
                logger.error("%s: %s sent no answer", request_line(stream), who)
            elif stream.sending is OPEN:
                logger.error("%s: %s did not end its answer", request_line(stream), who)
        elif isinstance(error, PeerGone):
            pass
        elif isinstance(error, BodyError):  # the client's doing, or the disk's
            if isinstance(error, BodyStorageError):
                logger.error("%s: %s", request_line(stream), error)
            if stream.sending is IDLE:
                await refuse(stream, error.status, f"{str(error).rstrip('.')}.")
        elif isinstance(error, asyncio.CancelledError):
            if is_stopping:
                stream.reset("cancelled")
            elif stream.sending is IDLE or stream.sending is OPEN:
                logger.error("%s: %s was cancelled", request_line(stream), who, exc_info=error)
        elif isinstance(error, KeyboardInterrupt):
            raise error
        else:
            logger.error("%s: unhandled error in %s", request_line(stream), who, exc_info=error)
            if isinstance(error, GeneratorExit):  # nothing may be awaited if the task is closed
                stream.reset("the answer is not whole")
        if stream.sending is IDLE:
            await refuse(stream, 500, "")
        elif stream.sending is OPEN:
            stream.reset("the answer is not whole")
        elif stream.is_raw:  # our direction has ended, the client's perhaps not
            if error is None:
                stream.leave()
            else:
                stream.reset("cancelled")
    except PeerGone:
        pass
