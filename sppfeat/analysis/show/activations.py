"""The data for a picture of one image: feature maps, pooled values, and the cells where the maxima were found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppfeat.analysis.show.pooled_levels import PooledLevel, pool_region
from sppfeat.boxes.coordinates import clip_boxes
from sppfeat.config.regions import RowFlag
from sppfeat.errors import BoxError, ConfigError, StoreError
from sppfeat.extraction.regions import Projector, best_scales
from sppfeat.extractor import Extractor, ImageLike
from sppfeat.geometry import FeatureGeometry, cell_boxes, scale_boxes
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import scale_indices, whole_image_boxes

__all__ = ["LayerActivations", "PooledBox", "View", "pooled_boxes", "view_of_row"]


class View(NamedTuple):
    """A region to pool from an image.

    Attributes:
        box_px: ``x0, y0, x1, y1`` in pixels of the image as displayed, edges, half-open; None for the whole map.
        scale: index into the configured short sides of the network input; None to choose one by the size of the box.
        mirrored: pool from the mirror image; ``box_px`` still refers to the image itself.
    """

    box_px: tuple[float, float, float, float] | None = None
    scale: int | None = None
    mirrored: bool = False


@dataclass(frozen=True)
class LayerActivations:
    """One layer's map and its pooled levels.

    Attributes:
        layer: name of the layer.
        map: ``(C, H, W)`` float32, the feature map.
        geometry: stride and offset of the map's cells in pixels of the network input; None if receptive-field
            arithmetic does not apply to the network.
        region: the pooled region, ``x0, y0, x1, y1`` in cells, half-open.
        levels: levels of the pyramid.
    """

    layer: str
    map: npt.NDArray[np.float32]
    geometry: FeatureGeometry | None
    region: tuple[int, int, int, int]
    levels: tuple[PooledLevel, ...]

    @property
    def map_hw(self) -> tuple[int, int]:
        """Height and width of the map, in cells."""
        return self.map.shape[1], self.map.shape[2]


@dataclass(frozen=True)
class PooledBox:
    """One box of an image, or the whole image, with its pooled layers.

    Attributes:
        image_hw: height and width of the image as displayed, in pixels.
        pixels: ``(H, W, 3)`` uint8 RGB, the network input; mirrored if the view is.
        view: the view that was requested.
        box_in: part of the box inside the image: ``x0, y0, x1, y1`` in pixels of the network input, edges.
        flag: properties of the box, bits of :class:`sppfeat.config.regions.RowFlag`.
        layers: layers of the network.
    """

    image_hw: tuple[int, int]
    pixels: npt.NDArray[np.uint8]
    view: View
    box_in: tuple[float, float, float, float]
    flag: int
    layers: tuple[LayerActivations, ...]

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the network input, in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def cells_in(self, layer: LayerActivations, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Converts cells of a layer's map to pixels of the network input.

        Args:
            layer: one of ``layers``.
            cells: ``(..., 4)`` int64, ``x0, y0, x1, y1``, half-open.

        Returns:
            ``(..., 4)`` float64 ``x0, y0, x1, y1``, edges; may extend beyond the input. If the layer has no geometry,
            the cells are spread evenly over the input.
        """
        geometry = layer.geometry
        if geometry is None:
            (height, width), (n_y, n_x) = self.input_hw, layer.map_hw
            stride = (height / n_y, width / n_x)
            geometry = FeatureGeometry(stride, ((stride[0] - 1) / 2, (stride[1] - 1) / 2))
        return cell_boxes(torch.from_numpy(cells.reshape(-1, 4)), geometry).numpy().reshape(cells.shape)


def pooled_boxes(
    extractor: Extractor,
    image: ImageLike,
    views: Sequence[View] = (View(),),
    *,
    projection: str | None = None,
    margin: float | None = None,
) -> list[PooledBox]:
    """Pools boxes of an image; runs the network once for each scale and mirroring.

    Args:
        extractor: network and settings.
        image: a path, a Pillow image, or an array.
        views: regions of the image to pool.
        projection, margin: conversion of boxes to cells; if None, the one of the extractor's file, or the default.

    Raises:
        BoxError: a box has no area inside the image, or is not finite.
        ImageError: the image cannot be read.
        ConfigError: receptive-field arithmetic does not apply to the network, and there is a box.
    """
    projector = _projector(extractor, views, projection, margin)
    runs: dict[tuple[int, bool], _Run] = {}
    scales = extractor.config.input.short_sides
    image_hw = extractor.network_input(image).image_hw if len(scales) > 1 else None
    pooled = []
    for view in views:
        scale = view.scale
        if scale is None:
            scale = 0 if image_hw is None else _best_scale(view, image_hw, scales)
        key = (scale, view.mirrored)
        if key not in runs:
            runs[key] = _run(extractor, image, scale, mirrored=view.mirrored)
        pooled.append(_pooled_box(extractor, view, runs[key], projector))
    return pooled


