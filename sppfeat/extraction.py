"""One extraction, from inputs to a finished file: plan it, continue what is there, run it."""

import contextlib
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sppfeat.acceleration import bfloat16_note
from sppfeat.backbones import Backbone
from sppfeat.blocks import describe_plan
from sppfeat.box_report import box_notes, summarise_boxes
from sppfeat.bundled import bundled_note
from sppfeat.config import DescriptorSpec, ExtractConfig
from sppfeat.configure import configure, descriptor_blocks, load_choice, read_box_choice, row_planner_of
from sppfeat.continuation import copy_rows
from sppfeat.cores import available_cores
from sppfeat.creation import Provenance, create_file, feature_nbytes
from sppfeat.decoding import Decoder, DecoderPool, DecodeSettings, InlineDecoder
from sppfeat.describe import BATCH_PIXELS, Describer, choose_device, device_name
from sppfeat.errors import ImageError
from sppfeat.locking import OutputLock, check_output
from sppfeat.memory import return_freed_memory
from sppfeat.normalization import estimate_factors
from sppfeat.pipeline import Progress, run_pipeline
from sppfeat.placing import put_in_place, remove_leftovers
from sppfeat.plan import Plan, schedule
from sppfeat.reader import FeatureFile
from sppfeat.regions import Projector
from sppfeat.request import BoxSummary, ExtractRequest, PlanSummary
from sppfeat.schema import ColumnBlock, Status
from sppfeat.sinks import FailFast
from sppfeat.sources import Listing, list_images
from sppfeat.store import FeatureWriter
from sppfeat.work import Task, Work, find_work, prober, settle

__all__ = ["Extraction", "prepare"]

_BATCHES_BETWEEN_RETURNS = 32
_MAX_AUTO_WORKERS = 16
_MIN_IMAGES_PER_WORKER = 16  # a worker takes 0.2 s to start: as long as some 50 small images


