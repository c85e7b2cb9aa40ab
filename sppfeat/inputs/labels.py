"""Classes of images, given by the inputs or taken from the folders."""

import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import counted, first_few, one_line
from sppfeat.files.columns import NO_CLASS, ClassNumbers
from sppfeat.files.paths import PathTable, natural_key
from sppfeat.inputs.mentions import Once, are_scanned
from sppfeat.inputs.segments import OwnLabels, Segment

__all__ = ["LABEL_MODES", "Labels", "label_images"]

LABEL_MODES = ("auto", "folder", "parent", "none")

_SPLIT = re.compile(
    rb"(?:seg_)?(?:train|training|val|valid|validation|test|testing|dev)(?:[_ -]?(?:set|data))?(?:[_-]?[0-9]{4})?",
    re.IGNORECASE,
)
# Folder names for images without a class, such as a test set next to splits with class folders.
_PLAIN_FOLDERS = {b"images", b"image", b"imgs", b"img", b"photos", b"data", b"all", b"unknown", b"unlabeled"}
_SHOWN = 10


class Labels(NamedTuple):
    """The classes of images, the number of images without one, and notes for the user.

    The number is 0 if no image needs a class.
    """

    own: OwnLabels
    n_unlabeled: int
    notes: list[str]


def label_images(
    segments: Sequence[Segment], paths: PathTable, once: Once, *, mode: str, root: bytes
) -> Labels:
    """Find the class of each image of ``once``; ``paths`` has all mentions, relative to the root."""
    kept, told_by = once.kept, once.told_by
    if mode == "none":
        return Labels(OwnLabels.none(len(kept)), 0, [])
    if mode == "auto" and any(segment.own_labels is not None for segment in segments):
        own, n_unlabeled = _classes_of_inputs(segments, paths, once)
        return Labels(own, n_unlabeled, _missing_notes(n_unlabeled) if own.classes else [])
    names = ClassNumbers[bytes]()
    if mode == "parent":
        numbers = np.fromiter(
            names.numbers(_parents(segments, paths, root)), dtype=np.int64, count=len(paths)
        )
        labels = OwnLabels(*names.in_order(numbers[kept]))
        n_unlabeled = int((labels.labels == NO_CLASS).sum())
        return Labels(labels, n_unlabeled, _missing_notes(n_unlabeled))
    # Only scanned images decide: an extra file next to train must not turn train into a class.
    scanned = are_scanned(segments)[told_by]
    decides = scanned if scanned.any() else np.ones(len(kept), dtype=bool)
    # Classes are the folders below each input (train/cat/1.jpg given train), or below the common root if the inputs
    # are the class folders themselves (train/cat given as train/*).
    found = [
        _look_at(view, names, mentions, decides, has_splits=mode == "auto")
        for view, mentions in (
            (_below_inputs(segments), told_by),
            (_below_root(segments, paths, root), kept),
        )
    ]
    best = min(found, key=lambda each: int(each.is_missing[decides].sum()))
    n_missing, n_without = int(best.is_missing.sum()), int((best.numbers == NO_CLASS).sum())
    is_labeled = mode == "folder" or (not n_missing and len(np.unique(best.numbers[~best.is_excused])) > 1)
    own = OwnLabels(*names.in_order(best.numbers)) if is_labeled else OwnLabels.none(len(kept))
    notes = [] if mode == "folder" else _split_notes(best, own)
    if own.classes:
        return Labels(own, n_without, notes + _missing_notes(n_without))
    if mode == "folder":
        return Labels(own, n_without, ["no labels: no image is in a folder below the inputs"])
    if 0 < n_missing < len(kept):
        outside = counted(n_missing, "image is", "images are")
        hint = "parent takes the folder of each image" if best.splits else "folder labels the others"
        notes.append(f"no labels: {outside} outside class folders; --labels {hint}")
    return Labels(own, n_without if n_without < len(kept) else 0, notes)


def _missing_notes(n: int) -> list[str]:
    text = counted(n, "image has no class: its", "images have no class: their")
    return [f"{text} label is -1"] if n else []


