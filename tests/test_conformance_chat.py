"""``make conformance``, the part in Chromium: what it says where it cannot run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import only_line

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str | None], subprocess.CompletedProcess[str]]:
    """Return a function that runs the part with a script as Chromium, or without one."""

    def run_part(script: str | None) -> subprocess.CompletedProcess[str]:
        if script is not None:
            (tmp_path / "chromium").write_text(script)
            (tmp_path / "chromium").chmod(0o755)
        return subprocess.run(
            [sys.executable, str(ROOT / "conformance" / "run.py"), "chat"],
            env={**os.environ, "PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run_part


def test_without_chromium_it_fails_in_one_line(run):
    done = run(None)
    assert (done.returncode, done.stdout) == (1, "")
    expected = "conformance: pages need Chromium, which is not on this machine (Debian: chromium)"
    assert only_line(done.stderr) == expected


def test_a_chromium_that_does_not_start_is_one_line(run):
    done = run("#!/bin/sh\necho no display >&2\nexit 1\n")
    assert (done.returncode, done.stdout) == (1, "")
    expected = "conformance: the chat, ws: and asyncio: Chromium did not start: no display"
    assert only_line(done.stderr) == expected
