"""The stages of a run, one after the other in this process, each with its own time."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppfeat.bench.timing import synchronize
from sppfeat.decoding import Batch
from sppfeat.decoding.images import read_image, resize_image
from sppfeat.extraction.part import Part
from sppfeat.extraction.plan import schedule
from sppfeat.pyramid import spatial_pyramid_pool
from sppfeat.store.layout import Provenance, create_file
from sppfeat.store.writer import FeatureWriter

__all__ = ["DECODE_STAGES", "NETWORK_STAGES", "STAGES", "WRITE_STAGES", "Stages", "find_bound"]

DECODE_STAGES = ("read", "decode", "resize")
NETWORK_STAGES = ("transfer", "backbone", "pool")
WRITE_STAGES = ("write",)
STAGES = (*DECODE_STAGES, *NETWORK_STAGES, *WRITE_STAGES)


class Stages:
    """An extraction of whole images whose stages run one after the other.

    ``read`` reads the image file; ``decode`` decodes it to upright RGB (and reads it again, from the system's cache);
    ``resize`` scales the pixels to the network input and copies them into the batch; ``transfer`` copies the batch to
    the device and normalizes it; ``backbone`` computes feature maps; ``pool`` computes descriptors in memory; ``write``
    writes them to a file and flushes it to disk.

    Args:
        part: the planned run.
        output: the file to write.

    Attributes:
        batches: batches of the run.
        describer: the network with its pooling.
    """

    def __init__(self, part: Part, output: Path) -> None:
        run, options = part.run, part.run.request.run
        self._config, self._plan, self._output = run.config, part.plan, output
        self._max_decode_pixels = options.max_decode_pixels
        self._wait = partial(synchronize, run.device)
        self.batches: list[Batch] = list(
            schedule(
                self._plan.input_hw,
                np.arange(self._plan.n_images),
                batch_size=options.batch_size,
                batch_pixels=run.batch_pixels,
            )
        )
        self.describer = run.make_describer(None)
        create_file(output, self._plan, self._config, run.columns, provenance=Provenance())

    def run(self) -> dict[str, float]:
        """Runs all stages on all batches once, and returns the seconds of each stage by name."""
        seconds = dict.fromkeys(STAGES, 0.0)
        last = time.perf_counter()

        def add(stage: str) -> None:
            nonlocal last
            now = time.perf_counter()
            seconds[stage] += now - last
            last = now

        with contextlib.closing(FeatureWriter(self._output)) as writer:
            for batch in self.batches:
                pixels = self.pixels(batch, add)
                tensor = self.describer.make_batch(pixels)
                self._wait()
                add("transfer")
                maps = self.describer.compute_maps(tensor)
                self._wait()
                add("backbone")
                descriptors = self._pool(maps)
                add("pool")
                for row, image in enumerate(batch.images):
                    own = np.arange(*self._plan.rows[image].tolist(), dtype=np.int64)
                    writer.write_rows(own, descriptors[row : row + 1])
                    writer.mark_done(image)
                add("write")
            writer.sync()
            add("write")
        return seconds

    def pixels(
        self, batch: Batch, on_stage: Callable[[str], None] = lambda stage: None
    ) -> npt.NDArray[np.uint8]:
        """Decodes a batch to ``(N, H, W, 3)`` uint8; calls ``on_stage`` after each stage of each image."""
        pixels = np.empty((len(batch.images), *batch.input_hw, 3), dtype=np.uint8)
        exif, resample = self._config.input.exif, self._config.backbone.interpolation
        for i, path in enumerate(self.paths(batch)):
            Path(os.fsdecode(path)).read_bytes()
            on_stage("read")
            image = read_image(path, exif=exif, max_pixels=self._max_decode_pixels)
            on_stage("decode")
            pixels[i] = resize_image(image, input_hw=batch.input_hw, resample=resample)
            on_stage("resize")
        return pixels

    def paths(self, batch: Batch) -> list[bytes]:
        """Paths of the images of a batch."""
        return [os.path.join(self._plan.root, self._plan.paths[i]) for i in batch.images]

    def _pool(self, maps: Sequence[Tensor]) -> npt.NDArray[np.float32]:
        spec = self._config.descriptor
        with torch.inference_mode():
            blocks = [spatial_pyramid_pool(fmap, spec.levels, mode=spec.pool) for fmap in maps]
            descriptors: npt.NDArray[np.float32] = torch.cat(blocks, 1).cpu().numpy()
        return descriptors


def find_bound(seconds: dict[str, float], n_workers: int) -> str:
    """Finds the stage that limits a run, from the seconds of each stage measured separately.

    Decoding (by ``n_workers`` processes), network and writing overlap, so the slowest of the three limits the run; the
    result is its longest stage. If nothing overlaps (``n_workers`` is 0), the result is the longest of all stages.

    Example:
        >>> seconds = dict(read=0, decode=3, resize=2, transfer=0, backbone=4, pool=0, write=0)
        >>> find_bound(seconds, n_workers=1), find_bound(seconds, n_workers=2)
        ('decode', 'backbone')
    """
    if n_workers == 0:
        return max(STAGES, key=seconds.__getitem__)
    lanes: list[tuple[float, tuple[str, ...]]] = [
        (sum(seconds[stage] for stage in lane) / n, lane)
        for lane, n in ((DECODE_STAGES, n_workers), (NETWORK_STAGES, 1), (WRITE_STAGES, 1))
    ]
    return max(max(lanes)[1], key=seconds.__getitem__)
