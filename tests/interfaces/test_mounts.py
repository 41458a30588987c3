"""Which application a path leads to, and what it sees of it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from asphalt.core import Context
from talks import both, converse
from werkzeug.exceptions import HTTPException

from kyoukai import Kyoukai, ServerConfig
from kyoukai.exceptions import ConfigurationError, TargetError
from kyoukai.interfaces.build import interface_for, make_interface
from kyoukai.interfaces.mounts import MountedInterface, natives_of
from kyoukai.mount import Mount
from kyoukai.testing import Client
from kyoukai.wsgi import application_path, create_wsgi_environment

CONFIG = ServerConfig(access_log=False)


class Seen:
    """An interface that tells what it sees, with a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, stream: Any) -> None:
        head = stream.head
        environ = create_wsgi_environment(stream)
        told = (
            self.name,
            head.root_path,
            application_path(head),
            head.path,
            head.raw_path.decode(),
            environ["SCRIPT_NAME"],
            environ["PATH_INFO"],
        )
        await stream.send_response(200, (), " ".join(told).encode())


def native(name: str, *paths: str) -> Kyoukai:
    app = Kyoukai(name)

    async def handler(ctx: Any, **values: Any) -> str:
        return f"{name} {ctx.request.script_root or '-'} {ctx.request.path}"

    for number, path in enumerate(paths):
        app.root.route(path, endpoint=f"{name}.{number}")(handler)
    return app


def mounted(base: Any, *prefixes: str, **options: Any) -> MountedInterface:
    config = CONFIG.replace(**options)
    made = base if isinstance(base, Seen) else interface_for(base, config)
    return MountedInterface(made, [(Mount(each, "a:b"), Seen(each)) for each in prefixes])


async def first_word(client: Client, target: str, method: str = "GET") -> str:
    response = await client.request(method, target)
    return response.text.partition(" ")[0] if response.status == 200 else str(response.status)


@pytest.mark.parametrize(
    ("target", "winner"),
    [
        ("/admin", "/admin"),
        ("/admin/", "/admin"),
        ("/admin/x?q", "/admin"),
        ("/%61dmin/x", "/admin"),
        ("/administrator", "404"),
        ("/admin/deep", "/admin/deep"),
        ("/admin/deep/er", "/admin/deep"),
        ("/admin/deeper", "/admin"),
        ("/admin//deep", "/admin"),
        ("//admin", "404"),
        ("/adm%69n%2Fdeep", "/admin/deep"),
        ("/Admin", "404"),
        ("/x/admin", "404"),
        ("/", "site"),
        ("*", "204"),
    ],
)
async def test_prefixes_are_whole_segments_and_the_longest_wins(target: str, winner: str) -> None:
    async with Client(mounted(native("site", "/"), "/admin", "/admin/deep")) as client:
        method = "OPTIONS" if target == "*" else "GET"
        assert await first_word(client, target, method) == winner


@pytest.mark.parametrize(
    ("target", "winner"),
    [
        ("/legacy/new", "site"),
        ("/legacy/new/x", "/legacy"),
        ("/legacy", "site"),  # a tie
        ("/legacy/", "/legacy"),
        ("/legacy/n", "/legacy"),
        ("/any/thing", "site"),
        ("/wiki/page", "site"),  # a tie as well
        ("/wiki/page/edit", "/wiki"),
        ("/slash", "308"),
        ("/slash/", "site"),
    ],
)
async def test_native_routes_win_ties(target: str, winner: str) -> None:
    app = native("site", "/legacy/new", "/legacy", "/<path:p>", "/wiki/<page>", "/slash/")
    async with Client(mounted(app, "/legacy", "/wiki")) as client:
        assert await first_word(client, target) == winner


@pytest.mark.parametrize(
    ("target", "winner"),
    [("/", "/"), ("/x", "/"), ("/users/7", "site"), ("/users/x", "/"), ("/slash", "308")],
)
async def test_a_mount_at_the_root_gets_what_no_route_matches(target: str, winner: str) -> None:
    async with Client(mounted(native("site", "/users/<int:id>", "/slash/"), "/")) as client:
        assert await first_word(client, target) == winner


async def test_a_path_that_a_route_matches_is_native_with_every_method() -> None:
    async with Client(mounted(native("site", "/users/<int:id>"), "/", "/users")) as client:
        response = await client.delete("/users/7")
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert (await client.options("/users/7")).status == 204
        assert await first_word(client, "/users/x", "DELETE") == "/users"


