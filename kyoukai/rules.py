"""
What a head may look like, for every wire, in and out.

The parsers leave much to the server (RFC 9110, RFC 9112 section 3, RFC 9113 section 8.1.1). These
rules are the one place that decides it: a backend hands in what it has parsed, and the status and
headers of every interface pass ``check_response_head`` on the way out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from kyoukai.exceptions import InvalidResponse, ProtocolError

__all__ = (
    "CONTENT_DIGESTS",
    "DIGESTS",
    "FORWARDED",
    "HOP_BY_HOP",
    "REPRESENTATION_FIELDS",
    "Header",
    "apply_forwarded",
    "bodyless",
    "check_authority",
    "check_response_head",
    "check_trailers",
    "content_length",
    "decode_path",
    "field_name",
    "forwarded_client",
    "is_token",
    "is_trusted",
    "known_names",
    "reason",
    "split_target",
)

Header = tuple[bytes, bytes]

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_REG_NAME = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_SCHEMES = (b"http://", b"https://")

#: Headers by which a proxy tells of its client.
FORWARDED = frozenset(
    (
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
    )
)
#: Headers of an answer that belong to the connection, which is the server's.
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding"))
#: Digests of the bytes that are sent (RFC 9530 section 2), and of all that they belong to.
CONTENT_DIGESTS = ("Content-Digest", "Content-MD5")
DIGESTS = (*CONTENT_DIGESTS, "Digest", "Repr-Digest")
#: Headers that are true of one body, and of no other in its place.
REPRESENTATION_FIELDS = (
    *DIGESTS,
    "Accept-Ranges",
    "Content-Encoding",
    "Content-Location",
    "Content-Range",
    "ETag",
    "Last-Modified",
)
#: Fields that frame or route a message, which a trailer may not (RFC 9110 section 6.5.1).
_NO_TRAILERS = frozenset((b"content-length", b"host", b"transfer-encoding", b"trailer"))


# -- In ----------------------------------------------------------------------------------------

#: Wire names seen before, with their lower-case form; ``b""`` for those that are dropped.
known_names: dict[bytes, bytes] = {}
_NAMES_KEPT = 1024
_NAME_SIZE = 64


def field_name(name: bytes) -> bytes:
    """
    Return a header name in lower case, or ``b""`` for a name that must be dropped.

    Names with an underscore collapse onto the dashed ones in an environ (``X_Forwarded_For``), so
    they go no further, whatever the protocol.
    """
    known = known_names.get(name)
    if known is None:
        known = b"" if b"_" in name else name.lower()
        if len(known_names) < _NAMES_KEPT and len(name) <= _NAME_SIZE:
            known_names[bytes(name)] = known
    return known


#: No name in the DNS is longer than 255 bytes; a colon and a port may follow it.
_AUTHORITY_SIZE = 261


@lru_cache(maxsize=256)
def check_authority(value: bytes) -> str:
    """
    Return the authority (``host`` or ``host:port``), lower case, if it is exactly one valid one.

    :raises ProtocolError: 400, if it is not (RFC 9110 section 7.2, RFC 3986 section 3.2.2)
    """
    try:
        text = value.decode("ascii").lower() if len(value) <= _AUTHORITY_SIZE else ""
    except UnicodeDecodeError:
        text = ""
    host, separator, port = text, "", ""
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        address = host[1:]
        valid = bool(bracket) and (not rest or rest.startswith(":"))
        separator, port = rest[:1], rest[1:]
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            valid = False
        if "%" in address:
            valid = False
    else:
        host, separator, port = text.partition(":")
        valid = _REG_NAME.fullmatch(host) is not None
    if separator and port and not (port.isascii() and port.isdigit() and int(port[:6]) <= 65535):
        valid = False
    if not valid or len(port) > 5:
        raise ProtocolError(400, "The Host is not valid.")
    return text


def split_target(target: bytes, method: str) -> tuple[bytes, bytes, bytes]:
    """
    Split a request target into its authority (``b""`` unless absolute), raw path and query.

    :raises ProtocolError: 400, if it is neither a path, an absolute URI nor ``*`` with OPTIONS
        (RFC 9112 section 3.2)
    """
    if not _TARGET.fullmatch(target):
        raise ProtocolError(400, "The request target is not valid.")
    authority = b""
    if target[:1] != b"/":
        if target == b"*" and method == "OPTIONS":
            return b"", b"*", b""
        lowered = target[:8].lower()
        scheme = next((known for known in _SCHEMES if lowered.startswith(known)), None)
        if scheme is None:
            raise ProtocolError(400, "The request target is not valid.")
        rest = target[len(scheme) :]
        end = next((i for i, char in enumerate(rest) if char in b"/?#"), len(rest))
        authority, target = rest[:end], rest[end:]
        if not authority:
            raise ProtocolError(400, "The request target is not valid.")
        if target[:1] != b"/":
            target = b"/" + target
    path, _, query = target.partition(b"#")[0].partition(b"?")
    return authority, path, query


def decode_path(raw_path: bytes) -> str:
    """Return the path decoded once: percent escapes undone, as UTF-8."""
    if b"%" in raw_path:
        raw_path = unquote_to_bytes(raw_path)
    return raw_path.decode("utf-8", "replace")


def forwarded_client(
    headers: Iterable[Header], trusted: Iterable[str]
) -> tuple[str | None, str | None, str | None]:
    """
    Read what trusted proxies say of the client: address, scheme and host, each None if unsaid.

    ``Forwarded`` (RFC 7239) wins over the ``X-Forwarded-*`` headers, of which the caller leaves
    one kind alone. The address is the last one in the chain that is not itself a trusted proxy's.
    Only http and https are schemes.
    """
    chain: list[str] = []
    scheme = host = None
    found: dict[bytes, list[str]] = {}
    for name, value in headers:
        if name.startswith(b"x-forwarded-") or name == b"forwarded":
            found.setdefault(name, []).extend(
                part.strip() for part in _split(value.decode("latin-1"), ",")
            )
    if b"forwarded" in found:
        for element in found[b"forwarded"]:
            pairs = dict(
                pair.strip().partition("=")[::2] for pair in _split(element, ";") if "=" in pair
            )
            lowered = {key.lower(): value.strip('"') for key, value in pairs.items()}
            if "for" in lowered:
                chain.append(_bare_address(lowered["for"]))
            scheme = lowered.get("proto", scheme)
            host = lowered.get("host", host)
    else:
        chain = [_bare_address(part) for part in found.get(b"x-forwarded-for", ()) if part]
        scheme = next(reversed(found.get(b"x-forwarded-proto", [])), None)
        host = next(reversed(found.get(b"x-forwarded-host", [])), None)
    client = None
    for address in reversed(chain):
        client = address
        if not is_trusted(address, trusted):
            break
    if scheme is not None:
        scheme = scheme.lower() if scheme.lower() in ("http", "https") else None
    return client, scheme, host or None


def _split(text: str, separator: str) -> list[str]:
    """Split a field's value where it is not quoted (RFC 9110 section 5.6.4)."""
    if '"' not in text:
        return text.split(separator)
    parts, start, quoted, escaped = [], 0, False, False
    for position, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == '"':
            quoted = not quoted
        elif quoted:
            escaped = char == "\\"
        elif char == separator:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def apply_forwarded(
    headers: list[Header],
    authority: str,
    client: tuple[str, int] | None,
    scheme: str,
    trusted: tuple[str, ...],
    written: str,
) -> tuple[list[Header], tuple[str, int] | None, str, str]:
    """
    Believe a trusted proxy what it says of the client; from all others, remove it.

    :param headers: the request's headers, host first, with forwarding ones among them
    :param authority: the authority so far
    :param client: the peer; None on a unix socket
    :param scheme: the scheme of the peer's connection
    :param trusted: who is trusted
    :param written: which headers these write: ``x-forwarded`` or ``forwarded``; the others, which
        they may pass on as clients have sent them, are removed
    :return: headers, client, scheme and authority to go on with
    :raises ProtocolError: 400, if the host that it names is not valid
    """
    peer = client[0] if client is not None else "unix"
    if not trusted or not is_trusted(peer, trusted):
        kept = [pair for pair in headers if pair[0] not in FORWARDED]
        return kept, client, scheme, authority
    others = FORWARDED - {b"forwarded"} if written == "forwarded" else {b"forwarded"}
    headers = [pair for pair in headers if pair[0] not in others]
    address, their_scheme, host = forwarded_client(headers, trusted)
    if host is not None:
        authority = check_authority(host.encode("latin-1"))
        headers[0] = (b"host", authority.encode())
    if address is not None:
        client = (address, 0)
    return headers, client, their_scheme or scheme, authority


