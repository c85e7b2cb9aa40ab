"""Contact sheets: thumbnails of rows beside those of their nearest rows."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import DEFAULT_METRIC, SHEET_NEIGHBORS, SHEET_QUERIES
from sppfeat.analysis.neighbors import nearest_rows
from sppfeat.analysis.rows import check_described, classes_of
from sppfeat.analysis.search import Query, describe_queries, read_queries
from sppfeat.analysis.show.figure import Picture, check_picture_path, cut_middle, new_figure, write_picture
from sppfeat.analysis.show.thumbnails import (
    Thumbnail,
    find_query_pictures,
    find_row_pictures,
    read_thumbnails,
    unread_note,
)
from sppfeat.analysis.wording import rounded
from sppfeat.config.values import StrPath
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError
from sppfeat.store.reader import FeatureFile, Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ContactSheet",
    "Neighbor",
    "SheetLine",
    "draw_queries",
    "draw_sheet",
    "make_contact_sheet",
    "sheet_text",
    "show_neighbors",
]

_MOST_LINES = 100
_CELL = 1.12  # inches: a picture with its frame and the space around it
_FRAME, _PICTURE = 0.88, 0.8  # sides of frame and picture, as shares of a cell
_TEXT = 0.38  # height of the text below a picture, as a share of a cell
_AFTER_QUERY = 0.25  # space behind a query, as a share of a cell
_LETTERS = 18  # maximum in a line under a picture
_TEXT_POINTS = 7


@dataclass(frozen=True)
class Neighbor:
    """A row near a query: its number, distance in the sheet's metric, image and class.

    ``label`` is ``""`` without a class; ``is_same`` is True if the query has the same class, None if either has none.
    """

    row: int
    distance: float
    name: str
    label: str
    is_same: bool | None


@dataclass(frozen=True)
class SheetLine:
    """A query with its image, its class (``""`` without one), and its nearest rows, nearest first.

    ``n_labeled`` counts the possible neighbors that have a class, and ``n_alike`` those with the query's class. With
    one row per image, both count images.
    """

    query: Query
    name: str
    label: str
    neighbors: tuple[Neighbor, ...]
    n_alike: int
    n_labeled: int

    @property
    def n_judged(self) -> int:
        """Number of neighbors that have a class, if the query has one."""
        return sum(n.is_same is not None for n in self.neighbors)


@dataclass(frozen=True)
class ContactSheet:
    """Queries, one per line, and the rows nearest to each, by ``"cosine"`` or ``"l2"`` distance."""

    lines: tuple[SheetLine, ...]
    metric: str

    @property
    def has_classes(self) -> bool:
        """True if neighbors of the query's class and of other classes were possible."""
        return any(line.n_judged and 0 < line.n_alike < line.n_labeled for line in self.lines)

    @property
    def n_judged(self) -> int:
        """Number of neighbors that have a class and whose query has one."""
        return sum(line.n_judged for line in self.lines)

    @property
    def n_same(self) -> int:
        """Number of neighbors with the class of their query."""
        return sum(n.is_same is True for line in self.lines for n in line.neighbors)

    @property
    def n_possible(self) -> int:
        """Largest possible number of neighbors with the class of their query, limited by small classes."""
        return sum(min(line.n_judged, line.n_alike) for line in self.lines)

    @property
    def n_by_chance(self) -> float:
        """Expected number of neighbors with the class of their query if neighbors were drawn at random."""
        return sum(line.n_judged * line.n_alike / line.n_labeled for line in self.lines if line.n_judged)

    @property
    def rows(self) -> list[int]:
        """All rows on the sheet, each once."""
        shown = [row for line in self.lines for row in (line.query.row, *(n.row for n in line.neighbors))]
        return list(dict.fromkeys(row for row in shown if row is not None))


