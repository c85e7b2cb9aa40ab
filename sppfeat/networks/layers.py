"""Cutting of a network at its layers, and probing of its maps' channels and smallest input."""

import bisect
import contextlib
import difflib
import warnings
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from sppfeat.errors import ConfigError

__all__ = ["UntraceableError", "cut_graph", "cut_network", "node_names", "probe_maps"]

_SHOWN_LAYERS = 5
_LARGEST_MIN_SIDE = 512  # a network that cannot take 512 x 512 pixels takes one size only


class UntraceableError(Exception):
    """The graph of a network cannot be traced; the cause is the error of the network's own code."""


def node_names(model: nn.Module) -> list[str]:
    """torchvision's names of the nodes of a network in evaluation mode, without its inputs; or UntraceableError."""
    with _tracing():
        return list(get_graph_node_names(model)[1])[1:]


def cut_graph(model: nn.Module, layers: Sequence[str], name: str) -> nn.Module:
    """As :func:`cut_network`, for nodes of the network's graph; raises UntraceableError if there is none."""
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
                    f"'sppfeat backbones NAME' lists those of a torchvision model)"
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
    """Cuts out the part of a network that ``layers`` depend on; it shares the network's parameters.

    Args:
        model: the network, in evaluation mode.
        layers: node names of torchvision's feature extraction; names of submodules if the network cannot be traced.
        name: name of the network, for messages.

    Returns:
        A module that maps ``(N, 3, H, W)`` images to a dict from layer to feature map.

    Raises:
        ConfigError: a layer does not exist.
    """
    try:
        return cut_graph(model, layers, name)
    except UntraceableError as error:
        return _HookedNetwork(model, layers, name, cause=error)


def _close_to(layer: str, names: Sequence[str]) -> str:
    return ", ".join(difflib.get_close_matches(layer, names, n=_SHOWN_LAYERS) or names[-_SHOWN_LAYERS:])


def probe_maps(network: nn.Module, layers: Sequence[str], name: str) -> tuple[tuple[int, ...], int]:
    """Finds the channels of each layer's map, and the smallest side in pixels of an input that gives each a cell.

    Raises:
        ConfigError: the network does not take images of any size, or an output is not a map with a fixed number of
            channels.
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
        what = (
            "images of any size" if good else f"an image of {_LARGEST_MIN_SIDE} x {_LARGEST_MIN_SIDE} pixels"
        )
        raise ConfigError(f"{name} cannot take {what}: {error}") from error
    good = bisect.bisect_left(range(good), True, lo=good // 2 + 1, key=fits)
    smallest = shapes_at(good)
    for layer, small_shape, large_shape in zip(layers, smallest, large, strict=True):
        if len(large_shape) != 4 or small_shape[1] != large_shape[1]:
            raise ConfigError(
                f"{name}, layer {layer}: its output is {tuple(large_shape)} for an image of {large_side} x "
                f"{large_side} pixels, not a feature map (1, C, H, W) with a fixed C"
            )
    return tuple(shape[1] for shape in smallest), good


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
                    f"{name} has no sub-module {layer!r}; allowed: {_close_to(layer, list(modules))}, ... "
                    f"(only sub-modules can be layers, as its graph cannot be traced: {cause})"
                ) from cause
            modules[layer].register_forward_hook(partial(self._catch, layer))

    def _catch(self, layer: str, module: nn.Module, inputs: object, output: Tensor) -> None:  # noqa: ARG002
        self._caught[layer] = output

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Computes the outputs of the layers for ``(N, 3, H, W)`` images."""
        self.model(batch)
        caught, self._caught = self._caught, {}
        return caught
