"""
The documentation: its settings reference is whole, and its examples do what it says.

The Python blocks of a page are run in order, in one module. A ``console`` block with ``curl``
commands after one that defines ``app`` is run against that application, and what comes back is
compared with what the page shows (``...`` stands for anything).
"""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib.util
import re
import shlex
import sys
import tomllib
import types
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from click import Group
from ruamel.yaml import YAML

import kyoukai
from kyoukai import KyoukaiComponent, ServerConfig
from kyoukai.backends.answers import reason
from kyoukai.cli import cli
from kyoukai.testing import Client, ClientResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from werkzeug.datastructures import Headers

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.rst"))


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


async def curl(client: Client, arguments: list[str]) -> str:
    """Do what curl would, as far as the pages use it."""
    method, url, headers, fields, parts, with_head = "", "", [], [], [], False
    rest = iter(arguments)
    for argument in rest:
        if argument == "-X":
            method = next(rest)
        elif argument == "-H":
            name, _, value = next(rest).partition(":")
            headers.append((name, value.strip()))
        elif argument == "-A":
            headers.append(("User-Agent", next(rest)))
        elif argument == "-d":
            fields.append(next(rest))
        elif argument == "-F":
            parts.append(next(rest).partition("="))
        elif argument == "-i":
            with_head = True
        else:
            assert argument.startswith("http://127.0.0.1:8000/"), argument
            url = argument
    split = urlsplit(url)
    if not any(name == "Host" for name, _ in headers):
        headers.append(("Host", split.netloc))
    body = None
    if fields:
        body = "&".join(fields)
        headers.append(("Content-Type", "application/x-www-form-urlencoded"))
    elif parts:
        body = "".join(
            f'--limit\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, _, value in parts
        )
        body += "--limit--\r\n"
        headers.append(("Content-Type", "multipart/form-data; boundary=limit"))
    target = split.path + (f"?{split.query}" if split.query else "")
    method = method or ("GET" if body is None else "POST")
    response = await client.request(method, target, headers=headers, body=body)
    return with_heads(response) if with_head else response.text


def with_heads(response: ClientResponse) -> str:
    """Return a response with all of its heads and its trailers, as ``curl -i`` shows it."""
    text = ""
    for status, headers in response.informational:
        text += f"HTTP/1.1 {status} {reason(status).decode()}\n{_lines(headers)}\n"
    text += f"HTTP/1.1 {response.status} {response.reason}\n{_lines(response.headers)}\n"
    return text + response.text + _lines(response.trailers)


def _lines(headers: Headers) -> str:
    return "".join(f"{name}: {value}\n" for name, value in headers)


def is_session(block: Block) -> bool:
    """Whether a block has nothing but requests to the application of the page."""
    commands = [command for command, _ in commands_of(block.text)]
    return all(each.startswith("curl ") and "//127.0.0.1:8000/" in each for each in commands)


async def run_session(app: Any, block: Block, place: str) -> None:
    checker = doctest.OutputChecker()
    async with Client(app) as client:
        for command, expected in commands_of(block.text):
            output = await curl(client, shlex.split(command)[1:])
            if output and not output.endswith("\n"):
                output += "\n"
            fits = checker.check_output(expected, output, doctest.ELLIPSIS)
            assert fits, f"{place}: $ {command}\nexpected:\n{expected}\ngot:\n{output}"


# -- Running pages -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, "../README.md"])
def test_examples_of_page(page, monkeypatch):
    path = DOCS / page
    module = types.ModuleType("page")
    for block in blocks_of(path):
        place = f"{path}:{block.line}"
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
            if block.caption:
                # A file of its own, which later blocks may import.
                module = types.ModuleType(block.caption.removesuffix(".py"))
                monkeypatch.setitem(sys.modules, module.__name__, module)
            before = dict(vars(module))
            exec(code, vars(module))
            for name, value in vars(module).items():
                if name.startswith("test_") and before.get(name) is not value:
                    value()
        elif block.language == "console" and "app" in vars(module) and is_session(block):
            asyncio.run(run_session(module.app, block, place))


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
            for component in components_of(config["component"]):
                component.pop("type", None)
                KyoukaiComponent(**component)


def components_of(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "app" in config:
        yield config
    for child in config.get("components", {}).values():
        yield from components_of(child)


# -- The settings reference --------------------------------------------------------------------


def test_settings_reference_is_whole():
    reader = load_reader()
    settings = reader.read_settings(reader.SOURCE.read_text())
    assert tuple(setting.name for setting in settings) == ServerConfig.field_names()
    defaults = ServerConfig()
    for setting in settings:
        assert setting.doc.endswith("."), setting.name
        assert setting.section, setting.name
        assert ast.literal_eval(setting.default) == getattr(defaults, setting.name)
    text = reader.render(settings)
    for setting in settings:
        assert f".. confval:: {setting.name}\n" in text
    assert ".. settings-reference::" in (DOCS / "settings.rst").read_text()


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
            assert documented or name == "KyoukaiError", name
    assert ".. automodule:: kyoukai.exceptions" in text


def test_version_is_in_the_changelog():
    heading = kyoukai.__version__.partition(".dev")[0]
    assert f"\n{heading}\n{'-' * len(heading)}\n" in (DOCS / "changelog.rst").read_text()


def test_rooms_exist_and_are_listed():
    text = (DOCS / "architecture.rst").read_text()
    listed = set(re.findall(r"``(\w+(?:\.py|/))``", text))
    package = ROOT / "kyoukai"
    existing = {path.name for path in package.glob("*.py") if not path.name.startswith("_")}
    existing |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert existing <= listed
    for name in listed - existing:
        assert list(package.glob(f"*/{name}")), name


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
