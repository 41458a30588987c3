"""
Conditional requests and ranges (RFC 9110 sections 13 and 14), for answers that are whole.

Werkzeug's ``make_conditional`` does less than these sections ask for: it takes weak ETags for
strong ones, knows neither ``If-Match: *`` nor ``If-Unmodified-Since``, and cuts ranges out of
answers to HEAD and out of error pages. Its parsers are used all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from werkzeug.http import parse_date, parse_etags, parse_range_header, unquote_etag

from kyoukai.rules import CONTENT_DIGESTS, REPRESENTATION_FIELDS

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers
    from werkzeug.wrappers import Request
    from werkzeug.wrappers import Response as WerkzeugResponse

__all__ = (
    "cut",
    "drop_representation",
    "has_validator",
    "precondition",
    "selected_range",
    "wants_range",
)

#: Headers that describe a body, which an error page in its place does not have.
_OF_THE_BODY = (
    *REPRESENTATION_FIELDS,
    "Cache-Control",
    "Content-Disposition",
    "Content-Language",
    "Expires",
)

_VALIDATORS = frozenset(("etag", "last-modified"))


def has_validator(headers: Headers) -> bool:
    """Whether a response says which version of something it is."""
    # Quicker than to ask for each: this is done for every response.
    return not _VALIDATORS.isdisjoint([name.lower() for name, _ in headers])


def precondition(request: Request, response: WerkzeugResponse) -> int | None:
    """
    Return the status that a request's conditions ask for, instead of its answer.

    They are evaluated in the order of RFC 9110 section 13.2.2, for GET and HEAD: what other methods
    do has been done when there is a response.

    :param request: the request
    :param response: what would be sent
    :return: 304, 412, or None if the answer is to be sent
    """
    if request.method not in ("GET", "HEAD") or not 200 <= response.status_code < 300:
        return None
    asked = request.headers
    etag, is_weak = unquote_etag(response.headers.get("ETag"))
    modified = parse_date(response.headers.get("Last-Modified"))
    if "If-Match" in asked:
        wanted = parse_etags(asked["If-Match"])
        if not wanted.star_tag and (etag is None or is_weak or not wanted.is_strong(etag)):
            return 412
    elif modified is not None:
        limit = parse_date(asked.get("If-Unmodified-Since"))
        if limit is not None and modified > limit:
            return 412
    if "If-None-Match" in asked:
        known = parse_etags(asked["If-None-Match"])
        if known.star_tag or (etag is not None and known.contains_weak(etag)):
            return 304
    elif modified is not None:
        since = parse_date(asked.get("If-Modified-Since"))
        if since is not None and modified <= since:
            return 304
    return None


def wants_range(request: Request, response: WerkzeugResponse) -> bool:
    """Whether ``Range`` counts: for GET, an answer that is 200, has a validator and allows it."""
    headers = response.headers
    return (
        request.method == "GET"
        and "Range" in request.headers
        and response.status_code == 200
        and has_validator(headers)
        and headers.get("Accept-Ranges") != "none"
    )


def selected_range(
    request: Request, response: WerkzeugResponse, size: int
) -> tuple[int, int] | None:
    """
    Return the part of the body that is asked for.

    What is malformed, in another unit, or more than one range gets the whole, as RFC 9110
    section 14.2 allows.

    :param request: the request
    :param response: its response, with a validator
    :param size: bytes of its body
    :return: where the part begins and ends, the same if there is nothing there; None for the whole
    """
    if not size or not wants_range(request, response) or not _is_current(request, response):
        return None
    parsed = parse_range_header(request.headers["Range"])
    if parsed is None or parsed.units != "bytes" or len(parsed.ranges) != 1:
        return None
    start, end = parsed.ranges[0]
    if start < 0:
        return max(0, size + start), size
    if start >= size:
        return size, size
    return start, size if end is None else min(end, size)


def _is_current(request: Request, response: WerkzeugResponse) -> bool:
    """Whether ``If-Range`` is true, or not there (RFC 9110 section 13.1.5)."""
    value = request.headers.get("If-Range")
    if value is None:
        return True
    value = value.strip()
    if value.startswith(('"', "W/")):
        return not value.startswith("W/") and value == response.headers.get("ETag")
    date = parse_date(value)
    return date is not None and date == parse_date(response.headers.get("Last-Modified"))


def cut(response: WerkzeugResponse, start: int, end: int, size: int) -> None:
    """
    Make a response the part of itself from ``start`` to ``end``.

    :param size: bytes of its body
    """
    part = b"".join(response.iter_encoded())[start:end]
    response.set_data(part)
    response.status_code = 206
    for name in CONTENT_DIGESTS:
        response.headers.pop(name, None)
    response.headers["Content-Length"] = str(len(part))
    response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"


def drop_representation(headers: Headers) -> None:
    """Remove what was said of a body that is not sent."""
    for name in _OF_THE_BODY:
        headers.pop(name, None)
