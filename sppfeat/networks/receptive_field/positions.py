"""Positions of the values of a tensor in the network's input, and what operators make of them.

A tensor's positions along one axis of the image, y or x, are a float64 tensor of its own shape: for each value the
input pixel index of the center of what it depends on; infinity if it has no position, such as a parameter or a value
pooled over the whole map; NaN if its position is lost. Operators that only move values move their positions alike;
the others have a rule here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Call",
    "are_known",
    "find_rule",
    "has_lost",
    "has_rule",
    "is_move",
    "line_along",
    "nowhere",
    "same",
    "spread_along",
]


class Call(NamedTuple):
    """An operator with its arguments.

    Attributes:
        args: its arguments by their names in its schema; in place of each tensor its positions.
        shape: shape of its first output.
        is_lenient: True to take the first of several positions, where they would be lost; a lost map then still tells
            the order of its axes.
    """

    args: dict[Any, Any]
    shape: tuple[int, ...]
    is_lenient: bool = False

    def merge(self, positions: Tensor, dims: Sequence[int], *, otherwise: float = math.nan) -> Tensor:
        """The common position of values along some dimensions, which get size 1; ``otherwise`` where they differ."""
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
    def first(self) -> Tensor:
        """Positions of the first tensor among the arguments."""
        return self.positions[0]

    @property
    def positions(self) -> list[Tensor]:
        """Positions of all tensors among the arguments, in order."""
        flat = [
            part for arg in self.args.values() for part in (arg if isinstance(arg, list | tuple) else [arg])
        ]
        return [part for part in flat if isinstance(part, Tensor)]


Rule: TypeAlias = Callable[[Call], Tensor]


class Line(NamedTuple):
    """Positions along one dimension: ``first + step * i``."""

    first: Tensor
    step: Tensor

    def cells(self, n: int, dim: int, *, shift: float = 0.0, stride: float = 1.0) -> Tensor:
        """Positions of ``n`` cells from ``shift`` on, every ``stride`` cells; of one cell if all are equal."""
        if (n == 1 and shift == 0) or not bool(self.step.any()):  # of a single cell no step is known
            return self.first.unsqueeze(dim)
        index = (shift + stride * torch.arange(n, dtype=torch.float64)).reshape(
            -1, *[1] * (self.first.dim() - dim)
        )
        return self.first.unsqueeze(dim) + self.step.unsqueeze(dim) * index


def nowhere(shape: Sequence[int], value: float = math.inf) -> Tensor:
    """Positions of values that have none, or of lost ones for NaN."""
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
    if a is b:
        return True
    a, b = _thin(a), _thin(b)
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def has_rule(func: Any) -> bool:
    """True if an operator, a torch.ops overload, moves values or has a rule."""
    return is_move(func) or find_rule(func)[0] is not _lose


def is_move(func: Any) -> bool:
    """True if an operator only moves values."""
    return func.namespace == "aten" and func.overloadpacket.__name__ in _MOVES.split()


def find_rule(func: Any) -> tuple[Rule, str]:
    """The rule of an operator, and the reason why positions that it loses are lost."""
    rule: Rule = _RULES.get(func.overloadpacket.__name__, _lose) if func.namespace == "aten" else _lose
    if rule is _lose and func.namespace == "aten" and torch.Tag.pointwise in func.tags:
        rule = _elementwise
    return rule, _REASONS.get(rule, "there is no receptive-field rule for this operator")


def _thin(positions: Tensor) -> Tensor:
    """Positions with size 1 in place of each dimension along which they are repeated."""
    for dim, stride in enumerate(positions.stride()):
        if stride == 0 and positions.shape[dim] > 1:
            positions = positions.narrow(dim, 0, 1)
    return positions


def _lose(call: Call) -> Tensor:
    return nowhere(call.shape, math.nan)


def _create(call: Call) -> Tensor:
    """New values, not computed from others."""
    return torch.full(call.shape, math.inf, dtype=torch.float64)


def _same(call: Call) -> Tensor:
    """Each value of the first operand, with parameters, and statistics of the map, which are left out like gates."""
    return call.first


def _elementwise(call: Call) -> Tensor:
    """One value from each position of the operands."""
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
    """Values pooled over whole dimensions: they have no position along these."""
    positions, dims = call.first, call.args.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(positions.dim()))
    merged = call.merge(positions, dims, otherwise=math.inf)
    reduced = {dim % positions.dim() for dim in dims} if positions.dim() else set()
    kept = [1 if dim in reduced else size for dim, size in enumerate(positions.shape)]
    return merged.expand(kept).reshape(call.shape)


def _cat(call: Call) -> Tensor:
    """Tensors joined along a dimension."""
    parts = [part for part in call.positions if part.dim() == len(call.shape)]
    dim = call.args["dim"] % len(call.shape)
    thin = [_thin(part) for part in parts]
    sizes = [max(part.shape[i] for part in thin) for i in range(len(call.shape))]
    joined = torch.cat(
        [
            part.expand([whole.shape[dim] if i == dim else size for i, size in enumerate(sizes)])
            for part, whole in zip(thin, parts, strict=True)
        ],
        dim,
    )
    return (joined if spread_along(joined, dim) else joined.narrow(dim, 0, 1)).expand(call.shape)


def _glu(call: Call) -> Tensor:
    """One half of a dimension times the sigmoid of the other."""
    halves = call.first.chunk(2, dim=call.args["dim"])
    return _elementwise(call._replace(args=dict(enumerate(halves))))


def _softmax(call: Call) -> Tensor:
    """Values divided by their sum over one dimension, which couples its positions."""
    positions = call.first
    if call.is_lenient:
        return positions
    coupled = call.merge(positions, [call.args["dim"]])
    return torch.where(coupled.isnan(), math.nan, _thin(positions)).expand(call.shape)


def _matmul(call: Call) -> Tensor:
    """Rows times columns; of the two factors, one may have positions."""
    factors = [call.args[name] for name in ("self", "mat1", "batch1", "mat2", "batch2") if name in call.args][
        -2:
    ]
    rows, columns = (call.merge(part, [dim]) for part, dim in zip(factors, (-1, -2), strict=True))
    return _elementwise(call._replace(args={"rows": rows, "columns": columns}))


def _linear(call: Call) -> Tensor:
    """A matrix times the last dimension."""
    return call.merge(call.first, [-1]).expand(call.shape)


def _convolution(call: Call) -> Tensor:
    """A window over the spatial dimensions, and new channels."""
    if call.args["transposed"] or not bool(_thin(call.args["weight"]).isinf().all()):
        return _lose(call)
    merged = call.merge(call.args["input"], [1])
    channels = [merged.shape[0], 1, *call.args["input"].shape[2:]]
    return _slide(merged.expand(channels), call, kernel=call.args["weight"].shape[2:])


def _pool(call: Call) -> Tensor:
    """A window over the spatial dimensions."""
    return _slide(call.first, call, kernel=call.args["kernel_size"])


def _adaptive_pool(call: Call) -> Tensor:
    """Pooled over the whole map, or over bins that change with the input's size."""
    otherwise = math.inf if set(call.shape[-2:]) == {1} else math.nan
    return call.merge(call.first, [-2, -1], otherwise=otherwise).expand(call.shape)


