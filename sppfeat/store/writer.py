"""The output file, filled in place, row by row and without HDF5.

:mod:`sppfeat.store.layout` lays it out in full. From then on no HDF5 call writes to it: rows, then status, go to
their known places with ``os.pwrite``, so that no metadata can be half written and stock h5py reads it at any
moment: crash safety comes from the layout.
"""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat.errors import StoreError
from sppfeat.store.check import check_layout
from sppfeat.store.hdf5 import hdf5_errors
from sppfeat.store.schema import ERROR_NBYTES, RowAudit, Status, cut_error

__all__ = ["BoxAudit", "FeatureWriter", "PartWriter"]

_WRITTEN = ("features", "boxes", "images/size", "images/status", "images/error")
_WRITTEN_OF_BOXES = ("row_flag", "row_scale", "row_region")
_NAN_NBYTES = 4 << 20  # written at once


class BoxAudit(NamedTuple):
    """What was found of some boxes before they were pooled.

    Attributes:
        flag: ``(K,)`` uint8, :class:`sppfeat.config.regions.RowFlag`.
        scale: ``(K,)`` int32, as /row_scale says it.
    """

    flag: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.int32]


class FeatureWriter:
    """Fills rows, status and errors of an existing file, without HDF5.

    An image's status reaches the file only after its rows have been synced to the disk, every
    ``sync_seconds`` and at :meth:`close`, so that neither a kill nor a power cut leaves an image that is
    marked done without its rows.

    Args:
        path: a file that :func:`create_file` made; the caller holds its lock.
        sync_seconds: how often to sync.

    Raises:
        StoreError: the file cannot be opened for writing, or is not laid out as it must be; later, it
            cannot be written to, or is gone.
    """

    def __init__(self, path: Path, *, sync_seconds: float = 2.0) -> None:
        self._path = path
        self._sync_seconds = sync_seconds
        self._last_sync = time.monotonic()
        self._marks: dict[int, Status] = {}
        self._fd = -1
        with hdf5_errors(path, "cannot be opened for writing"):
            with h5py.File(path, "r") as file:
                if check_layout(file, path).is_virtual:
                    raise StoreError(
                        f"{str(path)!r} cannot be continued: its rows lie in other files; the commands that made these "
                        "continue them, and then 'sppfeat merge --overwrite' merges them anew"
                    )
                written = (*_WRITTEN, *_WRITTEN_OF_BOXES) if "row_flag" in file else _WRITTEN
                self._places = {name: _place(file[name], path) for name in written}
                self._rows: npt.NDArray[np.int64] = file["images/rows"][()]
                self._dtype: np.dtype[Any] = file["features"].dtype
                self._dimension = int(file["features"].shape[1])
                self._n_layers = int(file["row_region"].shape[1]) if "row_region" in file else 0
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def write_rows(
        self,
        rows: npt.NDArray[np.int64],
        descriptors: npt.NDArray[np.floating[Any]],
        audit: RowAudit | None = None,
    ) -> None:
        """Write ``(K, D)`` descriptors to rows ``(K,)``, ascending, and how they were pooled."""
        if descriptors.shape != (len(rows), self._dimension):
            raise ValueError(f"descriptors of shape {descriptors.shape}, not {(len(rows), self._dimension)}")
        with np.errstate(over="ignore"):
            self._write_at("features", rows, np.ascontiguousarray(descriptors, dtype=self._dtype))
        if audit is not None:
            self._write_at("row_flag", rows, audit.flag.astype("|u1"))
            self._write_at("row_region", rows, audit.region.astype("<i4"))

    def write_no_descriptor(self, rows: npt.NDArray[np.int64]) -> None:
        """Fill rows, ascending, with NaN."""
        step = max(1, _NAN_NBYTES // max(1, self._dimension * self._dtype.itemsize))
        nan = np.full((min(step, len(rows)), self._dimension), np.nan, dtype=self._dtype)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            self._write_at("features", part, nan[: len(part)])

    def write_boxes(
        self, rows: npt.NDArray[np.int64], boxes_px: npt.NDArray[np.float64], audit: BoxAudit | None = None
    ) -> None:
        """Write the boxes of rows, ascending, that were not known before their image's size was."""
        self._write_at("boxes", rows, boxes_px.astype("<f8"))
        if audit is not None:
            self._write_at("row_flag", rows, audit.flag.astype("|u1"))
            self._write_at("row_scale", rows, audit.scale.astype("<i4"))

    def write_size(self, image: int, image_hw: tuple[int, int]) -> None:
        """Write the size of an image that was not known at first: once its boxes are synced, as it stands for them."""
        self.write_sizes(np.array([image]), np.array([image_hw]))

    def write_sizes(self, images: npt.NDArray[np.int64], image_hw: npt.NDArray[np.integer[Any]]) -> None:
        """Write the sizes of images, ascending, likewise."""
        self._write_at("images/size", images, image_hw.astype("<i4"))

    def mark_done(self, image: int) -> None:
        """Say that all rows of an image are written."""
        if not 0 <= image < len(self._rows):
            raise IndexError(f"image {image} of {len(self._rows)}")
        self._mark(image, Status.DONE)

    def mark_failed(self, image: int, reason: str) -> None:
        """Fill the rows of an image with NaN and record why."""
        self._pwrite(cut_error(reason).ljust(ERROR_NBYTES, b"\0"), "images/error", image * ERROR_NBYTES)
        self.write_no_descriptor(np.arange(*self._rows[image].tolist()))
        self._mark(image, Status.FAILED)

    def reopen(self, image: int) -> None:
        """Make an image pending again, at once: its rows are about to change."""
        self._marks.pop(image, None)
        self._pwrite(bytes([Status.PENDING]), "images/status", image)

    def sync(self) -> None:
        """Bring rows, then status, to the disk."""
        marks, self._marks = self._marks, {}
        # In as few pieces as there are: a call of the system for each image took half of what writing does.
        images = np.array(sorted(marks), dtype=np.int64)
        status = np.array([marks[image] for image in images.tolist()], dtype=np.uint8)
        done = images[status == Status.DONE]
        self._write_at("images/error", done, np.zeros((len(done), ERROR_NBYTES), dtype=np.uint8))
        # If this fails, the images that wait for it stay pending for good: what could not be written is
        # forgotten by the system, and the next sync would succeed without it.
        self._fdatasync()
        self._write_at("images/status", images, status)
        self._last_sync = time.monotonic()
        self._check_name()

    def close(self) -> None:
        """Sync everything and close; once is enough."""
        if self._fd < 0:
            return
        try:
            try:
                self.sync()
            finally:
                self._fdatasync()
        finally:
            os.close(self._fd)
            self._fd = -1

    def part(self, first_image: int, first_row: int) -> "PartWriter":
        """Return what writes to images and rows that are numbered from there."""
        return PartWriter(self, first_image, first_row)

    def _mark(self, image: int, status: Status) -> None:
        self._marks[image] = status
        if time.monotonic() - self._last_sync > self._sync_seconds:
            self.sync()

    def _write_at(self, dataset: str, rows: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> None:
        """Write one entry of a dataset per row: in one piece where rows follow each other."""
        if not len(rows):
            return
        nbytes = values.itemsize * values[0].size
        first = int(rows[0])
        if int(rows[-1]) - first == len(rows) - 1:  # as of nearly every image
            self._pwrite(_raw(values), dataset, first * nbytes)
            return
        bounds = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2, append=rows[-1] + 2) != 1)
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            self._pwrite(_raw(values[start:stop]), dataset, int(rows[start]) * nbytes)

    def _pwrite(self, content: bytes | memoryview, dataset: str, at: int) -> None:
        rest = memoryview(content)
        offset, nbytes = self._places[dataset]
        if not 0 <= at <= nbytes - len(rest):
            raise IndexError(f"bytes {at} to {at + len(rest)} of /{dataset}, which has {nbytes}")
        offset += at
        while rest:
            try:
                written = os.pwrite(self._fd, rest, offset)
            except OSError as error:
                raise StoreError(f"cannot write to {str(self._path)!r}: {error.strerror}") from error
            rest = rest[written:]
            offset += written

    def _check_name(self) -> None:
        """Find out early that hours of work would go into a file that has no name any more."""
        try:
            is_there = os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except OSError:
            is_there = False
        if not is_there:
            raise StoreError(
                f"{str(self._path)!r} was removed, renamed or replaced while it was being written"
            )

    def _fdatasync(self) -> None:
        try:
            getattr(os, "fdatasync", os.fsync)(self._fd)
        except OSError as error:
            raise StoreError(f"cannot write to {str(self._path)!r}: {error.strerror}") from error


