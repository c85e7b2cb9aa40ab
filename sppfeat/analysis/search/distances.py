"""Exact distances between descriptors.

Both metrics are functions of the Euclidean distance ``r`` between two points. For ``l2`` the points are the descriptors
and the distance is ``r``. For ``cosine`` the points are the descriptors scaled to norm 1, and the distance, one minus
the cosine, is ``r**2 / 2``, which loses no digits when two descriptors are nearly equal.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["exact_distances", "unit_rows"]

_VALUES = 1 << 16  # float64 values to compute with at once, so that they stay in the cache


def exact_distances(
    query: npt.NDArray[np.floating[Any]], rows: npt.NDArray[np.floating[Any]], metric: str
) -> npt.NDArray[np.float64]:
    """Distances of one descriptor from some rows; each depends on its two descriptors alone, to the last bit.

    Args:
        query: ``(d,)`` float16 or float32, finite.
        rows: ``(m, d)`` float16 or float32, finite.
        metric: ``"cosine"`` (one minus the cosine, 0 to 2; a descriptor of zeros has distance 1 from everything) or
            ``"l2"`` (the Euclidean distance).

    Returns:
        ``(m,)`` float64.

    Example:
        >>> rows = np.array([[3, 4], [6, 8], [-3, -4], [0, 0]], dtype=np.float32)
        >>> exact_distances(rows[0], rows, "l2").tolist()
        [0.0, 5.0, 10.0, 5.0]
        >>> exact_distances(rows[0], rows, "cosine").tolist()
        [0.0, 0.0, 2.0, 1.0]
    """
    point = query.astype(np.float64)
    if metric == "cosine":
        point = unit_rows(point[None])[0]
    result = np.empty(len(rows))
    step = max(1, _VALUES // max(1, len(query)))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        points = rows[part].astype(np.float64)
        if metric == "cosine":
            points = unit_rows(points)
        # Row by row, because a matrix product sums in an order that depends on the number of rows.
        squares = np.square(points - point).sum(axis=1)
        if metric == "cosine":
            has_direction = points.any(axis=1) & point.any()
            result[part] = np.where(has_direction, squares / 2, 1.0)
        else:
            result[part] = np.sqrt(squares)
    return result


def unit_rows(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scales rows ``(m, d)`` to l2 norm 1; zeros stay zeros.

    The square of a float32 neither overflows nor underflows in float64.
    """
    norm = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return np.asarray(rows / np.where(norm > 0, norm, 1))