def is_trusted(address: str, trusted: Iterable[str]) -> bool:
    """Whether an address (or ``unix``) is among the trusted proxies."""
    for entry in trusted:
        if entry == "*" or entry == address:
            return True
        if entry == "unix":
            continue
        try:
            if ipaddress.ip_address(address) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue
    return False


def _bare_address(value: str) -> str:
    """Strip brackets and port off a node of ``X-Forwarded-For`` or ``Forwarded``."""
    if value.startswith("["):
        return value[1:].partition("]")[0]
    if value.count(":") == 1:
        return value.partition(":")[0]
    return value


# -- Out ---------------------------------------------------------------------------------------

_good_names: set[bytes] = set()


def check_response_head(status: int, headers: Iterable[Header]) -> None:
    """
    Check what an application wants to send.

    :raises InvalidResponse: for a status outside 200–599, a name that is no token or a value with
        CR, LF, NUL or another control byte; the message names the header
    """
    if type(status) is not int or not 200 <= status <= 599:
        raise InvalidResponse(f"{status!r} is no status of a final response (200 to 599)")
    _check_fields(headers)


def check_trailers(headers: Iterable[Header]) -> None:
    """
    Check the headers of an interim response, or trailers.

    :raises InvalidResponse: as :func:`check_response_head`, and for a field that frames a message
    """
    _check_fields(headers)
    for name, _ in headers:
        if name.lower() in _NO_TRAILERS:
            raise InvalidResponse(f"{name.decode()!r} may not be a trailer")


