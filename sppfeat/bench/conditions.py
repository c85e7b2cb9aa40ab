"""The conditions of a measurement: its machine and its descriptors; waiting for the device."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from sppfeat._version import __version__
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import available_cores
from sppfeat.networks.devices import device_name

__all__ = ["describe_conditions", "describe_machine", "synchronize"]

_CPUINFO = Path("/proc/cpuinfo")


def describe_machine(device: torch.device, precision: str) -> dict[str, Any]:
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
) -> dict[str, Any]:
    """Describes the machine and the descriptors of a measurement; ``weights`` is what the user asked for."""
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
