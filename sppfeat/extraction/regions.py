"""Projects boxes from image pixels to feature-map cells, and chooses the scale for a box."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from sppfeat.boxes.table import clip_boxes
from sppfeat.config.regions import RegionSpec, RowFlag
from sppfeat.geometry import FeatureGeometry, choose_scale, project_boxes, scale_boxes, sub_cell_boxes
from sppfeat.networks.backbones import Backbone
from sppfeat.store.schema import RowRegions

__all__ = ["MapSizes", "Projector", "best_scales", "map_sizes"]

MapSizes = Callable[[tuple[int, int]], Sequence[tuple[int, int]]]
"""Maps the height and width of a network input, in pixels, to those of each layer's map, in cells."""


@dataclass(frozen=True)
class Projector:
    """Projects boxes to cells, by the same rule for all boxes of a run.

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
        boxes_px: npt.NDArray[np.float64],
        mirrored: npt.NDArray[np.bool_],
        *,
        image_hw: tuple[int, int],
        input_hw: tuple[int, int],
        map_hws: Sequence[tuple[int, int]],
    ) -> RowRegions:
        """Clip the boxes of an image, and project them to cells of its feature maps.

        Args:
            boxes_px: ``(K, 4)`` float64, ``xyxy`` edges in pixels of the image as displayed.
            mirrored: ``(K,)`` bool, True if a box is pooled from the maps of the mirrored image.
            image_hw, input_hw: size of the image as displayed and of the network input, in pixels.
            map_hws: size of each layer's map, in cells.

        Returns:
            The regions, in cells of the mirrored image's maps for a mirrored box; and the flags of the boxes, with
            ``SUB_CELL`` for a box smaller than a cell of any layer.
        """
        clipped, flag = clip_boxes(boxes_px, np.full((len(boxes_px), 2), image_hw, dtype=np.int32))
        boxes_in = scale_boxes(torch.from_numpy(clipped), image_hw, input_hw)
        x0, y0, x1, y1 = boxes_in.unbind(1)
        flipped = torch.stack((input_hw[1] - x1, y0, input_hw[1] - x0, y1), 1)
        boxes_in = torch.where(torch.from_numpy(mirrored)[:, None], flipped, boxes_in)
        region = np.empty((len(clipped), len(self.geometries), 4), dtype=np.int32)
        whole = (clipped == [0, 0, image_hw[1], image_hw[0]]).all(axis=1) & self.whole_is_map
        for i, (geometry, map_hw) in enumerate(zip(self.geometries, map_hws, strict=True)):
            projected = project_boxes(boxes_in, geometry, map_hw, rule=self.rule, margin=self.margin)
            region[:, i] = projected.numpy()
            region[whole, i] = [0, 0, map_hw[1], map_hw[0]]
            small = sub_cell_boxes(boxes_in, geometry, rule=self.rule, margin=self.margin).numpy()
            flag[small & ~whole] |= np.uint8(RowFlag.SUB_CELL)
        return RowRegions(flag, region)


def map_sizes(backbone: Backbone) -> MapSizes:
    """Make a function that computes the map sizes of a backbone for any input size, without running the network."""
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
    """Choose the scale of each box of an image, clipped to it: ``(K,)`` int16, index into ``short_sides``.

    See :func:`sppfeat.geometry.choose_scale`; a single short side may be None, the image's own.
    """
    if len(short_sides) == 1:
        return np.zeros(len(boxes_px), dtype=np.int16)
    sides = [side for side in short_sides if side is not None]
    return choose_scale(torch.from_numpy(boxes_px), image_hw, sides).numpy().astype(np.int16)
