"""One operator's call, as the rules see it: plain data, no tensors.

The walk through nested arguments is torch's own and private; only this file names it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from torch.utils._pytree import tree_leaves, tree_map

from sppfeat.networks.receptive_field.axes import Layout

__all__ = ["Call", "Operand", "Rule", "tree_leaves", "tree_map"]


@dataclass(frozen=True)  # no NamedTuple: as an argument among lists of arguments, it must stay whole
class Operand:
    """A tensor among an operator's arguments."""

    layout: Layout
    shape: tuple[int, ...]


class Call(NamedTuple):
    """An operator with its arguments, and one of its outputs."""

    func: Any  # the torch.ops overload
    args: dict[str, Any]  # by the names of its schema; tensors are operands
    shape: tuple[int, ...]  # of the output
    where: str

    def layout(self, name: str) -> Layout:
        """The layout of the tensor that is an argument."""
        operand: Operand = self.args[name]
        return operand.layout

    @property
    def layouts(self) -> list[Layout]:
        """The layouts of all tensors among the arguments, in order."""
        return [leaf.layout for leaf in tree_leaves(self.args) if isinstance(leaf, Operand)]


Rule: TypeAlias = Callable[[Call], Layout]
