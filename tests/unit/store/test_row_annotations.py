"""Columns of images and rows, which are joined when a file grows."""

import dataclasses

import numpy as np
from box_rows import rows_of


def test_joined_rows_keep_their_classes_however_these_are_numbered():
    first = rows_of([[(0, 0, 1, 1)] * 3], [(4, 6)]).boxes.annotations
    label = np.array([1, -1, 2, 0])
    other = dataclasses.replace(first.take(np.array([0, 0, 1, 2])), label=label, classes=("c2", "new", "c0"))
    joined = first.followed_by(other)
    assert joined.classes == ("c0", "c1", "c2", "new")
    assert joined.label.tolist() == [0, 1, 2, 3, -1, 0, 2]
