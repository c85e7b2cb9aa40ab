"""From the Plan to finished rows: decoded batches through the network into a sink."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.decoding import Decoder, DecodeTask
from sppfeat.plan import Batch, Plan

__all__ = ["Describe", "Progress", "Sink", "run_pipeline"]

Describe = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


class Sink(Protocol):
    """Takes rows and what became of each image."""

    def write_rows(self, first_row: int, descriptors: npt.NDArray[np.floating[Any]]) -> None:
        """Take ``(K, D)`` descriptors for rows ``first_row`` and on."""
        ...

    def mark_done(self, image: int) -> None:
        """Note that all rows of an image have been written."""
        ...

    def mark_failed(self, image: int, reason: str) -> None:
        """Note that an image has no descriptor, and why."""
        ...


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
    start: Progress | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Process batches of a plan.

    Args:
        plan: paths, sizes and rows.
        batches: what to do, in this order.
        decoder: decodes them, ahead.
        describe: ``(N, H, W, 3)`` uint8 to ``(N, D)`` float32.
        sink: gets rows first, then the mark of their image.
        dtype: what the sink stores; an image whose values do not fit it fails.
        start: counts to go on from.
        on_progress: called after each batch.
        should_stop: asked after each batch; True ends the run early.

    Returns:
        The last progress.
    """
    progress = start or Progress()
    clock = _Clock()
    for decoded in decoder.decode(_tasks(plan, batches)):
        decode_seconds = clock.lap()
        descriptors = describe(decoded.pixels) if decoded.images else np.empty((0, 0), dtype=np.float32)
        network_seconds = clock.lap()
        failures = dict(decoded.failures)
        for image, descriptor in zip(decoded.images, descriptors, strict=True):
            reason = _why_not_storable(descriptor, dtype)
            if reason is not None:
                failures[image] = reason
                continue
            sink.write_rows(int(plan.rows[image, 0]), descriptor[None])
            sink.mark_done(image)
        for image, reason in failures.items():
            sink.mark_failed(image, reason)
        progress = Progress(
            n_done=progress.n_done + len(decoded.images) + len(decoded.failures) - len(failures),
            n_failed=progress.n_failed + len(failures),
            decode_seconds=progress.decode_seconds + decode_seconds,
            network_seconds=progress.network_seconds + network_seconds,
            write_seconds=progress.write_seconds + clock.lap(),
        )
        on_progress(progress)
        if should_stop():
            break
        clock.lap()
    return progress


class _Clock:
    """Seconds between calls."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds


def _tasks(plan: Plan, batches: Iterable[Batch]) -> Iterator[DecodeTask]:
    for images, input_hw in batches:
        indices = images.tolist()
        yield DecodeTask(
            images=indices,
            paths=[os.path.join(plan.root, plan.paths[i]) for i in indices],
            image_hw=[(h, w) for h, w in plan.image_hw[images].tolist()],
            input_hw=input_hw,
        )


def _why_not_storable(descriptor: npt.NDArray[np.float32], dtype: str) -> str | None:
    """Why a descriptor cannot be stored as it is, or None: no infinity or NaN is ever written for a done image."""
    peak = float(np.abs(descriptor).max(initial=0.0))  # NaN if there is one
    if not np.isfinite(peak):
        n_bad = int((~np.isfinite(descriptor)).sum())
        return f"{n_bad} of the descriptor's {len(descriptor)} values are not finite"
    limit = float(np.finfo(dtype).max)
    if peak > limit:
        return (
            f"the descriptor holds {peak:.6g}, beyond {dtype} (at most {limit:g}): use float32, or normalise"
        )
    return None
