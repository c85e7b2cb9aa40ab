"""Rows of a feature file for computations that know no NaN."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import counted, first_few
from sppfeat.errors import ConfigError, StoreError
from sppfeat.store.selection import Selection

__all__ = ["check_described", "check_finite", "find_nonfinite", "finite_rows"]

_SHOWN = 5


def finite_rows(selection: "Selection", positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Some rows of a selection, in memory: ``(k, d)`` float32.

    Raises:
        StoreError: as :func:`check_finite`.
    """
    rows = np.empty((len(positions), selection.dimension), dtype=np.float32)
    for part, block in selection.blocks(positions):
        rows[part] = check_finite(block, selection, positions[part])
    return rows


def check_finite(
    rows: npt.NDArray[np.floating[Any]], selection: "Selection", positions: npt.NDArray[np.int64]
) -> npt.NDArray[np.floating[Any]]:
    """Return rows ``(k, d)`` of a selection as they are.

    Args:
        rows: what :meth:`sppfeat.store.selection.Selection.take` gave.
        selection: of which they are.
        positions: ``(k,)``, where in it.

    Raises:
        StoreError: one of them holds NaN or infinities; says which.
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
        rows: ``(b, d)``.
        totals: ``(b,)`` a sum over each row, of its values or of their squares. It is finite only if all values are;
            values are looked at only where it is not, as it may overflow without them.

    Returns:
        ``(k,)`` int64, ascending.
    """
    suspects = np.flatnonzero(~np.isfinite(totals))
    bad: npt.NDArray[np.int64] = suspects[~np.isfinite(rows[suspects]).all(axis=1)]
    return bad


def check_described(selection: Selection) -> None:
    """Refuse a selection with rows of images that failed or are pending, or of boxes without area.

    Raises:
        ConfigError: there are some; names the first.
    """
    without = selection.rows[~selection.file.has_descriptor()[selection.rows]]
    if len(without):
        raise ConfigError(
            f"{len(without)} of {counted(len(selection), 'row')} {'has' if len(without) == 1 else 'have'} no "
            f"descriptor, the first is row {without[0]}; allowed: rows of images that are done, and of "
            "boxes with an area"
        )
