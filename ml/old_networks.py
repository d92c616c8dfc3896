"""The old project's networks, `<epoch>_net_{resface,fusion,cls}.pth`, as one FMPN with the same answers.

Layer by layer they are the network of the preset `paper` under other names. They differ in three things, and
our weights can say each of them:

- Its last convolutions of mask generator and fusion net have no bias: ours is zero.
- It hands the fused image x, 0..1, to InceptionV3 with torchvision's `transform_input`, which makes of it
  x · std / 0.5 + (mean − 0.5) / 0.5; we hand over (x − mean) / std. Either is a factor and a summand for each
  channel. The first convolution has no padding, so it takes in the factor, and its normalisation the summand.
- It has fewer classes: seven for CK+ and JAFFE, six for MMI. One that it never knew gets no weights and the
  bias UNKNOWN_LOGIT, so that it is never said; the card of such a model must tell.

What cannot be said is refused: a classifier other than InceptionV3 (their first convolutions pad the picture,
and a padded zero means another colour after another normalisation), instance normalisation, dropout within
the residual blocks.

The old faces were cut out in another way (a detector's box at 48 px, of that the middle 93 %), so a converted
model may do worse on our crops than it did on its own: measure it before it reads anybody's photos.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ml.checkpoint import CheckpointError
from ml.config import PRESETS, TrainConfig
from ml.expressions import EXPRESSIONS
from ml.fmpn import FMPN, IMAGENET_MEAN, IMAGENET_STD

PARTS: Final = {"resface": "mask_generator.", "fusion": "fusion.", "cls": "classifier."}
FILE_NAME: Final = re.compile(r"(?P<epoch>\d+)_net_(?P<part>resface|fusion|cls)\.pth")

# What the old classifiers' outputs mean, by how many there are: its 1..7 for CK+ and JAFFE, 0..5 for MMI.
CLASSES: Final = {
    7: ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"),
    6: ("anger", "disgust", "fear", "happiness", "sadness", "surprise"),
}
# Beside a logit of zero this is a probability of 1e-13: never said, and still in reach of fine-tuning.
UNKNOWN_LOGIT: Final = -30.0

# Ours alone; zero is what their absence means.
NEW_BIASES: Final = ("mask_generator.head.bias", "fusion.body.1.bias")
HEAD: Final = ("classifier.fc.weight", "classifier.fc.bias")


def find_networks(paths: Sequence[Path], epoch: int | None = None) -> dict[str, Path]:
    """The three files by part; `paths` are the files themselves, or folders that hold them.

    Raises CheckpointError where a part is missing, and where there are several epochs and none was chosen.
    """
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    by_epoch: dict[int, dict[str, Path]] = {}
    for file in files:
        match = FILE_NAME.fullmatch(file.name)
        if match and file.is_file() and epoch in (None, int(match["epoch"])):
            parts = by_epoch.setdefault(int(match["epoch"]), {})
            if match["part"] in parts:
                raise CheckpointError(
                    f"{parts[match['part']]} and {file} are the same part: give one of them."
                )
            parts[match["part"]] = file
    if len(by_epoch) > 1:
        epochs = ", ".join(map(str, sorted(by_epoch)))
        raise CheckpointError(f"There are networks of several epochs ({epochs}): choose one of them.")
    found = next(iter(by_epoch.values()), {})
    missing = [f"<epoch>_net_{part}.pth" for part in PARTS if part not in found]
    if missing:
        raise CheckpointError(f"{' and '.join(missing)} cannot be found: all three networks are needed.")
    return found


@dataclass(frozen=True, eq=False)
class Converted:
    """A model in eval mode, the config that rebuilds it, and the expressions that it can say."""

    model: FMPN
    config: TrainConfig
    known: tuple[str, ...]


def convert(networks: Mapping[str, Path], classes: Sequence[str] | None = None) -> Converted:
    """Build the FMPN that answers like the three files (`find_networks`).

    classes: what the classifier's outputs mean, in their order, in words of EXPRESSIONS; CLASSES by default.
    Nothing but tensors is read of a file. Raises CheckpointError for a file that is missing or holds anything
    else, and for names, shapes or a number of classes that do not fit: the text says which.
    """
    old = {part: read_weights(networks[part]) for part in PARTS}
    if "Conv2d_1a_3x3.conv.weight" not in old["cls"]:
        raise CheckpointError(
            f"{networks['cls']} is no InceptionV3: the other classifiers cannot be converted exactly."
        )
    known = _meanings(old["cls"], networks["cls"], classes)
    blocks = sum(name.endswith(".conv_block.0.weight") for name in old["resface"])
    paper = PRESETS["paper"]
    config = replace(paper, model=replace(paper.model, mask_blocks=blocks), start="random")
    model = FMPN(config.model)
    ours = model.state_dict()

    shapes = {name: tensor.shape for name, tensor in ours.items() if name not in NEW_BIASES}
    shapes |= {name: torch.Size((len(known), *shapes[name][1:])) for name in HEAD}
    weights = {name: torch.zeros_like(ours[name]) for name in NEW_BIASES}
    for part, prefix in PARTS.items():
        renamed = {_new_name(part, name, blocks): tensor for name, tensor in old[part].items()}
        expected = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
        _compare(renamed, expected, networks[part])
        weights |= renamed
    _take_in_normalisation(weights)
    _place_classes(weights, known)
    model.load_state_dict(weights, strict=True)
    return Converted(model.eval(), config, known)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state_dict that torch.save wrote. Raises CheckpointError for all but named, finite tensors.

    `weights_only` builds tensors and plain containers and calls nothing that the file names.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as weights alone: {reason}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path} holds something other than a network's named tensors.")
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{path} holds weights that are not finite numbers: {broken[0]}.")
    return weights


def _meanings(cls: Mapping[str, Tensor], path: Path, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The expression that each output stands for."""
    outputs = cls["fc.bias"].numel() if "fc.bias" in cls else 0
    known = tuple(classes) if classes else CLASSES.get(outputs, ())
    if not known:
        raise CheckpointError(
            f"The classifier {path} has {outputs} outputs, and no old data set has so many classes: "
            "say what they mean, in their order."
        )
    if unknown := [name for name in known if name not in EXPRESSIONS]:
        raise CheckpointError(f"There is no expression {unknown[0]!r}: known are {', '.join(EXPRESSIONS)}.")
    if len(known) != outputs or len(set(known)) != outputs:
        raise CheckpointError(
            f"The classifier {path} has {outputs} outputs: name so many expressions, each once."
        )
    return known


