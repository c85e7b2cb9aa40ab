"""One worker process, seen from the parent: the jobs it has been sent, and how long it has been silent."""

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Pipe

from sppfeat.decoding.worker import DecodeJob, ProbeJob
from sppfeat.errors import DecoderError

__all__ = ["Answer", "Job", "WorkerProcess", "describe_exit"]

Answer = tuple[int, int] | str | None

_START = "import sys; sys.path[:] = {path!r}; from sppfeat.decoding.worker import main; main({pipe}, {arena})"
# What waits in a worker's pipe must fit it (200 kB on Linux): sending must never block, since behind a
# worker that hangs it would do so for ever.
_MAX_JOBS = 128
_MAX_PATH_BYTES = 1 << 16
# A worker computes nothing that threads would help with; one pool of them per core costs memory and time.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Job:
    """A job on its way, with what to do with its answer."""

    def __init__(self, message: ProbeJob | DecodeJob, *, cost: int, done: Callable[[Answer], None]) -> None:
        self.message = message
        self.cost = cost
        self.done = done
        self.was_suspect = False


class WorkerProcess:
    """One process and the jobs it has been sent, oldest first: the oldest is the one it is at.

    Attributes:
        jobs: sent and not answered.
        cost: of these, together.
        is_ready: it has started.
        silent_seconds: for how long its parent has waited for an answer in vain.
    """

    def __init__(self, arena_fd: int) -> None:
        self.jobs: deque[Job] = deque()
        self.cost = 0
        self.is_ready = False
        self.silent_seconds = 0.0
        self._path_bytes = 0
        self.connection, theirs = Pipe()
        code = _START.format(path=[str(entry) for entry in sys.path], pipe=theirs.fileno(), arena=arena_fd)
        try:
            with _signals_held_back():
                # Not multiprocessing.Process: that would run the caller's main module again in the child.
                self.process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, **_ONE_THREAD},
                    pass_fds=(theirs.fileno(), arena_fd),
                )
        except OSError as error:
            self.connection.close()
            raise DecoderError(f"no decoding worker could be started: {error.strerror}") from error
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()

    def has_room_for(self, job: Job) -> bool:
        """Whether sending it cannot block."""
        if not self.jobs:  # it is waiting for one
            return True
        return (
            len(self.jobs) < _MAX_JOBS and self._path_bytes + len(job.message.place.path) <= _MAX_PATH_BYTES
        )

    def is_dead(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def send(self, job: Job) -> None:
        """Give it a job to do after the ones that it has."""
        if not self.jobs:
            self.silent_seconds = 0.0
        self.jobs.append(job)
        self.cost += job.cost
        self._path_bytes += len(job.message.place.path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead: seen when it is read
            self.connection.send(job.message)

    def start(self) -> None:
        """Note that it has started."""
        self.is_ready = True
        self.silent_seconds = 0.0

    def finish(self, answer: Answer) -> None:
        """Take the answer to the oldest job."""
        job = self.jobs.popleft()
        self.cost -= job.cost
        self._path_bytes -= len(job.message.place.path)
        self.silent_seconds = 0.0
        job.done(answer)

    def stop(self) -> None:
        """Kill it and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Start children that no signal to the whole group reaches: what is held back now is so for all their life.

    Ctrl-C, a job that is told to end, a terminal that closes: all that is their parent's to handle.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def describe_exit(status: int) -> str:
    """Return how a process ended, in words."""
    return f"signal {-status}" if status < 0 else f"exit status {status}"
