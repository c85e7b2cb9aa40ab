"""Operator calls as plain values for the rules: arguments by name, shapes without contents.

The traversal of nested arguments is private to torch, and only this module uses it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.utils._pytree import tree_leaves, tree_map

from sppfeat.networks.receptive_field.axes import Layout

__all__ = ["Call", "Operand", "Rule", "bind_arguments", "run_on_meta", "tree_leaves", "tree_map"]


@dataclass(frozen=True)  # not a NamedTuple, which tree_map would take apart
class Operand:
    """A tensor among an operator's arguments."""

    layout: Layout
    shape: tuple[int, ...]


class Call(NamedTuple):
    """An operator with its arguments, and one of its outputs.

    Attributes:
        func: the torch.ops overload.
        args: its arguments by their names in its schema; each tensor is an :class:`Operand`.
        shape: shape of the output.
        where: node and operator, for messages.
    """

    func: Any
    args: dict[str, Any]
    shape: tuple[int, ...]
    where: str

    def layout(self, name: str) -> Layout:
        """The layout of a tensor argument."""
        operand: Operand = self.args[name]
        return operand.layout

    @property
    def layouts(self) -> list[Layout]:
        """Layouts of all tensors among the arguments, in order."""
        return [leaf.layout for leaf in tree_leaves(self.args) if isinstance(leaf, Operand)]


Rule: TypeAlias = Callable[[Call], Layout]


def bind_arguments(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call by their names in the operator's schema, defaults included."""
    schema = func._schema.arguments
    bound = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    bound.update(zip((argument.name for argument in schema), args, strict=False))
    return {**bound, **kwargs}


def run_on_meta(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Runs an operator on tensors on the ``meta`` device, which have shapes but no values."""
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": torch.device("meta")}
    # PyTorch finds the shapes of these operators through decompositions in Python, which took half the time of a
    # walk.
    if torch.Tag.pointwise in func.tags and func.overloadpacket.__name__.endswith("_"):
        return args[0]
    if func is torch.ops.aten.native_batch_norm.default:
        return torch.empty_like(args[0]), torch.empty(0, device="meta"), torch.empty(0, device="meta")
    return func(*args, **kwargs)
