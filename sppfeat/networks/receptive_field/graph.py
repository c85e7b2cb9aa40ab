"""Graphs of networks, with torchvision's names for the nodes."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import fx, nn

from sppfeat.errors import ConfigError

__all__ = ["Network", "eval_mode", "open_network", "select_outputs"]


class Network(NamedTuple):
    """A network and its graph.

    Attributes:
        module: the network.
        graph: its graph; None if torch.fx cannot trace it, and then only its outputs are available.
        names: torchvision's name of each node.
        untraceable: the reason why there is no graph; empty if there is one.
    """

    module: nn.Module
    graph: fx.Graph | None
    names: dict[fx.Node, str]
    untraceable: str


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Keeps a module in eval mode in the context."""
    # Flags only: train() and eval() would recompile torchvision's two-mode graphs, and calling train() on
    # the whole network afterwards would undo the caller's frozen submodules.
    flags = [(child, child.training) for child in module.modules()]
    try:
        for child, _ in flags:
            child.training = False
        yield
    finally:
        for child, training in flags:
            child.training = training


def open_network(module: nn.Module) -> Network:
    """Opens a module with its graph: the one of a GraphModule, or one traced as in torchvision's feature extraction."""
    if isinstance(module, fx.GraphModule):
        graph: fx.Graph = getattr(module, "eval_graph", module.graph)
        names = {n: str(n.target) if n.op == "call_module" else n.name for n in graph.nodes}
        return Network(module, graph, names, "")
    # torchvision takes a second to import, and exports neither its tracer nor the tracer's settings.
    from torchvision.models import feature_extraction

    tracer = feature_extraction.NodePathTracer(**feature_extraction._set_default_tracer_kwargs(None))
    try:
        graph = tracer.trace(module)
    except Exception as error:  # tracing runs the network's own code, which may raise anything
        return Network(module, None, {}, f"{type(error).__name__}: {error}")
    return Network(module, graph, dict(tracer.node_to_qualname), "")


def select_outputs(network: Network, layers: Sequence[str] | None) -> dict[str, fx.Node | None]:
    """Finds the nodes of layers, or of all outputs, by name; without a graph each is None.

    Args:
        network: the network.
        layers: torchvision's names of nodes, also truncated ones, or keys of the output; None for all outputs.

    Raises:
        ConfigError: the network lacks a layer; the message gives similar names.
    """
    if network.graph is None:
        return dict.fromkeys(layers or ())
    outputs = _graph_outputs(network.graph)
    if layers is None:
        return dict(outputs)
    return {layer: outputs.get(layer) or _find_node(network, layer) for layer in layers}


def _graph_outputs(graph: fx.Graph) -> dict[str, fx.Node]:
    (output,) = (node for node in graph.nodes if node.op == "output")
    value = output.args[0]
    if isinstance(value, fx.Node):
        return {value.name: value}
    if isinstance(value, Mapping):
        return {str(key): node for key, node in value.items() if isinstance(node, fx.Node)}
    if isinstance(value, Sequence):
        return {str(i): node for i, node in enumerate(value) if isinstance(node, fx.Node)}
    return {}


def _find_node(network: Network, layer: str) -> fx.Node:
    depth = layer.count(".") + 1
    names = {node: name for node, name in network.names.items() if node.op not in ("placeholder", "output")}
    for node, name in reversed(names.items()):
        if node.name == layer or ".".join(name.split(".")[:depth]) == layer:
            return node
    known = difflib.get_close_matches(layer, names.values(), n=5, cutoff=0.4) or list(names.values())[-5:]
    raise ConfigError(f"the network has no layer {layer!r}; close to it: {', '.join(known)}")
