"""Guards against image files that would take gigabytes of memory or minutes to decode.

Pillow's own guard counts pixels only, but small files can exhaust memory and time in other ways.
"""

import io
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from PIL import Image, ImageFile, TiffImagePlugin

from sppfeat.errors import ImageError
from sppfeat.files.byte_ranges import read_at

__all__ = [
    "PILLOW",
    "HeaderReader",
    "check_precincts",
    "check_scans",
    "check_tiles",
]

_MOST_HEADER_READS = 250_000  # about a quarter of a second; real headers take some hundreds
_MOST_PRECINCTS = 100_000  # in a small JPEG 2000; a larger one may have one per 64 pixels
_MOST_SCANS = 500  # in a JPEG; real ones have about ten
_MOST_SCANNED_PIXELS = 50_000_000_000  # pixels times scans of a JPEG; these take about seven seconds


class _PillowSettings:
    """Pillow's process-wide settings, changed while a file is read.

    Pillow's guard against decompression bombs, which also covers frames and tiles, gets our limit. Its tolerance of
    truncated files, which the owner of the process may have switched on, is switched off. Other threads may read at
    the same time with the same settings; a thread that needs different ones waits.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_readers = 0
        self._before: tuple[int | None, bool] = (None, False)

    @contextmanager
    def refusing_more_than(self, max_pixels: int) -> Iterator[None]:
        """Makes Pillow refuse larger images while the context lasts."""
        wanted = ((max_pixels + 1) // 2, False)  # Pillow allows twice its limit
        with self._changed:
            self._changed.wait_for(lambda: not self._n_readers or self._in_force() == wanted)
            if not self._n_readers:
                self._before = self._in_force()
                self._enforce(wanted)
            self._n_readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_readers -= 1
                if not self._n_readers:
                    self._enforce(self._before)
                    self._changed.notify_all()

    def _in_force(self) -> tuple[int | None, bool]:
        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES

    def _enforce(self, settings: tuple[int | None, bool]) -> None:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = settings


PILLOW = _PillowSettings()
"""Pillow's settings in this process."""


class HeaderReader(io.BufferedReader):
    """A file reader that gives up on an endless header.

    Pillow reads some headers byte by byte, or keeps every part of them: comments of a PNM, padding in a JPEG,
    millions of empty chunks of a PNG. A file of 30 MB would take it half a minute, or a gigabyte.
    """

    n_reads_left: int | None = _MOST_HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads bytes of the file; set ``n_reads_left`` to None once the header has ended.

        Raises:
            ImageError: the header has not ended after 250,000 reads.
        """
        if self.n_reads_left is not None:
            self.n_reads_left -= 1
            if self.n_reads_left < 0:
                raise ImageError(
                    f"its header has not ended after {_MOST_HEADER_READS} reads: damaged or hostile"
                )
        return super().read(size)


def check_tiles(image: ImageFile.ImageFile, max_pixels: int) -> None:
    """Refuses a TIFF with huge tiles, or with missing strips or tiles, which Pillow would leave black.

    Raises:
        ImageError: ``image`` is such a TIFF.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    width, height, tile_width, tile_height = (int(image.tag_v2.get(tag, 0)) for tag in (256, 257, 322, 323))
    if tile_width * tile_height > max(max_pixels, 4 * width * height):  # libtiff allocates a whole tile
        raise ImageError(
            f"too many pixels: tiles of {tile_height} x {tile_width} (height x width) for an image of "
            f"{height} x {width}, more than max-decode-pixels {max_pixels}"
        )
    if image.tile[0][0] == "libtiff":  # libtiff checks these itself
        return
    n_rows = max(tile[1][3] if tile[1] else height for tile in image.tile)
    if n_rows < height:
        raise ImageError(f"damaged TIFF file: it has pixels for {n_rows} of its {height} rows")
    extents = [tile[1] or (0, 0, width, height) for tile in image.tile]
    n_pixels = sum((min(x1, width) - x0) * (min(y1, height) - y0) for x0, y0, x1, y1 in extents)
    n_planes = len(image.getbands()) if image.tag_v2.get(284) == 2 else 1  # PlanarConfiguration
    if n_pixels < n_planes * width * height:
        raise ImageError(
            f"damaged TIFF file: its strips or tiles hold {n_pixels} of {n_planes * width * height} samples"
        )


def check_scans(image: ImageFile.ImageFile) -> None:
    """Refuses a progressive JPEG with too many scans, because libjpeg processes the whole picture for each.

    Raises:
        ImageError: ``image`` is such a JPEG.
    """
    if "progressive" not in image.info or image.fp is None:
        return
    image.fp.seek(0)
    n_scans, last = 0, b""
    while block := image.fp.read(1 << 20):
        n_scans += block.count(b"\xff\xda") + ((last + block[:1]) == b"\xff\xda")
        last = block[-1:]
    # In data after the picture, such as a video, one byte pair in 65,536 looks like a scan.
    if n_scans > _MOST_SCANS and n_scans * image.width * image.height > _MOST_SCANNED_PIXELS:
        raise ImageError(f"too many scans: {n_scans} in a progressive JPEG; allowed are {_MOST_SCANS}")


def check_precincts(image: ImageFile.ImageFile) -> None:
    """Refuses a JPEG 2000 with tiny precincts, because OpenJPEG takes half a kilobyte for each, even an empty one.

    A file of 102 bytes took 5 GB and half a minute for 3000 x 3000 precincts of one pixel.

    Raises:
        ImageError: ``image`` is such a JPEG 2000, or has no code stream.
    """
    if image.format != "JPEG2000" or image.fp is None:
        return
    file = cast(BinaryIO, image.fp)
    position = _code_stream_start(file) + 2
    while True:
        marker, length = struct.unpack(">HH", read_at(file, 4, position).ljust(4, b"\0"))
        if marker in (0, 0xFF93):  # the end, or the pixels of the first tile
            return
        if marker in (0xFF52, 0xFF53):  # coding style of all components, of one
            style = read_at(file, length - 2, position + 4) if length > 2 else b""
            if marker == 0xFF53:  # the component's number comes first, and four bytes are missing
                style = style[1:2] + b"...." + style[2:]
            n_precincts = _n_precincts(style, image.size) * len(image.getbands())
            if n_precincts > max(_MOST_PRECINCTS, image.width * image.height // 64):
                raise ImageError(
                    f"too many precincts: {n_precincts} in a JPEG 2000 of {image.height} x {image.width} "
                    "(height x width); damaged or hostile"
                )
        position += 2 + length


def _code_stream_start(file: BinaryIO) -> int:
    """The offset of the code stream in a JPEG 2000 file; 0 if the file is a bare code stream."""
    position = 0
    while (box := read_at(file, 16, position).ljust(16, b"\0"))[:4] != b"\xff\x4f\xff\x51":
        length, kind, long_length = struct.unpack(">I4sQ", box)
        if kind == b"jp2c":
            return position + (16 if length == 1 else 8)
        if length == 1:
            length = long_length
        if length < 8:
            raise ImageError("damaged JPEG 2000 file: it has no code stream")
        position += length
    return position


def _n_precincts(style: bytes, size: tuple[int, int]) -> int:
    """The number of precincts into which a coding style cuts one component; 0 if it does not say."""
    if len(style) < 10 or not style[0] & 1:
        return 0
    n_levels, sizes = style[5], style[10:]
    n = 0
    for level, exponents in enumerate(sizes[: n_levels + 1]):
        width, height = (-(-side >> (n_levels - level)) or 1 for side in size)
        n += -(-width >> (exponents & 15)) * -(-height >> (exponents >> 4))
    return n
