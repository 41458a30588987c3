"""
``Finaliser``: the last steps of a response before it is sent, each of which may fail by itself.

Date, Server, Content-Length and the missing body of answers to HEAD are not among them: the wire
sees to these, for every interface.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from copy import copy
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
from kyoukai.failures import FailureHandler, goes_through, name_of, safely
from kyoukai.security_headers import SecurityHeaders

if TYPE_CHECKING:
    from werkzeug.exceptions import HTTPException

    from kyoukai.app import Kyoukai
    from kyoukai.config import ServerConfig
    from kyoukai.util import Plain
    from kyoukai.wrappers import Request

    #: Takes a response and its request; returns None, or another response.
    Step = Callable[[WerkzeugResponse, Request], Any]

__all__ = ("Finaliser", "duplicate")

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
        changes the response, or returns another one. What it gets is a copy.
        """
        return self._finalizers

    @finalizers.setter
    def finalizers(self, steps: Iterable[Step]) -> None:
        self._finalizers = tuple(steps)
        names = [self._name_of_ours(step) for step in self._finalizers]
        # Beside each step, what spares those of ours that have nothing to do a copy.
        concerns: dict[str, Callable[[WerkzeugResponse], bool]] = {
            "apply_conditions": _is_versioned,
            "negotiate_encoding": self._compressor.is_eligible,
            "compress": self._compressor.is_eligible,
        }
        self._todo = [
            (step, concerns.get(name)) for step, name in zip(self._finalizers, names, strict=True)
        ]
        # Whether they change answers that have no validator, too.
        self._finalizes_all = any(name != "apply_conditions" for name in names)
        # Bytes of a body from which a plain answer must become a response for them.
        self._plain_limit: float = math.inf
        if "" in names:
            self._plain_limit = 0
        elif "negotiate_encoding" in names or "compress" in names:
            self._plain_limit = self.settings.compress_min_size
        self._secures = "add_security_headers" in names

    def _name_of_ours(self, step: Step) -> str:
        """Return the name of a step of this class, which is known to leave some answers alone."""
        name: str = getattr(step, "__name__", "")
        own = vars(Finaliser).get(name)
        is_ours = own is not None and getattr(step, "__func__", None) is own
        return name if is_ours and getattr(step, "__self__", None) is self else ""

    def _finalize_plain(self, answer: Plain, request: Request) -> WerkzeugResponse | Plain:
        """Finalise an answer that need not become a response, or make it one."""
        status, headers, body = answer
        if len(body) >= self._plain_limit:
            return self.as_response(answer)
        if self._secures:
            headers = self._security.added_to(headers, request.scheme)
        return status, headers, body

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
        for step, concerns in self._todo:
            try:
                if concerns is not None and not concerns(response):
                    continue
                # Each works on a copy. So what fails leaves nothing behind, and an application may
                # answer with one and the same object again and again.
                changed = duplicate(response)
                outcome = await self._call(step, changed, request)
                if not isinstance(outcome, WerkzeugResponse | None):
                    raise TypeError(f"a finalizer returned {type(outcome).__name__}")
                response = changed if outcome is None else outcome
            except BaseException as error:
                if isinstance(error, PeerGone) or goes_through(error):
                    raise
                name = getattr(step, "__qualname__", None) or safely(step, repr)
                logger.exception("%s: finalizer %s failed", name_of(request), name)
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
        if not _is_versioned(response):
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


def _is_versioned(response: WerkzeugResponse) -> bool:
    """Whether conditions can be evaluated, and ranges be cut."""
    return response.is_sequence and has_validator(response.headers)


def duplicate(response: WerkzeugResponse) -> WerkzeugResponse:
    """Return a response that can be changed without changing this one."""
    twin = copy(response)
    twin.headers = response.headers.copy()
    if isinstance(response.response, list):
        twin.response = response.response.copy()
    twin.__dict__.pop("stream", None)  # it would write into this one
    return twin
