"""Exact nearest neighbors among the rows of a feature file, searched in blocks.

Both metrics are functions of the Euclidean distance ``r`` between two points. For ``l2`` the points are the descriptors
and the distance is ``r``. For ``cosine`` the points are the descriptors scaled to norm 1, and the distance, one minus
the cosine, is ``r**2 / 2``, which loses no digits when two descriptors are nearly equal.

A matrix product gives the squared distances of a block from all queries, up to a known rounding error. Rows that may be
among the nearest in spite of it are few, and their distances are computed again, one by one and without cancellation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import DEFAULT_METRIC, DEFAULT_NEIGHBORS, METRICS
from sppfeat.analysis.row_checks import find_nonfinite
from sppfeat.config.values import check_choice
from sppfeat.errors import ConfigError
from sppfeat.store.selection import Selection

__all__ = ["Neighbors", "exact_distances", "nearest_rows", "to_points"]

_BLOCK_NBYTES = 16 << 20  # size of a block of rows, as float32
_SCORES = 1 << 22  # maximum of queries times rows to compare at once
_SPARE = 16  # rows to compare beyond those that are needed
_ROUNDOFF = 2.0**-53  # of float64

_Points = npt.NDArray[np.float64]
_Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Neighbors:
    """The nearest rows of each of ``q`` queries, nearest first.

    Attributes:
        rows: ``(q, k)`` int64 row numbers in the file; -1 for missing ones if fewer than ``k`` rows were found.
        distances: ``(q, k)`` float64, in the metric of the search; inf for missing ones.
    """

    rows: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]


def nearest_rows(
    selection: Selection,
    queries: npt.NDArray[np.floating[Any]],
    k: int = DEFAULT_NEIGHBORS,
    *,
    metric: str = DEFAULT_METRIC,
    exclude: npt.ArrayLike | None = None,
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
        queries: ``(q, d)`` descriptors in the selection's columns, as from :meth:`Selection.of_descriptors`;
            converted to float32.
        k: number of neighbors per query, 1 or more.
        metric: ``"cosine"`` (one minus the cosine, 0 to 2; a descriptor of zeros has distance 1 from everything,
            itself included) or ``"l2"`` (the Euclidean distance).
        exclude: ``(q,)`` row number that must not be found for each query, or -1. With ``one_per_image`` the whole
            image of that row is excluded.
        one_per_image: keep only the nearest row of each image.
        block_nbytes: size of a block of rows, in bytes of float32.
        on_progress: called with the number of rows searched so far.

    Raises:
        ConfigError: the queries are not as long as the selection's descriptors, or hold NaN or infinities; the metric
            is unknown; or ``k`` or ``exclude`` is out of range.
    """
    check_choice("metric", metric, METRICS)
    if k < 1:
        raise ConfigError(f"k is {k}; allowed: 1 or more neighbours")
    queries = _checked(queries, selection.dimension)
    excluded = _excluded(selection, len(queries), exclude)
    if one_per_image:
        excluded = np.where(excluded >= 0, selection.file.image_index[excluded], -1)
    k_found = min(k, len(selection))
    search = _Search(queries, metric, k_found, excluded, one_per_image=one_per_image)
    for block, n_rows in _blocks(selection, metric, block_nbytes):
        search.add(block)
        on_progress(n_rows)
    missing = ((0, 0), (0, k - k_found))
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


class _Block(NamedTuple):
    """A block of ``b`` rows: row numbers, image indices, points ``(b, d)``, and their squared norms."""

    rows: _Index
    images: _Index
    points: _Points
    squares: npt.NDArray[np.float64]


