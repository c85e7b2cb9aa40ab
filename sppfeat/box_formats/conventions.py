"""The formats of box files, and how each means its numbers where nobody says otherwise."""

from sppfeat.config import BoxConvention, check_choice

__all__ = ["FORMATS", "default_convention"]

_CONVENTIONS = {
    "csv": BoxConvention(),  # the names of the columns decide coords, also of tsv and jsonl
    "tsv": BoxConvention(),
    "jsonl": BoxConvention(),
    "coco": BoxConvention(coords="xywh"),
    "voc": BoxConvention(origin=1, ends="inclusive"),
    "yolo": BoxConvention(coords="cxcywh", units="normalized"),
    "numpy": BoxConvention(),
    "mat": BoxConvention(ends="inclusive"),
}

FORMATS = tuple(_CONVENTIONS)


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
    return _CONVENTIONS[check_choice("box-format", box_format, FORMATS)]
