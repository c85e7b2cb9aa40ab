"""The device of a network: its choice, memory errors, precision and compiler, and copies to and from it."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError, DeviceMemoryError

__all__ = [
    "BATCH_PIXELS",
    "CompiledNetwork",
    "Delivery",
    "DeviceCopier",
    "bfloat16_hint",
    "bfloat16_note",
    "choose_device",
    "device_memory",
    "device_name",
    "float32_arithmetic",
]

# Network-input pixels per batch. Two CPU cores gain nothing from more than about 8 images of 224 x 300; a GPU needs
# more to be busy.
BATCH_PIXELS = {"cpu": 8 * 224 * 300, "cuda": 64 * 224 * 300, "mps": 16 * 224 * 300}
_LONGEST_REASON = 300
_LOG = logging.getLogger(__name__)


def choose_device(device: str, precision: str, *, local_rank: int = 0) -> torch.device:
    """Chooses the device of this machine for a setting.

    Args:
        device: ``auto`` (CUDA if available, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``fp32``, ``tf32``, ``bf16`` or ``fp16``, which the device must support.
        local_rank: index of this process among the processes on this machine, from 0. With ``auto``, each takes its
            own CUDA device if there are enough.

    Raises:
        ConfigError: this machine or this torch lacks the device, or the device lacks the precision.
    """
    if device == "auto":
        device = "cpu"
        if torch.cuda.is_available():
            n_devices = torch.cuda.device_count()
            device = f"cuda:{local_rank % n_devices}" if n_devices > 1 else "cuda"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= n_devices:
            raise ConfigError(
                f"device is {device!r}, but torch {torch.__version__} sees {n_devices} CUDA devices here"
            )
        if precision == "tf32" and torch.cuda.get_device_capability(chosen) < (8, 0):
            raise ConfigError(f"precision is 'tf32', but {torch.cuda.get_device_name(chosen)} has no TF32")
    elif chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device is 'mps', but torch {torch.__version__} finds no Metal device here")
    if precision == "tf32" and chosen.type != "cuda":
        raise ConfigError(
            f"precision is 'tf32', which needs a CUDA device, but the device is {chosen.type!r}"
        )
    return chosen


def device_name(device: torch.device) -> str:
    """The human-readable name of a device, such as ``cuda:0 (NVIDIA A100)``."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


@contextlib.contextmanager
def device_memory(device: torch.device) -> Iterator[None]:
    """Converts torch's out-of-memory errors to a :class:`~sppfeat.errors.DeviceMemoryError`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(f"not enough memory on {device_name(device)}") from error


@contextlib.contextmanager
def float32_arithmetic(precision: str) -> Iterator[None]:
    """Keeps float32 exact in the context: no bfloat16 inside matrix products, and TF32 only with precision ``tf32``."""
    backends: Any = torch.backends
    switches = (
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.cuda.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.matmul,
    )
    before = [switch.fp32_precision for switch in switches]
    cuda = "tf32" if precision == "tf32" else "ieee"
    try:
        for switch, value in zip(switches, (cuda, cuda, cuda, "ieee", "ieee"), strict=True):
            switch.fp32_precision = value
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


class Delivery(NamedTuple):
    """Values on their way from a device to main memory; ``wait`` blocks until they have arrived in ``values``."""

    values: npt.NDArray[np.float32]
    wait: Callable[[], None]


class DeviceCopier:
    """Copies arrays from main memory to a device, and results back.

    On CUDA each direction uses its own stream and pinned memory, so that neither the device nor the caller waits for
    a copy. On other devices a copy is complete when the call returns.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        is_cuda = device.type == "cuda"
        self._up = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]
        self._down = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]

    def to_device(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Copies uint8 pixels to the device; on the CPU array and tensor then share their memory."""
        host = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
        if self._up is None:
            return host.to(self._device)
        pinned = host.pin_memory()
        with torch.cuda.stream(self._up):
            copied = pinned.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._up)
        copied.record_stream(computing)
        return copied

    def to_host(self, tensor: Tensor) -> Delivery:
        """Starts the copy of a float32 tensor to main memory; the array may still be on its way."""
        if self._down is None:
            return Delivery(tensor.cpu().numpy(), lambda: None)
        values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            values.copy_(tensor, non_blocking=True)
            arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrival.record(self._down)
        tensor.record_stream(self._down)
        return Delivery(values.numpy(), arrival.synchronize)


class CompiledNetwork(nn.Module):
    """A network compiled by ``torch.compile``, or the plain network, with a warning, if that fails.

    The first batches are slow, because torch compiles for single input shapes until it has seen which sides vary.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._compiled: Any = torch.compile(network)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Computes the feature maps ``(N, C, H', W')`` of ``(N, 3, H, W)`` images, by layer."""
        try:
            maps: dict[str, Tensor] = self._compiled(batch)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self._compiled is self.network:
                raise
            # The compiler may raise anything; if the network itself is at fault, this call raises its error again.
            maps = self.network(batch)
            self._compiled = self.network
            reason = one_line(str(error).strip().partition("\n")[0], longest=_LONGEST_REASON)
            _LOG.warning("continuing without --compile, which failed: %s", reason or type(error).__name__)
        return maps


def bfloat16_note(device: torch.device, precision: str) -> str | None:
    """A warning if ``precision`` is bf16 and the device computes it in software; else None."""
    if precision != "bf16" or _bfloat16_hardware(device) is not None:
        return None
    return f"--precision bf16: {device.type} has no bf16 instructions here; fp32 is likely to be faster"


def bfloat16_hint(device: torch.device, precision: str) -> str | None:
    """Advice to use bf16 if ``precision`` is fp32 and the device has hardware for it; else None."""
    hardware = _bfloat16_hardware(device)
    if precision != "fp32" or hardware is None:
        return None
    return (
        f"--precision bf16 is faster on this machine ({hardware}) and moves descriptors by about 1 %; "
        "'sppfeat bench extract --precision bf16' measures both"
    )


def _bfloat16_hardware(device: torch.device) -> str | None:
    """The name of the device's hardware for bf16; None if it has none."""
    if device.type == "cuda":
        return "tensor cores" if torch.cuda.get_device_capability(device) >= (8, 0) else None
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return None
    capabilities = torch.cpu.get_capabilities()
    # With resnet50 on two cores, AMX makes the network 3 to 4 times as fast.
    names = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
    return next((name for flag, name in names.items() if capabilities.get(flag)), None)