def _classes_of_inputs(segments: Sequence[Segment], paths: PathTable, once: Once) -> tuple[OwnLabels, int]:
    """The classes that the inputs give, in the inputs' order if they agree on one, else in natural order."""
    own_labels = [segment.own_labels or OwnLabels.none(len(segment.names)) for segment in segments]
    orders = {own.classes for own in own_labels if own.classes}
    classes = (
        orders.pop() if len(orders) == 1 else tuple(sorted(set[bytes]().union(*orders), key=natural_key))
    )
    number = {name: i for i, name in enumerate(classes)}
    labels = np.concatenate(
        [np.array([*map(number.__getitem__, own.classes), NO_CLASS])[own.labels] for own in own_labels]
    )
    clash = "the inputs give {!r} both the class {!r} and {!r}; allowed: one class per image"
    names = (*classes, b"")  # the last entry is for no class
    for image, name in once.agreed(paths, lambda image: names[labels[image]], clash).items():
        labels[image] = number[name]
    labels = labels[once.kept]
    return OwnLabels(labels, classes), int((labels == NO_CLASS).sum()) if classes else 0


_View = Sequence[tuple[Sequence[bytes], int]]
"""The names of the mentions of each segment, and the level of their class folders; -1 for none."""


def _below_inputs(segments: Sequence[Segment]) -> _View:
    """The names below each input. A folder that holds everything is passed if all folders, or all archives, have one.

    In a photos.zip with photos/cat and photos/dog, cat and dog are the classes.
    """
    passed = {
        kind: _count_passed(
            lambda kind=kind: (  # type: ignore[misc]
                (i, name)
                for i, segment in enumerate(segments)
                if segment.top is not None and _is_archive(segment) == kind
                for name in segment.names
            )
        )
        for kind in (False, True)
    }
    return [(s.names, -1 if s.top is None else passed[_is_archive(s)]) for s in segments]


def _below_root(segments: Sequence[Segment], paths: PathTable, root: bytes) -> _View:
    """The names below the root or in an archive directly below it. A folder that holds everything is passed."""
    stops = np.cumsum([len(segment.names) for segment in segments]).tolist()
    tables = [
        segment.names if segment.above == root else paths.part(stop - len(segment.names), stop)
        for segment, stop in zip(segments, stops, strict=True)
    ]
    passed = _count_passed(lambda: zip(repeat(None), chain.from_iterable(tables), strict=False))
    return [(table, passed) for table in tables]


def _is_archive(segment: Segment) -> bool:
    return segment.top is not None and segment.above is not None


def _count_passed(grouped: Callable[[], Iterable[tuple[Hashable, bytes]]]) -> int:
    """Count the levels at which each group of names has a single folder, down to the first with several."""
    ends: dict[Hashable, tuple[bytes, bytes]] = {}
    for group, name in grouped():
        low, high = ends.setdefault(group, (name, name))
        if name < low or name > high:
            ends[group] = min(low, name), max(high, name)
    common = {group: os.path.commonpath([*map(os.path.dirname, pair)]) for group, pair in ends.items()}
    levels = {group: above.count(b"/") + 1 if above else 0 for group, above in common.items()}
    if not any(levels.values()):
        return 0
    folders: dict[Hashable, set[bytes]] = {group: set() for group in ends}
    for group, name in grouped():
        folders[group].add(_folder_at(name, levels[group]))
    return min(max(0, level - (len(folders[group] - {b""}) < 2)) for group, level in levels.items())


def _folder_at(name: bytes, level: int) -> bytes:
    """Return the folder at a level of a name; empty without one."""
    parts = name.split(b"/", level + 1)
    return parts[level] if len(parts) == level + 2 else b""


class _Found(NamedTuple):
    """The folders that a view takes as classes.

    Attributes:
        numbers: ``(n,)`` integers, the class of each image.
        is_excused: ``(n,)`` bool, True for the images of a split that has no class folders though others have.
        splits: the number of images of each split; empty if the folders are not splits.
    """

    numbers: npt.NDArray[np.int32]
    is_excused: npt.NDArray[np.bool_]
    splits: dict[bytes, int]

    @property
    def is_missing(self) -> npt.NDArray[np.bool_]:
        """``(n,)`` bool, True for images that should have a class and have none."""
        is_missing: npt.NDArray[np.bool_] = (self.numbers == NO_CLASS) & ~self.is_excused
        return is_missing


