"""Some rows of a selection, drawn at random: where all of them would take too long, or too much memory."""

import dataclasses

import numpy as np

from sppfeat.selection import Selection

__all__ = ["draw_rows"]


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
