"""
Events of the components that serve: a connection is made, and lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asphalt.core import Event

if TYPE_CHECKING:
    from kyoukai.backends.base import BaseProtocol

__all__ = ("ConnectionEvent", "ConnectionLostEvent", "ConnectionMadeEvent")


class ConnectionEvent(Event):
    """
    Something happened to a connection.

    :param source: the component
    :param topic: the signal's name
    :param protocol: the connection's protocol
    """

    __slots__ = ("protocol",)

    def __init__(self, source: Any, topic: str, protocol: BaseProtocol) -> None:
        super().__init__(source, topic)
        self.protocol = protocol


class ConnectionMadeEvent(ConnectionEvent):
    """A client has connected."""

    __slots__ = ()


class ConnectionLostEvent(ConnectionEvent):
    """A connection is closed."""

    __slots__ = ()
