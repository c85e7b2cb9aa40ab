"""Candidates: rows of a block that may be nearest to a query, found by float32 products and their error bounds.

The squared distance of a row's point ``x`` from a query's point ``y`` (see :mod:`sppfeat.analysis.search.distances`) is
``|x|**2 + |y|**2 - 2 x y``. In float32, a sum of ``n`` products is wrong by at most ``g |x| |y|``, in any order, with
``g = n u / (1 - n u)`` and ``u = 2**-24`` (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1). Here
512 products are summed in float32 at a time, and those sums in float64, so ``g`` stays small for any dimension: the
squared distance is known up to ``2 g (|x|**2 + |y|**2)``. These bounds leave few more rows than requested, and only
their distances are computed exactly. FAISS can propose the candidates instead.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.search.distances import unit_rows
from sppfeat.config.machine import import_extra

__all__ = [
    "BlockScores",
    "RowPoints",
    "faiss_candidates",
    "load_faiss",
    "query_points",
    "row_points",
    "score_rows",
    "squared_norms",
]

_N_TERMS = 512  # products to sum in float32
_OTHER_ROUNDINGS = 16  # allowance for rounding points, factors and float64 sums
_ROUNDOFF = 2.0**-24  # unit roundoff of float32
_ERROR = 2 * (_N_TERMS + _OTHER_ROUNDINGS) * _ROUNDOFF / (1 - (_N_TERMS + _OTHER_ROUNDINGS) * _ROUNDOFF)
_SMALLEST = 2.0**-126  # largest error of a product that underflows
_USUAL = (1e-20, 1e30)  # range of squared norms that float32 holds at full precision
_LARGEST_PRODUCT = 1e37
_SPARE = 16  # candidates beyond k, because float32 cannot order rows at nearly the same distance


@dataclass(frozen=True)
class RowPoints:
    """Points of a block of ``b`` rows.

    Attributes:
        values: ``(b, d)`` float32; ``values * factors[:, None]`` are the points.
        factors: ``(b,)`` float64.
        squares: ``(b,)`` float64, squared norms of the points.
    """

    values: npt.NDArray[np.float32]
    factors: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]


@dataclass(frozen=True)
class BlockScores:
    """Bounds of the squared distances of ``q`` queries from ``b`` rows.

    Attributes:
        scores: ``(q, b)`` float64, lower bounds minus the query's squared norm; -inf if no bound is known.
        row_squares: ``(b,)`` float64, squared norms of the rows' points.
        query_squares: ``(q,)`` float64, squared norms of the queries' points.
        slack: absolute error of all bounds, in addition to the error that is proportional to the squared norms.
    """

    scores: npt.NDArray[np.float64]
    row_squares: npt.NDArray[np.float64]
    query_squares: npt.NDArray[np.float64]
    slack: float

    def candidates_within(
        self, i: int, square: float, rows: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.int64]:
        """Positions ``(c,)`` in the block of rows that may lie within a squared distance of query ``i``.

        Args:
            i: index of the query.
            square: the squared distance.
            rows: ``(m,)`` positions in the block to choose from; all if None.
        """
        limit = square - (1 - _ERROR) * self.query_squares[i] + self.slack
        if rows is None:
            return np.flatnonzero(self.scores[i] <= limit)
        return np.asarray(rows[self.scores[i, rows] <= limit])

    def upper(self, i: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Upper bounds ``(m,)`` of the squared distances of query ``i`` from rows at ``(m,)`` block positions."""
        share = (1 + _ERROR) * self.query_squares[i] + self.slack
        with np.errstate(invalid="ignore"):  # inf - inf, where no bound is known
            bound = self.scores[i, rows] + 2 * _ERROR * self.row_squares[rows] + share
        return np.where(np.isfinite(bound), bound, np.inf)


