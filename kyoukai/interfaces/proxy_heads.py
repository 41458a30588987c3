"""
Heads that a proxy passes on: of requests to its servers, and back from their answers.

What is about the client's connection stays here (RFC 9110 section 7.6.1), and what a client says
about its own way to us does too, unless it is a trusted proxy. The rest goes on as it came.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from kyoukai.exceptions import InvalidResponse, ProtocolError, UpstreamError
from kyoukai.rules import FORWARDED, check_response_head, is_token, is_trusted
from kyoukai.stream import CLOSED
from kyoukai.upstream_head import CONNECTION_FIELDS, nominated
from kyoukai.wsgi import application_path

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kyoukai.config import ServerConfig
    from kyoukai.proxy import Proxy, UpstreamAddress
    from kyoukai.rules import Header
    from kyoukai.stream import RequestHead, StreamState

__all__ = ("RequestWriter", "body_length", "check_path", "rewrite_location")

#: Fields that are written anew, or that decide something here.
_OURS = (
    CONNECTION_FIELDS
    | FORWARDED
    | {
        b"content-length",
        b"expect",
        b"host",
        b"max-forwards",
        b"proxy",  # CGI programs take it for a setting of theirs, HTTP_PROXY
        b"via",
        b"x-real-ip",
    }
)
#: What only a trusted proxy may say begins with this, but for ``Forwarded`` and ``X-Real-IP``.
_X_FORWARDED = b"x-forwarded-"
_VERSIONS = {"1.0": b"1.0 ", "1.1": b"1.1 ", "2": b"2.0 "}
#: Methods whose requests say that they have no body (RFC 9110 section 8.6).
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
#: Segments that lead elsewhere for some readers, a few of which take ``\`` for ``/``, and ``..;x``
#: for ``..``.
_DOTS = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\;]|$)")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_PLAIN_HOST = re.compile(rb"[\w.\-~:\[\]%]+")
_PLAIN_NODE = re.compile(rb"[\w.\-]+")

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)

#: How often our name may be in the Via of a request (RFC 9110 section 7.6: loops).
_HOPS = 10

#: Blocks of lines that are remembered.
_REMEMBERED = 64


def check_path(path: str) -> None:
    """
    Refuse a path that leads out of its prefix, or past native routes, for who resolves it.

    :param path: the path, decoded; a backslash is a slash to some servers
    :raises ProtocolError: 400, if it has segments ``.`` or ``..``
    """
    if "." in path and _DOTS.search(path):
        raise ProtocolError(400, "The path must have no '.' or '..' segments.")


def body_length(stream: StreamState) -> int | None:
    """Return how long the body of a request is, if that is known; otherwise it must be chunked."""
    if stream.head.content_length is None and stream.receiving is CLOSED and not stream.trailers:
        return stream.received
    return stream.head.content_length


class RequestWriter:
    """
    Writes heads of requests.

    :param proxy: the proxy's settings
    :param config: the server's settings
    :param prefix: the prefix that the proxy is mounted at, without a slash at its end
    """

    def __init__(self, proxy: Proxy, config: ServerConfig, prefix: str = "") -> None:
        self._proxy = proxy
        self._trusted = config.trusted_proxies
        self._by_forwarded = config.forwarded_headers == "forwarded"
        self._prefix = prefix
        self._via = proxy.via.encode()
        self._x_forwarded = proxy.forwarded in ("x-forwarded", "both")
        self._forwarded = proxy.forwarded in ("forwarded", "both")
        # The Host that servers get, whatever the client's is; empty if that decides.
        self._fixed_host = "" if proxy.host in ("keep", "upstream") else proxy.host
        self._known: dict[object, bytes] = {}

    def own_authorities(self, address: UpstreamAddress) -> Collection[str]:
        """
        Return the authorities that a server may take for its own, in lower case.

        :param address: the server
        """
        own = set()
        if address.host or self._proxy.host == "upstream":
            own.add(address.authority)
        if self._fixed_host:
            own.add(self._fixed_host.lower())
        return own

    def target(self, head: RequestHead, address: UpstreamAddress) -> bytes:
        """
        Return the target of a request to a server.

        :param head: the head that the client has sent
        :param address: the server
        """
        if address.base is None:
            target = head.target
            if target[:1] == b"/" and b"#" not in target:
                return target if target.isascii() else _escaped(target)
            raw = head.raw_path
        else:
            raw = address.base + self._below(head) or b"/"
        target = b"%b?%b" % (raw, head.query) if head.query else raw
        return target if target.isascii() else _escaped(target)

    def _below(self, head: RequestHead) -> bytes:
        """Return what comes after the prefix, with its escapes."""
        if head.raw_path == b"*":
            return b""
        prefix = self._prefix
        if application_path(head) != head.path:  # nobody has taken the outer prefix off
            prefix = head.root_path + prefix
        rest = head.below(prefix) if prefix else head.raw_path
        # An escaped slash has ended the prefix: as it is, what replaces that would go on with it.
        return b"/" + rest[3:] if rest[:1] == b"%" else rest

    def write(
        self,
        stream: StreamState,
        address: UpstreamAddress,
        more: bytes = b"",
        length: int | None = 0,
    ) -> bytes:
        """
        Return the head of a request to a server.

        :param stream: the client's request
        :param address: the server
        :param more: header lines that are about the connection
        :param length: how many bytes of body follow; None for a chunked one
        :raises ProtocolError: 400, if the head cannot be written as HTTP/1.1
        :raises UpstreamError: if the request runs in a circle (``via``)
        """
        head = stream.head
        method = "GET" if head.method == "CONNECT" else head.method
        if length is None:
            more = b"transfer-encoding: chunked\r\n" + more
        elif length or method in _WITH_BODY:
            more = b"content-length: %d\r\n%b" % (length, more)
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (
            method.encode(),
            self.target(head, address),
            self._lines(stream, address),
            more,
        )

    def _lines(self, stream: StreamState, address: UpstreamAddress) -> bytes:
        """Return the header lines that do not depend on the path or the body."""
        head = stream.head
        peer = _peer(stream)
        # The authority is Host's, in lower case, and so in the key.
        key = (
            tuple(head.headers),
            head.method,
            None if head.client is None else head.client[0],
            peer,
            head.scheme,
            head.http_version,
            head.root_path,
            address.url,
        )
        lines = self._known.get(key)
        if lines is None:
            lines = self._render(head, peer, address)
            if len(lines) < 2048:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[key] = lines
        return lines

    def _render(self, head: RequestHead, peer: str | None, address: UpstreamAddress) -> bytes:
        _check(head)
        special: dict[bytes, list[bytes]] = {}
        for name, value in head.headers:
            if name in _OURS or name.startswith(_X_FORWARDED):
                special.setdefault(name, []).append(value)
        host = special[b"host"][0]
        if self._fixed_host:
            sent_host = self._fixed_host.encode()
        elif self._proxy.host == "upstream":
            sent_host = address.authority.encode()
        else:
            sent_host = host
        lines = [b"host: %b\r\n" % sent_host]
        left_out = _OURS | nominated(b",".join(special.get(b"connection", ())))
        if head.method == "CONNECT":
            left_out |= {b"sec-websocket-key"}  # which HTTP/2 does not have: ours is sent
        left_out |= special.keys()
        lines += [b"%b: %b\r\n" % pair for pair in head.headers if pair[0] not in left_out]
        asks = head.method == "CONNECT" or b"upgrade" in special
        if not asks and b"trailers" in nominated(b",".join(special.get(b"te", ()))):
            lines.append(b"te: trailers\r\nconnection: te\r\n")
        self._tell_of_client(lines, head, special, peer)
        if b"max-forwards" in special:
            lines.append(b"max-forwards: %b\r\n" % _one_less(head.method, special))
        if self._via:
            before = b"".join([value + b", " for value in special.get(b"via", ())])
            if before.count(b" %b," % self._via) >= _HOPS:
                raise UpstreamError("the request has come here again and again: a loop (via)")
            version = _VERSIONS.get(head.http_version, b"1.1 ")
            lines.append(b"via: %b%b%b\r\n" % (before, version, self._via))
        return b"".join(lines)

    def _tell_of_client(
        self,
        lines: list[bytes],
        head: RequestHead,
        special: dict[bytes, list[bytes]],
        peer: str | None,
    ) -> None:
        """Say who the client is; what a trusted proxy has said is carried on."""
        trusted: dict[bytes, list[bytes]] = {}
        told = [name for name in special if self._is_theirs(name)]
        if told and is_trusted(peer or "unix", self._trusted):
            trusted = {name: special[name] for name in told}
        scheme = b"https" if head.scheme == "https" else b"http"
        host = head.authority.encode()
        # A host may have ',' and ';': whoever reads what we say too simply would take its end for
        # something that we say.
        plain_host = _PLAIN_HOST.fullmatch(host) is not None
        node = _plain_address(peer)
        prefix = quote(head.root_path + self._prefix).encode()
        ours = []
        if self._x_forwarded:
            chain = trusted.get(b"x-forwarded-for", [])
            if not chain and head.client is not None and head.client[0] != peer:
                chain = [_plain_address(head.client[0])]  # by Forwarded
            chain = [each for each in (*chain, node) if each]
            if chain:
                ours.append((b"x-forwarded-for", b", ".join(chain)))
            ours.append((b"x-forwarded-proto", scheme))
            if plain_host:
                ours.append((b"x-forwarded-host", host))
            if prefix and self._replaces:
                ours.append((b"x-forwarded-prefix", prefix))
        if self._forwarded:
            before = b"".join([value + b", " for value in trusted.get(b"forwarded", ())])
            ours.append(
                (
                    b"forwarded",
                    b"%bfor=%b;%bproto=%b"
                    % (
                        before,
                        _node(node),
                        b"host=%b;" % _quoted(host) if plain_host else b"",
                        scheme,
                    ),
                )
            )
        lines += [b"%b: %b\r\n" % pair for pair in ours]
        written = {name for name, _ in ours}
        for name, values in trusted.items():
            if name not in written and self._proxy.forwarded != "off":
                lines += [b"%b: %b\r\n" % (name, value) for value in values]

    def _is_theirs(self, name: bytes) -> bool:
        """Whether trusted proxies write a header; others come through them from anybody."""
        if self._by_forwarded:
            return name == b"forwarded"
        return name == b"x-real-ip" or name.startswith(_X_FORWARDED)

    @property
    def _replaces(self) -> bool:
        """Whether the server does not see the prefix."""
        return bool(self._prefix) and any(
            address.base is not None for address in self._proxy.addresses()
        )


def _check(head: RequestHead) -> None:
    """
    Refuse a head that would become another one, or two, when it is written.

    Our wires have done so. Other servers, which run the application, may not: HTTP/2 can put CRLF
    anywhere.
    """
    is_tunnel = head.method == "CONNECT" and head.protocol is None
    if is_tunnel or not is_token(head.method.encode("latin-1", "replace")):
        raise ProtocolError(400, "The method is not valid.")
    try:
        check_response_head(200, head.headers)
    except InvalidResponse:
        raise ProtocolError(400, "A header is not valid.") from None


def _escaped(target: bytes) -> bytes:
    """Escape what a target may not have as it is (RFC 3986 section 2), though clients send it."""
    return _NOT_ASCII.sub(lambda found: b"%%%02X" % found[0][0], target)


def _peer(stream: StreamState) -> str | None:
    """Return the address of whoever holds the connection; None on a unix socket."""
    client = stream.protocol.peer(stream)
    return None if client is None else client[0]


def _plain_address(address: str | None) -> bytes:
    """Return an address that is one; another server's may be anything that it was told."""
    found = b"" if address is None else address.encode("latin-1", "replace")
    return found if _PLAIN_HOST.fullmatch(found) else b""


