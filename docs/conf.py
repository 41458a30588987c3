"""Configuration of the documentation; ``make docs`` builds it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from kyoukai import __version__

project = "Kyoukai"
author = "the Kyoukai developers"
copyright = author
version = release = __version__

extensions = ["sphinx.ext.autodoc", "settings_reference"]
exclude_patterns = ["_build", "_ext"]
default_role = "any"
nitpicky = False

html_theme = "furo"
html_title = f"Kyoukai {release}"
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
