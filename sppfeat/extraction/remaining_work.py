"""Finds the remaining work for a file: a new file, or one to continue, replace or extend."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.errors import StoreError
from sppfeat.extraction.changes import find_changes
from sppfeat.extraction.part import Output, Part
from sppfeat.extraction.plan import ShardPlan, cut_plan, cut_shard
from sppfeat.extraction.report import plan_notes
from sppfeat.extraction.resume import (
    MatchedInputs,
    RecordedImages,
    cannot_continue,
    match_inputs,
    notes_on_changes,
    plan_additions,
    plan_recorded,
    read_recorded,
)
from sppfeat.extraction.run import Run
from sppfeat.files.outputs import extension_of, replacement_of
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import UNKNOWN, Status

__all__ = ["find_part"]


def find_part(run: Run, output: Output, shard_plan: ShardPlan | None = None) -> Part:
    """Find the remaining work for an output, whether its file exists or not; add notes for the user to the run.

    ``shard_plan`` is the shard for the output, if the plan has been cut already. Otherwise the output gets the shard
    that the request names, or all inputs.

    Raises:
        StoreError: an existing output cannot be continued, or is not a feature file.
    """
    path, partial = output.path, replacement_of(output.path)
    is_left = os.path.exists(partial)  # Path.exists raises for a name that is too long
    if is_left and not run.request.overwrite:
        run.notes.append(f"an interrupted --overwrite left {str(partial)!r}; add --overwrite to continue it")
    if is_left and run.request.overwrite:
        part = _continue_replacement(run, output, partial, shard_plan)
    elif not path.exists():
        part = _begin_part(run, output, path, shard_plan)
    elif run.request.overwrite:
        part = _begin_part(run, output, partial, shard_plan)
    else:
        part = _continue_part(run, output, _read_same_shard(run, path, shard_plan), shard_plan)
    if shard_plan is None:
        run.notes.extend(plan_notes(part.plan, run, is_new=part.is_new))
    return _keep_own_images(part) if run.request.shared else part


def _keep_own_images(part: Part) -> Part:
    """Restrict a part to the images of this process, when several processes share one file.

    Each process gets the same number of images. Weights by size would move the bounds as sizes become known.
    """
    choice = part.run.request.shard
    if choice is None:
        return part
    bounds = cut_plan(part.plan, choice.count, by_pixels=False)
    first, stop = bounds[choice.index - 1 : choice.index + 1].tolist()

    def own(images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.asarray(images[(images >= first) & (images < stop)])

    return replace(
        part,
        to_do=own(part.to_do),
        unmeasured=own(part.unmeasured),
        resized=own(part.resized),
        images=(first, stop),
    )


def _continue_replacement(run: Run, output: Output, partial: Path, shard_plan: ShardPlan | None) -> Part:
    """Continue an interrupted replacement of the output if inputs and settings are the same; else start over."""
    shard_plan = shard_plan or _cut_shard(run)  # the file may hold the same shard of other inputs
    try:
        recorded = _read_same_shard(run, partial, shard_plan)
    except StoreError:  # different settings, or not a feature file
        try:
            FeatureFile(partial).close()
        except StoreError as error:
            raise StoreError(
                f"--overwrite needs the path {str(partial)!r}, but another file is there: {error}"
            ) from error
        return _begin_part(run, output, partial, shard_plan)
    # Only the root of a shard remains to be compared: _read_same_shard has compared its images.
    is_same = recorded.matches(run.listing) if shard_plan is None else recorded.root == run.listing.root
    if is_same:
        return _continue_part(run, output, recorded, shard_plan)
    return _begin_part(run, output, partial, shard_plan)


def _read_same_shard(run: Run, path: Path, shard_plan: ShardPlan | None) -> RecordedImages:
    """Read the images of a file that holds the requested shard, or all images.

    Raises:
        StoreError: the file holds another shard, or was made with different settings.
    """
    recorded = read_recorded(path, run.config)
    found = recorded.shard
    if shard_plan is not None:
        if found == shard_plan.shard:
            return recorded
        wanted = f"{shard_plan.shard} of these inputs"
    else:
        choice = None if run.request.shared else run.request.shard
        if (choice and (choice.index, choice.count)) == (found and (found.index, found.count)):
            return recorded
        wanted = "all images" if choice is None else f"shard {choice}"
    raise cannot_continue(path, f"it holds {found or 'all images'}, not {wanted}")


def _cut_shard(run: Run) -> ShardPlan | None:
    """Cut the shard that the request names, if it goes into a file of its own."""
    choice = run.request.shard
    if choice is None or run.request.shared:
        return None
    plan = run.plan_inputs()
    bounds = cut_plan(plan, choice.count, by_pixels=run.measures_first)
    return cut_shard(plan, choice, bounds, has_views=run.has_views)


def _begin_part(run: Run, output: Output, path: Path, shard_plan: ShardPlan | None) -> Part:
    """Return the part that fills a new file."""
    shard_plan = shard_plan or _cut_shard(run)
    plan = shard_plan.plan if shard_plan else run.plan_inputs()
    return Part(
        run=run,
        output=output,
        path=path,
        plan=plan,
        images=(0, plan.n_images),
        status=np.zeros(plan.n_images, dtype=np.uint8),
        to_do=np.arange(plan.n_images),
        unmeasured=np.flatnonzero(plan.is_unmeasured),
        is_new=True,
        shard=shard_plan.shard if shard_plan else None,
        whole_plan=shard_plan.whole_plan if shard_plan else None,
    )


def _continue_part(run: Run, output: Output, recorded: RecordedImages, shard_plan: ShardPlan | None) -> Part:
    """Return the part that continues an existing file, or a longer copy of it if inputs are added."""
    matched = (
        match_inputs(recorded, run.listing) if shard_plan is None else MatchedInputs.for_plan(shard_plan.plan)
    )
    changes = find_changes(
        recorded.versions,
        run.listing.storage,
        matched.listing_index,
        status=recorded.status,
        has_moved=matched.root != recorded.root,
    )
    is_to_do = recorded.status == Status.PENDING
    if run.request.retry_failed:
        is_to_do |= recorded.status == Status.FAILED
    if run.request.runs_changed:
        is_to_do |= changes.changed
    to_do = np.flatnonzero(is_to_do)
    run.notes.extend(notes_on_changes(run, recorded, matched, changes, is_to_do))
    plan = plan_recorded(recorded, matched, run.listing.storage, run.config.input)
    # The header of an image is read again unless its file is known to be the one that was measured.
    is_unmeasured = (plan.image_hw == 0).any(axis=1) | (recorded.status == Status.FAILED)
    is_unmeasured |= (recorded.versions == UNKNOWN).all(axis=1) | (changes.now != recorded.versions).any(
        axis=1
    )
    unmeasured = np.flatnonzero(is_to_do & is_unmeasured & (matched.listing_index >= 0))
    resized = to_do[:0]
    if run.measures_first:
        resized, unmeasured = run.measure(plan, unmeasured), unmeasured[:0]
    part = Part(
        run=run,
        output=output,
        path=recorded.path,
        plan=plan,
        images=(0, plan.n_images),
        status=recorded.status,
        to_do=to_do,
        unmeasured=unmeasured,
        resized=resized,
        shard=recorded.shard,
        norm_factors=recorded.norm_factors,
    )
    if recorded.shard is not None:
        if shard_plan is None and len(run.listing.paths) != recorded.shard.n_images:
            run.notes.append(
                f"there were {recorded.shard.n_images} inputs when the shards were cut, and now there are "
                f"{len(run.listing.paths)}; new inputs belong to none of the shards"
            )
        return part
    if not len(matched.new):
        return part
    return _extend_part(part, matched) if run.request.adds_new else part


def _extend_part(part: Part, matched: MatchedInputs) -> Part:
    """Add the new inputs to a part, which then fills a new, longer file."""
    run = part.run
    longer = plan_additions(part.plan, matched, run)
    added = np.arange(part.plan.n_images, longer.n_images)
    return replace(
        part,
        path=extension_of(part.output.path),
        plan=longer,
        images=(0, longer.n_images),
        status=np.concatenate((part.status, np.zeros(len(added), dtype=np.uint8))),
        to_do=np.concatenate((part.to_do, added)),
        unmeasured=part.unmeasured if run.measures_first else np.concatenate((part.unmeasured, added)),
        resized=part.resized[:0],  # the new file is laid out with the right sizes
        is_new=True,
        extends=part.path,
    )
