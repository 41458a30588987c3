"""
Heads below another server: of requests that it has parsed, and of the answers that it is to send.

That server has checked the syntax. What decides over the request (host, forwarding headers, names
that collapse in an environ, the length of the body) follows the rules of our own wires.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from kyoukai.exceptions import InvalidResponse, ProtocolError
from kyoukai.rules import (
    FORWARDED,
    HOP_BY_HOP,
    apply_forwarded,
    bodyless,
    check_authority,
    check_response_head,
    content_length,
    decode_path,
    field_name,
    split_target,
)
from kyoukai.stream import RequestHead

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kyoukai.config import ServerConfig
    from kyoukai.rules import Header
    from kyoukai.stream import Payload

__all__ = (
    "Incoming",
    "from_environ",
    "from_scope",
    "own_headers",
    "refused",
    "streamed_head",
    "whole_answer",
)

#: Characters that a path may have besides letters and digits (RFC 3986 section 3.3).
_PATH = "/:@!$&'()*+,;=~"
_SCHEMES = {"ws": "http", "wss": "https"}
_DEFAULT_PORTS = {"http": "80", "https": "443"}
#: Versions as environs have them.
_VERSIONS = {"HTTP/1.0": "1.0", "HTTP/2": "2", "HTTP/2.0": "2", "HTTP/3": "3"}
#: Methods whose requests have no body unless they say so. (With others, the server is asked.)
_BODILESS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS"))
_SINGLE = frozenset((b"content-length", b"expect", b"host", b"transfer-encoding"))
_SPECIAL = _SINGLE | FORWARDED | {b"cookie"}
#: Headers of an answer that are the other server's: an upgrade is its to offer, too.
_NOT_OURS = HOP_BY_HOP | {b"upgrade"}


class Incoming(NamedTuple):
    """
    A request as another server hands it over.

    :param head: its head
    :param bodiless: whether it is known to have no body
    :param waits: whether the client waits for ``100 Continue`` before it sends the body
    """

    head: RequestHead
    bodiless: bool
    waits: bool


def from_scope(scope: Mapping[str, Any], config: ServerConfig) -> Incoming:
    """
    Make a head of an ASGI scope, of HTTP or of a WebSocket.

    A WebSocket's is an extended CONNECT (RFC 8441): the handshake itself was the server's.

    :param scope: the scope
    :param config: the settings
    :raises ProtocolError: with the status that answers the request
    """
    version = scope.get("http_version") or "1.1"
    client = _address(scope.get("client"))
    server = scope.get("server")
    server = (server[0], server[1]) if server else None
    scheme = scope.get("scheme") or "http"
    scheme = _SCHEMES.get(scheme, scheme)
    websocket = scope["type"] == "websocket"
    pairs: Iterable[Header] = scope.get("headers", ())
    if websocket:
        pairs = [pair for pair in pairs if not pair[0].lower().startswith(b"sec-websocket-")]
        pairs.append((b"sec-websocket-version", b"13"))
        if offered := scope.get("subprotocols"):
            pairs.append((b"sec-websocket-protocol", ", ".join(offered).encode("latin-1")))
    own = "localhost" if server is None else _own_authority(*server, scheme)
    headers, special, authority = _fields(pairs, own)
    if not FORWARDED.isdisjoint(special):
        headers, client, scheme, authority = apply_forwarded(
            headers, authority, client, scheme, config.trusted_proxies, config.forwarded_headers
        )
    root_path = (scope.get("root_path") or config.root_path).rstrip("/")
    sent, raw_path, path = _paths(scope["path"], scope.get("raw_path"), root_path)
    query = scope.get("query_string") or b""
    length = None if websocket else _length(special)
    head = RequestHead(
        "CONNECT" if websocket else scope["method"],
        sent + b"?" + query if query else sent,
        raw_path,
        path,
        query,
        scheme,
        authority,
        version,
        headers,
        length,
        "websocket" if websocket else None,
        client,
        server,
        None,
        root_path,
    )
    expect = special.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise ProtocolError(417, "The only expectation met here is '100-continue'.")
    framed = b"transfer-encoding" in special or length is not None
    bodiless = length == 0 or (not framed and head.method in _BODILESS)
    return Incoming(head, bodiless, expect is not None)


def from_environ(environ: Mapping[str, Any], config: ServerConfig) -> Incoming:
    """
    Make a head of a WSGI environ (PEP 3333).

    :param environ: the environ
    :param config: the settings
    :raises ProtocolError: with the status that answers the request
    """
    scheme = environ.get("wsgi.url_scheme", "http")
    protocol = environ.get("SERVER_PROTOCOL", "HTTP/1.1")
    pairs: list[Header] = []
    for key, value in environ.items():
        name = key[5:] if key.startswith("HTTP_") else ""
        if key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = key if value else ""
        elif name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = ""
        if name:
            lower = name.lower().replace("_", "-").encode("latin-1")
            pairs.append((lower, value.encode("latin-1")))
    name, port = environ.get("SERVER_NAME") or "localhost", str(environ.get("SERVER_PORT", ""))
    server = (name, int(port) if port.isdigit() else None)
    headers, special, authority = _fields(pairs, _own_authority(*server, scheme))
    address = environ.get("REMOTE_ADDR")
    client = _address((address, environ.get("REMOTE_PORT")) if address else None)
    if not FORWARDED.isdisjoint(special):
        headers, client, scheme, authority = apply_forwarded(
            headers, authority, client, scheme, config.trusted_proxies, config.forwarded_headers
        )
    script = environ.get("SCRIPT_NAME", "").encode("latin-1").rstrip(b"/")
    path = script + environ.get("PATH_INFO", "").encode("latin-1") or b"/"
    root_path = script.decode("utf-8", "replace") or config.root_path
    sent = _raw_of(environ, path, len(script))
    sent, raw_path, text = _paths(path.decode("utf-8", "replace"), sent, root_path)
    query = environ.get("QUERY_STRING", "").encode("latin-1")
    length = _length(special)
    head = RequestHead(
        environ["REQUEST_METHOD"],
        sent + b"?" + query if query else sent,
        raw_path,
        text,
        query,
        scheme,
        authority,
        _VERSIONS.get(protocol, "1.1"),
        headers,
        length,
        None,
        client,
        server,
        None,
        root_path,
    )
    endless = length is None and not environ.get("wsgi.input_terminated")
    return Incoming(head, length == 0 or endless, False)


def refused(method: str) -> RequestHead:
    """Return the head of a request that the rules refuse."""
    return RequestHead(method, b"-", b"-", "", b"", "http", "", "1.1", [])


# -- Headers ---------------------------------------------------------------------------------------


def _fields(pairs: Iterable[Header], own: str) -> tuple[list[Header], dict[bytes, bytes], str]:
    """Return headers, host first, those of them that decide something, and the authority."""
    headers: list[Header] = [(b"host", b"")]
    special: dict[bytes, bytes] = {}
    for name, value in pairs:
        name = field_name(name)
        if not name or name[:1] == b":":
            continue
        if name in _SPECIAL:
            before = special.get(name)
            special[name] = value
            if before is not None:
                if name == b"cookie":  # HTTP/2 may send it in pieces (RFC 9113 section 8.2.3)
                    special[name] = before + b"; " + value
                    continue
                if name in _SINGLE:
                    if before != value:
                        raise ProtocolError(400, "A header that must be single came twice.")
                    continue
            if name == b"host":
                continue
        headers.append((name, value))
    if b"cookie" in special:
        whole = (b"cookie", special[b"cookie"])
        headers = [whole if pair[0] == b"cookie" else pair for pair in headers]
    host = special.get(b"host") or own.encode()
    headers[0] = (b"host", host)
    return headers, special, check_authority(host)


def _length(special: Mapping[bytes, bytes]) -> int | None:
    declared = special.get(b"content-length")
    if declared is None or b"transfer-encoding" in special:
        return None
    if not declared.isdigit() or len(declared) > 19:
        raise ProtocolError(400, "The Content-Length is not valid.")
    return int(declared)


def _address(given: Any) -> tuple[str, int] | None:
    return (given[0], int(given[1] or 0)) if given and given[0] else None


def _own_authority(name: str, port: int | None, scheme: str) -> str:
    """Return the server's own address, for a request that names no host."""
    if port is None:  # a unix socket
        return "localhost"
    host = f"[{name}]" if ":" in name else name
    return host if str(port) == _DEFAULT_PORTS.get(scheme) else f"{host}:{port}"


