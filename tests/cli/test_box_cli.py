"""Options about boxes on the command line, and their messages."""

import json
import os

import pytest
from command_line import run

import sppfeat
from sppfeat.config.request import make_request

TINY = ["--levels", "1,2", "--device", "cpu", "--workers", "0"]
CSV = """image,x0,y0,x1,y1,label
img1.png,0,0,20,30,one
img1.png,-5,0,20,30,two
img3.png,9,9,9,9,one
gone.png,0,0,1,1,x
"""


@pytest.fixture
def boxes(tmp_path):
    (tmp_path / "boxes.csv").write_text(CSV)
    return tmp_path / "boxes.csv"


@pytest.mark.slow
def test_a_run_prints_its_boxes_and_their_outcome(folder, boxes, tmp_path):
    result = run("extract", folder, "-o", tmp_path / "f.h5", *TINY, "--size", "48", "--boxes", boxes, code=0)
    for text in (
        "images:      12 (5 distinct input sizes)\n",
        f"boxes:       4 from {boxes} (CSV: x0,y0,x1,y1 in pixels, 0-based), 3 rows\n",
        "box classes: 2: one (2), two (1)\n",
        "1 box refers to 1 image that is not in the input: 'gone.png'",
        "10 images have no boxes and get no rows: ",
        "1 box extends beyond its image and is clipped to it: [-5, 0, 20, 30] of 'cat/img1.png'",
        "1 box has no area inside its image: its row is NaN: [9, 9, 9, 9] of 'cat/img3.png'",
        "boxes: 3 rows, 2 with a descriptor, 1 clipped to the image, 1 without area in the image (NaN)\n",
    ):
        assert text in result.stderr
    info = run("info", tmp_path / "f.h5")
    assert "3 rows, 2 with a descriptor, 1 clipped to the image, 1 without area" in info.output
    assert "classes:   3 of boxes: one 2, two 1, x 0" in info.output
    assert "10 images without boxes" in info.output
    found = json.loads(run("info", tmp_path / "f.h5", "--json").stdout)["boxes"]
    assert found["classes"] == {"one": 2, "two": 1, "x": 0}
    assert found["scales"] == {"48": 2}
    run("verify", tmp_path / "f.h5", "--recompute", "9", "-q", code=0)


def test_the_plan_as_json_counts_boxes(folder, boxes, tmp_path):
    args = ["extract", folder, "-o", tmp_path / "f.h5", *TINY, "--boxes", boxes, "--scales", "480,688"]
    plan = json.loads(run(*args, "--dry-run", "--json").stdout)["plan"]
    assert plan["boxes"] == {
        "source": str(boxes),
        "format": "csv",
        "convention": "x0,y0,x1,y1 in pixels, 0-based",
        "boxes": 4,
        "rows": 3,
        "same_region": 0,
        "clipped": 1,
        "degenerate": 1,
        "of_no_input": 1,
        "images_without_boxes": 10,
        "class_counts": {"one": 2, "two": 1},
        "scales": {"480": 2, "688": 0},
    }
    assert "scales:      480: 2 rows, 688: 0 rows" in run(*args, "--dry-run").stdout
    assert not (tmp_path / "f.h5").exists()


@pytest.mark.parametrize(
    ("options", "size", "scales"),
    [
        ({}, 224, ()),
        ({"boxes": "grid:2x2"}, 688, ()),
        ({"boxes": "grid:2x2", "size": "native"}, None, ()),
        ({"boxes": "grid:2x2", "scales": (300, 200)}, None, (200, 300)),
        ({"boxes": "multiview"}, None, (224, 256, 300, 360, 448, 560)),
        ({"boxes": "multiview", "scales": (300, 400)}, None, (300, 400)),
    ],
)
def test_sizes(options, size, scales):
    found = make_request("photos", "f.h5", **options).input
    assert (found.size, found.scales) == (size, scales)


def test_every_option_reaches_the_file_also_from_the_environment(folder, boxes, tmp_path):
    options = {
        "--box-format": "csv",
        "--box-coords": "cxcywh",
        "--box-units": "normalized",
        "--box-origin": "0",
        "--box-ends": "edges",
        "--box-order": "yx",
        "--projection": "sppnet",
        "--margin": "1.5",
        "--normalize": "meannorm:20",
    }
    environment = {"BOXES": boxes, "OUTPUT": tmp_path / "f.h5", "LEVELS": "1,3"}
    boxes.write_text("path,a,b,x,y,w,h\nimg1.png,,,.5,.5,.5,.25\n")
    flat = [part for pair in options.items() for part in pair]
    args = ["extract", folder, *TINY[2:], "--size", "64", "--drop-duplicates", *flat]
    result = run(
        *args, "-q", env={f"SPPFEAT_EXTRACT_{name}": str(value) for name, value in environment.items()}
    )
    assert (result.exit_code, result.output) == (0, "")
    with sppfeat.open(tmp_path / "f.h5") as file:
        recorded = file.config.to_dict()
        flags = {f"--{name.replace('_', '-')}": str(value) for name, value in recorded.items()}
        assert flags.items() >= options.items()
        assert (recorded["drop_duplicates"], recorded["levels"]) == (True, [1, 3])
        height, width = file.image_hw[0].tolist()
        assert file.boxes[0].tolist() == [0.375 * width, 0.25 * height, 0.625 * width, 0.75 * height]


