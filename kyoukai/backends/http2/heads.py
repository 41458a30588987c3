"""
Request heads on HTTP/2: from fields to a :class:`RequestHead` (RFC 9113 section 8.3).

The rules of :mod:`kyoukai.rules` are the same as for HTTP/1.1. What would be answered 400 there is
a malformed request here, which is a stream error (section 8.1.1); any other status is answered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kyoukai.exceptions import ProtocolError
from kyoukai.rules import FORWARDED, check_authority, decode_path, split_target
from kyoukai.stream import RequestHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kyoukai.backends.base import BaseProtocol
    from kyoukai.rules import Header

__all__ = ("check_trailer_fields", "head_with_path", "refused_head", "request_head")

_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PATH = re.compile(rb"/[\x21\x22\x24-\x7e\x80-\xff]*")

#: Fields of a connection, which HTTP/2 has other means for (RFC 9113 section 8.2.2).
_FORBIDDEN = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_SPECIAL = FORWARDED | {b"content-length", b"cookie", b"expect", b"host", b"te"}

_ORDINARY, _APART, _DROPPED = range(3)
_names: dict[bytes, int] = {}
_NAMES_KEPT = 1024
_NAME_SIZE = 64
_methods = {b"GET": "GET", b"POST": "POST", b"HEAD": "HEAD", b"PUT": "PUT"}


def _malformed(detail: str) -> ProtocolError:
    return ProtocolError(400, detail)


def _kind(name: bytes) -> int:
    """Return what is to be done with a field of that name, and remember it."""
    if not _NAME.fullmatch(name) or name in _FORBIDDEN:
        raise _malformed("A field name is not valid.")
    # Names with an underscore collapse onto the dashed ones in an environ, so they go no further.
    kind = _DROPPED if b"_" in name else _APART if name in _SPECIAL else _ORDINARY
    if len(_names) < _NAMES_KEPT and len(name) <= _NAME_SIZE:
        _names[name] = kind
    return kind


def request_head(fields: Sequence[Header], protocol: BaseProtocol) -> RequestHead:
    """
    Apply the rules to a request's fields.

    :param fields: as they were decoded, pseudo-header fields among them
    :param protocol: the connection, for its client, its server and its settings
    :raises ProtocolError: with 400 for a malformed request, or with the status that answers it
    """
    pseudo: dict[bytes, bytes] = {}
    special: dict[bytes, bytes] = {}
    headers: list[Header] = [(b"host", b"")]  # in the first place; its value comes below
    regular = False
    for name, value in fields:
        if name[:1] == b":":
            if regular or name not in _PSEUDO or name in pseudo:
                raise _malformed("A pseudo-header field is unknown, late or there twice.")
            pseudo[name] = value
            continue
        regular = True
        kind = _names.get(name)
        if kind is None:
            kind = _kind(name)
        if not _VALUE.fullmatch(value):
            raise _malformed("A field value is not valid.")
        if kind == _ORDINARY:
            headers.append((name, value))
        elif kind == _APART:
            before = special.get(name)
            special[name] = value if before is None else _join(name, before, value)
            if before is None or name in FORWARDED:
                headers.append((name, value))

    method_bytes = pseudo.get(b":method", b"")
    method = _methods.get(method_bytes)
    if method is None:
        if not _METHOD.fullmatch(method_bytes):
            raise _malformed("The method is missing or not valid.")
        method = method_bytes.decode()
        if method == "CONNECT" and b":protocol" not in pseudo:
            if b":scheme" in pseudo or b":path" in pseudo:
                raise _malformed("CONNECT has no scheme and no path.")
            check_authority(pseudo.get(b":authority", b""))
            raise ProtocolError(405, "This server is no proxy.")
    protocol_name = None
    if b":protocol" in pseudo:  # extended CONNECT (RFC 8441 section 4)
        if method != "CONNECT":
            raise _malformed("Only CONNECT has a protocol.")
        protocol_name = pseudo[b":protocol"].decode("latin-1").lower()
    if pseudo.get(b":scheme", b"").lower() not in (b"http", b"https"):
        raise _malformed("The scheme is missing or not valid.")
    target = pseudo.get(b":path", b"")
    if len(target) > protocol.config.max_target_size:
        raise ProtocolError(414, "The request target is too long.")
    if _PATH.fullmatch(target):  # as nearly always
        raw_path, _, query = target.partition(b"?")
    elif target[:1] in (b"/", b"*"):
        _, raw_path, query = split_target(target, method)
    else:
        raise _malformed("The path is missing or not valid.")

    host = pseudo.get(b":authority")
    if special:
        named = special.get(b"host")
        if named is not None:
            headers = [pair for pair in headers if pair[0] != b"host"]
            headers.insert(0, (b"host", named))
            if host and host.lower() != named.lower():
                raise _malformed("The authority and the host differ.")
            host = host or named
    if not host:
        raise _malformed("The authority is missing.")
    authority = check_authority(host)
    headers[0] = (b"host", host)

    if protocol_name is not None and protocol_name not in protocol.config.upgrade_tokens:
        raise ProtocolError(501, "CONNECT does not open that protocol here.")
    length = None
    scheme, client = protocol.scheme, protocol.client
    if special:
        declared = special.get(b"content-length")
        if declared is not None and protocol_name is None:  # a tunnel's bytes are no body
            if not declared.isdigit() or len(declared) > 19:
                raise _malformed("The Content-Length is not valid.")
            length = int(declared)
        if b"cookie" in special:  # it may come in pieces (section 8.2.3)
            whole = (b"cookie", special[b"cookie"])
            headers = [whole if pair[0] == b"cookie" else pair for pair in headers]
        expect = special.get(b"expect")
        if expect is not None and expect.lower() != b"100-continue":
            raise ProtocolError(417, "The only expectation met here is '100-continue'.")
        if special.get(b"te", b"trailers").lower() != b"trailers":
            raise _malformed("TE may only be 'trailers'.")
        if not FORWARDED.isdisjoint(special):
            headers, client, scheme, authority = protocol.apply_forwarded(headers, authority)

    return RequestHead(
        method,
        target,
        raw_path,
        decode_path(raw_path),
        query,
        scheme,
        authority,
        "2",
        headers,
        length,
        protocol_name,
        client,
        protocol.server,
        protocol.tls,
        protocol.config.root_path,
    )


def head_with_path(other: RequestHead, target: bytes) -> RequestHead | None:
    """
    Return a head that differs from another one in nothing but its path.

    :param other: the other one
    :param target: the path, with the query
    :return: None if the path is not an ordinary one
    """
    if not _PATH.fullmatch(target) or other.method == "OPTIONS":
        return None
    head = other.copy()
    head.target = target
    head.raw_path, _, head.query = target.partition(b"?")
    head.path = decode_path(head.raw_path)
    return head


def _join(name: bytes, before: bytes, value: bytes) -> bytes:
    """Join a field that came twice, where that may be."""
    if name == b"cookie":
        return before + b"; " + value
    if name == b"host" or (name == b"content-length" and before != value):
        raise _malformed("A field that must be single came twice.")
    if name == b"content-length":
        return value
    return before + b", " + value


def refused_head(fields: Sequence[Header], protocol: BaseProtocol) -> RequestHead:
    """Return a head to log and to answer, of a request that the rules refuse."""
    found = dict(fields)
    target = found.get(b":path", b"-")[:1024]
    method = found.get(b":method", b"-").decode("ascii", "replace")
    return RequestHead(
        method, target, target, "", b"", protocol.scheme, "", "2", [], client=protocol.client
    )


def check_trailer_fields(fields: Sequence[Header]) -> list[Header]:
    """
    Apply the rules to trailers.

    :return: those that go on
    :raises ProtocolError: 400, if they are malformed
    """
    kept = []
    for name, value in fields:
        kind = _names.get(name)
        if kind is None:
            kind = _kind(name)  # which also refuses pseudo-header fields (section 8.1)
        if not _VALUE.fullmatch(value):
            raise _malformed("A trailer is not valid.")
        if kind == _ORDINARY:
            kept.append((name, value))
    return kept
