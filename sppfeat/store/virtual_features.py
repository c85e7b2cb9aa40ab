"""The descriptors of several files as one read-only array."""

import mmap
import operator
import resource
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from types import EllipsisType
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from sppfeat.config.machine import check_copy, drop_pages
from sppfeat.config.wording import counted
from sppfeat.store.merge_sources import SourceFiles

__all__ = ["VirtualFeatures"]

_KEPT_MAPS = 192  # maps to keep open, of the sources used last
_SHARE_OF_FILES = 5  # keep one fifth of the process's limit on open files at most; each map holds one
_Array = npt.NDArray[Any]
_COPY = "a copy is needed: the rows lie in several files"


class VirtualFeatures(NDArrayOperatorsMixin):
    """``(R, D)`` descriptors in several files, read-only, indexed like an ``ndarray``.

    A slice of rows from one file is a view of its memory map. Any other key copies the requested elements only, file by
    file. numpy functions and arithmetic also accept the object, but copy the whole array.

    Args:
        sources: the files; each is checked when its rows are first requested.

    Attributes:
        shape: ``(R, D)``.
        dtype: float32 or float16.

    Raises:
        StoreError: when rows are requested: a source has changed since the merge.
    """

    ndim = 2

    def __init__(self, sources: SourceFiles) -> None:
        self._sources = sources
        self._stops: npt.NDArray[np.int64] = np.array([source.stop_row for source in sources], dtype=np.int64)
        self.shape: tuple[int, int] = (int(self._stops[-1]), sources.dimension)
        self.dtype: np.dtype[np.floating[Any]] = sources.dtype
        self._maps: OrderedDict[int, _Array] = OrderedDict()
        self._mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        n_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # negative if there is no limit
        self._n_kept = min(_KEPT_MAPS, n_files // _SHARE_OF_FILES) if n_files >= 0 else _KEPT_MAPS
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the sources only: other processes map the files again."""
        return VirtualFeatures, (self._sources,)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        sources = counted(len(self._sources), "file")
        return f"<VirtualFeatures {self.shape[0]} x {self.shape[1]} {self.dtype}, of {sources}>"

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.itemsize

    def __iter__(self) -> Iterator[_Array]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        """Return rows, or parts of rows, for any key that numpy accepts."""
        parts = _split(key)
        if parts is None:
            return self._take_elements(key)
        rows, columns = parts
        if isinstance(rows, int):
            source, local = self._locate(rows)
            return self._view_or_copy(self._map(source)[local][columns])
        if isinstance(rows, slice):
            return self._take_range(range(*rows.indices(len(self))), columns)
        return self._gather(self._row_indices(rows), columns)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> _Array:
        """Return the whole array: the memory map of a single source, or a copy of several."""
        everything: _Array = self[:]
        if dtype is not None and np.dtype(dtype) != everything.dtype:
            if copy is False:
                raise ValueError(f"a copy is needed: of {everything.dtype} as {np.dtype(dtype)}")
            return everything.astype(dtype)
        if copy is False and len(self._sources) > 1:
            raise ValueError(_COPY)
        return everything.copy() if copy else everything

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Apply a numpy function to the whole array."""
        arrays = [np.asarray(array) if isinstance(array, VirtualFeatures) else array for array in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def drop_pages(self) -> None:
        """Release the memory pages of the mapped files."""
        with self._lock:
            for mapped in list(self._mapped):
                drop_pages(mapped)

    def _locate(self, row: int) -> tuple[int, int]:
        """Return the source that holds a row, and the index of the row in it."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"index {row} is out of bounds for axis 0 with size {len(self)}")
        row %= len(self)
        source = int(np.searchsorted(self._stops, row, side="right"))
        return source, row - self._sources[source].first_row

    def _row_indices(self, rows: _Array) -> npt.NDArray[np.int64]:
        """Return row indices ``(k,)`` from 0, for a mask ``(R,)`` or for indices that may be negative."""
        n = len(self)
        if rows.dtype == bool:
            if len(rows) != n:
                raise IndexError(f"a mask of {len(rows)} rows for {n}")
            return np.flatnonzero(rows)
        wrong = np.flatnonzero((rows < -n) | (rows >= n))
        if len(wrong):
            raise IndexError(f"index {rows[wrong[0]]} is out of bounds for axis 0 with size {n}")
        numbers = rows.astype(np.int64)
        return np.where(numbers < 0, numbers + n, numbers)

    def _take_range(self, rows: range, columns: Any) -> _Array:
        """Return evenly spaced rows: a view if one source holds them all."""
        if not rows:
            return np.empty((0, self.shape[1]), dtype=self.dtype)[:, columns]
        (source, first), (other, last) = self._locate(rows[0]), self._locate(rows[-1])
        if source != other:
            return self._gather(np.arange(rows.start, rows.stop, rows.step), columns)
        stop: int | None = last + (1 if rows.step > 0 else -1)
        local = slice(first, stop if stop is not None and stop >= 0 else None, rows.step)
        return self._view_or_copy(self._map(source)[local][:, columns])

    def _gather(self, rows: npt.NDArray[np.int64], columns: Any) -> _Array:
        """Return rows ``(k,)`` in any order, copied source by source."""
        like = np.empty((0, self.shape[1]), dtype=self.dtype)[:, columns]
        check_copy(self._sources.merged, (len(rows), *like.shape[1:]), self.dtype.itemsize)
        taken = np.empty((len(rows), *like.shape[1:]), dtype=self.dtype)
        # Sources that are mapped already come first. In a fixed order, rows of more sources than are kept would always
        # find their source evicted.
        for source, positions in sorted(self._by_source(rows), key=lambda part: part[0] not in self._maps):
            local = _as_slice(rows[positions] - self._sources[source].first_row)
            mapped = self._map(source)
            # Reads only the requested columns. Arrays of rows and of columns cannot index together.
            part = mapped[local][:, columns] if isinstance(columns, np.ndarray) else mapped[local, columns]
            taken[_as_slice(positions)] = part
        return taken

    def _take_elements(self, key: Any) -> Any:
        """Return elements for any other key; numpy itself finds the row and column of each."""
        rows = np.asarray(np.broadcast_to(np.arange(self.shape[0])[:, None], self.shape)[key])
        columns = np.broadcast_to(np.arange(self.shape[1]), self.shape)[key]
        taken = np.empty(rows.size, dtype=self.dtype)
        flat_rows, flat_columns = rows.reshape(-1), np.reshape(columns, -1)
        for source, positions in self._by_source(flat_rows):
            local = flat_rows[positions] - self._sources[source].first_row
            taken[positions] = self._map(source)[local, flat_columns[positions]]
        return taken.reshape(rows.shape)[()]

    def _by_source(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Yield each source that holds some of the rows, with the positions of these rows, ascending."""
        source = np.searchsorted(self._stops, rows, side="right")
        order = np.argsort(source, kind="stable")
        starts = np.flatnonzero(np.diff(source[order], prepend=-1))
        for positions in np.split(order, starts[1:]) if len(rows) else ():
            yield int(source[positions[0]]), positions

    def _map(self, source: int) -> _Array:
        """Return the memory map of a source; the maps used last are kept open."""
        with self._lock:
            if source in self._maps:
                self._maps.move_to_end(source)
                return self._maps[source]
        mapped = self._sources.map(source)
        with self._lock:
            self._maps[source] = mapped
            self._mapped.add(mapped._mmap)  # type: ignore[attr-defined]
            while len(self._maps) > self._n_kept:
                self._maps.popitem(last=False)
        return mapped

    def _view_or_copy(self, view: _Array) -> _Array:
        """Return a view of a memory map, or a copy if earlier views hold too many files open."""
        return view if len(self._mapped) <= 2 * self._n_kept else np.array(view)


def _split(key: Any) -> tuple[int | slice | _Array, Any] | None:
    """Split a key into a row key and a column key; None if these cannot be applied one after the other."""
    parts = key if isinstance(key, tuple) else (key,)
    if sum(part is Ellipsis for part in parts) == 1 and len(parts) <= 3:
        at = next(i for i, part in enumerate(parts) if part is Ellipsis)
        parts = (*parts[:at], *[slice(None)] * (3 - len(parts)), *parts[at + 1 :])
    if len(parts) > 2:
        return None
    rows, columns = (_simple(part) for part in (*parts, slice(None), slice(None))[:2])
    if rows is None or columns is None:
        return None
    if isinstance(rows, np.ndarray) and not isinstance(columns, slice):
        return None  # numpy would pair the row and column indices
    return rows, columns


def _simple(part: Any) -> int | slice | _Array | None:
    """Return the key of one axis as an index, a slice, a mask or indices ``(k,)``; None for any other key."""
    if isinstance(part, slice):
        return part
    if part is None or isinstance(part, EllipsisType | bool | np.bool_):
        return None
    try:
        return operator.index(part)
    except TypeError:
        array = np.asarray(part)
    if array.ndim != 1:
        return None
    if array.size == 0 and not isinstance(part, np.ndarray):
        return array.astype(np.int64)  # an empty list becomes a float array
    return array if array.dtype.kind in "biu" else None


def _as_slice(numbers: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """Return consecutive indices as a slice, which copies faster; others unchanged."""
    if numbers[-1] - numbers[0] + 1 == len(numbers) and (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers
