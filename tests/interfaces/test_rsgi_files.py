"""Files that RSGI applications let the server send."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns
from interfaces.rsgi_peers import TEXT, ask, hosted, wires
from talks import lines_of

from kyoukai.interfaces import rsgi_files
from kyoukai.interfaces.rsgi import RSGIProtocolError, RSGIRangeError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(name="small")
def small_fixture(tmp_path: Path) -> Path:
    path = tmp_path / "small.txt"
    path.write_bytes(b"0123456789")
    return path


@pytest.fixture(name="large")
def large_fixture(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


def sending(file: Any, *pairs: Any, status: int = 200) -> Any:
    async def app(scope: Any, proto: Any) -> None:
        proto.response_file(status, [TEXT, *pairs], file)

    return app


def part(file: Any, start: Any, end: Any, *pairs: Any) -> Any:
    async def app(scope: Any, proto: Any) -> None:
        proto.response_file_range(206, [TEXT, *pairs], file, start, end)

    return app


async def open_files() -> int:
    """How many files this process has open, once threads are done with theirs."""
    await turns()
    return len(os.listdir("/proc/self/fd"))


@wires
async def test_a_file(wire: str, small: Path, large: Path) -> None:
    for path in (small, large):
        for given in (path, str(path)):
            answer = await ask(sending(given), wire)
            assert answer.status == 200
            assert answer.headers["content-type"] == "text/plain"
            assert answer.headers.getlist("content-length") == [str(path.stat().st_size)]
            assert answer.body == path.read_bytes()


@wires
async def test_a_content_length_of_its_own(wire: str, small: Path, large: Path) -> None:
    for path in (small, large):
        size = str(path.stat().st_size)
        answer = await ask(sending(path, ("Content-Length", size)), wire)
        assert answer.headers.getlist("content-length") == [size]
        assert answer.body == path.read_bytes()


@wires
async def test_a_content_length_that_is_wrong(wire: str, small: Path, caplog: Any) -> None:
    answer = await ask(sending(small, ("Content-Length", "11")), wire)
    assert answer.status == 500
    assert lines_of(caplog) == [
        f"GET /: rsgi application test:app: response_file: '{small}': Content-Length says 11, and"
        " there are 10 bytes"
    ]


@wires
async def test_head(wire: str, small: Path, large: Path) -> None:
    for path in (small, large):
        async with hosted(sending(path), wire) as peer:
            peer.request("HEAD", "/")
            answer = await peer.response()
            assert (answer.status, answer.body) == (200, b"")
            assert answer.headers["content-length"] == str(path.stat().st_size)


async def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    answer = await ask(sending(path))
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


@wires
async def test_what_cannot_be_sent_is_not_found(wire: str, tmp_path: Path, caplog: Any) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, why in (
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "it is no regular file"),
        (pipe, "it is no regular file"),
        ("a\0b", "embedded null"),
    ):
        for call, app in (
            ("response_file", sending(path)),
            ("response_file_range", part(path, 0, 1)),
        ):
            caplog.clear()
            before = await open_files()
            answer = await ask(app, wire)
            assert (answer.status, answer.text) == (404, "Not Found\n")
            (line,) = lines_of(caplog)
            where = f"GET /: rsgi application test:app: {call}: {str(path)!r} cannot be sent: "
            assert why in line.removeprefix(where)
            assert line.startswith(where)
            assert await open_files() <= before


@wires
@pytest.mark.parametrize(
    ("start", "end", "body"),
    [(0, 10, b"0123456789"), (3, 8, b"34567"), (9, 10, b"9"), (5, 6, b"5"), (8, 99, b"89")],
)
async def test_part_of_a_file(wire: str, start: int, end: int, body: bytes, small: Path) -> None:
    answer = await ask(part(small, start, end, ("content-range", "bytes x")), wire)
    assert answer.status == 206
    assert answer.headers["content-range"] == "bytes x"
    assert answer.headers["content-length"] == str(len(body))
    assert answer.body == body


async def test_a_large_part(large: Path) -> None:
    answer = await ask(part(large, 1000, 1_000_000))
    assert answer.body == large.read_bytes()[1000:1_000_000]


@pytest.mark.parametrize(("start", "end"), [(5, 5), (8, 4), (-1, 5)])
async def test_no_range(start: int, end: int, small: Path) -> None:
    """A ``ValueError``, as in Granian, which applications look for."""

    async def app(scope: Any, proto: Any) -> None:
        with pytest.raises(ValueError, match=f"there is no range {start} to {end}") as caught:
            proto.response_file_range(206, [], small, start, end)
        assert isinstance(caught.value, RSGIRangeError)
        assert isinstance(caught.value, RSGIProtocolError)
        proto.response_empty(416, [])

    assert (await ask(app)).status == 416


@wires
async def test_a_range_behind_the_end(wire: str, small: Path, caplog: Any) -> None:
    answer = await ask(part(small, 10, 12), wire)
    assert answer.status == 416
    assert answer.headers["content-range"] == "bytes */10"
    assert "has 10 bytes, none of them from 10 on" in lines_of(caplog)[0]


@wires
async def test_the_application_goes_on_and_its_error_comes_after_the_file(
    wire: str, large: Path, caplog: Any
) -> None:
    async def app(scope: Any, proto: Any) -> None:
        proto.response_file(200, [TEXT], str(large))
        raise LookupError("mine")

    async with hosted(app, wire) as peer:
        peer.request("GET", "/")
        assert (await peer.response()).body == large.read_bytes()
        await turns()
    assert len(lines_of(caplog)) == 1


@wires
async def test_a_file_is_read_as_the_client_takes_it(
    wire: str, tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(64 * 2**20)
    pieces = 0
    read = rsgi_files.FilePart._read

    def counting(self: Any) -> bytes:
        nonlocal pieces
        pieces += 1
        return read(self)

    monkeypatch.setattr(rsgi_files.FilePart, "_read", counting)
    before = await open_files()
    async with hosted(sending(path), wire) as peer:
        peer.hold()
        peer.request("GET", "/")
        last = -1
        while last != pieces or not pieces:
            last = pieces
            await asyncio.to_thread(int)  # behind what the threads are doing
            await turns()
        assert pieces <= 6
        peer.leave()
        await turns()
    assert await open_files() <= before


@wires
async def test_a_file_that_becomes_shorter(
    wire: str, large: Path, monkeypatch: Any, caplog: Any
) -> None:
    read = rsgi_files.FilePart._read

    def cutting(self: Any) -> bytes:
        os.truncate(large, 200_000)
        return read(self)

    monkeypatch.setattr(rsgi_files.FilePart, "_read", cutting)
    async with hosted(sending(large), wire) as peer:
        peer.request("GET", "/")
        with pytest.raises((ConnectionError, AssertionError)):
            await peer.response()
    assert "the body is shorter than its Content-Length" in lines_of(caplog)[0]


async def test_a_file_that_cannot_be_read(large: Path, monkeypatch: Any, caplog: Any) -> None:
    read = rsgi_files.FilePart._read

    def failing(self: Any) -> bytes:
        if self._left < self.size:
            raise OSError(5, "Input/output error")
        return read(self)

    monkeypatch.setattr(rsgi_files.FilePart, "_read", failing)
    async with hosted(sending(large)) as peer:
        peer.request("GET", "/")
        with pytest.raises(ConnectionError):
            await peer.response()
    assert lines_of(caplog) == [
        f"GET /: rsgi application test:app: response_file: '{large}' cannot be read:"
        " Input/output error"
    ]


async def test_cancelled_while_a_thread_opens(small: Path, monkeypatch: Any) -> None:
    """The file is closed all the same."""
    loop = asyncio.get_running_loop()
    opening, opened = asyncio.Event(), threading.Event()
    real = rsgi_files._open

    def slow(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(opening.set)
        opened.wait()
        return real(*arguments)

    monkeypatch.setattr(rsgi_files, "_open", slow)
    before = await open_files()
    task = asyncio.create_task(rsgi_files.open_part(str(small), 0, None))
    await opening.wait()
    task.cancel()
    await turns()
    assert not task.done()
    opened.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await open_files() <= before
