"""Layouts of tensors: the role of each axis, and rules to join, resize and regroup axes."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

__all__ = [
    "Axis",
    "Dim",
    "Layout",
    "Plain",
    "axes_of",
    "broadcast",
    "extent",
    "first_loss",
    "is_map",
    "is_uniform",
    "join",
    "lose",
    "not_uniform",
    "opaque",
    "plain",
    "regroup",
    "replaced",
    "resize",
    "shape_of",
    "uniform",
    "unnamed",
]


class Axis(NamedTuple):
    """A spatial axis; its cell ``i`` is centered at input pixel ``offset + stride * i``, unless that is lost."""

    size: int
    name: str  # "y" or "x"; "?" if not even that is known
    stride: float
    offset: float
    lost: str  # the reason why stride and offset are unknown; empty if they are known


class Plain(NamedTuple):
    """An axis that is not spatial: batch, channels, heads. ``uniform``: the values do not vary along it."""

    size: int
    uniform: bool = False


# One dimension of a tensor is a tuple of atoms, outermost first: flattening H and W makes one dimension of
# two atoms, and () is a dimension of size 1 that is not spatial. Uniform dimensions agree with any other.
Dim: TypeAlias = tuple[Axis | Plain, ...]
Layout: TypeAlias = tuple[Dim, ...]


def plain(size: int, uniform: bool = False) -> Dim:
    """A dimension that is not spatial."""
    return () if size == 1 else (Plain(size, uniform),)


def axes_of(dim: Dim) -> list[Axis]:
    """The spatial axes among a dimension's atoms."""
    return [atom for atom in dim if isinstance(atom, Axis)]


def extent(dim: Dim) -> int:
    """The size of a dimension."""
    return math.prod(atom.size for atom in dim)


def shape_of(layout: Layout) -> tuple[int, ...]:
    """The shape of a tensor with this layout."""
    return tuple(extent(dim) for dim in layout)


def is_uniform(dim: Dim) -> bool:
    """True if the values do not vary along a dimension."""
    return all(isinstance(atom, Plain) and atom.uniform for atom in dim)


def not_uniform(dim: Dim) -> Dim:
    """The dimension, no longer marked as uniform."""
    return tuple(Plain(atom.size) if isinstance(atom, Plain) else atom for atom in dim)


def uniform(shape: Sequence[int]) -> Layout:
    """The layout of a tensor that has no positions: a parameter, a constant."""
    return tuple(plain(size, uniform=True) for size in shape)


def opaque(shape: Sequence[int], reason: str) -> Layout:
    """The layout of a tensor whose axes are all lost, with the reason."""
    return tuple((Axis(size, "?", math.nan, math.nan, reason),) for size in shape)


def is_map(layout: Layout) -> bool:
    """True for the layout of a feature map ``(N, C, H, W)``."""
    spatial = [[atom.name if isinstance(atom, Axis) else "" for atom in dim] for dim in layout[2:]]
    return len(layout) == 4 and not axes_of(layout[0] + layout[1]) and spatial == [["y"], ["x"]]


def unnamed(layout: Layout) -> str:
    """The reason why not even the order of the axes is known; empty if it is known."""
    return next((axis.lost for dim in layout for axis in axes_of(dim) if axis.name == "?"), "")


def first_loss(dims: Sequence[Dim]) -> str:
    """The reason why stride and offset of an axis are lost, for the first such axis; empty if there is none."""
    return next((axis.lost for dim in dims for axis in axes_of(dim) if axis.lost), "")


def lose(dim: Dim, reason: str) -> Dim:
    """The dimension without the stride and offset of its axes; an earlier reason stays."""
    return tuple(_lose_axis(atom, reason) if isinstance(atom, Axis) else atom for atom in dim)


def _lose_axis(axis: Axis, reason: str) -> Axis:
    return axis._replace(lost=axis.lost or reason)


def replaced(layout: Layout, index: int, *dims: Dim) -> Layout:
    """The layout with one dimension replaced by others."""
    return layout[:index] + dims + layout[index + 1 :]


