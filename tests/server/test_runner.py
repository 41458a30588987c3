"""The runner: components made ahead, started, ended in order. Processes are in test_cli."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import pytest
from asphalt.core import CLIApplicationComponent, Component, ContainerComponent, Context

from kyoukai.exceptions import KyoukaiError
from kyoukai.server.group import ServerGroup, current_group
from kyoukai.server.loading import Application
from kyoukai.server.runner import run

LOG: list[str] = []


@pytest.fixture(autouse=True)
def log() -> list[str]:
    LOG.clear()
    return LOG


class Part(Component):
    """Writes down that it is made, and that it starts."""

    def __init__(self, name: str = "part", fails: str = "") -> None:
        self.name = name
        self.fails = fails
        LOG.append(f"{name} made")
        if fails == "make":
            raise RuntimeError("not\nmade")

    async def start(self, ctx: Context) -> None:
        LOG.append(f"{self.name} starts")
        if self.fails == "start":
            raise RuntimeError("not started")
        ctx.add_teardown_callback(lambda: LOG.append(f"{self.name} ends"))
        if self.fails == "signal":
            signal.raise_signal(signal.SIGTERM)
            await asyncio.Event().wait()
        if self.fails == "exit":
            asyncio.get_running_loop().call_soon(leave, 7)
        if self.fails == "exit in start":
            leave(7)
        if self.fails == "text":
            asyncio.get_running_loop().call_soon(leave, "bye")


def leave(code: Any) -> None:
    raise SystemExit(code)


class Tool(CLIApplicationComponent):
    async def run(self, ctx: Context) -> int:
        LOG.append("tool runs")
        return 3


class OwnContainer(ContainerComponent):
    async def start(self, ctx: Context) -> None:
        LOG.append("container starts")
        self.add_component("a", Part, name="a")
        await super().start(ctx)


def part(name: str, **config: Any) -> dict[str, Any]:
    return {"type": Part, "name": name, **config}


def container(kind: type = ContainerComponent, **components: Any) -> dict[str, Any]:
    return {"type": kind, "components": components}


def program(config: dict[str, Any]) -> Application:
    return Application(config, "config.yaml")


def test_children_are_made_before_anything_starts(log: list[str]) -> None:
    config = container(a=part("a"), inner=container(b=part("b")), c=part("c", fails="signal"))
    assert run(program(config)).status == 0
    assert log[:3] == ["a made", "c made", "b made"]
    assert sorted(log[3:6]) == ["a starts", "b starts", "c starts"]
    assert sorted(log[6:]) == ["a ends", "b ends", "c ends"]


def test_a_container_with_a_start_of_its_own_makes_its_children_there(log: list[str]) -> None:
    config = container(OwnContainer, a={"fails": "signal"}, b=part("b"))
    assert run(program(config)).status == 0
    assert log[:3] == ["container starts", "a made", "b made"]


def test_a_start_that_fails_ends_what_started(log: list[str]) -> None:
    config = container(a=part("a"), b=part("b", fails="start"))
    with pytest.raises(KyoukaiError, match="failed to start: RuntimeError: not") as info:
        run(program(config))
    assert isinstance(info.value.__cause__, RuntimeError)
    assert log[-1] == "a ends"


@pytest.mark.parametrize("kind", ["exit", "exit in start"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_component_that_exits_ends_the_program_in_order(
    log: list[str], kind: str, loop: str
) -> None:
    assert run(program(part("a", fails=kind)), loop).status == 7
    assert log == ["a made", "a starts", "a ends"]


def test_an_exit_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program(part("a", fails="text"))).status == 1
    assert capsys.readouterr().err == "bye\n"


def test_command_line_tools_of_asphalt(log: list[str]) -> None:
    assert run(program(container(Tool, a=part("a")))).status == 3
    assert log == ["a made", "a starts", "tool runs", "a ends"]


def test_an_error_while_closing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Careless(Part):
        async def start(self, ctx: Context) -> None:
            ctx.add_teardown_callback(lambda: 1 / 0)
            await super().start(ctx)

    assert run(program({"type": Careless, "fails": "exit"})).status == 7
    assert run(program({"type": Careless, "fails": "signal"})).status == 1
    with pytest.raises(KyoukaiError, match="failed to start: RuntimeError: not") as info:
        run(program({"type": Careless, "fails": "start"}))
    assert isinstance(info.value.__cause__, RuntimeError)
    assert caplog.messages == ["error while the application was closed"] * 3


def test_a_start_that_hangs_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Hanging(Component):
        async def start(self, ctx: Context) -> None:
            await reported.wait()

    reported = asyncio.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            reported.set()
            asyncio.get_running_loop().call_soon(leave, 0)

    watch = Watch()
    logging.getLogger("kyoukai.server").addHandler(watch)
    monkeypatch.setattr("kyoukai.server.runner._PATIENCE", 0.01)
    try:
        assert run(program({"type": Hanging})).status == 0
    finally:
        logging.getLogger("kyoukai.server").removeHandler(watch)
    assert "still starting after 0.01 seconds" in caplog.text


def test_nothing_is_left_behind() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run(program(part("a", fails="exit")))
    assert current_group.get() is None
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_group_is_a_resource() -> None:
    class Looking(Component):
        async def start(self, ctx: Context) -> None:
            assert ctx.require_resource(ServerGroup).held
            asyncio.get_running_loop().call_soon(leave, 0)

    assert run(program({"type": Looking})).status == 0


def test_max_threads() -> None:
    class Looking(Component):
        async def start(self, ctx: Context) -> None:
            loop = asyncio.get_running_loop()
            assert loop._default_executor._max_workers == 3  # type: ignore[attr-defined]
            loop.call_soon(leave, 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kyoukai.server.runner.make_loop", lambda *_: asyncio.new_event_loop())
        assert run(Application({"type": Looking}, max_threads=3)).status == 0
