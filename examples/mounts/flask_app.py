"""A Flask application, which runs unchanged: WSGI knows no WebSockets, so it has none."""

import hashlib

from flask import Flask, redirect, request, stream_with_context, url_for

app = Flask(__name__)


@app.get("/")
def index():
    """Send the client on; the address has the prefix."""
    return redirect(url_for("hello", name="stranger"))


@app.get("/hello/<name>")
def hello(name):
    protocol = request.environ["SERVER_PROTOCOL"]
    return f"Hello, {name}! This is Flask, over {protocol}.\n", {"Content-Type": "text/plain"}


@app.get("/count/<int:number>")
def count(number):
    """Send lines one by one, as fast as the client takes them."""

    @stream_with_context
    def lines():
        for each in range(1, number + 1):
            yield f"{each} for {request.remote_addr}\n"

    return lines(), {"Content-Type": "text/plain"}


@app.post("/digest")
def digest():
    """Read a body that may be larger than memory, piece by piece."""
    size, found = 0, hashlib.sha256()
    while piece := request.stream.read(65536):
        size += len(piece)
        found.update(piece)
    return {"size": size, "sha256": found.hexdigest()}
