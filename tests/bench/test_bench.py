"""Reports of ``sppfeat bench``, and values that its contenders compute; no speeds."""

import dataclasses
import functools
import itertools
import json
import os
import re
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from conftest import write_image
from extraction_runs import difference
from hypothesis import given, settings
from hypothesis import strategies as st
from json_fields import check_fields
from PIL import Image

import sppfeat
import sppfeat.bench.pooling as pooling
from sppfeat.bench.regions import BoxContenders, find_crossover, ladder
from sppfeat.bench.runs import DECODE_STAGES, STAGES, Stages, WholeRun, find_bound, run_plain_loop
from sppfeat.bench.samples import draw_boxes, synthetic_photo, write_photos
from sppfeat.config.distribution import RunOptions
from sppfeat.config.machine import available_cores
from sppfeat.config.request import BackboneChoice, DescriptorChoice, Request
from sppfeat.config.specs import InputSpec
from sppfeat.decoding.images import probe_image
from sppfeat.extraction.extract import open_part
from sppfeat.extraction.run import load_chosen_backbone
from sppfeat.files.image_names import IMAGE_SUFFIXES

NETWORK = ["--backbone", "squeezenet1_1", "--weights", "none", "--levels", "1,2", "--device", "cpu"]


bench = functools.partial(run, "bench", code=0)


def json_of(*args):
    result = bench(*args, "--quick", "--json", "-q")
    assert result.stderr == ""
    found = json.loads(result.stdout)
    machine = found["machine"]
    assert machine["processor"]
    assert (machine["cores"], machine["threads"]) == (available_cores(), torch.get_num_threads())
    assert (machine["device"], machine["precision"]) == ("cpu", "fp32")
    assert (machine["torch"], machine["sppfeat"]) == (torch.__version__, sppfeat.__version__)
    return found


def is_timing(found, repetitions=2):
    assert found.keys() == {"seconds", "fastest", "slowest", "repetitions"}
    assert 0 < found["fastest"] <= found["seconds"] <= found["slowest"]
    assert found["repetitions"] == repetitions
    return True


# Boxes


@pytest.mark.slow
def test_regions_reports_both_ways_and_scaled_times():
    of_regions = json_of("regions", *NETWORK, "--size", 96)
    check_fields("bench regions", of_regions)
    assert of_regions["backbone"] == "squeezenet1_1"
    assert of_regions["dimension"] == 512 * 5
    assert of_regions["image"] is None
    assert (of_regions["image_hw"], of_regions["input_hw"]) == ([375, 500], [96, 128])
    assert of_regions["crop_hw"] == [224, 224]
    rungs = of_regions["ladder"]
    assert [rung["boxes"] for rung in rungs] == [1, 2, 5, 10, 20]
    assert [rung["extrapolated_from"] for rung in rungs] == [None, None, None, 5, 5]
    for rung in rungs:
        assert is_timing(rung["spp"])
        assert is_timing(rung["rcnn"])
    assert rungs[3]["rcnn"]["seconds"] == 2 * rungs[2]["rcnn"]["seconds"]
    assert rungs[4]["rcnn"]["slowest"] == 4 * rungs[2]["rcnn"]["slowest"]


@pytest.mark.parametrize(
    ("speedups", "expected"),
    [
        ([0.5, 0.9, 2, 3], {"boxes": 5, "above": 2, "is_extrapolated": False}),
        ([0.5, 2, 0.9, 3], {"boxes": 10, "above": 5, "is_extrapolated": True}),
        ([2, 2, 2, 2], {"boxes": 1, "above": None, "is_extrapolated": False}),
        ([2, 2, 2, 1], None),
        ([0.1, 0.1, 0.1, 0.1], None),
    ],
)
def test_one_run_always_wins_from_the_crossover_on(speedups, expected):
    rungs = [
        {"boxes": n, "speedup": s, "extrapolated_from": 5 if n == 10 else None}
        for n, s in zip([1, 2, 5, 10], speedups, strict=True)
    ]
    assert find_crossover(rungs) == expected


@given(st.integers(1, 100_000))
def test_the_ladder_climbs_to_the_given_number(n):
    counts = ladder(n)
    assert counts == sorted(set(counts))
    assert counts[0] == 1
    assert counts[-1] == n
    assert all(b <= 2.5 * a for a, b in itertools.pairwise(counts))


