"""Blueprints: the tree, matching, error handlers, URLs."""

# ruff: noqa: A002 - what handlers look like

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.exceptions import (
    BadHost,
    Forbidden,
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
)
from werkzeug.routing import BaseConverter, RequestRedirect, ValidationError
from werkzeug.test import EnvironBuilder

from kyoukai.blueprint import Blueprint
from kyoukai.exceptions import RouteError
from kyoukai.route import UNSET, Route
from kyoukai.routing import ADAPTERS_KEPT, UpgradeRequired


async def index(ctx: Any) -> str:
    return "index"


async def user(ctx: Any, id: int) -> str:
    return "user"


async def other(ctx: Any) -> str:
    return "other"


async def failed(ctx: Any, exc: Exception) -> str:
    return "failed"


def environ(path: str = "/", method: str = "GET", **options: Any) -> dict[str, Any]:
    return EnvironBuilder(path, method=method, **options).get_environ()


def match(bp: Blueprint, path: str, method: str = "GET", host: str = "localhost") -> Any:
    hit = bp.match_head(method, path, host)
    return hit.route.function, hit.params


# -- The tree ----------------------------------------------------------------------------------


def test_tree() -> None:
    root = Blueprint("root", prefix="/api/")
    child = Blueprint("child", root, "/v1/")
    leaf = Blueprint("leaf", prefix="/<lang>")
    assert child.add_child(leaf) is leaf
    assert child.add_child(leaf) is leaf
    assert root.children == (child,)
    assert child.children == (leaf,)
    assert (child.parent, root.parent) == (root, None)
    assert list(leaf.ancestors) == [child, root]
    assert leaf.root is root.root is root
    assert list(root.traverse_tree()) == [leaf, child]
    assert (child.prefix, child.computed_prefix) == ("/v1/", "/api/v1")
    assert leaf.computed_prefix == "/api/v1/<lang>"
    first, second = root.route("/x")(index), leaf.route("/u/<int:id>")(user)
    assert list(root.tree_routes) == [first, second]
    assert match(root, "/api/x") == (index, {})
    assert match(root, "/api/v1/de/u/4") == (user, {"lang": "de", "id": 4})
    leaf.prefix = "/moved"
    assert match(root, "/api/v1/moved/u/4") == (user, {"id": 4})
    with pytest.raises(NotFound):
        match(root, "/api/v1/de/u/4")


def test_wrong_trees() -> None:
    root = Blueprint("root")
    child = Blueprint("child", root)
    with pytest.raises(RouteError, match="must begin with '/', not be 'api'"):
        Blueprint("bad", prefix="api")
    with pytest.raises(RouteError, match="'root' cannot be below itself"):
        child.add_child(root)
    with pytest.raises(RouteError, match="'root' cannot be below itself"):
        root.add_child(root)
    with pytest.raises(RouteError, match="'child' is already a child of 'root'"):
        Blueprint("other").add_child(child)


def test_a_child_alone_has_its_parents_prefix() -> None:
    child = Blueprint("child", prefix="/b")
    child.route("/x")(index)
    assert match(child, "/b/x") == (index, {})
    Blueprint("root", prefix="/a").add_child(child)
    assert match(child, "/a/b/x") == (index, {})


# -- Adding routes -----------------------------------------------------------------------------


def test_stacked_paths() -> None:
    bp = Blueprint("bp")

    @bp.route("/b", methods=["POST"])
    @bp.route("/a", stream=True, max_body_size=5)
    async def handler(ctx: Any) -> None: ...

    assert isinstance(handler, Route)
    assert bp.routes == [handler]
    assert handler.bp is bp
    assert handler.routes == [("/a", ("GET",)), ("/b", ("POST",))]
    hit = bp.match_head("POST", "/b", "h")
    assert hit.route is handler
    assert (hit.stream, hit.max_body_size, hit.cancel_on_disconnect) == (True, 5, True)
    bp.route("/plain", cancel_on_disconnect=False)(index)
    hit = bp.match_head("GET", "/plain", "h")
    assert (hit.stream, hit.max_body_size, hit.cancel_on_disconnect) == (False, UNSET, False)
    assert not hit.automatic_options
    assert hit.allowed == ()


def test_options_belong_next_to_the_function() -> None:
    bp = Blueprint("bp")
    route = bp.route("/a")(index)
    with pytest.raises(RouteError, match="give stream to the decorator next to the function"):
        bp.route("/b", stream=True)(route)