def resize(dim: Dim, size: int, *, reason: str) -> Dim:
    """The dimension with another size: a plain one stays plain, a spatial one loses its geometry."""
    if not axes_of(dim):
        return dim if size == extent(dim) else plain(size, uniform=bool(dim) and is_uniform(dim))
    if len(dim) == 1:
        return lose((dim[0]._replace(size=size),), reason)
    return opaque([size], reason)[0]


def join(a: Dim, b: Dim, *, where: str) -> Dim:
    """The dimension of the result when two operands are combined elementwise, with broadcasting."""
    if is_uniform(a) and extent(b) % max(1, extent(a)) == 0:
        return b
    if is_uniform(b) and extent(a) % max(1, extent(b)) == 0:
        return a
    size = max(extent(a), extent(b))
    if not axes_of(a) and not axes_of(b):
        return plain(size)
    if [atom.size for atom in a] == [atom.size for atom in b]:
        return tuple(_join_atoms(left, right, where=where) for left, right in zip(a, b, strict=True))
    reason = first_loss((a, b))
    return opaque([size], reason or f"{where}: values of different spatial sizes or layouts meet")[0]


def _join_atoms(a: Axis | Plain, b: Axis | Plain, *, where: str) -> Axis | Plain:
    if isinstance(a, Plain):
        if isinstance(b, Plain):
            return Plain(a.size, a.uniform and b.uniform)
        a, b = b, a
    if isinstance(b, Plain):
        return a if b.uniform else _lose_axis(a, f"{where}: a value without positions meets {a.name}")
    if a.lost or b.lost:
        return a if a.lost else b
    if a.name == b.name and (a.stride, a.offset) == (b.stride, b.offset):
        return a
    return _lose_axis(a, f"{where}: branches disagree along {a.name}: {_centers(a)} and {_centers(b)}")


def _centers(axis: Axis) -> str:
    return f"{axis.name} = {axis.offset:g} + {axis.stride:g} i"


def broadcast(layouts: Sequence[Layout], shape: Sequence[int], *, where: str) -> Layout:
    """The layout of the result when operands are combined elementwise, with broadcasting to a shape."""
    result = uniform(shape)
    for layout in layouts:
        aligned = ((),) * (len(shape) - len(layout)) + layout
        result = tuple(join(left, right, where=where) for left, right in zip(result, aligned, strict=True))
    return result


def regroup(layout: Layout, shape: Sequence[int], *, where: str) -> Layout:
    """The layout after a reshape, which keeps the order of the values; spatial axes must stay whole."""
    if shape_of(layout) == tuple(shape):
        return layout
    reason = first_loss(layout)
    if any(axis.size == 1 for dim in layout for axis in axes_of(dim)):
        return opaque(
            shape, reason or f"{where}: the map is one cell wide or high here; use a larger input_hw"
        )
    atoms = _merge_plain([atom for dim in layout for atom in dim])
    result: list[Dim] = []
    for size in shape:
        dim: list[Axis | Plain] = []
        while size > 1 and atoms:
            atom = atoms.pop(0)
            if size % atom.size and isinstance(atom, Plain) and atom.size % size == 0:
                atoms.insert(0, atom._replace(size=atom.size // size))
                atom = atom._replace(size=size)
            if size % atom.size:
                return opaque(shape, reason or f"{where}: a spatial axis of {atom.size} cells is cut up")
            dim.append(atom)
            size //= atom.size
        result.append(tuple(dim))
    return tuple(result)


def _merge_plain(atoms: Sequence[Axis | Plain]) -> list[Axis | Plain]:
    merged: list[Axis | Plain] = []
    for atom in atoms:
        last = merged[-1] if merged else None
        if isinstance(atom, Plain) and isinstance(last, Plain) and atom.uniform == last.uniform:
            merged[-1] = last._replace(size=last.size * atom.size)
        else:
            merged.append(atom)
    return merged
