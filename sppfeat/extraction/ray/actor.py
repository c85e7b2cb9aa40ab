"""The actor of a Ray run: one network on one device, which fills the files of parts one after another.

Ray imports this module before the environment is set up, so an actor imports the modules that load torch on its start.
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
_MOST_ATTEMPTS = 16  # at one part, each ended by the death of an actor; more are no coincidence
_LOCK_SECONDS = 120.0  # the time a file server takes to notice a dead client and drop its lock
_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class SharedFiles:
    """Files that every node of the cluster must see.

    Attributes:
        running: a file in the folder of part files; the actors stop when it is removed.
        images: paths of some inputs; empty if the inputs are not local files.
    """

    running: Path
    images: tuple[bytes, ...]

    def check(self) -> None:
        """Raise EngineError unless this machine sees the files."""
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
    """Everything that the actors of a run share; Ray's object store holds it once per node.

    Attributes:
        version: version of this package on the machine that planned the run.
        request: the user's request, with the path pattern of the part files as its output.
        config: the settings that determine a descriptor.
        listing: all inputs.
        plan: all images and rows.
        bounds: ``(n + 1,)`` int64; part ``i`` holds images ``bounds[i]`` to ``bounds[i + 1]``.
        norm_factors: factor of each layer under ``meannorm``, if a part has them already.
        n_cpus: number of cores per actor.
        shared_files: files that every node must see.
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
        progress: image counts and seconds; None after an error.
        error: the error that ended the part; None without an error.
    """

    part: int
    progress: "Progress | None" = None
    error: SppfeatError | None = None


class PartActor:
    """The callable class that Ray Data starts as an actor, and calls with one part after another.

    Args:
        job: Ray's reference to a :class:`Job`.
    """

    def __init__(self, job: Any) -> None:
        import ray

        has_gpu = bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))
        self._filler = PartFiller(ray.get(job), has_gpu=has_gpu)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Fill the file of part ``row["part"]``, from 1; return a pickled :class:`PartReport` as ``report``."""
        return {"report": pickle.dumps(self._filler.fill(int(row["part"])))}


class PartFiller:
    """Fills the files of parts, with a network that is loaded once.

    Errors that a user can cause or fix are returned in the report: Ray would wrap a raised error in its own traceback.

    Args:
        job: the job of the run.
        has_gpu: True to run the network on the GPU that Ray assigned to this process.
    """

    def __init__(self, job: Job, *, has_gpu: bool) -> None:
        # As on the command line; must be set before torch is loaded.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        self._job = job
        self._error: SppfeatError | None = None
        self._stack = contextlib.ExitStack()
        try:
            self._resources = self._stack.enter_context(_open_checked_resources(job, has_gpu=has_gpu))
        except SppfeatError as error:
            self._error = error

    def fill(self, part: int) -> PartReport:
        """Create or continue the file of a part, numbered from 1, and report the result."""
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
    """Load the network and start the decoder, and check that the settings are those of the plan.

    Raises:
        SppfeatError: the network cannot be loaded here, or the settings differ from those of the plan.
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
    """Count the attempts at a part that end with the death of the actor, one byte each, in a file beside the part.

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
    """Hold the lock of a part; if a dead actor still holds it, wait until the file server releases it."""
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
