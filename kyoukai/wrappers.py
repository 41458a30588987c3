"""
``Request`` and ``Response``: Werkzeug's, made from a stream instead of an environ.

A request from the wire is lazy: it keeps the head, and builds what Werkzeug would need, the
environ first of all, when it is first read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from werkzeug.datastructures import (
    EnvironHeaders,
    Headers,
    ImmutableMultiDict,
)
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.sansio.multipart import (
    Data,
    Epilogue,
    Field,
    File,
    MultipartDecoder,
    NeedData,
)
from werkzeug.wrappers import Request as WerkzeugRequest
from werkzeug.wrappers import Response as WerkzeugResponse

from kyoukai.config import ServerConfig
from kyoukai.exceptions import InvalidResponse
from kyoukai.media import MediaHandlers
from kyoukai.stream import StreamState
from kyoukai.wsgi import application_path, create_wsgi_environment

if TYPE_CHECKING:
    from typing import IO

    from asphalt.core import Context

    from kyoukai.app import Kyoukai
    from kyoukai.rules import Header
    from kyoukai.stream import RequestHead

__all__ = ("Part", "Request", "Response", "lazy", "response_lines", "text_headers")

T = TypeVar("T")

_DEFAULTS = ServerConfig()
_UNSET: Any = object()
_werkzeug_args: Any = WerkzeugRequest.args
#: Bytes handed to the multipart decoder at a time.
_PART_SLICE = 65536


class lazy(Generic[T]):  # noqa: N801 - used like property
    """
    An attribute that is computed when it is first read, and may be assigned before.

    An ``AttributeError`` from inside becomes a ``RuntimeError``: Asphalt's contexts would take it
    for a missing attribute and look further up, which would hide the fault.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> lazy[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> lazy[T] | T:
        if instance is None:
            return self
        try:
            value = self.compute(instance)
        except AttributeError as error:
            raise RuntimeError(f"{owner.__name__}.{self.name} failed: {error}") from error
        instance.__dict__[self.name] = value
        return value


class Request(WerkzeugRequest):
    """
    A request.

    :param source: a stream, or an environ, as for any Werkzeug request
    :param config: the server's settings; they limit forms and say where bodies are spooled
    """

    #: The stream that the request came in on; None for one made from an environ.
    state: StreamState | None = None
    config: ServerConfig = _DEFAULTS
    #: The request's Asphalt context, once there is one.
    context: Context | None = None
    parent_context: Context | None = None
    #: The pipeline that handles it.
    pipeline: Any = None

    shallow = False
    _media: Any = _UNSET

    def __init__(
        self,
        source: StreamState | dict[str, Any],
        config: ServerConfig | None = None,
        populate_request: bool = True,
        shallow: bool = False,
    ) -> None:
        if config is not None:
            self.config = config
        if isinstance(source, StreamState):
            self.state = source
            self.head: RequestHead = source.head
        else:
            super().__init__(source, populate_request, shallow)
            state = source.get("kyoukai.stream")
            if state is not None:
                self.state = state
                self.head = state.head

    # -- What Werkzeug's constructor would have set --------------------------------------------

    @lazy
    def environ(self) -> dict[str, Any]:
        """The WSGI environ."""
        assert self.state is not None
        return create_wsgi_environment(self.state)

    @lazy
    def method(self) -> str:
        """The method, such as ``GET``."""
        return self.head.method.upper()

    @lazy
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return self.head.scheme

    @lazy
    def server(self) -> tuple[str, int | None] | None:
        """Address and port that the request came in on."""
        return self.head.server

    @lazy
    def root_path(self) -> str:
        """The prefix that the application is published under."""
        return self.head.root_path

    @lazy
    def path(self) -> str:
        """The path, decoded, below ``root_path``."""
        return "/" + application_path(self.head).lstrip("/")

    @lazy
    def query_string(self) -> bytes:
        """The query, escapes kept."""
        return self.head.query

    @lazy
    def headers(self) -> EnvironHeaders:  # type: ignore[override]
        """The headers, without regard to case."""
        return EnvironHeaders(self.environ)

    @lazy
    def remote_addr(self) -> str | None:
        """The client's address."""
        return None if self.head.client is None else self.head.client[0]

    @lazy
    def args(self) -> ImmutableMultiDict[str, str]:
        """The query's parameters."""
        query = self.query_string
        storage = self.parameter_storage_class
        if storage is not ImmutableMultiDict or b"%" in query or b"+" in query:
            decoded: ImmutableMultiDict[str, str] = _werkzeug_args.__get__(self)
            return decoded
        # Nothing to decode. The lists go in as they are: its constructor would copy each.
        lists: dict[str, list[str]] = {}
        for pair in query.decode("utf-8", "replace").split("&"):
            if pair:
                key, _, value = pair.partition("=")
                if key in lists:
                    lists[key].append(value)
                else:
                    lists[key] = [value]
        args: ImmutableMultiDict[str, str] = ImmutableMultiDict.__new__(ImmutableMultiDict)
        dict.update(args, lists)
        return args

    @property
    def max_form_memory_size(self) -> int:  # type: ignore[override]
        """Bytes of one form field that is not a file."""
        return self.config.max_form_memory_size

    @property
    def max_form_parts(self) -> int:  # type: ignore[override]
        """Fields and files of one form."""
        return self.config.max_form_parts

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        file = super()._get_file_stream(
            total_content_length, content_type, filename, content_length
        )
        # It may be a temporary file; closing costs only those requests that have some.
        if self.context is not None and not self.context.closed:
            self.context.add_teardown_callback(file.close)
        return file

    # -- The body, as it arrives ---------------------------------------------------------------

    def _stream(self) -> StreamState:
        if self.state is None:
            raise RuntimeError("this request was made from an environ and has no stream")
        return self.state

    async def read_async(self, to_end: bool = True) -> bytes:
        """
        Read the body as it arrives.

        :param to_end: whether to wait for all of it and keep it, so that ``form``, ``json`` and
            ``get_data()`` work afterwards; otherwise return one chunk, ``b""`` at the end
        :raises BodyError: if the rest cannot be had
        """
        if self.state is None:
            return self.get_data() if to_end else self.stream.read(_PART_SLICE)
        if self.state.body_limit is None and self._is_unmatched:
            self.state.set_body_limit(self.config.max_body_size)
        return await self.state.read_async(to_end)

    @property
    def _is_unmatched(self) -> bool:
        """Whether no route has said yet how long the body may be: in a middleware, or after 404."""
        return self.context is not None and getattr(self.context, "route", None) is None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives."""
        while data := await self.read_async(to_end=False):
            yield data

    async def parts(self) -> AsyncIterator[Part]:
        """
        Iterate over the parts of a ``multipart/form-data`` body as they arrive.

        A part must be read before the next one is asked for; what is left of it is dropped.

        :raises BadRequest: if the body is no multipart form, or a broken one
        :raises RequestEntityTooLarge: beyond ``max_form_parts`` or ``max_form_memory_size``
        """
        boundary = self.mimetype_params.get("boundary", "")
        if self.mimetype != "multipart/form-data" or not boundary or not boundary.isascii():
            raise BadRequest("The body is not a multipart form.")
        reader = _PartReader(self, boundary)
        while (part := await reader.next_part()) is not None:
            yield part

    async def get_media(self, default_when_empty: Any = _UNSET) -> Any:
        """
        Return what the body says, read by the media handler of its content type.

        The first call reads the body; later ones return the same object.

        :param default_when_empty: what to return if there is no body; otherwise that is an error
        :raises UnsupportedMediaType: if there is no handler for its content type, or no content
            type and ``media_handlers.default`` names none
        :raises MediaError: if it is empty or cannot be read; for JSON a ``json.JSONDecodeError``
            too
        :raises BodyError: if the rest cannot be had
        """
        if self._media is not _UNSET:
            return self._media
        handlers = self.media_handlers
        content_type = self.headers.get("Content-Type") or handlers.default or ""
        if content_type and handlers.find(content_type) is None:
            raise UnsupportedMediaType(handlers.explain(content_type))
        body = await self.read_async()
        if not body and default_when_empty is not _UNSET:
            return default_when_empty
        if body and not content_type:
            raise UnsupportedMediaType(handlers.explain(""))
        self._media = handlers.read(body, content_type)
        return self._media

    @property
    def media_handlers(self) -> MediaHandlers:
        """What reads bodies, by content type: the application's, or the defaults without one."""
        app: Kyoukai | None = getattr(self.context, "app", None)
        return MediaHandlers() if app is None else app.media_handlers

    @property
    def trailers(self) -> Headers:
        """The request's trailers, complete after the body."""
        if self.state is None:
            return Headers()
        return text_headers(self.state.trailers)


class Part:
    """One part of a multipart form."""

    def __init__(self, event: Field | File, reader: _PartReader) -> None:
        self.name: str = event.name or ""
        self.filename: str | None = event.filename if isinstance(event, File) else None
        self.headers: Headers = event.headers
        self._reader = reader
        self._done = False
        self._room: int | None = reader.memory if self.filename is None else None

    def __repr__(self) -> str:
        return f"<Part {self.name!r} filename={self.filename!r}>"

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the part's content as it arrives."""
        while not self._done:
            event = await self._reader.next_event()
            if not isinstance(event, Data):
                raise BadRequest("The multipart body is malformed.")
            self._done = not event.more_data
            if self._room is not None:
                self._room -= len(event.data)
                if self._room < 0:
                    raise RequestEntityTooLarge
            if event.data:
                yield event.data

    async def read(self) -> bytes:
        """Return the whole content; for small parts."""
        return b"".join([data async for data in self.chunks()])


class _PartReader:
    """Feeds Werkzeug's multipart decoder with what arrives."""

    def __init__(self, request: Request, boundary: str) -> None:
        self.memory = request.max_form_memory_size
        self._request = request
        self._slice = max(1, min(_PART_SLICE, self.memory // 2))
        self._rest = memoryview(b"")
        self._part: Part | None = None
        self._ended = False
        self._decoder = MultipartDecoder(
            boundary.encode("latin-1"), self.memory, max_parts=request.max_form_parts
        )

    async def next_event(self) -> Any:
        """Return the decoder's next event."""
        while True:
            try:
                event = self._decoder.next_event()
                if not isinstance(event, NeedData):
                    return event
                if not self._rest and not self._ended:
                    self._rest = memoryview(await self._request.read_async(to_end=False))
                    self._ended = not self._rest
                if self._ended:
                    self._decoder.receive_data(None)
                else:
                    piece = bytes(self._rest[: self._slice])
                    self._rest = self._rest[self._slice :]
                    self._decoder.receive_data(piece)
            except ValueError as error:
                raise BadRequest("The multipart body is malformed.") from error

    async def next_part(self) -> Part | None:
        """Return the next part, dropping what is left of the one before; None at the end."""
        if self._part is not None:
            async for _ in self._part.chunks():
                pass
        while True:
            event = await self.next_event()
            if isinstance(event, Field | File):
                self._part = Part(event, self)
                return self._part
            if isinstance(event, Epilogue):
                return None


class Response(WerkzeugResponse):
    """
    A response. Its body may also be an async iterator of ``bytes`` or ``str``, which is streamed.
    """


def text_headers(lines: Sequence[Header]) -> Headers:
    """
    Return header lines as Werkzeug has them.

    :param lines: names and values as they are on the wire
    """
    headers = Headers()
    # What its constructor does, without asking each value whether it is one line: it was a line.
    headers._list = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in lines]
    return headers


def response_lines(headers: Iterable[tuple[str, str]], size: int | None = None) -> list[Header]:
    """
    Return headers as a stream takes them.

    :param headers: names and values
    :param size: a Content-Length to leave out, as the wire writes it by itself
    :raises InvalidResponse: if one cannot be on the wire
    """
    length = None if size is None else str(size)
    try:
        return [
            (name.encode("ascii"), value.encode("latin-1"))
            for name, value in headers
            if value != length or name.lower() != "content-length"
        ]
    except UnicodeEncodeError as error:
        raise InvalidResponse(f"a header is not in Latin-1: {error.object!r}") from None
