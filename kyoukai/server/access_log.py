"""
The access log: one line for each answer, in the logger ``kyoukai.access``.

A record's message is built only when a handler asks for it, and its arguments are an
:class:`AccessFields`, so that :class:`JsonFormatter` and formatters of others find the values.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import ConfigurationError

if TYPE_CHECKING:
    from kyoukai.stream import StreamState

__all__ = ("AccessFields", "AccessFormatter", "AccessLog", "JsonFormatter")

logger = logging.getLogger("kyoukai.access")


def _client(stream: StreamState) -> str:
    client = stream.head.client
    return client[0] if client is not None else "-"


def _header(name: bytes) -> Callable[[StreamState], str]:
    def read(stream: StreamState) -> str:
        value = stream.head.get(name)
        return value.decode("utf-8", "backslashreplace") if value else "-"

    return read


_FIELDS: dict[str, Callable[[StreamState], Any]] = {
    "client": _client,
    "method": lambda stream: stream.head.method,
    "target": lambda stream: stream.head.target.decode("utf-8", "backslashreplace"),
    "path": lambda stream: stream.head.path,
    "query": lambda stream: stream.head.query.decode("utf-8", "backslashreplace"),
    "protocol": lambda stream: f"HTTP/{stream.head.http_version}",
    "scheme": lambda stream: stream.head.scheme,
    "authority": lambda stream: stream.head.authority,
    "status": lambda stream: stream.status,
    "bytes": lambda stream: stream.bytes_sent,
    # A pipelined request whose client left before its turn never began.
    "duration": lambda stream: perf_counter() - stream.started if stream.started else 0.0,
    "referer": _header(b"referer"),
    "user_agent": _header(b"user-agent"),
}

#: What a client could use to forge a line, or a field of one: controls, line and paragraph
#: separators, characters that turn the reading direction, what no encoding has, the quote and
#: the backslash.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"\\]')


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in '"\\':
        return "\\" + character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class AccessFields(Mapping[str, Any]):
    """
    The fields of one access line, in which the client's text is harmless.

    :param values: the fields as they are
    """

    __slots__ = ("values_as_sent",)

    def __init__(self, values: dict[str, Any]) -> None:
        #: The fields with the client's text as it came, for formats that have their own escapes.
        self.values_as_sent = values

    def __getitem__(self, name: str) -> Any:
        value = self.values_as_sent[name]
        return _UNSAFE.sub(_escape, value) if isinstance(value, str) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_as_sent)

    def __len__(self) -> int:
        return len(self.values_as_sent)


class _JsonFields(AccessFields):
    """The same, for a format that is one JSON object."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        return _dump({"time": _timestamp(time.time()), **self.values_as_sent})


class AccessLog:
    """
    Writes the access lines of one server.

    :param log_format: as in ``ServerConfig.access_log_format``
    :raises ConfigurationError: if the format names an unknown field, or is none
    """

    def __init__(self, log_format: str) -> None:
        self.fields: type[AccessFields] = AccessFields
        self.format = log_format
        if log_format == "json":
            self.fields = _JsonFields
            self.format = "%(json)s"
            return
        sample: dict[str, Any] = dict.fromkeys(_FIELDS, "")
        sample |= {"status": 200, "bytes": 0, "duration": 0.0}
        try:
            log_format % sample
        except KeyError as error:
            known = ", ".join(_FIELDS)
            raise ConfigurationError(
                f"access_log_format: unknown field {error.args[0]!r}; known: {known}"
            ) from None
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"access_log_format: {error}") from None

    def __call__(self, stream: StreamState) -> None:
        """
        Write the line of a stream that is over.

        :param stream: the stream, with its status and what was sent
        """
        if logger.isEnabledFor(logging.INFO):
            values = {name: read(stream) for name, read in _FIELDS.items()}
            logger.info(self.format, self.fields(values))


class AccessFormatter(logging.Formatter):
    """Puts the time before an access line, unless the line is JSON, which has it inside."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """
        Return the line.

        :param record: the record of an access line
        """
        if isinstance(record.args, _JsonFields):
            return record.getMessage()
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """
    Formats a record as a JSON object a line, with the fields of an access line as members.

    For the ``formatters`` of a logging configuration: ``{json: {(): kyoukai.server.access_log.
    JsonFormatter}}``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """
        Return the record as JSON.

        :param record: the record
        """
        content: dict[str, Any] = {
            "time": _timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
        }
        if isinstance(record.args, AccessFields):
            content |= record.args.values_as_sent
        else:
            content["message"] = record.getMessage()
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            content["stack"] = self.formatStack(record.stack_info)
        return _dump(content)


def _dump(content: dict[str, Any]) -> str:
    # ASCII: a terminal, or a reader that splits on any Unicode line end, sees no client's bytes.
    return json.dumps(content, ensure_ascii=True, default=str)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
