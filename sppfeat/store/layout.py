"""Lays out the complete file of an extraction, or of a reduction, before the first row is written.

HDF5 allocates every dataset of :mod:`~sppfeat.store.schema` in one piece, in its oldest file format, under a temporary
name, and fills in the known values. The file is then closed, its disk space is reserved, and it is synced and renamed.
From then on :mod:`~sppfeat.store.writer` fills it without HDF5.
"""

import contextlib
import dataclasses
import datetime
import errno
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sppfeat._version import __version__
from sppfeat.config.distribution import Shard
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.wording import reason_of
from sppfeat.errors import StoreError
from sppfeat.files.outputs import layout_of, written_aside
from sppfeat.files.paths import PathTable
from sppfeat.store.reader import FeatureFile
from sppfeat.store.reduction import Reduction
from sppfeat.store.schema import (
    FORMAT,
    REDUCED_SCHEMA_VERSION,
    SCHEMA_VERSION,
    VERSION_COLUMNS,
    ColumnBlock,
    columns_of,
    scale_sides,
    whole_image_boxes,
)
from sppfeat.store.stored_file import StoredFile
from sppfeat.store.tables import FileTables, RowBoxes
from sppfeat.store.virtual_features import SourceFile
from sppfeat.store.writer import FeatureWriter

__all__ = [
    "FILE_DTYPES",
    "Entries",
    "FileLayout",
    "create_file",
    "create_layout",
    "create_reduced_file",
    "feature_nbytes",
]

FILE_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_STRING: np.dtype[Any] = h5py.string_dtype("utf-8")
_AT_ONCE = 1 << 14  # entries to handle at a time

# Attributes that merged and reduced files take over.
_COPIED = (
    "config",
    "fingerprint",
    "weights_sha256",
    "weights_path",
    "input_root",
    "boxes_path",
    "norm_factors",
)

# Values for a dataset of a new file: its name, the entries to write, and one value for each.
Entries = tuple[str, Any, Any]


@dataclass(frozen=True, kw_only=True)
class FileLayout:
    """The structure of a new feature file."""

    columns: Mapping[str, tuple[tuple[str | int, ...], str]]  # of the schema: the datasets besides /features
    sizes: Mapping[str, int]  # length of each dimension that the schema names by a letter
    dtype: str  # of the descriptors, float32 or float16
    attributes: Mapping[str, str | bytes]  # beyond those of every file
    sources: Sequence[SourceFile] = ()  # files that hold the descriptors, if /features is to be virtual

    @classmethod
    def like(cls, file: StoredFile, **added: bool) -> "FileLayout":
        """Return the layout of an open file; ``added`` are arguments of :func:`columns_of` for further datasets."""
        own = columns_of(ids=file.has("images/id"), boxes=file.has("row_source"))
        sizes = {"R": file.n_rows, "D": file.dimension}
        for name, (dims, _) in own.items():
            if file.has(name):  # an older file has no versions: they become unknown
                sizes |= {d: n for d, n in zip(dims, file.shape(name), strict=True) if isinstance(d, str)}
        return cls(
            columns={**own, **columns_of(ids=False, boxes=False, **added)},
            sizes=sizes,
            dtype=file.dtype.name,
            attributes=file.find_attributes(_COPIED),
        )

    def shape(self, dims: Iterable[str | int]) -> tuple[int, ...]:
        """Return the lengths of dimensions of the schema."""
        return tuple(self.sizes[side] if isinstance(side, str) else side for side in dims)


def feature_nbytes(tables: FileTables, blocks: Sequence[ColumnBlock], dtype: str) -> int:
    """Return the size of ``/features`` in bytes."""
    return tables.n_rows * blocks[-1].stop * FILE_DTYPES[dtype].itemsize


