"""The Plan: which rows will exist, where, and in which batches, before a pixel is decoded."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.specs import InputSpec
from sppfeat.extraction.rows import Rows
from sppfeat.extraction.sizes import input_sizes, shape_keys
from sppfeat.files.paths import PathTable
from sppfeat.inputs import FileStorage, Listing, Storage
from sppfeat.store.tables import FileTables

__all__ = ["Batch", "Plan", "make_plan", "schedule"]

_AT_ONCE = 1 << 18  # images


@dataclass(frozen=True, kw_only=True)
class Plan(FileTables):
    """Every image and every row of a run, in the order of the output file, and how each image is processed.

    Attributes:
        input_hw: ``(N, S, 2)`` int32, of the network input at each scale; 0 where the image cannot be
            processed.
        errors: why an image cannot be processed, by its index.
        storage: where the images are.
        stored_as: ``(N,)`` int64, the number that each image has there; -1: not there any more.
    """

    input_hw: npt.NDArray[np.int32]
    errors: Mapping[int, str]
    storage: Storage
    stored_as: npt.NDArray[np.int64]

    @property
    def n_shapes(self) -> int:
        """Number of distinct network-input sizes."""
        keys: set[int] = set()
        for hw in _in_blocks(self.input_hw):
            keys.update(np.unique(shape_keys(hw.reshape(-1, 2))).tolist())
        return len(keys - {0})

    @property
    def uses(self) -> npt.NDArray[np.bool_]:
        """``(N, S)`` bool: which images have to be run at which scale."""
        uses = np.zeros(self.input_hw.shape[:2], dtype=bool)
        if self.boxes is None:
            uses[:] = True
        else:
            pooled = self.boxes.scale >= 0
            uses[self.row_images[pooled], self.boxes.scale[pooled]] = True
        return uses

    @property
    def nbytes(self) -> int:
        """Bytes that the plan holds, error texts and what a box file says of its boxes apart."""
        arrays = (self.image_hw, self.input_hw, self.rows, self.labels, self.stored_as)
        boxes = 0 if self.boxes is None else self.boxes.nbytes
        texts = self.paths.nbytes + (0 if self.ids is None else self.ids.nbytes)
        storage = 0 if isinstance(self.storage, FileStorage) else self.storage.nbytes  # which has the paths
        return texts + sum(array.nbytes for array in arrays) + boxes + storage

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what all shards share: the images in their order, their labels and rows; sizes apart."""
        digest = hashlib.sha256()
        for texts in chain(self.paths.blocks(), [[b"", *self.classes]]):
            digest.update(b"".join(text + b"\0" for text in texts))
        digest.update(self.labels.astype("<i8", order="C", copy=False).data)
        digest.update(np.diff(self.rows, axis=1).astype("<i8", order="C", copy=False).data)
        return digest.hexdigest()

    def part(self, first: int, stop: int) -> "Plan":
        """Return the plan of images ``first`` to ``stop``, numbered from 0, with their rows, numbered from 0."""
        first_row, stop_row = self.row_range(first, stop)
        return dataclasses.replace(
            self,
            paths=self.paths.part(first, stop),
            image_hw=self.image_hw[first:stop],
            input_hw=self.input_hw[first:stop],
            rows=self.rows[first:stop] - first_row,
            labels=self.labels[first:stop],
            errors={i - first: reason for i, reason in self.errors.items() if first <= i < stop},
            stored_as=self.stored_as[first:stop],
            ids=None if self.ids is None else self.ids.part(first, stop),
            boxes=None if self.boxes is None else self.boxes.part(first_row, stop_row),
        )

    def take(self, images: npt.NDArray[np.int64], rows: Sequence[npt.NDArray[np.int64]]) -> "Plan":
        """Return the plan of some images, each with some of its rows, numbered from 0.

        Args:
            images: ``(n,)`` int64.
            rows: for each of them rows of it.
        """
        ends = np.cumsum([len(own) for own in rows], dtype=np.int64)
        every = np.concatenate([*rows, np.empty(0, dtype=np.int64)])
        return dataclasses.replace(
            self,
            paths=PathTable(self.paths[i] for i in images.tolist()),
            image_hw=self.image_hw[images],
            input_hw=self.input_hw[images],
            rows=np.stack((ends - np.array([len(own) for own in rows], dtype=np.int64), ends), axis=1),
            labels=self.labels[images],
            errors={i: self.errors[image] for i, image in enumerate(images.tolist()) if image in self.errors},
            stored_as=self.stored_as[images],
            ids=None if self.ids is None else PathTable(self.ids[i] for i in images.tolist()),
            boxes=self.boxes.take(every) if self.boxes is not None else None,
        )


