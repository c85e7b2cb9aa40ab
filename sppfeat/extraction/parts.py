"""Finds the part of a plan for one run, given its file: new, to be continued, replaced or extended."""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard, ShardChoice
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.request import ExtractRequest
from sppfeat.config.wording import counted
from sppfeat.errors import StoreError
from sppfeat.extraction.plan import Plan, make_plan
from sppfeat.extraction.resume import (
    MatchedInputs,
    RecordedImages,
    match_inputs,
    plan_additions,
    plan_recorded,
    read_recorded,
    relabeled_images,
)
from sppfeat.extraction.row_planner import RowPlanner, add_sizes
from sppfeat.extraction.shard_plan import ShardPlan, cut_plan, cut_shard
from sppfeat.extraction.sizes import FoundSizes
from sppfeat.files.outputs import extension_of, replacement_of
from sppfeat.inputs import FileStorage, Listing, Storage
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status

__all__ = [
    "Part",
    "PartRequest",
    "find_part",
    "keep_own_images",
    "make_shard_plan",
    "plan_inputs",
]

_MOST_MEASURED_FIRST = 50_000  # files; with more, the network would wait too long for the headers


@dataclass(frozen=True)
class Part:
    """The images of one run, and the state of the file that they go into.

    Attributes:
        target: path of the file to fill; while an existing output is being replaced, the path of its replacement.
        plan: all images and rows of the file.
        status: ``(N,)`` uint8, status of each image before this run.
        to_do: ``(n,)`` int64, indices of the images to run, including images that cannot be processed.
        is_new: True if the file has not been laid out yet.
        unmeasured: ``(k,)`` int64, indices of the images to run whose headers are read later, chunk by chunk.
        resized: ``(m,)`` int64, indices of the images whose size in the plan differs from the file.
        own_images: half-open range of the images that this run is responsible for.
        shard: the shard of a whole plan that the file holds; None: the whole plan.
        whole_plan: for a new file with a shard, the plan that the shard was cut from; else None.
        extends: path of an existing file whose rows the new file begins with; None for no such file.
        norm_factors: factor of each layer under ``meannorm``, if an existing file has them.
    """

    target: Path
    plan: Plan
    status: npt.NDArray[np.uint8]
    to_do: npt.NDArray[np.int64]
    is_new: bool
    unmeasured: npt.NDArray[np.int64]
    resized: npt.NDArray[np.int64]
    own_images: tuple[int, int]
    shard: Shard | None = None
    whole_plan: Plan | None = None
    extends: Path | None = None
    norm_factors: tuple[float, ...] | None = None

    @classmethod
    def for_new_file(cls, target: Path, plan: Plan, shard: Shard | None = None) -> "Part":
        """Return the part that fills a new file with a whole plan."""
        every = np.arange(plan.n_images)
        return cls(
            target=target,
            plan=plan,
            status=np.zeros(len(every), dtype=np.uint8),
            to_do=every,
            is_new=True,
            unmeasured=np.flatnonzero(plan.is_unmeasured),
            resized=every[:0],
            own_images=(0, plan.n_images),
            shard=shard,
        )


Probe = Callable[[Storage, npt.NDArray[np.int64]], FoundSizes]
"""Reads the headers of images ``(n,)`` of a storage."""


@dataclass(frozen=True)
class PartRequest:
    """Everything that determines a part, except an existing output.

    Attributes:
        request: the user's request.
        config: the settings that determine a descriptor.
        listing: the inputs.
        probe: reads image headers.
        planner: plans the rows of boxes; None for whole images.
        shard_plan: the shard for the output, if the plan has been cut already; None: all inputs, or the shard that
            ``request`` names.
    """

    request: ExtractRequest
    config: ExtractConfig
    listing: Listing
    probe: Probe
    planner: RowPlanner | None
    shard_plan: ShardPlan | None = None

    @property
    def measures_first(self) -> bool:
        """True to read all image headers before the first image is run; False to read them chunk by chunk.

        If rows depend on image sizes, it is necessary. Otherwise it is worthwhile if it is quick: the summary is more
        complete, and batches of one input size are larger.
        """
        if self.planner is not None and self.planner.needs_sizes:
            return True
        if self.request.headers != "auto":
            return self.request.headers == "first"
        return (
            isinstance(self.listing.storage, FileStorage) and len(self.listing.paths) <= _MOST_MEASURED_FIRST
        )


