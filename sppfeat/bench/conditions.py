"""The conditions of a measurement: its machine and descriptors, waiting for the device, and a temporary folder."""

import contextlib
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sppfeat._version import __version__
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import available_cores
from sppfeat.errors import StoreError
from sppfeat.extraction.setup import descriptor_columns
from sppfeat.networks.backbones import Backbone
from sppfeat.networks.devices import device_name

__all__ = [
    "DescriptorConditions",
    "Machine",
    "describe_conditions",
    "describe_machine",
    "synchronizer",
    "temporary_folder",
]

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine of a measurement.

    Attributes:
        processor: model of the processor.
        cores: number of cores that this process may use.
        system: operating system and architecture.
        device: name of the device that runs the network.
        precision: numeric precision of the network, such as ``fp32``.
        threads: number of threads that torch uses.
        torch, sppfeat: versions of these packages.
    """

    processor: str
    cores: int
    system: str
    device: str
    precision: str
    threads: int
    torch: str
    sppfeat: str


def describe_machine(device: torch.device, precision: str) -> Machine:
    """Describes the machine that this process runs on.

    Args:
        device: the device that runs the network.
        precision: numeric precision of the network, such as ``fp32``.
    """
    return Machine(
        processor=_processor(),
        cores=available_cores(),
        system=f"{platform.system()} {platform.machine()}",
        device=device_name(device),
        precision=precision,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        sppfeat=__version__,
    )


@dataclass(frozen=True, kw_only=True)
class DescriptorConditions:
    """The machine and the descriptors of a measurement; results derive from this class.

    Attributes:
        machine: the machine.
        backbone, weights: names of the network and its weights.
        layers: names of the pooled layers.
        levels: levels of the pyramid, bins per side.
        pool: pooling within a bin, ``max`` or ``avg``.
        dimension: number of values of a descriptor.
    """

    machine: Machine
    backbone: str
    weights: str
    layers: tuple[str, ...]
    levels: tuple[int, ...]
    pool: str
    dimension: int


def describe_conditions(backbone: Backbone, config: ExtractConfig, device: torch.device) -> dict[str, Any]:
    """Values for the fields of :class:`DescriptorConditions`, by name."""
    spec, descriptor = config.backbone, config.descriptor
    return {
        "machine": describe_machine(device, config.precision),
        "backbone": spec.name,
        "weights": backbone.weights_path or spec.weights,
        "layers": spec.layers,
        "levels": descriptor.levels,
        "pool": descriptor.pool,
        "dimension": descriptor_columns(config, backbone)[-1].stop,
    }


def synchronizer(device: torch.device) -> Callable[[], None]:
    """Makes a function that waits until a device has finished its work; on a CPU it returns at once."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Makes a temporary folder, and removes it when the context ends.

    Raises:
        StoreError: the folder cannot be made.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="sppfeat-bench-")
    except OSError as error:
        raise StoreError(f"no folder for temporary files: {error}") from error
    with folder as name:
        yield Path(name)


def _processor() -> str:
    """Model of the processor, or its architecture if the model is unknown."""
    try:
        if platform.system() == "Darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        for line in _CPUINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":  # not on every architecture
                return value.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return platform.processor() or platform.machine()
