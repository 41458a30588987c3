"""
Blueprints, route groups and hooks. From this folder: ``kyoukai run app:app``.

A blueprint collects functions under a prefix. A route group does the same with a class: its
methods share ``self``, and a group can inherit the routes of another.
"""

import time

from werkzeug.exceptions import NotFound, Unauthorized

from kyoukai import Blueprint, HTTPRequestContext, Kyoukai, RouteGroup
from kyoukai.routegroup import before_request, errorhandler, route

app = Kyoukai("route_group")


# -- Hooks of the whole application ------------------------------------------------------------


@app.before_request
async def start_clock(ctx: HTTPRequestContext):
    """Run before every handler. What it stores in the context is the request's own."""
    ctx.started = time.perf_counter()


@app.after_request
async def add_duration(ctx: HTTPRequestContext, response):
    """Run after every handler, with its response."""
    milliseconds = (time.perf_counter() - ctx.started) * 1000
    response.headers["Server-Timing"] = f"handler;dur={milliseconds:.3f}"
    return response


# -- Route groups ------------------------------------------------------------------------------


class Collection(RouteGroup):
    """Named things: list them, show one. Subclasses say which things."""

    def __init__(self, items: dict[str, str]) -> None:
        self.items = items

    @route("/")
    async def index(self, ctx: HTTPRequestContext):
        return sorted(self.items)

    @route("/<name>")
    async def show(self, ctx: HTTPRequestContext, name: str):
        if name not in self.items:
            raise NotFound(f"There is no {name!r} here.")
        return {"name": name, "value": self.items[name]}

    @errorhandler(404)
    async def missing(self, ctx: HTTPRequestContext, error: NotFound):
        return {"error": error.description}, 404


class Colours(Collection, prefix="/colours"):
    """A collection under its own prefix; all of its routes are inherited."""


class Notes(Collection, prefix="/notes"):
    """A collection that can also be written to, by those who know the word."""

    @before_request
    async def check_word(self, ctx: HTTPRequestContext):
        """Run before this group's handlers only."""
        if ctx.request.method == "PUT" and ctx.request.headers.get("X-Word") != "please":
            raise Unauthorized("Say the word.")

    @route("/<name>", methods=["PUT"])
    async def write(self, ctx: HTTPRequestContext, name: str):
        # A handler that returns nothing is answered 204, No Content.
        self.items[name] = ctx.request.get_data(as_text=True)


app.add_route_group(Colours({"red": "#f00", "blue": "#00f"}))
app.add_route_group(Notes({}))


# -- A blueprint -------------------------------------------------------------------------------

admin = Blueprint("admin", prefix="/admin")


@admin.route("/")
async def admin_index(ctx: HTTPRequestContext):
    return {"notes": ctx.url_for("Notes.index"), "crash": ctx.url_for(".crash")}


@admin.route("/crash")
async def crash(ctx: HTTPRequestContext):
    raise RuntimeError("this handler always fails")


@admin.errorhandler(500)
async def failed(ctx: HTTPRequestContext, error: Exception):
    """Answer for errors of this blueprint's handlers only."""
    return "Something in /admin failed.\n", 500


app.register_blueprint(admin)
