"""Rows of a feature file as the classifier takes them: each layer's part with norm 1."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.row_checks import check_finite

if TYPE_CHECKING:
    from sppfeat.store.selection import Selection

__all__ = ["scaled_rows"]

_BLOCK_NBYTES = 16 << 20  # of rows that are read at once


def scaled_rows(selection: "Selection", positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Rows of l2 norm 1 for each layer, so that no product is too large or too small for float32.

    Args:
        selection: rows and columns of a file.
        positions: ``(k,)``, which of its rows.

    Returns:
        ``(k, d)`` float32; what is zero throughout a layer stays zero.

    Raises:
        StoreError: a row holds NaN or infinities.
    """
    scaled = np.empty((len(positions), selection.dimension), dtype=np.float32)
    for rows, taken in selection.blocks(positions, nbytes=_BLOCK_NBYTES):
        check_finite(taken, selection, positions[rows])
        for columns in selection.columns.layer_ranges().values():
            part = taken[:, columns]
            # In float64, which holds the square of any float32.
            norm = np.sqrt(np.einsum("ij,ij->i", part, part, dtype=np.float64))[:, None]
            norm[norm == 0] = 1
            np.divide(part, norm, out=scaled[rows, columns], casting="same_kind")
    return scaled
