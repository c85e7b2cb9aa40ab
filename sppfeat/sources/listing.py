"""From the inputs of a command to one listing of image files with class labels."""

import itertools
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.config import check_choice
from sppfeat.errors import ConfigError
from sppfeat.images import IMAGE_SUFFIXES
from sppfeat.limits import MOST_WAYS
from sppfeat.sources.lists import is_list, read_list
from sppfeat.sources.paths import PathTable, natural_key

__all__ = ["LABEL_MODES", "Listing", "list_images"]

LABEL_MODES = ("auto", "folder", "none")


@dataclass(frozen=True)
class Listing:
    """Every image of the inputs, once, in a fixed order.

    Attributes:
        root: absolute path that all images lie under.
        paths: relative to ``root``, with ``/`` separators, unique.
        labels: ``(N,)`` int64, index into ``classes``, or -1.
        classes: names of the classes, in natural order; empty where labels are not known.
        n_unlabelled: images outside class folders, where others lie inside or ``folder`` asked for them.
        n_other_files: files in scanned folders that are no images by their suffix.
        n_repeated: inputs named again and taken once.
    """

    root: bytes
    paths: PathTable
    labels: npt.NDArray[np.int64]
    classes: tuple[bytes, ...]
    n_unlabelled: int = 0
    n_other_files: int = 0
    n_repeated: int = 0


