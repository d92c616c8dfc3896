"""What is kept of an upload, for as long as its result page lives, and of the person who made it.

Pictures and videos lie in files under MEDIA_ROOT, in one folder an analysis, and no web server serves that
folder: only views do, to whom the analysis belongs (`recognition.access`). Files are named by what they show
(`photo-2-face-1.jpg`), so the rows hold no paths, and deleting an analysis is deleting its folder.

A row's name (`__str__`) tells its number and nothing that its owner alone may know: the administration lists
it where somebody's account or analysis is deleted.
"""

import hashlib
import secrets
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


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
        return self.exclude(expires__lte=timezone.now())

    def expired(self) -> "AnalysisQuerySet":
        return self.filter(expires__lte=timezone.now())

    def delete(self) -> tuple[int, dict[str, int]]:
        """Whoever is about to add to one of them (background.is_ours) waits, and finds it gone."""
        with transaction.atomic():
            list(self.select_for_update().order_by().values_list("pk"))
            return super().delete()

    delete.alters_data = delete.queryset_only = True  # type: ignore[attr-defined]


class Analysis(models.Model):
    """One upload and what was read in it.

    Photos that are read while one waits are DONE from the start: rows and files made together by
    `services.analyse_upload`. A batch or a video is read by a worker (`recognition.background`):

    QUEUED     waits for a worker
    RUNNING    a worker reads it, and says so in `heartbeat` every few seconds
    DONE       all of it was read
    FAILED     it could not be; `error` says why
    CANCELLED  its owner stopped it; what was read until then stays

    QUEUED → RUNNING → DONE | FAILED; QUEUED | RUNNING → CANCELLED; RUNNING → QUEUED where its worker was
    lost. An analysis ends when its owner deletes it or `purging.purge_expired` does, once `expires` has
    passed: its rows first, then, once they are surely gone, its folder.
    """

    class Kind(models.TextChoices):
        PHOTOS = "photos", _("photos")
        BATCH = "batch", _("batch")
        VIDEO = "video", _("video")

    class State(models.TextChoices):
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    token = models.CharField(primary_key=True, max_length=32, default=new_token, editable=False)
    owner = models.CharField(
        max_length=32,
        blank=True,
        db_index=True,
        help_text="A random word kept in the session of the browser that uploaded; it identifies nobody.",
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="analyses"
    )
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.PHOTOS)
    model_name = models.CharField("model", max_length=100, help_text="The model that read the photos.")
    created = models.DateTimeField(default=timezone.now, db_index=True)
    expires = models.DateTimeField(null=True, blank=True, db_index=True, help_text="Empty: never.")
    note = models.TextField(blank=True, max_length=2000)

    state = models.CharField(max_length=10, choices=State.choices, default=State.DONE)
    done = models.PositiveIntegerField(default=0, help_text="Photos read, or milliseconds of the video.")
    total = models.PositiveIntegerField(default=0, help_text="0 where it is not known yet.")
    error = models.CharField(max_length=250, blank=True)
    started = models.DateTimeField(null=True, blank=True)
    heartbeat = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="How often a worker began it.")

    objects = AnalysisQuerySet.as_manager()

    class Meta:
        ordering = ("-created",)
        verbose_name_plural = "analyses"

    def __str__(self) -> str:
        return f"Analysis of {timezone.localtime(self.created):%d %B %Y, %H:%M}"

    def get_absolute_url(self) -> str:
        return reverse("analysis", args=[self.token])

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        return Analysis.objects.filter(pk=self.pk).delete()

    @property
    def folder(self) -> Path:
        return analyses_folder() / self.token

    @property
    def ended(self) -> bool:
        return self.state in (self.State.DONE, self.State.FAILED, self.State.CANCELLED)


@receiver(post_delete, sender=Analysis)
def delete_folder(instance: Analysis, **_: object) -> None:
    """Take the pictures along, however the row was deleted, but not before that can't be undone."""
    folder = instance.folder
    transaction.on_commit(lambda: shutil.rmtree(folder, ignore_errors=True))


@receiver(post_delete, sender=Analysis)
def note_deletion(instance: Analysis, **_: object) -> None:
    if not instance.model_name:
        return  # nobody read it
    expired = instance.expires is not None and instance.expires <= timezone.now()
    action = AuditEntry.Action.EXPIRED if expired else AuditEntry.Action.DELETED
    AuditEntry.of(instance, action).save()


class AuditEntry(models.Model):
    """Who did what with which model, and when: what administrators can show to whoever may ask.

    It outlives the analysis, so it holds no picture, no file's name, nothing that was read and no address,
    and it ends by itself after `KEPT`.
    """

    KEPT = timedelta(days=180)

    class Action(models.TextChoices):
        READ = "read", _("read")
        DELETED = "deleted", _("deleted")
        EXPIRED = "expired", _("deleted when its time had passed")

    time = models.DateTimeField(default=timezone.now, db_index=True)
    # A number, and no foreign key: that an account was deleted is no reason to rewrite what was done.
    user = models.PositiveBigIntegerField(
        null=True, blank=True, help_text="The account's number; empty: a visitor without one."
    )
    action = models.CharField(max_length=10, choices=Action.choices)
    kind = models.CharField(max_length=10, choices=Analysis.Kind.choices)
    model_name = models.CharField("model", max_length=100)

    class Meta:
        ordering = ("-time", "-pk")
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        who = "a visitor" if self.user is None else f"account {self.user}"
        return f"{self.kind} {self.action} for {who}"

    @classmethod
    def of(cls, analysis: Analysis, action: Action) -> "AuditEntry":
        """An unsaved entry: done now to this analysis, for the account that it belongs to."""
        return cls(user=analysis.user_id, action=action, kind=analysis.kind, model_name=analysis.model_name)


