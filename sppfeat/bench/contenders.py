"""The loop that everyone writes: what an extraction is measured against."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from sppfeat.config.specs import DescriptorSpec
from sppfeat.networks.backbones import Backbone

__all__ = ["PlainLoop"]


class PlainLoop:
    """Pillow, one image at a time, float32 as ``(1, 3, H, W)`` in memory, the network as it is, adaptive pooling.

    Args:
        backbone: the network, not folded or converted, and what its input must look like; moved to ``device``.
        descriptor: pyramid and pooling.
        device: where to compute.
    """

    def __init__(self, backbone: Backbone, *, descriptor: DescriptorSpec, device: torch.device) -> None:
        self._network = backbone.network.eval().to(device)
        self._backbone = backbone
        self._descriptor = descriptor
        self._device = device
        self._mean = torch.tensor(backbone.spec.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(backbone.spec.std, device=device).view(3, 1, 1)

    def run(self, images: Iterable[tuple[bytes, tuple[int, int]]]) -> npt.NDArray[np.float32]:
        """Descriptors, ``(N, D)``, of files at the given heights and widths of the network input."""
        rows = []
        with torch.inference_mode():
            for path, input_hw in images:
                maps = self._backbone.maps(self._network, self._input(path, input_hw)[None])
                pool = F.adaptive_max_pool2d if self._descriptor.pool == "max" else F.adaptive_avg_pool2d
                blocks = [pool(fmap, n).flatten(1) for fmap in maps for n in self._descriptor.levels]
                rows.append(torch.cat(blocks, 1).cpu().numpy())
        return np.concatenate(rows)

    def _input(self, path: bytes, input_hw: tuple[int, int]) -> torch.Tensor:
        height, width = input_hw
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        resample = Image.Resampling[self._backbone.spec.interpolation.upper()]
        pixels = torch.from_numpy(np.array(image.resize((width, height), resample)))
        tensor = pixels.permute(2, 0, 1).contiguous().to(self._device).float() / 255
        return (tensor - self._mean) / self._std
