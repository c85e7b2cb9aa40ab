"""Checks that an open HDF5 file is a feature file: known schema, consistent, safe to read."""

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from sppfeat.config.wording import one_line
from sppfeat.errors import StoreError
from sppfeat.store.hdf5 import (
    check_storage,
    hdf5_errors,
    is_linked,
    is_scalar,
    is_virtual,
    linked_dataset,
    open_dataset,
    read_dataset,
    text_attribute,
    virtual_shape,
)
from sppfeat.store.schema import (
    COLUMNS,
    FORMAT,
    OPTIONAL_COLUMNS,
    REDUCED_SCHEMA_VERSION,
    REDUCTION_COLUMNS,
    ROW_COLUMNS,
    SOURCE_COLUMNS,
    ColumnBlock,
    check_dimension,
)
from sppfeat.store.text_heaps import check_first_heaps

__all__ = ["StoredFeatures", "check_features", "check_layout", "is_reduced", "read_column_blocks"]

_DAMAGED = "cannot be read as a feature file, it is damaged"
_SOURCE_NUMBERS = ("first_image", "stop_image", "first_row", "stop_row", "nbytes", "offset")
_ATTRIBUTES = ("sppfeat_version", "config", "fingerprint", "weights_sha256", "input_root")


class StoredFeatures(NamedTuple):
    """The dataset ``/features``: shape, type and position in the file.

    Attributes:
        shape: ``(R, D)``, rows and columns.
        dtype: float32 or float16.
        offset: position of the first byte in the file; None unless the dataset is contiguous.
        is_virtual: True if the descriptors are stored in other files, listed in ``/sources``.
    """

    shape: tuple[int, int]
    dtype: np.dtype[np.floating[Any]]
    offset: int | None
    is_virtual: bool


def check_features(file: h5py.File, path: Path) -> StoredFeatures:
    """Check the attributes and ``/features`` of a feature file, but none of its other datasets.

    Args:
        file: the open file.
        path: its path, for messages.

    Returns:
        The description of ``/features``.

    Raises:
        StoreError: the file is not a feature file, or is damaged.
    """
    with hdf5_errors(path, _DAMAGED):
        features, stored = _features(file, path)
        if not stored.is_virtual:
            check_storage(file, {"features": features}, path)
        return stored


def check_layout(file: h5py.File, path: Path) -> StoredFeatures:
    """Check that every dataset exists, has the type and shape of the schema, and agrees with the others.

    No other file is opened: for virtual descriptors ``/sources`` is checked, but not the files it names.

    Args:
        file: the open file.
        path: its path, for messages.

    Returns:
        The description of ``/features``.

    Raises:
        StoreError: a dataset is missing, has another type or shape, or contradicts another one.
    """
    with hdf5_errors(path, _DAMAGED):
        features, stored = _features(file, path)
        sizes = {"R": stored.shape[0], "D": stored.shape[1]}
        datasets = {} if stored.is_virtual else {"features": features}
        columns = {**_columns(file, path), **(SOURCE_COLUMNS if stored.is_virtual else {})}
        for name, (wanted, dtype) in columns.items():
            datasets[name] = open_dataset(file, name, path)
            _check_column(datasets[name], wanted, dtype, sizes, path)
        check_storage(file, datasets, path)
        _check_blocks(file, sizes["B"], sizes["D"], path)
        _check_rows(file, sizes, path)
        if stored.is_virtual:
            _check_sources(file, sizes, stored.dtype.itemsize, path)
        return stored


def read_column_blocks(file: h5py.File, path: Path) -> tuple[ColumnBlock, ...]:
    """Return the blocks of columns that ``/columns`` records."""
    layers = [bytes(layer).decode() for layer in read_dataset(file, "columns/layer", path)]
    numbers = (read_dataset(file, f"columns/{name}", path).tolist() for name in ColumnBlock._fields[1:])
    return tuple(ColumnBlock(*block) for block in zip(layers, *numbers, strict=True))


def _features(file: h5py.File, path: Path) -> tuple[h5py.Dataset, StoredFeatures]:
    """Return ``/features`` and its description, without opening the sources of a virtual dataset."""
    check_first_heaps(file, path)
    _check_attributes(file, path)
    features = linked_dataset(file, "features", path)
    # Only 'sppfeat merge' makes /features virtual, and it records the sources.
    virtual = is_virtual(features) and is_linked(file, "sources", path)
    if not virtual:
        features = open_dataset(file, "features", path)
    shape: tuple[int, ...] = virtual_shape(features) if virtual else features.shape or ()
    dtypes = [dtype for dtype in ("<f4", "<f2") if features.dtype == np.dtype(dtype)]
    if len(shape) != 2 or not dtypes:
        found = one_line(str(features.dtype))
        raise StoreError(f"{str(path)!r}: /features is {found} of {shape}; allowed: (R, D) f4 or f2")
    _check_type(features, dtypes[0], path)
    offset = None if virtual or features.chunks is not None else features.id.get_offset()
    return features, StoredFeatures((shape[0], shape[1]), features.dtype, offset, virtual)


