"""What a run hands over: rows, and what became of each image."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.errors import ImageError
from sppfeat.extraction.plan import Plan
from sppfeat.store.schema import RowAudit

__all__ = ["FailFast", "RowBlock", "Sink", "already_there"]


def already_there() -> None:
    """Wait for nothing: the values are in memory."""


class RowBlock(NamedTuple):
    """Descriptors of some rows of an image.

    Attributes:
        image: whose they are.
        rows: ``(K,)`` int64, ascending.
        descriptors: ``(K, D)``.
        audit: how they were pooled; None for whole images.
        arrived: to be called before the descriptors are read; waits until a device has delivered them.
    """

    image: int
    rows: npt.NDArray[np.int64]
    descriptors: npt.NDArray[np.floating[Any]]
    audit: RowAudit | None = None
    arrived: Callable[[], None] = already_there


class Sink(Protocol):
    """Takes rows and what became of each image."""

    def write_rows(
        self,
        rows: npt.NDArray[np.int64],
        descriptors: npt.NDArray[np.floating[Any]],
        audit: RowAudit | None = None,
    ) -> None:
        """Take ``(K, D)`` descriptors for rows ``(K,)``, ascending."""
        ...

    def mark_done(self, image: int) -> None:
        """Note that all rows of an image have been written."""
        ...

    def mark_failed(self, image: int, reason: str) -> None:
        """Note that an image has no descriptor, and why."""
        ...


class FailFast:
    """A sink that ends the run at the first image that fails, and leaves that one as it is.

    Args:
        sink: takes everything else.
        plan: knows the names of the images.
    """

    def __init__(self, sink: Sink, plan: Plan) -> None:
        self.write_rows = sink.write_rows
        self.mark_done = sink.mark_done
        self._plan = plan

    def mark_failed(self, image: int, reason: str) -> None:
        """Raise an ImageError that names the image."""
        name = os.fsdecode(self._plan.paths[image])
        raise ImageError(f"{name!r}: {reason} (--fail-fast; what is done is kept)")
