"""
The smallest application. From this folder: ``kyoukai run app:app``.
"""

from kyoukai import HTTPRequestContext, Kyoukai

app = Kyoukai("hello")


@app.route("/")
async def index(ctx: HTTPRequestContext):
    return "Hello, world!\n"


@app.route("/hello/<name>")
async def hello(ctx: HTTPRequestContext, name: str):
    return f"Hello, {name}!\n"


if __name__ == "__main__":
    app.run(port=8000)
