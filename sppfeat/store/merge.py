"""Merges the files of all shards into one file, which copies their descriptors or refers to them."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import row_ranges
from sppfeat.config.values import StrPath
from sppfeat.config.wording import first_few
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.locks import OutputLock
from sppfeat.files.outputs import check_new_file
from sppfeat.store.layout import (
    FILE_DTYPES,
    STRING,
    allocate,
    allocate_column,
    create_layout,
    write_attributes,
)
from sppfeat.store.merge_sources import SourceFile, escape_name, recorded_path
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import (
    COLUMNS,
    OPTIONAL_COLUMNS,
    ROW_COLUMNS,
    SCHEMA_VERSION,
    SOURCE_COLUMNS,
)
from sppfeat.store.shards import ShardFile, has_box_file, read_shard_files
from sppfeat.store.writer import FeatureWriter

__all__ = ["MergeSummary", "merge_shards"]

_COPIED_NBYTES = 16 << 20  # of descriptors, copied at a time
_ATTRIBUTES = (
    "config",
    "fingerprint",
    "weights_sha256",
    "weights_path",
    "input_root",
    "boxes_path",
    "norm_factors",
)
_OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class MergeSummary:
    """Summary of a merge.

    Attributes:
        output: the merged file.
        shards: number of merged files that hold images.
        is_virtual: True if the descriptors stay in the shards' files; False if they were copied.
        images, done, failed: number of images: total, done, failed.
        rows, dimension: shape of ``/features``.
        bytes: size of the merged file.
        source_bytes: total size of the shards' files.
        seconds: duration of the merge.
        notes: remarks for the user.
    """

    output: str
    shards: int
    is_virtual: bool
    images: int
    done: int
    failed: int
    rows: int
    dimension: int
    bytes: int
    source_bytes: int
    seconds: float
    notes: list[str]


def merge_shards(
    output: Path,
    shards: Sequence[StrPath],
    *,
    copy: bool = False,
    overwrite: bool = False,
    on_progress: _OnProgress = lambda phase, done, total: None,
) -> MergeSummary:
    """Merge the files of all shards of an extraction into the file that a single run would have written.

    The rows get the order of the whole extraction, whatever the order of ``shards``. Memory holds one block of a shard,
    plus eight bytes for each box of a box file.

    Args:
        output: the file to write; it takes its name when it is complete.
        shards: paths of complete files, in any order and of any sizes, that together hold each image once.
        copy: True to copy the descriptors; False to make ``/features`` a virtual dataset that refers to them.
        overwrite: True to replace an existing output.
        on_progress: called with the step (``check``, ``join`` or ``copy``), the amount done, and the total: files, or
            rows for ``copy``.

    Raises:
        ConfigError: ``shards`` is empty, or contains the output.
        StoreError: a file is incomplete, or cannot be read or written; or the files do not hold each image of one
            extraction exactly once.
    """
    started = time.monotonic()
    if not shards:
        raise ConfigError("no shards to merge; allowed: one or more")
    check_new_file(output, inputs=shards, overwrite=overwrite)
    with OutputLock(output):
        # Checked again under the lock: another process may have just written the output.
        check_new_file(output, inputs=shards, overwrite=overwrite)
        parts = read_shard_files(shards, on_progress=lambda n: on_progress("check", n, len(shards)))
        # A virtual dataset needs at least one row.
        is_virtual = not copy and any(part.n_rows for part in parts)
        with FeatureFile(parts[0].path) as first:
            dimension = first.dimension
            sources = _sources(parts, output) if is_virtual else []
            layout = _MergedLayout(first, parts, sources, lambda n: on_progress("join", n, len(parts)))
            with create_layout(output, layout.nbytes, layout.write) as unfinished:
                if not is_virtual:
                    _copy_features(unfinished, parts, lambda n: on_progress("copy", n, parts[0].shard.n_rows))
                for part in parts:
                    part.check_unchanged()
    whole = parts[0].shard
    return MergeSummary(
        output=str(output),
        shards=len(parts),
        is_virtual=is_virtual,
        images=whole.n_images,
        done=sum(part.done for part in parts),
        failed=sum(part.failed for part in parts),
        rows=whole.n_rows,
        dimension=dimension,
        bytes=os.stat(output).st_size,
        source_bytes=sum(part.version.nbytes for part in parts),
        seconds=time.monotonic() - started,
        notes=_root_notes(parts),
    )


def _root_notes(parts: Sequence[ShardFile]) -> list[str]:
    roots = list(dict.fromkeys(part.root for part in parts))
    if len(roots) == 1:
        return []
    return [
        f"the shards have their images in {len(roots)} folders: {first_few(map(repr, roots), 3)}; {roots[0]!r}, of "
        f"{str(parts[0].path)!r}, is recorded"
    ]


def _sources(parts: Sequence[ShardFile], output: Path) -> list[SourceFile]:
    """Return the record of each shard for ``/sources``."""
    real = os.path.realpath(output)
    return [
        SourceFile(
            path=recorded_path(os.path.realpath(part.path), real),
            first_image=part.shard.first_image,
            stop_image=part.shard.stop_image,
            first_row=part.shard.first_row,
            stop_row=part.shard.stop_row,
            nbytes=part.version.nbytes,
            mtime_ns=part.version.mtime_ns,
            offset=part.offset or 0,
            created=os.fsencode(part.created),
        )
        for part in parts
    ]


def _copy_features(unfinished: Path, parts: Sequence[ShardFile], on_rows: Callable[[int], None]) -> None:
    with contextlib.closing(FeatureWriter(unfinished)) as writer:
        for part in parts:
            with FeatureFile(part.path) as file:
                row_nbytes = file.dimension * file.dtype.itemsize
                for rows in row_ranges(file.n_rows, row_nbytes=row_nbytes, nbytes=_COPIED_NBYTES):
                    numbers = np.arange(rows.start, rows.stop) + part.shard.first_row
                    writer.write_rows(numbers, np.asarray(file.features[rows]))
                    file.drop_pages()
                    on_rows(part.shard.first_row + rows.stop)


class _MergedLayout:
    """The merged file's content, except copied descriptors.

    Args:
        first: one of the shards, open, for the content that all of them share.
        parts: all shards, in the order of their rows.
        sources: records of the shards if the descriptors stay in them; else empty.
        on_part: called with the number of shards read so far.
    """

    def __init__(
        self,
        first: FeatureFile,
        parts: Sequence[ShardFile],
        sources: Sequence[SourceFile],
        on_part: Callable[[int], None],
    ) -> None:
        self._first = first
        self._parts = parts
        self._sources = sources
        self._on_part = on_part
        names = {**COLUMNS, **OPTIONAL_COLUMNS} if first.image_id_table is not None else COLUMNS
        self._columns = {**names, **ROW_COLUMNS} if first.has_boxes else names
        self._has_box_file = first.has_boxes and has_box_file(first.config)
        # Columns with one entry per image, row or view are concatenated; the boxes of a box file are shared.
        self._per_shard = ("N", "R") if self._has_box_file else ("N", "R", "X")

    @property
    def nbytes(self) -> int:
        """Approximate size of the file in bytes."""
        shard, first = self._parts[0].shard, self._first
        nbytes = sum(part.version.nbytes for part in self._parts)
        if self._sources:
            nbytes -= shard.n_rows * first.dimension * first.dtype.itemsize
        if self._has_box_file:  # every shard holds a row number for each box in it
            nbytes -= (len(self._parts) - 1) * first.stored.shape("box_row")[0] * 8
        return nbytes

    def write(self, file: h5py.File) -> None:
        """Write the content into a new file."""
        attributes = self._first.stored.find_attributes(_ATTRIBUTES)
        write_attributes(file, attributes, schema_version=SCHEMA_VERSION)
        self._write_features(file)
        for name, (dims, dtype) in self._columns.items():
            self._allocate(file, name, dims[0], dtype)
        box_row = self._empty_box_rows()
        first_view = 0
        for n, part in enumerate(self._parts, 1):
            with FeatureFile(part.path) as source:
                self._copy_entries(file, source, part, first_view)
                first_view += part.n_boxes
                if box_row is not None:
                    _join_box_rows(box_row, source, part)
            self._on_part(n)
        if box_row is not None:
            file["box_row"][...] = box_row
        self._write_sources(file)

    def _write_features(self, file: h5py.File) -> None:
        shape = self._parts[0].shard.n_rows, self._first.dimension
        dtype = FILE_DTYPES[self._first.dtype.name]
        if not self._sources:
            allocate(file, "features", shape, dtype)
            return
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.VIRTUAL)
        # Other programs read NaN where a source is missing.
        layout.set_fill_value(np.array(np.nan, dtype=dtype))
        for source in self._sources:
            if source.n_rows:
                here, there = h5py.h5s.create_simple(shape), h5py.h5s.create_simple((source.n_rows, shape[1]))
                here.select_hyperslab((source.first_row, 0), (source.n_rows, shape[1]))
                layout.set_virtual(here, escape_name(source.path), b"features", there)
        h5_type = h5py.h5t.py_create(dtype, logical=True)
        h5py.h5d.create(file.id, b"features", h5_type, h5py.h5s.create_simple(shape), layout)

    def _allocate(self, file: h5py.File, name: str, per: str | int, dtype: str) -> None:
        """Create a dataset other than ``/features``; if all shards have the same content, write it."""
        whole = self._parts[0].shard
        if per not in self._per_shard:
            values = self._first.stored.read(name)
            if per == "X":
                allocate(file, name, values.shape, np.dtype(dtype))
            else:
                file.create_dataset(name, data=values, dtype=STRING if dtype == "string" else dtype)
            return
        n_views = sum(part.n_boxes for part in self._parts)
        n = {"N": whole.n_images, "R": whole.n_rows, "X": n_views}[str(per)]
        shape = (n, *self._first.stored.shape(name)[1:])
        allocate_column(file, name, shape)

    def _empty_box_rows(self) -> npt.NDArray[np.int64] | None:
        """Return ``(X,)`` int64, -1 for every box of the box file; None without a box file."""
        return (
            np.full(self._first.stored.shape("box_row"), -1, dtype=np.int64) if self._has_box_file else None
        )

    def _copy_entries(self, file: h5py.File, source: FeatureFile, part: ShardFile, first_view: int) -> None:
        """Copy the columns of a shard's images and rows, renumbered for the merged file."""
        firsts = {"N": part.shard.first_image, "R": part.shard.first_row, "X": first_view}
        shifts = {
            "image_index": part.shard.first_image,
            "images/rows": part.shard.first_row,
            "row_source": 0 if self._has_box_file else firsts["X"],
            "box_row": part.shard.first_row,
        }
        for name, (dims, _) in self._columns.items():
            if dims[0] not in self._per_shard:
                continue
            first = firsts[str(dims[0])]
            for entries, values in source.stored.read_parts(name):
                if values.size:
                    shifted = values + shifts[name] if name in shifts else values
                    file[name][first + entries.start : first + entries.stop] = shifted

    def _write_sources(self, file: h5py.File) -> None:
        for name, (_, dtype) in SOURCE_COLUMNS.items() if self._sources else ():
            values = [getattr(source, name.removeprefix("sources/")) for source in self._sources]
            file.create_dataset(name, data=values, dtype=STRING if dtype == "string" else dtype)


def _join_box_rows(box_row: npt.NDArray[np.int64], source: FeatureFile, part: ShardFile) -> None:
    """Fill in the rows of one shard's boxes, numbered in the merged file."""
    for boxes, rows in source.stored.read_parts("box_row"):
        own = np.flatnonzero(rows >= 0) + boxes.start
        if (box_row[own] >= 0).any():
            raise StoreError(
                f"{str(part.path)!r} has boxes that another shard has, too; allowed: each box once"
            )
        box_row[own] = rows[own - boxes.start] + part.shard.first_row
