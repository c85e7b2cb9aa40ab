"""Reads datasets and text attributes of HDF5 files, and turns the errors of h5py into StoreError."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import row_ranges
from sppfeat.config.wording import one_line
from sppfeat.errors import StoreError

__all__ = ["hdf5_errors", "read_dataset", "read_in_parts", "text_attribute"]

_PART_NBYTES = 4 << 20  # of one part of a dataset; of texts, the references count


@contextlib.contextmanager
def hdf5_errors(path: Path, what: str) -> Iterator[None]:
    """Turn any error that h5py raises into a StoreError that names the file and what failed.

    Depending on the damaged byte, h5py raises nearly any type of error. Use this around reads only, so that it hides
    no bugs.
    """
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise StoreError(f"{str(path)!r}: {what}: {one_line(str(error))}") from error


def text_attribute(file: h5py.File, name: str, path: Path) -> str | None:
    """Return a text attribute of the file, decoded by ``os.fsdecode``; None if it is missing or not a text.

    Raises:
        StoreError: the attribute cannot be read.
    """
    with hdf5_errors(path, f"cannot read the attribute {name!r}"):
        value = file.attrs.get(name)
    if isinstance(value, bytes):
        return os.fsdecode(bytes(value))
    return str(value) if isinstance(value, str) else None


def read_dataset(file: h5py.File, name: str, path: Path) -> npt.NDArray[Any]:
    """Return the content of a dataset of a checked file; texts come as bytes.

    Raises:
        StoreError: the dataset cannot be read.
    """
    with hdf5_errors(path, f"cannot read /{name}"):
        return np.asarray(file[name][()])


def read_in_parts(file: h5py.File, name: str, path: Path) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Yield a dataset of a checked file in parts: a range of entries, and their values.

    Raises:
        StoreError: the dataset cannot be read.
    """
    dataset = file[name]
    row_nbytes = math.prod(dataset.shape[1:]) * dataset.id.get_type().get_size()
    for part in row_ranges(len(dataset), row_nbytes=row_nbytes, nbytes=_PART_NBYTES):
        with hdf5_errors(path, f"cannot read /{name}"):
            content = np.asarray(dataset[part])
        yield part, content
