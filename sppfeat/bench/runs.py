"""An extraction stage by stage and whole, beside the bare network and the loop that everyone writes."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.bench.conditions import synchronizer
from sppfeat.bench.contenders import PlainLoop
from sppfeat.bench.descriptors import OfDescriptors, of_descriptors
from sppfeat.bench.sample import Sample, take_sample
from sppfeat.bench.scratch import temporary_folder
from sppfeat.bench.settings import RunsWork, Subject
from sppfeat.bench.stages import STAGES, Stages, find_bound
from sppfeat.bench.timing import Timing, counted_passes, interleave, timed
from sppfeat.config.distribution import RunOptions
from sppfeat.config.request import ExtractRequest
from sppfeat.config.specs import InputSpec
from sppfeat.errors import ImageError
from sppfeat.extraction.describe import Describer
from sppfeat.extraction.run import Extraction, prepare
from sppfeat.extraction.setup import load_choice
from sppfeat.files.downloads import OnDownload

__all__ = ["ExtractResult", "Rate", "Runs", "prepare_runs"]

_TENSOR_NBYTES = 256 << 20  # of the network inputs that the bare network is given in one go
_INPUT_ITEMSIZE = 4  # float32


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What the images of the sample took.

    Attributes:
        total: seconds for all of them.
        ms_per_image, images_per_second: of the median.
    """

    total: Timing
    ms_per_image: float
    images_per_second: float

    @classmethod
    def of(cls, total: Timing, n_images: int) -> "Rate":
        """Return that of so many images."""
        return cls(
            total=total,
            ms_per_image=1000 * total.seconds / n_images,
            images_per_second=n_images / max(total.seconds, 1e-9),
        )


@dataclass(frozen=True, kw_only=True)
class ExtractResult(OfDescriptors):
    """What was measured.

    Attributes:
        images: that were measured with.
        unreadable: that were to be, and left out.
        failed: that failed in the run all the same, such as for NaN.
        synthetic: whether they were made for this.
        input_shapes, batches: of the run.
        workers: decoding processes of the run, 0 for none.
        repetitions: measurements of each.
        stages: each by itself, in this process: see :class:`sppfeat.bench.stages.Stages`.
        prepare: the run, before its first image: list the inputs, load the network, read headers, start workers.
        extract: the run, from its file to the last row on the disk.
        forward: the bare network, on the same batches, decoded and on the device already.
        loop: see :class:`sppfeat.bench.contenders.PlainLoop`; always float32, nothing is written.
        bound: the stage that the run waits for.
        extract_to_forward: time of the run by that of the bare network.
        speedup_over_loop: time of the loop by that of the run.
    """

    images: int
    unreadable: int
    failed: int
    synthetic: bool
    input_shapes: int
    batches: int
    workers: int
    repetitions: int
    stages: Mapping[str, Rate]
    prepare: Timing
    extract: Rate
    forward: Rate
    loop: Rate
    bound: str
    extract_to_forward: float
    speedup_over_loop: float


