"""The actor of a Ray run: one network on one device, which fills the files of parts one after another."""

import contextlib
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

__all__ = ["Job", "PartActor"]

_LOCK_SECONDS = 120.0  # the time a file server takes to notice a dead client and drop its lock
_N_CHECKED_INPUTS = 8


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that the actors of a run share; Ray's object store holds it once per node.

    Ray makes it in an actor before the environment is set up, so no module of its fields may load torch.

    Attributes:
        request: the user's request, with the device and the decoding processes of an actor, and the path pattern of the
            part files as its output.
        folder: the folder that the request's relative paths start from.
        config: the settings that determine a descriptor.
        listing: all inputs.
        plan: all images and rows.
        bounds: ``(n + 1,)`` int64; part ``i`` holds images ``bounds[i]`` to ``bounds[i + 1]``.
        norm_factors: factor of each layer under ``meannorm``.
        n_cpus: number of cores per actor.
        running: a file in the folder of part files; the actors stop when it is removed.
        version: version of this package on the machine that planned the run.
    """

    request: "Request"
    folder: str
    config: "ExtractConfig"
    listing: "Listing"
    plan: "Plan"
    bounds: npt.NDArray[np.int64]
    norm_factors: tuple[float, ...] | None
    n_cpus: int
    running: Path
    version: str = __version__


class PartActor:
    """Fills the files of parts, with a network that is loaded once, for the first of them."""

    def __init__(self, job: Job) -> None:
        # As on the command line; must be set before torch is loaded.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        self._job = job
        self._run: Run | None = None
        self._stack = contextlib.ExitStack()

    def is_ready(self) -> bool:
        """Return True, once the actor has started."""
        return True

    def fill(self, index: int) -> "tuple[Progress, Outcome] | SppfeatError":
        """Create or continue the file of a part, numbered from 0.

        Returns:
            The progress, and the counts of the images in the file; or an error that a user can cause or fix: Ray would
            wrap a raised one in its own traceback.
        """
        try:
            if self._run is None:
                self._run = self._stack.enter_context(_open_same_run(self._job))
            return self._fill(self._run, index)
        except SppfeatError as error:
            return error

    def _fill(self, run: "Run", index: int) -> "tuple[Progress, Outcome]":
        from sppfeat.extraction.shard_files import ShardFiles

        job = self._job
        files = ShardFiles(job.request.output, job.plan, job.bounds)
        with files.open_part(run, index, job.norm_factors, lock_seconds=_LOCK_SECONDS) as part:
            return part.fill(should_stop=lambda: not job.running.exists()), part.outcome()

    def close(self) -> None:
        """Stop the decoders."""
        self._stack.close()


@contextlib.contextmanager
def _open_same_run(job: Job) -> "Iterator[Run]":
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
    inputs = _sample_inputs(job)
    if inputs and not any(map(os.path.exists, inputs)):
        raise EngineError(
            f"{here} does not see the inputs, such as {os.fsdecode(inputs[0])!r}: they {shared}"
        )
    with contextlib.suppress(OSError):  # without it, only relative paths cannot be found, which is reported
        os.chdir(job.folder)
    keep_freed_memory()
    torch.set_num_threads(job.n_cpus)
    with open_run(job.request, job.listing) as run:
        differences = config_differences(
            job.config.to_dict(), run.config.to_dict(), names=("the plan", "this node")
        )
        if differences:
            raise EngineError(
                f"{here} has other settings than where the run was planned: {'; '.join(differences)}"
            )
        yield run


def _sample_inputs(job: Job) -> list[bytes]:
    """Return the paths of some inputs, if they are files."""
    from sppfeat.files.places import Place
    from sppfeat.inputs import local_places

    storage = job.listing.storage
    if not storage.is_local:
        return []
    some = np.linspace(0, len(job.listing.paths) - 1, _N_CHECKED_INPUTS).astype(np.int64)
    return [place.path for place in local_places(storage, some) if isinstance(place, Place)]
