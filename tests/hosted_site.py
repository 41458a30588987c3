"""Programs that serve a framework's application, and clients for them over both protocols."""

from __future__ import annotations

import re
import socket
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support import LISTENING

if TYPE_CHECKING:
    import ssl

    from support import Certificates, Program

#: The applications.
SITES = Path(__file__).parent / "hosted" / "sites"


class Site:
    """
    A program with two servers: at one, the application has all paths; at the other it is mounted
    at /below, beside a native application. Each has a plain address and one with TLS.
    """

    def __init__(self, program: Program, certificates: Certificates) -> None:
        self.program = program
        self.certificates = certificates
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

    def context(self) -> ssl.SSLContext:
        """Return what trusts the site; clients put in what they speak."""
        return self.certificates.trusting("a")

    def client(self, place: str, http2: bool, **options: Any) -> httpx.Client:
        """Return a client whose paths are the application's."""
        return httpx.Client(
            http2=http2,
            base_url=self.url(place, http2),
            verify=self.context() if http2 else False,
            timeout=30,
            **options,
        )

    def stop(self) -> None:
        """Tell the program to stop, and check that it does so in order."""
        self.program.signal()
        assert self.program.finish() == 0, self.program.stderr

    def port(self, place: str = "root") -> int:
        return int(self.urls[place, "http"].rpartition(":")[2])


def echo_during_the_stop(site: Site) -> None:
    """
    Tell the program to stop while it answers.

    ``POST /echo`` sends each piece of its body back, so the application is in the middle of its
    answer, and the rest of its request comes when the server does not listen any more.
    """
    idle = HTTPConnection("127.0.0.1", site.port(), timeout=30)
    idle.request("GET", "/")
    assert idle.getresponse().read()
    with socket.create_connection(("127.0.0.1", site.port()), timeout=30) as sock:
        sock.sendall(
            b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
            b"Content-Length: 10\r\n\r\nhello"
        )
        received = b""
        while b"hello" not in received:
            received += sock.recv(4096)
        site.program.signal()
        assert idle.sock.recv(1) == b""  # it has been told, and waits for the other
        idle.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", site.port()))
        sock.sendall(b"world")
        while data := sock.recv(4096):
            received += data
    assert b"world" in received
    assert received.endswith(b"0\r\n\r\n")
    assert site.program.finish() == 0, site.program.stderr
