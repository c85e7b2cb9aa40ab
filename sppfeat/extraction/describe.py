"""Turns batches of pixels into descriptors: normalize, run the network once, pool, scale."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from sppfeat.boxes.coordinates import clip_boxes
from sppfeat.config.specs import DescriptorSpec
from sppfeat.errors import ConfigError
from sppfeat.extraction.regions import Projector, Regions
from sppfeat.networks.acceleration import CompiledNetwork
from sppfeat.networks.backbones import Backbone
from sppfeat.networks.devices import Delivery, DeviceCopier, device_memory, float32_arithmetic
from sppfeat.pooling.bin_tables import empty_tensor
from sppfeat.pyramid import normalize_descriptors, pool_regions, spatial_pyramid_pool

__all__ = [
    "DescribedRegions",
    "Describer",
    "RegionRequest",
]

_SLICE_VALUES = 16 << 20  # pooled values held at a time: 64 MB, whatever the number of boxes
# Pooled values to scale at a time. On the CPU few enough to stay in its cache and to reuse the same memory: allocating
# new memory takes longer than the arithmetic.
_SCALED_VALUES = {"cpu": 1 << 20, "cuda": 1 << 28, "mps": 1 << 28}
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class RegionRequest(NamedTuple):
    """Boxes of one image to describe; :meth:`of` clips them.

    Attributes:
        boxes_px: ``(K, 4)`` float64, ``xyxy`` edges in pixels of the image as displayed, clipped to it.
        mirrored: ``(K,)`` bool, True to pool from the mirrored image.
        image_hw: height and width of the image as displayed, in pixels.
    """

    boxes_px: Tensor
    mirrored: Tensor
    image_hw: tuple[int, int]

    @classmethod
    def of(
        cls, boxes_px: npt.NDArray[np.float64], mirrored: npt.NDArray[np.bool_], image_hw: tuple[int, int]
    ) -> "RegionRequest":
        """Make a request, clipping the boxes ``(K, 4)`` to their image."""
        row_hw = np.full((len(boxes_px), 2), image_hw, dtype=np.int32)
        clipped, _ = clip_boxes(boxes_px, row_hw)
        return cls(torch.from_numpy(clipped), torch.from_numpy(mirrored), image_hw)


class DescribedRegions(NamedTuple):
    """Descriptors of some of the boxes of one request.

    Attributes:
        position: index of the request in the batch.
        boxes: range of the boxes within the request.
        descriptors: ``(k, D)`` float32.
        regions: the pooled regions of these boxes, in cells.
        wait: blocks until the device has delivered the descriptors; call it before reading them.
    """

    position: int
    boxes: slice
    descriptors: npt.NDArray[np.float32]
    regions: Regions
    wait: Callable[[], None]


class Describer:
    """Computes the descriptors of batches of equal-sized images.

    Args:
        backbone: the network, which is moved to ``device`` and converted, and its input mean and deviation.
        descriptor: pyramid, pooling and normalization.
        flip: True to average each descriptor, bin by bin, with that of the mirrored image.
        precision: ``fp32`` (TF32 and other shortcuts off), ``tf32``, ``bf16`` or ``fp16``.
        device: device to compute on.
        norm_factors: factor of each layer under ``meannorm``.
        compile_network: True to compile the network with torch.

    Raises:
        DeviceMemoryError: the network does not fit on the device. The methods raise it for a batch that does not fit.
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

    def describe_images(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Compute the descriptors of whole images.

        Args:
            pixels: ``(N, H, W, 3)`` uint8 RGB.

        Returns:
            ``(N, D)`` float32.
        """
        delivery = self.deliver_images(pixels)
        delivery.wait()
        return delivery.values

    def deliver_images(self, pixels: npt.NDArray[np.uint8]) -> Delivery:
        """Compute the same as :meth:`describe_images`, without waiting for the device."""
        with self._computing():
            batch = self._normalize_pixels(pixels)
            pooled = self._pool_whole(self._run_network(batch))
            if self._flip:
                pooled = _average(pooled, self._pool_whole(self._run_network(_mirror(batch))))
            return self._scale(pooled)

    def describe_regions(
        self, pixels: npt.NDArray[np.uint8], requests: Sequence[RegionRequest], projector: Projector
    ) -> Iterator[DescribedRegions]:
        """Compute the descriptors of boxes, in one forward pass, or two if mirrored images are needed.

        Args:
            pixels: ``(N, H, W, 3)`` uint8 RGB.
            requests: one request per image, ``N`` in all, with the boxes of the image.
            projector: projects boxes to cells.

        Yields:
            Descriptors of all boxes, image by image in order, in pieces of bounded size.
        """
        for described in self.deliver_regions(pixels, requests, projector):
            described.wait()
            yield described

    def deliver_regions(
        self, pixels: npt.NDArray[np.uint8], requests: Sequence[RegionRequest], projector: Projector
    ) -> Iterator[DescribedRegions]:
        """Compute the same as :meth:`describe_regions`, without waiting for the device."""
        if not any(len(request.boxes_px) for request in requests):
            return
        maps = self._compute_both_maps(pixels, requests)
        project = partial(projector.project, input_hw=pixels.shape[1:3], map_hws=maps.map_hws)
        step = max(1, _SLICE_VALUES // (maps.n_channels * self._descriptor.n_bins))
        for position, (boxes_px, mirrored, image_hw) in enumerate(requests):
            for start in range(0, len(boxes_px), step):
                part = slice(start, min(start + step, len(boxes_px)))
                regions = project(boxes_px[part], mirrored[part], image_hw=image_hw)
                # No context may stay open across a yield: these are settings of the whole thread.
                with self._computing():
                    pooled = self._pool(maps, position, regions.cells, mirrored[part])
                    if self._flip:
                        others = project(boxes_px[part], ~mirrored[part], image_hw=image_hw).cells
                        pooled = _average(pooled, self._pool(maps, position, others, ~mirrored[part]))
                    delivery = self._scale(pooled)
                yield DescribedRegions(position, part, delivery.values, regions, delivery.wait)

    def make_batch(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Turn ``(N, H, W, 3)`` uint8 RGB into network input: ``(N, 3, H, W)``, normalized, on the device."""
        with self._computing():
            return self._normalize_pixels(pixels)

    def compute_maps(self, batch: Tensor) -> list[Tensor]:
        """Compute each layer's feature map, ``(N, C, H', W')`` float32, from the result of :meth:`make_batch`."""
        with self._computing():
            return self._run_network(batch)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """Set inference mode and precision, and report a lack of device memory."""
        with device_memory(self.device), torch.inference_mode(), float32_arithmetic(self._precision):
            yield

    def _compute_both_maps(
        self, pixels: npt.NDArray[np.uint8], requests: Sequence[RegionRequest]
    ) -> "_BothMaps":
        """Compute the maps of the images and of the mirrored images, if the requests need them."""
        with self._computing():
            batch = self._normalize_pixels(pixels)
            plain = self._flip or any(bool((~request.mirrored).any()) for request in requests)
            mirrored = self._flip or any(bool(request.mirrored.any()) for request in requests)
            return _BothMaps(
                plain=self._run_network(batch) if plain else [],
                mirrored=self._run_network(_mirror(batch)) if mirrored else [],
            )

    def _pool_whole(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Pool whole maps into one ``(N, d)`` tensor per layer, or into the head's output."""
        spec = self._descriptor
        return self._apply_head([spatial_pyramid_pool(fmap, spec.levels, mode=spec.pool) for fmap in maps])

    def _pool(self, maps: "_BothMaps", position: int, cells: Tensor, mirrored: Tensor) -> list[Tensor]:
        """Pool the regions ``(k, L, 4)`` of one image, each from the plain or the mirrored map."""
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
        return self._apply_head(pooled)

    def _apply_head(self, pooled: list[Tensor]) -> list[Tensor]:
        """Apply the head, if any, to the only pooled layer."""
        if self._head is None:
            return pooled
        return [self._head(pooled[0].to(self._dtype)).to(torch.float32)]

    def _scale(self, layers: list[Tensor]) -> Delivery:
        """Scale each layer separately, and concatenate the layers."""
        spec = self._descriptor
        if spec.mean_norm is not None and self._factors is None:
            raise ConfigError(f"normalize is {spec.normalize!r}, but its factors are not known")
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

    def _normalize_pixels(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        # Permuting (N, H, W, 3) gives a channels-last (N, 3, H, W) without a copy.
        raw = self._copier.to_device(pixels).permute(0, 3, 1, 2)
        return raw.to(torch.float32).div_(255.0).sub_(self._mean).div_(self._std)

    def _run_network(self, batch: Tensor) -> list[Tensor]:
        """Compute the feature maps, converted to float32: pooling and scaling never use less precision."""
        return [fmap.to(torch.float32) for fmap in self._backbone.maps(self._network, batch.to(self._dtype))]


class _BothMaps(NamedTuple):
    """Feature maps, by layer, of some images and of the mirrored images; either list may be empty."""

    plain: list[Tensor]
    mirrored: list[Tensor]

    @property
    def map_hws(self) -> list[tuple[int, int]]:
        """Height and width of each layer's map, in cells."""
        return [(fmap.shape[2], fmap.shape[3]) for fmap in self.plain or self.mirrored]

    @property
    def n_channels(self) -> int:
        """Number of channels of all layers together."""
        return sum(fmap.shape[1] for fmap in self.plain or self.mirrored)


def _average(pooled: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    return [(a + b) / 2 for a, b in zip(pooled, others, strict=True)]


def _mirror(batch: Tensor) -> Tensor:
    return batch.flip(-1).contiguous(memory_format=torch.channels_last)
