"""Files of shards made one: the file that one machine would have written, or what leads to its rows."""

import dataclasses
import functools
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import command_line
import h5py
import numpy as np
import pytest
from feature_files import BLOCKS, config, plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from json_fields import check_fields
from sharded_files import (
    KINDS,
    Work,
    assert_same_bytes,
    whole_images,
    with_box_file,
    with_views,
    write_shard,
    write_shards,
    write_whole,
)

import sppfeat
from sppfeat.analysis.export import export
from sppfeat.analysis.reduce import reduce
from sppfeat.errors import ConfigError, StoreError
from sppfeat.extraction.plan import ShardChoice
from sppfeat.files.outputs import OutputLock
from sppfeat.store.layout import create_file
from sppfeat.store.merge import merge_shards
from sppfeat.store.reader import FeatureFile
from sppfeat.store.verify import verify_file
from sppfeat.store.virtual_features import VirtualFeatures
from sppfeat.store.writer import FeatureWriter

BOUNDS = (0, 1, 4, 8, 11)


@pytest.fixture
def work() -> Work:
    return whole_images()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> list[Path]:
    return write_shards(tmp_path_factory.mktemp("shards"), whole_images(), BOUNDS)


@pytest.fixture
def shards(untouched, tmp_path) -> list[Path]:
    """Shards of what ``work`` is."""
    shutil.copytree(untouched[0].parent, tmp_path / "shards")
    return [tmp_path / "shards" / path.name for path in untouched]


run = functools.partial(command_line.run, "merge", code=0)


def refused(said, output, shards, **options):
    """By the library, with nothing left behind."""
    before = sorted(os.listdir(output.parent))
    with pytest.raises(StoreError, match=said) as raised:
        merge_shards(output, shards, **options)
    assert str(raised.value).isprintable()
    assert sorted(os.listdir(output.parent)) == before


def elsewhere(folder, work):
    """Two shards of machines that have the images in different folders."""
    return [
        write_shard(folder / f"{i}.h5", work, (0, 5, 11), ShardChoice(i, 2), root=b"/mnt/%d" % i)
        for i in (1, 2)
    ]


# --- the merged file ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("make", KINDS)
def test_it_is_the_file_of_one_machine(tmp_path, monkeypatch, make, copy):
    if copy:  # in parts of a few entries
        monkeypatch.setattr("sppfeat.store.stored_file._PART_NBYTES", 40)
    work = make()
    whole = write_whole(tmp_path / "whole.h5", work)
    merged = tmp_path / "merged.h5"
    summary = merge_shards(merged, write_shards(tmp_path, work, BOUNDS)[::-1], copy=copy)
    assert_same_bytes(merged, whole)
    with FeatureFile(merged) as file, FeatureFile(whole) as other:
        assert isinstance(file.features, VirtualFeatures) != copy
        assert (file.sources is None) == copy
        assert file.shard is None
        report, expected = verify_file(file), verify_file(other)
        assert dataclasses.replace(report, path=expected.path) == expected
        assert report.problems == []
        assert (summary.images, summary.done, summary.failed) == (report.images, report.done, report.failed)
        assert (summary.rows, summary.dimension, summary.shards) == (file.n_rows, file.dimension, 4)
    with h5py.File(merged) as plain:
        assert ("sources" in plain) != copy


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_whatever_way_the_shards_were_cut(tmp_path, data):
    """Ranges of several cuttings, in any order, some of no image."""
    work = data.draw(st.sampled_from([whole_images(7), with_box_file(7), with_views(7)]))
    inner = data.draw(st.lists(st.integers(0, 7), max_size=5).map(sorted))
    bounds = [0, *inner, 7]
    folder = tmp_path / "drawn"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    paths = []
    for i in range(len(bounds) - 1):  # of each as if the whole had been cut into three
        path = folder / f"{i}.h5"
        cut = (0, bounds[i], bounds[i + 1], 7)
        paths.append(write_shard(path, work, cut, ShardChoice(2, 3)))
    copy = data.draw(st.booleans())
    merge_shards(folder / "merged.h5", data.draw(st.permutations(paths)), copy=copy)
    assert_same_bytes(folder / "merged.h5", write_whole(folder / "whole.h5", work))