def find_part(wanted: PartRequest, notes: list[str]) -> Part:
    """Find the part to run, given the file that may exist at the output.

    Args:
        wanted: the request, with its inputs and settings.
        notes: list that receives notes for the user.

    Raises:
        StoreError: an existing output cannot be continued, or is not a feature file.
    """
    request = wanted.request
    output, partial = request.output, replacement_of(request.output)
    if request.overwrite:
        return _replace_output(output, partial, wanted, notes)
    if os.path.exists(partial):  # Path.exists raises for a name that is too long
        notes.append(f"{str(partial)!r} is of an --overwrite that was interrupted: --overwrite continues it")
    if not output.exists():
        return _start_part(output, wanted)
    return _continue_part(_read_same_shard(output, wanted), wanted, notes)


def keep_own_images(part: Part, request: ExtractRequest) -> Part:
    """Restrict a part to the images of this process, if several processes share one file.

    Each process gets the same number of images. Weighting images by size would move the borders between processes as
    sizes become known.
    """
    choice = request.shard
    if choice is None or not request.shared:
        return part
    bounds = cut_plan(part.plan, choice.count, by_pixels=False)
    first, stop = bounds[choice.index - 1 : choice.index + 1].tolist()

    def own(images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.asarray(images[(images >= first) & (images < stop)])

    return dataclasses.replace(
        part,
        to_do=own(part.to_do),
        unmeasured=own(part.unmeasured),
        resized=own(part.resized),
        own_images=(first, stop),
    )


def _replace_output(output: Path, partial: Path, wanted: PartRequest, notes: list[str]) -> Part:
    """Continue an interrupted replacement of the output if inputs and settings are the same; else start one."""
    if not os.path.exists(partial):
        return _start_part(partial if output.exists() else output, wanted)
    wanted = _cut_shard_of_request(wanted)  # the file may hold a shard of the same name, but of other inputs
    try:
        recorded = _read_same_shard(partial, wanted)
    except StoreError:  # other settings, or not a feature file at all
        try:
            FeatureFile(partial).close()
        except StoreError as error:
            raise StoreError(
                f"--overwrite would write {str(partial)!r}, which is something else: {error}"
            ) from error
        return _start_part(partial, wanted)
    listing = wanted.listing
    # A shard's images have been compared with the plan already, but its root has not.
    is_same = recorded.matches(listing) if wanted.shard_plan is None else recorded.root == listing.root
    return _continue_part(recorded, wanted, notes) if is_same else _start_part(partial, wanted)


def _read_same_shard(path: Path, wanted: PartRequest) -> RecordedImages:
    """Read the images of a file that holds the requested shard, or all images.

    Raises:
        StoreError: the file holds another shard, or was made with other settings.
    """
    recorded = read_recorded(path, wanted.config)
    if wanted.shard_plan is not None:
        if recorded.shard != wanted.shard_plan.shard:
            raise StoreError(
                f"{str(path)!r} exists and cannot be continued; use --overwrite or another output: it has "
                f"{recorded.shard or 'all images'}, and not {wanted.shard_plan.shard} of these inputs"
            )
        return recorded
    choice = None if wanted.request.shared else wanted.request.shard
    found = recorded.shard
    if (choice and (choice.index, choice.count)) != (found and (found.index, found.count)):
        asked = "all images" if choice is None else f"shard {choice}"
        raise StoreError(
            f"{str(path)!r} exists and cannot be continued; use --overwrite or another output: it has "
            f"{'all images' if found is None else found}, and {asked} is asked for"
        )
    return recorded


def plan_inputs(wanted: PartRequest) -> Plan:
    """Plan all images and rows of the inputs, reading headers first if that is required."""
    listing = wanted.listing
    every = np.arange(len(listing.paths))
    found: FoundSizes = (np.zeros((len(every), 2), dtype=np.int32), {})
    if wanted.measures_first:
        found = wanted.probe(listing.storage, every)
    rows = wanted.planner.rows(listing.root, listing.paths, found[0]) if wanted.planner else None
    return make_plan(listing, *found, wanted.config.input, rows)


def make_shard_plan(
    wanted: PartRequest, plan: Plan, choice: ShardChoice, bounds: npt.NDArray[np.int64]
) -> ShardPlan:
    """Cut one shard from the plan of all inputs; see :func:`sppfeat.extraction.shard_plan.cut_shard`."""
    has_views = wanted.planner is not None and wanted.planner.has_views
    return cut_shard(plan, choice, bounds, has_views=has_views)


def _start_part(target: Path, wanted: PartRequest) -> Part:
    cut = wanted.shard_plan if wanted.request.shared else _cut_shard_of_request(wanted).shard_plan
    if cut is None:
        return Part.for_new_file(target, plan_inputs(wanted))
    return dataclasses.replace(Part.for_new_file(target, cut.plan, cut.shard), whole_plan=cut.whole_plan)


def _cut_shard_of_request(wanted: PartRequest) -> PartRequest:
    """Add the plan of the shard that the request names, if any."""
    choice = wanted.request.shard
    if choice is None or wanted.shard_plan is not None:
        return wanted
    plan = plan_inputs(wanted)
    bounds = cut_plan(plan, choice.count, by_pixels=wanted.measures_first)
    return dataclasses.replace(wanted, shard_plan=make_shard_plan(wanted, plan, choice, bounds))


def _continue_part(recorded: RecordedImages, wanted: PartRequest, notes: list[str]) -> Part:
    request, spec, listing = wanted.request, wanted.config.input, wanted.listing
    cut = wanted.shard_plan
    matched = match_inputs(recorded, listing) if cut is None else MatchedInputs.for_plan(cut.plan)
    is_to_do = recorded.status == Status.PENDING
    if request.retry_failed:
        is_to_do |= recorded.status == Status.FAILED
    to_do = np.flatnonzero(is_to_do)
    unknown = (recorded.image_hw[to_do] == 0).any(axis=1) | (recorded.status[to_do] == Status.FAILED)
    unmeasured = to_do[unknown & (matched.listing_index[to_do] >= 0)]
    plan = plan_recorded(recorded, matched, listing.storage, spec)
    if wanted.measures_first:
        found = wanted.probe(listing.storage, matched.listing_index[unmeasured])
        plan = add_sizes(plan, unmeasured, found, spec, wanted.planner)
        unmeasured = unmeasured[:0]
    part = Part(
        target=recorded.path,
        plan=plan,
        status=recorded.status,
        to_do=to_do,
        is_new=False,
        unmeasured=unmeasured,
        resized=np.flatnonzero((plan.image_hw != recorded.image_hw).any(axis=1)),
        own_images=(0, plan.n_images),
        shard=recorded.shard,
        norm_factors=recorded.norm_factors,
    )
    if len(matched.vanished):
        notes.append(
            counted(len(matched.vanished), "image of the file is", "images of the file are")
            + " not among the inputs any more"
        )
    n_relabeled = len(relabeled_images(recorded, matched, listing))
    if n_relabeled:
        notes.append(
            f"{counted(n_relabeled, 'image is', 'images are')} of another class in the inputs than in the file, "
            "which keeps its own; --overwrite takes those of the inputs"
        )
    if recorded.shard is not None:
        if cut is None and len(listing.paths) != recorded.shard.n_images:
            notes.append(
                f"there are {len(listing.paths)} inputs, and were {recorded.shard.n_images} when the shards were "
                "cut: new ones are in no shard"
            )
        return part
    if not len(matched.new):
        return part
    if not request.add_new:
        example = os.fsdecode(matched.new_paths[0])
        notes.append(
            f"{counted(len(matched.new), 'input is', 'inputs are')} not in the file, such as {example!r}; "
            "--add-new adds them"
        )
        return part
    return _extend_part(part, wanted, recorded, matched)


def _extend_part(part: Part, wanted: PartRequest, recorded: RecordedImages, matched: MatchedInputs) -> Part:
    """Add the new inputs to a part, which then fills a new, longer file."""
    found: FoundSizes = (np.zeros((len(matched.new), 2), dtype=np.int32), {})
    if wanted.measures_first:
        found = wanted.probe(wanted.listing.storage, matched.new)
    longer = plan_additions(part.plan, matched, wanted.listing, wanted.config.input, found, wanted.planner)
    added = np.arange(part.plan.n_images, longer.n_images)
    return dataclasses.replace(
        part,
        target=extension_of(wanted.request.output),
        plan=longer,
        status=np.concatenate((part.status, np.zeros(len(added), dtype=np.uint8))),
        to_do=np.concatenate((part.to_do, added)),
        unmeasured=part.unmeasured if wanted.measures_first else np.concatenate((part.unmeasured, added)),
        resized=part.resized[:0],  # the new file is laid out with the right sizes
        own_images=(0, longer.n_images),
        is_new=True,
        extends=recorded.path,
    )
