"""Output files: checks their paths, locks them against second writers, and writes them atomically."""

import contextlib
import errno
import fcntl
import os
import shlex
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from sppfeat.config.values import StrPath
from sppfeat.config.wording import reason_of
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.remote import url_of

__all__ = [
    "OutputLock",
    "check_feature_path",
    "check_new_file",
    "check_output",
    "extension_of",
    "format_suffix",
    "is_being_written",
    "layout_of",
    "put_in_place",
    "refuse_input",
    "remove_leftovers",
    "replace_file",
    "replacement_of",
    "sync_path",
    "whole_file",
    "whole_files",
    "write_errors",
    "written_aside",
]

# Suffixes of feature files, of the formats that 'sppfeat export' writes, and of other formats.
_FEATURES = ".h5 .hdf5 .hdf .he5"
_EXPORTED = (
    ".csv .csv.gz .libsvm .mat .npy .npz .parquet .pq .pt .pth .safetensors .svm .svmlight .tsv .tsv.gz .zarr"
)
_OTHERS = (
    ".7z .arrow .avro .bin .bz2 .ckpt .db .doc .docx .feather .gif .gz .html .jpeg .jpg .json .jsonl .log .md .ndjson "
    ".onnx .orc .pdf .pickle .pkl .png .skops .sqlite .svg .tar .tgz .tif .tiff .txt .webp .xls .xlsx .xml .xz .yaml "
    ".yml .zip .zst"
)
_LONGEST_NAME = 240  # bytes of a file name; file systems allow 255
_SUFFIX = ".lock"
_N_LOOKS, _LOOK_SECONDS = 2, 0.01


def check_output(path: Path) -> None:
    """Raise StoreError if a path is not a regular file, its folder is missing, or its name is too long."""
    real = Path(os.path.realpath(path))
    # os.path, because the methods of Path raise on a name that is too long or a folder that we may not enter.
    if os.path.isdir(real):
        example = str(path / f"features{format_suffix(path) or '.h5'}")
        raise StoreError(f"the output {str(path)!r} is a folder; give a file name such as {example!r}")
    if os.path.exists(real) and not os.path.isfile(real):
        raise StoreError(f"the output {str(path)!r} is not a regular file")
    if not os.path.isdir(real.parent):
        raise StoreError(f"the folder of the output does not exist: {str(real.parent)!r}")
    try:
        os.lstat(real)
    except OSError as error:  # such as: it does not exist
        if error.errno == errno.ENAMETOOLONG:
            raise StoreError(f"cannot use {str(path)!r} as output: {error.strerror}") from error


def format_suffix(path: StrPath) -> str:
    """Return the suffix of a path, in lower case, if it is that of a known file format; else an empty text.

    Example:
        >>> format_suffix("a.csv.gz"), format_suffix("B.H5"), format_suffix("run-0.5")
        ('.csv.gz', '.h5', '')
    """
    name = os.path.basename(os.fspath(path)).lower()
    return max(filter(name.endswith, f"{_FEATURES} {_EXPORTED} {_OTHERS}".split()), key=len, default="")


def check_feature_path(path: StrPath) -> None:
    """Raise ConfigError if a feature file cannot have this path: ``-``, or the suffix of another format.

    Any other suffix is allowed, or none.
    """
    shown, suffix = url_of(path) or os.fspath(path), format_suffix(path)
    if shown == "-":
        raise ConfigError(
            "cannot write a feature file to standard output; write a feature file (.h5), then: "
            "sppfeat export features.h5 -o - --format csv"
        )
    if not suffix or suffix in _FEATURES.split():
        return
    found = f"the output {shown!r} would be an HDF5 file with the suffix {suffix}"
    if suffix not in _EXPORTED.split():
        raise ConfigError(f"{found}; use .h5 ('sppfeat export' writes other formats)")
    folder, name = os.path.split(shown)
    features = os.path.join(folder, f"{name[: -len(suffix)] or 'features'}.h5")
    command = f"sppfeat export {shlex.quote(features)} -o {shlex.quote(shown)}"
    raise ConfigError(f"{found}; write a feature file (.h5), then: {command}")


def check_new_file(path: Path, *, inputs: Sequence[object] = (), overwrite: bool) -> None:
    """Check that a new file may be written to a path, and that the path is not one of the inputs.

    Raises:
        ConfigError: the output is one of the inputs.
        StoreError: as :func:`check_output` does, and if the output exists, unless ``overwrite`` is True.
    """
    check_output(path)
    refuse_input(path, inputs)
    if os.path.exists(path) and not overwrite:
        raise StoreError(f"{str(path)!r} exists; add --overwrite to replace it")


