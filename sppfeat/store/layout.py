"""Lays out a complete feature file before the first row is written, under a temporary name.

HDF5 allocates contiguous datasets up front, in its oldest file format. The file is then closed, its disk space is
reserved, and it is synced and renamed. From then on :mod:`sppfeat.store.writer` fills it without HDF5.
"""

import contextlib
import datetime
import errno
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat._version import __version__
from sppfeat.config.distribution import Shard
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.wording import reason_of
from sppfeat.errors import StoreError
from sppfeat.files.atomic import written_aside
from sppfeat.files.outputs import layout_of
from sppfeat.files.paths import PathTable
from sppfeat.store.hdf5 import new_hdf5
from sppfeat.store.schema import (
    COLUMNS,
    ERROR_NBYTES,
    FORMAT,
    OPTIONAL_COLUMNS,
    ROW_COLUMNS,
    SCHEMA_VERSION,
    ColumnBlock,
    scale_sides,
    whole_image_boxes,
)
from sppfeat.store.tables import FileTables, RowBoxes

__all__ = [
    "FILE_DTYPES",
    "STRING",
    "Provenance",
    "allocate",
    "allocate_column",
    "create_file",
    "create_layout",
    "feature_nbytes",
    "write_attributes",
    "write_blocks",
]

STRING = h5py.string_dtype("utf-8")
_AT_ONCE = 1 << 14  # entries to handle at a time
_BYTES_PER_IMAGE = 320  # every column but the descriptors, and a path's overhead in HDF5's heap
_BYTES_PER_BOX = 160  # a box's row_* columns, and its texts' overhead in HDF5's heap
FILE_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


class Provenance(NamedTuple):
    """Facts about an extraction that a file records beside the settings.

    Attributes:
        weights_path: path of the weights file; empty if the weights are named or random.
        boxes_path: path of the box file; empty without one.
        norm_factors: factor of each layer under ``meannorm``; None without it.
        shard: the shard of the plan that the file holds; None for the whole plan.
    """

    weights_path: str = ""
    boxes_path: str = ""
    norm_factors: tuple[float, ...] | None = None
    shard: Shard | None = None


def feature_nbytes(tables: FileTables, blocks: Sequence[ColumnBlock], dtype: str) -> int:
    """Return the size of ``/features`` in bytes."""
    return tables.n_rows * blocks[-1].stop * FILE_DTYPES[dtype].itemsize


def create_file(
    path: Path,
    tables: FileTables,
    config: ExtractConfig,
    blocks: Sequence[ColumnBlock],
    *,
    provenance: Provenance | None = None,
) -> None:
    """Lay out a feature file; it takes its name only when the layout is complete.

    Args:
        path: the output. An existing file is replaced; of a link, the target is replaced.
        tables: every image and row.
        config: the settings, recorded with their fingerprint.
        blocks: the blocks of columns of a descriptor.
        provenance: further facts to record.

    Raises:
        StoreError: the disk has no space, or the folder is missing or not writable.
    """

    def lay_out(file: h5py.File) -> None:
        _write_attributes(file, tables, config, provenance or Provenance())
        _write_columns(file, tables, config, blocks)
        if tables.boxes is not None:
            _write_row_columns(file, tables.boxes, config)

    with create_layout(path, _file_nbytes(tables, config, blocks), lay_out):
        pass  # nothing to add: the writer fills the file under its final name