def show_neighbors(
    file: StrPath,
    output: StrPath,
    queries: Sequence[str] = (),
    *,
    k: int = SHEET_NEIGHBORS,
    n_random: int = SHEET_QUERIES,
    metric: str = DEFAULT_METRIC,
    one_per_image: bool = False,
    root: StrPath | None = None,
    weights: str | None = None,
    weights_dir: StrPath | None = None,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **selection: Any,
) -> Picture:
    """Draws a contact sheet: each line shows a query and its nearest rows, with class and distance.

    Args:
        file: the feature file.
        output: the picture to write: .png, .svg or .pdf.
        queries: images, boxes and rows, as :func:`sppfeat.analysis.search.read_queries` takes them; without any, rows
            of different classes are drawn at random.
        k: number of neighbors per query.
        n_random: number of random rows to use without queries.
        metric: ``"cosine"`` or ``"l2"``.
        one_per_image: keep only the nearest row of each image, and no other row of the query's image.
        root: folder that now holds the images; the recorded one if None.
        weights, weights_dir, device: the network for queries that are not rows; see
            :func:`sppfeat.analysis.search.describe_queries`.
        seed: random seed.
        overwrite: replace the output if it exists.
        on_progress: called with the number of rows searched and the total.
        **selection: rows, layers, levels and labels; see :meth:`sppfeat.store.reader.FeatureFile.select`.

    Returns:
        The picture's path, its caption, the :class:`ContactSheet`, and a note about unreadable images.

    Raises:
        ConfigError: the output is not a picture or is also an input, a query is malformed, there are too many queries,
            no rows are selected, or a package is not installed.
        ImageError: the image of a query cannot be read.
        StoreError: the file cannot be read, or the output exists or cannot be written.
    """
    parsed = read_queries(queries) if queries else []
    inputs = [file, selection.get("labels"), *(query.path for query in parsed)]
    path = check_picture_path(output, inputs=inputs, overwrite=overwrite)
    if len(parsed) > _MOST_LINES:
        raise ConfigError(f"{len(parsed)} queries; a picture holds at most {_MOST_LINES}")
    with FeatureFile(file) as features:
        selected = features.select(**selection)
        parsed = parsed or draw_queries(selected, n_random, seed=seed)
        if not parsed:
            raise ConfigError(f"{str(file)!r}: --rows selects no rows; at least 1 is needed")
        sheet = make_contact_sheet(
            selected,
            parsed,
            describe_queries(parsed, selected, weights=weights, weights_dir=weights_dir, device=device),
            k=k,
            metric=metric,
            one_per_image=one_per_image,
            on_progress=lambda done: on_progress(done, len(selected)),
        )
        exif = features.config.input.exif
        row_pictures = find_row_pictures(features, sheet.rows, root=root)
        query_pictures = find_query_pictures(parsed, exif=exif, max_pixels=features.max_decode_pixels)
        pictured: Any = {**row_pictures, **query_pictures}
        thumbnails = read_thumbnails(pictured, exif=exif)
    write_picture(lambda: draw_sheet(sheet, thumbnails), path, overwrite=overwrite)
    return Picture(path, sheet_text(sheet), sheet, notes=unread_note(thumbnails))


def draw_queries(selection: Selection, n: int, *, seed: int = 0) -> list[Query]:
    """Draws ``n`` random rows as queries: one per class, most frequent classes first, then any rows."""
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
    **how: Any,
) -> ContactSheet:
    """Finds the rows of a selection nearest to queries ``(q, d)``; a row is never its own neighbor.

    For the other arguments see :func:`~sppfeat.analysis.neighbors.nearest_rows`.
    """
    query_rows = [-1 if query.row is None else query.row for query in queries]
    how |= {"metric": metric, "exclude": query_rows, "one_per_image": one_per_image}
    found = nearest_rows(selection, descriptors, k, **how)
    labels, file = selection.labels, selection.file
    images = file.image_index
    classes = np.array(classes_of(selection), dtype=object)
    units = images[selection.rows] if one_per_image else selection.rows
    lines = []
    for query, query_row, rows, distances in zip(
        queries, query_rows, found.rows, found.distances, strict=True
    ):
        is_row = query.row is not None
        label = (labels.name_of(query_row) or "") if is_row else ""
        name = file.path_of(int(images[query_row])) if is_row else query.path or query.text
        neighbors = []
        for row, distance in zip(rows.tolist(), distances.tolist(), strict=True):
            if row >= 0:
                its_label = labels.name_of(row) or ""
                is_same = its_label == label if its_label and label else None
                neighbors.append(Neighbor(row, distance, file.path_of(int(images[row])), its_label, is_same))
        is_other = units != (images[query_row] if is_row and one_per_image else query_row)
        n_alike = len(np.unique(units[is_other & (classes == label)]))
        n_labeled = len(np.unique(units[is_other & (classes != "")]))
        lines.append(SheetLine(query, name, label, tuple(neighbors), n_alike, n_labeled))
    return ContactSheet(tuple(lines), metric)


