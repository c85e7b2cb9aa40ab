"""Contact sheets: rows beside their nearest rows, as a sheet of small pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import DEFAULT_METRIC, SHEET_NEIGHBORS
from sppfeat.analysis.row_checks import check_described
from sppfeat.analysis.search.neighbors import nearest_rows
from sppfeat.analysis.search.queries import Query
from sppfeat.analysis.show.figure import new_figure, plain
from sppfeat.analysis.show.thumbnails import Thumbnail
from sppfeat.analysis.wording import rounded
from sppfeat.config.wording import counted, escaped
from sppfeat.store.selection import Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ContactSheet",
    "Neighbor",
    "SheetLine",
    "contact_sheet_figure",
    "draw_queries",
    "make_contact_sheet",
    "sheet_text",
]

# Inches.
_CELL = 1.0  # a picture with its frame
_TEXT = 0.36  # the text below it
_GAP = 0.12
_AFTER_QUERY = 0.3
_LETTERS = 18  # maximum in a line under a picture
_TEXT_POINTS = 7
_TITLE_LETTER = 0.06  # inches, average width of a letter


@dataclass(frozen=True)
class Neighbor:
    """A row near a query.

    Attributes:
        row: row number in the file.
        distance: distance from the query, in the metric of the sheet.
        name: path of the row's image.
        label: class of the row; ``""`` if it has none.
        is_same: True if row and query have the same class; None if one of them has no class.
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
    """A query and its nearest rows.

    Attributes:
        query: the query.
        name: path of the query's image.
        label: class of the query; ``""`` if it has none.
        neighbors: the nearest rows, nearest first.
    """

    query: Query
    name: str
    label: str
    neighbors: tuple[Neighbor, ...]

    @property
    def file_name(self) -> str:
        """Name of its image without folders."""
        return _without_folders(self.name)


@dataclass(frozen=True)
class ContactSheet:
    """Queries and their nearest rows.

    Attributes:
        lines: one line per query.
        k: number of neighbors requested per query.
        metric: metric of the distances, ``"cosine"`` or ``"l2"``.
    """

    lines: tuple[SheetLine, ...]
    k: int
    metric: str

    @property
    def n_judged(self) -> int:
        """Number of neighbors that have a class and whose query has one."""
        return sum(n.is_same is not None for line in self.lines for n in line.neighbors)

    @property
    def n_same(self) -> int:
        """Number of neighbors with the class of their query."""
        return sum(n.is_same is True for line in self.lines for n in line.neighbors)

    @property
    def rows(self) -> list[int]:
        """All rows on the sheet, each once."""
        shown = [row for line in self.lines for row in (line.query.row, *(n.row for n in line.neighbors))]
        return list(dict.fromkeys(row for row in shown if row is not None))


def draw_queries(selection: Selection, n: int, *, seed: int = 0) -> list[Query]:
    """Draws ``n`` random rows as queries: one of each class, the most frequent class first, then any rows.

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
    k: int = SHEET_NEIGHBORS,
    metric: str = DEFAULT_METRIC,
    one_per_image: bool = False,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> ContactSheet:
    """Finds the nearest rows of some queries; a row is never its own neighbor.

    Args:
        selection: the rows to search.
        queries: images, boxes or rows.
        descriptors: ``(q, d)``, the :func:`~sppfeat.analysis.search.queries.describe_queries` of these queries.
        k: number of neighbors per query.
        metric, one_per_image, on_progress: see :func:`~sppfeat.analysis.search.neighbors.nearest_rows`.

    Raises:
        ConfigError: there is no such metric.
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
        neighbors = tuple(
            _neighbor(row, distance, file.path_of(int(images[row])), labels.name_of(row) or "", label)
            for row, distance in zip(rows.tolist(), distances.tolist(), strict=True)
            if row >= 0
        )
        lines.append(SheetLine(query, name or query.text, label, neighbors))
    return ContactSheet(tuple(lines), k, metric)


def _neighbor(row: int, distance: float, name: str, label: str, query_label: str) -> Neighbor:
    return Neighbor(row, distance, name, label, label == query_label if label and query_label else None)


def _without_folders(name: str) -> str:
    return name.rpartition("/")[2] or name


class _Frame(NamedTuple):
    """Frame of a picture: a color, a line style and a sign, so that no reader depends on the color."""

    color: str
    line: str
    sign: str


_QUERY = _Frame("#404040", "-", "")
_SAME = _Frame("#009E73", "-", "\N{CHECK MARK} ")
_OTHER = _Frame("#D55E00", (0, (3, 1.5)), "\N{BALLOT X} ")  # type: ignore[arg-type]
_UNKNOWN = _Frame("#8A8A8A", "-", "")