def test_a_route_has_one_blueprint() -> None:
    one, two = Blueprint("one"), Blueprint("two")
    route = one.route("/a")(index)
    with pytest.raises(RouteError, match="belongs to blueprint 'one'; to have it in 'two'"):
        two.route("/b")(route)
    assert two.routes == []
    assert two.route("/b")(route.function) is not route


def test_routes_added_later_are_found() -> None:
    root = Blueprint("root")
    child = Blueprint("child", root)
    assert not root.finalized
    first = root.finalize()
    assert root.finalized
    assert root.finalize() is first
    child.route("/late")(index)
    assert not root.finalized
    assert match(root, "/late") == (index, {})
    assert root.finalized
    route = root.get_route("child.index")
    assert route is not None
    route.add_path("/later")
    assert match(root, "/later") == (index, {})


def test_map_options_are_kept() -> None:
    class Upper(BaseConverter):
        def to_python(self, value: str) -> str:
            return value.upper()

    bp = Blueprint("bp")
    bp.finalize(converters={"upper": Upper}, strict_slashes=False)
    bp.route("/u/<upper:name>/")(index)
    assert match(bp, "/u/x") == (index, {"name": "X"})
    assert bp.finalize(strict_slashes=True, converters={"upper": Upper}) is bp.map
    with pytest.raises(RequestRedirect):
        match(bp, "/u/x")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/<nothing:id>", "'nothing' does not exist"),
        ("/<int", "malformed url rule"),
        ("/<int(wrong=1):id>", "wrong"),
    ],
)
def test_broken_paths_are_named(path: str, message: str) -> None:
    bp = Blueprint("bp")
    bp.route(path)(index)
    with pytest.raises(RouteError, match=f"of {__name__}.index: .*{message}"):
        bp.finalize()


def test_two_routes_with_one_endpoint() -> None:
    root = Blueprint("root")
    for number in range(2):
        Blueprint("same", root, f"/{number}").route("/x")(index)
    with pytest.raises(RouteError) as caught:
        root.finalize()
    message = str(caught.value)
    assert message.startswith("two routes have the endpoint 'same.index': ")
    assert message.count(f"{__name__}.index (/x; blueprint 'same')") == 2


def test_two_routes_with_one_path_and_method() -> None:
    root = Blueprint("root")
    root.route("/u/<int:id>", methods=["GET", "PUT"])(user)
    Blueprint("child", root, "/u").route("/<int:number>", methods=["POST", "PUT"])(other)
    with pytest.raises(RouteError, match=r"PUT /u/<int:number> belongs to two routes: .*user") as e:
        root.finalize()
    assert f"{__name__}.other (/<int:number>; blueprint 'child')" in str(e.value)


def test_methods_of_one_path_may_be_shared_out() -> None:
    bp = Blueprint("bp")
    bp.route("/x")(index)
    bp.route("/x", methods=["POST"])(other)
    bp.route("/<int:id>")(user)
    bp.route("/<name>", methods=["GET"])(failed)
    assert match(bp, "/x") == (index, {})
    assert match(bp, "/x", "POST") == (other, {})
    assert match(bp, "/7") == (user, {"id": 7})
    assert match(bp, "/y") == (failed, {"name": "y"})


# -- Methods -----------------------------------------------------------------------------------


def test_head_comes_with_get() -> None:
    bp = Blueprint("bp")
    bp.route("/x")(index)
    assert match(bp, "/x", "HEAD") == (index, {})


@pytest.mark.parametrize("head_first", [True, False])
def test_a_head_of_its_own_wins(head_first: bool) -> None:
    bp = Blueprint("bp")
    if head_first:
        bp.route("/x", methods=["HEAD"])(other)
    bp.route("/x")(index)
    if not head_first:
        bp.route("/x", methods=["HEAD"])(other)
    assert match(bp, "/x", "HEAD") == (other, {})
    assert match(bp, "/x") == (index, {})


def test_automatic_options() -> None:
    bp = Blueprint("bp")
    route = bp.route("/u/<int:id>")(user)
    bp.route("/u/<int:id>", methods=["DELETE"])(other)
    bp.before_request(index)
    hit = bp.match_head("OPTIONS", "/u/5", "h")
    assert hit.automatic_options
    assert hit.allowed == ("DELETE", "GET", "HEAD", "OPTIONS")
    assert hit.route in (route, bp.get_route("other"))
    assert hit.params == {"id": 5}
    assert (hit.before, hit.needs_check) == ((), False)
    with pytest.raises(NotFound):
        bp.match_head("OPTIONS", "/nothing", "h")


