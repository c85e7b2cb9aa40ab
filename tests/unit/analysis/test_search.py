"""``sppfeat search``: queries of every kind, and the fields of the rows found."""

import functools
import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import run
from conftest import write_image
from feature_files import name_images
from json_fields import check_fields

import sppfeat
from sppfeat.analysis.neighbors import nearest_rows
from sppfeat.analysis.search import Query, describe_queries, parse_query
from sppfeat.store.reader import FeatureFile

SETTINGS = ["--size", "48", "--levels", "1,2", "--normalize", "l2", "--device", "cpu", "--workers", "0", "-q"]
BOXES = """image,x0,y0,x1,y1,label,score,id
img1.png,0,0,20,30,one,0.5,a
img1.png,-5,0,20,31,two,,
img3.png,9,9,9,9,one,0.1,c
img3.png,5,6,60,33,two,0.25,d
img5.png,0,0,40,60,one,1,e
"""


search = functools.partial(run, "search", "-q")


def hits(*args, **settings):
    return json.loads(search(*args, "--json", code=0, **settings).stdout)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    top = tmp_path_factory.mktemp("search") / "pictures"
    for i in range(8):
        write_image(top / ("cat" if i % 2 else "dog") / f"img{i}.png", 40 + 5 * (i % 3), 60, seed=i)
    (top / "dog" / "img8.png").write_text("broken")
    return top


@pytest.fixture(scope="module")
def whole(pictures):
    """A file of whole images; the last one failed."""
    path = pictures.parent / "whole.h5"
    run("extract", pictures, "-o", path, *SETTINGS, code=3)
    return path


@pytest.fixture(scope="module")
def boxed(pictures):
    """A file of boxes; row 2 has no area."""
    (pictures.parent / "boxes.csv").write_text(BOXES)
    path = pictures.parent / "boxed.h5"
    args = ["extract", pictures / "cat", "-o", path, *SETTINGS, "--boxes", pictures.parent / "boxes.csv"]
    run(*args, code=0)
    return path


def test_an_image_of_the_file_finds_itself(whole, pictures):
    (found,) = hits(whole, pictures / "dog/img4.png", "-k", 3)
    assert found["path"] == str(pictures / "dog/img4.png")
    assert (found["row"], found["box"]) == (None, None)
    first = found["hits"][0]
    assert first["distance"] < 1e-9
    assert (first["rank"], first["image"], first["label"]) == (1, "dog/img4.png", "dog")
    assert first["path"] == str(pictures / "dog/img4.png")
    assert (first["box"], first["score"], first["id"]) == (None, None, None)
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]


def test_queries_have_the_descriptors_of_the_file(whole, boxed, pictures):
    with FeatureFile(whole) as file:
        queries = [Query(name, path=str(pictures / name)) for name in file.paths[:8]]
        got = describe_queries(queries, file.select())
        assert np.allclose(got, file.features[:8], rtol=0, atol=1e-5)
        part = file.select(levels=2)
        assert np.allclose(describe_queries(queries[:2], part), part.X[:2], rtol=0, atol=1e-5)
    with FeatureFile(boxed) as file:
        texts = [f"{pictures}/cat/img1.png#0,0,20,30", "row:3", f"{pictures}/cat/img1.png#-5,0,20,31"]
        texts += [f"{pictures}/cat/img3.png#5,6,60,33", f"{pictures}/cat/img5.png"]
        got = describe_queries([parse_query(text) for text in texts], file.select())
        height, width = file.image_hw[list(file.paths).index("img5.png")]
        assert np.allclose(got[:4], file.features[[0, 3, 1, 3]], rtol=0, atol=1e-5)
        (whole_box,) = describe_queries(
            [Query("", str(pictures / "cat/img5.png"), (0, 0, width, height))], file.select()
        )
        assert np.allclose(got[4], whole_box, rtol=0, atol=1e-5)


