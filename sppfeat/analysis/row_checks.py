"""Checks that rows have a descriptor, and that it holds neither NaN nor infinities."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import counted, first_few
from sppfeat.errors import ConfigError, StoreError
from sppfeat.store.selection import Selection

__all__ = ["check_described", "check_finite", "find_nonfinite", "finite_rows"]

_SHOWN = 5


def finite_rows(selection: "Selection", positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Reads some rows of a selection into memory and checks that they are finite.

    Args:
        selection: rows and columns of an open file.
        positions: ``(k,)`` positions in the selection.

    Returns:
        ``(k, d)`` float32.

    Raises:
        StoreError: a row holds NaN or infinities; names the first ones.
    """
    rows = np.empty((len(positions), selection.dimension), dtype=np.float32)
    for part, block in selection.blocks(positions):
        rows[part] = check_finite(block, selection, positions[part])
    return rows


def check_finite(
    rows: npt.NDArray[np.floating[Any]], selection: "Selection", positions: npt.NDArray[np.int64]
) -> npt.NDArray[np.floating[Any]]:
    """Returns rows of a selection unchanged if all of their values are finite.

    Args:
        rows: ``(k, d)`` values taken from the selection.
        selection: rows and columns of an open file.
        positions: ``(k,)`` positions of these rows in the selection.

    Returns:
        ``rows``.

    Raises:
        StoreError: a row holds NaN or infinities; names the first ones.
    """
    bad = find_nonfinite(rows, rows.sum(axis=1, dtype=np.float64))
    if len(bad):
        numbers = selection.rows[positions[bad]]
        shown = first_few(map(str, numbers.tolist()), _SHOWN)
        raise StoreError(
            f"{str(selection.file.path)!r}: NaN or infinities in row {shown} "
            f"({selection.file.path_of(int(selection.groups[positions[bad[0]]]))!r}); allowed: finite descriptors. "
            "Leave such rows out with --rows"
        )
    return rows


def find_nonfinite(
    rows: npt.NDArray[np.floating[Any]], totals: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Positions of the rows that hold NaN or infinities.

    Args:
        rows: ``(b, d)`` values.
        totals: ``(b,)`` sum of each row's values, or of their squares. A finite sum proves a finite row; only the other
            rows are checked value by value, because a sum can also overflow.

    Returns:
        ``(k,)`` int64, ascending.
    """
    suspects = np.flatnonzero(~np.isfinite(totals))
    bad: npt.NDArray[np.int64] = suspects[~np.isfinite(rows[suspects]).all(axis=1)]
    return bad


def check_described(selection: Selection) -> None:
    """Refuses a selection with rows without descriptor: of failed or pending images, or of boxes without area.

    Raises:
        ConfigError: there are such rows; names the first.
    """
    without = selection.rows[~selection.file.has_descriptor()[selection.rows]]
    if len(without):
        raise ConfigError(
            f"{len(without)} of {counted(len(selection), 'row')} {'has' if len(without) == 1 else 'have'} no "
            f"descriptor, the first is row {without[0]}; allowed: rows of images that are done, and of "
            "boxes with an area"
        )
