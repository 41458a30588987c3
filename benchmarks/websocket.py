"""WebSockets: an echo beside uvicorn, idle sockets, a channel."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import wsload
from contest import Figure, Load, Rounds, contest, timed
from memory import allow_files, idle
from servers import ON_LOAD_CPU, free_port, kyoukai, processor_time, running, uvicorn

APP = "kyoukai_sockets:app"

#: Messages that have been published and are still on their way.
PUBLISHED_AT_ONCE = 4


def ours(port: int, *settings: str) -> list[str]:
    return kyoukai(port, *settings, app=APP)


def theirs(port: int) -> list[str]:
    options = ("--ws", "websockets-sansio", "--ws-per-message-deflate", "false")
    return [*uvicorn("asgi_app:echo_app", port), *options]


def echo(rounds: Rounds) -> bool:
    contenders = {"Kyoukai": ours, "uvicorn, websockets-sansio": theirs}
    return contest(
        f"WebSocket echo of {wsload.SIZE} bytes, {wsload.CONNECTIONS} connections, "
        f"{wsload.DEPTH} messages in flight on each",
        contenders,
        _measure("http1", rounds.seconds),
        rounds,
        promised=1.0,
        unit="messages/s",
    )


def echo_http2(rounds: Rounds) -> bool:
    """The same in streams of one connection; for information."""
    figures = []
    for _ in range(rounds.count):
        port = free_port()
        with running(ours(port), port) as pid:
            figures.append(_measure("http2", rounds.seconds)(pid, port).rate)
    print(f"\nWebSocket echo over HTTP/2, {wsload.CONNECTIONS} streams, {rounds}")
    print(f"  {sorted(figures)[len(figures) // 2]:,.0f} messages/s", flush=True)
    return True


def _measure(way: str, seconds: float):
    def measure(pid: int, port: int) -> Figure:
        _load(way, port, 1)
        return timed(pid, lambda: _load(way, port, seconds))

    return measure


def _load(way: str, port: int, seconds: float) -> Load:
    """Load a server; any error ends the benchmark."""
    command = [*ON_LOAD_CPU, sys.executable, wsload.__file__, way, str(port), str(seconds)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"benchmarks: errors under load:\n{ran.stderr}")
    said = json.loads(ran.stdout)
    return Load(said["messages"], said["messages"] / said["seconds"], said["busy"])


def idle_sockets(connections: int) -> bool:
    """Weigh sockets that have had one message and are kept."""

    def connect(port: int, stack: ExitStack) -> None:
        wsload.check(stack.enter_context(wsload.connect(port)))

    # They are not told to answer pings, and are not to be lost for that.
    return idle("WebSockets", connections, 20, connect, ours, "ws_ping_timeout=600")


def publish(rounds: Rounds, count: int) -> bool:
    """Publish to many members, and see that a frame is built once for all of them."""
    allow_files(count + 500)
    port = free_port()
    command = ours(port, f"max_connections={count + 200}", "ws_ping_timeout=600")
    with running(command, port) as pid, ExitStack() as stack:
        members = [stack.enter_context(wsload.connect(port, "/members")) for _ in range(count)]
        publisher = stack.enter_context(wsload.connect(port, "/publish"))
        before = _encoded(port, count)
        used = processor_time(pid)
        published, took = _publish(publisher, members, rounds.seconds)
        used = processor_time(pid) - used
        encoded = _encoded(port, count) - before
    print(f"\nA channel of {count:,} members, messages of {wsload.SIZE} bytes, {rounds.seconds} s")
    print(f"  {published / took:,.0f} messages/s published, {published * count / took:,.0f} sent, ")
    print(f"  {used / published / count * 1e6:.1f} µs of processor for each that was sent")
    print(f"  {encoded / published:.2f} frames built for each (promised: 1)", flush=True)
    return encoded == published


def _encoded(port: int, members: int) -> int:
    """Ask how many frames have been built, once all members are there."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.sendall(b"GET /encoded HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        said = json.loads(answer.partition(b"\r\n\r\n")[2])
        if said["members"] == members:
            return said["encoded"]
    sys.exit(f"benchmarks: {said['members']} sockets have subscribed, not {members}")


def _publish(
    publisher: socket.socket, members: list[socket.socket], seconds: float
) -> tuple[int, float]:
    """
    Publish while there is time; return how many messages every member got.

    The next is sent when all members have one that is under way.
    """
    poll = select.epoll()
    got = {}
    for sock in members:
        poll.register(sock, select.EPOLLIN)
        got[sock.fileno()] = [sock, 0]
    size, whole = len(wsload.ANSWER), len(wsload.ANSWER) * len(members)
    publisher.sendall(wsload.MESSAGE * PUBLISHED_AT_ONCE)
    sent, came = PUBLISHED_AT_ONCE, 0
    start = time.perf_counter()
    deadline = start + seconds
    while came < sent * whole:
        events = poll.poll(5)
        if not events:
            sys.exit(f"benchmarks: {came} bytes were published, {sent * whole - came} are missing")
        for number, _ in events:
            entry = got[number]
            data = len(entry[0].recv(65536))
            entry[1] += data
            came += data
        done = came // whole
        again = done + PUBLISHED_AT_ONCE - sent
        if again > 0 and time.perf_counter() < deadline:
            publisher.sendall(wsload.MESSAGE * again)
            sent += again
    took = time.perf_counter() - start
    if any(size * sent != each for _, each in got.values()):
        sys.exit("benchmarks: members did not all get the same")
    return sent, took
