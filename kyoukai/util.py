"""
What a handler returns, and how it becomes a response.

======================================  =========================================================
returned                                answered
======================================  =========================================================
``str``                                 ``text/plain; charset=utf-8``
``bytes``, ``bytearray``                ``application/octet-stream``: nobody says what they are
``dict``, ``list``                      ``application/json``, by the application's JSON handler
``None``                                204, without a body or a content type
a Werkzeug ``Response``                 as it is
an iterator, an async iterator          streamed, ``text/plain; charset=utf-8``
``(body, status)``                      a body from above with a status
``(body, headers)``                     a body from above with headers
``(body, status, headers)``             both
any other object, with a Content-Type   written by the media handler of that type
======================================  =========================================================

Headers given with a body win over the content type in this table. With one, dicts and lists are
written by the media handler of that type, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response

from kyoukai.media import JSON, MediaHandlers, encode_json, writing_failed
from kyoukai.rules import Header

__all__ = ("Plain", "as_html", "as_json", "as_plaintext", "plain_response", "wrap_response")

HeadersValue: TypeAlias = Mapping[str, str | Iterable[str]] | Iterable[tuple[str, str]]
#: An answer that needs no ``Response``: status, headers, body.
Plain: TypeAlias = tuple[int, tuple[Header, ...], bytes]

TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
BYTES = "application/octet-stream"

# Constants, so that the wire, which remembers tuples of headers, renders each of them once.
TEXT_HEADERS: tuple[Header, ...] = ((b"content-type", TEXT.encode()),)
BYTES_HEADERS: tuple[Header, ...] = ((b"content-type", BYTES.encode()),)
JSON_HEADERS: tuple[Header, ...] = ((b"content-type", JSON.encode()),)
NO_HEADERS: tuple[Header, ...] = ()

_ALLOWED = (
    "str, bytes, dict, list, None, a Response, an iterator, an async iterator, "
    "(body, status), (body, headers) or (body, status, headers); with a Content-Type in headers, "
    "body may be whatever its media handler writes"
)

_DEFAULTS = MediaHandlers()


# -- Helpers for handlers ----------------------------------------------------------------------


def as_html(text: str, code: int = 200, headers: HeadersValue | None = None) -> Response:
    """
    Make a response from HTML.

    :param text: the document
    :param code: the status
    :param headers: more headers
    """
    return _make(text, code, headers, HTML)


def as_plaintext(text: str, code: int = 200, headers: HeadersValue | None = None) -> Response:
    """
    Make a response from plain text; parameters as for :func:`as_html`.
    """
    return _make(text, code, headers, TEXT)


def as_json(obj: Any, code: int = 200, headers: HeadersValue | None = None) -> Response:
    """
    Make a response from anything that msgspec writes as JSON: dicts, lists, dataclasses, structs,
    dates, UUIDs and more.

    :param obj: the object
    :param code: the status
    :param headers: more headers
    :raises TypeError: if there is something in it that JSON cannot say
    """
    return _make(encode_json(obj), code, headers, JSON)


def _make(
    body: str | bytes, code: int, headers: HeadersValue | None, content_type: str
) -> Response:
    # A copy: Werkzeug keeps a Headers object that it is given, and then changes it.
    all_headers = Headers(headers)
    all_headers.setdefault("Content-Type", content_type)
    return Response(body, status=code, headers=all_headers)


# -- For the pipeline --------------------------------------------------------------------------


def plain_response(value: Any, handlers: MediaHandlers = _DEFAULTS) -> Plain | None:
    """
    Return status, headers and body of a simple answer, without making a ``Response``.

    The headers are one of this module's constants.

    :param value: what the handler returned
    :param handlers: the application's media handlers
    :return: None for a value that needs :func:`wrap_response`
    :raises MediaError: if there is something in a dict or list that JSON cannot say
    """
    kind = type(value)
    if kind is str:
        return 200, TEXT_HEADERS, value.encode()
    if kind is dict or kind is list:
        if not handlers.plain:
            return None
        try:
            return 200, JSON_HEADERS, encode_json(value)
        except Exception as error:
            raise writing_failed(error, value, JSON) from error
    if kind is bytes:
        return 200, BYTES_HEADERS, value
    if value is None:
        return 204, NO_HEADERS, b""
    if kind is tuple and len(value) == 2 and type(value[1]) is int:
        body, status = value
        if status == 304:
            return None  # it keeps some headers and loses others: Werkzeug knows which
        if body is None:
            return status, NO_HEADERS, b""
        plain = None if type(body) is tuple else plain_response(body, handlers)
        return None if plain is None else (status, plain[1], plain[2])
    return None


def wrap_response(
    args: Any, response_class: type[Response] = Response, handlers: MediaHandlers = _DEFAULTS
) -> Response:
    """
    Make a response from whatever a handler may return; see the table at the top of this module.

    :param args: what the handler returned
    :param response_class: the class of response to make; a ``Response`` is not converted
    :param handlers: the application's media handlers
    :raises TypeError: if no response can be made of it; the message says what could be
    :raises MediaError: if the media handler fails, or there is none for the content type
    """
    if not isinstance(args, tuple):
        return _wrap_body(args, response_class, handlers, None)
    status: Any = None
    headers: Any = None
    if len(args) == 3:
        body, status, headers = args
    elif len(args) == 2:
        body, second = args
        if isinstance(second, Mapping | list | tuple | Headers):
            headers = second
        else:
            status = second
    else:
        raise _refuse(f"a tuple of {len(args)}")
    if isinstance(status, bool) or not isinstance(status, int | str | None):
        raise _refuse(f"a tuple with a status of type {type(status).__name__}")
    if headers is not None and not isinstance(headers, Mapping | list | tuple | Headers):
        raise _refuse(f"a tuple with headers of type {type(headers).__name__}")
    if isinstance(body, tuple):
        raise _refuse("a tuple in a tuple")
    if headers is not None:
        headers = Headers(headers)
    content_type = None if headers is None else headers.get("Content-Type")
    response = _wrap_body(body, response_class, handlers, content_type)
    if body is None and status is None:
        status = 204
    if isinstance(status, int):
        response.status_code = int(status)
    elif status is not None:
        response.status = status
    if headers is not None:
        response.headers.update(headers)  # as Headers, several of a name are kept
    return response


def _wrap_body(
    body: Any, response_class: type[Response], handlers: MediaHandlers, content_type: str | None
) -> Response:
    if isinstance(body, Response):
        return body
    if body is None:
        response = response_class(status=204)
        del response.headers["Content-Type"]
        return response
    if isinstance(body, str):
        return response_class(body, content_type=TEXT)
    if isinstance(body, bytes | bytearray | memoryview):
        return response_class(bytes(body), content_type=BYTES)
    if isinstance(body, Iterator | AsyncIterable):
        # Werkzeug's annotation does not know of async iterators; the pipeline streams both.
        return response_class(body, content_type=TEXT)  # type: ignore[arg-type]
    if content_type is None and isinstance(body, dict | list):
        content_type = JSON
    if content_type is not None:
        return response_class(handlers.write(body, content_type), content_type=content_type)
    raise _refuse(f"{type(body).__module__}.{type(body).__qualname__}")


def _refuse(what: str) -> TypeError:
    return TypeError(f"a handler returned {what}; allowed: {_ALLOWED}")