def contact_sheet_figure(sheet: ContactSheet, thumbnails: Mapping[int | str, Thumbnail]) -> "Figure":
    """Draws one line per query: its picture, then its neighbors; inside :func:`~sppfeat.analysis.show.figure.drawing`.

    Args:
        sheet: the sheet, with at least one line.
        thumbnails: pictures of rows by row number, and of other queries by their text; else "no picture" is shown.
    """
    n_columns = 1 + max((len(line.neighbors) for line in sheet.lines), default=0)
    title = plain(sheet_text(sheet))
    width = max(n_columns * (_CELL + _GAP) + _AFTER_QUERY + _GAP, len(title) * _TITLE_LETTER + 2 * _GAP)
    height = len(sheet.lines) * (_CELL + _TEXT + _GAP) + 0.35
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    axes.text(_GAP, 0.2, title, va="center")
    for i, line in enumerate(sheet.lines):
        top = 0.35 + i * (_CELL + _TEXT + _GAP)
        _draw_line(axes, line, thumbnails, top)
    return figure


def sheet_text(sheet: ContactSheet) -> str:
    """Describes the sheet in one line."""
    queries = counted(len(sheet.lines), "query", "queries", thousands=",")
    n_found = max((len(line.neighbors) for line in sheet.lines), default=0)
    if not n_found:
        return f"{queries}; there are no other rows"
    nearest = "nearest row" if n_found == 1 else f"{n_found} nearest rows"
    whose = "its" if len(sheet.lines) == 1 else "their"
    text = f"{queries} (left) and {whose} {nearest} by {sheet.metric} distance"
    if sheet.n_judged:
        text += f"; {sheet.n_same} of {sheet.n_judged} of the query's class"
    return text


def _draw_line(axes: "Axes", line: SheetLine, thumbnails: Mapping[int | str, Thumbnail], top: float) -> None:
    picture = thumbnails.get(line.query.text if line.query.row is None else line.query.row)
    _draw_cell(axes, picture, _GAP, top, _QUERY, (line.label or "query", line.file_name))
    for j, neighbor in enumerate(line.neighbors):
        left = _GAP + (j + 1) * (_CELL + _GAP) + _AFTER_QUERY
        frame = _frame(neighbor)
        name = neighbor.label or neighbor.file_name
        texts = (f"{frame.sign}{name}", rounded(neighbor.distance, 3))
        _draw_cell(axes, thumbnails.get(neighbor.row), left, top, frame, texts)


def _draw_cell(
    axes: "Axes", thumbnail: Thumbnail | None, left: float, top: float, frame: _Frame, texts: tuple[str, str]
) -> None:
    from matplotlib.patches import Rectangle

    inner = _CELL - 0.08
    center = (left + _CELL / 2, top + _CELL / 2)
    if thumbnail is not None and thumbnail.pixels is not None:
        _draw_pixels(axes, thumbnail.pixels, center, inner)
    else:
        axes.text(*center, "no picture", ha="center", va="center", fontsize=_TEXT_POINTS, color="#606060")
    axes.add_patch(
        Rectangle(
            (left, top), _CELL, _CELL, fill=False, edgecolor=frame.color, linestyle=frame.line, linewidth=1.4
        )
    )
    for i, text in enumerate(texts):
        shown = plain(_shortened(text))
        axes.text(
            center[0], top + _CELL + 0.1 + 0.14 * i, shown, ha="center", va="center", fontsize=_TEXT_POINTS
        )


def _shortened(text: str) -> str:
    """Shortens a text to fit under a picture; keeps both ends, because names of images often differ at the end."""
    line = escaped(text)
    if len(line) <= _LETTERS:
        return line
    return f"{line[: _LETTERS // 2]}\N{HORIZONTAL ELLIPSIS}{line[-(_LETTERS - _LETTERS // 2 - 1) :]}"


def _draw_pixels(
    axes: "Axes", pixels: npt.NDArray[np.uint8], center: tuple[float, float], inner: float
) -> None:
    """Draws a picture as large as its frame allows, at its own aspect ratio."""
    height, width = (inner * side / max(pixels.shape[:2]) for side in pixels.shape[:2])
    x, y = center
    extent = (x - width / 2, x + width / 2, y + height / 2, y - height / 2)
    axes.imshow(pixels, extent=extent, aspect="auto", interpolation="antialiased", zorder=1)


def _frame(neighbor: Neighbor) -> _Frame:
    return _UNKNOWN if neighbor.is_same is None else _SAME if neighbor.is_same else _OTHER
