"""
Scopes: what an ASGI application is told of a request or a handshake.
"""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

from kyoukai.wsgi import application_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kyoukai.config import ServerConfig
    from kyoukai.stream import RequestHead

__all__ = ("SPEC_VERSION", "ScopeFactory", "distinguished_name", "own_certificate")

#: The version of the specification of http and websocket scopes.
SPEC_VERSION = "2.5"

#: Methods that need not be put into capitals.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))

_EMPTY: dict[str, Any] = {}
_FILES = {"http.response.pathsend": _EMPTY, "http.response.zerocopysend": _EMPTY}
#: HTTP/1.0 has neither trailers nor interim responses.
_HTTP_10 = _FILES
_HTTP = {"http.response.trailers": _EMPTY, "http.response.early_hint": _EMPTY, **_FILES}
_WEBSOCKET = {"websocket.http.response": _EMPTY}

_TLS_VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
#: The numbers of cipher suites that have been asked for.
_suites: dict[str, int] = {}
#: Short names of the attributes that RFC 4514 section 3 names; all others are spelled out.
_ATTRIBUTES = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}


class ScopeFactory:
    """
    Makes the scopes of an application.

    :param config: the server's settings
    :param version: the version of ASGI that it speaks: 3.0, or 2.0 for double callables
    """

    def __init__(self, config: ServerConfig, version: str = "3.0") -> None:
        self.version = version
        self._config = config
        self._asgi = {"version": version, "spec_version": SPEC_VERSION}
        #: What the application's lifespan has put there; each scope has a shallow copy.
        self.state: dict[str, Any] = {}
        self._tls: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()

    def http(self, head: RequestHead) -> dict[str, Any]:
        """Return the scope of a request."""
        method, path, raw_path = head.method, head.path, head.raw_path
        if method not in _METHODS:
            method = method.upper()
        if head.root_path:
            path, raw_path = _whole_path(head)
        extensions = (_HTTP if head.http_version != "1.0" else _HTTP_10).copy()
        if head.tls is not None:
            extensions["tls"] = self._tls_of(head.tls)
        return {
            "type": "http",
            "asgi": self._asgi.copy(),
            "http_version": head.http_version,
            "method": method,
            "scheme": head.scheme,
            "path": path,
            "raw_path": raw_path,
            "query_string": head.query,
            "root_path": head.root_path,
            "headers": head.headers,
            "client": head.client,
            "server": head.server,
            "state": self.state.copy(),
            "extensions": extensions,
        }

    def websocket(self, head: RequestHead, subprotocols: Iterable[str]) -> dict[str, Any]:
        """
        Return the scope of a handshake.

        :param subprotocols: those that the client offers
        """
        scope = self.http(head)
        del scope["method"]
        scope["type"] = "websocket"
        scope["scheme"] = "wss" if head.scheme == "https" else "ws"
        scope["subprotocols"] = list(subprotocols)
        scope["extensions"] = _WEBSOCKET.copy()
        if head.tls is not None:
            scope["extensions"]["tls"] = self._tls_of(head.tls)
        return scope

    def _tls_of(self, tls: Any) -> dict[str, Any]:
        """Return what is known of a TLS connection; the same dict for all its requests."""
        known = self._tls.get(tls)
        if known is None:
            known = self._tls[tls] = _describe(tls, self._config.certfile)
        return known


def _whole_path(head: RequestHead) -> tuple[str, bytes]:
    """Return the path with the prefix, decoded and raw; a proxy may have taken it off."""
    if application_path(head) is not head.path:
        return head.path, head.raw_path
    return head.root_path + head.path, quote(head.root_path).encode() + head.raw_path


# -- TLS ---------------------------------------------------------------------------------------


def _describe(tls: Any, certfile: str | None) -> dict[str, Any]:
    """
    Return the ``tls`` extension of a connection.

    :param tls: its ``ssl.SSLObject``
    :param certfile: the file of the server's own certificate
    """
    chain = _client_chain(tls)
    subject = (tls.getpeercert() or {}).get("subject", ()) if chain else ()
    cipher = tls.cipher()
    return {
        "server_cert": None if certfile is None else own_certificate(certfile),
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(each) for each in chain],
        "client_cert_name": distinguished_name(subject) if chain else None,
        "client_cert_error": None,  # a certificate that is wrong never gets this far
        "tls_version": _TLS_VERSIONS.get(tls.version() or ""),
        "cipher_suite": None if cipher is None else _suite(cipher[0], tls.context),
    }


def _client_chain(tls: Any) -> list[bytes]:
    """Return the client's certificates in DER; Python knows only the first before 3.13."""
    own = tls.getpeercert(binary_form=True)
    if own is None:
        return []
    if hasattr(tls, "get_unverified_chain"):
        return list(tls.get_unverified_chain())
    return [own]


def _suite(name: str, context: ssl.SSLContext) -> int | None:
    """Return the number of a cipher suite, as it is on the wire, by OpenSSL's name."""
    if name not in _suites:
        _suites.update((each["name"], each["id"] & 0xFFFF) for each in context.get_ciphers())
    return _suites.get(name)


def own_certificate(certfile: str) -> str | None:
    """Return the server's certificate; it may be replaced while the server runs."""
    try:
        return _first_certificate(certfile, Path(certfile).stat().st_mtime_ns)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=16)
def _first_certificate(certfile: str, changed: int) -> str | None:
    """Return the first certificate of a file; those of its chain come after it."""
    text = Path(certfile).read_text("ascii")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    found = text.partition(begin)[2].partition(end)
    return f"{begin}{found[0]}{end}\n" if found[1] else None


def distinguished_name(subject: Iterable[Iterable[tuple[str, str]]]) -> str:
    """
    Return a name as one line (RFC 4514): the last part first.

    :param subject: the name, as ``getpeercert`` has it
    """
    parts = [
        "+".join(f"{_ATTRIBUTES.get(name, name)}={_escaped(value)}" for name, value in part)
        for part in subject
    ]
    return ",".join(reversed(parts))


def _escaped(value: str) -> str:
    """Escape what would be read as something else (RFC 4514 section 2.4)."""
    text = "".join("\\" + char if char in '"+,;<>\\' else char for char in value)
    text = text.replace("\0", "\\00")
    if text[:1] in ("#", " "):
        text = "\\" + text
    if len(value) > 1 and value.endswith(" "):
        text = text[:-1] + "\\ "
    return text
