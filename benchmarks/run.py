"""
Speed and memory beside other servers: ``make bench``.

Each server runs in turn, one worker on processor 0, with the load on processor 1. Machines differ
and drift, so every round measures all contenders one after the other, and what counts is the
ratio of the medians.

    python benchmarks/run.py [NAME…] [--seconds N] [--rounds N]

Names are those of the parts, or the beginning of several: ``http2`` is ``http2-hello``,
``http2-json`` and so on.

``memory-hosted`` weighs nothing: it is what a request of each kind costs in processor time when
both ends are in memory, without sockets and what they add.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable

import hosted
import hosted_memory
import http1
import http2
import memory
import proxy_streams
import proxying
import websocket
from contest import Rounds

PARTS: dict[str, Callable[[argparse.Namespace, Rounds], bool]] = {
    "http1-hello": lambda options, rounds: http1.hello(rounds),
    "http1-json": lambda options, rounds: http1.json(rounds),
    "http2-hello": lambda options, rounds: http2.hello(rounds),
    "http2-json": lambda options, rounds: http2.json(rounds),
    "http2-download": lambda options, rounds: http2.download(rounds),
    "http2-upload": lambda options, rounds: http2.upload(rounds),
    "http2-streams": lambda options, rounds: http2.streams(rounds),
    "websocket-echo": lambda options, rounds: websocket.echo(rounds),
    "websocket-http2": lambda options, rounds: websocket.echo_http2(rounds),
    "websocket-idle": lambda options, rounds: websocket.idle_sockets(options.connections or 10000),
    "websocket-publish": lambda options, rounds: websocket.publish(rounds, 1000),
    "asgi-http1": lambda options, rounds: hosted.asgi_http1(rounds),
    "asgi-http2": lambda options, rounds: hosted.asgi_http2(rounds),
    "rsgi-http1": lambda options, rounds: hosted.rsgi_http1(rounds),
    "wsgi-flask": lambda options, rounds: hosted.wsgi_flask(rounds),
    "ssgi-http1": lambda options, rounds: hosted.ssgi_http1(rounds),
    "proxy-http1": lambda options, rounds: proxying.http1(rounds),
    "proxy-streams": lambda options, rounds: proxy_streams.streams(),
    "memory-http1": lambda options, rounds: memory.http1(options.connections or 5000),
    "memory-http2": lambda options, rounds: memory.http2(options.connections or 2000),
    "memory-hosted": lambda options, rounds: hosted_memory.requests(rounds),
}

#: Programs that the load comes from, and the Debian packages that have them.
PROGRAMS = {"wrk": "wrk", "h2load": "nghttp2-client", "taskset": "util-linux"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, help="that are idle")
    options = parser.parse_args()
    chosen = [
        name
        for name in PARTS
        if not options.names or any(f"{name}-".startswith(f"{given}-") for given in options.names)
    ]
    for given in options.names:
        if not any(f"{name}-".startswith(f"{given}-") for name in PARTS):
            parser.error(f"{given!r} is none of {', '.join(PARTS)}")
    missing = [package for name, package in PROGRAMS.items() if shutil.which(name) is None]
    if missing:
        sys.exit(f"benchmarks: programs are missing (Debian: apt-get install {' '.join(missing)})")
    if os.cpu_count() == 1:
        sys.exit("benchmarks: two processors are needed, one for the server and one for the load")
    rounds = Rounds(options.seconds, options.rounds)
    broken = [name for name in chosen if not PARTS[name](options, rounds)]
    if broken:
        sys.exit(f"benchmarks: promises were not kept, see above: {', '.join(broken)}")


if __name__ == "__main__":
    main()
