"""
Proxying beside Python's other reverse proxies, over HTTP/1.1.

There are two processors and three programs. The proxy has one of its own; what it asks shares the
other with wrk, so it is the least that a server can be, with the answer of the ASGI application
that our own hosting is measured with. What those two use together is shown as the load: while that
is well below all, the figure is the proxy's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from contest import Figure, Load, Rounds, contest, timed
from http1 import check, wrk
from servers import (
    LOAD_CPU,
    children_time,
    free_port,
    kyoukai,
    processor_time,
    running,
    uvicorn,
)

APP = "asgi_app:kilobyte_app"
BODY = b"x" * 1024


@dataclass
class Upstream:
    """The server that the proxies ask."""

    pid: int
    url: str

    def load(self, port: int, seconds: int) -> Load:
        """Load a proxy; the server behind it is a part of the load."""
        before = children_time() + processor_time(self.pid)
        load = wrk(port, "/", seconds)
        used = children_time() + processor_time(self.pid) - before
        return replace(load, busy=used * load.rate / load.requests)


def asgi(port: int, app: str = APP) -> list[str]:
    return kyoukai(port, "lifespan=off", app=app, interface="asgi")


def http1(rounds: Rounds) -> bool:
    port = free_port()
    constant = [sys.executable, "constant_server.py", str(port)]
    with running(constant, port, LOAD_CPU) as pid:
        upstream = Upstream(pid, f"http://127.0.0.1:{port}")

        def measure(pid: int, port: int) -> Figure:
            check(port, "/", BODY)
            upstream.load(port, 1)
            return timed(pid, lambda: upstream.load(port, rounds.seconds))

        itself = "Kyoukai's ASGI, no proxy"
        rivals = _rivals(upstream.url)
        contenders = {
            "Kyoukai, proxy": lambda port: kyoukai(port, app=upstream.url, interface=None),
            itself: asgi,
            **rivals,
        }
        promised = {itself: 0.5, **dict.fromkeys(rivals, 1.5)}
        title = "HTTP/1.1 proxy: 1 KB, wrk -t1 -c64"
        return contest(title, contenders, measure, rounds, promised)


def _rivals(url: str) -> dict[str, Callable[[int], list[str]]]:
    """
    Return the commands of other proxies.

    proxy.py, the best known one, is not among them: it does not get through. In its usual way it
    fails at the second request of a connection; in threads, some requests get no answer.
    """
    return {
        "aiohttp, server and client": lambda port: [
            *(sys.executable, "aiohttp_proxy.py", str(port), url)
        ],
        "asgiproxy (aiohttp), uvicorn": lambda port: [
            *("env", f"UPSTREAM={url}", *uvicorn("asgiproxy_app:app", port))
        ],
        "Twisted's reverse proxy": lambda port: [
            *(sys.executable, "twisted_proxy.py", str(port), url)
        ],
    }
