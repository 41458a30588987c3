"""
Every error that Kyoukai raises, in one tree::

    KyoukaiError
    ├── ConfigurationError          a setting, an address, a certificate or a YAML key is wrong
    │   └── TargetError             an application target cannot be imported or is no application
    │       └── UnknownKindError    nothing tells what kind of application it is
    ├── InterfaceError              a hosted application broke the rules of its interface
    ├── RouteError                  a route, a blueprint or an endpoint is declared wrongly
    ├── StreamError                 something about one request and its response
    │   ├── PeerGone                the client left (also a ConnectionError)
    │   ├── BodyError               the request's body cannot be had; carries an HTTP status
    │   │   ├── BodyTooLarge        413
    │   │   ├── BodyTimeout         408
    │   │   ├── BodyMalformed       400
    │   │   └── BodyStorageError    507
    │   ├── BodyNotReady            a synchronous read of a body that is not complete
    │   ├── StreamStateError        a message out of order: two heads, data after the end
    │   ├── InvalidResponse         the application's head breaks HTTP
    │   └── WebSocketDisconnected   a WebSocket is closed or lost (also a ConnectionError)
    ├── PayloadTypeError            a message is text where bytes were asked for, or the reverse
    ├── MediaError                  something cannot be read or written as its media type
    ├── OperationNotAllowed         a WebSocket is not in the state for this
    ├── ProtocolError               the client's bytes break HTTP; carries an HTTP status
    ├── UpstreamError               a proxy's server fails, or cannot be reached; carries a status
    │   ├── UpstreamTimeout         504
    │   └── UpstreamBusy            503
    └── ExpectingNoResponse         a handler has taken the connection over
"""

from __future__ import annotations

__all__ = (
    "BodyError",
    "BodyMalformed",
    "BodyNotReady",
    "BodyStorageError",
    "BodyTimeout",
    "BodyTooLarge",
    "ConfigurationError",
    "ExpectingNoResponse",
    "InterfaceError",
    "InvalidResponse",
    "KyoukaiError",
    "MediaError",
    "OperationNotAllowed",
    "PayloadTypeError",
    "PeerGone",
    "ProtocolError",
    "RouteError",
    "StreamError",
    "StreamStateError",
    "TargetError",
    "UnknownKindError",
    "UpstreamBusy",
    "UpstreamError",
    "UpstreamTimeout",
    "WebSocketDisconnected",
)


class KyoukaiError(Exception):
    """The root of every error that Kyoukai raises."""


class ConfigurationError(KyoukaiError, ValueError):
    """A setting is wrong. The message is one line that names the setting to change."""


class TargetError(ConfigurationError):
    """An application target (``module:attribute``) leads to nothing that can be served."""


class UnknownKindError(TargetError):
    """Nothing tells what kind of application it is: its interface must be named."""


class InterfaceError(KyoukaiError, RuntimeError):
    """
    A hosted application broke a rule of its interface: a message out of order, of a wrong type, …

    It is raised where the application called, and logged if the application lets it through.

    :param rule: what it did and what the interface asks for, in one line
    """


class RouteError(KyoukaiError):
    """A route, a blueprint or an endpoint is declared in a way that cannot work."""


class StreamError(KyoukaiError):
    """Something went wrong on one stream: a request and its response."""


class PeerGone(StreamError, ConnectionError):
    """The client is gone: it closed, reset or stalled beyond the time limit."""

    def __init__(self, message: str = "the client is gone") -> None:
        super().__init__(message)


class BodyError(StreamError):
    """
    The request's body cannot be had.

    :param message: what happened, for the log and the error page
    """

    #: The HTTP status that answers this error.
    status: int = 400


class BodyTooLarge(BodyError):
    """
    The body is longer than its limit (RFC 9110 section 15.5.14).

    :param limit: the limit, in bytes
    """

    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes")
        self.limit = limit


class BodyTimeout(BodyError):
    """The body arrives more slowly than ``min_body_rate`` (RFC 9110 section 15.5.9)."""

    status = 408


class BodyMalformed(BodyError):
    """The body's framing is broken, or it ended early (RFC 9112 section 8)."""

    status = 400


class BodyStorageError(BodyError):
    """The body cannot be spooled to ``body_spool_dir``: disk full, no right to write."""

    status = 507


class BodyNotReady(StreamError, RuntimeError):
    """
    A synchronous read on the event loop of a body that has not arrived completely.

    Routes declared with ``stream=True`` read with ``await request.read_async()`` or
    ``async for chunk in request.chunks()``.
    """


class StreamStateError(StreamError, RuntimeError):
    """A message out of order: a second head, data before the head or after the end."""


class InvalidResponse(StreamError, ValueError):
    """A status, a header name or a header value that may not go onto the wire."""


class WebSocketDisconnected(StreamError, ConnectionError):
    """
    A WebSocket is closed, or its client is gone (RFC 6455 section 7.1.5).

    :param code: the close code: the client's, 1005 if it sent none, 1006 if it was lost without
        a Close frame, or ours if we closed
    :param reason: the reason that came with it
    """

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(f"the WebSocket is closed: {code}" + (f" ({reason})" if reason else ""))
        self.code = code
        self.reason = reason


class PayloadTypeError(KyoukaiError, TypeError):
    """A WebSocket message is text where bytes were asked for, or the reverse."""


class MediaError(KyoukaiError, ValueError):
    """
    Something cannot be read or written as its media type.

    For JSON text that cannot be read, it is a ``json.JSONDecodeError`` too.

    :param message: what is wrong
    :param payload_type: of what: ``text`` or ``binary`` of a WebSocket message, or a body's
        content type
    :param received: whether it came from the client, so that it is the client's fault
    """

    def __init__(self, message: str, payload_type: str, received: bool) -> None:
        super().__init__(message)
        self.payload_type = payload_type
        self.received = received


class OperationNotAllowed(KyoukaiError, RuntimeError):
    """A WebSocket is not in the state for what was asked of it."""


class ProtocolError(KyoukaiError):
    """
    The client's bytes break the protocol.

    :param status: the HTTP status to answer with
    :param detail: one sentence for the error page, without the client's bytes
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class UpstreamError(KyoukaiError):
    """
    A server that a proxy passes requests on to cannot be reached, or does not answer in HTTP.

    :param message: what happened, for the log
    """

    #: The HTTP status that answers this error.
    status: int = 502


class UpstreamTimeout(UpstreamError):
    """The server has not answered within ``connect_timeout`` or ``read_timeout``."""

    status = 504


class UpstreamBusy(UpstreamError):
    """A proxy may have no more connections to a server, or this machine has no room for one."""

    status = 503


class ExpectingNoResponse(KyoukaiError):
    """Leaves ``get_response`` when a handler has taken the connection over."""
