"""Running a trained network: OpenVINO on a CPU, torch on a GPU. The choice is made here and nowhere else.

On a CPU a network is exported once, which takes torch and some seconds, and opened from the folder of exports
ever after, which takes a tenth of a second and no torch: a process that only reads photos never imports it.
(`make bench`: a face in half of eager torch's time.) An export is known by the network's weights, the code
that defines it, the shape it is made for and OpenVINO's version, so it is never stale.

There a network sees inputs of one shape, ever. OpenVINO's code for a shape that is fixed takes half the time
of its code for any shape; and every further shape costs milliseconds to compile for, and memory to keep.
"""

import hashlib
import importlib.util
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from openvino import InferRequest
    from torch import nn

Arrays = tuple[NDArray[Any], ...]
Batch = NDArray[Any] | Sequence[NDArray[Any]]

DEVICES: Final = ("auto", "cpu", "cuda")
GPU_DRIVERS: Final = ("libcuda.so.1", "nvcuda.dll")
MARK_EVERY: Final = 24 * 3600.0  # seconds between two signs that an export is in use
BATCHES_ON_GPU: Final = 64  # of a CPU's batches, how many a GPU takes at once: bounds its memory

_exports: Path | None = None
_first_look = threading.Lock()


class Network(Protocol):
    """A network ready to run; threads may share it."""

    def __call__(self, inputs: Iterable[NDArray[Any]]) -> Arrays:
        """Run N ≥ 1 inputs of the network's own shape and type; every output is an array of N rows.

        They come as an array (N, …) or one after the other; the first are run while the next are made.
        """
        ...


@dataclass(frozen=True, eq=False)
class _Slot:
    """A place in which one batch runs, with its arrays: to look them up for each batch costs, too."""

    request: "InferRequest"
    input: NDArray[Any]
    outputs: list[NDArray[Any]]


class DeviceError(ValueError):
    """A device that is not to be had; its text is a sentence fit for a person."""


def set_exports_folder(folder: Path) -> None:
    """Keep exports in `folder` from now on, in place of ~/.cache/fmpn-fer/exports."""
    global _exports
    _exports = folder


def exports_folder() -> Path:
    # Asked for here: where nobody's home is known, as in some containers, that raises.
    return _exports or Path.home() / ".cache" / "fmpn-fer" / "exports"


def choose_device(name: str) -> str:
    """ "cpu" or "cuda": "auto" is the GPU where there is one.

    Raises DeviceError for "cuda" without a GPU, or another name.
    """
    if name not in DEVICES:
        raise DeviceError(f"There is no device {name!r}: known are auto, cpu and cuda.")
    if name == "cpu" or (name == "auto" and not _has_gpu()):
        return "cpu"
    if not _has_gpu():
        raise DeviceError("There is no CUDA GPU here: choose the device cpu or auto.")
    return "cuda"


@cache
def _has_gpu() -> bool:
    # Without the driver there is no need to ask torch, whose import takes seconds.
    import ctypes

    for driver in GPU_DRIVERS:
        try:
            ctypes.CDLL(driver)
        except OSError:
            continue
        import torch

        return torch.cuda.is_available()
    return False


def open_network(
    name: str, module: str, make: "Callable[[], nn.Module]", example: NDArray[Any], device: str
) -> Network:
    """Open a network on "cpu" or "cuda".

    name: of the weights, their digest in it. module: of the code that defines the network, as `ml.fmpn`.
    make: builds it, in eval mode. It takes one array and gives a tuple of arrays. example: one such array,
    (B, …): a CPU runs B inputs at once, no more and no fewer.
    """
    if device == "cuda":
        return _on_gpu(make(), len(example) * BATCHES_ON_GPU)
    folder = exports_folder() / f"{name}-{_code_digest(module, example.shape)}"
    if not _is_whole(folder):
        _export(make(), example, folder)
    _mark(folder)
    return _on_cpu(folder)


def _on_gpu(network: "nn.Module", at_once: int) -> Network:
    import torch

    network = network.requires_grad_(False).to("cuda")
    turn = threading.Lock()

    @torch.inference_mode()
    def run(inputs: Iterable[NDArray[Any]]) -> Arrays:
        whole = inputs if isinstance(inputs, np.ndarray) else np.stack(list(inputs))
        with turn:
            batches = torch.split(torch.from_numpy(whole), at_once)
            outputs = [network(batch.to("cuda", non_blocking=True)) for batch in batches]
            return tuple(torch.cat(parts).cpu().numpy() for parts in zip(*outputs, strict=True))

    return run


