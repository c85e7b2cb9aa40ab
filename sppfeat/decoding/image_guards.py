"""Limits on the pixels and tiles of image files; whatever else a file costs, it costs its worker process.

Pillow's own guard against decompression bombs has one limit for the whole process, and counts no tiles.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageFile, TiffImagePlugin

from sppfeat.errors import ImageError

__all__ = ["PILLOW", "check_tiles"]


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
