"""Some rows of a selection, drawn at random: where all of them would take too long, or too much memory."""

import dataclasses

import numpy as np

from sppfeat.store.selection import Selection

__all__ = ["draw_classes", "draw_rows", "draw_stratified"]


def draw_rows(selection: Selection, most: int, *, seed: int = 0) -> Selection:
    """At most so many rows, each as likely as any other, in their order.

    Args:
        selection: what is drawn from.
        most: how many rows at most; of fewer all are taken.
        seed: of the draw.
    """
    if len(selection) <= most:
        return selection
    drawn = np.random.default_rng(seed).choice(len(selection), size=most, replace=False)
    return dataclasses.replace(selection, rows=selection.rows[np.sort(drawn)])


def draw_stratified(selection: Selection, most: int, *, seed: int = 0) -> Selection:
    """At most so many rows, each class with about the share that it has in the selection, in their order.

    Args:
        selection: what is drawn from; without labels any rows are drawn.
        most: how many rows at most; of fewer all are taken.
        seed: of the draw.
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
    """All rows of at most so many classes, each of these as likely as any other, in their order.

    Args:
        selection: what is drawn from; all of it where there are no labels, or no more classes.
        most: how many classes at most.
        least: rows that a class has, to be drawn.
        seed: of the draw.
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
