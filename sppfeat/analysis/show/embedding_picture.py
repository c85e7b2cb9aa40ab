"""Pictures of embeddings: rows as points of a plane, with small pictures placed so that they hide few points."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.show.classes import ClassMark, mark_classes
from sppfeat.analysis.show.embedding import Embedding
from sppfeat.analysis.show.figure import fit_page, new_figure, plain
from sppfeat.analysis.show.thumbnails import Thumbnail
from sppfeat.analysis.wording import nonfinite_text, sample_text
from sppfeat.config.wording import counted, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Placed",
    "axis_names",
    "caption",
    "choose_pictured",
    "draw_embedding",
    "embedding_figure",
    "mark_text",
    "place_pictures",
]

_NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
_SIDE = 5.2  # inches of the plot
_PICTURE_SHARE = 0.085  # of the plot's sides, taken by a row's picture with its frame
_PICTURE_FILL = 0.88  # of that, by the picture
_MARGIN = 0.09
_LONGEST_NAME = 28
_GAP = 0.012  # between a point and its picture, of the plot's sides
_RINGS = (1.0, 1.7)  # how far from its point a picture may be: multiples of where it just does not hide it
_DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1))


def choose_pictured(embedding: Embedding, *, most: int, seed: int = 0) -> dict[int, tuple[float, float]]:
    """Chooses rows to picture, and their places.

    Returns:
        The center of each row's picture, 0 to 1 from the left and the lower edge of the plot, by row number.
    """
    placed = place_pictures(_places(embedding.points), side=_PICTURE_SHARE, most=most, seed=seed)
    rows = embedding.selection.rows
    return {int(rows[position]): center for position, center in placed}


def embedding_figure(
    embedding: Embedding, pictured: Mapping[int, tuple[float, float]], thumbnails: Mapping[int, Thumbnail]
) -> "Figure":
    """Draws the plot with its legend beside it; inside :func:`~sppfeat.analysis.show.figure.drawing`.

    Args:
        embedding: at least one point.
        pictured: centers of the rows' pictures: see :func:`choose_pictured`.
        thumbnails: pictures of these rows, by row number.
    """
    figure = new_figure(_SIDE, _SIDE)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_embedding(axes, embedding, mark_classes(embedding.selection), pictured, thumbnails, side=_SIDE)
    axes.set_title(caption(embedding), loc="left")
    if embedding.selection.y is not None:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, markerscale=1.3)
    fit_page(figure, axes, _SIDE, _SIDE)
    return figure


def draw_embedding(
    axes: "Axes",
    embedding: Embedding,
    marks: Sequence[ClassMark],
    pictured: Mapping[int, tuple[float, float]],
    thumbnails: Mapping[int, Thumbnail],
    *,
    side: float,
) -> None:
    """Draws points and pictures into axes of ``side`` inches on each side; labels the marks for a legend."""
    points = embedding.points
    # Rarer classes over frequent ones, and whatever has a name over what has none.
    for order, mark in enumerate(reversed(marks)):
        own = points[mark.positions]
        size = (6 if mark.shape == "." else 14) * (0.5 if len(points) > 1000 else 1)
        axes.scatter(
            own[:, 0],
            own[:, 1],
            s=size,
            c=mark.color,
            marker=mark.shape,
            linewidths=0.25,
            edgecolors=(0.2, 0.2, 0.2, 0.6),
            label="_nolegend_",
            zorder=2 + order / 100,
            rasterized=len(points) > 5000,
        )
    for mark in marks:  # in the order of the legend, which is not the one of drawing
        text = plain(mark_text(mark))
        if text.startswith("_"):  # which to matplotlib means: not in the legend
            text = f" {text}"
        axes.scatter([], [], s=14, c=mark.color, marker=mark.shape, label=text)
    _set_limits(axes, points)
    row_positions = {row: i for i, row in enumerate(embedding.selection.rows.tolist())}
    colors = {i: mark.color for mark in marks for i in mark.positions.tolist()}
    for row, center in pictured.items():
        pixels = thumbnails[row].pixels
        if pixels is not None:
            i = row_positions[row]
            _draw_picture(axes, points[i], center, pixels, colors[i], side * _PICTURE_SHARE * _PICTURE_FILL)
    horizontal, vertical = axis_names(embedding)
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
    if embedding.explained is None:
        axes.set_xticks([])
        axes.set_yticks([])


def axis_names(embedding: Embedding) -> tuple[str, str]:
    """Names of the two axes."""
    if embedding.explained is None:
        name = _NAMES[embedding.method]
        return f"{name} 1 (no scale)", f"{name} 2 (no scale)"
    first, second = (f"{100 * share:.1f} % of the variance" for share in embedding.explained)
    return f"first principal component: {first}", f"second principal component: {second}"


def caption(embedding: Embedding) -> str:
    """Method and number of rows, and of how many they were drawn."""
    n_nonfinite = embedding.n_nonfinite
    rows = sample_text(len(embedding.selection), n_nonfinite=n_nonfinite, n_rows=embedding.n_rows)
    return f"{_NAMES[embedding.method]} of {rows}{nonfinite_text(n_nonfinite)}"


def mark_text(mark: ClassMark) -> str:
    """Text of a mark in a legend."""
    if mark.name is None:
        return f"{counted(mark.n_classes, 'more class')} ({len(mark.positions)})"
    name = one_line(mark.name, longest=_LONGEST_NAME) or "no label"
    return f"{name} ({len(mark.positions)})"


def _places(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Places of points in the plot, 0 to 1."""
    low, high = _limits(points)
    return np.asarray((points - low) / (high - low))


