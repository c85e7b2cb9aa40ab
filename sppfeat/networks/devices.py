"""Pixels to the device, and descriptors back, beside what is computed there."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Delivery", "Transfer"]


class Delivery(NamedTuple):
    """Values on their way from a device.

    Attributes:
        values: an array in main memory.
        arrived: waits until they are there; to be called before they are read.
    """

    values: npt.NDArray[np.float32]
    arrived: Callable[[], None]


class Transfer:
    """Copies between main memory and a device.

    On CUDA both ways have a stream of their own and go through pinned memory, so that neither the device nor the
    caller waits for a copy. Elsewhere copies are done when the call returns.

    Args:
        device: to which, and from where.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        is_cuda = device.type == "cuda"
        self._up = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]
        self._down = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]

    def to_device(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """The same values on the device; the array may change once this returns, if the device is not the CPU."""
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
        """A float32 tensor of the device as an array."""
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
