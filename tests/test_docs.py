"""
The documentation: its settings reference is whole, and its examples do what it says.

The Python blocks of a page are run in order, in one module. A ``console`` block with ``curl``
commands after one that defines ``app`` is run against that application, and what comes back is
compared with what the page shows (``...`` stands for anything). So is what ``python NAME.py``
prints, where the page has a block of that name. What a block ``back.py`` calls ``app`` is served at
the address that proxies of the page pass requests on to.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import importlib.util
import io
import re
import shlex
import sys
import tomllib
import types
from configparser import ConfigParser
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
from asphalt.core.component import component_types
from click import Group
from curl_client import Site, run_curl, serving, uses_site
from ruamel.yaml import YAML

import kyoukai
from kyoukai import H2KyoukaiComponent, KyoukaiComponent, Proxy, ServerConfig
from kyoukai.cli import cli
from kyoukai.proxy_component import KyoukaiProxyComponent
from kyoukai.server.tls import write_certificate
from kyoukai.testing import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.rst"))
#: Where pages say that ``back.py`` is served.
BACK = "http://127.0.0.1:9000"


def load_reader() -> types.ModuleType:
    """Import what reads the settings for the reference; it does without Sphinx."""
    spec = importlib.util.spec_from_file_location(
        "settings_source", DOCS / "_ext" / "settings_source.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# -- Blocks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    language: str
    caption: str
    line: int
    text: str


_HEAD = re.compile(r"^\.\. code-block:: (\w+)$")
_FENCE = re.compile(r"^```(\w+)$")


def blocks_of(path: Path) -> list[Block]:
    if path.suffix == ".md":
        return list(_markdown_blocks(path.read_text().splitlines()))
    return list(_rst_blocks(path.read_text().splitlines()))


def _rst_blocks(lines: list[str]) -> Iterator[Block]:
    for number, line in enumerate(lines):
        head = _HEAD.match(line)
        if head is None:
            continue
        body = []
        for following in lines[number + 1 :]:
            if following and not following.startswith("   "):
                break
            body.append(following[3:])
        caption = ""
        while body and body[0].startswith(":"):
            caption = body.pop(0).removeprefix(":caption: ")
        while body and not body[0]:
            body.pop(0)
            number += 1
        yield Block(head[1], caption, number + 2 + bool(caption), "\n".join(body).rstrip() + "\n")


def _markdown_blocks(lines: list[str]) -> Iterator[Block]:
    for number, line in enumerate(lines):
        head = _FENCE.match(line)
        if head is not None:
            end = lines.index("```", number)
            yield Block(head[1], "", number + 2, "\n".join(lines[number + 1 : end]) + "\n")


def test_blocks_are_found():
    assert [(block.language, block.caption) for block in blocks_of(DOCS / "tutorial.rst")[:3]] == [
        ("console", ""),
        ("python", "app.py"),
        ("console", ""),
    ]
    assert [block.language for block in blocks_of(DOCS / "index.rst")] == [
        "python",
        "console",
        "console",
    ]


# -- curl --------------------------------------------------------------------------------------


def commands_of(text: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with what the page shows as its output."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found:
            command, output = found[-1]
            found[-1] = (command, f"{output}{line}\n")
    return found


HEADER = re.compile(r"^(?:\.\.\.)?[A-Za-z-]+: ", re.MULTILINE)


def is_session(block: Block) -> bool:
    """Whether a block has nothing but requests to the application of the page."""
    commands = [command for command, _ in commands_of(block.text)]
    return bool(commands) and all(
        each.startswith("curl ") and ("//127.0.0.1:8000/" in each or "//localhost:8443/" in each)
        for each in commands
    )


async def run_session(app: Any, block: Block, place: str, folder: Path) -> None:
    commands = commands_of(block.text)
    with_sockets = any(uses_site(command) for command, _ in commands)
    async with Site(app, folder) if with_sockets else Client(app) as client:
        for command, expected in commands:
            output = await run_curl(client, shlex.split(command)[1:])
            compare(place, command, expected, output)


def compare(place: str, command: str, expected: str, output: str) -> None:
    if output and not output.endswith("\n"):
        output += "\n"
    # Which of the wire and Werkzeug has written the name of a header is nobody's business.
    named, got = (HEADER.sub(lambda found: found[0].lower(), text) for text in (expected, output))
    fits = doctest.OutputChecker().check_output(named, got, doctest.ELLIPSIS)
    assert fits, f"{place}: $ {command}\nexpected:\n{expected}\ngot:\n{output}"


def test_differences_are_noticed():
    """Else nothing of what sessions show would be checked."""

    async def interface(stream):
        await stream.send_response(200, (), b"this\n")

    block = Block("console", "", 1, "$ curl http://127.0.0.1:8000/\nthat\n")
    assert is_session(block)
    with pytest.raises(AssertionError, match=r"expected:\s+that\s+got:\s+this\s"):
        asyncio.run(run_session(interface, block, "here", Path()))


# -- Running pages -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder for commands, in which ``kyoukai cert certs`` has been run."""
    folder = tmp_path_factory.mktemp("docs")
    write_certificate(folder / "certs")
    return folder


