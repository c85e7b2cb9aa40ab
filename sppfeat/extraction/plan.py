"""The plan of a run: its images, their sizes and rows, and its shards. It is made before any pixel is decoded."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard, ShardChoice
from sppfeat.config.specs import InputSpec
from sppfeat.config.wording import counted
from sppfeat.decoding import Decoder
from sppfeat.decoding.sizing import network_input_hw
from sppfeat.errors import ConfigError, ImageError
from sppfeat.files.places import Place
from sppfeat.inputs import Listing, Storage
from sppfeat.store.schema import UNKNOWN
from sppfeat.store.tables import FileTables, RowBoxes

__all__ = [
    "PLACEHOLDER",
    "BoxRows",
    "FoundSizes",
    "Plan",
    "ShardPlan",
    "cut_plan",
    "cut_rows",
    "cut_shard",
    "input_sizes",
    "make_plan",
    "read_sizes",
    "read_sizes_at",
    "shape_keys",
    "shard_path",
    "shard_record",
]

FoundSizes = tuple[npt.NDArray[np.int32], dict[int, str]]
"""Heights and widths as displayed, ``(n, 2)`` int32 in pixels, 0 if unknown; and reasons for failures, by position."""

_FETCHED_AT_ONCE = 4096

PLACEHOLDER = "{shard}"
"""The placeholder for the number of a shard in the name of its file."""


class BoxRows(NamedTuple):
    """The rows of some images, one box for each."""

    ranges: npt.NDArray[np.int64]  # (N, 2) int64, half-open range of each image's rows
    boxes: RowBoxes  # the box of each row

    @property
    def row_images(self) -> npt.NDArray[np.int64]:
        """``(R,)`` int64, index of each row's image."""
        return np.repeat(np.arange(len(self.ranges)), np.diff(self.ranges, axis=1).reshape(-1))


