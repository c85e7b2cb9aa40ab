"""The walk through a network: it runs on an image without values, and tensors carry the roles of their axes along."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from sppfeat.errors import ConfigError
from sppfeat.networks.receptive_field.axes import (
    Axis,
    Layout,
    first_loss,
    lose,
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
from sppfeat.networks.receptive_field.rules import has_rule, output_layout

__all__ = ["Tracked", "eval_mode", "layout_of", "output_keys", "walk"]


class Trace:
    """The state of a walk: the name of the current node, for messages."""

    node = ""


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
            _check_write(owner, item, layout, where=where)
            return owner

        return tree_map(wrap, result)


def layout_of(value: Tensor) -> Layout:
    """The layout of a tensor; one that is not tracked has no positions."""
    return value.roles if isinstance(value, Tracked) else uniform(value.shape)


def _as_operand(item: Any) -> Any:
    return Operand(layout_of(item), tuple(item.shape)) if isinstance(item, Tensor) else item


def _without_values(item: Any) -> Any:
    if isinstance(item, Tracked):
        return item.meta_value
    if isinstance(item, Tensor) and not item.is_meta:
        return torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")
    return item


def _check_write(owner: Tracked, value: Tensor, layout: Layout, *, where: str) -> None:
    """Refuses an operator that changes, in place, what a tensor is; its views would have to change with it."""
    if owner.shape != value.shape:
        raise ConfigError(f"{where}: changes a tensor's shape in place")
    if owner.roles != layout and value.numel():
        raise ConfigError(first_loss(layout) or f"{where}: written in place into a tensor of another kind")


def _refuse_foreign_writes(func: Any, bound: Mapping[str, Any], *, where: str) -> None:
    for argument in func._schema.arguments:
        target = bound.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        if is_written and isinstance(target, Tensor) and not isinstance(target, Tracked):
            raise ConfigError(f"{where}: values are written into a tensor that is not followed")


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


def output_keys(module: nn.Module) -> list[str]:
    """The keys of the dict that a GraphModule returns; empty for other modules and results."""
    if not isinstance(module, fx.GraphModule):
        return []
    (output,) = (node for node in _graph_of(module).nodes if node.op == "output")
    value = output.args[0]
    return list(map(str, value)) if isinstance(value, Mapping) else []


def walk(module: nn.Module, input_hw: tuple[int, int]) -> dict[str, Any]:
    """Runs a network on an image without values.

    Args:
        module: the network, in eval mode. The nodes of a GraphModule are named in messages.
        input_hw: height and width of the image, in pixels.

    Returns:
        The network's outputs by name; a single one is called ``output``.

    Raises:
        ConfigError: the network does not run on such an image.
    """
    trace = Trace()
    floating = (p.dtype for p in module.parameters() if p.dtype.is_floating_point)
    image = torch.empty(2, 3, *input_hw, dtype=next(floating, torch.float32), device="meta")
    axes = [(Axis(size, name, 1.0, 0.0, ""),) for size, name in zip(input_hw, "yx", strict=True)]
    batch = Tracked(image, (plain(2), plain(3), *axes), trace)
    run = _Walker(module, trace).run if isinstance(module, fx.GraphModule) else module
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            value = run(batch)
    except ConfigError:
        raise
    except Exception as error:  # the network's own code may raise anything
        at = f" at node {trace.node!r}" if trace.node else ""
        height, width = input_hw
        raise ConfigError(
            f"the network cannot be followed on an input of {height} x {width} pixels{at}: {error}"
        ) from error
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, Sequence):
        return {str(i): item for i, item in enumerate(value)}
    return {"output": value}


def _graph_of(module: fx.GraphModule) -> fx.Graph:
    graph: fx.Graph = getattr(module, "eval_graph", module.graph)
    return graph


class _Walker(fx.Interpreter):
    """Runs a graph and notes the name of each node."""

    def __init__(self, module: fx.GraphModule, trace: Trace):
        super().__init__(module, graph=_graph_of(module))
        self.extra_traceback = False  # the error is worded in walk
        self.trace = trace

    def run_node(self, n: fx.Node) -> Any:
        self.trace.node = str(n.target) if n.op == "call_module" else n.name
        value = super().run_node(n)
        inputs = [self.env[node] for node in n.all_input_nodes]
        _keep_axes_names(value, [v for v in inputs if isinstance(v, Tracked)])
        return value


def _keep_axes_names(value: Any, inputs: Sequence[Tracked]) -> None:
    """Keeps the order of the axes after a node without a rule, if the node keeps the shape.

    So channels and map size can be listed after swin's attention blocks. The geometry stays lost.
    """
    if isinstance(value, Tracked) and (reason := unnamed(layout_of(value))):
        for source in inputs:
            if source.shape == value.shape and not unnamed(source.roles):
                value.roles = tuple(lose(dim, reason) for dim in source.roles)
                return
