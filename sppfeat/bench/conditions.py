"""The conditions of a measurement: its machine and its descriptors; waiting for the device."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sppfeat._version import __version__
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import available_cores
from sppfeat.networks.devices import device_name

__all__ = ["DescriptorConditions", "Machine", "describe_conditions", "describe_machine", "synchronize"]

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine of a measurement.

    Attributes:
        processor: model of the processor, or its architecture if the system does not tell the model.
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
    """Describes the machine that this process runs on, with the device and precision of the network."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return Machine(
        processor=next(iter(models), platform.processor() or platform.machine()),
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
        backbone, weights: names of the network and its weights, or the path of their file.
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


def describe_conditions(
    config: ExtractConfig, device: torch.device, *, weights: str, dimension: int
) -> dict[str, Any]:
    """Values for the fields of :class:`DescriptorConditions`, by name; ``weights`` is what the user asked for."""
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
