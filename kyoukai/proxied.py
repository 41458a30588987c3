"""
``ProxyResponse``: an upstream server's answer, on its way to the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.datastructures import Headers

from kyoukai.rules import REPRESENTATION_FIELDS
from kyoukai.wrappers import Response, lazy, response_lines, text_headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from kyoukai.rules import Header
    from kyoukai.util import Plain

__all__ = ("ProxyResponse", "ProxySource")


class ProxySource(Protocol):
    """What a :class:`ProxyResponse` comes from: a request at a server."""

    def whole_body(self, method: str, status: int) -> bytes | None:
        """Return the body if all of the answer is there, and give back the connection."""

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
    :param lines: the server's headers, without its Content-Length
    :param length: its Content-Length, if it says so
    """

    default_mimetype = None

    def __init__(
        self, source: ProxySource, status: int, lines: Sequence[Header], length: int | None = None
    ) -> None:
        super().__init__(source, status)  # type: ignore[arg-type]
        del self.headers  # Werkzeug's: these are made of the server's when somebody looks at them
        self._lines = lines
        self._length = length
        #: The request at the server.
        self.source = source
        #: Whether the server has agreed to an upgrade.
        self.switches = status == 101

    def __repr__(self) -> str:
        return f"<ProxyResponse {self.status}>"

    @lazy
    def headers(self) -> Headers:
        """The headers."""
        return text_headers(self.lines())

    def as_plain(self, method: str) -> Plain | None:
        """
        Return an answer that is here as a whole as one that is no response.

        Its body is taken: nothing but this can be sent then.

        :param method: the request's method
        :return: None if there is more to come, or another body was put in the server's place
        :raises InvalidResponse: if a header that was put in cannot be on the wire
        """
        body = self.whole_body(method)
        if body is None:
            return None
        lines = self._lines
        if "headers" in self.__dict__:
            lines = response_lines(self.headers, len(body))
        return self.status_code, tuple(lines), body

    def lines(self) -> Sequence[Header]:
        """
        Return the headers as a stream takes them.

        :raises InvalidResponse: if one that was put in cannot be on the wire
        """
        if "headers" in self.__dict__:
            return response_lines(self.headers)
        if self._length is None:
            return self._lines
        return (*self._lines, (b"content-length", b"%d" % self._length))

    @property
    def is_passed_on(self) -> bool:
        """Whether the body is still the server's."""
        source: Any = self.source
        return self.response is source

    def whole_body(self, method: str) -> bytes | None:
        """
        Return the body if all of the server's answer is there, to be sent at once.

        The connection to the server is given back: another request need not wait for this client.

        :param method: the request's method
        :return: None if there is more to come, or another body was put in the server's place
        """
        if not self.is_passed_on:
            return None
        return self.source.whole_body(method, self.status_code)

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
        for name in (*REPRESENTATION_FIELDS, "Trailer"):
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
