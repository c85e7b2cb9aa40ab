"""The order in which a walk through folders meets files, of names that nobody walked through."""

from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sppfeat.files.paths import PathTable, natural_key

__all__ = ["walk_order"]


def walk_order(names: PathTable) -> npt.NDArray[np.int64]:
    """``(n,)`` int64: the numbers of names in the order of a walk, depth first, in natural order in each folder.

    Args:
        names: with ``/`` separators, unique. In the order of their bytes it takes less memory.

    Example:
        >>> names = PathTable(["a/10.jpg", "a/9.jpg", "a.jpg", "B/1.jpg"])
        >>> [names[i] for i in walk_order(names)]
        [b'a/9.jpg', b'a/10.jpg', b'a.jpg', b'B/1.jpg']
    """
    by_bytes = _byte_order(names)
    order = array("q")
    stack = [_entries(names, by_bytes, 0, len(names), 0)]
    while stack:
        for start, stop, n_above in stack[-1]:
            if n_above:
                stack.append(_entries(names, by_bytes, start, stop, n_above))
                break
            order.append(by_bytes[start])
        else:
            stack.pop()
    return np.frombuffer(order, dtype=np.int64) if order else np.empty(0, dtype=np.int64)


def _byte_order(names: PathTable) -> "range | list[int]":
    """The numbers of names in the order of their bytes, in which those of one folder follow each other."""
    before = b""
    for name in names:
        if name < before:
            return sorted(range(len(names)), key=names.__getitem__)
        before = name
    return range(len(names))


def _entries(
    names: PathTable, by_bytes: "range | list[int]", start: int, stop: int, n_above: int
) -> Iterator[tuple[int, int, int]]:
    """What one folder has, in natural order.

    Args:
        names, by_bytes: all.
        start, stop: which of them lie in it, or below.
        n_above: bytes of its own name in theirs, its slash included.

    Yields:
        Which of them lie in a file, which is one, or in a folder, and how many bytes its name takes; 0 for a file.
    """
    keys: list[bytes] = []
    starts, lengths = array("q"), array("q")
    folder = b""
    for position in range(start, stop):
        name = names[by_bytes[position]]
        if folder and name.startswith(folder):
            continue
        end = name.find(b"/", n_above) + 1
        folder = name[:end]
        keys.append(natural_key(name[n_above : end - 1] if end else name[n_above:]))
        starts.append(position)
        lengths.append(end)
    starts.append(stop)
    for entry in sorted(range(len(keys)), key=keys.__getitem__):
        yield starts[entry], starts[entry + 1], lengths[entry]
