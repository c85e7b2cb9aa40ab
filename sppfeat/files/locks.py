"""Locks that keep a second writer away from an output; the system releases them when the process dies."""

import contextlib
import fcntl
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from sppfeat.config.values import StrPath
from sppfeat.errors import StoreError

__all__ = ["OutputLock", "ShardLock", "is_being_written", "open_locked"]

_SUFFIX = ".lock"
_N_LOOKS, _LOOK_SECONDS = 2, 0.01


def open_locked(
    path: Path,
    how: int = fcntl.LOCK_EX | fcntl.LOCK_NB,
    *,
    on_no_locks: Callable[[OSError], None] = lambda _: None,
) -> int:
    """Open a file, made where it is missing, and lock it until it is closed.

    Args:
        path: of the file.
        how: an operation of ``flock``.
        on_no_locks: called if the file system cannot lock; the file is opened all the same.

    Returns:
        Its file descriptor.

    Raises:
        BlockingIOError: another process has the lock.
        OSError: it cannot be opened.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                _flock(fd, how)
            except BlockingIOError:
                raise
            except OSError as error:
                on_no_locks(error)
            # The process that held it may have removed or renamed the file before we got the lock.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def is_being_written(output: StrPath) -> bool:
    """Return True if a process holds the :class:`OutputLock` of a file now, where the file system can tell."""
    try:
        fd = os.open(_beside(output, _SUFFIX), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False  # there is none
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


class OutputLock:
    """Keeps a second writer away from an output; the system releases it when the process dies.

    A file beside the output is locked, so that readers are not kept out. Where the output is a link, that file lies
    beside the file that the link leads to: two names of one file share one lock.

    Args:
        output: the output file.

    Raises:
        StoreError: another process has it, or the folder cannot be written to.
    """

    def __init__(self, output: Path) -> None:
        self._lock = _FileLock(output, _SUFFIX)

    def __enter__(self) -> "OutputLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def announce_layout(self) -> None:
        """Do nothing: no other process waits for the file to be laid out."""


class ShardLock:
    """Keeps a second process away from one shard of an output that several processes fill; see :class:`OutputLock`.

    A process that wants all of the output is kept away, too. One process lays out the output while the others wait.

    Args:
        output: the output file.
        shard: name of the shard.

    Raises:
        StoreError: another process has the shard, or all of the output.
    """

    def __init__(self, output: Path, shard: str) -> None:
        with contextlib.ExitStack() as stack:
            every = _FileLock(output, _SUFFIX, how=fcntl.LOCK_SH)
            stack.callback(every.release)
            own = _FileLock(output, f".{shard}.lock", what=f"shard {shard} of ")
            stack.callback(own.release)
            self._layout = _FileLock(output, ".layout.lock", waits=True)
            stack.callback(self.announce_layout)
            self._stack = stack.pop_all()

    def __enter__(self) -> "ShardLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def announce_layout(self) -> None:
        """Let the waiting processes find the file, now that it is laid out; further calls do nothing."""
        self._layout.release()


class _FileLock:
    """A lock on a file beside an output.

    Args:
        output: the output file.
        suffix: of the lock's file.
        how: exclusive, or shared with others that share it.
        waits: until the lock is free, rather than raise.
        what: part of the output that another process may be writing, for messages.
    """

    def __init__(
        self, output: Path, suffix: str, *, how: int = fcntl.LOCK_EX, waits: bool = False, what: str = ""
    ) -> None:
        self._path = _beside(output, suffix)

        def warn(error: OSError) -> None:
            warnings.warn(
                f"this file system cannot lock ({error.strerror}): "
                f"see to it that no other process writes {str(output)!r}",
                stacklevel=6,
            )

        try:
            self._fd = open_locked(self._path, how if waits else how | fcntl.LOCK_NB, on_no_locks=warn)
        except BlockingIOError as error:
            raise StoreError(
                f"another process is writing {what}{str(output)!r} (it holds {self._path.name})"
            ) from error
        except OSError as error:
            raise StoreError(
                f"cannot write to the folder of {str(output)!r}: {self._path.name}: {error.strerror}"
            ) from error

    def release(self) -> None:
        """Release the lock; further calls do nothing."""
        if self._fd < 0:
            return
        if not self._is_shared_now():
            # A folder may be read-only by now; a file that stays behind locks nothing.
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    def _is_shared_now(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system that cannot lock
            return False
        return False


def _beside(output: StrPath, suffix: str) -> Path:
    return Path(f"{os.path.realpath(os.fsdecode(output))}{suffix}")


def _flock(fd: int, how: int) -> None:
    """Lock a file; :func:`is_being_written` of another process may hold its lock for some microseconds."""
    for _ in range(_N_LOOKS):
        try:
            return fcntl.flock(fd, how)
        except BlockingIOError:
            time.sleep(_LOOK_SECONDS)
    return fcntl.flock(fd, how)
