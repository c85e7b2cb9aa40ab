"""Scales and regions of many rows, against the geometry of one box at a time."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from box_rows import clip, rows_of, sizes_of, views_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sppfeat.config.regions import BoxConvention, RegionSpec, RowFlag
from sppfeat.config.specs import InputSpec
from sppfeat.extraction.plan import input_sizes
from sppfeat.extraction.regions import Projector, map_sizes
from sppfeat.extraction.rows import choose_scales, drop_duplicates, rows_of_views
from sppfeat.geometry import FeatureGeometry, choose_scale, project_boxes, sub_cell_boxes
from sppfeat.networks.backbones import load_backbone

STRIDES, OFFSETS = (16.0, (8.0, 32.0)), (3.0, (0.0, -5.5))
GEOMETRIES = tuple(FeatureGeometry(s, o) for s, o in zip(STRIDES, OFFSETS, strict=True))
NUMBERS = st.integers(-30, 130).map(float) | st.integers(-300, 1300).map(lambda n: n / 10)
BOXES = st.tuples(*[NUMBERS] * 4) | st.sampled_from(
    [(math.nan,) * 4, (0, 0, math.inf, 5), (5, 5, 5, 5), (0, 0, 1, 1)]
)
# The network input of 1 x 4000, 16 x 64000 pixels, is too large.
SIZES = st.tuples(st.integers(1, 120), st.integers(1, 120)) | st.sampled_from([(0, 0), (60, 80), (1, 4000)])
IMAGES = st.lists(st.tuples(SIZES, st.lists(BOXES, max_size=12)), max_size=5)
SHORT_SIDES = st.lists(st.integers(20, 300), min_size=1, max_size=4, unique=True).map(sorted).map(tuple)
RULES = st.sampled_from(["sppnet", "paper", "roi_pool"])


def sizes(input_hw):
    """Sizes of the maps of an imaginary network."""
    return [(math.ceil(input_hw[0] / y), math.ceil(input_hw[1] / x)) for y, x in ((16, 16), (8, 32))]


def one(box):
    return torch.tensor([box], dtype=torch.float64)


def box_in_input(box, mirrored, hw, input_hw):
    """One clipped box in pixels of the network's input."""
    x0, x1 = (x * input_hw[1] / hw[1] for x in box[::2])
    y0, y1 = (y * input_hw[0] / hw[0] for y in box[1::2])
    return [input_hw[1] - x1, y0, input_hw[1] - x0, y1] if mirrored else [x0, y0, x1, y1]


def region_of(box, mirrored, hw, input_hw, rule, margin=0.0):
    """Cells of one clipped box on each map, as a tuple."""
    box_in = one(box_in_input(box, mirrored, hw, input_hw))
    cells = []
    for geometry, map_hw in zip(GEOMETRIES, sizes(input_hw), strict=True):
        cells += project_boxes(box_in, geometry, map_hw, rule=rule, margin=margin)[0].tolist()
    return tuple(cells)


# --- scales ---------------------------------------------------------------------------------------


@given(IMAGES, SHORT_SIDES)
def test_each_box_gets_the_same_scale_as_alone(images, short_sides):
    image_hw = [hw for hw, _ in images]
    before = rows_of([boxes for _, boxes in images], image_hw)
    rows = choose_scales(before, sizes_of(image_hw), short_sides)
    assert (before.boxes.scale == -1).all()
    assert rows.boxes.scale.dtype == np.int16
    assert rows.ranges.tolist() == before.ranges.tolist()
    expected = []
    for hw, boxes in images:
        for box in boxes:
            inside = clip(box, hw) if hw != (0, 0) else None
            expected.append(-1 if inside is None else int(choose_scale(one(inside), hw, short_sides)[0]))
    assert rows.boxes.scale.tolist() == expected


def test_native_size_is_one_scale():
    rows = rows_of([[(0, 0, 5, 5), (5, 5, 5, 5)], [(0, 0, 5, 5)]], [(10, 10), (0, 0)])
    assert choose_scales(rows, sizes_of([(10, 10), (0, 0)]), (None,)).boxes.scale.tolist() == [0, -1, -1]


def test_views_keep_their_scale():
    image_hw = sizes_of([(300, 400), (0, 0)])
    rows = rows_of_views(lambda hw: views_of(hw, (224, 256)), image_hw)
    assert choose_scales(rows, image_hw, (224, 256)).boxes.scale.tolist() == rows.boxes.scale.tolist()


# --- the projector --------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(BOXES, st.booleans()), max_size=10),
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    RULES,
    st.integers(-8, 8),
)
def test_regions_equal_those_of_single_boxes(cases, hw, input_hw, rule, margin):
    margin = float(margin) if rule == "sppnet" else 0.0
    cases = [(box, mirrored) for box, mirrored in cases if clip(box, hw)]
    boxes_px = np.array([box for box, _ in cases], dtype=np.float64).reshape(-1, 4)
    mirrored = np.array([own for _, own in cases], dtype=bool)
    found = Projector(GEOMETRIES, rule, margin).project(
        boxes_px, mirrored, image_hw=hw, input_hw=input_hw, map_hws=sizes(input_hw)
    )
    assert found.region.shape == (len(cases), 2, 4)
    assert found.region.dtype == np.int32
    assert found.flag.shape == (len(cases),)
    expected = [region_of(clip(box, hw), own, hw, input_hw, rule, margin) for box, own in cases]
    assert [tuple(cells) for cells in found.region.reshape(-1, 8).tolist()] == expected
    for flag, (box, own) in zip(found.flag.tolist(), cases, strict=True):
        box_in = one(box_in_input(clip(box, hw), own, hw, input_hw))
        assert bool(flag & RowFlag.CLIPPED) == any(
            abs(a - b) > 0.01 for a, b in zip(box, clip(box, hw), strict=True)
        )
        assert bool(flag & RowFlag.SUB_CELL) == any(
            bool(sub_cell_boxes(box_in, geometry, rule=rule, margin=margin)[0]) for geometry in GEOMETRIES
        )


