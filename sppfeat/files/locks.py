"""Locks that keep a second writer away from an output; the system releases them when the process dies."""

import contextlib
import fcntl
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

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
    """Open a file, creating it if it is missing, and lock it (``how``, of ``flock``) until its descriptor is closed.

    ``on_no_locks`` is called if the file system cannot lock. BlockingIOError is raised if another process holds the
    lock.
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
    """Return True if a process holds the :class:`OutputLock` of a file now, as far as the file system can tell."""
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


class OutputLock(contextlib.ExitStack):
    """Locks an output against a second writer; StoreError is raised if another process holds the lock.

    The lock is on a separate file next to the output, so that readers are not locked out. If the output is a symbolic
    link, the lock file is next to its target, so that two names of one file share one lock.
    """

    def __init__(self, output: Path) -> None:
        super().__init__()
        self.callback(_lock_beside(output, _SUFFIX))

    def announce_layout(self) -> None:
        """Do nothing: no other process waits for the file to be laid out."""


class ShardLock(contextlib.ExitStack):
    """Locks the named shard of an output that several processes fill, and the whole output; see :class:`OutputLock`.

    One process lays out the output while the others wait.
    """

    def __init__(self, output: Path, shard: str) -> None:
        super().__init__()
        with contextlib.ExitStack() as stack:
            stack.callback(_lock_beside(output, _SUFFIX, how=fcntl.LOCK_SH | fcntl.LOCK_NB))
            stack.callback(_lock_beside(output, f".{shard}.lock", what=f"shard {shard} of "))
            self._layout = contextlib.ExitStack()
            self._layout.callback(_lock_beside(output, ".layout.lock", how=fcntl.LOCK_EX))  # waits
            stack.callback(self.announce_layout)
            self.push(stack.pop_all())

    def announce_layout(self) -> None:
        """Let the waiting processes continue, now that the file is laid out; further calls do nothing."""
        self._layout.close()


def _lock_beside(
    output: Path, suffix: str, *, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB, what: str = ""
) -> Callable[[], None]:
    """Lock a file next to an output (``what`` names a part of it), and return the function that releases the lock."""
    path = _beside(output, suffix)

    def warn(error: OSError) -> None:
        warnings.warn(
            f"this file system cannot lock ({error.strerror}): see to it that no other process writes {str(output)!r}",
            stacklevel=5,
        )

    try:
        fd = open_locked(path, how, on_no_locks=warn)
    except BlockingIOError as error:
        raise StoreError(
            f"another process is writing {what}{str(output)!r} (it holds {path.name})"
        ) from error
    except OSError as error:
        raise StoreError(
            f"cannot write to the folder of {str(output)!r}: {path.name}: {error.strerror}"
        ) from error

    def release() -> None:
        if not _is_shared(fd):
            # The folder may have become read-only; a lock file left behind locks nothing.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        os.close(fd)

    return release


def _is_shared(fd: int) -> bool:
    """Return True if other processes hold a shared lock as well."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system that cannot lock
        return False
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