def _resample(call: Call) -> Tensor:
    """Values interpolated at another size, which is a ratio of sizes and so changes with the input."""
    return call.merge(call.first, [-2, -1]).expand(call.shape)


def _pad(call: Call) -> Tensor:
    """Cells added or cut off at both ends of some dimensions."""
    positions = call.first
    amounts = call.args["pad" if "pad" in call.args else "padding"]
    for i, before in enumerate(amounts[::2]):
        dim = positions.dim() - 1 - i
        if before or amounts[2 * i + 1]:
            positions = _moved(positions, dim, call.shape[dim], shift=-before)
    return positions.expand(call.shape)


def _slide(positions: Tensor, call: Call, *, kernel: Sequence[int]) -> Tensor:
    """Positions after a window operator; this is the receptive-field arithmetic itself."""
    n_dims = 2 if len(kernel) == 1 and positions.dim() == 4 else len(kernel)

    def along(name: str, default: Sequence[int]) -> list[int]:
        given = list(call.args.get(name) or default)
        return given * n_dims if len(given) == 1 else given

    kernels = list(kernel) if len(kernel) == n_dims else list(kernel) * n_dims
    windows = zip(
        kernels, along("stride", kernels), along("padding", [0]), along("dilation", [1]), strict=True
    )
    for i, (k, stride, padding, dilation) in enumerate(windows):
        dim = positions.dim() - n_dims + i
        if (k, stride, padding) != (1, 1, 0):
            shift = dilation * (k - 1) / 2 - padding
            positions = _moved(
                positions, dim, call.shape[len(call.shape) - n_dims + i], shift=shift, stride=stride
            )
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
_RULE_NAMES: tuple[tuple[Rule, str], ...] = (
    (_convolution, "convolution _convolution"),
    (_pool, "max_pool2d_with_indices avg_pool2d"),
    (_pad, "constant_pad_nd reflection_pad2d replication_pad2d"),
    (_adaptive_pool, "_adaptive_avg_pool2d adaptive_max_pool2d"),
    (_resample, "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d"),
    (_resample, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    (_matmul, "mm bmm addmm baddbmm"),
    (_cat, "cat"),
    (_glu, "glu"),
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
    (_same, "native_batch_norm native_group_norm native_layer_norm _native_batch_norm_legit _fused_rms_norm"),
    (_same, "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_no_update"),
    (_same, "_to_copy native_dropout _prelu_kernel log_sigmoid_forward"),
)
_RULES = {name: rule for rule, names in _RULE_NAMES for name in names.split()}
_UNEVEN = "channels disagree, or cells are not evenly spaced"
_REASONS: dict[Rule, str] = {
    _elementwise: "branches disagree",
    _convolution: f"transposed convolution, or {_UNEVEN}",
    _adaptive_pool: "the bins of adaptive pooling change with the input's size",
    _resample: "resampling to another size",
    _softmax: "normalises over the map",
    **dict.fromkeys((_pool, _pad, _glu, _linear), _UNEVEN),
}
