"""Random samples of the rows of a selection, for work that takes too much time or memory on all rows."""

import dataclasses

import numpy as np

from sppfeat.store.selection import Selection

__all__ = ["draw_classes", "draw_rows", "draw_stratified"]


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
