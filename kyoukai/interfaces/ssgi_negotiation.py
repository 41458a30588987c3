"""
SSGI's negotiation: a framework says which interfaces it wants to be called by.

It may answer requests by one and WebSockets by another, also where neither is SSGI.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from kyoukai.app import Kyoukai
from kyoukai.exceptions import TargetError
from kyoukai.interfaces.hosted import answer_plainly, name_of_application
from kyoukai.interfaces.mounts import shut_down, start_up
from kyoukai.targets import describe
from kyoukai.ws.handshake import is_handshake

if TYPE_CHECKING:
    from asphalt.core import Context

    from kyoukai.config import ServerConfig
    from kyoukai.stream import Interface, StreamState

__all__ = ("SUPPORTED", "MakeInterface", "NegotiatedInterface", "SSGIFramework")

#: What ``get_supported`` is told: interfaces and their versions.
SUPPORTED = {"asgi": "2.5", "wsgi": "1.0", "rsgi": "1.6", "ssgi": "1.0"}

#: Interfaces that an answer may name, and those of them that have WebSockets.
_NAMES = (*SUPPORTED, "kyoukai")
_WITH_SOCKETS = tuple(name for name in _NAMES if name != "wsgi")


class SSGIFramework:
    """
    What a framework may derive from that negotiates; having the method is enough.
    """

    def get_supported(
        self, supported_interfaces: dict[str, str]
    ) -> dict[str, tuple[str, Any] | None]:
        """
        Choose the interfaces to be called by.

        :param supported_interfaces: the server's: names and versions
        :return: for ``http``, and for ``websocket`` or ``websockets``: the name of an interface
            and what to call by it; None for what is not served
        """
        raise NotImplementedError


class MakeInterface(Protocol):
    """What makes an interface by its name."""

    def __call__(
        self,
        name: str,
        app: Any,
        config: ServerConfig,
        context: Context | None = None,
        *,
        source: str = "",
        max_body_size: int | None = None,
    ) -> Interface:
        """
        Make an interface.

        :param name: its name
        :param app: the application
        :param config: the server's settings
        :param context: the root context
        :param source: what messages call the application
        :param max_body_size: the most bytes that the body of a request may have
        :raises KyoukaiError: in one line
        """


class NegotiatedInterface:
    """
    Requests to one interface, WebSockets to another, as the application has chosen.

    :param app: an object with ``get_supported``
    :param config: the server's settings
    :param context: the root context
    :param source: what messages call the application
    :param max_body_size: the most bytes that the body of a request may have
    :param make: makes an interface by its name
    :raises TargetError: in one line, if the application's answer is none
    """

    def __init__(
        self,
        app: Any,
        config: ServerConfig,
        context: Context | None = None,
        *,
        source: str = "",
        max_body_size: int | None = None,
        make: MakeInterface,
    ) -> None:
        source = source or name_of_application(app)
        http, websocket = _ask(app, source)
        made: list[tuple[tuple[str, Any], Interface]] = []

        def interface_for(answer: tuple[str, Any] | None) -> Interface | None:
            if answer is None:
                return None
            name, handler = answer
            for (known, its_handler), interface in made:
                if known == name and its_handler is handler:
                    return interface  # one application, with one lifespan
            target = handler
            if name == "ssgi" and hasattr(handler, "get_supported"):
                target = handler.__call__  # it has been asked already
            interface = make(
                name, target, config, context, source=source, max_body_size=max_body_size
            )
            made.append((answer, interface))
            return interface

        self.http = interface_for(http)
        self.websocket = interface_for(websocket)
        #: What the start-up line calls it.
        self.name = _name(http and http[0], websocket and websocket[0])
        #: The interfaces that were made, one for each application.
        self.interfaces = tuple(interface for _, interface in made)
        self._started: list[Any] = []

    async def __call__(self, stream: StreamState) -> None:
        """Answer a stream."""
        asks_for_socket = stream.head.protocol is not None and is_handshake(stream.head)
        interface = self.websocket if asks_for_socket else self.http
        if interface is None:
            await answer_plainly(stream, 404, "Not Found")
        else:
            await interface(stream)

    async def startup(self, context: Context) -> None:
        """
        Get the applications ready.

        :param context: the root context
        :raises KyoukaiError: in one line
        """
        for interface in self.interfaces:
            self._started.append(interface)
            await start_up(interface, context)

    async def shutdown(self) -> None:
        """Take back what ``startup`` did, in reverse; also if it has failed."""
        try:
            if self._started:
                await shut_down(self._started.pop())
        finally:
            if self._started:
                await self.shutdown()


Answer = tuple[str, Any] | None


def _ask(app: Any, source: str) -> tuple[Answer, Answer]:
    """Return what the application wants to be called by, for requests and for WebSockets."""
    try:
        answer = app.get_supported(dict(SUPPORTED))
    except Exception as error:
        raise TargetError(f"{source}: get_supported() has raised {describe(error)}") from error
    if not isinstance(answer, Mapping):
        if hasattr(answer, "close"):
            answer.close()  # a coroutine
        raise TargetError(f"{source}: get_supported() returns a dict, not {_kind(answer)}")
    unknown = [key for key in answer if key not in ("http", "websocket", "websockets")]
    if unknown:
        raise TargetError(
            f"{source}: get_supported() has {_one_line(unknown[0])!r}, which is no protocol: http"
            " and websocket are"
        )
    if "websocket" in answer and "websockets" in answer:
        raise TargetError(f"{source}: get_supported() has both websocket and websockets")
    http = _entry(source, "http", answer.get("http"), _NAMES)
    key = "websockets" if "websockets" in answer else "websocket"
    websocket = _entry(source, key, answer.get(key), _WITH_SOCKETS)
    if http is None and websocket is None:
        raise TargetError(f"{source}: get_supported() serves neither http nor websocket")
    return http, websocket


def _entry(source: str, key: str, entry: Any, names: tuple[str, ...]) -> Answer:
    if entry is None:
        return None
    place = f"{source}: get_supported()[{key!r}]"
    if not isinstance(entry, tuple | list) or len(entry) != 2:
        raise TargetError(f"{place} is a pair of name and handler, or None; not {_kind(entry)}")
    name, handler = entry
    if not isinstance(name, str) or name not in names:
        why = "has no WebSockets" if name == "wsgi" else "is no interface"
        raise TargetError(f"{place}: {_one_line(name)!r} {why}; choose of {', '.join(names)}")
    if name == "kyoukai":
        good, what = isinstance(handler, Kyoukai), "a Kyoukai application"
    elif name == "rsgi":
        good, what = callable(handler) or hasattr(handler, "__rsgi__"), "an RSGI application"
    else:
        good, what = callable(handler), "callable"
    if not good:
        raise TargetError(f"{place}: the handler of {name} is not {what} but {_kind(handler)}")
    return name, handler


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _one_line(value: object) -> str:
    return " ".join(str(value).split())[:200]


def _name(http: str | None, websocket: str | None) -> str:
    """Return what the start-up line calls the two."""
    if http == websocket:
        return "ssgi" if http == "ssgi" else f"ssgi: http and websocket by {http}"
    requests = f"http by {http}" if http else "no http"
    sockets = f"websocket by {websocket}" if websocket else "no websocket"
    return f"ssgi: {requests}, {sockets}"
