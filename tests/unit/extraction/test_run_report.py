"""Counts and notes about the boxes of a run."""

import dataclasses
import math

import numpy as np
import pytest
from box_rows import ROOT, plan_of, planner_of, sizes_of, table_of

from sppfeat.config.regions import BoxConvention, RegionSpec, parse_grid
from sppfeat.config.specs import InputSpec
from sppfeat.extraction.report import box_notes, summarize_boxes
from sppfeat.files.paths import PathTable

SPEC = InputSpec(scales=(64, 128))
VOC = BoxConvention(origin=1, ends="inclusive")
FILE = RegionSpec(boxes="file", box_format="voc", convention=VOC)


def planned(image_hw, *, drop=False, spec=SPEC, **source):
    n = len(image_hw)
    rows = planner_of(spec, source, drop=drop).rows(
        ROOT, [b"%d.jpg" % i for i in range(n)], sizes_of(image_hw)
    )
    return plan_of(rows, image_hw, spec)


def of_file(boxes, image_hw, *, drop=False, **settings):
    table = table_of(boxes, **settings)
    return planned(image_hw, drop=drop, table=table), table


def summary(plan, spec=FILE, inputs=SPEC, path="/b.csv"):
    return summarize_boxes(plan, plan.boxes, spec, inputs, path)


BOXES = [
    ("0.jpg", (0, 0, 60, 60)),  # 224 * 60 / 60 = 224: nearer to 128
    ("0.jpg", (0, 0, 60, 60.25)),  # clipped to the same
    ("2.jpg", (-1, -1, 200, 200)),  # clipped; 224 * 60 / sqrt(200 * 60) = 123
    ("0.jpg", (5, 5, 5, 5)),
    ("x.jpg", (0, 0, 2, 2)),
    ("0.jpg", (math.nan, 0, 1, 1)),
    ("y.jpg", (0, 0, 2, 2)),
    ("x.jpg", (0, 0, 2, 2)),
    ("3.jpg", (0, 0, 2, 2)),  # of unknown size
]
SIZES = [(60, 80), (60, 80), (60, 2000), (0, 0)]


def test_a_summary_counts_everything():
    found = summary(of_file(BOXES, SIZES, drop=True)[0])
    assert (found.source, found.format, found.convention) == ("/b.csv", "voc", str(VOC))
    assert (found.boxes, found.rows, found.of_no_input) == (9, 5, 3)
    assert (found.same_region, found.clipped, found.degenerate) == (1, 1, 2)
    assert found.images_without_boxes == 1
    assert found.scales == {"64": 0, "128": 2}
    plain = summary(of_file(BOXES, SIZES)[0])
    assert (plain.boxes, plain.rows, plain.of_no_input) == (9, 6, 3)
    assert (plain.same_region, plain.clipped, plain.degenerate) == (0, 2, 2)
    assert plain.scales == {"64": 0, "128": 3}


def test_a_summary_of_windows():
    spec = InputSpec(size=None)
    plan = planned(SIZES, spec=spec, grid=parse_grid("grid:2x2"))
    found = summary(plan, RegionSpec(boxes="grid:2x2"), spec, "")
    assert (found.source, found.format, found.convention) == ("grid:2x2", "", "")
    assert (found.boxes, found.rows, found.of_no_input) == (16, 16, 0)
    assert (found.clipped, found.degenerate, found.images_without_boxes) == (0, 0, 0)
    assert found.scales == {"native": 12}
    assert box_notes(plan, plan.boxes, None) == []


def test_notes_name_the_first_of_each_kind():
    plan, table = of_file(BOXES, SIZES)
    assert box_notes(plan, plan.boxes, table) == [
        "3 boxes refer to 2 images that are not in the input: 'x.jpg', 'y.jpg'",
        "1 image has no boxes and gets no rows: '1.jpg'",
        "2 boxes extend beyond their image and are clipped to it: [0, 0, 60, 60.25] of '0.jpg' "
        "(80 x 60); [-1, -1, 200, 200] of '2.jpg' (2000 x 60)",
        "2 boxes have no area inside their image: their rows are NaN: [5, 5, 5, 5] of '0.jpg' (80 x 60); "
        "[nan, 0, 1, 1] of '0.jpg' (80 x 60)",
    ]


