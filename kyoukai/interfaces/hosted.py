"""
What every interface for applications of other kinds has in common.

A hosted application answers its stream alone: no middleware, hook or error handler of Kyoukai's
comes in between. Limits, log, ``Date`` and ``Server`` are those of every stream. An application
that breaks its interface is reported in the log, and its client never waits: it gets a 500, or the
stream is cut if the head of an answer is out.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import (
    BodyError,
    InterfaceError,
    InvalidResponse,
    PeerGone,
    StreamStateError,
    WebSocketDisconnected,
)
from kyoukai.outcome import request_line
from kyoukai.stream import CLOSED, IDLE, OPEN
from kyoukai.ws.handshake import is_handshake

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asphalt.core import Context

    from kyoukai.config import ServerConfig
    from kyoukai.rules import Header
    from kyoukai.stream import StreamState

__all__ = ("Hosted", "answer_plainly", "name_of_application")

logger = logging.getLogger("kyoukai")

_PLAIN_TEXT: tuple[Header, ...] = ((b"content-type", b"text/plain; charset=utf-8"),)


class Hosted(ABC):
    """
    Answers streams by an application of another kind.

    :param app: the application
    :param config: the server's settings
    :param context: the root context of the program
    :param name: what messages call the application, such as ``project.wsgi:application``
    :param max_body_size: the most bytes that the body of a request may have; None for no limit
    """

    #: What the start-up line and messages call this kind of application.
    name = "hosted"
    #: Other interfaces that it passes streams on to.
    interfaces: Sequence[Any] = ()

    def __init__(
        self,
        app: Any,
        config: ServerConfig,
        context: Context | None = None,
        *,
        name: str = "",
        max_body_size: int | None = None,
    ) -> None:
        self.app = app
        self.config = config
        self.context = context
        self.application_name = name or name_of_application(app)
        self.max_body_size = max_body_size
        self.set_up()

    # -- What a kind defines -------------------------------------------------------------------

    def set_up(self) -> None:  # noqa: B027 - not every kind has something to remember
        """Look at the application once, when the interface is made."""

    @abstractmethod
    async def answer(self, stream: StreamState) -> None:
        """Answer a request; returns when the application has nothing more to do."""

    async def converse(self, stream: StreamState) -> None:
        """Answer a WebSocket's handshake, and hold the conversation; by default there is none."""
        await answer_plainly(stream, 404, "Not Found")

    async def startup(self, context: Context) -> None:  # noqa: B027 - few kinds need it
        """
        Get the application ready, before any socket accepts.

        :param context: the root context
        :raises KyoukaiError: in one line, if the application cannot start
        """

    async def shutdown(self) -> None:  # noqa: B027 - few kinds need it
        """Take back what ``startup`` did, after the last request; also if it has failed."""

    # -- Streams -------------------------------------------------------------------------------

    async def __call__(self, stream: StreamState) -> None:
        """Answer a stream."""
        stream.cancel_on_disconnect = False
        try:
            if stream.head.protocol is not None and is_handshake(stream.head):
                await self.converse(stream)
            elif stream.head.protocol is not None and stream.head.method == "CONNECT":
                await answer_plainly(stream, 501, "Not Implemented")  # an upgrade on HTTP/2
            else:
                if self.max_body_size is not None:
                    stream.set_body_limit(self.max_body_size)
                await self.answer(stream)
        except Exception as error:
            await self._failed(stream, error)
        except BaseException:
            self.sign(stream)
            raise
        else:
            if stream.sending is not CLOSED and stream.tunnel is None:
                await self._left_open(stream)

    async def _failed(self, stream: StreamState, error: Exception) -> None:
        if isinstance(error, PeerGone | WebSocketDisconnected):
            return  # the client is gone, and the application has let that through
        if isinstance(error, BodyError) and stream.sending is IDLE:
            raise error  # the client's doing: the backend has an answer for it
        self.report(stream, error)
        await self.give_up(stream)

    def sign(self, stream: StreamState) -> None:
        """Let what is logged of a stream from now on name the application."""
        stream.application = f"{self.name} application {self.application_name}"

    def report(self, stream: StreamState, error: Exception) -> None:
        """
        Log what the application has raised; what its client has done is nothing to report.

        :param error: the exception
        """
        if isinstance(error, PeerGone | WebSocketDisconnected | BodyError):
            return
        if isinstance(error, InterfaceError | InvalidResponse | StreamStateError):
            self.complain(stream, str(error), error)
        else:
            self.complain(stream, "unhandled error in the application", error)

    def is_of_leaving(self, stream: StreamState, error: BaseException) -> bool:
        """
        Whether an application has failed because its client is gone, which is no fault of its own.

        :param error: what it has raised; frameworks put errors of their own around ours
        """
        if not _comes_of_leaving(error):
            return False
        logger.debug("%s: the client left: %r", request_line(stream), error)
        return True

    async def _left_open(self, stream: StreamState) -> None:
        """The application has returned, and its answer is not complete."""
        if stream.input_is_closed:  # it may well have been told that the client is gone
            stream.reset("the client is gone")
        elif stream.sending is IDLE:
            self.complain(stream, "the application returned without an answer")
        elif stream.sending is OPEN:
            self.complain(stream, "the application returned before its answer was complete")
        await self.give_up(stream)

    def complain(
        self, stream: StreamState, problem: str, error: BaseException | None = None
    ) -> None:
        """
        Log what the application did wrong.

        :param problem: the rule, or what has happened, in one line
        :param error: the exception, whose traceback leads to the application
        """
        logger.error(
            "%s: %s application %s: %s",
            request_line(stream),
            self.name,
            self.application_name,
            problem,
            exc_info=error,
        )

    async def give_up(self, stream: StreamState) -> None:
        """End a stream that the application does not end: by a 500, or by a reset."""
        try:
            if stream.sending is IDLE:
                await answer_plainly(stream, 500, "Internal Server Error")
            elif stream.sending is OPEN:
                stream.reset("the answer is not whole")
        except PeerGone:
            pass


def _comes_of_leaving(error: BaseException | None) -> bool:
    """Whether each of an error's roots is one that says that the client is gone."""
    for _ in range(64):
        if error is None:
            break
        if isinstance(error, PeerGone | WebSocketDisconnected):
            return True
        if isinstance(error, BaseExceptionGroup):
            return all(_comes_of_leaving(each) for each in error.exceptions)
        error = error.__cause__ or error.__context__
    return False


async def answer_plainly(
    stream: StreamState, status: int, text: str, headers: Sequence[Header] = ()
) -> None:
    """
    Answer with a line of text.

    :param status: the status
    :param text: the line
    :param headers: more headers
    :raises PeerGone: if the client left
    """
    await stream.send_response(status, (*_PLAIN_TEXT, *headers), text.encode() + b"\n")


def name_of_application(app: Any) -> str:
    """Return what messages call an application that was not named: where it is defined."""
    named = app if hasattr(app, "__qualname__") else type(app)
    return f"{getattr(named, '__module__', '?')}:{getattr(named, '__qualname__', '?')}"
