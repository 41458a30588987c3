"""The same routes on Starlette."""

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route


async def index(request):
    return PlainTextResponse("Hello, world!")


async def user(request):
    return JSONResponse({"id": request.path_params["id"], "q": request.query_params.get("q")})


app = Starlette(routes=[Route("/", index), Route("/users/{id:int}", user)])
