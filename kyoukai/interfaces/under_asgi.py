"""
``as_asgi``: a Kyoukai application as an ASGI 3 application, for other servers.

.. code-block:: python

    application = as_asgi(app)  # uvicorn module:application

The root context is opened when the server's lifespan begins; under one that sends no lifespan, at
the first request.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import InterfaceError, KyoukaiError, ProtocolError
from kyoukai.interfaces.hosted import answer_plainly
from kyoukai.interfaces.under_asgi_websocket import AsgiSocketWire
from kyoukai.interfaces.under_asgi_wire import AsgiWire
from kyoukai.interfaces.under_heads import from_scope, refused
from kyoukai.interfaces.under_serving import Serving, as_settings, describe
from kyoukai.stream import StreamState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kyoukai.app import Kyoukai
    from kyoukai.config import ServerConfig
    from kyoukai.interfaces.under_asgi_wire import Receive, Send

__all__ = ("AsgiApplication", "as_asgi")

logger = logging.getLogger("kyoukai.server")

#: Applications at work. A loop refers to its tasks but weakly, and an ASGI application may be
#: dropped before its loop ends.
_lives: set[asyncio.Task[None]] = set()


def as_asgi(
    app: Kyoukai, *, settings: ServerConfig | Mapping[str, Any] | None = None
) -> AsgiApplication:
    """
    Make an ASGI application of a Kyoukai application.

    :param app: the application, with all that is mounted on it
    :param settings: settings, those that are not the other server's; see
        :doc:`/under_other_servers`
    :raises ConfigurationError: if a setting is wrong
    """
    return AsgiApplication(app, as_settings(settings))


class AsgiApplication:
    """
    A Kyoukai application as an ASGI application; made by :func:`as_asgi`.

    :param app: the application
    :param config: the settings
    """

    def __init__(self, app: Kyoukai, config: ServerConfig) -> None:
        self.app = app
        # The server has the real WebSockets: it pings, and compresses.
        self.config = config.replace(ws_ping_interval=0, ws_deflate=False)
        self._servings: dict[asyncio.AbstractEventLoop, Serving] = {}
        self._tasks: dict[Serving, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<AsgiApplication {self.app!r}>"

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """
        Answer a request, hold a WebSocket, or live through a lifespan.

        :raises InterfaceError: for a scope of another type
        :raises StreamError: if the server must close what it has sent of an answer
        """
        kind = scope["type"]
        if kind == "http":
            await self._answer(AsgiWire(scope, receive, send, self.config), scope)
        elif kind == "websocket":
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            if message["type"] != "websocket.connect":
                raise InterfaceError(f"the ASGI server began a WebSocket by {message['type']!r}")
            await self._answer(AsgiSocketWire(scope, receive, send, self.config), scope)
        elif kind == "lifespan":
            await self._live(receive, send)
        else:
            raise InterfaceError(f"ASGI scopes of type {kind!r} are not known here")

    async def _answer(self, wire: AsgiWire, scope: Mapping[str, Any]) -> None:
        serving = self._serving()
        await serving.started()
        try:
            incoming = from_scope(scope, self.config)
        except ProtocolError as error:
            wire.stream = stream = StreamState(refused(scope.get("method", "GET")), wire)
            refusal = partial(answer_plainly, status=error.status, text=error.detail)
            await wire.run(stream, serving.begin(stream, refusal))
            return
        wire.stream = stream = StreamState(incoming.head, wire)
        if scope["type"] == "websocket":
            stream.upgradable = True
        elif incoming.bodiless and incoming.head.http_version[:1] == "1":
            stream.stream_complete()
        elif incoming.bodiless:
            # HTTP/2 says so at the end of the stream, which is about to come. There are servers
            # that close the connection if it comes after the answer.
            if not wire.take(await wire.receive()):
                return
        else:
            stream.continue_expected = incoming.waits
        await wire.run(stream, serving.begin(stream))

    # -- From start to end ---------------------------------------------------------------------

    def _serving(self) -> Serving:
        """
        Return the application at work in this loop; start it if it is not.

        :raises KyoukaiError: if it is about to end
        """
        loop = asyncio.get_running_loop()
        serving = self._servings.get(loop)
        if serving is not None and serving.is_over:
            raise KyoukaiError("the application is stopping")
        if serving is None:
            for other in [each for each in self._servings if each.is_closed()]:
                del self._servings[other]
            _lives.difference_update([each for each in _lives if each.get_loop().is_closed()])
            self._servings[loop] = serving = Serving(self.app, self.config)
            # What the request, or whoever has sent it, has in its context is its own.
            task = loop.create_task(
                serving.live(), name="kyoukai application", context=contextvars.Context()
            )
            self._tasks[serving] = task
            _lives.add(task)
            task.add_done_callback(_lives.discard)
            task.add_done_callback(partial(self._ended, loop, serving))
        return serving

    def _ended(
        self, loop: asyncio.AbstractEventLoop, serving: Serving, task: asyncio.Task[None]
    ) -> None:
        if self._servings.get(loop) is serving:
            del self._servings[loop]
        self._tasks.pop(serving, None)
        if not task.cancelled() and (error := task.exception()) is not None and not serving.users:
            logger.error("error while the application was closed", exc_info=error)

    async def _live(self, receive: Receive, send: Send) -> None:
        """A lifespan: start, and end, and say how it went."""
        message = await receive()
        if message["type"] != "lifespan.startup":
            raise InterfaceError(f"the ASGI server began a lifespan by {message['type']!r}")
        try:
            serving = self._serving()
            serving.users += 1
            await serving.started()
        except Exception as error:
            logger.error(
                "the application failed to start: %s",
                describe(error),
                exc_info=None if isinstance(error, KyoukaiError) else error,
            )
            await send({"type": "lifespan.startup.failed", "message": describe(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        serving.users -= 1
        task = self._tasks.get(serving)
        if serving.users or task is None:
            await send({"type": "lifespan.shutdown.complete"})
            return
        serving.stop()
        await asyncio.wait((task,))
        failure = None if task.cancelled() else task.exception()
        if failure is None:
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "lifespan.shutdown.failed", "message": describe(failure)})
