"""The forms of the admin pages: launching a run, registering a data set.

Of a run's configuration every value can be set, and none has to be: an empty field means the preset's.
"""

import copy
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.forms.boundfield import BoundField

from ml.checkpoint import OWN_SPLITS
from ml.config import PRESETS, Backbone, TrainConfig
from training.fold_numbers import parse_folds, write_folds
from training.models import Checkpoint, Dataset, TrainingRun
from training.services import RunRequest

MOST_FOLDERS: Final = 300  # offered to choose from; a further one can be typed
FOLDER_DEPTH: Final = 3

Fields = dict[str, forms.Field]


def _whole(label: str, least: int = 0, most: int = 10_000, help_text: str = "") -> forms.Field:
    return forms.IntegerField(
        label=label, min_value=least, max_value=most, required=False, help_text=help_text
    )


def _number(label: str, least: float = 0.0, most: float | None = None, help_text: str = "") -> forms.Field:
    widget = forms.NumberInput({"step": "any"})
    return forms.FloatField(
        label=label, min_value=least, max_value=most, required=False, help_text=help_text, widget=widget
    )


def _choice(
    label: str, choices: Iterable[tuple[str, str]], coerce: Callable[[str], Any] = str
) -> forms.Field:
    return forms.TypedChoiceField(
        label=label,
        choices=[("", "preset"), *choices],
        required=False,
        empty_value=None,
        coerce=coerce,
    )


def _stage(of_joint_stage: Fields) -> Fields:
    return {
        "epochs_full": _whole("Epochs at the full rate"),
        "epochs_falling": _whole("Epochs at a falling rate"),
        "batch_size": _whole("Batch", 1, 4096, "Images."),
        "lr_mask": _number("Learning rate, mask generator", most=1.0),
        **of_joint_stage,
        "schedule": _choice(
            "Schedule",
            [("linear", "full, then linearly to zero"), ("cosine", "warm-up, then a cosine")],
        ),
        "warmup": _number("Warm-up", most=1.0, help_text="Of the cosine: share of all steps."),
        "optimizer": _choice("Optimizer", [("adam", "Adam"), ("adamw", "AdamW")]),
        "weight_decay": _number("Weight decay", most=1.0),
        "ema_decay": _number("Average of the weights", most=0.999999, help_text="Its decay; 0: none."),
        "balance": _number("Balance of classes", most=1.0, help_text="0: as the set is; 1: all alike."),
        "set_balance": _number("Balance of sets", most=1.0, help_text="The same of several sets."),
    }


# A field for every value of a TrainConfig, by its part and its name there.
SETTINGS: Final[dict[str, Fields]] = {
    "model": {
        "backbone": _choice("Backbone", [(name, name) for name in get_args(Backbone)]),
        "image_size": _whole("Image size", 32, 512, "Pixels a side."),
        "mask_channels": _whole("Mask generator, channels", 1, 256),
        "mask_blocks": _whole("Mask generator, blocks", 0, 32),
        "mask_shrink": _whole("Mask generator, smaller by", 1, 2, "1: as large as the face."),
        "colour": _choice("Colour", [("True", "in colour"), ("False", "luminance alone")], "True".__eq__),
        "prior": _choice(
            "Motion prior",
            [("fused", "fused, as published"), ("masked", "mask without fusion"), ("none", "none")],
        ),
    },
    "mask_stage": _stage({}),
    "joint_stage": _stage(
        {
            "lr_fusion": _number("Learning rate, fusion net", most=1.0),
            "lr_classifier": _number("Learning rate, classifier", most=1.0),
            "lambda_mask": _number("λ of the mask loss"),
            "lambda_classifier": _number("λ of the classifier loss"),
            "label_smoothing": _number("Label smoothing", most=0.99),
        }
    ),
    "augment": {
        "flip": _number("Mirror", most=1.0, help_text="Probability."),
        "rotation": _number("Rotation", most=180.0, help_text="Degrees to either side."),
        "scale": _number("Scale", most=0.9, help_text="Share of the side."),
        "shift": _number("Shift", most=0.9, help_text="Share of the side."),
        "brightness": _number("Brightness", most=1.0, help_text="Share."),
        "contrast": _number("Contrast", most=1.0, help_text="Share."),
        "resolution": _number("Resolution", 0.05, 1.0, "Smallest share; 1: never lowered."),
        "noise": _number("Noise", most=0.9, help_text="Largest deviation, share of white."),
        "erase": _number("Erased rectangle", most=1.0, help_text="Probability."),
    },
}

