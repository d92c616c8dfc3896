"""How fast it is, each figure beside a reference measured in the same run: `make bench`.

python -m fer_site.bench [--json FILE] [--docs] [ROW ...]

Every row is a median over RUNS runs after a warm-up; where two things are compared they take turns, so that a
machine whose speed drifts slows both. What needs a fresh process, or TensorFlow, runs in one of its own. The
photos are made from the two samples that come with the site.
"""

import argparse
import importlib
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT: Final = Path(__file__).resolve().parent.parent
SAMPLES: Final = tuple(
    ROOT / "static" / "samples" / f"{name}.jpg" for name in ("eileen-collins", "grace-hopper")
)
DOCS: Final = ROOT / "docs" / "performance.md"
RUNS: Final = 30
CLIENTS: Final = 16
PORT: Final = 8917


@dataclass(frozen=True)
class Row:
    """One comparison. ours and reference in `unit`; ratio: ours / reference; reach: what it is held to."""

    what: str
    against: str
    unit: str
    ours: float
    reference: float | None
    reach: str
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.ours / self.reference if self.reference else None


# Photos -----------------------------------------------------------------------------------------------------


def portrait(width: int, height: int) -> Image.Image:
    """One face: the first sample, cut and scaled to fill the frame."""
    from PIL import ImageOps

    return ImageOps.fit(Image.open(SAMPLES[0]).convert("RGB"), (width, height), centering=(0.5, 0.3))