@dataclass(frozen=True)
class Extraction:
    """A planned extraction; :func:`prepare` makes it.

    Attributes:
        request: what was asked.
        config: what shapes a descriptor, and is recorded.
        blocks: the columns of a descriptor.
        backbone: the network.
        projector: how boxes become regions; None for whole images.
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
    projector: Projector | None
    device: torch.device
    decoder: Decoder
    n_workers: int
    notes: list[str]
    work: Work

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
            round_to=self.config.input.round_to,
            classes=len(plan.classes),
            backbone=spec.name,
            weights=self.backbone.weights_path or spec.weights,
            layers=list(spec.layers),
            levels=list(self.config.descriptor.levels),
            device=device_name(self.device),
            precision=self.config.precision,
            workers=self.n_workers,
            head=spec.head,
            normalize=self.config.descriptor.normalize,
            boxes=self._box_summary(),
            notes=self.notes,
        )

    def _box_summary(self) -> BoxSummary | None:
        regions, boxes = self.config.regions, self.work.plan.boxes
        if regions is None or boxes is None:
            return None
        return summarise_boxes(self.work.plan, boxes, regions, self.config.input, self._boxes_path)

    @property
    def _boxes_path(self) -> str:
        choice = self.request.boxes
        return os.path.abspath(choice.boxes) if choice and choice.is_file else ""

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
            ImageError: an image failed, and that was to end the run.
        """
        work, output = self.work, self.request.output
        if self.request.fail_fast:
            self._refuse_unreadable()
        factors = self._norm_factors()
        if work.is_new:
            provenance = Provenance(self.backbone.weights_path, self._boxes_path, factors)
            create_file(work.target, work.plan, self.config, self.blocks, provenance=provenance)
        if work.adopt is not None:
            with contextlib.closing(FeatureWriter(work.target)) as writer:
                copy_rows(work.adopt, writer)
            put_in_place(work.target, output)
        progress = self._fill(factors, on_progress, should_stop) if len(work.to_do) else Progress()
        if self.path != output and self.n_pending() == 0:
            put_in_place(self.path, output)
        return progress

    @property
    def path(self) -> Path:
        """The file of this run as it is named now."""
        return self.work.target if self.work.target.exists() else self.request.output

    def n_pending(self) -> int:
        """Images of the file that are neither done nor failed, by what it says now."""
        with FeatureFile(self.path) as file:
            return int((file.status == Status.PENDING).sum())

    def _refuse_unreadable(self) -> None:
        """Raise ImageError if it is known already that images will fail."""
        plan = self.work.plan
        unreadable = self.work.to_do[np.isin(self.work.to_do, list(plan.errors))].tolist()
        if unreadable:
            name, reason = os.fsdecode(plan.paths[unreadable[0]]), plan.errors[unreadable[0]]
            others = f", and {len(unreadable) - 1} others" if len(unreadable) > 1 else ""
            raise ImageError(f"{name!r}: {reason}{others} (--fail-fast; nothing was written)")

    def _norm_factors(self) -> tuple[float, ...] | None:
        """What ``meannorm`` multiplies with: as the file has it, as was asked for, or estimated now."""
        spec, plan = self.config.descriptor, self.work.plan
        known = self.work.norm_factors or spec.norm_factors
        if spec.mean_norm is None or known is not None:
            return known
        plain = self._describer(dataclasses.replace(spec, normalize="none"), None)
        return estimate_factors(
            plan,
            self.blocks,
            spec.mean_norm,
            decoder=self.decoder,
            describe_for=lambda sample: describe_plan(sample, plain, self.projector),
            batch_pixels=BATCH_PIXELS[self.device.type],
        )

    def _describer(self, spec: DescriptorSpec, factors: tuple[float, ...] | None) -> Describer:
        return Describer(
            self.backbone,
            spec,
            flip=self.config.input.flip,
            precision=self.config.precision,
            device=self.device,
            norm_factors=factors,
            compile_network=self.request.run.compile,
        )

    def _fill(
        self,
        factors: tuple[float, ...] | None,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> Progress:
        plan = self.work.plan
        describer = self._describer(self.config.descriptor, factors)
        with contextlib.closing(FeatureWriter(self.path)) as writer:
            settled = settle(self.work, self.config, writer)
            start = Progress(n_done=len(settled.done), n_failed=len(settled.failed))
            on_progress(start)
            n_batches = itertools.count(1)

            def on_batch(progress: Progress) -> None:
                if next(n_batches) % _BATCHES_BETWEEN_RETURNS == 0:
                    return_freed_memory()
                on_progress(progress)

            batches = schedule(
                plan.input_hw,
                settled.left,
                batch_size=self.request.run.batch_size,
                batch_pixels=BATCH_PIXELS[self.device.type],
                uses=plan.uses,
            )
            return run_pipeline(
                plan,
                batches,
                decoder=self.decoder,
                describe=describe_plan(plan, describer, self.projector),
                sink=FailFast(writer, plan) if self.request.fail_fast else writer,
                dtype=self.config.descriptor.dtype,
                nonfinite=self.config.descriptor.nonfinite,
                start=start,
                on_progress=on_batch,
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
            remove_leftovers(request.output)
        backbone = load_choice(request.backbone)
        box_file = read_box_choice(request.boxes)
        config = configure(
            backbone,
            request.input,
            request.descriptor,
            precision=request.precision,
            boxes=request.boxes,
            box_file=box_file,
        )
        planner = row_planner_of(request.boxes, config, backbone, box_file)
        settings = DecodeSettings(
            exif=config.input.exif,
            resample=config.backbone.interpolation,
            max_pixels=request.run.max_decode_pixels,
            decode=config.input.decode,
        )
        n_workers = _n_workers(request.run.workers, len(listing.paths))
        decoder: Decoder = (
            DecoderPool(settings, n_workers=n_workers) if n_workers else InlineDecoder(settings)
        )
        stack.callback(decoder.close)
        notes = _listing_notes(listing, request.labels)
        notes += filter(None, [bundled_note(config.backbone), bfloat16_note(device, config.precision)])
        scratch = Path() if listing.storage.is_local else _scratch_folder(stack)
        work = find_work(Task(request, config, listing, prober(decoder, on_probe, scratch), planner), notes)
        notes += _decode_notes(work.plan, config.input.decode)
        if work.plan.boxes is not None:
            table = box_file.table if box_file else None
            notes += box_notes(work.plan, work.plan.boxes, table, is_new=work.is_new)
        yield Extraction(
            request=request,
            config=config,
            blocks=descriptor_blocks(config, backbone),
            backbone=backbone,
            projector=planner.projector if planner else None,
            device=device,
            decoder=decoder,
            n_workers=n_workers,
            notes=notes,
            work=work,
        )


def _scratch_folder(stack: contextlib.ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sppfeat-")))


def _n_workers(workers: int | None, n_images: int) -> int:
    if workers is not None:
        return workers
    return max(1, min(available_cores(), _MAX_AUTO_WORKERS, n_images // _MIN_IMAGES_PER_WORKER))


def _decode_notes(plan: Plan, decode: str) -> list[str]:
    """What fast decoding does, and to how many images it may: which of them are JPEGs no header was asked."""
    if decode == "exact":
        return []
    is_known = (plan.input_hw > 0).all(axis=2)
    is_twice = (plan.image_hw[:, None] // 2 >= plan.input_hw).all(axis=2)
    n_images = int((is_known & is_twice & plan.uses).any(axis=1).sum())
    return [
        "--decode fast: JPEGs at least twice as large as their network input are decoded at 1/2, 1/4 or 1/8 of "
        f"their size, which moves their descriptors by 2 to 15 %; {n_images} of {plan.n_images} images are as large"
    ]


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