@pytest.mark.parametrize("page", [*PAGES, "../README.md"])
def test_examples_of_page(page, monkeypatch, folder):
    with contextlib.ExitStack() as stack:
        run_examples(DOCS / page, monkeypatch, folder, stack)


def run_examples(path: Path, monkeypatch: Any, folder: Path, stack: contextlib.ExitStack) -> None:
    module = types.ModuleType("page")
    programs: dict[str, types.CodeType] = {}
    back = BACK
    for each in blocks_of(path):
        block = replace(each, text=each.text.replace(BACK, back))
        place = f"{path}:{block.line}"
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
            if block.caption:
                # A file of its own, which later blocks may import, and commands may run.
                module = types.ModuleType(block.caption.removesuffix(".py"))
                monkeypatch.setitem(sys.modules, module.__name__, module)
                programs[f"python {block.caption}"] = code
            before = dict(vars(module))
            exec(code, vars(module))
            for name, value in vars(module).items():
                if name.startswith("test_") and before.get(name) is not value:
                    value()
            if block.caption == "back.py":
                back = stack.enter_context(serving(module.app))
        elif block.language == "yaml":
            component = YAML(typ="safe").load(block.text)["component"]
            for kind, options in components_of(component):
                name, _, attribute = str(options.get("app", "")).partition(":")
                if f"python {name}.py" in programs:  # an application that the page has shown
                    app = getattr(sys.modules[name], attribute)
                    shown = {mount.place for mount in getattr(app, "mounts", ())}
                    more = {"/"} if kind is KyoukaiProxyComponent else set()
                    assert not shown & {*options.get("mounts", ()), *more}, place
        elif block.language == "console":
            if "app" in vars(module) and is_session(block):
                asyncio.run(run_session(module.app, block, place, folder))
            for command, expected in commands_of(block.text):
                if command in programs:
                    compare(place, command, expected, run_program(programs[command]))


def run_program(code: types.CodeType) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, vars(types.ModuleType("__main__")))
    return output.getvalue()


@pytest.mark.parametrize("page", [*PAGES, "../README.md"])
def test_commands_of_page(page):
    """Every ``kyoukai`` command line has options that exist."""
    assert isinstance(cli, Group)
    for block in blocks_of(DOCS / page):
        if block.language not in ("console", "sh"):
            continue
        for line in block.text.splitlines():
            if not line.removeprefix("$ ").startswith("kyoukai "):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            command = cli.commands[words[1]]
            if "--help" not in words:
                command.make_context(words[1], words[2:])


@pytest.mark.parametrize("page", [*PAGES, "../README.md"])
def test_configurations_of_page(page):
    """Every component in YAML has keys and settings that exist."""
    for block in blocks_of(DOCS / page):
        if block.language == "yaml":
            config = YAML(typ="safe").load(block.text)
            components = list(components_of(config["component"]))
            assert components, f"{page}:{block.line}"
            for kind, options in components:
                kind(**options)
            # Asphalt's own runner ignores the name of a level.
            assert isinstance(config.get("logging", 20), int | dict), f"{page}:{block.line}"


def components_of(config: dict[str, Any], alias: str = "") -> Iterator[tuple[Any, dict[str, Any]]]:
    if "app" in config or "upstreams" in config:
        options = {name: value for name, value in config.items() if name != "type"}
        yield component_types.resolve(config.get("type", alias)), options
    for name, child in config.get("components", {}).items():
        yield from components_of(child, name)


def test_configurations_know_both_components():
    text = "components: {kyoukai_http2: {app: 'a:b'}, web: {type: kyoukai, app: 'a:b', port: 1}}"
    found = list(components_of(YAML(typ="safe").load(text)))
    assert [kind for kind, _ in found] == [H2KyoukaiComponent, KyoukaiComponent]
    assert found[1][1] == {"app": "a:b", "port": 1}


# -- The settings reference --------------------------------------------------------------------


def test_settings_reference_is_whole():
    reader = load_reader()
    settings = reader.read_settings("ServerConfig")
    check_reference(settings, ServerConfig())
    assert all(setting.section for setting in settings)
    text = reader.render(settings)
    for setting in settings:
        assert f".. confval:: {setting.name}\n" in text
    assert ".. settings-reference::\n" in (DOCS / "settings.rst").read_text()


def test_reference_of_the_proxys_settings_is_whole():
    reader = load_reader()
    upstreams, *settings = reader.read_settings("Proxy")
    assert (upstreams.name, upstreams.default) == ("upstreams", "")
    check_reference([replace(upstreams, default="('unix:a',)"), *settings], Proxy("unix:a"))
    text = reader.render([upstreams, *settings], no_index=True)
    assert text.count("   :no-index:\n") == len(Proxy.field_names())
    assert text.count("   :default: ``") == len(settings)
    assert ".. settings-reference:: Proxy\n" in (DOCS / "proxy.rst").read_text()


