"""Pages, what was uploaded, and what Django knows of a request."""

import asyncio

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_required
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.storage import default_storage
from django.forms import modelform_factory
from django.http import FileResponse, Http404, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from notes.models import Note

NoteForm = modelform_factory(Note, fields=["text", "file"])


def index(request, form=None, status=200):
    context = {"form": form or NoteForm(), "notes": Note.objects.all()[:50]}
    return render(request, "notes/index.html", context, status=status)


@require_POST
@login_required
def add(request):
    form = NoteForm(request.POST, request.FILES)
    if not form.is_valid():
        return index(request, form, 400)
    form.save()
    return redirect("index")


@login_required
def media(request, name):
    """Send what was uploaded, to be saved: as a page it would be one of this site's."""
    try:
        file = default_storage.open(name)
    except (OSError, SuspiciousFileOperation):
        raise Http404(f"There is no {name}.") from None
    response = FileResponse(file, as_attachment=True)
    # Under ASGI, Django would read all of it into memory before it sends the first byte.
    response.streaming_content = pieces_of(file)
    return response


async def pieces_of(file):
    while piece := await sync_to_async(file.read, thread_sensitive=False)(1 << 18):
        yield piece


def whoami(request):
    """Tell what Django knows of the browser, although it sees only Kyoukai."""
    return JsonResponse(
        {
            "user": request.user.get_username() or None,
            "url": request.build_absolute_uri(),
            "secure": request.is_secure(),
            "address": request.META.get("REMOTE_ADDR"),
            "via": request.headers.get("Via"),
            "forwarded": {
                name: value
                for name, value in sorted(request.headers.items())
                if name.startswith(("Forwarded", "X-Forwarded-"))
            },
        }
    )


async def lines(request, number):
    """Answer with many lines, which are made as they are sent."""

    async def content():
        for start in range(0, number, 1000):
            end = min(start + 1000, number)
            yield "".join(f"line {line}\n" for line in range(start, end))
            # Some servers never wait in between, so that nobody else would have a turn.
            await asyncio.sleep(0)

    return StreamingHttpResponse(content(), content_type="text/plain")
