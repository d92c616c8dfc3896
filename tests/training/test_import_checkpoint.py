"""The old project's networks become one checkpoint with the same answers, or are refused with a reason.

The networks here are laid out as the old project's `model/model_utils.py` has them, with random weights.
"""

import io
import pickle
from pathlib import Path

import pytest
import torch
from django.core.management import CommandError, call_command
from pytest_django import Settings
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import Inception3, resnet18

from ml.checkpoint import load_checkpoint
from ml.expressions import EXPRESSIONS
from tests.figures import Figure
from training.models import Checkpoint

pytestmark = pytest.mark.django_db

SIDE = 107  # odd like 299, which is what the way up has to make good
PARTS = ("resface", "fusion", "cls")
OLD_CLASSES = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")


class OldBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.PReLU(),
            ]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.conv_block(x)
        return result


class OldGenerator(nn.Module):
    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        model = [nn.Conv2d(1, 64, 7, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU(True)]
        for wide in (64, 128):
            model += [nn.Conv2d(wide, 2 * wide, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * wide)]
            model += [nn.ReLU(True)]
        model += [OldBlock(256) for _ in range(blocks)]
        for wide in (256, 128):
            up = nn.ConvTranspose2d(wide, wide // 2, 4, stride=2, padding=1, bias=False, output_padding=1)
            model += [up, nn.BatchNorm2d(wide // 2), nn.ReLU(True)]
        self.feature_extractor = nn.Sequential(*model)
        self.res_top = nn.Sequential(nn.Conv2d(64, 1, 7, padding=3, bias=False), nn.Sigmoid())

    def forward(self, grey: Tensor) -> Tensor:
        mask: Tensor = self.res_top(self.feature_extractor(grey))
        return mask


class OldFusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.process_a, self.process_b = (
            nn.Sequential(nn.Conv2d(channels, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(True))
            for channels in (3, 1)
        )
        self.model = nn.Sequential(OldBlock(3), nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Sigmoid())

    def forward(self, face: Tensor, moving: Tensor) -> Tensor:
        fused: Tensor = self.model(self.process_a(face) + self.process_b(moving))
        return fused


def old_classifier(classes: int) -> Inception3:
    return Inception3(num_classes=classes, aux_logits=False, transform_input=True, init_weights=False)


def answer(networks: dict[str, nn.Module], grey: Tensor) -> tuple[Tensor, Tensor]:
    """The old project's forward pass (its `model/res_cls.py`): the mask and the classes' logits."""
    mask = networks["resface"](grey)
    return mask, networks["cls"](networks["fusion"](grey.expand(-1, 3, -1, -1), mask * grey))


def pictures(count: int) -> Tensor:
    """Grey pictures of large spots, each its own."""
    spots = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(count))
    return functional.interpolate(spots, size=(SIDE, SIDE), mode="bilinear")


@pytest.fixture(scope="module")
def old() -> dict[str, nn.Module]:
    """Networks whose every weight counts: the normalisations have seen some faces, as after a training."""
    torch.manual_seed(5)
    networks = {"resface": OldGenerator(), "fusion": OldFusion(), "cls": old_classifier(7)}
    for network in networks.values():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.8, 1.2)
                nn.init.normal_(layer.bias, 0, 0.1)
                layer.momentum = 1.0
    with torch.no_grad():
        answer(networks, pictures(4))
    return {part: network.eval() for part, network in networks.items()}


@pytest.fixture(scope="module")
def saved(old: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the old project's training left it."""
    folder = tmp_path_factory.mktemp("ckpts") / "211123_040916"
    folder.mkdir()
    (folder / "opt.txt").write_text("options")
    for part, network in old.items():
        torch.save(network.state_dict(), folder / f"50_net_{part}.pth")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """The same files, to be changed at will."""
    folder = tmp_path / "old"
    folder.mkdir()
    for file in saved.glob("*.pth"):
        (folder / file.name).symlink_to(file)
    return folder


@pytest.fixture(autouse=True)
def var(settings: Settings, tmp_path: Path) -> None:
    settings.FER_VAR_DIR = tmp_path / "var"


def run(*arguments: object) -> str:
    stdout = io.StringIO()
    call_command("import_checkpoint", *map(str, arguments), stdout=stdout)
    return stdout.getvalue()


def replace_file(folder: Path, name: str, content: object) -> Path:
    file = folder / name
    file.unlink(missing_ok=True)
    torch.save(content, file)
    return file


def test_the_converted_model_answers_like_the_old_networks(saved: Path, old: dict[str, nn.Module]) -> None:
    said = run(saved)

    row = Checkpoint.objects.get()
    assert str(row.path) in said
    assert (row.name, row.active, row.fold) == ("imported 211123_040916 50", False, None)
    checkpoint = load_checkpoint(row.path, row.sha256)
    assert checkpoint.name == f"imported {row.sha256[:8]}"
    assert checkpoint.metadata["never_says"] == ["neutral"]
    grey = pictures(2)
    with torch.inference_mode():
        mask, old_logits = answer(old, grey)
        logits, our_mask = checkpoint.build()(grey.expand(-1, 3, -1, -1))
    expected, probabilities = old_logits.softmax(dim=1), logits.softmax(dim=1)
    assert (expected[0] - expected[1]).abs().max() > 0.01, "an answer that is always the same proves nothing"
    torch.testing.assert_close(our_mask, mask, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        probabilities[:, [EXPRESSIONS.index(name) for name in OLD_CLASSES]], expected, rtol=1e-3, atol=1e-5
    )
    assert probabilities[:, EXPRESSIONS.index("neutral")].max() < 1e-9


def test_the_same_files_are_one_checkpoint(saved: Path) -> None:
    run(saved)
    run(*saved.glob("*.pth"))

    assert Checkpoint.objects.count() == 1


def test_classes_of_another_order_are_placed_by_name(folder: Path, old: dict[str, nn.Module]) -> None:
    weights = old_classifier(8).state_dict()
    weights["fc.bias"] = torch.arange(8.0)
    names = ("neutral", *OLD_CLASSES)
    replace_file(folder, "50_net_cls.pth", weights)
    with pytest.raises(CommandError, match=r"8 outputs.*say what they mean"):
        run(folder)

    run(folder, "--classes", ",".join(names))

    bias = load_checkpoint(Checkpoint.objects.get().path).weights["classifier.fc.bias"]
    assert dict(zip(EXPRESSIONS, bias.tolist(), strict=True)) == dict(zip(names, range(8), strict=True))


def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(
    folder: Path, tmp_path: Path, figure: Figure
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    (folder / "50_net_fusion.pth").unlink()
    (folder / "50_net_fusion.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(CommandError, match=r"50_net_fusion\.pth cannot be read as weights alone"):
        run(folder)
    replace_file(folder, "50_net_fusion.pth", {"process_a.0.weight": Trap()})
    with pytest.raises(CommandError, match=r"50_net_fusion\.pth cannot be read as weights alone"):
        run(folder)
    assert not (tmp_path / "ran").exists()
    figure("A pickle that would run code is refused on import and does not run", "2 of 2 kinds of file")


def test_what_does_not_fit_is_named(folder: Path, old: dict[str, nn.Module], settings: Settings) -> None:
    fusion, generator = old["fusion"].state_dict(), old["resface"].state_dict()

    def refused(part: str, weights: object, reason: str) -> None:
        file = replace_file(folder, f"50_net_{part}.pth", weights)
        with pytest.raises(CommandError, match=rf"(?s){file.name}.*{reason}"):
            run(folder)

    refused("fusion", {**fusion, "extra": torch.zeros(1)}, "extra is not known")
    refused(
        "fusion", {name: fusion[name] for name in list(fusion)[1:]}, r"fusion\.face\.0\.weight is missing"
    )
    refused("fusion", {**fusion, "process_b.0.weight": torch.zeros(3, 3, 3, 3)}, r"is \(3, 3, 3, 3\) and not")
    refused("fusion", [torch.zeros(1)], "something other than")
    broken = {**fusion, "process_a.0.weight": fusion["process_a.0.weight"] / 0}
    refused("fusion", broken, r"not finite numbers: process_a\.0\.weight")
    replace_file(folder, "50_net_fusion.pth", fusion)
    instance = {name: tensor for name, tensor in generator.items() if not name.endswith("1.weight")}
    refused("resface", instance, "batch normalisation")
    replace_file(folder, "50_net_resface.pth", generator)
    refused("cls", resnet18(num_classes=7).state_dict(), "no InceptionV3")
    assert not Checkpoint.objects.exists()
    assert not list(Path(settings.FER_VAR_DIR).rglob("*.safetensors"))


def test_what_cannot_be_written_is_told_and_leaves_no_row(saved: Path, settings: Settings) -> None:
    Path(settings.FER_VAR_DIR).write_text("a file in the place of the folder")
    with pytest.raises(CommandError, match="Not a directory"):
        run(saved)
    assert not Checkpoint.objects.exists()


def test_files_that_are_missing_or_too_many_are_told(folder: Path, tmp_path: Path) -> None:
    (folder / "60_net_resface.pth").touch()
    with pytest.raises(CommandError, match=r"several epochs \(50, 60\)"):
        run(folder)
    with pytest.raises(CommandError, match=r"_net_fusion\.pth and <epoch>_net_cls\.pth cannot be found"):
        run(folder, "--epoch", 60)
    with pytest.raises(CommandError, match="all three networks are needed"):
        run(tmp_path / "nowhere")
    with pytest.raises(CommandError, match="are the same part"):
        run(folder, folder / "50_net_cls.pth", "--epoch", 50)
    with pytest.raises(CommandError, match="There is no expression 'rage'"):
        run(folder, "--epoch", 50, "--classes", "rage,contempt,disgust,fear,happiness,sadness,surprise")
    with pytest.raises(CommandError, match="7 outputs: name so many"):
        run(folder, "--epoch", 50, "--classes", "anger,contempt")
