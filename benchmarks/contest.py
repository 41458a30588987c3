"""Rounds of several servers doing the same work in turn, and the ratio of their medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from servers import free_port, processor_time, running


@dataclass
class Rounds:
    """How long to measure."""

    seconds: int
    count: int

    def __str__(self) -> str:
        return f"{self.count} rounds of {self.seconds} s"


@dataclass
class Load:
    """
    What a load did.

    :param busy: share of its processor that it needed
    """

    requests: float
    rate: float
    busy: float = 0.0


@dataclass
class Figure:
    """
    What one round gave.

    :param cost: seconds of the server's processor for each request
    :param busy: share of its processor that the server used
    :param load_busy: share of its processor that the load used
    """

    rate: float
    cost: float
    busy: float
    load_busy: float


def timed(pid: int, load: Callable[[], Load]) -> Figure:
    """Put a server under load."""
    before = processor_time(pid)
    result = load()
    cost = (processor_time(pid) - before) / result.requests
    return Figure(result.rate, cost, cost * result.rate, result.busy)


def contest(
    title: str,
    contenders: Mapping[str, Callable[[int], list[str]]],
    measure: Callable[[int, int], Figure],
    rounds: Rounds,
    promised: float | Mapping[str, float],
    unit: str = "requests/s",
) -> bool:
    """
    Let servers do the same work, each in every round, as machines drift.

    :param contenders: names and commands by port: ours, the rival, then others for comparison
    :param measure: gets the process and the port of a server that listens
    :param promised: how many times the rival's median ours must be; or that of several, by name
    :return: whether it is
    """
    figures: dict[str, list[Figure]] = {name: [] for name in contenders}
    for _ in range(rounds.count):
        for name, command in contenders.items():
            port = free_port()
            with running(command(port), port) as pid:
                figures[name].append(measure(pid, port))

    print(f"\n{title}, {rounds}")
    medians = {}
    for name, found in figures.items():
        rates = [figure.rate for figure in found]
        medians[name] = statistics.median(rates)
        rate = f"{medians[name]:,.0f} {unit}"
        print(f"  {name:<28} {rate:>18} ({min(rates):,.0f} to {max(rates):,.0f}); {_effort(found)}")
    (our_name, ours), *rivals = medians.items()
    promises = promised if isinstance(promised, Mapping) else {rivals[0][0]: promised}
    kept = True
    for name, theirs in rivals:
        least = promises.get(name)
        said = "for information" if least is None else f"promised: {least}"
        by_cost = _cost(figures[name]) / _cost(figures[our_name])
        print(
            f"  ratio {ours / theirs:.2f} to {name} ({said}); by processor time {by_cost:.2f}",
            flush=True,
        )
        kept &= least is None or ours / theirs >= least
    return kept


def _cost(figures: list[Figure]) -> float:
    return statistics.median(figure.cost for figure in figures)


def _effort(figures: list[Figure]) -> str:
    """Say what requests cost, and who was at the limit: it should be the server."""
    cost = _cost(figures) * 1e6
    each = f"{cost / 1000:.1f} ms" if cost > 1000 else f"{cost:.1f} µs"
    server = statistics.median(figure.busy for figure in figures)
    load = statistics.median(figure.load_busy for figure in figures)
    said = f"{each} of processor each, {server:.0%} busy"
    if load:
        said += f", the load {load:.0%}"
        if max(server, load) < 0.8:
            said += "; is the machine busy with other things?"
    return said
