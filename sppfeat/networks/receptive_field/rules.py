"""Rules for operators, which give the layout of each output, and the table of them by operator."""

from collections.abc import Sequence
from typing import Any

import torch

from sppfeat.networks.receptive_field.axes import (
    Axis,
    Dim,
    Layout,
    axes_of,
    broadcast,
    extent,
    first_loss,
    is_uniform,
    join,
    lose,
    not_uniform,
    opaque,
    plain,
    regroup,
    replaced,
    resize,
    shape_of,
    uniform,
)
from sppfeat.networks.receptive_field.calls import Call, Rule

__all__ = ["has_rule", "output_layout"]


def has_rule(func: Any) -> bool:
    """True if an operator, a torch.ops overload, has a rule."""
    return _rule_for(func) is not _unknown


def output_layout(call: Call) -> Layout:
    """The layout of a call's output; lost if the operator has no rule, or its rule does not apply."""
    layout = _rule_for(call.func)(call)
    if shape_of(layout) == call.shape:
        return layout
    return opaque(call.shape, f"{call.where}: the operator's rule does not fit its result")


def _rule_for(func: Any) -> Rule:
    if func.namespace != "aten":
        return _unknown
    if torch.Tag.pointwise in func.tags:
        return _elementwise
    return _RULES.get(func.overloadpacket.__name__, _unknown)


def _unknown(call: Call) -> Layout:
    """An operator without a rule: nothing is known of its axes."""
    reason = first_loss([dim for layout in call.layouts for dim in layout])
    return opaque(call.shape, reason or f"{call.where}: there is no receptive-field rule for this operator")


def _elementwise(call: Call) -> Layout:
    """One value from each position of the operands."""
    return broadcast(call.layouts, call.shape, where=call.where)


def _same(call: Call) -> Layout:
    """The first operand, position by position; its statistics are not maps."""
    layout = call.layouts[0]
    is_statistic = shape_of(layout) != call.shape
    return opaque(call.shape, f"{call.where}: a statistic, not a map") if is_statistic else layout


def _create(call: Call) -> Layout:
    """New values, not computed from others: they have no positions."""
    return uniform(call.shape)


def _softmax(call: Call) -> Layout:
    """Values divided by their sum over one axis, which couples its positions."""
    layout = call.layout("self")
    dim = call.args["dim"] % max(1, len(layout))
    lost = f"{call.where}: normalises over the map"
    return replaced(layout, dim, lose(layout[dim], lost)) if layout else layout


def _reduce(call: Call) -> Layout:
    """Values pooled over whole axes: they have no position along these."""
    layout = call.layout("self")
    dims = call.args.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(len(layout)))
    reduced = {dim % max(1, len(layout)) for dim in dims}
    if call.args.get("keepdim", False):
        return tuple(() if i in reduced else dim for i, dim in enumerate(layout))
    return tuple(dim for i, dim in enumerate(layout) if i not in reduced)


def _matmul(call: Call) -> Layout:
    """Rows times columns; of the two factors, one may have positions."""
    left = call.layout(next(name for name in ("mat1", "batch1", "self") if name in call.args))
    right = call.layout(next(name for name in ("mat2", "batch2") if name in call.args))
    if any(map(axes_of, left)) and any(map(axes_of, right)):
        return _unknown(call)
    rows, columns = left[-2], right[-1]
    batch = [join(a, b, where=call.where) for a, b in zip(left[:-2], right[:-2], strict=True)]
    return (*batch, not_uniform(rows), not_uniform(columns))


def _linear(call: Call) -> Layout:
    """A matrix times the last axis."""
    return (*call.layout("input")[:-1], plain(call.shape[-1]))


def _convolution(call: Call) -> Layout:
    """A window over the spatial axes, and new channels."""
    layout = call.layout("input")
    if call.args["transposed"]:
        return opaque(call.shape, first_loss(layout) or f"{call.where}: transposed convolution")
    if any(map(axes_of, layout[:2])):
        return opaque(call.shape, first_loss(layout[:2]) or f"{call.where}: convolves over N or C of the map")
    if any(map(axes_of, call.layout("weight"))):
        return opaque(call.shape, f"{call.where}: the kernel varies over the map")
    dims = _windows(call, layout[2:], kernel=call.args["weight"].shape[2:])
    return (layout[0], plain(call.shape[1]), *dims)


def _pool(call: Call) -> Layout:
    """A window over the spatial axes."""
    layout = call.layout("self")
    return (*layout[:-2], *_windows(call, layout[-2:], kernel=call.args["kernel_size"]))


