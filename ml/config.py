"""Settings of the model and of both training stages, and the two presets, `paper` and `compact`."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

Backbone = Literal[
    "inception_v3",
    "resnet50",
    "resnet152",
    "densenet121",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "regnet_y_400mf",
]


@dataclass(frozen=True)
class ModelConfig:
    """What rebuilds an FMPN: stored with every checkpoint.

    image_size: side of the square input in pixels. mask_channels, mask_blocks: width after the first
    convolution and number of residual blocks of the mask generator. mask_shrink: 1 or 2, how many times
    smaller than the face the picture is that the generator draws on, its mask being enlarged after; a motion
    mask is smooth, and half the side is a quarter of the work. 1 is the paper's. colour: False feeds the
    luminance alone to all three parts, so that grey and colour training sets look the same to the model.
    prior: how the classifier is told of the mask. "fused" is the paper's; the others are for the ablation:
    "masked" shows it the face times the mask, without the fusion net; "none" the face alone, the mask being
    drawn beside it.
    """

    image_size: int
    mask_channels: int
    mask_blocks: int
    backbone: Backbone
    colour: bool
    prior: Literal["fused", "masked", "none"] = "fused"
    mask_shrink: int = 1


@dataclass(frozen=True)
class StageConfig:
    """One training stage.

    epochs_full + epochs_falling is its length in epochs. `schedule` is "linear" (constant for epochs_full,
    then linearly to zero: the paper's) or "cosine" (linear warm-up over the first `warmup` share of all
    steps, then a cosine to zero). Learning rates are given a part; the mask stage uses `lr_mask` alone.
    """

    epochs_full: int
    epochs_falling: int
    batch_size: int
    optimizer: Literal["adam", "adamw"]
    schedule: Literal["linear", "cosine"]
    lr_mask: float
    lr_fusion: float = 0.0
    lr_classifier: float = 0.0
    weight_decay: float = 0.0
    warmup: float = 0.0
    lambda_mask: float = 1.0
    lambda_classifier: float = 1.0
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    # Samples are drawn with a probability proportional to (class count) ** -balance: 0 is the set as it is,
    # 1 draws every class equally often.
    balance: float = 0.0
    # The same for sets: times (set size) ** -set_balance, so that a small set beside a large one is seen.
    set_balance: float = 0.0

    @property
    def epochs(self) -> int:
        return self.epochs_full + self.epochs_falling


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training face; geometry moves face and motion mask together.

    rotation in degrees, scale and shift as a share of the side, brightness and contrast as a share,
    resolution: the smallest share of the side that a part of a batch is sampled down to (and back up), 1 for
    never,
    noise: the largest standard deviation of a face's grain, as a share of the range of grey,
    erase: probability that a rectangle is greyed out.
    """

    flip: float = 0.5
    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    resolution: float = 1.0
    noise: float = 0.0
    erase: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """A whole run: model, both stages, augmentation. A frozen tree of plain values, so JSON holds it.

    start: where the weights come from: "imagenet" (the backbone's, from torchvision), "random", "bundled"
    (the model that ships here), or the path of a checkpoint.
    """

    model: ModelConfig
    mask_stage: StageConfig
    joint_stage: StageConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    start: str = "imagenet"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Rebuild from `to_dict`; raises TypeError or KeyError where the values are not a whole config."""
        return cls(
            model=ModelConfig(**values["model"]),
            mask_stage=StageConfig(**values["mask_stage"]),
            joint_stage=StageConfig(**values["joint_stage"]),
            augment=AugmentConfig(**values["augment"]),
            start=values["start"],
        )

    def with_epochs(self, mask: int | None, joint: int | None) -> "TrainConfig":
        """The same run with other stage lengths; the falling part keeps its share."""

        def resize(stage: StageConfig, epochs: int | None) -> StageConfig:
            if epochs is None:
                return stage
            falling = round(epochs * stage.epochs_falling / stage.epochs)
            return replace(stage, epochs_full=epochs - falling, epochs_falling=falling)

        return replace(
            self,
            mask_stage=resize(self.mask_stage, mask),
            joint_stage=resize(self.joint_stage, joint),
        )


PRESETS: Final[dict[str, TrainConfig]] = {
    # arXiv 1902.08788, section 4.1: InceptionV3 at 299 px; mask stage 300 epochs Adam 1e-4, joint stage 200
    # epochs with the mask at 1e-5, both linear to zero from half way; loss 10 * MSE(mask) + CE.
    "paper": TrainConfig(
        model=ModelConfig(
            image_size=299, mask_channels=64, mask_blocks=4, backbone="inception_v3", colour=True
        ),
        mask_stage=StageConfig(
            epochs_full=150,
            epochs_falling=150,
            batch_size=16,
            optimizer="adam",
            schedule="linear",
            lr_mask=1e-4,
        ),
        joint_stage=StageConfig(
            epochs_full=100,
            epochs_falling=100,
            batch_size=16,
            optimizer="adam",
            schedule="linear",
            lr_mask=1e-5,
            lr_fusion=1e-4,
            lr_classifier=1e-4,
            lambda_mask=10.0,
        ),
        augment=AugmentConfig(flip=0.5, scale=0.07, shift=0.035),
    ),
    # For a CPU: an hour or two on two cores, under 20 MB. It starts from the model that ships here, which
    # knows faces already; the rates are for that. (`--start imagenet --backbone mobilenet_v2` does without.)
    "compact": TrainConfig(
        model=ModelConfig(
            image_size=160,
            mask_channels=8,
            mask_blocks=2,
            mask_shrink=2,
            backbone="mobilenet_v1",
            colour=False,
        ),
        mask_stage=StageConfig(
            epochs_full=0,
            epochs_falling=1,
            batch_size=128,
            optimizer="adamw",
            schedule="cosine",
            lr_mask=2e-3,
            weight_decay=1e-2,
            warmup=0.1,
            balance=0.25,
        ),
        joint_stage=StageConfig(
            epochs_full=0,
            epochs_falling=8,
            batch_size=64,
            optimizer="adamw",
            schedule="cosine",
            lr_mask=2e-4,
            lr_fusion=1e-3,
            lr_classifier=8e-4,
            weight_decay=2e-2,
            warmup=0.08,
            lambda_mask=1.0,
            label_smoothing=0.05,
            ema_decay=0.999,
            balance=0.3,
        ),
        augment=AugmentConfig(
            flip=0.5,
            rotation=15.0,
            scale=0.18,
            shift=0.07,
            brightness=0.25,
            contrast=0.3,
            # Sets differ in sharpness (FER+ is 48 px a side): without this it would give the set away.
            resolution=0.4,
            # What a camera adds in poor light. The bundled model has learnt to read through it.
            noise=0.06,
            erase=0.25,
        ),
        start="bundled",
    ),
}
