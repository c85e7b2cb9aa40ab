"""The listing of all images that a user names, with their classes, ids and storage."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
import numpy.typing as npt

from sppfeat.config.values import check_choice
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError
from sppfeat.files.columns import NO_CLASS, ClassNumbers
from sppfeat.files.image_names import IMAGE_SUFFIXES
from sppfeat.files.paths import PathTable, natural_key, possibly_repeated
from sppfeat.inputs.names import SCHEME, below, is_url
from sppfeat.inputs.read import read_inputs
from sppfeat.inputs.segments import FileStorage, JoinedStorage, OwnLabels, Segment, Storage

__all__ = ["Listing", "list_images"]

_LABEL_MODES = ("auto", "folder", "none")


@dataclass(frozen=True)
class Listing:
    """All images of the inputs, each once, in a fixed order."""

    root: bytes  # absolute path or URL above all images
    paths: PathTable  # paths relative to root, with / separators, unique
    labels: npt.NDArray[np.int64]  # (N,) int64, index into classes; -1 for no class
    classes: tuple[bytes, ...]  # names of the classes; empty if labels are unknown
    storage: Storage  # fetches the images by their position in the listing
    ids: PathTable | None = None  # ids that the inputs themselves give the images; None if they give none
    n_unlabelled: int = 0  # number of images without a class, if others have one or folder requires one
    n_other_files: int = 0  # number of files in scanned folders without an image suffix
    n_repeated: int = 0  # number of repeated mentions of images, each of which is listed once


def list_images(
    inputs: Sequence[str],
    *,
    labels: str = "auto",
    stdin: Iterable[bytes] | None = None,
    encoding: str | None = None,
) -> Listing:
    """List the images of folders, files, archives and lists.

    Args:
        inputs: the inputs in the desired order: folders (scanned recursively, in natural order, without hidden
            names), image files, archives and tables (in their own order; those in a folder count if it has no
            images), URLs, ``@FILE`` (a list of folders and files) and ``-`` (such a list on standard input). Entries
            of a list are separated by newlines, or by NUL if the list contains one; its paths are relative to the
            working directory. An image file that a list names but that does not exist is listed all the same, and its
            row records the failure.
        labels: ``auto`` for the classes that the inputs themselves give, or else the first-level folders if all
            images are in such folders and there are at least two; ``folder`` for the first-level folders in any case;
            ``none`` for no classes. Levels are counted from the given folders (``train val``), or from the common
            root if the inputs themselves are the classes (``train/*``).
        stdin: chunks of bytes for ``-``; None for standard input.
        encoding: of text tables and lists without a byte order mark; None for UTF-8.

    Returns:
        The listing, with at least one image.

    Raises:
        ConfigError: an input does not exist, a folder or list cannot be read, or there are no images at all.
    """
    check_choice("labels", labels, _LABEL_MODES)
    if not inputs:
        raise ConfigError("no inputs; name folders, image files, archives, @LIST or -")
    segments = list(read_inputs(inputs, stdin=stdin, encoding=encoding))
    n_other_files = sum(segment.n_other_files for segment in segments)
    if not any(len(segment.names) for segment in segments):
        others = counted(n_other_files, "file there has", "files there have")
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        found = f"{others} no suffix of an image ({suffixes})" if n_other_files else "empty"
        raise ConfigError(f"no images in {', '.join(map(repr, inputs[:5]))}: {found}")
    root = _common_root(segments)
    paths = _joined_paths(segments, root)
    once = _find_repeated(segments, paths)
    own, n_unlabelled = _label_images(segments, paths, once, mode=labels, root=root)
    listed = paths if once.n_repeated == 0 else PathTable(paths[i] for i in once.kept.tolist())
    return Listing(
        root=root,
        paths=listed,
        labels=own.labels,
        classes=own.classes,
        storage=_joined_storage(segments, FileStorage(root, listed), once.kept),
        ids=_joined_ids(segments, paths, once),
        n_unlabelled=n_unlabelled,
        n_other_files=n_other_files,
        n_repeated=once.n_repeated + sum(segment.n_repeated for segment in segments),
    )


def _common_root(segments: Sequence[Segment]) -> bytes:
    """Find the deepest folder or URL above all images; ConfigError if inputs lie in several services."""
    tops: set[bytes] = set()
    for segment in segments:
        if segment.top is None:
            tops |= {os.path.dirname(name) for name in segment.names}
        elif len(segment.names):
            tops.add(segment.above or segment.top)
    schemes = {top.partition(SCHEME)[0] if is_url(top) else b"" for top in tops}
    if schemes == {b""}:
        return os.path.commonpath(tops)
    if len(schemes) > 1:
        kinds = ", ".join(f"{scheme.decode()}://" if scheme else "this machine" for scheme in sorted(schemes))
        found = f"the inputs lie in several places, {kinds}, and have no common root"
        raise ConfigError(f"{found}; allowed: one, and an output for each")
    (scheme,) = schemes
    parts = {top.partition(SCHEME)[2] for top in tops}
    return scheme + SCHEME + os.path.commonpath(parts)


def _joined_paths(segments: Sequence[Segment], root: bytes) -> PathTable:
    """Paths of all images relative to the root."""
    if len(segments) == 1 and segments[0].top == root:
        return segments[0].names
    return PathTable(chain.from_iterable(_paths_below(segment, root) for segment in segments))


def _paths_below(segment: Segment, root: bytes) -> Iterable[bytes]:
    if segment.top is None:
        return (below(name, root) for name in segment.names)
    prefix = b"" if segment.top == root else below(segment.top, root) + b"/"
    return (prefix + name for name in segment.names)


@dataclass(frozen=True)
class _Once:
    """The distinct images among ``m`` mentions, which may repeat an image.

    Attributes:
        kept: ``(n,)`` int64, ascending: the first mention of each image.
        same_as: ``(m,)`` int64: for each mention, the first mention of the same image.
        told_by: ``(n,)`` int64: for each image, the mention whose folder gives the class: the first one from a
            scanned input, or else the first one.
    """

    kept: npt.NDArray[np.int64]
    same_as: npt.NDArray[np.int64]
    told_by: npt.NDArray[np.int64]

    @property
    def n_repeated(self) -> int:
        """Number of mentions that repeat an earlier one."""
        return len(self.same_as) - len(self.kept)

    def agreed(self, paths: PathTable, fact_of: Callable[[int], bytes], clash: str) -> dict[int, bytes]:
        """Return the fact that any mention gives of each image that is mentioned repeatedly, by its first mention.

        ``fact_of`` returns the fact that a mention gives, or nothing. Two different ones are a ConfigError, with
        ``clash`` as the format of its message.
        """
        again = self.same_as[self.same_as != np.arange(len(self.same_as))]
        found: dict[int, bytes] = {}
        for mention in np.flatnonzero(np.isin(self.same_as, again)).tolist():
            first, fact = int(self.same_as[mention]), fact_of(mention)
            if fact and found.setdefault(first, fact) != fact:
                raise ConfigError(clash.format(*map(os.fsdecode, (paths[mention], found[first], fact))))
        return found


def _find_repeated(segments: Sequence[Segment], paths: PathTable) -> _Once:
    """Find the distinct images of all inputs, whose ``paths`` are relative to the root, and their repetitions."""
    every = np.arange(len(paths), dtype=np.int64)
    is_unique = len(segments) == 1 and segments[0].top is not None
    suspects = every[:0] if is_unique else possibly_repeated(paths)
    if not len(suspects):
        return _Once(every, every, every)
    is_scanned = _are_scanned(segments)
    first: dict[bytes, int] = {}
    same_as, told_by = every.copy(), every.copy()
    for image in suspects.tolist():
        path = paths[image]
        if path not in first:
            first[path] = image
            continue
        same_as[image] = first[path]
        if not is_scanned[told_by[first[path]]]:
            told_by[first[path]] = image
    kept = np.flatnonzero(same_as == every)
    return _Once(kept, same_as, told_by[kept])


def _are_scanned(segments: Sequence[Segment]) -> npt.NDArray[np.bool_]:
    """Tell, for each mention of an image, whether its input was scanned rather than named one by one."""
    return np.repeat([segment.top is not None for segment in segments], [len(s.names) for s in segments])


def _joined_storage(segments: Sequence[Segment], files: FileStorage, kept: npt.NDArray[np.int64]) -> Storage:
    """The storage of the listed images."""
    if all(segment.storage is None for segment in segments):
        return files
    counts = [len(segment.names) for segment in segments]
    if len(segments) == 1 and segments[0].storage is not None and len(kept) == counts[0]:
        return segments[0].storage
    parts: list[Storage] = [segment.storage or files for segment in segments]
    part_of = np.repeat(np.arange(len(parts), dtype=np.uint32), counts)[kept]
    number_in = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])[kept]
    # The storage of files is numbered by the position among all listed images.
    of_files = np.array([segment.storage is None for segment in segments])[part_of]
    number_in[of_files] = np.flatnonzero(of_files)
    return JoinedStorage(tuple(parts), part_of, number_in)


def _joined_ids(segments: Sequence[Segment], paths: PathTable, once: _Once) -> PathTable | None:
    """The ids of the listed images; an image that is named repeatedly has the first of its ids."""
    if all(segment.ids is None for segment in segments):
        return None
    ids = PathTable(
        chain.from_iterable(segment.ids or repeat(b"", len(segment.names)) for segment in segments)
    )
    if once.n_repeated == 0:
        return ids
    clash = "the inputs call {!r} both {!r} and {!r}; allowed: one id for an image"
    found = once.agreed(paths, ids.__getitem__, clash)
    return PathTable(found.get(i) or ids[i] for i in once.kept.tolist())


def _label_images(
    segments: Sequence[Segment], paths: PathTable, once: _Once, *, mode: str, root: bytes
) -> tuple[OwnLabels, int]:
    """Find the class of each image of ``once``, and the number of images without one.

    The number is 0 if no image has a class and none should.
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
    scanned = _are_scanned(segments)[told_by]
    # Only scanned images decide: an extra file next to train must not turn train into a class.
    counted = scanned if scanned.any() else np.ones(len(kept), dtype=bool)
    best = min(below_input, below_root, key=lambda codes: int((codes[counted] == NO_CLASS).sum()))
    n_unlabelled = int((best == NO_CLASS).sum())
    if mode == "auto" and (n_unlabelled or len(np.unique(best)) < 2):
        return OwnLabels.none(len(kept)), n_unlabelled if n_unlabelled < len(kept) else 0
    return OwnLabels(*names.in_order(best)), n_unlabelled


def _own_classes(segments: Sequence[Segment], paths: PathTable, once: _Once) -> tuple[OwnLabels, int]:
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
    clash = "the inputs say that {!r} is both {!r} and {!r}; allowed: one class for an image"
    names = (*classes, b"")  # the last for no class
    for image, name in once.agreed(paths, lambda image: names[labels[image]], clash).items():
        labels[image] = number[name]
    labels = labels[once.kept]
    return OwnLabels(labels, classes), int((labels == NO_CLASS).sum()) if classes else 0


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