class Batch(NamedTuple):
    """Images of one network-input size.

    Attributes:
        images: ``(n,)`` int64, indices into the plan.
        input_hw: height and width that they share.
        scale: at which scale this is.
        is_last: ``(n,)`` bool, whether no later batch has the image.
    """

    images: npt.NDArray[np.int64]
    input_hw: tuple[int, int]
    scale: int
    is_last: npt.NDArray[np.bool_]


def make_plan(
    listing: Listing,
    image_hw: npt.NDArray[np.int32],
    errors: Mapping[int, str],
    spec: InputSpec,
    rows: Rows | None = None,
) -> Plan:
    """Plan the rows of a listing.

    Args:
        listing: the images.
        image_hw: ``(N, 2)`` int32, height and width as displayed; 0 where the header could not be read.
        errors: why a header could not be read, by index.
        spec: sizes of the network input.
        rows: the rows of each image; None for one that is the whole image.

    Returns:
        The plan; images for which no valid network-input size exists are among its errors.
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
        stored_as=first,
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
    """Batches that cover ``images``, each of equal network-input sizes: largest size first, then plan order.

    Images of equal sizes at every scale stay together; they come at one scale after the other, so that few
    images are under way at any time.

    Args:
        input_hw: ``(N, S, 2)`` int32, network-input sizes of every image; 0 where it cannot be processed.
        images: ``(n,)`` int64, indices of the images to be done; those that cannot be are left out.
        batch_size: images per batch, or None: as many as fit ``batch_pixels``, at least one.
        batch_pixels: network-input pixels per batch where ``batch_size`` is None.
        uses: ``(N, S)`` bool, which images are wanted at which scale; None for all at all.

    Yields:
        The batches.
    """
    hw = input_hw[images]
    keys = shape_keys(hw.reshape(-1, 2)).reshape(hw.shape[:2])
    pixels = hw.prod(axis=2, dtype=np.int64).max(axis=1, initial=0)
    order = np.lexsort((images, *(-keys).T, -pixels))
    wanted = np.asarray((keys > 0).all(axis=1))
    if uses is not None:
        wanted &= uses[images].any(axis=1)
    order = order[wanted[order]]
    changes = np.flatnonzero((np.diff(keys[order], axis=0) != 0).any(axis=1)) + 1
    bounds = np.array([0, *changes, len(order)]) if len(order) else order
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        step = batch_size or max(1, batch_pixels // int(pixels[order[start]]))
        for first in range(start, stop, step):
            chunk = images[order[first : min(first + step, stop)]]
            yield from _at_each_scale(chunk, hw[order[start]], None if uses is None else uses[chunk])


def _at_each_scale(
    images: npt.NDArray[np.int64], input_hw: npt.NDArray[np.int32], uses: npt.NDArray[np.bool_] | None
) -> Iterator[Batch]:
    """Yield some images at each scale, ``input_hw`` ``(S, 2)``, at which they are wanted."""
    if uses is None:
        uses = np.ones((len(images), len(input_hw)), dtype=bool)
    last = len(input_hw) - 1 - uses[:, ::-1].argmax(axis=1)
    for scale, (height, width) in enumerate(input_hw.tolist()):
        here = uses[:, scale]
        if here.any():
            yield Batch(images[here], (height, width), scale, last[here] == scale)


def _in_blocks(hw: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.int32]]:
    """Yield sizes of some images at a time: what is computed of those of all takes more than these."""
    for first in range(0, len(hw), _AT_ONCE):
        yield hw[first : first + _AT_ONCE]