def squared_norms(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Squared norms ``(b,)`` of rows ``(b, d)``, summed like the products here; inf if float32 overflows."""
    total = np.zeros(len(rows))
    with np.errstate(over="ignore", invalid="ignore"):
        for columns in _pieces(rows.shape[1]):
            total += np.einsum("ij,ij->i", rows[:, columns], rows[:, columns])
    return total


def query_points(queries: npt.NDArray[np.float32], metric: str) -> npt.NDArray[np.float32]:
    """Points ``(q, d)`` float32 of queries ``(q, d)``: scaled to norm 1 if ``metric`` is ``"cosine"``."""
    if metric == "l2":
        return queries
    points = np.empty_like(queries)
    for i in range(len(queries)):  # one by one, because all queries in float64 may take gigabytes
        points[i] = unit_rows(queries[i : i + 1].astype(np.float64))[0]
    return points


def row_points(rows: npt.NDArray[np.float32], squares: npt.NDArray[np.float64], metric: str) -> RowPoints:
    """Points of a block of rows.

    Args:
        rows: ``(b, d)`` float32, finite.
        squares: ``(b,)`` from :func:`squared_norms`.
        metric: ``"cosine"`` or ``"l2"``.
    """
    if metric == "l2":
        return RowPoints(rows, np.ones(len(rows)), squares)
    odd = np.flatnonzero(~((squares > _USUAL[0]) & (squares < _USUAL[1])))
    if len(odd):
        rows, squares = rows.copy(), squares.copy()
        rows[odd] = unit_rows(rows[odd].astype(np.float64))
        squares[odd] = 1
    # Rows of zeros count as norm 1, too. Their products are 0, so their distance is 1 from everything, as it should be.
    return RowPoints(rows, 1 / np.sqrt(squares), np.ones(len(rows)))


def score_rows(points: npt.NDArray[np.float32], rows: RowPoints, metric: str) -> BlockScores:
    """Bounds the squared distances of queries from a block of rows.

    Args:
        points: ``(q, d)`` float32 from :func:`query_points`.
        rows: the block.
        metric: ``"cosine"`` or ``"l2"``.
    """
    query_squares = np.ones(len(points))
    if metric == "l2":
        query_squares = np.array([np.square(point.astype(np.float64)).sum() for point in points])
    slack = 4 * (points.shape[1] + _OTHER_ROUNDINGS) * _SMALLEST
    largest = np.sqrt(query_squares.max(initial=0) * rows.squares.max(initial=0))
    if largest < _LARGEST_PRODUCT:
        scores = _products(points, rows.values)
        scores *= -2 * rows.factors
        scores += (1 - _ERROR) * rows.squares
    else:  # products may overflow float32
        scores = np.full((len(points), len(rows.values)), -np.inf)
    return BlockScores(scores, rows.squares, query_squares, slack)


def _products(points: npt.NDArray[np.float32], rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    total = np.zeros((len(points), len(rows)))
    for columns in _pieces(points.shape[1]):
        total += points[:, columns] @ rows[:, columns].T
    return total


def _pieces(dimension: int) -> list[slice]:
    return [slice(start, start + _N_TERMS) for start in range(0, dimension, _N_TERMS)]


def load_faiss() -> Any:
    """Imports FAISS.

    Raises:
        ConfigError: it is not installed.
    """
    return import_extra("faiss", extra="faiss", purpose="the engine 'faiss'")


def faiss_candidates(
    faiss: Any, points: npt.NDArray[np.float32], rows: RowPoints, k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Asks FAISS for the rows of a block that are probably the nearest to each query.

    Args:
        faiss: the package, from :func:`load_faiss`.
        points: ``(q, d)`` float32 from :func:`query_points`.
        rows: the block.
        k: number of neighbors per query.

    Returns:
        ``(q, c)`` positions in the block, -1 for missing ones; and ``(q,)`` lower bounds of the squared distances of
        all other rows: inf if there are no other rows, NaN if no bound is known.
    """
    n = min(k + _SPARE, len(rows.values))
    values = rows.values
    if not (rows.factors == 1).all():
        values = values * rows.factors[:, None].astype(np.float32)
    squares, found = faiss.knn(points, np.ascontiguousarray(values), n)
    if n == len(rows.values):
        return found, np.full(len(points), np.inf)
    n_terms = (points.shape[1] + _SPARE) * _ROUNDOFF
    # Holds for any order in which FAISS sums the products.
    error = 2 * n_terms / (1 - n_terms) if n_terms < 1 else np.nan
    norms = np.array([np.square(point.astype(np.float64)).sum() for point in points])
    with np.errstate(invalid="ignore"):
        return found, squares[:, -1] - error * (norms + rows.squares.max())
