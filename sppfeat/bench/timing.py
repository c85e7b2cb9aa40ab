"""Timings of passes that run in turn, and descriptions of the machine and the descriptors measured."""

import itertools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict

import torch

from sppfeat._version import __version__
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import available_cores
from sppfeat.networks.devices import device_name

__all__ = [
    "Conditions",
    "Machine",
    "Pass",
    "Timing",
    "counted_passes",
    "describe_conditions",
    "describe_machine",
    "interleave",
    "synchronize",
    "timed",
]

_CPUINFO = Path("/proc/cpuinfo")
_CPU = torch.device("cpu")

Pass: TypeAlias = Callable[[], Mapping[str, float]]
"""Does the work once; returns seconds by name, or an empty mapping if it exceeded its time limit."""


class Timing(TypedDict):
    """Measurements of the same work.

    Attributes:
        seconds: median time in seconds.
        fastest: shortest time in seconds.
        slowest: longest time in seconds.
        repetitions: number of measurements.
    """

    seconds: float
    fastest: float
    slowest: float
    repetitions: int


class Machine(TypedDict):
    """The machine of a measurement, and how the network runs on it.

    Attributes:
        processor: model of the processor.
        cores: number of cores that this process may use.
        system: operating system and architecture.
        device: device that the network runs on.
        precision: precision of the network.
        threads: number of torch's threads.
        torch: version of torch.
        sppfeat: version of sppfeat.
    """

    processor: str
    cores: int
    system: str
    device: str
    precision: str
    threads: int
    torch: str
    sppfeat: str


class Conditions(TypedDict):
    """The machine and the descriptors of a measurement.

    Attributes:
        machine: the machine.
        backbone: name of the network.
        weights: name of its weights, or path of their file.
        layers: layers that are pooled.
        levels: pyramid levels; n stands for n x n bins.
        pool: pooling operator within each bin.
        dimension: length of a descriptor.
    """

    machine: Machine
    backbone: str
    weights: str
    layers: tuple[str, ...]
    levels: tuple[int, ...]
    pool: str
    dimension: int


def timed(
    name: str,
    contender: Callable[[], Iterable[object]],
    *,
    device: torch.device = _CPU,
    budget: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> Pass:
    """Makes a pass that times a contender: a function whose result yields its work piece by piece.

    The time includes freeing the results. The pass waits for the device before both readings of the clock. If it takes
    longer than ``budget`` seconds, it stops after the current piece and returns an empty mapping.
    """

    def run() -> dict[str, float]:
        synchronize(device)
        start = clock()
        for _ in contender():
            if clock() - start > budget:
                return {}
        synchronize(device)
        seconds = clock() - start
        return {name: seconds} if seconds <= budget else {}

    return run


def interleave(
    passes: Sequence[Pass],
    *,
    repetitions: int,
    budget: float = math.inf,
    on_pass: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Runs passes in turn, A B C A B C, so that other load on the machine affects all of them equally.

    Each pass also runs once unmeasured at the start. One whose measurements have taken longer than ``budget`` seconds
    in total is not measured again. ``on_pass`` is called ``(1 + repetitions) * len(passes)`` times, even for passes
    that are skipped. The timings, by name, lack those of passes that were stopped.
    """
    results: list[list[Mapping[str, float]]] = [[] for _ in passes]
    stopped: set[int] = set()
    for turn in range(1 + repetitions):
        for i, run in enumerate(passes):
            if i not in stopped:
                seconds = run()
                if not seconds:
                    results[i].clear()
                elif turn > 0:
                    results[i].append(seconds)
                if not seconds or sum(sum(found.values()) for found in results[i]) > budget:
                    stopped.add(i)
            on_pass()
    measured = {name: [s[name] for s in found] for found in results if found for name in found[0]}
    return {
        name: {
            "seconds": statistics.median(seconds),
            "fastest": min(seconds),
            "slowest": max(seconds),
            "repetitions": len(seconds),
        }
        for name, seconds in measured.items()
    }


def counted_passes(n_passes: int, on_progress: Callable[[int, int], None]) -> Callable[[], None]:
    """Makes a function to call after each pass; it reports the number of passes done and the total number."""
    done = itertools.count(1)
    on_progress(0, n_passes)
    return lambda: on_progress(next(done), n_passes)


def describe_machine(device: torch.device, precision: str) -> Machine:
    """Describes the machine that this process runs on, with the device and precision of the network."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": next(iter(models), platform.processor() or platform.machine()),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sppfeat": __version__,
    }


def describe_conditions(
    config: ExtractConfig, device: torch.device, *, weights: str, dimension: int
) -> Conditions:
    """Describes the machine and the descriptors of a measurement; ``weights`` is the user's choice."""
    spec, descriptor = config.backbone, config.descriptor
    return {
        "machine": describe_machine(device, config.precision),
        "backbone": spec.name,
        "weights": os.path.abspath(weights) if spec.weights == "file" else spec.weights,
        "layers": spec.layers,
        "levels": descriptor.levels,
        "pool": descriptor.pool,
        "dimension": dimension,
    }


def synchronize(device: torch.device) -> None:
    """Waits until a device has finished its work; on a CPU it returns at once."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