def _new_name(part: str, name: str, blocks: int) -> str:
    """Our name of one of the old tensors; a name that the old layout does not know stays as it is."""
    ups = 9 + blocks  # where the way up begins in the generator's one long sequence, in steps of three
    rules = {
        "resface": {
            **{f"feature_extractor.{step}.": f"mask_generator.down.{step}." for step in (0, 1, 3, 4, 6, 7)},
            **{
                f"feature_extractor.{9 + block}.conv_block.": f"mask_generator.blocks.{block}.body."
                for block in range(blocks)
            },
            **{f"feature_extractor.{ups + 3 * step}.": f"mask_generator.up.{step}." for step in range(2)},
            **{
                f"feature_extractor.{ups + 3 * step + 1}.": f"mask_generator.up_norms.{step}."
                for step in range(2)
            },
            "res_top.0.": "mask_generator.head.",
        },
        "fusion": {
            "process_a.": "fusion.face.",
            "process_b.": "fusion.moving.",
            "model.0.conv_block.": "fusion.body.0.body.",
            "model.1.": "fusion.body.1.",
        },
        "cls": {"": "classifier."},
    }
    for old, new in rules[part].items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _compare(weights: Mapping[str, Tensor], expected: Mapping[str, torch.Size], path: Path) -> None:
    """Raise CheckpointError unless names and shapes are exactly the expected ones."""
    wrong = [f"{name} is missing" for name in expected if name not in weights]
    wrong += [f"{name} is not known" for name in weights if name not in expected]
    wrong += [
        f"{name} is {tuple(tensor.shape)} and not {tuple(expected[name])}"
        for name, tensor in weights.items()
        if name in expected and tensor.shape != expected[name]
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{path} is not of the old project's standard layout (batch normalisation, no dropout), by our "
            f"names: {'; '.join(wrong[:3])}{more}."
        )


def _take_in_normalisation(weights: dict[str, Tensor]) -> None:
    """Let the classifier's first layer take (x − mean) / std, where it was trained with `transform_input`."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_STD))
    # x · std / 0.5 + (mean − 0.5) / 0.5, with x = seen · std + mean
    factor = std * std / 0.5
    summand = mean * std / 0.5 + (mean - 0.5) / 0.5
    convolution, running_mean = (
        "classifier.Conv2d_1a_3x3.conv.weight",
        "classifier.Conv2d_1a_3x3.bn.running_mean",
    )
    kernel = weights[convolution].double()
    weights[convolution] = (kernel * factor.view(1, 3, 1, 1)).float()
    constant = (kernel.sum(dim=(2, 3)) * summand).sum(dim=1)
    weights[running_mean] = (weights[running_mean].double() - constant).float()


def _place_classes(weights: dict[str, Tensor], known: Sequence[str]) -> None:
    """Give every one of EXPRESSIONS its output: the old one, or none that is ever said."""
    weight, bias = (weights[name] for name in HEAD)
    rows = [EXPRESSIONS.index(name) for name in known]
    placed = torch.zeros(len(EXPRESSIONS), weight.shape[1])
    biases = torch.full((len(EXPRESSIONS),), UNKNOWN_LOGIT)
    placed[rows], biases[rows] = weight.float(), bias.float()
    weights[HEAD[0]], weights[HEAD[1]] = placed, biases
