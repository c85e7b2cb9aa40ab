"""Stride and offset of a feature map, by receptive-field arithmetic through the network.

The network runs without values: its input has a shape and records the position of each value in the image
(:mod:`~sppfeat.networks.tracked`). PyTorch reduces every module, function and method that the network calls to
elementary operators. An operator moves positions as it moves values, or has a rule
(:mod:`~sppfeat.networks.positions`), or is refused with an error that names node and operator, so the arithmetic never
guesses. No weights are read.

Along one spatial axis, cell ``i`` of a window operator (convolution, pooling) with kernel
``k``, stride ``s``, padding ``p`` and dilation ``d`` is centered at cell ``s * i - p + d * (k - 1) / 2``
of the operator's input. Composing these gives a map's stride and offset in pixels.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from sppfeat.errors import ConfigError
from sppfeat.networks.positions import are_known, line_along, spread_along
from sppfeat.networks.tracked import Tracked, eval_mode, output_keys, walk

__all__ = ["FeatureGeometry", "LayerGeometry", "layer_geometries", "receptive_field"]

# The second input size differs from the first by an odd number of pixels and by at least one cell at the strides in
# use, which exposes padding that is computed from the input's size (TensorFlow's "SAME").
_SECOND_SIZE = 33


class FeatureGeometry(NamedTuple):
    """The positions of a feature map's cells in the network input.

    Cell ``i`` is centered at input pixel index ``offset + stride * i``; the center of pixel 0 has index 0.

    Attributes:
        stride: input pixels from one cell to the next; a ``(y, x)`` pair where the axes differ.
        offset: input pixel index of the center of cell 0; a ``(y, x)`` pair where the axes differ.
    """

    stride: float | tuple[float, float]
    offset: float | tuple[float, float]


class LayerGeometry(NamedTuple):
    """A feature map of a network; ``map_hw`` is its height and width in cells for the given input size.

    ``geometry`` is None if the arithmetic does not apply; ``reason`` then says why, and is empty otherwise.
    """

    channels: int
    map_hw: tuple[int, int]
    geometry: FeatureGeometry | None
    reason: str


def receptive_field(
    module_or_graph: nn.Module, layer: str | None = None, *, input_hw: tuple[int, int] = (224, 224)
) -> FeatureGeometry:
    """Computes the stride and offset of one layer's feature map, in pixels of the network input.

    Strides and offsets are composed along every path from the input, and paths that meet must agree. Values pooled
    over the whole map (the gates of squeeze-and-excitation) have no position and are left out. The network is walked
    in eval mode, at ``input_hw`` and at a slightly larger size, and the two must agree. It is neither changed nor
    copied, and none of its weights is read.

    Args:
        module_or_graph: a network that takes an image batch ``(N, 3, H, W)``. A GraphModule is walked as it is; any
            other module is traced as in torchvision's feature extraction.
        layer: torchvision's name of a node, also a truncated one (``"layer4"``). For a
            GraphModule: a key of its dict output or the name of a node. None: the only output.
        input_hw: height and width of the input to walk with, in pixels.

    Returns:
        The map's stride and offset, each a float, or a ``(y, x)`` pair where the axes differ.

    Raises:
        ConfigError: the layer is unknown, its output is not a feature map ``(N, C, H, W)``, or the arithmetic does
            not apply; the message names node, operator and reason.

    Example:
        >>> from torch import nn
        >>> stem = nn.Sequential(nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.MaxPool2d(2))
        >>> receptive_field(stem)
        FeatureGeometry(stride=4.0, offset=1.0)
        >>> receptive_field(stem, "0")
        FeatureGeometry(stride=2.0, offset=0.0)
    """
    first, second = _walk_twice(module_or_graph, None if layer is None else [layer], input_hw)
    if len(first) != 1:
        raise ConfigError(f"the network has {len(first)} outputs; choose one: {', '.join(first) or 'none'}")
    ((key, found),) = first.items()
    name = "the network's output" if layer is None else f"layer {layer!r}"
    if not isinstance(found, Tracked) or found.dim() != 4:
        shape = f"of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(f"{name} is not a feature map (N, C, H, W) but {shape}")
    geometry, reason = _agreed_geometry([found, second[key]], input_hw)
    if geometry is None:
        raise ConfigError(f"{name} has no stride and offset: {reason}")
    return geometry


def layer_geometries(
    module_or_graph: nn.Module, layers: Sequence[str], *, input_hw: tuple[int, int] = (224, 224)
) -> dict[str, LayerGeometry]:
    """Computes channels, size and geometry of many layers at once, from one walk through the network.

    Takes and refuses what :func:`receptive_field` does.

    Returns:
        One entry per layer, in order. A layer has no entry if its axes are not known to be ``(N, C, H, W)``: a
            vector, a channels-last map, a map pooled to one cell.
    """
    first, second = _walk_twice(module_or_graph, layers, input_hw)
    found: dict[str, LayerGeometry] = {}
    for name, value in first.items():
        if isinstance(value, Tracked) and _is_map(value):
            geometry, reason = _agreed_geometry([value, second[name]], input_hw)
            _, channels, height, width = value.shape
            found[name] = LayerGeometry(channels, (height, width), geometry, reason)
    return found


def _walk_twice(
    module: nn.Module, layers: Sequence[str] | None, input_hw: tuple[int, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs of the layers at both input sizes, by name; of the whole network without layers."""
    # torchvision takes a second to import.
    from sppfeat.networks.layers import UntraceableError, cut_graph

    height, width = input_hw
    if height < 1 or width < 1:
        raise ConfigError(f"input_hw must be a positive height and width, found {input_hw}")
    untraceable = ""
    with eval_mode(module):
        try:
            if layers and not set(layers) <= set(output_keys(module)):
                module = cut_graph(module, layers, "the network")
            elif not isinstance(module, fx.GraphModule):
                # Messages then name nodes. The network's own code may raise anything.
                with contextlib.suppress(Exception):
                    module = fx.symbolic_trace(module)
        except UntraceableError as error:
            untraceable = str(error)
        first = walk(module, input_hw)
        values = [value for value in first.values() if isinstance(value, Tracked)]
        if any(_is_map(value) and not value.lost for value in values):  # the second walk may refute it
            second = walk(module, (height + _SECOND_SIZE, width + _SECOND_SIZE))
        else:
            second = first
    for layer in layers or ():
        if layer not in first:
            raise ConfigError(
                f"layer {layer!r} cannot be chosen, because torch.fx cannot trace the network "
                f"({untraceable}); its outputs are {', '.join(first)}"
            )
    return {layer: first[layer] for layer in layers or first}, second


