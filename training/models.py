"""The rows that are the truth of a run: what was asked, what happened, and what came of it.

A run is one model configuration trained on one or more folds. One fold is one task for a worker. Its states:

    QUEUED       waits for a worker
    RUNNING      claimed by one worker, which renews `heartbeat`
    SUCCEEDED    trained and measured; it has metrics and a checkpoint
    FAILED       stopped by an error, or lost its worker MOST_LOSSES times
    CANCELLED    stopped by a person; its state is saved
    INTERRUPTED  lost its worker; it is queued again by itself

    QUEUED → RUNNING                     services.claim: a conditional UPDATE that must change one row
    RUNNING → SUCCEEDED, FAILED          runner.run_claimed
    RUNNING, QUEUED → CANCELLED          services.cancel, or Ctrl-C; a running fold leaves at its next batch
    RUNNING → INTERRUPTED                services.notice_lost_workers, or a worker that is told to end
    INTERRUPTED → QUEUED or FAILED       services.notice_lost_workers; one of the foreground waits
    INTERRUPTED, QUEUED → RUNNING        services.keep: its worker was not dead, it slept
    CANCELLED, FAILED, INTERRUPTED → QUEUED   services.resume, services.retry

A run's state follows from its folds' (services.settle), nothing else writes it.

Files of a run lie in FER_VAR_DIR/runs/<run>/fold_<number>/: state.safetensors (to go on from),
fmpn.safetensors (the checkpoint), log.txt, predictions.json, samples/, events for TensorBoard.
"""

from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models
from django.urls import reverse
from django.utils import timezone

from ml.datasets import KINDS

MOST_LOSSES: Final = 3


def runs_folder() -> Path:
    return Path(settings.FER_VAR_DIR) / "runs"


class State(models.TextChoices):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class Dataset(models.Model):
    """A data set on the disk of every machine that trains: how to read it, where it lies, what was found.

    `folder` is relative to FER_DATA_ROOT; a set given in the shell by an absolute path keeps that path.
    `inspection` is `ml.inspection.Inspection.to_dict()`, null until it was looked at; `problem` is why it
    could not be read.
    """

    name = models.SlugField(max_length=60, unique=True)
    kind = models.CharField(max_length=20, choices=[(kind, kind) for kind in KINDS])
    folder = models.CharField(max_length=500, help_text="Under FER_DATA_ROOT.")
    inspection: "models.JSONField[Any, dict[str, Any] | None]" = models.JSONField(
        null=True, blank=True, editable=False
    )
    problem = models.TextField(blank=True, editable=False)
    inspected = models.DateTimeField(null=True, blank=True, editable=False)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("name",)
        verbose_name = "data set"

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path:
        return Path(settings.FER_DATA_ROOT) / self.folder

    @property
    def contact_sheet(self) -> Path:
        return Path(settings.FER_VAR_DIR) / "datasets" / str(self.pk) / "contact.jpg"

    @property
    def faces_folder(self) -> Path:
        """Where its decoded faces are kept between folds (`ml.datasets.cache`); safe to delete."""
        return self.contact_sheet.with_name("faces")


class TrainingRun(models.Model):
    """One configuration, trained on its folds. `config` is `ml.config.TrainConfig.to_dict()`."""

    class Stages(models.TextChoices):
        BOTH = "both", "both stages"
        MASK = "mask", "mask stage alone"
        JOINT = "joint", "joint stage alone"

    class Protocol(models.TextChoices):
        SPLIT = "split", "one run: the set's train part, watched on its validation part"
        FINAL = "final", "one run: the train and validation parts, measured on the set's test part"
        LISTS = "lists", "the set's own fold lists"
        CLEAN = "clean", "its own test lists, each trained on everybody else in them"
        MADE = "made", "new folds: stratified, nobody on both sides where the set says who is who"

    name = models.CharField(max_length=100)
    dataset = models.ForeignKey(Dataset, models.PROTECT, related_name="runs", verbose_name="data set")
    extra = models.ManyToManyField(
        Dataset,
        blank=True,
        related_name="extra_runs",
        verbose_name="also train on",
        help_text="The train parts of these sets are added to every fold's.",
    )
    preset = models.CharField(max_length=20)
    config: "models.JSONField[Any, dict[str, Any]]" = models.JSONField()
    stages = models.CharField(max_length=5, choices=Stages.choices, default=Stages.BOTH)
    protocol = models.CharField(max_length=5, choices=Protocol.choices, default=Protocol.SPLIT)
    fold_count = models.PositiveSmallIntegerField(
        default=1, validators=[MinValueValidator(1)], help_text="How many folds the set is divided into."
    )
    seed = models.PositiveIntegerField(default=0)
    device = models.CharField(max_length=10, default="auto")
    git_revision = models.CharField(max_length=60, blank=True)
    # Of the file that it starts from, as it was at the launch: the bundled one is another after an update.
    start_sha256 = models.CharField(max_length=64, blank=True, editable=False)
    # The kinds of the data sets that this start was trained on, and which of their splits.
    trained_before = models.JSONField(default=dict, blank=True, editable=False)
    # Who is in which fold, as it was at the launch; empty for a set's own split.
    folds_sha256 = models.CharField(max_length=64, blank=True, editable=False)
    visdom = models.URLField(blank=True, help_text="A visdom server to draw the curves on as well.")
    launched_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    launch_key = models.UUIDField(null=True, unique=True, editable=False)  # a form's, so that it counts once
    state = models.CharField(max_length=11, choices=State.choices, default=State.QUEUED)
    cancel_requested = models.BooleanField(default=False, editable=False)
    created = models.DateTimeField(default=timezone.now)
    started = models.DateTimeField(null=True, blank=True)
    finished = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created",)
        permissions = (("launch_trainingrun", "Can launch, stop and resume training runs"),)

    def __str__(self) -> str:
        return f"{self.name} (run {self.pk})"

    def get_absolute_url(self) -> str:
        return reverse("admin:training_trainingrun_watch", args=[self.pk])

    @property
    def folder(self) -> Path:
        return runs_folder() / str(self.pk)


