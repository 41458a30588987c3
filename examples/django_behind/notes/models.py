"""One model."""

from django.db import models


class Note(models.Model):
    text = models.CharField(max_length=100)
    file = models.FileField(blank=True, upload_to="notes")
    added = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self):
        return self.text