@contextlib.contextmanager
def create_layout(path: Path, nbytes: int, lay_out: Callable[[h5py.File], None]) -> Iterator[Path]:
    """Create a file under a temporary name; it replaces the output when the context ends without an error.

    Args:
        path: the output. An existing file is replaced; of a link, the target is replaced.
        nbytes: lower bound on the size of the whole file, checked against the free space.
        lay_out: writes the whole structure; then the file is closed, its space reserved, and synced.

    Yields:
        The temporary path. Code that writes to the file must sync it.

    Raises:
        StoreError: the disk has no space, or the folder is missing or not writable.
    """
    real = Path(os.path.realpath(path))
    with contextlib.ExitStack() as stack:
        with _naming_output(path):
            part = stack.enter_context(written_aside(real, layout_of(real)))
            _check_space(path, real.parent, nbytes)
            # On a full disk h5py also fails to close datasets during the layout, and reports that on stderr.
            with contextlib.redirect_stderr(io.StringIO()), new_hdf5(part, libver="earliest") as file:
                lay_out(file)
            _reserve_and_sync(part)
        yield part


@contextlib.contextmanager
def _naming_output(path: Path) -> Iterator[None]:
    """Turn OSError into a StoreError that names the output."""
    try:
        yield
    except OSError as error:
        reason = reason_of(error)
        raise StoreError(f"cannot create {str(path)!r}: {reason}") from error


def _write_attributes(
    file: h5py.File, tables: FileTables, config: ExtractConfig, provenance: Provenance
) -> None:
    attributes: dict[str, str | bytes] = {
        "config": config.to_json(),
        "fingerprint": config.fingerprint,
        "weights_sha256": config.backbone.weights_sha256,
        "weights_path": os.fsencode(provenance.weights_path),
        "input_root": tables.root,
    }
    if tables.boxes is not None:
        attributes["boxes_path"] = os.fsencode(provenance.boxes_path)
    if provenance.norm_factors is not None:
        attributes["norm_factors"] = json.dumps(provenance.norm_factors)
    if provenance.shard is not None:
        attributes["shard"] = provenance.shard.to_json()
    write_attributes(file, attributes, schema_version=SCHEMA_VERSION)


def _write_columns(
    file: h5py.File, tables: FileTables, config: ExtractConfig, blocks: Sequence[ColumnBlock]
) -> None:
    n, dimension = tables.n_images, blocks[-1].stop
    allocate(file, "features", (tables.n_rows, dimension), FILE_DTYPES[config.descriptor.dtype])
    if tables.boxes is None:
        boxes_px = allocate(file, "boxes", (tables.n_rows, 4), np.dtype("<f8"))
    else:
        boxes_px = None
        _write(file, "boxes", tables.boxes.boxes_px, "<f8")
    image_index = allocate(file, "image_index", (tables.n_rows,), np.dtype("<i8"))
    for first in range(0, n, _AT_ONCE):
        stop = min(first + _AT_ONCE, n)
        rows = slice(*tables.row_range(first, stop))
        images = np.repeat(np.arange(first, stop), np.diff(tables.rows[first:stop], axis=1).reshape(-1))
        if len(images):
            image_index[rows] = images
            if boxes_px is not None:
                boxes_px[rows] = whole_image_boxes(tables.image_hw[images])
    _write_texts(file, "images/path", tables.paths)
    if tables.ids is not None:
        _write_texts(file, "images/id", tables.ids)
    _write(file, "images/size", tables.image_hw, "<i4")
    _write(file, "images/rows", tables.rows, "<i8")
    allocate(file, "images/status", (n,), np.dtype("|u1"))
    allocate_column(file, "images/error", (n,))
    _write(file, "images/label", tables.labels, "<i8")
    _write_texts(file, "classes", PathTable(tables.classes))
    write_blocks(file, blocks)


