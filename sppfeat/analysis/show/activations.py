"""Values to draw for one image: feature maps, pooled values, and the cells that hold the maxima."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppfeat.boxes.table import clip_boxes
from sppfeat.config.regions import RowFlag
from sppfeat.config.values import StrPath
from sppfeat.errors import BoxError, ConfigError, ImageError, StoreError
from sppfeat.extraction.regions import best_scales
from sppfeat.extractor import Extractor, ImageLike, NetworkInput
from sppfeat.geometry import FeatureGeometry, cell_boxes, scale_boxes
from sppfeat.inputs import find_image
from sppfeat.inputs.names import is_url
from sppfeat.pooling.bins import distinct_bins
from sppfeat.pyramid import pool_regions
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import scale_indices, whole_image_boxes

__all__ = [
    "PooledLayer",
    "PooledLevel",
    "View",
    "pool_region",
    "pooled_boxes",
    "strength",
    "view_of_row",
]


class View(NamedTuple):
    """A region to pool from an image.

    Attributes:
        box_px: ``x0, y0, x1, y1`` in pixels of the image as displayed, half-open; None for the whole map.
        scale: index into the configured short sides of the network input; None to choose by the size of the box.
        mirrored: pool from the mirror image; ``box_px`` still refers to the image itself.
    """

    box_px: tuple[float, float, float, float] | None = None
    scale: int | None = None
    mirrored: bool = False


@dataclass(frozen=True)
class PooledLevel:
    """One level of the pyramid over a region.

    Attributes:
        level: number of bins per side, n.
        bins: ``(n, n, 4)`` int64, ``x0, y0, x1, y1`` of each bin in cells of the map, half-open.
        values: ``(C, n, n)`` float32, pooled values before normalization.
        cells: ``(C, n, n, 2)`` int64, cell ``y, x`` of each maximum; -1 for NaN and for ties, which are mostly zeros of
            channels that are inactive in the bin. None for average pooling.
    """

    level: int
    bins: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]
    cells: npt.NDArray[np.int64] | None

    def count_maxima(self, map_hw: tuple[int, int], channel: int | None = None) -> npt.NDArray[np.int64]:
        """Counts the maxima in each cell, ``(H, W)`` int64, over all bins and all channels or one channel."""
        counts = np.zeros(map_hw, dtype=np.int64)
        if self.cells is not None:
            cells = (self.cells if channel is None else self.cells[channel]).reshape(-1, 2)
            y, x = cells[cells[:, 0] >= 0].T
            np.add.at(counts, (y, x), 1)
        return counts


@dataclass(frozen=True)
class PooledLayer:
    """One layer of a network, pooled over a box of an image or over the whole image.

    Attributes:
        image_hw: height and width of the image as displayed, in pixels.
        pixels: ``(H, W, 3)`` uint8 RGB, the network input; mirrored if the view is.
        box_in: part of the box inside the image, ``x0, y0, x1, y1`` in pixels of the network input.
        flag: properties of the box, bits of :class:`sppfeat.config.regions.RowFlag`.
        map: ``(C, H', W')`` float32, the feature map.
        geometry: stride and offset of the map's cells, in pixels of the network input; None if unknown.
        region: the pooled region, ``x0, y0, x1, y1`` in cells, half-open.
    """

    view: View
    image_hw: tuple[int, int]
    pixels: npt.NDArray[np.uint8]
    box_in: tuple[float, float, float, float]
    flag: int
    name: str
    map: npt.NDArray[np.float32]
    geometry: FeatureGeometry | None
    region: tuple[int, int, int, int]
    levels: tuple[PooledLevel, ...]

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the network input, in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def map_hw(self) -> tuple[int, int]:
        """Height and width of the map, in cells."""
        return self.map.shape[1], self.map.shape[2]

    @property
    def stride(self) -> npt.NDArray[np.float64]:
        """Pixels of the network input from one cell to the next along x and y, ``(2,)`` float64."""
        cell = self.cells_in((0, 0, 1, 1))
        return cell[2:] - cell[:2]

    def cells_in(self, cells: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Edges ``x0, y0, x1, y1`` of cells ``(..., 4)``, in pixels of the network input; may extend beyond it."""
        geometry = self.geometry
        if geometry is None:
            stride = (self.input_hw[0] / self.map_hw[0], self.input_hw[1] / self.map_hw[1])
            geometry = FeatureGeometry(stride, ((stride[0] - 1) / 2, (stride[1] - 1) / 2))
        array = np.asarray(cells, dtype=np.int64)
        return cell_boxes(torch.from_numpy(array.reshape(-1, 4)), geometry).numpy().reshape(array.shape)

    def areas_in(self, cells: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Areas to draw cells ``(..., 4)`` in: as :meth:`cells_in`, but the outermost cells reach the border."""
        array, border = np.asarray(cells), 2 * self.input_hw[::-1]
        areas = np.where(array <= 0, 0, self.cells_in(array))
        return np.clip(np.where(array >= 2 * self.map_hw[::-1], border, areas), 0, border)


def pooled_boxes(
    extractor: Extractor,
    image: ImageLike,
    views: Sequence[View] = (View(),),
    *,
    projection: str | None = None,
    margin: float | None = None,
) -> list[tuple[PooledLayer, ...]]:
    """Pools each layer of a network over boxes of an image; runs the network once per scale and mirroring.

    Raises:
        BoxError: a box has no area inside the image.
        ConfigError: there are boxes, but the network's stride cannot be computed.
    """
    try:
        projector = extractor.projector(projection=projection, margin=margin)
    except ConfigError:
        if projection is not None or margin is not None or any(view.box_px is not None for view in views):
            raise
        projector = None
    read = cache(lambda scale: extractor.network_input(image, scale=scale))

    @cache
    def run(scale: int, is_mirrored: bool) -> tuple[npt.NDArray[np.uint8], list[Tensor]]:
        pixels = np.ascontiguousarray(read(scale).pixels[:, :: -1 if is_mirrored else 1])
        maps = extractor.feature_maps(NetworkInput(image_hw, pixels))
        return pixels, [fmap.values[None] for fmap in maps]

    image_hw, config = read(0).image_hw, extractor.config
    pooled = []
    for view in views:
        box_px, clipped = _clip(view, image_hw)
        scale = int(best_scales(clipped, image_hw, config.input.short_sides)[0])
        pixels, maps = run(scale if view.scale is None else view.scale, view.mirrored)
        input_hw = (pixels.shape[0], pixels.shape[1])
        map_hws = [(fmap.shape[2], fmap.shape[3]) for fmap in maps]
        flag, regions = int(RowFlag.OK), [(0, 0, width, height) for height, width in map_hws]
        if view.box_px is not None and projector is not None:
            hws = {"image_hw": image_hw, "input_hw": input_hw}
            found = projector.project(box_px, np.array([view.mirrored]), **hws, map_hws=map_hws)
            flag = int(found.flag[0])
            regions = [(x0, y0, x1, y1) for x0, y0, x1, y1 in found.region[0].tolist()]
        x0, y0, x1, y1 = scale_boxes(torch.from_numpy(clipped), image_hw, input_hw)[0].tolist()
        box_in = (input_hw[1] - x1, y0, input_hw[1] - x0, y1) if view.mirrored else (x0, y0, x1, y1)
        layers = []
        for i, (fmap, region) in enumerate(zip(maps, regions, strict=True)):
            levels = pool_region(fmap, region, config.descriptor.levels, config.descriptor.pool)
            geometry = None if projector is None else projector.geometries[i]
            name, fmap_chw = config.backbone.layers[i], fmap[0].numpy()
            layers.append(
                PooledLayer(view, image_hw, pixels, box_in, flag, name, fmap_chw, geometry, region, levels)
            )
        pooled.append(tuple(layers))
    return pooled


def view_of_row(file: FeatureFile, row: int, *, root: StrPath | None = None) -> tuple[str, View]:
    """The path of a row's image, below ``root`` or the recorded root, and the view that the row describes.

    Raises:
        ConfigError: the file has no such row.
        StoreError: the row has no descriptor.
        ImageError: the image does not exist.
    """
    if not 0 <= row < file.n_rows:
        raise ConfigError(f"--row is {row}; {str(file.path)!r} has rows 0 to {file.n_rows - 1}")
    image = int(file.image_index[row])
    if not file.has_descriptor()[row]:
        raise StoreError(
            f"row {row} of {str(file.path)!r} has no descriptor: its image {file.path_of(image)!r} failed or is "
            "pending, or its box has no area inside the image"
        )
    path = os.path.join(root or file.root, file.path_of(image))
    try:
        if not is_url(os.fsencode(path)):  # looking for a URL would download it
            find_image(b"", os.fsencode(path))
    except ImageError as error:
        raise ImageError(f"{path!r}: {error}; give the images' folder with --root") from error
    if not file.has_boxes:
        return path, View()
    scale = int(scale_indices(file.row_scale[row : row + 1], file.config.input)[0])
    x0, y0, x1, y1 = box = file.boxes[row].tolist()
    is_whole = box == whole_image_boxes(file.image_hw[image : image + 1])[0].tolist()
    is_view = file.config.regions is not None and file.config.regions.boxes == "multiview"
    return path, View(None if is_whole and is_view else (x0, y0, x1, y1), scale, bool(file.row_mirrored[row]))


def _clip(view: View, image_hw: tuple[int, int]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The view's box and its part inside the image, ``(1, 4)`` each, in pixels of the image."""
    hw = np.array([image_hw], dtype=np.int32)
    boxes_px = whole_image_boxes(hw) if view.box_px is None else np.array([view.box_px], dtype=np.float64)
    clipped, flag = clip_boxes(boxes_px, hw)
    if flag[0] & RowFlag.DEGENERATE:
        shown = ",".join(f"{value:g}" for value in boxes_px[0])
        raise BoxError(
            f"the box {shown} (x0,y0,x1,y1) has no area inside its image of {image_hw[1]} x {image_hw[0]} pixels "
            "(width x height)"
        )
    return boxes_px, clipped


def pool_region(
    fmap: Tensor, region: tuple[int, int, int, int], levels: Sequence[int], mode: str
) -> tuple[PooledLevel, ...]:
    """Pools a region of a map ``(1, C, H, W)`` float32 on the CPU, level by level, by ``"max"`` or ``"avg"``."""
    regions = torch.tensor([[0, *region]])
    pooled = []
    for n in levels:
        values = pool_regions(fmap, regions, (n,), mode=mode).reshape(-1, n, n).numpy()
        found = distinct_bins(regions[:, 1:], (n,), (fmap.shape[2], fmap.shape[3]))
        cells = torch.stack((found.x0, found.y0, found.x1, found.y1), 1)
        bins = cells[found.of_level[0][0]].reshape(n, n, 4).numpy()
        pooled.append(PooledLevel(n, bins, values, _origin(fmap[0].numpy(), bins) if mode == "max" else None))
    return tuple(pooled)


def strength(values: npt.NDArray[np.float32], channel: int | None = None) -> npt.NDArray[np.float64]:
    """The l2 norms ``(...)`` of values ``(C, ...)`` over all channels, or the values of one channel."""
    if channel is not None:
        return np.asarray(values[channel], dtype=np.float64)
    return np.asarray(np.linalg.norm(values.astype(np.float64), axis=0))


def _origin(fmap: npt.NDArray[np.float32], bins: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The cells ``(C, n, n, 2)`` of a map ``(C, H, W)`` that hold the maxima of bins; -1 for ties and NaN."""
    cells = np.full((len(fmap), len(bins), len(bins), 2), -1, dtype=np.int64)
    for i, j in np.ndindex(bins.shape[:2]):
        x0, y0, x1, y1 = bins[i, j].tolist()
        crop = fmap[:, y0:y1, x0:x1].reshape(len(fmap), -1)
        first = crop.argmax(axis=1)
        is_single = (crop == crop.max(axis=1, keepdims=True)).sum(axis=1) == 1
        found = np.stack((y0 + first // (x1 - x0), x0 + first % (x1 - x0)), axis=1)
        cells[is_single, i, j] = found[is_single]
    return cells
