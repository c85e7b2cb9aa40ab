"""Distinct bins of a set of regions, and lookup tables from which a bin of any size is pooled in at most four look-ups.

Each row of a table belongs to a cell and each column to a channel, so one look-up reads adjacent memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Bins", "MaxTables", "MeanTables", "distinct_bins", "empty_tensor"]

# Unused columns at the end of each row. Rows whose length is a multiple of 1024 bytes all map to the same few cache
# lines, which doubled the time of transposing them into channel order.
_PADDING = 8
_LARGE_NBYTES = 1 << 20


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


def empty_tensor(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Allocates an uninitialized tensor on the device of ``like``.

    A large tensor in main memory is allocated through numpy, which asks the system for large pages: the first fill of
    205 MB then takes 18 ms, against 99 ms after torch's own allocation.

    Args:
        shape: shape of the new tensor.
        like: a tensor on the device to use.
        dtype: dtype of the new tensor; None for the dtype of ``like``.
    """
    dtype = dtype or like.dtype
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    if like.device.type != "cpu" or n_bytes < _LARGE_NBYTES:
        return torch.empty(tuple(shape), dtype=dtype, device=like.device)
    return torch.from_numpy(np.empty(n_bytes, dtype=np.uint8)).view(dtype).reshape(tuple(shape))


class MaxTables:
    """Maxima over windows of ``2**b x 2**a`` cells (height x width), for range-maximum queries in two dimensions.

    The maximum over a bin is the largest of four overlapping windows; a bin whose sides are powers of two is one
    window.

    Args:
        cells: ``(H, W, C)``, the feature map, channels last.
        largest_hw: height and width of the largest bin to pool, in cells.
        n_bins: the most bins that one call of :meth:`pool` may pass.
        chunk: number of bins to compute at a time.
    """

    def __init__(self, cells: Tensor, *, largest_hw: tuple[int, int], n_bins: int, chunk: int) -> None:
        height, width, n_channels = cells.shape
        n_high, n_wide = (side.bit_length() for side in largest_hw)
        self._width_windows = n_wide
        self._map_hw = (height, width)
        self._n_windows = n_high * n_wide * height * width
        self._chunk = chunk
        self.values = empty_tensor((self._n_windows + n_bins, n_channels + _PADDING), cells)
        windows = self.values[: self._n_windows].view(n_high, n_wide, height, width, n_channels + _PADDING)
        windows[0, 0, :, :, :n_channels] = cells
        windows[0, 0, :, :, n_channels:] = 0
        for a in range(1, n_wide):
            half, span = 1 << (a - 1), width - (1 << a) + 1
            narrower = windows[0, a - 1]
            torch.maximum(narrower[:, :span], narrower[:, half : half + span], out=windows[0, a, :, :span])
        for b in range(1, n_high):
            half, span = 1 << (b - 1), height - (1 << b) + 1
            lower = windows[b - 1]
            torch.maximum(lower[:, :span], lower[:, half : half + span], out=windows[b, :, :span])

    @staticmethod
    def table_rows(map_hw: tuple[int, int], largest_hw: tuple[int, int]) -> int:
        """Number of table rows that all windows of a map take."""
        return map_hw[0] * map_hw[1] * largest_hw[0].bit_length() * largest_hw[1].bit_length()

    def pool(self, bins: Bins) -> Tensor:
        """Computes the maximum of each bin.

        Returns:
            ``(M,)`` int64: the row of ``values`` with the maximum of each bin, valid until the next call.
        """
        high, wide = _floor_log2(bins.y1 - bins.y0), _floor_log2(bins.x1 - bins.x0)
        last_y, last_x = bins.y1 - (1 << high), bins.x1 - (1 << wide)
        height, width = self._map_hw
        base = (high * self._width_windows + wide) * height
        corners = [(base + y) * width + x for y in (bins.y0, last_y) for x in (bins.x0, last_x)]
        n_looks = (1 + (last_y != bins.y0).long()) * (1 + (last_x != bins.x0).long())
        # Bins that need two windows come first; their first and last corners are those two.
        order = torch.cat([(n_looks == 2).nonzero()[:, 0], (n_looks == 4).nonzero()[:, 0]])
        n_double = int((n_looks == 2).sum())
        where = corners[0].clone()
        where[order] = self._n_windows + torch.arange(len(order), device=order.device)
        self._combine([corner[order] for corner in corners], n_double)
        return where

    def _combine(self, corners: Sequence[Tensor], n_double: int) -> None:
        first, second, third, last = corners
        a = self.values.new_empty((min(self._chunk, len(first)), self.values.shape[1]))
        b = torch.empty_like(a)
        for start in range(0, len(first), self._chunk):
            part = slice(start, min(start + self._chunk, len(first)))
            n = part.stop - start
            x, y = a[:n], b[:n]
            torch.index_select(self.values, 0, first[part], out=x)
            torch.index_select(self.values, 0, last[part], out=y)
            if part.stop > n_double:
                torch.maximum(x, y, out=x)
                torch.index_select(self.values, 0, second[part], out=y)
                torch.maximum(x, y, out=x)
                torch.index_select(self.values, 0, third[part], out=y)
            torch.maximum(x, y, out=self.values[self._n_windows + start : self._n_windows + part.stop])