# -- Paths -----------------------------------------------------------------------------------------


def _paths(path: str, raw: bytes | None, root_path: str) -> tuple[bytes, bytes, str]:
    """
    Return the path as it was sent, as far as that is known, and raw and decoded with the prefix.

    The decoded path counts: what has changed it in between need not have changed the other.
    """
    if raw is not None:
        raw = raw.partition(b"?")[0]
    prefix = quote(root_path, safe=_PATH).encode()
    path = path or "/"
    if raw is None or decode_path(raw) != path:
        if raw is not None and root_path and root_path + decode_path(raw) == path:
            return raw, prefix + raw, path
        raw = quote(path, safe=_PATH).encode()
    below = path.startswith(root_path) and path[len(root_path) :][:1] in ("", "/")
    if below or path == "*":
        return raw, raw, path
    return raw, prefix + raw, root_path + path  # a proxy has taken the prefix off


def _raw_of(environ: Mapping[str, Any], path: bytes, prefix: int) -> bytes:
    """Return the path with its escapes, as the server says it, if that is the same path."""
    for key in ("REQUEST_URI", "RAW_URI"):
        given = environ.get(key)
        if isinstance(given, str):
            try:
                _, raw, _ = split_target(given.encode("latin-1"), environ["REQUEST_METHOD"])
            except (ProtocolError, UnicodeEncodeError):
                continue
            if unquote_to_bytes(raw) in (path, path[prefix:]):
                return raw
    return quote(path, safe=_PATH).encode()


