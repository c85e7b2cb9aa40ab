"""Annotation files and the names inside them that disagree, against the inputs that there are."""

import numpy as np
import pytest

from sppfeat.boxes.table import BoxTableBuilder
from sppfeat.config.regions import BoxConvention
from sppfeat.errors import BoxError
from sppfeat.extraction.own_names import match_table

PATHS = [b"im0.jpg", b"im1.jpg", b"im2.jpg"]
BOTH, ONE = "names another input inside", "names no input inside"


def table_of(*names):
    builder = BoxTableBuilder()
    for inside, own in names:
        builder.add_image(inside, own_name=own)
    return builder.build(BoxConvention())


@pytest.mark.parametrize(
    ("inside", "own", "image", "said"),
    [
        (b"im1.jpg", b"im0", 0, BOTH),
        (b"im1.jpg", b"Annotations/im0", 0, BOTH),
        (b"old.jpg", b"im0", 0, ONE),
        (b"im1.jpg", b"frame7", 1, None),
        (b"im1.jpg", b"", 1, None),
        (b"old.jpg", b"frame7", -1, None),
    ],
)
def test_the_file_name_wins_over_the_name_inside(inside, own, image, said):
    image_of, notes = match_table(table_of((inside, own), (b"im2.jpg", b"")), b"/r", PATHS)
    assert image_of.tolist() == [image, 2]
    notes = [note for note in notes if "--box-names inside" in note]
    assert len(notes) == (said is not None)
    assert all(
        note.startswith("1 annotation file has the name of an input") and said in note for note in notes
    )


def test_swapped_names():
    table = table_of((b"im1.jpg", b"im0"), (b"im0.jpg", b"im1"))
    image_of, (note,) = match_table(table, b"/r", PATHS)
    assert image_of.tolist() == [0, 1]
    assert "'im0' names 'im1.jpg' and is used for 'im0.jpg'" in note


def test_two_annotations_of_one_input_are_refused():
    table = table_of((b"im1.jpg", b"im0"), (b"im0.jpg", b"frame7"))
    with pytest.raises(
        BoxError, match=r"'im1\.jpg' and 'im0\.jpg' inside, belong to 'im0\.jpg'.*--box-names"
    ):
        match_table(table, b"/r", PATHS)


def test_ambiguous_file_names_are_ignored():
    paths = [b"a/im0.jpg", b"b/im0.jpg", b"b/im1.jpg"]
    image_of, notes = match_table(table_of((b"im1.jpg", b"im0")), b"/r", paths)
    assert np.array_equal(image_of, [2])
    assert notes == ()
