"""Described rows, and the interface of whatever stores them."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.store.schema import RowRegions

__all__ = ["RowSink", "Rows", "no_wait"]


def no_wait() -> None:
    """Return at once: the values are in main memory already."""


class Rows(NamedTuple):
    """Descriptors of some rows of one image.

    Attributes:
        image: index of the image in the plan.
        rows: ``(K,)`` int64, row indices in the plan, ascending.
        descriptors: ``(K, D)`` float32.
        regions: flags and pooled regions of the rows; None for whole images.
        wait: blocks until the device has delivered the descriptors; call it before reading them.
    """

    image: int
    rows: npt.NDArray[np.int64]
    descriptors: npt.NDArray[np.floating[Any]]
    regions: RowRegions | None = None
    wait: Callable[[], None] = no_wait


class RowSink(Protocol):
    """Stores rows, and then the outcome of each image."""

    def write_rows(self, rows: Rows) -> None:
        """Store the descriptors of rows, with their flags and regions."""
        ...

    def mark_done(self, image: int) -> None:
        """Mark an image as done, after all its rows."""
        ...

    def mark_failed(self, image: int, reason: str) -> None:
        """Mark an image as failed, and record the reason."""
        ...