def refuse_input(path: Path, inputs: Sequence[object]) -> None:
    """Raise ConfigError if an output is the same file as one of the inputs, even under another name."""
    paths = [given for given in inputs if isinstance(given, str | os.PathLike) and os.path.exists(given)]
    if os.path.exists(path) and any(os.path.samefile(path, given) for given in paths):
        raise ConfigError(f"the output {str(path)!r} is also an input; allowed: another file")


def layout_of(output: Path) -> Path:
    """Path under which a file is laid out before it takes its name; leftovers there can be removed."""
    return Path(f"{output}.sppfeat-layout")


def extension_of(output: Path) -> Path:
    """Path of the longer copy that extends an output; leftovers there can be removed."""
    return Path(f"{output}.sppfeat-longer")


def replacement_of(output: Path) -> Path:
    """Path of the file that will replace an output; the next run continues it after an interruption."""
    return Path(f"{output}.partial")


def remove_leftovers(output: Path) -> None:
    """Remove the leftovers of killed processes next to an output; the caller holds its lock."""
    longer = extension_of(output)
    for left in (layout_of(output), layout_of(replacement_of(output)), layout_of(longer), longer):
        _remove(left)


def _open_locked(path: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB, *, output: Path | None = None) -> int:
    """Open a file, creating it if it is missing, and lock it (``how``, of ``flock``) until its descriptor is closed.

    A warning names the ``output``, if any, if the file system cannot lock. BlockingIOError is raised if another process
    holds the lock.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                _flock(fd, how)
            except BlockingIOError:
                raise
            except OSError as error:
                if output is not None:
                    warnings.warn(
                        f"this file system cannot lock ({error.strerror}): make sure that no other process "
                        f"writes {str(output)!r}",
                        stacklevel=4,
                    )
            # The process that held it may have removed or renamed the file before we got the lock.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def is_being_written(output: StrPath) -> bool:
    """Return True if a process holds the :class:`OutputLock` of a file now; False if the file system cannot tell."""
    try:
        fd = os.open(_beside(output, _SUFFIX), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False  # there is no lock file
    try:
        return _is_locked(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


class OutputLock(contextlib.ExitStack):
    """Locks an output against a second writer; StoreError is raised if another process holds the lock.

    The lock is on a separate file next to the output, so readers are never locked out. If the output is a symbolic
    link, the lock file is next to its target, so that two names of one file share one lock. With ``shard``, processes
    that fill other shards may write, too: one of them lays out the output while the others wait.
    """

    def __init__(self, output: Path, *, shard: str | None = None) -> None:
        super().__init__()
        self._layout = contextlib.ExitStack()
        if shard is None:
            self.callback(_lock_beside(output, _SUFFIX))
            return
        with contextlib.ExitStack() as stack:
            stack.callback(_lock_beside(output, _SUFFIX, how=fcntl.LOCK_SH | fcntl.LOCK_NB))
            stack.callback(_lock_beside(output, f".{shard}.lock", what=f"shard {shard} of "))
            self._layout.callback(_lock_beside(output, ".layout.lock", how=fcntl.LOCK_EX))  # waits
            stack.callback(self.announce_layout)
            self.push(stack.pop_all())

    def announce_layout(self) -> None:
        """Let the processes that fill other shards continue, now that the file is laid out."""
        self._layout.close()


def _lock_beside(
    output: Path, suffix: str, *, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB, what: str = ""
) -> Callable[[], None]:
    """Lock a file next to an output (``what`` names a part of it), and return the function that releases the lock."""
    path = _beside(output, suffix)
    try:
        fd = _open_locked(path, how, output=output)
    except BlockingIOError as error:
        raise StoreError(
            f"another process is writing {what}{str(output)!r} (it holds {path.name})"
        ) from error
    except OSError as error:
        raise StoreError(
            f"cannot write to the folder of {str(output)!r}: {path.name}: {error.strerror}"
        ) from error

    def release() -> None:
        if not _is_locked(fd, fcntl.LOCK_EX):  # by others that share the lock
            _remove(path)
        os.close(fd)

    return release


def _is_locked(fd: int, how: int) -> bool:
    """Return True if the lock of another process excludes this one; False if the file system cannot lock."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _beside(output: StrPath, suffix: str) -> Path:
    return Path(f"{os.path.realpath(os.fsdecode(output))}{suffix}")


def _flock(fd: int, how: int) -> None:
    """Lock a file, with retries, since :func:`is_being_written` holds the lock for some microseconds."""
    for _ in range(_N_LOOKS):
        try:
            return fcntl.flock(fd, how)
        except BlockingIOError:
            time.sleep(_LOOK_SECONDS)
    return fcntl.flock(fd, how)


