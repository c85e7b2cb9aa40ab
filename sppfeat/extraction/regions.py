"""Projects boxes from image pixels to feature-map cells, and chooses the scale for a box."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppfeat.config.regions import RegionSpec
from sppfeat.geometry import FeatureGeometry, choose_scale, project_boxes, scale_boxes, sub_cell_boxes
from sppfeat.networks.backbones import Backbone

__all__ = ["MapSizes", "Projector", "Regions", "best_scales", "map_sizes"]

MapSizes = Callable[[tuple[int, int]], Sequence[tuple[int, int]]]
"""Maps the height and width of a network input, in pixels, to those of each layer's map, in cells."""


class Regions(NamedTuple):
    """Regions of feature maps that correspond to the boxes of one image.

    Attributes:
        cells: ``(K, L, 4)`` int64, ``x0, y0, x1, y1`` in cells of each layer's map, half-open; for a mirrored box, in
            cells of the mirrored image's map.
        sub_cell: ``(K,)`` bool, True if the box is smaller than a cell of any layer.
    """

    cells: Tensor
    sub_cell: Tensor


@dataclass(frozen=True)
class Projector:
    """Projects boxes to cells, by one rule for all boxes of a run.

    Attributes:
        geometries: stride and offset of each layer's map.
        rule, margin: see :func:`sppfeat.geometry.project_boxes`; the margin is in network-input pixels.
        whole_is_map: True to project a box that covers the whole image to the whole map, whatever the rule.
    """

    geometries: tuple[FeatureGeometry, ...]
    rule: str
    margin: float
    whole_is_map: bool = False

    @classmethod
    def of(cls, backbone: Backbone, spec: RegionSpec) -> "Projector":
        """Make the projector for a backbone and box settings.

        Raises:
            ConfigError: the receptive fields of the backbone cannot be computed.
        """
        geometries = tuple(backbone.geometry(i) for i in range(len(backbone.spec.layers)))
        return cls(geometries, spec.projection, spec.margin, whole_is_map=spec.boxes == "multiview")

    def project(
        self,
        boxes_px: Tensor,
        mirrored: Tensor,
        *,
        image_hw: tuple[int, int],
        input_hw: tuple[int, int],
        map_hws: Sequence[tuple[int, int]],
    ) -> Regions:
        """Project the boxes of an image to cells of its feature maps.

        Args:
            boxes_px: ``(K, 4)`` float64, ``xyxy`` edges in pixels of the image as displayed, clipped to it.
            mirrored: ``(K,)`` bool, True if a box is pooled from the maps of the mirrored image.
            image_hw: height and width of the image as displayed, in pixels.
            input_hw: height and width of the network input, in pixels.
            map_hws: height and width of each layer's map, in cells.

        Returns:
            The regions, in cells.
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
    """Make a function that finds the map sizes of a backbone for any input size, without running the network."""
    network = copy.deepcopy(backbone.network).to("meta")

    @cache
    def sizes(input_hw: tuple[int, int]) -> list[tuple[int, int]]:
        with torch.inference_mode():
            maps = backbone.maps(network, torch.empty(1, 3, *input_hw, device="meta"))
        return [(fmap.shape[2], fmap.shape[3]) for fmap in maps]

    return sizes


def best_scales(
    boxes_px: npt.NDArray[np.float64], image_hw: tuple[int, int], short_sides: Sequence[int | None]
) -> npt.NDArray[np.int16]:
    """Choose the scale of each box of an image; see :func:`sppfeat.geometry.choose_scale`.

    Args:
        boxes_px: ``(K, 4)`` float64, ``xyxy`` edges in pixels of the image as displayed, clipped to it.
        image_hw: height and width of the image as displayed, in pixels.
        short_sides: short sides of the network input, in pixels; a single one may be None, the image's own size.

    Returns:
        ``(K,)`` int16, index into ``short_sides``.
    """
    if len(short_sides) == 1:
        return np.zeros(len(boxes_px), dtype=np.int16)
    sides = [side for side in short_sides if side is not None]
    return choose_scale(torch.from_numpy(boxes_px), image_hw, sides).numpy().astype(np.int16)
