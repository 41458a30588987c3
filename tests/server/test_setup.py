"""What a program needs before it runs: components, loops, logging."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from asphalt.core import Component, ContainerComponent, Context

from kyoukai.exceptions import ConfigurationError, KyoukaiError
from kyoukai.server.loading import Application
from kyoukai.server.setup import make_component, make_loop, set_up_logging

if TYPE_CHECKING:
    from collections.abc import Iterator


class Part(Component):
    def __init__(self, name: str, fails: bool = False) -> None:
        if fails:
            raise KeyError("not\nmade")

    async def start(self, ctx: Context) -> None:
        """Do nothing."""


def container(**components: Any) -> dict[str, Any]:
    return {"type": ContainerComponent, "components": components}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "kyoukia"}, "component: no such entry point.*kyoukia; did you mean 'kyoukai'"),
        ({"type": "no_module:X"}, "component: .*could not import module: ModuleNotFoundError"),
        ({"type": "asphalt.core:X"}, "component: .*error looking up object"),
        ({"type": "asphalt.core:Context"}, "component: the component cannot be made: TypeError"),
        (
            container(x=container(y={"type": Part, "nmae": "y"})),
            r"component\.components\.x\.components\.y: the component cannot be made: .*'nmae'",
        ),
        (
            container(x={"type": Part, "name": "x", "fails": True}),
            r"component\.components\.x: the component cannot be made: KeyError: .*made",
        ),
        (container(kyoukia={}), r"component\.components\.kyoukia: no such entry point"),
    ],
)
def test_a_component_that_cannot_be_made_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(KyoukaiError, match=rf"^config\.yaml: {message}") as info:
        make_component(Application(config, "config.yaml"))
    assert "\n" not in str(info.value)


# -- Loops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "policy", "is_uvloop"),
    [
        ("auto", None, True),
        ("uvloop", None, True),
        ("asyncio", None, False),
        ("auto", "uvloop", True),
        ("asyncio", "uvloop", False),
    ],
)
def test_loops(name: str, policy: str | None, is_uvloop: bool) -> None:
    before = asyncio.get_event_loop_policy()
    try:
        loop = make_loop(name, policy)
        loop.close()
        assert isinstance(loop, uvloop.Loop) is is_uvloop
    finally:
        asyncio.set_event_loop_policy(before)


def test_loops_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="event_loop_policy: .*'uvlop'.*mean 'uvloop'"):
        make_loop("auto", "uvlop")
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    with pytest.raises(ConfigurationError, match=r"uvloop is not installed; .*kyoukai\[uvloop\]"):
        make_loop("uvloop")
    loop = make_loop("auto")
    loop.close()
    assert not isinstance(loop, uvloop.Loop)


# -- Logging --------------------------------------------------------------------------------------


@contextlib.contextmanager
def fresh_logging() -> Iterator[None]:
    """Take pytest's handlers away, and put everything back at the end."""
    root, access = logging.getLogger(), logging.getLogger("kyoukai.access")
    kept = [(each, each.handlers[:], each.level, each.propagate) for each in (root, access)]
    root.handlers.clear()
    try:
        yield
    finally:
        for each, handlers, level, propagate in kept:
            each.handlers[:], each.propagate = handlers, propagate
            each.setLevel(level)


def test_messages_go_to_stderr_and_access_lines_to_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with fresh_logging():
        set_up_logging("info")
        logging.getLogger("kyoukai.access").info("line")
        logging.getLogger("kyoukai.server").info("message")
    captured = capsys.readouterr()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \S+ line\n", captured.out)
    assert captured.err.endswith("INFO kyoukai.server: message\n")


@pytest.mark.parametrize(
    ("setting", "level", "expected"),
    [(30, None, 30), ("error", None, 40), (30, "debug", 10), (None, "error", 40)],
)
def test_levels(setting: Any, level: str | None, expected: int) -> None:
    with fresh_logging():
        set_up_logging(setting, level)
        assert logging.root.level == expected


def test_none_is_no_set_up() -> None:
    with fresh_logging():
        set_up_logging(None)
        assert logging.root.handlers == []


def test_a_configuration_does_not_silence_our_loggers() -> None:
    with fresh_logging():
        set_up_logging({"version": 1, "root": {"level": "INFO"}}, "error")
        assert not logging.getLogger("kyoukai.server").disabled
        assert logging.root.level == logging.ERROR


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({}, "logging: dictionary doesn't specify a version"),
        ({"version": 1, "handlers": {"a": {"class": "x.y"}}}, "logging: .*handler 'a'.*'x"),
        ("loud", "logging: 'loud' is no level"),
    ],
)
def test_configurations_that_cannot_be_used(setting: Any, message: str) -> None:
    with fresh_logging(), pytest.raises(ConfigurationError, match=message) as info:
        set_up_logging(setting)
    assert "\n" not in str(info.value)
