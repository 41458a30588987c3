"""
HTTP/1.1 (RFC 9112) on httptools.

httptools cannot pause, and its errors do not say where they were. So the parser never sees more
than one message: between messages it gets bytes up to the next blank line, then the body by its
remaining length, or, chunked, up to the next blank line again. What it accepts and should not is
refused by ``_open_stream`` and :mod:`kyoukai.rules`.

Requests of one connection are parsed ahead (``max_pipelined``) but answered one after the other,
in order. An error is answered in its turn too, and ends the connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httptools

from kyoukai.backends.base import NEVER
from kyoukai.backends.connections import Component
from kyoukai.backends.http1 import H1State, answer_refusal
from kyoukai.backends.http1_body import BODY, CHUNKED, DROPPED, HEAD, HELD, TUNNEL
from kyoukai.backends.http1_heads import REFUSED, HeadMemory, framing_of
from kyoukai.backends.http1_upgrade import Http2Entrance
from kyoukai.exceptions import ProtocolError
from kyoukai.rules import (
    FORWARDED,
    check_authority,
    decode_path,
    field_name,
    known_names,
    split_target,
)
from kyoukai.stream import CLOSED, RequestHead

if TYPE_CHECKING:
    from asphalt.core import Context

__all__ = ("PROTOCOL_CLASS", "HttpToolsProtocol")
PROTOCOL_CLASS = "HttpToolsProtocol"

#: What a request line starts with; anything else, such as a TLS handshake, is refused at once.
_FIRST_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_P = ord("P")
#: Headers that decide the framing or the connection's fate.
_SPECIAL = FORWARDED | {
    b"connection",
    b"content-length",
    b"expect",
    b"host",
    b"proxy-connection",
    b"transfer-encoding",
    b"upgrade",
}

_VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
_methods: dict[bytes, str] = {}


class HttpToolsProtocol(Http2Entrance):
    """
    One HTTP/1.x connection.

    :param component: what it serves
    :param parent_context: the Asphalt context of its requests' contexts
    """

    __slots__ = (
        "_blank",
        "_dropped",
        "_fed",
        "_keep_alive",
        "_max_head_size",
        "_max_headers",
        "_max_requests",
        "_max_target_size",
        "_memory",
        "_requests",
        "_root_path",
        "_searched",
        "_special",
        "_target",
        "_timed",
        "_twice",
        "_version",
    )

    def __init__(self, component: Component, parent_context: Context | None = None) -> None:
        super().__init__(component, parent_context)
        self._target = self._version = b""
        self._special: dict[bytes, bytes] = {}
        self._twice = False
        # Bytes of the head that were fed, blank lines before it, whether its time runs.
        self._fed = 0
        self._blank = 0
        self._searched = 0
        self._timed = False
        self._requests = 0
        self._dropped = False
        self._keep_alive = component.config.keep_alive_timeout
        self._max_head_size = component.config.max_head_size
        self._max_headers = component.config.max_headers
        self._root_path = component.config.root_path
        self._max_requests = component.config.max_requests_per_connection
        self._max_target_size = component.config.max_target_size
        self._memory = HeadMemory(component.config.max_target_size)

    # -- Transport callbacks -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected: its first head is due."""
        super().connection_made(transport)
        if self.is_lost:  # refused, or handed over
            self._phase = DROPPED
        else:
            self.set_read_deadline(self.config.header_timeout)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._phase is TUNNEL:
            self.tunnelled(data)
            return
        # The common case: one whole head, no body, and nothing before it.
        if (
            self._phase is HEAD
            and not (self._buffer or self._fed or self._streams)
            and len(data) <= self._max_head_size
        ):
            head = self._memory.recall(data)
            if head is not None:
                stream = H1State(head, self)
                stream.receiving = CLOSED
                self._read_deadline = NEVER
                self._blank = 0
                self.enqueue(stream)
                return
            if (
                data.find(b"\r\n\r\n") == len(data) - 4 > 0
                and data[0] in _FIRST_BYTES
                and (self._version or data[0] != _P)  # it may be an HTTP/2 preface
            ):
                self._feed_head(data, True)
                return
        self._buffer += data
        self._parse()

    def eof_received(self) -> bool:
        """
        The client sends no more.

        :return: whether the transport stays open: over TCP, for the answers that are due
        """
        if self._phase is TUNNEL and not self._lingering:
            return self.tunnel_ended()
        if self.tls is not None or self._lingering:
            return False
        self.input_closed()
        self._read_deadline = NEVER
        return self._cut_short()

    def _cut_short(self) -> bool:
        """
        No more will come: drop a request that is not whole.

        :return: whether answers are due to requests before it
        """
        incoming = self._incoming
        if incoming is not None and self._phase is not DROPPED:
            self._incoming = None
            self._phase = DROPPED
            if self._streams[0] is incoming:
                return False  # the request in progress: a disconnect
            self.lose(self._streams.pop())
        return bool(self._streams) and self._streams[0].sending is not CLOSED

    # -- Bytes to requests ---------------------------------------------------------------------

    def _parse(self) -> None:
        """Feed the parser, one message at a time, as far as there is room for requests."""
        if self._parsing:
            return
        self._parsing = True
        buffer = self._buffer
        try:
            while buffer and not self.is_lost:
                if self._phase is HEAD:
                    if len(self._streams) >= self.config.max_pipelined:
                        break
                    if not self._parse_head(buffer):
                        break
                elif self._phase is BODY:
                    data = bytes(memoryview(buffer)[: self._remaining])
                    del buffer[: self._remaining]
                    self._remaining -= len(data)
                    self._parser.feed_data(data)
                    self._deliver()
                    if self._message_done:
                        self._message_complete()
                elif self._phase is CHUNKED:
                    end = self._chunked_end(buffer)
                    data = bytes(memoryview(buffer)[:end])
                    del buffer[:end]
                    self._feed_chunks(data)
                elif self._phase is DROPPED:
                    self._dropped = True
                    buffer.clear()
                else:
                    break
        finally:
            self._parsing = False
        if self._half_closed and not self._cut_short():
            self.close()
        else:
            self._check_reading()

    def _parse_head(self, buffer: bytearray) -> bool:
        """Feed the next whole lines of a head; False if none is there yet."""
        config = self.config
        if not self._fed:
            if not self._version and buffer[0] == _P and self.begins_http2(buffer):
                return False
            if buffer[0] in b"\r\n":  # blank lines before a request (RFC 9112 section 2.2)
                size = len(buffer) - len(buffer.lstrip(b"\r\n"))
                del buffer[:size]
                self._blank += size
                if self._blank > config.max_head_size:
                    self._refuse(431, "The request is preceded by too many blank lines.")
                return True
            if buffer[0] not in _FIRST_BYTES:
                self._refuse(400, "The request line is not valid.")
                return True
        whole = True
        if self._fed and buffer.startswith(b"\r\n"):
            end = 2  # the lines before it have been fed
        elif (end := buffer.find(b"\r\n\r\n", max(0, self._searched - 3))) >= 0:
            end += 4
        else:
            whole = False
            # Whole lines are fed as they come, so that a broken one is answered at once.
            end = buffer.rfind(b"\n", self._searched) + 1
        if not self._fed and (end or len(buffer)) > config.max_target_size:
            line = buffer.find(b"\n") if end else len(buffer)
            if line > config.max_target_size + len("OPTIONS  HTTP/1.1\r") + 9:
                self._refuse(414, "The request target is too long.")
                return True
        if self._fed + (end or len(buffer)) > config.max_head_size:
            self._refuse(431, "The request's head is too large.")
            return True
        if end:
            data = bytes(memoryview(buffer)[:end])
            del buffer[:end]
            self._searched = 0
            self._feed_head(data, whole)
        else:
            self._searched = len(buffer)
        if (self._fed or not end) and not self._timed and self._phase is HEAD:
            self._timed = True
            self.set_read_deadline(config.header_timeout)
        return bool(end)

    def _feed_head(self, data: bytes, whole: bool) -> None:
        upgrade = False
        fresh = not self._version
        if not self._fed:  # the parser knows other protocols than HTTP, and does not say which
            end = data.find(b"\r\n")
            self._version = data[end - 8 : end] if end >= 8 else b""
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            upgrade = True
        except httptools.HttpParserError:
            if fresh and self.hang_up(data):
                return
            self._refuse(400, "The request is malformed.")
            return
        try:
            if len(self._target) > self._max_target_size:
                raise ProtocolError(414, "The request target is too long.")
            if len(self._headers) > self._max_headers:
                raise ProtocolError(431, "The request has too many headers.")
            if whole:
                self._open_stream(upgrade, data)
        except ProtocolError as error:
            self._refuse(error.status, error.detail)

    def _open_stream(self, upgrade: bool, data: bytes) -> None:
        """
        A head is complete: apply the rules, decide the framing, start the stream.

        :param upgrade: whether the parser stopped for an upgrade
        :param data: the head, or its last part
        """
        in_one_piece = self._fed == len(data)
        parser, special, headers, target = self._parser, self._special, self._headers, self._target
        name = parser.get_method()
        method = _methods.get(name) or _methods.setdefault(name, name.decode())
        version = _VERSIONS.get(self._version)
        if version is None:
            http = self._version.startswith(b"HTTP/")
            raise ProtocolError(505 if http else 400, "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
        if method in REFUSED:
            raise ProtocolError(*REFUSED[method])
        if target[0] == 47 and b"#" not in target:  # "/path?query", as nearly always
            absolute = b""
            raw_path, _, query = target.partition(b"?")
        else:
            absolute, raw_path, query = split_target(target, method)

        # Exactly one valid host; that of an absolute target wins (RFC 9112 section 3.2).
        if self._twice:
            raise ProtocolError(400, "A header that must be single came twice.")
        host = special.get(b"host")
        if host is not None:
            authority = check_authority(host)
            if absolute:
                authority = check_authority(absolute)
                host = absolute
            if headers[0][0] != b"host" or absolute:
                headers = [pair for pair in headers if pair[0] != b"host"]
                headers.insert(0, (b"host", host))
        elif version == "1.1":
            raise ProtocolError(400, "The Host is missing.")
        else:
            authority = check_authority(absolute) if absolute else self.own_authority()
            headers.insert(0, (b"host", authority.encode()))

        closes, protocol, chunked, length, expect = framing_of(special, version)
        scheme, client = self.scheme, self.client
        if not FORWARDED.isdisjoint(special):
            headers, client, scheme, authority = self.apply_forwarded(headers, authority)

        if self._max_requests:
            self._requests += 1
            closes = closes or self._requests >= self._max_requests
        stream = H1State(
            RequestHead(
                method,
                target,
                raw_path,
                decode_path(raw_path) if b"%" in raw_path else raw_path.decode(),
                query,
                scheme,
                authority,
                version,
                headers,
                length,
                protocol,
                client,
                self.server,
                self.tls,
                self._root_path,
            ),
            self,
            closes,
        )
        self._reset_head()
        if upgrade:
            self.new_parser(chunked, length)
        h2c = protocol is not None and self.weigh_upgrade(stream, expect, chunked or bool(length))
        if chunked or length:
            self._start_body(stream, chunked, length or 0, expect)
            if h2c:
                self.hold(stream)
                return
        else:
            stream.receiving = CLOSED
            self._read_deadline = NEVER
            ordinary = version == "1.1" and not (
                closes or protocol or expect or absolute or upgrade
            )
            if ordinary and in_one_piece and length is None and not self._max_requests:
                self._memory.remember(data, stream.head)
            if h2c and self.take_upgrade(stream):
                return
            if protocol is not None and stream.upgradable:
                self._phase = HELD
            elif closes:
                self._phase = DROPPED
        self.enqueue(stream)

    def _reset_head(self) -> None:
        self._fed = self._blank = 0
        self._message_done = self._timed = False
        self._target = b""
        self._headers = []
        self._special = {}

    # -- Time-outs -----------------------------------------------------------------------------

    def read_timed_out(self) -> None:
        """A head, a body or the next request is late."""
        stream = self._incoming
        if self._lingering:
            self.lingered()
        elif stream is not None:
            if stream.sending is CLOSED:
                self.linger()
            else:
                self._check_rate(stream)
        elif self._streams:
            pass  # answers are due first; the head that is late gets its time after them
        elif self._fed or self._buffer:
            self._refuse(408, "The request's head took too long.")
        else:
            self.close()

    # -- Parser callbacks ----------------------------------------------------------------------
    # An exception in one of these would leave feed_data in disguise: nothing is decided here.

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or after the head, a trailer."""
        known = known_names.get(name)
        if known is None:
            known = field_name(name)
        value = value.rstrip(b" \t")
        if self._incoming is not None:
            self._trailer_bytes += len(name) + len(value) + 4
            if known in _SPECIAL:
                return
        elif known in _SPECIAL:
            before = self._special.get(known)
            if before is not None:
                if known == b"host" or known == b"transfer-encoding":
                    self._twice = True
                self._special[known] = before + b", " + value
            else:
                self._special[known] = value
        if known:
            self._headers.append((known, value))

    def _refuse(self, status: int, detail: str) -> None:
        """The bytes make no request: say so after the answers that are due, and close."""
        target = self._target[:1024] or b"-"
        method = self._parser.get_method().decode() if self._target else "-"
        stream = H1State(
            RequestHead(
                method, target, target, "", b"", self.scheme, "", "1.1", [], client=self.client
            ),
            self,
        )
        stream.refused = (status, detail)
        stream.interface = answer_refusal
        stream.closes = True
        stream.receiving = CLOSED
        self._phase = DROPPED
        self._dropped = True
        self._read_deadline = NEVER
        self._buffer.clear()
        self._reset_head()
        self.enqueue(stream)

    # -- What the answering half asks ----------------------------------------------------------

    def is_idle(self) -> bool:
        """Whether no request is in progress, not even in part."""
        return not (self._streams or self._buffer or self._fed)

    def input_left(self) -> bool:
        """Whether anything came that no request was made of."""
        return self._dropped or bool(self._buffer)

    def next_request(self) -> None:
        """An exchange is complete: go on with what has come, or wait for the next request."""
        if self._phase is HELD:
            self.release_input()
        if self._buffer:
            self._parse()
        if self._streams or self._phase is not HEAD:
            return
        if self._timed:
            self.set_read_deadline(self.config.header_timeout)
        elif self.closing:
            self.shutdown()
        else:
            self._read_deadline = deadline = self.loop.time() + self._keep_alive
            if deadline < self._timer_at:
                self._arm(deadline)

    def drop_input(self) -> None:
        """Make no more requests of what comes."""
        self._phase = DROPPED
        self._incoming = None
        self._buffer.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        super().connection_lost(exc)
        del self._parser  # each refers to the other
