"""One feature file filled by one process: window by window, batch by batch."""

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

from sppfeat.config.machine import return_freed_memory
from sppfeat.decoding import Decoder
from sppfeat.extraction.batch_describer import describe_plan
from sppfeat.extraction.chunks import Learning, windows
from sppfeat.extraction.header_results import refuse_unreadable, settle
from sppfeat.extraction.parts import Work
from sppfeat.extraction.pipeline import Progress, run_pipeline
from sppfeat.extraction.plan import schedule
from sppfeat.extraction.row_sink import FailFast
from sppfeat.extraction.setup import Equipment
from sppfeat.store.writer import FeatureWriter

__all__ = ["fill"]

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
