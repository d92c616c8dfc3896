"""Recognition itself.

What is no face gets no expression; the figures told of the model are those that its commands print.
"""

import os
import re
import shlex
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from django.core.management import call_command
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ml.checkpoint import BUNDLED, load_checkpoint
from ml.predictor import FacePrediction, Predictor, load_predictor
from recognition.samples import SAMPLES
from tests.figures import Figure

Pixels = NDArray[np.uint8]

# Pictures of scikit-image without a person or an animal's face: the cat is one, after all.
SCENES: Final = (
    *("brick", "cell", "chessboard_GRAY", "clock_motion", "coffee", "coins", "color", "grass", "gravel"),
    *("horse", "hubble_deep_field", "ihc", "logo", "microaneurysms", "moon", "motorcycle_left"),
    *("motorcycle_right", "page", "phantom", "retina", "rocket", "text"),
)
# Chance patterns in the photos of people that are found with the faces: a wall behind the Solvay conference.
PATTERNS_BESIDE_FACES: Final = {"solvay_1927.jpg": 2}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor(BUNDLED, "mtcnn", "cpu")


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    data = pytest.importorskip("skimage", reason="scikit-image is not installed")
    folder = Path(data.__file__).parent / "data"
    return [Image.open(next(folder.glob(f"{name}.*"))).convert("RGB") for name in SCENES]