STARTS: Final = {
    "imagenet": "pretrained: the backbone on ImageNet",
    "random": "not pretrained: random weights",
    "bundled": "the model that comes with this site",
}

GROUPS: Final = (
    ("Folds", ("protocol", "fold_count", "folds")),
    ("Model and stages", ("stages", "start", *(f"model__{key}" for key in SETTINGS["model"]))),
    ("Mask stage", tuple(f"mask_stage__{key}" for key in SETTINGS["mask_stage"])),
    ("Joint stage", tuple(f"joint_stage__{key}" for key in SETTINGS["joint_stage"])),
    ("Augmentation", tuple(f"augment__{key}" for key in SETTINGS["augment"])),
    ("Name, further data sets, seed, device", ("name", "extra", "seed", "device", "visdom")),
)


@dataclass(frozen=True)
class Group:
    """Fields that are folded away together; open where one of them says something."""

    title: str
    fields: list[BoundField]
    open: bool


def _describe(preset: str) -> str:
    config = PRESETS[preset]
    machine = {"compact": "for a CPU", "paper": "as published, for a GPU"}.get(preset, "")
    return (
        f"{preset}: {machine + '; ' if machine else ''}{config.model.backbone}, faces of "
        f"{config.model.image_size} pixels, {config.mask_stage.epochs} + {config.joint_stage.epochs} epochs"
    )


