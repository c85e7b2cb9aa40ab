"""The images of a training: their paths, sizes and classes, and the draw of those held out."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import counted
from sppfeat.decoding import Decoder
from sppfeat.errors import ConfigError
from sppfeat.extraction.sizes import read_sizes
from sppfeat.inputs import FileStorage, Listing, list_images

__all__ = ["Examples", "read_examples", "split_examples", "with_classes"]


@dataclass(frozen=True)
class Examples:
    """Images of a listing; arrays, not an object per image.

    Attributes:
        listing: all images of the inputs.
        image_hw: ``(N, 2)`` int32, height and width of all images of the listing as displayed.
        images: ``(n,)`` int64, indices of these images in the listing.
        labels: ``(N,)`` int64, of all images of the listing: index into ``classes``, or -1.
        classes: names of the classes.
    """

    listing: Listing
    image_hw: npt.NDArray[np.int32]
    images: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def path(self, image: int) -> bytes:
        """Return the absolute path of an image."""
        return os.path.join(self.listing.root, self.listing.paths[image])

    def name(self, image: int) -> str:
        """Return the absolute path of an image as a text."""
        return os.fsdecode(self.path(image))

    def of(self, images: npt.NDArray[np.int64]) -> "Examples":
        """Return the examples of some of the images."""
        return Examples(self.listing, self.image_hw, np.sort(images), self.labels, self.classes)


def read_examples(
    inputs: Sequence[str],
    decoder: Decoder,
    *,
    labels: str,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Examples, dict[str, str]]:
    """List the images of some inputs and read their headers.

    Args:
        inputs, labels: as for :func:`sppfeat.inputs.list_images`.
        decoder: reads the headers.
        on_probe: called with the number of headers read, and of all.

    Returns:
        The images that can be read; and the reasons why others cannot, by path.

    Raises:
        ConfigError: as for ``list_images``; or no image can be read.
    """
    listing = list_images(inputs, labels=labels)
    paths = [os.path.join(listing.root, path) for path in listing.paths]
    if not isinstance(listing.storage, FileStorage):
        raise ConfigError("the inputs are not all folders, image files and lists of them; allowed: those")
    image_hw, errors = read_sizes(
        listing.storage, np.arange(len(paths)), decoder=decoder, scratch=Path(), on_probe=on_probe
    )
    images = np.setdiff1d(np.arange(len(paths)), np.fromiter(errors, dtype=np.int64, count=len(errors)))
    unreadable = {os.fsdecode(paths[image]): reason for image, reason in errors.items()}
    if not len(images):
        path, reason = next(iter(unreadable.items()))
        raise ConfigError(f"none of the images ({len(paths)}) can be read, such as {path!r}: {reason}")
    classes = tuple(os.fsdecode(name) for name in listing.classes)
    return Examples(listing, image_hw, images, listing.labels, classes), unreadable


def split_examples(examples: Examples, fraction: float, *, seed: int) -> tuple[Examples, Examples]:
    """Split images into those to train on and those held out: the same share of each class, drawn at random.

    Args:
        examples: the images.
        fraction: the share that is held out.
        seed: of the draw.

    Raises:
        ConfigError: a class would have no image to train on, or none would be held out.
    """
    generator = np.random.default_rng([seed, 0])
    held_out = []
    labels = examples.labels[examples.images]
    for label in np.unique(labels):
        own = generator.permutation(examples.images[labels == label])
        n_held_out = round(fraction * len(own))
        if n_held_out == len(own):
            name = examples.classes[label] if label >= 0 else "images without a class"
            raise ConfigError(
                f"val-fraction {fraction:g} leaves none of the {len(own)} of {name!r} to train on"
            )
        held_out.append(own[:n_held_out])
    validation = np.concatenate(held_out)
    if not len(validation):
        raise ConfigError(
            f"val-fraction {fraction:g} of {counted(len(examples), 'image')} in {counted(len(held_out), 'class')} "
            "is none"
        )
    return examples.of(np.setdiff1d(examples.images, validation)), examples.of(validation)


def with_classes(examples: Examples, classes: Sequence[str], *, what: str) -> Examples:
    """Number the labels of images by other class names.

    Args:
        examples: labeled by their own classes.
        classes: the names that the new labels are indices into.
        what: the name of these images in the message.

    Raises:
        ConfigError: an image has no class, or one that is not among ``classes``.
    """
    index: Mapping[str, int] = {name: i for i, name in enumerate(classes)}
    labels = examples.labels[examples.images]
    unknown = sorted({examples.classes[label] for label in np.unique(labels[labels >= 0])} - set(index))
    if unknown or (labels < 0).any():
        found = f"classes {', '.join(map(repr, unknown[:5]))}" if unknown else "images without a class"
        raise ConfigError(
            f"the {what} has {found}; allowed: {counted(len(classes), 'class that is', 'classes that are')} trained"
        )
    renamed = np.array([*(index.get(name, -1) for name in examples.classes), -1], dtype=np.int64)
    return Examples(
        examples.listing, examples.image_hw, examples.images, renamed[examples.labels], tuple(classes)
    )
