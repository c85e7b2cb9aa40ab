"""Reads inputs in order, and finds single images by the paths that a feature file records."""

import atexit
import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from sppfeat.errors import ConfigError, ImageError
from sppfeat.files.globs import PathFilter
from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.paths import FolderWalk, PathIndex, PathTable
from sppfeat.files.places import FileVersion, Place
from sppfeat.files.tables import TableFile, to_utf8
from sppfeat.inputs.names import (
    ARCHIVE_SUFFIXES,
    ContainerKind,
    decompress_command,
    is_container,
    is_url,
    kind_of,
    make_absolute,
)
from sppfeat.inputs.patterns import expand, has_braces, is_pattern
from sppfeat.inputs.remote import read_remote
from sppfeat.inputs.segments import OwnLabels, Segment, choose_images, local_places

__all__ = ["find_image", "is_list", "read_inputs", "read_list"]


def read_inputs(
    inputs: Sequence[str],
    paths: PathFilter,
    *,
    stdin: Iterable[bytes] | None = None,
    encoding: str | None = None,
) -> Iterator[Segment]:
    """Yield the images of each input that ``paths`` chooses, in order; see :func:`sppfeat.inputs.list_images`.

    Consecutive image files form one segment.
    """
    skipped = list[Segment]()
    read_local = partial(_read_local, encoding=encoding)
    for is_remote, named in groupby(_entries(inputs, stdin, encoding, skipped.append), is_url):
        yield from (read_remote if is_remote else read_local)(named, paths)
    yield from skipped


def _entries(
    inputs: Sequence[str],
    stdin: Iterable[bytes] | None,
    encoding: str | None,
    on_skipped: Callable[[Segment], None],
) -> Iterator[bytes]:
    """Yield each named file and folder as an absolute path, and each URL unchanged."""
    for text in inputs:
        if is_list(text):
            yield from map(make_absolute, read_list(text, stdin=stdin, encoding=encoding))
            continue
        path = make_absolute(os.fsencode(text))
        if text and ((is_url(path) and not has_braces(text)) or os.path.lexists(path)):
            yield path
        elif is_pattern(text):
            found, skipped = expand(text)
            on_skipped(skipped)
            yield from found
        else:
            raise ConfigError(f"no such file or folder: {text!r}")


def _read_local(named: Iterable[bytes], paths: PathFilter, encoding: str | None) -> Iterator[Segment]:
    """Yield the images of files and folders of this machine."""
    for is_file, together in groupby(named, lambda path: kind_of(path) is None and not os.path.isdir(path)):
        if is_file:
            yield choose_images(Segment(None, PathTable(together)), paths, os.getcwdb())
            continue
        for path in together:
            if os.path.isdir(path):
                yield from _read_folder(path, paths)
                continue
            segment = _read_container(path, encoding)
            yield choose_images(segment, paths, segment.top or os.path.dirname(path))


def _read_folder(top: bytes, paths: PathFilter) -> Iterator[Segment]:
    """Yield the images below a folder, or, if it has none, the images of the archives and tables below it.

    The search is recursive, in natural order, and skips hidden names and system folders.
    """
    walk = _walk(top, has_image_suffix, paths)
    images, containers = PathTable(walk), PathTable(())
    if not len(images):
        walk = _walk(top, is_container, paths)
        containers = PathTable(walk)
    found, side_tables = list[Segment](), list[bytes]()
    folders = {os.path.dirname(name) for name in containers if kind_of(name) is ContainerKind.ARCHIVE}
    for name in containers:
        is_table = kind_of(name) in (ContainerKind.ARROW, ContainerKind.PARQUET)
        is_beside = is_table and os.path.dirname(name) in folders
        segment = (_read_beside_archives if is_beside else _read_container)(os.path.join(top, name))
        if segment is None:
            side_tables.append(name)
        else:
            found.append(choose_images(segment, paths, top))
    own = Segment(
        top,
        images,
        own_labels=OwnLabels.none(len(images)) if _are_shards(top, images) else None,
        n_other_files=walk.n_other_files,
        other_files=tuple(walk.other_files),
        system_folders=tuple(walk.system_folders),
        side_tables=tuple(side_tables),
    )
    yield choose_images(own, paths, top)
    yield from found


def _are_shards(top: bytes, images: PathTable) -> bool:
    """Return True if img2dataset made the folders, which are shards, not classes: each has a file of counts."""
    known = set[bytes]()
    for name in images:
        folder = name.partition(b"/")[0]
        if folder not in known and not os.path.isfile(os.path.join(top, folder + b"_stats.json")):
            return False
        known.add(folder)
    return bool(known)


def _read_beside_archives(path: bytes) -> Segment | None:
    """Find the images of a table in a folder of archives; None if it only describes the archives."""
    stem = os.path.splitext(path)[0]
    if any(os.path.exists(stem + suffix) for suffix in ARCHIVE_SUFFIXES):
        return None
    try:
        segment = _read_container(path)
    except ConfigError:
        return None
    return segment if segment.top is not None else None


