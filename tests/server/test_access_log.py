"""The access log's lines, and that no client can forge one."""

from __future__ import annotations

import json
import logging
import re
from time import perf_counter
from typing import Any, cast

import pytest

from kyoukai.config import ServerConfig
from kyoukai.exceptions import ConfigurationError
from kyoukai.server.access_log import AccessFormatter, AccessLog, JsonFormatter
from kyoukai.stream import RequestHead, StreamState, Wire


def finished_stream(**fields: Any) -> StreamState:
    head: dict[str, Any] = {
        "method": "GET",
        "target": b"/a?b=c",
        "raw_path": b"/a",
        "path": "/a",
        "query": b"b=c",
        "scheme": "http",
        "authority": "localhost:8000",
        "http_version": "1.1",
        "headers": [(b"host", b"localhost:8000"), (b"user-agent", b"curl/8")],
        "client": ("127.0.0.1", 4711),
        **fields,
    }
    stream = StreamState(RequestHead(**head), cast("Wire", None))
    stream.status = 200
    stream.bytes_sent = 12
    stream.started = perf_counter() - 1
    return stream


class Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def handler() -> Any:
    logger = logging.getLogger("kyoukai.access")
    handler, level, propagate = Handler(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate


def test_the_default_line(handler: Handler) -> None:
    AccessLog(ServerConfig().access_log_format)(finished_stream())
    line, _, duration = handler.lines[0].rpartition(" ")
    assert line == '127.0.0.1 "GET /a?b=c HTTP/1.1" 200 12'
    assert 1 <= float(duration) < 30


def test_every_field(handler: Handler) -> None:
    names = (
        "client method target path query protocol scheme authority status bytes referer user_agent"
    )
    AccessLog(" ".join(f"%({name})s" for name in names.split()))(finished_stream())
    assert handler.lines == [
        "127.0.0.1 GET /a?b=c /a b=c HTTP/1.1 http localhost:8000 200 12 - curl/8"
    ]


def test_json(handler: Handler) -> None:
    AccessLog("json")(finished_stream(client=None, path='/"\n', http_version="2"))
    entry = json.loads(handler.lines[0])
    assert entry["client"] == "-"
    assert entry["path"] == '/"\n'
    assert (entry["status"], entry["bytes"], entry["protocol"]) == (200, 12, "HTTP/2")
    assert entry["time"].endswith("+00:00")
    assert "\n" not in handler.lines[0]


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("/\r\nroot 200", r"/\x0d\x0aroot 200"),
        ("/\x1b[31m\x00\x7f\x9b", r"/\x1b[31m\x00\x7f\x9b"),
        ('/" 200 "', r"/\" 200 \""),
        ("/\\x0a", r"/\\x0a"),
        ("/\u2028\u202e\udcff", r"/\u2028\u202e\udcff"),
        ("/境界", "/境界"),
    ],
)
def test_what_the_client_sent_cannot_forge_a_line(
    handler: Handler, path: str, written: str
) -> None:
    AccessLog("%(path)s")(finished_stream(path=path))
    assert handler.lines == [written]


def test_headers_of_any_bytes(handler: Handler) -> None:
    headers = [(b"user-agent", b"\xff\x80\x1b"), (b"referer", "http://境/".encode())]
    AccessLog("%(user_agent)s %(referer)s")(finished_stream(headers=headers))
    assert handler.lines == [r"\\xff\\x80\x1b http://境/"]


def test_nothing_is_built_when_the_logger_is_off(handler: Handler) -> None:
    logging.getLogger("kyoukai.access").setLevel(logging.WARNING)
    AccessLog("%(path)s")(cast("StreamState", None))
    assert handler.lines == []


@pytest.mark.parametrize(
    ("log_format", "message"),
    [
        ("%(pth)s", "access_log_format: unknown field 'pth'; known: client, method"),
        ("%(path)d", "access_log_format: "),
        ("%s %s", "access_log_format: "),
        ("100%", "access_log_format: "),
    ],
)
def test_a_format_that_cannot_work_is_refused(log_format: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        AccessLog(log_format)


def test_the_time_stands_before_a_line_that_is_not_json(handler: Handler) -> None:
    handler.setFormatter(AccessFormatter())
    AccessLog("%(path)s")(finished_stream())
    AccessLog("json")(finished_stream())
    first, second = handler.lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \S+ /a", first)
    assert json.loads(second)["path"] == "/a"


def test_the_json_formatter_has_an_access_lines_fields(handler: Handler) -> None:
    handler.setFormatter(JsonFormatter())
    AccessLog("%(path)s")(finished_stream(path='/"\x1b'))
    entry = json.loads(handler.lines[0])
    assert entry["logger"] == "kyoukai.access"
    assert entry["level"] == "INFO"
    assert (entry["path"], entry["status"], entry["user_agent"]) == ('/"\x1b', 200, "curl/8")


def test_the_json_formatter_takes_any_record(handler: Handler) -> None:
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("kyoukai.access")
    try:
        raise ValueError("lost")
    except ValueError:
        logger.exception("it is %s", "gone", stack_info=True)
    entry = json.loads(handler.lines[0])
    assert entry["message"] == "it is gone"
    assert "ValueError: lost" in entry["exception"]
    assert "stack" in entry


def test_a_request_whose_turn_never_came_took_no_time(handler: Handler) -> None:
    """It was pipelined, and its client left: its duration was that of the machine's being up."""
    stream = StreamState(finished_stream().head, cast("Wire", None))
    AccessLog("%(status)s %(duration).3f")(stream)
    assert handler.lines == ["0 0.000"]