def quarters(scene: Image.Image) -> Iterator[Pixels]:
    """The scene, and each of its quarters at a size where chance has enough pixels."""
    yield np.asarray(scene)
    width, height = scene.size
    for left in (0, width // 2):
        for top in (0, height // 2):
            quarter = scene.crop((left, top, left + width // 2, top + height // 2))
            yield np.asarray(quarter.resize((320, max(40, 320 * quarter.height // quarter.width))))


def drawn(random: np.random.Generator) -> Iterator[Pixels]:
    """Noise, skies over land, circles and boxes, written words: as many as are asked for."""
    font = ImageFont.load_default(28)
    while True:
        noise = random.integers(0, 256, (240, 320, 3), dtype=np.uint8)
        yield noise
        yield np.asarray(Image.fromarray(noise[:30, :40]).resize((320, 240), Image.Resampling.BICUBIC))
        sky, land = random.integers(0, 256, (2, 3))
        line = 120 + 40 * np.sin(np.linspace(0, random.uniform(2, 9), 320))
        below = np.arange(240)[:, None] > line
        shade = np.linspace(1, 0.5, 240)[:, None, None]
        yield (np.where(below[..., None], land, sky) * shade).astype(np.uint8)
        page = Image.new("RGB", (320, 240), tuple(map(int, sky)))
        draw = ImageDraw.Draw(page)
        for _ in range(12):
            left, top, side = map(int, random.integers(0, 240, 3))
            shape = draw.ellipse if side % 2 else draw.rectangle
            shape((left, top, left + side // 2, top + side // 2), tuple(map(int, random.integers(0, 256, 3))))
        yield np.asarray(page)
        draw.multiline_text((10, 10), "Nobody\nis here,\nonly words", "white", font)
        yield np.asarray(page)


def pieces(scene: Image.Image, count: int, random: np.random.Generator) -> Iterator[Pixels]:
    """Parts of a scene, from anywhere in it, at any size and turned at times."""
    for _ in range(count):
        width, height = (side * random.uniform(0.2, 0.8) for side in scene.size)
        left, top = (
            random.uniform(0, whole - part) for whole, part in zip(scene.size, (width, height), strict=True)
        )
        scale = random.uniform(0.4, 2.5)
        piece = scene.crop((int(left), int(top), int(left + width), int(top + height)))
        piece = piece.resize((max(40, int(width * scale)), max(40, int(height * scale))))
        yield np.asarray(piece.rotate(90 * int(random.integers(4)), expand=True))


def faces_in(predictor: Predictor, pictures: list[Pixels]) -> list[tuple[FacePrediction, ...]]:
    return [predictor.predict([picture])[0].faces for picture in pictures]


def expect_no_expressions(
    found: list[tuple[FacePrediction, ...]], figure: Figure, sentence: str, most_named: int = 0
) -> None:
    boxes = [face for faces in found for face in faces]
    without = sum(not faces for faces in found)
    named = sum(face.expression is not None for face in boxes)
    assert without >= 0.95 * len(found)
    assert named <= most_named
    unknown = sum(face.problem == "unknown face" for face in boxes)
    figure(
        sentence,
        f"{without / len(found):.1%} of {len(found)} pictures “no face”; {len(boxes)} found in the others, "
        f"{unknown} of them “unknown face”, {named} with an expression",
    )


def test_pictures_without_a_face_are_given_no_expression(
    predictor: Predictor, scenes: list[Image.Image], figure: Figure
) -> None:
    pictures = [picture for scene in scenes for picture in quarters(scene)]
    others = drawn(np.random.default_rng(0))
    pictures += [next(others) for _ in range(200 - len(pictures))]
    expect_no_expressions(
        faces_in(predictor, pictures),
        figure,
        "200 pictures without a face: at least 95 % “no face”, none given an expression",
    )


@pytest.mark.slow
def test_pieces_of_pictures_without_a_face_are_hardly_ever_given_an_expression(
    predictor: Predictor, scenes: list[Image.Image], figure: Figure
) -> None:
    random = np.random.default_rng(1)  # 0 drew the pieces on which ml.predictor.STEADY was chosen
    found = [predictor.predict([piece])[0].faces for scene in scenes for piece in pieces(scene, 100, random)]
    sentence = "2,200 pieces of such pictures that no threshold was chosen on: at most 1 in 1,000 is named"
    expect_no_expressions(found, figure, sentence, most_named=2)


def test_no_real_face_is_taken_for_a_pattern(predictor: Predictor, photos: Path, figure: Figure) -> None:
    paths = [*sorted(photos.glob("*.[jp][pn]g")), *(sample.path for sample in SAMPLES.values())]
    stay = patterns = 0
    for path in paths:
        photo = Image.open(path).convert("RGB")
        for scale in (1.0, 0.6):
            size = (round(photo.width * scale), round(photo.height * scale))
            (read,) = predictor.predict([np.asarray(photo.resize(size))])
            unknown = sum(face.problem == "unknown face" for face in read.faces)
            assert unknown <= PATTERNS_BESIDE_FACES.get(path.name, 0), f"{path.name} at {scale:.0%}"
            patterns += unknown
            stay += len(read.faces) - unknown
    assert stay >= len(paths) * 2
    figure(
        "No real face in the photos at hand, at full size and at 60 %, is taken for a pattern",
        f"{stay} faces stay faces; of patches of wall that are found with them, {patterns} is called unknown",
    )


# The model card ---------------------------------------------------------------------------------------------

CARD: Final = BUNDLED.with_suffix(".md")
COMMAND: Final = re.compile(r"^    python manage\.py (evaluate_fmpn .+)\n\n((?:    .*\n|\n)+)", re.MULTILINE)


def printed_on_the_card() -> list[tuple[list[str], list[str]]]:
    """The arguments of each command on the card, and the lines that it printed."""
    text = CARD.read_text(encoding="utf-8")
    return [
        (match[1].split(), [line[4:].rstrip() for line in match[2].splitlines() if line.strip()])
        for match in COMMAND.finditer(text)
    ]


def test_the_card_is_of_the_model_that_ships() -> None:
    name = load_checkpoint(BUNDLED).name
    evaluations = printed_on_the_card()
    assert len(evaluations) >= 3
    assert all(name in lines[0] for _, lines in evaluations)


DATA: Final = "FER_TEST_DATA"  # NAME=DIR for each set, with the names of `manage.py reproduce --list`
NAMES: Final = {"FERPLUS": "ferplus", "CKPLUS": "ckplus48", "JAFFE_DB": "jaffe-originals"}


@pytest.mark.slow
@pytest.mark.django_db
@pytest.mark.parametrize(("command", "lines"), printed_on_the_card())
def test_the_cards_figures_are_what_its_commands_print(
    command: list[str], lines: list[str], figure: Figure
) -> None:
    place = command.index("--data") + 1
    name = NAMES.get(command[place], command[place].lower())
    folders = dict(word.partition("=")[::2] for word in shlex.split(os.environ.get(DATA, "")))
    if name not in folders:
        pytest.skip(f"{DATA} names no folder of the data set {name}: {DATA}='{name}=DIR …'")

    stream = StringIO()
    call_command(*command[:place], folders[name], *command[place + 1 :], stdout=stream)

    printed = iter(line.rstrip() for line in stream.getvalue().splitlines())
    missing = [
        line for line in lines[1:] if line not in printed
    ]  # the first is a title with the folder's name
    assert missing == []
    accuracy = next(line for line in lines if line.startswith("accuracy"))
    figure(
        f"The model card's figures on {name} equal what its command prints",
        f"{len(lines) - 1} lines, to the last digit; {' '.join(accuracy.split())}",
    )
