"""The page on RSGI names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kyoukai.interfaces import rsgi

PAGE = (Path(__file__).parents[2] / "docs" / "rsgi.rst").read_text()

#: What is no part of RSGI, and the server's.
OWN = {"answered", "complete", "dropped", "interface", "lock", "reading", "rest", "run"}
OWN |= {"send_file", "stream", "told", "wake", "closed", "socket"}


def members(*classes: type) -> set[str]:
    return {name for each in classes for name in dir(each) if not name.startswith("_")} - OWN


def table(title: str) -> str:
    """Return a section of the page."""
    section = PAGE.partition(f"\n{title}\n---")[2]
    return section.partition("\n---")[0]


def test_every_member_of_a_scope() -> None:
    rows = set(re.findall(r"^``(\w+)`` ", table("The scope"), re.MULTILINE))
    assert rows == members(rsgi.Scope)
    for name in members(rsgi.Headers):
        assert re.search(rf"``{name}\b", table("The scope"))


@pytest.mark.parametrize(
    ("title", "protocol", "transport"),
    [
        ("Answering a request", rsgi.HTTPProtocol, rsgi.StreamTransport),
        ("WebSockets", rsgi.WebsocketProtocol, rsgi.WebsocketTransport),
    ],
)
def test_every_call(title: str, protocol: type, transport: type) -> None:
    rows = re.findall(r"^``(?:await )?(proto|transport)\.(\w+)\(", table(title), re.MULTILINE)
    assert {name for owner, name in rows if owner == "proto"} == members(protocol)
    assert {name for owner, name in rows if owner == "transport"} == members(transport)


def test_every_error() -> None:
    rows = set(re.findall(r"^``(RSGI\w+)`` ", table("Errors"), re.MULTILINE))
    assert rows == {name for name in rsgi.__all__ if name.startswith("RSGI")}
