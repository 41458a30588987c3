"""The import directions of the package, read from its source."""

from __future__ import annotations

import ast
from configparser import ConfigParser
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import kyoukai

PACKAGE = Path(kyoukai.__file__).parent

#: What each room may import of the package: its own modules, and these rooms with all below them.
BELOW: dict[str, set[str]] = {
    "cli": {"asphalt", "server", "app"},
    "testing": {"asphalt", "server", "http1", "interfaces", "app"},
    "asphalt": {"server", "interfaces", "app"},
    "server": {"backends", "targets"},
    "http1": {"backends"},
    "http2": {"backends"},
    "backends": {"stream"},
    "interfaces": {"app", "proxy", "stream", "upstream", "ws"},
    "app": {"pipeline", "routegroup", "channel", "mount"},
    "routegroup": {"blueprint"},
    "pipeline": {"blueprint", "context", "sending", "websocket"},
    "channel": {"websocket"},
    "websocket": {"wrappers", "ws"},
    "ws": {"stream"},
    "sending": {"wrappers"},
    "blueprint": {"route"},
    "route": {"context"},
    "context": {"wrappers"},
    "wrappers": {"wsgi", "util", "media"},
    "upstream": {"proxy", "rules"},
    "proxy": {"config", "exceptions", "rules"},
    "wsgi": {"stream"},
    "util": {"stream", "media"},
    "media": {"exceptions"},
    "stream": {"config", "exceptions", "rules"},
    "rules": {"config", "exceptions"},
    "mount": {"proxy", "targets"},
    "targets": {"config", "exceptions"},
    "config": {"exceptions"},
    "exceptions": set(),
}

#: Modules that belong to a room of another name. ``backends`` itself is what both wires share.
ROOMS = {
    "__main__": "cli",
    "_version": "exceptions",
    "backends.http1": "http1",
    "backends.http1_body": "http1",
    "backends.http1_heads": "http1",
    "backends.http1_tunnel": "http1",
    "backends.http1_upgrade": "http1",
    "backends.http2": "http2",
    "backends.httptools_": "http1",
    "body": "stream",
    "branch": "blueprint",
    "claims": "blueprint",
    "component_events": "asphalt",
    "compression": "pipeline",
    "conditional": "pipeline",
    "config_checks": "config",
    "debugger": "pipeline",
    "error_pages": "pipeline",
    "bucket": "rules",
    "failures": "pipeline",
    "finalisation": "pipeline",
    "handlers": "route",
    "head": "stream",
    "matcher": "blueprint",
    "memory": "testing",
    "memory_handshake": "testing",
    "memory_http1": "testing",
    "memory_http2": "testing",
    "memory_tunnel": "testing",
    "memory_websocket": "testing",
    "middleware": "blueprint",
    "outcome": "stream",
    "proxied": "wrappers",
    "proxy_component": "asphalt",
    "publishing": "interfaces",
    "resource": "blueprint",
    "routing": "blueprint",
    "signature": "route",
    "security_headers": "pipeline",
    "sockets": "pipeline",
    "steps": "pipeline",
    "tree": "blueprint",
    "upstream_answer": "upstream",
    "upstream_socket": "upstream",
    "upstream_connection": "upstream",
    "upstream_head": "upstream",
    "wire": "stream",
}

#: The public faces, which are above every room, and which no room imports by name. (The entry
#: points of HTTP/2 name its modules.)
FACES = {"kyoukai", "kyoukai.backends.http2"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    _, name, *below = module.split(".")
    if below and f"{name}.{below[0]}" in ROOMS:
        name = f"{name}.{below[0]}"
    return ROOMS.get(name, name)


def allowed(name: str) -> set[str]:
    """The room itself, and every room below it."""
    found = {name}
    for below in BELOW[name]:
        found |= allowed(below)
    return found


def imports(path: Path) -> set[str]:
    """The package's modules that a file imports when it runs."""
    found: set[str] = set()
    skipped: set[ast.AST] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if node in skipped:
            skipped.update(ast.iter_child_nodes(node))
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(node.body)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if is_module(full):
                    found.add(full)
    return {name for name in found if name.partition(".")[0] == "kyoukai"}


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


FILES = {
    module_name(path): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if module_name(path) not in FACES
}


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module: str) -> None:
    may = allowed(room(module))
    for name in imports(FILES[module]):
        assert name not in FACES, f"{module} imports the public face {name}"
        assert room(name) in may, f"{module} imports {name}, which is not below it"


def test_the_rooms_have_an_order() -> None:
    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " → ".join((*above, name))
        for below in BELOW[name]:
            walk(below, (*above, name))

    for name in BELOW:
        walk(name, ())


def test_every_module_has_a_room() -> None:
    assert {room(module) for module in FILES} == set(BELOW)


def test_backends_and_interfaces_do_not_know_each_other() -> None:
    assert "backends" not in allowed("interfaces")
    for wire in ("http1", "http2"):
        assert not {"app", "interfaces", "server", "asphalt"} & allowed(wire)
        # A server finds its backends by their entry points, and so does one backend the other.
        assert {each for each in BELOW if wire in allowed(each)} <= {wire, "testing"}
    assert not {"app", "interfaces", "asphalt"} & allowed("server")


def test_modules_have_an_order() -> None:
    """Within a room, too: what a module imports imports nothing of it in turn."""
    graph = {module: imports(path) & set(FILES) for module, path in FILES.items()}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the modules


def test_entry_points_lead_past_the_public_faces() -> None:
    """What is loaded by name must not need what stands above it."""
    setup = ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    lines = "".join(setup["options.entry_points"].values()).split("\n")
    named = {line.partition("=")[2].partition(":")[0].strip() for line in lines if line}
    assert {"kyoukai.backends.httptools_", "kyoukai.backends.http2.protocol"} <= named
    assert named <= set(FILES)


def test_every_import_below_the_top_of_a_file_has_a_reason() -> None:
    """Imports inside functions hide cycles; only extras and the system's own are imported there."""
    for module, path in FILES.items():
        tree = ast.parse(path.read_text())
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.ImportFrom):
                        name = (node.module or "").partition(".")[0]
                    elif isinstance(node, ast.Import):
                        name = node.names[0].name.partition(".")[0]
                    else:
                        continue
                    assert name in ("cryptography", "resource", "uvloop"), f"{module}: {name}"
