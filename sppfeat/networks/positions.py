"""Positions of a tensor's values in the network's input, and the rules of operators for them.

Along one axis of the image, y or x, the positions of a tensor are a float64 tensor of the same shape. A position is
the input pixel index of the center of the pixels that the value depends on; infinity for a value without a position,
such as a parameter or a value pooled over the whole map; NaN for a lost position. Operators that only move values move
positions alike; all others need a rule here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "NO_RULE",
    "Call",
    "are_known",
    "find_rule",
    "has_lost",
    "is_move",
    "line_along",
    "nowhere",
    "same",
    "spread_along",
]


class Call(NamedTuple):
    """An operator with its arguments."""

    args: dict[Any, Any]  # by their names in the operator's schema, with positions in place of tensors
    shape: tuple[int, ...]  # shape of its first output
    # True: keep the first of differing positions instead of losing them, so that a lost map still tells the order of
    # its axes.
    is_lenient: bool = False

    def merge(self, positions: Tensor, dims: Sequence[int], *, otherwise: float = math.nan) -> Tensor:
        """The common position along some dimensions, which get size 1; ``otherwise`` where positions differ."""
        thin = _thin(positions)
        if not dims or not thin.dim():
            return thin
        if self.is_lenient:
            for dim in dims:
                thin = thin.narrow(dim, 0, 1)
            return thin
        lowest = thin.amin(list(dims), keepdim=True)
        highest = torch.where(thin.isinf(), -math.inf, thin).amax(list(dims), keepdim=True)
        differ = ~lowest.isinf() & ~lowest.isnan() & (lowest != highest)
        return torch.where(differ, otherwise, lowest)

    @property
    def positions(self) -> list[Tensor]:
        """Positions of all tensors among the arguments, in order."""
        listed = [arg if isinstance(arg, list | tuple) else [arg] for arg in self.args.values()]
        return [part for parts in listed for part in parts if isinstance(part, Tensor)]


Rule: TypeAlias = Callable[[Call], Tensor]


class Line(NamedTuple):
    """Positions along one dimension: ``first + step * i``."""

    first: Tensor
    step: Tensor

    def cells(self, n: int, dim: int, *, shift: float = 0.0, stride: float = 1.0) -> Tensor:
        """Positions of ``n`` cells from ``shift`` on, every ``stride`` cells; of one cell if all are equal."""
        if (n == 1 and shift == 0) or not bool(self.step.any()):  # a single cell has no known step
            return self.first.unsqueeze(dim)
        index = shift + stride * torch.arange(n, dtype=torch.float64)
        index = index.reshape(-1, *[1] * (self.first.dim() - dim))
        return self.first.unsqueeze(dim) + self.step.unsqueeze(dim) * index


def nowhere(shape: Sequence[int], value: float = math.inf) -> Tensor:
    """Positions of values without a position, or lost positions for NaN."""
    return torch.tensor(value, dtype=torch.float64).expand(tuple(shape))


def line_along(positions: Tensor, dim: int) -> Line | None:
    """The positions along a dimension as a line; None if they are not evenly spaced."""
    thin = _thin(positions)
    dim %= positions.dim()
    first = thin.select(dim, 0)
    if positions.shape[dim] == 1:
        return Line(first, torch.where(first.isinf(), 0.0, math.nan))
    if thin.shape[dim] == 1:
        return Line(first, torch.zeros_like(first))
    step = torch.where(first.isfinite(), thin.select(dim, 1) - first, 0.0)
    line = Line(first, step)
    return line if torch.equal(line.cells(thin.shape[dim], dim).expand_as(thin), thin) else None


def spread_along(positions: Tensor, dim: int) -> bool:
    """True if positions differ along a dimension."""
    thin = _thin(positions)
    return thin.shape[dim] > 1 and not torch.equal(thin, thin.narrow(dim, 0, 1).expand_as(thin))


def has_lost(positions: Tensor) -> bool:
    """True if the position of any value is lost."""
    return bool(_thin(positions).isnan().any())


def are_known(positions: Tensor) -> bool:
    """True if every value has a position."""
    return bool(_thin(positions).isfinite().all())


def same(a: Tensor, b: Tensor) -> bool:
    """True if two tensors of one shape have the same positions, also lost ones."""
    return a is b or torch.allclose(_thin(a), _thin(b), rtol=0, atol=0, equal_nan=True)


def is_move(func: Any) -> bool:
    """True if an operator, a torch.ops overload, only moves values."""
    return func.namespace == "aten" and func.overloadpacket.__name__ in _MOVES.split()


def find_rule(func: Any) -> tuple[Rule, str] | None:
    """The rule of an operator and the reason for positions that it loses; None for an operator without a rule."""
    if func.namespace != "aten":
        return None
    pointwise = (_elementwise, _DISAGREE) if torch.Tag.pointwise in func.tags else None
    return _RULES.get(func.overloadpacket.__name__, pointwise)


def _thin(positions: Tensor) -> Tensor:
    """Positions with size 1 in place of each dimension along which they are repeated."""
    for dim, stride in enumerate(positions.stride()):
        if stride == 0 and positions.shape[dim] > 1:
            positions = positions.narrow(dim, 0, 1)
    return positions


def _lose(call: Call) -> Tensor:
    """Loses the positions."""
    return nowhere(call.shape, math.nan)


def _create(call: Call) -> Tensor:
    """Creates values that depend on no others."""
    return torch.full(call.shape, math.inf, dtype=torch.float64)


def _same(call: Call) -> Tensor:
    """Keeps the positions of the first operand; parameters and statistics of the map have none."""
    return call.positions[0]


def _restride(call: Call) -> Tensor:
    """Sets strides of values without a position, as global pooling does on channels-last maps."""
    positions = call.positions[0]
    if call.is_lenient or bool(_thin(positions).isinf().all()):
        return positions
    return _lose(call)


def _elementwise(call: Call) -> Tensor:
    """Combines operands value by value; their positions must agree."""
    parts = [part for part in call.positions if not (_thin(part).numel() == 1 and bool(_thin(part).isinf()))]
    if len(parts) == 1 and parts[0].shape == call.shape:
        return parts[0]
    result = nowhere(call.shape)
    for positions in parts:
        a, b = torch.broadcast_tensors(_thin(result), _thin(positions))  # type: ignore[no-untyped-call]
        if call.is_lenient:
            joined = b if bool(a.isinf().all()) else a
        else:
            joined = torch.where(a.isinf(), b, torch.where(b.isinf() | (a == b), a, math.nan))
        result = joined.expand(call.shape)
    return result


def _reduce(call: Call) -> Tensor:
    """Pools over whole dimensions; the results have no position along them."""
    if call.is_lenient:
        return nowhere(call.shape)
    positions, dims = call.positions[0], call.args.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(positions.dim()))
    merged = call.merge(positions, dims, otherwise=math.inf)
    reduced = {dim % positions.dim() for dim in dims} if positions.dim() else set()
    kept = [1 if dim in reduced else size for dim, size in enumerate(positions.shape)]
    return merged.expand(kept).reshape(call.shape)


def _cat(call: Call) -> Tensor:
    """Joins tensors along a dimension."""
    parts = [part for part in call.positions if part.dim() == len(call.shape)]
    dim = call.args["dim"] % len(call.shape)
    sizes = [max(_thin(part).shape[i] for part in parts) for i in range(len(call.shape))]
    own_sizes = [[*sizes[:dim], part.shape[dim], *sizes[dim + 1 :]] for part in parts]
    joined = torch.cat([_thin(part).expand(own) for part, own in zip(parts, own_sizes, strict=True)], dim)
    return (joined if spread_along(joined, dim) else joined.narrow(dim, 0, 1)).expand(call.shape)


def _glu(call: Call) -> Tensor:
    """Multiplies one half of a dimension by the sigmoid of the other."""
    halves = call.positions[0].chunk(2, dim=call.args["dim"])
    return _elementwise(call._replace(args=dict(enumerate(halves))))


def _softmax(call: Call) -> Tensor:
    """Divides values by their sum over one dimension, which couples its positions."""
    positions = call.positions[0]
    if call.is_lenient:
        return positions
    coupled = call.merge(positions, [call.args["dim"]])
    return torch.where(coupled.isnan(), math.nan, _thin(positions)).expand(call.shape)


def _matmul(call: Call) -> Tensor:
    """Multiplies rows by columns, the last two operands; only one of them may have positions."""
    rows, columns = call.positions[-2:]
    factors = {"rows": call.merge(rows, [-1]), "columns": call.merge(columns, [-2])}
    return _elementwise(call._replace(args=factors))


def _linear(call: Call) -> Tensor:
    """Multiplies the last dimension by a matrix."""
    return call.merge(call.positions[0], [-1]).expand(call.shape)


def _convolution(call: Call) -> Tensor:
    """Slides a window over the spatial dimensions and computes new channels."""
    positions, weight = call.args["input"], call.args["weight"]
    if call.args["transposed"] or not bool(_thin(weight).isinf().all()):
        return _lose(call)
    merged = call.merge(positions, [1])
    return _slide(merged.expand(merged.shape[0], 1, *positions.shape[2:]), call, kernel=weight.shape[2:])


def _pool(call: Call) -> Tensor:
    """Slides a window over the spatial dimensions."""
    return _slide(call.positions[0], call, kernel=call.args["kernel_size"])


def _adaptive_pool(call: Call) -> Tensor:
    """Pools over the whole map, or over bins that change with the input's size."""
    otherwise = math.inf if set(call.shape[-2:]) == {1} else math.nan
    return call.merge(call.positions[0], [-2, -1], otherwise=otherwise).expand(call.shape)


