"""
The directive ``settings-reference``: every field of ``ServerConfig``, or of another class of
settings, which it then names.
"""

from __future__ import annotations

from docutils import nodes
from settings_source import SOURCES, read_settings, render
from sphinx.util.docutils import SphinxDirective


class SettingsReference(SphinxDirective):
    """Puts the reference where it stands."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0] if self.arguments else "ServerConfig"
        self.env.note_dependency(str(SOURCES[name]))
        # Both classes have settings of the same name; links lead to the server's.
        text = render(read_settings(name), no_index=name != "ServerConfig")
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app) -> dict[str, bool]:
    app.add_directive("settings-reference", SettingsReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
