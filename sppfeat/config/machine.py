"""The cores, the memory and the optional packages that this process may use.

Decoding workers and ``--help`` import this module, so it uses the standard library only.
"""

import ctypes
import functools
import importlib
import math
import mmap
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sppfeat.errors import ConfigError

__all__ = [
    "available_cores",
    "available_nbytes",
    "check_copy",
    "drop_pages",
    "import_extra",
    "keep_freed_memory",
    "return_freed_memory",
    "row_ranges",
    "user_cache_folder",
    "visible_cores",
]

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _NEVER = -1, -4, -1
_UNCHECKED_NBYTES = 1 << 29  # smaller copies are made without reading the limits


def available_cores(root: Path = Path("/")) -> int:
    """Number of cores that the system lets this process use, by its affinity and the quotas of its control groups.

    A container that may use two of 64 cores still sees all 64, and 64 threads there are throttled most of the time.
    Tests replace ``root``, the root of the file system.
    """
    cores = float(visible_cores())
    legacy = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    for words in _group_limits(root, "cpu", unified="cpu.max", legacy=legacy):
        if len(words) == 2 and all(word.isdecimal() and int(word) > 0 for word in words):  # not "max", nor -1
            cores = min(cores, int(words[0]) / int(words[1]))
    return max(1, math.ceil(cores))


def visible_cores() -> int:
    """Number of cores in the affinity of this process, which is the number of threads that other libraries start."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_nbytes(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: all of the machine, or the limit of its control groups."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = _group_limits(root, "memory", unified="memory.max", legacy=("memory.limit_in_bytes",))
    return min([physical, *(int(words[0]) for words in limits if words and words[0].isdecimal())])


def user_cache_folder() -> Path | None:
    """The folder of sppfeat below ``XDG_CACHE_HOME`` or ``~/.cache``; None if neither is an absolute path."""
    top = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(top):
        top = os.path.expanduser("~/.cache")
    return Path(top, "sppfeat") if os.path.isabs(top) else None


def check_copy(path: Path, shape: tuple[int, ...], itemsize: int) -> None:
    """Refuse to copy more rows of a file than fit into memory: the system would kill the process."""
    nbytes = math.prod(shape) * itemsize
    if nbytes > _UNCHECKED_NBYTES and nbytes > (most := available_nbytes()):
        raise ConfigError(
            f"{str(path)!r}: these rows take {nbytes / 1e9:.1f} GB of memory; allowed: {most / 1e9:.1f} GB. Use "
            "iter_batches, or select fewer rows or columns. All rows and columns of one file (rows='status=any', NaN "
            "without descriptor) need no copy"
        )


def row_ranges(n_rows: int, *, row_nbytes: int, nbytes: int) -> Iterator[slice]:
    """Yield consecutive ranges that cover all rows, each of at most ``nbytes`` but at least one row.

    Example:
        >>> list(row_ranges(5, row_nbytes=100, nbytes=250))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, nbytes // max(1, row_nbytes))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def drop_pages(mapped: mmap.mmap) -> None:
    """Release the pages of a mapped file; a later read fetches them from the disk again.

    For reading a large file from end to end: until the system needs the pages for something else, it counts them as
    memory of this process.
    """
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def keep_freed_memory() -> bool:
    """Tell the C library to reuse freed memory instead of returning it to the system.

    Each batch allocates and frees hundreds of megabytes in large pieces. The GNU C library returns each such piece at
    once, and the system clears every new one page by page, which took a quarter of the time of pooling thousands of
    boxes. The setting affects the whole process, so a program may call this function; a library should not. Returns
    False for any other C library.
    """
    if not _has_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))


def return_freed_memory() -> None:
    """Return freed memory to the system.

    Batches of many shapes leave gaps between longer-lived pieces, such as the network's prepared operations. The next
    shape does not fit into these gaps; over 174 shapes they added up to 700 MB.
    """
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def import_extra(module: str, *, extra: str, purpose: str) -> Any:
    """Import a module, such as ``sklearn.svm``, of an optional package, which ``sppfeat[extra]`` installs.

    Raises:
        ConfigError: it is not installed, or cannot be loaded. The message begins with ``purpose``, the feature that
            needs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package
        reason = "which is not installed" if missing else f"which cannot be loaded ({error})"
        raise ConfigError(
            f"{purpose} needs the package {package}, {reason}: pip install 'sppfeat[{extra}]'"
        ) from error


def _group_limits(root: Path, controller: str, *, unified: str, legacy: Sequence[str]) -> Iterator[list[str]]:
    """Yield the words of a limit for each control group of this process, outermost first.

    The limit is in the file ``unified`` of version 2 of control groups, or in the files ``legacy`` of version 1. A
    missing file has no words. A container may see its own group as the outermost one.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers == "":
            folder, names = root / "sys/fs/cgroup", [unified]
        elif controller in controllers.split(","):
            folder, names = root / "sys/fs/cgroup" / controller, list(legacy)
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for n in range(len(parts) + 1):
            yield " ".join(_text(folder.joinpath(*parts[:n], name)) for name in names).split()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


@functools.cache
def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
