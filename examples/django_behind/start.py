"""
Starts Django and, in front of it, Kyoukai; ends both when it is told to.

    python start.py [--server kyoukai|uvicorn|gunicorn]

Ctrl-C or SIGTERM ends Kyoukai, which finishes what is in progress, and then Django. A second one
ends them at once. SIGUSR1 starts Django anew, with its new code or after it has died, while Kyoukai
goes on.
"""

import argparse
import asyncio
import fcntl
import importlib.util
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Where everything happens; the paths below begin there.
FOLDER = Path(__file__).resolve().parent
DATA = Path("data")
#: Where Django listens; config.yaml has it, too.
SOCKET = DATA / "django.sock"
CERTIFICATE = Path("certs/localhost.pem")

#: What may run Django, on a socket that it inherits. Each is told to believe what Kyoukai says of
#: the browser's address: nobody else reaches that socket.
SERVERS = {
    "kyoukai": "kyoukai run project.asgi:application --bind fd://{fd} --set trusted_proxies=unix "
    "--no-access-log --log-level warning",
    "uvicorn": "uvicorn project.asgi:application --fd {fd} --forwarded-allow-ips * "
    "--no-access-log --log-level warning",
    "gunicorn": "gunicorn project.asgi:application --bind fd://{fd} --forwarded-allow-ips * "
    "--worker-class asgi --log-level error",
}

#: For the sockets' names.
numbers = itertools.count(1)