def test_options_of_its_own() -> None:
    bp = Blueprint("bp")
    bp.route("/x")(index)
    bp.route("/x", methods=["OPTIONS"])(other)
    assert match(bp, "/x", "OPTIONS") == (other, {})
    assert not bp.match_head("OPTIONS", "/x", "h").automatic_options


def test_wrong_method() -> None:
    bp = Blueprint("bp")
    bp.route("/x", methods=["PUT", "GET"])(index)
    with pytest.raises(MethodNotAllowed) as caught:
        match(bp, "/x", "POST")
    assert list(caught.value.valid_methods or ()) == ["GET", "HEAD", "OPTIONS", "PUT"]


# -- Redirects and hosts -----------------------------------------------------------------------


def test_redirects() -> None:
    bp = Blueprint("bp")
    bp.route("/x/")(index)
    bp.route("/y/<path:p>")(user)
    for path, target in (("/x", "/x/"), ("/x//", "/x/"), ("/y//z", "/y/z")):
        with pytest.raises(RequestRedirect) as caught:
            bp.match_head("GET", path, "example.com:8443", "https", "/root", b"a=%20b&c=1")
        assert caught.value.new_url == f"https://example.com:8443/root{target}?a=%20b&c=1"
    with pytest.raises(RequestRedirect) as caught:
        bp.match(environ("/x", base_url="http://example.com/app", query_string="q=1"))
    assert caught.value.new_url == "http://example.com/app/x/?q=1"
    with pytest.raises(RequestRedirect) as caught:
        bp.match_head("GET", "/x", "example.com")
    assert caught.value.new_url == "http://example.com/x/"


def test_match_of_an_environ() -> None:
    bp = Blueprint("bp")
    route = bp.route("/\u00e9/<int:id>")(user)
    found, params, rule = bp.match(environ("/\u00e9/3"))
    assert (found, params, rule.rule) == (route, {"id": 3}, "/\u00e9/<int:id>")
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert bp.match(environ("/\u00e9/3", headers=upgrade))[0] is route


def hosts() -> Blueprint:
    root = Blueprint("root")
    root.route("/")(index)
    root.route("/u/<int:id>")(user)
    api = Blueprint("api", root, host="API.example.com")
    api.route("/")(other)
    Blueprint("deep", api, "/deep").route("/")(index)
    sub = Blueprint("sub", root, host="<name>.example.com:8080")
    sub.route("/")(failed)
    return root


def test_hosts() -> None:
    root = hosts()
    assert match(root, "/", host="api.example.com") == (other, {})
    assert match(root, "/", host="api.example.com:80") == (other, {})
    assert match(root, "/", host="mine.example.com:8080") == (failed, {"name": "mine"})
    assert match(root, "/", host="elsewhere") == (index, {})
    assert match(root, "/", host="[::1]:8000") == (index, {})
    assert match(root, "/", host="") == (index, {})
    assert match(root, "/u/3", host="elsewhere") == (user, {"id": 3})
    assert match(root, "/u/3", host="api.example.com") == (user, {"id": 3})
    assert match(root, "/deep/", host="api.example.com") == (index, {})
    with pytest.raises(NotFound):
        match(root, "/deep/", host="elsewhere")
    with pytest.raises(BadHost):
        match(root, "/", host="a..b")
    found, params, _ = root.match(environ("/u/3", base_url="https://elsewhere:443"))
    assert (found.function, params) == (user, {"id": 3})


def test_host_matching_without_hosts() -> None:
    bp = Blueprint("bp", host_matching=True)
    bp.route("/x")(index)
    assert bp.map.host_matching
    assert match(bp, "/x", host="any") == (index, {})
    assert match(bp, "/x", "OPTIONS", host="any")[1] == {}


def test_hosts_in_urls() -> None:
    root = hosts()
    here = environ(base_url="http://api.example.com")
    assert root.url_for(here, "api.other") == "/"
    assert root.url_for(here, "user", id=3) == "/u/3"
    assert root.url_for(here, "user", id=3, _external=True) == "http://api.example.com/u/3"
    away = environ(base_url="http://[::1]:8000")
    assert root.url_for(away, "api.other") == "http://api.example.com/"
    assert root.url_for(away, "user", id=3, a=1) == "/u/3?a=1"
    assert root.url_for(away, "sub.failed", name="me") == "http://me.example.com:8080/"


