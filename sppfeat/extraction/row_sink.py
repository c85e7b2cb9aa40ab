"""Described rows, and the sinks that store them."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.errors import ImageError
from sppfeat.extraction.plan import Plan
from sppfeat.store.schema import RowRegions

__all__ = ["DescribedRows", "FailFastSink", "RowSink", "no_wait"]


def no_wait() -> None:
    """Return at once: the values are in main memory already."""


class DescribedRows(NamedTuple):
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

    def write_rows(
        self,
        rows: npt.NDArray[np.int64],
        descriptors: npt.NDArray[np.floating[Any]],
        regions: RowRegions | None = None,
    ) -> None:
        """Store the descriptors ``(K, D)`` of rows ``(K,)``, ascending."""
        ...

    def mark_done(self, image: int) -> None:
        """Mark an image as done, after all its rows."""
        ...

    def mark_failed(self, image: int, reason: str) -> None:
        """Mark an image as failed, and record the reason."""
        ...


class FailFastSink:
    """A sink that raises at the first failed image, which stays pending.

    Args:
        sink: stores everything else.
        plan: the plan, for the paths of its images.
    """

    def __init__(self, sink: RowSink, plan: Plan) -> None:
        self.write_rows = sink.write_rows
        self.mark_done = sink.mark_done
        self._plan = plan

    def mark_failed(self, image: int, reason: str) -> None:
        """Raise an ImageError that names the image."""
        name = os.fsdecode(self._plan.paths[image])
        raise ImageError(f"{name!r}: {reason} (--fail-fast; what is done is kept)")
