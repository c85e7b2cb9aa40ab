"""The batches of an epoch, which depend on seed and epoch number alone, not on earlier epochs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.specs import InputSpec
from sppfeat.extraction.plan import schedule
from sppfeat.extraction.sizes import input_sizes
from sppfeat.training.examples import Examples
from sppfeat.training.settings import DataSettings

__all__ = ["TrainBatch", "epoch_batches", "full_input", "n_batches", "size_of_epoch", "whole_image_batches"]


class TrainBatch(NamedTuple):
    """Images that are run together.

    Attributes:
        images: ``(n,)`` int64, indices of the images in the listing.
        input_hw: height and width of the network input, in pixels.
    """

    images: npt.NDArray[np.int64]
    input_hw: tuple[int, int]


def size_of_epoch(sizes: Sequence[int], epoch: int) -> int:
    """The short side of the network input in an epoch, in pixels.

    As in He et al., TPAMI 2015, section 2.3, each epoch uses a single size, and the sizes take turns.
    """
    return sizes[epoch % len(sizes)]


def epoch_batches(
    examples: Examples, data: DataSettings, *, epoch: int, batch_size: int, seed: int, min_side: int
) -> list[TrainBatch]:
    """Makes the batches of an epoch, in random order.

    With ``crop``, all batches are full, and each epoch leaves out the remaining images. With ``full``, the images of a
    batch have equal shapes, and no image is left out.

    Args:
        examples: the images.
        data: sizes and views.
        epoch: number of the epoch, from 0.
        batch_size: maximum number of images per batch.
        seed: seed of the order.
        min_side: smallest side that the network accepts, in pixels.
    """
    generator = np.random.default_rng([seed, 1, epoch])
    order = generator.permutation(examples.images)
    size = size_of_epoch(data.sizes, epoch)
    if data.views == "crop":
        n_full = max(1, len(order) // batch_size)
        parts = [order[i * batch_size : (i + 1) * batch_size] for i in range(n_full)]
        return [TrainBatch(part, (size, size)) for part in parts]
    batches = _batches_by_shape(examples, order, data, size=size, batch_size=batch_size, min_side=min_side)
    return [batches[i] for i in generator.permutation(len(batches))]


def whole_image_batches(
    examples: Examples, data: DataSettings, *, size: int, batch_size: int, min_side: int
) -> list[TrainBatch]:
    """Makes batches of all whole images for validation; a batch has one shape, and the largest shape comes first."""
    return _batches_by_shape(
        examples, examples.images, data, size=size, batch_size=batch_size, min_side=min_side
    )


def n_batches(examples: Examples, data: DataSettings, *, size: int, batch_size: int, min_side: int) -> int:
    """Counts the batches of an epoch whose short side is ``size`` pixels."""
    if data.views == "crop":
        return max(1, len(examples) // batch_size)
    return len(whole_image_batches(examples, data, size=size, batch_size=batch_size, min_side=min_side))


def full_input(data: DataSettings, *, size: int, min_side: int) -> InputSpec:
    """The input sizes of whole images, with a short side of ``size`` pixels."""
    return InputSpec(size=size, round_to=data.round_to if data.views == "full" else 1, min_side=min_side)


def _batches_by_shape(
    examples: Examples,
    order: npt.NDArray[np.int64],
    data: DataSettings,
    *,
    size: int,
    batch_size: int,
    min_side: int,
) -> list[TrainBatch]:
    """Makes batches of equal shapes, each in the given order; leaves out images too elongated for the network."""
    input_hw, _ = input_sizes(examples.image_hw[order], full_input(data, size=size, min_side=min_side))
    ranks = np.arange(len(order))
    batches = schedule(input_hw, ranks, batch_size=batch_size, batch_pixels=0)
    return [TrainBatch(order[batch.images], batch.input_hw) for batch in batches]
