"""Time of an extraction, stage by stage and as a whole, compared with the network alone and with a plain loop."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from sppfeat.bench.samples import choose_images, write_photos
from sppfeat.bench.stages import STAGES, Stages, find_bound
from sppfeat.bench.timing import (
    Pass,
    Timing,
    counted_passes,
    describe_conditions,
    interleave,
    synchronize,
    timed,
)
from sppfeat.config.options import make_request
from sppfeat.config.request import Request
from sppfeat.config.specs import DescriptorSpec
from sppfeat.errors import ImageError
from sppfeat.extraction.describe import Describer
from sppfeat.extraction.extract import open_part
from sppfeat.extraction.setup import load_chosen_backbone
from sppfeat.files.downloads import OnDownload
from sppfeat.networks.backbones import Backbone

__all__ = ["WholeRun", "bench_extract", "run_bare_network", "run_plain_loop"]


class WholeRun:
    """A whole extraction, with its own network, workers and file, which is deleted after each run.

    Attributes:
        n_workers: number of decoding processes of the last run.
        n_failed: number of images that failed in the last run.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self.n_workers = 0
        self.n_failed = 0

    def run(self) -> dict[str, float]:
        """Runs once; returns seconds of ``prepare`` (before the first image) and ``extract`` (all the rest)."""
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
    """Seconds of ``forward``: the network alone, on batches ``(N, H, W, 3)`` that are already on the device."""
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

    Args:
        backbone: the network, neither folded nor converted, on ``device``.
        images: paths of image files, each with height and width of its network input in pixels.
        descriptor: pyramid and pooling.
        device: device that runs the network.

    Returns:
        ``(N, D)`` float32.
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
) -> dict[str, Any]:
    """Measures a run of whole images: each stage, all of it, the network alone, and a plain loop.

    Args:
        inputs: folders, image files and lists of them; none for synthetic photographs.
        n_images: the most images, chosen evenly from the inputs.
        draw_seed: seed of the synthetic photographs.
        repetitions: number of measurements of each contender.
        on_image: called with the number of images ready and the total number of images.
        on_progress: called with the number of passes done and the total number of passes.
        on_download: called during a download with the name of a weights file, the bytes done, and the total (None if
            unknown).
        **options: options of :func:`sppfeat.extract`.

    Returns:
        The fields of ``sppfeat bench extract --json``.

    Raises:
        SppfeatError: options, weights, inputs or images cannot be used.
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
                timed("loop", lambda: iter([loop()]), synchronize=partial(synchronize, run.device)),
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
        **{name: rates[name] for name in ("extract", "forward", "loop")},
        "bound": find_bound(seconds, whole.n_workers),
        "extract_to_forward": seconds["extract"] / seconds["forward"],
        "speedup_over_loop": seconds["loop"] / seconds["extract"],
    }


def _rate(total: Timing, n_images: int) -> dict[str, Any]:
    seconds = total["seconds"]
    return {
        "total": total,
        "ms_per_image": 1000 * seconds / n_images,
        "images_per_second": n_images / max(seconds, 1e-9),
    }
