"""The servers under test: their commands, their start and end, what they cost."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

APPS = Path(__file__).parent / "apps"
SERVER_CPU, LOAD_CPU = 0, 1
ON_LOAD_CPU = ("taskset", "-c", str(LOAD_CPU))

_TICKS = os.sysconf("SC_CLK_TCK")


@functools.cache
def folder() -> Path:
    """Return a folder for the files of this run."""
    path = tempfile.mkdtemp(prefix="kyoukai-bench-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


@functools.cache
def certificate() -> tuple[str, ...]:
    """Return the options that name a certificate and its key, the same for all servers."""
    command = [sys.executable, "-m", "kyoukai", "cert", str(folder())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    where = str(folder() / "localhost")
    return ("--certfile", f"{where}.pem", "--keyfile", f"{where}-key.pem")


#: Threads that a server of WSGI applications has: those of uvicorn, which has no option for it.
THREADS = 10


def kyoukai(
    port: int,
    *settings: str,
    tls: bool = False,
    app: str = "kyoukai_app:app",
    interface: str | None = "kyoukai",
) -> list[str]:
    """Kyoukai with an application or, without an interface, in front of another server."""
    options = [] if interface is None else ["--interface", interface]
    options += [part for setting in settings for part in ("--set", setting)]
    bind = f"127.0.0.1:{port}"
    where = ("--tls-bind", bind, *certificate()) if tls else ("--bind", bind)
    return [
        *(sys.executable, "-m", "kyoukai", "run", app, *where),
        *("--loop", "uvloop", "--no-access-log", "--log-level", "warning", *options),
    ]


def uvicorn(app: str, port: int, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "uvicorn", app, "--port", str(port), "--http", "httptools"),
        *("--loop", "uvloop", "--no-access-log", "--log-level", "warning", "--lifespan", "off"),
        *options,
    ]


def hypercorn(app: str, port: int) -> list[str]:
    """Hypercorn over TLS. No workers means this process, as with the others."""
    return [
        *(sys.executable, "-m", "hypercorn", app, "--bind", f"127.0.0.1:{port}", *certificate()),
        *("--worker-class", "uvloop", "--workers", "0", "--config", "file:hypercorn_config.py"),
    ]


def granian(app: str, port: int, interface: str, *options: str) -> list[str]:
    """Granian in HTTP/1.1, with nothing on that the work does not need."""
    return [
        *(sys.executable, "-m", "granian", app, "--port", str(port), "--interface", interface),
        *("--workers", "1", "--runtime-threads", "1", "--loop", "uvloop", "--no-ws"),
        *("--http", "1", "--no-access-log", "--log-level", "warning", *options),
    ]


def gunicorn(app: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "gunicorn", app, "--bind", f"127.0.0.1:{port}"),
        *("--worker-class", "gthread", "--workers", "1", "--threads", str(THREADS)),
        *("--keep-alive", "60", "--log-level", "warning", "--no-control-socket"),
    ]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def running(command: list[str], port: int, cpu: int = SERVER_CPU) -> Iterator[int]:
    """Run a server on a processor until the block ends; what it says is shown if that fails."""
    with tempfile.TemporaryFile(dir=folder()) as said:
        process = subprocess.Popen(
            command,
            cwd=APPS,
            stdout=said,
            stderr=said,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
        )
        try:
            _wait_for(process, port)
            yield process.pid
        except BaseException:
            said.seek(0)
            sys.stderr.write(said.read()[:10000].decode(errors="replace"))
            print(f"benchmarks: this server was running: {' '.join(command)}", file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            with contextlib.suppress(ProcessLookupError):  # what it started ends with it
                os.killpg(process.pid, signal.SIGKILL)


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 15
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit("benchmarks: this server did not start")
        time.sleep(0.05)


def processor_time(pid: int) -> float:
    """
    Return the seconds of processor that a process has used, its own and the kernel's.

    Its children's count, too: some servers have a process that looks after their one worker.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / _TICKS
    return own + sum(processor_time(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def children_time() -> float:
    """Return the seconds of processor that this process's ended children have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def rss(pid: int) -> int:
    """Return a process's resident memory, in bytes."""
    return _status(pid, "VmRSS")


def peak_rss(pid: int) -> int:
    """Return the most memory that a process has had since :func:`forget_peak`, in bytes."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Let a process's peak begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) * 1024


def open_files(pid: int) -> int:
    """Return how many descriptors a process has."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
