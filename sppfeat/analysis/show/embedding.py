"""Embeddings: descriptors as points in the plane, some of them with thumbnails."""

import dataclasses
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import DEFAULT_EMBEDDING, EMBEDDINGS, MOST_EMBEDDED, MOST_PICTURED
from sppfeat.analysis.rows import check_described, classes_of, count_labels, draw_rows
from sppfeat.analysis.show.figure import Picture, check_picture_path, new_figure, write_picture
from sppfeat.analysis.show.thumbnails import Thumbnail, find_row_pictures, read_thumbnails, unread_note
from sppfeat.analysis.wording import nonfinite_text, sample_text
from sppfeat.config.machine import import_extra
from sppfeat.config.values import StrPath, check_choice
from sppfeat.config.wording import counted, one_line
from sppfeat.errors import ConfigError
from sppfeat.store.reader import FeatureFile, Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "MOST_NAMED",
    "ClassMark",
    "Embedding",
    "caption",
    "choose_pictured",
    "draw_embedding",
    "embed_rows",
    "mark_classes",
    "place_pictures",
    "show_embedding",
]

_N_REDUCED = 50  # principal components to run t-SNE and UMAP on, as is usual
_PERPLEXITY = 30.0
_N_NEIGHBORS = 15
_FEWEST_NEIGHBORED = 5  # rows that t-SNE and UMAP need
_NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
_SIDE = 6.0  # inches
_PICTURE_SHARE = 0.085  # side of a thumbnail with its frame, as a share of the plot's side
_PICTURE_SIDE = 0.88 * _PICTURE_SHARE  # side of the thumbnail itself
_MARGIN = 0.09
_LONGEST_NAME = 28
_GAP = 0.012  # between a point and its thumbnail, as a share of the plot's side
# Distances of a thumbnail from its point, as multiples of the smallest one that leaves the point visible.
_RINGS = (1.0, 1.6, 2.4)
_DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1))
_DIAGONALS = np.array([[(-1, -1), (1, 1)], [(-1, 1), (1, -1)]])  # of a square
# By Okabe and Ito, for all kinds of color vision; without black, which is invisible on dark pages.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
_SHAPES = ("o", "s", "^")
_OTHER = "#8A8A8A"
MOST_NAMED = len(_COLORS) * len(_SHAPES) - 1


def show_embedding(
    file: StrPath,
    output: StrPath,
    *,
    method: str = DEFAULT_EMBEDDING,
    max_rows: int = MOST_EMBEDDED,
    thumbnails: int = MOST_PICTURED,
    root: StrPath | None = None,
    seed: int = 0,
    overwrite: bool = False,
    **selection: Any,
) -> Picture:
    """Draws rows as points in a plane, colored by class, with thumbnails of some images or boxes.

    Args:
        file: the feature file.
        output: the picture to write: .png, .svg or .pdf.
        method: ``"pca"`` shows the two directions of greatest variance; ``"tsne"`` and ``"umap"`` preserve
            neighborhoods in the first 50 principal components, but distances between groups mean nothing.
        max_rows: draw at most this many rows, chosen at random (held in memory twice).
        thumbnails: maximum number of thumbnails.
        seed: random seed, also of the method.
        root: folder that now holds the images; the recorded one if None.
        overwrite: replace the output if it exists.
        **selection: rows, layers, levels and labels; see :meth:`sppfeat.store.reader.FeatureFile.select`.

    Returns:
        The picture's path, its caption, the :class:`Embedding`, and a note about unreadable images.

    Raises:
        ConfigError: the output is not a picture or is also an input, the method is unknown, there are too few rows, a
            row has no descriptor, or a package is not installed.
        StoreError: the file cannot be read, or the output exists or cannot be written.
    """
    path = check_picture_path(output, inputs=[file, selection.get("labels")], overwrite=overwrite)
    with FeatureFile(file) as features:
        embedding = embed_rows(features.select(**selection), method=method, most=max_rows, seed=seed)
        if not len(embedding.selection):
            raise ConfigError(f"{str(file)!r}: no rows to draw; select at least 1 row with finite values")
        pictured = choose_pictured(embedding, most=thumbnails, seed=seed)
        found = find_row_pictures(features, list(pictured), root=root)
        pictures = read_thumbnails(found, exif=features.config.input.exif)
    summary = caption(embedding)
    write_picture(
        lambda: draw_embedding(embedding, pictured, pictures, title=summary), path, overwrite=overwrite
    )
    return Picture(path, summary, embedding, notes=unread_note(pictures))


