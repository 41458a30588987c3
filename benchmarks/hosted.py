"""Applications of other kinds on our server, beside the servers that are made for them."""

from __future__ import annotations

from functools import partial

import http1
import http2
from contest import Rounds
from servers import THREADS, granian, gunicorn, hypercorn, kyoukai, uvicorn


def asgi_http1(rounds: Rounds) -> bool:
    uvicorns = "uvicorn, raw ASGI function"
    contenders = {
        "Kyoukai, raw ASGI function": _asgi,
        uvicorns: lambda port: uvicorn("asgi_app:app", port),
    }
    return http1.compare("ASGI", *http1.HELLO, contenders, rounds, {uvicorns: 1.2})


def asgi_http2(rounds: Rounds) -> bool:
    hypercorns = "Hypercorn, raw ASGI function"
    contenders = {
        "Kyoukai, raw ASGI function": lambda port: _asgi(port, tls=True),
        hypercorns: partial(hypercorn, "asgi_app:app"),
    }
    return http2.compare_hello("ASGI", contenders, rounds, {hypercorns: 5.0})


def rsgi_http1(rounds: Rounds) -> bool:
    """Measure how much RSGI saves; Granian's, which defines it, is for information."""
    contenders = {
        "Kyoukai, raw RSGI function": lambda port: kyoukai(
            port, app="rsgi_app:app", interface="rsgi"
        ),
        "Kyoukai, raw ASGI function": _asgi,
        "Granian, raw RSGI function": lambda port: granian("rsgi_app:app", port, "rsgi"),
    }
    return http1.compare("RSGI", *http1.HELLO, contenders, rounds, 1.1)


def wsgi_flask(rounds: Rounds) -> bool:
    """
    Measure Flask, in as many threads as uvicorn has.

    Granian is for information, also with the one thread that is the fastest for an application that
    never waits.
    """
    ours = partial(kyoukai, app="flask_app:app", interface="wsgi")

    def granians(port: int, *options: str) -> list[str]:
        return granian("flask_app:app", port, "wsgi", *options)

    contenders = {
        "Kyoukai, Flask": lambda port: ours(port, f"wsgi_threads={THREADS}"),
        "uvicorn, Flask": lambda port: uvicorn("flask_app:app", port, "--interface", "wsgi"),
        "gunicorn gthread, Flask": lambda port: gunicorn("flask_app:app", port),
        "Granian, Flask": lambda port: granians(port, "--blocking-threads", str(THREADS)),
        "Granian, Flask, one thread": lambda port: granians(port, "--blocking-threads", "1"),
    }
    promised = {"uvicorn, Flask": 1.2, "gunicorn gthread, Flask": 2.0}
    title = f"WSGI, {THREADS} threads"
    return http1.compare(title, *http1.HELLO, contenders, rounds, promised)


def ssgi_http1(rounds: Rounds) -> bool:
    """Measure SSGI, both ways, beside our ASGI; for information."""
    contenders = {
        f"Kyoukai, {what}": lambda port, app=app: kyoukai(port, app=app, interface="ssgi")
        for what, app in (
            ("raw SSGI function", "ssgi_app:app"),
            ("raw SSGI coroutine", "ssgi_app:coroutine_app"),
        )
    }
    contenders["Kyoukai, raw ASGI function"] = _asgi
    return http1.compare("SSGI", *http1.HELLO, contenders, rounds, {})


def _asgi(port: int, *, tls: bool = False) -> list[str]:
    """Our server with the function that uvicorn and Hypercorn get, likewise without lifespan."""
    return kyoukai(port, "lifespan=off", tls=tls, app="asgi_app:app", interface="asgi")
