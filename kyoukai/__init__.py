"""
Kyoukai: an asynchronous web framework that is its own application server.
"""

from kyoukai._version import __version__
from kyoukai.app import Kyoukai
from kyoukai.asphalt import H2KyoukaiComponent, KyoukaiComponent
from kyoukai.blueprint import Blueprint
from kyoukai.channel import Channel
from kyoukai.config import ServerConfig
from kyoukai.context import HTTPRequestContext, WebSocketContext
from kyoukai.exceptions import (
    KyoukaiError,
    MediaError,
    OperationNotAllowed,
    PayloadTypeError,
    WebSocketDisconnected,
)
from kyoukai.media import BinaryBaseHandlerWS, TextBaseHandlerWS, WebSocketPayloadType
from kyoukai.middleware import Middleware
from kyoukai.proxied import ProxyResponse
from kyoukai.proxy import Proxy
from kyoukai.resource import Resource
from kyoukai.route import Route
from kyoukai.routegroup import RouteGroup
from kyoukai.testing import TestKyoukai
from kyoukai.websocket import WebSocket
from kyoukai.wrappers import Request, Response

__all__ = (
    "BinaryBaseHandlerWS",
    "Blueprint",
    "Channel",
    "H2KyoukaiComponent",
    "HTTPRequestContext",
    "Kyoukai",
    "KyoukaiComponent",
    "KyoukaiError",
    "MediaError",
    "Middleware",
    "OperationNotAllowed",
    "PayloadTypeError",
    "Proxy",
    "ProxyResponse",
    "Request",
    "Resource",
    "Response",
    "Route",
    "RouteGroup",
    "ServerConfig",
    "TestKyoukai",
    "TextBaseHandlerWS",
    "WebSocket",
    "WebSocketContext",
    "WebSocketDisconnected",
    "WebSocketPayloadType",
    "__version__",
)
