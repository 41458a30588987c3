"""``python -m kyoukai``."""

from kyoukai.cli import main

main()
