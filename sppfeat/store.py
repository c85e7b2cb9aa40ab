"""The output file: laid out in full before the first row, then filled in place.

Crash safety comes from the layout. HDF5 writes the whole file under a temporary name: contiguous
datasets, allocated early, in the oldest file format. It is closed, reserved on disk, synced and
renamed. From then on no HDF5 call writes to it: rows, then status, go to their known places with
``os.pwrite``, so that no metadata can be half written and stock h5py reads it at any moment.
"""

import contextlib
import datetime
import errno
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat._version import __version__
from sppfeat.config import ExtractConfig
from sppfeat.errors import StoreError
from sppfeat.layout import check_layout, hdf5_errors
from sppfeat.locking import OutputLock, check_output
from sppfeat.plan import Plan
from sppfeat.schema import ERROR_NBYTES, FORMAT, SCHEMA_VERSION, ColumnBlock, Status, cut_error

__all__ = ["FeatureWriter", "OutputLock", "check_output", "create_file", "feature_nbytes"]

_WRITTEN = ("features", "boxes", "images/size", "images/status", "images/error")
_STRING = h5py.string_dtype("utf-8")
_BYTES_PER_IMAGE = 320  # of columns other than the features, and around a path in the heap of HDF5
_FILE_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


def feature_nbytes(plan: Plan, blocks: Sequence[ColumnBlock], dtype: str) -> int:
    """Return the bytes of ``/features``."""
    return plan.n_rows * blocks[-1].stop * _FILE_DTYPES[dtype].itemsize


def create_file(
    path: Path, plan: Plan, config: ExtractConfig, blocks: Sequence[ColumnBlock], *, weights_path: str = ""
) -> None:
    """Lay out the output file in full; it has its name only once it is whole.

    Args:
        path: the output; what is there is replaced. A link stays, and what it leads to is replaced.
        plan: every image and row.
        config: recorded with its fingerprint.
        blocks: the columns of a descriptor.
        weights_path: where the weights came from, if from a file.

    Raises:
        StoreError: no space, no folder, no permission.
    """
    real = Path(os.path.realpath(path))
    part = Path(f"{real}.tmp")
    try:
        part.unlink(missing_ok=True)  # of a creation that was killed; it takes space
        _check_space(path, real.parent, _file_nbytes(plan, config, blocks))
        try:
            _lay_out(part, plan, config, blocks, weights_path)
            _reserve_and_sync(part)
            part.replace(real)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # h5py raises RuntimeError when the disk is full on closing
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"cannot create {str(path)!r}: {reason}") from error
    _sync_folder(real.parent)


class FeatureWriter:
    """Fills rows, status and errors of an existing file, without HDF5.

    An image's status reaches the file only after its rows have been synced to the disk, every
    ``sync_seconds`` and at :meth:`close`, so that neither a kill nor a power cut leaves an image that is
    marked done without its rows.

    Args:
        path: a file that :func:`create_file` made; the caller holds its lock.
        sync_seconds: how often to sync.

    Raises:
        StoreError: the file cannot be opened for writing, or is not laid out as it must be.
    """

    def __init__(self, path: Path, *, sync_seconds: float = 2.0) -> None:
        self._path = path
        self._sync_seconds = sync_seconds
        self._last_sync = time.monotonic()
        self._marks: dict[int, Status] = {}
        self._fd = -1
        with hdf5_errors(path, "cannot be opened for writing"):
            with h5py.File(path, "r") as file:
                check_layout(file, path)
                self._places = {name: _place(file[name], path) for name in _WRITTEN}
                self._rows: npt.NDArray[np.int64] = file["images/rows"][()]
                self._dtype: np.dtype[Any] = file["features"].dtype
                self._dimension = int(file["features"].shape[1])
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def write_rows(self, first_row: int, descriptors: npt.NDArray[np.floating[Any]]) -> None:
        """Write ``(K, D)`` descriptors to rows ``first_row`` and on."""
        if descriptors.ndim != 2 or descriptors.shape[1] != self._dimension:
            raise ValueError(f"descriptors of shape {descriptors.shape}, not (K, {self._dimension})")
        with np.errstate(over="ignore"):
            block = np.ascontiguousarray(descriptors, dtype=self._dtype)
        self._pwrite(_raw(block), "features", first_row * self._dimension * self._dtype.itemsize)

    def write_size(self, image: int, image_hw: tuple[int, int]) -> None:
        """Write the size of an image that was not known at first, and its whole-image box."""
        self._pwrite(_raw(np.array(image_hw, dtype="<i4")), "images/size", image * 8)
        first, stop = self._rows[image].tolist()
        box = whole_image_boxes(np.array([image_hw], dtype=np.int32))
        self._pwrite(_raw(np.repeat(box, stop - first, axis=0)), "boxes", first * 32)

    def mark_done(self, image: int) -> None:
        """Say that all rows of an image are written."""
        self._pwrite(bytes(ERROR_NBYTES), "images/error", image * ERROR_NBYTES)
        self._mark(image, Status.DONE)

    def mark_failed(self, image: int, reason: str) -> None:
        """Fill the rows of an image with NaN and record why."""
        self._pwrite(cut_error(reason).ljust(ERROR_NBYTES, b"\0"), "images/error", image * ERROR_NBYTES)
        first, stop = self._rows[image].tolist()
        nan = np.full((1, self._dimension), np.nan, dtype=self._dtype)
        for row in range(first, stop):
            self.write_rows(row, nan)
        self._mark(image, Status.FAILED)

    def reopen(self, image: int) -> None:
        """Make an image pending again, at once: its rows are about to change."""
        self._marks.pop(image, None)
        self._pwrite(bytes([Status.PENDING]), "images/status", image)

    def sync(self) -> None:
        """Bring rows, then status, to the disk."""
        marks, self._marks = self._marks, {}
        # If this fails, the images that wait for it stay pending for good: what could not be written is
        # forgotten by the system, and the next sync would succeed without it.
        self._fdatasync()
        for image, status in marks.items():
            self._pwrite(bytes([status]), "images/status", image)
        self._last_sync = time.monotonic()

    def close(self) -> None:
        """Sync everything and close; once is enough."""
        if self._fd < 0:
            return
        try:
            self.sync()
            self._fdatasync()
        finally:
            os.close(self._fd)
            self._fd = -1

    def _mark(self, image: int, status: Status) -> None:
        self._marks[image] = status
        if time.monotonic() - self._last_sync > self._sync_seconds:
            self.sync()

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

    def _fdatasync(self) -> None:
        try:
            getattr(os, "fdatasync", os.fsync)(self._fd)
        except OSError as error:
            raise StoreError(f"cannot write to {str(self._path)!r}: {error.strerror}") from error


