"""The descriptors of several files as one read-only array, indexed by rows and columns."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import check_copy
from sppfeat.store.merge_sources import SourceFiles

__all__ = ["VirtualFeatures"]


class VirtualFeatures:
    """``(R, D)`` descriptors in several files. Rows are copied when they are requested, source by source.

    ``features[rows]`` and ``features[rows, columns]`` give the same as for an array, where ``rows`` is an index, a
    slice or indices ``(k,)`` in any order, and ``columns`` a slice. ``np.asarray`` copies everything.

    Args:
        sources: the files; each is checked when its rows are requested.

    Attributes:
        shape: ``(R, D)``.
        dtype: float32 or float16.

    Raises:
        StoreError: when rows are requested: a source has changed since the merge.
        ConfigError: when rows are requested: memory cannot hold them.
    """

    ndim = 2

    def __init__(self, sources: SourceFiles) -> None:
        self._sources = sources
        self._stops: npt.NDArray[np.int64] = np.array([source.stop_row for source in sources], dtype=np.int64)
        self.shape: tuple[int, int] = (int(self._stops[-1]), sources.dimension)
        self.dtype: np.dtype[np.floating[Any]] = sources.dtype

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
        numbers = np.where(numbers < 0, numbers + len(self), numbers).astype(np.int64)
        taken = self._gather(numbers.reshape(-1), columns)
        return taken if numbers.ndim else taken[0]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a copy is needed: the rows lie in several files")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def _gather(self, rows: npt.NDArray[np.int64], columns: slice) -> npt.NDArray[np.floating[Any]]:
        """Return some columns of rows ``(k,)`` in any order."""
        shape = (len(rows), len(range(*columns.indices(self.shape[1]))))
        check_copy(self._sources.merged, shape, self.dtype.itemsize)
        taken = np.empty(shape, dtype=self.dtype)
        source = np.searchsorted(self._stops, rows, side="right")
        order = np.argsort(source, kind="stable")
        starts = np.flatnonzero(np.diff(source[order], prepend=-1))
        for positions in np.split(order, starts[1:]) if len(rows) else ():
            i = int(source[positions[0]])
            local = rows[positions] - self._sources[i].first_row
            # Mapped anew each time: a kept map holds a file open, and there may be thousands of sources.
            taken[_as_slice(positions)] = self._sources.map(i)[_as_slice(local), columns]
        return taken


def _as_slice(numbers: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """Return consecutive indices as a slice, which is copied without another copy; others unchanged."""
    if (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers
