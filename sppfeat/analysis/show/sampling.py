"""Random samples of the rows of a selection, for work that would take too long or too much memory on all."""

import dataclasses

import numpy as np

from sppfeat.store.selection import Selection

__all__ = ["draw_classes", "draw_rows", "draw_stratified"]


def draw_rows(selection: Selection, most: int, *, seed: int = 0) -> Selection:
    """Draws at most this many rows, each with the same probability, in their order.

    Args:
        selection: rows to draw from.
        most: the most rows; all are taken if there are fewer.
        seed: seed of the draw.
    """
    if len(selection) <= most:
        return selection
    drawn = np.random.default_rng(seed).choice(len(selection), size=most, replace=False)
    return dataclasses.replace(selection, rows=selection.rows[np.sort(drawn)])


def draw_stratified(selection: Selection, most: int, *, seed: int = 0) -> Selection:
    """Draws at most this many rows, each class with about its share in the selection, in their order.

    Args:
        selection: rows to draw from; without labels each row has the same probability.
        most: the most rows; all are taken if there are fewer.
        seed: seed of the draw.
    """
    y = selection.y
    if y is None or len(selection) <= most:
        return draw_rows(selection, most, seed=seed)
    order = np.random.default_rng(seed).permutation(len(y))
    _, classes, counts = np.unique(y[order], return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    # The first half of a class comes before the second half of any other: a prefix has all classes by their shares.
    place = np.empty(len(y))
    place[by_class] = (np.arange(len(y)) - np.repeat(starts, counts) + 0.5) / np.repeat(counts, counts)
    drawn = order[np.argsort(place, kind="stable")[:most]]
    return dataclasses.replace(selection, rows=selection.rows[np.sort(drawn)])


def draw_classes(selection: Selection, most: int, *, least: int = 1, seed: int = 0) -> Selection:
    """Draws all rows of at most this many classes, each with the same probability, in their order.

    Args:
        selection: rows to draw from; all are taken if there are no labels, or no more classes.
        most: the most classes.
        least: the least rows of a class to be drawn.
        seed: seed of the draw.
    """
    y = selection.y
    if y is None:
        return selection
    classes, counts = np.unique(y[y >= 0] if selection.target_names else y, return_counts=True)
    classes = classes[counts >= least]
    if len(classes) <= most:
        return selection
    drawn = np.random.default_rng(seed).choice(classes, size=most, replace=False)
    return dataclasses.replace(selection, rows=selection.rows[np.isin(y, drawn)])
