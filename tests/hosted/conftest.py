"""Fixtures: programs that serve frameworks' applications, and clients for them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hosted_site import SITES, Site
from ruamel.yaml import YAML
from support import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import httpx
    from support import Certificates


@pytest.fixture(scope="module")
def start_site(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Callable[..., AbstractContextManager[Site]]:
    """Return a context manager that starts a site of an application's target."""

    @contextmanager
    def start(target: str, mounted: str = "", **env: str) -> Iterator[Site]:
        folder = tmp_path_factory.mktemp("site")
        pair = certificates.pair("a")
        shared = {
            "type": "kyoukai",
            "bind": "127.0.0.1:0",
            "tls_bind": "127.0.0.1:0",
            "ssl_certfile": pair["certfile"],
            "ssl_keyfile": pair["keyfile"],
            "settings": {"access_log": False},
        }
        components = {
            "root": {**shared, "app": target},
            "beside": {**shared, "app": "native_site:app", "mounts": {"/below": mounted or target}},
        }
        config = {"type": "asphalt.core:ContainerComponent", "components": components}
        with (folder / "config.yaml").open("w") as stream:
            YAML().dump({"component": config}, stream)
        program = Program(
            *("run", str(folder / "config.yaml"), "--app-dir", str(SITES)), cwd=folder, env=env
        )
        try:
            yield Site(program, certificates)
        finally:
            program.kill()

    return start


@pytest.fixture(params=("root", "below"))
def place(request: pytest.FixtureRequest) -> str:
    """Where the application is: it has all paths, or is mounted."""
    return request.param


@pytest.fixture(params=(False, True), ids=("http1", "http2"))
def http2(request: pytest.FixtureRequest) -> bool:
    """The protocol: HTTP/1.1 in the clear, or HTTP/2 over TLS."""
    return request.param


@pytest.fixture
def client(site: Site, place: str, http2: bool) -> Iterator[httpx.Client]:
    """A client of a site, wherever the application is, over both protocols."""
    with site.client(place, http2) as client:
        yield client
