"""The public names."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import kyoukai

EXPORTED = (
    "BinaryBaseHandlerWS",
    "Blueprint",
    "H2KyoukaiComponent",
    "HTTPRequestContext",
    "Kyoukai",
    "KyoukaiComponent",
    "KyoukaiError",
    "Middleware",
    "Channel",
    "OperationNotAllowed",
    "PayloadTypeError",
    "WebSocket",
    "WebSocketContext",
    "WebSocketDisconnected",
    "MediaError",
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
    "WebSocketPayloadType",
    "__version__",
)


def test_the_package_exports_these_names() -> None:
    assert sorted(kyoukai.__all__) == sorted(EXPORTED)


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_name_is_there(name: str) -> None:
    assert getattr(kyoukai, name) is not None


def test_nothing_else_is_public() -> None:
    modules = {name.split(".")[1] for name in sys.modules if name.startswith("kyoukai.")}
    names = {name for name in vars(kyoukai) if not name.startswith("_")}
    assert names - modules == set(EXPORTED) - {"__version__"}


def test_the_version_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?((a|b|rc|\.dev)\d+)?", kyoukai.__version__)


def test_pytest_does_not_collect_the_test_application() -> None:
    assert kyoukai.TestKyoukai.__test__ is False


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("kyoukai.util", ("as_html", "as_plaintext", "as_json", "wrap_response")),
        ("kyoukai.wsgi", ("to_wsgi_environment", "get_formatted_response")),
        ("kyoukai.wsgi", ("create_wsgi_environment",)),
        (
            "kyoukai.routegroup",
            ("RouteGroup", "route", "websocket", "errorhandler", "before_request", "after_request"),
        ),
        (
            "kyoukai.media",
            ("BaseHandler", "JSONHandler", "JSONHandlerWS", "MediaHandlers", "MessagePackHandler"),
        ),
        ("kyoukai.pipeline", ("InsufficientStorage", "RequestPipeline")),
        ("kyoukai.resource", ("Resource", "responder")),
        ("kyoukai.testing", ("Client", "MemoryServer", "MemoryTransport", "TestKyoukai")),
        ("kyoukai.testing", ("ClientWebSocket", "WebSocketDenied")),
        ("kyoukai.asphalt", ("H2KyoukaiComponent", "KyoukaiBaseComponent", "KyoukaiComponent")),
        ("kyoukai.exceptions", ("UpstreamBusy", "UpstreamError", "UpstreamTimeout")),
    ],
)
def test_public_names_of_modules(module: str, names: tuple[str, ...]) -> None:
    imported = __import__(module, fromlist=names)
    assert set(names) <= set(imported.__all__)
    assert all(hasattr(imported, name) for name in names)


def test_the_package_can_be_imported_without_warnings() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", "import kyoukai"], check=True)
