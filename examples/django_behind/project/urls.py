"""The admin, and the pages of notes."""

from django.contrib import admin
from django.urls import path
from notes import views

urlpatterns = [
    path("", views.index, name="index"),
    path("admin/", admin.site.urls),
    path("notes/", views.add, name="add"),
    path("media/<path:name>", views.media, name="media"),
    path("whoami", views.whoami, name="whoami"),
    path("lines/<int:number>", views.lines, name="lines"),
]