def test_a_row_does_not_find_itself_unless_asked(whole):
    with FeatureFile(whole) as file:
        expected = nearest_rows(file.select(), file.features[3:4], 8).rows[0].tolist()
    assert expected[0] == 3
    assert [hit["row"] for hit in hits(whole, "row:3", "-k", 10**12)[0]["hits"]] == expected[1:]
    assert [hit["row"] for hit in hits(whole, "row:3", "--include-self")[0]["hits"]] == expected


def test_hits_of_a_box_file_name_the_box(boxed, pictures):
    (found,) = hits(boxed, f"{pictures}/cat/img3.png#5,6,60,33", "--metric", "l2")
    assert found["box"] == [5, 6, 60, 33]
    first = found["hits"][0]
    assert (first["row"], first["label"], first["score"], first["id"]) == (3, "two", 0.25, "d")
    assert first["box"] == [5, 6, 60, 33]
    assert first["distance"] < 1e-4
    assert sorted(hit["row"] for hit in found["hits"]) == [0, 1, 3, 4]
    of_row_1 = next(hit for hit in found["hits"] if hit["row"] == 1)
    assert (of_row_1["score"], of_row_1["id"]) == (None, None)


def test_one_row_per_image(boxed):
    (found,) = hits(boxed, "row:4", "--one-per-image")
    assert [hit["image"] for hit in found["hits"]] in (["img1.png", "img3.png"], ["img3.png", "img1.png"])
    (found,) = hits(boxed, "row:0", "--one-per-image")  # its own image, that of row 1, is not among them
    assert sorted(hit["row"] for hit in found["hits"]) == [3, 4]
    (found,) = hits(boxed, "row:0", "--one-per-image", "--include-self")
    assert sorted(hit["row"] for hit in found["hits"]) == [0, 3, 4]


def test_a_part_of_the_file(whole, boxed, pictures):
    (found,) = hits(whole, "row:0", "--rows", "label=dog", "--levels", "2")
    assert {hit["label"] for hit in found["hits"]} == {"dog"}
    (pictures.parent / "labels.csv").write_text("path,label\ncat/img1.png,x\n")
    (found,) = hits(whole, "row:1", "--labels", pictures.parent / "labels.csv")
    assert [hit["label"] for hit in found["hits"] if hit["image"] == "cat/img1.png"] == ["x"]
    assert {hit["label"] for hit in found["hits"]} == {"x", None}
    (found,) = hits(whole, "row:1", "--rows", "image=img0.png", "--root", "/elsewhere")
    assert [hit["path"] for hit in found["hits"]] == ["/elsewhere/dog/img0.png"]


@pytest.mark.parametrize("text", ["row:1\nrow:2\n", "\nrow:1\r\n\r\nrow:2", "row:1\0row:2"])
def test_lists_of_queries(whole, tmp_path, text):
    (tmp_path / "list.txt").write_bytes(text.encode())
    for args, stdin in ((["-"], text), ([f"@{tmp_path}/list.txt"], None)):
        assert [found["row"] for found in hits(whole, "row:5", *args, input=stdin)] == [5, 1, 2]


def test_the_table(whole, boxed, pictures):
    lines = search(whole, "row:3", pictures / "cat/img1.png", "-k", 2).stdout.splitlines()
    assert lines[0].split() == ["query", "rank", "distance", "row", "image", "label"]
    assert len(lines) == 5
    assert re.match(r"row:3 +1 +0\.\d+ +\d \S+\.png +(cat|dog)$".replace(" \\S", " +\\S"), lines[1])
    lines = search(boxed, "row:3", "-k", 9).stdout.splitlines()
    assert lines[0].split() == ["query", "rank", "distance", "row", "image", "label", "box", "score", "id"]
    assert any(re.search(r"img1.png +one +0,0,20,30 +0.5 +a$", line) for line in lines)
    search(whole, "row:3", "--rows", "row=", "-k", 2, code=2)
    assert search(whole, "row:3", "--rows", "3").stdout == "no rows found\n"


