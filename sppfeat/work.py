"""Which file an extraction fills, and with what: anew, continued, replaced or extended."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.boxes import whole_image_boxes
from sppfeat.config import ExtractConfig
from sppfeat.continuation import (
    Probe,
    Recorded,
    continued_plan,
    extended_plan,
    match_inputs,
    read_recorded,
)
from sppfeat.decoding import Decoder
from sppfeat.errors import StoreError
from sppfeat.places import Place
from sppfeat.placing import extension_of, replacement_of
from sppfeat.plan import Plan, make_plan
from sppfeat.reader import FeatureFile
from sppfeat.request import ExtractRequest
from sppfeat.row_planner import RowPlanner
from sppfeat.schema import Status, scale_sides
from sppfeat.sources import Listing, Storage
from sppfeat.store import BoxAudit, FeatureWriter

__all__ = ["Settled", "Task", "Work", "find_work", "prober", "settle"]

_PROBED_AT_ONCE = 4096


@dataclass(frozen=True)
class Work:
    """Which file to fill, and with what.

    Attributes:
        target: the file; another one than the output while an existing output is being replaced.
        plan: every image and row.
        status: ``(N,)`` uint8 of each image before this run.
        to_do: ``(n,)`` int64, the images of this run, those that cannot be processed included.
        resized: ``(m,)`` int64, images whose size the file does not have right.
        is_new: the file is yet to be laid out.
        adopt: a file whose rows the new one begins with.
        norm_factors: of the mean norm, where a file has them already.
    """

    target: Path
    plan: Plan
    status: npt.NDArray[np.uint8]
    to_do: npt.NDArray[np.int64]
    resized: npt.NDArray[np.int64]
    is_new: bool
    adopt: Path | None = None
    norm_factors: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Task:
    """What is to be done, whatever is at the output already.

    Attributes:
        request: what was asked.
        config: what shapes a descriptor.
        listing: the inputs.
        probe: reads image headers.
        planner: makes the rows of boxes; None for whole images.
    """

    request: ExtractRequest
    config: ExtractConfig
    listing: Listing
    probe: Probe
    planner: RowPlanner | None


def find_work(task: Task, notes: list[str]) -> Work:
    """What to do, given what is at the output; adds to ``notes`` what the user should know of it."""
    output, partial = task.request.output, replacement_of(task.request.output)
    if task.request.overwrite:
        return _replace(output, partial, task, notes)
    if partial.exists():
        notes.append(f"{str(partial)!r} is of an --overwrite that was interrupted: --overwrite continues it")
    if not output.exists():
        return _start(output, task)
    return _continue(read_recorded(output, task.config), task, notes)


def _replace(output: Path, partial: Path, task: Task, notes: list[str]) -> Work:
    """Continue the file that will replace an output, if it is of this very work, or begin one."""
    if not partial.exists():
        return _start(partial if output.exists() else output, task)
    try:
        recorded = read_recorded(partial, task.config)
    except StoreError:  # of other settings, if it is a feature file at all
        try:
            FeatureFile(partial).close()
        except StoreError as error:
            raise StoreError(
                f"--overwrite would write {str(partial)!r}, which is something else: {error}"
            ) from error
        return _start(partial, task)
    return _continue(recorded, task, notes) if recorded.is_of(task.listing) else _start(partial, task)


def _start(target: Path, task: Task) -> Work:
    listing = task.listing
    image_hw, errors = task.probe(listing.storage, np.arange(len(listing.paths)))
    rows = task.planner.rows(listing.root, listing.paths, image_hw) if task.planner else None
    plan = make_plan(listing, image_hw, errors, task.config.input, rows)
    every = np.arange(plan.n_images)
    return Work(target, plan, np.zeros(len(every), dtype=np.uint8), every, every[:0], is_new=True)


def _continue(recorded: Recorded, task: Task, notes: list[str]) -> Work:
    request, spec = task.request, task.config.input
    matched = match_inputs(recorded, task.listing)
    is_to_do = recorded.status == Status.PENDING
    if request.retry_failed:
        is_to_do |= recorded.status == Status.FAILED
    to_do = np.flatnonzero(is_to_do)
    plan = continued_plan(recorded, matched, task.listing.storage, to_do, spec, task.probe, task.planner)
    resized = np.flatnonzero((plan.image_hw != recorded.image_hw).any(axis=1))
    work = Work(
        recorded.path, plan, recorded.status, to_do, resized, is_new=False, norm_factors=recorded.norm_factors
    )
    if len(matched.vanished):
        notes.append(f"{len(matched.vanished)} images of the file are not among the inputs any more")
    if not len(matched.new):
        return work
    if not request.add_new:
        example = os.fsdecode(matched.new_paths[0])
        notes.append(
            f"{len(matched.new)} inputs are not in the file, such as {example!r}; --add-new adds them"
        )
        return work
    longer = extended_plan(plan, matched, task.listing, spec, task.probe, task.planner)
    added = np.arange(plan.n_images, longer.n_images)
    return Work(
        target=extension_of(request.output),
        plan=longer,
        status=np.concatenate((recorded.status, np.zeros(len(added), dtype=np.uint8))),
        to_do=np.concatenate((to_do, added)),
        resized=resized[:0],  # the new file is laid out with the right sizes
        is_new=True,
        adopt=recorded.path,
        norm_factors=recorded.norm_factors,
    )


class Settled(NamedTuple):
    """What became of the images of a run before its first batch.

    Attributes:
        failed: ``(f,)`` int64, those that cannot be processed.
        done: ``(d,)`` int64, those that have no row with a descriptor.
        left: ``(n,)`` int64, those that have to be run.
    """

    failed: npt.NDArray[np.int64]
    done: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]


def settle(work: Work, config: ExtractConfig, writer: FeatureWriter) -> Settled:
    """Before the first batch: everything that needs no image.

    Images that are tried again become pending, sizes are recorded, images that cannot be processed fail, rows
    whose box has no area get NaN, and images of which nothing has to be pooled are done.
    """
    plan = work.plan
    _record_sizes(work, config, writer)
    for image in work.to_do[work.status[work.to_do] == Status.FAILED].tolist():
        writer.reopen(image)
    unreadable = work.to_do[np.isin(work.to_do, list(plan.errors))]
    for image in unreadable.tolist():
        writer.mark_failed(image, plan.errors[image])
    left = np.setdiff1d(work.to_do, unreadable)
    if plan.boxes is None:
        return Settled(unreadable, left[:0], left)
    is_left = np.zeros(plan.n_images, dtype=bool)
    is_left[left] = True
    writer.write_no_descriptor(np.flatnonzero(plan.boxes.is_degenerate & is_left[plan.row_images]))
    has_work = plan.uses[left].any(axis=1)
    for image in left[~has_work].tolist():
        writer.mark_done(image)
    return Settled(unreadable, left[~has_work], left[has_work])


def _record_sizes(work: Work, config: ExtractConfig, writer: FeatureWriter) -> None:
    """Record the sizes that the file does not have right, and the boxes that depend on them.

    Boxes first: a run that is killed here finds the old size again, and does all of it once more.
    """
    plan, own = work.plan, work.plan.boxes
    for image in work.resized.tolist():
        rows = np.arange(*plan.rows[image].tolist())
        if own is None:
            writer.write_boxes(rows, whole_image_boxes(plan.image_hw[image : image + 1]))
        else:
            audit = BoxAudit(own.flag[rows], scale_sides(own.scale[rows], config.input))
            writer.write_boxes(rows, own.boxes_px[rows], audit)
    writer.sync()
    for image in work.resized.tolist():
        height, width = plan.image_hw[image].tolist()
        writer.write_size(image, (height, width))
    writer.sync()


def prober(decoder: Decoder, on_probe: Callable[[int, int], None], scratch: Path) -> Probe:
    """What reads image headers, and says how many it has read, and of how many."""

    def probe(
        storage: Storage, images: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], dict[int, str]]:
        image_hw = np.zeros((len(images), 2), dtype=np.int32)
        errors: dict[int, str] = {}
        for start in range(0, len(images), _PROBED_AT_ONCE):
            with storage.fetch(images[start : start + _PROBED_AT_ONCE], scratch) as places:
                for i, answer in enumerate(probe_places(decoder, places), start):
                    if isinstance(answer, str):
                        errors[i] = answer
                    else:
                        image_hw[i] = answer
                    on_probe(i + 1, len(images))
        return image_hw, errors

    return probe


def probe_places(decoder: Decoder, places: Sequence[Place | str]) -> Iterator[tuple[int, int] | str]:
    """Yield height and width of each image, or why it has none."""
    answers = decoder.probe(place for place in places if isinstance(place, Place))
    return (place if isinstance(place, str) else next(answers) for place in places)