@pytest.mark.slow
def test_shards_whose_versions_number_the_classes_of_boxes_otherwise(tmp_path):
    shards = write_shards(tmp_path, with_box_file(), BOUNDS)
    with h5py.File(shards[2], "r+") as file:
        file["row_classes"][:] = [b"c2", b"c0", b"c1"]
        file["row_label"][:] = (file["row_label"][:] + 1) % 3
    merge_shards(tmp_path / "m.h5", shards)
    assert_same_bytes(tmp_path / "m.h5", write_whole(tmp_path / "whole.h5", with_box_file()))


def test_boxes_without_a_single_row(tmp_path):
    work = with_box_file(3)
    empty = work.plan.boxes.take(slice(0, 0))
    plan = Work(
        work.plan.__class__(**{**vars(work.plan), "rows": work.plan.rows * 0, "boxes": empty}), work.config
    )
    plan.plan.boxes.box_row[:] = -1
    for copy in (False, True):
        summary = merge_shards(
            tmp_path / "merged.h5", write_shards(tmp_path, plan, (0, 1, 3)), copy=copy, overwrite=True
        )
        assert (summary.rows, summary.is_virtual) == (0, False)
        assert_same_bytes(tmp_path / "merged.h5", write_whole(tmp_path / "whole.h5", plan))


@pytest.mark.slow
def test_a_merged_file_can_be_continued_only_if_it_has_its_rows(tmp_path, shards):
    merge_shards(tmp_path / "copied.h5", shards, copy=True)
    FeatureWriter(tmp_path / "copied.h5").close()
    merge_shards(tmp_path / "merged.h5", shards)
    with pytest.raises(StoreError, match=r"cannot be continued: its rows are in other files"):
        FeatureWriter(tmp_path / "merged.h5")


def test_roots_may_differ(tmp_path, work):
    paths = elsewhere(tmp_path, work)
    summary = merge_shards(tmp_path / "merged.h5", paths[::-1])
    assert summary.notes == [
        f"the shards read their images from 2 folders: '/mnt/1', '/mnt/2'; the merged file records '/mnt/1', from "
        f"{str(paths[0])!r}"
    ]
    with FeatureFile(tmp_path / "merged.h5") as file:
        assert file.root == "/mnt/1"


# --- other programs ---------------------------------------------------------------------------------

READ = "import h5py, sys, numpy as np; np.save(sys.argv[2], h5py.File(sys.argv[1])['features'][()])"


def read_elsewhere(path, cwd, tmp_path):
    """What plain h5py reads in another process, started in another folder."""
    subprocess.run([sys.executable, "-c", READ, str(path), str(tmp_path / "read.npy")], cwd=cwd, check=True)
    return np.load(tmp_path / "read.npy")


@pytest.mark.slow
def test_plain_h5py_reads_it_from_anywhere_and_after_a_move(tmp_path, work):
    """Also where names have what stands for a number in the names of such files."""
    project = tmp_path / "project"
    for name in ("near", "out/below"):
        (project / name).mkdir(parents=True)
    bounds = (0, 3, 7, 11)
    places = [project / "near/a%b.h5", project / "out/100%.h5", project / "out/below/c.h5"]
    paths = [write_shard(path, work, bounds, ShardChoice(i, 3)) for i, path in enumerate(places, 1)]
    merged = project / "out/merged.h5"
    merge_shards(merged, paths)
    expected = work.descriptors.copy()
    expected[[2, 5]] = np.nan
    np.testing.assert_array_equal(read_elsewhere(merged, "/", tmp_path), expected)
    np.testing.assert_array_equal(read_elsewhere("out/merged.h5", project, tmp_path), expected)
    moved = tmp_path / "moved"
    project.rename(moved)
    np.testing.assert_array_equal(read_elsewhere(moved / "out/merged.h5", "/", tmp_path), expected)
    with FeatureFile(moved / "out/merged.h5") as file:
        np.testing.assert_array_equal(file.features, expected)
    (moved / "near/a%b.h5").unlink()
    others = read_elsewhere(moved / "out/merged.h5", "/", tmp_path)
    assert np.isnan(others[:3]).all()
    np.testing.assert_array_equal(others[3:], expected[3:])


@pytest.mark.slow
def test_names_that_are_no_utf8(tmp_path, work):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    merge_shards(folder / "merged.h5", write_shards(folder, work, BOUNDS))
    with FeatureFile(folder / "merged.h5") as file:
        assert len(file.features) == 11
    assert "merged.h5" in run(folder / "merged.h5", *folder.glob("0*.h5"), "--overwrite").stderr


