"""Killed runs lose no finished row: killed at calls that change a file, and at random moments."""

import os
import random
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from conftest import write_image
from extraction_runs import assert_same_descriptors, assert_same_file
from killing import TINY, Run

import sppfeat
from sppfeat.errors import StoreError
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status

pytestmark = pytest.mark.slow

SIZES = [(40, 60), (60, 40), (48, 48)]
# Moments drawn for each scenario; SPPFEAT_ALL_MOMENTS=1 takes all 20 to 45, and more random kills.
N_MOMENTS = 1000 if os.environ.get("SPPFEAT_ALL_MOMENTS") else 3
N_KILLS = 24 if os.environ.get("SPPFEAT_ALL_MOMENTS") else 8


class Scenario(NamedTuple):
    """A command, and the files that exist before it."""

    folder: Path  # copied for each run
    arguments: tuple[str, ...]  # of extract, from inside the folder
    changed: tuple[str, ...] = ()  # images that become pending until their new rows are written


def pictures(folder: Path, n: int, *, first: int = 0) -> None:
    for i in range(first, first + n):
        write_image(folder / "p" / ("cat" if i % 2 else "dog") / f"{i}.png", *SIZES[i % 3], seed=i)


def break_picture(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def begin(folder: Path) -> Scenario:
    """A new file; one input is not a picture, another fails when it is decoded."""
    pictures(folder, 3)
    break_picture(folder / "p/dog/2.png")
    (folder / "p/cat/text.jpg").write_text("no picture")
    return Scenario(folder, ("p", "-o", "f.h5", *TINY))


def boxes(folder: Path) -> Scenario:
    """Boxes at two scales, one without area, and a mean norm to estimate and record."""
    pictures(folder, 3)
    (folder / "p/cat/text.jpg").write_text("no picture")
    lines = ["path,x0,y0,x1,y1,label", "1.png,0,0,20,20,a", "1.png,5,5,5,9,b", "0.png,0,0,30,40,a"]
    lines += ["2.png,1,1,3,3,b", "2.png,0,0,40,40,a", "text.jpg,0,0,9,9,b"]
    (folder / "boxes.csv").write_text("\n".join(lines))
    size = TINY.index("--size")
    scales = (*TINY[:size], "--scales", "40,120", *TINY[size + 2 :])
    return Scenario(
        folder, ("p", "-o", "f.h5", *scales, "--boxes", "boxes.csv", "--normalize", "meannorm:20")
    )


def retry(folder: Path) -> Scenario:
    """Failed images that were repaired: one of unknown size, one that now has another size."""
    pictures(folder, 4)
    (folder / "boxes").mkdir()
    for i in range(4):
        (folder / f"boxes/{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.9 0.9 0.4 0.4\n")
    arguments = ("p", "-o", "f.h5", *TINY, "--boxes", "boxes", "--retry-failed")
    unreadable, truncated = folder / "p/cat/1.png", folder / "p/dog/2.png"
    unreadable.write_text("no picture")
    break_picture(truncated)
    sppfeat_in(folder, arguments[:-1], 3)
    write_image(unreadable, 44, 50, seed=1)
    write_image(truncated, 70, 40, seed=2)
    return Scenario(folder, arguments)


def retry_whole(folder: Path) -> Scenario:
    """The same scenario without boxes."""
    scenario = retry(folder)
    (folder / "f.h5").unlink()
    arguments = ("p", "-o", "f.h5", *TINY, "--retry-failed")
    (folder / "p/cat/1.png").write_text("no picture")
    break_picture(folder / "p/dog/2.png")
    sppfeat_in(folder, arguments[:-1], 3)
    write_image(folder / "p/cat/1.png", 44, 50, seed=1)
    write_image(folder / "p/dog/2.png", 70, 40, seed=2)
    return scenario._replace(arguments=arguments)


def add(folder: Path) -> Scenario:
    """A file with a failed image, and new pictures, one of them broken."""
    pictures(folder, 3)
    (folder / "p/cat/text.jpg").write_text("no picture")
    sppfeat_in(folder, ("p", "-o", "f.h5", *TINY), 3)
    pictures(folder, 2, first=3)
    break_picture(folder / "p/cat/3.png")
    return Scenario(folder, ("p", "-o", "f.h5", *TINY, "--add-new"))


def change(folder: Path) -> Scenario:
    """A complete file whose images have changed since: one is larger, one smaller, and one unreadable."""
    pictures(folder, 4)
    for i in range(4):
        (folder / "boxes").mkdir(exist_ok=True)
        (folder / f"boxes/{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.9 0.9 0.4 0.4\n")
    arguments = ("p", "-o", "f.h5", *TINY, "--boxes", "boxes")
    sppfeat_in(folder, arguments, 0)
    write_image(folder / "p/cat/1.png", 90, 50, seed=11)
    write_image(folder / "p/dog/2.png", 30, 32, seed=12)
    (folder / "p/cat/3.png").write_text("no picture")
    return Scenario(folder, (*arguments, "--update-changed"), ("cat/1.png", "dog/2.png", "cat/3.png"))


def update(folder: Path) -> Scenario:
    """The same scenario without boxes, with a new and a missing image."""
    pictures(folder, 4)
    sppfeat_in(folder, ("p", "-o", "f.h5", *TINY), 0)
    write_image(folder / "p/cat/1.png", 90, 50, seed=11)
    write_image(folder / "p/dog/2.png", 30, 32, seed=12)
    (folder / "p/cat/3.png").unlink()
    pictures(folder, 1, first=4)
    return Scenario(folder, ("p", "-o", "f.h5", *TINY, "--update"), ("cat/1.png", "dog/2.png"))


def overwrite(folder: Path) -> Scenario:
    """A complete file of other settings."""
    pictures(folder, 3)
    sppfeat_in(folder, ("p", "-o", "f.h5", *TINY, "--pool", "avg"), 0)
    return Scenario(folder, ("p", "-o", "f.h5", *TINY, "--overwrite"))


def sppfeat_in(folder: Path, arguments: tuple[str, ...], expected: int) -> None:
    """Run ``extract`` in this process."""
    from click.testing import CliRunner

    from sppfeat.cli import main

    before = os.getcwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(main, ["extract", *arguments])
    finally:
        os.chdir(before)
    assert result.exit_code == expected, result.output


def progress(path: Path) -> dict[str, int]:
    """The status of each image; the file must open with plain h5py, too."""
    if not path.exists():
        return {}
    with h5py.File(path) as plain:
        assert len(plain["features"]) == plain["images/rows"][-1, 1]
    with sppfeat.open(path) as file:
        return dict(zip(file.paths, file.status.tolist(), strict=True))


def assert_done_rows_are_right(path: Path, reference: Path, *, old: Path | None = None) -> None:
    """Compare the rows of finished images with those of a run that was not killed, by path.

    An image may also have the row, box, size and version of a file ``old``, all of them.
    """
    if not path.exists():
        return
    with (
        sppfeat.open(path) as file,
        sppfeat.open(reference) as whole,
        sppfeat.open(old or reference) as first,
    ):
        if file.config != whole.config:  # the old file of an overwriting run
            return
        for image in np.flatnonzero(file.status == Status.DONE).tolist():
            found = values_of(file, file.path_of(image))
            rows, facts = values_of(whole, file.path_of(image))
            if facts != found[1]:
                rows, facts = values_of(first, file.path_of(image))
            assert found[1] == facts
            assert_same_descriptors(found[0], rows)


def values_of(file: FeatureFile, name: str) -> tuple[np.ndarray, list]:
    """The descriptors of an image; and its boxes, size and version."""
    image = file.paths.index(name)
    rows = slice(*file.image_rows[image].tolist())
    facts = [file.boxes[rows], file.image_hw[image], file.image_versions[image]]
    return np.array(file.features[rows]), [values.tolist() for values in facts]


def assert_nothing_lost(before: dict[str, int], after: dict[str, int]) -> None:
    lost = {name for name, status in before.items() if status == Status.DONE and after.get(name) != status}
    assert not lost


@pytest.mark.parametrize("make", [begin, boxes, retry, retry_whole, add, change, update, overwrite])
def test_a_run_killed_at_any_call_that_changes_a_file_loses_no_row(make, runs, tmp_path):
    (tmp_path / "origin").mkdir()
    scenario = make(tmp_path / "origin")
    before = progress(scenario.folder / "f.h5")
    before = {name: status for name, status in before.items() if name not in scenario.changed}
    folder = tmp_path / "here"  # always the same: paths are recorded

    def start_over() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(scenario.folder, folder)

    def run(**options) -> tuple[int, int]:
        output = folder / "f.h5"
        arguments = [
            str(folder / a) if a in ("p", "f.h5", "boxes", "boxes.csv") else a for a in scenario.arguments
        ]
        status = runs.run("extract", *arguments, sync_seconds=0, **options)
        assert not output.exists() or progress(output)
        return status

    start_over()
    expected, n_calls = run()
    assert expected in (0, 3)
    assert n_calls > 15
    reference = tmp_path / "reference.h5"
    shutil.copy(folder / "f.h5", reference)
    names = sorted(os.listdir(folder))
    for moment in sorted(random.Random(make.__name__).sample(range(n_calls), min(N_MOMENTS, n_calls))):
        start_over()
        assert run(die_at=moment, half=moment % 2 == 1) == (-9, -1)
        after = progress(folder / "f.h5")
        assert_nothing_lost(before, after)
        assert_done_rows_are_right(
            folder / "f.h5", reference, old=scenario.folder / "f.h5" if scenario.changed else None
        )
        again, _ = run()
        assert again == expected, f"killed at {moment} of {n_calls}: {runs.log()}"
        assert_same_file(folder / "f.h5", reference)
        assert sorted(os.listdir(folder)) == names


def test_a_run_killed_repeatedly_at_random_moments_gives_the_same_file(runs, tmp_path):
    """Moments are drawn as numbers of rows in the file, so that most fall between its first and its last row."""
    draw = random.Random(20140618)
    pictures(tmp_path, 60)
    for i in (7, 20, 33):
        break_picture(tmp_path / "p" / ("cat" if i % 2 else "dog") / f"{i}.png")
    boxes = "\n".join(
        f"{i}.png,{x},0,{x + 9 + i % 30},{30 - x},{i}" for i in range(60) for x in range(0, 12, 3)
    )
    (tmp_path / "boxes.csv").write_text(f"path,x0,y0,x1,y1,id\n{boxes}\n")
    size = TINY.index("--size")
    larger = (*TINY[:size], "--size", "96", *TINY[size + 2 :])
    command = ("extract", tmp_path / "p", "--boxes", tmp_path / "boxes.csv", *larger)
    reference, output = tmp_path / "reference.h5", tmp_path / "f.h5"
    assert runs.run(*command, "-o", reference)[0] == 3
    n_rows = 240
    n_killed = n_inside = 0
    while n_killed < N_KILLS:
        output.unlink(missing_ok=True)
        before: dict[str, int] = {}
        while True:
            n_workers = int(draw.random() < 0.15)
            run = runs.start(
                *command,
                "-o",
                output,
                "--workers",
                n_workers,
                sync_seconds=draw.choice([0.0, 0.0, 0.02, 2.0]),
            )
            wanted = n_rows_with_values(output) + draw.randrange(-4, n_rows // 4)
            pause = draw.choice([0.0, 0.0, draw.random() / 100])
            kill_at(run, output, wanted, pause)
            status, _ = runs.wait()
            after = progress(output)
            assert_nothing_lost(before, after)
            assert_done_rows_are_right(output, reference)
            before = after
            if status != -9:
                break
            n_killed += 1
            n_inside += 0 < n_rows_with_values(output) < n_rows - 12  # of the images that are broken
        assert status == 3, runs.log()
        assert_same_file(output, reference)
    assert n_inside > n_killed / 2
    assert sorted(os.listdir(tmp_path)) == ["boxes.csv", "f.h5", "p", "reference.h5"]


def n_rows_with_values(path: Path) -> int:
    """Number of rows that have been written, whatever the status of their image."""
    try:
        with sppfeat.open(path) as file:
            return int(np.asarray(file.features).any(axis=1).sum())
    except StoreError:
        return 0


def kill_at(run: Run, output: Path, n_rows: int, pause: float) -> None:
    """Kill a run a moment after its file has this many rows, unless the run ends first."""
    features = None
    while run.is_running():
        if features is None and output.exists():
            with sppfeat.open(output) as file:
                features = file.features
        if features is not None and features.any(axis=1).sum() >= n_rows:
            time.sleep(pause)
            run.kill()
            return
        time.sleep(0.0005)  # the run needs the processor