def test_a_box_style_and_equal_single_options_continue_one_file(folder, boxes, tmp_path):
    boxes.write_text("path,x0,y0,x1,y1\nimg1.png,1,2,20,30\n")
    output = tmp_path / "f.h5"
    args = ["extract", folder, "-o", output, *TINY, "--size", "48", "--boxes", boxes, "-q"]
    style = ["--box-style", "selective_search"]
    single = ["--box-coords", "xyxy", "--box-origin", "1", "--box-ends", "inclusive", "--box-order", "yx"]
    run(*args, *style, code=0)
    with sppfeat.open(output) as file:
        recorded = file.config.to_dict()
        assert file.boxes.tolist() == [[1, 0, 30, 20]]
    run(*args, *single, code=0)
    run(*args, "--box-style", "coco", "--box-coords", "xyxy", "--box-order", "yx", *single[2:6], code=0)
    sppfeat.extract(
        folder,
        tmp_path / "g.h5",
        boxes=boxes,
        box_style="selective_search",
        size=48,
        levels=(1, 2),
        workers=0,
    )
    with sppfeat.open(tmp_path / "g.h5") as file:
        assert file.config.to_dict() == recorded
    assert "box_style" not in recorded
    assert "box_ends: " in run(*args, "--box-style", "torchvision", code=1).stderr
    assert "--box-style" in run("extract", folder, "-o", output, *style, code=2).stderr


def test_the_plan_names_the_source_of_image_names(folder, tmp_path):
    annotations = tmp_path / "xml"
    annotations.mkdir()
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for own, inside in (("img0", "img1"), ("img1", "img0")):
        entry = f"<object><name>of_{own}</name>{box}</object>"
        (annotations / f"{own}.xml").write_text(
            f"<annotation><filename>{inside}.png</filename>{entry}</annotation>"
        )
    results, instances = tmp_path / "results.json", tmp_path / "instances.json"
    results.write_text('[{"image_id": 2, "category_id": 1, "bbox": [1, 2, 8, 9]}]')
    instances.write_text(
        '{"images": [{"id": 2, "file_name": "img0.png"}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}'
    )
    named = ["--box-images", instances, "--box-categories", instances]
    for boxes, options, expected, note in (
        (
            annotations,
            [],
            "of_img0",
            "2 annotation files have the names of inputs but name another input inside",
        ),
        (annotations, ["--box-names", "inside"], "of_img1", ""),
        (results, named, "cat", ""),
    ):
        args = ["extract", folder, "-o", tmp_path / "f.h5", *TINY, "--size", "64", "--overwrite"]
        text = run(*args, "--boxes", boxes, *options).stderr
        assert ("--box-names inside" in text) == bool(note)
        assert note in text
        with sppfeat.open(tmp_path / "f.h5") as file:
            rows = zip(file.image_index, file.row_label, strict=True)
            classes = {os.path.basename(file.path_of(i)): file.row_classes[label] for i, label in rows}
        assert classes["img0.png"] == expected
    again = [*args[:-1], "--boxes", results]
    assert "the content of the box file has changed" in run(*again, code=1).stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scales", "480"], "--scales needs boxes: add --boxes"),
        (["--projection", "paper"], "--projection needs boxes"),
        (["--drop-duplicates"], "--drop-duplicates needs boxes"),
        (["--boxes", "grid:3x3", "--scales", "1,2", "--size", "3"], "--size and --scales exclude each other"),
        (["--boxes", "grid:3x3", "--scales", "many"], "is not a list of pixels"),
        (["--boxes", "grid:3x3", "--box-format", "csv"], "--box-format needs a box file, but boxes is"),
        (["--boxes", "grid:3x3", "--box-names", "file"], "--box-names needs a box file, but boxes is"),
        (
            ["--boxes", "BOXES", "--box-images", "gt.json"],
            "box-images is 'gt.json', but the boxes are in csv",
        ),
        (["--boxes", "grid:axb"], "boxes are 'grid:axb'; allowed: grid:ROWSxCOLUMNS"),
        (["--boxes", "multiview", "--flip"], "leave out --flip"),
        (
            ["--boxes", "BOXES", "--box-ends=inclusive", "--box-units=normalized"],
            "box-units normalized needs",
        ),
        (["--head", "fc6"], "'spp_s16' has no fc6 or fc7; use one of vgg*, alexnet"),
    ],
)
def test_wrong_usage_is_reported_and_writes_nothing(folder, boxes, tmp_path, options, message):
    options = [str(boxes) if option == "BOXES" else option for option in options]
    result = run("extract", folder, "-o", tmp_path / "f.h5", *TINY, *options, code=2)
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "f.h5").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "boxes.csv"),
        ("path,x0,y0,x1,y1\nimg1.png,0,0,wide,1\n", "line 2"),
        ("path,x0,y0,x1,y1\nimg.png,0,0,1,1\n", "img.png"),
    ],
)
def test_a_wrong_box_file_is_an_error_and_writes_nothing(folder, boxes, tmp_path, content, message):
    boxes.unlink()
    if content is not None:
        boxes.write_text(content)
    result = run("extract", folder, "-o", tmp_path / "f.h5", *TINY, "--boxes", boxes, code=1)
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "f.h5").exists()


