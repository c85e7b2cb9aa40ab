"""From the Plan to finished rows: decoded batches through the network into a sink.

Decoding goes on in other processes, writing in another thread: the network waits for neither while it can be helped.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.decoding import Decoded, Decoder, DecodeTask
from sppfeat.errors import DeviceMemoryError
from sppfeat.extraction.plan import Batch, Plan
from sppfeat.extraction.row_sink import RowBlock, Sink
from sppfeat.extraction.row_writing import RowWriting
from sppfeat.files.byte_ranges import Place

__all__ = ["Describe", "Places", "Progress", "run_pipeline"]


Places = Callable[[npt.NDArray[np.int64]], Sequence[Place | str]]
"""Images of a plan to where they are, or why they are nowhere."""


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


class Progress(NamedTuple):
    """How far a run is, and where its time went.

    Attributes:
        n_done: images with descriptors, in this run.
        n_failed: images that failed, in this run.
        decode_seconds: waited for decoded images.
        network_seconds: in the backbone and pooling.
        write_seconds: waited for the sink, which works in a thread of its own.
    """

    n_done: int = 0
    n_failed: int = 0
    decode_seconds: float = 0.0
    network_seconds: float = 0.0
    write_seconds: float = 0.0

    def followed_by(self, other: "Progress") -> "Progress":
        """Return this and that of further work together."""
        return Progress(*(own + more for own, more in zip(self, other, strict=True)))  # type: ignore[arg-type]


def run_pipeline(
    plan: Plan,
    batches: Iterable[Batch],
    *,
    places: Places,
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
        plan: sizes and rows.
        batches: what to do, in this order.
        places: where images of the plan are, or why they are nowhere.
        decoder: decodes them, ahead.
        describe: turns decoded images into rows.
        sink: gets rows first, then, after the last rows of an image, its mark.
        dtype: what the sink stores.
        nonfinite: ``fail``: an image fails whose descriptors hold NaN, infinities or values beyond ``dtype``;
            ``keep``: they are stored as they are.
        start: counts to go on from.
        on_progress: called after each batch, with what the sink has by then, and at the end.
        should_stop: asked after each batch; True ends the run early.

    Returns:
        The last progress.
    """
    begun = start or Progress()
    waited = _Waited()
    under_way: deque[Batch] = deque()
    in_parts = _InParts(describe)

    with RowWriting(sink, dtype=dtype, nonfinite=nonfinite) as writing:

        def progress() -> Progress:
            return Progress(
                begun.n_done + writing.n_done,
                begun.n_failed + writing.n_failed,
                begun.decode_seconds + waited.decode,
                begun.network_seconds + waited.network,
                begun.write_seconds + waited.write,
            )

        for decoded in decoder.decode(_tasks(plan, batches, places, under_way)):
            waited.for_decoding()
            batch = under_way.popleft()
            writing.fail(decoded.failures)
            for block in in_parts(decoded, batch.scale, writing.fail):
                waited.for_network()
                writing.add(block)
                waited.for_writing()
            waited.for_network()
            writing.end_batch(batch)
            waited.for_writing()
            on_progress(progress())
            if should_stop():
                break
            waited.begin()
        waited.begin()
        writing.finish()
        waited.for_writing()
    last = progress()
    on_progress(last)
    return last


class _InParts:
    """Describes batches, in parts that the device has memory for: it halves them, and learns how large they may be."""

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._most_pixels: int | None = None  # of the network input, at once

    def __call__(
        self, decoded: Decoded, scale: int, on_failure: Callable[[dict[int, str]], None]
    ) -> Iterator[RowBlock]:
        """Yield the rows of a batch; ``on_failure`` is told of an image that is too much by itself, and why."""
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
                why = (
                    f"{reason} for this image alone, {height} x {width} (height x width) at the network's input: "
                    "a smaller --size or --max-pixels would do"
                )
                on_failure({decoded.images[first]: why})
                continue
            half = (stop - first + 1) // 2
            self._most_pixels = half * height * width
            parts.extendleft([(first + half, stop), (first, first + half)])


class _Waited:
    """Seconds that the network's thread has spent on each stage."""

    def __init__(self) -> None:
        self.decode = self.network = self.write = 0.0
        self.begin()

    def begin(self) -> None:
        """Forget the time since the last stage."""
        self._last = time.perf_counter()

    def for_decoding(self) -> None:
        self.decode += self._lap()

    def for_network(self) -> None:
        self.network += self._lap()

    def for_writing(self) -> None:
        self.write += self._lap()

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds


def _tasks(
    plan: Plan, batches: Iterable[Batch], places: Places, under_way: deque[Batch]
) -> Iterator[DecodeTask]:
    for batch in batches:
        under_way.append(batch)
        yield DecodeTask(
            images=batch.images.tolist(),
            places=places(batch.images),
            image_hw=[(h, w) for h, w in plan.image_hw[batch.images].tolist()],
            input_hw=batch.input_hw,
        )
