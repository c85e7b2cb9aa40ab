"""From the Plan to finished rows: decoded batches through the network into a sink."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.decoding import Decoded, Decoder, DecodeTask
from sppfeat.errors import DeviceMemoryError, ImageError
from sppfeat.plan import Batch, Plan

__all__ = ["Describe", "FailFast", "Progress", "RowAudit", "RowBlock", "Sink", "run_pipeline"]


class RowAudit(NamedTuple):
    """How some rows were pooled.

    Attributes:
        flag: ``(K,)`` uint8, :class:`sppfeat.schema.RowFlag`.
        region: ``(K, L, 4)`` int32, cells of each layer's map.
    """

    flag: npt.NDArray[np.uint8]
    region: npt.NDArray[np.int32]


class RowBlock(NamedTuple):
    """Descriptors of some rows of an image.

    Attributes:
        image: whose they are.
        rows: ``(K,)`` int64, ascending.
        descriptors: ``(K, D)``.
        audit: how they were pooled; None for whole images.
    """

    image: int
    rows: npt.NDArray[np.int64]
    descriptors: npt.NDArray[np.floating[Any]]
    audit: RowAudit | None = None


class Describe(Protocol):
    """Turns decoded images into rows."""

    def __call__(
        self, images: Sequence[int], pixels: npt.NDArray[np.uint8], scale: int
    ) -> Iterator[RowBlock]:
        """Yield the rows of ``(N, H, W, 3)`` uint8 images at a scale, in pieces that fit into memory.

        Raises:
            DeviceMemoryError: fewer images at once might do.
        """
        ...


class Sink(Protocol):
    """Takes rows and what became of each image."""

    def write_rows(
        self,
        rows: npt.NDArray[np.int64],
        descriptors: npt.NDArray[np.floating[Any]],
        audit: RowAudit | None = None,
    ) -> None:
        """Take ``(K, D)`` descriptors for rows ``(K,)``, ascending."""
        ...

    def mark_done(self, image: int) -> None:
        """Note that all rows of an image have been written."""
        ...

    def mark_failed(self, image: int, reason: str) -> None:
        """Note that an image has no descriptor, and why."""
        ...


class FailFast:
    """A sink that ends the run at the first image that fails, and leaves that one as it is.

    Args:
        sink: takes everything else.
        plan: knows the names of the images.
    """

    def __init__(self, sink: Sink, plan: Plan) -> None:
        self.write_rows = sink.write_rows
        self.mark_done = sink.mark_done
        self._plan = plan

    def mark_failed(self, image: int, reason: str) -> None:
        """Raise an ImageError that names the image."""
        name = os.fsdecode(self._plan.paths[image])
        raise ImageError(f"{name!r}: {reason} (--fail-fast; what is done is kept)")


class Progress(NamedTuple):
    """How far a run is, and where its time went.

    Attributes:
        n_done: images with descriptors, in this run.
        n_failed: images that failed, in this run.
        decode_seconds: waited for decoded images.
        network_seconds: in the backbone and pooling.
        write_seconds: handing rows to the sink.
    """

    n_done: int = 0
    n_failed: int = 0
    decode_seconds: float = 0.0
    network_seconds: float = 0.0
    write_seconds: float = 0.0


def run_pipeline(
    plan: Plan,
    batches: Iterable[Batch],
    *,
    decoder: Decoder,
    describe: Describe,
    sink: Sink,
    dtype: str = "float32",
    nonfinite: str = "fail",
    start: Progress | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Process batches of a plan.

    Args:
        plan: paths, sizes and rows.
        batches: what to do, in this order.
        decoder: decodes them, ahead.
        describe: turns decoded images into rows.
        sink: gets rows first, then, after the last rows of an image, its mark.
        dtype: what the sink stores.
        nonfinite: ``fail``: an image fails whose descriptors hold NaN, infinities or values beyond ``dtype``;
            ``keep``: they are stored as they are.
        start: counts to go on from.
        on_progress: called after each batch.
        should_stop: asked after each batch; True ends the run early.

    Returns:
        The last progress.
    """
    progress = start or Progress()
    clock = _Clock()
    under_way: deque[Batch] = deque()
    failures: dict[int, str] = {}  # of images that a later batch has again
    in_parts = _InParts(describe)
    for decoded in decoder.decode(_tasks(plan, batches, under_way)):
        decode_seconds, write_seconds = clock.lap(), 0.0
        batch = under_way.popleft()
        for image, reason in decoded.failures.items():
            failures.setdefault(image, reason)
        network_seconds = 0.0
        for block in in_parts(decoded, batch.scale, failures):
            network_seconds += clock.lap()
            if block.image not in failures:
                unfit = _why_not_storable(block.descriptors, dtype) if nonfinite == "fail" else None
                if unfit is None:
                    sink.write_rows(block.rows, block.descriptors, block.audit)
                else:
                    failures[block.image] = unfit
            write_seconds += clock.lap()
        network_seconds += clock.lap()
        n_done, n_failed = _mark(batch, failures, sink)
        progress = Progress(
            n_done=progress.n_done + n_done,
            n_failed=progress.n_failed + n_failed,
            decode_seconds=progress.decode_seconds + decode_seconds,
            network_seconds=progress.network_seconds + network_seconds,
            write_seconds=progress.write_seconds + write_seconds + clock.lap(),
        )
        on_progress(progress)
        if should_stop():
            break
        clock.lap()
    return progress


