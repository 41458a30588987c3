"""
Handlers that use a resource of another component. From this folder:
``kyoukai run config.yaml``.
"""

from asphalt.core import resource
from store import Store
from werkzeug.exceptions import NotFound

from kyoukai import HTTPRequestContext, Kyoukai

app = Kyoukai("resources")


# These handlers are plain functions, because the store's methods block: Kyoukai runs them in a
# thread. The parameter whose default is ``resource()`` is filled in from the context.


@app.route("/notes")
def notes(ctx: HTTPRequestContext, store: Store = resource()):
    return store.all()


@app.route("/notes", methods=["POST"])
def add_note(ctx: HTTPRequestContext, store: Store = resource()):
    number = store.add(ctx.request.get_data(as_text=True))
    location = ctx.url_for("note", number=number)
    return {"id": number}, 201, {"Location": location}


@app.route("/notes/<int:number>")
def note(ctx: HTTPRequestContext, number: int, store: Store = resource()):
    text = store.get(number)
    if text is None:
        raise NotFound(f"There is no note {number}.")
    return {"id": number, "text": text}


@app.route("/count")
async def count(ctx: HTTPRequestContext):
    """The same without injection: ask the context."""
    store = ctx.require_resource(Store)
    return {"notes": len(await ctx.call_in_executor(store.all))}
