"""The listing of all input images, with their classes, ids and storage."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
import numpy.typing as npt

from sppfeat.config.values import check_choice
from sppfeat.config.wording import counted, first_few, one_line
from sppfeat.errors import ConfigError
from sppfeat.files.globs import PathFilter
from sppfeat.files.image_names import IMAGE_SUFFIXES
from sppfeat.files.paths import N_EXAMPLES, PathTable
from sppfeat.inputs.labels import LABEL_MODES, label_images
from sppfeat.inputs.mentions import Once, find_repeated
from sppfeat.inputs.names import SCHEME, below, is_url
from sppfeat.inputs.read import read_inputs
from sppfeat.inputs.segments import FileStorage, JoinedStorage, Segment, Storage

__all__ = ["Listing", "list_images"]

_SHOWN = 5  # names in a note
_SHOWN_FILES = N_EXAMPLES - 1


@dataclass(frozen=True)
class Listing:
    """All images of the inputs, each once, in a fixed order."""

    root: bytes  # absolute path or URL above all images
    paths: PathTable  # paths relative to root, with / separators, unique
    labels: npt.NDArray[np.int64]  # (N,) int64, index into classes; -1 for no class
    classes: tuple[bytes, ...]  # names of the classes; empty if labels are unknown
    storage: Storage  # fetches the images by their position in the listing
    ids: PathTable | None = None  # ids that the inputs give the images; None if they give none
    n_unlabeled: int = 0  # number of images without a class, if others have one or --labels requires one
    n_other_files: int = 0  # number of files in scanned folders without an image suffix
    n_repeated: int = 0  # number of repeated mentions of images; each image is listed once
    notes: tuple[str, ...] = ()  # notes for the user: skipped files, and the origin of the classes


def list_images(
    inputs: Sequence[str],
    *,
    labels: str = "auto",
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    stdin: Iterable[bytes] | None = None,
    encoding: str | None = None,
) -> Listing:
    """List the images of folders, files, archives and lists.

    Args:
        inputs: the inputs in the desired order: folders (scanned recursively, in natural order, without hidden
            names and system folders), image files, archives and tables (in their own order; those in a folder count
            only if it has no images), patterns of these (``photos/*.jpg``), URLs, ``@FILE`` (a list of folders
            and files) and ``-`` (such a list on standard input). Entries of a list are separated by newlines, or by NUL
            if the list contains one; its paths are relative to the working directory. A missing image file that a
            list names is listed nevertheless, and its row records the failure.
        labels: ``auto`` for the classes that the inputs give, or else the first-level folders if all images are in
            two or more of them; ``folder`` for the first-level folders in any case; ``parent`` for the folder of each
            image; ``none`` for no classes. Levels are counted from the
            given folders (``train val``), or from the common root if the inputs themselves are the classes
            (``train/*``); a folder that holds all others is passed. With ``auto``, folders that are all named like
            splits (train, val, test) are passed, too.
        exclude, include: patterns of images to leave out, and of the only images to take, compared with paths below
            the input, or below the working directory for files named one by one; see
            :class:`sppfeat.files.globs.PathFilter`.
        stdin: chunks of bytes for ``-``; None for standard input.
        encoding: of text tables and lists without a byte order mark; None for UTF-8.

    Returns:
        The listing, with at least one image.

    Raises:
        ConfigError: an input does not exist, a folder or list cannot be read, a pattern is invalid, or no image is
            left.
    """
    check_choice("labels", labels, LABEL_MODES)
    if not inputs:
        raise ConfigError("no inputs; give folders, image files, archives, @LIST or -")
    chosen = PathFilter(exclude, include)
    segments = list(read_inputs(inputs, chosen, stdin=stdin, encoding=encoding))
    n_other_files = sum(segment.n_other_files for segment in segments)
    if not any(len(segment.names) for segment in segments):
        if chosen.leaves_out_some:
            raise ConfigError(
                f"{chosen} leaves out every image of {', '.join(map(repr, inputs[:5]))}: {chosen.rule}"
            )
        others = counted(n_other_files, "file there has", "files there have")
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        found = f"{others} no image extension ({suffixes})" if n_other_files else "empty"
        raise ConfigError(f"no images in {', '.join(map(repr, inputs[:5]))}: {found}")
    root = _common_root(segments)
    paths = _joined_paths(segments, root)
    once = find_repeated(segments, paths)
    own, n_unlabeled, notes = label_images(segments, paths, once, mode=labels, root=root)
    n_repeated = once.n_repeated + sum(segment.n_repeated for segment in segments)
    if n_repeated:
        notes.insert(
            0, f"{counted(n_repeated, 'image is', 'images are')} named more than once; each gets one row"
        )
    listed = paths if once.n_repeated == 0 else PathTable(paths[i] for i in once.kept.tolist())
    return Listing(
        root=root,
        paths=listed,
        labels=own.labels,
        classes=own.classes,
        storage=_joined_storage(segments, FileStorage(root, listed), once.kept),
        ids=_joined_ids(segments, paths, once),
        n_unlabeled=n_unlabeled,
        n_other_files=n_other_files,
        n_repeated=n_repeated,
        notes=(*_notes_of_skipped(segments, chosen), *notes),
    )


def _notes_of_skipped(segments: Sequence[Segment], chosen: PathFilter) -> Iterator[str]:
    if n := sum(segment.n_other_files for segment in segments):
        names = chain.from_iterable(segment.other_files for segment in segments)
        shown = first_few((one_line(os.fsdecode(os.path.basename(name))) for name in names), _SHOWN_FILES)
        yield f"skipped {counted(n, 'file')} without an image extension ({shown})"
    folders = Counter(
        os.fsdecode(os.path.basename(name)) for segment in segments for name in segment.system_folders
    )
    if folders:
        shown = first_few((one_line(name) for name, _ in folders.most_common()), _SHOWN)
        yield f"skipped {counted(folders.total(), 'system folder')} ({shown}); give one as an input to read it"
    if tables := [os.fsdecode(name) for segment in segments for name in segment.side_tables]:
        shown = first_few(map(one_line, tables), _SHOWN)
        yield f"skipped {counted(len(tables), 'table')} beside archives ({shown}); give one as an input to read it"
    tables_with: dict[str, list[bytes]] = {}
    for segment in segments:
        if segment.columns is not None:
            tables_with.setdefault(segment.columns[1], []).append(segment.columns[0])
    for text, paths in tables_with.items():
        table = one_line(os.fsdecode(os.path.basename(paths[0])))
        yield f"{table}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {text}"
    for segment in segments:
        yield from segment.notes
    for segment in segments:
        for name in segment.system_folders:
            chosen.excludes(name + b"/")  # a pattern for them counts as used
    for pattern in chosen.unused():
        yield f"{pattern} matches nothing: {chosen.rule}"


def _common_root(segments: Sequence[Segment]) -> bytes:
    """Find the deepest folder or URL above all images; ConfigError if the inputs are in several services."""
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
        found = f"the inputs are in several places, {kinds}, without a common root"
        raise ConfigError(f"{found}; run each into an output of its own")
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
    """The ids of the listed images; an image named repeatedly has the first of its ids."""
    if all(segment.ids is None for segment in segments):
        return None
    ids = PathTable(
        chain.from_iterable(segment.ids or repeat(b"", len(segment.names)) for segment in segments)
    )
    if once.n_repeated == 0:
        return ids
    clash = "the inputs give {!r} both the id {!r} and {!r}; allowed: one id per image"
    found = once.agreed(paths, ids.__getitem__, clash)
    return PathTable(found.get(i) or ids[i] for i in once.kept.tolist())