def _look_at(
    view: _View,
    names: ClassNumbers[bytes],
    mentions: npt.NDArray[np.int64],
    decides: npt.NDArray[np.bool_],
    *,
    has_splits: bool,
) -> _Found:
    """Number the folder of each image, or the folder below it if those are splits."""

    def numbers_of(view: _View) -> npt.NDArray[np.int32]:
        folders = (_folder_at(name, level) if level >= 0 else b"" for table, level in view for name in table)
        # int32 because several such arrays are in memory at a time
        return np.fromiter(names.numbers(folders), dtype=np.int32)[mentions]

    def are_splits(numbers: npt.NDArray[np.int32]) -> bool:
        used = [names.names[i] for i in np.unique(numbers[decides]).tolist() if i != NO_CLASS]
        return bool(used) and all(map(_SPLIT.fullmatch, used))

    numbers = numbers_of(view)
    is_excused = np.zeros(len(numbers), dtype=bool)
    if not (has_splits and are_splits(numbers)):
        return _Found(numbers, is_excused, {})
    splits = numbers
    while are_splits(numbers):
        more = 1 + _count_passed(lambda view=view: _in_folders(view))  # type: ignore[misc]
        view = [(table, level + more if level >= 0 else level) for table, level in view]
        numbers = numbers_of(view)
    if (numbers != NO_CLASS).any():
        is_excused = _without_classes(numbers, splits, names.names)
    numbers = np.where(is_excused, NO_CLASS, numbers).astype(np.int32)
    sizes = Counter(splits[splits != NO_CLASS].tolist())
    return _Found(numbers, is_excused, {names.names[i]: n for i, n in sizes.items()})


def _in_folders(view: _View) -> Iterator[tuple[bytes, bytes]]:
    """Yield the folder of each name, and the rest of the name if that has another folder."""
    for table, level in view:
        for name in table if level >= 0 else ():
            parts = name.split(b"/", level + 1)
            if len(parts) == level + 2 and b"/" in parts[-1]:
                yield parts[level], parts[-1]


def _without_classes(
    numbers: npt.NDArray[np.int32], splits: npt.NDArray[np.int32], names: Sequence[bytes]
) -> npt.NDArray[np.bool_]:
    """Mark the images, ``(n,)`` bool, of splits without class folders, such as a test set with secret classes."""
    folders_of = {
        split: set(np.unique(numbers[splits == split]).tolist()) - {NO_CLASS}
        for split in np.unique(splits[splits != NO_CLASS]).tolist()
    }
    plain = {
        split
        for split, folders in folders_of.items()
        if len(folders) == 1 and names[min(folders)].lower() in (*_PLAIN_FOLDERS, names[split].lower())
    }
    classes = set[int]().union(*(folders for split, folders in folders_of.items() if split not in plain))
    without = [
        split
        for split, folders in folders_of.items()
        if not folders or (split in plain and len(classes) > 1 and not folders & classes)
    ]
    return np.isin(splits, without)


def _split_notes(found: _Found, own: OwnLabels) -> list[str]:
    if found.splits:
        shown = (f"{_show(name)} ({found.splits[name]})" for name in sorted(found.splits, key=natural_key))
        classes = "classes are the folders below" if own.classes else "they have no class folders"
        text = f"found splits {first_few(shown, _SHOWN)}; {classes}"
        return [f"{text} (use --labels folder to take the splits as classes)"]
    like_splits = [name for name in own.classes if _SPLIT.fullmatch(name)]
    if not like_splits:
        return []
    named = counted(len(like_splits), "class is named like a split", "classes are named like splits")
    hint = "use --labels parent to take the folder of each image as its class"
    return [f"{named}: {first_few(map(_show, like_splits), _SHOWN)} ({hint})"]


def _show(name: bytes) -> str:
    return one_line(os.fsdecode(name))


def _parents(segments: Sequence[Segment], paths: PathTable, root: bytes) -> Iterator[bytes]:
    """Yield the folder of each image; empty at the top of an archive or a table."""
    start = 0
    for segment in segments:
        stop = start + len(segment.names)
        if _is_archive(segment):
            yield from (os.path.basename(os.path.dirname(name)) for name in segment.names)
        else:
            part = paths.part(start, stop)
            yield from (os.path.basename(os.path.dirname(os.path.join(root, path))) for path in part)
        start = stop
