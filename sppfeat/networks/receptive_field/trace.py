"""What each layer of a network computes from an input that has axes and no values."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from sppfeat.errors import ConfigError
from sppfeat.networks.receptive_field.axes import Axis, first_loss, is_map, lose, plain, unnamed
from sppfeat.networks.receptive_field.graph import Network
from sppfeat.networks.receptive_field.tracked import Trace, Tracked, layout_of

__all__ = ["two_sizes", "walk_twice"]

# The second input size differs from the first by an odd number of pixels and by at least one cell at the
# strides in use: padding that is computed from the input's size (TensorFlow's "SAME") then shows itself.
_SECOND_SIZE = 33


def two_sizes(input_hw: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The input sizes to walk with: the one asked for, and a larger one that has to agree with it."""
    height, width = input_hw
    if height < 1 or width < 1:
        raise ConfigError(f"input_hw must be a positive height and width, found {input_hw}")
    return (height, width), (height + _SECOND_SIZE, width + _SECOND_SIZE)


def walk_twice(
    network: Network, input_hw: tuple[int, int], wanted: Mapping[str, fx.Node | None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each wanted node computes, by name, at either of the two sizes."""
    first_hw, second_hw = two_sizes(input_hw)
    first = _walk(network, first_hw, wanted)
    layouts = [layout_of(value) for value in first.values() if isinstance(value, Tracked)]
    if not any(is_map(layout) and not first_loss(layout) for layout in layouts):
        return first, first  # nothing was found that a second walk could refute
    return first, _walk(network, second_hw, wanted)


def _walk(
    network: Network, input_hw: tuple[int, int], wanted: Mapping[str, fx.Node | None]
) -> dict[str, Any]:
    """What each wanted node computes from an input of this size."""
    trace = Trace()
    floating = (p.dtype for p in network.module.parameters() if p.dtype.is_floating_point)
    image = torch.empty(2, 3, *input_hw, dtype=next(floating, torch.float32), device="meta")
    axes = [(Axis(size, name, 1.0, 0.0, ""),) for size, name in zip(input_hw, "yx", strict=True)]
    batch = Tracked(image, (plain(2), plain(3), *axes), trace)
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            if network.graph is None:
                return _pick_outputs(network, network.module(batch), wanted)
            walker = _Walker(network, trace, {node for node in wanted.values() if node is not None})
            walker.run(batch)
    except ConfigError:
        raise
    except Exception as error:  # the network's own code may raise anything
        at = f" at node {trace.node!r}" if trace.node else ""
        height, width = input_hw
        raise ConfigError(
            f"the network cannot be followed on an input of {height} x {width} pixels{at}: {error}"
        ) from error
    return {name: walker.found[node] for name, node in wanted.items() if node is not None}


def _pick_outputs(network: Network, value: Any, layers: Collection[str]) -> dict[str, Any]:
    outputs = (
        {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {"output": value}
    )
    for layer in layers:
        if layer not in outputs:
            raise ConfigError(
                f"layer {layer!r} cannot be chosen, as torch.fx cannot trace the network "
                f"({network.untraceable}); its outputs are {', '.join(outputs)}"
            )
    return {layer: outputs[layer] for layer in layers or outputs}


class _Walker(fx.Interpreter):
    """Runs the part of a graph that the wanted nodes depend on, and keeps their values."""

    def __init__(self, network: Network, trace: Trace, wanted: set[fx.Node]):
        super().__init__(network.module, graph=network.graph)
        self.extra_traceback = False  # the error is worded in _walk
        self.trace, self.names, self.wanted = trace, network.names, wanted
        self.needed = _ancestors(wanted)
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n not in self.needed:
            return None
        self.trace.node = self.names.get(n, n.name)
        value = super().run_node(n)
        inputs = [self.env[node] for node in n.all_input_nodes]
        _keep_axes_names(value, [v for v in inputs if isinstance(v, Tracked)])
        if n in self.wanted:
            self.found[n] = value
        return value


def _ancestors(nodes: set[fx.Node]) -> set[fx.Node]:
    found, waiting = set(nodes), list(nodes)
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found


def _keep_axes_names(value: Any, inputs: Sequence[Tracked]) -> None:
    """Let a node that no rule understands, but that keeps the shape, keep the order of the axes.

    So channels and map size can be listed behind swin's attention blocks. The geometry stays lost.
    """
    if isinstance(value, Tracked) and (reason := unnamed(layout_of(value))):
        for source in inputs:
            if source.shape == value.shape and not unnamed(source.roles):
                value.roles = tuple(lose(dim, reason) for dim in source.roles)
                return
