"""Rows about reading photos in one process."""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fer_site.bench.measuring import RUNS, WARM_UP, Reference, Row, take_turns
from fer_site.bench.photos import ROOT, SAMPLES, as_jpeg, group, portrait


def read_bytes(data: bytes) -> int:
    """Bytes → result, as the site does it: decode, detect, align, classify, mask. Gives the faces found."""
    from recognition.services import get_predictor, upload_limits
    from recognition.uploads import decode_photo

    return len(get_predictor().predict([decode_photo(data, upload_limits())])[0].faces)


def beside_reference(image: Image.Image, reach: str, what: str, runs: int = RUNS) -> Row:
    data, pixels = as_jpeg(image), np.asarray(image)
    with tempfile.TemporaryDirectory() as folder:
        reference = Reference(Path(folder))
        try:
            theirs: list[float] = []
            ours = take_turns(
                lambda: read_bytes(data), lambda: theirs.append(reference.detect(pixels)[0]), runs=runs
            )[0]
        finally:
            reference.close()
    faces = read_bytes(data)
    against = "PyPI mtcnn detecting alone"
    return Row(
        what, against, "ms", ours * 1e3, statistics.median(theirs[WARM_UP:]) * 1e3, reach, {"faces": faces}
    )


def one_face_480x640() -> Row:
    return beside_reference(portrait(480, 640), "≤ 0.20", "One face, 480×640, bytes to result")


def nine_faces_2711x1807() -> Row:
    return beside_reference(group(9, 2711, 1807), "≤ 0.20", "Nine faces, 2711×1807, bytes to result")


def same_faces() -> Row:
    """All photos at hand: the samples, groups of them, and those in the folder BENCH_PHOTOS."""
    from ml.faces import load_detector
    from ml.runtime import choose_device

    folder = Path(os.environ.get("BENCH_PHOTOS", ROOT.parent / "shared" / "photos"))
    paths = [*SAMPLES, *(path for path in sorted(folder.glob("*")) if path.suffix in {".jpg", ".png"})]
    pictures = [Image.open(path).convert("RGB") for path in paths] + [
        group(n, 900, 700) for n in (2, 4, 9, 16)
    ]
    detector, found, lost, matched = load_detector("mtcnn", choose_device("auto")), 0, 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        reference = Reference(Path(temporary))
        for picture in pictures:
            pixels = np.asarray(picture)
            theirs = reference.detect(pixels)[1]
            ours = [face.box for face in detector.detect(pixels)]
            overlaps = [max((overlap(box, other) for other in ours), default=0.0) for box in theirs]
            found += len(theirs)
            lost += sum(value < 0.5 for value in overlaps)
            matched += sum(value >= 0.9 for value in overlaps)
        reference.close()
    more = {"photos": len(pictures), "faces": found, "lost": lost}
    what = f"Faces with a box at IoU ≥ 0.9, {found} faces of {len(pictures)} photos, {lost} lost"
    return Row(what, "the same detector's answer", "faces", matched, found, "≥ 0.99, none lost", more)


def overlap(first: Any, second: Any) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return float(shared / (sum(areas) - shared))


def classifier(faces: int) -> Row:
    """The model as it serves, and the same weights in eager torch on as many threads, or the same GPU."""
    import torch
    from django.conf import settings

    from ml.checkpoint import load_checkpoint
    from ml.fmpn import Served
    from ml.predictor import open_model
    from ml.runtime import available_cores, choose_device

    torch.set_num_threads(available_cores())
    checkpoint = load_checkpoint(Path(settings.FER_CHECKPOINT))
    config = checkpoint.model_config
    shape = (faces, 3 if config.colour else 1, config.image_size, config.image_size)
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    device = choose_device("auto")
    network = open_model(checkpoint, device)
    eager = Served(checkpoint.build(), checkpoint.temperature).eval().to(device)

    @torch.inference_mode()
    def reference() -> tuple[Any, Any]:
        probabilities, masks = eager(torch.from_numpy(batch).to(device))
        return probabilities.cpu(), masks.cpu()

    ours, theirs = take_turns(lambda: network(batch), reference)
    largest = float(np.abs(network(batch)[0] - reference()[0].numpy()).max())
    what = f"Classifier and mask, {faces} face{'s' * (faces > 1)}"
    return Row(what, "eager torch", "ms", ours * 1e3, theirs * 1e3, "≤ 0.5", {"largest_difference": largest})


def classifier_1_face() -> Row:
    return classifier(1)


def classifier_32_faces() -> Row:
    return classifier(32)


def folder_of_1000() -> Row:
    """`predict_fmpn`'s way through a folder, against a loop over the single call."""
    single, together = through_folder(1000)
    what = "A folder of 1,000 photos, predict_fmpn"
    return Row(what, "a loop over the single call", "photos/s", 1000 / together, 1000 / single, "≥ 1.5")


def through_folder(photos: int, part: int = 100) -> tuple[float, float]:
    """Seconds for photos of as many sizes, read one by one and as `predict_fmpn` does, in turns part by
    part."""
    from recognition.reading import find_photos, read_photos
    from recognition.services import get_predictor, upload_limits

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random = np.random.default_rng(1)
        for number in range(photos):
            width, height = (int(side) for side in random.integers(300, 700, 2))
            portrait(width, height).save(folder / f"{number:04}.jpg", quality=90)
        predictor, limits = get_predictor(), upload_limits()
        sources = find_photos([folder])
        single = together = 0.0
        for source in sources[:20]:
            read_bytes(source.path.read_bytes())
        for first in range(0, photos, part):
            some = sources[first : first + part]
            began = time.perf_counter()
            for source in some:
                read_bytes(source.path.read_bytes())
            halfway = time.perf_counter()
            for _ in read_photos(some, predictor, limits, crops=False):
                pass
            single, together = single + halfway - began, together + time.perf_counter() - halfway
    return single, together


def video_640x480() -> Row:
    """Frames with one face, decoded already, one after the other: detect, align, classify, mask."""
    from recognition.services import get_predictor

    page = portrait(480, 480)
    frames = []
    for shift in range(0, 80, 4):
        frame = Image.new("RGB", (640, 480), (90, 90, 90))
        frame.paste(page, (shift, 0))
        frames.append(np.asarray(frame))
    predictor = get_predictor()

    def run() -> None:
        for frame in frames:
            predictor.predict([frame])

    seconds = take_turns(run, runs=5)[0]
    return Row("Frames of 640×480 with one face", "–", "frames/s", len(frames) / seconds, None, "≥ 30")


def live_640x480() -> Row:
    """The same with all that the live page asks for: JPEG in, boxes, bars and motion mask out, as JSON."""
    from django.http import JsonResponse

    from recognition.live import read_frame

    frame = Image.new("RGB", (640, 480), (90, 90, 90))
    frame.paste(portrait(480, 480), (80, 0))
    data = as_jpeg(frame)
    seconds = take_turns(lambda: JsonResponse(read_frame(data, masks=True)), runs=40)[0]
    return Row("Frames of a camera, 640×480, with masks", "–", "frames/s", 1 / seconds, None, "≥ 10")
