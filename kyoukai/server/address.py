"""
Addresses, and the sockets that are bound to them.

A socket is bound long before it listens: a taken port must show before any component starts, and
clients must be refused until the application can answer them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kyoukai.exceptions import ConfigurationError

if TYPE_CHECKING:
    from kyoukai.config import ServerConfig

__all__ = ("Address", "BoundSocket", "bind")

_FORMS = "HOST:PORT, [V6]:PORT, unix:PATH or fd://N"


@dataclass(frozen=True)
class Address:
    """
    One place to listen on: exactly one of ``host``, ``path`` and ``fd`` is set.

    :param host: name or IP address, with ``port``
    :param port: TCP port; 0 lets the system choose one
    :param path: path of a unix socket
    :param fd: number of an inherited descriptor
    """

    host: str | None = None
    port: int = 0
    path: str | None = None
    fd: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """
        Read an address.

        :param text: ``HOST:PORT``, ``[V6]:PORT``, ``unix:PATH`` or ``fd://N``
        :raises ConfigurationError: if it has none of these forms
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if path.startswith("//"):
                path = path[2:]
            if path and "\0" not in path:
                return cls(path=path)
        elif text.startswith("fd://"):
            number = text.removeprefix("fd://")
            if number.isascii() and number.isdigit():
                return cls(fd=int(number))
        else:
            host, colon, port = text.rpartition(":")
            if colon and _is_port(port) and _is_host(host):
                return cls(host=host.strip("[]"), port=int(port))
            if not host and colon and _is_port(port):
                raise ConfigurationError(
                    f"{text!r} names no host; 0.0.0.0{text} is every IPv4 address, [::]{text} every"
                    " IPv6 address"
                )
        raise ConfigurationError(f"{text!r} is no address; write {_FORMS}")

    @classmethod
    def from_host(cls, host: str, port: int) -> Address:
        """
        Make a TCP address of its parts.

        :raises ConfigurationError: if they make no address
        """
        return cls.parse(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        if self.fd is not None:
            return f"fd://{self.fd}"
        return _join(self.host or "", self.port)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535


def _is_host(text: str) -> bool:
    if text.startswith("["):
        return text.endswith("]") and ":" in text and text.count("[") == text.count("]") == 1
    # A host called fd is far less likely than a slip in fd://N.
    return text not in ("", "fd") and text.isprintable() and not set(text) & set(":/[]@ ")


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class BoundSocket:
    """
    A socket that is bound to an address of ours.

    :param sock: the socket, bound, not listening unless it was inherited
    :param owned_path: the path of a unix socket that is removed at the end
    """

    def __init__(self, sock: socket.socket, owned_path: Path | None = None) -> None:
        self.sock = sock
        self._path = owned_path
        self._inode = _inode(owned_path) if owned_path is not None else None
        #: What ``getsockname`` says: the real port where port 0 was asked for.
        self.name: str | tuple[str, int] = _name(sock)

    @property
    def is_unix(self) -> bool:
        """Whether it is a unix socket."""
        return isinstance(self.name, str)

    @property
    def port(self) -> int | None:
        """The TCP port, None on a unix socket."""
        return None if isinstance(self.name, str) else self.name[1]

    @property
    def place(self) -> str:
        """The address, as it is written in settings."""
        return f"unix:{self.name}" if isinstance(self.name, str) else _join(*self.name)

    def url(self, scheme: str) -> str:
        """
        Return where clients find it, for people to read.

        :param scheme: ``http`` or ``https``
        """
        if isinstance(self.name, str):
            return self.place + (" with TLS" if scheme == "https" else "")
        return f"{scheme}://{self.place}"

    def close(self) -> None:
        """Close the socket, and remove its file if that is still the one we made."""
        self.sock.close()
        if self._path is not None and _inode(self._path) == self._inode:
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._path = None


def bind(address: Address, config: ServerConfig, setting: str = "bind") -> BoundSocket:
    """
    Bind a socket to an address, without listening on it.

    :param address: where
    :param config: for ``unix_mode``
    :param setting: the setting that the address comes from, for messages
    :raises ConfigurationError: in one line that names what to change
    """
    if address.path is not None:
        return _bind_unix(address.path, config.unix_mode, setting)
    if address.fd is not None:
        return _take_over(address.fd, setting)
    return _bind_tcp(address, setting)


# -- TCP ------------------------------------------------------------------------------------------


def _bind_tcp(address: Address, setting: str) -> BoundSocket:
    assert address.host is not None
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "the name is not valid"
        raise ConfigurationError(f"{setting}: cannot resolve {address.host!r}: {reason}") from None
    # A name such as localhost has several addresses, not all of which need exist on this machine:
    # the first that does, IPv4 before IPv6.
    found.sort(key=lambda info: info[0] != socket.AF_INET)
    failure: OSError | None = None
    for family, kind, protocol, _, where in found:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            failure = failure or error
            continue
        try:
            if os.name == "posix":  # on Windows it would let two servers share a port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            sock.bind(where)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRNOTAVAIL:
                raise listen_error(str(address), error, setting) from None
            failure = failure or error
        else:
            return BoundSocket(sock)
    assert failure is not None
    raise listen_error(str(address), failure, setting)


def listen_error(where: str, error: OSError, setting: str) -> ConfigurationError:
    """
    Return the error for an address that cannot be had.

    :param where: the address
    :param error: what the system said
    :param setting: the setting to change
    """
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    hint = f"change {setting}"
    if error.errno == errno.EADDRINUSE:
        reason = "it is taken by another program"
    elif error.errno == errno.EADDRNOTAVAIL:
        reason = "this machine does not have that address"
    elif error.errno in (errno.EACCES, errno.EPERM) and not where.startswith("unix:"):
        reason = "permission denied; ports below 1024 need privileges"
    return ConfigurationError(f"cannot listen on {where}: {reason}; {hint}")


# -- Unix sockets ---------------------------------------------------------------------------------


def _bind_unix(text: str, mode: int, setting: str) -> BoundSocket:
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError(f"{setting}: this system has no unix sockets")
    if not 0 <= mode <= 0o777:
        raise ConfigurationError(
            f'unix_mode: {mode} is no file mode; write it in quotes, such as "0660"'
        )
    path = Path(text)
    _remove_stale(path, setting)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The file is made with its mode: to change the mode afterwards would leave a moment in which
    # others could connect.
    before = os.umask(0o777 & ~mode)
    try:
        sock.setblocking(False)
        sock.bind(text)
    except OSError as error:
        sock.close()
        raise listen_error(f"unix:{text}", error, setting) from None
    finally:
        os.umask(before)
    return BoundSocket(sock, path.absolute())


def _remove_stale(path: Path, setting: str) -> None:
    """Remove a socket file that nobody listens on."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigurationError(
                f"cannot listen on unix:{path}: there is a file that is no socket; change {setting}"
            )
    except OSError:
        return  # there is nothing, or bind() will say what is wrong
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(1)
    try:
        probe.connect(str(path))
    except ConnectionRefusedError:
        with contextlib.suppress(OSError):
            path.unlink()
    except OSError:
        pass  # alive but slow, or not ours: bind() will find the path taken
    finally:
        probe.close()


# -- Inherited descriptors ------------------------------------------------------------------------


def _take_over(number: int, setting: str) -> BoundSocket:
    try:
        sock = socket.socket(fileno=number)
    except OSError:
        raise ConfigurationError(
            f"{setting}: descriptor {number} of fd://{number} is no open socket"
        ) from None
    if (
        sock.type != socket.SOCK_STREAM
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        or sock.family not in _FAMILIES
    ):
        sock.detach()  # it is not ours to close
        raise ConfigurationError(
            f"{setting}: descriptor {number} of fd://{number} is no listening stream socket"
        )
    sock.setblocking(False)
    return BoundSocket(sock)


_FAMILIES = {
    family
    for name in ("AF_INET", "AF_INET6", "AF_UNIX")
    if (family := getattr(socket, name, None)) is not None
}


def _name(sock: socket.socket) -> str | tuple[str, int]:
    name = sock.getsockname()
    if isinstance(name, tuple):
        return name[0], name[1]
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        info = path.lstat()
    except OSError:
        return None
    return info.st_dev, info.st_ino
