"""
``ProxyResponse``: an upstream server's answer, on its way to the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.datastructures import Headers

from kyoukai.rules import bodyless
from kyoukai.wrappers import Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from kyoukai.rules import Header

__all__ = ("ProxyResponse", "ProxySource")


#: Headers that speak of the bytes of a body, and of no others.
_OF_THE_BODY = ("Content-Encoding", "Content-Range", "Digest", "ETag", "Trailer")


class ProxySource(Protocol):
    """What a :class:`ProxyResponse` comes from: a request at a server."""

    @property
    def complete(self) -> bool:
        """Whether all of the answer has come."""

    def take(self) -> bytes:
        """Return what has come of the body."""

    @property
    def trailers(self) -> Sequence[Header]:
        """Header lines after the body, complete at its end."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it comes."""

    def close(self) -> None:
        """Give back the connection, or close it if the answer was not taken as a whole."""

    async def converse(
        self, headers: list[Header], timeout: float | None, buffer: int | None
    ) -> None:
        """Pass bytes on in both directions, after the server has agreed to an upgrade."""


class ProxyResponse(Response):
    """
    A response whose body streams from an upstream server.

    Status and headers may be changed. Giving it a body of its own (``set_data``) drops the
    server's.

    :param source: the request at the server
    :param status: the server's status; 101 if it has agreed to an upgrade
    :param headers: the server's headers
    """

    default_mimetype = None

    def __init__(self, source: ProxySource, status: int, headers: Sequence[Header]) -> None:
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        super().__init__(source, status, Headers(pairs))  # type: ignore[arg-type]
        #: The request at the server.
        self.source = source
        #: Whether the server has agreed to an upgrade.
        self.switches = status == 101

    def __repr__(self) -> str:
        return f"<ProxyResponse {self.status}>"

    @property
    def is_passed_on(self) -> bool:
        """Whether the body is still the server's."""
        source: Any = self.source
        return self.response is source

    def is_whole(self, method: str) -> bool:
        """
        Whether all of the server's answer is there, to be sent at once.

        :param method: the request's method
        """
        if not self.is_passed_on or bodyless(method, self.status_code):
            return False
        return self.source.complete and not self.source.trailers

    @property
    def is_upgrade(self) -> bool:
        """Whether the server has agreed to an upgrade, and nobody objects."""
        return self.switches and self.status_code == 101 and self.is_passed_on

    def refuse(self) -> None:
        """Take the server's agreement to an upgrade back: the status is another one by now."""
        self.source.close()
        if self.is_passed_on:
            self.set_data(b"")
        for name in [name for name, _ in self.headers if name.lower().startswith("sec-websocket")]:
            self.headers.remove(name)

    def set_data(self, value: bytes | str) -> None:
        """
        Put another body in place of the server's.

        :param value: the body; what the headers say of the server's alone is removed
        """
        super().set_data(value)
        for name in _OF_THE_BODY:
            self.headers.remove(name)

    def get_wsgi_headers(self, environ: dict[str, Any]) -> Headers:
        """
        Return the headers as they are: no server's answer is put right here.

        :param environ: the request's environ
        """
        if self.is_passed_on:
            return self.headers
        return super().get_wsgi_headers(environ)

    def close(self) -> None:
        """Drop the server's answer."""
        super().close()
        self.source.close()