def _adaptive_pool(call: Call) -> Layout:
    """A given number of bins along each spatial axis."""
    layout = call.layout("self")
    reason = f"{call.where}: the bins of adaptive pooling change with the input's size"
    dims = [
        () if size == 1 else resize(not_uniform(dim), size, reason=reason)
        for dim, size in zip(layout[-2:], call.shape[-2:], strict=True)
    ]
    return (*layout[:-2], *dims)


def _resample(call: Call) -> Layout:
    """Values interpolated at another size."""
    # The scale is the ratio of two sizes, so it changes with the input; a single cell is spread evenly.
    layout = call.layout("self")
    reason = f"{call.where}: resampling to another size"
    dims = [
        plain(size, uniform=True) if dim == () else resize(dim, size, reason=reason)
        for dim, size in zip(layout[2:], call.shape[2:], strict=True)
    ]
    return (*layout[:2], *dims)


def _windows(call: Call, dims: Sequence[Dim], *, kernel: Sequence[int]) -> list[Dim]:
    """The dimensions after a window operator; this is the receptive-field arithmetic itself."""

    def along(name: str, default: Sequence[int]) -> list[int]:
        given = list(call.args.get(name) or default)
        return given * len(dims) if len(given) == 1 else given

    kernels = list(kernel) * (len(dims) if len(kernel) == 1 else 1)
    settings = kernels, along("stride", kernels), along("padding", [0]), along("dilation", [1])
    result: list[Dim] = []
    for dim, size, k, stride, padding, dilation in zip(
        dims, call.shape[-len(dims) :], *settings, strict=True
    ):
        if len(dim) == 1 and isinstance(dim[0], Axis):
            axis = dim[0]
            offset = axis.offset + axis.stride * (dilation * (k - 1) / 2 - padding)
            result.append((axis._replace(size=size, stride=axis.stride * stride, offset=offset),))
        elif k == stride == 1 and padding == 0:
            result.append(dim)
        else:
            reason = f"{call.where}: flattened axes meet a window operator"
            result.append(resize(not_uniform(dim), size, reason=reason))
    return result


def _view(call: Call) -> Layout:
    """The same values, in order, under another shape."""
    return regroup(call.layout("self"), call.shape, where=call.where)


def _permute(call: Call) -> Layout:
    """The axes in another order."""
    layout = call.layout("self")
    return tuple(layout[dim] for dim in call.args["dims"])


def _transpose(call: Call) -> Layout:
    """Two axes exchanged."""
    layout = list(call.layout("self"))
    first, second = call.args.get("dim0", 0), call.args.get("dim1", -1)
    if layout:
        layout[first], layout[second] = layout[second], layout[first]
    return tuple(layout)


def _unsqueeze(call: Call) -> Layout:
    """A new axis of size 1."""
    layout = call.layout("self")
    index = call.args["dim"] % (len(layout) + 1)
    return (*layout[:index], (), *layout[index:])


def _squeeze(call: Call) -> Layout:
    """Axes of size 1 removed: all of them, or the given ones."""
    layout = call.layout("self")
    dims = call.args.get("dim", range(len(layout)))
    dims = {dim % max(1, len(layout)) for dim in ([dims] if isinstance(dims, int) else dims)}
    return tuple(dim for i, dim in enumerate(layout) if i not in dims or extent(dim) != 1)


def _expand(call: Call) -> Layout:
    """Axes of size 1 repeated."""
    layout = call.layout("self")
    aligned = ((),) * (len(call.shape) - len(layout)) + layout
    result = []
    for dim, size in zip(aligned, call.shape, strict=True):
        if extent(dim) == size:
            result.append(dim)
        elif axes_of(dim):
            result.append(resize(dim, size, reason=f"{call.where}: a single cell is repeated"))
        else:
            result.append(plain(size, uniform=True))
    return tuple(result)


def _slice_axis(call: Call) -> Layout:
    """Every n-th cell of one axis, from a first one on: stride and offset change."""
    layout = call.layout("self")
    index = call.args["dim"] % len(layout)
    dim, size = layout[index], call.shape[index]
    if len(dim) != 1 or not axes_of(dim):
        return layout if extent(dim) == size else _resize_one(call)
    (axis,) = axes_of(dim)
    start, step = call.args.get("start") or 0, call.args["step"]
    start = min(max(start + axis.size if start < 0 else start, 0), axis.size)
    offset = axis.offset + axis.stride * start
    return replaced(layout, index, (axis._replace(size=size, stride=axis.stride * step, offset=offset),))


