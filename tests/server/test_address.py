"""Addresses and the sockets bound to them."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from kyoukai.config import ServerConfig
from kyoukai.exceptions import ConfigurationError
from kyoukai.server.address import Address, bind, listen_error

CONFIG = ServerConfig()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", Address(host="127.0.0.1", port=8000)),
        ("localhost:0", Address(host="localhost")),
        ("[::1]:65535", Address(host="::1", port=65535)),
        ("unix:run/app.sock", Address(path="run/app.sock")),
        ("unix:/run/app.sock", Address(path="/run/app.sock")),
        ("unix:///run/app.sock", Address(path="/run/app.sock")),
        ("fd://3", Address(fd=3)),
    ],
)
def test_each_form_is_read(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "8000",
        "localhost:",
        "localhost:65536",
        "localhost:-1",
        "localhost:http",
        "localhost:٣",
        "::1:8000",
        "[::1]",
        "[::1:8000",
        "[]:8000",
        "[localhost]:8000",
        "http://localhost:8000",
        "a b:8000",
        "unix:",
        "fd://",
        "fd://x",
        "fd:3",
    ],
)
def test_other_forms_are_refused_with_the_right_ones(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"write HOST:PORT, \[V6\]:PORT, unix:PATH or fd"):
        Address.parse(text)


def test_a_port_alone_is_refused_with_the_addresses_that_it_may_mean() -> None:
    with pytest.raises(ConfigurationError, match=r"0\.0\.0\.0:80 .* \[::\]:80 "):
        Address.parse(":80")


def test_port_0_becomes_a_real_port() -> None:
    bound = bind(Address.parse("127.0.0.1:0"), CONFIG)
    assert bound.port == bound.sock.getsockname()[1] != 0
    assert bound.url("http") == f"http://127.0.0.1:{bound.port}"
    assert not bound.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    bound.close()


def test_an_ipv6_socket_leaves_ipv4_alone() -> None:
    try:
        bind(Address.parse("[::]:0"), CONFIG).close()
    except ConfigurationError:  # a machine without IPv6
        with pytest.raises(ConfigurationError, match="cannot listen on"):
            bind(Address.parse("[::1]:0"), CONFIG)
        return
    # A port that is free for IPv6 may be another program's with IPv4, which is rare the other way.
    four = bind(Address.parse("0.0.0.0:0"), CONFIG)
    six = bind(Address.parse(f"[::]:{four.port}"), CONFIG)
    assert six.url("https") == f"https://[::]:{six.port}"
    six.sock.listen()
    four.sock.listen()
    six.close()
    four.close()


@pytest.fixture
def taken() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_a_taken_port_names_address_and_setting(taken: socket.socket) -> None:
    place = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(ConfigurationError) as info:
        bind(Address.parse(place), CONFIG, "tls_bind")
    assert str(info.value) == (
        f"cannot listen on {place}: it is taken by another program; change tls_bind"
    )


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("192.0.2.1:8000", "this machine does not have that address"),
        ("no-such-host.invalid:8000", "cannot resolve 'no-such-host.invalid'"),
        (f"{'x' * 70}.example:8000", "cannot resolve"),
    ],
)
def test_addresses_of_other_machines(address: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        bind(Address.parse(address), CONFIG)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("127.0.0.1:80", "permission denied; ports below 1024 need privileges; change bind"),
        ("unix:/run/a", "cannot listen on unix:/run/a: permission denied; change bind"),
    ],
)
def test_places_that_are_not_allowed(where: str, message: str) -> None:
    error = listen_error(where, PermissionError(errno.EACCES, "Permission denied"), "bind")
    assert message in str(error)


# -- Unix sockets ---------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the path of a unix socket must be short
    return Path("app.sock")


def at(path: Path) -> Address:
    return Address.parse(f"unix:{path}")


@pytest.mark.parametrize("mode", [0o666, 0o600, 0o660])
def test_the_file_has_its_mode_and_goes_at_the_end(path: Path, mode: int) -> None:
    before = os.umask(0o022)
    try:
        bound = bind(at(path), CONFIG.replace(unix_mode=mode))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert bound.url("http") == "unix:app.sock"
    assert bound.url("https") == "unix:app.sock with TLS"
    bound.close()
    assert not path.exists()


def test_a_mode_that_was_meant_to_be_octal_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match='unix_mode: 660 is no file mode; .*"0660"'):
        bind(at(path), CONFIG.replace(unix_mode=660))


def test_a_stale_socket_is_replaced(path: Path) -> None:
    old = socket.socket(socket.AF_UNIX)
    old.bind(str(path))
    old.close()
    bound = bind(at(path), CONFIG)
    bound.sock.listen()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    bound.close()


def test_a_live_socket_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(ConfigurationError, match="unix:app.sock: it is taken by another"):
            bind(at(path), CONFIG)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_another_kind_of_file_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="there is a file that is no socket"):
        bind(at(path), CONFIG)
    assert path.read_text() == "precious"


def test_a_missing_folder_is_named(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="unix:none/app.sock: no such file or directory"):
        bind(at(Path("none") / path), CONFIG)


def test_a_path_that_is_too_long(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot listen on unix:x+.*too long"):
        bind(at(Path("x" * 200)), CONFIG)


def test_the_socket_of_a_successor_is_not_removed(path: Path) -> None:
    first = bind(at(path), CONFIG)
    path.unlink()
    second = bind(at(path), CONFIG)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


# -- Inherited descriptors ------------------------------------------------------------------------


def test_a_listening_descriptor_is_taken_over(taken: socket.socket) -> None:
    number = os.dup(taken.fileno())
    bound = bind(Address.parse(f"fd://{number}"), CONFIG)
    assert bound.port == taken.getsockname()[1]
    assert not bound.sock.getblocking()
    bound.close()
    with pytest.raises(OSError):
        os.fstat(number)


def test_an_inherited_unix_socket_keeps_its_file(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        bind(Address.parse(f"fd://{os.dup(sock.fileno())}"), CONFIG).close()
    assert path.exists()


def test_descriptors_that_are_no_listening_sockets() -> None:
    reading, writing = os.pipe()
    idle, datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    for number in (reading, idle.fileno(), datagrams.fileno()):
        with pytest.raises(ConfigurationError, match=f"descriptor {number} of fd://{number} is no"):
            bind(Address.parse(f"fd://{number}"), CONFIG)
        os.fstat(number)  # still open: it is not ours
    os.close(reading)
    os.close(writing)
    idle.close()
    datagrams.close()
    with pytest.raises(ConfigurationError, match="is no open socket"):
        bind(Address.parse(f"fd://{reading}"), CONFIG)