def test_names_with_odd_characters(whole, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = (pictures / "dog/img4.png").read_bytes()
    for name in ("a#1,2,3,4", "row:1", "b#c.png", os.fsdecode(b"\xff.png")):
        Path(name).write_bytes(picture)
        assert parse_query(name) == Query(name, path=name)
    assert parse_query("b#c.png#1,2,3,4.5") == Query("b#c.png#1,2,3,4.5", "b#c.png", (1, 2, 3, 4.5))
    names = [b"./row:1", b"\xff.png", b"\xff.png#1,1,30,30"]
    found = hits(whole, "-", "-k", 1, input=b"\n".join(names))
    assert [own["hits"][0]["image"] for own in found[:2]] == ["dog/img4.png"] * 2
    assert "\\udcff.png" in search(whole, os.fsdecode(b"\xff.png")).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (
            ["gone.jpg"],
            2,
            "query 'gone.jpg': no such file; allowed: an image, IMAGE#x0,y0,x1,y1, row:N, @LIST or -",
        ),
        (["row:9"], 2, "row 9 of 9; allowed: 0 to 8"),
        (["row:8"], 2, "row 8 ('dog/img8.png') has no descriptor"),
        (["@gone.txt"], 2, "cannot read the list 'gone.txt'"),
        (["-"], 2, "no queries; allowed: an image"),
        (["{}/cat"], 2, "is a folder; allowed"),
        (["{}/cat/img1.png#1,2,3"], 2, "its box is '1,2,3'; allowed: x0,y0,x1,y1, in pixels"),
        (["{}/cat/img1.png#1,2,nan,4"], 1, "the box has no area in its image of 60 x 45 pixels"),
        (["row:1", "{}/cat/img1.png", "{}/dog/img8.png"], 1, "dog/img8.png': "),
        (["{}/cat/img1.png", "--weights", "none"], 1, "differ from the weights that made the file"),
    ],
)
def test_wrong_queries_are_refused(whole, pictures, args, code, message):
    result = search(whole, *(arg.format(pictures) for arg in args), code=code)
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copy(whole, tmp_path / "copy.h5"))


def test_a_file_without_network_is_searched_by_its_rows_only(copy, pictures):
    with h5py.File(copy, "r+") as file:
        config = json.loads(file.attrs["config"])
        file.attrs["config"] = json.dumps({**config, "weights": "module"})
    assert hits(copy, "row:1", "-k", 1)[0]["hits"]
    result = search(copy, pictures / "cat/img1.png", code=1)
    assert "was made with a network from Python" in result.stderr


def test_nan_in_a_query(copy):
    with h5py.File(copy, "r+") as file:
        file["features"][2, 5] = np.nan
    result = search(copy, "row:1", "row:2", code=2)
    assert "query 'row:2': its descriptor holds NaN" in result.stderr
    assert 2 not in [hit["row"] for hit in hits(copy, "row:1")[0]["hits"]]


def test_json_has_the_documented_fields_and_the_values_of_the_function(boxed):
    found = hits(boxed, "row:0", "row:3")
    check_fields("search", found)
    called = sppfeat.search(boxed, ["row:0", "row:3"])
    assert [own.query.text for own in called] == ["row:0", "row:3"]
    assert json.loads(json.dumps([[asdict(hit) for hit in own.hits] for own in called])) == [
        own["hits"] for own in found
    ]


def test_hits_have_the_image_ids_of_the_inputs(whole, copy):
    name_images(copy, [b"id %d" % i if i != 2 else b"" for i in range(9)])
    (found,) = hits(copy, "row:0", "--include-self")
    assert {hit["row"]: hit["image_id"] for hit in found["hits"]} == {
        row: f"id {row}" if row != 2 else None for row in range(8)
    }
    (unnamed,) = hits(whole, "row:0")
    assert {hit["image_id"] for hit in unnamed["hits"]} == {None}
