"""``sppfeat show image`` as a user runs it."""

import functools
import json
import re

import numpy as np
import pytest
from command_line import run
from conftest import write_image
from extraction_runs import extract
from json_fields import check_fields
from PIL import Image

import sppfeat
from sppfeat.config.request import BoxChoice

pytest.importorskip("matplotlib")

NETWORK = ["--backbone", "squeezenet1_1", "--weights", "none", "--seed", "3", "--device", "cpu"]
SMALL = [*NETWORK, "--size", "64", "--levels", "1,2"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "a b.png"
    write_image(path, 60, 90, seed=1)
    return path


show = functools.partial(run, "show", "image")


@pytest.mark.slow
def test_a_picture_and_its_numbers_show_the_pooled_values(photo, tmp_path):
    output = tmp_path / "out.png"
    result = show(
        photo, "-o", output, *SMALL, "--box", "10,10,60,50", "--box", "-5,0,99.5,30", "--json", code=0
    )
    found = json.loads(result.stdout)
    with Image.open(output) as picture:
        assert picture.width > 1000
    check_fields("show image", found)
    network = {"backbone": "squeezenet1_1", "weights": "none", "seed": 3, "device": "cpu"}
    network |= {"size": 64, "levels": (1, 2)}
    boxes = [(10, 10, 60, 50), (-5, 0, 99.5, 30)]
    again = sppfeat.show_image(photo, output, boxes=boxes, overwrite=True, **network)
    assert json.loads(json.dumps(again.found)) == {**found, "image": str(photo)}
    descriptors = sppfeat.Extractor(**network)(photo, boxes)
    for box, descriptor in zip(found["boxes"], descriptors, strict=True):
        (layer,) = box["layers"]
        assert (layer["layer"], layer["stride"], layer["offset"]) == ("features", [16, 16], [15, 15])
        start = 0
        for level in layer["levels"]:
            n_bins, n_maxima = level["level"] ** 2, sum(n for _, _, n in level["maxima"])
            part = descriptor[start : start + 512 * n_bins].reshape(512, n_bins)
            assert np.allclose(np.linalg.norm(part, axis=0), level["strength"], rtol=1e-5)
            assert 0 < n_maxima <= 512 * n_bins
            start += 512 * n_bins
    assert [box["clipped"] for box in found["boxes"]] == [False, True]


@pytest.mark.slow
def test_the_written_file_is_named_and_not_replaced_without_overwrite(photo, tmp_path):
    output = tmp_path / "out.svg"
    result = show(photo, "-o", output, *SMALL)
    assert (result.exit_code, result.stdout) == (0, "")
    assert re.fullmatch(rf"wrote {output} \(\d+ x \d+\)\n", result.stderr)
    result = show(photo, "-o", output, *SMALL)
    assert (result.exit_code, "exists; add --overwrite" in result.stderr) == (1, True)


@pytest.fixture(scope="module")
def boxes_file(photo, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "boxes.h5"
    extract([photo], path, boxes=BoxChoice(boxes="grid:2x2", projection="paper"))
    return path


@pytest.mark.slow
def test_everything_can_be_taken_from_a_feature_file(photo, boxes_file, tmp_path):
    output = tmp_path / "out.png"
    file = ["--from", boxes_file, "-o", output, "--device", "cpu", "--overwrite", "--json"]
    with sppfeat.open(boxes_file) as opened:
        region, box, levels = opened.row_region[3, 0].tolist(), opened.boxes[3].tolist(), (1, 2)
    (found,) = json.loads(show(*file, "--row", 3, code=0).stdout)["boxes"]
    assert (found["box_px"], found["layers"][0]["region"]) == (box, region)
    assert tuple(level["level"] for level in found["layers"][0]["levels"]) == levels
    assert json.loads(show(photo, *file, "--box", ",".join(map(str, box))).stdout)["boxes"] == [found]
    assert json.loads(show(*file, "--row", 3, "--root", photo.parent).stdout)["boxes"] == [found]
    gone = show(*file, "--row", 3, "--root", tmp_path, code=1)
    assert f"{str(tmp_path / 'a b.png')!r}: no such file; give the images' folder with --root" in gone.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to draw"),
        (["{photo}", "--row", "1"], "--row needs a feature file"),
        (["{photo}", "--root", "x"], "--root needs a feature file"),
        (["{photo}", "--from", "{file}", "--row", "0"], "either a PHOTO or --row"),
        (["--from", "{file}"], "either a PHOTO or --row"),
        (["--from", "{file}", "--row", "0", "--box", "1,2,3,4"], "--box and --row exclude each other"),
        (["--from", "{file}", "--row", "0", "--margin", "0"], "leave out --projection and --margin"),
        (["--from", "{file}", "--row", "0", "--levels", "1,2"], "--levels and --from exclude each other"),
        (["--from", "{file}", "--row", "0", "--layer", "features"], "--layer and --from exclude each other"),
        (["{photo}", "--box", "1,2,3,x"], "'1,2,3,x' is not four numbers such as"),
        (["{photo}", "--margin", "nan"], "margin is nan"),
        (["{photo}", *SMALL, "--channel", "512"], "--channel is 512; layer 'features' has channels 0 to 511"),
        (["{photo}", *SMALL, *["--box", "1,2,30,40"] * 7], "7 rows of panels; a picture holds at most 6"),
        (["{photo}", *SMALL, "--levels", "1,2,3,4,5,6,7"], "7 levels; a picture holds at most 6"),
    ],
)
def test_wrong_usage(photo, boxes_file, tmp_path, arguments, message):
    names = {"photo": photo, "file": boxes_file}
    result = show("-o", tmp_path / "out.png", *(argument.format(**names) for argument in arguments), code=2)
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_unreadable_images_are_errors_and_leave_no_file(photo, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    before = sorted(tmp_path.iterdir())
    for arguments, message in (
        ([tmp_path / "text.jpg"], "text.jpg"),
        ([tmp_path / "gone.jpg"], "gone.jpg"),
        ([photo, "--box", "95,0,99,10"], "has no area inside its image of 90 x 60 pixels"),
        ([photo, "--from", tmp_path / "gone.h5"], "no such file"),
    ):
        network = [] if "--from" in arguments else SMALL
        result = show(*arguments, *network, "-o", tmp_path / "out.svg", code=1)
        assert message in result.stderr
        assert sorted(tmp_path.iterdir()) == before


def test_the_photograph_is_never_the_output(photo, tmp_path):
    copy = tmp_path / "photo.png"
    copy.write_bytes(photo.read_bytes())
    (tmp_path / "link.png").symlink_to(copy)
    for name in ("photo.png", "link.png"):
        result = show(copy, *SMALL, "-o", tmp_path / name, "--overwrite", code=2)
        assert "is also an input" in result.stderr
    assert copy.read_bytes() == photo.read_bytes()
