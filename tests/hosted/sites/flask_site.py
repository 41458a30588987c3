"""What people do with Flask: streams, uploads, sessions, errors."""

import hashlib
import threading

from flask import Flask, abort, redirect, request, session, stream_with_context, url_for

app = Flask(__name__)
app.secret_key = "secret"

closed: dict[str, threading.Event] = {}


@app.get("/")
def index():
    return f"flask over {request.environ['SERVER_PROTOCOL']} at {request.script_root or '/'}\n"


@app.get("/stream/<int:number>")
def stream(number):
    @stream_with_context
    def lines():
        for each in range(number):
            yield f"{each} {request.path}\n"

    return lines(), {"Content-Type": "text/plain"}


@app.get("/endless/<name>")
def endless(name):
    """End with the client, and say so."""
    closed[name] = threading.Event()

    def pieces():
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed[name].set()

    return pieces(), {"Content-Type": "application/octet-stream"}


@app.get("/endless/<name>/closed")
def endless_closed(name):
    return {"closed": closed[name].wait(20)}


together = threading.Barrier(12)


@app.get("/together")
def wait_for_others():
    """Answer when twelve have come."""
    together.wait(20)
    return "all are here\n"


made = []


@app.get("/blocks/<int:megabytes>")
def blocks(megabytes):
    def pieces():
        for number in range(megabytes):
            made.append(number)
            yield bytes(1 << 20)

    return pieces(), {"Content-Type": "application/octet-stream"}


@app.get("/blocks/made")
def blocks_made():
    return {"made": len(made)}


@app.post("/form")
def form():
    """Take a form with files."""
    files = {
        name: [file.filename, hashlib.file_digest(file, "sha256").hexdigest()]
        for name, file in request.files.items()
    }
    return {"fields": request.form.to_dict(), "files": files}


@app.post("/digest")
def digest():
    """Take a body of any size, piece by piece."""
    size, found = 0, hashlib.sha256()
    while piece := request.stream.read(65536):
        size += len(piece)
        found.update(piece)
    return {"size": size, "sha256": found.hexdigest()}


@app.post("/echo")
def echo():
    """Send a body back while it comes."""

    @stream_with_context
    def pieces():
        while piece := request.stream.read1(65536):
            yield piece

    return pieces(), {"Content-Type": "application/octet-stream"}


@app.post("/login")
def login():
    session["name"] = request.form["name"]
    return redirect(url_for("me"))


@app.get("/me")
def me():
    if "name" not in session:
        abort(401)
    return {"name": session["name"], "cookies": sorted(request.cookies)}


@app.get("/broken")
def broken():
    raise ValueError("on purpose")


@app.get("/broken/later")
def broken_later():
    def pieces():
        yield b"the beginning\n"
        raise ValueError("on purpose, later")

    return pieces(), {"Content-Type": "text/plain"}


@app.errorhandler(404)
def not_found(error):
    return f"Flask knows no {request.path}\n", 404


@app.errorhandler(401)
def unauthorized(error):
    return "Who are you?\n", 401, {"WWW-Authenticate": "Basic"}
