"""Classes of rows: their sizes, the color and shape that mark each in a picture, and random samples of them."""

import dataclasses
import itertools
from collections import Counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.store.selection import Selection

__all__ = [
    "MOST_NAMED",
    "ClassMark",
    "count_labels",
    "draw_classes",
    "draw_rows",
    "draw_stratified",
    "mark_classes",
]

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
    counted = Counter(dict.fromkeys(selection.target_names, 0))
    counted.update(_classes_of(selection))
    return counted.most_common()


def mark_classes(selection: Selection) -> list[ClassMark]:
    """Marks for the most frequent classes; one for all others; one for rows without a class."""
    if selection.y is None:
        return [ClassMark("", _COLORS[0], "o", np.arange(len(selection)))] if len(selection) else []
    classes = np.array(_classes_of(selection), dtype=object)
    names = [name for name, n in count_labels(selection) if name and n]
    looks = itertools.product(_SHAPES, _COLORS)
    marks = [
        ClassMark(name, color, shape, np.flatnonzero(classes == name))
        for name, (shape, color) in zip(names[:MOST_NAMED], looks, strict=False)
    ]
    others = names[MOST_NAMED:]
    if others:
        positions = np.flatnonzero(np.isin(classes, others))
        marks.append(ClassMark(None, _OTHER, ".", positions, n_classes=len(others)))
    if "" in classes:
        marks.append(ClassMark("", _OTHER, "o", np.flatnonzero(classes == "")))
    return marks


def _classes_of(selection: Selection) -> list[str]:
    return [selection.labels.name_of(row) or "" for row in selection.rows.tolist()]


def draw_rows(selection: Selection, most: int, *, seed: int = 0) -> Selection:
    """Draws at most ``most`` rows, each with the same probability; keeps their order."""
    if len(selection) <= most:
        return selection
    drawn = np.random.default_rng(seed).choice(len(selection), size=most, replace=False)
    return dataclasses.replace(selection, rows=selection.rows[np.sort(drawn)])


def draw_stratified(selection: Selection, most: int, *, seed: int = 0) -> Selection:
    """Draws at most ``most`` rows, from each class in proportion to its size; keeps their order."""
    y = selection.y
    if y is None or len(selection) <= most:
        return draw_rows(selection, most, seed=seed)
    order = np.random.default_rng(seed).permutation(len(y))
    _, classes, counts = np.unique(y[order], return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    # Ordered by relative rank within the class, any prefix holds the classes in proportion.
    place = np.empty(len(y))
    place[by_class] = (np.arange(len(y)) - np.repeat(starts, counts) + 0.5) / np.repeat(counts, counts)
    drawn = order[np.argsort(place, kind="stable")[:most]]
    return dataclasses.replace(selection, rows=selection.rows[np.sort(drawn)])


def draw_classes(selection: Selection, most: int, *, least: int = 1, seed: int = 0) -> Selection:
    """Draws at most ``most`` classes of ``least`` rows or more, and takes all of their rows; keeps their order."""
    y = selection.y
    if y is None:
        return selection
    classes, counts = np.unique(y[y >= 0] if selection.target_names else y, return_counts=True)
    classes = classes[counts >= least]
    if len(classes) <= most:
        return selection
    drawn = np.random.default_rng(seed).choice(classes, size=most, replace=False)
    return dataclasses.replace(selection, rows=selection.rows[np.isin(y, drawn)])
