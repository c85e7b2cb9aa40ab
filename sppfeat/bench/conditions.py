"""Where something was measured."""

import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sppfeat._version import __version__
from sppfeat.config.machine import available_cores
from sppfeat.networks.devices import device_name

__all__ = ["Machine", "describe_machine", "synchronizer"]

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and with what something was measured.

    Attributes:
        processor: its model.
        cores: that this process may use.
        system: operating system and architecture.
        device: where tensors are computed with.
        precision: of the network.
        threads: of torch.
        torch, sppfeat: versions.
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
    """The machine that this runs on, as set up for a measurement."""
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


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits until a device has done what it was given; nothing is to be waited for on a CPU."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


def _processor() -> str:
    """Return the model of the processor, or at least its architecture."""
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
