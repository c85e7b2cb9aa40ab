"""Batches of pixels in, descriptors out: normalise, one forward pass, pool, scale."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppfeat.backbones import Backbone
from sppfeat.config import DescriptorSpec
from sppfeat.errors import ConfigError
from sppfeat.geometry import project_boxes
from sppfeat.pyramid import normalize_descriptors, pool_regions, spatial_pyramid_pool

__all__ = ["BATCH_PIXELS", "Describer", "choose_device", "device_name"]

# Network-input pixels per batch. Two CPU cores gain nothing from more than some 8 images of 224 x 300;
# a GPU wants more to be busy.
BATCH_PIXELS = {"cpu": 8 * 224 * 300, "cuda": 64 * 224 * 300, "mps": 16 * 224 * 300}
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(device: str, precision: str) -> torch.device:
    """The device that a setting means on this machine.

    Args:
        device: ``auto`` (CUDA if there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: what it must be able to do.

    Raises:
        ConfigError: a device that this machine or this torch does not have, or that lacks the precision.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= n_devices:
            raise ConfigError(
                f"device is {device!r}, but torch {torch.__version__} sees {n_devices} CUDA devices here"
            )
        if precision == "tf32" and torch.cuda.get_device_capability(chosen) < (8, 0):
            raise ConfigError(f"precision is 'tf32', but {torch.cuda.get_device_name(chosen)} has no TF32")
    elif chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device is 'mps', but torch {torch.__version__} finds no Metal device here")
    if precision == "tf32" and chosen.type != "cuda":
        raise ConfigError(f"precision is 'tf32', which is for CUDA devices; the device is {chosen.type!r}")
    return chosen


def device_name(device: torch.device) -> str:
    """A device as people know it, such as ``cuda:0 (NVIDIA A100)``."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


class Describer:
    """Turns batches of equal-sized images into descriptors.

    Args:
        backbone: the network and what its input must look like; moved to ``device`` and converted.
        descriptor: pyramid, pooling and scaling.
        flip: average with the mirror image's descriptor, bin by bin.
        precision: ``fp32`` (TF32 and other shortcuts off), ``tf32``, ``bf16`` or ``fp16``.
        device: where to compute.
    """

    def __init__(
        self,
        backbone: Backbone,
        descriptor: DescriptorSpec,
        *,
        flip: bool,
        precision: str,
        device: torch.device,
    ) -> None:
        self.device = device
        self._backbone = backbone
        self._descriptor = descriptor
        self._flip = flip
        self._precision = precision
        self._dtype = _DTYPES[precision]
        self._network = backbone.network.eval().to(device, self._dtype).to(memory_format=torch.channels_last)
        self._mean = torch.tensor(backbone.spec.mean, device=device).reshape(1, 3, 1, 1)
        self._std = torch.tensor(backbone.spec.std, device=device).reshape(1, 3, 1, 1)

    def images(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Descriptors of whole images.

        Args:
            pixels: ``(N, H, W, 3)`` uint8 RGB.

        Returns:
            ``(N, D)`` float32.
        """

        def pool(maps: Sequence[Tensor], mirrored: bool) -> list[Tensor]:  # noqa: ARG001
            spec = self._descriptor
            return [spatial_pyramid_pool(fmap, spec.levels, mode=spec.pool) for fmap in maps]

        return self._describe(pixels, pool)

    def boxes(
        self, pixels: npt.NDArray[np.uint8], boxes_in: Tensor, *, rule: str, margin: float
    ) -> npt.NDArray[np.float32]:
        """Descriptors of boxes of one image.

        Args:
            pixels: ``(1, H, W, 3)`` uint8 RGB.
            boxes_in: ``(K, 4)`` float64 ``xyxy``, edges in pixels of the network input.
            rule: how boxes become cells, see :func:`sppfeat.geometry.project_boxes`.
            margin: network-input pixels by which each box is tightened on each side.

        Returns:
            ``(K, D)`` float32.
        """
        width = pixels.shape[2]

        def pool(maps: Sequence[Tensor], mirrored: bool) -> list[Tensor]:
            boxes = boxes_in
            if mirrored:
                boxes = torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), 1)
            return [self._pool_boxes(i, fmap, boxes, rule, margin) for i, fmap in enumerate(maps)]

        return self._describe(pixels, pool)

    def _pool_boxes(self, layer: int, fmap: Tensor, boxes_in: Tensor, rule: str, margin: float) -> Tensor:
        geometry = self._backbone.geometry(layer)
        height, width = fmap.shape[-2:]
        cells = project_boxes(boxes_in, geometry, (height, width), rule=rule, margin=margin)
        regions = torch.cat((torch.zeros_like(cells[:, :1]), cells), 1).to(fmap.device)
        return pool_regions(fmap, regions, self._descriptor.levels, mode=self._descriptor.pool)

    def _describe(self, pixels: npt.NDArray[np.uint8], pool: Any) -> npt.NDArray[np.float32]:
        with torch.inference_mode(), _float32_arithmetic(self._precision):
            # (N, H, W, 3) seen as (N, 3, H, W) is channels-last in memory as it lies.
            writable = pixels if pixels.flags.writeable else pixels.copy()
            raw = torch.from_numpy(writable).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            batch = raw.to(torch.float32).div_(255.0).sub_(self._mean).div_(self._std)
            blocks = pool(self._maps(batch), False)
            if self._flip:
                mirrored = pool(
                    self._maps(batch.flip(-1).contiguous(memory_format=torch.channels_last)), True
                )
                blocks = [(a + b) / 2 for a, b in zip(blocks, mirrored, strict=True)]
            scaled = [normalize_descriptors(block, self._descriptor.normalize) for block in blocks]
            result: npt.NDArray[np.float32] = torch.cat(scaled, 1).cpu().numpy()
            return result

    def _maps(self, batch: Tensor) -> list[Tensor]:
        """Feature maps of the layers, in float32: pooling and scaling are never done in less."""
        return [fmap.to(torch.float32) for fmap in self._backbone.maps(self._network, batch.to(self._dtype))]


@contextlib.contextmanager
def _float32_arithmetic(precision: str) -> Iterator[None]:
    """Float32 means float32: no TF32 or bfloat16 inside matrix products unless asked for; restored after."""
    backends: Any = torch.backends
    switches = (
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.cuda.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.matmul,
    )
    before = [switch.fp32_precision for switch in switches]
    cuda = "tf32" if precision == "tf32" else "ieee"
    try:
        for switch, value in zip(switches, (cuda, cuda, cuda, "ieee", "ieee"), strict=True):
            switch.fp32_precision = value
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