@pytest.mark.parametrize(
    ("root_path", "target", "seen"),
    [
        ("", "/a/b", "/a /a /b /a/b /a/b /a /b"),
        ("", "/a", "/a /a / /a /a /a "),
        ("", "/a/", "/a /a / /a/ /a/ /a /"),
        ("", "/a/%C3%A9//%2f", "/a /a /é/// /a/é/// /a/%C3%A9//%2f /a /Ã©///"),
        # A proxy that leaves the prefix, and one that takes it off.
        ("/site", "/site/a/b", "/a /site/a /b /site/a/b /site/a/b /site/a /b"),
        ("/site", "/a/b", "/a /site/a /b /site/a/b /site/a/b /site/a /b"),
        ("/s é", "/a/%2Fb", "/a /s é/a //b /s é/a//b /s%20%C3%A9/a/%2Fb /s Ã©/a //b"),
    ],
)
async def test_what_an_application_sees(root_path: str, target: str, seen: str) -> None:
    async with Client(mounted(Seen("base"), "/a", root_path=root_path), root_path=root_path) as c:
        assert (await c.get(target)).text == seen


@pytest.mark.parametrize(
    ("root_path", "target", "seen"),
    [
        ("", "/a/b%20c", "a /new /b c /new/b c /new/b%20c /new /b c"),
        ("", "/%61/%2f", "a /new // /new// /new/%2f /new //"),
        ("/s", "/%73/a/x", "a /new /x /new/x /new/x /new /x"),
        ("/s", "/a/x", "a /new /x /new/x /new/x /new /x"),
    ],
)
async def test_a_root_path_of_its_own(root_path: str, target: str, seen: str) -> None:
    interface = MountedInterface(Seen("base"), [(Mount("/a", "a:b", root_path="/new"), Seen("a"))])
    async with Client(interface, root_path=root_path) as client:
        assert (await client.get(target)).text == seen


async def test_applications_in_applications() -> None:
    inner, middle, outer = native("inner", "/<path:p>"), native("middle", "/x"), native("outer")
    middle.mount("/inner", inner)
    outer.mount("/middle", middle)
    async with Client(outer) as client:
        assert (await client.get("/middle/inner/a/b")).text == "inner /middle/inner /a/b"
        assert (await client.get("/middle/x")).text == "middle /middle /x"
        assert (await client.get("/middle/y")).status == 404
    interface = interface_for(outer, CONFIG)
    assert [each.app.name for each in natives_of(interface)] == ["outer", "middle", "inner"]


def test_native_applications_of_a_framework_are_found() -> None:
    inner = native("inner", "/")

    class Framework:
        def get_supported(self, supported: dict[str, str]) -> dict[str, Any]:
            return {"http": ("kyoukai", inner), "websocket": None}

    outer = native("outer")
    outer.mount("/framework", Framework())
    names = [each.app.name for each in natives_of(interface_for(outer, CONFIG))]
    assert names == ["outer", "inner"]


@both
async def test_sockets_follow_the_prefix(http2: bool) -> None:
    app, chat = native("site", "/plain"), Kyoukai("chat")

    @chat.websocket("/room/<name>")
    async def room(ctx: Any, ws: Any, name: str) -> None:
        await ws.accept()
        await ws.send_text(f"{name} {ctx.request.script_root}")

    app.mount("/chat", chat)
    async with Client(app) as client:
        outcome = await converse(client, "/chat/room/x", http2=http2)
        assert outcome.messages == ("x /chat",)
        assert (await converse(client, "/chat/x", http2=http2)).status == 404
        assert (await converse(client, "/plain", http2=http2)).status == 405


async def test_hosts() -> None:
    app = Kyoukai("site", host="www.example.com")

    @app.route("/a/b")
    async def handler(ctx: Any) -> str:
        return "site"

    async with Client(mounted(app, "/a")) as client:
        for host, winner in (("www.example.com", "site"), ("example.com", "/a")):
            response = await client.get("/a/b", headers={"Host": host})
            assert response.text.partition(" ")[0] == winner


async def test_random_paths_go_where_the_rule_says() -> None:
    chance = random.Random(7)
    words = ["a", "b", "ab", "c"]

    def path(most: int) -> str:
        return "/" + "/".join(chance.choices(words, k=chance.randrange(most)))

    for _ in range(40):
        prefixes = {path(3) for _ in range(3)}
        rules = {
            path(4).rstrip("/") + chance.choice(["", "/<x>", "/<path:p>"]) or "/" for _ in "123"
        }
        app = native("site", *sorted(rules))
        interface = mounted(app, *sorted(prefixes))
        async with Client(interface) as client:
            for _ in range(20):
                target = path(5)
                fitting = [
                    each for each in prefixes if f"{target}/".startswith(each.rstrip("/") + "/")
                ]
                best = max(fitting, key=len, default=None)
                try:
                    rule = app.root.match_head("GET", target, "localhost").rule.rule
                except HTTPException:
                    rule = None
                expected = best or ("404" if rule is None else "site")
                if rule is not None and best is not None:
                    static = rule.partition("<")[0]
                    static = static.rpartition("/")[0] if "<" in rule else static.rstrip("/")
                    if len(static) >= len(best.rstrip("/")):
                        expected = "site"
                assert await first_word(client, target) == expected, (prefixes, rules, target)


