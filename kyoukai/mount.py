"""
``Mount``: an application below a prefix of another one's paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kyoukai.config import check_keys
from kyoukai.exceptions import ConfigurationError
from kyoukai.proxy import Proxy, is_upstream
from kyoukai.targets import call_factory, load_target

if TYPE_CHECKING:
    from kyoukai.config import ServerConfig

__all__ = ("Mount", "find_application")

_KEYS = ("app", "factory", "interface", "lifespan", "max_body_size", "root_path")


class Mount:
    """
    An application of any kind, and the paths that it gets.

    :param prefix: the path that it begins with, on whole segments: ``/admin`` takes ``/admin`` and
        ``/admin/x``, and not ``/administrator``; ``/`` takes what nothing else does
    :param app: the application, ``module:attribute`` that leads to one, a
        :class:`~kyoukai.proxy.Proxy`, or the URL of a server that requests are passed on to
    :param interface: its kind; ``auto`` finds out
    :param factory: whether ``app`` is to be called, without arguments, for the application
    :param lifespan: ``auto``, ``on`` or ``off``; by default the server's ``lifespan``
    :param root_path: what the application takes for its prefix, if that is not the prefix after
        the server's ``root_path``
    :param max_body_size: the most bytes that the body of a request may have; by default no limit,
        and for a Kyoukai application the server's
    :raises ConfigurationError: in one line, if one of these cannot work
    """

    def __init__(
        self,
        prefix: str,
        app: Any,
        interface: str = "auto",
        *,
        factory: bool = False,
        lifespan: str | None = None,
        root_path: str | None = None,
        max_body_size: int | None = None,
    ) -> None:
        self.prefix = _checked_prefix(prefix)
        where = f"mounts: {prefix}: "
        if not app:
            raise ConfigurationError(f"{where}app is missing; name it as module:attribute")
        if not isinstance(interface, str):
            raise ConfigurationError(f"{where}interface must be of type str, not {interface!r}")
        if not isinstance(factory, bool):
            raise ConfigurationError(f"{where}factory must be true or false, not {factory!r}")
        self.app = app
        self.interface = interface
        self.factory = factory
        self.lifespan = lifespan
        self.root_path = root_path
        self.max_body_size = max_body_size

    def __repr__(self) -> str:
        return f"<Mount {self.place} {self.source}>"

    @property
    def place(self) -> str:
        """The prefix, as it is written."""
        return self.prefix or "/"

    @property
    def source(self) -> str:
        """What messages call the application; empty if it has no name."""
        return self.app if isinstance(self.app, str) else ""

    @classmethod
    def from_setting(cls, prefix: Any, value: Any) -> Mount:
        """
        Make a mount of an entry of ``mounts``, as YAML gives it.

        :param prefix: its key
        :param value: the application alone, or a mapping of the parameters; one with
            ``upstreams`` has the settings of a proxy
        :raises ConfigurationError: in one line that names the prefix and the key
        """
        if not isinstance(value, Mapping):
            value = {"app": value}
        try:
            if "upstreams" in value:
                value = _with_proxy(value)
            check_keys(value, _KEYS, "key")
        except ConfigurationError as error:
            raise ConfigurationError(f"mounts: {prefix}: {error}") from None
        return cls(prefix, **{"app": "", **value})

    def settings(self, config: ServerConfig) -> ServerConfig:
        """
        Return the settings that hold for the application.

        :param config: the server's settings
        :raises ConfigurationError: if a value cannot work
        """
        changes = {"lifespan": self.lifespan, "max_body_size": self.max_body_size}
        given = {name: value for name, value in changes.items() if value is not None}
        root_path = config.root_path + self.prefix if self.root_path is None else self.root_path
        try:
            return config.replace(root_path=root_path, **given)
        except ConfigurationError as error:
            raise ConfigurationError(f"mounts: {self.place}: {error}") from None

    def find(self, made: dict[str, Any]) -> Any:
        """
        Return the application.

        :param made: what factories have made, see :func:`find_application`
        :raises TargetError: in one line, if it cannot be had
        """
        try:
            return find_application(self.app, self.factory, made)
        except ConfigurationError as error:
            raise type(error)(f"mounts: {self.place}: {error}") from error.__cause__


def find_application(app: Any, factory: bool, made: dict[str, Any]) -> Any:
    """
    Return an application.

    :param app: the application, its factory, ``module:attribute`` that leads to either, or the URL
        of a server, for a proxy
    :param factory: whether it is a factory
    :param made: what factories have made, by their targets: each is called once for a program
    :raises TargetError: in one line, if it cannot be had
    """
    if is_upstream(app) and not factory:
        return Proxy(app)
    if not isinstance(app, str):
        return call_factory(app, repr(app)) if factory else app
    if not factory:
        return load_target(app)
    if app not in made:
        made[app] = call_factory(load_target(app), repr(app))
    return made[app]


def _with_proxy(value: Mapping[str, Any]) -> dict[str, Any]:
    """Make a proxy of those keys of a mount that are its settings."""
    if "app" in value:
        raise ConfigurationError("give either app or upstreams")
    known = Proxy.field_names()
    check_keys(value, (*known, "max_body_size"), "key")
    proxy = Proxy.from_mapping({key: value[key] for key in value if key in known})
    return {"app": proxy, **{key: value[key] for key in value if key not in known}}


def _checked_prefix(prefix: Any) -> str:
    """Return a prefix without a slash at its end."""
    if not isinstance(prefix, str) or not prefix.startswith("/"):
        raise ConfigurationError(f"mounts: {prefix!r} is no prefix; it must begin with '/'")
    wrong = next((each for each in ("//", "?", "#", "%", "<", "*") if each in prefix), None)
    if wrong is not None or not prefix.isprintable():
        hint = {"%": "; write it decoded", "<": "; it has no variables"}.get(wrong or "", "")
        raise ConfigurationError(
            f"mounts: {prefix!r} is no prefix: {wrong or 'controls'!r} cannot be in it{hint}"
        )
    return prefix.rstrip("/")
