"""Networks cut at their layers, and after the fully connected head of their classifier.

A cut network is probed for the channels of its maps and its smallest input, and its batch normalizations are folded.
"""

import bisect
import contextlib
import copy
import difflib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from sppfeat.config.values import CHOICES
from sppfeat.errors import ConfigError

__all__ = [
    "Head",
    "UntraceableError",
    "cut_graph",
    "cut_head",
    "cut_network",
    "fold_batch_norm",
    "node_names",
    "probe_maps",
]

_SHOWN_LAYERS = 5
_LARGEST_MIN_SIDE = 512  # a network that cannot take 512 x 512 pixels takes one size only
_TOLERANCE = 1e-4  # relative l2 difference allowed between the maps of a layer, folded and not


class UntraceableError(Exception):
    """The graph of a network cannot be traced; the cause is the error of the network's own code."""


def node_names(model: nn.Module) -> list[str]:
    """torchvision's names of a network's nodes in evaluation mode, without its inputs.

    Raises UntraceableError for a network that cannot be traced.
    """
    with _tracing():
        return list(get_graph_node_names(model)[1])[1:]


def cut_graph(model: nn.Module, layers: Sequence[str], name: str) -> nn.Module:
    """Cuts a network at nodes of its graph, as :func:`cut_network`; raises UntraceableError if it has no graph."""
    try:
        with _tracing():
            cut: nn.Module = create_feature_extractor(
                model, {layer: layer for layer in layers}, suppress_diff_warning=True
            )
    except UntraceableError:  # or a layer does not exist
        nodes = node_names(model)
        for layer in layers:
            if not any(node == layer or node.startswith(f"{layer}.") for node in nodes):
                raise ConfigError(
                    f"{name} has no layer {layer!r}; allowed: {_close_to(layer, nodes)}, ... ({len(nodes)} in all; "
                    f"'sppfeat backbones NAME' lists the layers of a torchvision model)"
                ) from None
        raise
    return cut.eval()


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:  # tracing runs the network's own code, which may raise anything
            raise UntraceableError(f"{type(error).__name__}: {error}") from error


def cut_network(model: nn.Module, layers: Sequence[str], name: str) -> nn.Module:
    """Cuts out the part of a network in evaluation mode that ``layers`` depend on; it shares the parameters.

    Args:
        layers: node names of torchvision's feature extraction; names of submodules if the network cannot be traced.
        name: name of the network, for messages.

    Returns:
        A module that maps ``(N, 3, H, W)`` images to a dict from layer to feature map.
    """
    try:
        return cut_graph(model, layers, name)
    except UntraceableError as error:
        return _HookedNetwork(model, layers, name, cause=error)


def _close_to(layer: str, names: Sequence[str]) -> str:
    return ", ".join(difflib.get_close_matches(layer, names, n=_SHOWN_LAYERS) or names[-_SHOWN_LAYERS:])


