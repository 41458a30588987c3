"""
Conformance of WebSockets: cases of our own, over HTTP/1.1 and over HTTP/2.

The echo application is started on each event loop, and then those of other interfaces. Every case
is a conversation with it, in which each byte that is sent and each message that must come back is
written down. The numbers go to ``docs/conformance_websocket.txt``.

    python conformance/run.py websocket [--summary FILE] [--port PORT [--way 1|2]]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import ws_cases
import ws_deflate
from program import LOOPS, ROOT, Failure, echo_server
from ws_handshakes import handshakes
from ws_wires import Http1, Http2, Lost, Way

WAYS = {"1": Http1, "2": Http2}
#: Interfaces of other kinds that have WebSockets.
HOSTED = ("asgi", "rsgi", "ssgi")
SETTINGS = (
    "ws_deflate=true",
    f"ws_max_message_size={ws_cases.MAX_SIZE}",
    f"ws_max_fragments={ws_cases.MAX_FRAGMENTS}",
)

#: Seconds for all cases of one way.
RUN_TIMEOUT = 600


class AnyCase(Protocol):
    """What a way is tried with."""

    section: str
    name: str

    def run(self, way: Way) -> str | None:
        """Return what was wrong, None if nothing."""


#: For each section: how many cases passed, and the names of those that failed.
Results = dict[str, tuple[int, list[str]]]


def main(arguments: list[str] | None = None) -> int:
    """
    Run all cases both ways, on both event loops.

    :param arguments: what was typed; by default, what the process was started with
    :return: the exit status
    """
    parser = argparse.ArgumentParser(description="Run our own cases of WebSockets.")
    parser.add_argument("--summary", type=Path, default=ROOT / "docs" / "conformance_websocket.txt")
    parser.add_argument("--port", type=int, help="of a server that runs: no summary is written")
    parser.add_argument("--way", choices=[*WAYS], help="one way alone, with --port")
    options = parser.parse_args(arguments)
    try:
        if options.port is not None:
            ways = [WAYS[options.way]] if options.way else WAYS.values()
            found = run_all(options.port, ways, "")
        else:
            runs = []
            for loop in LOOPS:
                with echo_server(loop, *SETTINGS) as port:
                    runs.append(run_all(port, WAYS.values(), f", {loop}"))
            found = {name: merge([run[name] for run in runs]) for name in runs[0]}
            hosted = {kind: run_hosted(kind) for kind in HOSTED}
            text = summary(found) + "".join(hosted_line(*each) for each in hosted.items()) + "\n"
            options.summary.write_text(text, encoding="utf-8")
            for results in hosted.values():
                check(results)
        check(found)
    except (Failure, Lost) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 1
    return 0


def all_cases(kind: type[Http1 | Http2]) -> list[AnyCase]:
    """Return the cases for one way."""
    return [*handshakes(kind), *ws_cases.cases(), *ws_deflate.cases()]


def run_all(
    port: int, ways: Iterable[type[Http1 | Http2]], where: str, without: str = ""
) -> dict[str, Results]:
    """
    Run every case each way, and say what failed.

    :param port: the server's, on 127.0.0.1
    :param where: for what is printed
    :param without: a section to leave out
    """
    found = {}
    for kind in ways:
        cases_of_kind = [each for each in all_cases(kind) if each.section != without]
        results = found[kind.name] = run_way(kind, port, cases_of_kind)
        passed = sum(count for count, _ in results.values())
        cases = passed + sum(len(names) for _, names in results.values())
        print(f"WebSockets over {kind.name}{where}: {passed} of {cases} cases passed", flush=True)
    return found


def run_hosted(kind: str) -> dict[str, Results]:
    """
    Run the cases with an echo application of another kind, but for those of handshakes.

    (Which paths there are, and what a plain request gets, is the application's to say there.)

    :param kind: the name of its interface
    """
    with echo_server(LOOPS[-1], *SETTINGS, app=f"echo_hosted:{kind}") as port:
        return run_all(port, WAYS.values(), f", {kind}", without="handshake")


def hosted_line(kind: str, found: dict[str, Results]) -> str:
    """
    Return the line of a summary for an application of another kind.

    :param kind: the name of its interface
    :param found: the results for each way
    """
    counts = []
    for way, results in found.items():
        passed = sum(count for count, _ in results.values())
        cases = passed + sum(len(names) for _, names in results.values())
        counts.append(f"{passed} of {cases} over {way}")
    return f"\n{kind.upper()}, all but the handshakes: {', '.join(counts)} passed"


def run_way(kind: type[Http1 | Http2], port: int, cases: Sequence[AnyCase]) -> Results:
    """
    Run cases one way.

    :raises Failure: if that does not come to an end
    :raises Lost: if the server cannot be reached
    """
    results: Results = {}
    deadline = time.monotonic() + RUN_TIMEOUT
    way = kind(port)
    for case in cases:
        wrong = case.run(way)
        passed, failed = results.get(case.section, (0, []))
        if wrong is None:
            passed += 1
        else:
            failed = [*failed, case.name]
            print(f"{way.name}, {case.section}, {case.name}: {wrong}", file=sys.stderr)
            # It may be the connection that is broken, which the next case is not to suffer from.
            way.close()
            way = kind(port)
        results[case.section] = (passed, failed)
        if time.monotonic() > deadline:
            raise Failure(f"the cases over {way.name} took more than {RUN_TIMEOUT} seconds")
    way.close()
    return results


def merge(runs: list[Results]) -> Results:
    """Merge the results of several runs: what failed in one has failed."""
    merged = {}
    for section, (passed, failed) in runs[0].items():
        names = dict.fromkeys(name for run in runs for name in run[section][1])
        merged[section] = (passed + len(failed) - len(names), [*names])
    return merged


def summary(found: dict[str, Results]) -> str:
    """
    Return the numbers of every section as a table, the same for the same results.

    :param found: the results for each way
    """
    sections = list(dict.fromkeys(name for results in found.values() for name in results))
    width = max(map(len, sections))
    table = [
        "Our own cases of WebSockets, against an echo application on both event loops.",
        "",
        " " * width + "".join(f"  {name:>23}" for name in found),
        f"{'section':<{width}}" + "    cases  passed  failed" * len(found),
    ]
    for section in [*sections, "all"]:
        line = f"{section:<{width}}"
        for results in found.values():
            chosen = results.values() if section == "all" else [results.get(section, (0, []))]
            passed = sum(count for count, _ in chosen)
            failed = sum(len(names) for _, names in chosen)
            line += f"{passed + failed:>9}{passed:>8}{failed:>8}"
        table.append(line)
    return "\n".join(table) + "\n"


def check(found: dict[str, Results]) -> None:
    """
    Insist on all cases.

    :raises Failure: if a case failed
    """
    for way, results in found.items():
        wrong = [section for section, (_, failed) in results.items() if failed]
        if wrong:
            raise Failure(f"cases of WebSockets failed over {way}: {', '.join(wrong)}")
