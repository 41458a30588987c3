"""The native application that the others are mounted on."""

from kyoukai import HTTPRequestContext, Kyoukai

app = Kyoukai("native")


@app.route("/")
async def index(ctx: HTTPRequestContext):
    return "native\n"


@app.route("/below/native")
async def native(ctx: HTTPRequestContext):
    """Wins over what is mounted at /below."""
    return "native below\n"