def test_links_lead_to_the_files(tmp_path, work):
    for name in ("real", "links"):
        (tmp_path / name).mkdir()
    paths = write_shards(tmp_path / "real", work, BOUNDS)
    links = [tmp_path / "links" / path.name for path in paths]
    for link, path in zip(links, paths, strict=True):
        link.symlink_to(path)
    (tmp_path / "links/merged.h5").symlink_to(tmp_path / "real/merged.h5")
    merge_shards(tmp_path / "links/merged.h5", links)
    assert (tmp_path / "links/merged.h5").is_symlink()
    for link in links:
        link.unlink()
    with FeatureFile(tmp_path / "links/merged.h5") as file:
        assert [source.path for source in file.sources.files] == [os.fsencode(path.name) for path in paths]
        assert len(np.asarray(file.features)) == 11


# --- what does not belong together --------------------------------------------------------------------


def test_shards_that_are_missing(tmp_path, work, shards):
    refused(
        "images 1 to 4 of 11 are missing: no shards 2/4",
        tmp_path / "m.h5",
        [*shards[:1], *shards[2:]],
    )
    refused(
        "images 0 to 1, 4 to 11 of 11 are missing: no shards 1/4, 3/4, 4/4", tmp_path / "m.h5", shards[1:2]
    )
    other = write_shard(tmp_path / "other.h5", work, (0, 9, 11), ShardChoice(2, 2))
    refused("images 1 to 9 of 11 are missing$", tmp_path / "m.h5", [shards[0], other])


def test_shards_that_overlap(tmp_path, work, shards):
    other = write_shard(tmp_path / "other.h5", work, (0, 3, 11), ShardChoice(1, 2))
    said = "0.h5' and .*00002-of-00004.h5' both have images 1 to 3: they are shard 1/2, images 0 to 3"
    refused(said.replace("0.h5", "other.h5"), tmp_path / "m.h5", [*shards[1:], other])
    copied = shutil.copy(shards[1], tmp_path / "copied.h5")
    for again in (shards[1], copied):
        refused("both have images 1 to 4: .*; allowed: each image once", tmp_path / "m.h5", [*shards, again])


def test_incomplete_shards(tmp_path, work):
    paths = write_shards(tmp_path, work, BOUNDS, pending=(0, 6, 7))
    refused(
        r"2 shards are incomplete: '.*00001-of-00004.h5' \(1 of 1 image pending\), .*3-of-00004.h5' \(2 of 4 ",
        tmp_path / "m.h5",
        paths,
    )


def test_a_shard_that_is_being_written(tmp_path, shards):
    with OutputLock(shards[1]):
        refused(r"another process is writing .*\(shard 2/4", tmp_path / "m.h5", shards)
    Path(f"{shards[1]}.lock").touch()  # left by a process that was killed
    merge_shards(tmp_path / "m.h5", shards)


@pytest.mark.slow
def test_what_is_no_shard(tmp_path, work, shards):
    whole = write_whole(tmp_path / "whole.h5", work)
    refused("whole.h5' holds a whole extraction", tmp_path / "m.h5", [*shards, whole])
    create_file(tmp_path / "empty.h5", plan_of([]), config(), BLOCKS)
    refused("empty.h5' holds a whole extraction", tmp_path / "m.h5", [tmp_path / "empty.h5"])
    merge_shards(tmp_path / "merged.h5", shards)
    refused("merged.h5' was made by 'sppfeat merge'", tmp_path / "m.h5", [tmp_path / "merged.h5"])
    reduce(shards[3], tmp_path / "r.h5", method="random", components=2)
    refused("r.h5' has reduced descriptors", tmp_path / "m.h5", [*shards[:3], tmp_path / "r.h5"])
    (tmp_path / "text").write_text("no HDF5")
    refused("text' is not an HDF5 file", tmp_path / "m.h5", [*shards, tmp_path / "text"])
    refused("no such file: .*gone.h5'", tmp_path / "m.h5", [*shards, tmp_path / "gone.h5"])
    refused("not a file", tmp_path / "m.h5", [tmp_path])


