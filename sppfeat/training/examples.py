"""The images of a training: listed, read, matched by class, split, and checked against the network."""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.specs import InputSpec
from sppfeat.config.wording import counted
from sppfeat.decoding import Decoder, DecoderPool, DecodeSettings, InlineDecoder
from sppfeat.errors import ConfigError
from sppfeat.extraction.plan import input_sizes, read_sizes
from sppfeat.inputs import FileStorage, Listing, list_images
from sppfeat.training.settings import DataSettings, TrainRequest

__all__ = [
    "Examples",
    "ImageSets",
    "full_input",
    "read_examples",
    "read_image_sets",
    "split_examples",
    "with_classes",
]


@dataclass(frozen=True)
class Examples:
    """Some (``n``) of the ``N`` images of a listing.

    Attributes:
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
        """Absolute path of an image of the listing."""
        return os.path.join(self.listing.root, self.listing.paths[image])

    def name(self, image: int) -> str:
        """Absolute path of an image of the listing, as text."""
        return os.fsdecode(self.path(image))

    def only(self, images: npt.NDArray[np.int64]) -> "Examples":
        """The same examples, restricted to ``(k,)`` images of the listing."""
        return replace(self, images=np.sort(images))


class ImageSets(NamedTuple):
    """The images of a training.

    Attributes:
        train: images to train on.
        validation: images to validate on; None without validation.
        left_out: reasons why other images are left out, by path.
        notes: notes for the user.
    """

    train: Examples
    validation: Examples | None
    left_out: dict[str, str]
    notes: list[str]


def read_image_sets(
    request: TrainRequest, *, min_side: int, n_workers: int, on_probe: Callable[[int, int], None]
) -> ImageSets:
    """Lists the images of a training and reads their headers.

    Raises:
        ConfigError: no image can be used, classes are missing or do not match, or a size is below ``min_side`` pixels.
    """
    data, has_teachers = request.settings.data, bool(request.settings.teachers)
    for name, sizes in (("sizes", data.sizes), ("val-sizes", data.val_sizes)):
        if min(sizes) < min_side:
            shown = ", ".join(map(str, sizes))
            raise ConfigError(f"{name} are {shown}; allowed: {min_side} pixels or more with these networks")
    settings = DecodeSettings("apply", "bilinear")
    decoder: Decoder = DecoderPool(settings, n_workers=n_workers) if n_workers else InlineDecoder(settings)
    validation = None
    with contextlib.closing(decoder):
        labels = "none" if has_teachers else data.labels
        train, left_out = read_examples(
            request.inputs, decoder, labels=labels, encoding=request.encoding, on_probe=on_probe
        )
        if not has_teachers:
            _check_classes(train)
        if request.validation:
            labels = "folder" if labels == "auto" else labels  # even for a single class
            validation, others = read_examples(
                request.validation, decoder, labels=labels, encoding=request.encoding, on_probe=on_probe
            )
            left_out |= others
            if not has_teachers:
                validation = with_classes(validation, train.classes)
    notes = _notes(train, validation)
    if data.views == "full":
        train = _runnable(train, data, data.sizes, min_side, left_out)
    if data.val_fraction:
        train, validation = split_examples(train, data.val_fraction, seed=request.settings.recipe.seed)
    if validation is not None:
        validation = _runnable(validation, data, data.val_sizes, min_side, left_out)
    return ImageSets(train, validation, left_out, notes)


def read_examples(
    inputs: Sequence[str],
    decoder: Decoder,
    *,
    labels: str,
    encoding: str | None = None,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Examples, dict[str, str]]:
    """Lists images and reads their headers; returns the readable ones, and reasons why others are not, by path."""
    listing = list_images(inputs, labels=labels, encoding=encoding)
    paths = [os.path.join(listing.root, path) for path in listing.paths]
    if not isinstance(listing.storage, FileStorage):
        raise ConfigError(
            "the inputs include archives or remote files; allowed: folders, images and lists of them"
        )
    image_hw, errors = read_sizes(
        listing.storage, np.arange(len(paths)), decoder=decoder, scratch=Path(), on_probe=on_probe
    )
    images = np.setdiff1d(np.arange(len(paths)), np.fromiter(errors, dtype=np.int64, count=len(errors)))
    unreadable = {os.fsdecode(paths[image]): reason for image, reason in errors.items()}
    if not len(images):
        path, reason = next(iter(unreadable.items()))
        raise ConfigError(
            f"none of {counted(len(paths), 'image')} can be read; the first, {path!r}: {reason}"
        )
    classes = tuple(os.fsdecode(name) for name in listing.classes)
    return Examples(listing, image_hw, images, listing.labels, classes), unreadable


def split_examples(examples: Examples, fraction: float, *, seed: int) -> tuple[Examples, Examples]:
    """Splits images at random into training and held-out images, with the same share of each class."""
    generator = np.random.default_rng([seed, 0])
    held_out = []
    labels = examples.labels[examples.images]
    for label in np.unique(labels):
        own = generator.permutation(examples.images[labels == label])
        n_held_out = round(fraction * len(own))
        if n_held_out == len(own):
            name = examples.classes[label] if label >= 0 else "images without a class"
            raise ConfigError(
                f"val-fraction {fraction:g} leaves no image of {name!r} to train on (it has {len(own)})"
            )
        held_out.append(own[:n_held_out])
    validation = np.concatenate(held_out)
    if not len(validation):
        raise ConfigError(
            f"val-fraction {fraction:g} holds out none of {counted(len(examples), 'image')} in "
            f"{counted(len(held_out), 'class')}"
        )
    return examples.only(np.setdiff1d(examples.images, validation)), examples.only(validation)


def with_classes(examples: Examples, classes: Sequence[str]) -> Examples:
    """Renumbers the labels of validation images as indices into the classes to train; ConfigError for other classes."""
    index = {name: i for i, name in enumerate(classes)}
    labels = examples.labels[examples.images]
    unknown = sorted({examples.classes[label] for label in np.unique(labels[labels >= 0])} - set(index))
    if unknown or (labels < 0).any():
        found = f"other classes, such as {', '.join(map(repr, unknown[:5]))}" if unknown else "no class"
        raise ConfigError(
            f"the validation images have {found}; allowed: the {counted(len(classes), 'class', 'classes')} to train"
        )
    renamed = np.array([*(index.get(name, -1) for name in examples.classes), -1], dtype=np.int64)
    return replace(examples, labels=renamed[examples.labels], classes=tuple(classes))


def full_input(data: DataSettings, *, size: int, min_side: int) -> InputSpec:
    """The input sizes of whole images, with a short side of ``size`` pixels."""
    return InputSpec(size=size, round_to=data.round_to if data.views == "full" else 1, min_side=min_side)


def _notes(train: Examples, validation: Examples | None) -> list[str]:
    """Lines for the user about the inputs."""
    notes = [*train.listing.notes]
    if validation is not None:
        notes += [f"validation: {note}" for note in validation.listing.notes]
        paths = {train.path(image) for image in train.images.tolist()}
        n_shared = sum(validation.path(image) in paths for image in validation.images.tolist())
        if n_shared:
            shared = f"{n_shared} of {counted(len(validation), 'validation image')}"
            notes.append(f"{shared} {'is' if n_shared == 1 else 'are'} also among the training images")
    return notes


def _check_classes(examples: Examples) -> None:
    labels = examples.labels[examples.images]
    n_without = int((labels < 0).sum())
    if len(np.unique(labels)) < 2 or n_without:
        found = f"{n_without} of {len(labels)} images have no label" if n_without else "found a single class"
        raise ConfigError(
            f"training needs class labels: {found}; give two or more folders of images, one per class, or use "
            "--teacher, which needs no labels"
        )


def _runnable(
    examples: Examples, data: DataSettings, sizes: Sequence[int], min_side: int, left_out: dict[str, str]
) -> Examples:
    """The images that can run whole at all sizes; adds the reasons for others to ``left_out``."""
    reasons: dict[int, str] = {}
    for size in sizes:
        spec = full_input(data, size=size, min_side=min_side)
        reasons |= input_sizes(examples.image_hw[examples.images], spec)[1]
    reasons_by_name = {examples.name(int(examples.images[i])): reasons[i] for i in sorted(reasons)}
    if len(reasons_by_name) == len(examples):
        path, reason = next(iter(reasons_by_name.items()))
        raise ConfigError(
            f"none of {counted(len(examples), 'image')} can be run whole; the first, {path!r}: {reason}"
        )
    left_out |= reasons_by_name
    return examples.only(np.delete(examples.images, sorted(reasons)))
