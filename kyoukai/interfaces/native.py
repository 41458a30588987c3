"""
The native interface: streams to a Kyoukai application.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from kyoukai.interfaces.hosted import answer_plainly
from kyoukai.ws.handshake import is_handshake

if TYPE_CHECKING:
    from asphalt.core import Context

    from kyoukai.app import Kyoukai
    from kyoukai.config import ServerConfig
    from kyoukai.pipeline import RequestPipeline
    from kyoukai.stream import StreamState

__all__ = ("NativeInterface",)


class NativeInterface:
    """
    Answers streams by a Kyoukai application's pipeline.

    :param app: the application
    :param config: the server's settings
    :param parent_context: the Asphalt context that the requests' contexts are children of
    :param pipeline_class: the class of the pipeline, if not the application's
    """

    #: What the start-up line calls it.
    name = "kyoukai"

    def __init__(
        self,
        app: Kyoukai,
        config: ServerConfig,
        parent_context: Context | None = None,
        *,
        pipeline_class: type[RequestPipeline] | None = None,
    ) -> None:
        self.app = app
        self.config = config
        self.pipeline = (pipeline_class or app.pipeline_class)(app, config)
        self.pipeline.parent_context = parent_context

    def __call__(self, stream: StreamState) -> Coroutine[Any, Any, None]:
        """Answer a stream."""
        if stream.head.protocol is not None:
            if is_handshake(stream.head):
                return self.pipeline.run_socket(stream)
            if stream.head.method == "CONNECT":  # what HTTP/2 has for an upgrade
                return answer_plainly(stream, 501, "Not Implemented")
        return self.pipeline.run(stream)

    async def startup(self, context: Context) -> None:
        """
        Get the application ready; for each application, once in a process.

        :param context: the root context
        """
        if self.pipeline.parent_context is None:
            self.pipeline.parent_context = context
        await self.app.startup(context)

    async def shutdown(self) -> None:
        """Take back what ``startup`` did, once the last server of the application asks for it."""
        await self.app.shutdown()
