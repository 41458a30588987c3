"""
The directive ``settings-reference``: every field of ``ServerConfig``.
"""

from __future__ import annotations

from docutils import nodes
from settings_source import SOURCE, read_settings, render
from sphinx.util.docutils import SphinxDirective


class SettingsReference(SphinxDirective):
    """Puts the reference where it stands."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(SOURCE))
        text = render(read_settings(SOURCE.read_text(encoding="utf-8")))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app) -> dict[str, bool]:
    app.add_directive("settings-reference", SettingsReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
