"""Helpers of several test files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import IO

from kyoukai.server.tls import write_certificate

LISTENING = "Kyoukai listening on "


@dataclass
class Certificates:
    """Files for TLS."""

    folder: Path

    def pair(self, name: str) -> dict[str, str]:
        """Settings that name a good pair."""
        return {"certfile": self.path(f"{name}.pem"), "keyfile": self.path(f"{name}-key.pem")}

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def trusting(self, *names: str) -> ssl.SSLContext:
        """A client's context that trusts only these pairs' certificates."""
        # Without any, all that the system trusts would be read, which takes long.
        texts = [Path(self.path(f"{name}.pem")).read_text() for name in names]
        return ssl.create_default_context(cadata="".join(texts))


def make_certificates(folder: Path) -> Certificates:
    for name in "ab":
        certfile, keyfile = write_certificate(folder / name)
        shutil.copy(certfile, folder / f"{name}.pem")
        shutil.copy(keyfile, folder / f"{name}-key.pem")
    (folder / "junk.pem").write_text("junk")
    for name, source in (("damaged.pem", "a.pem"), ("damaged-key.pem", "a-key.pem")):
        text = (folder / source).read_text()
        (folder / name).write_text(text[:70] + text[90:])
    return Certificates(folder)


class Program:
    """
    A command in a process of its own.

    :param arguments: those of ``python -m kyoukai``, or of ``python`` with ``module=None``
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        module: str | None = "kyoukai",
        env: dict[str, str] | None = None,
        **options: object,
    ) -> None:
        reading, writing = os.pipe()
        self._stdout: IO[str] = os.fdopen(reading, encoding="utf-8")
        command = [sys.executable, *(("-m", module) if module else ()), *arguments]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        environment.pop("ASPHALT_SERVICE", None) if not env else None
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        os.close(writing)
        #: What was read of standard error, and of standard output.
        self.stderr = self.stdout = ""

    def wait_for(self, text: str) -> str:
        """Read standard error up to a line with that text, and return the line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr += line
            if text in line:
                return line.rstrip("\n")
        raise AssertionError(f"{text!r} did not come:\n{self.stderr}")

    def urls(self, number: int = 1) -> list[str]:
        """Wait for that many start-up lines, and return their URLs."""
        lines = [self.wait_for(LISTENING) for _ in range(number)]
        return [line.partition(LISTENING)[2].rpartition(" (")[0] for line in lines]

    def port(self) -> int:
        """Wait for one start-up line, and return its port."""
        return int(self.urls()[0].rpartition(":")[2])

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def finish(self, timeout: float = 30) -> int:
        """Wait for the end, and return the exit status."""
        assert self.process.stderr is not None
        self.stderr += self.process.stderr.read()
        status = self.process.wait(timeout)
        self.process.stderr.close()
        return status

    def wait_for_output(self, text: str, times: int = 1) -> None:
        """Read standard output up to the line that has the text that many times in all."""
        for line in self._stdout:
            self.stdout += line
            times -= line.count(text)  # threads may write before the end of another's line
            if times <= 0:
                return
        raise AssertionError(f"{text!r} did not come:\n{self.stdout}")

    def output(self) -> str:
        """All of standard output; waits for its end."""
        self.stdout += self._stdout.read()
        return self.stdout

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._stdout.close()
        if self.process.stderr is not None:
            self.process.stderr.close()


#: Forks for each command line; the lines on both sides are JSON.
_COMMANDS = """
import gc, json, os, sys, tempfile
from kyoukai.cli import main
gc.freeze()  # else each end goes through all that was imported

for line in sys.stdin:
    arguments, folder = json.loads(line)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        child = os.fork()
        if not child:
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(error.fileno(), 2)
            main(arguments)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said = []
        for file in out, error:
            file.seek(0)
            said.append(file.read())
    print(json.dumps([status, *said]), flush=True)
"""


class Commands:
    """
    Commands that end by themselves, each in a process of its own.

    The processes are forked from one that has imported ``kyoukai``, which takes most of the time.
    """

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in os.environ if name != "ASPHALT_SERVICE"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMANDS],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """
        Run a command, and wait for its end.

        :param arguments: those of ``python -m kyoukai``
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([arguments, str(cwd)]), file=self.process.stdin, flush=True)
        status, out, error = json.loads(self.process.stdout.readline())
        return subprocess.CompletedProcess(arguments, status, out, error)

    def close(self) -> None:
        """End all that runs."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def get(port: int, path: str = "/", context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    """Send one GET, and return status and body."""
    with connect(port, context) as sock:
        connection = HTTPConnection("localhost", port)
        connection.sock = sock
        connection.request("GET", path, headers={"Connection": "close"})
        response: HTTPResponse = connection.getresponse()
        return response.status, response.read()


def connect(port: int, context: ssl.SSLContext | None = None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    if context is None:
        return sock
    return context.wrap_socket(sock, server_hostname="localhost")


def reserve_port() -> socket.socket:
    """
    Return a socket with a port that nobody else gets as long as it is open.

    It is for programs that cannot choose one themselves, and set SO_REUSEPORT.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


def only_line(text: str) -> str:
    """The one line that a text has."""
    assert re.fullmatch(r"[^\n]+\n", text), text
    return text.rstrip("\n")
