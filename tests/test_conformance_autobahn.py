"""``make conformance``, the part with Autobahn's test suite, with a stub in its place."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support import only_line

ROOT = Path(__file__).parent.parent

#: A suite: a case of section 12 or 13 stands for 18 of them, the others are the rest of 517.
STUB = """#!{python}
import json, pathlib, sys
spec = json.loads(pathlib.Path(sys.argv[sys.argv.index("--spec") + 1]).read_text())
cases = []
for pattern in spec["cases"]:
    first = pattern.removesuffix(".*")
    count = {{"12": 18, "13": 18, "1": 293}}.get(first.partition(".")[0], 1) - {missing}
    cases += [first + "." + str(number) for number in range(count)]
said = {{"behavior": "OK", "behaviorClose": "OK"}}
report = {{case: dict(said) for case in cases}}
report[cases[-1]]["behaviorClose"] = "{last}"
folder = pathlib.Path(spec["outdir"])
folder.mkdir()
(folder / "index.json").write_text(json.dumps({{"Kyoukai": report}}))
"""


@pytest.fixture
def autobahn(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "conformance")
    return importlib.import_module("autobahn")


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def put_stub(folder: Path, autobahn: Any, last: str = "OK", missing: int = 0) -> Path:
    """Put a suite where it is looked for, as if it had been installed."""
    stub = STUB.format(python=sys.executable, last=last, missing=missing)
    executable(folder / "autobahn" / "bin" / "python", stub)
    wanted = autobahn.REQUIREMENTS.read_text()
    (folder / "autobahn" / autobahn.REQUIREMENTS.name).write_text(wanted)
    return folder


def put_python(folder: Path, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> Path:
    monkeypatch.setenv("PATH", str(folder))
    return executable(folder / "python2.7", f"#!{sys.executable}\nraise SystemExit({status})\n")


def test_without_python_2_it_says_so_and_passes(
    autobahn: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert autobahn.main(["--summary", str(tmp_path / "summary.txt")]) == 0
    line = only_line(capsys.readouterr().out)
    assert line == ("Autobahn's test suite needs Python 2.7, which is not on this machine: not run")
    assert not (tmp_path / "summary.txt").exists()


def test_python_2_is_found_on_the_path_and_under_pyenv(
    autobahn: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = put_python(tmp_path / "bin", monkeypatch)
    assert autobahn.find_python() == str(on_path)
    # The command of a version that is not selected fails.
    put_python(tmp_path / "bin", monkeypatch, status=127)
    assert autobahn.find_python() is None
    root = tmp_path / "pyenv"
    executable(tmp_path / "bin" / "pyenv", f"#!{sys.executable}\nprint({str(root)!r})\n")
    assert autobahn.find_python() is None
    executable(root / "versions" / "2.7.9" / "bin" / "python2.7", "no program")
    good = executable(root / "versions" / "2.7.18" / "bin" / "python2.7", f"#!{sys.executable}\n")
    executable(root / "versions" / "3.11.7" / "bin" / "python3.11", "no program")
    assert autobahn.find_python() == str(good)


def test_a_suite_that_cannot_be_installed_is_one_line(
    autobahn: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_python(tmp_path / "bin", monkeypatch)
    maker = executable(
        tmp_path / "maker", f"#!{sys.executable}\nraise SystemExit('first\\nno network')\n"
    )
    monkeypatch.setattr(sys, "executable", str(maker))
    assert autobahn.main(["--tools", str(tmp_path / "tools")]) == 1
    line = only_line(capsys.readouterr().err)
    assert line == "conformance: Autobahn's test suite cannot be installed: no network"


@pytest.mark.parametrize(
    ("last", "missing", "said"),
    [
        ("INFORMATIONAL", 0, ""),
        ("UNIMPLEMENTED", 0, "Autobahn's cases failed: 10.0 UNIMPLEMENTED, 12.1.17 UNIMPLEMENTED,"),
        ("OK", 1, "496 of Autobahn's cases were run, not 517"),
    ],
)
def test_all_cases_are_wanted(
    autobahn: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    last: str,
    missing: int,
    said: str,
) -> None:
    put_python(tmp_path / "bin", monkeypatch)
    tools = put_stub(tmp_path / "tools", autobahn, last, missing)
    summary = tmp_path / "summary.txt"
    status = autobahn.main(["--tools", str(tools), "--summary", str(summary)])
    assert status == (1 if said else 0)
    assert said in capsys.readouterr().err
    assert summary.exists() is not missing


def test_a_suite_without_a_report_is_one_line(
    autobahn: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_python(tmp_path / "bin", monkeypatch)
    tools = put_stub(tmp_path / "tools", autobahn)
    executable(
        tools / "autobahn" / "bin" / "python",
        f"#!{sys.executable}\nraise SystemExit('no report')\n",
    )
    assert autobahn.main(["--tools", str(tools), "--cases", "1.*"]) == 1
    line = only_line(capsys.readouterr().err)
    assert line == "conformance: Autobahn's test suite made no report: no report"


def test_a_case_is_as_good_as_the_worse_half_of_it(autobahn: Any) -> None:
    said = {
        "1.1.1": {"behavior": "OK", "behaviorClose": "OK"},
        "2.1": {"behavior": "NON-STRICT", "behaviorClose": "INFORMATIONAL"},
        "7.1.5": {"behavior": "OK", "behaviorClose": "WRONG CODE"},
        "12.1.1": {"behavior": "UNIMPLEMENTED", "behaviorClose": "OK"},
    }
    results = autobahn.read_report(json.dumps({"Kyoukai": said}))
    assert results == {
        "1.1.1": "OK",
        "2.1": "NON-STRICT",
        "7.1.5": "WRONG CODE",
        "12.1.1": "UNIMPLEMENTED",
    }
    with pytest.raises(autobahn.Failure, match=r": 12.1.1 UNIMPLEMENTED, 7.1.5 WRONG CODE$"):
        autobahn.check(results)
    results["7.1.6"] = "INFORMATIONAL"
    rows = {line[:4].strip(): line.split()[-4:] for line in autobahn.summary(results).splitlines()}
    assert rows["sect"] == ["cases", "passed", "informational", "failed"]
    assert rows["1"] == rows["2"] == ["1", "1", "0", "0"]
    assert rows["7"] == ["2", "0", "1", "1"]
    assert rows["12"] == ["1", "0", "0", "1"]
    assert rows["all"] == ["5", "2", "1", "2"]


def test_the_committed_summary_is_of_a_run_without_failures() -> None:
    text = (ROOT / "docs" / "conformance_autobahn.txt").read_text()
    name, cases, *counts = text.splitlines()[-1].split()
    assert (name, cases, counts[-1]) == ("all", "517", "0")
    assert sum(map(int, counts)) == 517
