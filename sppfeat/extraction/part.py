"""A part of a run: creates or continues one feature file, fills it, and counts its images."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard
from sppfeat.config.machine import return_freed_memory
from sppfeat.config.request import Request
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError, ImageError, StoreError
from sppfeat.extraction.chunks import Chunk, iterate_chunks
from sppfeat.extraction.describe import make_batch_describer
from sppfeat.extraction.mean_norm import estimate_factors
from sppfeat.extraction.pipeline import Progress, run_pipeline
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.report import PlanSummary, summarize_plan
from sppfeat.extraction.resume import copy_rows
from sppfeat.extraction.run import Run
from sppfeat.files.outputs import (
    OutputLock,
    check_output,
    is_being_written,
    put_in_place,
    refuse_input,
    remove_leftovers,
)
from sppfeat.files.remote import url_of
from sppfeat.files.remote.output import LocalOutput, local_output
from sppfeat.store.layout import create_file
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status, count_boxes, scale_sides, whole_image_boxes
from sppfeat.store.writer import FeatureWriter

__all__ = ["Failure", "Outcome", "Output", "Part", "join_outcomes", "open_output", "read_outcome"]

_BATCHES_BETWEEN_RETURNS = 32
_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Failure:
    """An image that failed.

    Attributes:
        path: path of the image, relative to the root of the inputs.
        error: reason.
    """

    path: str
    error: str


class Outcome(NamedTuple):
    """Counts of the images in the files of a run; see :class:`sppfeat.extraction.extract.ExtractResult`."""

    files: list[str]
    images: int
    done: int
    failed: int
    pending: int
    failures: list[Failure]
    boxes: dict[str, int] | None


@dataclass(frozen=True)
class Output:
    """The local file of one part, which ``local`` uploads if the output is a URL; ``lock`` is None for a dry run."""

    path: Path
    local: LocalOutput
    lock: OutputLock | None


@dataclass
class Part:
    """The images of one file, and the work left there; images and rows are numbered as in the file."""

    run: Run
    output: Output
    path: Path  # current path of the file, which is moved to the output once it is complete
    plan: Plan  # every image and row of the file
    images: tuple[int, int]  # half-open range of the images to fill; other processes fill the others
    status: npt.NDArray[np.uint8]  # (N,) uint8, status of each image before the part runs
    to_do: npt.NDArray[np.int64]  # (n,) int64, the images to run, including unreadable ones
    unmeasured: npt.NDArray[np.int64]  # (k,) int64, images to run whose headers are read chunk by chunk
    # (m,) int64, the images whose size in the plan differs from the file.
    resized: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    is_new: bool = False
    extends: Path | None = None  # an existing file with which the new file begins
    shard: Shard | None = None  # the shard that the file holds; None: the whole plan
    whole_plan: Plan | None = None  # the plan that the shard of a new file was cut from
    norm_factors: tuple[float, ...] | None = None  # factor of each layer under meannorm, if known
    _outcome: Outcome | None = None

    @property
    def name(self) -> str:
        """URL of the output, or the current path of the file: the new one until it replaces the old one."""
        return self.output.local.url or str(self.path)

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
        """Create or continue the file and fill it; upload it to the output's URL, if any, once it is complete.

        Args:
            on_progress: called after each batch, and before the first batch of each chunk.
            should_stop: called after each batch; True ends the run early, and the file can be continued.
            start: the progress of earlier parts, to add to.

        Raises:
            StoreError: the file cannot be created or written to.
            ImageError: an image failed, and the request has ``fail_fast``.
        """
        if self.run.request.fail_fast:
            self._refuse_unreadable()
        if self.norm_factors is None:
            self.norm_factors = estimate_factors(self.run, self.whole_plan or self.plan)
        if self.is_new:
            create_file(
                self.path,
                self.plan,
                self.run.config,
                self.run.columns,
                weights_path=self.run.backbone.weights_path,
                boxes_path=self.run.request.boxes_path,
                norm_factors=self.norm_factors,
                shard=self.shard,
            )
        if self.output.lock is not None:
            self.output.lock.announce_layout()
        if self.extends is not None:
            with contextlib.closing(FeatureWriter(self.path)) as writer:
                copy_rows(self.extends, writer, leaving=self.to_do.tolist())
            self._take_place()
        progress = start or Progress()
        if len(self.to_do):
            progress = _fill_file(self, progress, on_progress, should_stop)
        self._outcome = read_outcome(self.path, self)
        if not self._outcome.pending:
            self._take_place()
            self.output.local.publish()
        return progress

    def outcome(self) -> Outcome:
        """Return the counts and failures of this part's images after :meth:`fill`."""
        if self._outcome is None:
            raise ValueError("the part has not been filled yet")
        return self._outcome

    def _refuse_unreadable(self) -> None:
        """Raise ImageError if an image to run is known to be unreadable."""
        errors = self.plan.errors
        unreadable = [image for image in self.to_do.tolist() if image in errors]
        if unreadable:
            name, reason = os.fsdecode(self.plan.paths[unreadable[0]]), errors[unreadable[0]]
            others = f", and {counted(len(unreadable) - 1, 'other')}" if len(unreadable) > 1 else ""
            raise ImageError(f"{name!r}: {reason}{others} (--fail-fast; nothing was written)")

    def _take_place(self) -> None:
        """Move the file to the path of the output."""
        if self.path != self.output.path:
            put_in_place(self.path, self.output.path)
            self.path = self.output.path

    def _describe_shard(self) -> str | None:
        """Describe the shard of this part; None for a whole run."""
        choice = self.run.request.shard
        if self.shard is not None:
            return str(self.shard)
        if choice is None or not self.run.request.shared:
            return None
        first, stop = self.images
        return f"shard {choice}, images {first} to {stop} of {self.plan.n_images}, in one shared file"


