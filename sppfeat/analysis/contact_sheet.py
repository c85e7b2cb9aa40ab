"""Rows beside the rows that are nearest to them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.neighbours import DEFAULT_METRIC, nearest_rows
from sppfeat.selection import Selection

__all__ = ["ContactSheet", "Neighbour", "SheetLine", "draw_queries", "make_contact_sheet"]


@dataclass(frozen=True)
class Neighbour:
    """A row that is near to a query.

    Attributes:
        row: its number.
        distance: from the query.
        label: its class, ``""`` where it has none.
        is_same: whether it is of the query's class; None where one of them has none.
    """

    row: int
    distance: float
    label: str
    is_same: bool | None


@dataclass(frozen=True)
class SheetLine:
    """A query and what is near to it.

    Attributes:
        row: of the query; None where it is no row of the file.
        name: of the query: its image.
        label: its class, ``""`` where it has none.
        neighbours: the nearest first.
    """

    row: int | None
    name: str
    label: str
    neighbours: tuple[Neighbour, ...]


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
        shown = [row for line in self.lines for row in (line.row, *(n.row for n in line.neighbours))]
        return list(dict.fromkeys(row for row in shown if row is not None))


def draw_queries(selection: Selection, n: int, *, seed: int = 0) -> list[int]:
    """Numbers of some rows, drawn at random: one of each class, the most frequent first, then any."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(selection))
    y = selection.y
    if y is None:
        return selection.rows[order[:n]].tolist()
    _, first, counts = np.unique(y[order], return_index=True, return_counts=True)
    heads = first[np.lexsort((first, -counts))]
    rest = np.setdiff1d(np.arange(len(order)), heads)
    return selection.rows[order[np.concatenate([heads, rest])[:n]]].tolist()


def make_contact_sheet(
    selection: Selection,
    queries: list[int],
    *,
    k: int,
    metric: str = DEFAULT_METRIC,
    one_per_image: bool = False,
) -> ContactSheet:
    """The nearest rows of some rows of a selection, without these themselves.

    Args:
        selection: among which is searched.
        queries: numbers of rows, all of the selection.
        k: neighbours of each.
        metric: as :func:`~sppfeat.analysis.neighbours.nearest_rows` has them.
        one_per_image: of each image only its nearest row.

    Raises:
        ConfigError: a metric that there is not, or a query that holds NaN or infinities.
    """
    positions = np.searchsorted(selection.rows, queries)
    names = [selection.file.path_of(int(selection.file.image_index[row])) for row in queries]
    if not queries:
        return ContactSheet((), k, metric)
    found = nearest_rows(
        selection,
        selection.take(positions).astype(np.float32),
        k,
        metric=metric,
        exclude=np.array(queries, dtype=np.int64),
        one_per_image=one_per_image,
    )
    label_of = _Labels(selection)
    lines = [
        SheetLine(row, name, label_of[row], _neighbours(rows, distances, label_of, label_of[row]))
        for row, name, rows, distances in zip(queries, names, found.rows, found.distances, strict=True)
    ]
    return ContactSheet(tuple(lines), k, metric)


class _Labels:
    """Names of the classes of rows."""

    def __init__(self, selection: Selection) -> None:
        self._values = selection.labels.values
        self._names = selection.target_names

    def __getitem__(self, row: int) -> str:
        if self._values is None:
            return ""
        value = self._values[row]
        if not self._names:
            return str(value)
        return self._names[value] if 0 <= value < len(self._names) else ""


def _neighbours(
    rows: npt.NDArray[np.int64], distances: npt.NDArray[np.float64], label_of: _Labels, label: str
) -> tuple[Neighbour, ...]:
    return tuple(
        Neighbour(row, distance, name := label_of[row], name == label if name and label else None)
        for row, distance in zip(rows.tolist(), distances.tolist(), strict=True)
        if row >= 0
    )