def put_in_place(source: Path, target: Path) -> None:
    """Rename a complete, synced file to its final name, atomically and durably, replacing any file of that name.

    StoreError is raised if permission is denied, or the target is a mount point.
    """
    try:
        os.replace(source, target)
    except OSError as error:
        raise StoreError(f"cannot rename {str(source)!r} to {str(target)!r}: {error.strerror}") from error
    # Some file systems cannot sync a folder, and some folders cannot be read. The rename has happened nevertheless.
    with contextlib.suppress(OSError):
        sync_path(target.parent)


def sync_path(path: StrPath) -> None:
    """Sync a file or a folder to the disk; OSError is raised if that is impossible."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def written_aside(target: Path, aside: Path) -> Iterator[Path]:
    """Provide a path to write to, and rename it to ``target`` at the end of the context; remove it after an error.

    An existing file at ``aside``, in the same folder, is removed first. The caller writes the file and syncs it. If the
    target is a symbolic link, the link is replaced.
    """
    aside.unlink(missing_ok=True)  # left by a killed process
    try:
        yield aside
        put_in_place(aside, target)
    finally:
        _remove(aside)


@contextlib.contextmanager
def whole_file(output: StrPath | BinaryIO, *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Open a file that takes its name at the end of the context (see :func:`whole_files`); pass a stream through."""
    if isinstance(output, str | os.PathLike):
        with write_errors(str(output)), whole_files([Path(output)], overwrite=overwrite) as (file,):
            yield file
    else:
        with write_errors(str(getattr(output, "name", "the stream"))):
            yield output
            output.flush()


@contextlib.contextmanager
def whole_files(paths: Sequence[Path], *, overwrite: bool = True) -> Iterator[list[BinaryIO]]:
    """Open files that take their names together at the end of the context; after an error the old files remain.

    Each file grows under a fixed temporary name, so that the next writer overwrites the remains of a killed process.
    The first file takes its name last, so it exists only if all others do. A symbolic link stays, and its target is
    replaced. Without ``overwrite`` no file is replaced, not even one that appears in the meantime.

    Raises:
        StoreError: a file cannot be written, another process is writing it, or it exists and must not be replaced.
    """
    with contextlib.ExitStack() as stack:
        growing = [stack.enter_context(_growing(path)) for path in paths]
        yield [file for file, _, _ in growing]
        for path, (file, _, _) in zip(paths, growing, strict=True):
            with write_errors(str(path)):
                file.flush()
                os.fsync(file.fileno())
            check_new_file(path, overwrite=overwrite)
        with contextlib.ExitStack() as placed:  # undone if renaming a later one fails
            for _, partial, target in reversed(growing):
                existed = os.path.lexists(target)
                put_in_place(partial, target)
                if not existed:
                    placed.callback(_remove, target)
            placed.pop_all()


def replace_file(path: Path, content: bytes | memoryview, *, overwrite: bool = True) -> None:
    """Write a file atomically; see :func:`whole_file`."""
    with whole_file(path, overwrite=overwrite) as file:
        file.write(content)


@contextlib.contextmanager
def write_errors(output: str) -> Iterator[None]:
    """Convert any OSError in the context to a StoreError that names the output.

    BrokenPipeError passes through: the reader of a pipeline has gone, and nobody needs a report.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StoreError(f"cannot write {output!r}: {reason_of(error)}") from error


@contextlib.contextmanager
def _growing(path: Path) -> Iterator[tuple[BinaryIO, Path, Path]]:
    """Yield an empty file, its temporary path and its final path; a file that is not renamed is removed."""
    target = Path(os.path.realpath(path))  # a link stays
    partial = target.with_name(os.fsdecode(b".%b.part" % os.fsencode(target.name)[-_LONGEST_NAME:]))
    with write_errors(str(path)):
        try:
            fd = _open_locked(partial)
        except BlockingIOError as error:
            raise StoreError(f"another process is writing {str(path)!r}") from error
        os.ftruncate(fd, 0)
        file = open(partial, "w+b", opener=lambda *_: fd)  # noqa: SIM115 - closed below; so opened, it knows its name
    inode = os.fstat(file.fileno()).st_ino
    try:
        yield file, partial, target
    finally:
        # Removed before it is closed: once the lock is gone, another process may have opened it.
        with contextlib.suppress(OSError):
            if os.stat(partial).st_ino == inode:
                partial.unlink()
        with contextlib.suppress(OSError):  # after a failed write, closing fails again
            file.close()


def _remove(path: Path) -> None:
    # The folder may have become read-only. A leftover file locks nothing and only takes up space.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
