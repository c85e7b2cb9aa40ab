"""The listing of all images that a user names, with their classes, ids and storage."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
import numpy.typing as npt

from sppfeat.config.values import check_choice
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError
from sppfeat.files.image_names import IMAGE_SUFFIXES
from sppfeat.files.paths import PathTable
from sppfeat.inputs.labels import label_images
from sppfeat.inputs.names import SCHEME, below, is_url
from sppfeat.inputs.read import read_inputs
from sppfeat.inputs.segments import Once, Segment, find_repeated
from sppfeat.inputs.storage import FileStorage, JoinedStorage, Storage

__all__ = ["LABEL_MODES", "Listing", "list_images"]

LABEL_MODES = ("auto", "folder", "none")


@dataclass(frozen=True)
class Listing:
    """All images of the inputs, each once, in a fixed order.

    Attributes:
        root: absolute path or URL above all images.
        paths: paths relative to ``root``, with ``/`` separators, unique.
        labels: ``(N,)`` int64, index into ``classes``; -1 for no class.
        classes: names of the classes; empty if labels are unknown.
        storage: fetches the images by their position in the listing.
        ids: ids that the inputs themselves give the images; None if they give none.
        n_unlabelled: number of images without a class, if others have one or ``folder`` requires one.
        n_other_files: number of files in scanned folders without an image suffix.
        n_repeated: number of repeated mentions of images, each of which is listed once.
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
        """Make a listing of files below a folder of this machine."""
        return cls(root, paths, labels, classes, FileStorage(root, paths))


def list_images(
    inputs: Sequence[str], *, labels: str = "auto", stdin: Iterable[bytes] | None = None
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

    Returns:
        The listing, with at least one image.

    Raises:
        ConfigError: an input does not exist, a folder or list cannot be read, or there are no images at all.
    """
    check_choice("labels", labels, LABEL_MODES)
    if not inputs:
        raise ConfigError("no inputs; name folders, image files, archives, @LIST or -")
    segments = list(read_inputs(inputs, stdin=stdin))
    n_other_files = sum(segment.n_other_files for segment in segments)
    if not any(len(segment.names) for segment in segments):
        others = counted(n_other_files, "file there has", "files there have")
        found = (
            f"{others} no suffix of an image ({' '.join(sorted(IMAGE_SUFFIXES))})"
            if n_other_files
            else "empty"
        )
        raise ConfigError(f"no images in {', '.join(map(repr, inputs[:5]))}: {found}")
    root = _common_root(segments)
    paths = _joined_paths(segments, root)
    once = find_repeated(segments, paths)
    own, n_unlabelled = label_images(segments, paths, once=once, mode=labels, root=root)
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
    """Find the deepest folder or URL above all images.

    Raises:
        ConfigError: local and remote inputs are mixed, or remote ones have no common URL.
    """
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
        raise ConfigError(
            f"the inputs lie in several places, {kinds}, and have no common root; allowed: one, and an output for each"
        )
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
    if segment.top == root:
        return segment.names
    prefix = below(segment.top, root) + b"/"
    return (prefix + name for name in segment.names)


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


def _joined_ids(segments: Sequence[Segment], paths: PathTable, once: Once) -> PathTable | None:
    """The ids of the listed images; an image that is named repeatedly has the first of its ids."""
    if all(segment.ids is None for segment in segments):
        return None
    if len(segments) == 1 and once.n_repeated == 0:
        return segments[0].ids
    ids = PathTable(
        chain.from_iterable(segment.ids or repeat(b"", len(segment.names)) for segment in segments)
    )
    if once.n_repeated == 0:
        return ids

    def clash(image: int, one: bytes, other: bytes) -> ConfigError:
        return ConfigError(
            f"the inputs call {os.fsdecode(paths[image])!r} both {os.fsdecode(one)!r} and {os.fsdecode(other)!r}; "
            "allowed: one id for an image"
        )

    found = once.agreed(ids.__getitem__, clash)
    return PathTable(found.get(i) or ids[i] for i in once.kept.tolist())
