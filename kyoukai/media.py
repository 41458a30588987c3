"""
Media: objects as the payloads of WebSocket messages, and as bodies of HTTP.

A handler turns an object into a payload (``serialize``) and back (``deserialize``). WebSockets have
a table of handlers by payload type, HTTP has one by content type. Whatever fails in a handler, the
application's own included, becomes a ``MediaError`` that names the type of the payload.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from enum import Enum
from types import CoroutineType
from typing import Any, TypeAlias

import msgspec

from kyoukai.exceptions import MediaError

__all__ = (
    "BaseHandler",
    "BinaryBaseHandlerWS",
    "JSONHandler",
    "JSONHandlerWS",
    "JSONMediaError",
    "MediaHandlers",
    "MessagePackHandler",
    "MessagePackHandlerWS",
    "TextBaseHandlerWS",
    "WebSocketPayloadType",
    "read_message",
    "websocket_handlers",
    "write_message",
)

JSON = "application/json"
MSGPACK = "application/msgpack"

#: Writes an object as JSON.
encode_json: Callable[[Any], bytes] = msgspec.json.Encoder().encode
_decode_json: Callable[[str | bytes], Any] = msgspec.json.Decoder().decode
_encode_msgpack: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
_decode_msgpack: Callable[[bytes], Any] = msgspec.msgpack.Decoder().decode


# -- Errors ------------------------------------------------------------------------------------


class JSONMediaError(MediaError, json.JSONDecodeError):
    """
    JSON that cannot be read; ``doc``, ``pos``, ``lineno`` and ``colno`` say where.

    :param error: what the JSON handler raised
    :param payload_type: ``text``, ``binary`` or a content type
    """

    def __init__(self, error: json.JSONDecodeError, payload_type: str) -> None:
        json.JSONDecodeError.__init__(self, error.msg, error.doc, error.pos)
        self.args = (f"{_received(payload_type)} cannot be read: {error}",)
        self.payload_type = payload_type
        self.received = True

    def __reduce__(self) -> tuple[Any, ...]:
        cause = json.JSONDecodeError(self.msg, self.doc, self.pos)
        return type(self), (cause, self.payload_type), {"args": self.args}


def _received(payload_type: str) -> str:
    is_body = "/" in payload_type
    return f"a body of {payload_type}" if is_body else f"a {payload_type} message"


def _written(payload_type: str) -> str:
    return payload_type if "/" in payload_type else f"a {payload_type} message"


def _reading_failed(error: Exception, payload_type: str) -> MediaError:
    if isinstance(error, json.JSONDecodeError):
        return JSONMediaError(error, payload_type)
    what = _received(payload_type)
    return MediaError(f"{what} cannot be read: {_describe(error)}", payload_type, True)


def writing_failed(error: Exception, obj: Any, payload_type: str) -> MediaError:
    """
    Return the ``MediaError`` of something that cannot be written.

    :param error: what the handler raised
    :param obj: what should have been written
    :param payload_type: ``text``, ``binary`` or a content type
    """
    what = f"{type(obj).__qualname__} cannot be written as {_written(payload_type)}"
    return MediaError(f"{what}: {_describe(error)}", payload_type, False)


def _describe(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _wrong_result(handler: Any, method: str, result: Any, wanted: str) -> TypeError:
    if isinstance(result, CoroutineType):
        result.close()
        return TypeError(f"{type(handler).__qualname__}.{method} must not be a coroutine function")
    kind = type(result).__qualname__
    return TypeError(f"{type(handler).__qualname__}.{method} returned {kind}, not {wanted}")


# -- Handlers ----------------------------------------------------------------------------------


class TextBaseHandlerWS:
    """
    The base of handlers for text messages of WebSockets.

    A subclass that only writes, or only reads, leaves the other method out.
    """

    __slots__ = ()

    def serialize(self, media: Any) -> str:
        """Return the text of a message."""
        raise NotImplementedError(f"{type(self).__qualname__} does not write")

    def deserialize(self, payload: str) -> Any:
        """Return what the text of a message says."""
        raise NotImplementedError(f"{type(self).__qualname__} does not read")


class BaseHandler:
    """
    The base of handlers for bodies of HTTP.

    A subclass that only writes, or only reads, leaves the other method out.
    """

    __slots__ = ()

    def serialize(self, media: Any) -> bytes | bytearray | memoryview:
        """Return the bytes of a body."""
        raise NotImplementedError(f"{type(self).__qualname__} does not write")

    def deserialize(self, payload: bytes) -> Any:
        """Return what the bytes of a body say."""
        raise NotImplementedError(f"{type(self).__qualname__} does not read")


class BinaryBaseHandlerWS(BaseHandler):
    """
    The base of handlers for binary messages of WebSockets.

    Its methods are those of ``BaseHandler``: such a handler may be used for HTTP too.
    """

    __slots__ = ()


class _JSON:
    """What the JSON handlers of both tables share."""

    __slots__ = ("_dumps", "_loads")

    def __init__(
        self,
        dumps: Callable[[Any], str | bytes] | None = None,
        loads: Callable[[Any], Any] | None = None,
    ) -> None:
        self._dumps: Callable[[Any], str | bytes] = dumps or encode_json
        self._loads: Callable[[Any], Any] = loads or _decode_json

    def _read(self, payload: str | bytes) -> Any:
        try:
            return self._loads(payload)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise _json_error(error, payload) from error


class JSONHandlerWS(_JSON, TextBaseHandlerWS):
    """
    JSON in text messages.

    :param dumps: writes it, as ``str`` or as bytes; by default msgspec does
    :param loads: reads it from a ``str``; by default msgspec does
    """

    __slots__ = ()

    def serialize(self, media: Any) -> str:
        """Return an object as JSON."""
        text = self._dumps(media)
        return text.decode() if isinstance(text, bytes) else text

    def deserialize(self, payload: str) -> Any:
        """
        Return what JSON says.

        :raises json.JSONDecodeError: if it is not JSON
        """
        return self._read(payload)


class JSONHandler(_JSON, BaseHandler):
    """
    JSON in bodies, as UTF-8 (RFC 8259 section 8.1).

    :param dumps: writes it, as ``str`` or as bytes; by default msgspec does
    :param loads: reads it from bytes; by default msgspec does
    """

    __slots__ = ()

    def serialize(self, media: Any) -> bytes:
        """Return an object as JSON."""
        text = self._dumps(media)
        return text.encode() if isinstance(text, str) else text

    def deserialize(self, payload: bytes) -> Any:
        """
        Return what JSON says.

        :raises json.JSONDecodeError: if it is not JSON
        """
        return self._read(payload)


class MessagePackHandler(BaseHandler):
    """MessagePack in bodies, by msgspec."""

    __slots__ = ()

    def serialize(self, media: Any) -> bytes:
        """Return an object as MessagePack."""
        return _encode_msgpack(media)

    def deserialize(self, payload: bytes) -> Any:
        """Return what MessagePack says."""
        return _decode_msgpack(payload)


class MessagePackHandlerWS(MessagePackHandler, BinaryBaseHandlerWS):
    """MessagePack in binary messages, by msgspec."""

    __slots__ = ()


_PLACE = re.compile(r" \(byte (\d+)\)$")


def _json_error(error: Exception, source: str | bytes) -> json.JSONDecodeError:
    """
    Return what the standard library would have raised.

    It is asked itself: where msgspec says that it failed is near that place, and counted in bytes.
    """
    if isinstance(source, str):
        doc = source
    else:
        try:
            doc = source.decode()
        except UnicodeDecodeError as invalid:
            position = len(source[: invalid.start].decode())
            return json.JSONDecodeError("Invalid UTF-8", source.decode(errors="replace"), position)
    try:
        json.loads(doc)
    except json.JSONDecodeError as known:
        return known
    except (ValueError, RecursionError):
        pass
    message = str(error)  # of what only msgspec refuses: NaN, half a surrogate, another type
    place = _PLACE.search(message)
    if place is not None:
        before = doc.encode("utf-8", "surrogatepass")[: int(place[1])]
        message, position = message[: place.start()], len(before.decode("utf-8", "ignore"))
        return json.JSONDecodeError(message, doc, position)
    made = json.JSONDecodeError(message, doc, 0)
    made.args = (message,)
    return made


# -- WebSockets --------------------------------------------------------------------------------


class WebSocketPayloadType(Enum):
    """The type of a message (RFC 6455 section 5.6)."""

    TEXT = "text"
    BINARY = "binary"


_TEXT, _BINARY = WebSocketPayloadType

#: Handlers by payload type; the application's own need only have the two methods.
SocketHandlers: TypeAlias = Mapping[WebSocketPayloadType, Any]


def websocket_handlers() -> dict[WebSocketPayloadType, Any]:
    """Return a new table of the default handlers: JSON in text, MessagePack in binary messages."""
    return {_TEXT: JSONHandlerWS(), _BINARY: MessagePackHandlerWS()}


def read_message(handlers: SocketHandlers, payload: str | bytes) -> Any:
    """
    Return what a message says.

    :param handlers: the handlers by payload type
    :param payload: the message
    :raises MediaError: if there is no handler for its type, or the handler fails; for JSON text a
        ``json.JSONDecodeError`` too
    """
    kind = _TEXT if isinstance(payload, str) else _BINARY
    handler = handlers.get(kind)
    if handler is None:
        raise MediaError(f"there is no media handler for {kind.value} messages", kind.value, True)
    try:
        media = handler.deserialize(payload)
        if isinstance(media, CoroutineType):
            raise _wrong_result(handler, "deserialize", media, "")
        return media
    except Exception as error:
        raise _reading_failed(error, kind.value) from error


def write_message(
    handlers: SocketHandlers, obj: Any, payload_type: WebSocketPayloadType
) -> str | bytes:
    """
    Return an object as a message: ``str`` for text, ``bytes`` for binary.

    :param handlers: the handlers by payload type
    :param obj: the object
    :param payload_type: which of them writes it
    :raises MediaError: if there is no handler for that type, or the handler fails
    """
    handler = handlers.get(payload_type)
    name = getattr(payload_type, "value", str(payload_type))
    if handler is None:
        raise MediaError(f"there is no media handler for {name} messages", name, False)
    try:
        payload = handler.serialize(obj)
        if payload_type is _TEXT:
            if isinstance(payload, str):
                return payload
            raise _wrong_result(handler, "serialize", payload, "str")
        return _to_bytes(handler, payload)
    except Exception as error:
        raise writing_failed(error, obj, name) from error


def _to_bytes(handler: Any, payload: Any) -> bytes:
    """Check what a handler has written; a copy of what might change while it waits to be sent."""
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    raise _wrong_result(handler, "serialize", payload, "bytes")


# -- HTTP --------------------------------------------------------------------------------------


class MediaHandlers(MutableMapping[str, Any]):
    """
    Handlers by content type. Parameters and case of a content type do not matter.

    :param handlers: the handlers; by default JSON and MessagePack
    """

    #: Whether JSON is written as by default, so that the pipeline may take its short way.
    plain: bool

    def __init__(self, handlers: Mapping[str, Any] | None = None) -> None:
        self._handlers: dict[str, Any] = {}
        #: What a body without a content type is read as; None refuses it.
        self.default: str | None = None
        self.plain = False
        self.update({JSON: JSONHandler(), MSGPACK: MessagePackHandler()} if handlers is None else
                    handlers)  # fmt: skip

    def __repr__(self) -> str:
        return f"<MediaHandlers {', '.join(self)}>"

    def __getitem__(self, content_type: str) -> Any:
        return self._handlers[_mimetype(content_type)]

    def __setitem__(self, content_type: str, handler: Any) -> None:
        mimetype = _mimetype(content_type)
        if not _MIMETYPE.fullmatch(mimetype):
            raise ValueError(f"not a content type: {content_type!r}")
        for method in ("serialize", "deserialize"):
            if isinstance(handler, type) or not callable(getattr(handler, method, None)):
                raise TypeError(f"the handler of {mimetype} is no object with a method {method}")
        self._handlers[mimetype] = handler
        self._look_at_json()

    def __delitem__(self, content_type: str) -> None:
        del self._handlers[_mimetype(content_type)]
        self._look_at_json()

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def _look_at_json(self) -> None:
        handler = self._handlers.get(JSON)
        self.plain = (
            isinstance(handler, JSONHandler)
            and type(handler).serialize is JSONHandler.serialize
            and handler._dumps is encode_json
        )

    def find(self, content_type: str) -> Any:
        """
        Return the handler of a content type; None if there is none.

        A type such as ``application/problem+json``, if it has none of its own, is handled as its
        suffix says (RFC 6839).

        :param content_type: a header's value
        """
        mimetype = _mimetype(content_type)
        handler = self._handlers.get(mimetype)
        if handler is None and "+" in mimetype:
            handler = self._handlers.get(f"application/{mimetype.rpartition('+')[2]}")
        return handler

    def read(self, payload: bytes, content_type: str) -> Any:
        """
        Return what a body says.

        :param payload: the body
        :param content_type: its content type
        :raises MediaError: if the body is empty, if there is no handler for it, or the handler
            fails; for JSON a ``json.JSONDecodeError`` too
        """
        mimetype = _mimetype(content_type)
        if not payload:
            raise MediaError("the body is empty", mimetype, True)
        handler = self.find(mimetype)
        if handler is None:
            raise MediaError(self.explain(content_type), mimetype, True)
        try:
            media = handler.deserialize(payload)
            if isinstance(media, CoroutineType):
                raise _wrong_result(handler, "deserialize", media, "")
            return media
        except Exception as error:
            raise _reading_failed(error, mimetype) from error

    def write(self, obj: Any, content_type: str) -> bytes:
        """
        Return an object as a body.

        :param obj: the object
        :param content_type: the content type
        :raises MediaError: if there is no handler for it, or the handler fails
        """
        mimetype = _mimetype(content_type)
        handler = self.find(mimetype)
        if handler is None:
            raise MediaError(self.explain(content_type), mimetype, False)
        try:
            return _to_bytes(handler, handler.serialize(obj))
        except Exception as error:
            raise writing_failed(error, obj, mimetype) from error

    def explain(self, content_type: str) -> str:
        """Return one sentence that says which handler is missing and which there are."""
        known = ", ".join(self) or "none"
        mimetype = _mimetype(content_type)
        what = f"for {mimetype}" if mimetype else "for a body without a content type"
        return f"there is no media handler {what}; there are: {known}"


#: Tokens of RFC 9110 section 5.6.2, in lower case.
_MIMETYPE = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+/[a-z0-9!#$%&'*+.^_`|~-]+")


def _mimetype(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
