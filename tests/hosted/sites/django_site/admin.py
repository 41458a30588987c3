"""The model in the admin."""

from django.contrib import admin

from django_site.models import Note

admin.site.register(Note)
