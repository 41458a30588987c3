"""
Conformance: ``make conformance`` calls this.

Each part starts what it tests on free ports, and writes its numbers into ``docs``. The exit status
is 0 only if every part has passed.

    python conformance/run.py               all parts
    python conformance/run.py PART [OPTION…]
"""

from __future__ import annotations

import importlib
import sys

#: Each part's name and module, whose ``main`` takes the options and returns the exit status.
PARTS = {
    "h2spec": "h2spec",
    "websocket": "ws_suite",
    "autobahn": "autobahn",
    "chat": "chat",
}


def main(arguments: list[str]) -> int:
    """
    Run all parts, or the one that is named.

    :param arguments: what was typed
    :return: the exit status
    """
    if arguments:
        if arguments[0] not in PARTS:
            print(f"conformance: {arguments[0]!r} is none of {', '.join(PARTS)}", file=sys.stderr)
            return 2
        chosen, options = arguments[:1], arguments[1:]
    else:
        chosen, options = [*PARTS], []
    failed = [name for name in chosen if importlib.import_module(PARTS[name]).main(options)]
    if failed and not arguments:
        print(f"conformance: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
