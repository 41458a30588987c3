"""
``Middleware``: what sees requests on their way in, and responses on their way out.

.. code-block:: python

    class Timing(Middleware):
        async def process_request(self, ctx: HTTPRequestContext) -> None:
            ctx.started = time.perf_counter()

        async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None:
            response.headers["X-Seconds"] = f"{time.perf_counter() - ctx.started:.6f}"

    app.add_middleware(Timing())
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from kyoukai.config import nearest_name
from kyoukai.exceptions import RouteError

if TYPE_CHECKING:
    from werkzeug.wrappers import Response

    from kyoukai.context import HTTPRequestContext
    from kyoukai.websocket import WebSocket

__all__ = ("Bound", "Middleware")

Step: TypeAlias = Callable[..., Any]

#: The methods of a middleware, with what they are called with.
STEPS = {
    "process_request": ("ctx",),
    "process_resource": ("ctx", "resource", "params"),
    "process_response": ("ctx", "response"),
    "process_request_ws": ("ctx", "ws"),
    "process_resource_ws": ("ctx", "ws", "resource", "params"),
}


class Middleware:
    """
    A base class for middlewares. Any object with one of these methods is a middleware as well.

    Methods that a subclass does not override are never called. They may be coroutine functions
    or plain functions; the latter run in a thread.
    """

    async def process_request(self, ctx: HTTPRequestContext) -> Any:
        """
        Look at a request before it is matched; on a blueprint, just after that.

        :param ctx: the context; its request's body has not been read
        :return: None, or an answer: anything that a handler may return
        """

    async def process_resource(
        self, ctx: HTTPRequestContext, resource: Any, params: dict[str, Any]
    ) -> Any:
        """
        Look at a request that matched a route, before its body is read.

        :param ctx: the context
        :param resource: the ``Resource`` or ``RouteGroup`` that handles the request, or the
            function
        :param params: the arguments from the path, to be changed in place
        :return: None, or an answer: anything that a handler may return
        """

    async def process_response(self, ctx: HTTPRequestContext, response: Response) -> Any:
        """
        Look at a response before it is sent.

        :param ctx: the context; ``ctx.route`` is None if no route matched
        :param response: the response, which may be changed
        :return: None, or another response: anything that a handler may return
        """

    async def process_request_ws(self, ctx: HTTPRequestContext, ws: WebSocket) -> None:
        """
        Look at a WebSocket handshake before it is matched; on a blueprint, just after that.

        :param ctx: the context; its request is the handshake
        :param ws: the socket; ``deny`` or ``close`` answers, and nothing later runs
        """

    async def process_resource_ws(
        self, ctx: HTTPRequestContext, ws: WebSocket, resource: Any, params: dict[str, Any]
    ) -> None:
        """
        Look at a WebSocket handshake that matched a route.

        :param ctx: the context
        :param ws: the socket; ``deny`` or ``close`` answers, and nothing later runs
        :param resource: the ``Resource`` or ``RouteGroup`` that handles it, or the function
        :param params: the arguments from the path, to be changed in place
        """


class Bound:
    """
    A middleware's methods, found when it is added; None where it has none.

    :param middleware: the middleware
    :raises RouteError: if it is none
    """

    __slots__ = ("middleware", "request", "request_ws", "resource", "resource_ws", "response")

    def __init__(self, middleware: Any) -> None:
        if isinstance(middleware, type):
            name = middleware.__name__
            raise RouteError(f"{name} is a class; add an instance: {name}()")
        self.middleware = middleware
        self.request = _step(middleware, "process_request")
        self.resource = _step(middleware, "process_resource")
        self.response = _step(middleware, "process_response")
        self.request_ws = _step(middleware, "process_request_ws")
        self.resource_ws = _step(middleware, "process_resource_ws")
        if not any((self.request, self.resource, self.response, self.request_ws, self.resource_ws)):
            raise RouteError(f"{middleware!r} is no middleware: it has no {_hint(middleware)}")

    def __repr__(self) -> str:
        return f"<Bound {self.middleware!r}>"


def _step(middleware: Any, name: str) -> Step | None:
    method = getattr(middleware, name, None)
    if method is None or getattr(method, "__func__", None) is vars(Middleware)[name]:
        return None
    if not callable(method):
        raise RouteError(f"{name} of {middleware!r} is no method")
    try:
        inspect.signature(method).bind(*STEPS[name])
    except TypeError:
        wanted = ", ".join(STEPS[name])
        raise RouteError(f"{name} of {middleware!r} must take ({wanted})") from None
    except ValueError:  # written in C, without a signature
        pass
    return method  # type: ignore[no-any-return]


def _hint(middleware: Any) -> str:
    for name in dir(middleware):
        near = None if name.startswith("_") or name in STEPS else nearest_name(name, STEPS)
        if near is not None:
            return f"method {near!r} (did you mean that by {name!r}?)"
    return f"method {', '.join(list(STEPS)[:-1])} or {list(STEPS)[-1]} of its own"