def test_adapters_are_bounded() -> None:
    bp = Blueprint("bp")
    bp.route("/x/")(index)
    for number in range(ADAPTERS_KEPT + 50):
        with pytest.raises(RequestRedirect, match=f"h{number}"):
            bp.match_head("GET", "/x", f"h{number}")
    assert bp._table is not None
    kept = [host for host, *_ in bp._table._adapters]
    assert kept == [f"h{number}" for number in range(50, ADAPTERS_KEPT + 50)]


# -- Sockets -----------------------------------------------------------------------------------


async def chat(ctx: Any, ws: Any, room: str = "") -> None: ...


def sockets() -> Blueprint:
    root = Blueprint("root")
    child = Blueprint("child", root, "/child")
    root.websocket("/chat/<room>/")(chat)
    root.route("/both")(index)
    root.websocket("/both", endpoint="both")(chat)
    root.route("/http", methods=["POST"])(other)
    child.websocket("/<int:id>", endpoint="numbered")(chat)
    return root


def test_match_socket() -> None:
    root = Blueprint("root")
    first = root.websocket("/chat/<room>", max_body_size=1)(chat)
    again = root.websocket("/chat")(first)
    assert again is first
    assert (first.is_websocket, first.max_body_size) == (True, 1)
    hit = root.match_socket("/chat/den", "localhost")
    assert (hit.route, hit.params, hit.needs_check) == (first, {"room": "den"}, False)
    assert root.match_socket("/chat", "localhost").params == {}
    root.before_request(other)
    assert root.match_socket("/chat", "localhost").before == (other,)


def test_paths_of_both_kinds() -> None:
    root = Blueprint("root")
    socket = root.websocket("/<room>")(chat)
    page = root.route("/page", methods=["GET", "POST"])(index)
    both = root.websocket("/both")(Route(chat, websocket=True, endpoint="both"))
    root.route("/both", methods=["POST"])(other)
    assert root.match_socket("/both", "h").route is both
    assert root.match_socket("/page", "h").route is socket
    assert root.match_head("GET", "/page", "h").route is page
    for method in ("GET", "OPTIONS"):
        with pytest.raises(UpgradeRequired):
            root.match_head(method, "/elsewhere", "h")
    # The path takes requests as well, only not this one.
    with pytest.raises(MethodNotAllowed) as caught:
        root.match_head("GET", "/both", "h")
    assert caught.value.valid_methods == ("OPTIONS", "POST")


@pytest.mark.parametrize("with_sockets", [False, True])
def test_handshakes_that_match_nothing(with_sockets: bool) -> None:
    root = sockets() if with_sockets else Blueprint("root")
    if not with_sockets:
        root.route("/http", methods=["POST"])(other)
    with pytest.raises(NotFound):
        root.match_socket("/nothing", "h")
    with pytest.raises(NotFound):
        root.match_head("GET", "/nothing", "h")
    with pytest.raises(MethodNotAllowed) as caught:
        root.match_socket("/http", "h")
    assert caught.value.valid_methods == ("OPTIONS", "POST")


@pytest.mark.parametrize(
    ("scheme", "redirected"), [("http", "ws"), ("https", "wss"), ("wss", "wss")]
)
def test_redirects_of_handshakes(scheme: str, redirected: str) -> None:
    with pytest.raises(RequestRedirect) as caught:
        sockets().match_socket("/chat/a b", "example.com", scheme, "/app", b"q=1")
    assert caught.value.new_url == f"{redirected}://example.com/app/chat/a%20b/?q=1"


def test_what_a_socket_only_path_says() -> None:
    with pytest.raises(UpgradeRequired) as caught:
        sockets().match_head("GET", "/child/3", "h")
    response = caught.value.get_response()
    assert (response.status_code, response.headers["Upgrade"]) == (426, "websocket")