class Photo(models.Model):
    """A photo that could be read: our own copy of it, upright and without metadata, and its faces.

    `number` is its place in the upload, from 1. `width` and `height` are those of the photo as uploaded, in
    pixels; the copy may be smaller, with the same proportions.
    """

    analysis = models.ForeignKey(Analysis, models.CASCADE, related_name="photos")
    number = models.PositiveSmallIntegerField()
    name = models.CharField(
        max_length=100, blank=True, help_text="A batch's file, as it was called; empty for a photo."
    )
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
        return f"unused file {self.number}"


class Face(models.Model):
    """A face found in a photo, and either the eight probabilities read in it or the problem that forbids it.

    `number` counts a photo's faces from 1. `box` is [left, top, right, bottom] and `landmarks`
    {name: [x, y]}, both in pixels of the photo as uploaded. `probabilities` is {expression: p} over all
    eight, their sum 1, or null beside a `problem`. `sure`: whether the most probable of them reached the
    threshold of the model that read it; null beside a problem, and in rows from before models had one.
    """

    class Problem(models.TextChoices):
        TOO_SMALL = "too small"
        TOO_BLURRED = "too blurred"
        UNKNOWN_FACE = "unknown face"

    photo = models.ForeignKey(Photo, models.CASCADE, related_name="faces")
    number = models.PositiveSmallIntegerField()
    box: "models.JSONField[Any, list[float]]" = models.JSONField()
    landmarks: "models.JSONField[Any, dict[str, list[float]]]" = models.JSONField()
    confidence = models.FloatField(help_text="How sure the detector is that this is a face, 0 to 1.")
    probabilities: "models.JSONField[Any, dict[str, float] | None]" = models.JSONField(null=True)
    sure = models.BooleanField(null=True)
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
        return f"face {self.number}"

    @property
    def expression(self) -> str | None:
        """The most probable expression, or None beside a problem."""
        return max(self.probabilities, key=self.probabilities.__getitem__) if self.probabilities else None

    @property
    def is_guess(self) -> bool:
        """Whether the model was not sure of that expression."""
        return self.sure is False

    @property
    def crop_filename(self) -> str:
        return f"photo-{self.photo.number}-face-{self.number}.jpg"

    @property
    def mask_filename(self) -> str:
        return f"photo-{self.photo.number}-face-{self.number}-mask.png"


class Track(models.Model):
    """One person in a video: the same face followed over its frames. `number` counts them from 1.

    `probabilities`: the mean of what was read, once the video is read; null where nothing could be.
    """

    analysis = models.ForeignKey(Analysis, models.CASCADE, related_name="tracks")
    number = models.PositiveSmallIntegerField()
    probabilities: "models.JSONField[Any, dict[str, float] | None]" = models.JSONField(null=True)

    class Meta:
        ordering = ("number",)
        constraints = (models.UniqueConstraint(fields=("analysis", "number"), name="one_track_a_number"),)

    def __str__(self) -> str:
        return f"person {self.number}"


class Sighting(models.Model):
    """A tracked face in one frame: where it is (as in `Face`, in pixels of the video) and what it shows.

    `milliseconds` is the frame's time from the video's start.
    """

    track = models.ForeignKey(Track, models.CASCADE, related_name="sightings")
    milliseconds = models.PositiveIntegerField()
    box: "models.JSONField[Any, list[float]]" = models.JSONField()
    landmarks: "models.JSONField[Any, dict[str, list[float]]]" = models.JSONField()
    confidence = models.FloatField()
    probabilities: "models.JSONField[Any, dict[str, float] | None]" = models.JSONField(null=True)
    problem = models.CharField(max_length=20, choices=Face.Problem.choices, blank=True)

    class Meta:
        ordering = ("milliseconds",)
        constraints = (
            models.UniqueConstraint(fields=("track", "milliseconds"), name="one_sighting_a_moment"),
        )

    def __str__(self) -> str:
        return f"{self.track} at {self.milliseconds / 1000:.2f} s"


class Profile(models.Model):
    """What a person with an account chose. `keep_days`: how long analyses are kept, null: until deleted."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, related_name="profile")
    keep_days = models.PositiveIntegerField(null=True, blank=True, default=30)

    def __str__(self) -> str:
        return f"profile of {self.user}"


class DayNote(models.Model):
    """What a person wrote about a day, as in a diary."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="day_notes")
    day = models.DateField()
    text = models.TextField(max_length=4000)

    class Meta:
        ordering = ("-day",)
        constraints = (models.UniqueConstraint(fields=("user", "day"), name="one_note_a_day"),)

    def __str__(self) -> str:
        return f"note of {self.day}"


class ApiToken(models.Model):
    """A person's key to the API. Only its SHA-256 is kept (it is 256 random bits, so that needs no salt):
    the key itself is shown once, when `create_for` makes it. Revoking it is deleting the row."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=50)
    sha256 = models.CharField(max_length=64, unique=True, editable=False)
    created = models.DateTimeField(default=timezone.now)
    used = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created",)
        verbose_name = "API key"

    def __str__(self) -> str:
        return self.name

    @classmethod
    def create_for(cls, user: Any, name: str) -> tuple["ApiToken", str]:
        """Returns the row and the key, which nobody can read again."""
        key = "fer_" + secrets.token_urlsafe(32)
        return cls.objects.create(user=user, name=name, sha256=cls.digest(key)), key

    @staticmethod
    def digest(key: str) -> str:
        return hashlib.sha256(key.encode()).hexdigest()