@pytest.mark.slow
def test_shards_of_other_work(tmp_path, work, shards):
    """Each differs in one thing from the rest."""
    other = tmp_path / "other"
    for said, made, factors in [
        (
            "dtype: 'float32' in .*00001-of-00004.h5', 'float16' in .*other",
            whole_images(dtype="float16"),
            None,
        ),
        ("images of all shards: .* has 11, .* 12; rows", whole_images(12), None),
        ("plan .*extract one again with --overwrite", whole_images(classes=(b"cat", b"dog")), None),
        ("plan .*names for images", whole_images(ids=False, classes=(b"a", b"b")), None),
        ("meannorm factors: .* has none, .* has 2: 1.0, 2.0; .*--normalize-from", work, (1.0, 2.0)),
    ]:
        write_shard(other, made, BOUNDS, ShardChoice(2, 4), factors=factors)
        said = f"00001-of-00004.h5' and '.*other' come from different extractions: {said}"
        refused(said, tmp_path / "m.h5", [shards[0], other, *shards[2:]])


@pytest.mark.slow
def test_factors_that_differ_by_rounding(tmp_path, work):
    factors = [(1.5, 2.5), (1.5 * (1 + 5e-7), 2.5)]
    paths = [
        write_shard(tmp_path / f"{i}.h5", work, (0, 4, 11), ShardChoice(i, 2), factors=factors[i - 1])
        for i in (1, 2)
    ]
    merge_shards(tmp_path / "m.h5", paths)
    with FeatureFile(tmp_path / "m.h5") as file:
        assert file.norm_factors == factors[0]
    write_shard(paths[1], work, (0, 4, 11), ShardChoice(2, 2), factors=(1.5, 2.50001))
    refused("2: 1.5, 2.5, .* 2: 1.5, 2.50001", tmp_path / "other.h5", paths)


@pytest.mark.slow
def test_records_that_do_not_fit_their_files(tmp_path, work, shards):
    with FeatureFile(shards[1]) as file:
        record = file.attribute("shard")

    def changed(**changes):
        with h5py.File(shards[1], "r+") as file:
            file.attrs["shard"] = json.dumps({**json.loads(record), **changes})

    changed(stop_image=5)
    refused(
        "has 3 images and 3 rows, but its attribute 'shard' says shard 2/4, images 1 to 5 of 11",
        tmp_path / "m.h5",
        shards,
    )
    with FeatureFile(shards[1]) as file:
        assert verify_file(file).problems == [
            "the attribute 'shard' says 4 images and 3 rows, but the file has 3 and 3"
        ]
    changed(index="one")
    refused("attribute 'shard': not the record of a shard", tmp_path / "m.h5", shards)
    with FeatureFile(shards[1]) as file:
        assert any("not the record of a shard" in problem for problem in verify_file(file).problems)


@pytest.mark.slow
def test_a_shard_that_is_written_meanwhile(tmp_path, shards):
    def touch(phase, done, total):
        if phase == "join" and done == 2:
            os.utime(shards[0])

    for copy in (False, True):
        refused("changed during the merge", tmp_path / "m.h5", shards, on_progress=touch, copy=copy)


# --- outputs ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_outputs_that_exist(tmp_path, shards):
    output = tmp_path / "m.h5"
    output.write_text("mine")
    refused("exists; add --overwrite to replace it", output, shards)
    assert output.read_text() == "mine"
    merge_shards(output, shards, overwrite=True)
    with FeatureFile(output) as file:
        assert file.n_images == 11
    for other in (shards[1], tmp_path / "link.h5"):
        if other != shards[1]:
            other.symlink_to(shards[1])
        with pytest.raises(ConfigError, match=r"is also an input; allowed: another file"):
            merge_shards(other, shards, overwrite=True)
    with pytest.raises(ConfigError, match=r"no shards"):
        merge_shards(output, [])


@pytest.mark.slow
def test_what_a_merged_file_is_made_of_is_no_output_of_those_who_read_it(tmp_path, shards):
    merge_shards(tmp_path / "m.h5", shards)
    with pytest.raises(ConfigError, match=r"is also an input"):
        reduce(tmp_path / "m.h5", shards[0], method="random", components=2, overwrite=True)
    with (
        FeatureFile(tmp_path / "m.h5") as file,
        pytest.raises(ConfigError, match=r"is also an input|another file"),
    ):
        export(file.select(), shards[0], export_format="npy", overwrite=True)
    before = shards[0].read_bytes()
    merged, model = str(tmp_path / "m.h5"), str(tmp_path / "m.npz")
    probe = ["probe", merged, "--folds", "2", "--no-ablation", "--save"]
    command_line.run(*probe, model, code=0)
    link = tmp_path / "predicted.csv"
    link.symlink_to(shards[0])
    result = command_line.run("predict", model, merged, "-o", link, "--overwrite", code=2)
    assert "is also an input" in result.stderr
    assert shards[0].read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("copy", [(), ("--copy",)])
