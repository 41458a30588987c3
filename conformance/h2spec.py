"""
Conformance of HTTP/2: h2spec against the main example, over TLS and in the clear.

It gets h2spec if it is not there, starts the example on free ports, runs every case both ways,
stops the example, and writes the numbers to ``docs/conformance.txt``.

    python conformance/run.py h2spec [--tools FOLDER] [--summary FILE]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from program import HERE, LOOPS, ROOT, Failure, Program

VERSION = "2.2.1"
MODULE = f"github.com/summerwind/h2spec/cmd/h2spec@v{VERSION}+incompatible"

#: The cases of that version in strict mode. Fewer would mean that some were not run.
CASES = 146

EXAMPLE = ROOT / "examples" / "side_by_side"

#: Seconds that an answer may take, and that one run of h2spec may.
ANSWER_TIMEOUT = 2
RUN_TIMEOUT = 50

#: For each way, by its address's scheme, what h2spec must know.
WAYS = {"https": ("over TLS", ("--tls", "--insecure")), "http": ("in the clear", ())}


def main(arguments: list[str] | None = None) -> int:
    """
    Run all cases both ways.

    :param arguments: what was typed; by default, what the process was started with
    :return: the exit status
    """
    parser = argparse.ArgumentParser(description="Run h2spec against the main example.")
    parser.add_argument("--tools", type=Path, default=HERE / "bin", help="where h2spec is kept")
    parser.add_argument("--summary", type=Path, default=ROOT / "docs" / "conformance.txt")
    options = parser.parse_args(arguments)
    try:
        tool = find_tool(options.tools)
        runs = []
        for loop in LOOPS:
            with tempfile.TemporaryDirectory() as folder:
                runs.append(run_all(tool, Path(folder), loop))
        results = {scheme: worst(*(run[scheme] for run in runs)) for scheme in WAYS}
        options.summary.write_text(summary(results), encoding="utf-8")
        check(results)
    except Failure as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 1
    return 0


def run_all(tool: Path, folder: Path, loop: str) -> dict[str, list[Section]]:
    """
    Start the example, run every case both ways, and stop the example.

    :param tool: the path of h2spec
    :param folder: for files that are not kept
    :param loop: the example's event loop
    :return: the sections for each way
    :raises Failure: if a case was not run, or the example did not stand it
    """
    results = {}
    example = start_example(folder, loop)
    try:
        ports = example.ports(*WAYS)
        for scheme, (way, flags) in WAYS.items():
            sections = run_tool(tool, ports[scheme], flags, folder / "report.xml")
            whole = total(sections)
            print(f"{way}, {loop}: {whole.passed} of {whole.cases} cases passed", flush=True)
            if whole.cases != CASES:
                raise Failure(f"{whole.cases} cases were run {way}, not {CASES}")
            results[scheme] = sections
        example.stop()
    finally:
        example.close()
    return results


# -- The tool -------------------------------------------------------------------------------------


def find_tool(folder: Path) -> Path:
    """
    Return the path of h2spec, built if it is not there.

    :param folder: where it is kept, each version in a folder of its own
    :raises Failure: if it cannot be had
    """
    tool = folder.resolve() / f"h2spec-{VERSION}" / "h2spec"
    if tool.exists():
        return tool
    go = shutil.which("go")
    if go is None:
        raise Failure("h2spec is built with Go, which is not on this machine")
    print(f"building h2spec {VERSION}", flush=True)
    built = subprocess.run(
        [go, "install", MODULE],
        env={**os.environ, "GOBIN": str(tool.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode or not tool.exists():
        said = built.stderr.strip().splitlines() or ["it says nothing"]
        raise Failure(f"h2spec cannot be built: {said[-1].strip()}")
    return tool


@dataclass
class Section:
    """
    The cases of one section.

    :param name: as h2spec is asked for it, such as ``http2/6.9.1``
    :param title: what it is about
    :param cases: how many cases were run
    :param passed: how many of them passed
    """

    name: str
    title: str
    cases: int
    passed: int


def run_tool(tool: Path, port: int, flags: tuple[str, ...], report: Path) -> list[Section]:
    """
    Run every case against one port.

    :param tool: the path of h2spec
    :param port: the port, on 127.0.0.1
    :param flags: how to connect
    :param report: where the report goes
    :raises Failure: if there is no result
    """
    report.unlink(missing_ok=True)
    command = [
        *(str(tool), "--strict", "--host", "127.0.0.1", "--port", str(port), *flags),
        *("--timeout", str(ANSWER_TIMEOUT), "--junit-report", str(report)),
    ]
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=RUN_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"h2spec did not finish within {RUN_TIMEOUT} seconds") from None
    except OSError as error:
        raise Failure(f"h2spec cannot be run: {error}") from None
    if not report.exists():
        said = (ran.stderr + ran.stdout).strip().splitlines() or ["it says nothing"]
        raise Failure(f"h2spec made no report: {said[-1].strip()}")
    if ran.returncode:
        print(ran.stdout.partition("Failures:")[2].rstrip() or ran.stderr, file=sys.stderr)
    return read_report(report.read_text(encoding="utf-8"))


def read_report(text: str) -> list[Section]:
    """
    Read what h2spec reports, in the form of JUnit.

    :param text: the report
    """
    sections = []
    for suite in ElementTree.fromstring(text).iter("testsuite"):
        # Cases that were skipped, failed or could not be run have a child that says so.
        cases = suite.findall("testcase")
        passed = sum(len(case) == 0 for case in cases)
        title = suite.get("name", "").partition(" ")[2]
        sections.append(Section(suite.get("package", ""), title, len(cases), passed))
    return sections


# -- The example ----------------------------------------------------------------------------------


def start_example(folder: Path, loop: str) -> Program:
    """
    Start the main example, on ports that are free.

    :param folder: where its configuration and its certificate go
    :param loop: its event loop
    """
    config = (EXAMPLE / "config.yaml").read_text(encoding="utf-8")
    config = re.sub(r"\bport: \d+", "port: 0", config)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "kyoukai", "cert", "certs"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return Program(["config.yaml", "--app-dir", str(EXAMPLE)], folder, loop)


# -- The summary ----------------------------------------------------------------------------------


def summary(results: dict[str, list[Section]]) -> str:
    """
    Return the numbers of every section as a table, the same for the same results.

    :param results: the sections for each way
    """
    rows = [*zip(*results.values(), strict=True)]
    width = max(len(row[0].title) for row in rows)
    ways = "".join(f"  {WAYS[scheme][0]:>16}" for scheme in results)
    table = [
        f"h2spec {VERSION} in strict mode, against the main example on both event loops.",
        "Sections are those of RFC 7540 (http2) and RFC 7541 (hpack).",
        "",
        f"{'':<{14 + width}}  {'':>5}{ways}",
        f"{'section':<{14 + width}}  cases" + "    passed  failed" * len(results),
    ]
    rows.append(tuple(total(sections) for sections in results.values()))
    for row in rows:
        line = f"{row[0].name:<14}{row[0].title:<{width}}  {row[0].cases:>5}"
        for section in row:
            line += f"{section.passed:>10}{section.cases - section.passed:>8}"
        table.append(line)
    return "\n".join(table) + "\n"


def worst(*runs: list[Section]) -> list[Section]:
    """Merge the sections of several runs: what failed in one has failed."""
    return [min(each, key=lambda section: section.passed) for each in zip(*runs, strict=True)]


def total(sections: list[Section]) -> Section:
    """Add sections up."""
    cases = sum(section.cases for section in sections)
    return Section("all", "", cases, sum(section.passed for section in sections))


def check(results: dict[str, list[Section]]) -> None:
    """
    Insist on all cases.

    :param results: the sections for each way
    :raises Failure: if a case failed
    """
    for scheme, sections in results.items():
        wrong = [section.name for section in sections if section.passed != section.cases]
        if wrong:
            raise Failure(f"cases failed {WAYS[scheme][0]}: {', '.join(wrong)}")