def test_notes_name_three_examples_of_many():
    boxes = [("0.jpg", (i, 0, i + 100, 5)) for i in range(5)] + [
        (f"x{i}.jpg", (0, 0, 2, 2)) for i in range(5)
    ]
    plan, table = of_file(boxes, [(60, 80)] * 6)
    unused, empty, clipped = box_notes(plan, plan.boxes, table)
    assert unused == "5 boxes refer to 5 images that are not in the input: 'x0.jpg', 'x1.jpg', 'x2.jpg', ..."
    assert empty == "5 images have no boxes and get no rows: '1.jpg', '2.jpg', '3.jpg', ..."
    assert clipped.startswith("5 boxes extend beyond")
    assert clipped.endswith("[2, 0, 102, 5] of '0.jpg' (80 x 60); ...")


def test_no_boxes_at_all():
    plan, table = of_file([], [(60, 80)], images=["0.jpg"])
    assert box_notes(plan, plan.boxes, table) == [
        "the box file has no boxes",
        "1 image has no boxes and gets no rows: '0.jpg'",
    ]
    found = summary(plan)
    assert (found.boxes, found.rows, found.same_region, found.images_without_boxes) == (0, 0, 0, 1)


def one_region(*labels):
    """Two boxes of one region, so that one row is left, and the notes."""
    plan, table = of_file([("0.jpg", (0, 0, 9, 9))] * 2, [(60, 80)], drop=True)
    table = dataclasses.replace(table, label=np.array(labels), classes=("cat", "dog"))
    said = dataclasses.replace(plan.boxes.annotations, label=np.array(labels[:1]), classes=table.classes)
    assert plan.n_rows == 1
    return box_notes(plan, dataclasses.replace(plan.boxes, annotations=said), table)


def test_boxes_of_two_classes_in_one_row_are_noted():
    assert one_region(1, 1) == []
    (note,) = one_region(1, 0)
    assert note.startswith(
        "1 box shares the row of a box of another class, such as box 1, 'cat', in row 0, 'dog'"
    )
    (note,) = one_region(1, -1)
    assert "such as box 1, no class, in row 0, 'dog'" in note


@pytest.mark.parametrize(
    ("boxes", "units", "hint"),
    [
        ([(0, 0, 1, 1), (0.1, 0.2, 0.6, 0.9)], "absolute", "--box-units normalized"),
        ([(0, 0, 1, 1), (math.nan, 0, 1, 1)], "absolute", "--box-units normalized"),
        ([(0, 0, 1, 1), (0.1, 0.2, 0.6, 9)], "absolute", None),
        ([(0, 0, 1, 1), (-0.1, 0.2, 0.6, 0.9)], "absolute", None),
        ([(0, 0, 1.5, 1), (0.1, 0.2, 0.6, 0.9)], "normalized", None),
        ([(0, 0, 40, 30), (10, 20, 60, 90), (0, 0, 1, 1)], "normalized", "--box-units absolute"),
        (
            [(0.1, 0.2, 0.6, 0.9)] * 98 + [(-0.002, 0.1, 0.4, 0.5), (0.5, 0.1, 1.003, 0.5)],
            "absolute",
            "98 of 100 boxes",
        ),
        ([(0.1, 0.2, 0.6, 0.9)] * 2 + [(10, 20, 30, 40)] * 8, "absolute", "2 of 10 boxes read as pixels"),
        (
            [(0.1, 0.2, 0.6, 0.9)] * 9,
            "percent",
            "all coordinates are within 0..1 in 9 of 9 boxes read as percent",
        ),
        ([(0.1, 0.2, 0.6, 0.9)] * 9 + [(10, 20, 30, 40)], "normalized", "1 of 10 boxes read as fractions"),
        ([(10, 20, 30, 40)] * 9, "normalized", "if percent, --box-units percent"),
        ([(10, 20, 630, 400)] * 9, "percent", "9 of 9 boxes read as percent"),
    ],
)
def test_fractions_read_as_pixels_and_pixels_read_as_fractions_are_noted(boxes, units, hint):
    table = table_of([("0.jpg", box) for box in boxes])
    table = dataclasses.replace(table, convention=BoxConvention(units=units))
    plan = planned([(60, 80)], table=table)
    notes = [note for note in box_notes(plan, plan.boxes, table) if "--box-units" in note]
    assert [hint in note for note in notes] == ([] if hint is None else [True])