def group(faces: int, width: int, height: int) -> Image.Image:
    """`faces` portraits in rows on grey, each about a third of a ninth of the frame and of another size."""
    columns = int(np.ceil(np.sqrt(faces)))
    rows = -(-faces // columns)
    page = Image.new("RGB", (width, height), (120, 120, 120))
    cell_width, cell_height = width // columns, height // rows
    for number in range(faces):
        side = int(min(cell_width, cell_height) * (0.95 - 0.05 * (number % 5)))
        picture = (
            Image.open(SAMPLES[number % 2]).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        )
        page.paste(picture, ((number % columns) * cell_width, (number // columns) * cell_height))
    return page


def as_jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return stream.getvalue()


# Measuring --------------------------------------------------------------------------------------------------


def take_turns(*tasks: Callable[[], object], runs: int = RUNS) -> list[float]:
    """Median seconds of each task, the tasks in turn, after a warm-up."""
    seconds: list[list[float]] = [[] for _ in tasks]
    for turn in range(runs + 3):
        for task, times in zip(tasks, seconds, strict=True):
            began = time.perf_counter()
            task()
            if turn >= 3:
                times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in seconds]


def in_process(name: str, *arguments: str) -> Any:
    """Call a `measure_…` function of this module in a fresh process and return its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "fer_site.bench", "--call", name, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def resident_megabytes(pid: int | str = "self") -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Reference:
    """PyPI's `mtcnn` detecting alone, in a process of its own, on request: a line in, a line out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fer_site.bench", "--call", "serve_reference"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def detect(self, image: NDArray[np.uint8]) -> tuple[float, list[list[float]]]:
        """Seconds that it took, and the boxes."""
        path = self._folder / "reference.npy"
        np.save(path, image)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["seconds"], answer["boxes"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve_reference() -> None:
    from ml.faces import load_detector

    detector = load_detector("mtcnn-tensorflow")
    for line in sys.stdin:
        image = np.load(line.strip())
        began = time.perf_counter()
        faces = detector.detect(image)
        seconds = time.perf_counter() - began
        say(json.dumps({"seconds": seconds, "boxes": [face.box for face in faces]}))


# Rows: one photo --------------------------------------------------------------------------------------------


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
    return Row(what, against, "ms", ours * 1e3, statistics.median(theirs[3:]) * 1e3, reach, {"faces": faces})


def one_face_480x640() -> Row:
    return beside_reference(portrait(480, 640), "≤ 0.20", "One face, 480×640, bytes to result")


def nine_faces_2711x1807() -> Row:
    return beside_reference(group(9, 2711, 1807), "≤ 0.20", "Nine faces, 2711×1807, bytes to result")


def same_faces() -> Row:
    """All photos at hand: the samples, groups of them, and those in the folder BENCH_PHOTOS."""
    from ml.faces import load_detector

    folder = Path(os.environ.get("BENCH_PHOTOS", ROOT.parent / "shared" / "photos"))
    paths = [*SAMPLES, *(path for path in sorted(folder.glob("*")) if path.suffix in {".jpg", ".png"})]
    pictures = [Image.open(path).convert("RGB") for path in paths] + [
        group(n, 900, 700) for n in (2, 4, 9, 16)
    ]
    detector, found, lost, matched = load_detector("mtcnn"), 0, 0, 0
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
    """The model as it serves, and the same weights in eager torch on as many threads."""
    import torch
    from django.conf import settings

    from ml.checkpoint import load_checkpoint
    from ml.fmpn import Served
    from ml.predictor import open_model
    from ml.runtime import available_cores

    torch.set_num_threads(available_cores())
    checkpoint = load_checkpoint(Path(settings.FER_CHECKPOINT))
    config = checkpoint.model_config
    shape = (faces, 3 if config.colour else 1, config.image_size, config.image_size)
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    network = open_model(checkpoint, "cpu")
    eager = Served(checkpoint.build(), checkpoint.temperature).eval()

    @torch.inference_mode()
    def reference() -> tuple[Any, Any]:
        probabilities, masks = eager(torch.from_numpy(batch))
        return probabilities, masks

    ours, theirs = take_turns(lambda: network(batch), reference)
    largest = float(np.abs(network(batch)[0] - reference()[0].numpy()).max())
    what = f"Classifier and mask, {faces} face{'s' * (faces > 1)}"
    return Row(what, "eager torch", "ms", ours * 1e3, theirs * 1e3, "≤ 0.5", {"largest_difference": largest})


def classifier_1_face() -> Row:
    return classifier(1)


def classifier_32_faces() -> Row:
    return classifier(32)


# Rows: processes --------------------------------------------------------------------------------------------


def first_result() -> Row:
    """Seconds from the start of a fresh Python to the first result, the median of five."""
    data = as_jpeg(portrait(480, 640))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(data)
        times: dict[str, list[float]] = {"measure_first_result": [], "measure_first_reference": []}
        for _ in range(5):
            for name, seconds in times.items():
                began = time.perf_counter()
                in_process(name, str(path))
                seconds.append(time.perf_counter() - began)
    ours, theirs = map(statistics.median, times.values())
    return Row("First result after the start of a process", "PyPI mtcnn's", "s", ours, theirs, "≤ 3 s")


def measure_first_result(path: str) -> dict[str, Any]:
    return {"faces": read_bytes(Path(path).read_bytes()), "torch": "torch" in sys.modules}


def measure_first_reference(path: str) -> dict[str, Any]:
    from ml.faces import load_detector

    faces = load_detector("mtcnn-tensorflow").detect(np.asarray(Image.open(path).convert("RGB")))
    return {"faces": len(faces), "megabytes": resident_megabytes()}


def memory() -> Row:
    """A web process that answers 1,000 photos of 200 sizes; flat: after 1,000 against after 500."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(as_jpeg(portrait(480, 640)))
        reference = in_process("measure_first_reference", str(path))["megabytes"]
    random = np.random.default_rng(0)
    sizes = random.integers(240, 900, (200, 2))
    photos = [as_jpeg(portrait(int(width), int(height))) for width, height in sizes]
    with web_server() as pid:
        post = Client().post
        for number in range(1000):
            post(photos[number % 200])
            if number == 499:
                half = resident_megabytes(pid)
        whole = resident_megabytes(pid)
    more = {"after_500": half, "growth": whole / half - 1}
    what = f"Memory of a web process after 1,000 photos ({whole / half - 1:+.1%} since the 500th)"
    return Row(what, "PyPI mtcnn after one", "MB", whole, reference, "≤ 700 MB, flat within 5 %", more)


@contextmanager
def web_server() -> Iterator[int]:
    """The site's web server on a database and a folder of its own; gives its process number."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"FER_VAR_DIR": folder, "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3"}
        # The exports of the networks are made once, not for every measurement.
        exports = Path(os.environ["FER_VAR_DIR"]) / "exports"
        if exports.is_dir():
            shutil.copytree(exports, Path(folder) / "exports")
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment, check=True)
        from fer_site.start import web_command

        server = subprocess.Popen(
            web_command(PORT), cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    Client().post(as_jpeg(portrait(480, 640)))
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
            yield server.pid
        finally:
            server.terminate()
            server.wait()


class Client:
    """A browser session that uploads photos and keeps its connection."""

    def __init__(self) -> None:
        self._connection = HTTPConnection("127.0.0.1", PORT, timeout=120)
        self._connection.request("GET", "/")
        response = self._connection.getresponse()
        page = response.read().decode()
        self._cookie = "; ".join(
            value.split(";")[0] for name, value in response.getheaders() if name.lower() == "set-cookie"
        )
        self._token = page.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]

    def post(self, photo: bytes) -> None:
        """Upload one photo and wait for its result; raises RuntimeError for any other answer than 201."""
        boundary = "bench"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\n'
            f"{self._token}\r\n"
            f'--{boundary}\r\nContent-Disposition: form-data; name="photos"; filename="photo.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        ).encode()
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Accept": "application/json",
            "Cookie": self._cookie,
        }
        self._connection.request(
            "POST", "/analyse/", head + photo + f"\r\n--{boundary}--\r\n".encode(), headers
        )
        response = self._connection.getresponse()
        answer = response.read()
        for name, value in response.getheaders():
            if name.lower() == "set-cookie" and value.startswith("sessionid"):
                self._cookie = f"{self._cookie.split('; sessionid')[0]}; {value.split(';')[0]}"
        if response.status != 201:
            raise RuntimeError(f"status {response.status}: {answer[:300]!r}")


def load(clients: int, each: int) -> tuple[float, list[float]]:
    """Photos a second of `clients` that post `each`, and every answer's seconds."""
    photo = as_jpeg(portrait(480, 640))
    sessions = [Client() for _ in range(clients)]
    seconds: list[float] = []
    start = threading.Barrier(clients + 1)

    def run(client: Client) -> None:
        client.post(photo)
        start.wait()
        for _ in range(each):
            began = time.perf_counter()
            client.post(photo)
            seconds.append(time.perf_counter() - began)

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(run, client) for client in sessions]
        start.wait()
        began = time.perf_counter()
        for future in running:
            future.result()
        whole = time.perf_counter() - began
    return clients * each / whole, seconds


def http_16_clients() -> Row:
    """Against the same work (read and store) in a bare loop on as many threads as cores, without HTTP."""
    with web_server():
        rate, seconds = load(CLIENTS, 20)
    bare = in_process("measure_bare_loop")["rate"]
    median, p99 = statistics.median(seconds), float(np.quantile(seconds, 0.99))
    more = {"median_ms": median * 1e3, "p99_ms": p99 * 1e3}
    what = f"{CLIENTS} clients posting 480×640 photos (p99 {p99 / median:.1f} × the median, no errors)"
    reach = "≥ 0.85, p99 ≤ 4 × median"
    return Row(what, "a bare loop on all cores", "photos/s", rate, bare, reach, more)


def measure_bare_loop() -> dict[str, float]:
    """Photos a second of `analyse_upload` called by as many threads as cores, its rows and files included."""
    from django.conf import settings
    from django.core.files.uploadedfile import SimpleUploadedFile
    from django.core.management import call_command
    from django.db import connections

    from ml.runtime import available_cores
    from recognition.access import Owner
    from recognition.services import analyse_upload

    with tempfile.TemporaryDirectory() as folder:
        settings.MEDIA_ROOT = folder
        settings.DATABASES["default"]["NAME"] = connections["default"].settings_dict["NAME"] = f"{folder}/db"
        call_command("migrate", verbosity=0)
        photo, each, cores = as_jpeg(portrait(480, 640)), 100, available_cores()

        def run(_: int) -> None:
            for _ in range(each):
                analyse_upload([SimpleUploadedFile("photo.jpg", photo)], Owner(word="bench"))

        run(0)
        began = time.perf_counter()
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(run, range(cores)))
        return {"rate": cores * each / (time.perf_counter() - began)}