def _write_row_columns(file: h5py.File, boxes: RowBoxes, config: ExtractConfig) -> None:
    n_rows, said = len(boxes), boxes.annotations
    _write(file, "row_source", boxes.source, "<i8")
    _write(file, "row_flag", boxes.flag, "|u1")
    file["row_scale"] = scale_sides(boxes.scale, config.input)
    _write(file, "row_mirrored", boxes.mirrored, "|u1")
    allocate(file, "row_region", (n_rows, len(config.backbone.layers), 4), np.dtype("<i4"))
    _write(file, "row_label", said.label, "<i8")
    _write(file, "row_score", said.score, "<f8")
    _write_texts(file, "row_id", said.ids)
    _write_texts(file, "row_classes", PathTable(said.classes))
    _write_texts(file, "row_extra_names", PathTable(said.extra_names))
    extra = file.create_dataset("row_extra", (n_rows, len(said.extra)), dtype=STRING)
    for i, column in enumerate(said.extra):
        for first, texts in zip(range(0, n_rows, _AT_ONCE), column.blocks(_AT_ONCE), strict=True):
            extra[first : first + len(texts), i] = texts
    _write(file, "box_row", boxes.box_row, "<i8")


def _write(file: h5py.File, name: str, values: npt.NDArray[Any], dtype: str) -> None:
    """Write numbers, without a copy if they already have the stored type."""
    file[name] = values.astype(dtype, copy=False)


def _write_texts(file: h5py.File, name: str, texts: PathTable) -> None:
    """Write texts in blocks: each one takes 100 bytes or more as a Python object."""
    dataset = file.create_dataset(name, (len(texts),), dtype=STRING)
    for first, block in zip(range(0, len(texts), _AT_ONCE), texts.blocks(_AT_ONCE), strict=True):
        dataset[first : first + len(block)] = block


def write_attributes(file: h5py.File, attributes: Mapping[str, str | bytes], *, schema_version: int) -> None:
    """Write text attributes, and those for the format, the versions and the creation time."""
    always = {
        "format": FORMAT,
        "sppfeat_version": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    for name, value in {**always, **attributes}.items():
        file.attrs.create(name, value, dtype=STRING)
    file.attrs.create("schema_version", schema_version, dtype="<i8")


def write_blocks(file: h5py.File, blocks: Sequence[ColumnBlock]) -> None:
    """Write ``/columns``: the layer, level and channels of each block of columns."""
    for name in ColumnBlock._fields:
        values = [getattr(block, name) for block in blocks]
        file.create_dataset(f"columns/{name}", data=values, dtype=STRING if name == "layer" else "<i8")


def allocate_column(file: h5py.File, name: str, shape: tuple[int, ...]) -> h5py.Dataset:
    """Create a dataset of the schema; one of numbers is contiguous and allocated."""
    dtype = {**COLUMNS, **OPTIONAL_COLUMNS, **ROW_COLUMNS}[name][1]
    if dtype == "string":
        return file.create_dataset(name, shape, dtype=STRING)
    if name == "images/error":
        return allocate(file, name, shape, h5py.string_dtype("utf-8", ERROR_NBYTES))
    return allocate(file, name, shape, np.dtype(dtype))


def allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> h5py.Dataset:
    """Create a contiguous dataset that is allocated but not written: it reads as zeros."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    h5_type = h5py.h5t.py_create(dtype, logical=True)
    return h5py.Dataset(
        h5py.h5d.create(file.id, name.encode(), h5_type, h5py.h5s.create_simple(shape), layout, links)
    )


def _file_nbytes(tables: FileTables, config: ExtractConfig, blocks: Sequence[ColumnBlock]) -> int:
    columns = tables.n_images * _BYTES_PER_IMAGE + tables.paths.nbytes
    if tables.ids is not None:
        columns += tables.ids.nbytes + 32 * tables.n_images
    if tables.boxes is not None:
        said = tables.boxes.annotations
        texts = said.ids.nbytes + sum(column.nbytes for column in said.extra)
        columns += (
            tables.n_rows * (_BYTES_PER_BOX + 16 * (len(config.backbone.layers) + len(said.extra))) + texts
        )
    return feature_nbytes(tables, blocks, config.descriptor.dtype) + columns


def _check_space(path: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"{str(path)!r} needs {needed / 1e9:.2f} GB and {str(folder)!r} has {free / 1e9:.2f} GB free; "
            "fewer levels, --dtype float16 or another folder would do"
        )


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
