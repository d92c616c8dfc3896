"""The old project's label files: pickles, read without trusting them.

A pickle may name any function and have it called. This unpickler knows only the five names that numpy's
arrays and numbers need, puts plain Python in their place (numpy's own __setstate__ crashes the process on a
forged state), and refuses every other name before anything runs.
"""

import io
import pickle
import pickletools
import re
import reprlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from ml.datasets.samples import DatasetError

MAX_BYTES: Final = 4 * 1024 * 1024  # the old files have 16 KB


def read_labels(path: Path) -> dict[str, int]:
    """Return the old project's numbers (1..7, -1) by the name of a sequence.

    Raises DatasetError for a file that is missing, longer than 4 MB, broken, no mapping of names to whole
    numbers, or that asks for anything but built-in containers, strings, numbers and numpy arrays: the
    message says for what.
    """
    labels = load_plain_pickle(path)
    if not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels):
        raise DatasetError(f"{path} does not hold a mapping of names to labels.")
    return {name: _whole_number(label, name, path) for name, label in labels.items()}


def load_plain_pickle(path: Path) -> Any:
    """Return what the pickle holds in plain containers, strings and numbers.

    A numpy number becomes a Python number, a numpy array the flat list of its values in memory order.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DatasetError(f"The label file {path} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise DatasetError(f"The label file {path} is longer than {MAX_BYTES} bytes.")
    try:
        _check_memory(data)
        return PlainUnpickler(io.BytesIO(data)).load()
    except Refused as error:
        raise DatasetError(f"The label file {path} asks for {error}, which labels never need.") from None
    except Exception as error:  # a broken stream can fail in any way
        raise DatasetError(f"The label file {path} is no sound pickle: {error}.") from error


class Refused(pickle.UnpicklingError):
    """The pickle names something that is not on the list; the text is its dotted name."""


class PlainUnpickler(pickle.Unpickler):
    """Builds containers, strings and numbers, also out of numpy's; raises Refused for any other name."""

    def find_class(self, module: str, name: str) -> Any:
        # numpy 1 kept in numpy.core what numpy 2 keeps in numpy._core
        found = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise Refused(f"{module}.{name}")
        return found


def _check_memory(data: bytes) -> None:
    """Walk through the stream without running it: lengths must fit the file, and so must memo positions (the
    C unpickler would make room for four thousand million entries on the word of five bytes); and no tuple is
    there twice, which forty times in each other would take for ever to be hashed.
    """
    made: dict[object, str] = {}  # a memo position: what made what lies there
    last = ""
    for opcode, argument, _ in pickletools.genops(data):
        if "PUT" in opcode.name:
            if isinstance(argument, int) and argument > len(data):
                raise pickle.UnpicklingError("a memo position is out of bounds")
            made[argument] = last
        elif opcode.name == "MEMOIZE":
            made[len(made)] = last
        elif opcode.name == "DUP" or ("GET" in opcode.name and "TUPLE" in made.get(argument, "")):
            raise pickle.UnpicklingError("it has the same tuple twice")
        else:
            last = opcode.name


class _Dtype:
    """What stands for a numpy.dtype: a plain kind such as f8, and its byte order."""

    def __init__(self, kind: str, *_: object) -> None:
        if not re.fullmatch("[biufSU][0-9]{1,3}", kind):
            raise Refused(f"a numpy array of type {kind!r}")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])

    def values(self, data: bytes) -> list[Any]:
        values: list[Any] = np.frombuffer(data, self.dtype).tolist()
        return values


class _Array(list[Any]):
    """What stands for a numpy.ndarray: made empty, then filled with its values."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, _shape, dtype, _fortran, data = state
        self[:] = dtype.values(data)


def _empty_array(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    (value,) = dtype.values(data)
    return value


def _encode(text: str, _encoding: str) -> bytes:
    """Protocol 2 writes bytes as text."""
    return text.encode("latin1")


_STAND_INS: Final[dict[tuple[str, str], object]] = {
    ("numpy", "ndarray"): "numpy.ndarray",  # only ever an argument of _reconstruct, which ignores it here
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
}


def _whole_number(label: object, name: str, path: Path) -> int:
    value = label[0] if isinstance(label, list) and len(label) == 1 else label
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise DatasetError(f"{path} labels {name!r} with {reprlib.repr(label)}, which is no whole number.")
