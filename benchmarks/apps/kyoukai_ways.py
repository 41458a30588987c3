"""Hello, world, by the ways that a request of a real application takes."""

from kyoukai import HTTPRequestContext, Kyoukai, Middleware, Response


class Watch(Middleware):
    """Sees requests, and answers nothing."""

    async def process_request(self, ctx: HTTPRequestContext) -> None:
        pass


class Stamp(Middleware):
    """Sees requests, and puts a header on responses."""

    async def process_request(self, ctx: HTTPRequestContext) -> None:
        pass

    async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None:
        response.headers["X-Stamp"] = "1"


async def text(ctx: HTTPRequestContext):
    return "Hello, world!"


async def response_object(ctx: HTTPRequestContext):
    return Response("Hello, world!", headers={"Cache-Control": "no-store"})


def application(handler, middlewares=()) -> Kyoukai:
    app = Kyoukai("bench", middleware=middlewares)
    app.route("/")(handler)
    return app


responding = application(response_object)
watched = application(text, [Watch()])
stamped = application(text, [Stamp()])
