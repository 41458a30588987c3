"""``make conformance``: its parts, and what h2spec's makes of results and says without them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import only_line

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parent.parent

REPORT = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="3.5. HTTP/2 Connection Preface" package="http2/3.5" tests="2" errors="1">
    <testcase package="http2/3.5" classname="Sends client connection preface" time="0.1"></testcase>
    <testcase package="http2/3.5" classname="Sends invalid connection preface" time="0.1">
      <error>no</error>
    </testcase>
  </testsuite>
  <testsuite name="4.2. Maximum Table Size" package="hpack/4.2" id="4.2" tests="3" errors="0">
    <testcase package="hpack/4.2" classname="a" time="0.1"></testcase>
    <testcase package="hpack/4.2" classname="b" time="0.1"><skipped></skipped></testcase>
    <testcase package="hpack/4.2" classname="c" time="0.1"><failure>no</failure></testcase>
  </testsuite>
</testsuites>
"""

#: An h2spec that has so many cases, all of which pass.
STUB = """#!{python}
import sys
report = sys.argv[sys.argv.index("--junit-report") + 1]
suite = "<testsuite name='1. All' package='http2/1'>" + "<testcase/>" * {cases} + "</testsuite>"
with open(report, "w") as file:
    file.write("<testsuites>" + suite + "</testsuites>")
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "conformance")
    return importlib.import_module("h2spec")


def put_stub(folder: Path, cases: int) -> None:
    tool = folder / "h2spec-2.2.1" / "h2spec"
    tool.parent.mkdir(parents=True)
    tool.write_text(STUB.format(python=sys.executable, cases=cases))
    tool.chmod(0o755)


def test_what_failed_or_was_skipped_has_not_passed(run: Any) -> None:
    first, second = run.read_report(REPORT)
    assert first == run.Section("http2/3.5", "HTTP/2 Connection Preface", 2, 1)
    assert second == run.Section("hpack/4.2", "Maximum Table Size", 3, 1)


def test_the_summary_has_every_section(run: Any) -> None:
    sections = run.read_report(REPORT)
    better = [run.Section(each.name, each.title, each.cases, each.cases) for each in sections]
    lines = run.summary({"https": sections, "http": better}).splitlines()
    words = [line.split() for line in lines]
    assert words[3] == ["over", "TLS", "in", "the", "clear"]
    assert words[4] == ["section", "cases", *["passed", "failed"] * 2]
    assert words[5][-6:] == ["Preface", "2", "1", "1", "2", "0"]
    assert words[6][-6:] == ["Size", "3", "1", "2", "3", "0"]
    assert words[7] == ["all", "5", "2", "3", "5", "0"]
    assert len({len(line) for line in lines[4:]}) == 1
    with pytest.raises(run.Failure, match="cases failed over TLS: http2/3.5, hpack/4.2"):
        run.check({"https": sections, "http": better})
    run.check({"https": better, "http": better})


def test_what_failed_in_one_run_has_failed(run: Any) -> None:
    sections = run.read_report(REPORT)
    better = [run.Section(each.name, each.title, each.cases, each.cases) for each in sections]
    assert run.worst(better, sections) == run.worst(sections, better) == sections


def test_without_go_it_fails_in_one_line(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run.main(["--tools", str(tmp_path), "--summary", str(tmp_path / "summary.txt")]) == 1
    line = only_line(capsys.readouterr().err)
    assert line == "conformance: h2spec is built with Go, which is not on this machine"
    assert not (tmp_path / "summary.txt").exists()


def test_a_tool_that_cannot_be_built_is_one_line(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "go").write_text(
        f"#!{sys.executable}\nimport sys\nsys.exit('first\\nno network')\n"
    )
    (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run.main(["--tools", str(tmp_path)]) == 1
    line = only_line(capsys.readouterr().err)
    assert line == "conformance: h2spec cannot be built: no network"


@pytest.mark.parametrize(
    ("cases", "status", "said"),
    [(146, 0, ""), (145, 1, "conformance: 145 cases were run over TLS, not 146\n")],
)
def test_the_example_is_run_and_all_cases_are_wanted(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], cases: int, status: int, said: str
) -> None:
    put_stub(tmp_path, cases)
    summary = tmp_path / "summary.txt"
    assert run.main(["--tools", str(tmp_path), "--summary", str(summary)]) == status
    assert capsys.readouterr().err == said
    assert summary.exists() is (status == 0)


def test_the_committed_summary_is_of_a_run_without_failures() -> None:
    text = (ROOT / "docs" / "conformance.txt").read_text()
    assert text.splitlines()[-1].split() == ["all", "146", "146", "0", "146", "0"]


def test_every_part_is_run_and_none_may_fail(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    all_parts = load_run()
    monkeypatch.syspath_prepend(tmp_path)
    for name, status in (("part_good", 0), ("part_bad", 1), ("part_last", 0)):
        (tmp_path / f"{name}.py").write_text(
            f"def main(arguments):\n    print('{name}', arguments)\n    return {status}\n"
        )
    parts = {"good": "part_good", "bad": "part_bad", "last": "part_last"}
    monkeypatch.setattr(all_parts, "PARTS", parts)
    assert all_parts.main([]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == ["part_good []", "part_bad []", "part_last []"]
    assert only_line(said.err) == "conformance: failed: bad"
    assert all_parts.main(["good", "--x", "1"]) == 0
    assert capsys.readouterr().out == "part_good ['--x', '1']\n"
    assert all_parts.main(["bad"]) == 1
    assert all_parts.main(["god"]) == 2
    line = only_line(capsys.readouterr().err)
    assert line == "conformance: 'god' is none of good, bad, last"


def test_there_is_a_module_for_every_part(run: Any) -> None:
    for module in load_run().PARTS.values():
        assert callable(importlib.import_module(module).main)


def load_run() -> Any:
    return importlib.import_module("run")
