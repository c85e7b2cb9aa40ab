"""The contenders to compare: a whole run, the network alone, and a plain loop over images."""

import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from sppfeat.bench.conditions import synchronizer
from sppfeat.config.request import ExtractRequest
from sppfeat.config.specs import DescriptorSpec
from sppfeat.extraction.describe import Describer
from sppfeat.extraction.run import prepare
from sppfeat.networks.backbones import Backbone

__all__ = ["BareNetwork", "PlainLoop", "WholeRun"]

_TENSOR_NBYTES = 256 << 20  # maximum size of the network inputs to put on the device before each measurement
_INPUT_ITEMSIZE = 4  # float32


class PlainLoop:
    """The loop that most people write: Pillow, one image at a time, float32, the unmodified network, adaptive pooling.

    Args:
        backbone: the network, neither folded nor converted; moved to ``device``.
        descriptor: pyramid and pooling.
        device: device to run the network on.
    """

    def __init__(self, backbone: Backbone, *, descriptor: DescriptorSpec, device: torch.device) -> None:
        self._network = backbone.network.eval().to(device)
        self._backbone = backbone
        self._descriptor = descriptor
        self._device = device
        self._mean = torch.tensor(backbone.spec.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(backbone.spec.std, device=device).view(3, 1, 1)

    def run(self, images: Iterable[tuple[bytes, tuple[int, int]]]) -> npt.NDArray[np.float32]:
        """Descriptors ``(N, D)`` of image files, each given with height and width of its network input in pixels."""
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


class WholeRun:
    """A whole extraction, with its own network, workers and file.

    Args:
        request: the request for the extraction.
        folder: folder for the file, which is deleted after each run.

    Attributes:
        n_workers: number of decoding processes of the last run.
        n_failed: number of images that failed in the last run.
    """

    def __init__(self, request: ExtractRequest, folder: Path) -> None:
        self._request = dataclasses.replace(request, output=folder / "features.h5")
        self._folder = folder
        self.n_workers = 0
        self.n_failed = 0

    def run(self) -> dict[str, float]:
        """Runs once; returns seconds of ``prepare`` (before the first image) and ``extract`` (all the rest)."""
        self._folder.mkdir(exist_ok=True)
        try:
            start = time.perf_counter()
            with prepare(self._request) as extraction:
                self.n_workers = extraction.n_workers
                prepared = time.perf_counter()
                self.n_failed = extraction.run().n_failed
                end = time.perf_counter()
        finally:
            for path in self._folder.iterdir():
                path.unlink()
        return {"prepare": prepared - start, "extract": end - prepared}


class BareNetwork:
    """The network alone, on batches that are already on the device.

    Args:
        describer: the network with its pooling.
        batches: uint8 RGB pixels, each batch ``(N, H, W, 3)``.
    """

    def __init__(self, describer: Describer, batches: list[npt.NDArray[np.uint8]]) -> None:
        self._describer = describer
        self._synchronize = synchronizer(describer.device)
        self._groups: list[list[npt.NDArray[np.uint8]]] = []
        room = 0
        for pixels in batches:
            nbytes = pixels.size * _INPUT_ITEMSIZE
            if nbytes > room:
                self._groups.append([])
                room = _TENSOR_NBYTES
            self._groups[-1].append(pixels)
            room -= nbytes

    def run(self) -> dict[str, float]:
        """Runs once; returns seconds of ``forward``, the network on all batches."""
        seconds = 0.0
        for group in self._groups:
            tensors = [self._describer.make_batch(pixels) for pixels in group]
            self._synchronize()
            start = time.perf_counter()
            for tensor in tensors:
                self._describer.compute_maps(tensor)
            self._synchronize()
            seconds += time.perf_counter() - start
        return {"forward": seconds}
