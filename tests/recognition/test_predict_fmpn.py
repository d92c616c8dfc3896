"""`manage.py predict_fmpn` as somebody in a shell meets it."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from PIL import Image
from pytest_django import Settings

from ml.expressions import EXPRESSIONS

pytestmark = pytest.mark.django_db  # it asks which checkpoint is in service


def predict(*arguments: object) -> str:
    """Run the command and return what it printed on stdout."""
    stdout = io.StringIO()
    call_command("predict_fmpn", *map(str, arguments), stdout=stdout)
    return stdout.getvalue()


@pytest.fixture
def folder(tmp_path: Path, portrait: bytes, landscape: bytes) -> Path:
    """photos/: a portrait, a folder with a landscape and a broken photo, and a file that is no photo."""
    photos = tmp_path / "photos"
    (photos / "trip").mkdir(parents=True)
    (photos / "ada.jpg").write_bytes(portrait)
    (photos / "trip" / "hill.JPG").write_bytes(landscape)
    (photos / "trip" / "torn.jpg").write_bytes(portrait[: len(portrait) // 5])
    (photos / "notes.txt").write_text("dear diary")
    return photos


def test_the_json_has_the_promised_shape(folder: Path, tmp_path: Path) -> None:
    predict(folder, "--json", tmp_path / "out.json")

    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert set(report) == {"model", "time", "photos"}
    ada, hill, torn = report["photos"]
    assert [Path(photo["photo"]).name for photo in (ada, hill, torn)] == ["ada.jpg", "hill.JPG", "torn.jpg"]
    assert all(set(photo) == {"photo", "width", "height", "error", "faces"} for photo in report["photos"])
    assert (ada["width"], ada["height"], ada["error"]) == (512, 512, None)
    (face,) = ada["faces"]
    assert set(face) == {"box", "landmarks", "confidence", "expression", "sure", "probabilities"}
    assert len(face["box"]) == 4
    assert all(len(point) == 2 for point in face["landmarks"].values())
    assert tuple(face["probabilities"]) == EXPRESSIONS
    assert sum(face["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert face["expression"] == max(face["probabilities"], key=face["probabilities"].get)
    assert (hill["error"], hill["faces"]) == (None, [])
    assert (torn["width"], torn["height"], torn["faces"]) == (None, None, [])
    assert "damaged or incomplete" in torn["error"]


def test_a_face_that_cannot_be_read_has_a_problem_and_no_expression(
    tmp_path: Path, far_portrait: bytes
) -> None:
    (tmp_path / "far.jpg").write_bytes(far_portrait)

    predict(tmp_path / "far.jpg", "--json", tmp_path / "out.json")

    (face,) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["photos"][0]["faces"]
    assert face["problem"] == "too small"
    assert face["expression"] is None
    assert face["probabilities"] is None


def test_without_json_it_prints_a_table_and_the_errors_beside_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = predict(folder)

    assert "Read by" in table
    assert "no face found" in table
    assert any(name in table for name in EXPRESSIONS)
    assert "torn.jpg: This JPEG is damaged or incomplete" in capsys.readouterr().err


def test_with_json_stdout_stays_empty(folder: Path, tmp_path: Path) -> None:
    assert predict(folder, "--json", tmp_path / "out.json") == ""


def test_the_csv_has_one_row_a_face(folder: Path, tmp_path: Path) -> None:
    predict(folder, "--csv", tmp_path / "out.csv")

    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert Path(row["photo"]).name == "ada.jpg"
    assert sum(float(row[name]) for name in EXPRESSIONS) == pytest.approx(1, abs=1e-4)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="all file names are text there")
def test_a_file_whose_name_is_no_text_is_read_and_named_all_the_same(
    tmp_path: Path, portrait: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = Path("photos")  # so short that the table has it in one line
    photos.mkdir()
    (photos / os.fsdecode(b"caf\xe9.jpg")).write_bytes(portrait)
    (photos / os.fsdecode(b"torn\xe9.jpg")).write_bytes(portrait[:100])

    table = predict(photos)
    predict(photos, "--json", tmp_path / "out.json", "--csv", tmp_path / "out.csv")

    assert "caf?.jpg" in table
    assert "torn?.jpg: " in capsys.readouterr().err
    read, torn = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["photos"]
    assert [Path(photo["photo"]).name for photo in (read, torn)] == ["caf?.jpg", "torn?.jpg"]
    assert (len(read["faces"]), torn["faces"]) == (1, [])
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert Path(row["photo"]).name == "caf?.jpg"


def test_crops_are_read_whole_and_have_no_place(folder: Path, tmp_path: Path, portrait: bytes) -> None:
    crop = Image.open(io.BytesIO(portrait)).crop((160, 40, 300, 180))
    crop.save(tmp_path / "face.png")

    predict(tmp_path / "face.png", "--crops", "--json", tmp_path / "out.json")

    (photo,) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["photos"]
    (face,) = photo["faces"]
    assert (photo["width"], photo["height"]) == (140, 140)
    assert (face["box"], face["landmarks"], face["confidence"]) == (None, None, None)
    assert face["expression"] in EXPRESSIONS


def test_annotated_copies_mirror_the_folder_and_leave_it_alone(folder: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in folder.rglob("*.*")}

    predict(folder, "--annotate", tmp_path / "copies")

    copies = sorted(str(file.relative_to(tmp_path / "copies")) for file in (tmp_path / "copies").rglob("*.*"))
    assert copies == ["ada.jpg", "trip/hill.JPG"]
    assert Image.open(tmp_path / "copies" / "ada.jpg").size == (512, 512)
    assert (tmp_path / "copies" / "ada.jpg").read_bytes() != before[folder / "ada.jpg"]
    assert before == {file: file.read_bytes() for file in folder.rglob("*.*")}


def test_namesakes_from_two_folders_get_a_copy_each(tmp_path: Path, landscape: bytes) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "hill.jpg").write_bytes(landscape)

    predict(tmp_path / "one", tmp_path / "two", "--annotate", tmp_path / "copies")

    assert sorted(copy.name for copy in (tmp_path / "copies").iterdir()) == ["hill-2.jpg", "hill.jpg"]


def test_a_copy_never_takes_the_place_of_a_photo(folder: Path) -> None:
    with pytest.raises(CommandError, match="choose another folder"):
        predict(folder, "--annotate", folder)


def test_a_photo_named_twice_is_read_once(folder: Path, tmp_path: Path) -> None:
    predict(folder, folder / "ada.jpg", "--json", tmp_path / "out.json")

    assert len(json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["photos"]) == 3


def test_when_nothing_could_be_read_it_fails_and_still_reports(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="None of the photos could be read"):
        predict(folder / "trip" / "torn.jpg", folder / "notes.txt", "--json", tmp_path / "out.json")

    photos = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["photos"]
    assert all(photo["error"] for photo in photos)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jpg"], "There is no file or folder nowhere.jpg"),
        (["{folder}/empty"], "There is no photo in"),
        (["{folder}", "--checkpoint", "nothing.safetensors"], "nothing.safetensors"),
        (["{folder}", "--checkpoint", "{folder}/notes.txt"], "notes.txt"),
        (["{folder}", "--json", "nowhere/out.json"], "There is no folder nowhere to write out.json into"),
        (["{folder}", "--csv", "nowhere/out.csv"], "There is no folder nowhere to write out.csv into"),
        (["{folder}", "--json", "{folder}"], "could not be written"),
    ],
)
def test_it_fails_with_a_sentence(folder: Path, arguments: list[str], said: str) -> None:
    (folder / "empty").mkdir()

    with pytest.raises(CommandError, match=said):
        predict(*(argument.format(folder=folder) for argument in arguments))


def test_it_refuses_a_checkpoint_with_one_byte_flipped(
    folder: Path, tmp_path: Path, settings: Settings
) -> None:
    flipped = bytearray(settings.FER_CHECKPOINT.read_bytes())
    flipped[-1000] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(flipped)

    with pytest.raises(CommandError, match=r"flipped\.safetensors"):
        predict(folder, "--checkpoint", tmp_path / "flipped.safetensors")


def test_many_photos_are_read_in_order(tmp_path: Path, landscape: bytes, portrait: bytes) -> None:
    for number in range(40):
        data = b"" if number == 7 else portrait if number == 20 else landscape
        (tmp_path / f"{number:02}.jpg").write_bytes(data)

    predict(tmp_path, "--json", tmp_path / "out.json")

    photos = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["photos"]
    assert [Path(photo["photo"]).stem for photo in photos] == [f"{number:02}" for number in range(40)]
    assert [number for number, photo in enumerate(photos) if photo["error"]] == [7]
    assert [number for number, photo in enumerate(photos) if photo["faces"]] == [20]
