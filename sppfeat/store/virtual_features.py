"""The descriptors of a merged file, read from the files that it was merged from."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import check_copy
from sppfeat.errors import StoreError

__all__ = ["SourceFile", "VirtualFeatures", "recorded_path"]


class SourceFile(NamedTuple):
    """A file that holds rows of a merged file, as ``/sources/*`` records it at the merge."""

    path: bytes  # in the form of :func:`recorded_path`
    first_image: int  # half-open range of its images in the merged file
    stop_image: int
    first_row: int  # half-open range of its rows in the merged file
    stop_row: int
    nbytes: int  # size of the file
    mtime_ns: int  # modification time, in nanoseconds since 1970
    offset: int  # of the first byte of its /features
    created: bytes  # value of its attribute 'created'

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.stop_row - self.first_row


class VirtualFeatures:
    """``(R, D)`` descriptors in several files. Rows are copied when they are requested, source by source.

    ``features[rows]`` and ``features[rows, columns]`` give the same as for an array, where ``rows`` is an index, a
    slice or indices ``(k,)`` in any order, and ``columns`` a slice. ``np.asarray`` copies everything. All raise
    StoreError if a source has changed since the merge, and ConfigError if memory cannot hold the rows.

    The paths of ``files``, which have the order of their rows, start at the folder of the ``merged`` file.
    """

    ndim = 2

    def __init__(
        self,
        merged: Path,
        files: tuple[SourceFile, ...],
        shape: tuple[int, int],
        dtype: np.dtype[np.floating[Any]],
    ) -> None:
        self._merged = merged
        self._folder = os.path.dirname(os.path.realpath(merged))
        self.files = files
        self._stops: npt.NDArray[np.int64] = np.array([source.stop_row for source in files], dtype=np.int64)
        self.shape = shape
        self.dtype = dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[np.floating[Any]]:
        """Copy some rows, or some columns of them."""
        rows, columns = key if isinstance(key, tuple) and len(key) == 2 else (key, slice(None))
        numbers = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        is_known = numbers.ndim < 2 and (numbers.dtype.kind in "iu" or not numbers.size)
        if not is_known or not isinstance(columns, slice) or isinstance(rows, tuple):
            raise IndexError(
                f"the key is {key!r}; allowed: an index, a slice or indices of rows, a slice of columns"
            )
        outside = (numbers < -len(self)) | (numbers >= len(self))
        if outside.any():
            raise IndexError(f"row {numbers[outside][0]} of {len(self)}")
        wanted = np.where(numbers < 0, numbers + len(self), numbers).astype(np.int64).reshape(-1)
        shape = (len(wanted), len(range(*columns.indices(self.shape[1]))))
        check_copy(self._merged, shape, self.dtype.itemsize)
        taken = np.empty(shape, dtype=self.dtype)
        source = np.searchsorted(self._stops, wanted, side="right")
        for i in np.unique(source).tolist():
            positions = np.flatnonzero(source == i)
            local = wanted[positions] - self.files[i].first_row
            # Not kept: a map holds its file open, and there may be thousands of sources.
            taken[_as_slice(positions)] = self.map(i)[_as_slice(local), columns]
        return taken if numbers.ndim else taken[0]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("the rows are in several files, so an array of them is always a copy")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    @property
    def paths(self) -> list[str]:
        """Paths of the sources."""
        return [self.path_of(i) for i in range(len(self.files))]

    def path_of(self, i: int) -> str:
        """Return the path of source ``i``."""
        return os.path.normpath(os.path.join(self._folder, os.fsdecode(self.files[i].path)))

    def check(self) -> None:
        """Raise StoreError unless every source has the size and modification time that it had at the merge."""
        for i in range(len(self.files)):
            with self._naming_source(i):
                self._check_stat(i)

    def map(self, i: int) -> npt.NDArray[np.floating[Any]]:
        """Return the rows of source ``i``, ``(n, D)``, memory-mapped and read-only; raise as :meth:`check` does."""
        source = self.files[i]
        with self._naming_source(i):
            self._check_stat(i)
            shape = (source.n_rows, self.shape[1])
            return np.memmap(self.path_of(i), dtype=self.dtype, mode="r", offset=source.offset, shape=shape)

    def _check_stat(self, i: int) -> None:
        source, now = self.files[i], os.stat(self.path_of(i))
        if not stat.S_ISREG(now.st_mode):
            change = "it is no longer a regular file"
        elif now.st_size != source.nbytes:
            change = f"it has {now.st_size} bytes, and had {source.nbytes}"
        elif now.st_mtime_ns != source.mtime_ns:
            then = [f"{np.datetime64(ns, 'ns')} UTC" for ns in (now.st_mtime_ns, source.mtime_ns)]
            change = f"it was modified at {then[0]}, not {then[1]}"
        else:
            return
        raise StoreError(
            f"{str(self._merged)!r}: its source {self.path_of(i)!r} has changed since the merge: {change}; "
            "run 'sppfeat merge --overwrite' to merge the sources as they are now"
        )

    @contextlib.contextmanager
    def _naming_source(self, i: int) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, OverflowError) as error:  # a path with a NUL, an offset below 0
            reason = error.strerror if isinstance(error, OSError) else error
            raise StoreError(
                f"{str(self._merged)!r}: its source {self.path_of(i)!r} cannot be read: {reason}; if the "
                "files have moved, run 'sppfeat merge --overwrite'"
            ) from error


def recorded_path(source: str, output: str) -> bytes:
    """Return an absolute path in the form that a merged file records; both paths are without links.

    It is relative to the output's folder if the source is below that folder or its parent, so that both can be moved
    together.
    """
    folder = os.path.dirname(output)
    beside = os.path.dirname(folder)
    near = folder if beside == os.path.dirname(beside) else beside  # the parent / does not count as near
    is_near = source.startswith(os.path.join(near, ""))
    return os.fsencode(os.path.relpath(source, folder) if is_near else source)


def _as_slice(numbers: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """Return consecutive indices as a slice, which is copied without another copy; others unchanged."""
    if (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers
