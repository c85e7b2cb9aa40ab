"""Turns images of a plan into stored rows: cuts batches, decodes, describes, writes.

Worker processes decode and another thread writes, so that the network rarely waits for either.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import quoted
from sppfeat.decoding import Batch, Decoded, Decoder
from sppfeat.errors import DeviceMemoryError, ImageError
from sppfeat.extraction.plan import Plan, shape_keys
from sppfeat.files.places import Place
from sppfeat.store.schema import RowRegions

__all__ = ["BatchDescriber", "FindPlaces", "Progress", "RowSink", "Rows", "run_pipeline", "schedule"]

_DECODE, _NETWORK, _WRITE = range(3)
_NBYTES_AHEAD = 128 << 20  # of descriptors waiting for the sink
_TASK_NBYTES = 4 << 20  # of rows handed over at a time; waking the thread for each row costs too much


class Rows(NamedTuple):
    """Descriptors of some rows of one image."""

    image: int  # index of the image in the plan
    rows: npt.NDArray[np.int64]  # (K,) int64, row indices in the plan, ascending
    descriptors: npt.NDArray[np.floating[Any]]  # (K, D) float32
    regions: RowRegions | None = None  # flags and pooled regions of the rows; None for whole images
    # Blocks until the device has delivered the descriptors; by default they are in main memory already.
    wait: Callable[[], None] = lambda: None


FindPlaces = Callable[[npt.NDArray[np.int64]], Sequence[Place | str]]
"""Maps images of a plan to their places, or to the reason why they have none."""

BatchDescriber = Callable[[Sequence[int], npt.NDArray[np.uint8], int], Iterator[Rows]]
"""Maps images, their pixels ``(N, H, W, 3)`` uint8 RGB and a scale to their rows, in pieces of bounded size.

Raises DeviceMemoryError if the device lacks memory; a smaller batch may fit.
"""


class RowSink(Protocol):
    """Stores rows, and then the outcome of each image; :class:`sppfeat.store.writer.FeatureWriter` is one."""

    def write_rows(
        self,
        rows: npt.NDArray[np.int64],
        descriptors: npt.NDArray[np.floating[Any]],
        regions: RowRegions | None,
    ) -> None:
        """Store the descriptors of rows, with their flags and regions."""

    def mark_done(self, image: int) -> None:
        """Mark an image as done, after all its rows."""

    def mark_failed(self, image: int, reason: str) -> None:
        """Mark an image as failed, and record the reason."""


class Progress(NamedTuple):
    """Counts of the images that a run finished, and seconds spent on each stage.

    Decoding and writing count while the main thread waits for them; the network includes pooling.
    """

    n_done: int = 0
    n_failed: int = 0
    decode_seconds: float = 0.0
    network_seconds: float = 0.0
    write_seconds: float = 0.0
    n_narrow: int = 0  # images with 16-bit samples that use less than a quarter of their range
    narrow_example: str = ""  # the first of them, with its range


def run_pipeline(
    plan: Plan,
    images: npt.NDArray[np.int64],
    *,
    find_places: FindPlaces,
    batch_size: int | None,
    batch_pixels: int,
    decoder: Decoder,
    describe: BatchDescriber,
    sink: RowSink,
    dtype: str = "float32",
    nonfinite: str = "fail",
    fail_fast: bool = False,
    start: Progress | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Decode and describe images of a plan, hand the rows to a sink, and return the final progress.

    Before the first batch, images with an error in the plan are marked as failed, and images without regions as done.

    Args:
        images: ``(n,)`` int64, the images to run.
        batch_size, batch_pixels: see :func:`schedule`.
        dtype: type that the sink stores, ``float32`` or ``float16``.
        nonfinite: ``fail`` to fail an image whose descriptors contain NaN, infinities or values that ``dtype`` cannot
            hold; ``keep`` to store such values.
        fail_fast: True to raise ImageError for the first image that fails instead of marking it.
        start: counts to continue from.
        on_progress: called after each batch and at the end; counts the images that the sink has marked.
        should_stop: called after each batch; True ends the run early.
    """
    start = start or Progress()
    clock = _StageClock([start.decode_seconds, start.network_seconds, start.write_seconds])
    describe_all = _SplittingDescriber(describe)
    uses = plan.scales_in_use(images)
    is_readable = np.array([image not in plan.errors for image in images.tolist()], dtype=bool)
    is_run = np.asarray(is_readable & uses.any(axis=1))
    batches = schedule(
        plan.input_hw, images[is_run], batch_size=batch_size, batch_pixels=batch_pixels, uses=uses[is_run]
    )
    # Images in no batch are marked together, like one batch.
    others = images[~is_run].tolist()
    unreadable = {image: plan.errors[image] for image in others if image in plan.errors}

    sink_thread = _SinkThread(
        sink, dtype=dtype, nonfinite=nonfinite, fatal_paths=plan.paths if fail_fast else None
    )

    n_narrow, narrow_example = start.n_narrow, start.narrow_example

    def progress() -> Progress:
        n_done, n_failed = start.n_done + sink_thread.n_done, start.n_failed + sink_thread.n_failed
        decode, network, write = clock.seconds
        return Progress(n_done, n_failed, decode, network, write, n_narrow, narrow_example)

    with contextlib.closing(sink_thread):
        sink_thread.end_batch(Batch(others, (), (), (0, 0), 0, [True] * len(others)), unreadable)
        for decoded in decoder.decode(_located(plan, batches, find_places)):
            clock.lap(_DECODE)
            failures = dict(decoded.failures)
            for image, is_last in zip(decoded.batch.images, decoded.batch.is_last, strict=True):
                if is_last and (samples := decoded.narrow.get(image)):
                    n_narrow += 1
                    example = f"{quoted(plan.paths[image])} ({samples[0]} to {samples[1]})"
                    narrow_example = narrow_example or example
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


