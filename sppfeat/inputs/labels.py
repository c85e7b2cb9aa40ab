"""Classes of the listed images, taken from the inputs themselves or from the images' folders."""

import os
from collections.abc import Iterator, Sequence
from itertools import repeat

import numpy as np

from sppfeat.errors import ConfigError
from sppfeat.files.columns import NO_CLASS, ClassNumbers
from sppfeat.files.paths import PathTable, natural_key
from sppfeat.inputs.segments import Once, OwnLabels, Segment

__all__ = ["label_images"]


def label_images(
    segments: Sequence[Segment],
    paths: PathTable,
    *,
    once: Once,
    mode: str,
    root: bytes,
) -> tuple[OwnLabels, int]:
    """Find the class of each image of ``once``, and the number of images without one.

    The number is 0 if no image has a class and none should. See :func:`sppfeat.inputs.list_images` for the modes.

    Raises:
        ConfigError: two inputs give the same image different classes.
    """
    kept, told_by = once.kept, once.told_by
    if mode == "none":
        return OwnLabels.none(len(kept)), 0
    if mode == "auto" and any(segment.own_labels is not None for segment in segments):
        return _own_classes(segments, paths, once)
    # Classes are the folders below each input (train/cat/1.jpg given train), or below the common root if the inputs
    # are the class folders themselves (train/cat given as train/*).
    names = ClassNumbers[bytes]()
    below_input, below_root = (
        # int32 because several such arrays are in memory at a time
        np.fromiter(names.numbers(folders), dtype=np.int32, count=len(paths))
        for folders in (_folders_below_inputs(segments), _folders_below_root(segments, paths, root))
    )
    below_input, below_root = below_input[told_by], below_root[kept]
    scanned = np.repeat(
        [segment.top is not None for segment in segments], [len(segment.names) for segment in segments]
    )[told_by]
    # Only scanned images decide: an extra file next to train must not turn train into a class.
    counted = scanned if scanned.any() else np.ones(len(kept), dtype=bool)
    best = min(below_input, below_root, key=lambda codes: int((codes[counted] == NO_CLASS).sum()))
    n_unlabelled = int((best == NO_CLASS).sum())
    if mode == "auto" and (n_unlabelled or len(np.unique(best)) < 2):
        return OwnLabels.none(len(kept)), n_unlabelled if n_unlabelled < len(kept) else 0
    return OwnLabels(*names.in_order(best, key=natural_key)), n_unlabelled


def _folders_below_inputs(segments: Sequence[Segment]) -> Iterator[bytes]:
    """Yield the first folder of each image below its input.

    If every archive contains a single folder at its top, the folders below count instead: cat and dog in a photos.zip
    with photos/cat and photos/dog.
    """
    archives = [segment for segment in segments if _is_archive(segment) and len(segment.names)]
    depth = 1 if archives and all(map(_is_one_folder, archives)) else 0
    for segment in segments:
        if segment.top is None:
            yield from repeat(b"", len(segment.names))
        elif depth and _is_archive(segment):
            yield from (_first_folder(name.split(b"/", 1)[-1]) for name in segment.names)
        else:
            yield from map(_first_folder, segment.names)


def _is_archive(segment: Segment) -> bool:
    return segment.top is not None and segment.above is not None


def _is_one_folder(segment: Segment) -> bool:
    folder = _first_folder(segment.names[0])
    return bool(folder) and all(name.startswith(folder + b"/") for name in segment.names)


def _folders_below_root(segments: Sequence[Segment], paths: PathTable, root: bytes) -> Iterator[bytes]:
    """Yield the first folder of each image below the root, or, for an archive directly below the root, in it."""
    start = 0
    for segment in segments:
        stop = start + len(segment.names)
        yield from map(_first_folder, segment.names if segment.above == root else paths.part(start, stop))
        start = stop


def _first_folder(name: bytes) -> bytes:
    folder, slash, _ = name.partition(b"/")
    return folder if slash else b""


def _own_classes(segments: Sequence[Segment], paths: PathTable, once: Once) -> tuple[OwnLabels, int]:
    """The classes that the inputs themselves give, in the inputs' order if they agree on one, else in natural order."""
    told = [segment.own_labels or OwnLabels.none(len(segment.names)) for segment in segments]
    orders = {own.classes for own in told if own.classes}
    classes = (
        orders.pop() if len(orders) == 1 else tuple(sorted(set[bytes]().union(*orders), key=natural_key))
    )
    number = {name: i for i, name in enumerate(classes)}
    labels = np.concatenate(
        [np.array([*map(number.__getitem__, own.classes), NO_CLASS])[own.labels] for own in told]
    )
    if once.n_repeated:

        def clash(image: int, one: bytes, other: bytes) -> ConfigError:
            return ConfigError(
                f"the inputs say that {os.fsdecode(paths[image])!r} is both {os.fsdecode(one)!r} and "
                f"{os.fsdecode(other)!r}; allowed: one class for an image"
            )

        names = (*classes, b"")  # the last for no class
        for image, name in once.agreed(lambda image: names[labels[image]], clash).items():
            labels[image] = number[name]
    labels = labels[once.kept]
    return OwnLabels(labels, classes), int((labels == NO_CLASS).sum()) if classes else 0
