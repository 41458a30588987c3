"""As ASGI. Django's handler for static files does not know of prefixes: a view does."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_site.settings")
mounted = get_asgi_application()
application = ASGIStaticFilesHandler(mounted)