def _fill_file(
    part: Part,
    progress: Progress,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> Progress:
    run, n_batches = part.run, itertools.count(1)
    describe = make_batch_describer(part.plan, run.make_describer(part.norm_factors), run.projector)

    def on_batch(progress: Progress) -> None:
        if next(n_batches) % _BATCHES_BETWEEN_RETURNS == 0:
            return_freed_memory()
        on_progress(progress)

    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(contextlib.closing(FeatureWriter(part.path)))
        chunks = iterate_chunks(run, part.plan, part.to_do, unmeasured=part.unmeasured, resized=part.resized)
        for chunk in stack.enter_context(contextlib.closing(chunks)):
            _record_headers(part, chunk, writer)
            on_progress(progress)
            progress = run_pipeline(
                part.plan,
                chunk.to_do,
                find_places=chunk.find_places,
                batch_size=run.request.run.batch_size,
                batch_pixels=run.batch_pixels,
                decoder=run.decoder,
                describe=describe,
                sink=writer,
                dtype=run.config.descriptor.dtype,
                nonfinite=run.config.descriptor.nonfinite,
                fail_fast=run.request.fail_fast,
                start=progress,
                on_progress=on_batch,
                should_stop=should_stop,
            )
            if should_stop():
                break
        return progress


def _record_headers(part: Part, chunk: Chunk, writer: FeatureWriter) -> None:
    """Record the sizes and versions of a chunk's images before its first batch.

    Images that are run again become pending first. If the process is killed at any moment, the file never shows a box,
    size or row of the new image with the old status. Versions come last: until then the next run measures the images
    again. Rows of boxes without area get NaN.
    """
    plan, boxes = part.plan, part.plan.boxes
    again = chunk.to_do[part.status[chunk.to_do] != Status.PENDING]
    for image in again.tolist():
        writer.reopen(image)
    if len(again):
        writer.sync()
    _record_sizes(part, chunk.resized, writer)
    writer.write_versions(chunk.to_do, plan.versions[chunk.to_do])
    if boxes is not None:
        rows = plan.rows_of(chunk.to_do)
        writer.write_no_descriptor(rows[boxes.is_degenerate[rows]])


def _record_sizes(part: Part, images: npt.NDArray[np.int64], writer: FeatureWriter) -> None:
    """Write sizes that are missing or wrong in the file, and the boxes that depend on them.

    Boxes come first: if the process is killed in between, the next run finds the old size and writes both.
    """
    if not len(images):
        return
    plan, boxes, rows = part.plan, part.plan.boxes, part.plan.rows_of(images)
    if boxes is None:
        writer.write_boxes(rows, whole_image_boxes(plan.image_hw[images]))
    else:
        scale = scale_sides(boxes.scale[rows], part.run.config.input)
        writer.write_boxes(rows, boxes.boxes_px[rows], flag=boxes.flag[rows], scale=scale)
    writer.sync()
    writer.write_sizes(images, plan.image_hw[images])
    writer.sync()


@contextlib.contextmanager
def open_output(request: Request, path: Path, *, lock_seconds: float = 0.0) -> Iterator[Output]:
    """Check and lock the output of a part; a URL gets a local file, which :meth:`LocalOutput.publish` uploads.

    If another process holds the lock, wait for ``lock_seconds``.

    Raises:
        ConfigError: the output is one of the inputs, or a URL that several processes would share.
        StoreError: no file can be written there, or another process is writing it.
    """
    if request.shared and url_of(path) is not None:
        raise ConfigError(f"--shared needs an output on this machine, not {str(url_of(path))!r}")
    with local_output(
        path, scratch=request.scratch, overwrite=request.overwrite, dry_run=request.dry_run
    ) as local:
        if local.url is None:
            check_output(local.path)
        refuse_input(local.path, request.inputs)
        real = Path(os.path.realpath(local.path))  # the target of a link is locked, written and replaced
        if request.dry_run:
            yield Output(real, local, None)
            return
        with _lock(request, real, time.monotonic() + lock_seconds) as lock:
            if not request.shared:
                remove_leftovers(real)
            yield Output(real, local, lock)


def _lock(request: Request, path: Path, until: float) -> OutputLock:
    shard = request.shard.name if request.shard is not None and request.shared else None
    while True:
        try:
            return OutputLock(path, shard=shard)
        except StoreError as error:
            if time.monotonic() >= until or not is_being_written(path):
                if request.shard_note:  # another process may have been given the same shard
                    raise StoreError(f"{error}; {request.shard_note}") from error
                raise
            time.sleep(_RETRY_SECONDS)


def read_outcome(path: Path, part: Part | None = None) -> Outcome:
    """Read a file and count its images, or only the images that ``part`` fills."""
    with FeatureFile(path) as file:
        first, stop = part.images if part else (0, len(file.status))
        status, boxes = file.status[first:stop], None
        reasons = {image: why for image, why in file.errors.items() if first <= image < stop}
        # The paths of a part are in memory already, perhaps ten million.
        name_of = file.path_of if part is None else lambda image: os.fsdecode(part.plan.paths[image])
        failures = [Failure(name_of(image), why) for image, why in reasons.items()]
        if file.has_boxes:
            rows = slice(*np.searchsorted(file.image_index, (first, stop)))
            is_done = status[file.image_index[rows] - first] == Status.DONE
            boxes = count_boxes(file.row_flag[rows], np.asarray(is_done))
    pending, done, failed = np.bincount(status, minlength=len(Status))[: len(Status)].tolist()
    name = part.name if part else str(path)
    return Outcome([name], len(status), done, failed, pending, failures, boxes)


def join_outcomes(outcomes: Sequence[Outcome], n_images: int) -> Outcome:
    """Add up the outcomes of files; of ``n_images`` images in total, those without an outcome count as pending."""
    done, failed = sum(own.done for own in outcomes), sum(own.failed for own in outcomes)
    boxes = [own.boxes for own in outcomes if own.boxes is not None]
    return Outcome(
        files=[file for own in outcomes for file in own.files],
        images=n_images,
        done=done,
        failed=failed,
        pending=n_images - done - failed,
        failures=[failure for own in outcomes for failure in own.failures],
        boxes={name: sum(own[name] for own in boxes) for name in boxes[0]} if boxes else None,
    )
