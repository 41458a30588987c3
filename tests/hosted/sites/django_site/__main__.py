"""Make the tables, and somebody who may use the admin."""

import os

import django
from django.core.management import call_command

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_site.settings")
django.setup()
call_command("migrate", run_syncdb=True, verbosity=0)

from django.contrib.auth.models import User  # noqa: E402 - after setup

User.objects.create_superuser("ada", "ada@example.org", "lovelace")
