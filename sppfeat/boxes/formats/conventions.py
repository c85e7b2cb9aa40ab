"""The formats of box files, and how each means its numbers where nobody says otherwise."""

from sppfeat.config.regions import BOX_FORMATS, DEFAULT_CONVENTIONS, BoxConvention
from sppfeat.config.values import check_choice

__all__ = ["FORMATS", "default_convention"]

FORMATS = BOX_FORMATS


def default_convention(box_format: str) -> BoxConvention:
    """Return how a format means its boxes.

    Args:
        box_format: one of ``FORMATS``.

    Raises:
        ConfigError: there is no such format.

    Example:
        >>> str(default_convention("voc"))
        'xyxy, absolute, origin 1, inclusive, order xy'
    """
    return DEFAULT_CONVENTIONS[check_choice("box-format", box_format, FORMATS)]
