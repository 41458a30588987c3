"""The page on hosting: its tables say what is."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from example_programs import ROOT
from test_docs_tables import literals_of

from kyoukai import Kyoukai, Proxy, ServerConfig
from kyoukai.cli import run_command
from kyoukai.exceptions import TargetError
from kyoukai.interfaces.recognition import recognise
from kyoukai.mount import Mount

TEXT = (ROOT / "docs" / "hosting.rst").read_text()


def section(heading: str) -> str:
    """What is below a heading."""
    return re.split(rf"\n{heading}\n[-.]+\n", TEXT)[1].split("\n\n\n")[0]


def rows_of(heading: str) -> list[list[str]]:
    """The rows of the list table below a heading, without its head."""
    text = section(heading).partition(".. list-table::")[2]
    text = re.split(r"\n\n(?=\S)", text)[0]
    rows = re.split(r"\n   \* - ", text)[2:]
    return [[" ".join(cell.split()) for cell in re.split(r"\n     -(?:\s|$)", row)] for row in rows]


# -- Which kind it is --------------------------------------------------------------------------


class Negotiating:
    def get_supported(self, supported: dict[str, str]) -> dict[str, Any]:
        raise AssertionError("nothing is called to find out")


class Rsgi:
    async def __rsgi__(self, scope, protocol): ...


def ssgi(type_, server, remote, method, path, query, get_header, res): ...


async def asgi(scope, receive, send): ...


async def rsgi(scope, protocol): ...


def wsgi(environ, start_response): ...


def asgi2(scope): ...


URL = "http://127.0.0.1:9000"
SAMPLES = (Kyoukai("sample"), Proxy(URL), Negotiating(), Rsgi(), ssgi, asgi, rsgi, wsgi, asgi2)


def test_the_order_of_recognition():
    rows = rows_of("Which kind it is")
    assert len(rows) == len(SAMPLES)
    for (what, kind, _), sample in zip(rows, SAMPLES, strict=True):
        assert f"``{recognise(sample, 'x:y')}``" == kind, what
        assert "URL" not in what or recognise(URL, URL) == "proxy"
        number = re.search(r"with (\d)", what)
        if number is not None:
            assert len(inspect.signature(sample).parameters) == int(number[1])


def test_what_cannot_be_told_is_said_so():
    """The page shows the lines as they are."""

    def create_app(): ...

    def wrapped(*args): ...

    def five(a, b, c, d, e): ...

    shown = re.findall(r"   Error: (.*)\n", section("Which kind it is"))
    assert len(shown) == 3
    for line, (name, app) in zip(
        shown, {"create_app": create_app, "app": wrapped, "app ": five}.items(), strict=True
    ):
        with pytest.raises(TargetError) as caught:
            recognise(app, f"main:{name.strip()}")
        assert str(caught.value) == line


# -- Keys and options ----------------------------------------------------------------------------


def test_every_key_of_a_mount_is_explained():
    table = section("Below a prefix").partition("means\n")[2]
    keys = re.findall(r"(?m)^``(\w+)``  ", table)
    parameters = [name for name in inspect.signature(Mount).parameters if name != "prefix"]
    assert set(keys) == {*parameters, "mounts"}


def theirs(capsys: pytest.CaptureFixture[str]) -> dict[str, set[str]]:
    """The options of the servers that the page names, as they define them."""
    import granian.cli
    import gunicorn.config
    import hypercorn.__main__
    import uvicorn

    found: dict[str, set[str]] = {"gunicorn": set()}
    for name, command in (("uvicorn", uvicorn.main), ("granian", granian.cli.cli)):
        found[name] = {
            option for each in command.params for option in (*each.opts, *each.secondary_opts)
        }
    for setting in gunicorn.config.make_settings().values():
        found["gunicorn"].update(setting.cli or ())
    with pytest.raises(SystemExit):
        hypercorn.__main__.main(["--help"])
    found["hypercorn"] = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    return found


def test_options_of_other_servers_are_theirs(capsys):
    known = set().union(*theirs(capsys).values())
    rows = rows_of("From another server")
    assert len(rows) > 25
    options = {
        re.match(r"--?[\w-]+", literal)[0]
        for row in rows
        for literal in literals_of(row[0])
        if literal.startswith("-")
    }
    assert len(options) > 60
    assert options - known == set()


def test_ours_are_ours():
    known = {option for each in run_command.params for option in (*each.opts, *each.secondary_opts)}
    for row in rows_of("From another server"):
        _, ours, _ = row
        for literal in literals_of(ours):
            if literal.startswith("--"):
                assert literal.split()[0] in known
        for name in re.findall(r":confval:`(\w+)`", ours):
            assert name in ServerConfig.field_names()
        assert ours == "gone" or ours == "the same" or "`" in ours, row
