"""Targets and YAML files: what is read, and what is said of those that are wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kyoukai.exceptions import ConfigurationError, TargetError
from kyoukai.server.loading import load_yaml, parse_yaml
from kyoukai.targets import add_to_path, load_target


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.delenv("ASPHALT_SERVICE", raising=False)
    add_to_path(tmp_path)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return Path("config.yaml")


# -- Targets --------------------------------------------------------------------------------------


def test_a_target_is_found(folder: Path) -> None:
    (folder / "target_a.py").write_text("class Box:\n    app = 7\n")
    assert load_target("target_a:Box.app") == 7


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("target_b", "'target_b' is no target; write module:attribute"),
        ("target_b:", "is no target"),
        ("target b:app", "is no target"),
        ("no_such_module:app", "there is no module 'no_such_module' in '.*'"),
        ("target_b.inner:app", "there is no module 'target_b.inner'"),
        ("target_b:ap", "'target_b' has no 'ap'; did you mean 'app'"),
    ],
)
def test_a_target_that_leads_nowhere(folder: Path, target: str, message: str) -> None:
    (folder / "target_b.py").write_text("app = 7\n")
    with pytest.raises(TargetError, match=message) as info:
        load_target(target)
    assert info.value.__cause__ is None
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("code", "described"),
    [
        ("import missing_dependency", "ModuleNotFoundError: No module named 'missing_dependency'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError: invalid syntax"),
    ],
)
def test_a_module_that_fails_is_the_cause(folder: Path, code: str, described: str) -> None:
    (folder / "target_c.py").write_text(code)
    with pytest.raises(TargetError, match=f"'target_c' cannot be imported: {described}") as info:
        load_target("target_c:app")
    assert info.value.__cause__ is not None


# -- YAML -----------------------------------------------------------------------------------------


def test_the_keys_of_asphalt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT_TEXT", "here")
    (folder / "secret.txt").write_text("s3cret")
    path = write(
        folder,
        """
        component:
          type: kyoukai
          app: "app:app"
          config: {a: !Env PORT_TEXT, b: !TextFile secret.txt, c: !BinaryFile secret.txt}
        logging: {version: 1}
        max_threads: 5
        event_loop_policy: uvloop
        start_timeout: 3
        """,
    )
    application = load_yaml(path)
    assert application.component == {
        "type": "kyoukai",
        "app": "app:app",
        "config": {"a": "here", "b": "s3cret", "c": b"s3cret"},
    }
    assert application.logging == {"version": 1}
    assert application.max_threads == 5
    assert application.event_loop_policy == "uvloop"
    assert application.source == "config.yaml"


SERVICES = """
max_threads: 5
services:
  default: {component: {type: one}}
  other: {component: {type: two}, max_threads: 6}
"""


def test_services(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, SERVICES)
    assert load_yaml(path).component == {"type": "one"}
    other = load_yaml(path, "other")
    assert (other.component, other.max_threads) == ({"type": "two"}, 6)
    monkeypatch.setenv("ASPHALT_SERVICE", "other")
    assert load_yaml(path).component == {"type": "two"}
    assert load_yaml(path, "default").component == {"type": "one"}


def test_the_only_service_is_taken_and_component_is_the_default(folder: Path) -> None:
    path = write(folder, "services: {other: {component: {type: two}}}")
    assert load_yaml(path).component == {"type": "two"}
    path = write(folder, "component: {type: one}\nservices: {other: {component: {type: two}}}")
    assert load_yaml(path).component == {"type": "one"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.yaml: the file must be a mapping with the key 'component'"),
        ("a\n", "config.yaml: the file must be a mapping"),
        ("component: {type: a\n", "config.yaml, line 2: .*"),
        ("component:\n\ttype: a\n", "config.yaml, line 2: .*"),
        ("component: {}\ncomponent: {}\n", "config.yaml, line 2: found duplicate key"),
        ("component: !Evn A\n", "config.yaml, line 1: could not determine a constructor"),
        ("component: !TextFile none\n", "config.yaml: cannot read 'none': No such file"),
        ("component: {type: a}\nlgging: 1\n", "unknown key 'lgging'; did you mean 'logging'"),
        ("logging: 1\n", "there is no 'component', and no service either"),
        ("component: 1\n", "'component' must be a mapping with the key 'type'"),
        ("component: {app: a}\n", "'component' must be a mapping with the key 'type'"),
        ("component: {type: a}\nlogging: []\n", "'logging' must be a mapping or a level"),
        ("component: {type: a}\nmax_threads: 0\n", "'max_threads' must be a whole number above 0"),
        ("component: {type: a}\nevent_loop_policy: 1\n", "'event_loop_policy' must be a name"),
        ("services: 1\n", "'services' must be a mapping"),
        ("services: {a: 1}\n", "service 'a' must be a mapping"),
        ("services: {a: {componet: 1}}\n", "unknown key 'componet'; did you mean 'component'"),
        ("services: {a: {}, b: {}}\n", r"no service 'default', choose one \(--service\).*: a, b"),
    ],
)
def test_a_file_that_is_wrong(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as info:
        load_yaml(write(folder, text))
    assert str(info.value).startswith("config.yaml")
    assert "\n" not in str(info.value)


def test_a_service_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no service 'x' .*services: default, other"):
        load_yaml(write(folder, SERVICES), "x")


def test_files_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read 'none.yaml': No such file"):
        load_yaml(Path("none.yaml"))
    (folder / "config.yaml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="cannot read 'config.yaml': it is not UTF-8"):
        load_yaml(Path("config.yaml"))


def test_yaml_makes_no_objects() -> None:
    with pytest.raises(ConfigurationError, match="could not determine a constructor"):
        parse_yaml("!!python/object/apply:os.getcwd []", "text")
