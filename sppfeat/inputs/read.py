"""What each input of a command is, and who reads it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from sppfeat.errors import ConfigError
from sppfeat.files.paths import PathTable
from sppfeat.inputs.containers import kind_of
from sppfeat.inputs.folders import folder_identity, read_folder
from sppfeat.inputs.lists import is_list, read_list
from sppfeat.inputs.remote import read_remote
from sppfeat.inputs.roots import is_url
from sppfeat.inputs.segments import Segment

__all__ = ["absolute_path", "read_inputs"]


def read_inputs(inputs: Sequence[str], *, stdin: Iterable[bytes] | None = None) -> Iterator[Segment]:
    """Yield the images of each input, in order; image files named one after the other together.

    Args:
        inputs, stdin: see :func:`sppfeat.inputs.list_images`.

    Raises:
        ConfigError: an input that does not exist, or cannot be read.
        SourceError: a remote one that cannot be reached.
    """
    for is_remote, paths in groupby(_entries(inputs, stdin), is_url):
        yield from (read_remote if is_remote else _read_local)(paths)


def _read_local(paths: Iterable[bytes]) -> Iterator[Segment]:
    """Yield the images of files and folders of this machine."""
    files: list[bytes] = []
    for path in paths:
        is_folder = folder_identity(path) is not None
        kind = None if is_folder else kind_of(path)
        if not is_folder and kind is None:
            files.append(path)
            continue
        if files:
            yield Segment(None, PathTable(files))
            files = []
        if kind is None:
            yield from _folder_segments(path)
        else:
            yield kind.read(path)
    if files:
        yield Segment(None, PathTable(files))


def _folder_segments(top: bytes) -> Iterator[Segment]:
    """Yield the images below a folder; where there are none, those of the archives below it."""
    images, containers = read_folder(top)
    yield images
    for name in containers:
        path = os.path.join(top, name)
        kind = kind_of(path)
        if kind is not None:
            yield kind.read(path)


def _entries(inputs: Sequence[str], stdin: Iterable[bytes] | None) -> Iterator[bytes]:
    """Yield the absolute path of each file and folder that is named, and each URL."""
    for text in inputs:
        if is_list(text):
            yield from map(absolute_path, read_list(text, stdin=stdin))
            continue
        path = absolute_path(os.fsencode(text))
        if not text or not (is_url(path) or os.path.lexists(path)):
            raise ConfigError(f"no such file or folder: {text!r}")
        yield path


def absolute_path(path: bytes) -> bytes:
    """Return the absolute path, without ``.``, ``..``, repeated slashes; links are kept if they can be; URLs stay."""
    if is_url(path):
        return path
    parts = path.split(b"/")
    if b".." in parts:
        # What lies above a link is known to the file system only: link/../a.jpg is not ./a.jpg.
        split = len(parts) - parts[::-1].index(b"..")
        path = os.path.join(os.path.realpath(b"/".join(parts[:split])), *parts[split:])
    return b"/" + os.path.abspath(path).lstrip(b"/")
