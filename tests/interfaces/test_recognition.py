"""Which kind of application it is."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from kyoukai import Kyoukai
from kyoukai.exceptions import TargetError
from kyoukai.interfaces.recognition import is_double_callable, recognise


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...
async def rsgi(scope: Any, proto: Any) -> None: ...
def wsgi(environ: Any, start_response: Any) -> Any: ...
def ssgi(kind, server, client, method, path, query, get_header, res): ...  # type: ignore[no-untyped-def]
async def assgi(kind, server, client, method, path, query, get_header, res): ...  # type: ignore[no-untyped-def]
def double(scope: Any) -> Any: ...
async def single(scope: Any) -> None: ...
def defaults(environ: Any, start_response: Any, more: Any = None, *, option: int = 1) -> Any: ...
def anything(*arguments: Any) -> None: ...
def demanding(a: Any, b: Any, *, c: Any) -> None: ...
def four(a: Any, b: Any, c: Any, d: Any) -> None: ...
def nothing() -> None: ...


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class WsgiObject:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...


class RsgiCallable:
    async def __call__(self, scope: Any, proto: Any) -> None: ...


class RsgiObject:
    async def __rsgi__(self, scope: Any, proto: Any) -> None: ...

    def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...  # comes after __rsgi__


class Framework:
    def get_supported(self, supported: dict[str, str]) -> dict[str, Any]:
        raise AssertionError("nothing is called to find out")

    async def __rsgi__(self, scope: Any, proto: Any) -> None: ...


class WsgiClass:
    def __init__(self, environ: Any, start_response: Any) -> None: ...


class DoubleClass:
    def __init__(self, scope: Any) -> None: ...


class Methods:
    async def asgi(self, scope: Any, receive: Any, send: Any) -> None: ...
    def wsgi(self, environ: Any, start_response: Any) -> Any: ...


class Proxy:
    """Says of itself what another function looks like, as decorators do."""

    def __init__(self, function: Any) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*arguments, **options)


@pytest.mark.parametrize(
    ("app", "kind"),
    [
        (Kyoukai("site"), "kyoukai"),
        (asgi, "asgi"),
        (AsgiObject(), "asgi"),
        (Methods().asgi, "asgi"),
        (functools.partial(AsgiObject().__call__), "asgi"),
        (Proxy(asgi), "asgi"),
        (double, "asgi"),
        (DoubleClass, "asgi"),
        (wsgi, "wsgi"),
        (WsgiObject(), "wsgi"),
        (WsgiClass, "wsgi"),
        (Methods().wsgi, "wsgi"),
        (defaults, "wsgi"),
        (rsgi, "rsgi"),
        (RsgiCallable(), "rsgi"),
        (RsgiObject(), "rsgi"),
        (functools.partial(rsgi), "rsgi"),
        (ssgi, "ssgi"),
        (assgi, "ssgi"),
        (Framework(), "ssgi"),
    ],
)
def test_kinds(app: Any, kind: str) -> None:
    assert recognise(app, "app:app") == kind


@pytest.mark.parametrize(
    ("app", "message"),
    [
        (1, "app: 'a:b' is of type int, which is no application"),
        (None, "app: 'a:b' is of type NoneType, which is no application"),
        (Kyoukai, "app: 'a:b' is a class of applications, not one; name an instance of it"),
        (nothing, "app: 'a:b' takes no arguments; .*factory: true.*--factory"),
        (anything, "app: 'a:b': its signature does not tell what kind it is; .*--interface"),
        (demanding, "app: 'a:b': its signature does not tell what kind it is; .*--interface"),
        (four, "app: 'a:b' takes 4 arguments, as no kind of application does; .*--interface"),
        (single, "app: 'a:b' takes 1 arguments?, as no kind of application does; .*--interface"),
    ],
)
def test_what_is_none(app: Any, message: str) -> None:
    with pytest.raises(TargetError, match=f"^{message}") as caught:
        recognise(app, "a:b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("app", "twice"),
    [(double, True), (DoubleClass, True), (asgi, False), (single, False), (AsgiObject(), False)],
)
def test_double_callables(app: Any, twice: bool) -> None:
    assert is_double_callable(app) is twice
