"""Lookup tables over a feature map, from which a bin of any size is pooled in at most four look-ups.

Each row of a table belongs to a cell and each column to a channel, so one look-up reads adjacent memory.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sppfeat.pooling.bins import Bins

__all__ = ["MaxTables", "MeanTables", "empty_tensor"]

# Unused columns at the end of each row. Rows whose length is a multiple of 1024 bytes all map to the same few cache
# lines, which doubled the time of transposing them into channel order.
_PADDING = 8
_LARGE_NBYTES = 1 << 20


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
