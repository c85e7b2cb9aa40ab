"""From the boxes of rows to regions of feature maps: which scale, which cells, and which are the same."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppfeat.boxes.coordinates import clip_boxes
from sppfeat.config.regions import RegionSpec
from sppfeat.extraction.rows import Rows
from sppfeat.geometry import FeatureGeometry, choose_scale, project_boxes, scale_boxes, sub_cell_boxes
from sppfeat.networks.backbones import Backbone

__all__ = ["MapSizes", "Projector", "Regions", "best_scales", "choose_scales", "drop_duplicates", "map_sizes"]

MapSizes = Callable[[tuple[int, int]], Sequence[tuple[int, int]]]
"""Height and width of the network input to height and width of each layer's map, in cells."""


class Regions(NamedTuple):
    """Boxes of one image as cells.

    Attributes:
        cells: ``(K, L, 4)`` int64, for each layer ``x0, y0, x1, y1``, half-open; of the mirror image's map
            where the row is mirrored.
        sub_cell: ``(K,)`` bool, smaller than a cell of some layer.
    """

    cells: Tensor
    sub_cell: Tensor


@dataclass(frozen=True)
class Projector:
    """How boxes become regions in a run.

    Attributes:
        geometries: stride and offset of each layer's map.
        rule, margin: see :func:`sppfeat.geometry.project_boxes`.
        whole_is_map: a box that is the whole image is the region that covers the whole map, whatever the rule.
    """

    geometries: tuple[FeatureGeometry, ...]
    rule: str
    margin: float
    whole_is_map: bool = False

    @classmethod
    def of(cls, backbone: Backbone, spec: RegionSpec) -> "Projector":
        """Return that of a backbone and its settings.

        Raises:
            ConfigError: receptive-field arithmetic does not apply to the backbone.
        """
        geometries = tuple(backbone.geometry(i) for i in range(len(backbone.spec.layers)))
        return cls(geometries, spec.projection, spec.margin, whole_is_map=spec.boxes == "multiview")

    def regions(
        self,
        boxes_px: Tensor,
        mirrored: Tensor,
        *,
        image_hw: tuple[int, int],
        input_hw: tuple[int, int],
        map_hws: Sequence[tuple[int, int]],
    ) -> Regions:
        """Boxes of an image as cells of its maps.

        Args:
            boxes_px: ``(K, 4)`` float64, xyxy edges in pixels of the image, clipped to it.
            mirrored: ``(K,)`` bool, whether the maps are of the mirror image.
            image_hw, input_hw: height and width of image and network input, in pixels.
            map_hws: height and width of each layer's map, in cells.
        """
        boxes_in = scale_boxes(boxes_px, image_hw, input_hw)
        x0, y0, x1, y1 = boxes_in.unbind(1)
        flipped = torch.stack((input_hw[1] - x1, y0, input_hw[1] - x0, y1), 1)
        boxes_in = torch.where(mirrored[:, None], flipped, boxes_in)
        cells = torch.empty(len(boxes_px), len(self.geometries), 4, dtype=torch.int64)
        sub_cell = torch.zeros(len(boxes_px), dtype=torch.bool)
        whole = (boxes_px == boxes_px.new_tensor([0, 0, image_hw[1], image_hw[0]])).all(1) & self.whole_is_map
        for i, (geometry, map_hw) in enumerate(zip(self.geometries, map_hws, strict=True)):
            cells[:, i] = project_boxes(boxes_in, geometry, map_hw, rule=self.rule, margin=self.margin)
            cells[whole, i] = torch.tensor([0, 0, map_hw[1], map_hw[0]])
            small = sub_cell_boxes(boxes_in, geometry, rule=self.rule, margin=self.margin)
            sub_cell |= small & ~whole
        return Regions(cells, sub_cell)


def map_sizes(backbone: Backbone) -> MapSizes:
    """The sizes of a backbone's maps for any input, without computing them."""
    network = copy.deepcopy(backbone.network).to("meta")

    @cache
    def sizes(input_hw: tuple[int, int]) -> list[tuple[int, int]]:
        with torch.inference_mode():
            maps = backbone.maps(network, torch.empty(1, 3, *input_hw, device="meta"))
        return [(fmap.shape[2], fmap.shape[3]) for fmap in maps]

    return sizes