def _read_container(path: bytes, encoding: str | None = None) -> Segment:
    """Find the images of an archive or a table, for which :func:`sppfeat.inputs.names.kind_of` gives a kind."""
    # Imported only where needed, since few inputs are of these kinds.
    match kind_of(path):
        case ContainerKind.ARCHIVE:
            from sppfeat.inputs.archives import read_archive

            return read_archive(path)
        case ContainerKind.MANIFEST:
            from sppfeat.inputs.tables import read_manifest

            return read_manifest(path, encoding)
        case ContainerKind.PARQUET:
            from sppfeat.inputs.tables.parquet import read_parquet

            return read_parquet(path)
        case ContainerKind.ARROW:
            from sppfeat.inputs.tables.arrow import read_arrow

            return read_arrow(path)
    raise ConfigError(
        f"the archive {os.fsdecode(path)!r} is compressed as a whole, so images cannot be read in place: "
        f"decompress it first, by '{decompress_command(path)}'; allowed: .tar, .zip"
    )


def _walk(top: bytes, is_wanted: Callable[[bytes], bool], paths: PathFilter) -> FolderWalk:
    def error(folder: bytes, what: str) -> ConfigError:
        return ConfigError(f"the folder {os.fsdecode(os.path.join(top, folder) if folder else top)!r} {what}")

    return FolderWalk(top, is_wanted, error=error, paths=paths)


def is_list(text: str) -> bool:
    """Return True if an input is a list (``@FILE`` or ``-``) rather than a name."""
    return text == "-" or text.startswith("@")


def read_list(text: str, *, stdin: Iterable[bytes] | None = None, encoding: str | None = None) -> list[bytes]:
    """Read the nonempty entries of a list, separated by newlines, or by NUL if it contains one.

    Args:
        text: ``@FILE``, or ``-`` for standard input.
        stdin: chunks of bytes for ``-``; None for standard input.
        encoding: that of a list without a byte order mark; None for names as the file system has them.

    Raises:
        ConfigError: the list cannot be read, or is not in ``encoding``.
    """
    if text == "-":
        content, where = b"".join(_standard_input() if stdin is None else stdin), "the list on standard input"
    else:
        where = f"the list {text[1:]!r}"
        try:
            with open(text[1:], "rb") as file:
                content = file.read()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"cannot read {where}: {reason}") from error
    content = to_utf8(TableFile(os.fsencode(text.removeprefix("@"))), content, encoding)
    if b"\0" in content:
        entries = content.split(b"\0")
    else:
        entries = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    return [entry for entry in entries if entry]


def _standard_input() -> Iterator[bytes]:
    if sys.stdin is None:  # started with <&-
        raise ConfigError("cannot read the list on standard input: it is closed")
    return iter(lambda: sys.stdin.buffer.read(1 << 20), b"")


_N_HELD = 4  # containers whose names stay in memory


def find_image(root: bytes, path: bytes) -> Place:
    """Find the bytes of an image by its recorded path.

    Args:
        root: folder above the images; empty for the working directory.
        path: path of the image relative to ``root``: a file, or an archive followed by the name of an image in it.
            Both together may be a URL.

    Returns:
        The place of the image, valid as long as this process runs. The file need not be readable.

    Raises:
        ImageError: the file does not exist, and no readable archive contains such an image.
        SourceError: the image is remote and cannot be reached.
    """
    whole = os.path.join(root, path)
    if not is_url(whole) and os.path.lexists(whole):
        return Place(whole)
    end, top = len(whole), whole.find(b"://") + 2 if is_url(whole) else 0
    while (end := whole.rfind(b"/", 0, end)) > top:
        container = whole[:end]
        if is_url(whole) and kind_of(container) is ContainerKind.ARCHIVE:
            return _place_in(container, None, whole[end + 1 :])
        if kind_of(container) is not None and os.path.isfile(container):
            return _place_in(os.path.abspath(container), FileVersion.of(container), whole[end + 1 :])
    if not is_url(whole):
        raise ImageError("no such file")
    return _fetched(_read(whole), 0)


def _place_in(container: bytes, version: FileVersion | None, name: bytes) -> Place:
    """Find an image in an archive or table."""
    segment, index = _held(container, version)
    number = int(index.positions([name])[0])
    if number < 0:
        raise ImageError(f"no such image in {os.fsdecode(container)!r}")
    return _fetched(segment, number)


@functools.lru_cache(_N_HELD)
def _held(path: bytes, version: FileVersion | None) -> tuple[Segment, PathIndex]:  # noqa: ARG001 - one for each
    segment = _read(path)
    return segment, PathIndex(segment.names)


def _read(path: bytes) -> Segment:
    try:
        return next(iter(read_remote([path]))) if is_url(path) else _read_container(path)
    except ConfigError as error:
        raise ImageError(str(error)) from error


def _fetched(segment: Segment, number: int) -> Place:
    images, storage = np.array([number], dtype=np.int64), segment.storage
    if storage is None:
        raise ImageError("no such file")
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