class MeanTables:
    """Integral images: sums over all cells above and left of a corner, from which the sum of any bin follows.

    The sum of a bin takes the sums at its four corners. Sums are in float64. The values are first rounded to
    multiples of 2**-52 of the largest possible sum (about 1e-12 of the map's largest magnitude), so every sum is
    exact: a bin of zeros is exactly zero, and no rounding error travels from one part of the map to another.

    Args:
        cells: ``(H, W, C)``, the feature map, channels last; all values finite.
        n_bins: the most bins that one call of :meth:`pool` may pass.
        chunk: number of bins to compute at a time.
    """

    def __init__(self, cells: Tensor, *, n_bins: int, chunk: int) -> None:
        height, width, n_channels = cells.shape
        self._width = width
        self._chunk = chunk
        self.values = empty_tensor((n_bins, n_channels + _PADDING), cells)
        exact = cells.double()
        largest = exact.abs().amax((0, 1)) * (height * width)
        grid = torch.exp2(torch.ceil(torch.log2(largest.clamp(min=1e-290))) - 52)
        sums = empty_tensor((height + 1, width + 1, n_channels + _PADDING), cells, torch.float64)
        sums[0] = 0
        sums[:, 0] = 0
        sums[1:, 1:, n_channels:] = 0
        inner = sums[1:, 1:, :n_channels]
        torch.mul(torch.round(exact / grid), grid, out=inner)
        for y in range(1, height):
            inner[y] += inner[y - 1]
        for x in range(1, width):
            inner[:, x] += inner[:, x - 1]
        self._sums = sums.view(-1, n_channels + _PADDING)

    def pool(self, bins: Bins) -> Tensor:
        """Computes the mean of each bin.

        Returns:
            ``(M,)`` int64: the row of ``values`` with the mean of each bin, valid until the next call.
        """
        corners = [y * (self._width + 1) + x for y in (bins.y0, bins.y1) for x in (bins.x0, bins.x1)]
        n_cells = ((bins.y1 - bins.y0) * (bins.x1 - bins.x0)).double()[:, None]
        n_bins = len(n_cells)
        a = self._sums.new_empty((min(self._chunk, n_bins), self._sums.shape[1]))
        b = torch.empty_like(a)
        for start in range(0, n_bins, self._chunk):
            part = slice(start, min(start + self._chunk, n_bins))
            x, y = a[: part.stop - start], b[: part.stop - start]
            torch.index_select(self._sums, 0, corners[3][part], out=x)
            for corner, sign in ((1, -1), (2, -1), (0, 1)):
                torch.index_select(self._sums, 0, corners[corner][part], out=y)
                torch.add(x, y, alpha=sign, out=x)
            self.values[part] = x.div_(n_cells[part])
        return torch.arange(n_bins, device=n_cells.device)


def _floor_log2(sizes: Tensor) -> Tensor:
    """Exponents of the largest powers of two up to each size, ``(M,)`` int64, without floating point."""
    powers = 1 << torch.arange(1, 32, device=sizes.device)
    return torch.searchsorted(powers, sizes, right=True)


def _edge_keys(first: Tensor, stop: Tensor, n: int, n_cells: int) -> Tensor:
    """Keys ``(K, n)`` that encode both edges of each bin along an axis of ``n_cells`` cells."""
    i = torch.arange(n, device=first.device)
    size = (stop - first)[:, None]
    start = first[:, None] + i * size // n
    end = first[:, None] - (-(i + 1) * size).div(n, rounding_mode="floor")
    return start * (n_cells + 1) + end