# -- Answers ---------------------------------------------------------------------------------------


def own_headers(headers: Sequence[Header]) -> tuple[list[Header], int | None]:
    """
    Return what another server may send of an answer's headers, names in lower case.

    :param headers: the application's
    :return: them, without those that are that server's, and the Content-Length among them
    :raises InvalidResponse: if that makes no sense
    """
    kept: list[Header] = []
    length: int | None = None
    for name, value in headers:
        lower = name.lower()
        if lower == b"content-length":
            if not value.isdigit() or (length is not None and length != int(value)):
                raise InvalidResponse(
                    f"content-length {value[:80]!r} is no number, or not the only one"
                )
            length = int(value)
        elif lower not in _NOT_OURS:
            kept.append((lower, value))
    return kept, length


def streamed_head(status: int, headers: Sequence[Header], length: int | None) -> list[Header]:
    """
    Return the headers of an answer whose body follows.

    :param status: its status
    :param headers: the application's, checked
    :param length: bytes of the body, if that is known
    """
    kept, _ = own_headers(headers)
    if length is not None and status != 204:
        kept.append((b"content-length", b"%d" % length))
    return kept


def whole_answer(
    method: str, status: int, headers: Sequence[Header], body: Payload
) -> tuple[list[Header], bytes]:
    """
    Return headers and body of a whole answer, as they go to another server.

    :param method: the request's method
    :param status: its status
    :param headers: the application's
    :param body: the application's, which not every answer has
    :raises InvalidResponse: if it may not be sent
    """
    check_response_head(status, headers)
    kept, declared = own_headers(headers)
    length = content_length(method, status, declared, len(body))
    if length is not None:
        kept.append((b"content-length", b"%d" % length))
    return kept, b"" if bodyless(method, status) else bytes(body)
