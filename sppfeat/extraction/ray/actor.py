"""One actor of a Ray run: a network on a device, that fills the file of one part after the other.

Imported by Ray before anything else is set, so what needs torch is imported when an actor starts.
"""

import contextlib
import dataclasses
import os
import pickle
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat._version import __version__
from sppfeat.errors import EngineError, SppfeatError, StoreError

if TYPE_CHECKING:
    from sppfeat.config.extract_config import ExtractConfig
    from sppfeat.config.request import ExtractRequest
    from sppfeat.extraction.output import Lock
    from sppfeat.extraction.pipeline import Progress
    from sppfeat.extraction.plan import Plan
    from sppfeat.extraction.resources import Means
    from sppfeat.inputs import Listing

__all__ = ["ATTEMPTS_SUFFIX", "FillParts", "Job", "PartFiller", "PartReport", "Witnesses"]

ATTEMPTS_SUFFIX = ".attempts"
_MOST_ATTEMPTS = 16  # at a part, by actors that died; more is no accident
_LOCK_SECONDS = 120.0  # what a file server takes to notice that a client, and its lock, is no more
_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Witnesses:
    """Files that every node has to see.

    Attributes:
        running: of this run, beside the files of the parts; the run is to end when it is gone.
        images: some of the inputs; empty where they are not files.
    """

    running: Path
    images: tuple[bytes, ...]

    def check(self) -> None:
        """Raise EngineError unless this machine sees them."""
        here = f"node {socket.gethostname()} of the Ray cluster"
        if not self.running.parent.is_dir():
            raise EngineError(
                f"{here} does not see the folder {str(self.running.parent)!r}: outputs and inputs have to be on a file "
                "system that all nodes share, at the same place"
            )
        if self.images and not any(map(os.path.exists, self.images)):
            raise EngineError(
                f"{here} does not see the inputs, such as {os.fsdecode(self.images[0])!r}: they have to be on a file "
                "system that all nodes share, at the same place"
            )


@dataclass(frozen=True)
class Job:
    """What all actors of a run are told; lies in Ray's object store once for each node.

    Attributes:
        version: of this package, where the run was planned.
        request: what was asked, with the output of the parts.
        config: what shapes a descriptor.
        listing, plan: all inputs and rows.
        bounds: ``(n + 1,)`` int64, part ``i`` is images ``bounds[i]`` to ``bounds[i + 1]``.
        norm_factors: of the mean norm, where they are known already.
        n_cpus: cores of each actor.
        witnesses: what a node has to see.
    """

    version: str
    request: "ExtractRequest"
    config: "ExtractConfig"
    listing: "Listing"
    plan: "Plan"
    bounds: npt.NDArray[np.int64]
    norm_factors: tuple[float, ...] | None
    n_cpus: int
    witnesses: Witnesses


@dataclass(frozen=True)
class PartReport:
    """What became of a part.

    Attributes:
        part: number, from 1.
        progress: what was done of it now, and how long that took; None where it could not be.
        error: why not.
    """

    part: int
    progress: "Progress | None" = None
    error: SppfeatError | None = None