class LaunchForm(forms.Form):
    """What a run needs. `source`: the run that it is a copy of, whose values it starts from.

    Valid, `request` says the same to `services.launch`.
    """

    dataset = forms.ModelChoiceField(
        Dataset.objects.filter(problem=""), label="Data set", empty_label="choose one"
    )
    preset = forms.ChoiceField(
        choices=[(name, _describe(name)) for name in PRESETS], widget=forms.RadioSelect, initial="compact"
    )
    name = forms.CharField(max_length=100, required=False, help_text="Empty: data set and preset.")
    extra = forms.ModelMultipleChoiceField(
        Dataset.objects.filter(problem=""),
        label="Also train on",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="The train parts of these sets are added to every fold’s.",
    )
    protocol = forms.ChoiceField(
        label="Train and test on",
        choices=TrainingRun.Protocol.choices,
        widget=forms.RadioSelect({"data-own-splits": " ".join(OWN_SPLITS)}),
        initial="split",
    )
    fold_count = forms.IntegerField(
        label="How many new folds", min_value=2, max_value=100, required=False, initial=10
    )
    folds = forms.CharField(
        label="Which folds",
        max_length=200,
        required=False,
        widget=forms.TextInput({"placeholder": "all"}),
        help_text="Such as 0-9 or 0,3; empty: all.",
    )
    stages = forms.ChoiceField(choices=TrainingRun.Stages.choices, initial="both")
    start = forms.ChoiceField(label="Weights to start from", required=False)
    seed = forms.IntegerField(min_value=0, max_value=2**31 - 1, initial=0)
    device = forms.ChoiceField(
        choices=[("auto", "auto: a GPU where there is one"), ("cpu", "CPU"), ("cuda", "GPU (CUDA)")],
        initial="auto",
        help_text="Of the worker that takes a fold.",
    )
    visdom = forms.URLField(
        label="Visdom server",
        required=False,
        assume_scheme="http",
        help_text="To draw the curves there as well, such as http://localhost:8097.",
    )
    launch_key = forms.UUIDField(widget=forms.HiddenInput({"autocomplete": "off"}))

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        initial: Mapping[str, Any] | None = None,
        source: TrainingRun | None = None,
    ) -> None:
        self.source = source
        copied = _values_of(source) if source else {}
        super().__init__(
            data, label_suffix="", initial={"launch_key": uuid.uuid4(), **copied, **(initial or {})}
        )
        for part, fields in SETTINGS.items():
            for key, field in fields.items():
                self.fields[f"{part}__{key}"] = copy.deepcopy(field)
        start = self.fields["start"]
        assert isinstance(start, forms.ChoiceField)
        start.choices = _starts(source)
        self._show_preset()

    def _show_preset(self) -> None:
        """Let the empty fields say what the preset has; launch.js does the same when another is chosen."""
        values = self.presets.get(str(self["preset"].value()), {})
        for name, text in values.items():
            field = self.fields[name]
            if isinstance(field, forms.ChoiceField):
                choices: list[Any] = list(field.widget.choices)
                field.choices = [("", f"preset: {dict(choices).get(text, text)}"), *choices[1:]]
            else:
                field.widget.attrs["placeholder"] = text

    @property
    def presets(self) -> dict[str, dict[str, str]]:
        """What each preset has for each of the settings, as their fields write it."""
        return {
            name: {
                **{f"{part}__{key}": _written(value) for part, key, value in _settings_of(config)},
                "start": config.start,
            }
            for name, config in PRESETS.items()
        }

    @property
    def groups(self) -> Iterator[Group]:
        for title, names in GROUPS:
            fields = [self[name] for name in names]
            said = any(field.errors or _says_something(field) for field in fields)
            yield Group(title, fields, said)

    def clean_folds(self) -> tuple[int, ...] | None:
        try:
            return parse_folds(self.cleaned_data["folds"])
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def clean_extra(self) -> tuple[Dataset, ...]:
        extra = tuple(self.cleaned_data["extra"])
        if self.cleaned_data.get("dataset") in extra:
            raise ValidationError("This is the data set itself: choose others, or none.")
        return extra

    def clean(self) -> dict[str, Any]:
        values = self.cleaned_data
        if values.get("protocol") == "made" and values.get("fold_count", 0) is None:
            self.add_error("fold_count", "Say how many folds to make, such as 10.")
        return values

    def config(self) -> TrainConfig:
        """The preset with what was set instead."""
        values, preset = self.cleaned_data, PRESETS[self.cleaned_data["preset"]]
        parts = {
            part: replace(
                getattr(preset, part),
                **{key: value for key in fields if (value := values[f"{part}__{key}"]) is not None},
            )
            for part, fields in SETTINGS.items()
        }
        return replace(preset, **parts, start=self._start() or preset.start)

    def _start(self) -> str:
        chosen: str = self.cleaned_data["start"]
        if chosen == "source" and self.source:
            return str(self.source.config["start"])
        if chosen.startswith("checkpoint-"):
            return str(Checkpoint.objects.get(pk=chosen.removeprefix("checkpoint-")).path)
        return chosen

    def request(self, user: Any) -> RunRequest:
        values = self.cleaned_data
        one = values["protocol"] in OWN_SPLITS
        return RunRequest(
            dataset=values["dataset"],
            extra=values["extra"],
            preset=values["preset"],
            config=self.config(),
            stages=values["stages"],
            protocol=values["protocol"],
            fold_count=values["fold_count"] if values["protocol"] == "made" else 1,
            folds=None if one else values["folds"],
            seed=values["seed"],
            device=values["device"],
            name=values["name"],
            visdom=values["visdom"],
            launched_by=user,
            launch_key=values["launch_key"],
        )


def has_known_settings(run: TrainingRun) -> bool:
    """Whether this version can read what the run was launched with."""
    try:
        TrainConfig.from_dict(run.config)
    except (KeyError, TypeError):
        return False
    return True


def _settings_of(config: TrainConfig) -> Iterator[tuple[str, str, Any]]:
    for part, fields in SETTINGS.items():
        for key in fields:
            yield part, key, getattr(getattr(config, part), key)


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _says_something(field: BoundField) -> bool:
    value, usual = field.value(), field.field.initial
    return str(value if value not in (None, []) else "") != str(usual if usual is not None else "")


