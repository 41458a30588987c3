"""What all tests share: coroutine tests, certificates, and programs in processes of their own."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
from typing import TYPE_CHECKING

import pytest
import uvloop
from support import Commands, Program, make_certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support import Certificates


def pytest_configure() -> None:
    """Let no client of a test go through a proxy that the machine has for the internet."""
    for name in [each for each in os.environ if each.lower().endswith("_proxy")]:
        del os.environ[name]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function, on the loop of ``loop_factory`` if it has that."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    factory = pyfuncitem.funcargs.get("loop_factory")
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="module", autouse=True)
def heap_at_rest() -> None:
    """
    Leave what was there before a file of tests out of its garbage collections.

    Modules, tests and reports stay to the end, and going through them takes far longer than what
    is tested with the collector.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(params=("asyncio", "uvloop"))
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Both event loops."""
    return uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Two pairs, ``a`` and ``b``, and files that are wrong."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Runs ``kyoukai …`` where it ends by itself."""
    made = Commands()
    yield made
    made.close()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Return a function that starts ``kyoukai run …``; what still runs at the end is killed."""
    started: list[Program] = []

    def start(*arguments: str, **options: object) -> Program:
        started.append(Program(*arguments, **{"cwd": tmp_path, **options}))
        return started[-1]

    yield start
    for each in started:
        each.kill()
