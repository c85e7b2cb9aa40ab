"""Turns batches of pixels into descriptors: normalize, run the network once, pool, scale.

The pipeline, :class:`sppfeat.Extractor` and ``verify --recompute`` share :class:`Describer`. Decoded pixels of images
of one network-input size go in, with the boxes of each image if any; descriptors come out, with the flag and region of
each box.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from sppfeat.config.extract_config import ExtractConfig
from sppfeat.errors import ConfigError
from sppfeat.extraction.pipeline import BatchDescriber, Rows
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.regions import Projector
from sppfeat.networks.backbones import Backbone
from sppfeat.networks.devices import (
    CompiledNetwork,
    Delivery,
    DeviceCopier,
    device_memory,
    float32_arithmetic,
)
from sppfeat.pooling.bins import empty_tensor
from sppfeat.pyramid import normalize_descriptors, pool_regions, spatial_pyramid_pool

__all__ = ["Describer", "ImageBoxes", "make_batch_describer"]

_SLICE_VALUES = 16 << 20  # pooled values held at a time: 64 MB, whatever the number of boxes
# Pooled values to scale at a time. On the CPU they must fit into its cache, in memory that is reused: allocating new
# memory takes longer than the arithmetic.
_SCALED_VALUES = {"cpu": 1 << 20, "cuda": 1 << 28, "mps": 1 << 28}
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ImageBoxes(NamedTuple):
    """Boxes to describe in one image, each with the number of its row.

    Attributes:
        boxes_px: ``(K, 4)`` float64, ``xyxy`` edges in pixels of the image as displayed, each with an area inside it.
        mirrored: ``(K,)`` bool, True to pool from the mirrored image.
        image_hw: height and width of the image as displayed, in pixels.
    """

    image: int
    rows: npt.NDArray[np.int64]
    boxes_px: npt.NDArray[np.float64]
    mirrored: npt.NDArray[np.bool_]
    image_hw: tuple[int, int]


class Describer:
    """Computes the descriptors of batches of equal-sized images.

    Args:
        backbone: the network, which is moved to ``device`` and converted, and its input mean and deviation.
        config: pyramid, pooling, normalization, precision, and ``flip``: average each descriptor with the descriptor of
            the mirrored image, bin by bin.
        device: device to compute on.
        norm_factors: factor of each layer under ``meannorm``.
        compile_network: True to compile the network with torch.

    Raises:
        DeviceMemoryError: the network does not fit on the device; the methods raise it for a batch that does not fit.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: ExtractConfig,
        *,
        device: torch.device,
        norm_factors: Sequence[float] | None = None,
        compile_network: bool = False,
    ) -> None:
        self.device = device
        self._backbone = backbone
        self._descriptor = config.descriptor
        self._flip = config.input.flip
        self._precision = config.precision
        self._dtype = _DTYPES[config.precision]
        self._factors = norm_factors
        self._copier = DeviceCopier(device)
        with device_memory(device):
            network = backbone.network.eval().to(device, self._dtype)
            network = network.to(memory_format=torch.channels_last)
            self._network = CompiledNetwork(network) if compile_network else network
            self._head = backbone.head.network.to(device, self._dtype) if backbone.head else None
            self._mean = torch.tensor(backbone.spec.mean, device=device).reshape(1, 3, 1, 1)
            self._std = torch.tensor(backbone.spec.std, device=device).reshape(1, 3, 1, 1)

    def describe_images(self, pixels: npt.NDArray[np.uint8]) -> Delivery:
        """Compute the descriptors of whole images; the device may still be computing them when this returns.

        ``pixels`` are ``(N, H, W, 3)`` uint8 RGB, upright, at the size of the network input; the result is ``(N, D)``
        float32.
        """
        with self._computing():
            batch = self.make_batch(pixels)
            pooled = self._pool_whole(self.compute_maps(batch))
            if self._flip:
                pooled = _average(pooled, self._pool_whole(self.compute_maps(_mirror(batch))))
            return self._scale(pooled)

    def describe_boxes(
        self, pixels: npt.NDArray[np.uint8], boxes: Sequence[ImageBoxes], projector: Projector
    ) -> Iterator[Rows]:
        """Compute the descriptors of the boxes of each image, in one forward pass, or two with mirrored images.

        ``pixels`` are as in :meth:`describe_images`. Yields the rows of all boxes, image by image, in pieces of bounded
        size; the device may still be computing their descriptors.
        """
        if not any(len(own.boxes_px) for own in boxes):
            return
        maps = self._compute_maps_by_side(pixels, boxes)
        some_maps = next(iter(maps.values()))
        map_hws = [(fmap.shape[2], fmap.shape[3]) for fmap in some_maps]
        project = partial(projector.project, input_hw=pixels.shape[1:3], map_hws=map_hws)
        n_channels = sum(fmap.shape[1] for fmap in some_maps)
        step = max(1, _SLICE_VALUES // (n_channels * self._descriptor.n_bins))
        for position, (image, rows, boxes_px, mirrored, image_hw) in enumerate(boxes):
            for start in range(0, len(boxes_px), step):
                part = slice(start, min(start + step, len(boxes_px)))
                regions = project(boxes_px[part], mirrored[part], image_hw=image_hw)
                # No context may stay open across a yield: its settings hold for the whole thread.
                with self._computing():
                    pooled = self._pool(maps, position, regions.region, mirrored[part])
                    if self._flip:
                        others = project(boxes_px[part], ~mirrored[part], image_hw=image_hw).region
                        pooled = _average(pooled, self._pool(maps, position, others, ~mirrored[part]))
                    delivery = self._scale(pooled)
                yield Rows(image, rows[part], delivery.values, regions, delivery.wait)

    def make_batch(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Turn ``(N, H, W, 3)`` uint8 RGB into network input: ``(N, 3, H, W)``, normalized, on the device."""
        with self._computing():
            # Permuting (N, H, W, 3) gives a channels-last (N, 3, H, W) without a copy.
            raw = self._copier.to_device(pixels).permute(0, 3, 1, 2)
            return raw.to(torch.float32).div_(255.0).sub_(self._mean).div_(self._std)

    def compute_maps(self, batch: Tensor) -> list[Tensor]:
        """Compute each layer's map, ``(N, C, H', W')`` float32, the type for pooling and scaling."""
        with self._computing():
            return [
                fmap.to(torch.float32) for fmap in self._backbone.maps(self._network, batch.to(self._dtype))
            ]

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """Set inference mode and precision, and report a lack of device memory."""
        with device_memory(self.device), torch.inference_mode(), float32_arithmetic(self._precision):
            yield

    def _compute_maps_by_side(
        self, pixels: npt.NDArray[np.uint8], boxes: Sequence[ImageBoxes]
    ) -> dict[bool, list[Tensor]]:
        """Compute the maps that the boxes need: of the images under False, of the mirrored images under True."""
        mirrored = np.concatenate([own.mirrored for own in boxes])
        maps = {}
        with self._computing():
            batch = self.make_batch(pixels)
            if self._flip or not mirrored.all():
                maps[False] = self.compute_maps(batch)
            if self._flip or mirrored.any():
                maps[True] = self.compute_maps(_mirror(batch))
        return maps

    def _pool_whole(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Pool whole maps into one ``(N, d)`` tensor per layer, or into the head's output."""
        spec = self._descriptor
        return self._apply_head([spatial_pyramid_pool(fmap, spec.levels, mode=spec.pool) for fmap in maps])

    def _pool(
        self,
        maps: dict[bool, list[Tensor]],
        position: int,
        region: npt.NDArray[np.int32],
        mirrored: npt.NDArray[np.bool_],
    ) -> list[Tensor]:
        """Pool the regions ``(k, L, 4)`` of one image, each from the plain or the mirrored map."""
        if mirrored.all() or not mirrored.any():
            return self._pool_regions(maps[bool(mirrored[0])], position, region)
        plain = self._pool_regions(maps[False], position, region[~mirrored])
        other = self._pool_regions(maps[True], position, region[mirrored])
        where = torch.from_numpy(mirrored).to(self.device)
        result = []
        for a, b in zip(plain, other, strict=True):
            block = a.new_empty(len(region), a.shape[1])
            block[~where], block[where] = a, b
            result.append(block)
        return result

    def _pool_regions(
        self, maps: Sequence[Tensor], position: int, region: npt.NDArray[np.int32]
    ) -> list[Tensor]:
        spec = self._descriptor
        cells = F.pad(torch.from_numpy(region).long(), (1, 0), value=position)
        return self._apply_head(
            [
                pool_regions(fmap, cells[:, i].to(fmap.device), spec.levels, mode=spec.pool)
                for i, fmap in enumerate(maps)
            ]
        )

    def _apply_head(self, pooled: list[Tensor]) -> list[Tensor]:
        """Apply the head, if any, to the pooled layer; a network with a head has a single layer."""
        if self._head is None:
            return pooled
        return [self._head(pooled[0].to(self._dtype)).to(torch.float32)]

    def _scale(self, layers: list[Tensor]) -> Delivery:
        """Scale each layer separately, and concatenate the layers."""
        spec = self._descriptor
        if spec.mean_norm is not None and self._factors is None:
            raise ConfigError(f"normalize is {spec.normalize!r}, but its factors are unknown")
        if spec.normalize == "none" and len(layers) == 1:
            return self._copier.to_host(layers[0])
        widths = [layer.shape[1] for layer in layers]
        scaled = empty_tensor((len(layers[0]), sum(widths)), layers[0])
        for i, (layer, place) in enumerate(zip(layers, torch.split(scaled, widths, dim=1), strict=True)):
            step = max(1, _SCALED_VALUES[self.device.type] // max(1, layer.shape[1]))
            for rows, target in zip(torch.split(layer, step), torch.split(place, step), strict=True):
                if self._factors is not None:
                    torch.mul(rows, self._factors[i], out=target)
                else:
                    target.copy_(normalize_descriptors(rows, spec.normalize))
        return self._copier.to_host(scaled)


def _average(pooled: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    return [(a + b) / 2 for a, b in zip(pooled, others, strict=True)]


def _mirror(batch: Tensor) -> Tensor:
    return batch.flip(-1).contiguous(memory_format=torch.channels_last)


def make_batch_describer(plan: Plan, describer: Describer, projector: Projector | None) -> BatchDescriber:
    """Make the function that turns decoded images of a plan into rows; boxes require a projector."""

    def describe(images: Sequence[int], pixels: npt.NDArray[np.uint8], scale: int) -> Iterator[Rows]:
        rows = [np.arange(*plan.rows[image].tolist()) for image in images]
        if plan.boxes is None or projector is None:
            descriptors, wait = describer.describe_images(pixels)
            for i, image in enumerate(images):
                yield Rows(image, rows[i], descriptors[i : i + 1], wait=wait)
            return
        boxes = []
        for image, own in zip(images, rows, strict=True):
            here, (height, width) = own[plan.boxes.scale[own] == scale], plan.image_hw[image].tolist()
            mirrored = plan.boxes.mirrored[here]
            boxes.append(ImageBoxes(image, here, plan.boxes.boxes_px[here], mirrored, (height, width)))
        yield from describer.describe_boxes(pixels, boxes, projector)

    return describe