class Fold(models.Model):
    """One training and its measurement on faces that it did not see.

    `progress` is where it stands: {"doing": sentence, "stage", "epoch", "epochs", "step", "steps", "loss",
    "rate", "seconds_left", "device"}. `metrics` is `ml.metrics.Metrics.to_dict()` of the held-out faces after
    the last epoch (nothing is chosen by them), null for a mask stage alone or where no face is held out.
    """

    run = models.ForeignKey(TrainingRun, models.CASCADE, related_name="folds")
    number = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=11, choices=State.choices, default=State.QUEUED, db_index=True)
    worker = models.CharField(max_length=100, blank=True)  # host, process and a random word: who claimed it
    heartbeat = models.DateTimeField(null=True, blank=True)
    losses = models.PositiveSmallIntegerField(default=0, help_text="How many workers died running it.")
    progress: "models.JSONField[Any, dict[str, Any]]" = models.JSONField(default=dict, blank=True)
    train_images = models.PositiveIntegerField(null=True, blank=True)
    test_images = models.PositiveIntegerField(null=True, blank=True)
    metrics: "models.JSONField[Any, dict[str, Any] | None]" = models.JSONField(null=True, blank=True)
    error = models.TextField(blank=True)
    started = models.DateTimeField(null=True, blank=True)
    finished = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("run", "number")
        constraints = (models.UniqueConstraint(fields=("run", "number"), name="one_fold_a_number"),)

    def __str__(self) -> str:
        return f"{self.run}, fold {self.number}"

    @property
    def folder(self) -> Path:
        return self.run.folder / f"fold_{self.number}"


class EpochMetric(models.Model):
    """One point of the curves: means over an epoch's batches, and the held-out faces after it."""

    fold = models.ForeignKey(Fold, models.CASCADE, related_name="epochs")
    stage = models.CharField(max_length=5, choices=[("mask", "mask"), ("joint", "joint")])
    epoch = models.PositiveIntegerField()
    loss = models.FloatField()
    mask_loss = models.FloatField()
    classifier_loss = models.FloatField()
    rate = models.FloatField(help_text="Images a second.")
    accuracy = models.FloatField(null=True, blank=True)
    macro_f1 = models.FloatField(null=True, blank=True)

    class Meta:
        ordering = ("fold", "-stage", "epoch")  # the mask stage comes first
        constraints = (
            models.UniqueConstraint(fields=("fold", "stage", "epoch"), name="one_metric_an_epoch"),
        )

    def __str__(self) -> str:
        return f"{self.fold}, {self.stage} {self.epoch}"


class Checkpoint(models.Model):
    """A trained model's file under FER_VAR_DIR. `file` is relative to it; `sha256` as the file states it.

    At most one is active: the one that reads people's photos. With none, FER_CHECKPOINT does. `activated` is
    when it last became so, which is what "go back" follows.
    """

    fold = models.OneToOneField(Fold, models.CASCADE, null=True, blank=True, related_name="checkpoint")
    name = models.CharField(max_length=100)
    file = models.CharField(max_length=500)
    sha256 = models.CharField(max_length=64)
    active = models.BooleanField(default=False, editable=False)
    activated = models.DateTimeField(null=True, blank=True, editable=False)
    created = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-created",)
        constraints = (
            models.UniqueConstraint(
                fields=("active",), condition=models.Q(active=True), name="at_most_one_checkpoint_is_active"
            ),
        )
        permissions = (("activate_checkpoint", "Can put checkpoints in service"),)

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path:
        return Path(settings.FER_VAR_DIR) / self.file
