"""Extractions from an object store, and into one: the same rows as from a folder, whatever happens on the way."""

import json

import h5py
import pytest
from click.testing import CliRunner
from conftest import write_image
from extraction_runs import assert_same_contents, contents, extract
from flaky_server import Fault
from packages import need_packages

from sppfeat.cli import main
from sppfeat.errors import SourceError
from sppfeat.store.schema import Status

need_packages("s3fs", "moto")

pytestmark = pytest.mark.slow

N_IMAGES = 12
OPTIONS = [
    "--backbone",
    "squeezenet1_1",
    "--weights",
    "none",
    "--size",
    "48",
    "--levels",
    "1",
    "--workers",
    "0",
    "-q",
]


@pytest.fixture
def folder(tmp_path, store):
    """Pictures in a folder, and the same in the store."""
    for i in range(N_IMAGES):
        write_image(tmp_path / "in" / f"class{i % 2}" / f"{i}.png", 40 + i % 3, 50, seed=i)
    (tmp_path / "in" / "class1" / "bad.jpg").write_bytes(b"no image")
    for path in (tmp_path / "in").rglob("*.*"):
        store.put({f"in/{path.relative_to(tmp_path / 'in')}": path.read_bytes()})
    return tmp_path / "in"


def same_but_for_the_root(a, b):
    a, b = contents(a), contents(b)
    assert str(a.pop("@input_root")) != str(b.pop("@input_root"))
    assert_same_contents(a, b)


def test_the_features_are_those_of_the_folder(folder, tmp_path):
    extract([folder], tmp_path / "local.h5")
    extract(["s3://bucket/in"], tmp_path / "remote.h5")
    same_but_for_the_root(tmp_path / "local.h5", tmp_path / "remote.h5")
    # They are found again where they were.
    result = CliRunner().invoke(main, ["verify", str(tmp_path / "remote.h5"), "--recompute", "3", "--json"])
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["recomputed"]["rows"]) == 3


def test_an_outage_leaves_images_to_the_same_command(folder, store, tmp_path):
    arguments = ["extract", "s3://bucket/in", "-o", str(tmp_path / "x.h5"), *OPTIONS]
    store.server.faults = [Fault("drop", "GET /bucket/in")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1, result.output
    assert "Error: cannot read 's3://bucket/in/class" in result.output
    assert "secret" not in result.output
    if (tmp_path / "x.h5").exists():
        with h5py.File(tmp_path / "x.h5") as file:
            assert (file["images/status"][()] == Status.PENDING).all()
    store.server.faults = []
    assert CliRunner().invoke(main, arguments).exit_code == 3
    extract([folder], tmp_path / "local.h5")
    with h5py.File(tmp_path / "x.h5") as file, h5py.File(tmp_path / "local.h5") as local:
        assert file["images/status"][()].tolist() == local["images/status"][()].tolist()


def test_an_outage_in_the_midst(folder, store, tmp_path, monkeypatch):
    monkeypatch.setattr("sppfeat.extraction.chunks._FIRST_IMAGES", 4)
    monkeypatch.setattr("sppfeat.extraction.chunks._MOST_FETCHED", 4)
    fault = Fault("drop", times=0)
    store.server.faults = [fault]
    store.server.on_request = lambda line: "class1/" in line and setattr(fault, "times", float("inf"))
    with pytest.raises(SourceError):
        extract(["s3://bucket/in"], tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        status = file["images/status"][()].tolist()
    assert status[:4] == [Status.DONE] * 4
    assert status[-1] == Status.PENDING
    assert Status.FAILED not in status
    store.server.reset()
    extract(["s3://bucket/in"], tmp_path / "x.h5")
    extract([folder], tmp_path / "local.h5")
    same_but_for_the_root(tmp_path / "local.h5", tmp_path / "x.h5")
