"""
``Debugger``: Werkzeug's debugger, for browsers on this machine and nobody else.

Its pages show source and variables, and its console runs code. The console asks for a PIN that is
in the log, but the page alone says too much for anybody but the developer. So both are for requests
that come from this machine, by a host name of this machine, through no proxy, and from no page of
another site, which may read what it gets if the application lets it (CORS). For all others it is as
if there were no debugger.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import deque
from io import BytesIO
from typing import TYPE_CHECKING, Any

from werkzeug.debug import DebuggedApplication
from werkzeug.debug.tbtools import DebugTraceback
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kyoukai.stream import RequestHead
    from kyoukai.wrappers import Request

__all__ = ("Debugger",)

logger = logging.getLogger("kyoukai")

#: Tracebacks whose frames the console can still look into.
_KEPT = 10
#: By these a proxy tells of itself, beside ``X-Forwarded-*``.
_OF_PROXIES = frozenset(
    (
        b"cdn-loop",
        b"cf-connecting-ip",
        b"client-ip",
        b"forwarded",
        b"true-client-ip",
        b"via",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-real-ip",
    )
)


class Debugger:
    """
    Shows tracebacks, and answers what their pages ask for.

    :param name: the application's name, for the log
    """

    def __init__(self, name: str) -> None:
        # An application that is asked for nothing: what the debugger does not know is not there.
        # No path leads to a console: there is one in the frames of tracebacks only.
        self._werkzeug = DebuggedApplication(NotFound(), evalex=True, console_path="")
        self._shown: deque[list[int]] = deque()
        logger.warning(
            "%s: debug is on: browsers on this machine see tracebacks; the PIN of their console "
            "is %s",
            name,
            self._werkzeug.pin or "off, and so is the console",
        )

    def is_for(self, request: Request) -> bool:
        """Whether a request comes from this machine, and neither a proxy nor another site."""
        stream = request.state
        # Under another server, nobody says what its peers were; it may have its own debugger.
        if stream is None or stream.protocol.peer_forwards:
            return False
        head = stream.head
        return (
            head.http_version != "1.0"  # which no browser speaks, but proxies do
            and _is_local_client(head)
            and _is_local_host(head.authority)
            and not any(
                _is_of_a_proxy(name) or (name == b"origin" and not _is_local_origin(value))
                for name, value in head.headers
            )
        )

    def show(self, request: Request, error: BaseException) -> Response | None:
        """
        Return the page that shows an error.

        :param request: the request that failed
        :param error: what was raised
        :return: None if the request may not see it
        """
        if not self.is_for(request):
            return None
        debugged, environ = self._werkzeug, request.environ
        try:
            traceback = DebugTraceback(error)
            has_console = debugged.pin is not None and debugged.check_host_trust(environ)
            page = traceback.render_debugger_html(
                evalex=has_console,
                secret=debugged.secret,
                evalex_trusted=has_console and bool(debugged.check_pin_trust(environ)),
            )
        except Exception:  # something in it that cannot be shown
            logger.exception("the debugger cannot show %s", type(error).__qualname__)
            return None
        if has_console:
            self._keep(traceback)
        response = Response(page, 500, mimetype="text/html")
        response.headers["Cache-Control"] = "no-store, no-transform"
        return response

    def _keep(self, traceback: DebugTraceback) -> None:
        """Let the console look into a traceback, and into an old one no more."""
        frames = self._werkzeug.frames
        self._shown.append([id(frame) for frame in traceback.all_frames])
        frames.update((id(frame), frame) for frame in traceback.all_frames)
        if len(self._shown) > _KEPT:
            for number in self._shown.popleft():
                frames.pop(number, None)

    async def answer(
        self, request: Request, in_thread: Callable[..., Awaitable[Any]]
    ) -> Response | None:
        """
        Answer a request of a debugger's page: its files, the PIN, commands for the console.

        :param request: any request
        :param in_thread: calls a function in a thread: commands may block, and wrong PINs wait
        :return: None if it is none of the debugger's
        """
        if request.method != "GET" or b"__debugger__=yes" not in request.query_string:
            return None
        if not self.is_for(request):
            return None
        if self._werkzeug.pin is None and request.args.get("cmd") != "resource":
            return None  # without a PIN there is no console
        environ = {**request.environ, "wsgi.input": BytesIO()}
        response: Response = await in_thread(Response.from_app, self._werkzeug, environ, True)
        response.headers["Cache-Control"] = "no-store, no-transform"
        return response


def _is_local_client(head: RequestHead) -> bool:
    if head.client is None:  # a unix socket, whose server has no port
        return head.server is not None and head.server[1] is None
    return _is_loopback(head.client[0].partition("%")[0])


def _is_local_host(authority: str) -> bool:
    if authority.startswith("["):
        return _is_loopback(authority[1:].partition("]")[0])
    host = authority.partition(":")[0].removesuffix(".")
    return host == "localhost" or host.endswith(".localhost") or _is_loopback(host)


def _is_local_origin(value: bytes) -> bool:
    return _is_local_host(value.partition(b"://")[2].decode("latin-1").lower())


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def _is_of_a_proxy(name: bytes) -> bool:
    return name in _OF_PROXIES or name.startswith(b"x-forwarded-")
