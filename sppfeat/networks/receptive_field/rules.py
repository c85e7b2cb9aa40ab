"""The table of rules, which gives the layout of each operator's output."""

from typing import Any

import torch

from sppfeat.networks.receptive_field import shape_rules, value_rules
from sppfeat.networks.receptive_field.axes import Layout, opaque, shape_of
from sppfeat.networks.receptive_field.calls import Call, Rule

__all__ = ["has_rule", "output_layout"]

_RULE_NAMES: tuple[tuple[Rule, str], ...] = (
    (value_rules.convolution, "convolution _convolution"),
    (value_rules.pool, "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d"),
    (
        value_rules.adaptive_pool,
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d",
    ),
    (
        value_rules.resample,
        "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d",
    ),
    (value_rules.resample, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    (shape_rules.resize_all, "roll flip repeat"),
    (shape_rules.pad, "constant_pad_nd reflection_pad2d replication_pad2d"),
    (shape_rules.slice_axis, "slice"),
    (shape_rules.resize_one, "split split_with_sizes unsafe_split unsafe_split_with_sizes index_select glu"),
    (shape_rules.drop_one, "select unbind"),
    (shape_rules.view, "view _unsafe_view reshape _reshape_alias"),
    (shape_rules.permute, "permute"),
    (shape_rules.transpose, "transpose t"),
    (shape_rules.unsqueeze, "unsqueeze"),
    (shape_rules.squeeze, "squeeze"),
    (shape_rules.expand, "expand"),
    (shape_rules.cat, "cat"),
    (shape_rules.stack, "stack"),
    (value_rules.matmul, "mm bmm addmm baddbmm"),
    (value_rules.linear, "linear"),
    (value_rules.softmax, "_softmax _log_softmax"),
    (
        value_rules.reduce,
        "mean sum amax amin max min std var std_mean var_mean norm linalg_vector_norm logsumexp",
    ),
    (value_rules.create, "empty_like zeros_like ones_like full_like rand_like randn_like"),
    (value_rules.create, "new_empty new_zeros new_ones new_full"),
    # Pointwise operators that lack PyTorch's own tag "pointwise".
    (
        value_rules.elementwise,
        "copy_ fill_ zero_ masked_fill masked_fill_ hardswish hardswish_ silu_ mish_ gelu_ threshold_",
    ),
    # One value per cell, with channel-wise parameters; statistics over the whole map are left out like gates.
    (
        value_rules.same,
        "native_batch_norm cudnn_batch_norm miopen_batch_norm native_group_norm native_layer_norm",
    ),
    (value_rules.same, "_native_batch_norm_legit _native_batch_norm_legit_no_training _fused_rms_norm"),
    (value_rules.same, "_batch_norm_with_update _batch_norm_no_update"),
    (
        value_rules.same,
        "detach alias _to_copy lift_fresh native_dropout native_channel_shuffle channel_shuffle",
    ),
    (value_rules.same, "_prelu_kernel log_sigmoid_forward"),
)
_RULES: dict[str, Rule] = {name: rule for rule, names in _RULE_NAMES for name in names.split()}


def has_rule(func: Any) -> bool:
    """True if an operator, a torch.ops overload, has a rule."""
    return _rule_for(func) is not value_rules.unknown


def output_layout(call: Call) -> Layout:
    """The layout of a call's output; lost if the operator has no rule, or its rule does not apply."""
    layout = _rule_for(call.func)(call)
    if shape_of(layout) == call.shape:
        return layout
    return opaque(call.shape, f"{call.where}: the operator's rule does not fit its result")


def _rule_for(func: Any) -> Rule:
    if func.namespace != "aten":
        return value_rules.unknown
    if torch.Tag.pointwise in func.tags:
        return value_rules.elementwise
    return _RULES.get(func.overloadpacket.__name__, value_rules.unknown)
