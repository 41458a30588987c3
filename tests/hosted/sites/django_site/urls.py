"""The admin, static files below any prefix, and what was uploaded."""

from django.conf import settings
from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.http import FileResponse, JsonResponse, StreamingHttpResponse
from django.urls import path, re_path

from django_site.models import Note


def index(request):
    return JsonResponse(
        {
            "notes": [str(note) for note in Note.objects.order_by("id")],
            "handler": type(request).__name__,
            "path": request.path,
            "secure": request.is_secure(),
        }
    )


def media(request, name):
    return FileResponse((settings.MEDIA_ROOT / name).open("rb"))


def stream(request):
    if hasattr(request, "scope"):

        async def lines():
            for number in range(1000):
                yield f"{number}\n"

        return StreamingHttpResponse(lines(), content_type="text/plain")
    return StreamingHttpResponse((f"{n}\n" for n in range(1000)), content_type="text/plain")


urlpatterns = [
    path("", index),
    path("admin/", admin.site.urls),
    path("stream", stream),
    path("media/<path:name>", media),
    re_path("^static/(?P<path>.*)$", serve, {"insecure": True}),
]
