"""What makes a network faster: compiling it, and the number formats that this machine computes in hardware."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from sppfeat.config.wording import one_line

__all__ = ["CompiledNetwork", "bfloat16_note"]

_LOG = logging.getLogger(__name__)
_LONGEST_REASON = 300


class CompiledNetwork(nn.Module):
    """A network compiled by ``torch.compile``; where that fails, the network itself, with a warning.

    The first batches take long: some of the input shapes are compiled for, until the compiler has seen what varies.

    Args:
        network: images to a dict of feature maps.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._compiled: Any = torch.compile(network)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of ``(N, 3, H, W)`` images."""
        if self._compiled is None:
            return self._plain(batch)
        try:
            maps: dict[str, Tensor] = self._compiled(batch)
        except torch.OutOfMemoryError:
            raise
        except (
            Exception
        ) as error:  # a compiler's, of any type; if it is the network's own, it comes again here
            maps = self._plain(batch)
            self._compiled = None
            reason = one_line(str(error).strip().partition("\n")[0], longest=_LONGEST_REASON)
            _LOG.warning("Going on without --compile, which failed: %s", reason or type(error).__name__)
        return maps

    def _plain(self, batch: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.network(batch)
        return maps


def bfloat16_note(device: torch.device, precision: str) -> str | None:
    """What the user should know about ``bf16`` on a device, for the precision that was chosen; None for nothing."""
    hardware = _bfloat16_hardware(device)
    if precision == "bf16" and hardware is None:
        return f"--precision bf16: {device.type} has no instructions for it here, fp32 is likely to be faster"
    if precision != "fp32" or hardware is None:
        return None
    return (
        f"this machine computes bf16 in hardware ({hardware[0]}): --precision bf16 {hardware[1]}; "
        "descriptors move by about 1 % ('sppfeat bench extract --precision bf16' measures it)"
    )


def _bfloat16_hardware(device: torch.device) -> tuple[str, str] | None:
    """Name of what computes bfloat16, and what it gains."""
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return "tensor cores", "is several times as fast"
        return None
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return None
    has = torch.cpu.get_capabilities()
    if has.get("amx_bf16"):
        return "AMX", "makes the network some 3 to 4 times as fast (measured with resnet50 on two cores)"
    if has.get("avx512_bf16"):
        return "AVX512-BF16", "is faster"
    return None
