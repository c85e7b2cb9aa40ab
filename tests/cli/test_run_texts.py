"""The plan, the hints and the result that ``sppfeat extract`` prints."""

import dataclasses
import os

import pytest
from command_line import run

from sppfeat.cli.run_texts import plan_text, result_text, take_new_hints
from sppfeat.config.machine import user_cache_folder
from sppfeat.extraction.extract import ExtractResult
from sppfeat.extraction.part import Failure
from sppfeat.extraction.report import BoxSummary, PlanSummary

BOXES = BoxSummary(
    source="/data/annotations.json",
    format="coco",
    convention="x,y,w,h in pixels, 0-based",
    boxes=939,
    rows=925,
    same_region=14,
    clipped=0,
    degenerate=0,
    of_no_input=0,
    images_without_boxes=0,
    class_counts={"car": 900, "7": 25},
    scales={"688": 925},
)
PLAN = PlanSummary(
    output="/data/f.h5",
    images=122,
    already_done=0,
    already_failed=0,
    to_do=122,
    unreadable=0,
    rows=122,
    shard=None,
    dimension=10752,
    output_bytes=1000,
    unmeasured=0,
    input_shapes=12,
    round_to=1,
    classes=0,
    class_counts={},
    backbone="spp_s16",
    weights="DISTILLED_V1",
    layers=["features"],
    levels=[1, 2, 4],
    device="cpu",
    precision="fp32",
    workers=1,
    head=None,
    normalize="l2",
    boxes=None,
    notes=[],
    hints=[],
)
RESULT = ExtractResult(
    plan=PLAN,
    output="/data/f.h5",
    files=["/data/f.h5"],
    images=122,
    done=122,
    failed=0,
    pending=0,
    done_now=122,
    failed_now=0,
    seconds=9.0,
    images_per_second=25.42,
    decode_seconds=1.0,
    network_seconds=3.7,
    write_seconds=0.1,
    boxes=None,
    failures=[],
    notes=[],
)


def line_of(text: str, label: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"{label}:"))


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({"cat": 1}, "classes:     1: cat (1)"),
        ({"dog": 7, "3": 5}, "classes:     2: dog (7), 3 (5)"),
        (
            {f"c{i}": 1000 - i for i in range(1000)},
            "classes:     1000: " + ", ".join(f"c{i} ({1000 - i})" for i in range(10)) + ", and 990 more",
        ),
        ({"x" * 300: 2}, f"classes:     1: {'x' * 37}... (2)"),
    ],
)
def test_the_plan_names_the_largest_classes(counts, line):
    plan = dataclasses.replace(PLAN, class_counts=counts)
    assert line_of(plan_text(plan, output="f.h5", boxes=None), "classes") == line


def test_without_classes_there_is_no_line_about_them():
    assert "classes" not in plan_text(PLAN, output="f.h5", boxes=None)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_lines_fit_the_terminal_and_stay_aligned(columns):
    plan = dataclasses.replace(
        PLAN, class_counts={f"class number {i}": 5 for i in range(40)}, notes=["skipped " * 20], boxes=BOXES
    )
    lines = plan_text(plan, output="f.h5", boxes="annotations.json", hints=["use " * 40], columns=columns)
    for line in lines.splitlines():
        assert len(line) < columns
        assert line[:12].strip(" ") == "" or line[12] == " "
        assert line[13] != " "


def test_boxes_are_described_in_words():
    text = plan_text(dataclasses.replace(PLAN, boxes=BOXES), output="f.h5", boxes="/data/annotations.json")
    expected = "boxes:       939 from /data/annotations.json (COCO: x,y,w,h in pixels, 0-based), 925 rows"
    assert line_of(text, "boxes") == expected
    assert line_of(text, "box classes") == "box classes: 2: car (900), 7 (25)"
    assert "14 boxes pool the same region as another one and share its row" in text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "Done: 122 images in 4.8 s (25 images/s), 0 failed -> f.h5"),
        (
            {
                "done": 121,
                "done_now": 121,
                "failed": 1,
                "failed_now": 1,
                "failures": [Failure("a.jpg", "empty")],
            },
            "Done: 122 images in 4.8 s (25 images/s), 1 failed -> f.h5\n  failed: 'a.jpg': empty",
        ),
        (
            {"done": 119, "done_now": 60, "failed": 3, "failed_now": 1, "images_per_second": 2.5},
            "Done: 61 images in 4.8 s (2.5 images/s), 1 failed -> f.h5; before: 61 images, 2 failed",
        ),
        (
            {"done": 60, "done_now": 60, "pending": 62},
            "Stopped: 60 images in 4.8 s (25 images/s), 0 failed, 62 left -> f.h5\n"
            "Run the same command again to continue.",
        ),
        ({"done_now": 0, "images_per_second": None}, "Nothing to do: f.h5 has 122 images"),
        (
            {"done_now": 0, "done": 120, "failed": 2},
            "Nothing to do: f.h5 has 122 images, 2 failed (--retry-failed runs these again)",
        ),
        ({"notes": ["flat"]}, "Done: 122 images in 4.8 s (25 images/s), 0 failed -> f.h5\nnote: flat"),
        (
            {"files": ["/data/1", "/data/2"]},
            "Done: 122 images in 4.8 s (25 images/s), 0 failed -> f.h5 (2 files)",
        ),
    ],
)
def test_the_result_is_one_line(changes, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = dataclasses.replace(RESULT, output=str(tmp_path / "f.h5"), **changes)
    assert result_text(result, output="f.h5", verbose=False) == text


@pytest.mark.parametrize(
    ("given", "written", "shown"),
    [
        ("f.h5", "f.h5", "f.h5"),
        ("./a/f.h5", "a/f.h5", "./a/f.h5"),
        ("a/f-{shard}.h5", "a/f-00001-of-00002.h5", "a/f-00001-of-00002.h5"),
        ("link.h5", "f.h5", "link.h5"),
    ],
)
def test_paths_are_shown_as_the_user_gave_them(tmp_path, monkeypatch, given, written, shown):
    monkeypatch.chdir(tmp_path)
    os.symlink("f.h5", "link.h5")
    result = dataclasses.replace(RESULT, output=str(tmp_path / written))
    assert result_text(result, output=given, verbose=False).endswith(f" -> {shown}")


def test_a_hint_is_given_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert take_new_hints(["a", "b"]) == ["a", "b"]
    assert take_new_hints(["a", "c"]) == ["c"]
    assert take_new_hints(["a", "b", "c"]) == []


def test_hints_are_given_again_where_the_cache_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "cache").touch()  # not a folder
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert take_new_hints(["a"]) == ["a"] == take_new_hints(["a"])


def test_a_quiet_run_takes_no_hint(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ("extract", folder, "-o", tmp_path / "f.h5", "--size", 48, "--levels", "1", "--device", "cpu")
    run(*command, "--workers", 0, "-q", code=0)
    assert not (user_cache_folder() / "hints.txt").exists()
    assert "hint: " in run(*command, code=0).stderr
    assert "hint: " not in run(*command, code=0).stderr
