"""Pictures of embeddings: rows as points in the plane, with thumbnails placed so that they hide few points."""

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
_SIDE = 5.2  # inches, side of the plot
_PICTURE_SHARE = 0.085  # side of a thumbnail with its frame, as a share of the plot's side
_PICTURE_FILL = 0.88  # side of the thumbnail itself, as a share of that
_MARGIN = 0.09
_LONGEST_NAME = 28
_GAP = 0.012  # between a point and its thumbnail, as a share of the plot's side
_RINGS = (
    1.0,
    1.7,
)  # distances of a thumbnail from its point: multiples of the smallest that leaves it visible
_DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1))


def choose_pictured(embedding: Embedding, *, most: int, seed: int = 0) -> dict[int, tuple[float, float]]:
    """Chooses at most this many rows to picture, and places their thumbnails.

    Returns:
        Center ``x, y`` of each thumbnail, 0 to 1 from the left and lower edges of the plot, by row number.
    """
    placed = place_pictures(_places(embedding.points), side=_PICTURE_SHARE, most=most, seed=seed)
    rows = embedding.selection.rows
    return {int(rows[position]): center for position, center in placed}


def embedding_figure(
    embedding: Embedding, pictured: Mapping[int, tuple[float, float]], thumbnails: Mapping[int, Thumbnail]
) -> "Figure":
    """Draws the plot with its legend beside it; inside :func:`~sppfeat.analysis.show.figure.drawing`.

    Args:
        embedding: the embedding, with at least one point.
        pictured: centers of the thumbnails by row number, from :func:`choose_pictured`.
        thumbnails: thumbnails of these rows, by row number.
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
    """Draws points and thumbnails into square axes with sides of ``side`` inches; labels the marks for a legend."""
    points = embedding.points
    # Frequent classes lie below rare ones, and points without a named class below all others.
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
    for mark in marks:  # again, because the legend lists marks in the opposite order
        text = plain(mark_text(mark))
        if text.startswith("_"):  # matplotlib hides labels that begin with an underscore
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
    """Caption of an embedding: its method, the number of rows, and the number they were drawn from."""
    n_nonfinite = embedding.n_nonfinite
    rows = sample_text(len(embedding.selection), n_nonfinite=n_nonfinite, n_rows=embedding.n_rows)
    return f"{_NAMES[embedding.method]} of {rows}{nonfinite_text(n_nonfinite)}"


def mark_text(mark: ClassMark) -> str:
    """Legend text of a mark."""
    if mark.name is None:
        return f"{counted(mark.n_classes, 'more class')} ({len(mark.positions)})"
    name = one_line(mark.name, longest=_LONGEST_NAME) or "no label"
    return f"{name} ({len(mark.positions)})"


def _places(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Converts points ``(n, 2)`` to places in the plot, 0 to 1 from its left and lower edges."""
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
    """Draws a thumbnail, and a line to its point if it does not cover the point."""
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
    """A thumbnail placed in a plot.

    Attributes:
        position: index of its point.
        center: ``x, y`` of the thumbnail, 0 to 1 from the left and lower edges of the plot.
    """

    position: int
    center: tuple[float, float]


def place_pictures(points: npt.NDArray[np.float64], *, side: float, most: int, seed: int = 0) -> list[Placed]:
    """Draws points at random and places a picture on or near each, where it hides the fewest other points.

    Pictures do not overlap and lie within the plot; a point without such a place gets no picture.

    Args:
        points: ``(n, 2)``, 0 to 1 from the left and lower edges of a plot.
        side: side of a picture, in the same unit.
        most: maximum number of pictures.
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
