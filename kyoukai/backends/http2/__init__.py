"""
HTTP/2: the public names of this backend.

``H2KyoukaiComponent`` serves an application over HTTP/2 alone; ``H2KyoukaiProtocol`` is one
connection and ``H2State`` one stream on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kyoukai.asphalt import H2KyoukaiComponent
from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.backends.http2.state import H2State
from kyoukai.wsgi import create_wsgi_environment as _create_wsgi_environment

__all__ = (
    "H2KyoukaiComponent",
    "H2KyoukaiProtocol",
    "H2State",
    "create_wsgi_environment",
    "get_header",
)


def create_wsgi_environment(r: H2State) -> dict[str, Any]:
    """
    Return the WSGI environment of a request (PEP 3333).

    :param r: the stream
    """
    return _create_wsgi_environment(r)


def get_header(headers: Iterable[tuple[Any, Any]], name: str) -> str | None:
    """
    Return the value of the first field of that name.

    :param headers: pairs of names and values, ``str`` or ``bytes``
    :param name: the name, in any case
    :return: the value, or None if there is no such field
    """
    wanted = name.lower()
    for key, value in headers:
        text = key.decode("latin-1") if isinstance(key, bytes) else key
        if text.lower() == wanted:
            return value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return None
