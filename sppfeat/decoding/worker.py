"""Worker processes: the loop that a worker runs, and its handle in the parent.

The loop reads headers and decodes images into the arena until its pipe closes. It imports Pillow and numpy, never torch
or h5py, so a worker starts in a tenth of a second. When a decoder or the system kills it, only the image in progress is
lost.
"""

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.decoding.arena import map_arena
from sppfeat.decoding.decoder import Answer, DecodeJob, ProbeJob
from sppfeat.errors import DecoderError

__all__ = [
    "READY",
    "Job",
    "WorkerProcess",
    "describe_exit",
    "main",
]

READY = "ready"

_START = "import sys; sys.path[:] = {path!r}; from sppfeat.decoding.worker import main; main({pipe}, {arena})"
# Waiting jobs must fit into a worker's pipe (200 kB on Linux): a send to a hanging worker would block forever.
_MAX_JOBS = 128
_MAX_PATH_BYTES = 1 << 16
# Threads do not help a worker, and a pool of them costs memory and time.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main(connection_fd: int, arena_fd: int) -> None:
    """Answers jobs in order, in a worker process."""
    connection: Connection[Any, Any] = Connection(connection_fd)
    arena = map_arena(arena_fd)
    try:
        connection.send(READY)
    except (BrokenPipeError, ConnectionResetError):  # the parent has exited
        return
    # Image libraries written in C print warnings there without the name of a file.
    if sys.stderr is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    while True:
        try:
            job = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            if isinstance(job, DecodeJob) and job.end > len(arena):  # it has grown since
                arena = map_arena(arena_fd)
            connection.send(_answer(job, arena))
        except (BrokenPipeError, ConnectionResetError):
            return


def _answer(job: ProbeJob | DecodeJob, arena: npt.NDArray[np.uint8]) -> Answer | RuntimeError:
    try:
        return job.answer() if isinstance(job, ProbeJob) else job.answer(arena)
    except Exception:  # the parent raises it, with this traceback
        return RuntimeError(f"a defect in the decoding worker:\n{traceback.format_exc()}")


@dataclass(eq=False)
class Job:
    """A job for a worker, until it is answered.

    ``cost`` is 1 for a header and the number of pixels for an image. ``was_suspect`` is True once a worker has died of
    the job.
    """

    message: ProbeJob | DecodeJob
    cost: int
    done: Callable[[Answer], None]
    was_suspect: bool = False


class WorkerProcess:
    """A worker process and its unanswered jobs, oldest first; it is working on the oldest.

    ``silent_seconds`` is the time that the parent has waited since the last answer.
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
                # Not multiprocessing.Process, which would run the caller's main module again in the child.
                self.process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, **_ONE_THREAD},
                    pass_fds=(theirs.fileno(), arena_fd),
                )
        except BaseException as error:
            self.connection.close()
            if isinstance(error, OSError):
                raise DecoderError(f"no decoding worker could be started: {error.strerror}") from error
            raise
        finally:
            theirs.close()

    def has_room_for(self, job: Job) -> bool:
        """True if sending a job cannot block."""
        path_bytes = self._path_bytes + len(job.message.place.path)
        return not self.jobs or (len(self.jobs) < _MAX_JOBS and path_bytes <= _MAX_PATH_BYTES)

    def send(self, job: Job) -> None:
        """Sends a job; a worker does its jobs in order."""
        if not self.jobs:
            self.silent_seconds = 0.0
        self.jobs.append(job)
        self.cost += job.cost
        self._path_bytes += len(job.message.place.path)
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # the next read notices that it is dead
            self.connection.send(job.message)

    def finish(self, answer: Answer) -> None:
        """Passes an answer to the oldest job."""
        job = self.jobs.popleft()
        self.cost -= job.cost
        self._path_bytes -= len(job.message.place.path)
        self.silent_seconds = 0.0
        job.done(answer)

    def stop(self) -> None:
        """Kills the process and waits for its end."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Blocks signals while a child starts; the child keeps the mask, so the parent alone handles Ctrl-C."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def describe_exit(status: int) -> str:
    """Describes how a process ended, from its exit status."""
    return f"signal {-status}" if status < 0 else f"exit status {status}"
