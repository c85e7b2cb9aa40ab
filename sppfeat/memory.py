"""How this process deals with the memory that its arrays and tensors leave behind."""

import ctypes
import functools
import mmap
import platform

__all__ = ["drop_pages", "keep_freed_memory", "return_freed_memory"]

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = -1


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