def folder_of_1000() -> Row:
    """`predict_fmpn`'s way through a folder, against a loop over the single call."""
    from recognition.reading import find_photos, read_photos
    from recognition.services import get_predictor, upload_limits

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random = np.random.default_rng(1)
        for number in range(1000):
            width, height = (int(side) for side in random.integers(300, 700, 2))
            portrait(width, height).save(folder / f"{number:04}.jpg", quality=90)
        predictor, limits = get_predictor(), upload_limits()
        sources = find_photos([folder])
        for source in sources[:20]:
            read_bytes(source.path.read_bytes())
        began = time.perf_counter()
        for source in sources:
            read_bytes(source.path.read_bytes())
        single = time.perf_counter() - began
        began = time.perf_counter()
        for _ in read_photos(sources, predictor, limits, crops=False):
            pass
        together = time.perf_counter() - began
    what = "A folder of 1,000 photos, predict_fmpn"
    return Row(what, "a loop over the single call", "photos/s", 1000 / together, 1000 / single, "≥ 1.5")


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


def training_epoch() -> Row:
    """A joint epoch on faces in memory, against the same steps on tensors that are there already."""
    return Row(**in_process("measure_training"))


def measure_training() -> dict[str, Any]:
    import torch
    from torch.nn import functional as F

    from ml.config import PRESETS
    from ml.engine import BatchReport, Callbacks, FaceSet, Training, autocast_dtype, run_fold
    from ml.fmpn import FMPN
    from ml.motion_masks import BUNDLED_MASKS, load_motion_masks

    config = PRESETS["compact"].with_epochs(1, 1)
    stage, side, device = config.joint_stage, config.model.image_size, torch.device("cpu")
    batch, steps = stage.batch_size, RUNS + 3
    ends: list[float] = []

    def on_batch(report: BatchReport) -> None:
        ends.append(time.perf_counter())

    labels = torch.arange(batch * steps) % 8
    data = FaceSet(
        torch.randint(0, 256, (len(labels), 1, side, side), dtype=torch.uint8),
        F.one_hot(labels, 8).float(),
        labels,
    )
    with tempfile.TemporaryDirectory() as folder:
        masks = load_motion_masks(BUNDLED_MASKS, side)
        state = Path(folder) / "state.safetensors"
        model = FMPN(config.model)
        run_fold(Training(model, config, data, None, masks, 0, state, device, Callbacks(on_batch), "joint"))
    ours = [after - before for before, after in pairwise(ends[2:])]

    # The same step without data, augmentation, schedule, average or record keeping.
    model = FMPN(config.model).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    faces = torch.rand(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    targets, drawn_targets = data.targets[:batch], torch.rand(batch, 1, side, side)
    dtype = autocast_dtype(device)

    def step() -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            logits, drawn = model(faces)
        loss = F.cross_entropy(logits.float(), targets) + F.mse_loss(drawn.float(), drawn_targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    bare = take_turns(step)[0]
    return {
        "what": "Training, joint stage of compact, data in memory",
        "against": "the same model on synthetic tensors",
        "unit": "images/s",
        "ours": batch / statistics.median(ours),
        "reference": batch / bare,
        "reach": "≥ 0.90",
    }


ROWS: Final[tuple[Callable[[], Row], ...]] = (
    one_face_480x640,
    nine_faces_2711x1807,
    same_faces,
    classifier_1_face,
    classifier_32_faces,
    first_result,
    memory,
    http_16_clients,
    folder_of_1000,
    video_640x480,
    training_epoch,
)


# Growth -----------------------------------------------------------------------------------------------------


def growth() -> dict[str, list[tuple[str, str]]]:
    """How cost grows: one table a question."""

    def milliseconds(image: Image.Image) -> str:
        data = as_jpeg(image)
        return f"{take_turns(lambda: read_bytes(data), runs=8)[0] * 1e3:.0f} ms"

    sizes = ((320, 240), (640, 480), (1280, 960), (2560, 1920), (5120, 3840), (7300, 5475))
    tables = {
        "Faces in a photo of 1200×1200": [
            (str(faces), milliseconds(group(faces, 1200, 1200))) for faces in (1, 2, 4, 9, 16, 25)
        ],
        "Pixels of a photo with one face": [
            (f"{width}×{height}", milliseconds(portrait(width, height))) for width, height in sizes
        ],
    }
    by_clients = []
    with web_server():
        for clients in (1, 2, 4, 8, 16, 32):
            rate, seconds = load(clients, 10)
            median = statistics.median(seconds) * 1e3
            by_clients.append((str(clients), f"{rate:.1f} photos/s, median {median:.0f} ms"))
    return tables | {"Clients that post at once": by_clients}


# Telling ----------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    from ml.runtime import available_cores

    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
        model = lines[0].split(":")[1].strip() if lines else model
    versions = {
        name: importlib.import_module(name).__version__ for name in ("openvino", "cv2", "numpy", "django")
    }
    return {
        "processor": model,
        "cores": available_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "threads": f"{available_cores()} streams of one thread (OpenVINO), {available_cores()} (torch)",
        "gpu": "not measured",
        "versions": versions,
    }


def as_table(rows: dict[str, Row]) -> str:
    lines = ["| What | Ours | Reference | Ratio | Reach |", "|---|---|---|---|---|"]
    for row in rows.values():
        reference = f"{row.reference:.3g} {row.unit} ({row.against})" if row.reference else "–"
        ratio = f"{row.ratio:.2f}" if row.ratio else "–"
        lines.append(f"| {row.what} | {row.ours:.3g} {row.unit} | {reference} | {ratio} | {row.reach} |")
    return "\n".join(lines)


def write_docs(rows: dict[str, Row], tables: dict[str, list[tuple[str, str]]]) -> None:
    """Put the tables between the marks of docs/performance.md."""
    facts = machine()
    text = [
        f"{facts['processor']}, {facts['cores']} cores, {facts['system']}, Python {facts['python']}; "
        f"{facts['threads']}. GPU: {facts['gpu']}. Medians over {RUNS} runs after a warm-up.",
        "",
        as_table(rows),
    ]
    for title, table in tables.items():
        text += ["", f"**{title}**", "", "| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in table)]
    before, rest = DOCS.read_text(encoding="utf-8").split("<!-- bench -->\n")
    after = rest.split("<!-- /bench -->")[1]
    body = "\n".join(text)
    DOCS.write_text(f"{before}<!-- bench -->\n{body}\n<!-- /bench -->{after}", encoding="utf-8")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fer_site.bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(row.__name__ for row in ROWS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and rows (or BENCH_JSON)")
    parser.add_argument("--docs", action="store_true", help="write docs/performance.md, with how cost grows")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fer_site.settings")
    os.environ.setdefault("FER_VAR_DIR", str(ROOT / "var"))
    import django

    django.setup()
    if options.call:
        result = globals()[options.call](*options.rows)
        if result is not None:
            say(json.dumps(result))
        return
    rows: dict[str, Row] = {}
    chosen = [row for row in ROWS if not options.rows or row.__name__ in options.rows]
    for row in chosen:
        began = time.perf_counter()
        rows[row.__name__] = row()
        say(as_table({"": rows[row.__name__]}).splitlines()[-1] + f"  ({time.perf_counter() - began:.0f} s)")
    say("\n" + as_table(rows))
    file = options.json or (Path(os.environ["BENCH_JSON"]) if os.environ.get("BENCH_JSON") else None)
    if file:
        file.write_text(json.dumps({"machine": machine(), "rows": _as_json(rows)}, indent=1) + "\n")
    if options.docs:
        write_docs(rows, growth())


def _as_json(rows: dict[str, Row]) -> dict[str, Any]:
    """{"ms": ours, "reference_ms": …, "ratio": …}, the key in the row's own unit."""
    names = {"ms": "ms", "s": "s", "MB": "mb", "photos/s": "photos_per_s", "images/s": "images_per_s"}
    result = {}
    for name, row in rows.items():
        unit = names.get(row.unit, row.unit.replace("/", "_per_"))
        result[name] = {unit: row.ours, f"reference_{unit}": row.reference, "ratio": row.ratio, **row.more}
    return result


if __name__ == "__main__":
    main()
