"""Mounts as they are written."""

from __future__ import annotations

from typing import Any

import pytest

from kyoukai import Kyoukai, ServerConfig
from kyoukai.exceptions import ConfigurationError, TargetError
from kyoukai.mount import Mount, find_application


@pytest.mark.parametrize(
    ("written", "prefix", "place"),
    [
        ("/", "", "/"),
        ("/admin", "/admin", "/admin"),
        ("/admin/", "/admin", "/admin"),
        ("/a b/é", "/a b/é", "/a b/é"),
    ],
)
def test_prefixes(written: str, prefix: str, place: str) -> None:
    mount = Mount(written, "a:b")
    assert (mount.prefix, mount.place) == (prefix, place)
    assert repr(mount) == f"<Mount {place} a:b>"


@pytest.mark.parametrize(
    ("prefix", "value", "message"),
    [
        ("admin", "a:b", "mounts: 'admin' is no prefix; it must begin with '/'"),
        (7, "a:b", "mounts: 7 is no prefix; it must begin with '/'"),
        ("", "a:b", "mounts: '' is no prefix; it must begin with '/'"),
        ("/a//b", "a:b", "mounts: '/a//b' is no prefix: '//' cannot be in it"),
        ("/a?", "a:b", "mounts: '/a?' is no prefix: '?' cannot be in it"),
        ("/a%20b", "a:b", "mounts: '/a%20b' is no prefix: '%' cannot be in it; write it decoded"),
        ("/<x>", "a:b", "mounts: '/<x>' is no prefix: '<' cannot be in it; it has no variables"),
        ("/a\n", "a:b", r"mounts: '/a\n' is no prefix: 'controls' cannot be in it"),
        ("/x", "", "mounts: /x: app is missing; name it as module:attribute"),
        ("/x", {"interface": "wsgi"}, "mounts: /x: app is missing; name it as module:attribute"),
        ("/x", {"app": "a:b", "interfce": "wsgi"}, "mounts: /x: unknown key 'interfce'; did you"),
        ("/x", {"app": "a:b", "interface": 1}, "mounts: /x: interface must be of type str, not 1"),
        ("/x", {"app": "a:b", "factory": "yes"}, "mounts: /x: factory must be true or false"),
    ],
)
def test_what_is_wrong(prefix: Any, value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Mount.from_setting(prefix, value)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_settings() -> None:
    config = ServerConfig(root_path="/site", max_body_size=5)
    settings = Mount("/a", "a:b").settings(config)
    assert (settings.root_path, settings.max_body_size, settings.lifespan) == ("/site/a", 5, "auto")
    mount = Mount("/a", "a:b", lifespan="off", root_path="/b", max_body_size=7)
    settings = mount.settings(config)
    assert (settings.root_path, settings.max_body_size, settings.lifespan) == ("/b", 7, "off")
    for option, message in (
        ({"lifespan": "never"}, "mounts: /a: lifespan must be auto, on or off, not 'never'"),
        ({"root_path": "b"}, "mounts: /a: root_path must start with '/'"),
        ({"max_body_size": -1}, "mounts: /a: max_body_size must be at least 0, not -1"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            Mount("/a", "a:b", **option).settings(config)


def test_a_prefix_is_mounted_once() -> None:
    app = Kyoukai("site")
    app.mount("/a", Kyoukai("a"))
    with pytest.raises(ConfigurationError, match="mounts: /a: there are two of them"):
        app.mount("/a/", Kyoukai("b"))


# -- Finding applications -------------------------------------------------------------------------

calls: list[str] = []


def make() -> Kyoukai:
    calls.append("made")
    return Kyoukai("made")


def fail() -> None:
    raise RuntimeError("no database")


async def late() -> None:
    """Make nothing, late."""


def test_a_factory_is_called_once_for_a_program() -> None:
    calls.clear()
    made: dict[str, Any] = {}
    target = f"{__name__}:make"
    first = find_application(target, True, made)
    assert find_application(target, True, made) is first
    assert Mount("/a", target, factory=True).find(made) is first
    assert calls == ["made"]
    assert find_application(target, True, {}) is not first


def test_an_application_is_returned_as_it_is() -> None:
    app = Kyoukai("x")
    assert find_application(app, False, {}) is app
    assert find_application(f"{__name__}:make", False, {}) is make
    assert isinstance(find_application(make, True, {}), Kyoukai)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fail", ": the factory failed: RuntimeError: no database"),
        ("late", ": the factory must not be a coroutine function"),
        ("calls", " cannot be called: it is no factory, so leave factory out"),
        ("mak", " has no 'mak'; did you mean 'make'"),
    ],
)
def test_factories_that_fail(name: str, message: str) -> None:
    with pytest.raises(TargetError, match=message) as caught:
        Mount("/x", f"{__name__}:{name}", factory=True).find({})
    assert str(caught.value).startswith(f"mounts: /x: '{__name__}:{name}'")
