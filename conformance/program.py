"""Programs that are tested: started on ports that are free, and stopped in order."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

#: The event loops that the server runs on.
LOOPS = ("asyncio", "uvloop")

#: Seconds that a program has to start, and to stop.
START_TIMEOUT = 20


class Failure(Exception):
    """Something that ends the run; the message is one line."""


class Program:
    """
    A server in a process of its own.

    :param arguments: those of ``kyoukai run``
    :param folder: where it is started
    :param loop: its event loop
    """

    def __init__(self, arguments: Sequence[str], folder: Path, loop: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "kyoukai", "run", *arguments),
                *("--loop", loop, "--no-access-log"),
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        #: What it has said.
        self.lines: list[str] = []
        # Once it serves, somebody must read on, or it waits for room in the pipe.
        self._reader = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def ports(self, *schemes: str) -> dict[str, int]:
        """
        Wait for the start-up lines, and return its port for each scheme.

        :param schemes: the schemes that it listens for
        :raises Failure: if it does not start
        """
        assert self.process.stderr is not None
        ports: dict[str, int] = {}
        timer = threading.Timer(START_TIMEOUT, self.process.kill)
        timer.start()
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"listening on (https?)://\S+:(\d+) ", line)
            if found is not None:
                ports[found[1]] = int(found[2])
            if len(ports) == len(schemes):
                break
        timer.cancel()
        if len(ports) < len(schemes):
            raise Failure(f"the example did not start: {' '.join(''.join(self.lines).split())}")
        self._reader.start()
        return ports

    def stop(self) -> None:
        """
        Stop it in order; what was sent to it must not have hurt it.

        :raises Failure: if it has
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(START_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise Failure("the example did not stop") from None
        self._reader.join()
        wrong = [line for line in self.lines if "Traceback" in line or " ERROR " in line]
        if status or wrong:
            sys.stderr.writelines(self.lines)
            raise Failure(f"the example ended with status {status}, and {len(wrong)} errors")

    def close(self) -> None:
        """End it at once, if it has not ended."""
        self.process.kill()
        self.process.wait()
        if self._reader.ident is not None:
            self._reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()


@contextmanager
def echo_server(loop: str, *settings: str, app: str = "echo:app") -> Iterator[int]:
    """
    Run the echo application while the block runs.

    :param loop: its event loop
    :param settings: the server's, as ``--set`` takes them
    :param app: another application that does the same
    :return: the port
    :raises Failure: if it does not start, or was hurt by what the block sent to it
    """
    options = [part for setting in settings for part in ("--set", setting)]
    program = Program([app, "--bind", "127.0.0.1:0", *options], HERE, loop)
    try:
        yield program.ports("http")["http"]
        program.stop()
    finally:
        program.close()