def check_reference(settings: list[Any], defaults: Any) -> None:
    assert tuple(setting.name for setting in settings) == defaults.field_names()
    for setting in settings:
        assert setting.doc.endswith("."), setting.name
        assert ast.literal_eval(setting.default) == getattr(defaults, setting.name)


def test_settings_that_pages_name_exist():
    for page in PAGES:
        for name in re.findall(r":confval:`(\w+)`", (DOCS / page).read_text()):
            assert name in ServerConfig.field_names(), f"{page}: {name}"


# -- What the documentation says of the project ------------------------------------------------


def test_public_names_are_in_the_reference():
    text = (DOCS / "api.rst").read_text()
    for name in kyoukai.__all__:
        if name != "__version__":
            documented = f":: kyoukai.{name}\n" in text
            assert documented or getattr(kyoukai, name).__module__ == "kyoukai.exceptions", name
    assert ".. automodule:: kyoukai.exceptions" in text


def test_version_is_in_the_changelog():
    heading = kyoukai.__version__.partition(".dev")[0]
    assert f"\n{heading}\n{'-' * len(heading)}\n" in (DOCS / "changelog.rst").read_text()


def test_rooms_exist_and_are_listed():
    text = (DOCS / "architecture.rst").read_text()
    listed = set(re.findall(r"``(\w+(?:\.py|/))``", text))
    package = ROOT / "kyoukai"
    existing = {path.name for path in package.rglob("*.py") if not path.name.startswith("_")}
    existing |= {f"{path.parent.name}/" for path in package.glob("*/**/__init__.py")}
    assert listed == existing


def test_names_of_the_architecture_exist():
    """What the page says of classes and methods is found in the source under these names."""
    source = "".join(path.read_text() for path in (ROOT / "kyoukai").rglob("*.py"))
    words = set(re.findall(r"\w+", source))
    names = re.findall(
        r"``([A-Za-z_][\w.]*)(?:\(.*?\))?``", (DOCS / "architecture.rst").read_text()
    )
    assert {"H2KyoukaiProtocol.data_received", "ServerConnection.adopt"} <= set(names)
    for name in names:
        if not name.endswith(".py"):
            assert set(name.split(".")) <= words, name


def test_where_servers_listen_is_shown_as_it_is():
    """The lines that name an address also name what is spoken there."""
    pair = {"ssl_certfile": "c", "ssl_keyfile": "k"}
    app = kyoukai.Kyoukai("site")
    labels = {
        "http": {KyoukaiComponent(app).server.label},
        "https": {
            KyoukaiComponent(app).server.label,
            H2KyoukaiComponent(app, **pair).server.label,
        },
    }
    kind = f"({'|'.join(entry_points(group='kyoukai.interfaces').names)})"
    lines = []
    for page in (*PAGES, "../README.md", "../examples/side_by_side/README.md"):
        lines += re.findall(r"Kyoukai listening on (\w+)://\S+ \((.*)\)", (DOCS / page).read_text())
    assert {scheme for scheme, _ in lines} == {"http", "https"}
    for scheme, label in lines:
        first, _, mounts = label.partition("; ")
        spoken, _, base = first.rpartition(", ")
        assert f"{spoken}, kyoukai" in labels[scheme], label
        assert re.fullmatch(kind, base), label
        for mount in mounts.split(", ") if mounts else ():
            assert re.fullmatch(rf"/\S*: {kind}", mount), label


def test_limits_of_http2_are_explained():
    text = (DOCS / "http2.rst").read_text()
    for name in ServerConfig.field_names():
        if name.startswith("h2_"):
            assert f":confval:`{name}`" in text, name


def test_limits_of_websockets_are_explained():
    text = (DOCS / "websockets.rst").read_text()
    for name in ServerConfig.field_names():
        if name.startswith("ws_"):
            assert f":confval:`{name}`" in text, name


def test_figures_are_described():
    """Each SVG is shown by a page, and says what it shows to those who cannot see it."""
    text = "".join((DOCS / page).read_text() for page in PAGES)
    for path in DOCS.glob("*.svg"):
        assert f":: {path.name}\n   :alt: " in text
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.find("{http://www.w3.org/2000/svg}title").text
        assert root.find("{http://www.w3.org/2000/svg}desc").text


def test_commands_of_the_readme_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"`make (\w+)`", (ROOT / "README.md").read_text())
    assert {"serve", "test"} <= set(targets)
    for target in targets:
        assert f"\n{target}:" in makefile


def test_extras_of_pages_exist():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    tomllib.loads((ROOT / "pyproject.toml").read_text())
    for page in [*PAGES, "../README.md"]:
        for extra in re.findall(r"kyoukai\[(\w+)\]", (DOCS / page).read_text()):
            assert extra in setup["options.extras_require"], f"{page}: {extra}"
