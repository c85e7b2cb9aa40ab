"""A folder whose images change, appear and vanish between runs: notes, images that run again, rows that stay."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import write_image
from extraction_runs import assert_same_contents, assert_same_descriptors, contents, extract

import sppfeat
from sppfeat.config.distribution import ShardChoice
from sppfeat.config.request import BoxChoice
from sppfeat.store.schema import VERSION_COLUMNS, Status


@pytest.fixture
def folder(tmp_path) -> Path:
    for i in range(6):
        write_image(tmp_path / "p" / "ab"[i % 2] / f"{i}.png", 60, 50 + 9 * (i % 3), seed=i)
    return tmp_path / "p"


def touch(path: Path) -> None:
    """Sets the modification time of a file one second later."""
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))


def notes(extraction, word: str) -> list[str]:
    return [note for note in extraction.run.notes if word in note]


def by_path(path) -> dict[str, tuple[int, np.ndarray]]:
    """The status and the rows of each image."""
    with sppfeat.open(path) as file:
        return {
            name: (int(file.status[i]), np.array(file.features[slice(*file.image_rows[i])]))
            for i, name in enumerate(file.paths)
        }


def assert_as_fresh(path, folder, **changes) -> None:
    """Compare the remaining images with those of a new file."""
    fresh = path.with_name("fresh.h5")
    extract([folder], fresh, overwrite=fresh.exists(), **changes)
    ours, theirs = by_path(path), by_path(fresh)
    for name, (status, rows) in theirs.items():
        assert ours[name][0] == status, name
        assert_same_descriptors(ours[name][1], rows)


def forget_versions(path: Path) -> None:
    """Turn a file into one of an older version."""
    with h5py.File(path, "r+") as file:
        for name in VERSION_COLUMNS:
            del file[name]


def test_size_and_time_of_each_file_are_recorded(folder, tmp_path):
    extract([folder], tmp_path / "f.h5")
    with sppfeat.open(tmp_path / "f.h5") as file:
        stats = [os.stat(folder / name) for name in file.paths]
        assert file.image_versions.tolist() == [[s.st_size, s.st_mtime_ns] for s in stats]


@pytest.mark.parametrize("headers", ["first", "window"])
@pytest.mark.parametrize("boxes", [None, BoxChoice(boxes="grid:2x2")])
def test_changed_images_are_noted_and_extracted_again_on_request(folder, tmp_path, headers, boxes):
    output = tmp_path / "f.h5"
    settings = {"headers": headers, "boxes": boxes}
    extract([folder], output, **settings)
    before = by_path(output)
    write_image(folder / "a" / "2.png", 70, 44, seed=20)  # another size
    shutil.copy2(folder / "b" / "1.png", folder / "b" / "3.png")  # another image
    touch(folder / "a" / "4.png")
    old = contents(output)

    extraction, progress = extract([folder], output, **settings)
    (note,) = notes(extraction, "changed since")
    assert note.startswith("3 images changed since they were extracted, such as 'a/2.png' (was ")
    assert note.endswith("; --update-changed runs them again")
    assert (progress.n_done, extraction.summary().to_do) == (0, 0)
    assert_same_contents(old, contents(output))

    extraction, progress = extract([folder], output, update_changed=True, **settings)
    assert (progress.n_done, progress.n_failed) == (3, 0)
    assert extraction.summary().already_done == 3
    after = by_path(output)
    for name in ("a/0.png", "b/1.png", "b/5.png"):
        assert np.array_equal(before[name][1], after[name][1])
    assert_as_fresh(output, folder, **settings)
    extraction, progress = extract([folder], output, update_changed=True, **settings)
    assert not notes(extraction, "changed since")
    assert progress.n_done == 0


def test_an_image_that_changed_while_it_was_pending_is_measured_again(folder, tmp_path):
    extract([folder], tmp_path / "f.h5", stop_after=1)
    for path in sorted(folder.rglob("*.png")):
        write_image(path, 64, 48, seed=int(path.stem) + 30)
    extract([folder], tmp_path / "f.h5")
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert (file.status == Status.DONE).all()
    extract([folder], tmp_path / "f.h5", update_changed=True)
    assert_as_fresh(tmp_path / "f.h5", folder)


def test_a_changed_unreadable_image_fails_and_runs_again_once_repaired(folder, tmp_path):
    good = (folder / "a" / "2.png").read_bytes()
    extract([folder], tmp_path / "f.h5")
    (folder / "a" / "2.png").write_bytes(b"damaged")
    _, progress = extract([folder], tmp_path / "f.h5", update_changed=True)
    assert (progress.n_done, progress.n_failed) == (0, 1)
    status, rows = by_path(tmp_path / "f.h5")["a/2.png"]
    assert status == Status.FAILED
    assert np.isnan(rows).all()
    (folder / "a" / "2.png").write_bytes(good)
    _, progress = extract([folder], tmp_path / "f.h5", update=True)
    assert (progress.n_done, progress.n_failed) == (1, 0)
    assert_as_fresh(tmp_path / "f.h5", folder)


def test_images_of_a_moved_folder_have_not_changed(folder, tmp_path):
    extract([folder], tmp_path / "f.h5")
    for name in ("0", "2", "4"):
        touch(folder / "a" / f"{name}.png")
    folder.rename(tmp_path / "q")
    extraction, _ = extract([tmp_path / "q"], tmp_path / "f.h5", update=True)
    (note,) = notes(extraction, "update: ")
    assert note == "update: 0 new, 0 changed, 0 missing"
    write_image(tmp_path / "q" / "a" / "0.png", 99, 41, seed=3)
    extraction, _ = extract([tmp_path / "q"], tmp_path / "f.h5", update=True)
    (note,) = notes(extraction, "update: ")
    assert note == "update: 0 new, 1 changed, 0 missing"


def test_a_folder_that_grows_for_days_with_interruptions(folder, tmp_path):
    output = tmp_path / "f.h5"
    extract([folder], output, update=True)  # creates the output
    expected_missing = 0
    for day in range(1, 4):
        for i in range(3):
            write_image(folder / "ab"[i % 2] / f"day{day}-{i}.png", 44 + day, 50 + i, seed=100 * day + i)
        if day > 1:
            write_image(folder / "a" / f"day{day - 1}-0.png", 61 + day, 52, seed=day)
            (folder / "b" / f"day{day - 1}-1.png").unlink()
            expected_missing += 1
        extraction, _ = extract([folder], output, update=True, stop_after=1)
        n_changed = int(day > 1)
        (note,) = notes(extraction, "update: ")
        assert note.startswith(f"update: 3 new, {n_changed} changed, {expected_missing} missing")
        extraction, _ = extract([folder], output, update=True)
        (note,) = notes(extraction, "update: ")
        assert note.startswith(f"update: 0 new, 0 changed, {expected_missing} missing")
        assert_as_fresh(output, folder)
    states = by_path(output)
    assert len(states) == 6 + 3 * 3
    assert {status for status, _ in states.values()} == {Status.DONE}  # including missing images


def test_a_missing_pending_image_runs_once_it_is_back(folder, tmp_path):
    extract([folder], tmp_path / "f.h5", stop_after=1)
    pending = [name for name, (status, _) in by_path(tmp_path / "f.h5").items() if status == Status.PENDING]
    for name in pending:
        (folder / name).rename(tmp_path / name.replace("/", "-"))
    _, progress = extract([folder], tmp_path / "f.h5", update=True)
    assert progress.n_failed == len(pending) > 0
    for name in pending:
        (tmp_path / name.replace("/", "-")).rename(folder / name)
    _, progress = extract([folder], tmp_path / "f.h5", update=True)
    assert progress.n_done == len(pending)
    assert_as_fresh(tmp_path / "f.h5", folder)


def test_an_interrupted_replacement_continues_with_the_current_images(folder, tmp_path):
    output = tmp_path / "f.h5"
    extract([folder], output)
    extract([folder], output, overwrite=True, stop_after=1)
    for path in sorted(folder.rglob("*.png")):
        write_image(path, 64, 48, seed=int(path.stem) + 30)
    extract([folder], output, overwrite=True)
    assert_as_fresh(output, folder)


def test_shared_shards_extract_changed_images_again(folder, tmp_path):
    output = tmp_path / "f.h5"
    extract([folder], output)
    for path in sorted(folder.rglob("*.png")):
        write_image(path, 64, 48, seed=int(path.stem) + 30)
    for i in (1, 2):
        _, progress = extract([folder], output, shard=ShardChoice(i, 2), shared=True, update_changed=True)
        assert progress.n_done == 3
    assert_as_fresh(output, folder)


def test_a_listed_file_that_no_longer_exists_is_missing(folder, tmp_path):
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(map(str, sorted(folder.rglob("*.png")))))
    extract([tmp_path / "list.csv"], tmp_path / "f.h5")
    (folder / "a" / "2.png").unlink()
    extraction, _ = extract([tmp_path / "list.csv"], tmp_path / "f.h5")
    assert notes(extraction, "1 image file no longer found, such as 'a/2.png'")
    extraction, _ = extract([tmp_path / "list.csv"], tmp_path / "f.h5", update=True)
    (note,) = notes(extraction, "update: ")
    assert note.startswith("update: 0 new, 0 changed, 1 missing")


def test_a_file_of_an_older_version_is_continued_with_a_note(folder, tmp_path):
    output = tmp_path / "f.h5"
    extract([folder], output, stop_after=1)
    forget_versions(output)
    extract([folder], output)
    assert_as_fresh(output, folder)
    write_image(folder / "a" / "2.png", 70, 44, seed=20)
    extraction, progress = extract([folder], output, update_changed=True)
    assert progress.n_done == 0
    assert notes(extraction, "did not record modification times")
    # An extended file records versions, but knows only those of the new images.
    write_image(folder / "a" / "new.png", 70, 44, seed=21)
    extract([folder], output, update=True)
    with sppfeat.open(output) as file:
        assert file.image_versions[:6].tolist() == [[-1, -1]] * 6
        new = os.stat(folder / "a" / "new.png")
        assert file.image_versions[6].tolist() == [new.st_size, new.st_mtime_ns]


def test_changed_images_of_shards_are_extracted_again_and_merged(folder, tmp_path):
    paths = [tmp_path / f"{i}.h5" for i in (1, 2)]
    shards = [ShardChoice(i, 2) for i in (1, 2)]
    for path, shard in zip(paths, shards, strict=True):
        extract([folder], path, shard=shard)
    write_image(folder / "b" / "5.png", 60, 44, seed=20)
    n_done = []
    for path, shard in zip(paths, shards, strict=True):
        extraction, progress = extract([folder], path, shard=shard, update_changed=True)
        n_done.append(progress.n_done)
        assert len(notes(extraction, "changed since")) == progress.n_done
    assert n_done == [0, 1]
    sppfeat.merge(tmp_path / "m.h5", paths, copy=True)
    assert_as_fresh(tmp_path / "m.h5", folder)
    extraction, _ = extract([folder], tmp_path / "m.h5")
    assert not notes(extraction, "changed since")


def test_shards_with_and_without_recorded_versions_merge(folder, tmp_path):
    paths = [tmp_path / f"{i}.h5" for i in (1, 2)]
    for path, shard in zip(paths, [ShardChoice(i, 2) for i in (1, 2)], strict=True):
        extract([folder], path, shard=shard)
    forget_versions(paths[0])
    with sppfeat.open(paths[1]) as file:
        known = file.image_versions
    for copy in (True, False):
        sppfeat.merge(tmp_path / "m.h5", paths, copy=copy, overwrite=True)
        with sppfeat.open(tmp_path / "m.h5") as file:
            assert np.array_equal(file.image_versions[-len(known) :], known)
            assert (file.image_versions[: -len(known)] == -1).all()
    sppfeat.reduce(paths[0], tmp_path / "reduced.h5", components=2)
    with sppfeat.open(tmp_path / "reduced.h5") as file:
        assert (file.image_versions == -1).all()


def test_changed_images_of_shards_of_a_size_are_extracted_again(folder, tmp_path):
    output = tmp_path / "{shard}.h5"

    def run(**changes):
        return sppfeat.extract(
            folder, output, shard_size=2000, size=48, levels=(1,), workers=0, device="cpu", **changes
        )

    n_files = len(run().files)
    assert n_files > 1
    write_image(folder / "b" / "5.png", 60, 44, seed=20)
    result = run()
    assert any("1 image changed since" in note for note in result.plan.notes)
    assert (result.plan.to_do, result.done_now) == (0, 0)
    result = run(update_changed=True)
    assert (result.plan.to_do, result.done_now, result.done) == (1, 1, 6)
    assert not any("changed since" in note for note in run().plan.notes)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_of_an_archive_counts_as_changed_when_its_size_changes(folder, tmp_path, kind):
    shutil.make_archive(str(tmp_path / "in"), kind, folder)
    archive = tmp_path / f"in.{kind}"
    extract([archive], tmp_path / "f.h5")
    shutil.make_archive(str(tmp_path / "in"), kind, folder)  # the same images
    touch(archive)
    extraction, _ = extract([archive], tmp_path / "f.h5")
    assert not notes(extraction, "changed since")
    write_image(folder / "a" / "2.png", 99, 44, seed=20)
    shutil.make_archive(str(tmp_path / "in"), kind, folder)
    extraction, progress = extract([archive], tmp_path / "f.h5", update_changed=True)
    assert notes(extraction, "1 image changed since it was extracted")
    assert progress.n_done == 1
    assert_as_fresh(tmp_path / "f.h5", archive)


@pytest.mark.parametrize(("height", "width"), [(20, 24), (400, 300)])
def test_verify_reports_changed_images(folder, tmp_path, height, width):
    extract([folder], tmp_path / "f.h5")
    assert sppfeat.verify(tmp_path / "f.h5").warnings == []
    shutil.copy2(folder / "b" / "1.png", folder / "b" / "5.png")
    write_image(folder / "a" / "4.png", height, width, seed=20)
    found = sppfeat.verify(tmp_path / "f.h5", recompute=6)
    (warning,) = found.warnings
    assert warning.startswith("2 images changed since they were extracted, such as 'a/4.png' (was ")
    assert warning.endswith("'sppfeat extract --update-changed' runs them again")
    problems = "\n".join(found.recomputed.problems)
    assert (
        f"a/4.png'): the image has changed since extraction (was 60 x 59, is {height} x {width}; height x width)"
        in problems
    )
    assert "bomb" not in problems


def test_verify_names_a_changed_image_as_the_cause_of_a_different_row(folder, tmp_path):
    extract([folder], tmp_path / "f.h5")
    write_image(folder / "a" / "4.png", 60, 50 + 9, seed=20)
    found = sppfeat.verify(tmp_path / "f.h5", recompute=6)
    (problem,) = found.recomputed.problems
    assert "differs by" in problem
    assert "; the image has changed since extraction (" in problem


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"update": True, "overwrite": True}, "starts over"),
        ({"update_changed": True, "overwrite": True}, "starts over"),
        (
            {"update": True, "shard": ShardChoice(1, 2)},
            "--update does not work with --shard: .*--update-changed",
        ),
        ({"update": True, "shard_bytes": 9}, "--update does not work with --shard-size: .*--update-changed"),
    ],
)
def test_options_that_contradict_updates_are_refused(folder, tmp_path, changes, reason):
    with pytest.raises(sppfeat.errors.ConfigError, match=reason):
        extract([folder], tmp_path / "f.h5", **changes)
