"""Which names are those of images."""

import os

__all__ = ["IMAGE_SUFFIXES", "has_image_suffix"]

# HEIC and JPEG XL are listed although Pillow has no decoder for them: a photograph that a folder scan
# passed over in silence would be missed by nobody until the results are wrong.
# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2c", ".j2k", ".jfif", ".jp2",
    ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".jxl", ".mpo", ".pbm", ".pcx", ".pgm", ".png",
    ".pnm", ".ppm", ".sgi", ".tga", ".tif", ".tiff", ".webp",
})
"""The file suffixes, in lower case, that a scan of a folder takes for images."""
# fmt: on


def has_image_suffix(name: bytes) -> bool:
    """Whether a name ends as that of an image does.

    Example:
        >>> has_image_suffix(b"a/b.JPG"), has_image_suffix(b"a/.jpg"), has_image_suffix(b"a.cls")
        (True, False, False)
    """
    return os.path.splitext(name)[1].lower().decode("latin-1") in IMAGE_SUFFIXES
