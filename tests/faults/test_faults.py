"""Full disks, folders that change, too little memory, and values that are not finite."""

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from conftest import write_image
from extraction_runs import (
    SAME_DESCRIPTOR,
    assert_same_file,
    difference,
    extract,
    memory_for,
    plain_descriptor,
    plain_network,
    request,
)
from killing import TINY

import sppfeat
from sppfeat.config.distribution import RunOptions
from sppfeat.config.request import BackboneChoice, BoxChoice, DescriptorChoice
from sppfeat.config.specs import InputSpec
from sppfeat.errors import DeviceMemoryError, ImageError, StoreError
from sppfeat.extraction.describe import Describer
from sppfeat.extraction.extract import open_part
from sppfeat.store.schema import Status

DONE, FAILED = Status.DONE, Status.FAILED


@pytest.fixture(scope="module")
def network():
    return plain_network()


def statuses(path: Path) -> dict[str, int]:
    with sppfeat.open(path) as file:
        return dict(zip(file.paths, file.status.tolist(), strict=True))


def reasons(path: Path) -> dict[str, str]:
    with sppfeat.open(path) as file:
        return {file.paths[image]: reason for image, reason in file.errors.items()}


def assert_done_rows_are_plain_torch(path: Path, folder: Path, network) -> None:
    with sppfeat.open(path) as file:
        for image in np.flatnonzero(file.status == DONE).tolist():
            expected = plain_descriptor(network, folder / file.paths[image])
            assert difference(file.features[image], expected) <= 1e-5


# --- disks ----------------------------------------------------------------------------------------


@pytest.fixture
def disk(mount_disk):
    """A file system of 2 MB."""
    return mount_disk(2)


