"""Which paths native rules claim."""

from __future__ import annotations

import random
from typing import Any

import pytest
from werkzeug.routing import BaseConverter, ValidationError

from kyoukai import Blueprint, Kyoukai


async def handler(ctx: Any, **values: Any) -> str:
    return ""


async def socket(ctx: Any, ws: Any, **values: Any) -> None:
    """Do nothing."""


def app_with(*paths: str, **options: Any) -> Kyoukai:
    app = Kyoukai("site", **options)
    for number, path in enumerate(paths):
        app.root.route(path, methods=["POST"], endpoint=f"site.{number}")(handler)
    return app


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/", ""),
        ("/legacy/new", "/legacy/new"),
        ("/legacy/new/", None),
        ("/users/7", "/users"),
        ("/users/x", None),
        ("/users/x-7", "/users"),
        ("/slash/", "/slash"),
        ("/slash", "/slash"),
        ("/files/a/b", "/files"),
        ("/files//b", None),  # a redirect to what it should be is no match
        ("/nothing", None),
        ("/talk", "/talk"),
    ],
)
def test_static_parts(path: str, part: str | None) -> None:
    app = app_with(
        "/", "/legacy/new", "/users/<int:id>", "/users/x-<int:id>", "/slash/", "/files/<path:p>"
    )
    app.websocket("/talk")(socket)
    for _ in range(2):  # the second time from memory
        assert app.root.static_part(path, "localhost") == part


def test_the_method_does_not_matter_and_the_most_particular_rule_counts() -> None:
    app = Kyoukai("site")
    app.route("/<path:p>", methods=["GET"])(handler)
    app.root.route("/a/<x>", methods=["POST"], endpoint="site.post")(handler)
    assert app.root.static_part("/a/b", "localhost") == "/a"
    assert app.root.static_part("/a/b/c", "localhost") == ""


def test_routes_that_come_later_count() -> None:
    app = app_with("/a")
    assert app.root.static_part("/b", "localhost") is None
    app.root.route("/b", endpoint="site.b")(handler)
    assert app.root.static_part("/b", "localhost") == "/b"


def test_hosts_count_where_they_tell_routes_apart() -> None:
    app = Kyoukai("site", host_matching=True)
    api = Blueprint("api", app.root, host="api.example.com")
    api.route("/things/<id>")(handler)
    assert app.root.static_part("/things/1", "api.example.com:80") == "/things"
    assert app.root.static_part("/things/1", "www.example.com") is None


def test_a_converter_of_the_users_is_asked_each_time() -> None:
    known: set[str] = set()

    class Known(BaseConverter):
        def to_python(self, value: str) -> str:
            if value not in known:
                raise ValidationError
            return value

    app = Kyoukai("site")
    app.finalize(converters={"known": Known})
    app.route("/<known:name>")(handler)
    assert app.root.static_part("/a", "localhost") is None
    known.add("a")
    assert app.root.static_part("/a", "localhost") == ""


def test_long_paths_are_not_remembered() -> None:
    app = app_with("/files/<path:p>")
    for length in (10, 1000):
        assert app.root.static_part("/files/" + "x" * length, "localhost") == "/files"
    claims: Any = app.root._ready()._claims
    assert claims._find.cache_info().currsize == 1


def test_random_paths_are_claimed_as_the_match_says() -> None:
    """A path is claimed exactly where the application has a match or a 405 for it."""
    chance = random.Random(6)
    names = ["a", "b", "ab", "<x>", "<int:n>", "<path:p>"]
    for _ in range(60):
        paths = {
            "/" + "/".join(chance.choice(names).replace(">", f"{i}>") for i in range(depth))
            for depth in (chance.randrange(4) for _ in range(5))
        }
        app = app_with(*sorted(paths))
        for _ in range(40):
            path = "/" + "/".join(chance.choices(["a", "b", "ab", "7", "é"], k=chance.randrange(4)))
            try:
                app.root.match_head("GET", path, "localhost")
            except Exception as error:
                matched = type(error).__name__ == "MethodNotAllowed"
            else:
                matched = True
            part = app.root.static_part(path, "localhost")
            assert (part is not None) is matched, (paths, path)
            if part is not None:
                assert path.startswith(part)
