"""The numbers in a picture of one image, as ``sppfeat show image --json`` prints them."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from sppfeat.analysis.show.activations import PooledLayer, strength
from sppfeat.config.regions import RowFlag

__all__ = ["BoxNumbers", "ImageNumbers", "LayerNumbers", "LevelNumbers", "pooled_numbers"]


class LevelNumbers(TypedDict):
    """Pooling of a region at one level.

    Attributes:
        level: pyramid level n, of n x n bins.
        bins: cells ``x0, y0, x1, y1`` of each bin, half-open; bin row by bin row.
        strength: l2 norm of each bin's values over all channels, or its value in the chosen one; null if not finite.
        maxima: ``y, x, n`` for each cell that holds n maxima; other cells are left out.
    """

    level: int
    bins: list[tuple[int, int, int, int]]
    strength: list[float]
    maxima: list[tuple[int, int, int]]


class LayerNumbers(TypedDict):
    """Pooling of a box from one layer.

    Attributes:
        layer: name of the layer.
        channels: channels of its map.
        map_hw: height and width of its map, in cells.
        stride: pixels of the network input from one cell to the next, along y and x; null if unknown.
        offset: pixel index of the center of the first cell, along y and x; null if unknown.
        region: cells ``x0, y0, x1, y1`` of the box, half-open.
        levels: the pyramid levels.
    """

    layer: str
    channels: int
    map_hw: tuple[int, int]
    stride: tuple[float, float] | None
    offset: tuple[float, float] | None
    region: tuple[int, int, int, int]
    levels: list[LevelNumbers]


class BoxNumbers(TypedDict):
    """Pooling of one box.

    Attributes:
        box_px: ``x0, y0, x1, y1`` in pixels of the image; null for the whole image.
        mirrored: true if the box was pooled from the mirror image; ``box_in`` and all cells then refer to that.
        clipped: true if the box extends beyond the image.
        sub_cell: true if the box is smaller than a cell of a layer.
        input_hw: height and width of the network input.
        box_in: the part of the box inside the image, in pixels of the network input.
        layers: the layers.
    """

    box_px: tuple[float, float, float, float] | None
    mirrored: bool
    clipped: bool
    sub_cell: bool
    input_hw: tuple[int, int]
    box_in: tuple[float, float, float, float]
    layers: list[LayerNumbers]


class ImageNumbers(TypedDict):
    """The numbers in a picture of one image.

    Attributes:
        output: path of the picture.
        image: path of the image.
        image_hw: height and width of the image as displayed.
        channel: channel that is shown; null for all.
        boxes: the boxes.
    """

    output: str
    image: str
    image_hw: tuple[int, int]
    channel: int | None
    boxes: list[BoxNumbers]


def pooled_numbers(layers: Sequence[PooledLayer], channel: int | None) -> BoxNumbers:
    """The numbers in a picture of one box, as plain values; strengths are over all channels or of one."""
    first = layers[0]
    return {
        "box_px": first.view.box_px,
        "mirrored": first.view.mirrored,
        "clipped": bool(first.flag & RowFlag.CLIPPED),
        "sub_cell": bool(first.flag & RowFlag.SUB_CELL),
        "input_hw": first.input_hw,
        "box_in": first.box_in,
        "layers": [
            {
                "layer": layer.name,
                "channels": len(layer.map),
                "map_hw": layer.map_hw,
                "stride": layer.geometry and _pair(layer.geometry.stride),
                "offset": layer.geometry and _pair(layer.geometry.offset),
                "region": layer.region,
                "levels": [
                    {
                        "level": level.level,
                        "bins": [(x0, y0, x1, y1) for x0, y0, x1, y1 in level.bins.reshape(-1, 4).tolist()],
                        "strength": strength(level.values, channel).ravel().tolist(),
                        "maxima": [(y, x, int(counts[y, x])) for y, x in np.argwhere(counts).tolist()],
                    }
                    for level in layer.levels
                    for counts in [level.count_maxima(layer.map_hw, channel)]
                ],
            }
            for layer in layers
        ],
    }


def _pair(value: float | tuple[float, float]) -> tuple[float, float]:
    return value if isinstance(value, tuple) else (value, value)
