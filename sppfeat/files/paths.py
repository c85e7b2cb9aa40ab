"""Compact tables of millions of paths, and folder walks in the natural order of names."""

import heapq
import operator
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from sppfeat.errors import SppfeatError
from sppfeat.files.globs import PathFilter, find_system_folder

__all__ = [
    "N_EXAMPLES",
    "FolderWalk",
    "PathIndex",
    "PathTable",
    "PathTableBuilder",
    "natural_key",
    "possibly_repeated",
    "walk_order",
]

_DIGITS = re.compile(rb"[0-9]+")
_NO_NUMBER = bytes(5)


class PathTable(Sequence[bytes]):
    """An immutable sequence of paths: one byte string for all and an offset for each, no object per path.

    Paths are bytes as the operating system has them (``os.fsencode``), so that names which are not
    valid UTF-8 survive.

    Example:
        >>> table = PathTable(["a.jpg", "b/c.jpg"])
        >>> table[1], len(table)
        (b'b/c.jpg', 2)
    """

    def __init__(self, paths: Iterable[bytes | str]) -> None:
        blob = bytearray()
        ends = array("q", [0])
        for path in paths:
            blob += os.fsencode(path)
            ends.append(len(blob))
        # Bytes would be a copy, and briefly twice the memory.
        self._blob = blob
        self._ends: npt.NDArray[np.int64] = np.frombuffer(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: SupportsIndex) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"path {index} of {len(self)}")
        index %= len(self)
        return bytes(self._blob[self._ends[index] : self._ends[index + 1]])

    def __iter__(self) -> Iterator[bytes]:
        for block in self.blocks():
            yield from block

    def blocks(self, n_paths: int = 4096) -> Iterator[list[bytes]]:
        """Yield all paths in lists of ``n_paths``."""
        for first in range(0, len(self), n_paths):
            ends = self._ends[first : first + n_paths + 1].tolist()
            blob, start = bytes(self._blob[ends[0] : ends[-1]]), ends[0]
            yield [blob[a - start : b - start] for a, b in pairwise(ends)]

    def has_same(self, other: "PathTable") -> bool:
        """Return True if another table has the same paths in the same order."""
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def part(self, start: int, stop: int) -> "PathTable":
        """Return the paths from ``start`` to ``stop``; they share the memory of this table."""
        table = PathTable(())
        table._blob, table._ends = self._blob, self._ends[start : stop + 1]
        return table

    def to_arrays(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Return the bytes of all paths, ``(b,)`` uint8, and their bounds, ``(n + 1,)`` int64, from 0."""
        start, end = int(self._ends[0]), int(self._ends[-1])
        return np.frombuffer(self._blob[start:end], dtype=np.uint8), self._ends - start

    @classmethod
    def from_arrays(cls, blob: npt.NDArray[np.generic], ends: npt.NDArray[np.generic]) -> "PathTable":
        """Return the table from the arrays of :meth:`to_arrays`; raise ValueError if they do not describe one."""
        are_flat = blob.ndim == ends.ndim == 1 and len(ends) > 0
        if blob.dtype != np.uint8 or ends.dtype != np.int64 or not are_flat:
            raise ValueError(
                f"not the arrays of a table: {blob.dtype} {blob.shape}, {ends.dtype} {ends.shape}"
            )
        table = cls(())
        table._blob, table._ends = bytearray(blob.data), ends.astype(np.int64)
        if ends[0] != 0 or ends[-1] != len(blob) or (np.diff(table._ends) < 0).any():
            raise ValueError("not the arrays of a table: the bounds do not ascend from 0 to the end")
        return table

    @property
    def nbytes(self) -> int:
        """Memory of the table, in bytes."""
        return int(self._ends[-1] - self._ends[0]) + self._ends.nbytes


class PathTableBuilder:
    """Builds a table from batches of paths."""

    def __init__(self) -> None:
        self._blob = bytearray()
        self._ends = array("q", [0])

    def extend(self, paths: Sequence[bytes]) -> None:
        """Append paths."""
        self._ends.extend(accumulate(map(len, paths), initial=self._ends.pop()))
        self._blob += b"".join(paths)

    def build(self) -> PathTable:
        """Return the table; the builder cannot be used afterwards."""
        table = PathTable(())
        table._blob, table._ends = self._blob, np.frombuffer(self._ends, dtype=np.int64)
        return table


class PathIndex:
    """Finds paths in a table without repetitions, by sorted hashes: 50 bytes per path; a dictionary takes 200."""

    def __init__(self, table: PathTable) -> None:
        self._table = table
        hashes = _hashes(table)
        self._order = np.argsort(hashes)
        self._hashes = hashes[self._order]

    def positions(self, paths: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """Return the position of each path in the table, ``(n,)`` int64; -1 if missing."""
        found = np.full(len(paths), -1, dtype=np.int64)
        wanted = _hashes(paths)
        starts, stops = (np.searchsorted(self._hashes, wanted, side) for side in ("left", "right"))
        for i in np.flatnonzero(starts < stops).tolist():
            path = paths[i]
            places = self._order[starts[i] : stops[i]].tolist()  # one position, unless hashes collide
            found[i] = next((place for place in places if self._table[place] == path), -1)
        return found


def possibly_repeated(paths: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Positions of all repeated paths and a few others, ``(s,)`` int64, ascending."""
    _, inverse, counts = np.unique(_hashes(paths), return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[inverse] > 1)


def _hashes(paths: Sequence[bytes]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(hash, paths), dtype=np.int64, count=len(paths))


def natural_key(name: bytes) -> bytes:
    """Return the sort key that puts ``img2`` before ``img10``; ties are broken by the raw bytes.

    The key is one byte string rather than a tuple, which saves 0.5 GB for a folder of a million images. File names
    never hold zero bytes.

    Example:
        >>> sorted([b"img10", b"IMG2", b"img1"], key=natural_key)
        [b'img1', b'IMG2', b'img10']
    """
    # Numbers are compared by their length without zeros, then digit by digit, so that they may have any size. The zero
    # byte before the length sorts a text before every longer text; the empty number that ends the key sorts it before
    # every number.
    return _DIGITS.sub(_number_key, name.lower()) + _NO_NUMBER + name


def _number_key(match: re.Match[bytes]) -> bytes:
    digits = match.group().lstrip(b"0")
    return b"\0" + (len(digits) + 1).to_bytes(4, "big") + digits


_SORTED_AT_ONCE = 1 << 14  # names of a folder, as objects with their sort keys: 4 MB

N_EXAMPLES = 4
"""Number of skipped files that a walk or an index names; notes show one less, and dots."""

# Largest number of ways, through links, to reach one folder; ten folders that link to each other have millions.
_MOST_WAYS = 100


class FolderWalk:
    """Walks a folder, follows links, and skips hidden names and system folders.

    ``n_other_files`` counts the other files, ``other_files`` names a few of them, and ``system_folders`` names the
    system folders.

    Args:
        top: path of the folder.
        is_wanted: chooses files by their names.
        paths: leaves out files and folders by their paths below the top; None to leave out none.
        error: makes the error for a folder that cannot be listed, or that links reach in more than ``_MOST_WAYS``
            ways, from its path below the top and a predicate, such as "cannot be listed: Permission denied".
    """

    def __init__(
        self,
        top: bytes,
        is_wanted: Callable[[bytes], bool],
        *,
        error: Callable[[bytes, str], SppfeatError],
        paths: PathFilter | None = None,
    ) -> None:
        self.n_other_files = 0
        self.other_files: list[bytes] = []
        self.system_folders: list[bytes] = []
        self._paths = paths or PathFilter()
        self._top = top
        self._is_wanted = is_wanted
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        """Yield the wanted files, relative to the top; each cycle of links is followed once."""
        n_ways: Counter[tuple[int, int]] = Counter()
        stack = [(b"", self._entries(b""), frozenset({self._identity(b"")}))]
        while stack:
            below, entries, above = stack[-1]
            for entry in entries:
                if not entry.endswith(b"/"):
                    yield below + entry
                    continue
                folder = below + entry[:-1]
                identity = self._identity(folder)
                if identity not in above:
                    n_ways[identity] += 1
                    if n_ways[identity] > _MOST_WAYS:
                        raise self._error(
                            folder,
                            f"is reached by links in more than {_MOST_WAYS} ways; allowed: {_MOST_WAYS}",
                        )
                    stack.append((below + entry, self._entries(folder), above | {identity}))
                    break
            else:
                stack.pop()

    def _identity(self, folder: bytes) -> tuple[int, int]:
        try:
            status = os.stat(os.path.join(self._top, folder))
        except OSError as error:
            raise self._error(folder, f"cannot be listed: {error.strerror}") from error
        return status.st_dev, status.st_ino

    def _entries(self, folder: bytes) -> Iterator[bytes]:
        """Yield the subfolders of a folder, each with a final slash, and its wanted files, in natural order."""
        kept: list[bytes] = []
        in_order: list[PathTable] = []
        above = folder + b"/" if folder else b""
        try:
            with os.scandir(os.path.join(self._top, folder)) as entries:
                for entry in entries:
                    name = entry.name
                    if _leads_to_folder(entry):
                        name += b"/"
                    if name.endswith(b"/") and find_system_folder(name):
                        self.system_folders.append(above + name[:-1])
                        continue
                    if name.startswith(b".") or self._paths.excludes(above + name):
                        continue
                    if not name.endswith(b"/") and not self._is_wanted(name):
                        self.n_other_files += 1
                        if len(self.other_files) < N_EXAMPLES:
                            self.other_files.append(above + name)
                        continue
                    kept.append(name)
                    if len(kept) == _SORTED_AT_ONCE:
                        kept.sort(key=_order)
                        in_order.append(PathTable(kept))
                        kept = []
        except OSError as error:
            raise self._error(folder, f"cannot be listed: {error.strerror}") from error
        return heapq.merge(*in_order, sorted(kept, key=_order), key=_order)


def _order(entry: bytes) -> bytes:
    return natural_key(entry.removesuffix(b"/"))


def _leads_to_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder without permission
        return False


def walk_order(names: PathTable) -> npt.NDArray[np.int64]:
    """Return the indices, ``(n,)`` int64, that sort unique names with ``/`` separators into the order of a walk.

    Example:
        >>> names = PathTable(["a/10.jpg", "a/9.jpg", "a.jpg", "B/1.jpg"])
        >>> [names[i] for i in walk_order(names)]
        [b'a/9.jpg', b'a/10.jpg', b'a.jpg', b'B/1.jpg']
    """
    keys = [b"\0".join(map(natural_key, name.split(b"/"))) for name in names]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
