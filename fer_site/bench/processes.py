"""Rows about whole processes: their start, the web server and its memory."""

import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from fer_site.bench.measuring import Row, in_process, resident_megabytes, take_turns
from fer_site.bench.photos import as_jpeg, portrait
from fer_site.bench.reading import read_bytes
from fer_site.bench.serving import Client, load, web_servers

CLIENTS: Final = 16


def first_result() -> Row:
    """Seconds from the start of a fresh Python to the first result, the median of five."""
    data = as_jpeg(portrait(480, 640))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(data)
        processes = measure_first_result, measure_first_reference
        ours, theirs = take_turns(*(partial(in_process, call, str(path)) for call in processes), runs=5)
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
        reference = in_process(measure_first_reference, str(path))["megabytes"]
    random = np.random.default_rng(0)
    sizes = random.integers(240, 900, (200, 2))
    photos = [as_jpeg(portrait(int(width), int(height))) for width, height in sizes]
    with web_servers() as (server,):
        post = Client(server).post
        for number in range(1000):
            post(photos[number % 200])
            if number == 499:
                half = resident_megabytes(server.pid)
        whole = resident_megabytes(server.pid)
    more = {"after_500": half, "growth": whole / half - 1}
    what = f"Memory of a web process after 1,000 photos ({whole / half - 1:+.1%} since the 500th)"
    return Row(what, "PyPI mtcnn after one", "MB", whole, reference, "≤ 700 MB, flat within 5 %", more)


def http_16_clients() -> Row:
    """Against the same work (read and store) in a bare loop on as many threads as cores, without HTTP."""
    with web_servers() as servers:
        rate, seconds = load(servers, CLIENTS, 20)
    bare = in_process(measure_bare_loop)["rate"]
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

    settings.FER_PHOTOS_AT_ONCE = available_cores()
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
