"""
``ErrorPages``: what a client sees of an error that no error handler answers.

Without the setting ``error_pages`` that is Werkzeug's page. The templates are read and tried when
the server starts, so that nothing about them can fail later.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from werkzeug.exceptions import HTTPException

from kyoukai.exceptions import ConfigurationError
from kyoukai.rules import reason
from kyoukai.util import HTML

if TYPE_CHECKING:
    from collections.abc import Mapping

    from werkzeug.wrappers import Request
    from werkzeug.wrappers import Response as WerkzeugResponse

__all__ = ("ErrorPages",)

# What a page may name, after a ``$``.
_PLACEHOLDERS = ("status", "reason", "description", "path")


class ErrorPages:
    """
    The pages of errors.

    :param files: the paths of templates, by ``404``, ``5xx``, ``default`` and the like
    :raises ConfigurationError: in one line, if one cannot be read or names an unknown placeholder
    """

    def __init__(self, files: Mapping[str, str] | None = None) -> None:
        self._templates = {key: _read(key, path) for key, path in (files or {}).items()}

    def respond(self, error: HTTPException, request: Request | None) -> WerkzeugResponse:
        """
        Return the response of an HTTP error: its own headers, and the page of its status.

        A class of the application's that makes its own page keeps it.

        :param error: the error
        :param request: its request, if there is one
        """
        response = error.get_response(None if request is None else request.environ)
        if self._templates and _has_common_page(error):
            template = self.find(response.status_code)
            if template is not None:
                page = template.substitute(_values(error, response.status_code, request))
                response.set_data(page)
                response.headers["Content-Type"] = HTML
        return response

    def find(self, status: int) -> Template | None:
        """Return the template for a status: its own, that of its class, or the default."""
        if status < 400:
            return None
        for key in (str(status), f"{status // 100}xx", "default"):
            if key in self._templates:
                return self._templates[key]
        return None


def _has_common_page(error: HTTPException) -> bool:
    """Whether the page would be Werkzeug's."""
    own = type(error)
    return (
        error.response is None
        and own.get_body is HTTPException.get_body
        and own.get_response is HTTPException.get_response
    )


def _values(error: HTTPException, status: int, request: Request | None) -> dict[str, str]:
    path = "" if request is None else request.root_path.rstrip("/") + request.path
    description = "" if error.description is None else str(error.description)
    values = {
        "status": str(status),
        "reason": reason(status).decode() or error.name,
        "description": description,
        "path": path,
    }
    return {name: escape(value) for name, value in values.items()}


def _read(key: str, path: str) -> Template:
    where = f"error_pages: {key}: {path}"
    try:
        template = Template(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{where}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{where}: not in UTF-8, at byte {error.start}") from None
    except ValueError as error:  # a path that cannot be one
        raise ConfigurationError(f"{where}: {error}") from None
    try:
        template.substitute(dict.fromkeys(_PLACEHOLDERS, ""))
    except KeyError as error:
        known = ", ".join(f"${name}" for name in _PLACEHOLDERS)
        raise ConfigurationError(
            f"{where}: unknown placeholder ${error.args[0]}; known: {known}"
        ) from None
    except ValueError as error:
        place = str(error).rpartition(": ")[2]
        raise ConfigurationError(f"{where}: a '$' by itself is written '$$' ({place})") from None
    return template
