"""The walk through a network: it runs on an image without values, and tensors carry the roles of their axes along."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from sppfeat.errors import ConfigError
from sppfeat.networks.receptive_field.axes import (
    Axis,
    Layout,
    first_loss,
    is_map,
    lose,
    opaque,
    plain,
    uniform,
    unnamed,
)
from sppfeat.networks.receptive_field.calls import (
    Call,
    Operand,
    bind_arguments,
    run_on_meta,
    tree_leaves,
    tree_map,
)
from sppfeat.networks.receptive_field.graph import Network
from sppfeat.networks.receptive_field.rules import has_rule, output_layout

__all__ = ["Trace", "Tracked", "layout_of", "two_sizes", "walk_twice"]

# The second input size differs from the first by an odd number of pixels and by at least one cell at the strides in
# use, which exposes padding that is computed from the input's size (TensorFlow's "SAME").
_SECOND_SIZE = 33


class Trace:
    """The state of a walk: the current node, and the memory that was marked as spoiled.

    Attributes:
        node: name of the current node, for messages.
    """

    def __init__(self) -> None:
        self.node = ""
        # Keeps the storage alive, so that its address is not reused.
        self._spoiled: list[tuple[torch.UntypedStorage, str]] = []

    def spoil(self, value: Tensor, reason: str) -> None:
        """Marks the memory of a value, so that the layouts of all tensors sharing it are lost."""
        self._spoiled.append((value.untyped_storage(), reason))

    def reason_spoiled(self, value: Tensor) -> str:
        """The reason why a value's memory was marked by :meth:`spoil`; empty if it was not."""
        if not self._spoiled:
            return ""
        storage = value.untyped_storage()
        return next((reason for other, reason in self._spoiled if other._cdata == storage._cdata), "")


class Tracked(torch.Tensor):
    """A tensor without values that carries the roles of its axes; operators on it follow the rules.

    Attributes:
        meta_value: the tensor on the ``meta`` device that it wraps.
        roles: its layout.
        walk: the trace that it belongs to.
    """

    meta_value: Tensor
    roles: Layout
    walk: Trace

    @staticmethod
    def __new__(cls, value: Tensor, layout: Layout, trace: Trace) -> "Tracked":
        """Makes a tracked tensor with the value's shape."""
        # "cpu", so that tensors that the network creates on the input's device have values that its code can read.
        device = torch.device("cpu")
        self: Tracked = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, value.stride(), value.storage_offset(), dtype=value.dtype, device=device
        )
        self.meta_value, self.roles, self.walk = value, layout, trace
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"<feature map of shape {tuple(self.shape)}, axes {self.roles}>"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not has_rule(func):
            # Composite operators arrive whole where a tensor was made in inference mode.
            parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        tracked = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tracked)]
        trace = tracked[0].walk
        result = run_on_meta(func, *tree_map(_without_values, (tuple(args), dict(kwargs))))
        bound = bind_arguments(func, args, kwargs)
        where = f"node {trace.node!r}, {func}"
        _refuse_foreign_writes(func, bound, where=where)
        operands = tree_map(_as_operand, bound)
        outputs = [item for item in tree_leaves(result) if isinstance(item, Tensor)]
        layouts = iter([output_layout(Call(func, operands, tuple(out.shape), where)) for out in outputs])
        owners = {id(item.meta_value): item for item in tracked}

        def wrap(item: Any) -> Any:
            if not isinstance(item, Tensor):
                return item
            layout, owner = next(layouts), owners.get(id(item))
            if owner is None:
                return Tracked(item, layout, trace)
            return _write_back(owner, item, layout, where=where)

        return tree_map(wrap, result)


def layout_of(value: Tensor) -> Layout:
    """The layout of a tensor; one that is not tracked has no positions."""
    if not isinstance(value, Tracked):
        return uniform(value.shape)
    reason = value.walk.reason_spoiled(value.meta_value)
    return opaque(value.shape, reason) if reason else value.roles


def _as_operand(item: Any) -> Any:
    return Operand(layout_of(item), tuple(item.shape)) if isinstance(item, Tensor) else item


def _without_values(item: Any) -> Any:
    if isinstance(item, Tracked):
        return item.meta_value
    if isinstance(item, Tensor) and not item.is_meta:
        return torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")
    return item


def _write_back(owner: Tracked, value: Tensor, layout: Layout, *, where: str) -> Tracked:
    """Updates the tensor that an operator wrote to in place."""
    if owner.shape != value.shape:
        raise ConfigError(f"{where}: changes a tensor's shape in place")
    if owner.roles != layout:
        reason = first_loss(layout) or f"{where}: written in place into a tensor of another kind"
        owner.walk.spoil(value, reason)
        owner.roles = layout
    return owner


def _refuse_foreign_writes(func: Any, bound: Mapping[str, Any], *, where: str) -> None:
    for argument in func._schema.arguments:
        target = bound.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        if is_written and isinstance(target, Tensor) and not isinstance(target, Tracked):
            raise ConfigError(f"{where}: values are written into a tensor that is not followed")


def two_sizes(input_hw: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The two input sizes to walk with, height and width: the given one, and a larger one whose result must agree.

    Raises:
        ConfigError: a side is not positive.
    """
    height, width = input_hw
    if height < 1 or width < 1:
        raise ConfigError(f"input_hw must be a positive height and width, found {input_hw}")
    return (height, width), (height + _SECOND_SIZE, width + _SECOND_SIZE)


def walk_twice(
    network: Network, input_hw: tuple[int, int], wanted: Mapping[str, fx.Node | None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Computes the outputs of each wanted node, by name, at both input sizes.

    Args:
        network: the network, in eval mode.
        input_hw: height and width of the first input, in pixels.
        wanted: nodes by name, as :func:`~sppfeat.networks.receptive_field.graph.select_outputs` returns them.

    Raises:
        ConfigError: the network does not run on such inputs, or a layer cannot be chosen.
    """
    first_hw, second_hw = two_sizes(input_hw)
    first = _walk(network, first_hw, wanted)
    layouts = [layout_of(value) for value in first.values() if isinstance(value, Tracked)]
    if not any(is_map(layout) and not first_loss(layout) for layout in layouts):
        return first, first  # there is no geometry that a second walk could refute
    return first, _walk(network, second_hw, wanted)


def _walk(
    network: Network, input_hw: tuple[int, int], wanted: Mapping[str, fx.Node | None]
) -> dict[str, Any]:
    """Computes the outputs of each wanted node, by name, for an input of this size."""
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
    """Runs the part of a graph that the wanted nodes depend on, and keeps their outputs."""

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
    """Keeps the order of the axes after a node without a rule, if the node keeps the shape.

    So channels and map size can be listed after swin's attention blocks. The geometry stays lost.
    """
    if isinstance(value, Tracked) and (reason := unnamed(layout_of(value))):
        for source in inputs:
            if source.shape == value.shape and not unnamed(source.roles):
                value.roles = tuple(lose(dim, reason) for dim in source.roles)
                return
