"""Whether an open HDF5 file is a feature file of a schema that this program knows."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np

from sppfeat.errors import StoreError
from sppfeat.schema import COLUMNS, FORMAT, ROW_COLUMNS, SCHEMA_VERSION, ColumnBlock, check_dimension

__all__ = ["check_layout", "hdf5_errors", "read_column_blocks", "text_attribute"]

_ATTRIBUTES = ("sppfeat_version", "config", "fingerprint", "weights_sha256", "input_root")


@contextlib.contextmanager
def hdf5_errors(path: Path, what: str) -> Iterator[None]:
    """Turn whatever h5py raises into a StoreError.

    On a damaged file that is nearly every type there is, depending on which byte is damaged: hence the
    narrow use, around reading alone.
    """
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise StoreError(f"{str(path)!r}: {what}: {error}") from error


def check_layout(file: h5py.File, path: Path) -> None:
    """Raise StoreError unless every dataset is there, of the right type and size, and they fit each other.

    Args:
        file: the open file.
        path: how it is called in messages.
    """
    with hdf5_errors(path, "cannot be read as a feature file, it is damaged"):
        _check_attributes(file, path)
        features = _dataset(file, "features", path)
        shape: tuple[int, ...] = features.shape or ()
        if len(shape) != 2 or features.dtype not in (np.dtype("<f4"), np.dtype("<f2")):
            raise StoreError(
                f"{str(path)!r}: /features is {features.dtype} of {shape}; allowed: (R, D) f4 or f2"
            )
        sizes = {"R": shape[0]}
        columns = _columns(file)
        for name, (wanted, dtype) in columns.items():
            _check_column(_dataset(file, name, path), wanted, dtype, sizes, path)
        _check_extents(file, ("features", *columns), path)
        try:
            check_dimension(read_column_blocks(file), shape[1])
        except StoreError as error:
            raise StoreError(f"{str(path)!r}: {error}") from error
        _check_rows(file, sizes, path)


def read_column_blocks(file: h5py.File) -> tuple[ColumnBlock, ...]:
    """Return which column of a descriptor is what."""
    layers = [bytes(layer).decode() for layer in file["columns/layer"][()]]
    numbers = (file[f"columns/{name}"][()].tolist() for name in ColumnBlock._fields[1:])
    return tuple(ColumnBlock(*block) for block in zip(layers, *numbers, strict=True))


def text_attribute(file: h5py.File, name: str) -> str | None:
    """Return a text attribute of the file, or None where there is none; bytes as ``os.fsdecode`` has them."""
    value = file.attrs.get(name)
    if isinstance(value, bytes):
        return os.fsdecode(bytes(value))
    return value if isinstance(value, str) else None


def _columns(file: h5py.File) -> dict[str, tuple[tuple[str | int, ...], str]]:
    """Return the datasets that a file must have beside the features: more where there are boxes."""
    return {**COLUMNS, **ROW_COLUMNS} if any(name in file for name in ROW_COLUMNS) else {**COLUMNS}


def _check_attributes(file: h5py.File, path: Path) -> None:
    where = repr(str(path))
    if text_attribute(file, "format") != FORMAT:
        raise StoreError(f"{where} is HDF5, but no feature file: its attribute 'format' is not {FORMAT!r}")
    version = file.attrs.get("schema_version")
    if not isinstance(version, int | np.integer) or version < 1:
        raise StoreError(f"{where}: schema_version is {version}; allowed: a number from 1")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{where} has schema {version}; this sppfeat reads up to {SCHEMA_VERSION}: update it"
        )
    for name in _ATTRIBUTES:
        if text_attribute(file, name) is None:
            raise StoreError(f"{where} has no text attribute {name!r}")


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise StoreError(f"{str(path)!r} has no dataset /{name}")
    return dataset


def _check_column(
    dataset: h5py.Dataset, wanted: tuple[str | int, ...], dtype: str, sizes: dict[str, int], path: Path
) -> None:
    """Compare one dataset with the schema; ``sizes`` collects what its letters stand for."""
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
        raise StoreError(
            f"{str(path)!r}: {dataset.name} is {dataset.dtype} of shape {shape}, not {dtype} of {sides}"
        )


def _check_extents(file: h5py.File, names: Iterable[str], path: Path) -> None:
    """Refuse datasets that end behind the end of the file: reading them through a map kills the process."""
    size = os.fstat(file.id.get_vfd_handle()).st_size
    for name in names:
        dataset = file[name]
        offset = dataset.id.get_offset()
        if offset is not None and offset + dataset.size * dataset.dtype.itemsize > size:
            raise StoreError(
                f"{str(path)!r} is truncated: /{name} ends behind the end of the file ({size} bytes)"
            )


def _check_rows(file: h5py.File, sizes: dict[str, int], path: Path) -> None:
    rows = file["images/rows"][()]
    starts = np.concatenate(([0], rows[:, 1]))
    if (rows[:, 0] != starts[:-1]).any() or (rows[:, 1] < rows[:, 0]).any() or starts[-1] != sizes["R"]:
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
