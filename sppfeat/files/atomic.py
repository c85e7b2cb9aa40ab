"""Files that are written aside and take their names once they are whole."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from sppfeat.config.wording import reason_of
from sppfeat.errors import StoreError
from sppfeat.files.locks import open_locked
from sppfeat.files.outputs import check_new_file

__all__ = [
    "put_in_place",
    "replace_file",
    "whole_file",
    "whole_files",
    "write_errors",
    "written_aside",
]

_LONGEST_NAME = 240  # bytes of a name, of which file systems take 255


def put_in_place(source: Path, target: Path) -> None:
    """Give a whole file its name, atomically and durably, in place of any file that had it before.

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
def written_aside(
    target: Path, aside: Path, *, place: Callable[[Path, Path], None] = put_in_place
) -> Iterator[Path]:
    """Name a file that takes the name of another at the end of the context; after an error it is removed.

    Args:
        target: name that it takes. A link is replaced itself.
        aside: name that it has until then, in the same folder; a file that is there is removed.
        place: renames it.

    Yields:
        ``aside``; whoever writes it syncs it.

    Raises:
        OSError: a file there cannot be removed.
        StoreError: it cannot be renamed.
    """
    aside.unlink(missing_ok=True)  # left by a process that was killed; it takes space
    try:
        yield aside
        place(aside, target)
    finally:
        _remove(aside)


@contextlib.contextmanager
def whole_file(path: Path, *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Open a file that takes its name at the end of the context; see :func:`whole_files`."""
    with write_errors(str(path)), whole_files([path], overwrite=overwrite) as (file,):
        yield file


@contextlib.contextmanager
def whole_files(paths: Sequence[Path], *, overwrite: bool = True) -> Iterator[list[BinaryIO]]:
    """Open files that take their names together at the end of the context; after an error the old ones remain.

    They grow under other names, always the same ones, so that the next writer overwrites what a killed process left.
    The first file takes its name last: it is there only if the others are. A link stays, and the file that it leads
    to is replaced.

    Args:
        paths: of the files.
        overwrite: False: no file is replaced, not even one that appeared in the meantime.

    Raises:
        StoreError: one of them cannot be written, another process is writing it, or it exists by now.
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


def replace_file(path: Path, content: bytes | memoryview, *, overwrite: bool = True) -> None:
    """Write a whole file; see :func:`whole_file`.

    Raises:
        StoreError: it cannot be written.
    """
    with whole_file(path, overwrite=overwrite) as file:
        file.write(content)


@contextlib.contextmanager
def write_errors(output: str) -> Iterator[None]:
    """Name the output in errors of the system.

    Args:
        output: as messages call it.

    Raises:
        BrokenPipeError: the reader of a pipeline is gone, which is no error to report.
        StoreError: it cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StoreError(f"cannot write {output!r}: {reason_of(error)}") from error


@contextlib.contextmanager
def _growing(path: Path) -> Iterator[tuple[BinaryIO, Path, Path]]:
    """Yield an empty file, its name and the name that it takes; if it still has the first one, it is removed."""
    target = Path(os.path.realpath(path))  # a link stays
    partial = target.with_name(os.fsdecode(b".%b.part" % os.fsencode(target.name)[-_LONGEST_NAME:]))
    with write_errors(str(path)):
        file = _open_alone(partial, path)
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


def _open_alone(partial: Path, path: Path) -> BinaryIO:
    """Open an empty file that nobody else writes as long as it is open.

    Raises:
        OSError: it cannot be opened.
        StoreError: another process has it.
    """
    try:
        fd = open_locked(partial)
    except BlockingIOError as error:
        raise StoreError(f"another process is writing {str(path)!r}") from error
    try:
        os.ftruncate(fd, 0)
        return open(partial, "w+b", opener=lambda *_: fd)  # so that it knows its name
    except BaseException:
        os.close(fd)
        raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
