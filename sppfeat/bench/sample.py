"""Images to measure with: some of the user's, or synthetic ones."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sppfeat.bench.samples import write_photos
from sppfeat.bench.settings import RunsWork
from sppfeat.config.specs import InputSpec
from sppfeat.decoding.images import read_image
from sppfeat.errors import ConfigError, ImageError
from sppfeat.inputs import FileStorage, list_images

__all__ = ["Sample", "take_sample"]


class Sample(NamedTuple):
    """Some images.

    Attributes:
        paths: absolute, of those that can be read.
        n_unreadable: that were chosen and left out.
    """

    paths: list[str]
    n_unreadable: int


def take_sample(
    work: RunsWork, folder: Path, *, on_image: Callable[[int, int], None] = lambda done, total: None
) -> Sample:
    """Images for a bench, evenly from all inputs, or written for it.

    Each is decoded once: those that cannot be are left out, and the others are in the system's cache from the first
    measurement on.

    Args:
        work: which inputs, or none, and how many images.
        folder: for synthetic photographs.
        on_image: called with the number of images that are there, and of all.

    Raises:
        ConfigError: inputs that do not exist or hold no image.
        ImageError: no image can be read.
        StoreError: a synthetic photograph cannot be written.
    """
    if not work.inputs:
        n = work.n_images
        return Sample(write_photos(folder, n, seed=work.seed, on_photo=lambda done: on_image(done, n)), 0)
    listing = list_images(work.inputs, labels="none")
    if not isinstance(listing.storage, FileStorage):
        raise ConfigError("the inputs are not all folders, image files and lists of them; allowed: those")
    n = min(work.n_images, len(listing.paths))
    good: list[str] = []
    reasons: list[str] = []
    for i, image in enumerate(np.linspace(0, len(listing.paths) - 1, n).round().astype(np.int64).tolist()):
        path = os.fsdecode(os.path.join(listing.root, listing.paths[image]))
        try:
            read_image(path, exif=InputSpec.exif)
            good.append(path)
        except ImageError as error:
            reasons.append(f"{path!r}: {error}")
        on_image(i + 1, n)
    if not good:
        raise ImageError(f"none of the images ({n}) can be read; the first: {reasons[0]}")
    return Sample(good, len(reasons))
