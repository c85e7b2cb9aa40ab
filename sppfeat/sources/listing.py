"""From the inputs of a command to one listing of images with class labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config import check_choice
from sppfeat.errors import ConfigError
from sppfeat.images import IMAGE_SUFFIXES
from sppfeat.sources.class_names import label_images
from sppfeat.sources.inputs import read_inputs
from sppfeat.sources.paths import PathTable
from sppfeat.sources.roots import below, common_root
from sppfeat.sources.segments import Segment
from sppfeat.sources.storage import FileStorage, JoinedStorage, Storage

__all__ = ["LABEL_MODES", "Listing", "list_images"]

LABEL_MODES = ("auto", "folder", "none")


@dataclass(frozen=True)
class Listing:
    """Every image of the inputs, once, in a fixed order.

    Attributes:
        root: absolute path, or URL, that all images lie under.
        paths: relative to ``root``, with ``/`` separators, unique.
        labels: ``(N,)`` int64, index into ``classes``, or -1.
        classes: names of the classes; empty where labels are not known.
        storage: where the images are, by their position here.
        ids: what the inputs call the images; None where they have no such names.
        n_unlabelled: images without a class, where others have one or ``folder`` asked for them.
        n_other_files: files in scanned folders that are no images by their suffix.
        n_repeated: inputs named again and taken once.
    """

    root: bytes
    paths: PathTable
    labels: npt.NDArray[np.int64]
    classes: tuple[bytes, ...]
    storage: Storage
    ids: PathTable | None = None
    n_unlabelled: int = 0
    n_other_files: int = 0
    n_repeated: int = 0

    @classmethod
    def of_files(
        cls, root: bytes, paths: PathTable, labels: npt.NDArray[np.int64], classes: tuple[bytes, ...]
    ) -> "Listing":
        """A listing of files below a folder of this machine."""
        return cls(root, paths, labels, classes, FileStorage(root, paths))


def list_images(
    inputs: Sequence[str], *, labels: str = "auto", stdin: Iterable[bytes] | None = None
) -> Listing:
    """List the images of folders, files, archives and lists.

    Args:
        inputs: folders (scanned recursively, natural order, hidden names left out), image files, archives (in
            their own order; also those in a folder that has no image), ``@FILE`` (a list of folders and files)
            and ``-`` (such a list on standard input), in the order wanted. Lists are separated by newlines, or by NUL
            if there is one; paths in them are relative to the working directory. An image file named in a list that
            does not exist is listed all the same: its row says why it failed.
        labels: ``auto``: what the inputs themselves say; else the first-level folders, if all images lie in such
            and there are two or more; ``folder``: the first-level folders, whatever the layout; ``none``. The level
            is counted from the folders given (``train val``), or from the root of all where those are themselves
            the classes (``train/*``).
        stdin: what ``-`` reads, in chunks; standard input where None.

    Returns:
        The listing; at least one image.

    Raises:
        ConfigError: an input that does not exist, a folder or list that cannot be read, no image at all.
    """
    check_choice("labels", labels, LABEL_MODES)
    if not inputs:
        raise ConfigError("no inputs; name folders, image files, archives, @LIST or -")
    segments = list(read_inputs(inputs, stdin=stdin))
    n_other_files = sum(segment.n_other_files for segment in segments)
    if not any(len(segment.names) for segment in segments):
        raise ConfigError(
            f"no images in {', '.join(map(repr, inputs[:5]))}: {n_other_files} files there have no "
            f"suffix of an image ({' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    root = common_root(segments)
    paths = _joined_paths(segments, root)
    once = _each_once(segments, paths)
    classes = label_images(segments, paths, kept=once.kept, told_by=once.told_by, mode=labels, root=root)
    own = paths if once.n_repeated == 0 else PathTable(paths[i] for i in once.kept.tolist())
    return Listing(
        root=root,
        paths=own,
        labels=classes.labels,
        classes=classes.classes,
        storage=_joined_storage(segments, FileStorage(root, own), once.kept),
        ids=_joined_ids(segments, once.kept),
        n_unlabelled=classes.n_unlabelled,
        n_other_files=n_other_files,
        n_repeated=once.n_repeated + sum(segment.n_repeated for segment in segments),
    )


def _joined_paths(segments: Sequence[Segment], root: bytes) -> PathTable:
    """The names of all images relative to the root."""
    if len(segments) == 1 and segments[0].top == root:
        return segments[0].names
    return PathTable(chain.from_iterable(_paths_below(segment, root) for segment in segments))


def _paths_below(segment: Segment, root: bytes) -> Iterable[bytes]:
    if segment.top is None:
        return (below(name, root) for name in segment.names)
    if segment.top == root:
        return segment.names
    prefix = below(segment.top, root) + b"/"
    return (prefix + name for name in segment.names)


class _Once(NamedTuple):
    """Which images count, of those that may be named repeatedly.

    Attributes:
        kept: ``(n,)`` int64, ascending: of each the first.
        told_by: ``(n,)`` int64: of each the first that was found by a scan, since its folder tells the class.
        n_repeated: the others.
    """

    kept: npt.NDArray[np.int64]
    told_by: npt.NDArray[np.int64]
    n_repeated: int


def _each_once(segments: Sequence[Segment], paths: PathTable) -> _Once:
    every = np.arange(len(paths), dtype=np.int64)
    if len(segments) == 1 and segments[0].top is not None:
        return _Once(every, every, 0)
    hashes = np.fromiter(map(hash, paths), dtype=np.int64, count=len(paths))
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(counts[inverse] > 1)
    if not len(suspects):
        return _Once(every, every, 0)
    is_scanned = np.repeat([s.top is not None for s in segments], [len(s.names) for s in segments])
    first: dict[bytes, int] = {}
    told_by = every.copy()
    is_kept = np.ones(len(paths), dtype=bool)
    for image in suspects.tolist():
        path = paths[image]
        if path not in first:
            first[path] = image
            continue
        is_kept[image] = False
        if not is_scanned[told_by[first[path]]]:
            told_by[first[path]] = image
    kept = np.flatnonzero(is_kept)
    return _Once(kept, told_by[kept], len(paths) - len(kept))


def _joined_storage(segments: Sequence[Segment], files: FileStorage, kept: npt.NDArray[np.int64]) -> Storage:
    """Where the images that count are."""
    if all(segment.storage is None for segment in segments):
        return files
    if len(segments) == 1 and segments[0].storage is not None:  # and so nothing is repeated
        return segments[0].storage
    counts = [len(segment.names) for segment in segments]
    parts: list[Storage] = [segment.storage or files for segment in segments]
    part_of = np.repeat(np.arange(len(parts), dtype=np.uint32), counts)[kept]
    number_in = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])[kept]
    # Files are found by their path in the output, which is their position among all images.
    of_files = np.array([segment.storage is None for segment in segments])[part_of]
    number_in[of_files] = np.flatnonzero(of_files)
    return JoinedStorage(tuple(parts), part_of, number_in)


def _joined_ids(segments: Sequence[Segment], kept: npt.NDArray[np.int64]) -> PathTable | None:
    if all(segment.ids is None for segment in segments):
        return None
    ids = PathTable(
        chain.from_iterable(segment.ids or repeat(b"", len(segment.names)) for segment in segments)
    )
    return ids if len(kept) == len(ids) else PathTable(ids[i] for i in kept.tolist())
