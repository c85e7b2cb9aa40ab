"""Turns batches of a plan into stored rows: decode, describe, write.

Worker processes decode and another thread writes, so that the network rarely waits for either.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.decoding import Batch, Decoded, Decoder
from sppfeat.errors import DeviceMemoryError
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.row_sink import Rows, RowSink, SinkThread
from sppfeat.files.places import Place

__all__ = ["BatchDescriber", "FindPlaces", "Progress", "run_pipeline"]

_DECODE, _NETWORK, _WRITE = range(3)

FindPlaces = Callable[[npt.NDArray[np.int64]], Sequence[Place | str]]
"""Images of a plan to their places, or to the reason why they have none."""


BatchDescriber = Callable[[Sequence[int], npt.NDArray[np.uint8], int], Iterator[Rows]]
"""Images, their pixels ``(N, H, W, 3)`` uint8 RGB and a scale to their rows, in pieces of bounded size.

Raises DeviceMemoryError if the device lacks memory; a smaller batch may fit.
"""


class Progress(NamedTuple):
    """Counts of finished images, and the seconds spent on each stage.

    Attributes:
        n_done: number of images described in this run.
        n_failed: number of images that failed in this run.
        decode_seconds: time spent waiting for decoded images.
        network_seconds: time spent in the network and in pooling.
        write_seconds: time spent waiting for the sink's thread.
    """

    n_done: int = 0
    n_failed: int = 0
    decode_seconds: float = 0.0
    network_seconds: float = 0.0
    write_seconds: float = 0.0

    def followed_by(self, other: "Progress") -> "Progress":
        """Add the progress of later work to this one."""
        return Progress(*(own + more for own, more in zip(self, other, strict=True)))  # type: ignore[arg-type]


def run_pipeline(
    plan: Plan,
    batches: Iterable[Batch],
    *,
    find_places: FindPlaces,
    decoder: Decoder,
    describe: BatchDescriber,
    sink: RowSink,
    dtype: str = "float32",
    nonfinite: str = "fail",
    start: Progress | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Decode and describe the batches of a plan, hand the rows to a sink, and return the progress at the end.

    Args:
        plan: image sizes and rows.
        batches: the batches, in the order to run them.
        find_places: finds the places of images.
        decoder: decodes the images, ahead of the network.
        describe: turns decoded images into rows.
        sink: takes the rows, and after an image's last rows its outcome.
        dtype: type that the sink stores, ``float32`` or ``float16``.
        nonfinite: ``fail``: an image fails if its descriptors hold NaN, infinities or values that ``dtype`` cannot
            hold; ``keep``: such values are stored.
        start: counts to continue from.
        on_progress: called after each batch and at the end; counts the images that the sink has marked.
        should_stop: called after each batch; True ends the run early.
    """
    begun = start or Progress()
    clock = _StageClock()
    describe_all = _SplittingDescriber(describe)

    with SinkThread(sink, dtype=dtype, nonfinite=nonfinite) as sink_thread:

        def progress() -> Progress:
            return begun.followed_by(Progress(sink_thread.n_done, sink_thread.n_failed, *clock.seconds))

        for decoded in decoder.decode(_located(plan, batches, find_places)):
            clock.lap(_DECODE)
            failures = dict(decoded.failures)
            for rows in describe_all(decoded, failures):
                clock.lap(_NETWORK)
                sink_thread.add(rows)
                clock.lap(_WRITE)
            clock.lap(_NETWORK)
            sink_thread.end_batch(decoded.batch, failures)
            clock.lap(_WRITE)
            on_progress(progress())
            if should_stop():
                break
            clock.lap()
        clock.lap()
        sink_thread.finish()
        clock.lap(_WRITE)
    last = progress()
    on_progress(last)
    return last


class _SplittingDescriber:
    """Describes batches; if the device lacks memory, halves them and remembers the size that fits."""

    def __init__(self, describe: BatchDescriber) -> None:
        self._describe = describe
        self._most_pixels: int | None = None  # network-input pixels that fit in one batch

    def __call__(self, decoded: Decoded, failures: dict[int, str]) -> Iterator[Rows]:
        """Yield the rows of a batch; ``failures`` gets each image that does not fit even alone, and the reason."""
        height, width = decoded.pixels.shape[1:3]
        n_images = len(decoded.images)
        step = n_images if self._most_pixels is None else max(1, self._most_pixels // (height * width))
        parts = deque((i, min(i + step, n_images)) for i in range(0, n_images, max(1, step)))
        while parts:
            first, stop = parts.popleft()
            try:
                yield from self._describe(
                    decoded.images[first:stop], decoded.pixels[first:stop], decoded.batch.scale
                )
                continue
            except DeviceMemoryError as error:
                reason = str(error)
            # Outside the handler: its traceback would keep the tensors that filled the memory.
            if stop - first == 1:
                why = (
                    f"{reason} for this image alone, {height} x {width} (height x width) at the network's input: "
                    "a smaller --size or --max-pixels would do"
                )
                failures[decoded.images[first]] = why
                continue
            half = (stop - first + 1) // 2
            self._most_pixels = half * height * width
            parts.extendleft([(first + half, stop), (first, first + half)])


class _StageClock:
    """Seconds that the main thread has spent on decoding, network and writing."""

    def __init__(self) -> None:
        self.seconds = [0.0, 0.0, 0.0]
        self._last = time.perf_counter()

    def lap(self, stage: int | None = None) -> None:
        """Count the time since the last call for a stage; None: for none."""
        now = time.perf_counter()
        if stage is not None:
            self.seconds[stage] += now - self._last
        self._last = now


def _located(plan: Plan, batches: Iterable[Batch], find_places: FindPlaces) -> Iterator[Batch]:
    """Add places and image sizes to batches, as late as possible: only few batches have them at a time."""
    for batch in batches:
        images = np.array(batch.images, dtype=np.int64)
        image_hw = [(h, w) for h, w in plan.image_hw[images].tolist()]
        yield batch._replace(places=find_places(images), image_hw=image_hw)