def test_the_plan_describes_box_files_of_tools(folder, tmp_path):
    (tmp_path / "cvat.xml").write_text(
        '<annotations><image name="img1.png"><box label="one" xtl="0" ytl="0" xbr="20" ybr="30" rotation="45"/>'
        '<polygon label="two" points="1,2;3,4;5,6"/></image></annotations>'
    )
    args = ["extract", folder, "-o", tmp_path / "f.h5", *TINY, "--boxes", tmp_path / "cvat.xml", "--dry-run"]
    output = run(*args, code=0).output
    for text in (
        "(CVAT: x0,y0,x1,y1 in pixels, 0-based)",
        "1 shape is not a box and has no row: 1 polygon",
        "1 box has a rotation (45 degrees), which is not applied",
    ):
        assert text in output
    (tmp_path / "ls.json").write_text('[{"id": 1, "annotations": [{"result": []}], "data": {}}]')
    args[args.index(tmp_path / "cvat.xml")] = tmp_path / "ls.json"
    output = run(*args, code=1).output
    assert "JSON of Label Studio, which is not supported: in Label Studio, export as YOLO or COCO" in output


def test_the_column_of_classes_is_a_setting_of_the_file(folder, boxes, tmp_path):
    boxes.write_text("image,x0,y0,x1,y1,label,kind\nimg1.png,0,0,20,30,a,b\n")
    args = ["extract", folder, "-o", tmp_path / "f.h5", *TINY, "--size", "48", "--boxes", boxes]
    run(*args, "--box-label", "kind", "-q", code=0)
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.row_classes == ["b"]
    assert "box_label: 'kind' in the file" in run(*args, code=1).output


def test_encodings_of_tables_boxes_and_labels(folder, boxes, tmp_path):
    boxes.write_bytes("image;x0;y0;x1;y1;label\nimg1.png;0;0;20;30;Käfer\n".encode("cp1252"))
    output = tmp_path / "f.h5"
    args = ["extract", folder, "-o", output, *TINY, "--size", "48", "--boxes", boxes, "-q"]
    assert "line 2: the byte 0xe4 in" in run(*args, code=1).output
    run(*args, "--encoding", "cp1252", code=0)
    with sppfeat.open(output) as file:
        assert file.row_classes == ["Käfer"]
    table = tmp_path / "t.csv"
    table.write_bytes("path;label\ncat/img1.png;Köter\n".encode("cp1252"))
    export = ["export", output, "-o", tmp_path / "x.csv", "--levels", "1", "--labels", table, "-q"]
    assert "line 2: the byte 0xf6 in" in run(*export, code=1).output
    run(*export, "--encoding", "cp1252", code=0)
    assert ",Köter," in (tmp_path / "x.csv").read_text(encoding="utf-8")
    for command in (args, export):
        assert (
            "encoding is 'klingon'; allowed: utf-8, " in run(*command, "--encoding", "klingon", code=2).output
        )
    table.write_bytes(f"path;label\n{folder}/cat/img1.png;Köter\n".encode("cp1252"))
    listed = ["extract", table, "-o", tmp_path / "g.h5", *TINY, "--size", "48", "-q", "--encoding", "cp1252"]
    run(*listed, code=0)
    with sppfeat.open(tmp_path / "g.h5") as file:
        assert file.classes == ["Köter"]
    train = ["train", table, "-o", tmp_path / "t", "--dry-run"]
    assert "line 2: the byte 0xf6 in" in run(*train, code=2).output
    assert "the byte" not in run(*train, "--encoding", "cp1252").output
