"""How much memory this process may use, and what becomes of that which its arrays and tensors leave behind."""

import ctypes
import functools
import math
import mmap
import os
import platform
from pathlib import Path

from sppfeat.config.control_groups import read_limits
from sppfeat.errors import ConfigError

__all__ = ["available_nbytes", "check_copy", "drop_pages", "keep_freed_memory", "return_freed_memory"]

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = -1
_FINE_NBYTES = 1 << 29  # of a copy, of which nobody need be asked


def available_nbytes(root: Path = Path("/")) -> int:
    """Bytes of memory that the system lets this process use: the machine's, or what its control groups leave of it.

    Args:
        root: of the file system.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = read_limits(root, "memory", unified="memory.max", legacy=("memory.limit_in_bytes",))
    return min([physical, *(int(words[0]) for words in limits if words and words[0].isdecimal())])


def check_copy(path: Path, shape: tuple[int, ...], itemsize: int) -> None:
    """Refuse a copy of rows of a file that no memory can hold: the system would end the process.

    Raises:
        ConfigError: it is larger than :func:`available_nbytes`.
    """
    nbytes = math.prod(shape) * itemsize
    if nbytes > _FINE_NBYTES and nbytes > (most := available_nbytes()):
        raise ConfigError(
            f"{str(path)!r}: these rows are a copy of {nbytes / 1e9:.1f} GB, allowed are {most / 1e9:.1f} GB: "
            "take them by iter_batches, or fewer rows or columns. Of one file X is no copy where all of it is asked "
            "for (rows='status=any': with NaN where there is no descriptor)"
        )


def drop_pages(mapped: mmap.mmap) -> None:
    """Give back the memory that a mapped file was read into; what is read again comes from the disk.

    For whoever reads all of a large file once: the system counts these pages as memory of the process until it
    needs them for something else.
    """
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed and hand it out again, instead of giving it back to the system.

    Each batch frees and needs hundreds of megabytes in large pieces. The GNU C library returns each such piece at
    once, and the system clears the fresh one page by page: a quarter of the time of pooling thousands of boxes.
    A switch of the whole process, for programs rather than for libraries.

    Returns:
        Whether the C library has been told: False where it is another one.
    """
    if not _has_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))


def return_freed_memory() -> None:
    """Give back to the system what is free now.

    Batches of many shapes leave memory in pieces between what lives longer, such as the network's prepared
    operations, and the next shape does not fit them: over 174 shapes that came to 700 MB.
    """
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
