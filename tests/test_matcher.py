"""The quick way through the routing table against Werkzeug's own."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import (
    BaseConverter,
    IntegerConverter,
    Map,
    RequestRedirect,
    Rule,
    ValidationError,
)
from werkzeug.routing.matcher import StateMachineMatcher

from kyoukai.blueprint import Blueprint
from kyoukai.exceptions import RouteError
from kyoukai.matcher import RouteMap


class Evens(BaseConverter):
    """Refuses after the match, as only a converter can."""

    regex = r"\d+"

    def to_python(self, value: str) -> int:
        number = int(value)
        if number % 2:
            raise ValidationError
        return number


class Digits(BaseConverter):
    regex = r"\d+"


class Groups(BaseConverter):
    regex = r"(?:a(?P<inner>b)?|c)x"


class Doubled(IntegerConverter):
    def to_python(self, value: str) -> int:
        return 2 * int(super().to_python(value))


CONVERTERS = {"groups": Groups, "doubled": Doubled, "evens": Evens, "digits": Digits}

# Static beside dynamic, dynamic beside dynamic, branches beside leaves, and every odd converter.
RULES: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    ("/", ("GET",), {}),
    ("/a", ("GET", "POST"), {}),
    ("/a/", ("PUT",), {}),
    ("/b/", ("GET",), {}),
    ("/a/b", ("GET",), {}),
    ("/a/b/", ("DELETE",), {}),
    ("/a/b/1", ("GET",), {}),
    ("/<x>", ("PATCH",), {}),
    ("/a/b", ("GET",), {}),
    ("//a", ("OPTIONS",), {"merge_slashes": False}),
    ("/a/<x>", ("GET",), {}),
    ("/a/<int:n>", ("POST",), {}),
    ("/a/<int:n>/", ("GET", "POST"), {}),
    ("/a/<int:n>/b", ("GET",), {}),
    ("/a/<x>/b", ("POST",), {}),
    ("/<x>/b", ("GET",), {}),
    ("/<x>/<y>", ("DELETE",), {}),
    ("/<int:n>/b", ("POST",), {}),
    ("/b/<int(max=5):n>", ("GET",), {}),
    ("/b/<int(fixed_digits=2):n>/1", ("GET",), {}),
    ("/b/<int(signed=True):n>/b", ("GET",), {}),
    ("/b/<doubled:n>/a", ("GET",), {}),
    ("/b/<evens:n>/a/b", ("GET",), {}),
    ("/b/<string(length=2):s>/a", ("POST",), {}),
    ("/b/<any(a, b):s>/c", ("GET",), {}),
    ("/b/<float:f>/c", ("GET",), {}),
    ("/b/<groups:g>/c", ("GET",), {}),
    ("/b/<x>.<y>/c", ("GET",), {}),
    ("/c/<path:p>", ("GET",), {}),
    ("/c/<path:p>/", ("POST",), {}),
    ("/c/<path:p>/a", ("GET",), {}),
    ("/c/a/<path:p>", ("PUT",), {}),
    ("/c/a", ("POST",), {}),
    ("/d/<x>/a", ("GET",), {"strict_slashes": False}),
    ("/d/<x>/b/", ("GET",), {"strict_slashes": False}),
    ("/d//a", ("GET",), {"merge_slashes": False}),
    ("/d/a", ("GET",), {"defaults": {"n": 1}, "endpoint": "default"}),
    ("/d/a/<int:n>", ("GET",), {"endpoint": "default"}),
    ("/d/b", ("GET",), {"alias": True, "endpoint": "aliased"}),
    ("/d/c", ("GET",), {"endpoint": "aliased"}),
    ("/d/1", ("GET",), {"redirect_to": "/a"}),
    ("/d/2", ("GET",), {"websocket": True}),
    ("/d/2", ("POST",), {}),
    ("/d/3/3/3", ("GET",), {"websocket": True}),
    ("/\u00e9", ("GET",), {}),
    ("/e/<int:n>", ("GET",), {"strict_slashes": False}),
    ("/e/<x>/", ("GET",), {}),
    ("/f/<int:n>/a", ("GET",), {}),
    ("/f/<x>/b", ("GET",), {}),
    ("/<w>/<int:n>/b", ("GET",), {}),
    ("/f/<digits:d>/c", ("GET",), {}),
]

SEGMENTS = (
    *("a", "b", "c", "d", "a", "b", "c", "d", "1", "2", "", "", "12", "007", "-3", "ab", "abx"),
    *("1.5", "a.b", "x", "\u00e9", "\u0663", "\u00b2", "\n", "9" * 20, "zz top"),
)
METHODS = ("GET", "GET", "GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "get")


def rules() -> list[Rule]:
    made = []
    for number, (path, methods, options) in enumerate(RULES):
        made.append(Rule(path, methods=methods, **{"endpoint": f"e{number}", **options}))
    return made


def outcome(adapter: Any, path: str, method: str) -> Any:
    try:
        rule, params = adapter.match(path, method, return_rule=True, query_args="q=1")
    except RequestRedirect as redirect:
        return "redirect", redirect.new_url
    except MethodNotAllowed as error:
        return "405", frozenset(error.valid_methods or ())
    except HTTPException as error:
        return error.code
    return rule.rule, rule.endpoint, params


class Quick:
    """Takes the quick way, and Werkzeug's where there is none; counts the former."""

    def __init__(self, map_: RouteMap) -> None:
        self.map = map_
        self.adapter = map_.bind("host")
        self.taken = 0
        map_.update()

    def match(self, path: str, method: str, **options: Any) -> Any:
        self.map.update()
        exact = self.map.exact.get(path, {}).get(method)
        if exact is not None:
            self.taken += 1
            return exact, {}
        found = self.map.find("host", path, method)
        if found is not None:
            leaf, values = found
            try:
                params = leaf.params(values)
            except ValueError:
                pass
            else:
                self.taken += 1
                return leaf.rule, params
        return self.adapter.match(path, method, **options)


