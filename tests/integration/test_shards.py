"""Extractions in shards, each into a file of its own or into its rows of a shared file."""

import json
import os
import re
import threading
from pathlib import Path

import command_line
import numpy as np
import pytest
from conftest import write_image
from extraction_runs import (
    SAME_DESCRIPTOR,
    assert_all_done,
    assert_same_descriptors,
    assert_same_file,
    contents,
    extract,
    request,
    write_eleven_images,
)
from killing import TINY

import sppfeat
from sppfeat.config.distribution import RunOptions, ShardChoice
from sppfeat.config.request import BoxChoice, DescriptorChoice
from sppfeat.errors import ConfigError, StoreError
from sppfeat.extraction.extract import open_parts
from sppfeat.extraction.part import Failure
from sppfeat.files.outputs import OutputLock

N = 11
ONE_BY_ONE = RunOptions(workers=0, batch_size=1, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_eleven_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.h5"
    extract([folder], path)
    return contents(path)


def run(*arguments, **settings):
    return command_line.run(*arguments, *TINY, **settings)


def write_boxes(folder, images, *, outside=None) -> BoxChoice:
    """A box file with a box for each image; one box may lie outside its image."""
    lines = [f"{i}.png,500,500,600,600" if i == outside else f"{i}.png,0,0,{20 + i},30" for i in images]
    (folder / "b.csv").write_text("\n".join(["path,x0,y0,x1,y1", *lines]) + "\n")
    return BoxChoice(boxes=str(folder / "b.csv"))


def assert_is_part(path, whole, first, stop):
    part = contents(path)
    for name in ("images/path", "images/size", "images/label", "images/status", "images/error", "boxes"):
        is_float = part[name].dtype.kind == "f"
        assert np.array_equal(part[name], whole[name][first:stop], equal_nan=is_float), name
    assert np.array_equal(part["classes"], whole["classes"])
    assert part["image_index"].tolist() == list(range(stop - first))
    assert_same_descriptors(part["features"], whole["features"][first:stop])


@pytest.mark.slow
@pytest.mark.parametrize("headers", ["first", "window"])
def test_shards_are_the_parts_of_the_whole_file(folder, whole, tmp_path, headers):
    first = 0
    for i in (1, 2, 3):
        output = tmp_path / "f-{shard}.h5"
        extract([folder], output, shard=ShardChoice(i, 3), headers=headers)
        path = tmp_path / f"f-{i:05d}-of-00003.h5"
        with sppfeat.open(path) as file:
            shard = file.shard
            assert (shard.index, shard.count, shard.n_images, shard.n_rows) == (i, 3, N, N)
            assert (shard.first_image, shard.stop_image) == (first, first + file.n_images)
        assert_is_part(path, whole, first, shard.stop_image)
        first = shard.stop_image
    assert first == N
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("headers", ["first", "window"])
def test_shards_that_share_an_output_fill_it_together(folder, whole, tmp_path, headers):
    def one(i):
        extract([folder], tmp_path / "f.h5", shard=ShardChoice(i, 3), shared=True, headers=headers)

    extraction, _ = extract(
        [folder], tmp_path / "f.h5", shard=ShardChoice(2, 3), shared=True, headers=headers
    )
    assert extraction.outcome().pending == 0
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.shard is None
        assert 0 < (file.status == 0).sum() < N
    threads = [threading.Thread(target=one, args=(i,)) for i in (1, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]
    extract([folder], tmp_path / "whole.h5")
    assert_same_file(tmp_path / "f.h5", tmp_path / "whole.h5")


@pytest.mark.slow
def test_shared_shards_have_the_same_ranges_whenever_they_start(folder, tmp_path):
    """Sizes that become known meanwhile do not move the bounds: each image belongs to exactly one process."""
    boxes = write_boxes(tmp_path, range(N), outside=5)
    changes = {"boxes": boxes, "shared": True, "headers": "window"}
    ranges = []
    for i in (1, 2, 3):
        extraction, _ = extract([folder], tmp_path / "f.h5", shard=ShardChoice(i, 3), **changes)
        ranges.append(extraction.images)
    sizes = [stop - first for first, stop in ranges]
    assert (ranges[0][0], ranges[1][0], ranges[2][0], ranges[2][1]) == (0, ranges[0][1], ranges[1][1], N)
    assert max(sizes) - min(sizes) <= 1
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert (file.status != 0).all()


def test_shared_shards_have_the_same_ranges_after_a_retry(tmp_path):
    for i in range(8):
        write_image(tmp_path / "in" / f"{i}.png", 60, 60, seed=i)
    for i in (0, 1, 2):
        (tmp_path / "in" / f"{i}.png").write_bytes(b"damaged")
    ranges = []
    for i in (1, 2):
        extraction, _ = extract([tmp_path / "in"], tmp_path / "f.h5", shard=ShardChoice(i, 2), shared=True)
        ranges.append(extraction.images)
        for damaged in (0, 1, 2):
            write_image(tmp_path / "in" / f"{damaged}.png", 90, 90, seed=9)
        extract([tmp_path / "in"], tmp_path / "f.h5", shard=ShardChoice(i, 2), shared=True, retry_failed=True)
    assert ranges[0][1] == ranges[1][0]
    assert_all_done(tmp_path / "f.h5")


@pytest.mark.slow
def test_processes_that_begin_at_once_lay_out_one_file(runs, folder, tmp_path):
    """The others wait until the first has laid out the file."""
    logs = [str(tmp_path / f"log{i}") for i in (1, 2)]
    held = OutputLock(tmp_path / "f.h5", shard="another")  # may lay out the file
    first = ("extract", folder, "-o", tmp_path / "f.h5", *TINY, "--shared", "--shard", "1/2")
    process = runs.start(*first, log=logs[0])
    while not (tmp_path / "f.h5.00001-of-00002.lock").exists():
        assert process.is_running()
    assert not (tmp_path / "f.h5").exists()
    held.__exit__(None, None, None)
    assert runs.wait()[0] == 0
    assert runs.run(*first[:-1], "2/2", log=logs[1])[0] == 3  # an image failed
    extract([folder], tmp_path / "whole.h5")
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert (file.status != 0).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5", "log1", "log2", "whole.h5"]


def test_locks_of_shards_refuse_a_second_writer(tmp_path):
    output = tmp_path / "f.h5"
    with OutputLock(output, shard="1-of-2") as first:
        first.announce_layout()
        with pytest.raises(StoreError, match="another process is writing shard 1-of-2 of"):
            OutputLock(output, shard="1-of-2")
        with pytest.raises(StoreError, match="another process is writing"):
            OutputLock(output)
        with OutputLock(output, shard="2-of-2"):
            pass
        assert (tmp_path / "f.h5.lock").exists()
    assert not list(tmp_path.iterdir())
    with OutputLock(output), pytest.raises(StoreError, match="another process is writing"):
        OutputLock(output, shard="1-of-2")
    assert not list(tmp_path.iterdir())


def test_a_shard_is_continued_by_the_same_shard_only(folder, tmp_path):
    output = tmp_path / "f.h5"
    one = {"shard": ShardChoice(1, 2), "run": ONE_BY_ONE}
    extraction, _ = extract([folder], output, stop_after=1, **one)
    assert extraction.outcome().pending
    for shard, asked in ((ShardChoice(2, 2), "shard 2/2"), (ShardChoice(1, 3), "shard 1/3"), (None, "all")):
        with pytest.raises(StoreError, match=rf"it holds shard 1/2, images 0 to .* of {N}, not {asked}"):
            extract([folder], output, shard=shard)
    with pytest.raises(StoreError, match="it holds shard 1/2"):
        extract([folder], output, shard=ShardChoice(1, 2), shared=True)
    extraction, _ = extract([folder], output, **one)
    assert not extraction.outcome().pending
    extract([folder], tmp_path / "again.h5", **one)
    assert_same_file(output, tmp_path / "again.h5")


def test_missing_and_new_images_of_a_shard_are_reported(tmp_path):
    for i in range(8):
        write_image(tmp_path / "in" / f"{i}.png", 50, 50, seed=i)
    one = {"shard": ShardChoice(1, 2), "run": ONE_BY_ONE}
    extract([tmp_path / "in"], tmp_path / "f.h5", stop_after=1, **one)
    (tmp_path / "in" / "3.png").unlink()
    write_image(tmp_path / "in" / "8.png", 50, 50, seed=8)
    write_image(tmp_path / "in" / "9.png", 50, 50, seed=9)
    extraction, _ = extract([tmp_path / "in"], tmp_path / "f.h5", **one)
    assert extraction.outcome().failures == [Failure("3.png", "missing from the inputs")]
    assert (
        "there were 8 inputs when the shards were cut, and now there are 9; new inputs belong to none of the shards"
        in extraction.run.notes
    )


def test_an_overwritten_shard_is_replaced_once_the_new_one_is_complete(folder, tmp_path):
    one = {"shard": ShardChoice(2, 2), "run": ONE_BY_ONE}
    extract([folder], tmp_path / "f.h5", **one)
    before = contents(tmp_path / "f.h5")
    extract([folder], tmp_path / "f.h5", overwrite=True, stop_after=1, **one)
    assert contents(tmp_path / "f.h5")["@shard"] == before["@shard"]
    assert (tmp_path / "f.h5.partial").exists()
    _, progress = extract([folder], tmp_path / "f.h5", overwrite=True, **one)
    assert 0 < progress.n_done < len(before["images/status"])
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_names_that_are_too_long_are_refused(folder, tmp_path):
    for length in (242, 249, 252, 300):  # too long for a temporary file, or for itself
        for options in ((), ("--shared", "--shard", "1/2"), ("--overwrite",)):
            result = run("extract", folder, "-o", tmp_path / f"{'x' * (length - 3)}.h5", *options, code=1)
            assert "File name too long" in result.stderr
            assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("headers", ["first", "window"])
def test_an_overwriting_shard_of_other_inputs_starts_over(tmp_path, headers):
    for i in range(8):
        write_image(tmp_path / "in" / f"{i}.png", 50, 50, seed=i)
    one = {"shard": ShardChoice(1, 2), "run": ONE_BY_ONE}
    one |= {"headers": headers}
    extract([tmp_path / "in"], tmp_path / "f.h5", **one)
    extract([tmp_path / "in"], tmp_path / "f.h5", overwrite=True, stop_after=1, **one)
    assert (tmp_path / "f.h5.partial").exists()
    for i in range(8, 12):
        write_image(tmp_path / "in" / f"{i}.png", 50, 50, seed=i)
    extract([tmp_path / "in"], tmp_path / "f.h5", overwrite=True, **one)
    extract([tmp_path / "in"], tmp_path / "fresh.h5", **one)
    assert_same_file(tmp_path / "f.h5", tmp_path / "fresh.h5")
    extract([tmp_path / "in"], tmp_path / "f.h5", overwrite=True, stop_after=1, **one)
    (tmp_path / "in").rename(tmp_path / "moved")  # its images may differ
    for i in range(12):
        write_image(tmp_path / "in2" / f"{i}.png", 50, 50, seed=20 + i)
    extract([tmp_path / "in2"], tmp_path / "f.h5", overwrite=True, **one)
    extract([tmp_path / "in2"], tmp_path / "fresh2.h5", **one)
    assert_same_file(tmp_path / "f.h5", tmp_path / "fresh2.h5")
    write_image(tmp_path / "other" / "a.png", 50, 50, seed=1)
    write_image(tmp_path / "other" / "b.png", 50, 50, seed=1)
    extract([tmp_path / "in2"], tmp_path / "f.h5", overwrite=True, stop_after=1, **one)
    extract([tmp_path / "other"], tmp_path / "f.h5", overwrite=True, **one)
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.paths == ["a.png"]


@pytest.mark.slow
def test_boxes_of_shards(folder, tmp_path):
    """Boxes of a box file keep their numbers; windows are numbered like rows."""
    of_file, of_views = write_boxes(tmp_path, (5, 0, 7, 0, 2)), BoxChoice(boxes="grid:1x2")
    for name, boxes in (("file", of_file), ("views", of_views)):
        extract([folder], tmp_path / f"{name}.h5", boxes=boxes)
        every = contents(tmp_path / f"{name}.h5")
        rows = []
        for i in (1, 2):
            extract([folder], tmp_path / f"{name}-{i}.h5", boxes=boxes, shard=ShardChoice(i, 2))
            with sppfeat.open(tmp_path / f"{name}-{i}.h5") as file:
                shift = file.shard.first_row
                source = file.row_source + (shift if name == "views" else 0)
                assert source.tolist() == every["row_source"][shift : shift + file.n_rows].tolist()
                own = np.flatnonzero(file.box_row >= 0)
                assert file.row_source[file.box_row[own]].tolist() == own.tolist()
                rows += source.tolist()
        assert rows == every["row_source"].tolist()


def test_shards_of_boxes_of_unmeasured_images_have_equal_sizes(folder, tmp_path):
    boxes = write_boxes(tmp_path, range(N))
    extract([folder], tmp_path / "f.h5", boxes=boxes, shard=ShardChoice(1, 2), headers="window")
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.shard.stop_image in (N // 2, N // 2 + 1)


@pytest.mark.slow
def test_shards_share_the_mean_norm_of_all_images(folder, tmp_path):
    changes = {"descriptor": DescriptorChoice(levels=(1,), normalize="meannorm:20")}
    extract([folder], tmp_path / "whole.h5", **changes)
    for i in (1, 2):
        extract([folder], tmp_path / f"{i}.h5", shard=ShardChoice(i, 2), **changes)
    with open_parts(
        request([folder], tmp_path / "p-{shard}.h5", shard_bytes=4 * 512 * 4, **changes)
    ) as parts:
        parts.fill()
    factors = {
        path.name: sppfeat.open(path).norm_factors for path in sorted(tmp_path.glob("*.h5")) if path.suffix
    }
    assert len(factors) == 1 + 2 + 3
    assert np.allclose(list(factors.values()), factors["whole.h5"], rtol=SAME_DESCRIPTOR, atol=0)


# --- shards of a size -----------------------------------------------------------------------------


def in_parts(folder, tmp_path, *, rows=4, **changes):
    return open_parts(
        request([folder], tmp_path / "f-{shard}.h5", shard_bytes=rows * 2560 * 4 + 100, **changes)
    )


@pytest.mark.slow
def test_shards_of_a_size_are_filled_in_turn_and_continued(folder, whole, tmp_path):
    one = {"run": ONE_BY_ONE}
    with in_parts(folder, tmp_path, **one) as parts:
        assert parts.summary().shard == "all 3, one after the other"
        seen = []

        def stop():
            return len(seen) >= 7

        parts.fill(on_progress=lambda progress: seen.append(progress.n_done), should_stop=stop)
        outcome = parts.outcome()
        assert 0 < outcome.pending < N
        assert outcome.images == N
    with in_parts(folder, tmp_path, **one) as parts:
        assert parts.summary().already_done == outcome.done
        progress = parts.fill()
        assert progress.n_done + progress.n_failed == outcome.pending
        assert parts.outcome().pending == 0
        assert parts.outcome().failed == 1
    paths = sorted(tmp_path.glob("f-*.h5"))
    assert [path.name for path in paths] == [f"f-0000{i}-of-00003.h5" for i in (1, 2, 3)]
    for path, first in zip(paths, (0, 4, 8), strict=True):
        assert_is_part(path, whole, first, min(N, first + 4))
        with sppfeat.open(path) as file:
            assert file.features.nbytes <= 4 * 2560 * 4 + 100


def test_overwritten_shards_count_new_images_only(folder, tmp_path):
    """Images of files that will be replaced count as pending, in the plan and after an interruption."""
    with in_parts(folder, tmp_path) as parts:
        parts.fill()
    with in_parts(folder, tmp_path, overwrite=True) as parts:
        assert parts.summary().to_do == N
        parts.fill(
            should_stop=lambda: bool(parts._outcomes) or (tmp_path / "f-00001-of-00003.h5.partial").exists()
        )
        assert parts.outcome().pending >= N - 4
    with in_parts(folder, tmp_path, retry_failed=True) as parts:
        assert parts.summary().to_do == 1
        assert parts.summary().already_failed == 0


@pytest.mark.slow
def test_shards_of_other_inputs_are_not_continued(folder, tmp_path):
    with in_parts(folder, tmp_path) as parts:
        parts.fill()
    for i in range(N):
        write_image(tmp_path / "other" / f"{i}.png", 60, 50, seed=i)
    with (
        in_parts(tmp_path / "other", tmp_path) as parts,
        pytest.raises(StoreError, match="cannot continue"),
    ):
        parts.fill()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shared": True}, "--shared needs --shard"),
        ({"shared": True, "shard": ShardChoice(1, 2), "overwrite": True}, "remove the file first"),
        ({"shard": ShardChoice(1, 2), "add_new": True}, "existing shards cannot grow"),
        ({"shard_bytes": 10, "add_new": True}, "existing shards cannot grow"),
        ({"shard_bytes": 10, "shard": ShardChoice(1, 2)}, "leave out --shard"),
        ({"shard_bytes": 0}, "allowed: 1 or more"),
        ({"scratch": Path("/nowhere")}, "scratch is '/nowhere'; allowed: an existing folder"),
        ({"headers": "never"}, "allowed: auto, first, window"),
    ],
)
def test_contradicting_requests_are_refused(folder, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        request([folder], tmp_path / "f.h5", **changes)


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_line_names_the_files_of_shards(folder, tmp_path):
    environment = {"RANK": "1", "WORLD_SIZE": "2"}
    result = run(
        "extract", folder, "-o", tmp_path / "f-{shard}.h5", "--shard", "auto", "--json", env=environment
    )
    assert result.exit_code in (0, 3), result.output
    printed = json.loads(result.stdout)
    assert re.fullmatch(r"shard 2/2, images [0-9]+ to 11 of 11", printed["plan"]["shard"])
    assert printed["result"]["files"] == [str(tmp_path / "f-00002-of-00002.h5")]
    result = run(
        "extract", folder, "-o", tmp_path / "g-{shard}.h5", "--shard-size", "0.05MB", "--json", code=3
    )
    printed = json.loads(result.stdout)
    assert printed["result"]["files"] == sorted(map(str, tmp_path.glob("g-*.h5")))
    assert printed["result"]["done"] == N - 1
    assert [failure["path"] for failure in printed["result"]["failures"]] == ["c1/3.png"]


def test_pending_images_of_other_shards_do_not_count_as_an_interruption(folder, tmp_path):
    result = run("extract", folder, "-o", tmp_path / "f.h5", "--shard", "2/11", "--shared", code=0)
    assert "Done: 1 image in" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shard", "0/3"), "allowed: 1/3 to 3/3"),
        (("--shard", "auto"), "neither torchrun"),
        (("--shard", "1/12"), "12 shards of 11 images; allowed: 1 to 11"),
        (("--shard", "1/2", "--shared", "-o", "{shard}.h5"), "all shards go into one output"),
        (("-o", "{shard}.h5"), "which needs --shard or --shard-size"),
        (("--shard-size", "1MB"), "--shard-size needs a name with {shard}"),
        (("--shard-size", "1 mile"), "is not a size; allowed: bytes"),
        (("--shard-size", "IB"), "is not a size; allowed: bytes"),
    ],
)
def test_wrong_usage(folder, tmp_path, arguments, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("extract", folder, "-o", "f.h5", *arguments, code=2)
    assert said in result.stderr.replace("\n", " ")
    assert not os.listdir(tmp_path)


def test_an_output_that_is_also_an_input_is_refused(folder, tmp_path):
    photo = tmp_path / "photo.png"
    write_image(photo, 50, 50, seed=0)
    before = photo.read_bytes()
    result = run("extract", photo, "-o", photo, "--overwrite", code=2)
    assert "would be an HDF5 file with the suffix .png" in result.output
    assert photo.read_bytes() == before
    (tmp_path / "photo.h5").symlink_to(photo)
    result = run("extract", photo, "-o", tmp_path / "photo.h5", "--overwrite", code=2)
    assert "is also an input; allowed: another file" in result.output
    assert photo.read_bytes() == before
