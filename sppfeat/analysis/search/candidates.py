"""Candidates among the rows of a block for being nearest to a query, found by float32 products and their error bounds.

Of a row's point ``x`` and a query's ``y`` (see :mod:`sppfeat.analysis.search.distances`) the squared distance is
``|x|**2 + |y|**2 - 2 x y``. In float32, a sum of ``n`` products is wrong by at most ``g |x| |y|``, whatever the order,
with ``g = n u / (1 - n u)`` and ``u = 2**-24`` (Higham, *Accuracy and Stability of Numerical Algorithms*, section
3.1). Here some hundred products are summed in float32, and those sums in float64, so that ``g`` stays small whatever
the dimension: the squared distance is known up to ``2 g (|x|**2 + |y|**2)``. Few rows more than wanted are left, and
their distances are then computed exactly. FAISS can propose the candidates instead.
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

_N_TERMS = 512  # added up in float32
_OTHER_ROUNDINGS = 16  # of points, factors and float64
_ROUNDOFF = 2.0**-24  # of float32
_ERROR = 2 * (_N_TERMS + _OTHER_ROUNDINGS) * _ROUNDOFF / (1 - (_N_TERMS + _OTHER_ROUNDINGS) * _ROUNDOFF)
_SMALLEST = 2.0**-126  # that a product which underflows is wrong by
_USUAL = (1e-20, 1e30)  # squared norms of which float32 keeps the precision
_LARGEST_PRODUCT = 1e37
_SPARE = 16  # candidates beside those that are wanted: float32 does not know the order of near ones


@dataclass(frozen=True)
class RowPoints:
    """Points of a block of ``b`` rows.

    Attributes:
        values: ``(b, d)`` float32; a point is its row of this times its factor.
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
        scores: ``(q, b)`` float64, lower bounds without the query's own share; -inf where nothing is known.
        row_squares: ``(b,)`` float64, squared norms of the rows' points.
        query_squares: ``(q,)`` float64, squared norms of the queries' points.
        slack: absolute error of all bounds, beside the errors that are proportional to these.
    """

    scores: npt.NDArray[np.float64]
    row_squares: npt.NDArray[np.float64]
    query_squares: npt.NDArray[np.float64]
    slack: float

    def not_beyond(
        self, i: int, square: float, rows: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.int64]:
        """Positions in the block, or those of ``rows``, that may be as near to query ``i`` as a squared distance."""
        limit = square - (1 - _ERROR) * self.query_squares[i] + self.slack
        if rows is None:
            return np.flatnonzero(self.scores[i] <= limit)
        return np.asarray(rows[self.scores[i, rows] <= limit])

    def upper(self, i: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Upper bounds of the squared distances of these rows of the block from query ``i``."""
        share = (1 + _ERROR) * self.query_squares[i] + self.slack
        with np.errstate(invalid="ignore"):  # inf and -inf, where nothing is known
            bound = self.scores[i, rows] + 2 * _ERROR * self.row_squares[rows] + share
        return np.where(np.isfinite(bound), bound, np.inf)


def squared_norms(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Squared norms ``(b,)`` of rows, with the error of :func:`score_rows`; inf where float32 overflows."""
    total = np.zeros(len(rows))
    with np.errstate(over="ignore", invalid="ignore"):
        for columns in _pieces(rows.shape[1]):
            total += np.einsum("ij,ij->i", rows[:, columns], rows[:, columns])
    return total


def query_points(queries: npt.NDArray[np.float32], metric: str) -> npt.NDArray[np.float32]:
    """Points ``(q, d)`` float32 of queries."""
    if metric == "l2":
        return queries
    points = np.empty_like(queries)
    for i in range(len(queries)):  # one by one: all of them in float64 may be gigabytes
        points[i] = unit_rows(queries[i : i + 1].astype(np.float64))[0]
    return points


def row_points(rows: npt.NDArray[np.float32], squares: npt.NDArray[np.float64], metric: str) -> RowPoints:
    """Points of a block of rows.

    Args:
        rows: ``(b, d)`` float32, finite.
        squares: ``(b,)`` as of :func:`squared_norms`.
        metric: ``"cosine"`` or ``"l2"``.
    """
    if metric == "l2":
        return RowPoints(rows, np.ones(len(rows)), squares)
    odd = np.flatnonzero(~((squares > _USUAL[0]) & (squares < _USUAL[1])))
    if len(odd):
        rows, squares = rows.copy(), squares.copy()
        rows[odd] = unit_rows(rows[odd].astype(np.float64))
        squares[odd] = 1
    # Norm 1 also for zeros, which so are at a right angle to everything: distance 1, as it should be.
    return RowPoints(rows, 1 / np.sqrt(squares), np.ones(len(rows)))


def score_rows(points: npt.NDArray[np.float32], rows: RowPoints, metric: str) -> BlockScores:
    """Bounds the squared distances of queries from a block of rows.

    Args:
        points: ``(q, d)`` float32, as of :func:`query_points`.
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
    else:  # float32 is too small for the products
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
    """Asks FAISS for the rows of a block that are probably the nearest.

    Args:
        faiss: the package.
        points: ``(q, d)`` float32 of the queries.
        rows: the block.
        k: neighbors per query.

    Returns:
        ``(q, c)`` positions in the block, -1 where there are fewer; and ``(q,)`` a lower bound of the squared
        distances of all other rows: inf if there are no others, NaN where nothing is known.
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
