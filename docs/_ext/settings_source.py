"""
The fields of ``ServerConfig`` and ``Proxy``, read from their source.

The docstrings that follow attributes exist in the source alone.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from pathlib import Path

import kyoukai.config
import kyoukai.proxy

#: Where each class is defined.
SOURCES = {
    "ServerConfig": Path(kyoukai.config.__file__),
    "Proxy": Path(kyoukai.proxy.__file__),
}


@dataclass(frozen=True)
class Setting:
    """
    One field: its place, name, type and default as written, and docstring.

    The default is empty if there is none.
    """

    section: str
    name: str
    type: str
    default: str
    doc: str


def read_settings(name: str) -> list[Setting]:
    """Return the fields of the class of that name, in order."""
    source = SOURCES[name].read_text(encoding="utf-8")
    lines = source.splitlines()
    class_ = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    found = []
    for node, after in zip(class_.body, class_.body[1:], strict=False):
        if not isinstance(node, ast.AnnAssign) or node.target.id == "_":  # keywords follow
            continue
        doc = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            doc = inspect.cleandoc(after.value.value)
        found.append(
            Setting(
                section=_section_above(lines, node.lineno),
                name=node.target.id,
                type=ast.unparse(node.annotation),
                default=_default(source, node.value),
                doc=doc,
            )
        )
    return found


def _default(source: str, value: ast.expr | None) -> str:
    if value is None:
        return ""
    if isinstance(value, ast.Constant) and isinstance(value.value, int):
        return ast.get_source_segment(source, value)  # keeps 0o666 octal
    return ast.unparse(value)


def _section_above(lines: list[str], number: int) -> str:
    for line in reversed(lines[: number - 1]):
        text = line.strip()
        if text.startswith("# -- "):
            return text.removeprefix("# -- ").rstrip("- ")
    return ""


def render(settings: list[Setting], no_index: bool = False) -> str:
    """
    Return the reference as reStructuredText.

    :param no_index: whether the names cannot be linked to, as others have them
    """
    lines: list[str] = []
    section = None
    for setting in settings:
        if setting.section != section:
            section = setting.section
            if section:
                lines += [section, "-" * len(section), ""]
        lines += [
            f".. confval:: {setting.name}",
            f"   :type: ``{setting.type}``",
            *([f"   :default: ``{setting.default}``"] if setting.default else []),
            *(["   :no-index:"] if no_index else []),
            "",
            *(f"   {line}".rstrip() for line in setting.doc.splitlines()),
            "",
        ]
    return "\n".join(lines)
