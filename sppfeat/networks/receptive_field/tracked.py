"""The tensor without values, which carries the roles of its axes through every operator."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sppfeat.errors import ConfigError
from sppfeat.networks.receptive_field.axes import Layout, first_loss, opaque, uniform
from sppfeat.networks.receptive_field.calls import Call, Operand, tree_leaves, tree_map
from sppfeat.networks.receptive_field.rules import has_rule, output_layout

__all__ = ["Trace", "Tracked", "layout_of"]


class Trace:
    """Where the walk is, and which memory holds values that no rule could follow."""

    def __init__(self) -> None:
        self.node = ""
        # Holds the storage, so that no other reuses it.
        self._spoiled: list[tuple[torch.UntypedStorage, str]] = []

    def spoil(self, value: Tensor, reason: str) -> None:
        """Give up all tensors that share the value's memory."""
        self._spoiled.append((value.untyped_storage(), reason))

    def reason_spoiled(self, value: Tensor) -> str:
        """Why the value's memory was given up; empty where it was not."""
        if not self._spoiled:
            return ""
        storage = value.untyped_storage()
        return next((reason for other, reason in self._spoiled if other._cdata == storage._cdata), "")


class Tracked(torch.Tensor):
    """A tensor without values that knows the roles of its axes; operators on it follow the rules."""

    meta_value: Tensor
    roles: Layout
    walk: Trace

    @staticmethod
    def __new__(cls, value: Tensor, layout: Layout, trace: Trace) -> "Tracked":
        """A tracked tensor of the value's shape."""
        # "cpu", so that what the network makes on the input's device has values that its code can look at.
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
        result = _run_without_values(func, args, kwargs)
        bound = _bind(func, args, kwargs)
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
    """What is known of a tensor's axes; one that is not tracked has no positions."""
    if not isinstance(value, Tracked):
        return uniform(value.shape)
    reason = value.walk.reason_spoiled(value.meta_value)
    return opaque(value.shape, reason) if reason else value.roles


def _as_operand(item: Any) -> Any:
    return Operand(layout_of(item), tuple(item.shape)) if isinstance(item, Tensor) else item


def _bind(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by the names of the operator's schema, defaults included."""
    schema = func._schema.arguments
    bound = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    bound.update(zip((argument.name for argument in schema), args, strict=False))
    return {**bound, **kwargs}


def _run_without_values(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    args, kwargs = tree_map(_without_values, (tuple(args), dict(kwargs)))
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": torch.device("meta")}
    # PyTorch finds these operators' shapes through decompositions in Python: half the time of a walk.
    if torch.Tag.pointwise in func.tags and func.overloadpacket.__name__.endswith("_"):
        return args[0]
    if func is torch.ops.aten.native_batch_norm.default:
        return torch.empty_like(args[0]), torch.empty(0, device="meta"), torch.empty(0, device="meta")
    return func(*args, **kwargs)


def _without_values(item: Any) -> Any:
    if isinstance(item, Tracked):
        return item.meta_value
    if isinstance(item, Tensor) and not item.is_meta:
        return torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")
    return item


def _write_back(owner: Tracked, value: Tensor, layout: Layout, *, where: str) -> Tracked:
    """The tensor that an operator wrote to in place."""
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
