"""Headers of a tar file; a damaged or truncated file is refused rather than read as far as possible."""

import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from sppfeat.errors import ConfigError

__all__ = ["BLOCK", "tar_headers"]

BLOCK = 512
_LONGEST_HEADER = 16 << 20  # an extended header contains a name and attributes
_LOOKED_BEHIND_END = 1 << 20  # writers fill their last record, usually of 10 kB, with zeros
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def tar_headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the header of each member of an open tar file, which the caller may read in between.

    Raises:
        ConfigError: the file is not a tar file, is compressed, damaged or cut short; the message gives the position.
    """
    nbytes = file.seek(0, os.SEEK_END)
    _check_start(file, nbytes)
    file.seek(0)
    place = 0
    try:
        # surrogateescape keeps names that are not UTF-8.
        archive = tarfile.open(  # noqa: SIM115 - whoever opened the file closes it
            fileobj=cast(BinaryIO, _Guarded(file)), mode="r:", encoding="utf-8", errors="surrogateescape"
        )
        while (header := archive.next()) is not None:
            vars(archive)["members"].clear()  # or it would keep all of them
            if header.size < 0 or archive.offset <= place:
                raise tarfile.ReadError("a size below 0")
            place = archive.offset
            if place > nbytes:
                raise _cut_short(nbytes, place)
            yield header
    except (OSError, ConfigError):
        raise
    except Exception as error:  # many types: ValueError, RecursionError, UnicodeError, ...
        raise ConfigError(f"no header of a tar file at byte {place}: {error}") from error
    _check_end(file, archive.offset, nbytes)


class _Guarded:
    """A file that limits each read to the largest allowed header, whatever size a damaged header claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._read = file.read
        self.seek = file.seek
        self.tell = file.tell

    def read(self, nbytes: int) -> bytes:
        if not 0 <= nbytes <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {nbytes} bytes; allowed: 0 to {_LONGEST_HEADER}")
        return self._read(nbytes)


def _check_start(file: BinaryIO, nbytes: int) -> None:
    """Refuse an empty or compressed file."""
    if nbytes == 0:
        raise ConfigError("it is empty")
    file.seek(0)
    start = file.read(8)
    for signature, name in _PACKED.items():
        if start.startswith(signature):
            raise ConfigError(
                f"it is compressed by {name}, and images in it cannot be read in place: decompress it first, "
                f"by {name} -d; allowed: .tar files without compression"
            )


def _check_end(file: BinaryIO, end: int, nbytes: int) -> None:
    """Refuse a file without an end mark, or with another archive after it."""
    file.seek(end)
    block = file.read(BLOCK)
    if not block:
        raise ConfigError(
            f"it ends at byte {nbytes} without the mark of its end, so that members may be missing; if it is "
            "whole, 'head -c 1024 /dev/zero >> FILE' adds that"
        )
    if block.strip(b"\0"):
        if len(block) < BLOCK:
            raise _cut_short(nbytes, end + BLOCK)
        raise ConfigError(f"it is damaged: no header of a member at byte {end}")
    behind = end + BLOCK
    rest = file.read(_LOOKED_BEHIND_END)
    empty = len(rest) - len(rest.lstrip(b"\0"))
    start = empty // BLOCK * BLOCK
    if _is_header(rest[start : start + BLOCK]):
        raise ConfigError(
            f"another archive begins at byte {behind + start}, behind the end of the first: join tar files by "
            "'tar --concatenate', not by cat"
        )


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _cut_short(nbytes: int, needed: int) -> ConfigError:
    return ConfigError(
        f"it is cut short: it ends at byte {nbytes}, in a member that goes on to byte {needed}"
    )
