"""Extractions from and into an object store: the same rows as from a folder, despite outages."""

import json

import command_line
import h5py
import pytest
from extraction_runs import assert_same_contents, contents, extract, write_eleven_images
from flaky_server import Fault
from killing import TINY
from packages import need_packages

from sppfeat.errors import SourceError
from sppfeat.store.schema import Status

need_packages("s3fs", "moto")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_eleven_images(tmp_path_factory.mktemp("images") / "photos")


@pytest.fixture
def stored(photos, store):
    """The store with the same images."""
    store.put({f"in/{path.relative_to(photos)}": path.read_bytes() for path in photos.rglob("*.*")})
    return store


def run(*arguments, **settings):
    return command_line.run(*arguments, *TINY, **settings)


def same_but_for_the_root(a, b):
    """Compares a file of a folder with a file of a store, where modification times are unknown."""
    a, b = contents(a), contents(b)
    assert (b.pop("images/mtime_ns") == -1).all()
    assert (a.pop("images/mtime_ns") > 0).all()
    assert str(a.pop("@input_root")) != str(b.pop("@input_root"))
    assert_same_contents(a, b)


def test_features_equal_those_of_the_folder(photos, stored, tmp_path):
    extract([photos], tmp_path / "local.h5")
    extract(["s3://bucket/in"], tmp_path / "remote.h5")
    same_but_for_the_root(tmp_path / "local.h5", tmp_path / "remote.h5")
    result = command_line.run("verify", tmp_path / "remote.h5", "--recompute", "3", "--json", code=0)
    assert len(json.loads(result.stdout)["recomputed"]["rows"]) == 3


def test_an_object_of_another_size_counts_as_changed(photos, stored, tmp_path):
    extract(["s3://bucket/in"], tmp_path / "x.h5")
    name, other = "c0/2.png", (photos / "c0/4.png").read_bytes()
    stored.put({f"in/{name}": other})
    extraction, progress = extract(["s3://bucket/in"], tmp_path / "x.h5", update=True)
    assert "update: 0 new, 1 changed, 0 missing" in extraction.run.notes
    assert progress.n_done == 1
    extraction, _ = extract(["s3://bucket/in"], tmp_path / "x.h5", update=True)
    assert "update: 0 new, 0 changed, 0 missing" in extraction.run.notes


def test_the_same_command_continues_after_an_outage(photos, stored, tmp_path):
    arguments = ("extract", "s3://bucket/in", "-o", tmp_path / "x.h5", "-q")
    stored.server.faults = [Fault("drop", "GET /bucket/in")]
    result = run(*arguments, code=1)
    assert "Error: cannot read 's3://bucket/in/c" in result.output
    assert "secret" not in result.output
    if (tmp_path / "x.h5").exists():
        with h5py.File(tmp_path / "x.h5") as file:
            assert (file["images/status"][()] == Status.PENDING).all()
    stored.server.faults = []
    run(*arguments, code=3)
    extract([photos], tmp_path / "local.h5")
    with h5py.File(tmp_path / "x.h5") as file, h5py.File(tmp_path / "local.h5") as local:
        assert file["images/status"][()].tolist() == local["images/status"][()].tolist()


def test_an_outage_during_the_run_keeps_finished_rows(photos, stored, tmp_path, monkeypatch):
    monkeypatch.setattr("sppfeat.extraction.chunks._FIRST_IMAGES", 4)
    monkeypatch.setattr("sppfeat.extraction.chunks._MOST_FETCHED", 4)
    fault = Fault("drop", times=0)
    stored.server.faults = [fault]
    stored.server.on_request = lambda line: "c1/" in line and setattr(fault, "times", float("inf"))
    with pytest.raises(SourceError):
        extract(["s3://bucket/in"], tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        status = file["images/status"][()].tolist()
    assert status[:4] == [Status.DONE] * 4
    assert status[-1] == Status.PENDING
    assert Status.FAILED not in status
    stored.server.reset()
    extract(["s3://bucket/in"], tmp_path / "x.h5")
    extract([photos], tmp_path / "local.h5")
    same_but_for_the_root(tmp_path / "local.h5", tmp_path / "x.h5")


# --- outputs in the store -------------------------------------------------------------------------


@pytest.fixture
def uploads(store, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store.put({})
    return store


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.h5"
    run("extract", photos, "-o", path, code=3)
    return contents(path)


def assert_is(path, whole, root):
    found = contents(path)
    assert found.pop("@input_root") == root
    assert_same_contents(found, {name: value for name, value in whole.items() if name != "@input_root"})


def test_an_output_is_uploaded_when_it_is_complete(uploads, photos, whole, tmp_path):
    output, scratch = "s3://bucket/out/f.h5", tmp_path / "scratch"
    scratch.mkdir()
    command = ("extract", photos, "-o", output, "--scratch", scratch, "--json")
    for done_now in (10, 0):
        printed = json.loads(run(*command, code=3).stdout)["result"]
        assert (printed["output"], printed["files"]) == (output, [output])
        assert printed["done_now"] == done_now
        assert not [path for path in scratch.rglob("*") if path.is_file()]
    (tmp_path / "f.h5").write_bytes(uploads.keys()["out/f.h5"])
    assert_is(tmp_path / "f.h5", whole, str(photos))


def test_shards_of_a_size_are_uploaded_one_by_one(uploads, photos, whole, tmp_path):
    command = ("extract", photos, "-o", "s3://bucket/f-{shard}.h5", "--shard-size", "0.05MB", "--json")
    result = run(*command, code=3)
    keys = sorted(uploads.keys())
    assert keys == [f"f-{i:05d}-of-{len(keys):05d}.h5" for i in range(1, len(keys) + 1)]
    assert len(keys) > 1
    assert json.loads(result.stdout)["result"]["files"] == [f"s3://bucket/{key}" for key in keys]
    for key, content in uploads.keys().items():
        (tmp_path / key).write_bytes(content)
    shards = [str(tmp_path / key) for key in keys]
    result = command_line.run("merge", "s3://bucket/f.h5", *shards, "--copy", "--json", code=0)
    assert json.loads(result.stdout)["output"] == "s3://bucket/f.h5"
    (tmp_path / "f.h5").write_bytes(uploads.keys()["f.h5"])
    assert_is(tmp_path / "f.h5", whole, str(photos))
    result = command_line.run("merge", "s3://bucket/g.h5", *shards, code=2)
    assert "add --copy" in result.output


def test_shards_cannot_share_a_remote_output(uploads, photos):
    result = run("extract", photos, "-o", "s3://bucket/f.h5", "--shard", "1/2", "--shared", code=2)
    assert "--shared needs an output on this machine" in result.output
