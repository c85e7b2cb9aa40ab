"""Boxes in the image, in the network's input, and in cells of a feature map.

Names show the frame: ``boxes_px`` are in pixels of the original image, ``boxes_in`` in pixels of the network input, and
``regions`` in cells of a feature map. Boxes are ``x0, y0, x1, y1``, 0-based pixel edges, half-open: the whole image is
``[0, 0, width, height]``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sppfeat.config.values import CHOICES, check_choice
from sppfeat.errors import BoxError, ConfigError
from sppfeat.networks.receptive_field import FeatureGeometry, receptive_field

__all__ = [
    "FeatureGeometry",
    "cell_boxes",
    "choose_scale",
    "project_boxes",
    "receptive_field",
    "scale_boxes",
    "sub_cell_boxes",
]

_ROUNDING = 1e-9  # relative rounding error allowed in a side that is as long as the stride
_NOMINAL_SIDE = 224  # pixels; a box is pooled from the scale at which it is nearest to 224 x 224


def scale_boxes(boxes_px: Tensor, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> Tensor:
    """Scales boxes of an image to pixels of the resized network input.

    An edge becomes ``x * in_w / w``, in this order, so that the image's edge lands exactly on the input's.

    Args:
        boxes_px: ``(K, 4)`` float64, pixels of the original image, xyxy, half-open.
        image_hw: height and width of the original image, in pixels.
        input_hw: height and width of the network input, in pixels.

    Returns:
        ``boxes_in``: ``(K, 4)`` float64, pixels of the network input, xyxy, half-open.

    Raises:
        BoxError: if the boxes are not ``(K, 4)`` float64, or one is not finite.
        ConfigError: if a size is not positive.

    Example:
        >>> scale_boxes(torch.tensor([[0, 0, 500, 375]], dtype=torch.float64), (375, 500), (600, 800))
        tensor([[  0.,   0., 800., 600.]], dtype=torch.float64)
    """
    _check_boxes(boxes_px, "boxes_px")
    _check_hw(image_hw, "image_hw")
    _check_hw(input_hw, "input_hw")
    (h, w), (in_h, in_w) = image_hw, input_hw
    return boxes_px * boxes_px.new_tensor([in_w, in_h, in_w, in_h]) / boxes_px.new_tensor([w, h, w, h])


def project_boxes(
    boxes_in: Tensor,
    geometry: FeatureGeometry,
    map_hw: tuple[int, int],
    *,
    rule: str = "sppnet",
    margin: float = 0.0,
) -> Tensor:
    """Projects boxes of the network input to regions of a feature map, in cells.

    Along x, with stride ``S``, offset ``c`` and margin ``m``, the first and the last cell are:

    - ``sppnet`` (the code released with SPP-net: the cell centered nearest to the corner pixel):
      ``floor((x0 - c + m)/S + 1/2)`` and ``ceil((x1 - 1 - c - m)/S - 1/2)``;
    - ``paper`` (He et al., TPAMI 2015, appendix A): ``floor((x0 - c)/S) + 1`` and
      ``ceil((x1 - 1 - c)/S) - 1``;
    - ``roi_pool`` (Fast R-CNN, ignores the offset): ``floor(x0/S + 1/2)`` and ``floor((x1 - 1)/S + 1/2)``, as
      ``torchvision.ops.roi_pool`` treats corner pixels.

    If the first cell is beyond the last (a box smaller than a cell), both become ``floor((first + last + 2)/2) - 1``;
    then both are clamped into the map. So a region is never empty, and a box outside the input becomes the cells at
    the nearest border.

    Args:
        boxes_in: ``(K, 4)`` float64, pixels of the network input, xyxy, half-open. Boxes may extend beyond the
            input's border and may have no area, but ``x0 <= x1`` and ``y0 <= y1``.
        geometry: stride and offset of the map, in input pixels.
        map_hw: height and width of the map, in cells.
        rule: ``"sppnet"``, ``"paper"`` or ``"roi_pool"``.
        margin: input pixels by which each box is tightened on each side; ``sppnet`` only.

    Returns:
        ``(K, 4)`` int64 regions: cells ``x0, y0, x1, y1``, half-open, never empty, inside the map.

    Raises:
        BoxError: if the boxes are not ``(K, 4)`` float64, or one is not finite or is reversed.
        ConfigError: if the rule is unknown, or the margin, the geometry or the map's size is unusable.

    Example:
        >>> boxes_in = torch.tensor([[0, 0, 224, 224], [64, 32, 128, 160]], dtype=torch.float64)
        >>> project_boxes(boxes_in, FeatureGeometry(stride=32.0, offset=0.0), (7, 7))
        tensor([[0, 0, 7, 7],
                [2, 1, 5, 6]])
    """
    _check_hw(map_hw, "map_hw")
    first, last = _first_and_last(boxes_in, geometry, rule, margin)
    middle = torch.floor((first + last + 2) / 2) - 1
    empty = first > last
    ends = boxes_in.new_tensor([map_hw[1] - 1, map_hw[0] - 1])
    first = torch.minimum(torch.where(empty, middle, first).clamp(min=0), ends)
    last = torch.minimum(torch.where(empty, middle, last).clamp(min=0), ends)
    return torch.cat([first, last + 1], dim=1).to(torch.int64)


def cell_boxes(regions: Tensor, geometry: FeatureGeometry) -> Tensor:
    """Maps regions back to pixels of the network input: each cell is a square of one stride around its center.

    The center of cell ``i`` is pixel index ``offset + stride * i``, which is ``1/2`` more in pixel edges. The result
    shows which cells :func:`project_boxes` took, not the boxes that it was given. The receptive field of a cell,
    which its values depend on, is larger.

    Args:
        regions: ``(K, 4)`` int64, cells ``x0, y0, x1, y1``, half-open.
        geometry: stride and offset of the map, in input pixels.

    Returns:
        ``boxes_in``: ``(K, 4)`` float64, pixels of the network input, xyxy, half-open; may extend beyond its border.

    Example:
        >>> cell_boxes(torch.tensor([[0, 0, 7, 7], [2, 1, 3, 2]]), FeatureGeometry(stride=32.0, offset=15.5))
        tensor([[  0.,   0., 224., 224.],
                [ 64.,  32.,  96.,  64.]], dtype=torch.float64)
    """
    cells = regions.to(torch.float64)
    stride, offset = _by_column(cells, geometry.stride), _by_column(cells, geometry.offset)
    return (cells - 0.5) * stride.repeat(2) + (offset + 0.5).repeat(2)


def sub_cell_boxes(
    boxes_in: Tensor, geometry: FeatureGeometry, *, rule: str = "sppnet", margin: float = 0.0
) -> Tensor:
    """Marks boxes smaller than a cell of the map; their descriptors mostly describe their surroundings.

    A box is marked if its width or height is below the stride, or if the rule finds its first cell beyond its
    last, so that :func:`project_boxes` takes the nearest one.

    Args:
        boxes_in, geometry, rule, margin: as for :func:`project_boxes`.

    Returns:
        ``(K,)`` bool, True for a box smaller than a cell.

    Raises:
        BoxError, ConfigError: as for :func:`project_boxes`.

    Example:
        >>> boxes_in = torch.tensor([[0, 0, 224, 224], [40, 40, 44, 44]], dtype=torch.float64)
        >>> sub_cell_boxes(boxes_in, FeatureGeometry(stride=32.0, offset=0.0))
        tensor([False,  True])
    """
    first, last = _first_and_last(boxes_in, geometry, rule, margin)
    stride = _by_column(boxes_in, geometry.stride)
    is_small = boxes_in[:, 2:] - boxes_in[:, :2] < stride * (1 - _ROUNDING)
    return (is_small | (first > last)).any(dim=1)


def choose_scale(boxes_px: Tensor, image_hw: tuple[int, int], scales: Sequence[int]) -> Tensor:
    """Chooses for each box the scale at which its area is nearest to 224 x 224 pixels.

    A box of area ``a`` has that area when the image's short side is ``224 * min(h, w) / sqrt(a)``; the scale nearest
    to this in absolute difference is taken, the smaller one on a tie (SPP-net, section 4.1). A box without area gets
    the largest scale.

    Args:
        boxes_px: ``(K, 4)`` float64, pixels of the original image, xyxy, half-open.
        image_hw: height and width of the original image, in pixels.
        scales: short sides of the network input, in pixels, in any order.

    Returns:
        ``(K,)`` int64 indices into ``scales``.

    Raises:
        BoxError: if the boxes are not ``(K, 4)`` float64, or one is not finite or is reversed.
        ConfigError: the scales are empty, or a scale or the image's size is not positive.

    Example:
        >>> boxes_px = torch.tensor([[0, 0, 375, 375], [10, 10, 110, 110]], dtype=torch.float64)
        >>> choose_scale(boxes_px, (375, 500), (480, 576, 688, 864, 1200))
        tensor([0, 3])
    """
    _check_boxes(boxes_px, "boxes_px")
    _check_order(boxes_px)
    _check_hw(image_hw, "image_hw")
    if not scales or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise ConfigError(f"scales must be one or more positive short sides, found {tuple(scales)}")
    ascending = sorted(range(len(scales)), key=lambda index: scales[index])
    candidates = boxes_px.new_tensor([scales[index] for index in ascending])
    area = (boxes_px[:, 2:] - boxes_px[:, :2]).prod(dim=1)
    expected = _NOMINAL_SIDE * min(image_hw) / area.sqrt()
    # The largest scale is the nearest to everything beyond it; the clamp keeps the differences finite.
    distance = (expected.clamp(max=2.0 * max(scales))[:, None] - candidates).abs()
    nearest = distance.argmin(dim=1)  # the first among equals: the smaller scale
    return boxes_px.new_tensor(ascending, dtype=torch.int64)[nearest]


def _first_and_last(
    boxes_in: Tensor, geometry: FeatureGeometry, rule: str, margin: float
) -> tuple[Tensor, Tensor]:
    """Checks the arguments; returns the first and last cells ``(K, 2)`` along x and y, as float64."""
    _check_boxes(boxes_in, "boxes_in")
    _check_order(boxes_in)
    _check_rule(rule, margin)
    stride, offset = _by_column(boxes_in, geometry.stride), _by_column(boxes_in, geometry.offset)
    if not (bool((stride > 0).all()) and bool(stride.isfinite().all()) and bool(offset.isfinite().all())):
        raise ConfigError(f"stride must be positive and offset finite, found {geometry}")
    corners = boxes_in - boxes_in.new_tensor([0, 0, 1, 1])  # x1 - 1: the last pixel inside
    start, end = corners[:, :2], corners[:, 2:]
    if rule == "roi_pool":
        return torch.floor(start / stride + 0.5), torch.floor(end / stride + 0.5)
    start, end = start - offset, end - offset
    if rule == "paper":
        return torch.floor(start / stride) + 1, torch.ceil(end / stride) - 1
    return torch.floor((start + margin) / stride + 0.5), torch.ceil((end - margin) / stride - 0.5)


def _by_column(like: Tensor, value: float | tuple[float, float]) -> Tensor:
    """A ``(y, x)`` pair, or one number for both, as the columns ``x, y``."""
    y, x = value if isinstance(value, tuple) else (value, value)
    return like.new_tensor([x, y])


def _check_boxes(boxes: Tensor, name: str) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4 or boxes.dtype != torch.float64:
        raise BoxError(f"{name} must be (K, 4) float64, found {tuple(boxes.shape)} {boxes.dtype}")
    bad = ~boxes.isfinite().all(dim=1)
    if bool(bad.any()):
        row = int(bad.int().argmax())
        raise BoxError(f"{name} must be finite, found {boxes[row].tolist()} in row {row}")


def _check_order(boxes: Tensor) -> None:
    bad = (boxes[:, :2] > boxes[:, 2:]).any(dim=1)
    if bool(bad.any()):
        row = int(bad.int().argmax())
        raise BoxError(f"boxes must have x0 <= x1 and y0 <= y1, found {boxes[row].tolist()} in row {row}")


def _check_hw(hw: tuple[int, int], name: str) -> None:
    if len(hw) != 2 or min(hw) < 1:
        raise ConfigError(f"{name} must be a positive (height, width), found {tuple(hw)}")


def _check_rule(rule: str, margin: float) -> None:
    check_choice("rule", rule, CHOICES["projection"])
    if not math.isfinite(margin):
        raise ConfigError(f"margin must be a finite number of input pixels, found {margin}")
    if margin != 0 and rule != "sppnet":
        raise ConfigError(f"margin must be 0 with the rule {rule!r}, found {margin}")