@pytest.mark.slow
def test_both_ways_compute_the_extractors_values():
    image = synthetic_photo(90, 120, np.random.default_rng(0))
    boxes = draw_boxes(13, (90, 120), shortest=16, seed=1)
    settings = {"weights": "none", "levels": (1, 2), "device": "cpu"}
    contenders = BoxContenders(image, boxes, size=96, backbone="squeezenet1_1", **settings)
    whole = sppfeat.Extractor("squeezenet1_1", size=96, **settings)(image, boxes=boxes)
    warped = [image.crop(tuple(box)).resize((224, 224), Image.Resampling.BILINEAR) for box in boxes.tolist()]
    crops = sppfeat.Extractor("squeezenet1_1", size=224, **settings)(warped)
    assert contenders.spp(13).shape == contenders.rcnn(13).shape == (13, 512 * 5)
    assert contenders.crop_batch < 13
    assert difference(contenders.spp(13), whole) <= 1e-5
    assert difference(contenders.rcnn(13), crops) <= 1e-5
    assert difference(contenders.spp(4), whole[:4]) <= 1e-5


def test_regions_of_the_users_image_with_all_boxes_measured(tmp_path):
    write_image(tmp_path / "a.png", 60, 90, seed=0)
    args = ["regions", tmp_path / "a.png", *NETWORK, "--max-boxes", 3, "--max-crops", 9]
    found = json_of(*args, "--size", 64, "--repeats", 1)
    assert found["image"] == str(tmp_path / "a.png")
    assert (found["image_hw"], found["input_hw"]) == ([60, 90], [64, 96])
    assert [rung["extrapolated_from"] for rung in found["ladder"]] == [None, None, None]


def test_text_marks_scaled_times():
    result = bench("regions", *NETWORK, "--size", 48, "--max-boxes", 4, "--max-crops", 2, "--repeats", 1)
    assert re.search(r"^ +4 .*\* +[\d.]+$", result.stdout, re.MULTILINE)
    assert re.search(r"^ +2 +[\d.e-]+ +[\d.e-]+ +[\d.]+$", result.stdout, re.MULTILINE)
    assert "* extrapolated from 2 boxes" in result.stdout
    assert "crossover: " in result.stdout


@given(st.integers(0, 40), st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(0, 99))
def test_boxes_lie_inside_and_are_not_empty(n, height, width, shortest, seed):
    boxes = draw_boxes(n, (height, width), shortest=shortest, seed=seed)
    assert boxes.shape == (n, 4)
    assert boxes.dtype == np.int64
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= np.minimum(shortest, (width, height))).all()
    assert np.array_equal(boxes, draw_boxes(n + 5, (height, width), shortest=shortest, seed=seed)[:n])


def test_sides_of_boxes_are_log_uniform():
    boxes = draw_boxes(20_000, (1024, 1024), shortest=16, seed=0)
    shares = np.histogram(np.log2(boxes[:, 2] - boxes[:, 0]), bins=[4, 5, 6, 7, 8, 9, 10.01])[0] / 20_000
    assert shares == pytest.approx([1 / 6] * 6, rel=0.1)


# Pooling


@pytest.mark.slow
def test_pooling_reports_all_contenders():
    of_pooling = json_of("pooling", "--device", "cpu")
    check_fields("bench pooling", of_pooling)
    assert [cell["boxes"] for cell in of_pooling["regions"]] == [1, 10, 50]
    assert (of_pooling["map_hw"], of_pooling["channels"]) == ([10, 13], 32)
    assert of_pooling["dimension"] == 32 * (36 + 9 + 4 + 1)
    for cell in of_pooling["regions"]:
        assert " ".join(cell["contenders"]) == "pool_regions roi_pool roi_align adaptive_loop write_once"
        assert cell["calls"] == 1
        assert all(map(is_timing, cell["contenders"].values()))
    assert [cell["maps"] for cell in of_pooling["whole"]] == [1, 8]
    for cell in of_pooling["whole"]:
        assert list(cell["contenders"]) == ["spatial_pyramid_pool", "adaptive_cat", "write_once"]
        assert all(map(is_timing, cell["contenders"].values()))
    assert of_pooling["same_values"]["pool_regions"] == 1
    assert of_pooling["same_values"]["roi_pool"] == 1
    assert of_pooling["same_values"]["roi_align"] < 1


@pytest.mark.parametrize("mode", ["max", "avg"])
@settings(max_examples=10)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 9))
def test_contenders_compute_the_same(mode, height, width, seed):
    levels = (3, 2, 1)
    fmap = torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(seed))
    boxes = torch.from_numpy(draw_boxes(20, (height, width), shortest=1, seed=seed))
    regions = torch.nn.functional.pad(boxes, (1, 0))
    contenders = pooling.region_contenders(fmap, levels, mode)
    assert ("roi_pool" in contenders) == (mode == "max")
    same = pooling.same_values(contenders, regions)
    assert {same[name] for name in ("pool_regions", "roi_pool") if name in same} == {1}
    for contender in contenders.values():
        assert contender(regions).shape == (20, 4 * 14)
    whole = pooling.map_contenders(levels, mode)
    assert whole["spatial_pyramid_pool"](fmap).allclose(whole["adaptive_cat"](fmap), atol=1e-6)
    assert whole["write_once"](fmap).shape == (1, 4 * 14)


