"""Boxes without a box file: a grid over the image, and the views of SPP-net's multi-view test."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.regions import GridSpec
from sppfeat.errors import ConfigError

__all__ = ["VIEW_SIDE", "Views", "grid_views", "multiview_views"]

VIEW_SIDE = 224  # side of the windows of the paper's multi-view test, in network-input pixels

_MAX_VIEWS = 1_000_000  # per image: 32 MB of boxes

_POSITIONS = {  # positions of a window, as fractions of its range along x and y
    "centre": (0.5, 0.5),
    "top-left": (0.0, 0.0),
    "top-right": (1.0, 0.0),
    "bottom-left": (0.0, 1.0),
    "bottom-right": (1.0, 1.0),
    "top": (0.5, 0.0),
    "left": (0.0, 0.5),
    "right": (1.0, 0.5),
    "bottom": (0.5, 1.0),
}


class Views(NamedTuple):
    """The boxes of one image.

    Attributes:
        boxes_px: ``(V, 4)`` float64, xyxy, half-open, in pixels of the image.
        scale: ``(V,)`` int16, index of the scale at which each box is pooled; -1 to let the run choose.
        mirrored: ``(V,)`` bool, True for a box that is pooled from the mirror image.
        ids: ``(V,)`` names of the boxes.
    """

    boxes_px: npt.NDArray[np.float64]
    scale: npt.NDArray[np.int16]
    mirrored: npt.NDArray[np.bool_]
    ids: tuple[bytes, ...]


def grid_views(grid: GridSpec, image_hw: tuple[int, int]) -> Views:
    """Cover the image with windows, row by row, named ``row,column``.

    A grid by number has equal windows; adjacent ones share the fraction ``overlap`` of a window. A grid in pixels
    has windows of the given size, or of the image's size where that is smaller, and the same overlap; the last window
    of each row and column ends at the border and may overlap more.

    Args:
        grid: number or size of the windows, and their overlap.
        image_hw: height and width of the image, in pixels.

    Example:
        >>> grid_views(GridSpec(1, 2, False, 0.0), (30, 40)).boxes_px.tolist()
        [[0.0, 0.0, 20.0, 30.0], [20.0, 0.0, 40.0, 30.0]]

    Raises:
        ConfigError: the grid has more than a million windows.
    """
    (height, width), overlap = image_hw, grid.overlap
    n_rows, n_columns = grid.rows, grid.columns
    if grid.in_pixels:
        n_rows, n_columns = _n_windows(height, n_rows, overlap), _n_windows(width, n_columns, overlap)
    n_views = n_rows * n_columns
    if n_views > _MAX_VIEWS:
        found = f"the grid has {n_views} windows on an image of {height} x {width} pixels (height x width)"
        raise ConfigError(f"{found}; allowed: up to {_MAX_VIEWS}")
    along = _windows_of_size if grid.in_pixels else _windows_by_number
    ys, xs = along(height, grid.rows, overlap), along(width, grid.columns, overlap)
    boxes = np.empty((n_rows, n_columns, 4))
    boxes[..., 0::2] = xs[None]
    boxes[..., 1::2] = ys[:, None]
    return Views(
        boxes_px=boxes.reshape(-1, 4),
        scale=np.full(n_views, -1, dtype=np.int16),
        mirrored=np.zeros(n_views, dtype=bool),
        ids=tuple(b"%d,%d" % (row, column) for row in range(n_rows) for column in range(n_columns)),
    )


def multiview_views(
    image_hw: tuple[int, int],
    short_sides: Sequence[int | None],
    windows_hw: Sequence[tuple[float, float]],
) -> Views:
    """Lay out the views of He et al., TPAMI 2015, section 3.1.5, at each scale.

    These are the whole image, and windows of 224 x 224 network-input pixels at the center, the corners and the
    middles of the sides; then the same in the mirror image. A window is never larger than the input. The paper leaves
    out windows that coincide (three of them at 224 pixels); here all images have the same views in the same order.

    Args:
        image_hw: height and width of the image, in pixels.
        short_sides: short side of the network input at each scale, in pixels, for the names; None for the image's own
            size.
        windows_hw: height and width of a window in pixels of the image, at each scale.
    """
    image_wh = np.array(image_hw[::-1], dtype=np.float64)
    at = np.array([*_POSITIONS.values()])
    play = image_wh - np.minimum(np.array(windows_hw)[:, None, ::-1], image_wh)
    # Far edges are computed from the far border, so that a window at the border ends exactly there.
    windows = np.concatenate((at * play, image_wh - (1 - at) * play), axis=2)
    whole = np.broadcast_to([0, 0, *image_wh], (len(windows), 1, 4))
    boxes = np.concatenate((whole, windows), axis=1)
    n_scales, per_scale, _ = boxes.shape
    return Views(
        boxes_px=np.repeat(boxes[:, None], 2, axis=1).reshape(-1, 4),
        scale=np.repeat(np.arange(n_scales, dtype=np.int16), 2 * per_scale),
        mirrored=np.tile(np.repeat([False, True], per_scale), n_scales),
        ids=tuple(
            f"{side or 'native'} {place}{mirrored}".encode()
            for side in short_sides
            for mirrored in ("", " mirrored")
            for place in ("whole", *_POSITIONS)
        ),
    )


def _windows_by_number(side: int, n: int, overlap: float) -> npt.NDArray[np.float64]:
    """Start and end of ``n`` equal windows that cover ``side`` pixels, ``(n, 2)`` float64."""
    starts = np.arange(n) * (1 - overlap)  # in windows
    total = 1 + (n - 1) * (1 - overlap)
    ends = total - starts[::-1]  # the last window then ends exactly at the border
    return np.stack((side * (starts / total), side * (ends / total)), axis=1)


def _windows_of_size(side: int, window: int, overlap: float) -> npt.NDArray[np.float64]:
    """Start and end of windows of ``window`` pixels, the last one at the border, ``(n, 2)`` float64."""
    window = min(window, side)
    step = window * (1 - overlap)
    starts = np.minimum(np.arange(_n_windows(side, window, overlap)) * step, side - window)
    starts[-1] = side - window  # exactly, however the step was rounded
    return np.stack((starts, starts + window), axis=1)


def _n_windows(side: int, window: int, overlap: float) -> int:
    """Number of windows of ``window`` pixels that cover ``side`` pixels."""
    window = min(window, side)
    return 1 + max(0, math.ceil((side - window) / (window * (1 - overlap)) - 1e-9))
