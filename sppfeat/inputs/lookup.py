"""Lookup of single images by the paths that a feature file records: files, objects, or members of archives."""

import atexit
import contextlib
import functools
import os
import tempfile
from pathlib import Path

import numpy as np

from sppfeat.errors import ConfigError, ImageError
from sppfeat.files.paths import PathIndex
from sppfeat.files.places import FileVersion, Place
from sppfeat.inputs.names import is_archive, is_url, kind_of
from sppfeat.inputs.read import read_container
from sppfeat.inputs.remote import read_remote
from sppfeat.inputs.segments import Segment, Storage, local_places

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
    if not is_url(whole) and os.path.lexists(whole):
        return Place(whole)
    end, top = len(whole), whole.find(b"://") + 2 if is_url(whole) else 0
    while (end := whole.rfind(b"/", 0, end)) > top:
        container = whole[:end]
        if is_url(whole) and is_archive(container):
            return _place_in(container, None, whole[end + 1 :])
        if kind_of(container) is not None and os.path.isfile(container):
            return _place_in(os.path.abspath(container), FileVersion.of(container), whole[end + 1 :])
    if not is_url(whole):
        raise ImageError("no such file")
    storage = _read(whole).storage
    if storage is None:
        raise ImageError("no such object")
    return _fetched(storage, 0)


def _place_in(container: bytes, version: FileVersion | None, name: bytes) -> Place:
    """Find an image in an archive or table."""
    segment, index = _held(container, version)
    number = int(index.positions([name])[0])
    if number < 0 or segment.storage is None:
        raise ImageError(f"no such image in {os.fsdecode(container)!r}")
    return _fetched(segment.storage, number)


@functools.lru_cache(_N_HELD)
def _held(path: bytes, version: FileVersion | None) -> tuple[Segment, PathIndex]:  # noqa: ARG001 - one for each
    segment = _read(path)
    return segment, PathIndex(segment.names)


def _read(path: bytes) -> Segment:
    try:
        return next(iter(read_remote([path]))) if is_url(path) else read_container(path)
    except ConfigError as error:
        raise ImageError(str(error)) from error


def _fetched(storage: Storage, number: int) -> Place:
    images = np.array([number], dtype=np.int64)
    if storage.is_local:
        (found,) = local_places(storage, images)
    else:
        until_exit, scratch = _scratch()
        (found,) = until_exit.enter_context(storage.fetch(images, scratch))
    if isinstance(found, str):
        raise ImageError(found)
    return found


@functools.cache
def _scratch() -> tuple[contextlib.ExitStack, Path]:
    """A stack of contexts to close at exit, and a scratch folder that is removed after them."""
    until_exit = contextlib.ExitStack()
    atexit.register(until_exit.close)
    return until_exit, Path(until_exit.enter_context(tempfile.TemporaryDirectory(prefix="sppfeat-")))
