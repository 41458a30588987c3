"""A small Django project: one model with a file, the admin, and two views."""
