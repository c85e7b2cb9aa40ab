"""One extraction, from inputs to a finished file: plan it, continue what is there, run it."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sppfeat.backbones import Backbone, load_backbone
from sppfeat.config import ExtractConfig
from sppfeat.continuation import (
    Probe,
    continued_plan,
    copy_rows,
    extended_plan,
    match_inputs,
    read_recorded,
)
from sppfeat.decoding import Decoder, DecoderPool, DecodeSettings, InlineDecoder
from sppfeat.describe import BATCH_PIXELS, Describer, choose_device, device_name
from sppfeat.errors import StoreError
from sppfeat.pipeline import Progress, run_pipeline
from sppfeat.plan import Plan, make_plan, schedule
from sppfeat.reader import FeatureFile
from sppfeat.request import BackboneChoice, ExtractRequest, PlanSummary
from sppfeat.schema import ColumnBlock, Status, column_blocks
from sppfeat.sources import Listing, list_images
from sppfeat.store import FeatureWriter, OutputLock, check_output, create_file, feature_nbytes

__all__ = ["Extraction", "available_cores", "prepare"]

_MAX_AUTO_WORKERS = 16
_MIN_IMAGES_PER_WORKER = 16  # a worker takes 0.2 s to start: as long as some 50 small images


@dataclass(frozen=True)
class _Work:
    """Which file to fill, and with what.

    Attributes:
        target: the file; another one than the output while an existing output is being replaced.
        plan: every image and row.
        status: ``(N,)`` uint8 of each image before this run.
        to_do: ``(n,)`` int64, the images of this run, those that cannot be processed included.
        resized: ``(m,)`` int64, images whose size the file does not have right.
        is_new: the file is yet to be laid out.
        adopt: a file whose rows the new one begins with.
    """

    target: Path
    plan: Plan
    status: npt.NDArray[np.uint8]
    to_do: npt.NDArray[np.int64]
    resized: npt.NDArray[np.int64]
    is_new: bool
    adopt: Path | None = None


@dataclass(frozen=True)
class Extraction:
    """A planned extraction; :func:`prepare` makes it.

    Attributes:
        request: what was asked.
        config: what shapes a descriptor, and is recorded.
        blocks: the columns of a descriptor.
        backbone: the network.
        device: where it runs.
        decoder: reads the images.
        n_workers: processes that it has, 0 for none.
        notes: what the user should know about the inputs.
        work: which file to fill, and with what.
    """

    request: ExtractRequest
    config: ExtractConfig
    blocks: tuple[ColumnBlock, ...]
    backbone: Backbone
    device: torch.device
    decoder: Decoder
    n_workers: int
    notes: list[str]
    work: _Work

    def summary(self) -> PlanSummary:
        """What this run is going to do."""
        spec, plan, work = self.config.backbone, self.work.plan, self.work
        status_after = work.status.copy()
        status_after[work.to_do] = Status.PENDING
        return PlanSummary(
            output=str(self.request.output),
            images=plan.n_images,
            already_done=int((status_after == Status.DONE).sum()),
            already_failed=int((status_after == Status.FAILED).sum()),
            to_do=len(work.to_do),
            unreadable=int(np.isin(work.to_do, list(plan.errors)).sum()),
            rows=plan.n_rows,
            dimension=self.blocks[-1].stop,
            output_bytes=feature_nbytes(plan, self.blocks, self.config.descriptor.dtype),
            input_shapes=plan.n_shapes,
            classes=len(plan.classes),
            backbone=spec.name,
            weights=self.backbone.weights_path or spec.weights,
            layers=list(spec.layers),
            levels=list(self.config.descriptor.levels),
            device=device_name(self.device),
            precision=self.config.precision,
            workers=self.n_workers,
            notes=self.notes,
        )

    def run(
        self,
        *,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Do it: create or continue the file, and fill it.

        Args:
            on_progress: called after each batch.
            should_stop: asked after each batch; True ends the run early, with a file that can be continued.

        Returns:
            What was done in this run.

        Raises:
            StoreError: the file cannot be created or written to.
        """
        work, output = self.work, self.request.output
        if work.is_new:
            create_file(
                work.target, work.plan, self.config, self.blocks, weights_path=self.backbone.weights_path
            )
        if work.adopt is not None:
            with contextlib.closing(FeatureWriter(work.target)) as writer:
                copy_rows(work.adopt, writer)
            work.target.replace(output)
        progress = self._fill(on_progress, should_stop) if len(work.to_do) else Progress()
        if self.path != output and self.n_pending() == 0:
            self.path.replace(output)
        return progress

    @property
    def path(self) -> Path:
        """The file of this run as it is named now."""
        return self.work.target if self.work.target.exists() else self.request.output

    def n_pending(self) -> int:
        """Images of the file that are neither done nor failed, by what it says now."""
        with FeatureFile(self.path) as file:
            return int((file.status == Status.PENDING).sum())

    def _fill(self, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]) -> Progress:
        work = self.work
        describer = Describer(
            self.backbone,
            self.config.descriptor,
            flip=self.config.input.flip,
            precision=self.config.precision,
            device=self.device,
        )
        with contextlib.closing(FeatureWriter(self.path)) as writer:
            unreadable = _settle(work, writer)
            start = Progress(n_failed=len(unreadable))
            on_progress(start)
            batches = schedule(
                work.plan.input_hw,
                np.setdiff1d(work.to_do, unreadable),
                batch_size=self.request.run.batch_size,
                batch_pixels=BATCH_PIXELS[self.device.type],
            )
            return run_pipeline(
                work.plan,
                batches,
                decoder=self.decoder,
                describe=describer.images,
                sink=writer,
                dtype=self.config.descriptor.dtype,
                start=start,
                on_progress=on_progress,
                should_stop=should_stop,
            )


