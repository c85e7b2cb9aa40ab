"""Batch normalisations folded into the convolutions before them: fewer passes over memory, the same maps."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

__all__ = ["fold_batch_norm"]

_TOLERANCE = 1e-4  # relative, l2, per layer


def fold_batch_norm(network: nn.Module, layers: Sequence[str], *, side: int) -> nn.Module:
    """The network with its batch normalisations folded, or itself where that does not apply.

    Torch's own fuser does it; what comes of it is run beside the network on a picture of noise, and not used where
    their maps differ: the fuser folds a convolution twice that two normalisations share.

    Args:
        network: ``(N, 3, H, W)`` float32 to a dict of feature maps, in evaluation mode; stays as it is.
        layers: names of the maps.
        side: height and width of an input that the network can take, in pixels.
    """
    if not isinstance(network, fx.GraphModule) or not _has_batch_norm(network):
        return network
    # Traced anew: the network's own graph stops at torchvision's blocks of convolution, normalisation, activation.
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
