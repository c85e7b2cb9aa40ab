"""Whether an output can be written, and that only one process does."""

import contextlib
import errno
import fcntl
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from sppfeat.config.values import StrPath
from sppfeat.errors import ConfigError, StoreError

__all__ = ["OutputLock", "ShardLock", "check_new_file", "check_output", "is_being_written", "refuse_input"]

_SUFFIX = ".lock"
_N_LOOKS, _LOOK_SECONDS = 2, 0.01


def check_output(path: Path) -> None:
    """Raise StoreError unless a file can be at ``path``."""
    real = Path(os.path.realpath(path))
    # os.path, because the methods of Path raise on a name that is too long or a folder we may not enter.
    if os.path.isdir(real):
        example = str(path / "features.h5")
        raise StoreError(f"the output {str(path)!r} is a folder; give a file name such as {example!r}")
    if os.path.exists(real) and not os.path.isfile(real):
        raise StoreError(f"the output {str(path)!r} is not a regular file")
    if not os.path.isdir(real.parent):
        raise StoreError(f"the folder of the output does not exist: {str(real.parent)!r}")
    try:
        os.lstat(real)
    except OSError as error:  # such as that there is none
        if error.errno == errno.ENAMETOOLONG:
            raise StoreError(f"the output cannot be {str(path)!r}: {error.strerror}") from error


def check_new_file(path: Path, *, inputs: Sequence[StrPath] = (), overwrite: bool) -> None:
    """Refuse an output that is an input, that exists, or that no file can be.

    Raises:
        ConfigError: it is one of the inputs.
        StoreError: it exists and may not be replaced, or is no file, or its folder is not there.
    """
    check_output(path)
    if not os.path.exists(path):
        return
    refuse_input(path, inputs)
    if not overwrite:
        raise StoreError(f"{str(path)!r} exists; --overwrite replaces it")


def refuse_input(path: Path, inputs: Sequence[StrPath]) -> None:
    """Raise ConfigError if an output is one of the inputs."""
    if not os.path.exists(path):
        return
    if any(os.path.exists(source) and os.path.samefile(path, source) for source in inputs):
        raise ConfigError(f"the output {str(path)!r} is what is read; allowed: another file")


def is_being_written(output: StrPath) -> bool:
    """Whether a process has the :class:`OutputLock` of a file at this moment, where the file system can tell."""
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


def _beside(output: StrPath, suffix: str) -> Path:
    return Path(f"{os.path.realpath(os.fsdecode(output))}{suffix}")


class OutputLock:
    """Keeps a second writer away from an output; released by the system when the process dies.

    The lock is on a file beside the output, so that readers are not kept out. Where the output is a
    link, it is beside what the link leads to: two names of one file are one lock.

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

    def laid_out(self) -> None:
        """Note that the file is there: nobody waits for that."""


class ShardLock:
    """Keeps a second process away from one shard of an output that several processes fill; see :class:`OutputLock`.

    Who wants all of the output is kept away, too. The output is laid out by one process, while the others wait.

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
            stack.callback(self.laid_out)
            self._stack = stack.pop_all()

    def __enter__(self) -> "ShardLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def laid_out(self) -> None:
        """Let the others find the file; once is enough."""
        self._layout.release()


class _FileLock:
    """A lock on a file beside an output.

    Args:
        output: the output file.
        suffix: of the lock's file.
        how: exclusive, or shared with others that share it.
        waits: until it is to be had.
        what: that another process may be writing, for messages.
    """

    def __init__(
        self, output: Path, suffix: str, *, how: int = fcntl.LOCK_EX, waits: bool = False, what: str = ""
    ) -> None:
        self._path = _beside(output, suffix)
        self._how = how if waits else how | fcntl.LOCK_NB
        self._what = what
        self._fd = -1
        while self._fd < 0:
            self._fd = self._try_lock(output)

    def _try_lock(self, output: Path) -> int:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreError(
                f"cannot write to the folder of {str(output)!r}: {self._path.name}: {error.strerror}"
            ) from error
        try:
            self._flock(fd)
        except BlockingIOError as error:
            os.close(fd)
            raise StoreError(
                f"another process is writing {self._what}{str(output)!r} (it holds {self._path.name})"
            ) from error
        except OSError as error:
            warnings.warn(
                f"this file system cannot lock ({error.strerror}): "
                f"see to it that no other process writes {str(output)!r}",
                stacklevel=5,
            )
        except BaseException:
            os.close(fd)
            raise
        try:
            # The file may have been removed, by the process that held it, before we got the lock.
            if os.path.samestat(os.fstat(fd), self._path.stat()):
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)
        return -1

    def _flock(self, fd: int) -> None:
        """Take the lock; who only looks whether it is held has it for some microseconds."""
        for _ in range(_N_LOOKS):
            try:
                return fcntl.flock(fd, self._how)
            except BlockingIOError:
                time.sleep(_LOOK_SECONDS)
        return fcntl.flock(fd, self._how)

    def release(self) -> None:
        """Let others have it; once is enough."""
        if self._fd < 0:
            return
        if not self._is_shared_now():
            with contextlib.suppress(
                OSError
            ):  # a folder that is read-only by now: a file left there is no lock
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