# -- Building -------------------------------------------------------------------------------------


def test_the_name_tells_every_kind() -> None:
    app = native("site")
    app.mount("/a", native("a"))
    app.mount("/", native("b"))
    interface: Any = interface_for(app, CONFIG, mounts=[Mount("/c", native("c"))])
    assert interface.name == "kyoukai; /c: kyoukai, /a: kyoukai, /: kyoukai"
    outer = native("outer")
    outer.mount("/in", app)
    name = interface_for(outer, CONFIG).name  # type: ignore[attr-defined]
    assert name == "kyoukai; /in: kyoukai, /in/a: kyoukai, /in: kyoukai"
    assert make_interface("auto", app, CONFIG).name == "kyoukai"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        (Mount("/a", "nowhere:app"), "mounts: /a: 'nowhere:app': there is no module 'nowhere'"),
        (Mount("/a", 7), "mounts: /a: app: 'builtins:int' is of type int, which is no application"),
        (Mount("/a", Kyoukai("x"), "wsgi"), "mounts: /a: app: .* is a Kyoukai application"),
        (Mount("/a", print, "kyoukai"), "mounts: /a: app: .* not a Kyoukai application"),
        (Mount("/a", print, "wsgj"), "mounts: /a: interface: there is no 'wsgj'; did you mean"),
        (Mount("/b", Kyoukai("x")), "mounts: /b: there are two of them"),
        (Mount("/a", "http://a", root_path="/c"), "mounts: /a: root_path is not for a proxy; the"),
        (Mount("/a", "http://a", lifespan="on"), "mounts: /a: lifespan is not for a proxy$"),
    ],
)
def test_mounts_that_cannot_be(mount: Mount, message: str) -> None:
    app = native("site")
    app.mount("/b", native("b"))
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        interface_for(app, CONFIG, mounts=[mount])


def test_what_is_inside_a_mounted_application_is_named_with_its_prefix() -> None:
    app, inner = native("site"), native("inner")
    inner.mount("/deep", "nowhere:app")
    app.mount("/inner", inner)
    with pytest.raises(TargetError, match="^mounts: /inner: mounts: /deep: 'nowhere:app'"):
        interface_for(app, CONFIG)


# -- Starting and stopping ------------------------------------------------------------------------


class Recorded(Seen):
    """An interface that records its start and its end."""

    def __init__(self, name: str, log: list[str], fails: str = "") -> None:
        super().__init__(name)
        self.log = log
        self.fails = fails

    async def startup(self, context: Context) -> None:
        self.log.append(f"+{self.name}")
        if self.fails == "start":
            raise RuntimeError(self.name)

    async def shutdown(self) -> None:
        self.log.append(f"-{self.name}")
        if self.fails == "stop":
            raise RuntimeError(self.name)


def recorded(log: list[str], **fails: str) -> MountedInterface:
    base, *others = (Recorded(each, log, fails.get(each, "")) for each in ("base", "a", "b"))
    return MountedInterface(base, [(Mount(f"/{each.name}", "a:b"), each) for each in others])


async def test_all_start_in_order_and_end_in_reverse() -> None:
    log: list[str] = []
    async with Client(recorded(log)):
        assert log == ["+base", "+a", "+b"]
    assert log == ["+base", "+a", "+b", "-b", "-a", "-base"]


async def test_one_that_cannot_start_ends_those_before_it() -> None:
    log: list[str] = []
    interface = recorded(log, a="start")
    with pytest.raises(RuntimeError, match="a"):
        await interface.startup(Context())
    await interface.shutdown()
    assert log == ["+base", "+a", "-a", "-base"]
    await interface.shutdown()
    assert log[4:] == []


async def test_all_end_though_some_fail() -> None:
    log: list[str] = []
    interface = recorded(log, a="stop")
    await interface.startup(Context())
    with pytest.raises(RuntimeError, match="a"):
        await interface.shutdown()
    assert log[3:] == ["-b", "-a", "-base"]
    interface = recorded(log, a="stop", base="stop")
    await interface.startup(Context())
    with pytest.raises(ExceptionGroup, match="several applications failed") as caught:
        await interface.shutdown()
    assert [str(each) for each in caught.value.exceptions] == ["a", "base"]
