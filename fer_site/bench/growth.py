"""How cost grows: one table a question."""

import statistics
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from PIL import Image

from fer_site.bench.measuring import RUNS, beside, in_process, take_turns
from fer_site.bench.photos import as_jpeg, group, portrait
from fer_site.bench.processes import CLIENTS
from fer_site.bench.reading import read_bytes, through_folder
from fer_site.bench.serving import load, web_servers
from fer_site.bench.telling import Tables
from fer_site.bench.training import FACES_OF_FOLD, measure_folds, train_without_end
from fer_site.start import NICENESS_OF_TRAINING, giving_way

SIZES: Final = ((320, 240), (640, 480), (1280, 960), (2560, 1920), (5120, 3840), (7300, 5475))


def growth() -> Tables:
    return {
        "Faces in a photo of 1200×1200": [
            (f"{faces}", _milliseconds(group(faces, 1200, 1200))) for faces in (1, 2, 4, 9, 16, 25)
        ],
        "Pixels of a photo with one face": [
            (f"{width}×{height}", _milliseconds(portrait(width, height))) for width, height in SIZES
        ],
        "Photos of a folder, predict_fmpn": [(f"{photos}", _folder(photos)) for photos in (10, 100, 1000)],
        "Clients that post at once, one web process": [
            (f"{clients}", _clients(1, clients)) for clients in (1, 2, 4, 8, 16, 32)
        ],
        f"Web processes, {CLIENTS} clients": [
            (f"{processes}", _clients(processes, CLIENTS)) for processes in (1, 2, 4)
        ],
        "A photo of 480×640 while a fold is trained on the same cores": [
            ("nothing is trained", _milliseconds(portrait(480, 640), RUNS)),
            ("a training of equal rank", _while_training(0)),
            ("one that gives way, as `make run` starts it", _while_training(NICENESS_OF_TRAINING)),
        ],
        f"Folds of {FACES_OF_FOLD} faces, one epoch each, on training workers of this machine": [
            (f"{folds} on {workers}", _folds(folds, workers))
            for folds, workers in ((1, 1), (2, 1), (4, 1), (4, 2))
        ],
    }


def _milliseconds(image: Image.Image, runs: int = 8) -> str:
    data = as_jpeg(image)
    return f"{take_turns(lambda: read_bytes(data), runs=runs)[0] * 1e3:.0f} ms"


def _while_training(niceness: int) -> str:
    with beside(train_without_end, *giving_way(niceness)):
        return _milliseconds(portrait(480, 640), RUNS)  # one falls into a step, another between two


def _folder(photos: int) -> str:
    seconds = through_folder(photos)[1]
    return f"{seconds:.1f} s, {photos / seconds:.1f} photos/s"


def _clients(processes: int, clients: int) -> str:
    with web_servers(processes) as servers:
        rate, seconds = load(servers, clients, 10)
    return f"{rate:.1f} photos/s, median {statistics.median(seconds) * 1e3:.0f} ms"


def _folds(folds: int, workers: int) -> str:
    """Each worker is a process that takes its share, one fold after the other."""
    share = partial(in_process, measure_folds, str(folds // workers), str(FACES_OF_FOLD))
    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(share) for _ in range(workers)]
        return f"{max(future.result()['seconds'] for future in running):.0f} s"
