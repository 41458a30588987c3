"""
Kyoukai: an asynchronous web framework that is its own application server.
"""

from kyoukai._version import __version__
from kyoukai.app import Kyoukai
from kyoukai.asphalt import H2KyoukaiComponent, KyoukaiComponent
from kyoukai.blueprint import Blueprint
from kyoukai.config import ServerConfig
from kyoukai.context import HTTPRequestContext
from kyoukai.exceptions import KyoukaiError
from kyoukai.route import Route
from kyoukai.routegroup import RouteGroup
from kyoukai.testing import TestKyoukai
from kyoukai.wrappers import Request, Response

__all__ = (
    "Blueprint",
    "H2KyoukaiComponent",
    "HTTPRequestContext",
    "Kyoukai",
    "KyoukaiComponent",
    "KyoukaiError",
    "Request",
    "Response",
    "Route",
    "RouteGroup",
    "ServerConfig",
    "TestKyoukai",
    "__version__",
)