@contextlib.contextmanager
def prepare(
    request: ExtractRequest, *, on_probe: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Extraction]:
    """Plan an extraction; the output stays locked until the context ends.

    Args:
        request: what is asked.
        on_probe: called with the number of image headers read, and of all.

    Yields:
        The extraction, ready to run. Nothing has been written yet.

    Raises:
        SppfeatError: inputs, settings, weights or an existing output that do not allow it.
    """
    check_output(request.output)
    # Where it is a link: what it leads to is written, locked and replaced, not the link.
    request = dataclasses.replace(request, output=Path(os.path.realpath(request.output)))
    device = choose_device(request.run.device, request.precision)
    listing = list_images(request.inputs, labels=request.labels)
    with contextlib.ExitStack() as stack:
        if not request.dry_run:
            stack.enter_context(OutputLock(request.output))
        backbone = _load(request.backbone)
        config = ExtractConfig(
            backbone=backbone.spec,
            input=dataclasses.replace(request.input, min_side=backbone.min_side),
            descriptor=request.descriptor,
            precision=request.precision,
        )
        settings = DecodeSettings(config.input.exif, config.backbone.interpolation)
        n_workers = _n_workers(request.run.workers, len(listing.paths))
        decoder: Decoder = (
            DecoderPool(settings, n_workers=n_workers) if n_workers else InlineDecoder(settings)
        )
        stack.callback(decoder.close)
        notes = _listing_notes(listing, request.labels)
        yield Extraction(
            request=request,
            config=config,
            blocks=column_blocks(backbone.spec.layers, backbone.channels, config.descriptor.levels),
            backbone=backbone,
            device=device,
            decoder=decoder,
            n_workers=n_workers,
            notes=notes,
            work=_find_work(request, config, listing, _prober(decoder, on_probe), notes),
        )


def _load(choice: BackboneChoice) -> Backbone:
    settings = dict(vars(choice))
    return load_backbone(settings.pop("name"), **settings)


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _find_work(
    request: ExtractRequest, config: ExtractConfig, listing: Listing, probe: Probe, notes: list[str]
) -> _Work:
    """What to do, given what is at the output; adds to ``notes`` what the user should know of it."""
    output, partial = request.output, Path(f"{request.output}.partial")
    if not output.exists():
        return _start(output, config, listing, probe)
    if not request.overwrite:
        return _continue(request, output, config, listing, probe, notes)
    if partial.exists():  # an overwriting run that was interrupted, perhaps this one
        try:
            return _continue(request, partial, config, listing, probe, notes)
        except StoreError:
            pass
    return _start(partial, config, listing, probe)


