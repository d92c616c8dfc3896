"""Every parser of ours, and what must hold whatever it is given: an answer of its kind, or its own error."""

import atexit
import io
import json
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Final, NamedTuple

import numpy as np
from django.core.exceptions import ImproperlyConfigured
from django.http import QueryDict
from django.utils import timezone
from PIL import Image

from fer_site.broker import cache_settings
from fer_site.settings import positive
from ml.checkpoint import CheckpointError, _digest, load_checkpoint, read_name, write_arrays
from ml.config import PRESETS
from ml.datasets.affectnet import read_affectnet
from ml.datasets.ferplus import read_ferplus
from ml.datasets.labels import read_labels
from ml.datasets.rafdb import read_rafdb
from ml.datasets.samples import DatasetError, Sample
from ml.expressions import EXPRESSIONS
from ml.folds import read_fold_lists
from recognition import batches, gallery, mp4
from recognition.api import _photos_in_json
from recognition.ranges import _part
from recognition.services import UploadError, upload_limits
from recognition.uploads import NAME_LENGTH, Limits, PhotoError, decode_photo, display_name

WEIGHTS: Final = {"weight": np.zeros((2, 2), np.float32)}


@cache
def place() -> Path:
    """A folder for this process, with the pictures that lists may name."""
    folder = Path(tempfile.mkdtemp(prefix="fmpn-fer-fuzzing-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    picture = io.BytesIO()
    Image.new("L", (48, 48), 90).save(picture, "PNG")
    for name in (
        *("ferplus/FER2013Test/fer1.png", "rafdb/Image/aligned/train_1_aligned.jpg"),
        *("affectnet/Manually_Annotated_Images/1/a.jpg", "arrays/val_set/images/1.jpg"),
        *("folds/train/happiness/a.png", "folds/train/fear/b.png"),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.getvalue())
    return folder


def write(name: str, data: bytes) -> Path:
    path = place() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def are_sound(samples: list[Sample], root: Path) -> None:
    for sample in samples:
        assert sample.path.is_relative_to(root)
        assert ".." not in sample.path.parts
        assert 0 <= sample.expression < len(EXPRESSIONS)


# The parsers ------------------------------------------------------------------------------------------------


def label_pickle(data: bytes) -> None:
    with suppress(DatasetError):
        for name, label in read_labels(write("labels.pkl", data)).items():
            assert isinstance(name, str)
            assert isinstance(label, int)


def ferplus_list(data: bytes) -> None:
    write("ferplus/FER2013Test/label.csv", data)
    with suppress(DatasetError):
        are_sound(read_ferplus(place() / "ferplus", "test"), place() / "ferplus")


def rafdb_list(data: bytes) -> None:
    write("rafdb/EmoLabel/list_patition_label.txt", data)
    with suppress(DatasetError):
        are_sound(read_rafdb(place() / "rafdb", "train"), place() / "rafdb")


def affectnet_table(data: bytes) -> None:
    write("affectnet/validation.csv", data)
    with suppress(DatasetError):
        are_sound(read_affectnet(place() / "affectnet", "valid"), place() / "affectnet")


def affectnet_array(data: bytes) -> None:
    write("arrays/val_set/annotations/1_exp.npy", data)
    with suppress(DatasetError):
        are_sound(read_affectnet(place() / "arrays", "valid"), place() / "arrays")


def fold_list(data: bytes) -> None:
    write("folds/trainCK_ids_0.csv", data)
    write("folds/testCK_ids_0.csv", b"b.png\n")
    with suppress(DatasetError):
        for fold in read_fold_lists("folders", place() / "folds"):
            are_sound([*fold.train, *fold.test], place() / "folds")


def checkpoint_file(data: bytes) -> None:
    path = write("checkpoint.safetensors", data)
    with suppress(CheckpointError):
        assert load_checkpoint(path).name
    with suppress(CheckpointError):
        assert read_name(path)


def checkpoint_metadata(data: bytes) -> None:
    """With the checksum that belongs to it, so that more than the checksum is looked at."""
    text = data.decode(errors="replace")
    with suppress(ValueError, RecursionError):
        metadata = json.loads(text)
        if isinstance(metadata, dict):
            metadata.pop("sha256", None)
            text = json.dumps({**metadata, "sha256": _digest(metadata, WEIGHTS)})
    path = place() / "metadata.safetensors"
    write_arrays(path, WEIGHTS, {"fmpn": text})
    with suppress(CheckpointError):
        checkpoint = load_checkpoint(path)
        assert checkpoint.name
        assert checkpoint.temperature > 0
        assert 0 <= checkpoint.sure_from <= 1
    with suppress(CheckpointError):
        assert read_name(path)


def number_in_settings(data: bytes) -> None:
    """What is taken can be used: as hours of keeping, and where a whole number is meant."""
    os.environ["FER_FUZZED"] = data.decode(errors="replace").replace("\0", "")
    with suppress(ImproperlyConfigured):
        assert timezone.now() + timedelta(hours=positive("FER_FUZZED", 1)) > timezone.now() - timedelta(1)
        assert int(positive("FER_FUZZED", 1, least=1)) >= 1


def address_in_settings(data: bytes) -> None:
    """Any address of a broker gives a cache, or none that is shared, or is no address at all."""
    with suppress(ValueError):
        assert cache_settings("", data.decode(errors="replace"), Path("/var/fer"))["default"]["BACKEND"]


def photo(data: bytes) -> None:
    with suppress(PhotoError):
        image = decode_photo(data, Limits(1, 0.1))
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert image.size <= 300_000


def album(data: bytes) -> None:
    path = write("album.zip", data)
    most = upload_limits().megabytes * 1_000_000
    with suppress(UploadError), batches.open_zip(path) as archive:
        for info in batches.visible(archive)[:20]:
            assert len(display_name(info.filename)) <= NAME_LENGTH
            with suppress(Exception):  # as its documentation says
                assert len(batches.open_member(archive, info, Lock()).read()) <= most


def film_tables(data: bytes) -> None:
    assert mp4.is_plausible(write("film.mp4", data), 600, 240) in (True, False)


def photos_in_json(data: bytes) -> None:
    with suppress(UploadError):
        assert isinstance(_photos_in_json(data), list)


def gallery_query(data: bytes) -> None:
    choice = gallery.Choice.of(QueryDict(data))
    assert choice.show in gallery.SHOWN
    assert choice.page >= 1
    assert gallery.Choice.of(QueryDict(choice.query()[1:])) == choice


def byte_range(data: bytes) -> None:
    part = _part(data.decode("latin1"), 1000)
    assert part is None or (part.start >= 0 and part.stop <= 1000) or not part


# Samples to begin with --------------------------------------------------------------------------------------


def picture(form: str) -> bytes:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((40, 32)).convert("RGB").save(stream, form, exif=exif)
    return stream.getvalue()


def packed(name: str = "c.jpg") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.jpg", bytes(3000))
        archive.writestr(zipfile.ZipInfo(name), b"x")
    return stream.getvalue()


def array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array("3"))
    return stream.getvalue()


def box(kind: bytes, content: bytes) -> bytes:
    return (len(content) + 8).to_bytes(4) + kind + content


def film() -> bytes:
    tables = box(b"stsz", bytes(8) + (9).to_bytes(4)) + box(b"stts", bytes(4) + b"\0\0\0\1" * 3)
    tables += box(b"stsc", bytes(4) + b"\0\0\0\1" * 4) + box(b"stco", bytes(4) + b"\0\0\0\1" * 2)
    return box(b"ftyp", b"isom") + box(b"moov", box(b"trak", b"soun" + tables)) + box(b"mdat", bytes(9))


def metadata(**more: Any) -> bytes:
    """As `ml.checkpoint` writes it."""
    from ml.alignment import TEMPLATE
    from ml.checkpoint import FORMAT

    facts = {"format": FORMAT, "classes": list(EXPRESSIONS), "crop_template": TEMPLATE.tolist()}
    return json.dumps({**facts, "config": PRESETS["compact"].to_dict(), "preset": "compact", **more}).encode()


def whole_checkpoint() -> bytes:
    path = place() / "whole.safetensors"
    write_arrays(path, WEIGHTS, {"fmpn": metadata(sha256="0" * 64).decode()})
    return path.read_bytes()


class Parser(NamedTuple):
    """samples: contents that it takes, or nearly."""

    check: Callable[[bytes], None]
    samples: Callable[[], list[bytes]]


LABELS: Final = {"S001_001": 1, "S002_001": np.float64(7), "S003_001": np.array([3.0])}

PARSERS: Final[dict[str, Parser]] = {
    "label pickles": Parser(label_pickle, lambda: [pickle.dumps(LABELS, protocol) for protocol in (0, 2, 4)]),
    "FER+ lists": Parser(ferplus_list, lambda: [b'fer1.png,"(0, 0, 48, 48)",4,0,0,1,3,2,0,0,0,0\n']),
    "RAF-DB lists": Parser(rafdb_list, lambda: [b"train_1.jpg 4\ntest_2.jpg 7\n"]),
    "AffectNet tables": Parser(
        affectnet_table,
        lambda: [b"1/a.jpg,0,0,9,9,,1,0,0\n", b"subDirectory_filePath,expression\n1/a.jpg,7\n"],
    ),
    "AffectNet arrays": Parser(affectnet_array, lambda: [array()]),
    "lists of folds": Parser(fold_list, lambda: [b"a.png\nb.png\n"]),
    "checkpoint files": Parser(checkpoint_file, lambda: [whole_checkpoint()]),
    "checkpoint metadata": Parser(
        checkpoint_metadata,
        lambda: [
            metadata(),
            metadata(temperature=1.5, sure_from=0.4),
            metadata(temperature=10**400),
            b"[" * 9999,
        ],
    ),
    "numbers in settings": Parser(number_in_settings, lambda: [b"20", b"0.5", b"1e300", b"nan"]),
    "addresses in settings": Parser(
        address_in_settings,
        lambda: [b"redis://:word@host:6379/0", b"unix:///a/b.sock?db=1", b"amqp://[::1]/x"],
    ),
    "photos": Parser(photo, lambda: [picture(form) for form in ("JPEG", "PNG", "WEBP")]),
    "ZIPs": Parser(album, lambda: [packed(), packed("")]),
    "tables of MP4": Parser(film_tables, lambda: [film()]),
    "photos in JSON": Parser(
        photos_in_json,
        lambda: [
            b'{"photos": [{"name": "a.jpg", "base64": "/9j/4A=="}]}',
            '{"photos": [{"base64": "é"}]}'.encode(),
        ],
    ),
    "queries of the gallery": Parser(
        gallery_query,
        lambda: [b"show=faces&expression=fear&least=50&sort=name&page=2", b"page=" + b"9" * 5000],
    ),
    "ranges of bytes": Parser(byte_range, lambda: [b"bytes=0-99", b"bytes=-5", b"bytes=7-"]),
}
