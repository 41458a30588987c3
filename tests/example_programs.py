"""Examples for tests: their applications in memory, and their programs as processes."""

from __future__ import annotations

import asyncio
import http.client
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kyoukai.testing import Client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    import pytest

    from kyoukai import Kyoukai

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

RUNNERS = {
    "kyoukai": ("kyoukai", "run"),
    "asphalt": ("asphalt", "run"),
}


def load_app(monkeypatch: pytest.MonkeyPatch, name: str) -> Kyoukai:
    """Import an example's application, as if it were the only one."""
    monkeypatch.syspath_prepend(str(EXAMPLES / name))
    for path in (EXAMPLES / name).glob("*.py"):
        # Set and deleted: the fixture's end removes what the import leaves.
        monkeypatch.setitem(sys.modules, path.stem, None)
        monkeypatch.delitem(sys.modules, path.stem)
    return importlib.import_module("app").app


def talk(app: Kyoukai, conversation: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Client(app) as client:
            await conversation(client)

    asyncio.run(main())


class Program:
    """A server in a process of its own, with as many addresses as one says."""

    def __init__(
        self, arguments: list[str], folder: Path, addresses: int = 1, **environment: str
    ) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.lines: list[str] = []
        self.port = self.tls_port = 0
        # Asphalt's runner minds SIGTERM from its first turn of the loop after this line on, so
        # whoever is answered a request that was sent later may send the signal.
        self._awaited = ["listening"] * addresses
        if arguments[0] == "asphalt":
            self._awaited.append("Application started")
        # Once it serves, somebody must read, or it waits for room in the pipe.
        self._reader = threading.Thread(target=self._read, daemon=True)

    def wait_for_port(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"Kyoukai listening on (https?)://127\.0\.0\.1:(\d+) ", line)
            if found:
                self._awaited.remove("listening")
                name = "tls_port" if found[1] == "https" else "port"
                setattr(self, name, int(found[2]))
            elif "Application started" in line:
                self._awaited.remove("Application started")
            if not self._awaited:
                self._reader.start()
                return
        raise AssertionError("it ended before it listened:\n" + "".join(self.lines))

    def _read(self) -> None:
        self.lines.extend(self.process.stderr)

    def get(self, target: str) -> tuple[int, bytes]:
        return self.request("GET", target)

    def request(self, *request: Any) -> tuple[int, bytes]:
        """Send method, target, body and headers; return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(*request)
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    def stop(self) -> str:
        """Tell it to stop, check that it does so in order, and return what it has said."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> str:
        status = self.process.wait(timeout=60)
        self._reader.join()
        said = "".join(self.lines)
        assert status == 0, said
        assert "Traceback" not in said
        return said

    def close(self) -> None:
        """End it at once, if it has not ended."""
        self.process.kill()
        self.process.wait()
        if self._reader.ident is not None:
            self._reader.join()
        self.process.stderr.close()


@contextmanager
def started(*arguments: str, folder: Path, **options: Any) -> Iterator[Program]:
    program = Program(list(arguments), folder, **options)
    try:
        program.wait_for_port()
        yield program
    finally:
        program.close()


def config_with_free_ports(name: str, folder: Path, *ports: int) -> str:
    """Return the path of a copy of an example's configuration, whose ports the system chooses."""
    text = (EXAMPLES / name / "config.yaml").read_text()
    for port in ports:
        assert text.count(f"port: {port}") == 1
        text = text.replace(f"port: {port}", "port: 0")
    path = folder / "config.yaml"
    path.write_text(text)
    return str(path)
