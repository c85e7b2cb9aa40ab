"""Faster networks: batch normalizations folded, graphs compiled, bfloat16 where the hardware computes it."""

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
_TOLERANCE = 1e-4  # of a folded network's maps: relative, l2, per layer


def fold_batch_norm(network: nn.Module, layers: Sequence[str], *, side: int) -> nn.Module:
    """The network with its batch normalizations folded into the convolutions before them, or itself.

    Fewer passes over memory, the same maps. Torch's own fuser does it. The result runs beside the network on a
    picture of noise and is dropped where their maps differ: the fuser folds a convolution twice when two
    normalizations share it.

    Args:
        network: from ``(N, 3, H, W)`` float32 to a dict of feature maps, in evaluation mode; not changed.
        layers: names of the maps.
        side: height and width of an input that the network can take, in pixels.

    Returns:
        Another network with the same maps; ``network`` itself where there is nothing to fold, where its graph is not
        known, or where folding would change a map.
    """
    if not isinstance(network, fx.GraphModule) or not _has_batch_norm(network):
        return network
    # Traced anew: the network's own graph stops at torchvision's blocks of convolution, normalization, activation.
    folded = fuse(copy.deepcopy(network).eval(), inplace=True).eval()
    picture = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0)) * 4 - 2
    with torch.inference_mode():
        plain, other = network(picture), folded(picture)
    return folded if all(_is_close(other[layer], plain[layer]) for layer in layers) else network


def _has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def _is_close(fmap: Tensor, reference: Tensor) -> bool:
    difference = torch.linalg.vector_norm(fmap - reference)
    return bool(difference <= _TOLERANCE * torch.linalg.vector_norm(reference))


class CompiledNetwork(nn.Module):
    """A network compiled by ``torch.compile``; where that fails, the network itself, with a warning.

    The first batches are slow: torch compiles for single input shapes until it has seen which sides vary.

    Args:
        network: from images to a dict of feature maps.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._compiled: Any = torch.compile(network)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """The feature maps of ``(N, 3, H, W)`` images, by layer."""
        if self._compiled is None:
            return self._plain(batch)
        try:
            maps: dict[str, Tensor] = self._compiled(batch)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # The compiler may raise anything; an error of the network's own is raised again here.
            maps = self._plain(batch)
            self._compiled = None
            reason = one_line(str(error).strip().partition("\n")[0], longest=_LONGEST_REASON)
            _LOG.warning("Going on without --compile, which failed: %s", reason or type(error).__name__)
        return maps

    def _plain(self, batch: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.network(batch)
        return maps


def bfloat16_note(device: torch.device, precision: str) -> str | None:
    """Advice about ``bf16`` on a device for the chosen precision; None if there is none to give."""
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
    """The unit that computes bfloat16 on a device, and its gain; None if there is no such unit."""
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