def _node(node: bytes) -> bytes:
    """Return an address as ``Forwarded`` has it (RFC 7239 section 6)."""
    if not node:
        return b"unknown"
    return b'"[%b]"' % node if b":" in node else _quoted(node)


def _quoted(value: bytes) -> bytes:
    return value if _PLAIN_NODE.fullmatch(value) else b'"%b"' % value


def _one_less(method: str, special: dict[bytes, list[bytes]]) -> bytes:
    """Count a hop off (RFC 9110 section 7.6.2), for the two methods that it is for."""
    value = special[b"max-forwards"][0]
    if method in ("OPTIONS", "TRACE") and value.isdigit() and len(value) < 10:
        return b"%d" % max(0, int(value) - 1)
    return value


def rewrite_location(
    headers: Sequence[Header],
    address: UpstreamAddress,
    prefix: str,
    public: str,
    own: Collection[str],
) -> tuple[Header, ...]:
    """
    Let a Location that leads to the server lead to where the client finds it.

    :param headers: the headers of an answer
    :param address: the server, whose ``base`` the prefix stands for
    :param prefix: the prefix for the client, without a slash at its end
    :param public: the authority that the client knows; a server that does not see the prefix makes
        links of it that leave the prefix out
    :param own: what the server may take for its own, see :meth:`RequestWriter.own_authorities`
    """
    shown = quote(prefix).encode()
    return tuple(
        (
            name,
            _client_location(value, address, shown, public, own) if name == b"location" else value,
        )
        for name, value in headers
    )


def _client_location(
    value: bytes, address: UpstreamAddress, prefix: bytes, public: str, own: Collection[str]
) -> bytes:
    absolute = _ABSOLUTE.fullmatch(value)
    if absolute is not None:
        authority, path = absolute[1].lower().decode("latin-1"), absolute[2]
        if path[:1] != b"/":
            path = b"/" + path
        if authority == public and address.base is not None:
            # The scheme stays: it may be the reason of the redirection.
            return value[: absolute.start(2)] + _client_path(path, address.base, prefix)
        if authority not in own:
            return value
        # By which scheme, the server knows from X-Forwarded-Proto at best.
    elif value[:1] != b"/" or value[:2] == b"//":
        return value
    else:
        path = value
    return path if address.base is None else _client_path(path, address.base, prefix)


def _client_path(path: bytes, base: bytes, prefix: bytes) -> bytes:
    if prefix and not base and _is_below(path, prefix):
        return path  # it knows of the prefix, by X-Forwarded-Prefix
    if _is_below(path, base):
        return prefix + path[len(base) :] or b"/"
    return path


def _is_below(path: bytes, prefix: bytes) -> bool:
    """Whether a path begins with a prefix of whole segments."""
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in b"/?#"
