"""The plan of a run: images, rows and batches, fixed before any pixel is decoded."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt

from sppfeat.config.specs import InputSpec
from sppfeat.decoding import Batch
from sppfeat.extraction.rows import BoxRows
from sppfeat.extraction.sizes import input_sizes, shape_keys
from sppfeat.inputs import Listing, Storage
from sppfeat.store.tables import FileTables

__all__ = ["Plan", "make_plan", "schedule"]


@dataclass(frozen=True, kw_only=True)
class Plan(FileTables):
    """Every image and every row of a file, in its order; their numbers are the same from here to the disk.

    Sizes, the boxes that depend on them, and errors are filled in as headers are read. Nothing else changes.

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
        """Return ``(n, S)`` bool, True for the scales at which each of the images ``(n,)`` must be run."""
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
        """Return a plan whose sizes, boxes and errors can be filled in without changing this one."""
        boxes = self.boxes
        if boxes is not None:
            boxes = dataclasses.replace(
                boxes, boxes_px=boxes.boxes_px.copy(), flag=boxes.flag.copy(), scale=boxes.scale.copy()
            )
        return dataclasses.replace(
            self,
            image_hw=self.image_hw.copy(),
            input_hw=self.input_hw.copy(),
            errors=dict(self.errors),
            boxes=boxes,
        )

    def of_shard(self, first: int, stop: int, *, has_views: bool) -> "Plan":
        """Return the plan of a file of its own for images ``first`` to ``stop``, where images and rows begin at 0.

        Args:
            first, stop: half-open range of images.
            has_views: True if boxes are views of each image, which are numbered from 0, too; boxes of a box file keep
                their numbers.
        """
        first_row, stop_row = self.row_range(first, stop)
        boxes = None if self.boxes is None else self.boxes.take(slice(first_row, stop_row))
        part = dataclasses.replace(
            self,
            paths=self.paths.part(first, stop),
            image_hw=self.image_hw[first:stop],
            input_hw=self.input_hw[first:stop],
            rows=self.rows[first:stop] - first_row,
            labels=self.labels[first:stop],
            errors={i - first: reason for i, reason in self.errors.items() if first <= i < stop},
            storage_index=self.storage_index[first:stop],
            ids=None if self.ids is None else self.ids.part(first, stop),
            boxes=None if boxes is None else boxes.numbered_from(first_row, has_views=has_views),
        )
        return part.copied()


def make_plan(
    listing: Listing,
    image_hw: npt.NDArray[np.int32],
    errors: Mapping[int, str],
    spec: InputSpec,
    rows: BoxRows | None = None,
) -> Plan:
    """Plan the images and rows of a listing; images without a valid network-input size are added to the errors.

    Args:
        listing: the images.
        image_hw: ``(N, 2)`` int32, height and width as displayed, in pixels; 0 if the header has not been read.
        errors: the reason for each header that could not be read, by image index.
        spec: the network-input settings.
        rows: the rows of each image; None: one row per image, the whole image.
    """
    input_hw, too_odd = input_sizes(image_hw, spec)
    first = np.arange(len(listing.paths), dtype=np.int64)
    ranges = np.stack((first, first + 1), axis=1) if rows is None else rows.ranges
    return Plan(
        root=listing.root,
        paths=listing.paths,
        image_hw=image_hw,
        input_hw=input_hw,
        rows=ranges,
        labels=listing.labels,
        classes=listing.classes,
        errors={**too_odd, **errors},
        storage=listing.storage,
        storage_index=first,
        ids=listing.ids,
        boxes=rows.boxes if rows else None,
    )


def schedule(
    input_hw: npt.NDArray[np.int32],
    images: npt.NDArray[np.int64],
    *,
    batch_size: int | None,
    batch_pixels: int,
    uses: npt.NDArray[np.bool_] | None = None,
) -> Iterator[Batch]:
    """Cut images into batches of equal network-input size: largest size first, then in plan order.

    Images that have equal sizes at every scale stay together, and all scales of a group follow each other, so that few
    images are unfinished at any time.

    Args:
        input_hw: ``(N, S, 2)`` int32, network-input sizes of every image in pixels; 0 if it cannot be processed.
        images: ``(n,)`` int64, indices of the images to run; images that cannot be processed are skipped.
        batch_size: images per batch; None: as many as fit in ``batch_pixels``, at least one.
        batch_pixels: network-input pixels per batch if ``batch_size`` is None.
        uses: ``(n, S)`` bool, True for the scales at which each of ``images`` must be run; None: all scales.

    Yields:
        The batches, still without places and image sizes.
    """
    hw = input_hw[images]
    if uses is None:
        uses = np.ones(hw.shape[:2], dtype=bool)
    keys = shape_keys(hw.reshape(-1, 2)).reshape(hw.shape[:2])
    pixels = hw.prod(axis=2, dtype=np.int64).max(axis=1, initial=0)
    order = np.lexsort((images, *(-keys).T, -pixels))
    wanted = np.asarray((keys > 0).all(axis=1) & uses.any(axis=1))
    order = order[wanted[order]]
    changes = np.flatnonzero((np.diff(keys[order], axis=0) != 0).any(axis=1)) + 1
    bounds = np.array([0, *changes, len(order)]) if len(order) else order
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        step = batch_size or max(1, batch_pixels // int(pixels[order[start]]))
        for first in range(start, stop, step):
            group = order[first : min(first + step, stop)]
            yield from _at_each_scale(images[group], hw[order[start]], uses[group])


def _at_each_scale(
    images: npt.NDArray[np.int64], input_hw: npt.NDArray[np.int32], uses: npt.NDArray[np.bool_]
) -> Iterator[Batch]:
    """Yield one batch for each scale that any of the images needs; ``input_hw`` is ``(S, 2)``."""
    last = len(input_hw) - 1 - uses[:, ::-1].argmax(axis=1)
    for scale, (height, width) in enumerate(input_hw.tolist()):
        here = uses[:, scale]
        if here.any():
            is_last = (last[here] == scale).tolist()
            yield Batch(images[here].tolist(), (), (), (height, width), scale, is_last)
