"""Runs one part: describes its images chunk by chunk, batch by batch, into one feature file."""

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
from sppfeat.extraction.chunks import Chunk, SizeReader, iterate_chunks
from sppfeat.extraction.describe import make_batch_describer
from sppfeat.extraction.parts import Part
from sppfeat.extraction.pipeline import Progress, run_pipeline
from sppfeat.extraction.plan import Plan, schedule
from sppfeat.extraction.row_sink import FailFastSink
from sppfeat.extraction.setup import RunSetup
from sppfeat.store.schema import Status, scale_sides, whole_image_boxes
from sppfeat.store.writer import FeatureWriter, PartWriter

__all__ = ["HeaderResults", "record_headers", "refuse_unreadable", "run_part"]

_BATCHES_BETWEEN_RETURNS = 32


def run_part(
    setup: RunSetup,
    part: Part,
    path: Path,
    *,
    norm_factors: tuple[float, ...] | None,
    decoder: Decoder,
    scratch: Path,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Fill a file that has been laid out with the descriptors of a part.

    Args:
        setup: settings, network and device.
        part: the images to run.
        path: path of the file; the caller holds its lock.
        norm_factors: factor of each layer under ``meannorm``; else None.
        decoder: decodes the images.
        scratch: existing folder for images that must be fetched.
        on_progress: called after each batch, and before the first batch of each chunk.
        should_stop: called after each batch; True ends the run early, and the file can be continued.

    Returns:
        The progress at the end.

    Raises:
        StoreError: the file cannot be written to.
        ImageError: an image failed, and the request says to stop at the first failure.
    """
    request, config = setup.request, setup.config
    describer = setup.make_describer(config.descriptor, norm_factors)
    n_batches = itertools.count(1)

    def on_batch(progress: Progress) -> None:
        if next(n_batches) % _BATCHES_BETWEEN_RETURNS == 0:
            return_freed_memory()
        on_progress(progress)

    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(contextlib.closing(FeatureWriter(path)))

        def open_reader() -> SizeReader:
            return SizeReader(config.input, setup.planner, stack.enter_context(setup.open_prober()), scratch)

        chunks = iterate_chunks(
            part.plan, part.to_do, unmeasured=part.unmeasured, resized=part.resized, open_reader=open_reader
        )
        progress = Progress()
        for chunk in stack.enter_context(contextlib.closing(chunks)):
            plan, chunk_writer = chunk.plan, writer.part(chunk.first_image, chunk.first_row)
            if request.fail_fast:
                refuse_unreadable(plan, chunk.to_do, kept="what is done is kept")
            status = part.status[chunk.first_image : chunk.first_image + plan.n_images]
            results = record_headers(chunk, status, config.input, chunk_writer)
            start = progress._replace(
                n_done=progress.n_done + len(results.done), n_failed=progress.n_failed + len(results.failed)
            )
            on_progress(start)
            batches = schedule(
                plan.input_hw,
                results.left,
                batch_size=request.run.batch_size,
                batch_pixels=setup.batch_pixels,
                uses=plan.uses,
            )
            progress = run_pipeline(
                plan,
                batches,
                find_places=chunk.find_places,
                decoder=decoder,
                describe=make_batch_describer(plan, describer, setup.projector),
                sink=FailFastSink(chunk_writer, plan) if request.fail_fast else chunk_writer,
                dtype=config.descriptor.dtype,
                nonfinite=config.descriptor.nonfinite,
                start=start,
                on_progress=on_batch,
                should_stop=should_stop,
            )
            if should_stop():
                break
        return progress


def refuse_unreadable(plan: Plan, to_do: npt.NDArray[np.int64], *, kept: str) -> None:
    """Raise ImageError if the plan already marks an image to run as unreadable.

    Args:
        plan: the plan of the images.
        to_do: ``(n,)`` int64, indices of the images to run.
        kept: text about the output, for the message.
    """
    unreadable = to_do[np.isin(to_do, list(plan.errors))].tolist()
    if unreadable:
        name, reason = os.fsdecode(plan.paths[unreadable[0]]), plan.errors[unreadable[0]]
        others = f", and {counted(len(unreadable) - 1, 'other')}" if len(unreadable) > 1 else ""
        raise ImageError(f"{name!r}: {reason}{others} (--fail-fast; {kept})")


class HeaderResults(NamedTuple):
    """Indices of the images of a chunk, grouped by what their headers decide before any decoding.

    Attributes:
        failed: ``(f,)`` int64, images that cannot be processed.
        done: ``(d,)`` int64, images with nothing to pool, which are done already.
        left: ``(n,)`` int64, images to decode and describe.
    """

    failed: npt.NDArray[np.int64]
    done: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]


def record_headers(
    chunk: Chunk, status: npt.NDArray[np.uint8], spec: InputSpec, writer: PartWriter
) -> HeaderResults:
    """Write everything about a chunk that needs no pixels, before its first batch.

    Sizes are recorded; retried images become pending; images that cannot be processed fail; rows whose box has no area
    get NaN; and images with nothing to pool are done.

    Args:
        chunk: the images.
        status: ``(N,)`` uint8, status of the chunk's images before this run.
        spec: the network-input settings.
        writer: writes the chunk's range of the file.
    """
    plan, to_do = chunk.plan, chunk.to_do
    _record_sizes(chunk, spec, writer)
    for image in to_do[status[to_do] == Status.FAILED].tolist():
        writer.reopen(image)
    unreadable = to_do[np.isin(to_do, list(plan.errors))]
    for image in unreadable.tolist():
        writer.mark_failed(image, plan.errors[image])
    left = np.setdiff1d(to_do, unreadable)
    if plan.boxes is None:
        return HeaderResults(unreadable, left[:0], left)
    is_left = np.zeros(plan.n_images, dtype=bool)
    is_left[left] = True
    writer.write_no_descriptor(np.flatnonzero(plan.boxes.is_degenerate & is_left[plan.row_images]))
    is_pooled = plan.uses[left].any(axis=1)
    for image in left[~is_pooled].tolist():
        writer.mark_done(image)
    return HeaderResults(unreadable, left[~is_pooled], left[is_pooled])


def _record_sizes(chunk: Chunk, spec: InputSpec, writer: PartWriter) -> None:
    """Write the sizes that are missing or wrong in the file, and the boxes that depend on them.

    Boxes come first: if the process is killed in between, the next run finds the old size and writes both again.
    """
    plan, images, boxes = chunk.plan, chunk.resized, chunk.plan.boxes
    if not len(images):
        return
    is_resized = np.zeros(plan.n_images, dtype=bool)
    is_resized[images] = True
    rows = np.flatnonzero(is_resized[plan.row_images])
    if boxes is None:
        writer.write_boxes(rows, whole_image_boxes(plan.image_hw[images]))
    else:
        sides = scale_sides(boxes.scale[rows], spec)
        writer.write_boxes(rows, boxes.boxes_px[rows], flag=boxes.flag[rows], scale=sides)
    writer.sync()
    writer.write_sizes(images, plan.image_hw[images])
    writer.sync()
