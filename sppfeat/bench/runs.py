"""Time of an extraction, stage by stage and as a whole, compared with the network alone and with a plain loop."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sppfeat.bench.conditions import DescriptorConditions, describe_conditions, synchronizer, temporary_folder
from sppfeat.bench.contenders import BareNetwork, PlainLoop, WholeRun
from sppfeat.bench.samples import Sample, take_sample
from sppfeat.bench.settings import RunsSettings, Subject
from sppfeat.bench.stages import STAGES, Stages, find_bound
from sppfeat.bench.timing import Timing, counted_passes, interleave, timed
from sppfeat.config.distribution import RunOptions
from sppfeat.config.request import ExtractRequest
from sppfeat.config.specs import InputSpec
from sppfeat.errors import ImageError
from sppfeat.extraction.run import Extraction, prepare
from sppfeat.extraction.setup import load_chosen_backbone
from sppfeat.files.downloads import OnDownload

__all__ = ["ExtractResult", "Rate", "Runs", "prepare_runs"]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The time for all images of a sample.

    Attributes:
        total: timing of all images.
        ms_per_image, images_per_second: computed from the median.
    """

    total: Timing
    ms_per_image: float
    images_per_second: float

    @classmethod
    def of(cls, total: Timing, n_images: int) -> "Rate":
        """Makes the rate of ``n_images`` that took ``total``."""
        return cls(
            total=total,
            ms_per_image=1000 * total.seconds / n_images,
            images_per_second=n_images / max(total.seconds, 1e-9),
        )


@dataclass(frozen=True, kw_only=True)
class ExtractResult(DescriptorConditions):
    """The result of measuring a run.

    Attributes:
        images: number of images in the measurement.
        unreadable: number of chosen images that were left out because they cannot be decoded.
        failed: number of images that failed in the run nevertheless, for example because of NaN.
        synthetic: True if the images are synthetic photographs.
        input_shapes, batches: number of different input shapes and number of batches of the run.
        workers: number of decoding processes of the run, 0 for none.
        repetitions: number of measurements of each contender.
        stages: time of each stage, measured one after the other: see :class:`sppfeat.bench.stages.Stages`.
        prepare: time of the run before its first image: lists inputs, loads the network, reads headers, starts workers.
        extract: time of the run from creating its file to the last row on disk.
        forward: time of the network alone, on the same batches, already on the device.
        loop: time of :class:`sppfeat.bench.contenders.PlainLoop`, always in float32, without writing.
        bound: name of the stage that limits the run.
        extract_to_forward: time of ``extract`` divided by time of ``forward``.
        speedup_over_loop: time of ``loop`` divided by time of ``extract``.
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
    settings: RunsSettings,
    *,
    on_image: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> Iterator["Runs"]:
    """Prepares the run and its contenders, and removes their temporary files when the context ends.

    Args:
        subject: network, pyramid, precision and device.
        settings: the images and the run.
        on_image: called with the number of images ready and the total number of images.
        on_download: called during a download with the name of a weights file, the bytes done, and the total (None if
            unknown).

    Raises:
        SppfeatError: settings, weights, inputs or images cannot be used.
    """
    with temporary_folder() as folder:
        photos = folder / "photographs"
        photos.mkdir()
        sample = take_sample(settings, photos, on_image=on_image)
        request = _request(subject, settings, sample, folder / "stages.h5")
        in_process = dataclasses.replace(request, run=dataclasses.replace(request.run, workers=0))
        with prepare(in_process, on_download=on_download) as extraction:
            yield Runs(request, extraction, folder, settings=settings, sample=sample)


class Runs:
    """A run to measure, with its contenders: its stages, the network alone, the whole run and the plain loop.

    Args:
        request: the request for the run.
        extraction: the planned run, which decodes in this process.
        folder: folder for temporary files.
        settings: settings of the measurement, including the number of repetitions.
        sample: the images.

    Attributes:
        stages: see :class:`sppfeat.bench.stages.Stages`.
        loop: function that runs the plain loop and returns descriptors ``(N, D)`` float32 in the order of the batches.
    """

    def __init__(
        self,
        request: ExtractRequest,
        extraction: Extraction,
        folder: Path,
        *,
        settings: RunsSettings,
        sample: Sample,
    ) -> None:
        self._extraction, self._settings, self._sample = extraction, settings, sample
        self.stages = Stages(extraction, folder / "stages.h5")
        batches = self.stages.batches
        self._n_images = sum(len(batch.images) for batch in batches)
        if not self._n_images:
            raise ImageError(f"no image can be run: {next(iter(extraction.part.plan.errors.values()))}")
        setup = extraction.setup
        device, descriptor = setup.device, setup.config.descriptor
        loop = PlainLoop(
            load_chosen_backbone(request.backbone, fold=False), descriptor=descriptor, device=device
        )
        images = [(path, batch.input_hw) for batch in batches for path in self.stages.paths(batch)]
        self.loop = partial(loop.run, images)
        self._whole = WholeRun(request, folder / "run")
        self._forward = BareNetwork(self.stages.describer, [self.stages.pixels(batch) for batch in batches])

    def measure(
        self, *, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> "ExtractResult":
        """Measures all contenders; ``on_progress`` gets the number of passes done and the total number of passes."""
        passes = [
            self.stages.run,
            self._forward.run,
            self._whole.run,
            timed(
                "loop",
                lambda: iter([self.loop()]),
                synchronize=synchronizer(self._extraction.setup.device),
            ),
        ]
        repetitions = self._settings.repetitions
        on_pass = counted_passes(len(passes) * (1 + repetitions), on_progress)
        return self._result(interleave(passes, repetitions=repetitions, on_pass=on_pass))

    def _result(self, timings: Mapping[str, Timing]) -> "ExtractResult":
        extraction, plan, n_workers = self._extraction, self._extraction.part.plan, self._whole.n_workers
        setup = extraction.setup
        stages = {stage: timings[stage].seconds for stage in STAGES}
        return ExtractResult(
            **describe_conditions(setup.backbone, setup.config, setup.device),
            images=self._n_images,
            unreadable=self._sample.n_unreadable + len(plan.errors),
            failed=self._whole.n_failed - len(plan.errors),
            synthetic=not self._settings.inputs,
            input_shapes=plan.n_shapes,
            batches=len(self.stages.batches),
            workers=n_workers,
            repetitions=self._settings.repetitions,
            stages={stage: Rate.of(timings[stage], self._n_images) for stage in STAGES},
            prepare=timings["prepare"],
            extract=Rate.of(timings["extract"], self._n_images),
            forward=Rate.of(timings["forward"], self._n_images),
            loop=Rate.of(timings["loop"], self._n_images),
            bound=find_bound(stages, n_workers),
            extract_to_forward=timings["extract"].seconds / timings["forward"].seconds,
            speedup_over_loop=timings["loop"].seconds / timings["extract"].seconds,
        )


def _request(subject: Subject, settings: RunsSettings, sample: Sample, output: Path) -> ExtractRequest:
    return ExtractRequest(
        inputs=tuple(sample.paths),
        output=output,
        labels="none",
        backbone=subject.backbone,
        input=InputSpec(size=settings.size),
        descriptor=subject.descriptor,
        precision=subject.precision,
        run=RunOptions(device=subject.device, batch_size=settings.batch_size, workers=settings.workers),
    )
