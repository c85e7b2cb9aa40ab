"""Distinct bins of a set of regions, in cells."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Bins", "distinct_bins"]


class Bins(NamedTuple):
    """The bins of all regions, in cells; a bin that several regions share is listed once.

    Attributes:
        y0, y1, x0, x1: ``(M,)`` int64, edges of each distinct bin in cells, half-open.
        of_level: one tensor per level, ``(K, n * n)`` int64: for each region, the indices of its bins among the
            distinct ones, row by row.
    """

    y0: Tensor
    y1: Tensor
    x0: Tensor
    x1: Tensor
    of_level: tuple[Tensor, ...]


def distinct_bins(regions: Tensor, levels: Sequence[int], map_hw: tuple[int, int]) -> Bins:
    """Cuts the regions of one map into bins and lists each distinct bin once.

    Args:
        regions: ``(K, 4)`` int64, ``x0, y0, x1, y1`` in cells, half-open, inside the map.
        levels: ``n`` stands for ``n x n`` bins; bin ``i`` of ``a`` cells covers
            ``floor(i*a/n) .. ceil((i+1)*a/n)``.
        map_hw: height and width of the map, in cells.

    Example:
        >>> bins = distinct_bins(torch.tensor([[0, 0, 3, 1], [1, 0, 2, 1]]), (2,), (1, 3))
        >>> bins.x0.tolist(), bins.x1.tolist(), bins.of_level[0].tolist()
        ([0, 1, 1], [2, 2, 3], [[0, 2, 0, 2], [1, 1, 1, 1]])
    """
    height, width = map_hw
    x0, y0, x1, y1 = regions.unbind(1)
    keys = []
    for n in levels:
        rows = _edge_keys(y0, y1, n, height)
        columns = _edge_keys(x0, x1, n, width)
        keys.append((rows[:, :, None] * (width + 1) ** 2 + columns[:, None, :]).reshape(len(regions), n * n))
    distinct, which = torch.unique(torch.cat([key.reshape(-1) for key in keys]), return_inverse=True)
    rows, columns = distinct // (width + 1) ** 2, distinct % (width + 1) ** 2
    return Bins(
        rows // (height + 1),
        rows % (height + 1),
        columns // (width + 1),
        columns % (width + 1),
        tuple(
            part.reshape(key.shape)
            for key, part in zip(keys, which.split([k.numel() for k in keys]), strict=True)
        ),
    )


def _edge_keys(first: Tensor, stop: Tensor, n: int, n_cells: int) -> Tensor:
    """Keys ``(K, n)`` that encode both edges of each bin along an axis of ``n_cells`` cells."""
    i = torch.arange(n, device=first.device)
    size = (stop - first)[:, None]
    start = first[:, None] + i * size // n
    end = first[:, None] - (-(i + 1) * size).div(n, rounding_mode="floor")
    return start * (n_cells + 1) + end