def _drop_one(call: Call) -> Layout:
    """One position of an axis: the result has no position along it, like a pooled value."""
    layout = call.layout("self")
    return replaced(layout, call.args["dim"] % len(layout))


def _resize_one(call: Call) -> Layout:
    """An unknown part of one axis."""
    layout = call.layout("self")
    index = call.args["dim"] % len(layout)
    reason = f"{call.where}: a spatial axis is cut up"
    return replaced(layout, index, resize(layout[index], call.shape[index], reason=reason))


def _pad(call: Call) -> Layout:
    """Cells added or cut off at both ends: the offset changes."""
    layout = list(call.layout("self"))
    amounts = call.args["pad" if "pad" in call.args else "padding"]
    for index, before in zip(range(len(layout) - 1, -1, -1), amounts[::2], strict=False):
        dim, size = layout[index], call.shape[index]
        if len(dim) == 1 and isinstance(dim[0], Axis):
            layout[index] = (dim[0]._replace(size=size, offset=dim[0].offset - dim[0].stride * before),)
        elif extent(dim) != size:
            layout[index] = resize(not_uniform(dim), size, reason=f"{call.where}: flattened axes are padded")
    return tuple(layout)


def _cat(call: Call) -> Layout:
    """Tensors joined along an axis."""
    layouts = [layout for layout in call.layouts if len(layout) == len(call.shape)]
    index = call.args["dim"] % len(call.shape)
    dims = [layout[index] for layout in layouts]
    reason = f"{call.where}: maps are joined along a spatial axis"
    if any(axes_of(dim) for dim in dims):
        joined = opaque([call.shape[index]], first_loss(dims) or reason)[0]
    else:
        joined = plain(call.shape[index], uniform=all(dim and is_uniform(dim) for dim in dims))
    others = [replaced(layout, index, ()) for layout in layouts]
    shape = (*call.shape[:index], 1, *call.shape[index + 1 :])
    return replaced(broadcast(others, shape, where=call.where), index, joined)


def _stack(call: Call) -> Layout:
    """Tensors joined along a new axis."""
    index = call.args["dim"] % len(call.shape)
    shape = call.shape[:index] + call.shape[index + 1 :]
    joined = broadcast(call.layouts, shape, where=call.where)
    return (*joined[:index], plain(call.shape[index]), *joined[index:])


_RULE_NAMES: tuple[tuple[Rule, str], ...] = (
    (_convolution, "convolution _convolution"),
    (_pool, "max_pool2d_with_indices avg_pool2d"),
    (_adaptive_pool, "_adaptive_avg_pool2d adaptive_max_pool2d"),
    (_resample, "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d"),
    (_resample, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    (_pad, "constant_pad_nd reflection_pad2d replication_pad2d"),
    (_slice_axis, "slice"),
    (_resize_one, "split split_with_sizes unsafe_split unsafe_split_with_sizes index_select glu"),
    (_drop_one, "select unbind"),
    (_view, "view _unsafe_view reshape _reshape_alias"),
    (_permute, "permute"),
    (_transpose, "transpose t"),
    (_unsqueeze, "unsqueeze"),
    (_squeeze, "squeeze"),
    (_expand, "expand"),
    (_cat, "cat"),
    (_stack, "stack"),
    (_matmul, "mm bmm addmm baddbmm"),
    (_linear, "linear"),
    (_softmax, "_softmax _log_softmax"),
    (_reduce, "mean sum amax amin max min std var std_mean var_mean norm linalg_vector_norm logsumexp"),
    (_create, "empty_like zeros_like ones_like full_like rand_like randn_like"),
    (_create, "new_empty new_zeros new_ones new_full"),
    # Pointwise operators that lack PyTorch's own tag "pointwise".
    (
        _elementwise,
        "copy_ fill_ zero_ masked_fill masked_fill_ hardswish hardswish_ silu_ mish_ gelu_ threshold_",
    ),
    # One value per cell, with channel-wise parameters; statistics over the whole map are left out like gates.
    (_same, "native_batch_norm native_group_norm native_layer_norm _native_batch_norm_legit _fused_rms_norm"),
    (_same, "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_no_update"),
    (_same, "detach alias _to_copy lift_fresh native_dropout native_channel_shuffle channel_shuffle"),
    (_same, "_prelu_kernel log_sigmoid_forward"),
)
_RULES: dict[str, Rule] = {name: rule for rule, names in _RULE_NAMES for name in names.split()}