def schedule(
    input_hw: npt.NDArray[np.int32],
    images: npt.NDArray[np.int64],
    *,
    batch_size: int | None,
    batch_pixels: int,
    uses: npt.NDArray[np.bool_] | None = None,
) -> Iterator[Batch]:
    """Cut images into batches of equal network-input size: largest size first, then in plan order.

    Images of equal sizes at every scale stay together, and the scales of a group follow each other, so that few images
    are unfinished at any time.

    Args:
        input_hw: ``(N, S, 2)`` int32, network-input sizes of every image in pixels; 0 if it cannot be processed.
        images: ``(n,)`` int64, indices of the images to run; images that cannot be processed are skipped.
        batch_size: images per batch; None: as many as fit in ``batch_pixels``, at least one.
        batch_pixels: network-input pixels per batch if ``batch_size`` is None.
        uses: ``(n, S)`` bool, True for the scales at which each of ``images`` must be run; None: all scales.

    Yields:
        Batches without places and image sizes.
    """
    hw = input_hw[images]
    if uses is None:
        uses = np.ones(hw.shape[:2], dtype=bool)
    keys = shape_keys(hw.reshape(-1, 2)).reshape(hw.shape[:2])
    pixels = hw.prod(axis=2, dtype=np.int64).max(axis=1, initial=0)
    order = np.lexsort((images, *(-keys).T, -pixels))
    wanted = np.asarray((keys > 0).all(axis=1) & uses.any(axis=1))
    order = order[wanted[order]]
    changes = np.flatnonzero((np.diff(keys[order], axis=0) != 0).any(axis=1)) + 1
    bounds = np.array([0, *changes, len(order)]) if len(order) else order
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        step = batch_size or max(1, batch_pixels // int(pixels[order[start]]))
        for first in range(start, stop, step):
            group = order[first : min(first + step, stop)]
            yield from _at_each_scale(images[group], hw[order[start]], uses[group])


def _at_each_scale(
    images: npt.NDArray[np.int64], input_hw: npt.NDArray[np.int32], uses: npt.NDArray[np.bool_]
) -> Iterator[Batch]:
    """Yield one batch for each scale that any of the images needs; ``input_hw`` is ``(S, 2)``."""
    last = len(input_hw) - 1 - uses[:, ::-1].argmax(axis=1)
    for scale, (height, width) in enumerate(input_hw.tolist()):
        here = uses[:, scale]
        if here.any():
            is_last = (last[here] == scale).tolist()
            yield Batch(images[here].tolist(), (), (), (height, width), scale, is_last)


def _located(plan: Plan, batches: Iterable[Batch], find_places: FindPlaces) -> Iterator[Batch]:
    """Add places and image sizes to batches as late as possible, so that only few batches hold them at a time."""
    for batch in batches:
        images = np.array(batch.images, dtype=np.int64)
        image_hw = [(h, w) for h, w in plan.image_hw[images].tolist()]
        yield batch._replace(places=find_places(images), image_hw=image_hw)


class _SplittingDescriber:
    """Describes batches; halves them if the device lacks memory, and remembers the size that fits."""

    def __init__(self, describe: BatchDescriber) -> None:
        self._describe = describe
        self._most_pixels: int | None = None  # network-input pixels that fit in one batch

    def __call__(self, decoded: Decoded, failures: dict[int, str]) -> Iterator[Rows]:
        """Yield the rows of a batch; add images that do not fit even alone to ``failures``, with the reason."""
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
            # Outside the handler, whose traceback would keep the tensors that filled the memory.
            if stop - first == 1:
                failures[decoded.images[first]] = (
                    f"{reason} for this image alone (network input {height} x {width}, height x width); use a "
                    "smaller --size or --max-pixels"
                )
                continue
            half = (stop - first + 1) // 2
            self._most_pixels = half * height * width
            parts.extendleft([(first + half, stop), (first, first + half)])


class _SinkThread:
    """A thread that passes rows and image outcomes to a sink, in order; see :func:`run_pipeline` for the values.

    :meth:`close` drops the rows of an unfinished batch, so that no image with incomplete rows is ever marked; finished
    batches still reach the sink. Until then no other thread may use the sink. The next call raises an error of the
    sink.

    Args:
        fatal_paths: paths of the images, to raise ImageError for the first failure; None to mark failures and go on.

    Attributes:
        n_done, n_failed: numbers of images marked as done, and as failed, so far.
    """

    def __init__(
        self, sink: RowSink, *, dtype: str, nonfinite: str, fatal_paths: Sequence[bytes] | None = None
    ) -> None:
        self.n_done = 0
        self.n_failed = 0
        self._sink = sink
        self._dtype = dtype
        self._checks_values = nonfinite == "fail"
        self._fatal_paths = fatal_paths
        self._failures: dict[int, str] = {}  # by image, until its last batch; for the thread only
        self._is_broken = False
        self._unsent: list[Rows] = []
        self._unsent_nbytes = 0
        self._submitted: deque[tuple[Future[None], int]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sppfeat-writing")

    def add(self, rows: Rows) -> None:
        """Hand over rows; block while too many wait for the sink."""
        self._unsent.append(rows)
        self._unsent_nbytes += rows.descriptors.nbytes
        if self._unsent_nbytes >= _TASK_NBYTES:
            unsent, nbytes = self._take_unsent()
            self._submit(lambda: self._write(unsent), nbytes)

    def end_batch(self, batch: Batch, failures: Mapping[int, str]) -> None:
        """Finish a batch: mark the images that no later batch contains. The first failure of an image counts."""
        rows, nbytes = self._take_unsent()

        # One task, because an interruption between two tasks would leave rows without marks.
        def end() -> None:
            for image, reason in failures.items():
                self._failures.setdefault(image, reason)
            self._write(rows)
            self._mark(batch)

        self._submit(end, nbytes)

    def finish(self) -> None:
        """Wait until the sink has stored all finished batches."""
        while self._submitted:
            self._submitted.popleft()[0].result()

    def close(self) -> None:
        """Wait for the thread to end."""
        self._thread.shutdown(wait=True)

    def _take_unsent(self) -> tuple[list[Rows], int]:
        rows, nbytes = self._unsent, self._unsent_nbytes
        self._unsent, self._unsent_nbytes = [], 0
        return rows, nbytes

    def _submit(self, task: Callable[[], None], nbytes: int) -> None:
        while self._submitted and (
            self._submitted[0][0].done() or nbytes + sum(n for _, n in self._submitted) > _NBYTES_AHEAD
        ):
            self._submitted.popleft()[0].result()
        self._submitted.append((self._thread.submit(self._unless_broken, task), nbytes))

    def _unless_broken(self, task: Callable[[], None]) -> None:
        """Run a task unless an earlier one failed, so that no image is marked without its rows."""
        if self._is_broken:
            return
        try:
            task()
        except BaseException:
            self._is_broken = True
            raise

    def _write(self, unsent: list[Rows]) -> None:
        for rows in unsent:
            if rows.image in self._failures:
                continue
            rows.wait()
            unfit = _explain_unstorable(rows.descriptors, self._dtype) if self._checks_values else None
            if unfit is None:
                self._sink.write_rows(rows.rows, rows.descriptors, rows.regions)
            else:
                self._failures[rows.image] = unfit

    def _mark(self, batch: Batch) -> None:
        for image, is_last in zip(batch.images, batch.is_last, strict=True):
            if not is_last:
                continue
            reason = self._failures.pop(image, None)
            if reason is None:
                self._sink.mark_done(image)
                self.n_done += 1
            elif self._fatal_paths is not None:
                name = os.fsdecode(self._fatal_paths[image])
                raise ImageError(f"{name!r}: {reason} (--fail-fast; finished images are kept)")
            else:
                self._sink.mark_failed(image, reason)
                self.n_failed += 1


def _explain_unstorable(descriptors: npt.NDArray[np.floating[Any]], dtype: str) -> str | None:
    """Return the reason why descriptors ``(K, D)`` cannot be stored; None if they can be."""
    peak = float(np.abs(descriptors).max(initial=0.0))  # NaN if any value is NaN
    if not np.isfinite(peak):
        n_bad = int((~np.isfinite(descriptors)).sum())
        return f"{n_bad} of {descriptors.size} values of its descriptors are not finite"
    limit = float(np.finfo(dtype).max)
    if peak > limit:
        return f"the descriptor holds {peak:.6g}, but {dtype} at most {limit:g}; use --dtype float32 or --normalize"
    return None


class _StageClock:
    """Adds up the seconds that the main thread spends on decoding, network and writing."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds
        self._last = time.perf_counter()

    def lap(self, stage: int | None = None) -> None:
        """Add the time since the last call to a stage, or to none."""
        now = time.perf_counter()
        if stage is not None:
            self.seconds[stage] += now - self._last
        self._last = now
