"""
Heads of HTTP/1.x requests: what decides their framing, and what a connection remembers of them.

A client sends the same headers again and again. Where they are byte for byte those of an earlier
request on the connection, which the parser and the rules have accepted, and the request line is
an ordinary one, the head is that request's with another target: the parser is not asked again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kyoukai.exceptions import ProtocolError
from kyoukai.rules import decode_path
from kyoukai.stream import RequestHead

__all__ = ("REFUSED", "Framing", "HeadMemory", "chosen_upgrade", "framing_of", "token_as_sent")


#: Methods that are no requests to this server.
REFUSED = {
    "CONNECT": (405, "This server is no proxy."),
    "PRI": (505, "HTTP/2 is not spoken here."),
}


class Framing(NamedTuple):
    """
    What a request's headers say of its body and its connection.

    :param closes: whether the connection closes after the answer
    :param protocol: what upgrades it asks for, in lower case
    :param chunked: whether the body is chunked
    :param length: its Content-Length
    :param expect: whether the client waits for ``100 Continue``
    """

    closes: bool
    protocol: str | None = None
    chunked: bool = False
    length: int | None = None
    expect: bool = False


#: By far the most frequent ones.
_PLAIN = {"1.1": Framing(False), "1.0": Framing(True)}


def framing_of(special: Mapping[bytes, bytes], version: str) -> Framing:
    """
    Read the headers that decide over the body and the connection (RFC 9112 section 6 and 9).

    :param special: these headers
    :param version: ``1.0`` or ``1.1``
    :raises ProtocolError: if they make no sense, or ask for what is not done here
    """
    plain = _PLAIN[version]
    if len(special) <= 1 and (not special or b"host" in special):
        return plain
    closes = plain.closes
    length = protocol = None
    chunked = False
    if b"connection" in special:
        options = [part.strip() for part in special[b"connection"].lower().split(b",")]
        if b"close" in options:
            closes = True
        elif b"keep-alive" in options:
            closes = False
        if b"upgrade" in options and b"upgrade" in special and version == "1.1":
            protocol = special[b"upgrade"].decode("latin-1").lower()
    if b"close" in special.get(b"proxy-connection", b"").lower():
        closes = True  # it means nothing any more (RFC 9112 appendix C.2.2), but to the parser
    if b"transfer-encoding" in special:
        if version == "1.0":
            raise ProtocolError(400, "HTTP/1.0 has no Transfer-Encoding.")
        if special[b"transfer-encoding"].lower() != b"chunked":
            raise ProtocolError(501, "The only Transfer-Encoding here is 'chunked'.")
        chunked = True
    elif b"content-length" in special:
        length = int(special[b"content-length"])
    expect = special.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise ProtocolError(417, "The only expectation met here is '100-continue'.")
    return Framing(closes, protocol, chunked, length, expect is not None)


def chosen_upgrade(head: RequestHead, tokens: Sequence[str]) -> str | None:
    """
    Return which of the upgrades that a request offers is to be had; if none is, what it offers.

    It is the first one that may be, but a WebSocket comes before all others. None stands for a
    WebSocket that may not be: the request is then the ordinary one that it is otherwise.

    :param head: the request's head, whose protocol is all that it offers
    :param tokens: those that may be
    """
    offered = head.protocol or ""
    offers = [each.strip() for each in offered.split(",")]
    if "websocket" in offers:
        if "websocket" not in tokens:
            return next((each for each in offers if each in tokens), None)
        if head.method == "GET" or offered == "websocket":
            return "websocket"
    return next((each for each in offers if each in tokens and each != "websocket"), offered)


def token_as_sent(head: RequestHead) -> bytes:
    """Return the token of a request's upgrade as its client has written it."""
    token = (head.protocol or "").encode("latin-1")
    for name, value in head.headers:
        if name == b"upgrade":
            for each in value.split(b","):
                if each.strip().lower() == token:
                    return each.strip()
    return token


#: Header sections that a connection remembers, how long each may be, and of how many headers.
_SECTIONS = 4
_SECTION_FIELDS = 40
_SECTION_SIZE = 2048

#: A request line that needs no closer look: no body is expected with these methods, and these
#: are the characters of RFC 3986. All others go to the parser.
_LINE = re.compile(
    rb"(GET|HEAD|DELETE) "
    rb"((/[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*)(?:\?([A-Za-z0-9\-._~!$&'()*+,;=:@%/?]*))?) HTTP/1\.1"
)
#: How long a request line may be to be remembered.
_LINE_SIZE = 256
_METHODS = {b"GET": "GET", b"HEAD": "HEAD", b"DELETE": "DELETE"}


class HeadMemory:
    """
    What a connection remembers.

    :param max_target_size: bytes of a target; a request line of more goes to the parser
    """

    __slots__ = ("_known", "_line", "_max_target_size", "_parts")

    def __init__(self, max_target_size: int) -> None:
        self._known: dict[bytes, RequestHead] = {}
        # The last request line, and what it says: method, target, raw path, path, query.
        self._line = b""
        self._parts = ("", b"", b"", "", b"")
        self._max_target_size = max_target_size

    def remember(self, data: bytes, head: RequestHead) -> None:
        """
        Keep the head of a request.

        :param data: its bytes, from the request line to the blank line
        :param head: what was made of it; it has no body, and the connection stays
        """
        section = data[data.find(b"\r\n") :]
        if len(section) <= _SECTION_SIZE and len(head.headers) <= _SECTION_FIELDS:
            if len(self._known) >= _SECTIONS:
                del self._known[next(iter(self._known))]
            self._known[section] = head.copy()

    def recall(self, data: bytes) -> RequestHead | None:
        """
        Return the head of a request, if its headers are known and its line is an ordinary one.

        :param data: its bytes, from the request line to the blank line
        """
        end = data.find(b"\r\n")
        if len(data) - end > _SECTION_SIZE or end > self._max_target_size:
            return None
        other = self._known.get(data[end:])
        if other is None:
            return None
        line = data[:end]
        if line != self._line:
            match = _LINE.fullmatch(line)
            if match is None:
                return None
            method, target, raw_path, query = match.groups()
            path = decode_path(raw_path) if b"%" in raw_path else raw_path.decode()
            self._parts = (_METHODS[method], target, raw_path, path, query or b"")
            self._line = line if end <= _LINE_SIZE else b""
        name, target, raw_path, path, query = self._parts
        return RequestHead(
            name,
            target,
            raw_path,
            path,
            query,
            other.scheme,
            other.authority,
            "1.1",
            other.headers.copy(),
            None,
            None,
            other.client,
            other.server,
            other.tls,
            other.root_path,
        )
