"""Exact nearest neighbors among the rows of a feature file, searched in blocks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import DEFAULT_ENGINE, DEFAULT_METRIC, DEFAULT_NEIGHBORS, ENGINES, METRICS
from sppfeat.analysis.row_checks import find_nonfinite
from sppfeat.analysis.search.candidates import (
    BlockScores,
    RowPoints,
    faiss_candidates,
    load_faiss,
    query_points,
    row_points,
    score_rows,
    squared_norms,
)
from sppfeat.analysis.search.distances import exact_distances
from sppfeat.config.values import check_choice
from sppfeat.errors import ConfigError
from sppfeat.store.selection import Selection

__all__ = ["Neighbors", "nearest_rows"]

_BLOCK_NBYTES = 32 << 20  # size of a block of rows
_SCORES = 1 << 22  # maximum of queries times rows to score at once


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
    engine: str = DEFAULT_ENGINE,
    block_nbytes: int = _BLOCK_NBYTES,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> Neighbors:
    """Finds the ``k`` rows of a selection that are nearest to each query.

    The result is exact: distances are computed in float64 from the stored descriptors, rows at the same distance are
    ordered by row number, and the result depends neither on ``block_nbytes`` nor on the other queries. Rows without a
    descriptor, and rows that hold NaN or infinities, are never found. Memory holds only the queries, the results and
    one block of rows.

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
        engine: how rows are preselected: ``"exact"`` (by our error bounds) or ``"faiss"`` (by FAISS, and by our error
            bounds if its float32 is too coarse). The result is the same.
        block_nbytes: size of a block of rows, in bytes of memory.
        on_progress: called with the number of rows searched so far.

    Raises:
        ConfigError: the queries are not as long as the selection's descriptors, or hold NaN or infinities; the metric
            or engine is unknown; FAISS is not installed; or ``k`` or ``exclude`` is out of range.
    """
    check_choice("metric", metric, METRICS)
    check_choice("engine", engine, ENGINES)
    if k < 1:
        raise ConfigError(f"k is {k}; allowed: 1 or more neighbours")
    queries = _checked(queries, selection.dimension)
    search = _Search(
        queries,
        metric=metric,
        k=min(k, len(selection)),
        excluded=_excluded(selection, len(queries), exclude, one_per_image),
        one_per_image=one_per_image,
        faiss=load_faiss() if engine == "faiss" else None,
    )
    for block, n_rows in _blocks(selection, block_nbytes):
        search.add(block)
        on_progress(n_rows)
    missing = ((0, 0), (0, k - search.k))
    return Neighbors(
        np.pad(search.rows, missing, constant_values=-1),
        np.pad(search.distances, missing, constant_values=np.inf),
    )


class _Block(NamedTuple):
    """A block of ``b`` rows: row numbers, image indices, values ``(b, d)``, and their :func:`squared_norms`."""

    rows: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]
    squares: npt.NDArray[np.float64]


def _checked(queries: npt.NDArray[np.floating[Any]], dimension: int) -> npt.NDArray[np.float32]:
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise ConfigError(f"queries have shape {queries.shape}; allowed: (q, {dimension})")
    with np.errstate(over="ignore"):
        queries = np.ascontiguousarray(queries, dtype=np.float32)
    for i, query in enumerate(queries):
        if not np.isfinite(query).all():
            raise ConfigError(f"query {i} holds NaN or infinities, which are near to nothing")
    return queries


def _excluded(
    selection: Selection, n_queries: int, exclude: npt.ArrayLike | None, one_per_image: bool
) -> npt.NDArray[np.int64]:
    """Excluded row ``(q,)`` of each query, or -1; with ``one_per_image`` the excluded image."""
    rows = np.full(n_queries, -1) if exclude is None else np.asarray(exclude)
    if rows.shape != (n_queries,):
        raise ConfigError(f"exclude has shape {rows.shape}; allowed: ({n_queries},), a row for each query")
    outside = rows[(rows < -1) | (rows >= selection.file.n_rows)]
    if len(outside):
        raise ConfigError(f"exclude names row {outside[0]}; allowed: -1 to {selection.file.n_rows - 1}")
    if not one_per_image:
        return rows
    return np.where(rows >= 0, selection.file.image_index[rows], -1)


def _blocks(selection: Selection, nbytes: int) -> Iterator[tuple[_Block, int]]:
    """Yields blocks of finite rows with a descriptor, ascending, and the number of rows read up to their end."""
    rows, positions = np.unique(selection.rows, return_index=True)
    has_one = selection.file.has_descriptor()[rows]
    rows, positions = rows[has_one], positions[has_one]
    images = selection.file.image_index[rows]
    for part, taken in selection.blocks(positions, nbytes=nbytes):
        values = np.asarray(taken, dtype=np.float32)
        squares = squared_norms(values)
        block = _Block(rows[part], images[part], values, squares)
        bad = find_nonfinite(values, squares)
        if len(bad):
            good = np.delete(np.arange(len(values)), bad)
            block = _Block(block.rows[good], block.images[good], values[good], squares[good])
        yield block, part.stop


class _Search:
    """The nearest rows found so far.

    Args:
        queries: ``(q, d)`` float32.
        metric: ``"cosine"`` or ``"l2"``.
        k: number of neighbors per query.
        excluded: ``(q,)`` excluded row, or image with ``one_per_image``, or -1.
        one_per_image: keep only the nearest row of each image.
        faiss: the package if it preselects rows, else None.
    """

    def __init__(
        self,
        queries: npt.NDArray[np.float32],
        *,
        metric: str,
        k: int,
        excluded: npt.NDArray[np.int64],
        one_per_image: bool,
        faiss: Any = None,
    ) -> None:
        self._faiss = faiss
        self.k = k
        self.rows = np.full((len(queries), k), -1)
        self.distances = np.full((len(queries), k), np.inf)
        self._images = np.full((len(queries), k), -1)
        self._queries = queries
        self._points = query_points(queries, metric)
        self._metric = metric
        self._excluded = excluded
        self._one_per_image = one_per_image

    def add(self, block: _Block) -> None:
        """Looks for nearer rows in a block."""
        if not len(block.rows) or not self.k:
            return
        rows = row_points(block.values, block.squares, self._metric)
        step = max(1, _SCORES // len(block.rows))
        for start in range(0, len(self._queries), step):
            queries = np.arange(start, min(start + step, len(self._queries)))
            if self._faiss is not None:
                queries = self._add_by_faiss(queries, block, rows)
            if not len(queries):
                continue
            bounds = score_rows(self._points[queries], rows, self._metric)
            for i, query in enumerate(queries.tolist()):
                self._merge(query, block, self._candidates(query, block, bounds, i))

    def _add_by_faiss(
        self, queries: npt.NDArray[np.int64], block: _Block, rows: RowPoints
    ) -> npt.NDArray[np.int64]:
        """Looks for nearer rows by FAISS; returns the queries for which it may have missed one."""
        found, lower_bounds = faiss_candidates(self._faiss, self._points[queries], rows, self.k)
        for query, own in zip(queries.tolist(), found, strict=True):
            self._merge(query, block, self._allowed(query, block, own[own >= 0]))
        limits = np.array([self._limit(query) for query in queries.tolist()])
        return queries[~(lower_bounds > limits)]

    def _allowed(self, query: int, block: _Block, found: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Drops the excluded rows from positions in a block."""
        if self._excluded[query] < 0:
            return found
        of_row = block.images if self._one_per_image else block.rows
        return np.asarray(found[of_row[found] != self._excluded[query]])

    def _candidates(self, query: int, block: _Block, bounds: BlockScores, i: int) -> npt.NDArray[np.int64]:
        """Positions in a block of the rows that may be nearest to a query, which is number ``i`` in ``bounds``."""
        found = self._allowed(query, block, bounds.candidates_within(i, self._limit(query)))
        if len(found) <= self.k:
            return found
        upper = bounds.upper(i, found)
        if self._one_per_image:
            order = np.argsort(block.images[found], kind="stable")
            _, starts = np.unique(block.images[found][order], return_index=True)
            upper = np.minimum.reduceat(upper[order], starts)
        if len(upper) < self.k:
            return found
        return bounds.candidates_within(i, float(np.partition(upper, self.k - 1)[self.k - 1]), found)

    def _limit(self, query: int) -> float:
        """Largest squared distance between points at which a row can still be among the nearest to a query."""
        farthest = float(self.distances[query, -1])
        square = 2 * farthest if self._metric == "cosine" else farthest**2
        return square * (1 + 1e-12)  # allows for float64 rounding

    def _merge(self, query: int, block: _Block, found: npt.NDArray[np.int64]) -> None:
        """Computes the distances of some rows of a block and keeps the nearest."""
        if not len(found):
            return
        distances = exact_distances(self._queries[query], block.values[found], self._metric)
        known = (self.rows[query] >= 0) & ~np.isin(self.rows[query], block.rows[found])
        rows = np.concatenate((self.rows[query][known], block.rows[found]))
        images = np.concatenate((self._images[query][known], block.images[found]))
        distances = np.concatenate((self.distances[query][known], distances))
        order = np.lexsort((rows, distances))
        if self._one_per_image:
            _, first = np.unique(images[order], return_index=True)
            order = order[np.sort(first)]
        order = order[: self.k]
        self.rows[query, : len(order)] = rows[order]
        self._images[query, : len(order)] = images[order]
        self.distances[query, : len(order)] = distances[order]
