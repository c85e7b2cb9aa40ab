"""Boxes in the three frames, against plain Python arithmetic on exact fractions."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import roi_pool

from sppfeat.errors import BoxError, ConfigError
from sppfeat.geometry import (
    FeatureGeometry,
    cell_boxes,
    choose_scale,
    project_boxes,
    scale_boxes,
    sub_cell_boxes,
)

# Eighths of a pixel and strides that are powers of two: float64 is then exact, as are the fractions.
EIGHTHS = st.integers(-8 * 150, 8 * 450).map(lambda n: n / 8)
SIDES = st.one_of(
    st.just(0.0), st.integers(1, 24).map(lambda n: n / 8), st.integers(1, 3000).map(lambda n: n / 8)
)
BOXES = st.lists(
    st.tuples(EIGHTHS, EIGHTHS, SIDES, SIDES).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
)
STRIDES = st.sampled_from([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
OFFSETS = st.integers(-40, 80).map(lambda n: n / 2)
GEOMETRIES = st.builds(
    FeatureGeometry,
    st.one_of(STRIDES, st.tuples(STRIDES, STRIDES)),
    st.one_of(OFFSETS, st.tuples(OFFSETS, OFFSETS)),
)
MAPS = st.tuples(st.integers(1, 40), st.integers(1, 40))
RULES = st.sampled_from(["sppnet", "paper", "roi_pool"])
MARGINS = st.integers(-16, 48).map(lambda n: n / 4)
SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


def boxes64(boxes):
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def cells_by_rule(low, high, stride, offset, rule, margin=0.0):
    """First and last cell of a box along one axis, inclusive; in reverse order if it has no cell."""
    x0, x1, s, c, m = (Fraction(v) for v in (low, high, stride, offset, margin))
    half = Fraction(1, 2)
    if rule == "sppnet":
        return math.floor((x0 - c + m) / s + half), math.ceil((x1 - 1 - c - m) / s - half)
    if rule == "paper":
        return math.floor((x0 - c) / s) + 1, math.ceil((x1 - 1 - c) / s) - 1
    return math.floor(x0 / s + half), math.floor((x1 - 1) / s + half)


def project_axis(low, high, stride, offset, n_cells, rule, margin):
    left, right = cells_by_rule(low, high, stride, offset, rule, margin)
    if left > right:
        left = right = math.floor(Fraction(left + right + 2, 2)) - 1
    return min(max(left, 0), n_cells - 1), min(max(right, 0), n_cells - 1)


@given(BOXES, GEOMETRIES, MAPS, RULES, MARGINS)
def test_regions_equal_the_formulas(boxes, geometry, map_hw, rule, margin):
    margin = margin if rule == "sppnet" else 0.0
    regions = project_boxes(boxes64(boxes), geometry, map_hw, rule=rule, margin=margin)
    assert regions.dtype == torch.int64
    assert regions.shape == (len(boxes), 4)
    (stride_y, stride_x), (offset_y, offset_x) = pair(geometry.stride), pair(geometry.offset)
    for box, region in zip(boxes, regions.tolist(), strict=True):
        left, right = project_axis(box[0], box[2], stride_x, offset_x, map_hw[1], rule, margin)
        top, bottom = project_axis(box[1], box[3], stride_y, offset_y, map_hw[0], rule, margin)
        assert region == [left, top, right + 1, bottom + 1]


@given(st.integers(1, 400), st.sampled_from([0.0, 7.5, 15.0, 17.0]))
def test_whole_input_covers_every_cell_centered_in_it(side, offset):
    n_cells = math.ceil(side / 16)
    geometry = FeatureGeometry(16.0, offset)
    x0, y0, x1, y1 = project_boxes(boxes64([0, 0, side, side]), geometry, (n_cells, n_cells))[0].tolist()
    assert (x0, x1) == (y0, y1)
    assert x0 == 0
    assert all(cell < x1 for cell in range(n_cells) if offset + 16 * cell <= side - 1)


@pytest.mark.parametrize("rule", ["sppnet", "paper", "roi_pool"])
def test_boxes_outside_become_the_nearest_border_cells(rule):
    outside = boxes64([[-500, -400, -100, -50], [900, 800, 950, 890], [-1e300, -1e300, 1e300, 1e300]])
    regions = project_boxes(outside, FeatureGeometry(32.0, 0.0), (5, 9), rule=rule)
    assert regions.tolist() == [[0, 0, 1, 1], [8, 4, 9, 5], [0, 0, 9, 5]]


@pytest.mark.parametrize(
    ("x0", "x1", "expected"),
    [
        # stride 16, offset 0: cell i is nearest to pixels 16 i - 8 .. 16 i + 8
        (0, 8, (0, 1)),  # corner pixels 0 and 7
        (0, 9, (0, 1)),  # pixel 8 is as near to cell 0 as to cell 1: ceil(8/16 - 1/2) = 0
        (0, 10, (0, 2)),
        (8, 24, (1, 2)),  # floor(8/16 + 1/2) = 1: the tie at the left edge goes inwards as well
        (9, 10, (1, 2)),
        (8, 9, (0, 1)),  # left 1, right 0: floor((1 + 0 + 2)/2) - 1 = 0
        (16, 16, (1, 2)),  # no area: left 1, right ceil(15/16 - 1/2) = 1
    ],
)
def test_sppnet_by_hand(x0, x1, expected):
    region = project_boxes(boxes64([[x0, 0, x1, 16]]), FeatureGeometry(16.0, 0.0), (4, 4))[0].tolist()
    assert (region[0], region[2]) == expected


@given(
    st.lists(st.tuples(*[st.integers(0, 400)] * 2, *[st.integers(1, 300)] * 2), min_size=1, max_size=20).map(
        lambda boxes: [(x, y, x + w, y + h) for x, y, w, h in boxes]
    ),
    st.sampled_from([4, 8, 16, 32]),
    MAPS,
)
def test_roi_pool_rule_equals_torchvision(boxes, stride, map_hw):
    # Maps that hold their own coordinates: the largest and the smallest of a region are its corners. One bin,
    # whole pixels and strides of powers of two, so that torchvision's float32 rounds nothing.
    height, width = map_hw
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    coded = torch.stack([-x, -y, x, y])[None].float()
    corner_pixels = boxes64(boxes) - boxes64([0, 0, 1, 1])
    rois = torch.cat([torch.zeros(len(boxes), 1), corner_pixels.float()], 1)
    pooled = roi_pool(coded, rois, 1, 1 / stride).flatten(1)
    regions = project_boxes(boxes64(boxes), FeatureGeometry(float(stride), 99.0), map_hw, rule="roi_pool")
    for box, region, (x0, y0, x1, y1) in zip(boxes, regions.tolist(), pooled.tolist(), strict=True):
        if math.floor(box[0] / stride + 0.5) < width and math.floor(box[1] / stride + 0.5) < height:
            assert region == [-x0, -y0, x1 + 1, y1 + 1]
        else:  # torchvision pools nothing outside the map, and gives 0
            assert (x0, y0, x1, y1) == (0, 0, 0, 0)


@given(SIZES, SIZES)
def test_whole_image_scales_to_the_whole_input(image_hw, input_hw):
    scaled = scale_boxes(boxes64([0, 0, image_hw[1], image_hw[0]]), image_hw, input_hw)
    assert scaled.tolist() == [[0, 0, input_hw[1], input_hw[0]]]


@given(BOXES, SIZES, SIZES)
def test_edges_scale_with_the_image(boxes, image_hw, input_hw):
    scaled = scale_boxes(boxes64(boxes), image_hw, input_hw)
    assert scaled.shape == (len(boxes), 4)
    factors = [Fraction(input_hw[1 - i % 2], image_hw[1 - i % 2]) for i in range(4)]
    for box, got in zip(boxes, scaled.tolist(), strict=True):
        for edge, factor, value in zip(box, factors, got, strict=True):
            assert value == pytest.approx(float(Fraction(edge) * factor), rel=1e-15, abs=1e-300)


def choose_one(box, image_hw, scales):
    area = (Fraction(box[2]) - Fraction(box[0])) * (Fraction(box[3]) - Fraction(box[1]))
    if area == 0:
        return scales.index(max(scales))
    expected = 224 * min(image_hw) / math.sqrt(area)
    return min(range(len(scales)), key=lambda i: (abs(scales[i] - expected), scales[i], i))


@given(BOXES, SIZES, st.lists(st.integers(1, 2000), min_size=1, max_size=6))
def test_scale_is_the_nearest(boxes, image_hw, scales):
    chosen = choose_scale(boxes64(boxes), image_hw, scales)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == [choose_one(box, image_hw, scales) for box in boxes]


@pytest.mark.parametrize(("scales", "expected"), [((400, 600), 0), ((600, 400), 1), ((600, 400, 400), 1)])
def test_smaller_scale_on_a_tie(scales, expected):
    # 224 * 500 / sqrt(224 * 224) = 500, as far from 400 as from 600
    assert choose_scale(boxes64([0, 0, 224, 224]), (500, 700), scales).tolist() == [expected]


def call_all(boxes):
    return [
        lambda: scale_boxes(boxes, (10, 10), (20, 20)),
        lambda: project_boxes(boxes, FeatureGeometry(16.0, 0.0), (4, 4)),
        lambda: choose_scale(boxes, (10, 10), (480,)),
    ]


def test_no_boxes():
    shapes = [tuple(call().shape) for call in call_all(torch.zeros(0, 4, dtype=torch.float64))]
    assert shapes == [(0, 4), (0, 4), (0,)]


@pytest.mark.parametrize(
    "boxes", [torch.zeros(2, 4), torch.zeros(4, dtype=torch.float64), torch.zeros(2, 5, dtype=torch.float64)]
)
def test_rank_and_dtype_are_checked(boxes):
    for call in call_all(boxes):
        with pytest.raises(BoxError, match=r"must be \(K, 4\) float64, found"):
            call()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_first_row_that_is_not_finite_is_named(bad):
    for call in call_all(boxes64([[0, 0, 1, 1], [0, bad, 1, 1], [bad, 0, 1, 1]])):
        with pytest.raises(BoxError, match=r"finite.* in row 1$"):
            call()


def test_first_reversed_row_is_named():
    for call in call_all(boxes64([[0, 0, 1, 1], [0, 0, 1, 1], [5, 0, 4, 1]]))[1:]:
        with pytest.raises(BoxError, match=r"x0 <= x1.*\[5\.0, 0\.0, 4\.0, 1\.0\] in row 2$"):
            call()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "nearest"}, "rule is 'nearest'; allowed: sppnet, paper, roi_pool"),
        ({"rule": "paper", "margin": 4.0}, "margin must be 0 with the rule 'paper', found 4.0"),
        ({"margin": math.nan}, "margin must be a finite number"),
        ({"map_hw": (0, 4)}, "map_hw must be a positive"),
        ({"geometry": FeatureGeometry(0.0, 0.0)}, "stride must be positive"),
        ({"geometry": FeatureGeometry(16.0, math.nan)}, "offset finite"),
    ],
)
def test_unusable_settings_are_refused(settings, message):
    arguments = {"geometry": FeatureGeometry(16.0, 0.0), "map_hw": (4, 4), **settings}
    with pytest.raises(ConfigError, match=message):
        project_boxes(boxes64([0, 0, 1, 1]), **arguments)


def test_unusable_scales_and_sizes_are_refused():
    boxes = boxes64([0, 0, 1, 1])
    for scales in ((), (0,), (480, -1), (math.inf,)):
        with pytest.raises(ConfigError, match="scales must be"):
            choose_scale(boxes, (10, 10), scales)
    with pytest.raises(ConfigError, match="image_hw must be"):
        scale_boxes(boxes, (0, 10), (10, 10))


@given(BOXES, GEOMETRIES, RULES)
def test_small_boxes_are_below_a_stride_or_have_no_cell_by_the_rule(boxes, geometry, rule):
    expected = []
    for box in boxes:
        is_small = False
        for axis, stride, offset in zip((1, 0), pair(geometry.stride), pair(geometry.offset), strict=True):
            low, high = box[axis], box[axis + 2]
            left, right = cells_by_rule(low, high, stride, offset, rule)
            is_small |= high - low < stride or left > right
        expected.append(is_small)
    assert sub_cell_boxes(boxes64(boxes), geometry, rule=rule).tolist() == expected


@given(geometry=GEOMETRIES, cell=st.tuples(st.integers(0, 60), st.integers(0, 60)))
def test_cells_are_one_stride_wide_around_their_center(geometry, cell):
    x, y = cell
    x0, y0, x1, y1 = cell_boxes(torch.tensor([[x, y, x + 1, y + 1]]), geometry)[0].tolist()
    stride, offset = map(pair, geometry)
    assert (y1 - y0, x1 - x0) == stride
    # A pixel of index i is between the edges i and i + 1.
    assert ((y0 + y1) / 2, (x0 + x1) / 2) == (
        offset[0] + stride[0] * y + 0.5,
        offset[1] + stride[1] * x + 0.5,
    )


@given(geometry=GEOMETRIES)
def test_the_pixels_of_a_region_project_onto_it(geometry):
    region = torch.tensor([[1, 2, 5, 4]])
    stride, offset = map(pair, geometry)
    centres = [offset[axis] + stride[axis] * cell for axis, cell in ((1, 1), (0, 2), (1, 4), (0, 3))]
    boxes_in = cell_boxes(region, geometry)
    assert (boxes_in[0, :2] <= torch.tensor(centres[:2]) + 0.5).all()
    # From its first centre to its last one, a box becomes the region.
    box = torch.tensor([[centres[0], centres[1], centres[2] + 1, centres[3] + 1]], dtype=torch.float64)
    assert project_boxes(box, geometry, (10, 10)).tolist() == region.tolist()
