"""Rows of a feature file for computations that know no NaN."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat.errors import StoreError
from sppfeat.texts import first_few

if TYPE_CHECKING:
    from sppfeat.selection import Selection

__all__ = ["finite_rows"]

_SHOWN = 5


def finite_rows(selection: "Selection", positions: npt.NDArray[np.int64]) -> npt.NDArray[np.floating[Any]]:
    """Some rows of a selection, as :meth:`sppfeat.selection.Selection.take` gives them.

    Raises:
        StoreError: one of them holds NaN or infinities; says which.
    """
    taken = selection.take(positions)
    # A sum is finite only where all values are; that it overflows without need is found by the second look.
    suspects = np.flatnonzero(~np.isfinite(taken.sum(axis=1, dtype=np.float64)))
    bad = suspects[~np.isfinite(taken[suspects]).all(axis=1)]
    if len(bad):
        rows = selection.rows[positions[bad]]
        shown = first_few(map(str, rows.tolist()), _SHOWN)
        raise StoreError(
            f"{str(selection.file.path)!r}: NaN or infinities in row {shown} "
            f"({selection.file.path_of(int(selection.groups[positions[bad[0]]]))!r}); allowed: finite descriptors. "
            "Leave such rows out with --rows"
        )
    return taken
