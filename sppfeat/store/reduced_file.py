"""Creates the file of ``sppfeat reduce``: the tables of another feature file, and room for reduced descriptors."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py

from sppfeat.store.layout import (
    FILE_DTYPES,
    allocate,
    allocate_column,
    create_layout,
    write_attributes,
    write_blocks,
)
from sppfeat.store.reader import FeatureFile
from sppfeat.store.reduction import Reduction
from sppfeat.store.schema import (
    COLUMNS,
    OPTIONAL_COLUMNS,
    REDUCED_SCHEMA_VERSION,
    ROW_COLUMNS,
)
from sppfeat.store.writer import FeatureWriter

__all__ = ["create_reduced_file"]

_COPIED = ("config", "weights_sha256", "weights_path", "input_root", "boxes_path", "norm_factors")


@contextlib.contextmanager
def create_reduced_file(
    path: Path, source: FeatureFile, reduction: Reduction, *, dtype: str
) -> Iterator[FeatureWriter]:
    """Create a file with the images and rows of another one, its reduction, and room for the reduced descriptors.

    The file takes its name when the context ends without an error.

    Args:
        path: the output; an existing file is replaced.
        source: an open file without pending images.
        reduction: the projection, which the new file records.
        dtype: type of the reduced descriptors, ``float32`` or ``float16``.

    Yields:
        A writer for the reduced descriptors; the caller must write every row.

    Raises:
        StoreError: the disk has no space, or the folder is missing or not writable.
    """
    nbytes = source.n_rows * reduction.dimension * FILE_DTYPES[dtype].itemsize + reduction.components.nbytes
    nbytes += source.nbytes
    if source.sources is None:
        nbytes -= source.n_rows * source.dimension * source.dtype.itemsize

    def lay_out(file: h5py.File) -> None:
        attributes: dict[str, str | bytes] = {
            "fingerprint": reduction.fingerprint_of(source.config.fingerprint),
            "reduction": reduction.record.to_json(),
            **source.stored.find_attributes(_COPIED),
        }
        write_attributes(file, attributes, schema_version=REDUCED_SCHEMA_VERSION)
        allocate(file, "features", (source.n_rows, reduction.dimension), FILE_DTYPES[dtype])
        _copy_tables(file, source)
        _write_reduction(file, reduction)

    with create_layout(path, nbytes, lay_out) as part, contextlib.closing(FeatureWriter(part)) as writer:
        yield writer


def _copy_tables(file: h5py.File, source: FeatureFile) -> None:
    """Copy every column of images and rows as stored."""
    columns = {
        **COLUMNS,
        **{name: column for name, column in OPTIONAL_COLUMNS.items() if source.stored.has(name)},
        **(ROW_COLUMNS if source.has_boxes else {}),
    }
    for name in columns:
        if name.startswith("columns/"):
            continue
        values = source.stored.read(name)
        column = allocate_column(file, name, values.shape)
        if values.size:
            column[...] = values


def _write_reduction(file: h5py.File, reduction: Reduction) -> None:
    for name in ("mean", "components", "scale"):
        file[f"reduction/{name}"] = getattr(reduction, name).astype("<f4")
    write_blocks(file, reduction.columns)