def random_path(rand: random.Random) -> str:
    if rand.random() < 0.6:  # near a rule
        path = re.sub("<[^>]*>", lambda _: rand.choice(SEGMENTS), rand.choice(RULES)[0])
    else:
        path = "/" + "/".join(rand.choices(SEGMENTS, k=rand.choice((1, 2, 2, 3, 3, 4, 5))))
    return path + "/" if rand.random() < 0.1 else path


@pytest.mark.parametrize(
    "options", [{}, {"merge_slashes": False}, {"strict_slashes": False}, {"host_matching": True}]
)
def test_same_answers_as_werkzeug(options: dict[str, Any]) -> None:
    given = rules()
    if "host_matching" in options:
        for number, rule in enumerate(given):
            rule.host = ("host", "<sub>", "other")[number % 3]
    plain = Map(converters=CONVERTERS, **options)
    fast = RouteMap(lambda rule: rule, converters=CONVERTERS, **options)
    for rule, twin in zip(given, rules(), strict=True):
        twin.host = rule.host
        plain.add(rule)
        fast.add(twin)
    adapter, quick = plain.bind("host"), Quick(fast)
    rand = random.Random(20)
    count = 8_000
    seen: dict[tuple[str, str], Any] = {}
    for _ in range(count):
        path, method = random_path(rand), rand.choice(METHODS)
        if (path, method) not in seen:
            seen[path, method] = outcome(adapter, path, method)
        assert outcome(quick, path, method) == seen[path, method], (path, method)
    assert quick.taken > count / 12
    kinds = {value if isinstance(value, int) else value[0] for value in seen.values()}
    assert {404, "405", "redirect"} <= kinds
    assert len(kinds) > (12 if "host_matching" in options else 25)


def test_table_is_compiled_anew_when_rules_are_added() -> None:
    bp = Blueprint("root")
    bp.route("/a")(handler)
    assert bp.match_head("GET", "/a", "h").rule.rule == "/a"
    bp.map.add(Rule("/a/<int:n>", methods=["GET"], endpoint="root.handler"))
    hit = bp.match_head("GET", "/a/3", "h")
    assert (hit.params, hit.route.get_endpoint_name()) == ({"n": 3}, "root.handler")
    assert bp.match_head("GET", "/a", "h").params == {}


def test_rule_without_route_is_named() -> None:
    bp = Blueprint("root")
    bp.map.add(Rule("/lost", endpoint="nowhere"))
    with pytest.raises(RouteError, match="'nowhere' of no route"):
        bp.match_head("GET", "/lost", "h")


def test_exact_paths_are_found_without_a_walk() -> None:
    bp = Blueprint("root")
    bp.route("/a/b", methods=["POST"])(handler)
    bp.finalize()
    hit = bp.match_head("POST", "/a/b", "h")
    assert bp.match_head("POST", "/a/b", "other") is hit
    hit.params["mine"] = 1
    assert bp.match_head("POST", "/a/b", "h").params == {}


def test_the_quick_way_does_not_ask_werkzeug(monkeypatch: pytest.MonkeyPatch) -> None:
    bp = Blueprint("bp")
    paths = {
        "/": "/",
        "/a/b": "/a/b",
        "/users/<int:id>": "/users/12",
        "/<x>/<int:n>/z": "/a/3/z",
        "/files/<path:p>": "/files/a/b",
        "/things/<uuid:u>": "/things/00000000-0000-0000-0000-000000000000",
    }
    for number, rule in enumerate(paths):
        bp.route(rule, endpoint=f"e{number}")(handler)
    bp.finalize()

    def fail(*args: Any) -> None:
        raise AssertionError("Werkzeug was asked")

    monkeypatch.setattr(StateMachineMatcher, "match", fail)
    for rule, path in paths.items():
        assert bp.match_head("GET", path, "h").rule.rule == rule
    with pytest.raises(AssertionError, match="Werkzeug was asked"):
        bp.match_head("GET", "/nothing", "h")


def test_values_that_cannot_be_converted() -> None:
    bp = Blueprint("bp")
    bp.finalize(converters=CONVERTERS)
    bp.route("/n/<int:n>")(handler)
    bp.route("/e/<evens:n>", endpoint="evens")(handler)
    assert bp.match_head("GET", "/n/" + "9" * 100, "h").params == {"n": int("9" * 100)}
    assert bp.match_head("GET", "/e/4", "h").params == {"n": 4}
    for path in ("/n/" + "9" * 5000, "/e/5"):
        with pytest.raises(NotFound):
            bp.match_head("GET", path, "h")


async def handler(ctx: Any, **params: Any) -> str:
    return "handled"
