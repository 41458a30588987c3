"""
The main example: what a web application does every day, in one file.

``kyoukai run examples/side_by_side/config.yaml`` starts it; the README has requests to try.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator

from markupsafe import Markup
from werkzeug.exceptions import BadRequest, NotFound

from kyoukai import HTTPRequestContext, Kyoukai
from kyoukai.util import as_html

app = Kyoukai("side_by_side")

#: Bytes that ``/download`` makes at a time, and the most that it sends.
BLOCK_SIZE = 65536
MAX_DOWNLOAD = 1 << 30

PAGE = Markup(
    "<!doctype html>\n<html lang='en'>\n"
    "<head><meta charset='utf-8'><title>{title}</title></head>\n"
    "<body>\n<h1>{title}</h1>\n{content}\n</body>\n</html>\n"
)


def page(title: str, content: Markup, status: int = 200):
    """Make an HTML page. ``Markup.format`` escapes whatever is not ``Markup`` itself."""
    return as_html(PAGE.format(title=title, content=content), status)


@app.route("/")
async def index(ctx: HTTPRequestContext):
    """Show how the request came here, and what else there is."""
    head = ctx.request.head
    rows = Markup("").join(
        Markup("<tr><th>{}</th><td>{}</td></tr>\n").format(name, value)
        for name, value in (
            ("protocol", f"HTTP/{head.http_version}"),
            ("scheme", head.scheme),
            ("host", head.authority),
            ("client", address(head.client)),
            ("server", address(head.server)),
        )
    )
    links = Markup("").join(
        Markup("<li><a href='{0}'>{0}</a></li>\n").format(url)
        for url in (
            ctx.url_for("user", id=12, q="1"),
            ctx.url_for("form"),
            ctx.url_for("upload_form"),
            ctx.url_for("download", size=1 << 20),
            ctx.url_for("slow", seconds=3),
            "/no/such/page",
        )
    )
    return page("Kyoukai", Markup("<table>\n{}</table>\n<ul>\n{}</ul>").format(rows, links))


def address(pair) -> str:
    """Return an address for people; a unix socket has a path, and its client has no address."""
    if pair is None:
        return "unknown"
    host, port = pair
    return host if port is None else f"{host} port {port}"


@app.route("/users/<int:id>")
async def user(ctx: HTTPRequestContext, id: int):  # noqa: A002 - named as in the path
    """Answer JSON. ``/users/x`` is a 404, because ``x`` is no ``int``."""
    return {"id": id, "q": ctx.request.args.get("q")}


# -- A form ------------------------------------------------------------------------------------

FORM = Markup(
    "<form method='post'>\n"
    "<p><label>Name <input name='name' required></label></p>\n"
    "<p><label>Message <textarea name='message'></textarea></label></p>\n"
    "<p><button>Send</button></p>\n"
    "</form>"
)


@app.route("/form")
async def form(ctx: HTTPRequestContext):
    """Show a form."""
    return page("Form", FORM)


@app.route("/form", methods=["POST"])
async def form_sent(ctx: HTTPRequestContext):
    """Use what was sent. The body is complete by now, so ``request.form`` is at hand."""
    name = ctx.request.form["name"]  # without that field: 400
    message = ctx.request.form.get("message", "")
    answer = Markup("<p>{} says:</p>\n<blockquote>{}</blockquote>").format(name, message)
    return page("Thank you", answer)


# -- Bodies that are larger than memory --------------------------------------------------------

UPLOAD_FORM = Markup(
    "<form method='post' enctype='multipart/form-data'>\n"
    "<p><label>Files <input name='files' type='file' multiple></label></p>\n"
    "<p><button>Upload</button></p>\n"
    "</form>"
)


@app.route("/upload")
async def upload_form(ctx: HTTPRequestContext):
    """Show a form for files."""
    return page("Upload", UPLOAD_FORM)


@app.route("/upload", methods=["POST"], stream=True, max_body_size=1 << 30)
async def upload(ctx: HTTPRequestContext):
    """Take files as they arrive: however large they are, a few buffers hold them."""
    fields, files = {}, []
    async for part in ctx.request.parts():
        if part.filename is None:
            fields[part.name] = (await part.read()).decode("utf-8", "replace")
            continue
        size, digest = 0, hashlib.sha256()
        async for chunk in part.chunks():
            size += len(chunk)
            digest.update(chunk)
        files.append(
            {
                "field": part.name,
                "filename": part.filename,
                "size": size,
                "sha256": digest.hexdigest(),
            }
        )
    return {"files": files, "fields": fields}


@app.route("/download")
async def download(ctx: HTTPRequestContext):
    """Send as many bytes as ``size`` says; each block is made when the client has room for it."""
    size = ctx.request.args.get("size", default=1 << 20, type=int)
    if not 0 <= size <= MAX_DOWNLOAD:
        raise BadRequest(f"size must be between 0 and {MAX_DOWNLOAD}.")
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size),
        "Content-Disposition": "attachment; filename=download.bin",
    }
    return blocks(size), headers


async def blocks(size: int) -> AsyncIterator[bytes]:
    """Yield ``size`` bytes: the numbers 0 to 255, again and again."""
    block = bytes(range(256)) * (BLOCK_SIZE // 256)
    while size > 0:
        yield block[:size]
        size -= BLOCK_SIZE


# -- Time, and errors --------------------------------------------------------------------------


@app.route("/slow/<int(max=20):seconds>")
async def slow(ctx: HTTPRequestContext, seconds: int):
    """Take a while. Stop the server meanwhile (Ctrl-C): it ends when this answer is out."""
    await asyncio.sleep(seconds)
    return f"That took {seconds} seconds.\n"


@app.errorhandler(404)
async def not_found(ctx: HTTPRequestContext, error: NotFound):
    """Answer for every path that does not exist."""
    answer = Markup("<p>There is no <code>{}</code> here. <a href='{}'>Back</a></p>")
    return page("Not found", answer.format(ctx.request.path, ctx.url_for("index")), 404)
