"""
``Compressor``: which answers are compressed, and how.

A compressed page that holds both a secret and something of an attacker's choice gives the secret
away by its length, however well it is encrypted (BREACH). So what may hold a secret is left alone,
unless a setting says otherwise; then the length gets noise.
"""

from __future__ import annotations

import re
import secrets
import zlib
from fnmatch import translate
from typing import TYPE_CHECKING

from werkzeug.http import parse_set_header

from kyoukai.conditional import wants_range
from kyoukai.rules import DIGESTS

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as WerkzeugResponse

    from kyoukai.config import ServerConfig
    from kyoukai.wrappers import Request

__all__ = ("IN_THREAD", "Compressor", "gzip")

#: Bytes beyond which compressing takes so long that it is done in a thread.
IN_THREAD = 65536

_LEVEL = 6
#: The most bytes of noise, as in "Heal the BREACH".
_NOISE = 100
#: Headers of answers that are encoded already, or no whole, or whose digest is known.
_NOT_WITH = frozenset(name.lower() for name in (*DIGESTS, "Content-Encoding", "Content-Range"))
#: Where a request with credentials may come from, by ``Sec-Fetch-Site``: not from another's page.
_OWN_SITE = (None, "none", "same-origin")


class Compressor:
    """
    Decides what is compressed, and says so in its headers.

    :param settings: the server's settings
    """

    def __init__(self, settings: ServerConfig) -> None:
        self._min_size = settings.compress_min_size
        self._types = re.compile(
            "|".join(translate(each.lower()) for each in settings.compress_types) or "(?!)"
        )
        self._credentialed = settings.compress_credentialed
        self._has_client_certificates = settings.client_ca is not None

    def is_eligible(self, response: WerkzeugResponse) -> bool:
        """Whether a response would be compressed for a client that asks for it."""
        if not response.is_sequence or response.status_code in (204, 205, 206, 304):
            return False
        size = response.calculate_content_length()
        if size is None or size < self._min_size:
            return False
        headers = {name.lower(): value for name, value in response.headers}
        mimetype = headers.get("content-type", "").partition(";")[0].strip().lower()
        return (
            self._types.match(mimetype) is not None
            and _NOT_WITH.isdisjoint(headers)
            and "no-transform" not in _whole(response, "Cache-Control").lower()
        )

    def is_wanted(self, response: WerkzeugResponse, request: Request) -> bool:
        """
        Whether a response that is eligible is to be compressed for this request.

        Where a range is asked for, it is not: ranges are cut out of what is not compressed.
        """
        accepted = {name.lower(): quality for name, quality in request.accept_encodings}
        quality = accepted.get("gzip", accepted.get("x-gzip", accepted.get("*", 0)))
        if not quality or accepted.get("identity", 0) > quality:
            return False
        if self.has_credentials(response, request) and not (
            self._credentialed and request.headers.get("Sec-Fetch-Site") in _OWN_SITE
        ):
            return False
        return not wants_range(request, response)

    def has_credentials(self, response: WerkzeugResponse, request: Request) -> bool:
        """Whether an answer may be for one client only, and so may hold a secret."""
        asked = request.headers
        caching = _whole(response, "Cache-Control").lower()
        return (
            "private" in caching
            or "no-store" in caching
            or "cookie" in asked
            or "authorization" in asked
            or "set-cookie" in response.headers
            or (self._has_client_certificates and request.scheme == "https")
        )

    def vary(self, response: WerkzeugResponse) -> None:
        """Say that the answer depends on ``Accept-Encoding`` (RFC 9110 section 12.5.5)."""
        vary = parse_set_header(_whole(response, "Vary"))
        if "*" not in vary and "Accept-Encoding" not in vary:
            vary.add("Accept-Encoding")
            response.headers["Vary"] = vary.to_header()

    def weaken(self, response: WerkzeugResponse) -> None:
        """Make a strong ETag weak: the bytes are not those that it was made for."""
        etag = response.headers.get("ETag")
        if etag is not None and not etag.startswith(("W/", "w/")):
            response.headers["ETag"] = f"W/{etag}"

    def encode(self, body: bytes, noisy: bool) -> bytes:
        """
        Compress a body.

        :param noisy: whether to make its length random
        """
        name = secrets.token_hex(_NOISE)[: 1 + secrets.randbelow(_NOISE)] if noisy else ""
        return gzip(body, name.encode())

    def put(self, response: WerkzeugResponse, encoded: bytes) -> None:
        """Give a response its compressed body."""
        response.set_data(encoded)
        response.headers["Content-Length"] = str(len(encoded))
        response.headers["Content-Encoding"] = "gzip"
        response.headers.pop("Accept-Ranges", None)


def _whole(response: WerkzeugResponse, name: str) -> str:
    """Return what all lines of a header say together (RFC 9110 section 5.3)."""
    return ", ".join(response.headers.getlist(name))


def gzip(body: bytes, name: bytes = b"") -> bytes:
    """
    Compress bytes in gzip's format (RFC 1952), without a time in it.

    :param body: the bytes
    :param name: the name of the file that they are said to come from
    """
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    flags, field = (b"\x08", name + b"\0") if name else (b"\0", b"")
    return b"".join(
        (
            b"\x1f\x8b\x08" + flags + b"\0\0\0\0\0\xff" + field,
            compressor.compress(body),
            compressor.flush(),
            zlib.crc32(body).to_bytes(4, "little"),
            (len(body) & 0xFFFFFFFF).to_bytes(4, "little"),
        )
    )