def _resample(call: Call) -> Tensor:
    """Interpolates at another size; the ratio of the sizes changes with the input."""
    return call.merge(call.positions[0], [-2, -1]).expand(call.shape)


def _pad(call: Call) -> Tensor:
    """Adds or removes cells at both ends of some dimensions."""
    positions = call.positions[0]
    amounts = call.args["pad" if "pad" in call.args else "padding"]
    for i, before in enumerate(amounts[::2]):
        dim = positions.dim() - 1 - i
        if before or amounts[2 * i + 1]:
            positions = _moved(positions, dim, call.shape[dim], shift=-before)
    return positions.expand(call.shape)


def _slide(positions: Tensor, call: Call, *, kernel: Sequence[int]) -> Tensor:
    """Positions after a window operator; this is the receptive-field arithmetic itself."""
    n_dims = positions.dim() - 2

    def along(values: Sequence[int]) -> list[int]:
        return list(values) * n_dims if len(values) == 1 else list(values)

    strides, paddings = call.args.get("stride") or kernel, call.args["padding"]
    windows = zip(
        *(along(values) for values in (kernel, strides, paddings, call.args.get("dilation") or [1])),
        strict=True,
    )
    for dim, (k, stride, padding, dilation) in enumerate(windows, start=2):
        if (k, stride, padding) != (1, 1, 0):
            shift = dilation * (k - 1) / 2 - padding
            positions = _moved(positions, dim, call.shape[dim], shift=shift, stride=stride)
    return positions.expand(call.shape)