class PartWriter:
    """Writes to a part of a file, whose images and rows are numbered from 0; see :class:`FeatureWriter`.

    Args:
        writer: of the whole file.
        first_image, first_row: where the part begins.
    """

    def __init__(self, writer: FeatureWriter, first_image: int, first_row: int) -> None:
        self._writer = writer
        self._first_image = first_image
        self._first_row = first_row

    def write_rows(
        self,
        rows: npt.NDArray[np.int64],
        descriptors: npt.NDArray[np.floating[Any]],
        audit: RowAudit | None = None,
    ) -> None:
        """Write ``(K, D)`` descriptors to rows ``(K,)``, ascending, and how they were pooled."""
        self._writer.write_rows(rows + self._first_row, descriptors, audit)

    def write_no_descriptor(self, rows: npt.NDArray[np.int64]) -> None:
        """Fill rows, ascending, with NaN."""
        self._writer.write_no_descriptor(rows + self._first_row)

    def write_boxes(
        self, rows: npt.NDArray[np.int64], boxes_px: npt.NDArray[np.float64], audit: BoxAudit | None = None
    ) -> None:
        """Write the boxes of rows, ascending."""
        self._writer.write_boxes(rows + self._first_row, boxes_px, audit)

    def write_sizes(self, images: npt.NDArray[np.int64], image_hw: npt.NDArray[np.integer[Any]]) -> None:
        """Write the sizes of images, ascending."""
        self._writer.write_sizes(images + self._first_image, image_hw)

    def mark_done(self, image: int) -> None:
        """Say that all rows of an image are written."""
        self._writer.mark_done(image + self._first_image)

    def mark_failed(self, image: int, reason: str) -> None:
        """Fill the rows of an image with NaN and record why."""
        self._writer.mark_failed(image + self._first_image, reason)

    def reopen(self, image: int) -> None:
        """Make an image pending again, at once."""
        self._writer.reopen(image + self._first_image)

    def sync(self) -> None:
        """Bring rows, then status, to the disk."""
        self._writer.sync()


def _place(dataset: h5py.Dataset, path: Path) -> tuple[int, int]:
    """Return the offset of a dataset in the file and its size, both in bytes."""
    offset, nbytes = dataset.id.get_offset(), dataset.size * dataset.dtype.itemsize
    if offset is None and nbytes:
        raise StoreError(f"{str(path)!r} cannot be continued: {dataset.name} is not contiguous and allocated")
    return offset or 0, nbytes


def _raw(array: npt.NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