@dataclass(frozen=True, kw_only=True)
class Plan(FileTables):
    """Every image and row of a file, numbered as in the file.

    Sizes, the boxes that depend on them, versions and errors are filled in as headers are read. Nothing else changes.

    Attributes:
        input_hw: ``(N, S, 2)`` int32, height and width of the network input at each of ``S`` scales, in pixels; 0 if
            unknown or invalid.
        errors: the reason for each image that cannot be processed, by image index.
        storage: the storage of the images.
        storage_index: ``(N,)`` int64, index of each image in the storage; -1 if it is gone.
    """

    input_hw: npt.NDArray[np.int32]
    errors: dict[int, str]
    storage: Storage
    storage_index: npt.NDArray[np.int64]

    @property
    def n_shapes(self) -> int:
        """Number of distinct network-input sizes."""
        keys = np.unique(shape_keys(self.input_hw.reshape(-1, 2)))
        return int((keys > 0).sum())

    def scales_in_use(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return ``(n, S)`` bool, True for the scales at which each image of ``(n,)`` must be run."""
        used = np.zeros((len(images), self.input_hw.shape[1]), dtype=bool)
        if self.boxes is None:
            used[:] = True
            return used
        scale = self.boxes.scale[self.rows_of(images)]
        position = np.repeat(np.arange(len(images)), np.diff(self.rows[images], axis=1).reshape(-1))
        used[position[scale >= 0], scale[scale >= 0]] = True
        return used

    def rows_of(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return ``(k,)`` int64, the rows of the images ``(n,)``, image by image."""
        first, stop = self.rows[images].T
        ends = np.cumsum(stop - first)
        return np.asarray(np.arange(ends[-1] if len(ends) else 0) + np.repeat(stop - ends, stop - first))

    def note_versions(self, images: npt.NDArray[np.int64]) -> None:
        """Record size and time of the files of images ``(n,)``; call it before reading their headers.

        A file that changes later then differs from its record.
        """
        stored = images[self.storage_index[images] >= 0]
        self.versions[stored] = self.storage.versions(self.storage_index[stored])

    @property
    def is_unmeasured(self) -> npt.NDArray[np.bool_]:
        """``(N,)`` bool, True for images of unknown size that are not among the errors."""
        is_unmeasured = np.asarray((self.image_hw == 0).any(axis=1))
        is_unmeasured[list(self.errors)] = False
        return is_unmeasured

    @cached_property
    def digest(self) -> str:
        """SHA-256 of image paths, classes, labels and row counts, in order; sizes may still change."""
        digest = hashlib.sha256()
        for texts in chain(self.paths.blocks(), [[b"", *self.classes]]):
            digest.update(b"".join(text + b"\0" for text in texts))
        digest.update(self.labels.astype("<i8", order="C", copy=False).data)
        digest.update(np.diff(self.rows, axis=1).astype("<i8", order="C", copy=False).data)
        return digest.hexdigest()

    def copied(self) -> "Plan":
        """Return a copy whose sizes, boxes and errors can be changed independently."""
        boxes = self.boxes
        if boxes is not None:
            boxes = dataclasses.replace(
                boxes, boxes_px=boxes.boxes_px.copy(), flag=boxes.flag.copy(), scale=boxes.scale.copy()
            )
        return dataclasses.replace(
            self,
            image_hw=self.image_hw.copy(),
            input_hw=self.input_hw.copy(),
            versions=self.versions.copy(),
            errors=dict(self.errors),
            boxes=boxes,
        )


def make_plan(
    listing: Listing,
    image_hw: npt.NDArray[np.int32],
    errors: Mapping[int, str],
    spec: InputSpec,
    rows: BoxRows | None = None,
    *,
    versions: npt.NDArray[np.int64] | None = None,
) -> Plan:
    """Plan the images and rows of a listing; images without a valid network-input size are added to the errors.

    Args:
        image_hw: ``(N, 2)`` int32, height and width as displayed, in pixels; 0 if the header has not been read.
        errors: the reason for each header that could not be read, by image index.
        rows: the rows of each image; None: one row per image, the whole image.
        versions: ``(N, 2)`` int64, bytes and modification times of the files before their headers were read; None if no
            header was read.
    """
    input_hw, too_odd = input_sizes(image_hw, spec)
    first = np.arange(len(listing.paths), dtype=np.int64)
    ranges = np.stack((first, first + 1), axis=1) if rows is None else rows.ranges
    return Plan(
        root=listing.root,
        paths=listing.paths,
        image_hw=image_hw,
        input_hw=input_hw,
        versions=np.full((len(image_hw), 2), UNKNOWN, dtype=np.int64) if versions is None else versions,
        rows=ranges,
        labels=listing.labels,
        classes=listing.classes,
        errors={**too_odd, **errors},
        storage=listing.storage,
        storage_index=first,
        ids=listing.ids,
        boxes=rows.boxes if rows else None,
    )


def read_sizes(
    storage: Storage,
    images: npt.NDArray[np.int64],
    *,
    decoder: Decoder,
    scratch: Path,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
) -> FoundSizes:
    """Read the headers of images ``(n,)`` int64 of a storage; ``on_probe`` gets the number read and the total."""
    image_hw = np.zeros((len(images), 2), dtype=np.int32)
    reasons: dict[int, str] = {}
    for start in range(0, len(images), _FETCHED_AT_ONCE):
        with storage.fetch(images[start : start + _FETCHED_AT_ONCE], scratch) as places:
            sizes, why = read_sizes_at(
                places,
                decoder,
                on_probe=lambda n: on_probe(start + n, len(images)),  # noqa: B023 - called within this iteration
            )
        image_hw[start : start + len(places)] = sizes
        reasons.update({start + i: reason for i, reason in why.items()})
    return image_hw, reasons


def read_sizes_at(
    places: Sequence[Place | str], decoder: Decoder, *, on_probe: Callable[[int], None] = lambda done: None
) -> FoundSizes:
    """Read the headers of local images, given the place of each, or the reason why it has none."""
    image_hw = np.zeros((len(places), 2), dtype=np.int32)
    reasons: dict[int, str] = {}
    for i, answer in enumerate(decoder.probe(places)):
        if isinstance(answer, str):
            reasons[i] = answer
        else:
            image_hw[i] = answer
        on_probe(i + 1)
    return image_hw, reasons


def input_sizes(
    image_hw: npt.NDArray[np.int32], spec: InputSpec
) -> tuple[npt.NDArray[np.int32], dict[int, str]]:
    """Compute network-input sizes from image sizes ``(N, 2)``, 0 if unknown.

    Returns:
        ``(N, S, 2)`` int32, height and width in pixels for each short side, 0 if unknown or invalid; and, by image
        index, the reason for each known size without a valid network input.
    """
    if not image_hw.any():  # saves 1 GB of temporary arrays for ten million images
        return np.zeros((len(image_hw), len(spec.short_sides), 2), dtype=np.int32), {}
    keys, inverse = np.unique(shape_keys(image_hw), return_inverse=True)  # ten times faster than with axis=0
    input_hw = np.zeros((len(keys), len(spec.short_sides), 2), dtype=np.int32)
    reasons: dict[int, str] = {}
    for i, key in enumerate(keys.tolist()):
        if key == 0:
            continue
        height, width = divmod(key, 1 << 32)
        try:
            input_hw[i] = [
                network_input_hw(
                    (height, width),
                    short_side=side,
                    max_pixels=spec.max_pixels,
                    min_side=spec.min_side,
                    round_to=spec.round_to,
                )
                for side in spec.short_sides
            ]
        except ImageError as error:
            reasons[i] = str(error)
    failed = np.flatnonzero(np.isin(inverse, list(reasons))) if reasons else ()
    return input_hw[inverse], {int(image): reasons[int(inverse[image])] for image in failed}


def shape_keys(hw: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return ``(N,)`` int64, a unique number for each size ``(N, 2)``; 0 if a side is 0."""
    wide = hw.astype(np.int64)
    return ((wide[:, 0] << 32) | wide[:, 1]) * hw.all(axis=1)


class ShardPlan(NamedTuple):
    """The plan of one shard, numbered from 0; the record of the shard; and the plan that it was cut from."""

    plan: Plan
    shard: Shard
    whole_plan: Plan


def shard_path(output: Path, choice: ShardChoice | None) -> Path:
    """Return the output path of a shard, with its number in place of ``{shard}``; other outputs may not contain it."""
    if choice is None and PLACEHOLDER in str(output):
        raise ConfigError(
            f"the output {str(output)!r} contains {PLACEHOLDER}, which needs --shard or --shard-size"
        )
    return output if choice is None else Path(str(output).replace(PLACEHOLDER, choice.name))


def cut_plan(plan: Plan, count: int, *, by_pixels: bool) -> npt.NDArray[np.int64]:
    """Cut a plan into ``count`` contiguous shards of about equal work, none of them empty.

    With ``by_pixels``, work is measured in network-input pixels at the scales in use, which requires every image size.
    Otherwise it is measured in images with rows, which does not change as sizes become known.

    Returns:
        ``(count + 1,)`` int64, ``bounds``: shard ``i`` holds images ``bounds[i]`` to ``bounds[i + 1]``.
    """
    if not 1 <= count <= plan.n_images:
        raise ConfigError(
            f"{counted(count, 'shard')} of {counted(plan.n_images, 'image')}; allowed: 1 to {plan.n_images}"
        )
    work = (plan.rows[:, 0] < plan.rows[:, 1]).astype(np.float64)
    if by_pixels:
        uses = plan.scales_in_use(np.arange(plan.n_images))
        work = (plan.input_hw.prod(axis=2, dtype=np.int64) * uses).sum(axis=1).astype(np.float64)
    done = np.cumsum(work)
    done /= done[-1] or 1.0
    bounds = np.searchsorted(done, np.arange(1, count) / count - 1e-12) + 1
    # Give each shard at least one image.
    every = np.arange(count + 1)
    bounds = np.maximum.accumulate(np.concatenate(([0], bounds, [plan.n_images])) - every) + every
    return np.minimum(bounds, plan.n_images - every[::-1]).astype(np.int64)


def cut_rows(plan: Plan, n_rows: int) -> npt.NDArray[np.int64]:
    """Return the bounds, as in :func:`cut_plan`, of shards of at most ``n_rows`` rows; a larger image gets its own."""
    ends = plan.rows[:, 1]
    bounds = [0]
    while bounds[-1] < plan.n_images:
        first = bounds[-1]
        stop = int(np.searchsorted(ends, plan.rows[first, 0] + max(1, n_rows), side="right"))
        bounds.append(max(first + 1, stop))
    return np.array(bounds, dtype=np.int64)


def shard_record(plan: Plan, choice: ShardChoice, bounds: npt.NDArray[np.int64]) -> Shard:
    """Return the record of a shard for its file, given the bounds of all shards."""
    first, stop = bounds[choice.index - 1 : choice.index + 1].tolist()
    rows = plan.row_range(first, stop)
    return Shard(choice.index, choice.count, first, stop, *rows, plan.n_images, plan.n_rows, plan.digest)


def cut_shard(
    plan: Plan, choice: ShardChoice, bounds: npt.NDArray[np.int64], *, has_views: bool
) -> ShardPlan:
    """Cut one shard from a plan, given the bounds of all; number its images and rows from 0.

    With ``has_views``, boxes are views and are numbered from 0, too; the boxes of a box file keep their numbers.
    """
    shard = shard_record(plan, choice, bounds)
    images, rows = slice(shard.first_image, shard.stop_image), slice(shard.first_row, shard.stop_row)
    boxes = plan.boxes
    if boxes is not None:
        boxes = boxes.take(rows).numbered_from(rows.start, has_views=has_views)
    part = dataclasses.replace(
        plan,
        paths=plan.paths.part(images.start, images.stop),
        image_hw=plan.image_hw[images],
        input_hw=plan.input_hw[images],
        versions=plan.versions[images],
        rows=plan.rows[images] - rows.start,
        labels=plan.labels[images],
        errors={i - images.start: why for i, why in plan.errors.items() if images.start <= i < images.stop},
        storage_index=plan.storage_index[images],
        ids=None if plan.ids is None else plan.ids.part(images.start, images.stop),
        boxes=boxes,
    )
    return ShardPlan(part.copied(), shard, plan)
