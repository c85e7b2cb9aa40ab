"""Conversion of boxes from any convention to pixels of the image, and clipping to the image.

``boxes_px`` are ``x0, y0, x1, y1`` in pixels of the image as displayed, 0-based pixel edges, half-open:
the whole image is ``[0, 0, width, height]``.
"""

import numpy as np
import numpy.typing as npt

from sppfeat.config.regions import BoxConvention, RowFlag

__all__ = ["boxes_to_px", "clip_boxes"]

# Pixels that a box may extend beyond the border without being flagged as clipped. Fractions rounded to six digits, as
# in YOLO files, are off by up to 0.002 pixels on a side of 4000 pixels.
_ROUNDING = 0.01


def boxes_to_px(
    boxes: npt.NDArray[np.float64], convention: BoxConvention, image_hw: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Convert the boxes of a file to pixels of their images, without clipping them or ordering their corners.

    Args:
        boxes: ``(K, 4)`` float64, the numbers in the file.
        convention: meaning of these numbers.
        image_hw: ``(K, 2)`` int32, height and width of each box's image, in pixels; 0 if unknown.

    Returns:
        ``boxes_px``: ``(K, 4)`` float64, xyxy, half-open, in pixels of the image; NaN for a box that depends on an
            unknown size.

    Example:
        >>> voc = BoxConvention(origin=1, ends="inclusive")
        >>> boxes_to_px(np.array([[1.0, 1.0, 500.0, 375.0]]), voc, np.array([[375, 500]])).tolist()
        [[0.0, 0.0, 500.0, 375.0]]
    """
    if convention.order == "yx":
        boxes = boxes[:, [1, 0, 3, 2]]
    first, second = boxes[:, :2], boxes[:, 2:]
    # Overflow gives infinities, which have no area inside any image.
    with np.errstate(over="ignore", invalid="ignore"):
        if convention.coords == "xyxy":
            start, end = first - convention.origin, second - convention.origin
        elif convention.coords == "xywh":
            start = first - convention.origin
            end = start + second
        else:
            center = first - convention.origin
            start, end = center - second / 2, center + second / 2
        if convention.ends == "inclusive":
            end = end + 1
        boxes_px = np.concatenate((start, end), axis=1)
        if convention.units == "normalized":
            height, width = image_hw[:, 0].astype(np.float64), image_hw[:, 1].astype(np.float64)
            boxes_px = boxes_px * np.stack((width, height, width, height), axis=1)
            boxes_px[(image_hw == 0).any(axis=1)] = np.nan
    return boxes_px


def clip_boxes(
    boxes_px: npt.NDArray[np.float64], image_hw: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Clip boxes to their images.

    Args:
        boxes_px: ``(K, 4)`` float64, xyxy, half-open, in pixels of the image; corners in any order, of any extent.
        image_hw: ``(K, 2)`` int32, height and width of each box's image, in pixels; 0 if unknown.

    Returns:
        ``(K, 4)`` float64, xyxy, inside the image and with an area, or zeros; and ``(K,)`` uint8
        :class:`sppfeat.config.regions.RowFlag`: ``CLIPPED`` if a box extends beyond the border by more than 0.01
        pixels (less is rounding), ``DEGENERATE`` if it has no area inside or is not finite, 0 for every box of
        an image of unknown size.

    Example:
        >>> clipped, flag = clip_boxes(np.array([[-5.0, 0.0, 20.0, 30.0]]), np.array([[30, 40]]))
        >>> clipped.tolist(), flag.tolist()
        ([[0.0, 0.0, 20.0, 30.0]], [1])
    """
    limit = image_hw[:, ::-1].astype(np.float64)
    known = (image_hw > 0).all(axis=1)
    clipped = boxes_px.copy()
    clipped[:, :2] = np.clip(boxes_px[:, :2], 0, limit)
    clipped[:, 2:] = np.clip(boxes_px[:, 2:], 0, limit)
    finite = np.isfinite(boxes_px).all(axis=1)
    with np.errstate(invalid="ignore"):
        has_area = finite & (clipped[:, :2] < clipped[:, 2:]).all(axis=1)
        reaches_over = (np.abs(clipped - boxes_px) > _ROUNDING).any(axis=1)
    flag = np.zeros(len(boxes_px), dtype=np.uint8)
    flag[reaches_over & has_area] = RowFlag.CLIPPED
    flag[~has_area & known] = RowFlag.DEGENERATE
    clipped[~has_area | ~known] = 0
    return clipped, flag