def test_contenders_over_the_time_limit_have_no_result():
    args = ["pooling", "--quick", "--device", "cpu", "--time-limit", 1e-9]
    found = json_of(*args)
    assert {timing for cell in found["regions"] for timing in cell["contenders"].values()} == {None}
    text = bench(*args, "-q").stdout
    assert re.search(r"^ +50( +-){5}$", text, re.MULTILINE)
    assert "-:          stopped: took longer than the time limit of 1e-09 s" in text


def test_pooling_options_and_pieces(monkeypatch):
    monkeypatch.setattr(pooling, "_MOST_VALUES", 3 * 5 * 4)
    args = ["--box-counts", "2,7", "--map-size", "4x6", "--channels", 4, "--levels", "1,2", "--pool", "avg"]
    found = json_of("pooling", *args, "--device", "cpu")
    assert (found["map_hw"], found["channels"], found["levels"]) == ([4, 6], 4, [1, 2])
    assert [(cell["boxes"], cell["calls"]) for cell in found["regions"]] == [(2, 1), (7, 3)]
    assert "roi_pool" not in found["regions"][0]["contenders"]
    text = bench("pooling", "--quick", "-q", *args, "--device", "cpu").stdout
    assert "7 boxes in 3 calls" in text
    assert "roi_pool takes maxima only" in text


# A run


@pytest.mark.slow
def test_extract_reports_stages_and_runs_and_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    of_extract = json_of("extract", *NETWORK, "--size", 48, "--max-images", 6)
    assert list(tmp_path.iterdir()) == []
    check_fields("bench extract", of_extract)
    assert of_extract["images"] == 6
    assert of_extract["synthetic"] is True
    assert (of_extract["unreadable"], of_extract["failed"]) == (0, 0)
    assert 1 < of_extract["input_shapes"] <= of_extract["batches"] <= 6
    assert of_extract["dimension"] == 512 * 5
    assert of_extract["workers"] == 1
    assert list(of_extract["stages"]) == list(STAGES)
    rates = [*of_extract["stages"].values(), *(of_extract[name] for name in ("extract", "forward", "loop"))]
    for rate in rates:
        assert is_timing(rate["total"])
        assert rate["ms_per_image"] * rate["images_per_second"] == pytest.approx(1000)
    assert is_timing(of_extract["prepare"])
    run, forward, loop = (of_extract[name]["total"]["seconds"] for name in ("extract", "forward", "loop"))
    assert (of_extract["extract_to_forward"], of_extract["speedup_over_loop"]) == (run / forward, loop / run)


@given(st.tuples(*[st.floats(0.001, 9)] * len(STAGES)), st.integers(0, 8))
def test_the_bound_is_the_longest_stage_of_the_slowest_lane(values, n_workers):
    seconds = dict(zip(STAGES, values, strict=True))
    bound = find_bound(seconds, n_workers)
    decoding = sum(seconds[stage] for stage in DECODE_STAGES) / max(1, n_workers)
    if n_workers == 0:
        assert seconds[bound] == max(values)
    elif bound in DECODE_STAGES:
        assert seconds[bound] == max(seconds[stage] for stage in DECODE_STAGES)
        assert decoding >= max(seconds["backbone"], seconds["write"])
    elif bound == "write":
        assert seconds["write"] >= decoding
    else:
        assert seconds["transfer"] + seconds["backbone"] + seconds["pool"] >= decoding


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["max", "avg"])
def test_stages_loop_and_run_compute_the_same(folder, tmp_path, pool):
    request = Request(
        inputs=(str(folder),),
        output=tmp_path / "run.h5",
        backbone=BackboneChoice(name="squeezenet1_1", weights="none"),
        input=InputSpec(size=48),
        descriptor=DescriptorChoice(levels=(1, 2), pool=pool),
        run=RunOptions(device="cpu", workers=0),
    )
    with open_part(request) as extraction:
        stages = Stages(extraction, tmp_path / "stages.h5")
        assert set(stages.run()) == set(STAGES)
        images = [(path, batch.input_hw) for batch in stages.batches for path in stages.paths(batch)]
        backbone = load_chosen_backbone(request.backbone, fold=False)
        descriptor = extraction.run.config.descriptor
        loop = run_plain_loop(backbone, images, descriptor=descriptor, device=torch.device("cpu"))
        extraction.fill()
    order = [image for batch in stages.batches for image in batch.images]
    assert sorted(order) == list(range(12))
    for path in (tmp_path / "stages.h5", tmp_path / "run.h5"):
        with sppfeat.open(path) as file:
            assert (file.status == 1).all()
            assert difference(np.array(file.features)[order], loop) <= 1e-5
    whole = WholeRun(dataclasses.replace(request, output=tmp_path / "whole" / "features.h5"))
    assert set(whole.run()) == {"prepare", "extract"}
    assert (whole.n_workers, whole.n_failed, list((tmp_path / "whole").iterdir())) == (0, 0, [])