def test_a_merge_that_is_killed_leaves_nothing_half_done(tmp_path, work, runs, copy):
    folder = tmp_path / "here"
    folder.mkdir()
    shards = write_shards(folder, work, (0, 4, 11))
    output = folder / "m.h5"
    command = ("merge", output, *shards, *copy, "--overwrite", "-q")
    assert runs.run(*command)[0] == 0
    names = sorted(os.listdir(folder))
    _, n_calls = runs.run(*command)
    assert n_calls > 3
    for moment in random.Random(str(copy)).sample(range(n_calls), 2):
        assert runs.run(*command, die_at=moment, half=True) == (-9, -1)
        with FeatureFile(output) as file:
            assert verify_file(file).problems == []
        assert runs.run(*command)[0] == 0, runs.log()
        assert sorted(os.listdir(folder)) == names


# --- the command ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_says_what_it_made(tmp_path, shards):
    said = run(tmp_path / "m.h5", *shards)
    assert said.stdout == ""
    assert "m.h5: 11 rows x 15 of 4 shards; 11 images: 9 done, 2 failed" in said.stderr
    assert "the descriptors stay in the shards" in said.stderr
    run(tmp_path / "m.h5", *shards, code=1)
    said = run(tmp_path / "m.h5", *shards, "--copy", "--overwrite")
    assert "the shards are no longer needed" in said.stderr
    run(tmp_path / "n.h5", code=2)
    assert run(shards[0], *shards, "--overwrite", code=2).stderr.endswith("allowed: another file\n")
    assert "are missing" in run(tmp_path / "n.h5", shards[0], code=1).stderr


def test_lists_of_shards(tmp_path, shards):
    (tmp_path / "list").write_text("".join(f"{path}\n" for path in shards[:2]))
    rest = "".join(f"{path}\n" for path in shards[2:])
    run(tmp_path / "m.h5", f"@{tmp_path / 'list'}", "-", input=rest)
    with FeatureFile(tmp_path / "m.h5") as file:
        assert len(file.sources.files) == 4
    assert "cannot read the list" in run(tmp_path / "n.h5", "@gone", code=2).stderr
    (tmp_path / "empty").touch()
    assert "no shards to merge" in run(tmp_path / "n.h5", f"@{tmp_path / 'empty'}", code=2).stderr


def test_python_and_the_command_return_the_same(tmp_path, work):
    paths = elsewhere(tmp_path, work)
    printed = json.loads(run(tmp_path / "m.h5", *paths, "--json").stdout)
    check_fields("merge", printed)
    steps = []
    found = sppfeat.merge(
        str(tmp_path / "m.h5"),
        paths,
        overwrite=True,
        on_progress=lambda step, *done: steps.append((step, *done)),
    )
    assert {**dataclasses.asdict(found), "seconds": 0} == {**printed, "seconds": 0}
    assert steps == [(step, i, 2) for step in ("check", "join") for i in (1, 2)]
    assert (found.shards, found.rows, found.is_virtual) == (2, 11, True)
    assert found.bytes == (tmp_path / "m.h5").stat().st_size


def test_info_says_which_shard_and_which_sources(tmp_path, shards):
    merge_shards(tmp_path / "m.h5", shards)

    def info(path, *options):
        return command_line.run("info", path, *options, code=0).stdout

    assert "shard:     2/4: images 1 to 4 of 11, rows 1 to 4 of 11" in info(shards[1])
    assert "virtual:   rows in 4 other files, " in info(tmp_path / "m.h5")
    shard, merged = (json.loads(info(path, "--json")) for path in (shards[1], tmp_path / "m.h5"))
    assert shard["sources"] is None
    assert shard["shard"]["first_image"] == 1
    assert merged["shard"] is None
    assert [source["path"] for source in merged["sources"]] == [str(path) for path in shards]
    assert sum(source["rows"] for source in merged["sources"]) == 11


def test_verify_compares_with_the_sources(tmp_path, shards):
    merge_shards(tmp_path / "m.h5", shards)
    command_line.run("verify", tmp_path / "m.h5", code=0)
    found = shards[2].stat()
    FeatureWriter(shards[2]).reopen(0)
    os.utime(shards[2], ns=(found.st_atime_ns, found.st_mtime_ns))  # a file system that keeps whole seconds
    result = command_line.run("verify", tmp_path / "m.h5", code=1)
    assert "1 image of the source '" in result.stdout
    assert "changed status since the merge" in result.stdout
