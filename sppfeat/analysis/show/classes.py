"""Classes of rows: their sizes, and the color and shape that mark each class in a picture."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.store.selection import Selection

__all__ = ["MOST_NAMED", "ClassMark", "count_labels", "mark_classes"]

# By Okabe and Ito, for all kinds of color vision; without black, which is invisible on a dark page.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
_SHAPES = ("o", "s", "^")
_OTHER = "#8A8A8A"
MOST_NAMED = len(_COLORS) * len(_SHAPES) - 1


class ClassMark(NamedTuple):
    """Mark of a class, or of all classes without a mark of their own.

    Attributes:
        name: name of the class; ``""`` for rows without a class, None for all classes without their own mark.
        color: as ``#RRGGBB``.
        shape: ``"o"``, ``"s"`` (square), ``"^"`` (triangle) or ``"."`` (dot): names of markers.
        positions: ``(k,)`` int64 positions in the selection.
        n_classes: number of classes that share the mark.
    """

    name: str | None
    color: str
    shape: str
    positions: npt.NDArray[np.int64]
    n_classes: int = 1


def count_labels(selection: Selection) -> list[tuple[str, int]]:
    """Counts the rows of each class, most frequent first; rows without a class count under ``""``.

    Classes that are numbers without names get their numbers as names. Classes without rows are listed, too.
    """
    y = selection.y
    if y is None:
        return [("", len(selection))] if len(selection) else []
    names = selection.target_names
    counted = dict.fromkeys(names, 0)
    for number, n in zip(*map(np.ndarray.tolist, np.unique(y, return_counts=True)), strict=True):
        name = (names[number] if 0 <= number < len(names) else "") if names else str(number)
        counted[name] = counted.get(name, 0) + n
    return sorted(counted.items(), key=lambda pair: -pair[1])


def mark_classes(selection: Selection, *, most: int = MOST_NAMED) -> list[ClassMark]:
    """Marks for the ``most`` most frequent classes; one for all others; one for rows without a class."""
    y = selection.y
    if y is None:
        return [ClassMark("", _COLORS[0], "o", np.arange(len(selection)))] if len(selection) else []
    names = selection.target_names
    known = (y >= 0) & (y < len(names)) if names else np.ones(len(y), dtype=bool)
    numbers, counts = np.unique(y[known], return_counts=True)
    numbers = numbers[np.argsort(-counts, kind="stable")]
    marks = []
    for i, number in enumerate(numbers[:most].tolist()):
        shape = _SHAPES[i // len(_COLORS) % len(_SHAPES)]
        name = names[number] if names else str(number)
        marks.append(ClassMark(name, _COLORS[i % len(_COLORS)], shape, np.flatnonzero(y == number)))
    rest = np.flatnonzero(known & np.isin(y, numbers[most:]))
    if len(rest):
        marks.append(ClassMark(None, _OTHER, ".", rest, n_classes=len(numbers) - most))
    if not known.all():
        marks.append(ClassMark("", _OTHER, "o", np.flatnonzero(~known)))
    return marks
