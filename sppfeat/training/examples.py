"""The images of a training: paths, sizes and classes, and the split into training and held-out images."""

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
    """Some (``n``) of the ``N`` images of a listing.

    Attributes:
        listing: all images of the inputs.
        image_hw: ``(N, 2)`` int32, height and width in pixels of all images of the listing, as displayed.
        images: ``(n,)`` int64, indices of these images in the listing.
        labels: ``(N,)`` int64, class of each image of the listing, an index into ``classes``, or -1.
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
        """Absolute path of an image, given by its index in the listing."""
        return os.path.join(self.listing.root, self.listing.paths[image])

    def name(self, image: int) -> str:
        """Absolute path of an image as text, given by its index in the listing."""
        return os.fsdecode(self.path(image))

    def of(self, images: npt.NDArray[np.int64]) -> "Examples":
        """The same examples narrowed to ``(k,)`` images, given by their indices in the listing."""
        return Examples(self.listing, self.image_hw, np.sort(images), self.labels, self.classes)


def read_examples(
    inputs: Sequence[str],
    decoder: Decoder,
    *,
    labels: str,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Examples, dict[str, str]]:
    """Lists the images of some inputs and reads their headers.

    Args:
        inputs, labels: see :func:`sppfeat.inputs.list_images`.
        decoder: reads the headers.
        on_probe: called with the number of headers read and the total number of headers.

    Returns:
        The readable images, and the reasons why others cannot be read, by path.

    Raises:
        ConfigError: ``list_images`` refuses the inputs, or no image can be read.
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
    """Splits images at random into training and held-out images, with the same share of each class.

    Args:
        examples: the images.
        fraction: share of the images to hold out, 0 to 1.
        seed: seed of the draw.

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
    """Renumbers the labels of images as indices into another list of classes.

    Args:
        examples: the images, labeled with their own classes.
        classes: the new list of class names.
        what: name of these images in the error message.

    Raises:
        ConfigError: an image has no class, or its class is not in ``classes``.
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
