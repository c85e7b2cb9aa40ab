"""Spatial pyramid pooling: feature map and regions in, descriptors of fixed length out.

He, Zhang, Ren, Sun: *Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition*, TPAMI 2015,
sections 2.2 and 2.3. A region of ``a`` cells along an axis is cut into ``n`` bins; bin ``i`` covers cells
``floor(i*a/n) .. ceil((i+1)*a/n)`` (half-open, computed in integers), as in torch's adaptive pooling. The paper
prints a sliding window instead: ``ceil(a/n)`` cells every ``floor(a/n)``. Both agree wherever that window gives ``n``
bins that cover the region. Elsewhere (11 cells and 4 bins give 5 windows) only the bins of this module cover it.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sppfeat.config.specs import NORMALIZATIONS, WINDOWS, parse_levels
from sppfeat.config.values import CHOICES, check_choice
from sppfeat.errors import BoxError, ConfigError
from sppfeat.pooling.region_pooling import (
    TABLE_DEVICES,
    empty_descriptors,
    from_finer,
    pool_by_tables,
    pool_crops,
)

__all__ = [
    "SpatialPyramidPool2d",
    "normalize_descriptors",
    "pool_levels",
    "pool_regions",
    "spatial_pyramid_pool",
]


def spatial_pyramid_pool(
    feature_map: Tensor, levels: Sequence[int], *, mode: str = "max", window: str = "adaptive"
) -> Tensor:
    """Pools whole feature maps into descriptors, one per map; differentiable.

    Args:
        feature_map: ``(N, C, H, W)``, floating point, ``H`` and ``W`` at least 1.
        levels: the pyramid; ``n`` stands for a grid of ``n x n`` bins.
        mode: ``"max"`` or ``"avg"``.
        window: ``"adaptive"`` (the bins of this module), or ``"sliding"``: the formula as the paper
            prints it, for networks trained with it.

    Returns:
        ``(N, D)`` with ``D = C * sum(n * n for n in levels)``, dtype and device of the map. A descriptor holds the
            levels in the order given; each level is ordered by channel, then bin row, then bin column.

    Raises:
        ConfigError: a map that is not ``(N, C, H, W)`` floating point, or is empty; bad levels or mode;
            a size for which the sliding window does not give ``n`` bins that cover the map.

    Example:
        >>> import torch
        >>> fmap = torch.arange(6.0).reshape(1, 1, 2, 3)  # one channel, 2 x 3 cells
        >>> spatial_pyramid_pool(fmap, (1, 2)).tolist()
        [[5.0, 1.0, 2.0, 4.0, 5.0]]
    """
    levels = parse_levels(levels)
    check_choice("mode", mode, CHOICES["pool"])
    check_choice("window", window, WINDOWS)
    _check_map(feature_map)
    if window == "sliding":
        _check_sliding(feature_map.shape[-2:], levels)
    if mode == "max":  # channels last: the processor compares several at once
        feature_map = feature_map.contiguous(memory_format=torch.channels_last)
    pooled = pool_levels(feature_map, levels, mode)
    return torch.cat([pooled[n].flatten(1) for n in levels], 1)


def pool_levels(feature_map: Tensor, levels: Sequence[int], mode: str) -> dict[int, Tensor]:
    """Pools whole feature maps into the bins of each level; differentiable.

    Args:
        feature_map: ``(N, C, H, W)``, floating point, ``H`` and ``W`` at least 1.
        levels: the pyramid, valid.
        mode: ``"max"`` or ``"avg"``.

    Returns:
        The bins of each level ``n``, ``(N, C, n, n)``, dtype and device of the map.
    """
    if mode == "avg":
        return {n: F.adaptive_avg_pool2d(feature_map, n) for n in levels}
    pooled: dict[int, Tensor] = {}
    for n in sorted(levels, reverse=True):
        # With gradients each level is pooled from the map, so that the first of equal cells gets the gradient, as in
        # torch.
        made = None if _needs_gradient(feature_map) else from_finer(pooled, n)
        pooled[n] = F.adaptive_max_pool2d(feature_map, n) if made is None else made
    return pooled


def pool_regions(feature_map: Tensor, regions: Tensor, levels: Sequence[int], *, mode: str = "max") -> Tensor:
    """Pools regions of feature maps into descriptors, one per region; differentiable.

    Args:
        feature_map: ``(N, C, H, W)``, floating point.
        regions: ``(K, 5)`` int64, each ``[batch, x0, y0, x1, y1]``: the index of a map in the batch, and the edges in
            its cells, half-open, inside the map, never empty.
        levels: the pyramid; ``n`` stands for a grid of ``n x n`` bins.
        mode: ``"max"`` or ``"avg"``.

    Returns:
        ``(K, D)``, dtype and device of the map. Row ``k`` equals :func:`spatial_pyramid_pool` of the crop of region
            ``k``, except that ``"avg"`` may round differently: many regions are pooled from sums in float64. Where
            the map needs a gradient, regions are pooled one by one.

    Raises:
        ConfigError: bad map, levels or mode.
        BoxError: regions of another shape or dtype, empty, or outside the map.

    Example:
        >>> import torch
        >>> fmap = torch.arange(6.0).reshape(1, 1, 2, 3)
        >>> pool_regions(fmap, torch.tensor([[0, 1, 0, 3, 2]]), (1,)).tolist()
        [[5.0]]
    """
    levels = parse_levels(levels)
    check_choice("mode", mode, CHOICES["pool"])
    _check_map(feature_map)
    maps = _check_regions(regions, feature_map)
    if _needs_gradient(feature_map):
        return _pool_each(feature_map, regions, levels, mode)
    if len(maps) == 1:
        return _pool_map(feature_map[maps[0]], regions[:, 1:], levels, mode)
    descriptors = empty_descriptors(feature_map, len(regions), levels)
    for i in maps:
        own = (regions[:, 0] == i).nonzero()[:, 0]
        descriptors[own] = _pool_map(feature_map[i], regions[own, 1:], levels, mode)
    return descriptors


class SpatialPyramidPool2d(nn.Module):
    """:func:`spatial_pyramid_pool` as a layer, from ``(N, C, H, W)`` to ``(N, D)`` for any ``H`` and ``W``.

    Args:
        levels: the pyramid, such as ``(1, 2, 4)``.
        mode: ``"max"`` or ``"avg"``.

    Raises:
        ConfigError: bad levels or mode.
    """

    def __init__(self, levels: Sequence[int], mode: str = "max") -> None:
        super().__init__()
        self.levels = parse_levels(levels)
        self.mode = check_choice("mode", mode, CHOICES["pool"])

    def forward(self, feature_map: Tensor) -> Tensor:
        """Pools ``(N, C, H, W)`` maps into ``(N, D)`` descriptors."""
        return spatial_pyramid_pool(feature_map, self.levels, mode=self.mode)

    def extra_repr(self) -> str:
        """The arguments of the layer, as ``print`` shows them."""
        return f"levels={self.levels}, mode={self.mode!r}"


def normalize_descriptors(descriptors: Tensor, method: str) -> Tensor:
    """Normalizes each descriptor of one layer.

    ``"l2"`` divides by the l2 norm, ``"power"`` takes signed square roots first, ``"none"`` returns the argument.
    Without an epsilon, a descriptor of zeros stays zeros, and a tiny one is scaled like any other. Each descriptor
    is divided by its largest magnitude before it is squared, so nothing underflows or overflows.

    Args:
        descriptors: ``(K, D)``, floating point: all levels of **one** layer.
        method: ``"none"``, ``"l2"`` or ``"power"``.

    Returns:
        ``(K, D)``, dtype and device of the argument.

    Raises:
        ConfigError: the method is unknown.

    Example:
        >>> import torch
        >>> normalize_descriptors(torch.tensor([[3.0, -4.0], [0.0, 0.0]]), "l2").tolist()
        [[0.6000000238418579, -0.800000011920929], [0.0, 0.0]]
    """
    check_choice("normalize", method, NORMALIZATIONS)
    if method == "none" or descriptors.shape[1] == 0:
        return descriptors
    peak = torch.linalg.vector_norm(descriptors, math.inf, dim=1, keepdim=True)
    # `peak` of 0 and of infinity must not divide: zeros stay zeros, infinities stay visible.
    scaled = descriptors / torch.where((peak > 0) & peak.isfinite(), peak, 1)
    if method == "power":
        scaled = scaled.sign() * scaled.abs().sqrt()
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / torch.where(norm > 0, norm, 1)


def _pool_map(feature_map: Tensor, regions: Tensor, levels: Sequence[int], mode: str) -> Tensor:
    """Descriptors ``(K, D)`` of regions ``(K, 4)`` of one map ``(C, H, W)``, by the fastest kernel for them."""
    by_tables = feature_map.device.type in TABLE_DEVICES
    by_tables &= len(regions) >= _least_for_tables(feature_map, mode)
    if by_tables and mode == "avg":
        # The sums are in float64, precise enough for any narrower dtype. An infinity would spoil every sum after it.
        by_tables = feature_map.dtype != torch.float64 and bool(feature_map.isfinite().all())
    if by_tables:
        return pool_by_tables(feature_map, regions, levels, mode=mode)
    if feature_map.device.type == "cpu":
        return pool_crops(feature_map, regions, levels, mode=mode)
    return _pool_each(feature_map[None], F.pad(regions, (1, 0)), levels, mode)


def _least_for_tables(feature_map: Tensor, mode: str) -> int:
    """The number of regions from which lookup tables pay off, measured on two cores."""
    return 28 if mode == "avg" else min(80, 24 + feature_map.numel() // 20_000)


def _pool_each(feature_map: Tensor, regions: Tensor, levels: Sequence[int], mode: str) -> Tensor:
    """Descriptors ``(K, D)`` of regions ``(K, 5)`` of maps ``(N, C, H, W)``, one after the other."""
    n_values = feature_map.shape[1] * sum(n * n for n in levels)
    # Even without regions the result has the gradient of the map: zero.
    rows = [feature_map[:0].flatten(1)[:, :1].expand(0, n_values)]
    for batch, x0, y0, x1, y1 in regions.tolist():
        pooled = pool_levels(feature_map[batch : batch + 1, :, y0:y1, x0:x1], levels, mode)
        rows.append(torch.cat([pooled[n].flatten(1) for n in levels], 1))
    return torch.cat(rows, 0)


def _needs_gradient(feature_map: Tensor) -> bool:
    return torch.is_grad_enabled() and feature_map.requires_grad


def _check_map(feature_map: Tensor) -> None:
    if feature_map.ndim != 4 or not feature_map.is_floating_point():
        raise ConfigError(
            "a feature map is a floating-point tensor of shape (N, C, H, W), "
            f"not {feature_map.dtype} of shape {tuple(feature_map.shape)}"
        )
    if feature_map.shape[1] == 0 or feature_map.shape[2] == 0 or feature_map.shape[3] == 0:
        raise ConfigError(f"a feature map of shape {tuple(feature_map.shape)} has nothing to pool")


def _check_regions(regions: Tensor, feature_map: Tensor) -> list[int]:
    """Refuses regions that are not inside their maps; returns the indices of the maps that have regions."""
    if regions.ndim != 2 or regions.shape[1] != 5 or regions.dtype != torch.int64:
        raise BoxError(
            "regions are an int64 tensor of shape (K, 5), each [batch, x0, y0, x1, y1], "
            f"not {regions.dtype} of shape {tuple(regions.shape)}"
        )
    n_maps, _, height, width = feature_map.shape
    # In numpy: waking torch's threads would take longer than pooling a few regions.
    batch, x0, y0, x1, y1 = regions.cpu().numpy().T
    wrong = (batch < 0) | (batch >= n_maps) | (x0 < 0) | (y0 < 0) | (x1 > width) | (y1 > height)
    wrong |= (x0 >= x1) | (y0 >= y1)
    if wrong.any():
        first = int(wrong.argmax())
        raise BoxError(
            f"region {first} is {regions[first].tolist()} ([batch, x0, y0, x1, y1], half-open): "
            f"empty, or not inside {n_maps} maps of {height} x {width} cells (height x width)"
        )
    return [int(i) for i in np.unique(batch)]


def _check_sliding(map_hw: Sequence[int], levels: Sequence[int]) -> None:
    """Refuses map sizes for which the sliding window does not give the bins of this module."""
    for cells in map_hw:
        for n in levels:
            win, stride = -(-cells // n), cells // n
            n_windows = (cells - win) // stride + 1 if stride else 0
            if n_windows != n or stride * (n - 1) + win != cells:
                raise ConfigError(
                    f"window='sliding': {cells} cells and {n} bins give {n_windows} windows of {win} cells "
                    f"every {stride}, not {n} that cover the map; it needs cells modulo bins to be 0 or 1"
                )