def probe_maps(network: nn.Module, layers: Sequence[str], name: str) -> tuple[tuple[int, ...], int]:
    """Finds the channels of each layer's map, and the smallest input side in pixels that gives each map a cell.

    Raises ConfigError if the network does not take images of any size, or an output is not a map with a fixed number
    of channels.
    """

    def shapes_at(side: int) -> list[torch.Size]:
        with torch.inference_mode():
            outputs = network(torch.zeros(1, 3, side, side))
        shapes = [outputs[layer].shape for layer in layers]
        if any(0 in shape for shape in shapes):
            raise ValueError(f"its output would be {shapes}")
        return shapes

    def fits(side: int) -> bool:
        with contextlib.suppress(Exception):  # the network may raise anything for a size that it cannot take
            return bool(shapes_at(side))
        return False

    sides = [2**i for i in range(_LARGEST_MIN_SIDE.bit_length())]
    good = next(filter(fits, sides), 0)
    large_side = 2 * good + 64 if good else _LARGEST_MIN_SIDE
    try:
        large = shapes_at(large_side)
    except Exception as error:
        images = "images of any size" if good else f"{_LARGEST_MIN_SIDE} x {_LARGEST_MIN_SIDE} pixels"
        raise ConfigError(f"{name} cannot take {images}: {error}") from error
    good = bisect.bisect_left(range(good), True, lo=good // 2 + 1, key=fits)
    smallest = shapes_at(good)
    for layer, small_shape, large_shape in zip(layers, smallest, large, strict=True):
        if len(large_shape) != 4 or small_shape[1] != large_shape[1]:
            raise ConfigError(
                f"{name}, layer {layer}: its output is {tuple(large_shape)} for an image of {large_side} x "
                f"{large_side} pixels, not a feature map (1, C, H, W) with a fixed C"
            )
    return tuple(shape[1] for shape in smallest), good


def fold_batch_norm(network: nn.Module, layers: Sequence[str], *, side: int) -> nn.Module:
    """Folds batch normalizations into the convolutions before them, if that leaves the maps unchanged.

    The folded network makes fewer passes over memory. torch's fuser makes it, but folds a convolution twice
    if two normalizations share it. Both networks therefore run once on a noise image of ``side x side`` pixels, and
    the folded one is dropped if their maps differ. ``network`` itself does not change.
    """
    has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    if not isinstance(network, fx.GraphModule) or not has_batch_norm:
        return network
    # fuse traces again, because the network's own graph does not look into torchvision's blocks of convolution,
    # normalization and activation.
    folded = fuse(copy.deepcopy(network).eval(), inplace=True).eval()
    picture = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0)) * 4 - 2
    with torch.inference_mode():
        plain, other = network(picture), folded(picture)
        is_close = [(other[k] - plain[k]).norm() <= _TOLERANCE * plain[k].norm() for k in layers]
    return folded if all(is_close) else network


@dataclass(frozen=True)
class Head:
    """The fully connected layers of a classifier up to ``name`` (fc6 or fc7), ReLU included, applied to pooled regions.

    fc6 multiplies pool5, flattened to one vector, by a weight matrix and applies ReLU; fc7 follows it (Girshick,
    Donahue, Darrell, Malik: *Rich feature hierarchies*, CVPR 2014, section 3.2). Adaptive max pooling of a region
    replaces the last max pooling, with as many bins as the first fully connected layer takes (Girshick: *Fast R-CNN*,
    ICCV 2015, section 2.2).

    Attributes:
        level: the only pyramid level that it takes: ``level x level`` bins, max-pooled.
        channels: length of its output.
        network: maps ``(K, C * level * level)``, ordered by channel, then bin row, then bin column, to ``(K,
            channels)``.
    """

    name: str
    level: int
    channels: int
    network: nn.Module


def cut_head(model: Any, head: str) -> Head:
    """Cuts the classifier of a vgg or alexnet after the ReLU of fc6 or fc7; the layers share its parameters."""
    activations = [i for i, layer in enumerate(model.classifier) if isinstance(layer, nn.ReLU)]
    # A slice keeps the names of its layers and drops the later layers.
    layers = model.classifier[: activations[CHOICES["head"].index(head)] + 1].eval()
    channels = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)][-1]
    return Head(head, model.avgpool.output_size[0], channels, layers)


class _HookedNetwork(nn.Module):
    """A network that returns the outputs of named submodules, for networks that cannot be traced."""

    def __init__(self, model: nn.Module, layers: Sequence[str], name: str, *, cause: Exception) -> None:
        super().__init__()
        self.model = model
        self._caught: dict[str, Tensor] = {}
        modules = dict(model.named_modules())
        for layer in layers:
            if layer not in modules:
                raise ConfigError(
                    f"{name} has no submodule {layer!r}; allowed: {_close_to(layer, list(modules))}, ... "
                    f"(its graph cannot be traced, so only submodules can be layers: {cause})"
                ) from cause
            modules[layer].register_forward_hook(partial(self._catch, layer))

    def _catch(self, layer: str, module: nn.Module, inputs: object, output: Tensor) -> None:  # noqa: ARG002
        self._caught[layer] = output

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Computes the outputs of the layers for ``(N, 3, H, W)`` images."""
        self.model(batch)
        caught, self._caught = self._caught, {}
        return caught
