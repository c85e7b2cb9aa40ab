"""Outputs in an object store, in one file and in several."""

import json

import pytest
from click.testing import CliRunner
from conftest import write_image
from extraction_runs import assert_same_contents, contents
from killing import TINY
from packages import need_packages

from sppfeat.cli import main

need_packages("s3fs", "moto")

pytestmark = pytest.mark.slow

N = 12


@pytest.fixture
def store(store, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("images") / "photos"
    for i in range(N):
        write_image(top / f"c{i % 2}" / f"{i}.png", 60, 50 + 9 * (i % 4), seed=i)
    (top / "c1" / "3.png").write_bytes(b"damaged")
    return top


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.h5"
    assert run("extract", folder, "-o", path).exit_code == 3
    return contents(path)


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments), *TINY])


def assert_is(path, whole, root):
    found = contents(path)
    assert found.pop("@input_root") == root
    assert_same_contents(found, {name: value for name, value in whole.items() if name != "@input_root"})


def test_an_output_is_uploaded_when_it_is_complete(store, folder, whole, tmp_path):
    output, scratch = "s3://bucket/out/f.h5", tmp_path / "scratch"
    store.put({})
    scratch.mkdir()
    command = ("extract", folder, "-o", output, "--scratch", scratch, "--json")
    for done_now in (N - 1, 0):
        result = run(*command)
        assert result.exit_code == 3, result.output
        printed = json.loads(result.stdout)["result"]
        assert (printed["output"], printed["files"]) == (output, [output])
        assert printed["done_now"] == done_now
        assert not [path for path in scratch.rglob("*") if path.is_file()]
    (tmp_path / "f.h5").write_bytes(store.keys()["out/f.h5"])
    assert_is(tmp_path / "f.h5", whole, str(folder))


def test_shards_of_a_size_are_uploaded_one_by_one(store, folder, whole, tmp_path):
    store.put({})
    command = ("extract", folder, "-o", "s3://bucket/f-{shard}.h5", "--shard-size", "0.05MB", "--json")
    result = run(*command)
    assert result.exit_code == 3, result.output
    keys = sorted(store.keys())
    assert keys == [f"f-{i:05d}-of-{len(keys):05d}.h5" for i in range(1, len(keys) + 1)]
    assert len(keys) > 1
    assert json.loads(result.stdout)["result"]["files"] == [f"s3://bucket/{key}" for key in keys]
    for key, content in store.keys().items():
        (tmp_path / key).write_bytes(content)
    shards = [str(tmp_path / key) for key in keys]
    result = CliRunner().invoke(main, ["merge", "s3://bucket/f.h5", *shards, "--copy", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["output"] == "s3://bucket/f.h5"
    (tmp_path / "f.h5").write_bytes(store.keys()["f.h5"])
    assert_is(tmp_path / "f.h5", whole, str(folder))
    result = CliRunner().invoke(main, ["merge", "s3://bucket/g.h5", *shards])
    assert result.exit_code == 2
    assert "allowed for it: --copy" in result.output


def test_several_processes_cannot_share_what_is_elsewhere(store, folder):
    result = run("extract", folder, "-o", "s3://bucket/f.h5", "--shard", "1/2", "--shared")
    assert result.exit_code == 2
    assert "--shared is for an output of this machine" in result.output