def is_token(value: bytes) -> bool:
    """Whether these bytes are a token (RFC 9110 section 5.6.2)."""
    return _TOKEN.fullmatch(value) is not None


def _check_fields(headers: Iterable[Header]) -> None:
    try:
        for name, value in headers:
            if name not in _good_names:
                if not isinstance(name, bytes) or not _TOKEN.fullmatch(name):
                    raise InvalidResponse(f"header name {name!r} is no token")
                if len(_good_names) < _NAMES_KEPT and len(name) <= _NAME_SIZE:
                    _good_names.add(name)
            if not isinstance(value, bytes) or _BAD_VALUE.search(value):
                raise InvalidResponse(
                    f"header {name.decode()!r} has an illegal value {value[:80]!r}"
                )
    except InvalidResponse:
        raise
    except (TypeError, ValueError):
        raise InvalidResponse(f"headers are pairs of bytes, not {headers!r:.80}") from None


def bodyless(method: str, status: int) -> bool:
    """
    Whether a response has no body on the wire, whatever is sent (RFC 9110 section 6.4.1).

    One with 205 must not have any either (section 15.3.6), but it needs a Content-Length of 0.
    """
    return method == "HEAD" or status in (204, 205, 304)


def content_length(method: str, status: int, declared: int | None, size: int) -> int | None:
    """
    Return the Content-Length of a whole answer; None if it has none (RFC 9110 section 8.6).

    :param method: the request's method
    :param status: the answer's status
    :param declared: what the application says
    :param size: bytes of its body, which need not be sent
    :raises InvalidResponse: if both are to be sent, and differ
    """
    if status == 204:
        return None
    if status == 205:
        return 0
    if bodyless(method, status):
        return size if declared is None and (size or status != 304) else declared
    if declared is not None and declared != size:
        raise InvalidResponse(f"the body has {size} bytes, its Content-Length says {declared}")
    return size


_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_REASONS[413] = b"Content Too Large"  # RFC 9110's names, which older Pythons lack
_REASONS[422] = b"Unprocessable Content"


def reason(status: int) -> bytes:
    """Return the reason phrase of a status, empty for an unknown one."""
    return _REASONS.get(status, b"")
