"""The files beside an output that is being made, and how one of them takes its place."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from sppfeat.config.wording import one_line
from sppfeat.errors import StoreError
from sppfeat.files.locks import check_new_file

__all__ = [
    "extension_of",
    "layout_of",
    "put_in_place",
    "remove_leftovers",
    "replace_file",
    "replacement_of",
    "whole_file",
    "whole_files",
    "write_errors",
]

_LONGEST_NAME = 240  # bytes of a name, of which file systems take 255


def layout_of(output: Path) -> Path:
    """Where a file is laid out before it has its name; what is left there by a killed process is worthless."""
    return Path(f"{output}.sppfeat-layout")


def extension_of(output: Path) -> Path:
    """Where a longer copy of an output is made; what is left there by a killed process is worthless."""
    return Path(f"{output}.sppfeat-longer")


def replacement_of(output: Path) -> Path:
    """Where the file grows that will replace an output; it is continued after an interruption."""
    return Path(f"{output}.partial")


def remove_leftovers(output: Path) -> None:
    """Remove what killed processes left beside an output and nobody can use; the caller holds its lock."""
    longer = extension_of(output)
    for left in (layout_of(output), layout_of(replacement_of(output)), layout_of(longer), longer):
        with contextlib.suppress(OSError):  # it harms nobody but takes space, of which is said when it lacks
            left.unlink(missing_ok=True)


def put_in_place(source: Path, target: Path) -> None:
    """Give a whole file its name, at once and for good; what had that name before is gone.

    Args:
        source: synced already.
        target: in the same folder.

    Raises:
        StoreError: no permission, or the target is a mount of its own.
    """
    try:
        os.replace(source, target)
    except OSError as error:
        raise StoreError(f"cannot rename {str(source)!r} to {str(target)!r}: {error.strerror}") from error
    # Some file systems cannot sync a folder, and some folders cannot be read; the rename has happened.
    with contextlib.suppress(OSError):
        fd = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def whole_file(path: Path, *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which takes its name when all went well; see :func:`whole_files`."""
    with write_errors(str(path)), whole_files([path], overwrite=overwrite) as (file,):
        yield file


@contextlib.contextmanager
def whole_files(paths: Sequence[Path], *, overwrite: bool = True) -> Iterator[list[BinaryIO]]:
    """Files to write, which take their names together when all went well; else the old ones stay, and nothing else.

    They grow under other names, which are those of the next ones, too: what a killed process left is written over. The
    first one takes its name last: it is there only if the others are. A link stays, and what it leads to is replaced.

    Args:
        paths: of the files.
        overwrite: False: nothing is replaced, neither what has come there in the meantime.

    Raises:
        StoreError: one of them cannot be written, another process is writing it, or there is one by now.
    """
    with contextlib.ExitStack() as stack:
        growing = [stack.enter_context(_growing(path)) for path in paths]
        yield [file for file, _, _ in growing]
        for path, (file, _, _) in zip(paths, growing, strict=True):
            with write_errors(str(path)):
                file.flush()
                os.fsync(file.fileno())
            check_new_file(path, overwrite=overwrite)
        with contextlib.ExitStack() as placed:  # undone where a later one cannot be placed
            for _, partial, target in reversed(growing):
                existed = os.path.lexists(target)
                put_in_place(partial, target)
                if not existed:
                    placed.callback(_remove, target)
            placed.pop_all()


@contextlib.contextmanager
def _growing(path: Path) -> Iterator[tuple[BinaryIO, Path, Path]]:
    """An empty file, its name, and the name that it is to have; when it is still there at the end, it is removed."""
    target = Path(os.path.realpath(path))  # a link stays
    partial = target.with_name(os.fsdecode(b".%b.part" % os.fsencode(target.name)[-_LONGEST_NAME:]))
    with write_errors(str(path)):
        file = _grown_alone(partial, path)
    inode = os.fstat(file.fileno()).st_ino
    try:
        yield file, partial, target
    finally:
        # Before it is closed: then another process may have begun with it.
        with contextlib.suppress(OSError):
            if os.stat(partial).st_ino == inode:
                partial.unlink()
        with contextlib.suppress(OSError):  # what could not be written cannot be written on closing, either
            file.close()


@contextlib.contextmanager
def write_errors(output: str) -> Iterator[None]:
    """Say which output could not be written.

    Raises:
        BrokenPipeError: nobody reads on: the end of a pipeline, and no error to speak of.
        StoreError: it cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StoreError(f"cannot write {output!r}: {one_line(error.strerror or str(error))}") from error


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _grown_alone(partial: Path, path: Path) -> BinaryIO:
    """Open an empty file that nobody else writes as long as it is open.

    Raises:
        OSError: it cannot be opened.
        StoreError: another process has it.
    """
    while True:
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):  # some file systems cannot lock
                _lock(fd, path)
            # The one that had it may have given it its name, or removed it, before we got the lock.
            if os.path.exists(partial) and os.path.samestat(os.fstat(fd), os.stat(partial)):
                os.ftruncate(fd, 0)
                return open(partial, "w+b", opener=lambda *_, fd=fd: fd)  # which knows its name
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(f"another process is writing {str(path)!r}") from error


def replace_file(path: Path, content: bytes | memoryview, *, overwrite: bool = True) -> None:
    """Write a whole file; see :func:`whole_file`.

    Raises:
        StoreError: it cannot be written.
    """
    with whole_file(path, overwrite=overwrite) as file:
        file.write(content)