def create_file(
    path: Path,
    tables: FileTables,
    config: ExtractConfig,
    blocks: Sequence[ColumnBlock],
    *,
    weights_path: str = "",
    boxes_path: str = "",
    norm_factors: tuple[float, ...] | None = None,
    shard: Shard | None = None,
) -> None:
    """Lay out the file of an extraction; it takes its name only when the layout is complete.

    Args:
        path: the output. An existing file is replaced; of a link, the target is replaced.
        tables: every image and row.
        config: the settings, recorded with their fingerprint.
        blocks: the blocks of columns of a descriptor.
        weights_path, boxes_path: path of the weights file, and of the box file; empty without one.
        norm_factors: factor of each layer under ``meannorm``; None without it.
        shard: the shard of the plan that the file holds; None for the whole plan.

    Raises:
        StoreError: the disk has no space, or the folder is missing or not writable.
    """
    boxes = tables.boxes
    sizes = {
        "R": tables.n_rows,
        "D": blocks[-1].stop,
        "N": tables.n_images,
        "K": len(tables.classes),
        "B": len(blocks),
    }
    attributes: dict[str, str | bytes] = {
        "config": config.to_json(),
        "fingerprint": config.fingerprint,
        "weights_sha256": config.backbone.weights_sha256,
        "weights_path": os.fsencode(weights_path),
        "input_root": tables.root,
    }
    if boxes is not None:
        attributes["boxes_path"] = os.fsencode(boxes_path)
        annotations = boxes.annotations
        sizes |= {
            "L": len(config.backbone.layers),
            "X": len(boxes.box_row),
            "Q": len(annotations.classes),
            "E": len(annotations.extra),
        }
    if norm_factors is not None:
        attributes["norm_factors"] = json.dumps(norm_factors)
    if shard is not None:
        attributes["shard"] = shard.to_json()
    layout = FileLayout(
        columns=columns_of(ids=tables.ids is not None, boxes=boxes is not None),
        sizes=sizes,
        dtype=config.descriptor.dtype,
        attributes=attributes,
    )
    with create_layout(path, layout, _entries(tables, config, blocks)):
        pass  # the writer fills the file under its final name


@contextlib.contextmanager
def create_reduced_file(
    path: Path, source: FeatureFile, reduction: Reduction, *, dtype: str
) -> Iterator[FeatureWriter]:
    """Create a file with the images and rows of another one, its reduction, and room for the reduced descriptors.

    The source has no pending images. The caller must write every row; the file takes its name when the context ends
    without an error. An existing file is replaced. Raises as :func:`create_file`.
    """
    layout = FileLayout.like(source, reduction=True)
    layout = dataclasses.replace(
        layout,
        sizes={**layout.sizes, "D": reduction.dimension, "B": 1, "S": len(reduction.mean)},
        dtype=dtype,
        attributes={
            **layout.attributes,
            "fingerprint": reduction.fingerprint_of(source.config.fingerprint),
            "reduction": reduction.record.to_json(),
        },
    )
    entries = _reduced_entries(source, reduction, layout)
    with create_layout(path, layout, entries) as part, contextlib.closing(FeatureWriter(part)) as writer:
        yield writer


@contextlib.contextmanager
def create_layout(path: Path, layout: FileLayout, entries: Iterable[Entries]) -> Iterator[Path]:
    """Create a file as :func:`create_file` does, with ``entries`` filled in and everything else reading as zeros.

    Yields its temporary path; code that writes to the file must sync it.
    """
    real = Path(os.path.realpath(path))
    with contextlib.ExitStack() as stack:
        try:
            part = stack.enter_context(written_aside(real, layout_of(real)))
            with _new_hdf5(part) as file:
                _write_attributes(file, layout)
                if layout.sources:
                    _create_virtual(file, layout)
                else:
                    _allocate(file, "features", layout.shape("RD"), FILE_DTYPES[layout.dtype])
                for name, (dims, dtype) in layout.columns.items():
                    _allocate(file, name, layout.shape(dims), _stored_dtype(dtype))
                needed, free = file.id.get_filesize(), shutil.disk_usage(real.parent).free
                if needed > free:
                    raise StoreError(
                        f"{str(path)!r} needs {needed / 1e9:.2f} GB and {str(real.parent)!r} has {free / 1e9:.2f} GB "
                        "free; use fewer levels, --dtype float16 or another folder"
                    )
                for name, where, values in entries:
                    if len(values) and file[name].size:
                        file[name][where] = values
            _reserve_and_sync(part)
        except OSError as error:
            raise StoreError(f"cannot create {str(path)!r}: {reason_of(error)}") from error
        yield part


def _block_entries(blocks: Sequence[ColumnBlock]) -> Iterator[Entries]:
    """Yield ``/columns``: the layer, level, channels and range of each block of columns."""
    for name in ColumnBlock._fields:
        values = [getattr(block, name) for block in blocks]
        yield f"columns/{name}", ..., values


