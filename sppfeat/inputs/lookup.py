"""Lookup of single images by the paths that a feature file records: files, objects, or members of archives."""

import atexit
import contextlib
import functools
import os
import stat
import tempfile
from pathlib import Path

import numpy as np

from sppfeat.errors import ConfigError, ImageError
from sppfeat.files.byte_ranges import Place
from sppfeat.files.paths import PathIndex
from sppfeat.files.versions import FileVersion
from sppfeat.inputs.containers import is_archive, kind_of
from sppfeat.inputs.read import read_container
from sppfeat.inputs.remote import read_remote
from sppfeat.inputs.roots import is_url
from sppfeat.inputs.segments import Segment
from sppfeat.inputs.storage import Storage

__all__ = ["find_image"]

_N_HELD = 4  # containers whose names are kept in memory


def find_image(root: bytes, path: bytes) -> Place:
    """Find the bytes of an image by its recorded path.

    Args:
        root: folder above the images; empty for the working directory.
        path: path of the image relative to ``root``: a file, or an archive followed by the name of an image in it.
            Both together may be a URL.

    Returns:
        The place of the image, valid as long as this process runs. The file need not be readable.

    Raises:
        ImageError: there is no such file, and no readable archive contains such an image.
        SourceError: the image is remote and cannot be reached.
    """
    whole = os.path.join(root, path)
    if is_url(whole):
        return _remote(whole)
    if os.path.lexists(whole):
        return Place(whole)
    end = len(whole)
    while (end := whole.rfind(b"/", 0, end)) > 0:
        container = whole[:end]
        if kind_of(container) is not None and (status := _regular_file(container)) is not None:
            container = os.path.abspath(container)
            return _held(container, FileVersion.of(status)).place(whole[end + 1 :])
    raise ImageError("no such file")


def _remote(url: bytes) -> Place:
    """Fetch the image at a URL, or in an archive whose URL is the beginning of ``url``."""
    end = len(url)
    while (end := url.rfind(b"/", 0, end)) > url.index(b"://") + 2:
        if is_archive(url[:end]):
            return _held_remote(url[:end]).place(url[end + 1 :])
    storage = _read_remote(url).storage
    found = "no such object" if storage is None else _fetched(storage, 0)
    if isinstance(found, str):
        raise ImageError(found)
    return found


@functools.lru_cache(_N_HELD)
def _held_remote(url: bytes) -> "_Container":
    return _Container(url, _read_remote(url))


def _read_remote(url: bytes) -> Segment:
    try:
        return next(iter(read_remote([url])))
    except ConfigError as error:
        raise ImageError(str(error)) from error


def _regular_file(path: bytes) -> os.stat_result | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


class _Container:
    """An archive whose images can be found by their names."""

    def __init__(self, path: bytes, segment: Segment) -> None:
        self._path = path
        self._segment = segment
        self._index = PathIndex(segment.names)

    def place(self, name: bytes) -> Place:
        """Find an image in the archive.

        Raises:
            ImageError: the archive does not contain the image, or it cannot be read there.
        """
        number = self._index.position(name)
        if number < 0 or self._segment.storage is None:
            raise ImageError(f"no such image in {os.fsdecode(self._path)!r}")
        found = _fetched(self._segment.storage, number)
        if isinstance(found, str):
            raise ImageError(found)
        return found


@functools.lru_cache(_N_HELD)
def _held(path: bytes, version: FileVersion) -> _Container:  # noqa: ARG001 - of another one anew
    try:
        return _Container(path, read_container(path))
    except ConfigError as error:
        raise ImageError(str(error)) from error


def _fetched(storage: Storage, number: int) -> Place | str:
    images = np.array([number], dtype=np.int64)
    if storage.is_local:
        with storage.fetch(images, Path()) as (found,):
            return found
    until_exit, scratch = _scratch()
    (found,) = until_exit.enter_context(storage.fetch(images, scratch))
    return found


@functools.cache
def _scratch() -> tuple[contextlib.ExitStack, Path]:
    """A stack of contexts to close at exit, and a scratch folder that is removed after them."""
    until_exit = contextlib.ExitStack()
    atexit.register(until_exit.close)
    return until_exit, Path(until_exit.enter_context(tempfile.TemporaryDirectory(prefix="sppfeat-")))