@contextlib.contextmanager
def prepare_runs(
    subject: Subject,
    work: RunsWork,
    *,
    on_image: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> Iterator["Runs"]:
    """Everything that is to be measured, ready to run; its temporary files are gone when the context ends.

    Args:
        subject: with what.
        work: which images, and how many.
        on_image: called with the number of images that are there, and of all.
        on_download: called with the name of a weights file, bytes done and total (None if unknown), while it comes.

    Raises:
        SppfeatError: settings, weights, inputs or images that do not go.
    """
    with temporary_folder() as folder:
        photos = folder / "photographs"
        photos.mkdir()
        sample = take_sample(work, photos, on_image=on_image)
        request = _request(subject, work, sample, folder / "stages.h5")
        in_process = dataclasses.replace(request, run=dataclasses.replace(request.run, workers=0))
        with prepare(in_process, on_download=on_download) as extraction:
            yield Runs(request, extraction, folder, work=work, sample=sample)


class Runs:
    """What is measured: the stages, the bare network, the whole run and the loop that everyone writes.

    Args:
        request: the run.
        extraction: the same, planned, with the decoder of this process.
        folder: for files.
        work: how much is measured.
        sample: the images.

    Attributes:
        stages: see there.
        loop: descriptors, ``(N, D)`` float32, of all images as everyone computes them, in the order of the batches.
    """

    def __init__(
        self, request: ExtractRequest, extraction: Extraction, folder: Path, *, work: RunsWork, sample: Sample
    ) -> None:
        self._extraction, self._work, self._sample = extraction, work, sample
        self.stages = Stages(extraction, folder / "stages.h5")
        batches = self.stages.batches
        self._n_images = sum(len(batch.images) for batch in batches)
        if not self._n_images:
            raise ImageError(f"no image can be run: {next(iter(extraction.work.plan.errors.values()))}")
        equipment = extraction.equipment
        device, descriptor = equipment.device, equipment.config.descriptor
        loop = PlainLoop(load_choice(request.backbone, fold=False), descriptor=descriptor, device=device)
        images = [(path, batch.input_hw) for batch in batches for path in self.stages.paths(batch)]
        self.loop = partial(loop.run, images)
        self._whole = _WholeRun(request, folder / "run")
        self._forward = _BareNetwork(self.stages.describer, [self.stages.pixels(batch) for batch in batches])

    def measure(
        self, *, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> "ExtractResult":
        """Measure all of it; ``on_progress`` is called with the number of passes that are done, and of all."""
        passes = [
            self.stages.run,
            self._forward.run,
            self._whole.run,
            timed(
                "loop",
                lambda: iter([self.loop()]),
                synchronize=synchronizer(self._extraction.equipment.device),
            ),
        ]
        repetitions = self._work.repetitions
        on_pass = counted_passes(len(passes) * (1 + repetitions), on_progress)
        return self._result(interleave(passes, repetitions=repetitions, on_pass=on_pass))

    def _result(self, timings: Mapping[str, Timing]) -> "ExtractResult":
        extraction, plan, n_workers = self._extraction, self._extraction.work.plan, self._whole.n_workers
        equipment = extraction.equipment
        stages = {stage: timings[stage].seconds for stage in STAGES}
        return ExtractResult(
            **of_descriptors(equipment.backbone, equipment.config, equipment.device),
            images=self._n_images,
            unreadable=self._sample.n_unreadable + len(plan.errors),
            failed=self._whole.n_failed - len(plan.errors),
            synthetic=not self._work.inputs,
            input_shapes=plan.n_shapes,
            batches=len(self.stages.batches),
            workers=n_workers,
            repetitions=self._work.repetitions,
            stages={stage: Rate.of(timings[stage], self._n_images) for stage in STAGES},
            prepare=timings["prepare"],
            extract=Rate.of(timings["extract"], self._n_images),
            forward=Rate.of(timings["forward"], self._n_images),
            loop=Rate.of(timings["loop"], self._n_images),
            bound=find_bound(stages, n_workers),
            extract_to_forward=timings["extract"].seconds / timings["forward"].seconds,
            speedup_over_loop=timings["loop"].seconds / timings["extract"].seconds,
        )


class _WholeRun:
    """The run itself: its own network, workers and file."""

    def __init__(self, request: ExtractRequest, folder: Path) -> None:
        self._request = dataclasses.replace(request, output=folder / "features.h5")
        self._folder = folder
        self.n_workers = 0
        self.n_failed = 0

    def run(self) -> dict[str, float]:
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


class _BareNetwork:
    """The network on batches that are on the device already; only it is measured."""

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
        seconds = 0.0
        for group in self._groups:
            tensors = [self._describer.batch(pixels) for pixels in group]
            self._synchronize()
            start = time.perf_counter()
            for tensor in tensors:
                self._describer.maps(tensor)
            self._synchronize()
            seconds += time.perf_counter() - start
        return {"forward": seconds}


def _request(subject: Subject, work: RunsWork, sample: Sample, output: Path) -> ExtractRequest:
    return ExtractRequest(
        inputs=tuple(sample.paths),
        output=output,
        labels="none",
        backbone=subject.backbone,
        input=InputSpec(size=work.size),
        descriptor=subject.descriptor,
        precision=subject.precision,
        run=RunOptions(device=subject.device, batch_size=work.batch_size, workers=work.workers),
    )
