"""The actors of a Ray run: connects to a cluster, chooses their number and size, and fills parts in each actor.

Ray imports this module before it sets up the environment of an actor, so imports that load torch are inside functions.
"""

import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat._version import __version__
from sppfeat.config.distribution import RayOptions
from sppfeat.config.machine import available_cores, import_extra
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError, EngineError, SppfeatError

if TYPE_CHECKING:
    from sppfeat.config.extract_config import ExtractConfig
    from sppfeat.config.request import Request
    from sppfeat.extraction.pipeline import Progress
    from sppfeat.extraction.plan import Plan
    from sppfeat.extraction.run import Run
    from sppfeat.inputs import Listing

__all__ = ["Actors", "Job", "PartActor", "choose_actors", "connect"]

_MOST_CPUS = 8  # per actor, for network and decoders; more gain little
_ADDRESS_SECONDS = 20.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOCK_SECONDS = 120.0  # the time a file server takes to notice a dead client and drop its lock
_N_CHECKED_INPUTS = 8


class Actors(NamedTuple):
    """The number of actors, the cores and (fractions of) GPUs of each, and the number that fits on the cluster now."""

    n: int
    n_cpus: int
    n_gpus: float
    n_fit: int

    def __str__(self) -> str:
        gpus = f"{self.n_gpus:g} GPU and " if self.n_gpus else ""
        return f"{counted(self.n, 'actor')} on Ray, {gpus}{counted(self.n_cpus, 'CPU')} each"


