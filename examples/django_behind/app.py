"""
What stands in front of Django: routes of its own, and what concerns the answers of both.

``python start.py`` starts it with Django behind it; the README has commands to try.
"""

import time
from pathlib import Path

from werkzeug.exceptions import HTTPException

from kyoukai import HTTPRequestContext, Kyoukai, Middleware, ProxyResponse, Response
from kyoukai.util import as_html

PAGE = (Path(__file__).parent / "unavailable.html").read_text()
PROBLEMS = {
    502: "Django is not there",
    503: "Django has too much to do",
    504: "Django takes too long",
}


class Front(Middleware):
    """Says who has answered, and how long that took; for Django's answers and sockets, too."""

    async def process_request(self, ctx: HTTPRequestContext):
        ctx.started = time.perf_counter()

    async def process_response(self, ctx: HTTPRequestContext, response: Response):
        by = "Django" if isinstance(response, ProxyResponse) else "Kyoukai"
        response.headers["X-Answered-By"] = by
        milliseconds = (time.perf_counter() - ctx.started) * 1000
        response.headers["Server-Timing"] = f"front;dur={milliseconds:.3f}"


app = Kyoukai("django_behind", middleware=[Front()])


@app.route("/api/hello")
async def hello(ctx: HTTPRequestContext):
    """Answer without Django: a route wins over the proxy, which has all other paths."""
    return {"hello": "from Kyoukai", "http": ctx.request.head.http_version}


@app.errorhandler(502, 505)
async def unavailable(ctx: HTTPRequestContext, error: HTTPException):
    """Show a page of our own, which looks again whether Django is there."""
    page = PAGE.replace("PROBLEM", PROBLEMS[error.code]).replace("STATUS", str(error.code))
    headers = {"Retry-After": "2", "Cache-Control": "no-store"}
    return as_html(page, error.code, headers)
