"""Before the first batch of a window: everything that needs no image."""

import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.specs import InputSpec
from sppfeat.config.wording import counted
from sppfeat.errors import ImageError
from sppfeat.extraction.chunks import Window
from sppfeat.extraction.plan import Plan
from sppfeat.store.schema import Status, scale_sides, whole_image_boxes
from sppfeat.store.writer import BoxAudit, PartWriter

__all__ = ["Settled", "refuse_unreadable", "settle"]


class Settled(NamedTuple):
    """What became of the images of a window before its first batch.

    Attributes:
        failed: ``(f,)`` int64, those that cannot be processed.
        done: ``(d,)`` int64, those that have no row with a descriptor.
        left: ``(n,)`` int64, those that have to be run.
    """

    failed: npt.NDArray[np.int64]
    done: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]


def refuse_unreadable(plan: Plan, to_do: npt.NDArray[np.int64], *, kept: str) -> None:
    """Raise ImageError if it is known already that images will fail.

    Args:
        plan: of the images.
        to_do: ``(n,)`` int64, which of them are to be run.
        kept: what is said of the run's output.
    """
    unreadable = to_do[np.isin(to_do, list(plan.errors))].tolist()
    if unreadable:
        name, reason = os.fsdecode(plan.paths[unreadable[0]]), plan.errors[unreadable[0]]
        others = f", and {counted(len(unreadable) - 1, 'other')}" if len(unreadable) > 1 else ""
        raise ImageError(f"{name!r}: {reason}{others} (--fail-fast; {kept})")


def settle(window: Window, status: npt.NDArray[np.uint8], spec: InputSpec, writer: PartWriter) -> Settled:
    """Record what is known of the images of a window, and mark those that need no network.

    Images that are tried again become pending, sizes are recorded, images that cannot be processed fail, rows
    whose box has no area get NaN, and images of which nothing has to be pooled are done.

    Args:
        window: what is to be run.
        status: ``(N,)`` uint8 of its images before this run.
        spec: sizes of the network input.
        writer: of its part of the file.
    """
    plan, to_do = window.plan, window.to_do
    _record_sizes(window, spec, writer)
    for image in to_do[status[to_do] == Status.FAILED].tolist():
        writer.reopen(image)
    unreadable = to_do[np.isin(to_do, list(plan.errors))]
    for image in unreadable.tolist():
        writer.mark_failed(image, plan.errors[image])
    left = np.setdiff1d(to_do, unreadable)
    if plan.boxes is None:
        return Settled(unreadable, left[:0], left)
    is_left = np.zeros(plan.n_images, dtype=bool)
    is_left[left] = True
    writer.write_no_descriptor(np.flatnonzero(plan.boxes.is_degenerate & is_left[plan.row_images]))
    has_work = plan.uses[left].any(axis=1)
    for image in left[~has_work].tolist():
        writer.mark_done(image)
    return Settled(unreadable, left[~has_work], left[has_work])


def _record_sizes(window: Window, spec: InputSpec, writer: PartWriter) -> None:
    """Record the sizes that the file does not have right, and the boxes that depend on them.

    Boxes first: a run that is killed here finds the old size again, and does all of it once more.
    """
    plan, images, own = window.plan, window.resized, window.plan.boxes
    if not len(images):
        return
    is_resized = np.zeros(plan.n_images, dtype=bool)
    is_resized[images] = True
    rows = np.flatnonzero(is_resized[plan.row_images])
    if own is None:
        writer.write_boxes(rows, whole_image_boxes(plan.image_hw[images]))
    else:
        audit = BoxAudit(own.flag[rows], scale_sides(own.scale[rows], spec))
        writer.write_boxes(rows, own.boxes_px[rows], audit)
    writer.sync()
    writer.write_sizes(images, plan.image_hw[images])
    writer.sync()
