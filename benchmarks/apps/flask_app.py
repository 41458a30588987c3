"""Hello by Flask."""

from flask import Flask

app = Flask("bench")


@app.route("/")
def index():
    return "Hello, world!"
