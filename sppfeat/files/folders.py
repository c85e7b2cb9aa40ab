"""Folder walks, depth first and in natural order, over folders of this machine or over names listed elsewhere."""

import heapq
import os
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from sppfeat.errors import SppfeatError
from sppfeat.files.paths import PathTable, natural_key

__all__ = ["MOST_WAYS", "FolderWalk", "walk_order"]

_SORTED_AT_ONCE = 1 << 14  # names of a folder, as objects with their sort keys: 4 MB

MOST_WAYS = 100
"""The most paths, through links, to one folder; ten folders that link to each other have millions."""


class FolderWalk:
    """Walks a folder and counts the files that it skips; follows links and ignores hidden names.

    Args:
        top: path of the folder.
        is_wanted: chooses files by their names.
        unlistable: makes the error for a folder that cannot be listed, from its path below the top and the reason.
        found_often: makes the error for a folder that links reach in more than ``MOST_WAYS`` ways, from its path.

    Attributes:
        n_other_files: files skipped so far.
    """

    def __init__(
        self,
        top: bytes,
        is_wanted: Callable[[bytes], bool],
        *,
        unlistable: Callable[[bytes, OSError], SppfeatError],
        found_often: Callable[[bytes], SppfeatError],
    ) -> None:
        self.n_other_files = 0
        self._top = top
        self._is_wanted = is_wanted
        self._unlistable = unlistable
        self._found_often = found_often

    def __iter__(self) -> Iterator[bytes]:
        """Yield the wanted files, relative to the top; each cycle of links is followed once.

        Raises:
            SppfeatError: from ``unlistable`` or ``found_often``.
        """
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
                    if n_ways[identity] > MOST_WAYS:
                        raise self._found_often(folder)
                    stack.append((below + entry, self._entries(folder), above | {identity}))
                    break
            else:
                stack.pop()

    def _identity(self, folder: bytes) -> tuple[int, int]:
        try:
            status = os.stat(os.path.join(self._top, folder))
        except OSError as error:
            raise self._unlistable(folder, error) from error
        return status.st_dev, status.st_ino

    def _entries(self, folder: bytes) -> Iterator[bytes]:
        """Yield the subfolders of a folder, each with a final slash, and its wanted files, in natural order."""
        kept: list[bytes] = []
        in_order: list[PathTable] = []
        try:
            with os.scandir(os.path.join(self._top, folder)) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(b"."):
                        continue
                    if _leads_to_folder(entry):
                        name += b"/"
                    elif not self._is_wanted(name):
                        self.n_other_files += 1
                        continue
                    kept.append(name)
                    if len(kept) == _SORTED_AT_ONCE:
                        kept.sort(key=_order)
                        in_order.append(PathTable(kept))
                        kept = []
        except OSError as error:
            raise self._unlistable(folder, error) from error
        return heapq.merge(*in_order, sorted(kept, key=_order), key=_order)


def _order(entry: bytes) -> bytes:
    return natural_key(entry.removesuffix(b"/"))


def _leads_to_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder without permission
        return False


def walk_order(names: PathTable) -> npt.NDArray[np.int64]:
    """Sort names into the order of a walk, depth first, in natural order in each folder.

    Args:
        names: unique names with ``/`` separators.

    Returns:
        ``(n,)`` int64, the indices of the names in that order.

    Example:
        >>> names = PathTable(["a/10.jpg", "a/9.jpg", "a.jpg", "B/1.jpg"])
        >>> [names[i] for i in walk_order(names)]
        [b'a/9.jpg', b'a/10.jpg', b'a.jpg', b'B/1.jpg']
    """
    keys = [b"\0".join(map(natural_key, name.split(b"/"))) for name in names]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
