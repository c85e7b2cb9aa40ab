"""Memory maps of datasets that other processes can map again by name."""

import contextlib
import os
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.errors import StoreError

__all__ = ["FileName", "map_dataset"]


class FileName(str):
    """The name of an open file, by which other processes find that file even after it was replaced.

    joblib sends a memory map to its worker processes as a name, a place and a shape. Pickled, this name becomes one
    that has the device and inode of the open file when the other process looks: the name itself, or the descriptor
    under ``/proc`` of the process that holds it.

    Args:
        path: absolute path of the file.
        descriptor: descriptor of the open file, which is duplicated.
    """

    def __new__(cls, path: str, descriptor: int) -> "FileName":
        """Make the name of an open file: its path if that still belongs to it, else the one under ``/proc``."""
        own = os.dup(descriptor)
        name = super().__new__(cls, path if _is_file(path, *_identity(os.fstat(own))) else _name_of(own))
        name._path, name._descriptor = path, own
        weakref.finalize(name, os.close, own)
        return name

    _path: str
    _descriptor: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _find_file, (self._path, _name_of(self._descriptor), *_identity(os.fstat(self._descriptor)))


def map_dataset(
    path: str, descriptor: int, dtype: np.dtype[Any], *, offset: int, shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """Return a part of an open file as a read-only memory map.

    Args:
        path: absolute path of the file; another file may have taken it over.
        descriptor: descriptor of the open file; the caller may close it.
        dtype, shape: type and shape of the result, which is not empty.
        offset: position of its first byte in the file.
    """
    with os.fdopen(os.dup(descriptor), "rb") as raw:
        mapped = np.memmap(raw, dtype=dtype, mode="r", offset=offset, shape=shape)
    mapped.filename = FileName(path, descriptor)  # numpy finds none by a descriptor
    return mapped


def _name_of(descriptor: int) -> str:
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_file(path: str, device: int, inode: int) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return _identity(os.stat(path)) == (device, inode)
    return False


def _find_file(path: str, descriptor: str, device: int, inode: int) -> str:
    """Return whichever of two names belongs to the file with this device and inode."""
    for name in (path, descriptor):
        if _is_file(name, device, inode):
            return name
    raise StoreError(f"{path!r} was replaced since it was opened; open it again")
