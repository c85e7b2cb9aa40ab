"""The images to train on and to validate on: listed, read, matched by class, and checked against the network."""

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sppfeat.config.wording import counted
from sppfeat.decoding import Decoder, DecoderPool, DecodeSettings, InlineDecoder
from sppfeat.errors import ConfigError
from sppfeat.extraction.sizes import input_sizes
from sppfeat.training.epochs import full_input
from sppfeat.training.examples import Examples, read_examples, split_examples, with_classes
from sppfeat.training.settings import DataSettings, TrainRequest

__all__ = ["ImageSets", "read_image_sets"]


class ImageSets(NamedTuple):
    """The images of a training.

    Attributes:
        train: images to train on.
        validation: images to validate on, or None.
        left_out: reasons why other images are in neither set, by path.
        notes: lines for the user about the inputs.
    """

    train: Examples
    validation: Examples | None
    left_out: dict[str, str]
    notes: list[str]


def read_image_sets(
    request: TrainRequest, *, min_side: int, n_workers: int, on_probe: Callable[[int, int], None]
) -> ImageSets:
    """Lists the images of a training and reads their headers.

    Args:
        request: inputs and settings.
        min_side: smallest side of an input that the networks accept, in pixels.
        n_workers: number of processes that read headers; 0 to read them in this process.
        on_probe: called with the number of headers read and the total number of headers.

    Raises:
        ConfigError: no image can be used, classes are missing or do not match, or a size is too small.
    """
    data, seed = request.settings.data, request.settings.recipe.seed
    _check_sizes(data, min_side)
    settings = DecodeSettings("apply", "bilinear")
    decoder: Decoder = DecoderPool(settings, n_workers=n_workers) if n_workers else InlineDecoder(settings)
    with contextlib.closing(decoder):
        train, validation, left_out = _read(request, decoder, on_probe)
    notes = _notes(train, validation)
    if data.views == "full":
        train, others = _fitting(train, data, data.sizes, min_side=min_side)
        left_out |= others
    if data.val_fraction:
        train, validation = split_examples(train, data.val_fraction, seed=seed)
    if validation is not None:
        validation, others = _fitting(validation, data, data.val_sizes, min_side=min_side)
        left_out |= others
    return ImageSets(train, validation, left_out, notes)


def _notes(train: Examples, validation: Examples | None) -> list[str]:
    """Lines for the user about the inputs."""
    repeated = [e.listing.n_repeated for e in (train, validation) if e is not None]
    notes = [
        counted(n, "input is", "inputs are") + " named more than once: each is taken once"
        for n in repeated
        if n
    ]
    if validation is not None:
        paths = {train.path(image) for image in train.images.tolist()}
        n_shared = sum(validation.path(image) in paths for image in validation.images.tolist())
        if n_shared:
            notes.append(
                f"{n_shared} of {counted(len(validation), 'validation image')} "
                f"{'is' if n_shared == 1 else 'are'} trained on too"
            )
    return notes


def _check_sizes(data: DataSettings, min_side: int) -> None:
    for name, sizes in (("sizes", data.sizes), ("val-sizes", data.val_sizes)):
        if min(sizes) < min_side:
            raise ConfigError(
                f"{name} are {', '.join(map(str, sizes))}; allowed: {min_side} pixels or more here"
            )


def _read(
    request: TrainRequest, decoder: Decoder, on_probe: Callable[[int, int], None]
) -> tuple[Examples, Examples | None, dict[str, str]]:
    """Reads images to train on, images to validate on if given, and the reasons why others cannot be read."""
    has_teachers = bool(request.settings.teachers)
    labels = "none" if has_teachers else request.settings.data.labels
    train, unreadable = read_examples(request.inputs, decoder, labels=labels, on_probe=on_probe)
    if not has_teachers:
        _check_classes(train)
    if not request.validation:
        return train, None, unreadable
    labels = "none" if has_teachers else "folder"  # even if there is only one class
    validation, others = read_examples(request.validation, decoder, labels=labels, on_probe=on_probe)
    if not has_teachers:
        validation = with_classes(validation, train.classes, what="validation")
    return train, validation, unreadable | others


def _check_classes(examples: Examples) -> None:
    labels = examples.labels[examples.images]
    n_without = int((labels < 0).sum())
    if len(np.unique(labels)) < 2 or n_without:
        found = f"{n_without} of {len(labels)} images have none" if n_without else "there is one class only"
        raise ConfigError(
            f"class labels are needed, and {found}; allowed: two or more folders of images, one per class, "
            "or --teacher, which needs no labels"
        )


def _fitting(
    examples: Examples, data: DataSettings, sizes: Sequence[int], *, min_side: int
) -> tuple[Examples, dict[str, str]]:
    """The images that can run whole at all sizes; and the reasons why others cannot, by path."""
    reasons: dict[int, str] = {}
    for size in sizes:
        spec = full_input(data, size=size, min_side=min_side)
        reasons |= input_sizes(examples.image_hw[examples.images], spec)[1]
    if not reasons:
        return examples, {}
    too_odd = examples.images[sorted(reasons)]
    left_out = {
        examples.name(image): reasons[i] for i, image in zip(sorted(reasons), too_odd.tolist(), strict=True)
    }
    if len(left_out) == len(examples):
        path, reason = next(iter(left_out.items()))
        raise ConfigError(
            f"none of the images ({len(examples)}) can be run whole, such as {path!r}: {reason}"
        )
    return examples.of(np.setdiff1d(examples.images, too_odd)), left_out