def _limits(points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    low, high = points.min(axis=0, initial=np.inf), points.max(axis=0, initial=-np.inf)
    if not len(points):
        low, high = np.zeros(2), np.ones(2)
    extent = np.where(high > low, high - low, 1.0)
    return low - extent * _MARGIN, high + extent * _MARGIN


def _set_limits(axes: "Axes", points: npt.NDArray[np.float64]) -> None:
    low, high = _limits(points)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])


def _draw_picture(
    axes: "Axes",
    point: npt.NDArray[np.float64],
    center: tuple[float, float],
    pixels: npt.NDArray[Any],
    color: str,
    inches: float,
) -> None:
    """Draws a picture, and a line to its point if it lies beside it."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    image = OffsetImage(pixels, zoom=inches * 72 / max(pixels.shape[:2]), interpolation="antialiased")
    box = AnnotationBbox(
        image,
        (point[0], point[1]),
        xybox=center,
        boxcoords="axes fraction",
        pad=0.1,
        bboxprops={"edgecolor": color, "linewidth": 1.2},
        arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0},
        zorder=5,
    )
    axes.add_artist(box)


class Placed(NamedTuple):
    """A picture of a point.

    Attributes:
        position: position of the point among all.
        center: ``x, y`` of the picture, 0 to 1 as the points are.
    """

    position: int
    center: tuple[float, float]


def place_pictures(points: npt.NDArray[np.float64], *, side: float, most: int, seed: int = 0) -> list[Placed]:
    """Places pictures of points drawn at random, each on its point or near it, where it hides the fewest others.

    Pictures do not overlap, and lie within the plot; points without such a place get none.

    Args:
        points: ``(n, 2)``, 0 to 1 from the left and the lower edge of a plot.
        side: side of a picture, in the same unit.
        most: the most pictures.
        seed: seed of the draw.
    """
    reach = side / 2 + _GAP
    offsets = np.array([(0, 0), *((dx * r, dy * r) for r in _RINGS for dx, dy in _DIRECTIONS)]) * reach
    placed: list[Placed] = []
    centers = np.empty((0, 2))
    for i in np.random.default_rng(seed).permutation(len(points)).tolist():
        if len(placed) == most:
            break
        tried = points[i] + offsets
        fits = (np.abs(tried - 0.5) <= 0.5 - side / 2).all(axis=1)
        if len(centers):
            fits &= (np.abs(tried[:, None] - centers).max(axis=2) >= side).all(axis=1)
        if not fits.any():
            continue
        tried = tried[fits]
        hides = np.abs(points - tried[:, None]).max(axis=2) <= side / 2
        hides[:, i] = False
        center = tried[hides.sum(axis=1).argmin()]
        placed.append(Placed(i, (float(center[0]), float(center[1]))))
        centers = np.concatenate([centers, [center]])
    return placed