class FillParts:
    """An actor as Ray Data makes it, and hands it one part after the other.

    Args:
        job: reference of a :class:`Job`.
    """

    def __init__(self, job: Any) -> None:
        import ray

        has_gpu = bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))
        self._filler = PartFiller(ray.get(job), has_gpu=has_gpu)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Fill the file of the part ``row["part"]``; return a pickled :class:`PartReport` as ``report``."""
        return {"report": pickle.dumps(self._filler.fill(int(row["part"])))}


class PartFiller:
    """Fills files of parts, with a network that is loaded once.

    An error that a user can cause or cure is an answer, so that Ray wraps no traceback of its own around it.

    Args:
        job: what to do.
        has_gpu: whether the network runs on the device that Ray shows this process.
    """

    def __init__(self, job: Job, *, has_gpu: bool) -> None:
        # As the command line does, before torch is loaded.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        self._job = job
        self._error: SppfeatError | None = None
        self._stack = contextlib.ExitStack()
        try:
            self._means = self._stack.enter_context(_prepare(job, has_gpu=has_gpu))
        except SppfeatError as error:
            self._error = error

    def fill(self, part: int) -> PartReport:
        """Begin or continue the file of a part, numbered from 1."""
        if self._error is not None:
            return PartReport(part, error=self._error)
        try:
            return PartReport(part, progress=self._fill(part))
        except SppfeatError as error:
            return PartReport(part, error=error)

    def close(self) -> None:
        """End the decoders."""
        self._stack.close()

    def _fill(self, part: int) -> "Progress":
        from sppfeat.config.distribution import ShardChoice
        from sppfeat.extraction.pipeline import Progress
        from sppfeat.extraction.sized_parts import extraction_of_part, request_of_part

        job = self._job
        is_running = job.witnesses.running.exists
        if not is_running():
            return Progress()
        choice = ShardChoice(part, len(job.bounds) - 1)
        request = request_of_part(job.request, choice)
        with _lock_part(request) as lock, _attempt(request.output):
            extraction = extraction_of_part(
                self._means,
                job.plan,
                job.bounds,
                choice,
                lock,
                output=request.output,
                norm_factors=job.norm_factors,
            )
            return extraction.run(should_stop=lambda: not is_running())


@contextlib.contextmanager
def _prepare(job: Job, *, has_gpu: bool) -> "Iterator[Means]":
    """Load the network and start decoders, as the run was planned with.

    Raises:
        SppfeatError: that cannot be done here, or gives something else than where it was planned.
    """
    import torch

    from sppfeat.config.extract_config import config_differences
    from sppfeat.config.machine import keep_freed_memory
    from sppfeat.extraction.resources import gather_means

    here = f"node {socket.gethostname()} of the Ray cluster"
    if job.version != __version__:
        raise EngineError(f"{here} has sppfeat {__version__}, and the run was planned with {job.version}")
    job.witnesses.check()
    keep_freed_memory()
    torch.set_num_threads(job.n_cpus)
    run = dataclasses.replace(
        job.request.run,
        device="cuda" if has_gpu else "cpu",
        workers=job.n_cpus if job.request.run.workers is None else job.request.run.workers,
    )
    request = dataclasses.replace(job.request, run=run)
    with gather_means(request, job.listing, lambda done, total: None) as means:
        differences = config_differences(
            job.config.to_dict(), means.equipment.config.to_dict(), names=("the plan", "this node")
        )
        if differences:
            raise EngineError(
                f"{here} has other settings than where the run was planned: {'; '.join(differences)}"
            )
        yield means


@contextlib.contextmanager
def _attempt(path: Path) -> Iterator[None]:
    """Count the actors that begin with a part and die: one byte each, in a file beside it.

    Raises:
        EngineError: there were so many that there must be a reason.
    """
    attempts = Path(f"{path}{ATTEMPTS_SUFFIX}")
    with open(attempts, "ab") as file:
        if file.tell() >= _MOST_ATTEMPTS:
            raise EngineError(
                f"{_MOST_ATTEMPTS} actors have died while they filled {str(path)!r}: is there too little memory, or "
                "an image that kills its process (with --workers 1 or more it would kill a decoder only)?"
            )
        file.write(b".")
    try:
        yield
    finally:
        attempts.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock_part(request: "ExtractRequest") -> "Iterator[Lock]":
    """Hold the lock of a part; where another actor had it, and has died, until the file server has noticed."""
    from sppfeat.extraction.output import lock_output
    from sppfeat.files.locks import is_being_written

    until = time.monotonic() + _LOCK_SECONDS
    with contextlib.ExitStack() as stack:
        while True:
            try:
                lock = stack.enter_context(lock_output(request))
                break
            except StoreError:
                if time.monotonic() > until or not is_being_written(request.output):
                    raise
                time.sleep(_RETRY_SECONDS)
        yield lock