@dataclass(frozen=True)
class Embedding:
    """Rows as points in the plane.

    Attributes:
        method: one of :data:`~sppfeat.analysis.choices.EMBEDDINGS`.
        selection: the ``n`` rows.
        points: ``(n, 2)`` float64, in arbitrary units.
        explained: share of the variance along each axis, 0 to 1; None unless the method is ``"pca"``.
        n_rows: number of rows that were sampled from.
        n_nonfinite: number of sampled rows left out because they hold NaN or infinities.
    """

    method: str
    selection: Selection
    points: npt.NDArray[np.float64]
    explained: tuple[float, float] | None
    n_rows: int
    n_nonfinite: int


def embed_rows(
    selection: Selection, *, method: str = DEFAULT_EMBEDDING, most: int = MOST_EMBEDDED, seed: int = 0
) -> Embedding:
    """Places similar rows of a selection close to each other in the plane; see :func:`show_embedding`."""
    check_choice("method", method, EMBEDDINGS)
    check_described(selection)
    drawn = draw_rows(selection, most, seed=seed)
    rows = drawn.take(np.arange(len(drawn))).astype(np.float32)
    selection.file.drop_pages()
    finite = np.isfinite(rows).all(axis=1)
    n_nonfinite = int((~finite).sum())
    if n_nonfinite:
        rows, drawn = rows[finite], dataclasses.replace(drawn, rows=drawn.rows[finite])
    if method != "pca" and len(rows) < _FEWEST_NEIGHBORED:
        raise ConfigError(
            f"--method {method} needs {_FEWEST_NEIGHBORED} rows or more; {len(rows)} are selected"
        )
    # Variances of large values would overflow float32; the explained shares do not depend on the scale.
    peak = float(np.abs(rows).max(initial=0)) or 1.0
    rows /= np.float32(peak)
    n_components = min(2 if method == "pca" else _N_REDUCED, *rows.shape)
    explained: tuple[float, float] | None
    points, explained = _principal(rows, n_components, seed)
    if method == "pca":
        points = points[:, :2] * peak
    else:
        explained, spread = None, float(np.abs(points).max(initial=0))
        # t-SNE of equal rows divides by zero and crashes the process (SIGSEGV).
        points = _neighborhoods(method, points / spread, seed) if spread else points[:, :2]
    return Embedding(method, drawn, points, explained, len(selection), n_nonfinite)


def _principal(
    rows: npt.NDArray[np.float32], n_components: int, seed: int
) -> tuple[npt.NDArray[np.float64], tuple[float, float]]:
    """Principal components ``(n, k)``, ``k >= 2``, and the shares of the variance of the first two."""
    decomposition = import_extra("sklearn.decomposition", extra="sklearn", purpose="an embedding")
    points = np.zeros((len(rows), max(2, n_components)))
    if len(rows) < 2 or not np.ptp(rows, axis=0).any():  # nothing varies
        return points, (0.0, 0.0)
    pca = decomposition.PCA(n_components, svd_solver="auto", random_state=seed)
    with np.errstate(invalid="ignore"):  # shares of a variance that underflows
        points[:, :n_components] = pca.fit_transform(rows)
    shares = [*np.nan_to_num(pca.explained_variance_ratio_).tolist(), 0.0]
    return points, (shares[0], shares[1])


