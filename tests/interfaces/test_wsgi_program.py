"""WSGI applications in a process of their own: how it starts, and how it ends."""

from __future__ import annotations

import http.client
import os
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
from support import get

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support import Program

SOURCE = """
import threading

never = threading.Event()

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path != "/path":
        print("called", flush=True)
    if path == "/hang":
        never.wait()
    if path == "/slow":
        open("pipe").read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello from " + path.encode()]
"""


def started(program: Callable[..., Program], folder: Path, *options: str) -> tuple[Program, int]:
    (folder / "project.py").write_text(SOURCE)
    running = program("run", "project:application", "--bind", "127.0.0.1:0", *options)
    line = running.wait_for("Kyoukai listening on")
    assert "wsgi" in line
    address = line.partition("http://")[2].split()[0]
    return running, int(address.rpartition(":")[2].rstrip("/"))


def ask(port: int, path: str, answers: list[Any]) -> threading.Thread:
    def work() -> None:
        try:
            answers.append(get(port, path))
        except (OSError, http.client.HTTPException) as error:
            answers.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_it_is_recognised_and_served(program: Any, tmp_path: Path) -> None:
    running, port = started(program, tmp_path)
    assert get(port, "/path") == (200, b"hello from /path")
    running.signal()
    assert running.finish() == 0
    assert '"GET /path HTTP/1.1" 200 16' in running.output()


def test_requests_in_threads_have_their_time_at_the_end(program: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    running, port = started(program, tmp_path)
    answers: list[Any] = []
    asking = ask(port, "/slow", answers)
    running.wait_for_output("called")
    running.signal()
    with pytest.raises(OSError):  # until nobody listens any more
        while True:
            get(port, "/path")
    (tmp_path / "pipe").write_text("go on")
    asking.join(20)
    assert answers == [(200, b"hello from /slow")]
    assert running.finish() == 0


def test_a_thread_that_hangs_does_not_hold_the_process(program: Any, tmp_path: Path) -> None:
    running, port = started(program, tmp_path, "--set", "graceful_timeout=0.5")
    answers: list[Any] = []
    asking = [ask(port, "/hang", answers) for _ in range(3)]
    running.wait_for_output("called", 3)
    start = monotonic()
    running.signal()
    assert running.finish() == 0
    assert monotonic() - start < 15
    for each in asking:
        each.join(20)
    assert all(isinstance(answer, OSError | http.client.HTTPException) for answer in answers)
    assert (
        "cutting 3 connections and 3 requests that did not finish in 0.5 seconds" in running.stderr
    )