def view_of_row(file: FeatureFile, row: int) -> tuple[int, View]:
    """Image index of a row, and the view of that image that the row describes.

    Raises:
        ConfigError: there is no such row.
        StoreError: the row has no descriptor.
    """
    if not 0 <= row < file.n_rows:
        raise ConfigError(f"row is {row}; allowed: 0 to {file.n_rows - 1}, the rows of {str(file.path)!r}")
    image = int(file.image_index[row])
    if not file.has_descriptor()[row]:
        raise StoreError(
            f"row {row} of {str(file.path)!r} has no descriptor: its image {file.path_of(image)!r} failed or is "
            "pending, or its box has no area in it"
        )
    if not file.has_boxes:
        return image, View()
    scale = int(scale_indices(file.row_scale[row : row + 1], file.config.input)[0])
    box = file.boxes[row]
    is_whole = np.array_equal(box, whole_image_boxes(file.image_hw[image : image + 1])[0])
    if is_whole and file.config.regions is not None and file.config.regions.boxes == "multiview":
        return image, View(None, scale, bool(file.row_mirrored[row]))
    x0, y0, x1, y1 = box.tolist()
    return image, View((x0, y0, x1, y1), scale, bool(file.row_mirrored[row]))


class _Run(NamedTuple):
    """A run of the network on an image at one scale: pixels ``(H, W, 3)``, and a map ``(1, C, H', W')`` per layer."""

    image_hw: tuple[int, int]
    pixels: npt.NDArray[np.uint8]
    maps: list[Tensor]


def _projector(
    extractor: Extractor, views: Sequence[View], projection: str | None, margin: float | None
) -> Projector | None:
    """Conversion of boxes to cells; None if the network has no geometry and no view has a box."""
    try:
        return extractor.projector(projection=projection, margin=margin)
    except ConfigError:
        if projection is not None or margin is not None or any(view.box_px is not None for view in views):
            raise
        return None


def _best_scale(view: View, image_hw: tuple[int, int], short_sides: Sequence[int | None]) -> int:
    whole = whole_image_boxes(np.array([image_hw], dtype=np.int32))
    boxes_px = whole if view.box_px is None else _clip(view, image_hw)[0]
    return int(best_scales(boxes_px, image_hw, short_sides)[0])


def _clip(view: View, image_hw: tuple[int, int]) -> tuple[npt.NDArray[np.float64], int]:
    """Part of a view's box inside the image, ``(1, 4)`` in pixels of the image, and the flag of the box."""
    boxes_px = np.array([view.box_px], dtype=np.float64)
    clipped, flag = clip_boxes(boxes_px, np.array([image_hw], dtype=np.int32))
    if flag[0] & RowFlag.DEGENERATE:
        shown = ",".join(f"{value:g}" for value in boxes_px[0])
        raise BoxError(
            f"the box {shown} (x0,y0,x1,y1) has no area in its image of {image_hw[1]} x {image_hw[0]} pixels "
            "(width x height)"
        )
    return clipped, int(flag[0])


def _run(extractor: Extractor, image: ImageLike, scale: int, *, mirrored: bool) -> _Run:
    image_hw, pixels = extractor.network_input(image, scale=scale)
    if mirrored:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    return _Run(image_hw, pixels, extractor.feature_maps(pixels))


def _pooled_box(extractor: Extractor, view: View, run: _Run, projector: Projector | None) -> PooledBox:
    input_hw = (run.pixels.shape[0], run.pixels.shape[1])
    map_hws = [(fmap.shape[2], fmap.shape[3]) for fmap in run.maps]
    flag = int(RowFlag.OK)
    if view.box_px is None or projector is None:
        box_in = (0.0, 0.0, float(input_hw[1]), float(input_hw[0]))
        regions = [(0, 0, width, height) for height, width in map_hws]
    else:
        clipped, _ = _clip(view, run.image_hw)
        found = projector.project(
            np.array([view.box_px]),
            np.array([view.mirrored]),
            image_hw=run.image_hw,
            input_hw=input_hw,
            map_hws=map_hws,
        )
        flag = int(found.flag[0])
        regions = [(x0, y0, x1, y1) for x0, y0, x1, y1 in found.region[0].tolist()]
        boxes_px = torch.from_numpy(clipped)
        x0, y0, x1, y1 = scale_boxes(boxes_px, run.image_hw, input_hw)[0].tolist()
        box_in = (input_hw[1] - x1, y0, input_hw[1] - x0, y1) if view.mirrored else (x0, y0, x1, y1)
    descriptor = extractor.config.descriptor
    layers = []
    for i, (layer, fmap, region) in enumerate(
        zip(extractor.config.backbone.layers, run.maps, regions, strict=True)
    ):
        levels = pool_region(fmap, region, descriptor.levels, descriptor.pool)
        geometry = None if projector is None else projector.geometries[i]
        layers.append(LayerActivations(layer, fmap[0].numpy(), geometry, region, levels))
    return PooledBox(run.image_hw, run.pixels, view, box_in, flag, tuple(layers))