def _start(target: Path, config: ExtractConfig, listing: Listing, probe: Probe) -> _Work:
    image_hw, errors = probe([os.path.join(listing.root, path) for path in listing.paths])
    plan = make_plan(listing, image_hw, errors, config.input)
    every = np.arange(plan.n_images)
    return _Work(target, plan, np.zeros(len(every), dtype=np.uint8), every, every[:0], is_new=True)


def _continue(
    request: ExtractRequest,
    target: Path,
    config: ExtractConfig,
    listing: Listing,
    probe: Probe,
    notes: list[str],
) -> _Work:
    recorded = read_recorded(target, config)
    matched = match_inputs(recorded, listing)
    is_to_do = recorded.status == Status.PENDING
    if request.retry_failed:
        is_to_do |= recorded.status == Status.FAILED
    to_do = np.flatnonzero(is_to_do)
    plan = continued_plan(recorded, matched, to_do, config.input, probe)
    resized = np.flatnonzero((plan.image_hw != recorded.image_hw).any(axis=1))
    work = _Work(target, plan, recorded.status, to_do, resized, is_new=False)
    if len(matched.vanished):
        notes.append(f"{len(matched.vanished)} images of the file are not among the inputs any more")
    if not len(matched.new):
        return work
    if not request.add_new:
        example = os.fsdecode(matched.new_paths[0])
        notes.append(
            f"{len(matched.new)} inputs are not in the file, such as {example!r}; --add-new adds them"
        )
        return work
    longer = extended_plan(plan, matched, listing, config.input, probe)
    added = np.arange(plan.n_images, longer.n_images)
    return _Work(
        target=Path(f"{request.output}.partial"),
        plan=longer,
        status=np.concatenate((recorded.status, np.zeros(len(added), dtype=np.uint8))),
        to_do=np.concatenate((to_do, added)),
        resized=resized[:0],  # the new file is laid out with the right sizes
        is_new=True,
        adopt=target,
    )


def _settle(work: _Work, writer: FeatureWriter) -> npt.NDArray[np.int64]:
    """Before the first batch: make tried-again images pending, record sizes, fail what cannot be processed."""
    for image in work.to_do[work.status[work.to_do] == Status.FAILED].tolist():
        writer.reopen(image)
    for image in work.resized.tolist():
        height, width = work.plan.image_hw[image].tolist()
        writer.write_size(image, (height, width))
    unreadable = work.to_do[np.isin(work.to_do, list(work.plan.errors))]
    for image in unreadable.tolist():
        writer.mark_failed(image, work.plan.errors[image])
    return unreadable


def _prober(decoder: Decoder, on_probe: Callable[[int, int], None]) -> Probe:
    def probe(paths: Sequence[bytes]) -> tuple[npt.NDArray[np.int32], dict[int, str]]:
        image_hw = np.zeros((len(paths), 2), dtype=np.int32)
        errors: dict[int, str] = {}
        for i, answer in enumerate(decoder.probe(paths)):
            if isinstance(answer, str):
                errors[i] = answer
            else:
                image_hw[i] = answer
            on_probe(i + 1, len(paths))
        return image_hw, errors

    return probe


def _n_workers(workers: int | None, n_images: int) -> int:
    if workers is not None:
        return workers
    return max(1, min(available_cores(), _MAX_AUTO_WORKERS, n_images // _MIN_IMAGES_PER_WORKER))


def _listing_notes(listing: Listing, labels: str) -> list[str]:
    notes = []
    if listing.n_other_files:
        notes.append(f"{listing.n_other_files} files in the folders have no suffix of an image: left out")
    if listing.n_repeated:
        notes.append(f"{listing.n_repeated} inputs are named more than once: each is taken once")
    if labels == "folder" and not listing.classes:
        notes.append("no labels: no image lies in a folder below the inputs")
    elif listing.n_unlabelled and listing.classes:
        notes.append(f"{listing.n_unlabelled} images lie outside the class folders: their label is -1")
    elif listing.n_unlabelled and labels == "auto":
        notes.append(
            f"no labels: {listing.n_unlabelled} images lie outside class folders; --labels folder labels the others"
        )
    return notes
