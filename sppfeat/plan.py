"""The Plan: which rows will exist, where, and in which batches, before a pixel is decoded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config import InputSpec
from sppfeat.errors import ImageError
from sppfeat.sizing import network_input_hw
from sppfeat.sources import Listing, PathTable

__all__ = ["Batch", "Plan", "input_sizes", "make_plan", "schedule"]


@dataclass(frozen=True)
class Plan:
    """Every image and every row, in the order of the output file; arrays, not an object per image.

    Attributes:
        root: absolute path that all images lie under.
        paths: relative to ``root``.
        image_hw: ``(N, 2)`` int32, height and width as displayed; 0 where they are not known.
        input_hw: ``(N, 2)`` int32, of the network input; 0 where the image cannot be processed.
        rows: ``(N, 2)`` int64, half-open range of the image's rows.
        labels: ``(N,)`` int64, index into ``classes`` or -1.
        classes: class names.
        errors: why an image cannot be processed, by its index.
    """

    root: bytes
    paths: PathTable
    image_hw: npt.NDArray[np.int32]
    input_hw: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    classes: tuple[bytes, ...]
    errors: Mapping[int, str]

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.paths)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.rows[-1, 1]) if len(self.rows) else 0

    @property
    def n_shapes(self) -> int:
        """Number of distinct network-input sizes."""
        keys = _shape_keys(self.input_hw)
        return len(np.unique(keys[keys > 0]))

    @property
    def nbytes(self) -> int:
        """Bytes that the plan holds, the error texts apart."""
        arrays = (self.image_hw, self.input_hw, self.rows, self.labels)
        return self.paths.nbytes + sum(array.nbytes for array in arrays)


class Batch(NamedTuple):
    """Images of one network-input size.

    Attributes:
        images: ``(n,)`` int64, indices into the plan.
        input_hw: height and width that they share.
    """

    images: npt.NDArray[np.int64]
    input_hw: tuple[int, int]


def make_plan(
    listing: Listing, image_hw: npt.NDArray[np.int32], errors: Mapping[int, str], spec: InputSpec
) -> Plan:
    """Plan one row per image of a listing.

    Args:
        listing: the images.
        image_hw: ``(N, 2)`` int32, height and width as displayed; 0 where the header could not be read.
        errors: why a header could not be read, by index.
        spec: sizes of the network input.

    Returns:
        The plan; images for which no valid network-input size exists are among its errors.
    """
    input_hw, too_odd = input_sizes(image_hw, spec)
    first = np.arange(len(listing.paths), dtype=np.int64)
    return Plan(
        root=listing.root,
        paths=listing.paths,
        image_hw=image_hw,
        input_hw=input_hw,
        rows=np.stack((first, first + 1), axis=1),
        labels=listing.labels,
        classes=listing.classes,
        errors={**too_odd, **errors},
    )


def schedule(
    input_hw: npt.NDArray[np.int32],
    images: npt.NDArray[np.int64],
    *,
    batch_size: int | None,
    batch_pixels: int,
) -> Iterator[Batch]:
    """Batches that cover ``images``, each of equal network-input sizes: largest size first, then plan order.

    Args:
        input_hw: ``(N, 2)`` int32, network-input size of every image; 0 where it cannot be processed.
        images: ``(n,)`` int64, indices of the images to be done; those that cannot be are left out.
        batch_size: images per batch, or None: as many as fit ``batch_pixels``, at least one.
        batch_pixels: network-input pixels per batch where ``batch_size`` is None.

    Yields:
        The batches.
    """
    hw = input_hw[images]
    keys = _shape_keys(hw)
    order = np.lexsort((images, -keys, -hw.prod(axis=1, dtype=np.int64)))
    order = order[keys[order] > 0]
    bounds = np.flatnonzero(np.diff(keys[order], prepend=-1, append=-1))
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        height, width = hw[order[start]].tolist()
        step = batch_size or max(1, batch_pixels // (height * width))
        for first in range(start, stop, step):
            yield Batch(images[order[first : min(first + step, stop)]], (height, width))


def input_sizes(
    image_hw: npt.NDArray[np.int32], spec: InputSpec
) -> tuple[npt.NDArray[np.int32], dict[int, str]]:
    """Network-input size of every image.

    Args:
        image_hw: ``(N, 2)`` int32, height and width as displayed; 0 where they are not known.
        spec: sizes of the network input.

    Returns:
        ``(N, 2)`` int32, 0 where there is no valid size; and the reason, by index, where an image's own
        size is known and yet leads to none.
    """
    keys, inverse = np.unique(_shape_keys(image_hw), return_inverse=True)  # ten times as fast as axis=0
    input_hw = np.zeros((len(keys), 2), dtype=np.int32)
    reasons: dict[int, str] = {}
    for i, key in enumerate(keys.tolist()):
        if key == 0:
            continue
        height, width = divmod(key, 1 << 32)
        try:
            input_hw[i] = network_input_hw(
                (height, width), short_side=spec.size, max_pixels=spec.max_pixels, min_side=spec.min_side
            )
        except ImageError as error:
            reasons[i] = str(error)
    failed = np.flatnonzero(np.isin(inverse, list(reasons))) if reasons else ()
    return input_hw[inverse], {int(image): reasons[int(inverse[image])] for image in failed}


def _shape_keys(hw: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return one number per size, 0 where there is none."""
    wide = hw.astype(np.int64)
    return ((wide[:, 0] << 32) | wide[:, 1]) * hw.all(axis=1)
