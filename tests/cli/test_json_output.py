"""The JSON of each command is valid and has the fields that docs/json.md describes."""

import dataclasses
import json
import math

import pytest
from command_line import run
from json_fields import check_fields
from sharded_files import whole_images, write_shards

import sppfeat
from sppfeat.cli.output import print_json

NETWORK = ["--backbone=squeezenet1_1", "--weights=none", "--size=48", "--levels=1", "--device=cpu"]
CSV = "path,x0,y0,x1,y1,label,note\nimg1.png,0,0,20,20,cat,x\nimg0.png,0,0,9,9,dog,y\n"


def refuse(name):
    raise AssertionError(f"{name} is no JSON")


def output_of(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code in (0, 3), result.output
    assert result.stdout.isascii()
    return json.loads(result.stdout, parse_constant=refuse)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with a failure, and what it printed."""
    from conftest import write_image

    folder = tmp_path_factory.mktemp("json")
    for i in range(4):
        write_image(folder / "pictures" / ("cat" if i % 2 else "dog") / f"img{i}.png", 40, 60, seed=i)
    (folder / "pictures" / "cat" / "bad.png").touch()
    (folder / "boxes.csv").write_text(CSV)
    return folder, output_of("extract", folder / "pictures", "-o", folder / "f.h5", *NETWORK)


@pytest.fixture(scope="module")
def boxes(whole):
    folder, _ = whole
    command = ("extract", folder / "pictures", "-o", folder / "b.h5", "--boxes", folder / "boxes.csv")
    return folder / "b.h5", output_of(*command, *NETWORK)


@pytest.mark.slow
def test_extract(whole, boxes):
    folder, printed = whole
    assert printed["result"]["failures"][0]["path"] == "cat/bad.png"
    plan = output_of("extract", folder / "pictures", "-o", folder / "new.h5", "--dry-run", *NETWORK)
    assert "result" not in plan
    check_fields("extract", printed, boxes[1])


@pytest.mark.slow
def test_info_and_verify(whole, boxes):
    folder, _ = whole
    reduced = folder / "r.h5"
    output_of("reduce", boxes[0], "-o", reduced, "--components", 1, "--fit-rows", "0:2", "-q")
    shards = write_shards(folder, whole_images(), (0, 5, 11))
    output_of("merge", folder / "m.h5", *shards)
    files = (folder / "f.h5", boxes[0], reduced, shards[0], folder / "m.h5")
    printed = [output_of("info", path) for path in files]
    check_fields("info", *printed)
    assert printed == [sppfeat.info(path) for path in files]
    printed = [output_of("verify", folder / "f.h5"), output_of("verify", boxes[0], "--recompute", 1, "-q")]
    check_fields("verify", *printed)
    found = [sppfeat.verify(folder / "f.h5"), sppfeat.verify(boxes[0], recompute=1)]
    assert printed == list(map(dataclasses.asdict, found))


def test_backbones():
    check_fields("backbones PATTERN", output_of("backbones", "spp*"))
    check_fields("backbones NAME", output_of("backbones", "spp_s16"))
    check_fields("backbones NAME --download", output_of("backbones", "spp_s16", "--download"))


@pytest.mark.slow
def test_train(whole):
    folder, _ = whole
    settings = [
        "--sizes=48",
        "--epochs=1",
        "--batch-size=2",
        "--hidden=4",
        "--val-fraction=0.5",
        "--levels=1",
    ]
    check_fields("train", output_of("train", folder / "pictures", "-o", folder / "run", *settings, "-q"))


def test_nan_and_infinities_become_null(capsys):
    print_json({"a": [math.nan, (1.5, -math.inf)], "b": "\udcff"})
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"a": [None, [1.5, None]], "b": "\udcff"}
