"""Where the bytes of an image lie on this machine: a file, or a part of one.

Workers get places as they are, so this imports the standard library only.
"""

import errno
import io
import os
import zlib
from typing import BinaryIO, NamedTuple

from sppfeat.errors import ImageError

__all__ = [
    "DEFLATED",
    "STORED",
    "WHOLE_FILE",
    "PartOfFile",
    "Place",
    "RawBytes",
    "place_of",
    "read_at",
    "unpack",
]

WHOLE_FILE = -1
STORED, DEFLATED = "stored", "deflated"


class Place(NamedTuple):
    """Where the bytes of an image lie.

    Attributes:
        path: of a file.
        offset: of the first byte.
        nbytes: from there, or ``WHOLE_FILE``.
        packing: ``stored``: the bytes are the image's; ``deflated``: they have to be unpacked.
        unpacked_nbytes: of the image; ``WHOLE_FILE`` where nothing is packed.
    """

    path: bytes
    offset: int = 0
    nbytes: int = WHOLE_FILE
    packing: str = STORED
    unpacked_nbytes: int = WHOLE_FILE


def place_of(place: bytes | str | Place) -> Place:
    """Return a place; of a path the whole file."""
    return place if isinstance(place, Place) else Place(os.fsencode(place))


class RawBytes(io.RawIOBase):
    """So many bytes as a file to read, unbuffered; what it is made of says how, in ``readinto``.

    Args:
        nbytes: how many.
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return where the next byte comes from."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a byte."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._nbytes}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # as for a file
        self._position = start + offset
        return self._position


class PartOfFile(RawBytes):
    """Some bytes of a file as if they were all of it, unbuffered.

    Args:
        file: open for reading; closed with this.
        offset: of the first byte.
        nbytes: how many; where the file ends before, there are fewer.
    """

    def __init__(self, file: io.FileIO, offset: int, nbytes: int) -> None:
        super().__init__(max(0, min(nbytes, os.fstat(file.fileno()).st_size - offset)))
        self._file = file
        self._offset = offset

    def readinto(self, buffer: "memoryview | bytearray", /) -> int:  # type: ignore[override]
        """Read on, no further than the part goes."""
        target = memoryview(buffer).cast("B")
        wanted = max(0, min(len(target), self._nbytes - self._position))
        n = os.preadv(self._file.fileno(), [target[:wanted]], self._offset + self._position) if wanted else 0
        self._position += n
        return n

    def close(self) -> None:
        """Close the file, too."""
        self._file.close()
        super().close()


def unpack(packed: bytes, place: Place) -> bytes:
    """Return deflated bytes as they were; no more of them than their archive says there are.

    Raises:
        ImageError: damaged, or not what the archive says.
    """
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = decompressor.decompress(packed, place.unpacked_nbytes + 1)
    except zlib.error as error:
        raise ImageError(f"damaged in its archive: {error}") from error
    if len(content) != place.unpacked_nbytes:
        raise ImageError(
            f"damaged in its archive: it unpacks to {'more' if len(content) > place.unpacked_nbytes else len(content)} "
            f"bytes, and should to {place.unpacked_nbytes}"
        )
    return content


def read_at(file: BinaryIO, nbytes: int, position: int) -> bytes:
    """Return bytes from anywhere in a file, which goes on from where it was."""
    before = file.tell()
    file.seek(position)
    content = file.read(nbytes)
    file.seek(before)
    return content
