"""Time of an extraction by stage and as a whole, compared with the bare network and with a plain loop."""

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from sppfeat.bench.samples import choose_images, write_photos
from sppfeat.bench.timing import (
    Conditions,
    Pass,
    Timing,
    counted_passes,
    describe_conditions,
    interleave,
    synchronize,
    timed,
)
from sppfeat.config.request import Request, make_request
from sppfeat.config.specs import DescriptorSpec
from sppfeat.decoding import Batch
from sppfeat.decoding.images import read_image, resize_image
from sppfeat.errors import ImageError
from sppfeat.extraction.describe import Describer
from sppfeat.extraction.extract import open_part
from sppfeat.extraction.part import Part
from sppfeat.extraction.pipeline import schedule
from sppfeat.extraction.run import load_chosen_backbone
from sppfeat.files.downloads import OnDownload
from sppfeat.networks.backbones import Backbone
from sppfeat.pyramid import spatial_pyramid_pool
from sppfeat.store.layout import create_file
from sppfeat.store.writer import FeatureWriter

__all__ = [
    "DECODE_STAGES",
    "STAGES",
    "ExtractBench",
    "Rate",
    "Stages",
    "WholeRun",
    "bench_extract",
    "find_bound",
    "run_bare_network",
    "run_plain_loop",
]


DECODE_STAGES = ("read", "decode", "resize")
_NETWORK_STAGES = ("transfer", "backbone", "pool")
_WRITE_STAGES = ("write",)
STAGES = (*DECODE_STAGES, *_NETWORK_STAGES, *_WRITE_STAGES)


class Rate(TypedDict):
    """The time of some work on all images.

    Attributes:
        total: time for all images.
        ms_per_image: milliseconds per image.
        images_per_second: images per second.
    """

    total: Timing
    ms_per_image: float
    images_per_second: float


class ExtractBench(Conditions):
    """The result of ``sppfeat bench extract``.

    Attributes:
        images: number of images.
        unreadable: number of images left out, because they cannot be read or run.
        failed: number of images that failed in the run.
        synthetic: true if the images are synthetic photographs.
        input_shapes: number of distinct network-input sizes.
        batches: number of batches.
        workers: number of decoding processes.
        repetitions: number of measurements of each part.
        stages: each stage, measured separately.
        prepare: time before the first image: listing, network and headers.
        extract: the whole run, without ``prepare``.
        forward: the bare network on the same batches, decoded in advance.
        loop: a plain loop with Pillow, one image at a time.
        bound: the stage that limits the run.
        extract_to_forward: time of the run divided by the time of the bare network.
        speedup_over_loop: time of the plain loop divided by the time of the run.
    """

    images: int
    unreadable: int
    failed: int
    synthetic: bool
    input_shapes: int
    batches: int
    workers: int
    repetitions: int
    stages: dict[str, Rate]
    prepare: Timing
    extract: Rate
    forward: Rate
    loop: Rate
    bound: str
    extract_to_forward: float
    speedup_over_loop: float


class Stages:
    """An extraction of whole images whose stages run one after the other.

    ``read`` reads the image file; ``decode`` decodes it to upright RGB (and reads it again, from the system's cache);
    ``resize`` scales the pixels to the network input and copies them into the batch; ``transfer`` copies the batch to
    the device and normalizes it; ``backbone`` computes feature maps; ``pool`` computes descriptors in memory; ``write``
    writes them to a file and flushes it to disk.
    """

    def __init__(self, part: Part, output: Path) -> None:
        run, options = part.run, part.run.request.run
        self._config, self._plan, self._output = run.config, part.plan, output
        self._max_decode_pixels = options.max_decode_pixels
        self._device = run.device
        self.batches: list[Batch] = list(
            schedule(
                self._plan.input_hw,
                np.arange(self._plan.n_images),
                batch_size=options.batch_size,
                batch_pixels=run.batch_pixels,
            )
        )
        self.describer = run.make_describer(None)
        create_file(output, self._plan, self._config, run.columns)

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
                synchronize(self._device)
                add("transfer")
                maps = self.describer.compute_maps(tensor)
                synchronize(self._device)
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
    """
    if n_workers == 0:
        return max(STAGES, key=seconds.__getitem__)
    lanes: list[tuple[float, tuple[str, ...]]] = [
        (sum(seconds[stage] for stage in lane) / n, lane)
        for lane, n in ((DECODE_STAGES, n_workers), (_NETWORK_STAGES, 1), (_WRITE_STAGES, 1))
    ]
    return max(max(lanes)[1], key=seconds.__getitem__)


class WholeRun:
    """A whole extraction, with its own network, workers and file, which is deleted after each run.

    Attributes:
        n_workers: number of decoding processes in the last run.
        n_failed: number of images that failed in the last run.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self.n_workers = 0
        self.n_failed = 0

    def run(self) -> dict[str, float]:
        """Runs once; returns the seconds of ``prepare`` (before the first image) and ``extract`` (the rest)."""
        folder = self._request.output.parent
        folder.mkdir(exist_ok=True)
        start = time.perf_counter()
        with open_part(self._request) as part:
            self.n_workers = part.run.n_workers
            prepared = time.perf_counter()
            self.n_failed = part.fill().n_failed
            end = time.perf_counter()
        for path in folder.iterdir():
            path.unlink()
        return {"prepare": prepared - start, "extract": end - prepared}