def list_images(
    inputs: Sequence[str], *, labels: str = "auto", stdin: Iterable[bytes] | None = None
) -> Listing:
    """List the images of folders, files and lists.

    Args:
        inputs: folders (scanned recursively, natural order, hidden names left out), image files,
            ``@FILE`` (a list of folders or files) and ``-`` (such a list on standard input), in the
            order wanted. Lists are separated by newlines, or by NUL if there is one; paths in them are
            relative to the working directory. A file named in a list that does not exist is listed
            all the same: its row says why it failed.
        labels: ``auto``: the first-level folders, if all images lie in such and there are two or more;
            ``folder``: the first-level folders, whatever the layout; ``none``. The level is counted from
            the folders given (``train val``), or from the root of all where those are themselves the
            classes (``train/*``).
        stdin: what ``-`` reads, in chunks; standard input where None.

    Returns:
        The listing; at least one image.

    Raises:
        ConfigError: an input that does not exist, a folder or list that cannot be read, no image at all.
    """
    check_choice("labels", labels, LABEL_MODES)
    if not inputs:
        raise ConfigError("no inputs; name folders, image files, @LIST or -")
    scan = _Scan()
    found: dict[bytes, bytes | None] = {}
    n_repeated = 0
    for path, folder in _expand(inputs, scan, stdin):
        if path in found:
            n_repeated += 1
            found[path] = found[path] or folder
        else:
            found[path] = folder
    if not found:
        raise ConfigError(
            f"no images in {', '.join(map(repr, inputs[:5]))}: {scan.n_other_files} files there have no "
            f"suffix of an image ({' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    root = os.path.commonpath({folder or os.path.dirname(path) for path, folder in found.items()})
    names, n_unlabelled = _class_names(found, root, labels)
    classes = sorted({name for name in names if name is not None}, key=natural_key)
    index = {name: i for i, name in enumerate(classes)}
    return Listing(
        root=root,
        paths=PathTable(_below(path, root) for path in found),
        labels=np.array([-1 if name is None else index[name] for name in names], dtype=np.int64),
        classes=tuple(classes),
        n_unlabelled=n_unlabelled,
        n_other_files=scan.n_other_files,
        n_repeated=n_repeated,
    )


class _Scan:
    """Walks folders and counts what it passes over."""

    def __init__(self) -> None:
        self.n_other_files = 0

    def walk(self, top: bytes) -> Iterator[bytes]:
        """Yield the image files below ``top``, depth first, in natural order; cycles of links end."""
        above = {_folder_identity(top)}
        n_ways: Counter[tuple[int, int]] = Counter()
        stack = [(top, self._entries(top), above)]
        while stack:
            folder, entries, above = stack[-1]
            for name, is_folder in entries:
                path = os.path.join(folder, name)
                if not is_folder:
                    yield path
                    continue
                identity = _folder_identity(path)
                if identity is not None and identity not in above:
                    n_ways[identity] += 1
                    if n_ways[identity] > MOST_WAYS:
                        raise ConfigError(
                            f"the folder {_show(path)} is found in more than {MOST_WAYS} ways, by links; "
                            f"allowed: {MOST_WAYS}"
                        )
                    stack.append((path, self._entries(path), above | {identity}))
                    break
            else:
                stack.pop()

    def _entries(self, folder: bytes) -> Iterator[tuple[bytes, bool]]:
        """Sub-folders and image files of one folder, in natural order, each with whether it is a folder."""
        kept: list[bytes] = []
        folders: set[bytes] = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(b"."):
                        continue
                    if _leads_to_folder(entry):
                        folders.add(name)
                    elif os.path.splitext(name)[1].lower().decode("latin-1") not in IMAGE_SUFFIXES:
                        self.n_other_files += 1
                        continue
                    kept.append(name)
        except OSError as error:
            raise ConfigError(f"cannot list the folder {_show(folder)}: {error.strerror}") from error
        kept.sort(key=natural_key)
        return ((name, name in folders) for name in kept)


def _expand(
    inputs: Sequence[str], scan: _Scan, stdin: Iterable[bytes] | None
) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield the absolute path of each image, and the folder that was scanned for it, if one was."""
    for text in inputs:
        if is_list(text):
            for entry in read_list(text, stdin=stdin):
                yield from _expand_path(_absolute(entry), scan)
        else:
            path = _absolute(os.fsencode(text))
            if not text or not os.path.lexists(path):
                raise ConfigError(f"no such file or folder: {text!r}")
            yield from _expand_path(path, scan)


def _expand_path(path: bytes, scan: _Scan) -> Iterator[tuple[bytes, bytes | None]]:
    if _folder_identity(path) is None:
        yield path, None
    else:
        for image in scan.walk(path):
            yield image, path


def _class_names(
    found: Mapping[bytes, bytes | None], root: bytes, labels: str
) -> tuple[list[bytes | None], int]:
    """Return the class of each image, and how many have none although others do."""
    if labels == "none":
        return [None] * len(found), 0
    # Below each folder input (train/cat/1.jpg given train), or below the common root where the inputs
    # are the class folders themselves (train/cat given as train/*). The scanned images decide: a file
    # named beside train must not make a class of train.
    below_input = [None if top is None else _first_folder(path, top) for path, top in found.items()]
    below_root = [_first_folder(path, root) for path in found]
    scanned = [top is not None for top in found.values()]
    counted = scanned if any(scanned) else [True] * len(found)
    best = min(below_input, below_root, key=lambda names: _n_unnamed(names, counted))
    n_unlabelled = best.count(None)
    if labels == "auto" and (n_unlabelled or len(set(best)) < 2):
        return [None] * len(found), n_unlabelled if n_unlabelled < len(found) else 0
    return best, n_unlabelled


def _n_unnamed(names: list[bytes | None], counted: list[bool]) -> int:
    return sum(name is None for name in itertools.compress(names, counted))


def _first_folder(path: bytes, top: bytes) -> bytes | None:
    folder, slash, _ = _below(path, top).partition(b"/")
    return folder if slash else None


def _below(path: bytes, top: bytes) -> bytes:
    """Return ``path`` relative to the folder ``top`` above it, which os.path.relpath does 20 times slower."""
    return path[len(top.rstrip(b"/")) + 1 :]


def _absolute(path: bytes) -> bytes:
    """Return the absolute path, without ``.``, ``..``, repeated slashes; links are kept if they can be."""
    parts = path.split(b"/")
    if b".." in parts:
        # What lies above a link is known to the file system only: link/../a.jpg is not ./a.jpg.
        split = len(parts) - parts[::-1].index(b"..")
        path = os.path.join(os.path.realpath(b"/".join(parts[:split])), *parts[split:])
    return b"/" + os.path.abspath(path).lstrip(b"/")


def _leads_to_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where we may not look
        return False


def _folder_identity(path: bytes) -> tuple[int, int] | None:
    """Device and inode of a folder; None for everything else, a dangling link included."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def _show(path: bytes) -> str:
    return repr(os.fsdecode(path))