def _starts(source: TrainingRun | None) -> list[tuple[str, str]]:
    kept = [(f"checkpoint-{row.pk}", f"checkpoint: {row.name}") for row in Checkpoint.objects.all()]
    as_before = _start_of(source) if source else ""
    if source and as_before == "source":
        kept.append(("source", f"as run {source.pk}: {Path(source.config['start']).name}"))
    return [("", "preset"), *STARTS.items(), *kept]


def _start_of(run: TrainingRun) -> str:
    """How the form names what `run` started from."""
    start = str(run.config["start"])
    preset = PRESETS.get(run.preset, PRESETS["compact"])
    if start in STARTS:
        return "" if start == preset.start else start
    rows = (row for row in Checkpoint.objects.all() if str(row.path) == start)
    row = next(rows, None)
    return f"checkpoint-{row.pk}" if row else "source"


def _values_of(run: TrainingRun) -> dict[str, Any]:
    """The form's values that make `run` again: of its configuration, what is not the preset's."""
    preset = run.preset if run.preset in PRESETS else "compact"
    usual = {(part, key): value for part, key, value in _settings_of(PRESETS[preset])}
    changed = {
        f"{part}__{key}": value
        for part, key, value in _settings_of(TrainConfig.from_dict(run.config))
        if value != usual[part, key]
    }
    numbers = list(run.folds.order_by("number").values_list("number", flat=True))
    some = run.protocol != "split" and len(numbers) < run.fold_count
    return changed | {
        "dataset": run.dataset_id,
        "extra": list(run.extra.values_list("pk", flat=True)),
        "preset": preset,
        "name": "" if run.name == f"{run.dataset.name} {run.preset}" else run.name,
        "protocol": run.protocol,
        "fold_count": run.fold_count if run.protocol == "made" else 10,
        "folds": write_folds(numbers) if some else "",
        "stages": run.stages,
        "start": _start_of(run),
        "seed": run.seed,
        "device": run.device,
        "visdom": run.visdom,
    }


class DatasetForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable when it runs
    """A data set's name, kind and folder. Only folders under FER_DATA_ROOT can be named."""

    class Meta:
        model = Dataset
        fields = ("name", "kind", "folder")
        help_texts = {  # noqa: RUF012
            "name": "Letters, digits, hyphens.",
            "kind": "How its folder is laid out.",
            "folder": f"In FER_DATA_ROOT, which is {settings.FER_DATA_ROOT}.",
        }
        widgets = {"folder": forms.TextInput({"list": "folders", "autocomplete": "off", "size": 60})}  # noqa: RUF012

    def folders(self) -> list[str]:
        """What lies under FER_DATA_ROOT, the folders nearest to it first."""
        root = Path(settings.FER_DATA_ROOT)
        found: list[Path] = []
        level = [root]
        for _ in range(FOLDER_DEPTH):
            level = [folder for parent in level for folder in _folders_in(parent)]
            found += level[: MOST_FOLDERS - len(found)]
            if len(found) >= MOST_FOLDERS:
                break
        return [folder.relative_to(root).as_posix() for folder in found]

    def clean_folder(self) -> str:
        text: str = self.cleaned_data["folder"].strip().rstrip("/")
        folder = Path(text)
        if folder.is_absolute() or ".." in folder.parts or not folder.parts:
            raise ValidationError(
                f"Name a folder in FER_DATA_ROOT ({settings.FER_DATA_ROOT}), without “..” or a leading slash."
            )
        try:
            is_there = (Path(settings.FER_DATA_ROOT) / folder).is_dir()
        except OSError:  # longer than a name can be
            is_there = False
        if not is_there:
            raise ValidationError(f"There is no folder “{text}” in FER_DATA_ROOT ({settings.FER_DATA_ROOT}).")
        return folder.as_posix()


def _folders_in(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return sorted(
                Path(entry) for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            )
    except OSError:
        return []
