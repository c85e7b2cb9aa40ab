"""Which file an extraction fills, and with what: anew, continued, replaced or extended."""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard, ShardChoice
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.request import ExtractRequest
from sppfeat.config.wording import counted
from sppfeat.errors import StoreError
from sppfeat.extraction.plan import Plan, make_plan
from sppfeat.extraction.resume import (
    Matched,
    Recorded,
    continued_plan,
    extended_plan,
    match_inputs,
    read_recorded,
    relabelled,
)
from sppfeat.extraction.row_planner import RowPlanner, with_sizes
from sppfeat.extraction.sharding import cut_plan, shard_of
from sppfeat.extraction.sizes import FoundSizes
from sppfeat.files.outputs import extension_of, replacement_of
from sppfeat.inputs import FileStorage, Listing, Storage
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status

__all__ = ["Part", "Task", "Work", "find_work", "only_own_shard", "part_of", "plan_inputs"]

_MOST_MEASURED_FIRST = 50_000  # files; more would keep the network waiting for the headers of all


@dataclass(frozen=True)
class Work:
    """Which file to fill, and with what.

    Attributes:
        target: the file; another one than the output while an existing output is being replaced.
        plan: every image and row of it.
        status: ``(N,)`` uint8 of each image before this run.
        to_do: ``(n,)`` int64, the images of this run, those that cannot be processed included.
        is_new: the file is yet to be laid out.
        to_learn: ``(k,)`` int64, images of this run whose size is learnt when it is their turn.
        resized: ``(m,)`` int64, images whose size the plan has and the file does not.
        own: half-open range of the images that this run is responsible for.
        shard: which part of a whole plan the file has; None: all of it.
        whole: that plan, where the file is yet to be laid out; None: ``plan``.
        adopt: a file whose rows the new one begins with.
        norm_factors: of the mean norm, where a file has them already.
    """

    target: Path
    plan: Plan
    status: npt.NDArray[np.uint8]
    to_do: npt.NDArray[np.int64]
    is_new: bool
    to_learn: npt.NDArray[np.int64]
    resized: npt.NDArray[np.int64]
    own: tuple[int, int]
    shard: Shard | None = None
    whole: Plan | None = None
    adopt: Path | None = None
    norm_factors: tuple[float, ...] | None = None

    @classmethod
    def of_new(cls, target: Path, plan: Plan, shard: Shard | None = None) -> "Work":
        """All of a plan, into a file that is yet to be laid out."""
        every = np.arange(plan.n_images)
        is_unknown = (plan.image_hw == 0).any(axis=1)
        is_unknown[list(plan.errors)] = False
        return cls(
            target=target,
            plan=plan,
            status=np.zeros(len(every), dtype=np.uint8),
            to_do=every,
            is_new=True,
            to_learn=np.flatnonzero(is_unknown),
            resized=every[:0],
            own=(0, plan.n_images),
            shard=shard,
        )


class Part(NamedTuple):
    """One of several files that a plan is cut into.

    Attributes:
        plan: of the part, numbered from 0.
        shard: which part of the whole this is.
        whole: all of the plan.
    """

    plan: Plan
    shard: Shard
    whole: Plan


Probe = Callable[[Storage, npt.NDArray[np.int64]], FoundSizes]
"""What reads the headers of images of a storage."""


@dataclass(frozen=True)
class Task:
    """What is to be done, whatever is at the output already.

    Attributes:
        request: what was asked.
        config: what shapes a descriptor.
        listing: the inputs.
        probe: reads image headers.
        planner: makes the rows of boxes; None for whole images.
        part: what of all this goes into the output, if it was cut into several; None: all, or the shard that the
            request asks for.
    """

    request: ExtractRequest
    config: ExtractConfig
    listing: Listing
    probe: Probe
    planner: RowPlanner | None
    part: Part | None = None

    @property
    def measures_first(self) -> bool:
        """Whether all headers are read before the first image is run; otherwise those of some at a time.

        They must be where rows depend on sizes. Otherwise they are where that takes little: then the plan says more,
        and images of one shape meet more often.
        """
        if self.planner is not None and self.planner.needs_sizes:
            return True
        if self.request.headers != "auto":
            return self.request.headers == "first"
        return (
            isinstance(self.listing.storage, FileStorage) and len(self.listing.paths) <= _MOST_MEASURED_FIRST
        )


