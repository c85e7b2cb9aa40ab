"""Rows on their way from the network to a sink, in a thread of their own: the network does not wait for the disk."""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.extraction.plan import Batch
from sppfeat.extraction.row_sink import RowBlock, Sink

__all__ = ["RowWriting"]

_NBYTES_AHEAD = 128 << 20  # of descriptors that wait for the sink
_TASK_NBYTES = 4 << 20  # handed to the thread at once: a row by itself is not worth waking it


class RowWriting:
    """Hands rows and marks to a sink, in the order in which they come, in one thread.

    A context: where it is left by an exception, rows of a batch that has not ended are dropped, so that images whose
    rows are incomplete are never marked; batches that have ended are handed over, rows and marks. The sink is used by
    no other thread meanwhile.

    Args:
        sink: gets rows first, then, after the last rows of an image, its mark.
        dtype: what the sink stores.
        nonfinite: see :func:`sppfeat.extraction.pipeline.run_pipeline`.

    Attributes:
        n_done: images that have been marked as done.
        n_failed: images that have been marked as failed.
    """

    def __init__(self, sink: Sink, *, dtype: str, nonfinite: str) -> None:
        self.n_done = 0
        self.n_failed = 0
        self._sink = sink
        self._dtype = dtype
        self._checks_values = nonfinite == "fail"
        self._failures: dict[int, str] = {}  # of images that a later batch has again; the thread's own
        self._is_broken = False
        self._blocks: list[RowBlock] = []
        self._blocks_nbytes = 0
        self._under_way: deque[tuple[Future[None], int]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sppfeat-writing")

    def __enter__(self) -> "RowWriting":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)

    def add(self, block: RowBlock) -> None:
        """Hand over rows; waits while too much is on its way.

        Raises:
            Exception: what the sink has raised.
        """
        self._blocks.append(block)
        self._blocks_nbytes += block.descriptors.nbytes
        if self._blocks_nbytes >= _TASK_NBYTES:
            self._send_blocks()

    def fail(self, failures: Mapping[int, str]) -> None:
        """Say of images that they have failed, before their batch ends; the first reason counts."""
        if not failures:
            return
        self._send_blocks()

        def note() -> None:
            for image, reason in failures.items():
                self._failures.setdefault(image, reason)

        self._submit(note, 0)

    def end_batch(self, batch: Batch) -> None:
        """Mark the images that no later batch has."""
        blocks, nbytes = self._take_blocks()

        # One task: an interruption between two of them would leave rows without their marks.
        def end() -> None:
            self._write(blocks)
            self._mark(batch)

        self._submit(end, nbytes)

    def finish(self) -> None:
        """Wait until everything has been handed over."""
        self._send_blocks()
        while self._under_way:
            self._wait_for_first()

    def _send_blocks(self) -> None:
        blocks, nbytes = self._take_blocks()
        if blocks:
            self._submit(lambda: self._write(blocks), nbytes)

    def _take_blocks(self) -> tuple[list[RowBlock], int]:
        blocks, nbytes = self._blocks, self._blocks_nbytes
        self._blocks, self._blocks_nbytes = [], 0
        return blocks, nbytes

    def _submit(self, task: Callable[[], None], nbytes: int) -> None:
        while self._under_way and (self._under_way[0][0].done() or self._n_ahead() + nbytes > _NBYTES_AHEAD):
            self._wait_for_first()
        self._under_way.append((self._thread.submit(self._unless_broken, task), nbytes))

    def _n_ahead(self) -> int:
        return sum(nbytes for _, nbytes in self._under_way)

    def _wait_for_first(self) -> None:
        future, _ = self._under_way.popleft()
        future.result()

    def _unless_broken(self, task: Callable[[], None]) -> None:
        """Do nothing after an error: a mark must not follow rows that could not be written."""
        if self._is_broken:
            return
        try:
            task()
        except BaseException:
            self._is_broken = True
            raise

    def _write(self, blocks: list[RowBlock]) -> None:
        for block in blocks:
            if block.image in self._failures:
                continue
            block.arrived()
            unfit = _why_not_storable(block.descriptors, self._dtype) if self._checks_values else None
            if unfit is None:
                self._sink.write_rows(block.rows, block.descriptors, block.audit)
            else:
                self._failures[block.image] = unfit

    def _mark(self, batch: Batch) -> None:
        for image in batch.images[batch.is_last].tolist():
            reason = self._failures.pop(image, None)
            if reason is None:
                self._sink.mark_done(image)
                self.n_done += 1
            else:
                self._sink.mark_failed(image, reason)
                self.n_failed += 1


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