def run_bare_network(describer: Describer, batches: Iterable[npt.NDArray[np.uint8]]) -> dict[str, float]:
    """Seconds of ``forward``: the bare network on batches ``(N, H, W, 3)``, without copies to the device."""
    seconds = 0.0
    for pixels in batches:
        batch = describer.make_batch(pixels)
        synchronize(describer.device)
        start = time.perf_counter()
        describer.compute_maps(batch)
        synchronize(describer.device)
        seconds += time.perf_counter() - start
    return {"forward": seconds}


def run_plain_loop(
    backbone: Backbone,
    images: Iterable[tuple[bytes, tuple[int, int]]],
    *,
    descriptor: DescriptorSpec,
    device: torch.device,
) -> npt.NDArray[np.float32]:
    """Descriptors from the loop that most people write: Pillow, one image at a time, float32, adaptive pooling.

    ``backbone`` is not folded and runs on ``device``. ``images`` are paths, each with height and width of its network
    input in pixels. Returns ``(N, D)`` float32.
    """
    spec = backbone.spec
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (spec.mean, spec.std))
    resample = Image.Resampling[spec.interpolation.upper()]
    pool = F.adaptive_max_pool2d if descriptor.pool == "max" else F.adaptive_avg_pool2d
    rows = []
    with torch.inference_mode():
        for path, (height, width) in images:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB")
            pixels = torch.from_numpy(np.array(image.resize((width, height), resample)))
            tensor = pixels.permute(2, 0, 1).contiguous().to(device).float() / 255
            maps = backbone.maps(backbone.network, ((tensor - mean) / std)[None])
            blocks = [pool(fmap, n).flatten(1) for fmap in maps for n in descriptor.levels]
            rows.append(torch.cat(blocks, 1).cpu().numpy())
    return np.concatenate(rows)


def bench_extract(
    inputs: Sequence[str],
    *,
    n_images: int,
    draw_seed: int,
    repetitions: int,
    on_image: Callable[[int, int], None] = lambda done, total: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
    **options: Any,
) -> ExtractBench:
    """Measures a run of whole images.

    Up to ``n_images`` are chosen evenly from the inputs: folders, image files and lists of them; without inputs,
    synthetic photographs are drawn with ``draw_seed``. ``on_image`` reports images that are ready, ``on_progress``
    passes that are done. ``options`` are those of :func:`sppfeat.extract`.
    """
    with tempfile.TemporaryDirectory(prefix="sppfeat-bench-") as name:
        folder = Path(name)
        # Refuses options that cannot be used before any image is made or read.
        request = make_request(inputs, folder / "run" / "features.h5", labels="none", **options)
        if inputs:
            paths, n_unreadable = choose_images(inputs, n_images, on_image=on_image)
        else:
            paths, n_unreadable = write_photos(folder, n_images, seed=draw_seed, on_image=on_image), 0
        request = dataclasses.replace(request, inputs=tuple(paths))
        in_process = dataclasses.replace(
            request, output=folder / "planned.h5", run=dataclasses.replace(request.run, workers=0)
        )
        with open_part(in_process, on_download=on_download) as part:
            run, plan = part.run, part.plan
            stages = Stages(part, folder / "stages.h5")
            n_images = sum(len(batch.images) for batch in stages.batches)
            if not n_images:
                raise ImageError(f"no image can be run: {next(iter(plan.errors.values()))}")
            whole = WholeRun(request)
            backbone = load_chosen_backbone(request.backbone, fold=False)
            backbone.network.eval().to(run.device)
            images = [(path, batch.input_hw) for batch in stages.batches for path in stages.paths(batch)]
            loop = partial(
                run_plain_loop, backbone, images, descriptor=run.config.descriptor, device=run.device
            )
            decoded = [stages.pixels(batch) for batch in stages.batches]
            passes: list[Pass] = [
                stages.run,
                partial(run_bare_network, stages.describer, decoded),
                whole.run,
                timed("loop", lambda: iter([loop()]), device=run.device),
            ]
            on_pass = counted_passes(len(passes) * (1 + repetitions), on_progress)
            timings = interleave(passes, repetitions=repetitions, on_pass=on_pass)
    rates = {name: _rate(timing, n_images) for name, timing in timings.items() if name != "prepare"}
    seconds = {name: timing["seconds"] for name, timing in timings.items()}
    return {
        **describe_conditions(
            run.config, run.device, weights=request.backbone.weights, dimension=run.columns[-1].stop
        ),
        "images": n_images,
        "unreadable": n_unreadable + len(plan.errors),
        "failed": whole.n_failed - len(plan.errors),
        "synthetic": not inputs,
        "input_shapes": plan.n_shapes,
        "batches": len(stages.batches),
        "workers": whole.n_workers,
        "repetitions": repetitions,
        "stages": {stage: rates[stage] for stage in STAGES},
        "prepare": timings["prepare"],
        "extract": rates["extract"],
        "forward": rates["forward"],
        "loop": rates["loop"],
        "bound": find_bound(seconds, whole.n_workers),
        "extract_to_forward": seconds["extract"] / seconds["forward"],
        "speedup_over_loop": seconds["loop"] / seconds["extract"],
    }


def _rate(total: Timing, n_images: int) -> Rate:
    seconds = total["seconds"]
    return {
        "total": total,
        "ms_per_image": 1000 * seconds / n_images,
        "images_per_second": n_images / max(seconds, 1e-9),
    }
