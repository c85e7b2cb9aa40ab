"""Acceleration of networks: folded batch normalization, compilation, and advice about bfloat16."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from sppfeat.config.wording import one_line

__all__ = ["CompiledNetwork", "bfloat16_note", "fold_batch_norm"]

_LOG = logging.getLogger(__name__)
_LONGEST_REASON = 300
_TOLERANCE = 1e-4  # relative l2 difference allowed between the maps of a layer, folded and not


def fold_batch_norm(network: nn.Module, layers: Sequence[str], *, side: int) -> nn.Module:
    """Folds batch normalizations into the convolutions before them, if that leaves the maps unchanged.

    The folded network makes fewer passes over memory. It comes from torch's own fuser, which folds a convolution
    twice if two normalizations share it. Both networks therefore run once on a noise image of ``side x side`` pixels,
    and the folded one is dropped if their maps differ; ``network`` itself is not changed.
    """
    has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    if not isinstance(network, fx.GraphModule) or not has_batch_norm:
        return network
    # Traced again, because the network's own graph does not look into torchvision's blocks of convolution,
    # normalization and activation.
    folded = fuse(copy.deepcopy(network).eval(), inplace=True).eval()
    picture = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0)) * 4 - 2
    with torch.inference_mode():
        plain, other = network(picture), folded(picture)
        is_close = [(other[k] - plain[k]).norm() <= _TOLERANCE * plain[k].norm() for k in layers]
    return folded if all(is_close) else network


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
            _LOG.warning("Going on without --compile, which failed: %s", reason or type(error).__name__)
        return maps


def bfloat16_note(device: torch.device, precision: str) -> str | None:
    """Advice to use or avoid ``bf16`` on a device, given the chosen precision; None without advice."""
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
    """The name of the hardware unit for bfloat16 on a device, and its speedup; None if it has no such unit."""
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
