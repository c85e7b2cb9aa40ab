"""An actor of a Ray run: one network on one device, which fills the files of parts one after the other.

Ray imports this module before anything else is set, so modules that load torch are imported when an actor starts.
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
    from sppfeat.extraction.resources import RunResources
    from sppfeat.inputs import Listing

__all__ = ["ATTEMPTS_SUFFIX", "Job", "PartActor", "PartFiller", "PartReport", "SharedFiles"]

ATTEMPTS_SUFFIX = ".attempts"
_MOST_ATTEMPTS = 16  # at one part by actors that died; more are no accident
_LOCK_SECONDS = 120.0  # until a file server notices that a client is gone, and drops its lock
_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class SharedFiles:
    """Files that every node has to see.

    Attributes:
        running: a file beside the files of the parts; the run ends when it is removed.
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
    """The job of all actors of a run; Ray's object store holds it once for each node.

    Attributes:
        version: version of this package where the run was planned.
        request: the user's request, with the output of the parts.
        config: the settings that shape a descriptor.
        listing, plan: all inputs and rows.
        bounds: ``(n + 1,)`` int64; part ``i`` is images ``bounds[i]`` to ``bounds[i + 1]``.
        norm_factors: factors of the mean norm, where they are known already.
        n_cpus: cores of each actor.
        shared_files: files that every node has to see.
    """

    version: str
    request: "ExtractRequest"
    config: "ExtractConfig"
    listing: "Listing"
    plan: "Plan"
    bounds: npt.NDArray[np.int64]
    norm_factors: tuple[float, ...] | None
    n_cpus: int
    shared_files: SharedFiles


@dataclass(frozen=True)
class PartReport:
    """The result of one part.

    Attributes:
        part: number of the part, from 1.
        progress: images done and seconds spent; None after an error.
        error: the error that ended the part; None where there was none.
    """

    part: int
    progress: "Progress | None" = None
    error: SppfeatError | None = None


class PartActor:
    """An actor in the form that Ray Data wants: it is called with one part after the other.

    Args:
        job: Ray's reference to a :class:`Job`.
    """

    def __init__(self, job: Any) -> None:
        import ray

        has_gpu = bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))
        self._filler = PartFiller(ray.get(job), has_gpu=has_gpu)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Fill the file of the part ``row["part"]``; return a pickled :class:`PartReport` as ``report``."""
        return {"report": pickle.dumps(self._filler.fill(int(row["part"])))}


class PartFiller:
    """Fills the files of parts with a network that is loaded once.

    Errors that a user can cause or cure are returned, so that Ray wraps no traceback of its own around them.

    Args:
        job: the job of all actors.
        has_gpu: whether the network runs on the GPU that Ray gives this process.
    """

    def __init__(self, job: Job, *, has_gpu: bool) -> None:
        # Has to be set before torch is loaded, as on the command line.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        self._job = job
        self._error: SppfeatError | None = None
        self._stack = contextlib.ExitStack()
        try:
            self._resources = self._stack.enter_context(_open_checked_resources(job, has_gpu=has_gpu))
        except SppfeatError as error:
            self._error = error

    def fill(self, part: int) -> PartReport:
        """Begin or continue the file of a part, numbered from 1, and report the result."""
        if self._error is not None:
            return PartReport(part, error=self._error)
        try:
            return PartReport(part, progress=self._fill(part))
        except SppfeatError as error:
            return PartReport(part, error=error)

    def close(self) -> None:
        """Stop the decoders."""
        self._stack.close()

    def _fill(self, part: int) -> "Progress":
        from sppfeat.config.distribution import ShardChoice
        from sppfeat.extraction.pipeline import Progress
        from sppfeat.extraction.sized_parts import make_part_extraction, request_for_part

        job = self._job
        is_running = job.shared_files.running.exists
        if not is_running():
            return Progress()
        choice = ShardChoice(part, len(job.bounds) - 1)
        request = request_for_part(job.request, choice)
        with _lock_part(request) as lock, _attempt(request.output):
            extraction = make_part_extraction(
                self._resources,
                job.plan,
                job.bounds,
                choice,
                lock,
                output=request.output,
                norm_factors=job.norm_factors,
            )
            return extraction.run(should_stop=lambda: not is_running())


@contextlib.contextmanager
def _open_checked_resources(job: Job, *, has_gpu: bool) -> "Iterator[RunResources]":
    """Load the network and start decoders, and check that they are those of the plan.

    Raises:
        SppfeatError: they cannot be loaded here, or differ from those of the plan.
    """
    import torch

    from sppfeat.config.extract_config import config_differences
    from sppfeat.config.machine import keep_freed_memory
    from sppfeat.extraction.resources import open_resources

    here = f"node {socket.gethostname()} of the Ray cluster"
    if job.version != __version__:
        raise EngineError(f"{here} has sppfeat {__version__}, and the run was planned with {job.version}")
    job.shared_files.check()
    keep_freed_memory()
    torch.set_num_threads(job.n_cpus)
    run = dataclasses.replace(
        job.request.run,
        device="cuda" if has_gpu else "cpu",
        workers=job.n_cpus if job.request.run.workers is None else job.request.run.workers,
    )
    request = dataclasses.replace(job.request, run=run)
    with open_resources(request, job.listing, lambda done, total: None) as resources:
        differences = config_differences(
            job.config.to_dict(), resources.setup.config.to_dict(), names=("the plan", "this node")
        )
        if differences:
            raise EngineError(
                f"{here} has other settings than where the run was planned: {'; '.join(differences)}"
            )
        yield resources


@contextlib.contextmanager
def _attempt(path: Path) -> Iterator[None]:
    """Count the actors that begin a part and die: one byte each, in a file beside the part.

    Raises:
        EngineError: too many actors have died at this part.
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
    """Hold the lock of a part; if an actor has died with it, wait until the file server has noticed."""
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
