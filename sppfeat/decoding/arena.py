"""The arena: one block of memory that the workers share; its size limits the look-ahead."""

import mmap
import os
import tempfile

import numpy as np
import numpy.typing as npt

__all__ = ["Arena", "map_arena"]


class Arena:
    """A shared, anonymous block of bytes with a first-fit allocator.

    It has no name in any file system, so nothing remains however the process ends. Pages take memory once they are
    written to. A child process can map its descriptor ``fd``; ``buffer`` ``(nbytes,)`` uint8 is the whole block.
    """

    def __init__(self, nbytes: int) -> None:
        self.fd = _anonymous_file()
        self.buffer: npt.NDArray[np.uint8]
        self._free: list[tuple[int, int]]  # (offset, length), sorted, never adjacent
        try:
            self.resize(nbytes)
        except BaseException:
            os.close(self.fd)
            raise

    def resize(self, nbytes: int) -> None:
        """Grows to ``nbytes`` while nothing is allocated; processes that mapped the old size must map it again."""
        os.ftruncate(self.fd, nbytes)
        self.buffer = map_arena(self.fd)
        self._free = [(0, nbytes)]

    def allocate(self, nbytes: int) -> int | None:
        """Allocates a piece of ``nbytes`` and returns its offset; None if no gap is large enough."""
        for i, (offset, length) in enumerate(self._free):
            if length >= nbytes:
                self._free[i : i + 1] = [(offset + nbytes, length - nbytes)] if length > nbytes else []
                return offset
        return None

    def free(self, offset: int, nbytes: int) -> None:
        """Frees a piece that :meth:`allocate` returned."""
        pieces = sorted([*self._free, (offset, nbytes)])
        merged = pieces[:1]
        for start, length in pieces[1:]:
            last_start, last_length = merged[-1]
            if last_start + last_length == start:
                merged[-1] = (last_start, last_length + length)
            else:
                merged.append((start, length))
        self._free = merged

    def close(self) -> None:
        """Closes the descriptor; the memory is freed with the last array that views it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def map_arena(fd: int) -> npt.NDArray[np.uint8]:
    """Maps the whole block of an arena's descriptor as a writable array, ``(nbytes,)`` uint8."""
    return np.frombuffer(mmap.mmap(fd, 0), dtype=np.uint8)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sppfeat-pixels")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
