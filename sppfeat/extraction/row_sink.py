"""Described rows, and the thread that stores them, so that the network does not wait for the disk."""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.decoding import Batch
from sppfeat.store.schema import RowRegions

__all__ = ["RowSink", "Rows", "SinkThread", "no_wait"]

_NBYTES_AHEAD = 128 << 20  # of descriptors waiting for the sink
_TASK_NBYTES = 4 << 20  # of rows handed over at a time: a single row is not worth waking the thread


def no_wait() -> None:
    """Return at once: the values are in main memory already."""


class Rows(NamedTuple):
    """Descriptors of some rows of one image.

    Attributes:
        image: index of the image in the plan.
        rows: ``(K,)`` int64, row indices in the plan, ascending.
        descriptors: ``(K, D)`` float32.
        regions: flags and pooled regions of the rows; None for whole images.
        wait: blocks until the device has delivered the descriptors; call it before reading them.
    """

    image: int
    rows: npt.NDArray[np.int64]
    descriptors: npt.NDArray[np.floating[Any]]
    regions: RowRegions | None = None
    wait: Callable[[], None] = no_wait


class RowSink(Protocol):
    """Stores rows, and then the outcome of each image."""

    def write_rows(self, rows: Rows) -> None:
        """Store the descriptors of rows, with their flags and regions."""

    def mark_done(self, image: int) -> None:
        """Mark an image as done, after all its rows."""

    def mark_failed(self, image: int, reason: str) -> None:
        """Mark an image as failed, and record the reason."""


class SinkThread:
    """A thread that passes rows and image outcomes to a sink, in order; a context manager.

    If the context ends with an exception, the rows of an unfinished batch are dropped, so that no image with incomplete
    rows is ever marked; finished batches still reach the sink. Meanwhile no other thread may use the sink. An error of
    the sink is raised by the next call.

    Attributes:
        n_done, n_failed: numbers of images marked as done, and as failed, so far.
    """

    def __init__(self, sink: RowSink, *, dtype: str, nonfinite: str) -> None:
        self.n_done = 0
        self.n_failed = 0
        self._sink = sink
        self._dtype = dtype
        self._checks_values = nonfinite == "fail"
        self._failures: dict[int, str] = {}  # by image, until its last batch; used by the thread only
        self._is_broken = False
        self._unsent: list[Rows] = []
        self._unsent_nbytes = 0
        self._submitted: deque[tuple[Future[None], int]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sppfeat-writing")

    def __enter__(self) -> "SinkThread":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)

    def add(self, rows: Rows) -> None:
        """Hand over rows; block while too many are waiting for the sink."""
        self._unsent.append(rows)
        self._unsent_nbytes += rows.descriptors.nbytes
        if self._unsent_nbytes >= _TASK_NBYTES:
            unsent, nbytes = self._take_unsent()
            self._submit(lambda: self._write(unsent), nbytes)

    def end_batch(self, batch: Batch, failures: Mapping[int, str]) -> None:
        """Finish a batch: mark its images that no later batch contains; the first failure of an image counts."""
        rows, nbytes = self._take_unsent()

        # A single task: an interruption between two tasks would leave rows without their marks.
        def end() -> None:
            for image, reason in failures.items():
                self._failures.setdefault(image, reason)
            self._write(rows)
            self._mark(batch)

        self._submit(end, nbytes)

    def finish(self) -> None:
        """Wait until the sink has stored all batches that were ended."""
        while self._submitted:
            self._submitted.popleft()[0].result()

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
        """Run a task unless an earlier one failed: no mark may follow rows that were not written."""
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
                self._sink.write_rows(rows)
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
            else:
                self._sink.mark_failed(image, reason)
                self.n_failed += 1


def _explain_unstorable(descriptors: npt.NDArray[np.floating[Any]], dtype: str) -> str | None:
    """Return the reason why descriptors ``(K, D)`` cannot be stored; None if they can."""
    peak = float(np.abs(descriptors).max(initial=0.0))  # NaN if any value is NaN
    if not np.isfinite(peak):
        n_bad = int((~np.isfinite(descriptors)).sum())
        return f"{n_bad} of the {descriptors.size} values of its descriptors are not finite"
    limit = float(np.finfo(dtype).max)
    if peak > limit:
        return (
            f"the descriptor holds {peak:.6g}, beyond {dtype} (at most {limit:g}): use float32, or normalise"
        )
    return None