def _checked(queries: npt.NDArray[np.floating[Any]], dimension: int) -> npt.NDArray[np.float32]:
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise ConfigError(f"queries have shape {queries.shape}; allowed: (q, {dimension})")
    with np.errstate(over="ignore"):
        queries = np.ascontiguousarray(queries, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
    if len(bad):
        raise ConfigError(f"query {bad[0]} holds NaN or infinities, which are near to nothing")
    return queries


def _excluded(selection: Selection, n_queries: int, exclude: npt.ArrayLike | None) -> _Index:
    rows = np.full(n_queries, -1) if exclude is None else np.asarray(exclude)
    if rows.shape != (n_queries,):
        raise ConfigError(f"exclude has shape {rows.shape}; allowed: ({n_queries},), a row for each query")
    outside = rows[(rows < -1) | (rows >= selection.file.n_rows)]
    if len(outside):
        raise ConfigError(f"exclude names row {outside[0]}; allowed: -1 to {selection.file.n_rows - 1}")
    return rows


def _blocks(selection: Selection, metric: str, nbytes: int) -> Iterator[tuple[_Block, int]]:
    """Yields blocks of finite rows with a descriptor, ascending, and the number of rows read up to their end."""
    rows, positions = np.unique(selection.rows, return_index=True)
    has_one = selection.file.has_descriptor()[rows]
    rows, positions = rows[has_one], positions[has_one]
    images = selection.file.image_index[rows]
    for part, taken in selection.blocks(positions, nbytes=nbytes):
        bad = find_nonfinite(taken)
        good = np.delete(np.arange(len(taken)), bad)
        points = to_points(taken[good] if len(bad) else taken, metric)
        yield _Block(rows[part][good], images[part][good], points, _squared_norms(points, metric)), part.stop


def _squared_norms(points: _Points, metric: str) -> npt.NDArray[np.float64]:
    """Squared norms of points; 1 for cosine, even of zeros, so that their distance from everything is 1."""
    return np.ones(len(points)) if metric == "cosine" else np.einsum("ij,ij->i", points, points)


class _Search:
    """The nearest rows found so far; the arguments are those of :func:`nearest_rows`, checked."""

    def __init__(
        self,
        queries: npt.NDArray[np.float32],
        metric: str,
        k: int,
        excluded: _Index,
        *,
        one_per_image: bool,
    ) -> None:
        self._queries, self._metric, self._k = queries, metric, k
        self._excluded, self._one_per_image = excluded, one_per_image
        self.rows = np.full((len(queries), k), -1)
        self.distances = np.full((len(queries), k), np.inf)
        self._images = np.full((len(queries), k), -1)
        # Bounds the errors of products and norms of d terms each: see Higham, Accuracy and Stability of Numerical
        # Algorithms, section 3.1.
        self._error = 4 * (queries.shape[1] + 16) * _ROUNDOFF

    def add(self, block: _Block) -> None:
        """Looks for nearer rows in a block."""
        if not len(block.rows) or not self._k:
            return
        step = max(1, _SCORES // len(block.rows))
        for start in range(0, len(self._queries), step):
            points = to_points(self._queries[start : start + step], self._metric)
            totals = _squared_norms(points, self._metric)[:, None] + block.squares
            lower_bounds = totals * (1 - self._error) - 2 * (points @ block.points.T)
            for i, point in enumerate(points):
                self._search_block(start + i, point, block, lower_bounds[i])

    def _search_block(
        self, query: int, point: _Points, block: _Block, lower: npt.NDArray[np.float64]
    ) -> None:
        """Looks for nearer rows in a block, given lower bounds ``(b,)`` of their squared distances."""
        of_row = block.images if self._one_per_image else block.rows
        found = np.flatnonzero((lower <= self._limit(query)) & (of_row != self._excluded[query]))
        found = found[np.argsort(lower[found], kind="stable")]
        step = _SPARE + 2 * self._k
        for start in range(0, len(found), step):
            some = found[start : start + step]
            if lower[some[0]] > self._limit(query):
                break
            self._merge(query, point, block, some)

    def _limit(self, query: int) -> float:
        """Largest squared distance between points at which a row can still be among the nearest to a query."""
        farthest = float(self.distances[query, -1])
        square = 2 * farthest if self._metric == "cosine" else farthest**2
        return float(square * (1 + self._error))

    def _merge(self, query: int, point: _Points, block: _Block, found: _Index) -> None:
        """Computes the distances of some rows of a block and keeps the nearest."""
        distances = exact_distances(point, block.points[found], self._metric)
        rows = np.concatenate((self.rows[query], block.rows[found]))
        images = np.concatenate((self._images[query], block.images[found]))
        distances = np.concatenate((self.distances[query], distances))
        order = np.lexsort((rows, distances))
        order = order[rows[order] >= 0]
        if self._one_per_image:
            _, first = np.unique(images[order], return_index=True)
            order = order[np.sort(first)]
        order = order[: self._k]
        self.rows[query, : len(order)] = rows[order]
        self._images[query, : len(order)] = images[order]
        self.distances[query, : len(order)] = distances[order]
