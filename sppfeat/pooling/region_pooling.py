"""Pooling of regions of one feature map, by a kernel for many regions and one for a few.

Of many regions each distinct bin is pooled once, from lookup tables, and copied where it is needed. A few regions are
pooled one after the other, in numpy, on one thread: torch splits even the smallest pooling among its threads, and
waking them takes longer than pooling a region: 2.4 ms instead of 0.3 ms (two cores, 512 channels, levels 6, 3, 2, 1).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sppfeat.pooling.bins import Bins, MaxTables, MeanTables, distinct_bins, empty_tensor

__all__ = ["TABLE_DEVICES", "empty_descriptors", "from_finer", "level_views", "pool_by_tables", "pool_crops"]

# Bytes handled at once: values that are looked up, reduced and written in one go should stay in the processor's
# cache.
_CHUNK_NBYTES = {"cpu": 2 << 20, "cuda": 256 << 20}
_SLICE_NBYTES = 128 << 20  # of distinct bins
_TABLE_NBYTES = 128 << 20  # of the tables: larger ones are made for some channels at a time

TABLE_DEVICES = tuple(_CHUNK_NBYTES)

_Cells: TypeAlias = NDArray[Any]


def from_finer(pooled: Mapping[int, Tensor], n: int) -> Tensor | None:
    """Maxima of level ``n``, ``(N, C, n, n)``, from a level that is a multiple of ``n``; None without one.

    Bin ``i`` of ``n`` begins where bin ``k*i`` of ``k*n`` does and ends where bin ``k*i + k - 1`` ends, since
    ``floor(i*a/n)`` is ``floor(k*i*a/(k*n))``. So its maximum is the maximum over those ``k`` bins.

    Args:
        pooled: the levels pooled so far, each ``(N, C, m, m)`` under its ``m``.
        n: the coarser level.
    """
    finer = min((m for m in pooled if m % n == 0), default=None)
    return None if finer is None else F.max_pool2d(pooled[finer], finer // n)


def pool_by_tables(feature_map: Tensor, regions: Tensor, levels: Sequence[int], *, mode: str) -> Tensor:
    """Pools many regions of one map into descriptors, by lookup tables.

    Args:
        feature_map: ``(C, H, W)``, floating point; finite for ``"avg"``. No gradient reaches it.
        regions: ``(K, 4)`` int64, ``x0, y0, x1, y1`` in cells, half-open, inside the map, at least one.
        levels: the pyramid.
        mode: ``"max"`` or ``"avg"``.

    Returns:
        ``(K, D)``, dtype and device of the map.
    """
    cells = feature_map.permute(1, 2, 0)
    base = [n for n in levels if mode == "avg" or not any(m > n and m % n == 0 for m in levels)]
    out = empty_descriptors(feature_map, len(regions), levels)
    step = max(1, _SLICE_NBYTES // (sum(n * n for n in base) * cells.shape[2] * cells.element_size()))
    slices = [slice(start, min(start + step, len(regions))) for start in range(0, len(regions), step)]
    bins = [distinct_bins(regions[part], base, (cells.shape[0], cells.shape[1])) for part in slices]
    for channels in _channel_blocks(cells, bins, mode):
        tables = _tables(cells[:, :, channels], bins, mode)
        for part, own in zip(slices, bins, strict=True):
            rows = tables.pool(own)
            where = {n: rows[which] for n, which in zip(base, own.of_level, strict=True)}
            places = {n: place[:, channels] for n, place in level_views(out[part], levels).items()}
            _write(places, tables.values, where)
    return out


def pool_crops(feature_map: Tensor, regions: Tensor, levels: Sequence[int], *, mode: str) -> Tensor:
    """Pools a few regions of one map into descriptors, region by region.

    Args:
        feature_map: ``(C, H, W)``, floating point, in main memory. No gradient reaches it.
        regions: ``(K, 4)`` int64, ``x0, y0, x1, y1`` in cells, half-open, inside the map, never empty.
        levels: the pyramid.
        mode: ``"max"`` or ``"avg"``; means come from sums in float64.

    Returns:
        ``(K, D)``, dtype of the map.
    """
    pool = {"max": _max_of_bins, "avg": _mean_of_bins}[mode]
    # numpy has no bfloat16, and is slow with float16; float32 holds all of their values.
    exact = feature_map if feature_map.dtype in (torch.float32, torch.float64) else feature_map.float()
    cells = exact.detach().permute(1, 2, 0).numpy()
    n_channels = cells.shape[2]
    descriptors = np.empty((len(regions), n_channels * sum(n * n for n in levels)), cells.dtype)
    for row, (x0, y0, x1, y1) in zip(descriptors, regions.tolist(), strict=True):
        crop = np.ascontiguousarray(cells[y0:y1, x0:x1])
        pooled: dict[int, _Cells] = {}
        for n in sorted(levels, reverse=True):
            # The bins of a multiple of n make up the bins of n (see from_finer). Averaging their means would weigh
            # cells unequally.
            finer = min((m for m in pooled if m % n == 0), default=None) if mode == "max" else None
            pooled[n] = pool(crop if finer is None else pooled[finer], n)
        start = 0
        for n in levels:
            stop = start + n_channels * n * n
            row[start:stop].reshape(n_channels, n * n)[:] = pooled[n].reshape(n * n, n_channels).T
            start = stop
    return torch.from_numpy(descriptors).to(feature_map.dtype)


def empty_descriptors(feature_map: Tensor, n_regions: int, levels: Sequence[int]) -> Tensor:
    """Uninitialized descriptors ``(K, D)`` for regions of ``(..., C, H, W)`` maps, with their dtype and device."""
    return empty_tensor((n_regions, feature_map.shape[-3] * sum(n * n for n in levels)), feature_map)


def level_views(descriptors: Tensor, levels: Sequence[int]) -> dict[int, Tensor]:
    """Views of ``(K, D)`` descriptors, one per level ``n``, each ``(K, C, n * n)``."""
    n_channels = descriptors.shape[1] // sum(n * n for n in levels)
    parts = torch.split(descriptors, [n_channels * n * n for n in levels], dim=1)
    return {n: part.view(-1, n_channels, n * n) for n, part in zip(levels, parts, strict=True)}


def _tables(cells: Tensor, bins: Sequence[Bins], mode: str) -> MaxTables | MeanTables:
    most = max(len(own.y0) for own in bins)
    chunk = _chunk_rows(cells)
    if mode == "avg":
        return MeanTables(cells, n_bins=most, chunk=chunk)
    return MaxTables(cells, largest_hw=_largest_bin(bins), n_bins=most, chunk=chunk)


def _largest_bin(bins: Sequence[Bins]) -> tuple[int, int]:
    heights, widths = zip(*((own.y1 - own.y0, own.x1 - own.x0) for own in bins), strict=True)
    return int(torch.cat(heights).max()), int(torch.cat(widths).max())


def _channel_blocks(cells: Tensor, bins: Sequence[Bins], mode: str) -> Iterator[slice]:
    """Slices of channels, each small enough that its tables keep within their size limit."""
    height, width, n_channels = cells.shape
    per_channel = 8 * height * width
    if mode == "max":
        per_channel = cells.element_size() * MaxTables.table_rows((height, width), _largest_bin(bins))
    n_blocks = max(1, -(-n_channels * per_channel // _TABLE_NBYTES))
    step = -(-n_channels // n_blocks)
    for start in range(0, n_channels, step):
        yield slice(start, min(start + step, n_channels))


def _chunk_rows(cells: Tensor) -> int:
    return max(1, _CHUNK_NBYTES[cells.device.type] // (cells.shape[2] * cells.element_size()))


def _write(places: Mapping[int, Tensor], values: Tensor, where: Mapping[int, Tensor]) -> None:
    """Looks up the bins of each region, derives coarser levels from them, and writes every level to its view.

    Args:
        places: one view per level ``n``, ``(K, C, n * n)``, to write to.
        values: one pooled bin per row; the channels come first in a row, padding follows.
        where: rows of ``values``, ``(K, n * n)``, for each level that is not derived from a finer one.
    """
    n_regions, n_channels = next(iter(places.values())).shape[:2]
    per_region = max(where) ** 2 * values.shape[1] * values.element_size()
    step = min(n_regions, max(1, _CHUNK_NBYTES[values.device.type] // per_region))
    buffers = {n: values.new_empty((step * n * n, values.shape[1])) for n in where}
    for start in range(0, n_regions, step):
        part = slice(start, min(start + step, n_regions))
        pooled: dict[int, Tensor] = {}
        for n in sorted(places, reverse=True):
            made = None if n in where else from_finer(pooled, n)
            pooled[n] = _look_up(values, where[n][part], buffers[n]) if made is None else made
            places[n][part] = pooled[n].flatten(2)[:, :n_channels]


def _look_up(values: Tensor, rows: Tensor, buffer: Tensor) -> Tensor:
    """The values at ``rows`` ``(k, n * n)``, as ``(k, C, n, n)`` with channels last in memory."""
    n = math.isqrt(rows.shape[1])
    looked_up = buffer[: rows.numel()]
    torch.index_select(values, 0, rows.reshape(-1), out=looked_up)
    return looked_up.view(len(rows), n, n, values.shape[1]).permute(0, 3, 1, 2)


def _max_of_bins(cells: _Cells, n: int) -> _Cells:
    """Maxima ``(n, n, C)`` over the bins of a crop ``(h, w, C)``, rows first, then columns."""
    height, width, n_channels = cells.shape
    rows = np.empty((n, width, n_channels), cells.dtype)
    bins = np.empty((n, n, n_channels), cells.dtype)
    for i in range(n):
        np.maximum.reduce(cells[_bin(i, height, n)], axis=0, out=rows[i])
    for i in range(n):
        np.maximum.reduce(rows[:, _bin(i, width, n)], axis=1, out=bins[:, i])
    return bins


def _mean_of_bins(cells: _Cells, n: int) -> _Cells:
    height, width, n_channels = cells.shape
    rows = np.empty((n, width, n_channels))
    bins = np.empty((n, n, n_channels))
    for i in range(n):
        np.mean(cells[_bin(i, height, n)], axis=0, dtype=np.float64, out=rows[i])
    for i in range(n):
        np.mean(rows[:, _bin(i, width, n)], axis=1, out=bins[:, i])
    return bins


def _bin(i: int, cells: int, n: int) -> slice:
    """The cells of bin ``i`` of ``n`` along an axis of ``cells`` cells."""
    return slice(i * cells // n, -(-(i + 1) * cells // n))
