"""Programs that serve frameworks' applications, and clients for them over both protocols."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from ruamel.yaml import YAML
from support import LISTENING, Certificates, Program

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

SITES = Path(__file__).parent / "sites"


class Site:
    """
    A program with two servers: at one, the application has all paths; at the other it is mounted
    at /below, beside a native application. Each has a plain address and one with TLS.
    """

    def __init__(self, program: Program, context: ssl.SSLContext) -> None:
        self.program = program
        self.context = context
        #: What is written in brackets where the servers say that they listen.
        self.labels: dict[str, str] = {}
        #: The addresses, by the place of the application and the scheme.
        self.urls: dict[tuple[str, str], str] = {}
        for _ in range(4):
            line = program.wait_for(LISTENING)
            scheme, rest, label = re.search(r"on (\w+)(://\S+) \((.*)\)", line).groups()
            place = "below" if "/below" in label else "root"
            self.urls[place, scheme] = scheme + rest.replace("127.0.0.1", "localhost")
            self.labels[place] = label

    def url(self, place: str, http2: bool = False, path: str = "") -> str:
        base = self.urls[place, "https" if http2 else "http"]
        return base + ("/below" if place == "below" else "") + path

    def client(self, place: str, http2: bool, **options: Any) -> httpx.Client:
        """Return a client whose paths are the application's."""
        return httpx.Client(
            http2=http2,
            base_url=self.url(place, http2),
            verify=self.context if http2 else False,
            timeout=30,
            **options,
        )

    def stop(self) -> None:
        """Tell the program to stop, and check that it does so in order."""
        self.program.signal()
        assert self.program.finish() == 0, self.program.stderr


@pytest.fixture(scope="module")
def start_site(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Callable[..., AbstractContextManager[Site]]:
    """Return a context manager that starts a site of an application's target."""

    @contextmanager
    def start(target: str, settings: dict[str, Any] | None = None, **env: str) -> Iterator[Site]:
        folder = tmp_path_factory.mktemp("site")
        pair = certificates.pair("a")
        shared = {
            "type": "kyoukai",
            "bind": "127.0.0.1:0",
            "tls_bind": "127.0.0.1:0",
            "ssl_certfile": pair["certfile"],
            "ssl_keyfile": pair["keyfile"],
            "settings": {"access_log": False, **(settings or {})},
        }
        components = {
            "root": {**shared, "app": target},
            "beside": {**shared, "app": "native_site:app", "mounts": {"/below": target}},
        }
        config = {"type": "asphalt.core:ContainerComponent", "components": components}
        with (folder / "config.yaml").open("w") as stream:
            YAML().dump({"component": config}, stream)
        program = Program(
            *("run", str(folder / "config.yaml"), "--app-dir", str(SITES)), cwd=folder, env=env
        )
        try:
            yield Site(program, certificates.trusting("a"))
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
