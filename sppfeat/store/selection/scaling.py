"""Selected columns of descriptors, scaled again where parts of a layer were left out."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.store.descriptor_columns import ColumnSelection

__all__ = ["is_scaled_again", "scale_again", "take_scaled"]

_SCALED = ("l2", "power")


def is_scaled_again(columns: ColumnSelection, normalize: str) -> bool:
    """Whether what is left of some layer has to be scaled again: a mean norm stays what it was."""
    return bool(columns.incomplete) and normalize in _SCALED


def take_scaled(
    rows: npt.NDArray[np.floating[Any]], columns: ColumnSelection, normalize: str
) -> npt.NDArray[np.floating[Any]]:
    """Some columns of whole descriptors ``(n, D)``, scaled as :func:`scale_again` does."""
    return scale_again(columns.take(rows), columns, normalize)


def scale_again(
    block: npt.NDArray[np.floating[Any]], columns: ColumnSelection, normalize: str
) -> npt.NDArray[np.floating[Any]]:
    """What is left of incomplete layers, with the l2 norm 1; zeros stay zeros.

    Args:
        block: ``(n, d)``, the selected columns.
        columns: which columns these are.
        normalize: how the whole descriptors were scaled, as in the settings.

    Returns:
        ``(n, d)``: float32 where it is scaled again, else ``block`` itself.
    """
    if not is_scaled_again(columns, normalize):
        return block
    scaled = block.astype(np.float32)
    for layer, own in columns.layer_ranges().items():
        if layer in columns.incomplete:
            part = scaled[:, own]
            # By the largest magnitude first, so that nothing under- or overflows when it is squared.
            peak = np.abs(part).max(axis=1, keepdims=True)
            part /= np.where((peak > 0) & np.isfinite(peak), peak, 1)
            norm = np.linalg.norm(part, axis=1, keepdims=True)
            part /= np.where(norm > 0, norm, 1)
    return scaled