def test_urls_of_sockets() -> None:
    root = sockets()
    bare, secure = environ(), environ(base_url="https://example.com/app")
    assert root.url_for(bare, "chat", room="den") == "/chat/den/"
    assert root.url_for(secure, "numbered", id=3) == "/app/child/3"
    assert root.url_for(bare, "chat", room="den", _external=True) == "ws://localhost/chat/den/"
    secured = root.url_for(secure, "chat", room="den", q=1, _external=True, _anchor="x")
    assert secured == "wss://example.com/app/chat/den/?q=1#x"
    assert root.url_for(bare, "chat", method="GET", room="den", _scheme="wss").startswith("wss:")
    with pytest.raises(RouteError, match="values missing: id"):
        root.url_for(bare, "numbered")


def test_conflicts_of_sockets() -> None:
    root = sockets()
    root.websocket("/chat/<other>/", endpoint="more")(chat)
    with pytest.raises(RouteError, match="WEBSOCKET /chat/<other>/ belongs to two routes"):
        root.finalize()


def test_routes_of_the_other_kind() -> None:
    root = Blueprint("root")
    socket, page = root.websocket("/a")(chat), root.route("/b")(index)
    with pytest.raises(RouteError, match="handles WebSockets; requests need a function"):
        root.route("/c")(socket)
    with pytest.raises(RouteError, match="handles requests; WebSockets need a function"):
        root.websocket("/c")(page)
    with pytest.raises(RouteError, match="is a route already; give endpoint"):
        root.websocket("/c", endpoint="c")(socket)
    with pytest.raises(RouteError, match="must be a coroutine function"):
        root.websocket("/c")(lambda ctx, ws: None)


def test_the_map_of_sockets() -> None:
    root = Blueprint("root")
    assert root.socket_map is None
    root.websocket("/a")(chat)
    assert root.socket_map is not None
    assert [rule.rule for rule in root.socket_map.iter_rules()] == ["/a"]
    assert list(root.map.iter_rules()) == []


# -- URLs --------------------------------------------------------------------------------------


def test_url_for() -> None:
    root = Blueprint("root")
    root.route("/u/<int:id>")(user)
    root.route("/own", endpoint="own")(other)
    child = Blueprint("child", root, "/c")
    child.route("/x")(index)
    twice = child.route("/get")(other)
    child.route("/post", methods=["POST"])(twice)
    here = environ("/", base_url="https://example.com/app", method="POST")
    assert root.url_for(here, "root.user", id=3) == "/app/u/3"
    assert root.url_for(here, "user", id=3, q="a b", none=None) == "/app/u/3?q=a+b"
    assert root.url_for(here, "own") == "/app/own"
    assert child.url_for(here, "user", id=3) == "/app/u/3"
    assert root.url_for(here, "child.other") == "/app/c/get"
    assert root.url_for(here, "child.other", method="POST") == "/app/c/post"
    assert root.url_for(here, "own", _anchor="a b#c") == "/app/own#a%20b%23c"
    assert root.url_for(here, "own", _external=True) == "https://example.com/app/own"
    assert root.url_for(here, "own", _scheme="http") == "http://example.com/app/own"
    assert root.url_for(here, "own", _scheme="http", _external=False) == "/app/own"


def test_urls_that_cannot_be_built() -> None:
    root = Blueprint("root")
    root.route("/u/<int:id>/<name>")(user)
    here = environ()
    with pytest.raises(RouteError, match=r"no endpoint 'usr'; did you mean 'root.user'\?"):
        root.url_for(here, "usr")
    with pytest.raises(RouteError, match="no endpoint 'zzzzzz'$"):
        root.url_for(here, "zzzzzz")
    with pytest.raises(RouteError, match="'root.user': values missing: id, name"):
        root.url_for(here, "user")
    with pytest.raises(RouteError, match="'root.user': values missing: name"):
        root.url_for(here, "user", id=1, name=None)
    with pytest.raises(RouteError, match="'root.user': it does not take the method PUT"):
        root.url_for(here, "user", method="PUT", id=1, name="x")
    with pytest.raises(RouteError, match="'root.user': .*'x'"):
        root.url_for(here, "user", id="x", name="x")


def test_values_that_a_converter_refuses() -> None:
    class Picky(BaseConverter):
        def to_url(self, value: Any) -> str:
            raise ValidationError

    bp = Blueprint("bp")
    bp.route("/<picky:x>")(index)
    bp.finalize(converters={"picky": Picky})
    with pytest.raises(RouteError, match="'bp.index' from these values: {'x': 1}"):
        bp.url_for(environ(), "index", x=1)


