"""One feature file filled by one process: window by window, batch by batch."""

import contextlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import return_freed_memory
from sppfeat.config.specs import InputSpec
from sppfeat.config.wording import counted
from sppfeat.decoding import Decoder
from sppfeat.errors import ImageError
from sppfeat.extraction.batch_describer import describe_plan
from sppfeat.extraction.chunks import Learning, Window, windows
from sppfeat.extraction.parts import Work
from sppfeat.extraction.pipeline import Progress, run_pipeline
from sppfeat.extraction.plan import Plan, schedule
from sppfeat.extraction.row_sink import FailFast
from sppfeat.extraction.setup import Equipment
from sppfeat.store.schema import Status, scale_sides, whole_image_boxes
from sppfeat.store.writer import BoxAudit, FeatureWriter, PartWriter

__all__ = ["Settled", "fill", "refuse_unreadable", "settle"]

_BATCHES_BETWEEN_RETURNS = 32


def fill(
    equipment: Equipment,
    work: Work,
    path: Path,
    *,
    norm_factors: tuple[float, ...] | None,
    decoder: Decoder,
    scratch: Path,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Do the work on a file that is laid out.

    Args:
        equipment: settings, network and device.
        work: what to do.
        path: the file; the caller holds its lock.
        norm_factors: of the mean norm, if that is asked for.
        decoder: reads the images.
        scratch: an existing folder, for images that have to be fetched.
        on_progress: called after each batch, and before the first.
        should_stop: asked after each batch; True ends the run early, with a file that can be continued.

    Returns:
        What was done.

    Raises:
        StoreError: the file cannot be written to.
        ImageError: an image failed, and that was to end the run.
    """
    run = equipment.request.run
    describer = equipment.describer(equipment.config.descriptor, norm_factors)
    n_batches = itertools.count(1)

    def on_batch(progress: Progress) -> None:
        if next(n_batches) % _BATCHES_BETWEEN_RETURNS == 0:
            return_freed_memory()
        on_progress(progress)

    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(contextlib.closing(FeatureWriter(path)))

        def learning() -> Learning:
            prober = stack.enter_context(equipment.prober())
            return Learning(equipment.config.input, equipment.planner, prober, scratch)

        every = windows(
            work.plan, work.to_do, to_learn=work.to_learn, resized=work.resized, learning=learning
        )
        progress = Progress()
        for window in stack.enter_context(contextlib.closing(every)):
            plan, part = window.plan, writer.part(window.first, window.first_row)
            if equipment.request.fail_fast:
                refuse_unreadable(plan, window.to_do, kept="what is done is kept")
            status = work.status[window.first : window.first + plan.n_images]
            settled = settle(window, status, equipment.config.input, part)
            start = progress._replace(
                n_done=progress.n_done + len(settled.done), n_failed=progress.n_failed + len(settled.failed)
            )
            on_progress(start)
            batches = schedule(
                plan.input_hw,
                settled.left,
                batch_size=run.batch_size,
                batch_pixels=equipment.batch_pixels,
                uses=plan.uses,
            )
            progress = run_pipeline(
                plan,
                batches,
                places=window.places,
                decoder=decoder,
                describe=describe_plan(plan, describer, equipment.projector),
                sink=FailFast(part, plan) if equipment.request.fail_fast else part,
                dtype=equipment.config.descriptor.dtype,
                nonfinite=equipment.config.descriptor.nonfinite,
                start=start,
                on_progress=on_batch,
                should_stop=should_stop,
            )
            if should_stop():
                break
        return progress


class Settled(NamedTuple):
    """What became of the images of a window before its first batch.

    Attributes:
        failed: ``(f,)`` int64, those that cannot be processed.
        done: ``(d,)`` int64, those that have no row with a descriptor.
        left: ``(n,)`` int64, those that have to be run.
    """

    failed: npt.NDArray[np.int64]
    done: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]


def refuse_unreadable(plan: Plan, to_do: npt.NDArray[np.int64], *, kept: str) -> None:
    """Raise ImageError if it is known already that images will fail.

    Args:
        plan: of the images.
        to_do: ``(n,)`` int64, which of them are to be run.
        kept: what is said of the run's output.
    """
    unreadable = to_do[np.isin(to_do, list(plan.errors))].tolist()
    if unreadable:
        name, reason = os.fsdecode(plan.paths[unreadable[0]]), plan.errors[unreadable[0]]
        others = f", and {counted(len(unreadable) - 1, 'other')}" if len(unreadable) > 1 else ""
        raise ImageError(f"{name!r}: {reason}{others} (--fail-fast; {kept})")


def settle(window: Window, status: npt.NDArray[np.uint8], spec: InputSpec, writer: PartWriter) -> Settled:
    """Record what is known of the images of a window, and mark those that need no network.

    Images that are tried again become pending, sizes are recorded, images that cannot be processed fail, rows
    whose box has no area get NaN, and images of which nothing has to be pooled are done.

    Args:
        window: what is to be run.
        status: ``(N,)`` uint8 of its images before this run.
        spec: sizes of the network input.
        writer: of its part of the file.
    """
    plan, to_do = window.plan, window.to_do
    _record_sizes(window, spec, writer)
    for image in to_do[status[to_do] == Status.FAILED].tolist():
        writer.reopen(image)
    unreadable = to_do[np.isin(to_do, list(plan.errors))]
    for image in unreadable.tolist():
        writer.mark_failed(image, plan.errors[image])
    left = np.setdiff1d(to_do, unreadable)
    if plan.boxes is None:
        return Settled(unreadable, left[:0], left)
    is_left = np.zeros(plan.n_images, dtype=bool)
    is_left[left] = True
    writer.write_no_descriptor(np.flatnonzero(plan.boxes.is_degenerate & is_left[plan.row_images]))
    has_work = plan.uses[left].any(axis=1)
    for image in left[~has_work].tolist():
        writer.mark_done(image)
    return Settled(unreadable, left[~has_work], left[has_work])


def _record_sizes(window: Window, spec: InputSpec, writer: PartWriter) -> None:
    """Record the sizes that the file does not have right, and the boxes that depend on them.

    Boxes first: a run that is killed here finds the old size again, and does all of it once more.
    """
    plan, images, own = window.plan, window.resized, window.plan.boxes
    if not len(images):
        return
    is_resized = np.zeros(plan.n_images, dtype=bool)
    is_resized[images] = True
    rows = np.flatnonzero(is_resized[plan.row_images])
    if own is None:
        writer.write_boxes(rows, whole_image_boxes(plan.image_hw[images]))
    else:
        audit = BoxAudit(own.flag[rows], scale_sides(own.scale[rows], spec))
        writer.write_boxes(rows, own.boxes_px[rows], audit)
    writer.sync()
    writer.write_sizes(images, plan.image_hw[images])
    writer.sync()
