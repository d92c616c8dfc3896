"""What is kept of an upload, for as long as its result page lives.

Pictures lie in files under MEDIA_ROOT, in one folder an analysis, and no web server serves that folder: only
`views.picture` does, to the browser session that uploaded them. Files are named by what they show
(`photo-2-face-1.jpg`), so the rows hold no paths, and deleting an analysis is deleting its folder.
"""

import secrets
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.urls import reverse
from django.utils import timezone


def new_token() -> str:
    """An address nobody guesses: 128 bits, in letters that need no quoting."""
    return secrets.token_urlsafe(16)


def analyses_folder() -> Path:
    return Path(settings.MEDIA_ROOT) / "analyses"


def retention() -> timedelta:
    return timedelta(hours=settings.FER_RETENTION_HOURS)


class AnalysisQuerySet(models.QuerySet["Analysis"]):
    def live(self) -> "AnalysisQuerySet":
        """Those whose time has not passed: an expired one is gone, even where no worker purged it yet."""
        return self.filter(created__gt=timezone.now() - retention())

    def expired(self) -> "AnalysisQuerySet":
        return self.filter(created__lte=timezone.now() - retention())


class Analysis(models.Model):
    """One upload and what was read in it.

    Made whole by `services.analyse_upload`, rows and files together, and never changed. It ends when its
    owner deletes it or `services.purge_expired` does, FER_RETENTION_HOURS after it was made: its rows first,
    then, once they are surely gone, its folder.
    """

    token = models.CharField(primary_key=True, max_length=32, default=new_token, editable=False)
    owner = models.CharField(
        max_length=32,
        db_index=True,
        help_text="A random word kept in the session of the browser that uploaded; it identifies nobody.",
    )
    model_name = models.CharField("model", max_length=100, help_text="The model that read the photos.")
    created = models.DateTimeField(default=timezone.now, db_index=True)

    objects = AnalysisQuerySet.as_manager()

    class Meta:
        ordering = ("-created",)
        verbose_name_plural = "analyses"

    def __str__(self) -> str:
        return f"Analysis of {timezone.localtime(self.created):%d %B %Y, %H:%M}"

    def get_absolute_url(self) -> str:
        return reverse("analysis", args=[self.token])

    @property
    def folder(self) -> Path:
        return analyses_folder() / self.token

    @property
    def expires(self) -> datetime:
        return self.created + retention()


@receiver(post_delete, sender=Analysis)
def delete_folder(instance: Analysis, **_: object) -> None:
    """Take the pictures along, however the row was deleted, but not before that can't be undone."""
    folder = instance.folder
    transaction.on_commit(lambda: shutil.rmtree(folder, ignore_errors=True))


class Photo(models.Model):
    """A photo that could be read: our own copy of it, upright and without metadata, and its faces.

    `number` is its place in the upload, from 1. `width` and `height` are those of the photo as uploaded, in
    pixels; the copy may be smaller, with the same proportions.
    """

    analysis = models.ForeignKey(Analysis, models.CASCADE, related_name="photos")
    number = models.PositiveSmallIntegerField()
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()

    class Meta:
        ordering = ("number",)
        constraints = (models.UniqueConstraint(fields=("analysis", "number"), name="one_photo_a_number"),)

    def __str__(self) -> str:
        return f"photo {self.number}"

    @property
    def filename(self) -> str:
        return f"photo-{self.number}.jpg"


class Rejection(models.Model):
    """A file of the upload that could not be used, and why: nothing of it is kept but its name."""

    analysis = models.ForeignKey(Analysis, models.CASCADE, related_name="rejections")
    number = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=100)
    reason = models.CharField(max_length=250)

    class Meta:
        ordering = ("number",)
        constraints = (models.UniqueConstraint(fields=("analysis", "number"), name="one_rejection_a_number"),)

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Face(models.Model):
    """A face found in a photo, and either the eight probabilities read in it or the problem that forbids it.

    `number` counts a photo's faces from 1. `box` is [left, top, right, bottom] and `landmarks`
    {name: [x, y]}, both in pixels of the photo as uploaded. `probabilities` is {expression: p} over all
    eight, their sum 1, or null beside a `problem`.
    """

    class Problem(models.TextChoices):
        TOO_SMALL = "too small"
        TOO_BLURRED = "too blurred"

    photo = models.ForeignKey(Photo, models.CASCADE, related_name="faces")
    number = models.PositiveSmallIntegerField()
    box: "models.JSONField[Any, list[float]]" = models.JSONField()
    landmarks: "models.JSONField[Any, dict[str, list[float]]]" = models.JSONField()
    confidence = models.FloatField(help_text="How sure the detector is that this is a face, 0 to 1.")
    probabilities: "models.JSONField[Any, dict[str, float] | None]" = models.JSONField(null=True)
    problem = models.CharField(max_length=20, choices=Problem.choices, blank=True)

    class Meta:
        ordering = ("number",)
        constraints = (
            models.UniqueConstraint(fields=("photo", "number"), name="one_face_a_number"),
            models.CheckConstraint(
                condition=models.Q(probabilities__isnull=True) ^ models.Q(problem=""),
                name="face_is_read_or_has_a_problem",
            ),
        )

    def __str__(self) -> str:
        return f"face {self.number}, {self.expression or self.problem}"

    @property
    def expression(self) -> str | None:
        """The most probable expression, or None beside a problem."""
        return max(self.probabilities, key=self.probabilities.__getitem__) if self.probabilities else None

    @property
    def crop_filename(self) -> str:
        return f"photo-{self.photo.number}-face-{self.number}.jpg"

    @property
    def mask_filename(self) -> str:
        return f"photo-{self.photo.number}-face-{self.number}-mask.png"
