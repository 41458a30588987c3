"""
Headers that tell browsers to be careful, by the setting ``security_headers``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from werkzeug.wrappers import Response as WerkzeugResponse

    from kyoukai.rules import Header

__all__ = ("DEFAULT_SECURITY_HEADERS", "SecurityHeaders")

#: What the word ``default`` stands for. What only an application can know is not among them
#: (Content-Security-Policy), nor what cannot be taken back (Strict-Transport-Security).
DEFAULT_SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)

#: Browsers must ignore it elsewhere (RFC 6797 section 7.2).
_TLS_ONLY = "strict-transport-security"
#: Sets of headers whose additions are remembered.
_KEPT = 128


class SecurityHeaders:
    """
    Headers for all answers.

    :param lines: ``Name: value``, or ``default``; a line of its own wins over the default of that
        name, and without a value takes it away
    """

    def __init__(self, lines: Iterable[str]) -> None:
        lines = tuple(lines)
        chosen: dict[str, tuple[str, str]] = {}
        if "default" in lines:
            chosen = {name.lower(): (name, value) for name, value in DEFAULT_SECURITY_HEADERS}
        for line in lines:
            name, colon, value = line.partition(":")
            if colon:
                chosen[name.lower()] = (name, value.strip())
        self._always = [pair for key, pair in chosen.items() if pair[1] and key != _TLS_ONLY]
        self._known: dict[tuple[tuple[Header, ...], str], tuple[Header, ...]] = {}
        self._over_tls = self._always + [
            pair for key, pair in chosen.items() if pair[1] and key == _TLS_ONLY
        ]

    def added_to(self, headers: tuple[Header, ...], scheme: str) -> tuple[Header, ...]:
        """
        Return headers with those that are not among them.

        What was made once is made again, the same object: the wire remembers how to write it.

        :param headers: the headers of a plain answer
        :param scheme: as for :meth:`add_to`
        """
        key = (headers, scheme)
        found = self._known.get(key)
        if found is None:
            names = {name.lower() for name, _ in headers}
            found = headers + tuple(
                (name.encode(), value.encode("latin-1"))
                for name, value in (self._over_tls if scheme == "https" else self._always)
                if name.lower().encode() not in names
            )
            if len(self._known) < _KEPT:
                self._known[key] = found
        return found

    def add_to(self, response: WerkzeugResponse, scheme: str) -> None:
        """
        Add the headers that a response does not have.

        :param response: the response
        :param scheme: its request's scheme, ``https`` for what is for TLS only
        """
        headers = response.headers
        for name, value in self._over_tls if scheme == "https" else self._always:
            if name not in headers:
                headers.add(name, value)
