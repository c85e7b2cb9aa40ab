"""Exact nearest neighbors among the rows of a feature file, searched in blocks.

Both metrics are functions of the Euclidean distance ``r`` between two points. For ``l2`` the points are the descriptors
and the distance is ``r``. For ``cosine`` the points are the descriptors scaled to norm 1, and the distance, one minus
the cosine, is ``r**2 / 2``, which loses no digits when two descriptors are nearly equal.

A matrix product gives the squared distances of a block from all queries, up to a known rounding error. Only the few
rows that may be among the nearest within this error are compared again, one by one and without cancellation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import DEFAULT_METRIC, DEFAULT_NEIGHBORS, METRICS
from sppfeat.analysis.rows import find_nonfinite
from sppfeat.config.values import check_choice, whole_number
from sppfeat.store.reader import Selection

__all__ = ["Neighbors", "exact_distances", "nearest_rows", "to_points"]

_BLOCK_NBYTES = 16 << 20  # size of a block of rows, as float32
_SCORES = 1 << 22  # maximum of queries times rows to compare at once
_SPARE = 16  # rows to compare in addition to the k wanted
_ROUNDOFF = 2.0**-53  # of float64

_Points = npt.NDArray[np.float64]
_Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Neighbors:
    """The nearest rows of each of ``q`` queries, nearest first."""

    rows: npt.NDArray[np.int64]  # (q, k) row numbers in the file; -1 if fewer than k rows were found
    distances: npt.NDArray[np.float64]  # (q, k), in the metric of the search; inf for missing rows


def nearest_rows(
    selection: Selection,
    queries: npt.NDArray[np.floating[Any]],
    k: int = DEFAULT_NEIGHBORS,
    *,
    metric: str = DEFAULT_METRIC,
    exclude: Sequence[int] | None = None,
    one_per_image: bool = False,
    block_nbytes: int = _BLOCK_NBYTES,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> Neighbors:
    """Finds the ``k`` rows of a selection that are nearest to each query.

    The result is exact: distances are computed in float64 from the stored descriptors, rows at the same distance are
    ordered by row number, and the result depends neither on ``block_nbytes`` nor on the other queries. Rows without a
    descriptor, and rows that hold NaN or infinities, are never found. Memory holds only the queries, the results and
    some copies of one block of rows.

    Args:
        selection: rows and columns of an open file; a repeated row counts once.
        queries: ``(q, d)`` float16 or float32, finite, in the selection's columns, as from
            :meth:`Selection.of_descriptors`.
        k: number of neighbors per query, 1 or more.
        metric: ``"cosine"`` (one minus the cosine, 0 to 2; a descriptor of zeros has distance 1 from everything,
            itself included) or ``"l2"`` (the Euclidean distance).
        exclude: for each query a row number that must not be found, or -1. With ``one_per_image`` the whole image of
            that row is excluded.
        one_per_image: keep only the nearest row of each image.
        block_nbytes: size of a block of rows, in bytes of float32.
        on_progress: called with the number of rows searched so far.

    Raises:
        ConfigError: the metric is unknown, or ``k`` is out of range.
    """
    check_choice("metric", metric, METRICS)
    k = whole_number("k", k, 1, unit=" neighbors")
    rows, positions = np.unique(selection.rows, return_index=True)
    has_one = selection.file.has_descriptor()[rows]
    rows, positions = rows[has_one], positions[has_one]
    owners = selection.file.image_index if one_per_image else np.arange(selection.file.n_rows)
    excluded = [-1 if row < 0 else int(owners[row]) for row in exclude or [-1] * len(queries)]
    search = _Search(queries, min(k, len(selection)), metric=metric, owners=owners, excluded=excluded)
    for part, block in selection.blocks(positions, nbytes=block_nbytes):
        finite = np.delete(np.arange(len(block)), find_nonfinite(block))
        search.add(rows[part][finite], to_points(block[finite], metric))
        on_progress(part.stop)
    missing = ((0, 0), (0, k - search.rows.shape[1]))
    return Neighbors(
        np.pad(search.rows, missing, constant_values=-1),
        np.pad(search.distances, missing, constant_values=np.inf),
    )


def to_points(rows: npt.NDArray[np.floating[Any]], metric: str) -> _Points:
    """Points ``(m, d)`` float64 of descriptors ``(m, d)`` float16 or float32, finite; zeros stay zeros.

    The square of a float32 neither overflows nor underflows in float64.
    """
    points = rows.astype(np.float64)
    if metric == "cosine":
        norm = np.sqrt(np.square(points).sum(axis=1, keepdims=True))
        points /= np.where(norm > 0, norm, 1)
    return points


def exact_distances(point: _Points, points: _Points, metric: str) -> npt.NDArray[np.float64]:
    """Distances ``(m,)`` of a point ``(d,)`` from points ``(m, d)``; each depends on two points alone, to the last bit.

    For ``"cosine"``, zeros have distance 1 from everything.

    Example:
        >>> rows = np.array([[3, 4], [6, 8], [-3, -4], [0, 0]], dtype=np.float32)
        >>> [exact_distances(p[0], p, metric).tolist() for metric in METRICS for p in [to_points(rows, metric)]]
        [[0.0, 0.0, 2.0, 1.0], [0.0, 5.0, 10.0, 5.0]]
    """
    # Row by row, because a matrix product sums in an order that depends on the number of rows.
    squares = np.square(points - point).sum(axis=1)
    if metric == "l2":
        return np.asarray(np.sqrt(squares))
    return np.where(points.any(axis=1) & point.any(), squares / 2, 1.0)


class _Search:
    """The nearest rows found so far: at most one per owner (the row itself, or its image), none of an excluded one."""

    def __init__(
        self,
        queries: npt.NDArray[np.floating[Any]],
        k: int,
        *,
        metric: str,
        owners: _Index,
        excluded: Sequence[int],
    ) -> None:
        self._queries, self._metric, self._owners, self._excluded = queries, metric, owners, excluded
        self.rows = np.full((len(queries), k), -1)
        self.distances = np.full((len(queries), k), np.inf)
        # Bounds the errors of products and norms of d terms each: see Higham, Accuracy and Stability of Numerical
        # Algorithms, section 3.1.
        self._error = 4 * (queries.shape[1] + 16) * _ROUNDOFF

    def add(self, rows: _Index, points: _Points) -> None:
        """Looks for nearer rows among ``(b,)`` rows with points ``(b, d)``."""
        squares = self._squared_norms(points)
        step = max(1, _SCORES // max(1, len(rows)))
        for start in range(0, len(self._queries), step):
            block = to_points(self._queries[start : start + step], self._metric)
            totals = self._squared_norms(block)[:, None] + squares
            lower_bounds = totals * (1 - self._error) - 2 * (block @ points.T)
            for i, point in enumerate(block):
                self._add_to(start + i, point, rows, points, lower_bounds[i])

    def _add_to(
        self, query: int, point: _Points, rows: _Index, points: _Points, lower: npt.NDArray[np.float64]
    ) -> None:
        """Looks for rows nearer to one query, given lower bounds ``(b,)`` of the squared distances of points."""
        nearest, distances = self.rows[query], self.distances[query]
        found = np.flatnonzero(lower <= self._limit(query))
        found = found[self._owners[rows[found]] != self._excluded[query]]
        found = found[np.argsort(lower[found], kind="stable")]
        step = _SPARE + 2 * len(nearest)
        for start in range(0, len(found), step):
            some = found[start : start + step]
            if lower[some[0]] > self._limit(query):
                break
            n_before = int((nearest >= 0).sum())
            both = np.concatenate((nearest[:n_before], rows[some]))
            from_point = exact_distances(point, points[some], self._metric)
            from_point = np.concatenate((distances[:n_before], from_point))
            order = np.lexsort((both, from_point))
            _, first = np.unique(self._owners[both[order]], return_index=True)
            order = order[np.sort(first)][: len(nearest)]
            nearest[: len(order)], distances[: len(order)] = both[order], from_point[order]

    def _limit(self, query: int) -> float:
        """Largest squared distance between points at which a row can still be among the nearest to a query."""
        farthest = float(self.distances[query, -1])
        square = 2 * farthest if self._metric == "cosine" else farthest**2
        return float(square * (1 + self._error))

    def _squared_norms(self, points: _Points) -> npt.NDArray[np.float64]:
        """Squared norms of points; 1 for cosine, even of zeros, so that their distance from everything is 1."""
        return np.ones(len(points)) if self._metric == "cosine" else np.einsum("ij,ij->i", points, points)
