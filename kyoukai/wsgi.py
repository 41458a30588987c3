"""
The WSGI environ (PEP 3333): built here and nowhere else, for every backend and interface.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from kyoukai.rules import field_name

if TYPE_CHECKING:
    from typing import IO

    from werkzeug.wrappers import Response

    from kyoukai.stream import RequestHead, StreamState

__all__ = (
    "application_path",
    "create_wsgi_environment",
    "get_formatted_response",
    "to_wsgi_environment",
)

#: Wire names seen before, with their environ keys; an empty key for those that stay out.
_keys: dict[bytes, str] = {
    b"content-type": "CONTENT_TYPE",
    b"content-length": "CONTENT_LENGTH",
    b"proxy": "",  # HTTP_PROXY is a setting of many HTTP clients: never let a client set it
}
_KEYS_KEPT = 1024

#: What is the same for every request that came in on one address.
_templates: dict[tuple[Any, ...], dict[str, Any]] = {}
_TEMPLATES_KEPT = 64


def _environ_key(name: bytes) -> str:
    key = _keys.get(name)
    if key is None:
        known = field_name(name)
        key = "HTTP_" + known.decode("latin-1").upper().replace("-", "_") if known else ""
        if len(_keys) < _KEYS_KEPT:
            _keys[name] = key
    return key


def _template(head: RequestHead) -> dict[str, Any]:
    key = (head.server, head.scheme, head.root_path, head.http_version)
    template = _templates.get(key)
    if template is None:
        server = head.server or ("localhost", None)
        name, port = server if server[1] is not None else ("localhost", None)
        template = {
            "SCRIPT_NAME": head.root_path.encode().decode("latin-1"),
            "SERVER_NAME": name,
            "SERVER_PORT": str(port or (443 if head.scheme == "https" else 80)),
            "SERVER_PROTOCOL": f"HTTP/{head.http_version}",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": head.scheme,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }
        if head.scheme == "https":
            template["HTTPS"] = "on"
        if len(_templates) >= _TEMPLATES_KEPT:
            _templates.clear()
        _templates[key] = template
    return template


def application_path(head: RequestHead) -> str:
    """Return the path without the prefix that the application is published under."""
    prefix = head.root_path
    if prefix and head.path.startswith(prefix) and head.path[len(prefix) :][:1] in ("", "/"):
        return head.path[len(prefix) :] or "/"
    return head.path


def create_wsgi_environment(state: StreamState) -> dict[str, Any]:
    """
    Build the WSGI environ of a stream.

    :param state: the stream; it is also ``wsgi.input``
    :return: a new dict, the caller's to change
    """
    head = state.head
    environ = _template(head).copy()
    environ["REQUEST_METHOD"] = head.method
    path = head.raw_path
    if b"%" in path:
        path = unquote_to_bytes(path)
    prefix = head.root_path.encode()
    if prefix and path.startswith(prefix) and path[len(prefix) :][:1] in (b"", b"/"):
        path = path[len(prefix) :]
    environ["PATH_INFO"] = path.decode("latin-1")
    environ["QUERY_STRING"] = head.query.decode("latin-1")
    environ["REQUEST_URI"] = environ["RAW_URI"] = head.target.decode("latin-1")
    if head.client is not None:
        environ["REMOTE_ADDR"] = head.client[0]
        environ["REMOTE_PORT"] = str(head.client[1])
    for name, value in head.headers:
        key = _keys.get(name)
        if key is None:
            key = _environ_key(name)
        if not key:
            continue
        text = value.decode("latin-1")
        if key in environ:
            text = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + text
        environ[key] = text
    environ["wsgi.input"] = state
    environ["kyoukai.stream"] = state
    return environ


def to_wsgi_environment(
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    method: str,
    path: str,
    http_version: str = "1.1",
    body: IO[bytes] | None = None,
) -> dict[str, Any]:
    """
    Build an environ by hand, for tests.

    :param headers: header names and values
    :param method: the HTTP method
    :param path: the request target: a path with escapes, and perhaps a query
    :param http_version: such as ``1.1``
    :param body: the request's body; None for none
    """
    raw_path, _, query = path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(raw_path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": f"HTTP/{http_version}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO() if body is None else body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    items = headers.items() if isinstance(headers, Mapping) else headers
    for name, value in items:
        key = _environ_key(name.lower().encode("latin-1"))
        if key:
            separator = "; " if key == "HTTP_COOKIE" else ","
            environ[key] = environ[key] + separator + value if key in environ else value
    return environ


def get_formatted_response(response: Response, environ: dict[str, Any]) -> bytes:
    """
    Return a response as the bytes of an HTTP/1.1 message.

    :param response: any Werkzeug response
    :param environ: the environ of its request
    """
    body, status, headers = response.get_wsgi_response(environ)
    lines = [f"HTTP/1.1 {status}\r\n", *(f"{name}: {value}\r\n" for name, value in headers)]
    return "".join(lines).encode("latin-1") + b"\r\n" + b"".join(body)
