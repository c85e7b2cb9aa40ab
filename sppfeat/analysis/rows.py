"""Checks, classes and random samples of rows."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import counted, first_few
from sppfeat.errors import ConfigError, StoreError
from sppfeat.store.reader import Selection

__all__ = [
    "check_described",
    "check_finite",
    "classes_of",
    "count_labels",
    "draw_classes",
    "draw_rows",
    "draw_stratified",
    "find_nonfinite",
]

_SHOWN = 5


def check_finite(
    rows: npt.NDArray[np.floating[Any]], selection: Selection, positions: npt.NDArray[np.int64]
) -> None:
    """Refuses rows ``(k, d)`` with NaN or infinities, naming the first; ``positions`` are theirs in the selection."""
    bad = find_nonfinite(rows)
    if len(bad):
        numbers = selection.rows[positions[bad]]
        shown = first_few(map(str, numbers.tolist()), _SHOWN)
        raise StoreError(
            f"{str(selection.file.path)!r}: NaN or infinities in row {shown} "
            f"({selection.file.path_of(int(selection.groups[positions[bad[0]]]))!r}); leave such rows out with --rows"
        )


def find_nonfinite(rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Positions ``(n,)`` int64, ascending, of the rows ``(k, d)`` that hold NaN or infinities."""
    # A finite sum proves a finite row; only the others are checked value by value, because a sum can also overflow.
    suspects = np.flatnonzero(~np.isfinite(rows.sum(axis=1, dtype=np.float64)))
    bad: npt.NDArray[np.int64] = suspects[~np.isfinite(rows[suspects]).all(axis=1)]
    return bad


def check_described(selection: Selection) -> None:
    """Refuses rows without a descriptor, naming the first: rows of failed or pending images, or boxes without area."""
    without = selection.rows[~selection.file.has_descriptor()[selection.rows]]
    if len(without):
        raise ConfigError(
            f"{len(without)} of {counted(len(selection), 'row')} {'has' if len(without) == 1 else 'have'} no "
            f"descriptor; the first is row {without[0]}. Failed and pending images, and boxes without area, have none: "
            "select other --rows"
        )


def count_labels(selection: Selection) -> list[tuple[str, int]]:
    """Counts the rows of each class, most frequent first; rows without a class count under ``""``.

    A class without a name is named by its number. Classes without rows are listed, too.
    """
    counted = Counter(dict.fromkeys(selection.target_names, 0))
    counted.update(classes_of(selection))
    return counted.most_common()


def classes_of(selection: Selection) -> list[str]:
    """Class of each row; ``""`` for rows without one."""
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
    """Draws at most ``most`` classes of ``least`` rows or more, and keeps all of their rows in order."""
    y = selection.y
    if y is None:
        return selection
    classes, counts = np.unique(y[y >= 0] if selection.target_names else y, return_counts=True)
    classes = classes[counts >= least]
    if len(classes) <= most:
        return selection
    drawn = np.random.default_rng(seed).choice(classes, size=most, replace=False)
    return dataclasses.replace(selection, rows=selection.rows[np.isin(y, drawn)])