class _InParts:
    """Describes batches, in parts that the device has memory for: it halves them, and learns how large they may be."""

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._most_pixels: int | None = None  # of the network input, at once

    def __call__(self, decoded: Decoded, scale: int, failures: dict[int, str]) -> Iterator[RowBlock]:
        """Yield the rows of a batch; an image that is too much by itself gets its reason in ``failures``."""
        height, width = decoded.pixels.shape[1:3]
        n_images = len(decoded.images)
        step = n_images if self._most_pixels is None else max(1, self._most_pixels // (height * width))
        parts = deque((i, min(i + step, n_images)) for i in range(0, n_images, max(1, step)))
        while parts:
            first, stop = parts.popleft()
            try:
                yield from self._describe(decoded.images[first:stop], decoded.pixels[first:stop], scale)
                continue
            except DeviceMemoryError as error:
                reason = str(error)
            # Behind the handler, which holds on to what took the memory.
            if stop - first == 1:
                failures.setdefault(
                    decoded.images[first],
                    f"{reason} for this image alone, {height} x {width} (height x width) at the network's input: "
                    "a smaller --size or --max-pixels would do",
                )
                continue
            half = (stop - first + 1) // 2
            self._most_pixels = half * height * width
            parts.extendleft([(first + half, stop), (first, first + half)])


def _mark(batch: Batch, failures: dict[int, str], sink: Sink) -> tuple[int, int]:
    """Mark the images that no later batch has; how many are done and failed."""
    finished = batch.images[batch.is_last].tolist()
    n_failed = 0
    for image in finished:
        reason = failures.pop(image, None)
        if reason is None:
            sink.mark_done(image)
        else:
            sink.mark_failed(image, reason)
            n_failed += 1
    return len(finished) - n_failed, n_failed


class _Clock:
    """Seconds between calls."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds


def _tasks(plan: Plan, batches: Iterable[Batch], under_way: deque[Batch]) -> Iterator[DecodeTask]:
    for batch in batches:
        under_way.append(batch)
        indices = batch.images.tolist()
        yield DecodeTask(
            images=indices,
            paths=[os.path.join(plan.root, plan.paths[i]) for i in indices],
            image_hw=[(h, w) for h, w in plan.image_hw[batch.images].tolist()],
            input_hw=batch.input_hw,
        )


def _why_not_storable(descriptors: npt.NDArray[np.floating[Any]], dtype: str) -> str | None:
    """Why descriptors cannot be stored as they are, or None: no infinity or NaN is written for a done image."""
    peak = float(np.abs(descriptors).max(initial=0.0))  # NaN if there is one
    if not np.isfinite(peak):
        n_bad = int((~np.isfinite(descriptors)).sum())
        return f"{n_bad} of the {descriptors.size} values of its descriptors are not finite"
    limit = float(np.finfo(dtype).max)
    if peak > limit:
        return (
            f"the descriptor holds {peak:.6g}, beyond {dtype} (at most {limit:g}): use float32, or normalise"
        )
    return None