def test_get_route() -> None:
    root = Blueprint("root")
    child = Blueprint("child", root)
    mine = child.route("/x")(index)
    own = root.route("/y", endpoint="own")(other)
    top = root.route("/u")(user)
    assert root.get_route("child.index") is child.get_route("child.index") is mine
    assert root.get_route("own") is own
    assert root.get_route("user") is root.get_route("root.user") is top
    assert root.get_route("index") is None


# -- Error handlers ----------------------------------------------------------------------------


class Custom(LookupError):
    pass


class Special(Forbidden):
    pass


def handlers(bp: Blueprint, *keys: Any) -> dict[Any, Route]:
    return {key: bp.add_errorhandler(lambda ctx, exc: "x", key) for key in keys}


def test_error_handlers_by_status() -> None:
    root = Blueprint("root")
    child = Blueprint("child", root)
    assert root.errorhandler(400, 404, 2)(failed) is failed
    mine = child.add_errorhandler(failed, 404)
    assert (mine.function, mine.bp, mine.should_invoke_hooks) == (failed, child, False)
    found = {code for code in range(100, 600) if root.get_errorhandler(code) is not None}
    assert found == {400, 402}
    assert child.get_errorhandler(NotFound()) is mine
    assert child.get_errorhandler(404) is mine
    assert root.get_errorhandler(NotFound()) is None
    inherited = child.get_errorhandler(400)
    assert inherited is not None
    assert inherited.bp is root


def test_error_handlers_in_one_blueprint() -> None:
    bp = Blueprint("bp")
    made = handlers(bp, 403, 404, 500, Forbidden, HTTPException, LookupError, Exception)
    assert bp.get_errorhandler(Special()) is made[Forbidden]
    assert bp.get_errorhandler(NotFound()) is made[404]
    assert bp.get_errorhandler(MethodNotAllowed()) is made[HTTPException]
    assert bp.get_errorhandler(HTTPException()) is made[HTTPException]
    assert bp.get_errorhandler(Custom()) is made[LookupError]
    assert bp.get_errorhandler(InternalServerError()) is made[500]
    # A ValueError is worth a 500, which is more particular than any exception at all.
    assert bp.get_errorhandler(ValueError()) is None


def test_error_handlers_in_a_tree() -> None:
    root = Blueprint("root")
    child = Blueprint("child", root)
    leaf = Blueprint("leaf", child)
    above = handlers(root, 404, Exception, Custom)
    below = handlers(child, 500, NotFound)
    assert leaf.get_errorhandler(NotFound()) is below[NotFound]
    assert leaf.get_errorhandler(Special()) is above[Exception]
    assert leaf.get_errorhandler(InternalServerError()) is below[500]
    assert leaf.get_errorhandler(Custom()) is None  # child's 500 comes before root's Custom
    assert root.get_errorhandler(Custom()) is above[Custom]
    assert root.get_errorhandler(ValueError()) is above[Exception]


def test_a_route_as_error_handler() -> None:
    one, two = Blueprint("one"), Blueprint("two")
    route = one.route("/x")(failed)
    assert two.add_errorhandler(route, 404) is two.get_errorhandler(404) is route
    assert route.bp is one


def test_the_last_error_handler_wins() -> None:
    bp = Blueprint("bp")
    bp.add_errorhandler(index, 400, 500)
    assert bp.get_errorhandler(404) is not bp.add_errorhandler(other, 404)
    found = [bp.get_errorhandler(code) for code in (403, 404)]
    assert [route and route.function for route in found] == [index, other]


@pytest.mark.parametrize(
    "arguments",
    [
        ("404",),
        (True,),
        (99,),
        (600,),
        (400, 601),
        (500, 400),
        (400, 500, 0),
        (500, 400, -1),
        (400, "500"),
        (dict,),
        (ValueError, 500),
        (None,),
    ],
)
def test_wrong_statuses(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(RouteError):
        Blueprint("bp").add_errorhandler(failed, *arguments)


def test_reprs() -> None:
    bp = Blueprint("bp", prefix="/x")
    bp.route("/u/<int:id>", endpoint="u")(user)
    hit = bp.match_head("GET", "/x/u/3", "h")
    assert (repr(bp), repr(hit.route)) == ("<Blueprint 'bp' /x>", "<Route u /u/<int:id>>")
    assert repr(hit) == "<Hit u {'id': 3}>"
    assert repr(bp.match_head("OPTIONS", "/x/u/3", "h")) == "<OptionsHit u {'id': 3}>"
