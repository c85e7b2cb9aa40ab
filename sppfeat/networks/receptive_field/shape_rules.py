"""Rules for operators that rearrange, cut, pad or join the axes of tensors."""

from sppfeat.networks.receptive_field.axes import (
    Axis,
    Layout,
    axes_of,
    broadcast,
    extent,
    first_loss,
    is_uniform,
    not_uniform,
    opaque,
    plain,
    regroup,
    replaced,
    resize,
)
from sppfeat.networks.receptive_field.calls import Call

__all__ = [
    "cat",
    "drop_one",
    "expand",
    "pad",
    "permute",
    "resize_all",
    "resize_one",
    "slice_axis",
    "squeeze",
    "stack",
    "transpose",
    "unsqueeze",
    "view",
]


def view(call: Call) -> Layout:
    """The same values, in order, under another shape."""
    return regroup(call.layout("self"), call.shape, where=call.where)


def permute(call: Call) -> Layout:
    """The axes in another order."""
    layout = call.layout("self")
    return tuple(layout[dim] for dim in call.args["dims"])


def transpose(call: Call) -> Layout:
    """Two axes exchanged."""
    layout = list(call.layout("self"))
    first, second = call.args.get("dim0", 0), call.args.get("dim1", -1)
    if layout:
        layout[first], layout[second] = layout[second], layout[first]
    return tuple(layout)


def unsqueeze(call: Call) -> Layout:
    """A new axis of size 1."""
    layout = call.layout("self")
    index = call.args["dim"] % (len(layout) + 1)
    return (*layout[:index], (), *layout[index:])


def squeeze(call: Call) -> Layout:
    """Axes of size 1 removed: all of them, or the given ones."""
    layout = call.layout("self")
    dims = call.args.get("dim", range(len(layout)))
    dims = {dim % max(1, len(layout)) for dim in ([dims] if isinstance(dims, int) else dims)}
    return tuple(dim for i, dim in enumerate(layout) if i not in dims or extent(dim) != 1)


def expand(call: Call) -> Layout:
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


def slice_axis(call: Call) -> Layout:
    """Every n-th cell of one axis, from a first one on: stride and offset change."""
    layout = call.layout("self")
    index = call.args["dim"] % len(layout)
    dim, size = layout[index], call.shape[index]
    if len(dim) != 1 or not axes_of(dim):
        return layout if extent(dim) == size else resize_one(call)
    (axis,) = axes_of(dim)
    start, step = call.args.get("start") or 0, call.args["step"]
    start = min(max(start + axis.size if start < 0 else start, 0), axis.size)
    offset = axis.offset + axis.stride * start
    return replaced(layout, index, (axis._replace(size=size, stride=axis.stride * step, offset=offset),))


def drop_one(call: Call) -> Layout:
    """One position of an axis: the result has no position along it, like a pooled value."""
    layout = call.layout("self")
    return replaced(layout, call.args["dim"] % len(layout))


def resize_one(call: Call) -> Layout:
    """An unknown part of one axis."""
    layout = call.layout("self")
    index = call.args["dim"] % len(layout)
    reason = f"{call.where}: a spatial axis is cut up"
    return replaced(layout, index, resize(layout[index], call.shape[index], reason=reason))


def resize_all(call: Call) -> Layout:
    """Cells moved along any of the axes."""
    layout = call.layout("self")
    reason = f"{call.where}: there is no receptive-field rule for this operator"
    if len(layout) != len(call.shape):
        return opaque(call.shape, reason)
    return tuple(resize(dim, size, reason=reason) for dim, size in zip(layout, call.shape, strict=True))


def pad(call: Call) -> Layout:
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


def cat(call: Call) -> Layout:
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


def stack(call: Call) -> Layout:
    """Tensors joined along a new axis."""
    index = call.args["dim"] % len(call.shape)
    shape = call.shape[:index] + call.shape[index + 1 :]
    joined = broadcast(call.layouts, shape, where=call.where)
    return (*joined[:index], plain(call.shape[index]), *joined[index:])