def _entries(tables: FileTables, config: ExtractConfig, blocks: Sequence[ColumnBlock]) -> Iterator[Entries]:
    """Yield everything that is known before the first image is decoded."""
    for first in range(0, tables.n_images, _AT_ONCE):
        stop = min(first + _AT_ONCE, tables.n_images)
        rows = slice(*tables.row_range(first, stop))
        images = np.repeat(np.arange(first, stop), np.diff(tables.rows[first:stop], axis=1).reshape(-1))
        yield "image_index", rows, images
        if tables.boxes is None:
            yield "boxes", rows, whole_image_boxes(tables.image_hw[images])
    yield from _text_entries("images/path", tables.paths)
    if tables.ids is not None:
        yield from _text_entries("images/id", tables.ids)
    yield "images/size", ..., tables.image_hw
    for name, values in zip(VERSION_COLUMNS, tables.versions.T, strict=True):
        yield name, ..., values
    yield "images/rows", ..., tables.rows
    yield "images/label", ..., tables.labels
    yield "classes", ..., tables.classes
    yield from _block_entries(blocks)
    if tables.boxes is not None:
        yield from _box_entries(tables.boxes, config)


def _box_entries(boxes: RowBoxes, config: ExtractConfig) -> Iterator[Entries]:
    annotations = boxes.annotations
    yield "boxes", ..., boxes.boxes_px
    yield "row_source", ..., boxes.source
    yield "row_flag", ..., boxes.flag
    yield "row_scale", ..., scale_sides(boxes.scale, config.input)
    yield "row_mirrored", ..., boxes.mirrored.view(np.uint8)
    yield "row_label", ..., annotations.label
    yield "row_score", ..., annotations.score
    yield from _text_entries("row_id", annotations.ids)
    yield "row_classes", ..., [os.fsencode(name) for name in annotations.classes]
    yield "row_extra_names", ..., [os.fsencode(name) for name in annotations.extra_names]
    for i, column in enumerate(annotations.extra):
        for _, rows, texts in _text_entries("row_extra", column):
            yield "row_extra", (rows, i), texts
    yield "box_row", ..., boxes.box_row


def _reduced_entries(source: FeatureFile, reduction: Reduction, layout: FileLayout) -> Iterator[Entries]:
    for name in layout.columns:
        if not name.startswith(("columns/", "reduction/")):
            for entries, values in source.read_parts(name):
                yield name, entries, values
    for name in ("mean", "components", "scale"):
        yield f"reduction/{name}", ..., getattr(reduction, name)
    yield from _block_entries(reduction.columns)


def _text_entries(name: str, texts: PathTable) -> Iterator[Entries]:
    """Yield texts in blocks: each one takes 100 bytes or more as a Python object."""
    for first, block in zip(range(0, len(texts), _AT_ONCE), texts.blocks(_AT_ONCE), strict=True):
        yield name, slice(first, first + len(block)), block


@contextlib.contextmanager
def _new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Create an HDF5 file; on a full disk raise OSError and silence h5py's complaints about objects it cannot close."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            with h5py.File(path, "w", libver="earliest") as file:
                yield file
        except RuntimeError as error:  # from h5py, when the disk is full
            raise OSError(str(error)) from error


def _write_attributes(file: h5py.File, layout: FileLayout) -> None:
    always = {
        "format": FORMAT,
        "sppfeat_version": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    for name, value in {**always, **layout.attributes}.items():
        file.attrs.create(name, value, dtype=_STRING)
    version = REDUCED_SCHEMA_VERSION if "reduction" in layout.attributes else SCHEMA_VERSION
    file.attrs.create("schema_version", version, dtype="<i8")


def _stored_dtype(dtype: str) -> np.dtype[Any]:
    """Return the type in which HDF5 stores a type of the schema."""
    if dtype == "string":
        return _STRING
    plain = np.dtype(dtype)
    return np.dtype(h5py.string_dtype("utf-8", plain.itemsize)) if plain.kind == "S" else plain


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Create a contiguous dataset; numbers get their place at once and read as zeros, texts when they are written."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    if dtype.kind != "O":
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    h5_type = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(file.id, name.encode(), h5_type, h5py.h5s.create_simple(shape), layout, links)


def _create_virtual(file: h5py.File, layout: FileLayout) -> None:
    """Create ``/features`` as a virtual dataset, in which other programs read NaN where a source is missing."""
    shape = layout.shape("RD")
    features = h5py.VirtualLayout(shape, FILE_DTYPES[layout.dtype])
    for source in layout.sources:
        if source.n_rows:
            name = os.fsdecode(source.path.replace(b"%", b"%%"))  # HDF5 replaces %b by a number
            features[source.first_row : source.stop_row] = h5py.VirtualSource(
                name, "features", (source.n_rows, shape[1])
            )
    file.create_virtual_dataset("features", features, fillvalue=np.nan)


def _reserve_and_sync(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(fd, 0, os.fstat(fd).st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
        os.fsync(fd)
    finally:
        os.close(fd)
