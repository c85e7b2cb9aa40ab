"""Which rows of a block can be among the nearest, by one float32 matrix product and what it may be wrong by.

Of a row's point ``x`` and a query's ``y`` (see :mod:`sppfeat.analysis.distances`) the squared distance is
``|x|**2 + |y|**2 - 2 x y``. In float32, a sum of ``d`` products in whatever order is wrong by no more than ``g |x| |y|``,
with ``g = d u / (1 - d u)`` and ``u = 2**-24`` (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1).
So the squared distance is known up to ``2 g (|x|**2 + |y|**2)``, which leaves few rows more than are wanted; their
distances are then computed exactly.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.distances import unit_rows

__all__ = ["BlockScores", "RowPoints", "as_points", "row_points", "score_rows"]

_ROUNDOFF = 2.0**-24  # of float32
_SMALLEST = 2.0**-126  # that a float32 product which underflows is wrong by
_USUAL = (1e-30, 1e30)  # squares in which float32 keeps its precision
_LARGEST_PRODUCT = 1e37
_OTHER_ROUNDINGS = 16  # beside those of the products: of norms, points, factors and sums


@dataclass(frozen=True)
class RowPoints:
    """Points of a block of ``b`` rows.

    Attributes:
        values: ``(b, d)`` float32, of which ``factors`` times these are the points.
        factors: ``(b,)`` float32; None for 1.
        squares: ``(b,)`` float32, squared norms of the points.
    """

    values: npt.NDArray[np.float32]
    factors: npt.NDArray[np.float32] | None
    squares: npt.NDArray[np.float32]


@dataclass(frozen=True)
class BlockScores:
    """Between what the squared distances of ``q`` queries from ``b`` rows lie.

    Attributes:
        scores: ``(q, b)`` float32, lower bounds without the query's own share; -inf where nothing is known.
        row_squares: ``(b,)`` float32, squared norms of the rows' points.
        query_squares: ``(q,)`` float64, likewise of the queries'.
        error: of a squared distance, in parts of the sum of both squared norms.
        slack: the same, absolute.
    """

    scores: npt.NDArray[np.float32]
    row_squares: npt.NDArray[np.float32]
    query_squares: npt.NDArray[np.float64]
    error: float
    slack: float

    def not_beyond(
        self, i: int, square: float, rows: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.int64]:
        """Return which rows of the block, or of ``rows``, may be as near to query ``i`` as a squared distance."""
        share = (1 - self.error) * float(self.query_squares[i])
        limit = np.nextafter(np.float32(min(square - share + self.slack, 3e38)), np.float32(np.inf))
        if rows is None:
            return np.flatnonzero(self.scores[i] <= limit)
        return np.asarray(rows[self.scores[i, rows] <= limit])

    def upper(self, i: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return what the squared distances of these rows of the block from query ``i`` are at most."""
        scores = self.scores[i, rows].astype(np.float64)
        spread = 2 * self.error * self.row_squares[rows].astype(np.float64)
        bound = scores + spread + (1 + self.error) * float(self.query_squares[i]) + self.slack
        return np.where(np.isfinite(bound), bound, np.inf)


def as_points(queries: npt.NDArray[np.float32], metric: str) -> npt.NDArray[np.float32]:
    """Points ``(q, d)`` float32 of queries."""
    if metric == "l2":
        return queries
    points = np.empty_like(queries)
    for i in range(len(queries)):  # one by one: all of them in float64 may be gigabytes
        points[i] = unit_rows(queries[i : i + 1].astype(np.float64))[0]
    return points


def row_points(rows: npt.NDArray[np.float32], squares: npt.NDArray[np.float32], metric: str) -> RowPoints:
    """Points of a block of rows.

    Args:
        rows: ``(b, d)`` float32, finite.
        squares: ``(b,)`` float32, their squared norms as float32 has them: inf or 0 where it cannot.
        metric: ``"cosine"`` or ``"l2"``.
    """
    if metric == "l2":
        return RowPoints(rows, None, squares)
    odd = np.flatnonzero(~((squares > _USUAL[0]) & (squares < _USUAL[1])))
    if len(odd):
        rows, squares = rows.copy(), squares.copy()
        rows[odd] = unit_rows(rows[odd].astype(np.float64))
        squares[odd] = 1
    # Squared norm 1 also for zeros, which so are at a right angle to everything: distance 1, as it should be.
    return RowPoints(rows, np.float32(1) / np.sqrt(squares, dtype=np.float32), np.ones_like(squares))


def score_rows(points: npt.NDArray[np.float32], rows: RowPoints, metric: str) -> BlockScores:
    """Bounds of the squared distances of queries from a block of rows.

    Args:
        points: ``(q, d)`` float32, see :func:`as_points`.
        rows: the block.
        metric: ``"cosine"`` or ``"l2"``.
    """
    n_terms = points.shape[1] + _OTHER_ROUNDINGS
    error = 2 * n_terms * _ROUNDOFF / (1 - n_terms * _ROUNDOFF) if n_terms * _ROUNDOFF < 0.25 else 1.0
    slack = n_terms * _SMALLEST
    query_squares = np.ones(len(points))
    if metric == "l2":
        query_squares = np.array([np.square(point.astype(np.float64)).sum() for point in points])
    largest = np.sqrt(query_squares.max(initial=0) * float(rows.squares.max(initial=0)))
    if error >= 1 or not largest < _LARGEST_PRODUCT:
        nothing = np.full((len(points), len(rows.values)), -np.inf, dtype=np.float32)
        return BlockScores(nothing, rows.squares, query_squares, error, slack)
    scores = points @ rows.values.T
    scores *= -2 if rows.factors is None else -2 * rows.factors
    scores += np.float32(1 - error) * rows.squares
    return BlockScores(scores, rows.squares, query_squares, error, slack)
