"""Classes of the listed images, taken from the inputs themselves or from the images' folders."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.errors import ConfigError
from sppfeat.files.classes import NO_CLASS, ClassNumbers
from sppfeat.files.paths import PathTable, natural_key
from sppfeat.inputs.segments import Once, Segment

__all__ = ["ClassLabels", "label_images"]


class ClassLabels(NamedTuple):
    """Classes of images.

    Attributes:
        labels: ``(n,)`` int64, index into ``classes``; -1 for no class.
        classes: names of the classes.
        n_unlabelled: number of images without a class, if others have one or all should; 0 otherwise.
    """

    labels: npt.NDArray[np.int64]
    classes: tuple[bytes, ...]
    n_unlabelled: int


def label_images(
    segments: Sequence[Segment],
    paths: PathTable,
    *,
    once: Once,
    mode: str,
    root: bytes,
) -> ClassLabels:
    """Find the class of each listed image.

    Args:
        segments: the inputs, whose images are numbered consecutively.
        paths: paths of all their images, relative to the root.
        once: the images to list, without repetitions.
        mode: see :func:`sppfeat.inputs.list_images`.
        root: absolute path or URL above all images.

    Raises:
        ConfigError: two inputs give the same image different classes.
    """
    kept, told_by = once.kept, once.told_by
    if mode == "none":
        return _no_classes(len(kept), 0)
    if mode == "auto" and any(segment.own_labels is not None for segment in segments):
        return _own_classes(segments, paths, once)
    # Classes are the folders below each input (train/cat/1.jpg given train), or below the common root if the inputs
    # are the class folders themselves (train/cat given as train/*).
    names = ClassNumbers[bytes]()
    below_input = _folders_below_inputs(segments, names)[told_by]
    below_root = _numbers(names, _folders_below_root(segments, paths, root), len(paths))[kept]
    scanned = np.repeat(
        [segment.top is not None for segment in segments], [len(segment.names) for segment in segments]
    )[told_by]
    # Only scanned images decide: an extra file next to train must not turn train into a class.
    counted = scanned if scanned.any() else np.ones(len(kept), dtype=bool)
    best = min(below_input, below_root, key=lambda codes: int((codes[counted] == NO_CLASS).sum()))
    n_unlabelled = int((best == NO_CLASS).sum())
    if mode == "auto" and (n_unlabelled or len(np.unique(best)) < 2):
        return _no_classes(len(kept), n_unlabelled if n_unlabelled < len(kept) else 0)
    return ClassLabels(*names.in_order(best, key=natural_key), n_unlabelled)


def _numbers(classes: ClassNumbers[bytes], names: Iterable[bytes], count: int) -> npt.NDArray[np.int32]:
    """The number of each name, ``(count,)``; int32 because several such arrays are in memory at a time."""
    return np.fromiter(classes.numbers(names), dtype=np.int32, count=count)


def _no_classes(n: int, n_unlabelled: int) -> ClassLabels:
    return ClassLabels(np.full(n, NO_CLASS, dtype=np.int64), (), n_unlabelled)


def _folders_below_inputs(segments: Sequence[Segment], names: ClassNumbers[bytes]) -> npt.NDArray[np.int32]:
    """The first folder of each image below its input, as a number.

    If every archive contains a single folder at its top, the folders below count instead: cat and dog in a photos.zip
    with photos/cat and photos/dog.
    """
    archives = [segment for segment in segments if _is_archive(segment) and len(segment.names)]
    depth = 1 if archives and all(map(_is_one_folder, archives)) else 0
    return np.concatenate(
        [_folders_below(segment, names, depth if _is_archive(segment) else 0) for segment in segments]
    )


def _is_archive(segment: Segment) -> bool:
    return segment.top is not None and segment.above is not None


def _is_one_folder(segment: Segment) -> bool:
    folder = _first_folder(segment.names[0])
    return bool(folder) and all(name.startswith(folder + b"/") for name in segment.names)


def _folders_below(segment: Segment, names: ClassNumbers[bytes], depth: int) -> npt.NDArray[np.int32]:
    """The first folder of each image, counted from ``depth`` folders below its input, as a number."""
    if segment.top is None:
        return np.full(len(segment.names), NO_CLASS, dtype=np.int32)
    below = (name.split(b"/", depth)[-1] for name in segment.names) if depth else segment.names
    return _numbers(names, map(_first_folder, below), len(segment.names))


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


def _own_classes(segments: Sequence[Segment], paths: PathTable, once: Once) -> ClassLabels:
    """The classes that the inputs themselves give, in the inputs' order if they agree on one, else in natural order."""
    told = [segment.own_labels for segment in segments]
    orders = {own.classes for own in told if own is not None and own.classes}
    if len(orders) == 1:
        classes = next(iter(orders))
    else:
        classes = tuple(sorted({name for order in orders for name in order}, key=natural_key))
    number = {name: i for i, name in enumerate(classes)}
    parts = []
    for segment, own in zip(segments, told, strict=True):
        if own is None:
            parts.append(np.full(len(segment.names), NO_CLASS, dtype=np.int64))
        else:
            label_of = np.array([*(number[name] for name in own.classes), NO_CLASS], dtype=np.int64)
            parts.append(label_of[own.labels])
    labels = np.concatenate(parts)
    if once.n_repeated:
        labels = _labels_of_first_mentions(labels, once, paths, classes)
    labels = labels[once.kept]
    return ClassLabels(labels, classes, int((labels == NO_CLASS).sum()) if classes else 0)


def _labels_of_first_mentions(
    labels: npt.NDArray[np.int64], once: Once, paths: PathTable, classes: Sequence[bytes]
) -> npt.NDArray[np.int64]:
    """Labels ``(m,)`` int64 in which the first mention of each image has the class that any of its mentions gives."""
    labelled = np.flatnonzero(labels != NO_CLASS)
    of_first = np.full(len(labels), NO_CLASS, dtype=np.int64)
    of_first[once.same_as[labelled[::-1]]] = labels[labelled[::-1]]  # the first one counts
    clash = labelled[of_first[once.same_as[labelled]] != labels[labelled]]
    if len(clash):
        image = int(clash[0])
        one, other = (classes[of[i]] for of, i in ((of_first, once.same_as[image]), (labels, image)))
        raise ConfigError(
            f"the inputs say that {os.fsdecode(paths[image])!r} is both {os.fsdecode(one)!r} and "
            f"{os.fsdecode(other)!r}; allowed: one class for an image"
        )
    return of_first