@pytest.mark.parametrize("rule", ["sppnet", "paper", "roi_pool"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_whole_images_pool_whole_maps_only_on_request(rule, mirrored):
    geometry = (FeatureGeometry(16.0, 20.0),)  # the first cell is centred at pixel 20
    boxes = np.array([[0.0, 0, 128, 64], [0, 0, 128, 63]])
    where = {"image_hw": (64, 128), "input_hw": (64, 128), "map_hws": [(4, 8)]}
    flags = np.array([mirrored] * 2)
    plain = Projector(geometry, rule, 0.0).project(boxes, flags, **where).region[:, 0].tolist()
    whole = Projector(geometry, rule, 0.0, whole_is_map=True).project(boxes, flags, **where)
    assert whole.region[:, 0].tolist() == [[0, 0, 8, 4], plain[1]]
    alone = project_boxes(one([0, 0, 128, 64]), geometry[0], (4, 8), rule=rule)
    assert plain[0] == alone[0].tolist()


# --- boxes that are the same region ---------------------------------------------------------------


def dropped(rows, image_hw, short_sides, rule):
    spec, image_hw = InputSpec(scales=short_sides, max_pixels=40_000, min_side=16), sizes_of(image_hw)
    scaled, input_hw = choose_scales(rows, image_hw, short_sides), input_sizes(image_hw, spec)[0]
    found = drop_duplicates(
        scaled, image_hw, input_hw, projector=Projector(GEOMETRIES, rule, 0.0), map_sizes=sizes
    )
    return scaled, input_hw, found


def same_region_oracle(scaled, image_hw, input_hw, rule):
    """For each row, the first row with the same region; row by row."""
    seen, leads_to = {}, []
    for image, (first, stop) in enumerate(scaled.ranges.tolist()):
        for row in range(first, stop):
            scale = int(scaled.boxes.scale[row])
            mirrored = bool(scaled.boxes.mirrored[row])
            if scale < 0 or not input_hw[image].all():
                leads_to.append(row)
                continue
            box = clip(scaled.boxes.boxes_px[row].tolist(), image_hw[image])
            region = region_of(box, mirrored, image_hw[image], input_hw[image, scale].tolist(), rule)
            leads_to.append(seen.setdefault((image, scale, mirrored, region), row))
    return leads_to


@pytest.mark.slow
@given(IMAGES, SHORT_SIDES, RULES, st.randoms(use_true_random=False))
def test_each_region_is_kept_once_and_every_box_points_to_its_row(images, short_sides, rule, random):
    image_hw = [hw for hw, _ in images]
    rows = rows_of([boxes for _, boxes in images], image_hw)
    flags = np.array([random.random() < 0.3 for _ in range(len(rows.boxes))], dtype=bool)
    rows = rows._replace(boxes=dataclasses.replace(rows.boxes, mirrored=flags))
    scaled, input_hw, found = dropped(rows, image_hw, short_sides, rule)
    leads_to = same_region_oracle(scaled, image_hw, input_hw, rule)
    kept = sorted(set(leads_to))
    assert found.boxes.source.tolist() == scaled.boxes.source[kept].tolist()
    assert np.array_equal(found.boxes.boxes_px, scaled.boxes.boxes_px[kept], equal_nan=True)
    assert list(found.boxes.annotations.ids) == [scaled.boxes.annotations.ids[row] for row in kept]
    assert [found.boxes.source[a:b].tolist() for a, b in found.ranges.tolist()] == [
        [int(scaled.boxes.source[row]) for row in kept if a <= row < b] for a, b in scaled.ranges.tolist()
    ]
    assert found.boxes.box_row.tolist() == [
        kept.index(leads_to[row]) if row >= 0 else -1 for row in scaled.boxes.box_row.tolist()
    ]


# --- of a backbone --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("squeezenet1_1", weights="none", layers=["features.5", "features"])


@pytest.mark.slow
@given(st.integers(40, 130), st.integers(40, 130))
@settings(max_examples=8)
def test_map_sizes_equal_those_of_real_maps(backbone, height, width):
    with torch.inference_mode():
        maps = backbone.maps(backbone.network, torch.zeros(1, 3, height, width))
    found = map_sizes(backbone)((height, width))
    assert [tuple(size) for size in found] == [tuple(fmap.shape[2:]) for fmap in maps]
    assert next(backbone.network.parameters()).device.type == "cpu"


def test_only_views_of_the_whole_image_pool_the_whole_map(backbone):
    spec = RegionSpec(boxes="file", convention=BoxConvention(), projection="paper")
    geometries = (backbone.geometry(0), backbone.geometry(1))
    assert Projector.of(backbone, spec) == Projector(geometries, "paper", 0.0, whole_is_map=False)
    assert Projector.of(backbone, RegionSpec(boxes="multiview")).whole_is_map
