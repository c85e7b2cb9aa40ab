"""Pooling of one region of a feature map level by level, with the cells where the maxima were found."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sppfeat.pooling.bins import distinct_bins
from sppfeat.pyramid import pool_regions

__all__ = ["PooledLevel", "pool_region", "strength"]


@dataclass(frozen=True)
class PooledLevel:
    """One level of the pyramid over a region: ``n x n`` bins of ``C`` channels.

    Attributes:
        level: number of bins per side, ``n``.
        bins: ``(n, n, 4)`` int64, ``x0, y0, x1, y1`` of each bin in cells of the map, half-open.
        values: ``(C, n, n)`` float32, pooled values before normalization.
        cells: ``(C, n, n, 2)`` int64, cell ``y, x`` of each maximum, the first of several; None for means.
        n_cells: ``(C, n, n)`` int64, number of cells of the bin that hold the maximum; 0 if it is NaN; None for means.
    """

    level: int
    bins: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]
    cells: npt.NDArray[np.int64] | None
    n_cells: npt.NDArray[np.int64] | None

    def strength(self, channel: int | None = None) -> npt.NDArray[np.float64]:
        """l2 norms ``(n, n)`` of the bins over all channels, or their values in one channel."""
        return strength(self.values, channel)

    def count_maxima(self, map_hw: tuple[int, int], channel: int | None = None) -> npt.NDArray[np.int64]:
        """Counts the maxima in each cell, ``(H, W)`` int64, over all bins and all channels or one channel.

        A maximum that several cells of its bin share is not counted: most such maxima are zeros of channels without any
        activation in the bin.
        """
        counts = np.zeros(map_hw, dtype=np.int64)
        if self.cells is not None and self.n_cells is not None:
            channels = slice(None) if channel is None else slice(channel, channel + 1)
            y, x = self.cells[channels][self.n_cells[channels] == 1].T
            np.add.at(counts, (y, x), 1)
        return counts


def pool_region(
    fmap: Tensor, region: tuple[int, int, int, int], levels: Sequence[int], mode: str
) -> tuple[PooledLevel, ...]:
    """Pools a region of a map, level by level.

    Args:
        fmap: ``(1, C, H, W)`` float32 feature map, on the CPU.
        region: ``x0, y0, x1, y1`` in cells, half-open.
        levels: levels of the pyramid.
        mode: ``"max"`` or ``"avg"``.
    """
    regions = torch.tensor([[0, *region]])
    n_channels = fmap.shape[1]
    descriptor = pool_regions(fmap, regions, levels, mode=mode)[0]
    parts = torch.split(descriptor, [n_channels * n * n for n in levels])
    found = distinct_bins(regions[:, 1:], levels, (fmap.shape[2], fmap.shape[3]))
    cells = torch.stack((found.x0, found.y0, found.x1, found.y1), 1)
    pooled = []
    for n, values, which in zip(levels, parts, found.of_level, strict=True):
        bins = cells[which[0]].reshape(n, n, 4).numpy()
        values_of_level = values.reshape(n_channels, n, n).numpy()
        origin = _origin(fmap[0].numpy(), bins) if mode == "max" else (None, None)
        pooled.append(PooledLevel(n, bins, values_of_level, *origin))
    return tuple(pooled)


def strength(values: npt.NDArray[np.float32], channel: int | None = None) -> npt.NDArray[np.float64]:
    """l2 norms ``(...)`` of values ``(C, ...)`` over all channels, or the values of one channel."""
    if channel is not None:
        return np.asarray(values[channel], dtype=np.float64)
    return np.asarray(np.linalg.norm(values.astype(np.float64), axis=0))


def _origin(
    fmap: npt.NDArray[np.float32], bins: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First cells ``(C, n, n, 2)`` of a map ``(C, H, W)`` with each bin's maximum, and the numbers of such cells."""
    n_channels, n = len(fmap), len(bins)
    cells = np.empty((n_channels, n, n, 2), dtype=np.int64)
    n_cells = np.empty((n_channels, n, n), dtype=np.int64)
    for i, j in np.ndindex(n, n):
        x0, y0, x1, y1 = bins[i, j].tolist()
        crop = fmap[:, y0:y1, x0:x1].reshape(n_channels, -1)
        first = crop.argmax(axis=1)  # like pooling, takes a NaN for the maximum
        cells[:, i, j] = np.stack((y0 + first // (x1 - x0), x0 + first % (x1 - x0)), axis=1)
        n_cells[:, i, j] = (crop == crop.max(axis=1, keepdims=True)).sum(axis=1)
    return cells, n_cells