#: For development: who may use the admin after the first start. README.md says so.
USER = {
    "DJANGO_SUPERUSER_USERNAME": "ada",
    "DJANGO_SUPERUSER_PASSWORD": "lovelace",
    "DJANGO_SUPERUSER_EMAIL": "ada@example.org",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Run Django behind Kyoukai.")
    parser.add_argument("--server", choices=SERVERS, default="kyoukai", help="what runs Django")
    server = parser.parse_args().server
    os.chdir(FOLDER)
    try:
        check(server)
        with alone() as lock:
            prepare()
            return asyncio.run(Both(server, lock).run())
    except Failure as error:
        say(f"start.py: {error}")
    except KeyboardInterrupt:
        say("start.py: stopped before there was anything to end")
    return 1


class Failure(Exception):
    """Why nothing is started, in one line."""


# -- Before ------------------------------------------------------------------------------------


def check(server: str) -> None:
    """Look for everything that is needed before anything is started."""
    for module, name in {"kyoukai": "kyoukai", "django": "Django", server: server}.items():
        if importlib.util.find_spec(module) is None:
            raise Failure(f"{name} is not installed for {sys.executable} (pip install {module})")
    if not CERTIFICATE.exists():
        path = CERTIFICATE.absolute()
        raise Failure(f"there is no {path}; this makes one: kyoukai cert {path.parent}")


@contextmanager
def alone() -> Iterator[int]:
    """
    Keep a second start from taking the first one's socket.

    What this process starts has the lock, too: it is free again when all of them have ended, even
    if this one was killed and could not end the others.
    """
    DATA.mkdir(mode=0o700, exist_ok=True)
    folder = os.open(DATA, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise Failure(f"it is running already, with {DATA.absolute()}") from None
    try:
        clear_sockets()
        yield folder
        clear_sockets()
    finally:
        os.close(folder)


def clear_sockets() -> None:
    for path in (*DATA.glob("*.sock"), *DATA.glob("*.new")):
        path.unlink()


def prepare() -> None:
    """Bring the database up to date, with somebody in it if it is new."""
    is_new = not (DATA / "db.sqlite3").exists()
    manage("migrate", "--verbosity", "0")
    if is_new:
        manage("createsuperuser", "--noinput", "--verbosity", "0")
        name, password, _ = USER.values()
        say(f"The database is new. Log in as {name} with the password {password}.")


def manage(*arguments: str) -> None:
    command = [sys.executable, "manage.py", *arguments]
    if subprocess.run(command, env={**os.environ, **USER}, check=False).returncode:
        raise Failure(f"manage.py {arguments[0]} has failed")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- The two processes -------------------------------------------------------------------------


class Both:
    """
    Kyoukai, and Django behind it.

    :param server: the name of what runs Django
    :param lock: what both processes keep, see :func:`alone`
    """

    def __init__(self, server: str, lock: int) -> None:
        self.server = server
        self.lock = lock
        self.processes: set[asyncio.subprocess.Process] = set()
        self.told_to_stop = asyncio.Event()
        self.told_to_restart = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGUSR1, self.told_to_restart.set)
        keeping = asyncio.create_task(self.keep_django())
        front = await self.start("kyoukai", "run", "config.yaml")
        ended = asyncio.create_task(front.wait())
        stopping = asyncio.create_task(self.told_to_stop.wait())
        await asyncio.wait((ended, stopping, keeping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        # Kyoukai first: what it has begun needs Django.
        status = await self.end(front)
        keeping.cancel()
        await asyncio.wait((keeping,))
        if not keeping.cancelled():
            keeping.result()
        if not self.told_to_stop.is_set():
            say(f"Kyoukai has ended: {describe(status)}")
            return 1
        return 0 if status in (0, -signal.SIGTERM) else 1

    def stop(self) -> None:
        if self.told_to_stop.is_set():
            for process in self.processes:
                with suppress(ProcessLookupError):
                    process.kill()
        self.told_to_stop.set()

    async def keep_django(self) -> None:
        """Run Django, anew when somebody asks for it, until this task is cancelled."""
        django = await self.start_django()
        try:
            while True:
                await self.wait_for_restart(django)
                # The new one first: from then on, nobody comes to the old one.
                before, django = django, await self.start_django()
                await self.end(before)
        finally:
            await asyncio.gather(*map(self.end, tuple(self.processes)))

    async def wait_for_restart(self, django: asyncio.subprocess.Process) -> None:
        ended = asyncio.create_task(django.wait())
        asked = asyncio.create_task(self.told_to_restart.wait())
        try:
            await asyncio.wait((ended, asked), return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                say(
                    f"Django has ended: {describe(ended.result())}. Kyoukai goes on; this starts "
                    f"Django again: kill -USR1 {os.getpid()}"
                )
            await asked
        finally:
            ended.cancel()
            asked.cancel()
        self.told_to_restart.clear()

    async def start_django(self) -> asyncio.subprocess.Process:
        """
        Start Django on a socket that listens already: who comes while it starts is not refused.

        This process does not keep the socket, so nobody listens when Django has ended.
        """
        with listen() as listener:
            command = SERVERS[self.server].format(fd=listener.fileno()).split()
            django = await self.start(*command, keeps=listener.fileno())
        say(f"Django listens on unix:{SOCKET} (process {django.pid}, {self.server})")
        return django

    async def start(
        self, module: str, *arguments: str, keeps: int | None = None
    ) -> asyncio.subprocess.Process:
        # In a group of its own, so that Ctrl-C in a terminal reaches this process alone.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=subprocess.DEVNULL,
            process_group=0,
            pass_fds=[self.lock] if keeps is None else [self.lock, keeps],
        )
        self.processes.add(process)
        return process

    async def end(self, process: asyncio.subprocess.Process) -> int:
        if process.returncode is None:
            process.terminate()
        status = await process.wait()
        self.processes.discard(process)
        return status


def listen() -> socket.socket:
    """
    Listen on a unix socket that only this user reaches, and have SOCKET lead to it.

    It has a name of its own, because some servers remove theirs when they end. A link that is
    replaced leads somewhere at any time.
    """
    listener = socket.socket(socket.AF_UNIX)
    path = SOCKET.with_stem(f"django-{next(numbers)}")
    listener.bind(str(path))
    listener.listen(1024)
    link = SOCKET.with_suffix(".new")
    link.symlink_to(path.name)
    link.replace(SOCKET)
    return listener


def describe(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


if __name__ == "__main__":
    sys.exit(main())
