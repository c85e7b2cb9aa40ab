"""Rules for operators that compute values: cell by cell, over whole axes, or by matrix products."""

from sppfeat.networks.receptive_field.axes import (
    Layout,
    axes_of,
    broadcast,
    first_loss,
    join,
    lose,
    not_uniform,
    opaque,
    plain,
    replaced,
    shape_of,
    uniform,
)
from sppfeat.networks.receptive_field.calls import Call

__all__ = ["create", "elementwise", "linear", "matmul", "reduce", "same", "softmax", "unknown"]


def unknown(call: Call) -> Layout:
    """An operator that has no rule: nothing is known of the axes."""
    reason = first_loss([dim for layout in call.layouts for dim in layout])
    return opaque(call.shape, reason or f"{call.where}: there is no receptive-field rule for this operator")


def elementwise(call: Call) -> Layout:
    """One value from each position of the operands."""
    return broadcast(call.layouts, call.shape, where=call.where)


def same(call: Call) -> Layout:
    """The first operand, position by position; its statistics are not maps."""
    layout = call.layouts[0]
    return (
        layout
        if shape_of(layout) == call.shape
        else opaque(call.shape, f"{call.where}: a statistic, not a map")
    )


def create(call: Call) -> Layout:
    """Values that are made, not computed: they have no positions."""
    return uniform(call.shape)


def softmax(call: Call) -> Layout:
    """Values divided by their sum over one axis, which couples its positions."""
    layout = call.layout("self")
    dim = call.args["dim"] % max(1, len(layout))
    lost = f"{call.where}: normalises over the map"
    return replaced(layout, dim, lose(layout[dim], lost)) if layout else layout


def reduce(call: Call) -> Layout:
    """Values pooled over whole axes: they have no place along these."""
    layout = call.layout("self")
    dims = call.args.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(len(layout)))
    reduced = {dim % max(1, len(layout)) for dim in dims}
    if call.args.get("keepdim", False):
        return tuple(() if i in reduced else dim for i, dim in enumerate(layout))
    return tuple(dim for i, dim in enumerate(layout) if i not in reduced)


def matmul(call: Call) -> Layout:
    """Rows times columns; of the two factors, one may have positions."""
    left = call.layout(next(name for name in ("mat1", "batch1", "self") if name in call.args))
    right = call.layout(next(name for name in ("mat2", "batch2") if name in call.args))
    if any(map(axes_of, left)) and any(map(axes_of, right)):
        return unknown(call)
    rows, columns = left[-2], right[-1]
    batch = [join(a, b, where=call.where) for a, b in zip(left[:-2], right[:-2], strict=True)]
    return (*batch, not_uniform(rows), not_uniform(columns))


def linear(call: Call) -> Layout:
    """A matrix times the last axis."""
    return (*call.layout("input")[:-1], plain(call.shape[-1]))