def _place(dataset: h5py.Dataset, path: Path) -> tuple[int, int]:
    """Return the offset of a dataset in the file and its size, both in bytes."""
    offset, nbytes = dataset.id.get_offset(), dataset.size * dataset.dtype.itemsize
    if offset is None and nbytes:
        raise StoreError(f"{str(path)!r} cannot be continued: {dataset.name} is not contiguous and allocated")
    return offset or 0, nbytes


def _raw(array: npt.NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _lay_out(
    part: Path, plan: Plan, config: ExtractConfig, blocks: Sequence[ColumnBlock], weights_path: str
) -> None:
    with h5py.File(part, "w", libver="earliest") as file:
        _write_attributes(file, plan, config, weights_path)
        _write_columns(file, plan, config, blocks)


def _write_attributes(file: h5py.File, plan: Plan, config: ExtractConfig, weights_path: str) -> None:
    attributes = {
        "format": FORMAT,
        "sppfeat_version": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "config": config.to_json(),
        "fingerprint": config.fingerprint,
        "weights_sha256": config.backbone.weights_sha256,
        "weights_path": os.fsencode(weights_path),
        "input_root": plan.root,
    }
    for name, value in attributes.items():
        file.attrs.create(name, value, dtype=_STRING)
    file.attrs.create("schema_version", SCHEMA_VERSION, dtype="<i8")


def _write_columns(file: h5py.File, plan: Plan, config: ExtractConfig, blocks: Sequence[ColumnBlock]) -> None:
    n, dimension = plan.n_images, blocks[-1].stop
    _allocate(file, "features", (plan.n_rows, dimension), _FILE_DTYPES[config.descriptor.dtype])
    image_index = np.repeat(np.arange(n, dtype="<i8"), np.diff(plan.rows, axis=1).reshape(-1))
    file["boxes"] = whole_image_boxes(plan.image_hw)[image_index]
    file["image_index"] = image_index
    file.create_dataset("images/path", data=list(plan.paths), dtype=_STRING, shape=(n,))
    file["images/size"] = plan.image_hw.astype("<i4")
    file["images/rows"] = plan.rows.astype("<i8")
    _allocate(file, "images/status", (n,), np.dtype("|u1"))
    _allocate(file, "images/error", (n,), h5py.string_dtype("utf-8", ERROR_NBYTES))
    file["images/label"] = plan.labels.astype("<i8")
    file.create_dataset("classes", data=list(plan.classes), dtype=_STRING, shape=(len(plan.classes),))
    for name in ColumnBlock._fields:
        values = [getattr(block, name) for block in blocks]
        file.create_dataset(f"columns/{name}", data=values, dtype=_STRING if name == "layer" else "<i8")


def whole_image_boxes(image_hw: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Return ``(N, 4)`` float64 ``[0, 0, width, height]``; NaN where the size is not known."""
    boxes = np.zeros((len(image_hw), 4), dtype="<f8")
    boxes[:, 2:] = image_hw[:, ::-1]
    boxes[(image_hw == 0).any(axis=1)] = np.nan
    return boxes


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Make a contiguous dataset that has its place in the file and no content: it reads as zeros."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    h5_type = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(file.id, name.encode(), h5_type, h5py.h5s.create_simple(shape), layout, links)


def _file_nbytes(plan: Plan, config: ExtractConfig, blocks: Sequence[ColumnBlock]) -> int:
    columns = plan.n_images * _BYTES_PER_IMAGE + plan.paths.nbytes
    return feature_nbytes(plan, blocks, config.descriptor.dtype) + columns


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


def _sync_folder(folder: Path) -> None:
    # Some file systems cannot sync a folder, and some folders cannot be read; the rename has happened.
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