def _moved(positions: Tensor, dim: int, n: int, *, shift: float, stride: float = 1.0) -> Tensor:
    """Positions of ``n`` cells along a dimension, beginning ``shift`` cells from the first; lost if not on a line."""
    sizes = [n if i == dim else size for i, size in enumerate(positions.shape)]
    line = line_along(positions, dim)
    if line is None:
        return nowhere(sizes, math.nan)
    return line.cells(n, dim, shift=shift, stride=stride).expand(sizes)


_MOVES = (
    "slice split split_with_sizes unsafe_split unsafe_split_with_sizes index_select select unbind view _unsafe_view "
    "reshape _reshape_alias permute transpose t unsqueeze squeeze expand stack repeat detach alias lift_fresh "
    "native_channel_shuffle channel_shuffle"
)
_NONE = "no receptive-field rule for this operator"
_DISAGREE = "branches disagree"
_UNEVEN = "channels disagree, or cells are not evenly spaced"
# Each rule with the reason why it loses positions, and the names of its operators.
_RULE_NAMES: tuple[tuple[Rule, str, str], ...] = (
    (_convolution, f"transposed convolution, or {_UNEVEN}", "convolution _convolution"),
    (_pool, _UNEVEN, "max_pool2d_with_indices avg_pool2d"),
    (_pad, _UNEVEN, "constant_pad_nd reflection_pad2d replication_pad2d"),
    (
        _adaptive_pool,
        "the bins of adaptive pooling change with the input's size",
        "_adaptive_avg_pool2d adaptive_max_pool2d",
    ),
    (
        _resample,
        "resampling to another size",
        "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d "
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa",
    ),
    (_matmul, _NONE, "mm bmm addmm baddbmm"),
    (_cat, _NONE, "cat"),
    (_restride, _NONE, "as_strided_"),
    (_glu, _UNEVEN, "glu"),
    (_linear, _UNEVEN, "linear"),
    (_softmax, "normalizes over the map", "_softmax _log_softmax"),
    (
        _reduce,
        _NONE,
        "mean sum amax amin max min std var std_mean var_mean norm linalg_vector_norm logsumexp",
    ),
    (_create, _NONE, "empty_like zeros_like ones_like full_like rand_like randn_like"),
    (_create, _NONE, "new_empty new_zeros new_ones new_full"),
    # Pointwise operators that lack PyTorch's own tag "pointwise".
    (
        _elementwise,
        _DISAGREE,
        "copy_ fill_ zero_ masked_fill masked_fill_ hardswish hardswish_ silu_ mish_ gelu_ threshold_",
    ),
    (
        _same,
        _NONE,
        "native_batch_norm native_group_norm native_layer_norm _native_batch_norm_legit _fused_rms_norm",
    ),
    (_same, _NONE, "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_no_update"),
    (_same, _NONE, "_to_copy native_dropout _prelu_kernel log_sigmoid_forward"),
)
NO_RULE: tuple[Rule, str] = (_lose, _NONE)
"""The rule for operators without a rule, and its reason."""
_RULES = {name: (rule, reason) for rule, reason, names in _RULE_NAMES for name in names.split()}