def find_work(task: Task, notes: list[str]) -> Work:
    """What to do, given what is at the output; adds to ``notes`` what the user should know of it."""
    request = task.request
    output, partial = request.output, replacement_of(request.output)
    if request.overwrite:
        return _replace(output, partial, task, notes)
    if os.path.exists(partial):  # which Path.exists cannot say of a name that is too long
        notes.append(f"{str(partial)!r} is of an --overwrite that was interrupted: --overwrite continues it")
    if not output.exists():
        return _start(output, task)
    return _continue(_read_same_shard(output, task), task, notes)


def only_own_shard(work: Work, task: Task) -> Work:
    """What of the work on a file that several processes fill is this one's.

    By number: sizes that one process learns would move the borders for those that begin after it.
    """
    choice = task.request.shard
    if choice is None or not task.request.shared:
        return work
    bounds = cut_plan(work.plan, choice.count, by_pixels=False)
    first, stop = bounds[choice.index - 1 : choice.index + 1].tolist()

    def own(images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.asarray(images[(images >= first) & (images < stop)])

    return dataclasses.replace(
        work,
        to_do=own(work.to_do),
        to_learn=own(work.to_learn),
        resized=own(work.resized),
        own=(first, stop),
    )


def _replace(output: Path, partial: Path, task: Task, notes: list[str]) -> Work:
    """Continue the file that will replace an output, if it is of this very work, or begin one."""
    if not os.path.exists(partial):
        return _start(partial if output.exists() else output, task)
    task = _cut(task)  # a shard of other inputs may be called the same
    try:
        recorded = _read_same_shard(partial, task)
    except StoreError:  # of other settings, if it is a feature file at all
        try:
            FeatureFile(partial).close()
        except StoreError as error:
            raise StoreError(
                f"--overwrite would write {str(partial)!r}, which is something else: {error}"
            ) from error
        return _start(partial, task)
    listing = task.listing
    # Of a shard it has been looked at that its plan is the same, which says nothing of the folder.
    is_same = recorded.is_of(listing) if task.part is None else recorded.root == listing.root
    return _continue(recorded, task, notes) if is_same else _start(partial, task)


def _read_same_shard(path: Path, task: Task) -> Recorded:
    """What a file says of its images, if it is the shard that is asked for, or the whole.

    Raises:
        StoreError: it is not, or was made with other settings.
    """
    recorded = read_recorded(path, task.config)
    if task.part is not None:
        if recorded.shard != task.part.shard:
            raise StoreError(
                f"{str(path)!r} exists and cannot be continued; use --overwrite or another output: it has "
                f"{recorded.shard or 'all images'}, and not {task.part.shard} of these inputs"
            )
        return recorded
    choice = None if task.request.shared else task.request.shard
    found = recorded.shard
    if (choice and (choice.index, choice.count)) != (found and (found.index, found.count)):
        wanted = "all images" if choice is None else f"shard {choice}"
        raise StoreError(
            f"{str(path)!r} exists and cannot be continued; use --overwrite or another output: it has "
            f"{'all images' if found is None else found}, and {wanted} is asked for"
        )
    return recorded


def plan_inputs(task: Task) -> Plan:
    """Every image and row of the inputs."""
    listing = task.listing
    every = np.arange(len(listing.paths))
    found: FoundSizes = (np.zeros((len(every), 2), dtype=np.int32), {})
    if task.measures_first:
        found = task.probe(listing.storage, every)
    rows = task.planner.rows(listing.root, listing.paths, found[0]) if task.planner else None
    return make_plan(listing, *found, task.config.input, rows)


def part_of(task: Task, plan: Plan, choice: ShardChoice, bounds: npt.NDArray[np.int64]) -> Part:
    """One of the parts that a plan of all inputs is cut into; see :func:`sppfeat.extraction.sharding.shard_of`."""
    has_views = task.planner is not None and task.planner.has_views
    return Part(*shard_of(plan, choice, bounds, has_views=has_views), plan)


def _start(target: Path, task: Task) -> Work:
    part = task.part if task.request.shared else _cut(task).part
    if part is None:
        return Work.of_new(target, plan_inputs(task))
    return dataclasses.replace(Work.of_new(target, part.plan, part.shard), whole=part.whole)


def _cut(task: Task) -> Task:
    """The task with the part that its request asks for, if it asks for one."""
    choice = task.request.shard
    if choice is None or task.part is not None:
        return task
    plan = plan_inputs(task)
    bounds = cut_plan(plan, choice.count, by_pixels=task.measures_first)
    return dataclasses.replace(task, part=part_of(task, plan, choice, bounds))


def _continue(recorded: Recorded, task: Task, notes: list[str]) -> Work:
    request, spec, listing = task.request, task.config.input, task.listing
    part = task.part
    matched = match_inputs(recorded, listing) if part is None else Matched.of_all(part.plan)
    is_to_do = recorded.status == Status.PENDING
    if request.retry_failed:
        is_to_do |= recorded.status == Status.FAILED
    to_do = np.flatnonzero(is_to_do)
    unknown = (recorded.image_hw[to_do] == 0).any(axis=1) | (recorded.status[to_do] == Status.FAILED)
    to_learn = to_do[unknown & (matched.stored_as[to_do] >= 0)]
    plan = continued_plan(recorded, matched, listing.storage, spec)
    if task.measures_first:
        found = task.probe(listing.storage, matched.stored_as[to_learn])
        plan = with_sizes(plan, to_learn, found, spec, task.planner)
        to_learn = to_learn[:0]
    work = Work(
        target=recorded.path,
        plan=plan,
        status=recorded.status,
        to_do=to_do,
        is_new=False,
        to_learn=to_learn,
        resized=np.flatnonzero((plan.image_hw != recorded.image_hw).any(axis=1)),
        own=(0, plan.n_images),
        shard=recorded.shard,
        norm_factors=recorded.norm_factors,
    )
    if len(matched.vanished):
        notes.append(
            counted(len(matched.vanished), "image of the file is", "images of the file are")
            + " not among the inputs any more"
        )
    n_relabelled = len(relabelled(recorded, matched, listing))
    if n_relabelled:
        notes.append(
            f"{counted(n_relabelled, 'image is', 'images are')} of another class in the inputs than in the file, "
            "which keeps its own; --overwrite takes those of the inputs"
        )
    if recorded.shard is not None:
        if part is None and len(listing.paths) != recorded.shard.n_images:
            notes.append(
                f"there are {len(listing.paths)} inputs, and were {recorded.shard.n_images} when the shards were "
                "cut: new ones are in no shard"
            )
        return work
    if not len(matched.new):
        return work
    if not request.add_new:
        example = os.fsdecode(matched.new_paths[0])
        notes.append(
            f"{counted(len(matched.new), 'input is', 'inputs are')} not in the file, such as {example!r}; "
            "--add-new adds them"
        )
        return work
    return _extend(work, task, recorded, matched)


def _extend(work: Work, task: Task, recorded: Recorded, matched: Matched) -> Work:
    """The work with new inputs, in a longer file."""
    found: FoundSizes = (np.zeros((len(matched.new), 2), dtype=np.int32), {})
    if task.measures_first:
        found = task.probe(task.listing.storage, matched.new)
    longer = extended_plan(work.plan, matched, task.listing, task.config.input, found, task.planner)
    added = np.arange(work.plan.n_images, longer.n_images)
    return dataclasses.replace(
        work,
        target=extension_of(task.request.output),
        plan=longer,
        status=np.concatenate((work.status, np.zeros(len(added), dtype=np.uint8))),
        to_do=np.concatenate((work.to_do, added)),
        to_learn=work.to_learn if task.measures_first else np.concatenate((work.to_learn, added)),
        resized=work.resized[:0],  # the new file is laid out with the right sizes
        own=(0, longer.n_images),
        is_new=True,
        adopt=recorded.path,
    )
