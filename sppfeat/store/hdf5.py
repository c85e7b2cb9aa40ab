"""Reads HDF5 files, and checks that one is a feature file: known schema, consistent, each dataset in one piece.

A file that somebody crafted to harm HDF5 itself is not told apart from a good one.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import one_line
from sppfeat.errors import StoreError
from sppfeat.store.schema import (
    FORMAT,
    REDUCED_SCHEMA_VERSION,
    ROW_COLUMNS,
    ColumnBlock,
    check_dimension,
    columns_of,
)

__all__ = [
    "StoredFeatures",
    "check_layout",
    "hdf5_errors",
    "is_reduced",
    "read_column_blocks",
    "read_dataset",
    "text_attribute",
]

_DAMAGED = "cannot be read as a feature file, it is damaged"
_ATTRIBUTES = ("sppfeat_version", "config", "fingerprint", "weights_sha256", "input_root")
_LAYOUTS = {h5py.h5d.COMPACT: "compact", h5py.h5d.CHUNKED: "chunked", h5py.h5d.VIRTUAL: "virtual"}


class StoredFeatures(NamedTuple):
    """The dataset ``/features``."""

    shape: tuple[int, int]
    dtype: np.dtype[np.floating[Any]]
    offset: int | None  # of the first byte in the file; None if the dataset is virtual or empty
    is_virtual: bool  # True if the descriptors are stored in other files, listed in /sources


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
    """Return a text attribute of the file, decoded by ``os.fsdecode``; None if it is missing or not a text."""
    with hdf5_errors(path, f"cannot read the attribute {name!r}"):
        value = file.attrs.get(name)
    if isinstance(value, bytes):
        return os.fsdecode(bytes(value))
    return str(value) if isinstance(value, str) else None


def read_dataset(file: h5py.File, name: str, path: Path) -> npt.NDArray[Any]:
    """Return the content of a dataset of a checked file; texts come as bytes."""
    with hdf5_errors(path, f"cannot read /{name}"):
        return np.asarray(file[name][()])


def check_layout(file: h5py.File, path: Path) -> StoredFeatures:
    """Check that every dataset of an open file has the place, type and shape of the schema, and agrees with the others.

    No other file is opened: for virtual descriptors ``/sources`` is checked, but not the files it names.
    """
    with hdf5_errors(path, _DAMAGED):
        _check_attributes(file, path)
        stored = _check_features(file, path)
        columns = columns_of(
            ids="images/id" in file,
            boxes=any(name in file for name in ROW_COLUMNS),
            reduction=is_reduced(file),
            sources=stored.is_virtual,
        )
        sizes = dict(zip("RD", stored.shape, strict=True))
        for name, (shape, dtype) in columns.items():
            _check_column(file, name, shape, dtype, sizes, path)
        try:
            check_dimension(read_column_blocks(file, path), sizes["D"])
        except StoreError as error:
            raise StoreError(f"{str(path)!r}: {error}") from error
        _check_rows(file, sizes, path)
        if stored.is_virtual:
            _check_sources(file, sizes, path)
        return stored


def read_column_blocks(file: h5py.File, path: Path) -> tuple[ColumnBlock, ...]:
    """Return the blocks of columns that ``/columns`` records."""
    layers = [bytes(layer).decode() for layer in read_dataset(file, "columns/layer", path)]
    numbers = (read_dataset(file, f"columns/{name}", path).tolist() for name in ColumnBlock._fields[1:])
    return tuple(ColumnBlock(*block) for block in zip(layers, *numbers, strict=True))


def is_reduced(file: h5py.File) -> bool:
    """Return True if the file has the attribute or the group of a reduction."""
    return "reduction" in file.attrs or "reduction" in file


def _check_attributes(file: h5py.File, path: Path) -> None:
    where = repr(str(path))
    if text_attribute(file, "format", path) != FORMAT:
        raise StoreError(f"{where} is HDF5, but no feature file: its attribute 'format' is not {FORMAT!r}")
    version = file.attrs.get("schema_version")
    if not isinstance(version, np.integer) or version < 1:
        raise StoreError(f"{where}: schema_version is {one_line(str(version))}; allowed: a number from 1")
    if version > REDUCED_SCHEMA_VERSION:
        raise StoreError(
            f"{where} has schema {version}; this sppfeat reads up to {REDUCED_SCHEMA_VERSION}: update it"
        )
    for name in (*_ATTRIBUTES, "reduction") if is_reduced(file) else _ATTRIBUTES:
        if text_attribute(file, name, path) is None:
            raise StoreError(f"{where} has no text attribute {name!r}")


def _check_features(file: h5py.File, path: Path) -> StoredFeatures:
    features = _dataset(file, "features", path)
    if features.ndim != 2 or features.dtype not in (np.dtype("<f4"), np.dtype("<f2")):
        found = one_line(str(features.dtype))
        raise StoreError(f"{str(path)!r}: /features is {found} of {features.shape}; allowed: (R, D) f4 or f2")
    # Only 'sppfeat merge' makes /features virtual, and it records the sources.
    is_virtual = features.is_virtual and "sources" in file
    offset = None if is_virtual else _check_extent(file, "features", features, path)
    return StoredFeatures(features.shape, features.dtype, offset, is_virtual)


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    # A link may lead to another file.
    if name not in file or not isinstance(file[name], h5py.Dataset) or file[name].file != file:
        raise StoreError(f"{str(path)!r} has no dataset /{name}")
    return file[name]


def _check_column(
    file: h5py.File,
    name: str,
    wanted: tuple[str | int, ...],
    dtype: str,
    sizes: dict[str, int],
    path: Path,
) -> None:
    """Compare one dataset with the schema; ``sizes`` holds the lengths of named dimensions, and is extended."""
    dataset = _dataset(file, name, path)
    shape = dataset.shape or ()
    if dtype == "string":
        right_type = h5py.check_string_dtype(dataset.dtype) is not None
    else:
        right_type = dataset.dtype == np.dtype(dtype)
    right_shape = len(shape) == len(wanted) and all(
        (sizes.setdefault(side, found) if isinstance(side, str) else side) == found
        for side, found in zip(wanted, shape, strict=True)
    )
    if not right_type or not right_shape:
        sides = tuple(sizes.get(side, side) if isinstance(side, str) else side for side in wanted)
        found = one_line(str(dataset.dtype))
        raise StoreError(f"{str(path)!r}: /{name} is {found} of shape {shape}, not {dtype} of {sides}")
    _check_extent(file, name, dataset, path)


def _check_extent(file: h5py.File, name: str, dataset: h5py.Dataset, path: Path) -> int | None:
    """Return the position of a dataset, which must be one allocated piece of the file; None if it is empty.

    Reading past the end of the file through a memory map kills the process, and a run that continues the file would
    write there.
    """
    properties = dataset.id.get_create_plist()
    kind = "external" if properties.get_external_count() else _LAYOUTS.get(properties.get_layout())
    if kind is not None:
        raise StoreError(
            f"{str(path)!r}: /{name} is {kind}; allowed: contiguous, in the file itself, as sppfeat writes it and "
            "'h5repack -l CONTI' makes it of a chunked one"
        )
    if 0 in dataset.shape:
        return None
    offset, file_nbytes = dataset.id.get_offset(), os.fstat(file.id.get_vfd_handle()).st_size
    if offset is None:
        raise StoreError(f"{str(path)!r}: /{name} was never written: {dataset.shape}, without storage")
    content = math.prod(dataset.shape) * dataset.dtype.itemsize  # numpy's product would overflow
    if offset + max(content, dataset.id.get_storage_size()) > file_nbytes:
        raise StoreError(
            f"{str(path)!r} is truncated: /{name} ends behind the end of the file ({file_nbytes} bytes)"
        )
    return int(offset)


def _check_rows(file: h5py.File, sizes: dict[str, int], path: Path) -> None:
    rows = file["images/rows"][()]
    if not _divides(rows[:, 0], rows[:, 1], sizes["R"]):
        raise StoreError(
            f"{str(path)!r}: /images/rows does not divide the {sizes['R']} rows among the images"
        )
    image_index = file["image_index"][()]
    if ((image_index < 0) | (image_index >= sizes["N"])).any():
        raise StoreError(
            f"{str(path)!r}: /image_index names images that do not exist; there are {sizes['N']}"
        )
    for name, limit in (("row_source", "X"), ("row_label", "Q"), ("box_row", "R")) if "X" in sizes else ():
        numbers = file[name][()]
        least = 0 if name == "row_source" else -1
        if ((numbers < least) | (numbers >= sizes[limit])).any():
            raise StoreError(f"{str(path)!r}: /{name} holds numbers outside {least} to {sizes[limit] - 1}")


def _check_sources(file: h5py.File, sizes: dict[str, int], path: Path) -> None:
    for what, n in (("image", sizes["N"]), ("row", sizes["R"])):
        if not _divides(file[f"sources/first_{what}"][()], file[f"sources/stop_{what}"][()], n):
            raise StoreError(f"{str(path)!r}: /sources does not divide the {n} {what}s among the sources")


def _divides(first: Any, stop: Any, n: int) -> bool:
    """Return True if half-open ranges follow one another from 0 to ``n``."""
    starts = np.concatenate(([0], stop))
    return bool((first == starts[:-1]).all() and (first <= stop).all() and starts[-1] == n)
