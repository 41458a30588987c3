"""
``Finaliser``: the last steps of a response before it is sent, each of which may fail by itself.

Date, Server, Content-Length and the missing body of answers to HEAD are not among them: the wire
sees to these, for every interface.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import PreconditionFailed, RequestedRangeNotSatisfiable
from werkzeug.wrappers import Response as WerkzeugResponse

from kyoukai.compression import IN_THREAD, Compressor
from kyoukai.conditional import (
    cut,
    drop_representation,
    has_validator,
    precondition,
    selected_range,
)
from kyoukai.exceptions import PeerGone
from kyoukai.failures import THROUGH, FailureHandler, name_of, safely
from kyoukai.security_headers import SecurityHeaders

if TYPE_CHECKING:
    from werkzeug.exceptions import HTTPException

    from kyoukai.app import Kyoukai
    from kyoukai.config import ServerConfig
    from kyoukai.wrappers import Request

    #: Takes a response and its request; returns None, or another response.
    Step = Callable[[WerkzeugResponse, Request], Any]

__all__ = ("Finaliser",)

logger = logging.getLogger("kyoukai")


class Finaliser(FailureHandler):
    """
    The part of the pipeline that gives responses their last touches.

    :param app: the application
    :param settings: the server's settings
    """

    def __init__(self, app: Kyoukai, settings: ServerConfig) -> None:
        super().__init__(app, settings)
        self._compressor = Compressor(settings)
        self._security = SecurityHeaders(settings.security_headers)
        steps: list[Step] = [self.apply_conditions]
        if settings.compress:
            steps = [self.negotiate_encoding, self.apply_conditions, self.compress]
        if settings.security_headers:
            steps.append(self.add_security_headers)
        self.finalizers = tuple(steps)

    @property
    def finalizers(self) -> tuple[Step, ...]:
        """
        The steps of ``finalize_response``, in order; to be replaced by others.

        A step is a function or a coroutine function that takes a response and its request. It
        changes the response, or returns another one.
        """
        return self._finalizers

    @finalizers.setter
    def finalizers(self, steps: Iterable[Step]) -> None:
        self._finalizers = tuple(steps)
        #: Whether they leave alone what has no validator, as plain answers have none.
        self._finalizes_all = any(step != self.apply_conditions for step in self._finalizers)
        self._finalizers_changed()

    def _finalizers_changed(self) -> None:
        """Called when ``finalizers`` were set."""

    async def finalize_response(
        self, response: WerkzeugResponse, request: Request | None = None
    ) -> WerkzeugResponse:
        """
        Give a response its last touches before it is sent, by ``finalizers``.

        One that fails is logged, and the response goes on as it was before.

        :param response: the response
        :param request: its request; without one, nothing is done
        """
        if request is None:
            return response
        for step in self._finalizers:
            before = _State(response)
            try:
                outcome = await self._call(step, response, request)
                if outcome is not None:
                    if not isinstance(outcome, WerkzeugResponse):
                        raise TypeError(f"a finalizer returned {type(outcome).__name__}")
                    response = outcome
            except (PeerGone, *THROUGH):
                raise
            except BaseException:
                name = getattr(step, "__qualname__", None) or safely(step, repr)
                logger.exception("%s: finalizer %s failed", name_of(request), name)
                response = before.restore()
        return response

    # -- The steps -----------------------------------------------------------------------------

    async def negotiate_encoding(self, response: WerkzeugResponse, request: Request) -> None:
        """Say what compression will do to a whole response: ``Vary``, and a weak ETag."""
        compressor = self._compressor
        if compressor.is_eligible(response):
            compressor.vary(response)
            if compressor.is_wanted(response, request):
                compressor.weaken(response)

    async def apply_conditions(self, response: WerkzeugResponse, request: Request) -> None:
        """
        Answer 304, 412, 206 or 416 if the request asks for that (RFC 9110 sections 13 and 14).

        This is for whole responses with an ETag or a Last-Modified.
        """
        if not response.is_sequence or not has_validator(response.headers):
            return
        status = precondition(request, response)
        if status == 412:
            self._become(response, PreconditionFailed(), request)
        elif status is not None:
            response.status_code = status
            response.set_data(b"")
        elif response.status_code == 200 and request.method in ("GET", "HEAD"):
            size = response.calculate_content_length() or 0
            selected = selected_range(request, response, size)
            if selected is None:
                response.headers.setdefault("Accept-Ranges", "bytes")
            elif selected[0] == selected[1]:
                self._become(response, RequestedRangeNotSatisfiable(size), request)
            else:
                cut(response, *selected, size)

    async def compress(self, response: WerkzeugResponse, request: Request) -> None:
        """Compress a whole response, by the settings ``compress`` and ``compress_…``."""
        compressor = self._compressor
        if not compressor.is_eligible(response):
            return
        compressor.vary(response)
        if not compressor.is_wanted(response, request):
            return
        compressor.weaken(response)
        body = response.get_data()
        noisy = compressor.has_credentials(response, request)
        if len(body) > IN_THREAD:
            encoded = await self.in_thread(compressor.encode, body, noisy)
        else:
            encoded = compressor.encode(body, noisy)
        if len(encoded) < len(body):
            compressor.put(response, encoded)

    async def add_security_headers(self, response: WerkzeugResponse, request: Request) -> None:
        """Add the headers of the setting ``security_headers`` that a response does not have."""
        self._security.add_to(response, request.scheme)

    def _become(self, response: WerkzeugResponse, error: HTTPException, request: Request) -> None:
        """Put an error's status, headers and page in place of a response's own."""
        page = self.error_pages.respond(error, request)
        drop_representation(response.headers)
        response.status_code = page.status_code
        response.set_data(page.get_data())
        response.headers.update(page.headers)


class _State:
    """What a response is, before a step changes it."""

    def __init__(self, response: WerkzeugResponse) -> None:
        self.response = response
        self.status = response.status
        self.headers = response.headers.copy()
        body = response.response
        self.body = list(body) if isinstance(body, list) else body

    def restore(self) -> WerkzeugResponse:
        """Return the response, as it was."""
        self.response.status = self.status
        self.response.headers = self.headers
        self.response.response = self.body
        return self.response