def _mark(folder: Path) -> None:
    """Say that an export is in use, for `sweep_exports`."""
    with suppress(OSError):
        (folder / "sha256").touch()


def _on_cpu(folder: Path) -> Network:
    # Batches run beside each other, one a stream, and so do requests, without fighting for the cores. A
    # stream has one thread, or two where most requests bring a single input and leave other cores idle.
    # Full precision: the answers are eager torch's to five digits.
    cores = available_cores()
    model = _core().read_model(folder / "model.xml")
    size: int = model.input().shape[0]
    streams = max(1, cores // 2) if size == 1 else cores
    compiled = _core().compile_model(
        model,
        "CPU",
        {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": cores, "INFERENCE_PRECISION_HINT": "f32"},
    )

    def make_slot() -> _Slot:
        request = compiled.create_infer_request()
        return _Slot(request, request.get_input_tensor().data, [out.data for out in request.output_tensors])

    # The first look at a tensor is when OpenVINO finds numpy, for the whole process. Of two threads that
    # take it at once each waits for the other, for ever: so it is taken here, by one at a time.
    with _first_look:
        idle = deque([make_slot()])

    def start(batch: Batch) -> _Slot:
        try:
            slot = idle.pop()
        except IndexError:
            slot = make_slot()
        # Where the last batch is not full, what was there before is run again and not looked at.
        slot.input[: len(batch)] = batch
        slot.request.start_async()
        return slot

    marked = time.monotonic()

    def run(inputs: Iterable[NDArray[Any]]) -> Arrays:
        nonlocal marked
        if time.monotonic() - marked > MARK_EVERY:  # whoever starts next would have to export it anew
            marked = time.monotonic()
            _mark(folder)
        outputs: list[Arrays] = []
        running: deque[tuple[int, _Slot]] = deque()

        def finish() -> None:
            rows, slot = running.popleft()
            slot.request.wait()
            # Copied: the slot goes on to the next batch.
            outputs.append(tuple(output[:rows].copy() for output in slot.outputs))
            idle.append(slot)

        for batch in _batches(inputs, size):
            if len(running) == 2 * streams:  # each stream has one more to go on with
                finish()
            running.append((len(batch), start(batch)))
        while running:
            finish()
        return tuple(np.concatenate(parts) for parts in zip(*outputs, strict=True))

    return run


def _batches(inputs: Iterable[NDArray[Any]], size: int) -> Iterator[Batch]:
    if isinstance(inputs, np.ndarray):
        yield from (inputs[first : first + size] for first in range(0, len(inputs), size))
        return
    rest = iter(inputs)
    while batch := list(islice(rest, size)):
        yield batch


@cache
def _core() -> Any:
    import cv2
    import openvino

    cv2.setNumThreads(2)  # one photo is scaled faster; several share the cores already
    return openvino.Core()


def available_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _export(network: "nn.Module", example: NDArray[Any], folder: Path) -> None:
    """Write the network for OpenVINO, whole or not at all."""
    import warnings

    import openvino
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about the tracer that OpenVINO uses
        model = openvino.convert_model(network.requires_grad_(False), example_input=torch.from_numpy(example))
    model.reshape(example.shape)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        openvino.save_model(model, partial / "model.xml", compress_to_fp16=False)
        (partial / "sha256").write_text(_digest(partial))
        _move(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, folder: Path) -> None:
    """Move an export to its place, unless another process was faster: that may be reading its own there."""
    # Moved first and looked at after: what is looked at first may be another's when it is removed.
    with suppress(OSError):
        partial.rename(folder)
        return
    try:
        if not _is_whole(folder):  # the place is taken by a damaged one
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    except OSError:
        if not _is_whole(folder):
            raise


def sweep_exports(days: float) -> None:
    """Remove exports that nobody opened for so long: of weights that are gone, or of an older version."""
    exports = exports_folder()
    for folder in exports.glob("*") if exports.is_dir() else ():
        mark = folder / "sha256"
        with suppress(OSError):
            opened = (mark if mark.exists() else folder).stat().st_mtime
            if time.time() - opened > days * 24 * 3600:
                shutil.rmtree(folder)


def _is_whole(folder: Path) -> bool:
    try:
        return (folder / "sha256").read_text() == _digest(folder)
    except OSError:
        return False


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("model.xml", "model.bin"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _code_digest(module: str, shape: tuple[int, ...]) -> str:
    """Changes with the code of `module`, this file, the shape and OpenVINO's version."""
    spec = importlib.util.find_spec(module)
    digest = hashlib.sha256(f"{version('openvino')} {shape}".encode())
    for path in (spec and spec.origin, __file__):
        assert path, f"{module} is a file of this project"
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:12]