@pytest.mark.parametrize(
    ("box", "units", "n", "hw", "is_said"),
    [
        ((10.5, 20.25, 60, 90.1), "absolute", 5, (480, 640), True),
        ((10.5, 20.25, 60, 90.1), "absolute", 4, (480, 640), False),
        ((10.5, 20.25, 60, 90.1), "absolute", 5, (150, 640), False),
        ((10.5, 20.25, 60, 90.1), "percent", 5, (480, 640), False),
        ((10, 20, 60, 90), "absolute", 5, (480, 640), False),
        ((10.5, 20.25, 60, 190.1), "absolute", 5, (480, 640), False),
    ],
)
def test_percent_read_as_pixels_is_noted(box, units, n, hw, is_said):
    table = table_of([("0.jpg", box)] * n)
    table = dataclasses.replace(table, convention=BoxConvention(units=units))
    plan = planned([hw], table=table)
    notes = [note for note in box_notes(plan, plan.boxes, table) if "add --box-units percent" in note]
    assert len(notes) == is_said


def test_boxes_without_an_image_name_are_noted_if_used_for_the_only_input():
    for name, is_said in ((b"0", False), (b"1", True)):
        table = dataclasses.replace(table_of([("x", (0, 0, 9, 9))]), images=PathTable([name]), names="single")
        plan = planned([(60, 80)], table=table)
        notes = box_notes(plan, plan.boxes, table)
        assert any("used for the only input, '0.jpg'" in note for note in notes) == is_said


def test_images_that_are_not_inputs_are_named():
    table = table_of([("elsewhere/0.jpg", (0, 0, 9, 9)), ("x.jpg", (0, 0, 9, 9)), ("0.jpg", (0, 0, 9, 9))])
    plan = planned([(60, 80), (60, 80)], table=table)
    (note,) = (note for note in box_notes(plan, plan.boxes, table) if "not in the" in note)
    assert note.endswith("'elsewhere/0.jpg', 'x.jpg'")
    (note,) = (n for n in box_notes(plan, plan.boxes, table, is_new=False) if "not in the" in n)
    assert "not in the feature file" in note


def size_notes(sizes, image_hw):
    boxes = [(f"{i}.jpg", (0, 0, 2, 2)) for i in range(len(image_hw))]
    plan, table = of_file(boxes, image_hw, images=sizes, sizes=sizes)
    return box_notes(plan, plan.boxes, table)


def test_images_whose_size_differs_from_the_box_file_are_noted():
    known = [(60, 80), (60, 80), (0, 0), (60, 80), (60, 80)]
    # Named in another order than the inputs are in, one of them no input.
    sizes = {"4.jpg": (61, 80), "1.jpg": (30, 40), "x.jpg": (1, 1), "2.jpg": (30, 40), "0.jpg": (60, 80)}
    assert size_notes(sizes, known) == [
        "2 images differ in size from the box file, such as '1.jpg': 80 x 60, in the box file 40 x 30"
    ]


def test_rotated_images_get_a_hint():
    (note,) = size_notes({"0.jpg": (80, 60)}, [(60, 80)])
    assert note.startswith("1 image differs in size from the box file, such as '0.jpg': 80 x 60, in the")
    assert "--exif ignore" in note
    (note,) = size_notes({"0.jpg": (81, 60)}, [(60, 80)])
    assert "--exif" not in note
