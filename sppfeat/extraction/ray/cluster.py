"""Connects to the Ray cluster of a run, and chooses its actors."""

import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sppfeat.config.distribution import RayOptions
from sppfeat.config.machine import available_cores, import_extra
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError, EngineError

__all__ = ["Actors", "choose_actors", "connect"]

_MOST_CPUS = 8  # per actor, for the network and the decoders; more gain little
_ADDRESS_SECONDS = 20.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Actors(NamedTuple):
    """Number and size of the actors of a run.

    Attributes:
        n: number of actors.
        n_cpus, n_gpus: number of cores and of GPUs per actor; GPUs may be fractions.
        n_fit: number of actors that the cluster has room for now.
    """

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
            hint = "" if own else " (does it ask for a token? Then set RAY_AUTH_MODE=token here, too)"
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
    """Restore the signal handlers afterwards: those that Ray installs end the process at once."""
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
        options: the user's choices.
        device: ``auto``, ``cpu`` or ``cuda``.
        nodes: amounts of the resources (``CPU``, ``GPU``, ...) of each node.
        n_parts: number of unfinished parts, an upper limit on useful actors.

    Raises:
        ConfigError: the choices contradict each other, or no node has room for an actor.
    """
    n_gpus = options.gpus_per_actor
    if (device == "cpu" and n_gpus) or (device == "cuda" and n_gpus == 0):
        raise ConfigError(f"device is {device!r}, and gpus-per-actor {n_gpus:g}; allowed: one of the two")
    has_gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    if n_gpus is None:
        n_gpus = 1.0 if device == "cuda" or (device == "auto" and has_gpus) else 0.0

    def room(n_cpus: int) -> int:
        return sum(_count_room(node, n_cpus, n_gpus) for node in nodes)

    def is_enough(n_cpus: int) -> bool:
        if options.actors is None and not n_gpus:  # as many as the smallest node has
            return all(node["CPU"] >= n_cpus for node in nodes if node.get("CPU", 0) >= 1)
        return room(n_cpus) >= (options.actors or max(1, room(1)))

    n_cpus = options.cpus_per_actor or max(filter(is_enough, range(1, _MOST_CPUS + 1)), default=1)
    n_fit = room(n_cpus)
    n = options.actors or n_fit
    if n == 0:
        what = f"{n_gpus:g} GPU and {n_cpus} CPU" if n_gpus else f"{n_cpus} CPU"
        raise ConfigError(
            f"no node of the Ray cluster has {what}, which an actor is to have; with --actors the run waits for one"
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
