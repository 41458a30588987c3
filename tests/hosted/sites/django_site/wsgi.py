"""As WSGI. Django's handler for static files does not know of prefixes: a view does."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_site.settings")
mounted = get_wsgi_application()
application = StaticFilesHandler(mounted)