def sheet_text(sheet: ContactSheet) -> str:
    """Describes the sheet in one line."""
    queries = counted(len(sheet.lines), "query", "queries", thousands=",")
    n_found = max((len(line.neighbors) for line in sheet.lines), default=0)
    if not n_found:
        return f"{queries}; the file has no other rows"
    nearest = "nearest row" if n_found == 1 else f"{n_found} nearest rows"
    whose = "its" if len(sheet.lines) == 1 else "their"
    text = f"{queries} (left) and {whose} {nearest} by {sheet.metric} distance"
    if sheet.has_classes:
        text += f"; {sheet.n_same} of {sheet.n_possible} possible neighbors have the query's class"
    return text


# Color and line of the frame, and a sign for readers who cannot tell the colors apart.
_QUERY = ("#404040", "-", "")
_FRAMES: dict[bool | None, tuple[str, Any, str]] = {
    True: ("#009E73", "-", "\N{CHECK MARK} "),
    False: ("#D55E00", (0, (3, 1.5)), "\N{BALLOT X} "),
    None: ("#8A8A8A", "-", ""),
}


def draw_sheet(sheet: ContactSheet, thumbnails: Mapping[int | str, Thumbnail]) -> "Figure":
    """Draws a line per query: its thumbnail, then its neighbors; inside ``drawing``."""
    n_columns = 1 + max(len(line.neighbors) for line in sheet.lines)
    width, height = n_columns + _AFTER_QUERY, len(sheet.lines) * (1 + _TEXT)
    figure = new_figure(width * _CELL, height * _CELL + 0.2)
    axes = figure.add_subplot(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.axis("off")
    # All thumbnails share one axes, in units of a cell: laying out an axes per thumbnail takes minutes on large sheets.
    for i, line in enumerate(sheet.lines):
        y = i * (1 + _TEXT) + 0.5
        own = thumbnails.get(line.query.text if line.query.row is None else line.query.row)
        _draw_cell(axes, own, 0.5, y, _QUERY, (line.label or "query", os.path.basename(line.name)))
        for j, neighbor in enumerate(line.neighbors):
            label = neighbor.label if sheet.has_classes else ""
            texts = (label or os.path.basename(neighbor.name), rounded(neighbor.distance, 3))
            x = 1.5 + _AFTER_QUERY + j
            frame = _FRAMES[neighbor.is_same if sheet.has_classes else None]
            _draw_cell(axes, thumbnails.get(neighbor.row), x, y, frame, texts)
    axes.set(title=sheet_text(sheet), xlim=(0, width), ylim=(height, 0))
    return figure


def _draw_cell(
    axes: "Axes",
    thumbnail: Thumbnail | None,
    x: float,
    y: float,
    frame: tuple[str, Any, str],
    texts: tuple[str, str],
) -> None:
    """Draws a framed thumbnail around ``x, y``, with two lines of text below."""
    color, line, sign = frame
    if thumbnail is not None and thumbnail.pixels is not None:
        shape = thumbnail.pixels.shape[:2]
        height, width = (_PICTURE / 2 * side / max(shape) for side in shape)
        extent = (x - width, x + width, y + height, y - height)
        axes.imshow(thumbnail.pixels, extent=extent, interpolation="antialiased", zorder=1)
    else:
        axes.text(x, y, "no picture", ha="center", va="center", fontsize=_TEXT_POINTS, color="#606060")
    x0, x1, y0, y1 = x - _FRAME / 2, x + _FRAME / 2, y - _FRAME / 2, y + _FRAME / 2
    axes.plot((x0, x1, x1, x0, x0), (y0, y0, y1, y1, y0), color=color, linestyle=line, linewidth=1.4)
    shown = "\n".join(cut_middle(text, _LETTERS) for text in (f"{sign}{texts[0]}", texts[1]))
    axes.text(x, y + _FRAME / 2 + 0.05, shown, ha="center", va="top", fontsize=_TEXT_POINTS)