def fill(disk: Path, leave: int = 0) -> None:
    with open(disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
        free = shutil.disk_usage(disk).free
        filler.write(bytes(max(0, free - leave)))
        while not leave:
            filler.write(bytes(512))


def test_too_little_space_is_reported_before_any_image_is_decoded(folder, disk, monkeypatch):
    fill(disk, leave=60_000)
    monkeypatch.setattr("sppfeat.extraction.part.run_pipeline", None)
    with pytest.raises(StoreError, match=r"needs 0.00 GB and .* GB free; use fewer levels"):
        extract([folder], disk / "f.h5")
    assert sorted(os.listdir(disk)) == ["filler"]


def test_a_disk_that_fills_up_during_a_run_does_no_harm_because_space_is_reserved(folder, disk, network):
    with open_part(request([folder], disk / "f.h5")) as extraction:
        extraction.fill(on_progress=lambda progress: fill(disk))
    assert set(statuses(disk / "f.h5").values()) == {DONE}
    assert_done_rows_are_plain_torch(disk / "f.h5", folder, network)


def test_a_disk_that_fills_up_unreserved_keeps_finished_images(folder, disk, tmp_path, network, monkeypatch):
    """On a file system that can reserve nothing."""

    def unsupported(fd, offset, length):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    def fill_after_two(progress):
        if progress.n_done >= 2 and not (disk / "filler").exists():
            fill(disk)

    one_at_a_time = RunOptions(workers=0, batch_size=1, device="cpu")
    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    said = pytest.raises(StoreError, match=r"cannot write to '.*f.h5': No space left on device")
    with open_part(request([folder], disk / "f.h5", run=one_at_a_time)) as extraction, said:
        extraction.fill(on_progress=fill_after_two)
    done = [name for name, status in statuses(disk / "f.h5").items() if status == DONE]
    assert 2 <= len(done) < 12
    assert_done_rows_are_plain_torch(disk / "f.h5", folder, network)
    (disk / "filler").unlink()
    extract([folder], disk / "f.h5")
    extract([folder], tmp_path / "whole.h5")
    assert_same_file(disk / "f.h5", tmp_path / "whole.h5")


@pytest.mark.slow
@pytest.mark.parametrize(("n_writes", "error"), [(0, errno.ENOSPC), (1, errno.EIO), (5, errno.EDQUOT)])
def test_a_write_that_fails_ends_the_run_with_its_reason(folder, tmp_path, monkeypatch, n_writes, error):
    true_pwrite, left = os.pwrite, n_writes

    def pwrite(fd, content, at):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(error, os.strerror(error))
        return true_pwrite(fd, content, at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(StoreError, match=os.strerror(error)):
            extract([folder], tmp_path / "f.h5")
    extract([folder], tmp_path / "f.h5")
    extract([folder], tmp_path / "whole.h5")
    assert_same_file(tmp_path / "f.h5", tmp_path / "whole.h5")


@pytest.mark.slow
def test_a_limit_on_file_size_is_reported_and_leaves_nothing(folder, tmp_path, runs):
    command = ("extract", folder, "-o", tmp_path / "f.h5", *TINY)
    assert runs.run(*command, file_nbytes=20_000)[0] == 1
    assert "cannot create" in runs.log()
    assert "Traceback" not in runs.log()
    assert os.listdir(tmp_path) == ["pictures"]


def test_a_read_only_folder_is_reported(folder, disk):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    result = run("extract", folder, "-o", disk / "f.h5", *TINY, code=1)
    assert "cannot write to the folder of" in result.stderr
    assert "Read-only file system" in result.stderr


def test_an_output_on_another_mount_and_a_link_to_it(folder, disk, tmp_path):
    again = {"input": InputSpec(size=64), "overwrite": True}
    (tmp_path / "link.h5").symlink_to(disk / "f.h5")
    extract([folder], tmp_path / "link.h5", stop_after=1)
    extract([folder], disk / "f.h5")
    extract([folder], tmp_path / "link.h5", stop_after=1, **again)
    extract([folder], tmp_path / "link.h5", **again)
    assert (tmp_path / "link.h5").is_symlink()
    extract([folder], tmp_path / "whole.h5", input=InputSpec(size=64))
    assert_same_file(disk / "f.h5", tmp_path / "whole.h5")
    assert sorted(os.listdir(disk)) == ["f.h5"]


# --- inputs that change ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_input_folder_that_changes_during_the_run(tmp_path, network, workers):
    folder, output = tmp_path / "p", tmp_path / "f.h5"
    for i in range(40):
        write_image(folder / f"img{i}.png", 40 + i % 2, 60, seed=i)

    changes = iter([True])

    def change(progress):
        if not next(changes, False):
            return
        (folder / "img31.png").unlink()
        (folder / "img32.png").write_bytes((folder / "img32.png").read_bytes()[:200])
        write_image(folder / "img33.png", 70, 50, seed=0)
        write_image(folder / "img34.png", 40, 60, seed=99)
        for name, make in (("img35.png", os.mkdir), ("img36.png", os.mkfifo)):
            (folder / name).unlink()
            make(folder / name)
        (folder / "img37.png").unlink()
        (folder / "img37.png").symlink_to("img37.png")
        write_image(folder / "img40.png", 40, 60, seed=40)

    options = {"run": RunOptions(workers=workers, batch_size=2, device="cpu")}
    with open_part(request([folder], output, **options)) as extraction:
        extraction.fill(on_progress=change)
    said = reasons(output)
    assert set(said) == {f"img{i}.png" for i in (31, 32, 33, 35, 36, 37)}
    for name, reason in (
        ("img31.png", "no such file"),
        ("img32.png", "cannot be decoded as PNG"),
        ("img33.png", "changed since it was planned: was 41 x 60 .*, is 70 x 50"),
        ("img35.png", "is a folder"),
        ("img36.png", "is not a regular file"),
        ("img37.png", "symbolic links"),
    ):
        assert re.search(reason, said[name]), said[name]
    assert_done_rows_are_plain_torch(output, folder, network)  # img34 as it is now
    extraction, _ = extract([folder], output)
    assert any("1 input is not in the file, such as 'img40.png'" in note for note in extraction.run.notes)


def test_images_of_a_folder_removed_after_listing_fail(folder, tmp_path, network, monkeypatch):
    from sppfeat.inputs import list_images

    def list_and_lose(*arguments, **options):
        listing = list_images(*arguments, **options)
        shutil.rmtree(folder / "dog")
        return listing

    monkeypatch.setattr("sppfeat.extraction.run.list_images", list_and_lose)
    extract([folder], tmp_path / "f.h5")
    said = statuses(tmp_path / "f.h5")
    assert {name for name, status in said.items() if status == FAILED} == {
        n for n in said if n.startswith("dog")
    }
    assert len(said) == 12
    assert_done_rows_are_plain_torch(tmp_path / "f.h5", folder, network)


# --- images that fail -----------------------------------------------------------------------------


def test_fail_fast_refuses_unreadable_images_before_it_writes(mixed_folder, tmp_path):
    result = run("extract", mixed_folder, "-o", tmp_path / "f.h5", *TINY, "--fail-fast", code=1)
    assert "'cat/empty.jpg': empty file, and 1 other (--fail-fast; nothing was written)" in result.stderr
    assert os.listdir(tmp_path) == ["pictures"]


def test_fail_fast_stops_at_an_image_and_the_next_run_begins_there(mixed_folder, tmp_path):
    (mixed_folder / "cat/empty.jpg").unlink()
    (mixed_folder / "cat/text.jpg").unlink()
    command = ("extract", mixed_folder, "-o", tmp_path / "f.h5", *TINY, "--fail-fast")
    for _ in range(2):
        result = run(*command, code=1)
        assert "'dog/short.png': cannot be decoded as PNG" in result.stderr
        assert "Traceback" not in result.output
    assert FAILED not in statuses(tmp_path / "f.h5").values()
    shutil.copy(mixed_folder / "dog/img0.png", mixed_folder / "dog/short.png")
    run(*command, code=0)
    run("extract", mixed_folder, "-o", tmp_path / "whole.h5", *TINY, code=0)
    assert_same_file(tmp_path / "f.h5", tmp_path / "whole.h5")


def test_an_image_of_too_many_pixels_fails_and_is_accepted_with_a_higher_limit(folder, tmp_path):
    command = ("extract", folder, "-o", tmp_path / "f.h5", *TINY)
    run(*command, "--max-decode-pixels", 3000, code=3)
    said = reasons(tmp_path / "f.h5")
    (reason,) = set(said.values())
    assert reason.startswith(
        "too many pixels: 5760, more than --max-decode-pixels 3000; --max-decode-pixels 5760 --retry-failed lets it in"
    )
    assert len(said) == 2
    run(*command, "--retry-failed", code=0)
    run("extract", folder, "-o", tmp_path / "whole.h5", *TINY, code=0)
    assert_same_file(tmp_path / "f.h5", tmp_path / "whole.h5")
    run("verify", tmp_path / "f.h5", "--recompute", 12, code=0)


# --- memory of the device -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("boxes", [False, True])
def test_a_batch_too_large_for_device_memory_is_split(folder, tmp_path, boxes):
    command = ["extract", folder, *TINY[: TINY.index("--batch-size")], "--workers", 0]
    command += ["--boxes", "grid:2x2"] if boxes else []
    run(*command, "-o", tmp_path / "whole.h5", code=0)
    with memory_for(1) as asked:
        run(*command, "-o", tmp_path / "f.h5", code=0)
    assert max(asked) > 1
    assert_same_file(tmp_path / "f.h5", tmp_path / "whole.h5")


def test_the_mean_norm_does_not_depend_on_device_memory(folder, tmp_path):
    scaled = {"descriptor": DescriptorChoice(levels=(1, 2), normalize="meannorm:20")}
    scaled["boxes"] = BoxChoice(boxes="grid:2x3")
    extract([folder], tmp_path / "whole.h5", **scaled)
    true_pool, n_refused = Describer._pool, 0

    def pool(self, maps, position, *arguments):
        # Memory runs out after the rows of the first image.
        nonlocal n_refused
        if position:
            n_refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return true_pool(self, maps, position, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Describer, "_pool", pool)
        extract([folder], tmp_path / "f.h5", stop_after=1, **scaled)
    with sppfeat.open(tmp_path / "whole.h5") as whole, sppfeat.open(tmp_path / "f.h5") as file:
        assert n_refused > 1
        assert file.norm_factors == pytest.approx(whole.norm_factors, rel=SAME_DESCRIPTOR)


def test_a_network_too_large_for_device_memory_is_reported(folder, tmp_path, monkeypatch):
    def to(self, *arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Module, "to", to)
    with pytest.raises(DeviceMemoryError, match="not enough memory on cpu"):
        extract([folder], tmp_path / "f.h5")


# --- numbers --------------------------------------------------------------------------------------

DEAF = BackboneChoice(name="squeezenet1_1", weights="none", seed=3, std=(1e-39, 1e-39, 1e-39))


@pytest.mark.slow
def test_nonfinite_values_are_kept_on_request_and_reported(folder, tmp_path):
    output = tmp_path / "f.h5"
    command = ["extract", folder, "-o", output, *TINY, "--std", "1e-39,1e-39,1e-39"]
    run(*command, code=3)
    assert all("not finite" in reason for reason in reasons(output).values())
    keeping = run(*command, "--allow-nonfinite", code=1)
    assert "nonfinite: not set in the file, 'keep' in this command" in keeping.stderr
    run(*command, "--allow-nonfinite", "--overwrite", code=0)
    with sppfeat.open(output) as file:
        assert (file.status == DONE).all()
        assert not np.isfinite(file.features).all(axis=1).any()
    report = json.loads(run("verify", output, "--recompute", 3, "--json", code=0).stdout)
    assert report["nan_rows"] + report["infinite_rows"] >= 12
    assert any("hold NaN" in warning or "infinities" in warning for warning in report["warnings"])


def test_a_mean_norm_is_not_estimated_on_nonfinite_values(folder, tmp_path):
    kept = DescriptorChoice(levels=(1,), normalize="meannorm:20", nonfinite="keep")
    with pytest.raises(ImageError, match=r"cannot estimate the mean norm .*not finite"):
        extract([folder], tmp_path / "f.h5", backbone=DEAF, descriptor=kept)
