"""What several tests of HTTP/2 ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the clock of the loop; the function puts it forward."""
    now = 1000.0
    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda loop: now)

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    return advance
