"""Limits on what is read that several parts of the program share; nothing is imported for them."""

__all__ = ["DEFAULT_MAX_DECODE_PIXELS", "MOST_WAYS"]

DEFAULT_MAX_DECODE_PIXELS = 178_956_970
"""Pixels of an image; with more, Pillow takes it for a decompression bomb."""

MOST_WAYS = 100
"""Ways, by links, in which one folder may be found: ten with links to each other have millions, without a cycle."""
