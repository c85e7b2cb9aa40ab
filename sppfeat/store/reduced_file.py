"""Files with the images and rows of another file, and other descriptors of them."""

import contextlib
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from sppfeat._version import __version__
from sppfeat.store.layout import FILE_DTYPES, STRING, allocate, laid_out
from sppfeat.store.reader import FeatureFile
from sppfeat.store.reduction import Reduction
from sppfeat.store.schema import (
    COLUMNS,
    FORMAT,
    OPTIONAL_COLUMNS,
    REDUCED_SCHEMA_VERSION,
    ROW_COLUMNS,
    ColumnBlock,
)
from sppfeat.store.writer import FeatureWriter

__all__ = ["reduced_file"]

_COPIED = ("config", "weights_sha256", "weights_path", "input_root", "boxes_path", "norm_factors")


@contextlib.contextmanager
def reduced_file(
    path: Path, source: FeatureFile, reduction: Reduction, *, dtype: str
) -> Iterator[FeatureWriter]:
    """A file with everything of another one but its descriptors, and with what reduces them.

    It takes its name where the context ends without an error; before that nobody sees it.

    Args:
        path: the output; what is there is replaced.
        source: an open file without pending images.
        reduction: stored in it.
        dtype: of the descriptors.

    Yields:
        What takes the reduced descriptors, of every row.

    Raises:
        StoreError: no space, no folder, no permission.
    """
    nbytes = source.n_rows * reduction.dimension * FILE_DTYPES[dtype].itemsize + reduction.components.nbytes
    nbytes += source.nbytes
    if source.sources is None:
        nbytes -= source.n_rows * source.dimension * source.dtype.itemsize

    def lay_out(file: h5py.File) -> None:
        _write_attributes(file, source, reduction)
        allocate(file, "features", (source.n_rows, reduction.dimension), FILE_DTYPES[dtype])
        _copy_tables(file, source)
        _write_reduction(file, reduction)

    with laid_out(path, nbytes, lay_out) as part, contextlib.closing(FeatureWriter(part)) as writer:
        yield writer


def _write_attributes(file: h5py.File, source: FeatureFile, reduction: Reduction) -> None:
    attributes: dict[str, str | bytes] = {
        "format": FORMAT,
        "sppfeat_version": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "fingerprint": reduction.fingerprint_of(source.config.fingerprint),
        "reduction": reduction.record.to_json(),
    }
    for name in _COPIED:
        text = source.stored.find_attribute(name)
        if text is not None:
            attributes[name] = os.fsencode(text)
    for name, value in attributes.items():
        file.attrs.create(name, value, dtype=STRING)
    file.attrs.create("schema_version", REDUCED_SCHEMA_VERSION, dtype="<i8")


def _copy_tables(file: h5py.File, source: FeatureFile) -> None:
    """Copy what is known of images and rows, as it is stored."""
    columns = {
        **COLUMNS,
        **{name: column for name, column in OPTIONAL_COLUMNS.items() if source.stored.has(name)},
        **(ROW_COLUMNS if source.has_boxes else {}),
    }
    for name, (_, dtype) in columns.items():
        if name.startswith("columns/"):
            continue
        values = source.stored.read(name)
        if dtype == "string":
            texts = file.create_dataset(name, values.shape, dtype=STRING)
            if values.size:
                texts[...] = values
        elif name == "images/error":
            allocate(file, name, values.shape, h5py.string_dtype("utf-8", values.dtype.itemsize))
            file[name][...] = values
        else:
            allocate(file, name, values.shape, np.dtype(dtype))
            file[name][...] = values


def _write_reduction(file: h5py.File, reduction: Reduction) -> None:
    for name in ("mean", "components", "scale"):
        file[f"reduction/{name}"] = getattr(reduction, name).astype("<f4")
    for name in ColumnBlock._fields:
        values = [getattr(block, name) for block in reduction.columns]
        file.create_dataset(f"columns/{name}", data=values, dtype=STRING if name == "layer" else "<i8")