def _columns(file: h5py.File, path: Path) -> dict[str, tuple[tuple[str | int, ...], str]]:
    """Return the datasets that a file must have besides ``/features``; boxes and a reduction add some."""
    # The "in" operator would follow a link to any other file.
    has_boxes = any(file.id.links.exists(name.encode()) for name in ROW_COLUMNS)
    reduction = REDUCTION_COLUMNS if is_reduced(file) else {}
    optional = {name: column for name, column in OPTIONAL_COLUMNS.items() if is_linked(file, name, path)}
    return {**COLUMNS, **optional, **(ROW_COLUMNS if has_boxes else {}), **reduction}


def is_reduced(file: h5py.File) -> bool:
    """Return True if the file has the attribute or the group of a reduction."""
    return "reduction" in file.attrs or file.id.links.exists(b"reduction")


def _check_attributes(file: h5py.File, path: Path) -> None:
    where = repr(str(path))
    if text_attribute(file, "format", path) != FORMAT:
        raise StoreError(f"{where} is HDF5, but no feature file: its attribute 'format' is not {FORMAT!r}")
    version = _schema_version(file, path)
    if not isinstance(version, int) or version < 1:
        raise StoreError(f"{where}: schema_version is {version}; allowed: a number from 1")
    if version > REDUCED_SCHEMA_VERSION:
        raise StoreError(
            f"{where} has schema {version}; this sppfeat reads up to {REDUCED_SCHEMA_VERSION}: update it"
        )
    for name in (*_ATTRIBUTES, "reduction") if is_reduced(file) else _ATTRIBUTES:
        if text_attribute(file, name, path) is None:
            raise StoreError(f"{where} has no text attribute {name!r}")


def _schema_version(file: h5py.File, path: Path) -> int | str | None:
    """Return the schema version, a description of the attribute if it is not an integer, or None."""
    if "schema_version" not in file.attrs:
        return None
    attribute = file.attrs.get_id("schema_version")
    if attribute.dtype.kind in "iu" and is_scalar(attribute):
        return int(file.attrs["schema_version"])
    text = text_attribute(file, "schema_version", path)
    return one_line(f"{attribute.dtype} of shape {attribute.shape}" if text is None else text)


def _check_column(
    dataset: h5py.Dataset, wanted: tuple[str | int, ...], dtype: str, sizes: dict[str, int], path: Path
) -> None:
    """Compare one dataset with the schema; ``sizes`` holds the lengths of named dimensions, and is extended."""
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
        raise StoreError(
            f"{str(path)!r}: {one_line(dataset.name)} is {found} of shape {shape}, not {dtype} of {sides}"
        )
    if dataset.dtype.kind in "iuf":
        _check_type(dataset, dtype, path)


def _check_type(dataset: h5py.Dataset, dtype: str, path: Path) -> None:
    """Refuse numbers whose bytes numpy would misread through a memory map.

    HDF5 has integers narrower than their bytes, custom floating-point types and enumerations; h5py reports only the
    type that it would convert them to.
    """
    if not dataset.id.get_type().equal(h5py.h5t.py_create(np.dtype(dtype))):
        raise StoreError(
            f"{str(path)!r}: {one_line(dataset.name)} is stored as a type of its own; allowed: plain {dtype}"
        )


def _check_blocks(file: h5py.File, n_blocks: int, dimension: int, path: Path) -> None:
    if not 1 <= n_blocks <= dimension:
        raise StoreError(
            f"{str(path)!r}: /columns has {n_blocks} blocks of {dimension} columns; allowed: 1 to as many as columns"
        )
    blocks = read_column_blocks(file, path)
    try:
        check_dimension(blocks, dimension)
    except StoreError as error:
        raise StoreError(f"{str(path)!r}: {error}") from error
    if min(block.channels for block in blocks) < 1:
        raise StoreError(f"{str(path)!r}: /columns has blocks without channels; allowed: 1 or more")


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


def _check_sources(file: h5py.File, sizes: dict[str, int], itemsize: int, path: Path) -> None:
    """Refuse sources that do not tile the images and rows in order, or are too small for their rows."""
    of = {name: read_dataset(file, f"sources/{name}", path) for name in _SOURCE_NUMBERS}
    for first, stop, limit in (("first_image", "stop_image", "N"), ("first_row", "stop_row", "R")):
        starts = np.concatenate(([0], of[stop]))
        if (of[first] != starts[:-1]).any() or (of[stop] < of[first]).any() or starts[-1] != sizes[limit]:
            what = "images" if limit == "N" else "rows"
            raise StoreError(
                f"{str(path)!r}: /sources does not divide the {sizes[limit]} {what} among the sources"
            )
    bounds = np.concatenate((of["first_image"], [sizes["N"]]))
    rows = np.concatenate(([[0, 0]], read_dataset(file, "images/rows", path).reshape(-1, 2)))[bounds, 1]
    if (rows[:-1] != of["first_row"]).any():
        raise StoreError(f"{str(path)!r}: /sources and /images/rows contradict each other")
    # As Python integers, which cannot overflow.
    row_nbytes = sizes["D"] * itemsize
    for offset, n_rows, nbytes in zip(
        of["offset"].tolist(), (of["stop_row"] - of["first_row"]).tolist(), of["nbytes"].tolist(), strict=True
    ):
        if offset < 0 or offset + n_rows * row_nbytes > nbytes:
            raise StoreError(
                f"{str(path)!r}: /sources says that {n_rows} rows are at {offset} of a file of {nbytes} bytes"
            )
