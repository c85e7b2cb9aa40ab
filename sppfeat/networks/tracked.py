"""Runs a network on an image without values; its tensors carry the positions of their values.

The traversal of nested arguments is private to torch, and only this module uses it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from sppfeat.errors import ConfigError
from sppfeat.networks.positions import NO_RULE, Call, find_rule, has_lost, is_move, nowhere, same

__all__ = ["Tracked", "eval_mode", "output_keys", "walk"]

Places: TypeAlias = tuple[Tensor, Tensor]


class Trace:
    """The state of a walk: the name of the current node, for messages."""

    node = ""


class Tracked(torch.Tensor):
    """A tensor without values that carries their positions; operators on it follow the rules."""

    meta_value: Tensor  # the tensor on the meta device that it wraps
    places: Places  # positions of its values along the image's y and x
    # Why positions are lost; empty if they are not. Places may still tell the order of the axes.
    lost: str
    walk: Trace  # the trace that it belongs to

    @staticmethod
    def __new__(cls, value: Tensor, places: Places, lost: str, trace: Trace) -> "Tracked":
        """Makes a tracked tensor with the value's shape."""
        # "cpu", so that tensors that the network creates on the input's device have values that its code can read.
        device = torch.device("cpu")
        self: Tracked = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, value.stride(), value.storage_offset(), dtype=value.dtype, device=device
        )
        self.meta_value, self.places, self.lost, self.walk = value, places, lost, trace
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"<values without numbers of shape {tuple(self.shape)}>"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not is_move(func) and find_rule(func) is None:
            # Composite operators arrive whole where a tensor was made in inference mode.
            parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        tracked = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tracked)]
        trace = tracked[0].walk
        where = f"node {trace.node!r}, {func}"
        bound = _bind_arguments(func, args, kwargs)
        _refuse_foreign_writes(func, bound, where=where)
        meta_args, meta_kwargs = tree_map(_without_values, (tuple(args), dict(kwargs)))
        if meta_kwargs.get("device") is not None:
            meta_kwargs["device"] = torch.device("meta")
        result = func(*meta_args, **meta_kwargs)
        outputs = [item for item in tree_leaves(result) if isinstance(item, Tensor)]
        lost = next((item.lost for item in tracked if item.lost), "")
        if is_move(func):
            places = _move(func, args, kwargs, outputs)
        else:
            places, reason = _compute(func, bound, outputs, is_lenient=bool(lost))
            lost = lost or (f"{where}: {reason}" if reason else "")
        owners = {id(item.meta_value): item for item in tracked}
        found = iter(places)

        def wrap(item: Any) -> Any:
            if not isinstance(item, Tensor):
                return item
            place, owner = next(found), owners.get(id(item))
            if owner is None:
                return Tracked(item, place, lost, trace)
            _write(owner, item, place, lost, where=where)
            return owner

        return tree_map(wrap, result)


def _move(func: Any, args: Any, kwargs: Any, outputs: list[Tensor]) -> list[Places]:
    """Moves positions as an operator moves values."""
    name = func.overloadpacket.__name__
    moved = []
    for axis in (0, 1):
        own_args, own_kwargs = tree_map(
            partial(_to_positions, axis, name == "stack"), (tuple(args), dict(kwargs))
        )
        if "view" in name or "reshape" in name:
            # Positions that are repeated in memory have no view of every shape.
            moved.append([own_args[0].reshape(outputs[0].shape)])
        else:
            moved.append(tree_leaves(func(*own_args, **own_kwargs)))
    return list(zip(*moved, strict=True))


def _compute(
    func: Any, bound: dict[str, Any], outputs: list[Tensor], *, is_lenient: bool
) -> tuple[list[Places], str]:
    """Positions of the values that an operator computes, and the reason if it loses some, else an empty text."""
    rule, reason = find_rule(func) or NO_RULE
    shape = tuple(outputs[0].shape)
    calls = [Call(tree_map(partial(_to_positions, axis, True), bound), shape, is_lenient) for axis in (0, 1)]
    y, x = map(rule, calls)
    problem = ""
    if not is_lenient and (has_lost(y) or has_lost(x)):
        problem = reason
        y, x = (rule(call._replace(is_lenient=True)) for call in calls)
    statistic = nowhere((), math.nan)  # an output of another shape is a statistic, not a map
    return [
        (y, x) if out.shape == shape else (statistic.expand(out.shape), statistic.expand(out.shape))
        for out in outputs
    ], problem


def _to_positions(axis: int, has_parameters: bool, item: Any) -> Any:
    """The positions of a tensor; other arguments stay, except parameters, which may get empty positions."""
    if isinstance(item, Tracked):
        return item.places[axis]
    return nowhere(item.shape) if has_parameters and isinstance(item, Tensor) else item


def _bind_arguments(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call by their names in the operator's schema, defaults included."""
    schema = func._schema.arguments
    bound = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    bound.update(zip((argument.name for argument in schema), args, strict=False))
    return {**bound, **kwargs}


def _without_values(item: Any) -> Any:
    if isinstance(item, Tracked):
        return item.meta_value
    if isinstance(item, Tensor) and not item.is_meta:
        return torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")
    return item


def _write(owner: Tracked, value: Tensor, places: Places, lost: str, *, where: str) -> None:
    """Writes the positions of a tensor that an operator changed in place, and so of its views."""
    if owner.shape != value.shape:
        raise ConfigError(f"{where}: changes a tensor's shape in place")
    for own, new in zip(owner.places, places, strict=True):
        if lost and not owner.lost:
            new = nowhere(new.shape, math.nan)
        if not same(own, new):
            if any(stride == 0 and size > 1 for size, stride in zip(own.shape, own.stride(), strict=True)):
                raise ConfigError(lost or f"{where}: written in place into a tensor of another kind")
            own.copy_(new)
    owner.lost = owner.lost or lost


def _refuse_foreign_writes(func: Any, bound: Mapping[str, Any], *, where: str) -> None:
    for argument in func._schema.arguments:
        target = bound.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        if is_written and isinstance(target, Tensor) and not isinstance(target, Tracked):
            raise ConfigError(f"{where}: values are written into a tensor without positions")


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
    """Runs a network in eval mode on an image without values; returns its outputs by name.

    A single output is called ``output``. Raises ConfigError if the network does not run on such an image.
    """
    trace = Trace()
    floating = (p.dtype for p in module.parameters() if p.dtype.is_floating_point)
    image = torch.empty(2, 3, *input_hw, dtype=next(floating, torch.float32), device="meta")
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in input_hw)
    places = rows[:, None].expand(image.shape), columns.expand(image.shape)
    batch = Tracked(image, places, "", trace)
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
            f"the network cannot run without values on an input of {height} x {width} pixels{at}: {error}"
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
        self.extra_traceback = False  # walk words the error
        self.trace = trace

    def run_node(self, n: fx.Node) -> Any:
        self.trace.node = str(n.target) if n.op == "call_module" else n.name
        return super().run_node(n)