def _is_map(value: Tracked) -> bool:
    """True for a feature map ``(N, C, H, W)``: y varies along H alone, x along W alone."""
    return value.dim() == 4 and all(
        are_known(places)
        and not any(spread_along(places, dim) for dim in range(4) if dim != axis)
        and (spread_along(places, axis) or value.shape[axis] == 1)
        for axis, places in zip((2, 3), value.places, strict=True)
    )


def _agreed_geometry(
    values: Sequence[Tracked], input_hw: tuple[int, int]
) -> tuple[FeatureGeometry | None, str]:
    found = []
    for value in values:
        if value.lost:
            return None, value.lost
        for axis, name, places in zip((2, 3), "yx", value.places, strict=True):
            if spread_along(places, 1) and spread_along(places, axis):
                return None, f"its channels disagree along {name}"
        if not _is_map(value):
            return None, "its axes are not (N, C, H, W) with H and W from the image"
        lines = [line_along(places, axis) for axis, places in zip((2, 3), value.places, strict=True)]
        if lines[0] is None or lines[1] is None:
            return None, "its cells are not evenly spaced"
        (y, y_step), (x, x_step) = ((float(part.flatten()[0]) for part in line) for line in lines if line)
        if math.isnan(y_step + x_step):
            return None, "the map is one cell wide or high here; use a larger input_hw"
        found.append(FeatureGeometry(_pair(y_step, x_step), _pair(y, x)))
    if found[0] != found[1]:
        second = tuple(side + _SECOND_SIZE for side in input_hw)
        return None, f"it depends on the input's size: {found[0]} at {input_hw}, {found[1]} at {second}"
    return found[0], ""


def _pair(y: float, x: float) -> float | tuple[float, float]:
    return y if y == x else (y, x)
