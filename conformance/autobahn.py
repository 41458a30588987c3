"""
Conformance of WebSockets: Autobahn's test suite against the echo application.

The suite runs on CPython 2.7 alone. Where that is not to be found, this says so, and passes: our
own cases, which always run, are what is left. Otherwise the suite is installed if it is not there,
all cases are run over HTTP/1.1, and the numbers go to ``docs/conformance_autobahn.txt``.

    python conformance/run.py autobahn [--tools FOLDER] [--summary FILE] [--cases CASE…]

The cases of compression exchange 1,000 messages each, which takes minutes. With
``AUTOBAHN_MESSAGES=100`` in the environment it is fewer, and no summary is written.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from program import HERE, LOOPS, ROOT, Failure, echo_server

REQUIREMENTS = HERE / "autobahn-requirements.txt"
WSTEST = HERE / "wstest.py"
VIRTUALENV = "virtualenv==20.15.1"

#: The cases of that version. Fewer would mean that some were not run.
CASES = 517
SECTIONS = {
    "1": "Framing",
    "2": "Pings and pongs",
    "3": "Reserved bits",
    "4": "Opcodes",
    "5": "Fragmentation",
    "6": "UTF-8",
    "7": "Closing",
    "9": "Limits and performance",
    "10": "Automatic fragmentation",
    "12": "Compression, different payloads",
    "13": "Compression, different parameters",
}

#: What is quick runs on each event loop. What takes minutes of zlib, the longest first, is shared
#: out between them, as there are two processors at least.
QUICK = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
SLOW = [*("12.2.*", "12.3.*", "12.5.*", "12.4.*"), *(f"13.{n}.*" for n in range(1, 8)), "12.1.*"]

#: What a case may be, the best first; anything else has failed.
BEHAVIORS = ("OK", "INFORMATIONAL", "NON-STRICT")

#: In the summary. Some cases are OK or NON-STRICT by what the server has read when it gives up.
COLUMNS = {"passed": ("OK", "NON-STRICT"), "informational": ("INFORMATIONAL",)}

#: The largest message is 16 MiB, the one with the most fragments has 65,536.
SETTINGS = ("ws_deflate=true", "ws_max_message_size=16777216", "ws_max_fragments=70000")

#: Seconds that one run of the suite may take.
RUN_TIMEOUT = 900

#: What came of each case, by its number.
Results = dict[str, str]


def main(arguments: list[str] | None = None) -> int:
    """
    Run all cases.

    :param arguments: what was typed; by default, what the process was started with
    :return: the exit status
    """
    parser = argparse.ArgumentParser(description="Run Autobahn's test suite.")
    parser.add_argument("--tools", type=Path, default=HERE / "bin", help="where the suite is kept")
    parser.add_argument("--summary", type=Path, default=ROOT / "docs" / "conformance_autobahn.txt")
    parser.add_argument("--cases", nargs="+", help="some alone, such as 7.*: no summary is written")
    options = parser.parse_args(arguments)
    try:
        python = find_python()
        if python is None:
            print("Autobahn's test suite needs Python 2.7, which is not on this machine: not run")
            return 0
        tool = find_tool(options.tools, python)
        if options.cases:
            results = run_all(tool, options.cases, [])
        else:
            results = run_all(tool, QUICK, SLOW)
            if len(results) != CASES:
                raise Failure(f"{len(results)} of Autobahn's cases were run, not {CASES}")
            if "AUTOBAHN_MESSAGES" not in os.environ:
                options.summary.write_text(summary(results), encoding="utf-8")
        counted = Counter(results.values())
        said = ", ".join(f"{count} {behavior}" for behavior, count in counted.most_common())
        print(f"Autobahn: {len(results)} cases: {said}")
        check(results)
    except Failure as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 1
    return 0


# -- The tool -------------------------------------------------------------------------------------


def find_python() -> str | None:
    """Return the command of a CPython 2.7 that works, on the path or under pyenv; else None."""
    candidates = []
    found = shutil.which("python2.7")
    if found is not None:
        candidates.append(found)
    pyenv = shutil.which("pyenv")
    if pyenv is not None:
        asked = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False)
        root = Path(asked.stdout.strip())
        candidates += sorted(map(str, root.glob("versions/2.7*/bin/python2.7")), reverse=True)
    for candidate in candidates:
        # The one on the path may be pyenv's, for a version that is not selected: it fails.
        with contextlib.suppress(OSError):
            asked = subprocess.run([candidate, "--version"], capture_output=True, check=False)
            if asked.returncode == 0:
                return candidate
    return None


def find_tool(folder: Path, python: str) -> Path:
    """
    Return the Python that has the suite, installed if it is not there.

    :param folder: where it is kept
    :param python: a CPython 2.7
    :raises Failure: if it cannot be had
    """
    place = folder.resolve() / "autobahn"
    tool = place / "bin" / "python"
    stamp = place / REQUIREMENTS.name
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return tool
    print("installing Autobahn's test suite", flush=True)
    shutil.rmtree(place, ignore_errors=True)
    with tempfile.TemporaryDirectory() as maker:
        # Newer ones cannot make an environment for 2.7.
        _install([sys.executable, "-m", "venv", maker])
        pip = [str(Path(maker, "bin", "python")), "-m", "pip"]
        _install([*pip, "install", "--quiet", VIRTUALENV])
        _install([str(Path(maker, "bin", "virtualenv")), "--python", python, str(place)])
    _install([str(tool), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)])
    stamp.write_text(wanted, encoding="utf-8")
    return tool


def _install(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "DEPRECATION" not in line.strip()]
        last = said[-1].strip() if said else "it says nothing"
        raise Failure(f"Autobahn's test suite cannot be installed: {last}")


# -- The runs -------------------------------------------------------------------------------------


def run_all(tool: Path, everywhere: Sequence[str], shared: Sequence[str]) -> Results:
    """
    Run cases, on both event loops at the same time.

    :param tool: the Python that has the suite
    :param everywhere: the cases that run on each
    :param shared: what is run on either
    :return: what came of them; of what ran twice, the worse
    :raises Failure: if a case was not run, or the server did not stand it
    """
    left = deque(shared)
    with ThreadPoolExecutor(len(LOOPS)) as pool:
        runs = [pool.submit(_run_on, loop, tool, everywhere, left) for loop in LOOPS]
        try:
            found = [run.result() for run in runs]
        finally:
            left.clear()
    results: Results = {}
    for run in found:
        for case, behavior in run.items():
            results[case] = worst(behavior, results.get(case, "OK"))
    return results


def _run_on(loop: str, tool: Path, first: Sequence[str], left: deque[str]) -> Results:
    """Run cases on one event loop, then what is left, one after the other."""
    results: Results = {}
    with echo_server(loop, *SETTINGS) as port, tempfile.TemporaryDirectory() as folder:
        cases = list(first)
        while cases:
            results.update(run_tool(tool, port, cases, Path(folder)))
            try:
                cases = [left.popleft()]
            except IndexError:
                break
    passed = sum(behavior in BEHAVIORS for behavior in results.values())
    print(f"Autobahn, {loop}: {passed} of {len(results)} cases passed", flush=True)
    return results


def run_tool(tool: Path, port: int, cases: Sequence[str], folder: Path) -> Results:
    """
    Run cases against one port.

    :param tool: the Python that has the suite
    :param port: the port, on 127.0.0.1
    :param cases: which, such as ``7.*``
    :param folder: for files that are not kept
    :raises Failure: if there is no result
    """
    spec, reports = folder / "spec.json", folder / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    wanted = {
        "servers": [{"agent": "Kyoukai", "url": f"ws://127.0.0.1:{port}"}],
        "cases": list(cases),
        "exclude-cases": [],
        "exclude-agent-cases": {},
        "outdir": str(reports),
    }
    spec.write_text(json.dumps(wanted), encoding="utf-8")
    # As a text: this folder's modules are not for Python 2.7.
    program = WSTEST.read_text(encoding="utf-8")
    command = [str(tool), "-c", program, "--mode", "fuzzingclient", "--spec", str(spec)]
    try:
        ran = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=RUN_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        said = f"{' '.join(cases)} did not finish within {RUN_TIMEOUT} seconds"
        raise Failure(f"Autobahn's cases {said}") from None
    index = reports / "index.json"
    if not index.exists():
        lines = (ran.stdout + ran.stderr).strip().splitlines() or ["it says nothing"]
        raise Failure(f"Autobahn's test suite made no report: {lines[-1].strip()}")
    results = read_report(index.read_text(encoding="utf-8"))
    for case, behavior in results.items():
        if behavior not in BEHAVIORS:
            print(f"Autobahn, {case}: {explanation(reports, case)}", file=sys.stderr)
    return results


def explanation(reports: Path, case: str) -> str:
    """
    Return what the suite says of a case.

    :param reports: the folder of its reports
    :param case: the case's number
    """
    for path in reports.glob(f"*_case_{case.replace('.', '_')}.json"):
        said = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        parts = [said["result"], said["resultClose"], said["wasNotCleanReason"]]
        parts.append(f"close code {said['remoteCloseCode']}, after {said['duration']} ms")
        return " ".join(part for part in parts if part)
    return "there is no report"


def read_report(text: str) -> Results:
    """
    Read what the suite reports.

    :param text: its ``index.json``
    :return: for each case the worse of what it says of the messages and of the closing
    """
    agents = json.loads(text)
    return {
        case: worst(said["behavior"], said["behaviorClose"])
        for found in agents.values()
        for case, said in found.items()
    }


def worst(*behaviors: str) -> str:
    """Return the worst of what was said of a case."""
    ranks = {behavior: rank for rank, behavior in enumerate(BEHAVIORS)}
    return max(behaviors, key=lambda behavior: ranks.get(behavior, len(ranks)))


# -- The summary ----------------------------------------------------------------------------------


def summary(results: Results) -> str:
    """
    Return the numbers of every section as a table, the same for the same results.

    :param results: what came of each case
    """
    width = max(map(len, SECTIONS.values()))
    titles = "".join(f"  {name:>13}" for name in (*COLUMNS, "failed"))
    table = [
        "Autobahn's test suite 25.10.1 over HTTP/1.1, against an echo application. Sections 1 to",
        "10 run on both event loops, the others are shared out between them.",
        "",
        f"{'section':<{4 + width}}  cases{titles}",
    ]
    for number, title in [*SECTIONS.items(), ("all", "")]:
        found = Counter(
            behavior
            for case, behavior in results.items()
            if number in ("all", case.partition(".")[0])
        )
        counts = [sum(found[behavior] for behavior in column) for column in COLUMNS.values()]
        counts.append(found.total() - sum(counts))
        numbers = "".join(f"  {count:>13}" for count in counts)
        table.append(f"{number:<4}{title:<{width}}  {found.total():>5}{numbers}")
    return "\n".join(table) + "\n"


def check(results: Results) -> None:
    """
    Insist on all cases: none failed, none not implemented.

    :param results: what came of each case
    :raises Failure: if a case failed
    """
    wrong = [f"{case} {said}" for case, said in results.items() if said not in BEHAVIORS]
    if wrong:
        raise Failure(f"Autobahn's cases failed: {', '.join(sorted(wrong))}")
