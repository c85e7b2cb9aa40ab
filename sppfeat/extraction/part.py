"""A part of a run: the images that go into one file, and the state of that file, which the part fills."""

import contextlib
import itertools
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard
from sppfeat.config.machine import return_freed_memory
from sppfeat.config.wording import counted
from sppfeat.errors import ImageError
from sppfeat.extraction.chunks import Chunk, iterate_chunks
from sppfeat.extraction.describe import make_batch_describer
from sppfeat.extraction.output import Failure, Outcome, Output, count_outcome
from sppfeat.extraction.pipeline import Progress, Rows, run_pipeline, schedule
from sppfeat.extraction.plan import Plan, read_sizes_at
from sppfeat.extraction.report import PlanSummary, summarize_plan
from sppfeat.extraction.resume import copy_rows
from sppfeat.extraction.run import Run
from sppfeat.files.outputs import put_in_place
from sppfeat.files.places import Place
from sppfeat.store.layout import Provenance, create_file
from sppfeat.store.schema import Status, count_boxes, cut_error, scale_sides, whole_image_boxes
from sppfeat.store.writer import FeatureWriter

__all__ = ["Part", "Parts"]

_BATCHES_BETWEEN_RETURNS = 32


class Parts(Protocol):
    """The parts of a run, planned and ready to be taken; who takes the next one is all that tells runs apart."""

    @property
    def run(self) -> Run:
        """The settings, network and inputs."""

    @property
    def name(self) -> str:
        """Path or URL of the output; of an output that is being replaced, the present path of the new file."""

    def summary(self) -> PlanSummary:
        """Summarize the run before it starts."""

    def fill(
        self,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Take all parts; see :meth:`Part.fill`."""

    def outcome(self) -> Outcome:
        """Count the images of the files by status."""


@dataclass
class Part:
    """The images that go into one file, and the state of that file, which is kept up to date as the part runs.

    Images and rows are numbered as in the file.

    Attributes:
        run: the run.
        output: the output, locked.
        path: present path of the file; it takes the path of the output once it is complete.
        plan: every image and row of the file.
        images: half-open range of the images that this part is responsible for; other processes fill the others.
        status: ``(N,)`` uint8, status of each image.
        failures: the reason of each failed image, by image.
        flag: ``(R,)`` uint8, flags of each row's box; None for whole images.
        to_do: ``(n,)`` int64, the images to run, including images that cannot be processed.
        unmeasured: ``(k,)`` int64, the images to run whose headers are read later, chunk by chunk.
        resized: ``(m,)`` int64, the images whose size in the plan differs from the file.
        is_new: True if the file has not been laid out yet.
        extends: path of an existing file whose rows the new file begins with; None for no such file.
        shard: the shard of a whole plan that the file holds; None: the whole plan.
        whole_plan: for a new file with a shard, the plan that the shard was cut from; else None.
        norm_factors: factor of each layer under ``meannorm``, if they are known already.
    """

    run: Run
    output: Output
    path: Path
    plan: Plan
    images: tuple[int, int]
    status: npt.NDArray[np.uint8]
    failures: dict[int, str]
    flag: npt.NDArray[np.uint8] | None
    to_do: npt.NDArray[np.int64]
    unmeasured: npt.NDArray[np.int64]
    resized: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    is_new: bool = False
    extends: Path | None = None
    shard: Shard | None = None
    whole_plan: Plan | None = None
    norm_factors: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """URL of the output, or the present path of the file."""
        return self.output.local.url or str(self.path)

    @property
    def is_pending(self) -> bool:
        """True while an image of this part is neither done nor failed."""
        return bool((self.status[slice(*self.images)] == Status.PENDING).any())

    def summary(self) -> PlanSummary:
        """Summarize the part before it runs."""
        return summarize_plan(
            self.run,
            self.plan,
            output=self.output.local.url or str(self.output.path),
            status=self.status,
            to_do=self.to_do,
            n_unmeasured=len(self.unmeasured),
            shard=self._describe_shard(),
        )

    def fill(
        self,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
        *,
        start: Progress | None = None,
    ) -> Progress:
        """Create or continue the file, fill it, and upload it if it is complete and for a URL.

        Args:
            on_progress: called after each batch, and before the first batch of each chunk.
            should_stop: called after each batch; True ends the run early, and the file can be continued.
            start: the progress of earlier parts, to which that of this one is added.

        Raises:
            StoreError: the file cannot be created or written to.
            ImageError: an image failed, and the request says to stop at the first failure.
        """
        if self.run.request.fail_fast:
            self._refuse_unreadable()
        if self.norm_factors is None:
            self.norm_factors = self.run.estimate_norm_factors(self.whole_plan or self.plan)
        if self.is_new:
            provenance = Provenance(
                self.run.backbone.weights_path, self.run.request.boxes_path, self.norm_factors, self.shard
            )
            create_file(self.path, self.plan, self.run.config, self.run.columns, provenance=provenance)
        if self.output.lock is not None:
            self.output.lock.announce_layout()
        if self.extends is not None:
            with contextlib.closing(FeatureWriter(self.path)) as writer:
                copy_rows(self.extends, writer)
            _take_place(self)
        progress = start or Progress()
        if len(self.to_do):
            progress = _fill_file(self, progress, on_progress, should_stop)
        if not self.is_pending:
            _take_place(self)
            self.output.local.publish()
        return progress

    def outcome(self) -> Outcome:
        """Count the images of this part by status, as of now."""
        own = slice(*self.images)
        status, boxes = self.status[own], None
        if self.flag is not None:
            is_done = np.repeat(status == Status.DONE, np.diff(self.plan.rows[own], axis=1).reshape(-1))
            boxes = count_boxes(self.flag[slice(*self.plan.row_range(*self.images))], is_done)
        failed = own.start + np.flatnonzero(status == Status.FAILED)
        failures = [Failure(os.fsdecode(self.plan.paths[i]), self.failures[i]) for i in failed.tolist()]
        return count_outcome(self.name, status, failures, boxes)

    def _refuse_unreadable(self) -> None:
        """Raise ImageError if an image to run is known to be unreadable."""
        errors = self.plan.errors
        unreadable = [image for image in self.to_do.tolist() if image in errors]
        if unreadable:
            name, reason = os.fsdecode(self.plan.paths[unreadable[0]]), errors[unreadable[0]]
            others = f", and {counted(len(unreadable) - 1, 'other')}" if len(unreadable) > 1 else ""
            raise ImageError(f"{name!r}: {reason}{others} (--fail-fast; nothing was written)")

    def _describe_shard(self) -> str | None:
        """Describe the shard that this part is; None for all images."""
        choice = self.run.request.shard
        if self.shard is not None:
            return str(self.shard)
        if choice is None or not self.run.request.shared:
            return None
        first, stop = self.images
        return f"shard {choice}, images {first} to {stop} of {self.plan.n_images}, into their rows"


def _take_place(part: Part) -> None:
    """Give the file the name of the output."""
    if part.path != part.output.path:
        put_in_place(part.path, part.output.path)
        part.path = part.output.path


def _fill_file(
    part: Part,
    progress: Progress,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> Progress:
    run, plan, n_batches = part.run, part.plan, itertools.count(1)
    describe = make_batch_describer(plan, run.make_describer(part.norm_factors), run.projector)

    def on_batch(progress: Progress) -> None:
        if next(n_batches) % _BATCHES_BETWEEN_RETURNS == 0:
            return_freed_memory()
        on_progress(progress)

    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(contextlib.closing(_PartSink(part)))
        chunks = _open_chunks(part, stack)
        for chunk in stack.enter_context(contextlib.closing(chunks)):
            left, start = _record_headers(chunk, sink, progress)
            on_progress(start)
            batches = schedule(
                plan.input_hw,
                left,
                batch_size=run.request.run.batch_size,
                batch_pixels=run.batch_pixels,
                uses=plan.scales_in_use(left),
            )
            progress = run_pipeline(
                plan,
                batches,
                find_places=chunk.find_places,
                decoder=run.decoder,
                describe=describe,
                sink=sink,
                dtype=run.config.descriptor.dtype,
                nonfinite=run.config.descriptor.nonfinite,
                start=start,
                on_progress=on_batch,
                should_stop=should_stop,
            )
            if should_stop():
                break
        return progress


def _open_chunks(part: Part, stack: contextlib.ExitStack) -> Generator[Chunk, None, None]:
    """Cut the part into chunks; a decoder for headers runs only if some of them must be read."""
    run, plan = part.run, part.plan
    prober = stack.enter_context(run.open_prober()) if len(part.unmeasured) else run.decoder

    def measure(images: npt.NDArray[np.int64], places: Sequence[Place | str]) -> npt.NDArray[np.int64]:
        return run.measure(plan, images, read_sizes_at(places, prober))

    return iterate_chunks(
        plan,
        part.to_do,
        unmeasured=part.unmeasured,
        resized=part.resized,
        measure=measure,
        scratch=run.scratch,
    )


class _PartSink:
    """Writes rows and outcomes to the file of a part, and keeps the part's own record of them."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.writer = FeatureWriter(part.path)
        self.close = self.writer.close

    def write_rows(self, rows: Rows) -> None:
        """Store the descriptors of rows, with their flags and regions."""
        self.writer.write_rows(rows.rows, rows.descriptors, rows.regions)
        if self.part.flag is not None and rows.regions is not None:
            self.part.flag[rows.rows] = rows.regions.flag

    def mark_done(self, image: int) -> None:
        """Mark an image as done, after all its rows."""
        self.writer.mark_done(image)
        self.part.status[image] = Status.DONE
        self.part.failures.pop(image, None)

    def mark_failed(self, image: int, reason: str) -> None:
        """Mark an image as failed, and record the reason.

        Raises:
            ImageError: the request says to stop at the first failure; the image stays pending.
        """
        if self.part.run.request.fail_fast:
            name = os.fsdecode(self.part.plan.paths[image])
            raise ImageError(f"{name!r}: {reason} (--fail-fast; what is done is kept)")
        self.writer.mark_failed(image, reason)
        self.part.status[image] = Status.FAILED
        self.part.failures[image] = cut_error(reason).decode()


def _record_headers(
    chunk: Chunk, sink: _PartSink, progress: Progress
) -> tuple[npt.NDArray[np.int64], Progress]:
    """Write everything about a chunk that needs no pixels, before its first batch.

    Sizes are recorded; retried images become pending; images that cannot be processed fail; rows whose box has no area
    get NaN; and images with nothing to pool are done.

    Returns:
        ``(n,)`` int64, the images to decode and describe; and the progress.
    """
    part, writer = sink.part, sink.writer
    plan = part.plan
    _record_sizes(part, chunk.resized, writer)
    for image in chunk.to_do[part.status[chunk.to_do] == Status.FAILED].tolist():
        writer.reopen(image)
        part.status[image] = Status.PENDING
    is_unreadable = np.array([image in plan.errors for image in chunk.to_do.tolist()], dtype=bool)
    unreadable, left = chunk.to_do[is_unreadable], chunk.to_do[~is_unreadable]
    for image in unreadable.tolist():
        sink.mark_failed(image, plan.errors[image])
    progress = progress._replace(n_failed=progress.n_failed + len(unreadable))
    if plan.boxes is None:
        return left, progress
    rows = plan.rows_of(left)
    writer.write_no_descriptor(rows[plan.boxes.is_degenerate[rows]])
    is_pooled = plan.scales_in_use(left).any(axis=1)
    for image in left[~is_pooled].tolist():
        sink.mark_done(image)
    return left[is_pooled], progress._replace(n_done=progress.n_done + int((~is_pooled).sum()))


def _record_sizes(part: Part, images: npt.NDArray[np.int64], writer: FeatureWriter) -> None:
    """Write the sizes that are missing or wrong in the file, and the boxes that depend on them.

    Boxes come first: if the process is killed in between, the next run finds the old size and writes both again.
    """
    if not len(images):
        return
    plan, boxes, rows = part.plan, part.plan.boxes, part.plan.rows_of(images)
    if boxes is None or part.flag is None:
        writer.write_boxes(rows, whole_image_boxes(plan.image_hw[images]))
    else:
        scale = scale_sides(boxes.scale[rows], part.run.config.input)
        writer.write_boxes(rows, boxes.boxes_px[rows], flag=boxes.flag[rows], scale=scale)
        part.flag[rows] = boxes.flag[rows]
    writer.sync()
    writer.write_sizes(images, plan.image_hw[images])
    writer.sync()
