"""The pool of worker processes that decode ahead of the network; a worker that dies or hangs is replaced."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import wait
from typing import Any

from sppfeat.decoding.arena import Arena
from sppfeat.decoding.decoder import (
    Answer,
    Batch,
    BatchInFlight,
    Decoded,
    DecodeJob,
    DecodeSettings,
    ProbeJob,
)
from sppfeat.decoding.worker import READY, Job, WorkerProcess, describe_exit
from sppfeat.errors import DecoderError
from sppfeat.files.places import Place, place_of

__all__ = ["DecoderPool"]

_PROBES_AHEAD = 128  # per worker
_IMAGES_AHEAD = 64  # per worker; more would only take memory
_START_SECONDS = 120.0  # a worker starts in 0.2 s, but takes minutes from a busy file server
_MAX_FAILED_STARTS = 5  # in a row, by a signal: the system is short of memory


class DecoderPool:
    """Decodes in worker processes.

    A worker answers its jobs in order. When it dies or hangs, its oldest unanswered job is the suspect. After a death
    the suspect is tried once more, as the first job of a new worker; then it fails.

    Args:
        settings, n_workers: settings for all images, and number of processes, at least 1.
        look_ahead_bytes: memory for decoded batches; grows to the size of one batch if that is larger.
        hang_seconds: time after which the worker of an image is killed. Only the pool's waiting time counts, so a
            suspended run loses no images.

    Raises:
        DecoderError: the system cannot start a process, now or as a replacement.
    """

    def __init__(
        self,
        settings: DecodeSettings,
        *,
        n_workers: int,
        look_ahead_bytes: int = 256 << 20,
        hang_seconds: float = 120.0,
    ) -> None:
        self._settings = settings
        self._hang_seconds = hang_seconds
        self._arena = Arena(look_ahead_bytes)
        self._waiting: deque[Job] = deque()
        self._abandoned: list[BatchInFlight] = []  # by a caller that stopped requesting batches
        self._n_failed_starts = 0
        self._workers: list[WorkerProcess] = []
        try:
            for _ in range(n_workers):
                self._workers.append(WorkerProcess(self._arena.fd))
        except BaseException:
            self.close()
            raise

    def probe(self, places: Iterable[bytes | Place | str]) -> Iterator[tuple[int, int] | str]:
        """Yields height and width of each image as displayed, in pixels, or the reason why it cannot be read."""
        window: deque[list[tuple[int, int] | str]] = deque()
        for place in places:
            answer: list[Any] = []
            window.append(answer)
            if isinstance(place, str):
                answer.append(place)
            else:
                self._submit(ProbeJob(place_of(place), self._settings), cost=1, done=answer.append)
            while len(window) >= _PROBES_AHEAD * len(self._workers):
                yield self._first_answer(window)
        while window:
            yield self._first_answer(window)

    def decode(self, batches: Iterable[Batch]) -> Iterator[Decoded]:
        """Yields decoded batches in order; decodes later ones meanwhile, as many as are useful and fit the arena."""
        self._reclaim()
        pending: deque[BatchInFlight] = deque()
        source = iter(batches)
        held = next(source, None)
        try:
            while held is not None or pending:
                while held is not None and (begun := self._start_batch(held, pending)) is not None:
                    pending.append(begun)
                    held = next(source, None)
                first = pending[0]
                self._pump_until(lambda: not first.n_open)  # noqa: B023 - called before the loop goes on
                yield first.decoded(self._arena.buffer)
                pending.popleft()
                self._arena.free(first.offset, first.batch.nbytes)
        finally:
            self._abandoned.extend(pending)

    def close(self) -> None:
        """Kills the workers and frees the memory."""
        while self._workers:
            self._workers.pop().stop()
        self._arena.close()

    def _reclaim(self) -> None:
        """Frees the memory of abandoned batches, once no worker writes to it."""
        for left in self._abandoned:
            self._pump_until(lambda: not left.n_open)  # noqa: B023 - called before the loop goes on
            self._arena.free(left.offset, left.batch.nbytes)
        self._abandoned.clear()

    def _first_answer(self, window: deque[list[tuple[int, int] | str]]) -> tuple[int, int] | str:
        self._pump_until(lambda: bool(window[0]))
        return window.popleft()[0]

    def _start_batch(self, batch: Batch, pending: Sequence[BatchInFlight]) -> BatchInFlight | None:
        """Sends the jobs of a batch; returns None if it is too far ahead or does not fit the arena now."""
        n_ahead = sum(len(other.batch.images) for other in pending)
        if len(pending) > 1 and n_ahead + len(batch.images) > _IMAGES_AHEAD * len(self._workers):
            return None
        offset = self._arena.allocate(batch.nbytes)
        if offset is None and not pending:
            self._arena.resize(batch.nbytes)
            offset = self._arena.allocate(batch.nbytes)
        if offset is None:
            return None
        begun = BatchInFlight(batch, offset)
        for i, job in begun.jobs(self._settings):
            self._submit(job, cost=job.image_hw[0] * job.image_hw[1], done=partial(begun.finish, i))
        return begun

    def _submit(self, message: ProbeJob | DecodeJob, *, cost: int, done: Callable[[Answer], None]) -> None:
        self._waiting.append(Job(message, cost, done))
        self._dispatch()

    def _dispatch(self) -> None:
        """Sends each waiting job to the least busy worker that has room for it."""
        while self._waiting:
            job = self._waiting[0]
            worker = min(self._workers, key=lambda worker: (not worker.has_room_for(job), worker.cost))
            if not worker.has_room_for(job):
                return
            if not worker.jobs and worker.process.poll() is not None:  # it died without a job
                self._receive(worker)
            else:
                worker.send(self._waiting.popleft())

    def _pump_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            self._dispatch()
            busy = {worker.connection: worker for worker in self._workers if worker.jobs}
            patience = min(1.0, self._hang_seconds)
            started = time.monotonic()
            answered = wait(list(busy), timeout=patience)
            # More than the timeout passes only while this process is suspended.
            waited = min(time.monotonic() - started, patience)
            for connection, worker in busy.items():
                if connection in answered:
                    self._receive(worker)
                else:
                    worker.silent_seconds += waited
                    self._check_silence(worker)

    def _receive(self, worker: WorkerProcess) -> None:
        while worker.connection.poll():
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                self._bury(worker)
                return
            if isinstance(answer, RuntimeError):
                raise answer
            if answer == READY:
                self._n_failed_starts = 0
                worker.is_ready, worker.silent_seconds = True, 0.0
            else:
                worker.finish(answer)

    def _check_silence(self, worker: WorkerProcess) -> None:
        if not worker.is_ready:
            if worker.silent_seconds > max(_START_SECONDS, self._hang_seconds):
                raise DecoderError(f"a decoding worker did not start within {worker.silent_seconds:.0f} s")
        elif worker.silent_seconds > self._hang_seconds:
            suspect, *others = worker.jobs
            self._replace(worker)
            self._waiting.extendleft(reversed(others))
            suspect.done(f"decoding took more than {self._hang_seconds:g} s")

    def _bury(self, worker: WorkerProcess) -> None:
        """Replaces a dead process and passes its jobs on; the oldest one is the suspect."""
        fresh = self._replace(worker)
        if not worker.is_ready or not worker.jobs:
            self._waiting.extendleft(reversed(worker.jobs))  # none was started
            return
        suspect, *others = worker.jobs
        self._waiting.extendleft(reversed(others))
        if suspect.was_suspect:
            suspect.done(f"the decoder died of it, twice ({describe_exit(worker.process.returncode)})")
        else:
            suspect.was_suspect = True
            fresh.send(suspect)

    def _replace(self, worker: WorkerProcess) -> WorkerProcess:
        """Stops a process and starts a new one in its place."""
        worker.stop()
        status = worker.process.returncode
        if not worker.is_ready:
            self._n_failed_starts += 1
            if status >= 0 or self._n_failed_starts >= _MAX_FAILED_STARTS:
                raise DecoderError(
                    f"a decoding worker did not start ({describe_exit(status)}); see above for why"
                )
        fresh = WorkerProcess(self._arena.fd)
        self._workers[self._workers.index(worker)] = fresh
        return fresh