@pytest.mark.slow
def test_unreadable_images_are_left_out_and_the_folder_is_unchanged(mixed_folder):
    before = sorted(mixed_folder.rglob("*"))
    args = ["extract", mixed_folder, *NETWORK, "--size", 40, "--max-images", 99, "--repeats", 1]
    found = json_of(*args, "--workers", 0)
    assert sorted(mixed_folder.rglob("*")) == before
    assert (found["images"], found["unreadable"], found["failed"]) == (12, 3, 0)
    assert found["synthetic"] is False
    assert found["workers"] == 0
    found = json_of(*args, "--max-images", 4)
    assert found["images"] + found["unreadable"] == 4


def test_extract_as_text():
    text = bench("extract", *NETWORK, "--size", 40, "--max-images", 2, "--repeats", 1, "--workers", 0).stdout
    assert "2 synthetic photographs in 2 input shapes, 2 batches" in text
    for name in (*STAGES, "extract", "forward", "loop"):
        assert re.search(rf"^{name} +[\d.]+ +[\d.]+$", text, re.MULTILINE), name
    assert re.search(rf"^bound: +({'|'.join(STAGES)})$", text, re.MULTILINE)


@pytest.mark.slow
def test_synthetic_photographs_vary_in_size_and_depend_on_the_seed(tmp_path):
    content = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        paths = write_photos(tmp_path / name, 8, seed=seed)
        assert paths == sorted(map(str, (tmp_path / name).iterdir()))
        assert {os.path.splitext(path)[1] for path in paths} <= IMAGE_SUFFIXES
        assert len({probe_image(path, exif="apply") for path in paths}) == 8
        content.append([Path(path).read_bytes() for path in paths])
    assert content[0] == content[1] != content[2]


# Errors and ends


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["regions", "missing.jpg", *NETWORK], 1, "'missing.jpg': no such file"),
        (["regions", *NETWORK, "--layer", "nonsense"], 2, "no layer 'nonsense'"),
        (["regions", *NETWORK, "--precision", "tf32"], 2, "CUDA"),
        (["regions", *NETWORK, "--max-boxes", "0"], 2, "max-boxes"),
        (["regions", "--backbone", "swin_t", "--weights", "none", "--quick"], 2, "cannot be projected"),
        (["pooling", "--box-counts", "1,x"], 2, "whole numbers above 0"),
        (["pooling", "--map-size", "1x2x3"], 2, "such as 38x50"),
        (["pooling", "--time-limit", "0"], 2, "time-limit"),
        (["pooling", "--device", "cuda:7"], 2, "CUDA"),
        (["extract", "missing", *NETWORK], 2, "missing"),
        (["extract", *NETWORK, "--workers", "-1", "--max-images", "1"], 2, "workers is -1"),
    ],
)
def test_errors_are_one_clear_line_with_the_usual_exit_code(tmp_path, monkeypatch, args, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = bench(*args, code=code)
    assert message in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_no_readable_image_is_an_error(tmp_path):
    (tmp_path / "a.jpg").write_text("not a picture")
    (tmp_path / "b.jpg").touch()
    result = bench("extract", tmp_path, *NETWORK, code=1)
    assert "none of 2 images can be read; the first: " in result.stderr
    write_image(tmp_path / "long.png", 1, 20_000, seed=0)
    result = bench("extract", tmp_path / "long.png", *NETWORK, code=1)
    assert "no image can be run: too elongated" in result.stderr


@pytest.mark.slow
def test_a_signal_ends_the_run_with_130_and_leaves_no_files(runs, tmp_path):
    command = ["bench", "extract", *NETWORK, "--size", "64", "--max-images", "4", "--repeats", "1000"]
    run = runs.start(*command, "--workers", "1", temporary=tmp_path)
    while run.is_running() and not list(tmp_path.glob("*/run/features.h5")):
        time.sleep(0.002)
    run.send(signal.SIGTERM)
    status, _ = runs.wait()
    assert status == 130, runs.log()
    assert "Interrupted." in runs.log()
    assert "Traceback" not in runs.log()
    assert list(tmp_path.iterdir()) == []
