"""The nearest rows of a block as FAISS finds them, and how near the others may be."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.search.candidates import RowPoints
from sppfeat.config.machine import import_extra

__all__ = ["faiss_candidates", "load_faiss"]

_SPARE = 16  # candidates beside those that are wanted: float32 does not know the order of near ones
_ROUNDOFF = 2.0**-24


def load_faiss() -> Any:
    """Return the package.

    Raises:
        ConfigError: it is not installed.
    """
    return import_extra("faiss", extra="faiss", purpose="the engine 'faiss'")


def faiss_candidates(
    faiss: Any, points: npt.NDArray[np.float32], rows: RowPoints, k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Rows of a block that are probably the nearest.

    Args:
        faiss: the package.
        points: ``(q, d)`` float32 of queries.
        rows: the block.
        k: how many are wanted.

    Returns:
        ``(q, c)`` positions in the block, -1 where there are none; and ``(q,)`` a squared distance that no row beside
        them is below: inf where there is no other row, NaN where nothing is known.
    """
    n = min(k + _SPARE, len(rows.values))
    values = rows.values
    if not (rows.factors == 1).all():
        values = values * rows.factors[:, None].astype(np.float32)
    squares, found = faiss.knn(points, np.ascontiguousarray(values), n)
    if n == len(rows.values):
        return found, np.full(len(points), np.inf)
    n_terms = (points.shape[1] + _SPARE) * _ROUNDOFF
    # Whatever its kernel adds up in which order.
    error = 2 * n_terms / (1 - n_terms) if n_terms < 1 else np.nan
    norms = np.array([np.square(point.astype(np.float64)).sum() for point in points])
    with np.errstate(invalid="ignore"):
        return found, squares[:, -1] - error * (norms + rows.squares.max())
