"""Fills a feature file in place, row by row, without HDF5.

:mod:`sppfeat.store.layout` lays out the whole file first. After that no HDF5 call writes to it: ``os.pwrite`` puts rows
and then status at their known offsets. So metadata is never half written, and plain h5py can read the file at any time,
even after a crash.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import one_line
from sppfeat.errors import StoreError
from sppfeat.store.schema import ERROR_NBYTES, VERSION_COLUMNS, RowRegions, Status, cut_error
from sppfeat.store.stored_file import StoredFile

__all__ = ["FeatureWriter"]

_WRITTEN = ("features", "boxes", "images/size", "images/status", "images/error")
_WRITTEN_OF_BOXES = ("row_flag", "row_scale", "row_region")
_NAN_NBYTES = 4 << 20  # of NaN, written at a time


class FeatureWriter:
    """Fills rows, status and errors of an existing file, whose lock the caller holds.

    The status of an image is written only after its rows are synced to disk, every ``sync_seconds`` and on
    :meth:`close`. So neither a kill nor a power cut leaves an image marked as done without its rows.

    Raises:
        StoreError: the file cannot be opened for writing, or has another layout. All methods raise it if the file
            cannot be written to, or was removed.
    """

    def __init__(self, path: Path, *, sync_seconds: float = 2.0) -> None:
        self._path = path
        self._sync_seconds = sync_seconds
        self._last_sync = time.monotonic()
        self._marks: dict[int, Status] = {}
        self._fd = -1
        with StoredFile(path) as file:
            if file.is_virtual:
                raise StoreError(
                    f"{str(path)!r} cannot be continued: its rows are in other files; continue those with their own "
                    "commands, then run 'sppfeat merge --overwrite'"
                )
            optional = filter(file.has, (*_WRITTEN_OF_BOXES, *VERSION_COLUMNS))
            self._places = {name: file.place(name) for name in (*_WRITTEN, *optional)}
            self._rows: npt.NDArray[np.int64] = file.read("images/rows")
            self._dtype, self._dimension = file.dtype, file.dimension
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(
                f"{str(path)!r}: cannot be opened for writing: {one_line(str(error))}"
            ) from error

    def write_rows(
        self,
        rows: npt.NDArray[np.int64],
        descriptors: npt.NDArray[np.floating[Any]],
        regions: RowRegions | None = None,
    ) -> None:
        """Write descriptors ``(K, D)`` to rows ``(K,)``, ascending, with their flags and regions."""
        if descriptors.shape != (len(rows), self._dimension):
            raise ValueError(f"descriptors of shape {descriptors.shape}, not {(len(rows), self._dimension)}")
        with np.errstate(over="ignore"):
            self._write_at("features", rows, np.ascontiguousarray(descriptors, dtype=self._dtype))
        if regions is not None:
            self._write_at("row_flag", rows, regions.flag.astype("|u1"))
            self._write_at("row_region", rows, regions.region.astype("<i4"))

    def write_no_descriptor(self, rows: npt.NDArray[np.int64]) -> None:
        """Fill rows ``(K,)``, ascending, with NaN."""
        step = max(1, _NAN_NBYTES // max(1, self._dimension * self._dtype.itemsize))
        nan = np.full((min(step, len(rows)), self._dimension), np.nan, dtype=self._dtype)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            self._write_at("features", part, nan[: len(part)])

    def write_boxes(
        self,
        rows: npt.NDArray[np.int64],
        boxes_px: npt.NDArray[np.float64],
        *,
        flag: npt.NDArray[np.uint8] | None = None,
        scale: npt.NDArray[np.int32] | None = None,
    ) -> None:
        """Write the boxes of rows ``(K,)``, ascending, once the image size is known.

        ``flag`` holds bits of :class:`sppfeat.config.regions.RowFlag`, ``scale`` values of ``/row_scale``: short sides
        in pixels. Both are None for whole images.
        """
        self._write_at("boxes", rows, boxes_px.astype("<f8"))
        if flag is not None and scale is not None:
            self._write_at("row_flag", rows, flag.astype("|u1"))
            self._write_at("row_scale", rows, scale.astype("<i4"))

    def write_sizes(self, images: npt.NDArray[np.int64], image_hw: npt.NDArray[np.integer[Any]]) -> None:
        """Write heights and widths ``(n, 2)``, in pixels, of images ``(n,)``, ascending, that were unknown at first.

        Sync their boxes first: to readers, a known size means that the boxes are valid.
        """
        self._write_at("images/size", images, image_hw.astype("<i4"))

    def write_versions(self, images: npt.NDArray[np.int64], versions: npt.NDArray[np.int64]) -> None:
        """Write bytes and modification times ``(n, 2)`` of the files of images ``(n,)``, ascending.

        Write them after the sizes in pixels that were read from these files. An older file, which has no place for
        them, stays as it is.
        """
        for name, values in zip(VERSION_COLUMNS, versions.T, strict=True):
            if name in self._places:
                self._write_at(name, images, np.ascontiguousarray(values, dtype="<i8"))

    def mark_done(self, image: int) -> None:
        """Mark an image as done: all its rows are written."""
        if not 0 <= image < len(self._rows):
            raise IndexError(f"image {image} of {len(self._rows)}")
        self._mark(image, Status.DONE)

    def mark_failed(self, image: int, reason: str) -> None:
        """Fill the rows of an image with NaN and record the reason."""
        self._pwrite(cut_error(reason).ljust(ERROR_NBYTES, b"\0"), "images/error", image * ERROR_NBYTES)
        self.write_no_descriptor(np.arange(*self._rows[image].tolist()))
        self._mark(image, Status.FAILED)

    def reopen(self, image: int) -> None:
        """Mark an image as pending again, in the file at once, before its rows change."""
        self._marks.pop(image, None)
        self._pwrite(bytes([Status.PENDING]), "images/status", image)

    def sync(self) -> None:
        """Sync rows, then status, to the disk."""
        marks = self._marks
        # Few system calls: one for each image took half of the writing time.
        images = np.array(sorted(marks), dtype=np.int64)
        status = np.array([marks[image] for image in images.tolist()], dtype=np.uint8)
        done = images[status == Status.DONE]
        try:
            self._write_at("images/error", done, np.zeros((len(done), ERROR_NBYTES), dtype=np.uint8))
            self._fdatasync()
            self._write_at("images/status", images, status)
        except StoreError:
            # These images stay pending: the system discards pages that it could not write, so the next sync would
            # succeed without them.
            self._marks = {}
            raise
        self._marks = {}
        self._last_sync = time.monotonic()
        self._check_name()

    def close(self) -> None:
        """Sync everything and close the file; closing again does nothing."""
        if self._fd < 0:
            return
        try:
            try:
                self.sync()
            except KeyboardInterrupt:  # a second signal: mark the finished images nevertheless
                self.sync()
                raise
            finally:
                self._fdatasync()
        finally:
            os.close(self._fd)
            self._fd = -1

    def _mark(self, image: int, status: Status) -> None:
        self._marks[image] = status
        if time.monotonic() - self._last_sync > self._sync_seconds:
            self.sync()

    def _write_at(self, dataset: str, rows: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> None:
        """Write one entry of a dataset for each row; consecutive rows in one system call."""
        if not len(rows):
            return
        nbytes = values.itemsize * values[0].size
        bounds = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2, append=rows[-1] + 2) != 1)
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            content = values[start:stop].reshape(-1).view(np.uint8).data
            self._pwrite(content, dataset, int(rows[start]) * nbytes)

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
        """Fail early if the file was removed or replaced, instead of writing to it for hours."""
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
