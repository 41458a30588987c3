"""
``as_wsgi``: a Kyoukai application as a WSGI application, for other servers.

.. code-block:: python

    application = as_wsgi(app)  # gunicorn --threads 8 module:application

The application runs in one event loop a process, in a thread of its own, which begins with the
process's first request: after every fork. Requests keep their server's threads, which read their
bodies and hand on their answers. WSGI has no WebSockets: a handshake is answered 404.
"""

from __future__ import annotations

import atexit
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import ProtocolError
from kyoukai.interfaces.hosted import answer_plainly
from kyoukai.interfaces.under_heads import from_environ, refused
from kyoukai.interfaces.under_loop import LoopThread
from kyoukai.interfaces.under_serving import as_settings
from kyoukai.interfaces.under_wsgi_wire import Exchange, WsgiWire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kyoukai.app import Kyoukai
    from kyoukai.config import ServerConfig
    from kyoukai.stream import Interface

__all__ = ("WsgiApplication", "as_wsgi")


def as_wsgi(
    app: Kyoukai, *, settings: ServerConfig | Mapping[str, Any] | None = None
) -> WsgiApplication:
    """
    Make a WSGI application of a Kyoukai application.

    :param app: the application, with all that is mounted on it
    :param settings: settings, those that are not the other server's; see
        :doc:`/under_other_servers`
    :raises ConfigurationError: if a setting is wrong
    """
    return WsgiApplication(app, as_settings(settings))


class WsgiApplication:
    """
    A Kyoukai application as a WSGI application; made by :func:`as_wsgi`.

    :param app: the application
    :param config: the settings
    """

    def __init__(self, app: Kyoukai, config: ServerConfig) -> None:
        self.app = app
        self.config = config
        self._lock = threading.Lock()
        self._thread: LoopThread | None = None

    def __repr__(self) -> str:
        return f"<WsgiApplication {self.app!r}>"

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """
        Answer a request (PEP 3333).

        :raises KyoukaiError: if the application cannot start
        """
        thread = self._running()
        interface: Interface | None = None
        try:
            head, bodiless, _ = from_environ(environ, self.config)
        except ProtocolError as error:
            head, bodiless = refused(environ.get("REQUEST_METHOD", "GET")), True
            interface = partial(answer_plainly, status=error.status, text=error.detail)
        else:
            if "websocket" in environ.get("HTTP_UPGRADE", "").lower():
                interface = partial(answer_plainly, status=404, text="Not Found")
        exchange = Exchange(environ, head.content_length)
        thread.begin(WsgiWire(exchange, head, bodiless, self.config), interface)
        return exchange.respond(start_response)

    def close(self) -> None:
        """
        Let the application come to its end: ``after_serving``, components, the root context.

        The end of the process does it as well. Another request would start the application again.
        """
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    def _running(self) -> LoopThread:
        """Return this process's loop; start it if there is none."""
        thread = self._thread
        if thread is not None and thread.is_usable:
            return thread
        with self._lock:
            thread = self._thread
            if thread is None or not thread.is_usable:
                self._thread = thread = LoopThread(self.app, self.config)
                _at_exit(thread.close)
            return thread


def _at_exit(function: Callable[[], None]) -> None:
    """
    Call something at the end of the process.

    When ``atexit`` calls, no thread can be started any more, and pools of threads take nothing;
    hooks of the application may want to. Pools themselves are ended by the one that is used here.
    """
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(function)
    except RuntimeError:  # that end has begun
        pass
