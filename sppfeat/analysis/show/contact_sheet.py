"""Rows beside the rows that are nearest to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import DEFAULT_METRIC, SHEET_NEIGHBOURS
from sppfeat.analysis.described import check_described
from sppfeat.analysis.search.neighbors import nearest_rows
from sppfeat.analysis.search.queries import Query
from sppfeat.store.selection import Selection

__all__ = ["ContactSheet", "Neighbour", "SheetLine", "draw_queries", "make_contact_sheet"]


@dataclass(frozen=True)
class Neighbour:
    """A row that is near to a query.

    Attributes:
        row: its number.
        distance: from the query.
        name: of its image.
        label: its class, ``""`` where it has none.
        is_same: whether it is of the query's class; None where one of them has none.
    """

    row: int
    distance: float
    name: str
    label: str
    is_same: bool | None

    @property
    def file_name(self) -> str:
        """Name of its image without folders."""
        return _without_folders(self.name)


@dataclass(frozen=True)
class SheetLine:
    """A query and what is near to it.

    Attributes:
        query: what was asked for.
        name: of its image.
        label: its class, ``""`` where it has none, or none is known.
        neighbours: the nearest first.
    """

    query: Query
    name: str
    label: str
    neighbours: tuple[Neighbour, ...]

    @property
    def file_name(self) -> str:
        """Name of its image without folders."""
        return _without_folders(self.name)


@dataclass(frozen=True)
class ContactSheet:
    """Queries and their nearest rows.

    Attributes:
        lines: one per query.
        k: neighbours that were asked for.
        metric: of the distances.
    """

    lines: tuple[SheetLine, ...]
    k: int
    metric: str

    @property
    def n_judged(self) -> int:
        """How many neighbours are known to be of the class of their query, or of another one."""
        return sum(n.is_same is not None for line in self.lines for n in line.neighbours)

    @property
    def n_same(self) -> int:
        """How many of these are of the class of their query."""
        return sum(n.is_same is True for line in self.lines for n in line.neighbours)

    @property
    def rows(self) -> list[int]:
        """All rows that are shown, each once."""
        shown = [row for line in self.lines for row in (line.query.row, *(n.row for n in line.neighbours))]
        return list(dict.fromkeys(row for row in shown if row is not None))


def draw_queries(selection: Selection, n: int, *, seed: int = 0) -> list[Query]:
    """Some rows, drawn at random: one of each class, the most frequent first, then any.

    Raises:
        ConfigError: a row of the selection has no descriptor.
    """
    check_described(selection)
    order = np.random.default_rng(seed).permutation(len(selection))
    y = selection.y
    if y is not None:
        _, first, counts = np.unique(y[order], return_index=True, return_counts=True)
        heads = first[np.lexsort((first, -counts))]
        rest = np.setdiff1d(np.arange(len(order)), heads)
        order = order[np.concatenate([heads, rest])]
    return [Query(f"row:{row}", row=row) for row in selection.rows[order[:n]].tolist()]


def make_contact_sheet(
    selection: Selection,
    queries: Sequence[Query],
    descriptors: npt.NDArray[np.floating[Any]],
    *,
    k: int = SHEET_NEIGHBOURS,
    metric: str = DEFAULT_METRIC,
    one_per_image: bool = False,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> ContactSheet:
    """The nearest rows of some queries; a row is not its own neighbour.

    Args:
        selection: among which is searched.
        queries: images, boxes or rows.
        descriptors: ``(q, d)`` of them, as :func:`~sppfeat.analysis.search.queries.describe_queries` makes them.
        k: neighbours of each.
        metric, one_per_image, on_progress: as of :func:`~sppfeat.analysis.search.neighbors.nearest_rows`.

    Raises:
        ConfigError: a metric that there is not.
    """
    found = nearest_rows(
        selection,
        descriptors,
        k,
        metric=metric,
        exclude=[-1 if query.row is None else query.row for query in queries],
        one_per_image=one_per_image,
        on_progress=on_progress,
    )
    labels, file = selection.labels, selection.file
    images = file.image_index
    lines = []
    for query, rows, distances in zip(queries, found.rows, found.distances, strict=True):
        label = "" if query.row is None else labels.name_of(query.row) or ""
        name = query.path if query.row is None else file.path_of(int(images[query.row]))
        neighbours = tuple(
            _neighbour(row, distance, file.path_of(int(images[row])), labels.name_of(row) or "", label)
            for row, distance in zip(rows.tolist(), distances.tolist(), strict=True)
            if row >= 0
        )
        lines.append(SheetLine(query, name or query.text, label, neighbours))
    return ContactSheet(tuple(lines), k, metric)


def _neighbour(row: int, distance: float, name: str, label: str, query_label: str) -> Neighbour:
    return Neighbour(row, distance, name, label, label == query_label if label and query_label else None)


def _without_folders(name: str) -> str:
    return name.rpartition("/")[2] or name
