"""The actor of a Ray run: one network on one device, which fills the files of parts one after another.

Ray imports this module before the environment is set up, so an actor imports the modules that load torch on its start.
"""

import contextlib
import dataclasses
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sppfeat._version import __version__
from sppfeat.errors import EngineError, SppfeatError

if TYPE_CHECKING:
    from sppfeat.config.extract_config import ExtractConfig
    from sppfeat.config.request import Request
    from sppfeat.extraction.output import Outcome
    from sppfeat.extraction.pipeline import Progress
    from sppfeat.extraction.plan import Plan
    from sppfeat.extraction.run import Run
    from sppfeat.inputs import Listing

__all__ = ["Job", "PartActor", "PartReport"]

_LOCK_SECONDS = 120.0  # the time a file server takes to notice a dead client and drop its lock


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
        norm_factors: factor of each layer under ``meannorm``.
        n_cpus: number of cores per actor.
        running: a file in the folder of part files; the actors stop when it is removed.
        some_images: paths of some inputs that every node must see; empty if the inputs are not local files.
    """

    version: str
    request: "Request"
    config: "ExtractConfig"
    listing: "Listing"
    plan: "Plan"
    bounds: npt.NDArray[np.int64]
    norm_factors: tuple[float, ...] | None
    n_cpus: int
    running: Path
    some_images: tuple[bytes, ...]


@dataclass(frozen=True)
class PartReport:
    """The result of one part.

    Attributes:
        progress: image counts and seconds; None after an error.
        outcome: counts of the images in the part's file; None after an error.
        error: the error that ended the part; None without an error.
    """

    progress: "Progress | None" = None
    outcome: "Outcome | None" = None
    error: SppfeatError | None = None


class PartActor:
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
            self._run = self._stack.enter_context(_open_same_run(job, has_gpu=has_gpu))
        except SppfeatError as error:
            self._error = error

    def is_ready(self) -> bool:
        """Return True, once the actor has started."""
        return True

    def fill(self, index: int) -> PartReport:
        """Create or continue the file of a part, numbered from 0, and report the result."""
        if self._error is not None:
            return PartReport(error=self._error)
        try:
            return self._fill(index)
        except SppfeatError as error:
            return PartReport(error=error)

    def close(self) -> None:
        """Stop the decoders."""
        self._stack.close()

    def _fill(self, index: int) -> PartReport:
        from sppfeat.extraction.output import open_output
        from sppfeat.extraction.parts import find_part
        from sppfeat.extraction.shard_files import ShardFiles

        job = self._job
        files = ShardFiles(job.request.output, job.plan, job.bounds)
        with open_output(self._run.request, files.paths[index], lock_seconds=_LOCK_SECONDS) as output:
            part = find_part(self._run, output, files.cut(index, has_views=self._run.has_views))
            part.norm_factors = part.norm_factors or job.norm_factors
            progress = part.fill(should_stop=lambda: not job.running.exists())
            return PartReport(progress, part.outcome())


@contextlib.contextmanager
def _open_same_run(job: Job, *, has_gpu: bool) -> "Iterator[Run]":
    """Load the network and start the decoder, and check that this node can do what was planned.

    Raises:
        SppfeatError: the network cannot be loaded here, or version, settings or files differ from those of the plan.
    """
    import torch

    from sppfeat.config.extract_config import config_differences
    from sppfeat.config.machine import keep_freed_memory
    from sppfeat.extraction.run import open_run

    here = f"node {socket.gethostname()} of the Ray cluster"
    if job.version != __version__:
        raise EngineError(f"{here} has sppfeat {__version__}, and the run was planned with {job.version}")
    shared = "have to be on a file system that all nodes share, at the same place"
    if not job.running.parent.is_dir():
        raise EngineError(
            f"{here} does not see the folder {str(job.running.parent)!r}: outputs and inputs {shared}"
        )
    if job.some_images and not any(map(os.path.exists, job.some_images)):
        raise EngineError(
            f"{here} does not see the inputs, such as {os.fsdecode(job.some_images[0])!r}: they {shared}"
        )
    keep_freed_memory()
    torch.set_num_threads(job.n_cpus)
    options = dataclasses.replace(
        job.request.run,
        device="cuda" if has_gpu else "cpu",
        workers=job.n_cpus if job.request.run.workers is None else job.request.run.workers,
    )
    with open_run(dataclasses.replace(job.request, run=options), job.listing) as run:
        differences = config_differences(
            job.config.to_dict(), run.config.to_dict(), names=("the plan", "this node")
        )
        if differences:
            raise EngineError(
                f"{here} has other settings than where the run was planned: {'; '.join(differences)}"
            )
        yield run
