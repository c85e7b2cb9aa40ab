"""Batches of pixels in, descriptors out: normalise, one forward pass, pool, scale."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from sppfeat.config.specs import DescriptorSpec
from sppfeat.errors import ConfigError
from sppfeat.extraction.regions import Projector, Regions
from sppfeat.networks.acceleration import CompiledNetwork
from sppfeat.networks.backbones import Backbone
from sppfeat.networks.devices import Delivery, DeviceCopier, device_memory, float32_arithmetic
from sppfeat.pooling.bin_tables import allocate
from sppfeat.pyramid import normalize_descriptors, pool_regions, spatial_pyramid_pool

__all__ = [
    "DescribedRegions",
    "Describer",
    "RegionRequest",
]

_SLICE_VALUES = 16 << 20  # pooled values of boxes at once: 64 MB, whatever the number of boxes
# Pooled values that are scaled at once: so few that a processor keeps them in its cache, and that their memory
# is used again and again, where fresh memory takes longer than the arithmetic.
_SCALED_VALUES = {"cpu": 1 << 20, "cuda": 1 << 28, "mps": 1 << 28}
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class RegionRequest(NamedTuple):
    """Boxes of one image.

    Attributes:
        boxes_px: ``(K, 4)`` float64, xyxy edges in pixels of the image, clipped to it.
        mirrored: ``(K,)`` bool, whether to pool from the mirror image.
        image_hw: height and width of the image, in pixels.
    """

    boxes_px: Tensor
    mirrored: Tensor
    image_hw: tuple[int, int]


class DescribedRegions(NamedTuple):
    """Some boxes of one request.

    Attributes:
        position: of the request.
        boxes: which of its boxes.
        descriptors: ``(k, D)`` float32.
        regions: their cells.
        arrived: waits until the descriptors are there; to be called before they are read.
    """

    position: int
    boxes: slice
    descriptors: npt.NDArray[np.float32]
    regions: Regions
    arrived: Callable[[], None]


class Describer:
    """Turns batches of equal-sized images into descriptors.

    Args:
        backbone: the network and what its input must look like; moved to ``device`` and converted.
        descriptor: pyramid, pooling and scaling.
        flip: average with the mirror image's descriptor, bin by bin.
        precision: ``fp32`` (TF32 and other shortcuts off), ``tf32``, ``bf16`` or ``fp16``.
        device: where to compute.
        norm_factors: what ``meannorm`` multiplies each layer's part with.
        compile_network: whether torch is to compile the network.

    Raises:
        DeviceMemoryError: the network does not fit the device; later, a batch does not.
    """

    def __init__(
        self,
        backbone: Backbone,
        descriptor: DescriptorSpec,
        *,
        flip: bool,
        precision: str,
        device: torch.device,
        norm_factors: Sequence[float] | None = None,
        compile_network: bool = False,
    ) -> None:
        self.device = device
        self._backbone = backbone
        self._descriptor = descriptor
        self._flip = flip
        self._precision = precision
        self._dtype = _DTYPES[precision]
        self._factors = norm_factors
        self._copier = DeviceCopier(device)
        with device_memory(device):
            network = backbone.network.eval().to(device, self._dtype)
            network = network.to(memory_format=torch.channels_last)
            self._network = CompiledNetwork(network) if compile_network else network
            self._head = backbone.head.network.to(device, self._dtype) if backbone.head else None
            self._mean = torch.tensor(backbone.spec.mean, device=device).reshape(1, 3, 1, 1)
            self._std = torch.tensor(backbone.spec.std, device=device).reshape(1, 3, 1, 1)

    def images(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Descriptors of whole images.

        Args:
            pixels: ``(N, H, W, 3)`` uint8 RGB.

        Returns:
            ``(N, D)`` float32.
        """
        delivery = self.deliver_images(pixels)
        delivery.arrived()
        return delivery.values

    def deliver_images(self, pixels: npt.NDArray[np.uint8]) -> Delivery:
        """As :meth:`images`, without waiting for the device."""
        with self._computing():
            batch = self._batch(pixels)
            blocks = self._pool_whole(self._maps(batch))
            if self._flip:
                blocks = _mean_of(blocks, self._pool_whole(self._maps(_mirror(batch))))
            return self._scaled(blocks)

    def regions(
        self, pixels: npt.NDArray[np.uint8], requests: Sequence[RegionRequest], projector: Projector
    ) -> Iterator[DescribedRegions]:
        """Descriptors of boxes, from one forward pass of each image.

        Args:
            pixels: ``(N, H, W, 3)`` uint8 RGB.
            requests: ``N``, the boxes of each image.
            projector: how boxes become regions.

        Yields:
            All boxes of each image, in order, in pieces of bounded size.
        """
        for described in self.deliver_regions(pixels, requests, projector):
            described.arrived()
            yield described

    def deliver_regions(
        self, pixels: npt.NDArray[np.uint8], requests: Sequence[RegionRequest], projector: Projector
    ) -> Iterator[DescribedRegions]:
        """As :meth:`regions`, without waiting for the device."""
        if not any(len(request.boxes_px) for request in requests):
            return
        maps = self._both_maps(pixels, requests)
        project = partial(projector.regions, input_hw=pixels.shape[1:3], map_hws=maps.map_hws)
        step = max(1, _SLICE_VALUES // (maps.n_channels * self._descriptor.n_bins))
        for position, (boxes_px, mirrored, image_hw) in enumerate(requests):
            for start in range(0, len(boxes_px), step):
                part = slice(start, min(start + step, len(boxes_px)))
                regions = project(boxes_px[part], mirrored[part], image_hw=image_hw)
                # No context may stay open across a yield: both are switches of the whole thread.
                with self._computing():
                    blocks = self._pool(maps, position, regions.cells, mirrored[part])
                    if self._flip:
                        others = project(boxes_px[part], ~mirrored[part], image_hw=image_hw).cells
                        blocks = _mean_of(blocks, self._pool(maps, position, others, ~mirrored[part]))
                    delivery = self._scaled(blocks)
                yield DescribedRegions(position, part, delivery.values, regions, delivery.arrived)

    def batch(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Network input: ``(N, 3, H, W)`` float32 on the device, normalised, of ``(N, H, W, 3)`` uint8 RGB."""
        with self._computing():
            return self._batch(pixels)

    def maps(self, batch: Tensor) -> list[Tensor]:
        """Feature maps of the layers, each ``(N, C, H', W')`` float32, of what :meth:`batch` gave."""
        with self._computing():
            return self._maps(batch)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """What holds while tensors are computed with."""
        with device_memory(self.device), torch.inference_mode(), float32_arithmetic(self._precision):
            yield

    def _both_maps(self, pixels: npt.NDArray[np.uint8], requests: Sequence[RegionRequest]) -> "_BothMaps":
        """Maps of the images and of their mirror images, as far as they are needed."""
        with self._computing():
            batch = self._batch(pixels)
            plain = self._flip or any(bool((~request.mirrored).any()) for request in requests)
            mirrored = self._flip or any(bool(request.mirrored.any()) for request in requests)
            return _BothMaps(
                plain=self._maps(batch) if plain else [],
                mirrored=self._maps(_mirror(batch)) if mirrored else [],
            )

    def _pool_whole(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Blocks of whole maps."""
        spec = self._descriptor
        return self._blocks([spatial_pyramid_pool(fmap, spec.levels, mode=spec.pool) for fmap in maps])

    def _pool(self, maps: "_BothMaps", position: int, cells: Tensor, mirrored: Tensor) -> list[Tensor]:
        """Blocks of the regions of an image, each from its map or its mirror image's."""
        if not bool(mirrored.any()):
            return self._pool_regions(maps.plain, position, cells)
        if bool(mirrored.all()):
            return self._pool_regions(maps.mirrored, position, cells)
        plain = self._pool_regions(maps.plain, position, cells[~mirrored])
        other = self._pool_regions(maps.mirrored, position, cells[mirrored])
        where = mirrored.to(self.device)
        result = []
        for a, b in zip(plain, other, strict=True):
            block = a.new_empty(len(cells), a.shape[1])
            block[~where], block[where] = a, b
            result.append(block)
        return result

    def _pool_regions(self, maps: Sequence[Tensor], position: int, cells: Tensor) -> list[Tensor]:
        spec = self._descriptor
        pooled = []
        for i, fmap in enumerate(maps):
            regions = F.pad(cells[:, i], (1, 0), value=position).to(fmap.device)
            pooled.append(pool_regions(fmap, regions, spec.levels, mode=spec.pool))
        return self._blocks(pooled)

    def _blocks(self, pooled: list[Tensor]) -> list[Tensor]:
        """What is scaled: the pooled layers, or what the head makes of the one."""
        if self._head is None:
            return pooled
        return [self._head(pooled[0].to(self._dtype)).to(torch.float32)]

    def _scaled(self, blocks: list[Tensor]) -> Delivery:
        """The blocks beside each other, each scaled by itself."""
        spec = self._descriptor
        if spec.mean_norm is not None and self._factors is None:
            raise ConfigError(f"normalize is {spec.normalize!r}, but its factors are not known")
        if spec.normalize == "none" and len(blocks) == 1:
            return self._copier.to_host(blocks[0])
        widths = [block.shape[1] for block in blocks]
        scaled = allocate((len(blocks[0]), sum(widths)), blocks[0])
        for i, (block, place) in enumerate(zip(blocks, torch.split(scaled, widths, dim=1), strict=True)):
            step = max(1, _SCALED_VALUES[self.device.type] // max(1, block.shape[1]))
            for rows, target in zip(torch.split(block, step), torch.split(place, step), strict=True):
                if self._factors is not None:
                    torch.mul(rows, self._factors[i], out=target)
                else:
                    target.copy_(normalize_descriptors(rows, spec.normalize))
        return self._copier.to_host(scaled)

    def _batch(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        # (N, H, W, 3) seen as (N, 3, H, W) is channels-last in memory as it lies.
        raw = self._copier.to_device(pixels).permute(0, 3, 1, 2)
        return raw.to(torch.float32).div_(255.0).sub_(self._mean).div_(self._std)

    def _maps(self, batch: Tensor) -> list[Tensor]:
        """Feature maps of the layers, in float32: pooling and scaling are never done in less."""
        return [fmap.to(torch.float32) for fmap in self._backbone.maps(self._network, batch.to(self._dtype))]


class _BothMaps(NamedTuple):
    """Maps of the layers of some images, and of their mirror images; either may be missing."""

    plain: list[Tensor]
    mirrored: list[Tensor]

    @property
    def map_hws(self) -> list[tuple[int, int]]:
        """Height and width of each layer's map."""
        return [(fmap.shape[2], fmap.shape[3]) for fmap in self.plain or self.mirrored]

    @property
    def n_channels(self) -> int:
        """Of all layers."""
        return sum(fmap.shape[1] for fmap in self.plain or self.mirrored)


def _mean_of(blocks: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    return [(a + b) / 2 for a, b in zip(blocks, others, strict=True)]


def _mirror(batch: Tensor) -> Tensor:
    return batch.flip(-1).contiguous(memory_format=torch.channels_last)