@contextlib.contextmanager
def connect(address: str | None, *, verbose: bool = False) -> Iterator[Any]:
    """Connect to a Ray cluster, or start Ray on this machine, until the context ends; yields the module ``ray``.

    Args:
        address: see :class:`sppfeat.config.distribution.RayOptions`; ignored if this process is connected already.
        verbose: True to print the messages of Ray and its workers.

    Raises:
        EngineError: the cluster cannot be reached or started.
    """
    # Before Ray is imported, turn off its usage statistics, and let its C++ code print only fatal errors.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray = import_extra("ray", extra="ray", purpose="--engine ray")
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        # By default, actors have a low priority on this machine; a local run should not.
        os.environ.setdefault("RAY_worker_niceness", "0")
    _check_address(address)
    own = {"num_cpus": available_cores(), "include_dashboard": False} if address == "local" else {}
    with _keep_signal_handlers(), _silence(not verbose):
        try:
            ray.init(
                address,
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.ERROR,
                **own,
            )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            what = "Ray could not be started" if own else f"no Ray cluster could be reached at {address!r}"
            hint = "" if own else " (if the cluster needs a token, set RAY_AUTH_MODE=token here, too)"
            raise EngineError(f"{what}: {error}{hint}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise EngineError if nothing answers at an address; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ADDRESS_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"no Ray cluster could be reached at {address!r}: {error}") from error


@contextlib.contextmanager
def _keep_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers on exit; Ray installs handlers that end the process at once."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread, where Ray cannot set handlers either
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _silence(is_wanted: bool) -> Iterator[None]:
    """Discard what Ray's C++ code prints to standard error."""
    if not is_wanted:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # standard error is closed
            before = os.dup(2)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, 2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        yield


def choose_actors(
    options: RayOptions, device: str, nodes: Sequence[Mapping[str, float]], *, n_parts: int
) -> Actors:
    """Choose the actors of a run: one per device; the actors of a node share its cores.

    Args:
        nodes: amounts of the resources (``CPU``, ``GPU``, ...) of each node.
        n_parts: number of unfinished parts; more actors would be idle.

    Raises:
        ConfigError: the choices contradict each other, or no node has room for an actor.
    """
    n_gpus = options.gpus_per_actor
    if (device == "cpu" and n_gpus) or (device == "cuda" and n_gpus == 0):
        raise ConfigError(f"device is {device!r}, but gpus-per-actor is {n_gpus:g}; leave out one of the two")
    has_gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    if n_gpus is None:
        n_gpus = 1.0 if device == "cuda" or (device == "auto" and has_gpus) else 0.0

    def room(n_cpus: int) -> int:
        return sum(_count_room(node, n_cpus, n_gpus) for node in nodes)

    def is_enough(n_cpus: int) -> bool:
        if options.actors is None and not n_gpus:  # up to the cores of the smallest node
            return all(node["CPU"] >= n_cpus for node in nodes if node.get("CPU", 0) >= 1)
        return room(n_cpus) >= (options.actors or max(1, room(1)))

    n_cpus = options.cpus_per_actor or max(filter(is_enough, range(1, _MOST_CPUS + 1)), default=1)
    n_fit = room(n_cpus)
    n = options.actors or n_fit
    if n == 0:
        what = f"{n_gpus:g} GPU and {n_cpus} CPU" if n_gpus else f"{n_cpus} CPU"
        raise ConfigError(
            f"no node of the Ray cluster has {what}, which each actor needs; with --actors N the run waits for a node"
        )
    return Actors(min(n, max(1, n_parts)), n_cpus, n_gpus, n_fit)


def _count_room(node: Mapping[str, float], n_cpus: int, n_gpus: float) -> int:
    """Return the number of actors that a node has room for."""
    by_cpus = int(node.get("CPU", 0) // n_cpus)
    if not n_gpus:
        return by_cpus
    gpus = node.get("GPU", 0.0)
    # An actor uses one device: 0.4 GPU fits twice on each of three GPUs, not seven times on all three.
    return min(by_cpus, int(gpus) * math.floor(1 / n_gpus + 1e-9))


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that the actors of a run share; Ray's object store holds it once per node.

    Ray unpickles it in an actor before the environment is set up, so no module of its fields may load torch.
    """

    # The user's request, with the device and decoding processes of an actor. Its output is the path pattern
    # of the part files.
    request: "Request"
    folder: str  # the working directory of the request's relative paths
    config: "ExtractConfig"
    listing: "Listing"
    plan: "Plan"
    bounds: npt.NDArray[np.int64]  # (n + 1,) int64; part i holds images bounds[i] to bounds[i + 1]
    norm_factors: tuple[float, ...] | None  # factor of each layer under meannorm
    n_cpus: int  # number of cores per actor
    running: Path  # a file in the folder of part files; the actors stop when it is removed
    version: str = __version__  # version of this package on the machine that planned the run


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

    def fill(self, index: int) -> "Progress | SppfeatError":
        """Create or continue the file of a part, numbered from 0; return a SppfeatError instead of raising it.

        Ray would wrap it in a traceback.
        """
        from sppfeat.extraction.shard_files import ShardFiles

        job = self._job
        try:
            if self._run is None:
                self._run = self._stack.enter_context(_open_same_run(job))
            files = ShardFiles(job.request.output, job.plan, job.bounds)
            with files.open_part(self._run, index, job.norm_factors, lock_seconds=_LOCK_SECONDS) as part:
                return part.fill(should_stop=lambda: not job.running.exists())
        except SppfeatError as error:
            return error

    def close(self) -> None:
        """Stop the decoders."""
        self._stack.close()


@contextlib.contextmanager
def _open_same_run(job: Job) -> "Iterator[Run]":
    """Load the network and start the decoder on this node, and check that it agrees with the plan.

    Raises:
        SppfeatError: the network cannot be loaded here, or version, settings or files differ from the plan.
    """
    import torch

    from sppfeat.config.extract_config import config_differences
    from sppfeat.config.machine import keep_freed_memory
    from sppfeat.extraction.run import open_run

    here = f"node {socket.gethostname()} of the Ray cluster"
    if job.version != __version__:
        raise EngineError(f"{here} has sppfeat {__version__}, but the run was planned with {job.version}")
    shared = "must be on a file system that all nodes share, at the same path"
    if not job.running.parent.is_dir():
        raise EngineError(
            f"{here} does not see the folder {str(job.running.parent)!r}: outputs and inputs {shared}"
        )
    inputs = _sample_inputs(job)
    if inputs and not any(map(os.path.exists, inputs)):
        raise EngineError(
            f"{here} does not see the inputs, such as {os.fsdecode(inputs[0])!r}: they {shared}"
        )
    with contextlib.suppress(OSError):  # then relative paths are reported as missing
        os.chdir(job.folder)
    keep_freed_memory()
    torch.set_num_threads(job.n_cpus)
    with open_run(job.request, job.listing) as run:
        differences = config_differences(
            job.config.to_dict(), run.config.to_dict(), names=("the plan", "this node")
        )
        if differences:
            raise EngineError(
                f"{here} resolves the settings differently than the plan: {'; '.join(differences)}"
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
