"""The image files below a folder."""

import heapq
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sppfeat.config.values import MOST_WAYS
from sppfeat.errors import ConfigError
from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.paths import PathTable, natural_key
from sppfeat.inputs.containers import is_container
from sppfeat.inputs.segments import Segment

__all__ = ["Folder", "folder_identity", "read_folder"]

_SORTED_AT_ONCE = 1 << 14  # names of one folder, as objects with their keys: 4 MB


class Folder(NamedTuple):
    """What lies below a folder.

    Attributes:
        images: the image files.
        containers: archives and the like, relative, in natural order, where there is no image file; these are not
            among the other files of ``images``.
    """

    images: Segment
    containers: PathTable


def read_folder(top: bytes) -> Folder:
    """The image files below a folder, or archives where there are none: recursively, in natural order, no hidden ones.

    Raises:
        ConfigError: a folder that cannot be listed, or is found in very many ways by links.
    """
    scan = _Scan(top, has_image_suffix)
    images = PathTable(scan)
    containers = PathTable(())
    if not len(images):
        scan = _Scan(top, is_container)
        containers = PathTable(scan)
    return Folder(Segment(top, images, n_other_files=scan.n_other_files), containers)


def folder_identity(path: bytes) -> tuple[int, int] | None:
    """Device and inode of a folder; None for everything else, a dangling link included."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


class _Scan:
    """Walks a folder and counts what it passes over."""

    def __init__(self, top: bytes, is_wanted: Callable[[bytes], bool]) -> None:
        self.n_other_files = 0
        self._top = top
        self._is_wanted = is_wanted

    def __iter__(self) -> Iterator[bytes]:
        """Yield the wanted files, relative to the top, depth first, in natural order; cycles of links end."""
        above = {folder_identity(self._top)}
        n_ways: Counter[tuple[int, int]] = Counter()
        stack = [(b"", self._entries(self._top), above)]
        while stack:
            below, entries, above = stack[-1]
            for entry in entries:
                if not entry.endswith(b"/"):
                    yield below + entry
                    continue
                path = os.path.join(self._top, below + entry[:-1])
                identity = folder_identity(path)
                if identity is not None and identity not in above:
                    n_ways[identity] += 1
                    if n_ways[identity] > MOST_WAYS:
                        raise ConfigError(
                            f"the folder {_show(path)} is found in more than {MOST_WAYS} ways, by links; "
                            f"allowed: {MOST_WAYS}"
                        )
                    stack.append((below + entry, self._entries(path), above | {identity}))
                    break
            else:
                stack.pop()

    def _entries(self, folder: bytes) -> Iterator[bytes]:
        """Sub-folders, each with a slash behind it, and wanted files of one folder, in natural order."""
        kept: list[bytes] = []
        in_order: list[PathTable] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(b"."):
                        continue
                    if _leads_to_folder(entry):
                        name += b"/"
                    elif not self._is_wanted(name):
                        self.n_other_files += 1
                        continue
                    kept.append(name)
                    if len(kept) == _SORTED_AT_ONCE:
                        kept.sort(key=_order)
                        in_order.append(PathTable(kept))
                        kept = []
        except OSError as error:
            raise ConfigError(f"cannot list the folder {_show(folder)}: {error.strerror}") from error
        kept.sort(key=_order)
        return heapq.merge(*in_order, kept, key=_order) if in_order else iter(kept)


def _order(entry: bytes) -> bytes:
    return natural_key(entry.removesuffix(b"/"))


def _leads_to_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where we may not look
        return False


def _show(path: bytes) -> str:
    return repr(os.fsdecode(path))