def _neighborhoods(method: str, points: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    """Places points by t-SNE or UMAP."""
    if method == "tsne":
        manifold = import_extra("sklearn.manifold", extra="sklearn", purpose="an embedding by t-SNE")
        perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
        placer = manifold.TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    else:
        umap = import_extra("umap", extra="umap", purpose="an embedding by UMAP")
        n_neighbors = min(_N_NEIGHBORS, len(points) - 1)
        placer = umap.UMAP(n_components=2, n_neighbors=n_neighbors, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UMAP warns that a seed limits it to one thread
        return np.asarray(placer.fit_transform(points), dtype=np.float64)


def choose_pictured(embedding: Embedding, *, most: int, seed: int = 0) -> dict[int, tuple[float, float]]:
    """Chooses rows to show as thumbnails; returns the centers of :func:`place_pictures` by row number."""
    low, high = _limits(embedding.points)
    places = (embedding.points - low) / (high - low)
    placed = place_pictures(places, most=most, seed=seed)
    return {int(embedding.selection.rows[i]): center for i, center in placed.items()}


def draw_embedding(
    embedding: Embedding,
    pictured: Mapping[int, tuple[float, float]],
    thumbnails: Mapping[int, Thumbnail],
    *,
    title: str = "",
    side: float = _SIDE,
) -> "Figure":
    """Draws points and thumbnails, ``side`` inches high, with a legend if there is a title; inside ``drawing``.

    ``pictured`` comes from :func:`choose_pictured`; ``thumbnails`` has the same rows.
    """
    has_legend = bool(title) and embedding.selection.y is not None
    figure = new_figure(side * (1.25 if has_legend else 1), side)
    axes = figure.add_subplot(box_aspect=1, title=title)
    marks = mark_classes(embedding.selection)
    _draw_points(axes, embedding, marks)
    low, high = _limits(embedding.points)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    colors = {i: mark.color for mark in marks for i in mark.positions.tolist()}
    for i, row in enumerate(embedding.selection.rows.tolist()):
        pixels = thumbnails[row].pixels if row in pictured else None
        if pixels is not None:
            line = {"arrowstyle": "-", "color": colors[i], "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
            where: Any = {"xytext": pictured[row], "textcoords": "axes fraction"}
            axes.annotate("", embedding.points[i].tolist(), **where, arrowprops=line, zorder=4)
            x, y = (center - _PICTURE_SIDE / 2 for center in pictured[row])
            inset = axes.inset_axes((x, y, _PICTURE_SIDE, _PICTURE_SIDE), zorder=5)
            inset.imshow(pixels, interpolation="antialiased")
            inset.set(xticks=[], yticks=[])
            inset.spines[:].set(visible=True, color=colors[i], linewidth=1.2)
    name = _NAMES[embedding.method]
    if embedding.explained is None:
        axes.set(xticks=[], yticks=[], xlabel=f"{name} 1 (no scale)", ylabel=f"{name} 2 (no scale)")
    else:
        first, second = (f"{100 * share:.1f} % of the variance" for share in embedding.explained)
        axes.set(xlabel=f"{name} 1 ({first})", ylabel=f"{name} 2 ({second})")
    if has_legend:
        beside: Any = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}
        handles: Any = axes.legend(**beside).legend_handles
        for handle in handles:
            handle.set_sizes([22])
    return figure


def caption(embedding: Embedding) -> str:
    """Names the method and counts the rows."""
    n_nonfinite = embedding.n_nonfinite
    rows = sample_text(len(embedding.selection), n_nonfinite=n_nonfinite, n_rows=embedding.n_rows)
    return f"{_NAMES[embedding.method]} of {rows}{nonfinite_text(n_nonfinite)}"


class ClassMark(NamedTuple):
    """Mark of a class, of all less frequent classes, or of the rows without a class.

    ``text`` is for a legend; ``color`` is ``#RRGGBB``; ``shape`` is ``"o"``, ``"s"`` (square), ``"^"`` (triangle) or
    ``"."`` (dot); ``positions`` ``(k,)`` locate the rows in the selection.
    """

    text: str
    color: str
    shape: str
    positions: npt.NDArray[np.int64]


def mark_classes(selection: Selection) -> list[ClassMark]:
    """Marks of the most frequent classes, of all others together, and of the rows without a class."""

    def mark(name: str, color: str, shape: str, is_its: npt.NDArray[np.bool_]) -> ClassMark:
        positions = np.flatnonzero(is_its)
        return ClassMark(f"{name} ({len(positions)})", color, shape, positions)

    if selection.y is None:
        return [mark("no label", _COLORS[0], "o", np.full(len(selection), True))] if len(selection) else []
    classes = np.array(classes_of(selection), dtype=object)
    names = [name for name, n in count_labels(selection) if name and n]
    named, others = names[:MOST_NAMED], names[MOST_NAMED:]
    marks = [
        mark(one_line(name, longest=_LONGEST_NAME) or "no label", color, shape, classes == name)
        for name, (shape, color) in zip(named, itertools.product(_SHAPES, _COLORS), strict=False)
    ]
    if others:
        marks.append(mark(counted(len(others), "more class"), _OTHER, ".", np.isin(classes, others)))
    if "" in classes:
        marks.append(mark("no label", _OTHER, "o", classes == ""))
    return marks


def place_pictures(
    points: npt.NDArray[np.float64], *, most: int, seed: int = 0
) -> dict[int, tuple[float, float]]:
    """Chooses points at random and places a picture beside each, where it hides the fewest other points.

    Pictures are within the plot and do not overlap. The leader from a point to its picture crosses no other leader and
    no other picture. A point without such a place gets no picture. Points ``(n, 2)``, and the centers of pictures by
    the index of their point, are 0 to 1 from the left and lower edges of the plot.
    """
    half, reach = _PICTURE_SHARE / 2, _PICTURE_SHARE / 2 + _GAP
    offsets = np.array([(dx * r, dy * r) for r in _RINGS for dx, dy in _DIRECTIONS]) * reach
    pictured: list[int] = []
    centers = np.empty((0, 2))
    for i in np.random.default_rng(seed).permutation(len(points)).tolist():
        if len(pictured) == most:
            break
        tried, starts = points[i] + offsets, points[pictured]
        # A segment and a square meet if the segment crosses a diagonal of the square, or ends in it.
        fits = (np.abs(tried - 0.5) <= 0.5 - half).all(axis=1)
        fits &= not (np.abs(centers - points[i]) <= half).all(axis=1).any()
        fits &= (np.abs(centers - tried[:, None]).max(axis=2) >= 2 * half).all(axis=1)
        fits &= (np.abs(starts - tried[:, None]).max(axis=2) > half).all(axis=1)
        fits &= ~_cross(points[i], tried[:, None], starts, centers).any(axis=1)
        for first, last in half * _DIAGONALS:
            fits &= ~_cross(tried[:, None] + first, tried[:, None] + last, starts, centers).any(axis=1)
            fits &= ~_cross(points[i], tried[:, None], centers + first, centers + last).any(axis=1)
        if fits.any():
            hides = np.abs(points - tried[fits][:, None]).max(axis=2) <= half
            pictured.append(i)
            centers = np.vstack([centers, tried[fits][hides.sum(axis=1).argmin()]])
    return {i: (x, y) for i, (x, y) in zip(pictured, centers.tolist(), strict=True)}


def _cross(a: Any, b: Any, c: Any, d: Any) -> npt.NDArray[np.bool_]:
    """Tells whether segments from ``a`` to ``b`` and from ``c`` to ``d`` ``(..., 2)`` cross."""

    def side(p: Any, q: Any, r: Any) -> Any:
        (x, y), (u, v) = np.moveaxis(q - p, -1, 0), np.moveaxis(r - p, -1, 0)
        return x * v - y * u

    crossed: npt.NDArray[np.bool_] = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    return crossed


def _limits(points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if not len(points):
        return np.zeros(2), np.ones(2)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = np.where(high > low, high - low, 1.0)
    return low - extent * _MARGIN, high + extent * _MARGIN


def _draw_points(axes: "Axes", embedding: Embedding, marks: Sequence[ClassMark]) -> None:
    n = len(embedding.points)
    for order, mark in enumerate(marks):
        x, y = embedding.points[mark.positions].T
        style: dict[str, Any] = {"c": mark.color, "marker": mark.shape, "rasterized": n > 5000}
        style["s"] = (6 if mark.shape == "." else 14) * (0.5 if n > 1000 else 1)
        # matplotlib hides labels that begin with an underscore.
        style["label"] = f" {mark.text}" if mark.text.startswith("_") else mark.text
        # Points without a class of their own are drawn below all others.
        style["zorder"] = 3 - order / 100
        axes.scatter(x, y, linewidths=0.25, edgecolors=(0.2, 0.2, 0.2, 0.6), **style)