def choose_scales(rows: Rows, image_hw: npt.NDArray[np.int32], short_sides: Sequence[int | None]) -> Rows:
    """Rows with the scale of each box: that at which its area is nearest to 224 x 224 pixels.

    Args:
        rows: those whose scale is -1 get one, if they have an area.
        image_hw: ``(N, 2)`` int32, height and width of the images.
        short_sides: of the network input, ascending where there are several.
    """
    boxes = rows.boxes
    row_hw = image_hw[_image_of_rows(rows)]
    clipped, _ = clip_boxes(boxes.boxes_px, row_hw)
    scale = boxes.scale.copy()
    open_rows = (scale < 0) & ~boxes.is_degenerate & (row_hw > 0).all(axis=1)
    short_side = row_hw.min(axis=1, keepdims=True)  # all that the choice depends on beside the box
    for group in _groups(short_side, np.flatnonzero(open_rows)):
        square = (int(short_side[group[0], 0]),) * 2
        scale[group] = best_scales(clipped[group], square, short_sides)
    scale[boxes.is_degenerate] = -1
    return rows._replace(boxes=dataclasses.replace(boxes, scale=scale))


def best_scales(
    boxes_px: npt.NDArray[np.float64], image_hw: tuple[int, int], short_sides: Sequence[int | None]
) -> npt.NDArray[np.int16]:
    """``(K,)`` int16, the scale of each box of an image; see :func:`sppfeat.geometry.choose_scale`.

    Args:
        boxes_px: ``(K, 4)`` float64, pixels of the image, xyxy, clipped to it.
        image_hw: height and width of the image.
        short_sides: of the network input; where there is only one it may be None, the image's own.
    """
    if len(short_sides) == 1:
        return np.zeros(len(boxes_px), dtype=np.int16)
    sides = [side for side in short_sides if side is not None]
    return choose_scale(torch.from_numpy(boxes_px), image_hw, sides).numpy().astype(np.int16)


def drop_duplicates(
    rows: Rows,
    image_hw: npt.NDArray[np.int32],
    input_hw: npt.NDArray[np.int32],
    *,
    projector: Projector,
    sizes: MapSizes,
) -> Rows:
    """Rows without those that are the same region of the same map as an earlier one; ``box_row`` leads there.

    Args:
        rows: with their scales.
        image_hw: ``(N, 2)`` int32, height and width of the images.
        input_hw: ``(N, S, 2)`` int32, of the network input at each scale; rows of an image for which there is
            none stay as they are.
        projector: how boxes become regions.
        sizes: sizes of the maps.
    """
    boxes, image = rows.boxes, _image_of_rows(rows)
    usable = np.asarray((input_hw > 0).all(axis=(1, 2)))
    pooled = np.flatnonzero((boxes.scale >= 0) & usable[image])
    clipped, _ = clip_boxes(boxes.boxes_px, image_hw[image])
    row_input_hw = input_hw[image, np.maximum(boxes.scale, 0)]
    cells = np.zeros((len(boxes), len(projector.geometries), 4), dtype=np.int64)
    for group in _groups(np.concatenate((image_hw[image], row_input_hw), axis=1), pooled):
        height, width = image_hw[image[group[0]]].tolist()
        in_h, in_w = row_input_hw[group[0]].tolist()
        cells[group] = projector.regions(
            torch.from_numpy(clipped[group]),
            torch.from_numpy(boxes.mirrored[group]),
            image_hw=(height, width),
            input_hw=(in_h, in_w),
            map_hws=sizes((in_h, in_w)),
        ).cells
    keys = np.column_stack(
        (
            image[pooled],
            boxes.scale[pooled],
            boxes.mirrored[pooled],
            cells[pooled].reshape(len(pooled), 4 * cells.shape[1]),
        )
    )
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    same_as = np.arange(len(boxes))
    same_as[pooled] = pooled[first[inverse.reshape(-1)]]
    kept = np.unique(same_as)
    new_row = np.searchsorted(kept, same_as)
    is_row = boxes.box_row >= 0
    box_row = boxes.box_row.copy()
    box_row[is_row] = new_row[boxes.box_row[is_row]]
    return Rows(
        np.searchsorted(kept, rows.ranges),
        dataclasses.replace(boxes.take(kept), box_row=box_row),
    )


def _image_of_rows(rows: Rows) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(len(rows.ranges)), np.diff(rows.ranges, axis=1).reshape(-1))


def _groups(keys: npt.NDArray[np.int32], rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Some rows, in groups whose keys are equal."""
    if not len(rows):
        return []
    _, inverse = np.unique(keys[rows], axis=0, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    bounds = np.flatnonzero(np.diff(inverse.reshape(-1)[order])) + 1
    return np.split(rows[order], bounds)
