"""Which names are those of images."""

import os

from sppfeat.decoding.images import IMAGE_SUFFIXES

__all__ = ["has_image_suffix"]


def has_image_suffix(name: bytes) -> bool:
    """Whether a name ends as that of an image does.

    Example:
        >>> has_image_suffix(b"a/b.JPG"), has_image_suffix(b"a/.jpg"), has_image_suffix(b"a.cls")
        (True, False, False)
    """
    return os.path.splitext(name)[1].lower().decode("latin-1") in IMAGE_SUFFIXES
