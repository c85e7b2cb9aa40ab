"""Rules for operators that compute values: per cell, through windows, over whole axes, or by matrix products."""

from collections.abc import Sequence
from typing import NamedTuple

from sppfeat.networks.receptive_field.axes import (
    Axis,
    Dim,
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
    resize,
    shape_of,
    uniform,
)
from sppfeat.networks.receptive_field.calls import Call

__all__ = [
    "adaptive_pool",
    "convolution",
    "create",
    "elementwise",
    "linear",
    "matmul",
    "pool",
    "reduce",
    "resample",
    "same",
    "softmax",
    "unknown",
]


def unknown(call: Call) -> Layout:
    """An operator without a rule: nothing is known of its axes."""
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
    """New values, not computed from others: they have no positions."""
    return uniform(call.shape)


def softmax(call: Call) -> Layout:
    """Values divided by their sum over one axis, which couples its positions."""
    layout = call.layout("self")
    dim = call.args["dim"] % max(1, len(layout))
    lost = f"{call.where}: normalises over the map"
    return replaced(layout, dim, lose(layout[dim], lost)) if layout else layout


def reduce(call: Call) -> Layout:
    """Values pooled over whole axes: they have no position along these."""
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


def convolution(call: Call) -> Layout:
    """A window over the spatial axes, and new channels."""
    layout = call.layout("input")
    if call.args["transposed"]:
        return _resize_spatial(call, layout, reason=f"{call.where}: transposed convolution")
    if any(map(axes_of, layout[:2])):
        return opaque(call.shape, first_loss(layout[:2]) or f"{call.where}: convolves over N or C of the map")
    if any(map(axes_of, call.layout("weight"))):
        return opaque(call.shape, f"{call.where}: the kernel varies over the map")
    dims = _windows(call, layout[2:], kernel=call.args["weight"].shape[2:])
    return (layout[0], plain(call.shape[1]), *dims)


def pool(call: Call) -> Layout:
    """A window over the spatial axes."""
    layout = call.layout("self")
    kernel = call.args["kernel_size"]
    n_leading = len(layout) - (3 if "3d" in call.func.overloadpacket.__name__ else 2)
    return (*layout[:n_leading], *_windows(call, layout[n_leading:], kernel=kernel))


def adaptive_pool(call: Call) -> Layout:
    """A given number of bins along each spatial axis."""
    layout = call.layout("self")
    n_leading = len(layout) - len(call.args["output_size"])
    reason = f"{call.where}: the bins of adaptive pooling change with the input's size"
    dims = [
        () if size == 1 else resize(not_uniform(dim), size, reason=reason)
        for dim, size in zip(layout[n_leading:], call.shape[n_leading:], strict=True)
    ]
    return (*layout[:n_leading], *dims)


def resample(call: Call) -> Layout:
    """Values interpolated at another size."""
    # The scale is the ratio of two sizes, so it changes with the input; a single cell is spread evenly.
    layout = call.layout("self")
    reason = f"{call.where}: resampling to another size"
    dims = [
        plain(size, uniform=True) if dim == () else resize(dim, size, reason=reason)
        for dim, size in zip(layout[2:], call.shape[2:], strict=True)
    ]
    return (*layout[:2], *dims)


def _resize_spatial(call: Call, layout: Layout, *, reason: str) -> Layout:
    if len(layout) != len(call.shape) or axes_of(layout[1]):
        return opaque(call.shape, reason)
    dims = [resize(dim, size, reason=reason) for dim, size in zip(layout[2:], call.shape[2:], strict=True)]
    return (layout[0], plain(call.shape[1]), *dims)


def _windows(call: Call, dims: Sequence[Dim], *, kernel: Sequence[int]) -> list[Dim]:
    sizes = call.shape[len(call.shape) - len(dims) :]

    def along(name: str, default: Sequence[int]) -> list[int]:
        given = list(call.args.get(name) or default)
        return given * len(dims) if len(given) == 1 else given

    kernels = list(kernel) * (len(dims) if len(kernel) == 1 else 1)
    strides, paddings, dilations = along("stride", kernels), along("padding", [0]), along("dilation", [1])
    windows = map(_Window, kernels, strides, paddings, dilations)
    reason = f"{call.where}: flattened axes meet a window operator"
    each = zip(dims, sizes, windows, strict=True)
    return [_slide(dim, size, window=window, reason=reason) for dim, size, window in each]


class _Window(NamedTuple):
    kernel: int
    stride: int
    padding: int
    dilation: int


def _slide(dim: Dim, size: int, *, window: _Window, reason: str) -> Dim:
    """The dimension after a window operator; this is the receptive-field arithmetic itself."""
    if len(dim) == 1 and isinstance(dim[0], Axis):
        axis = dim[0]
        offset = axis.offset + axis.stride * (window.dilation * (window.kernel - 1) / 2 - window.padding)
        return (axis._replace(size=size, stride=axis.stride * window.stride, offset=offset),)
    if window.kernel == window.stride == 1 and window.padding == 0:
        return dim
    return resize(not_uniform(dim), size, reason=reason)
