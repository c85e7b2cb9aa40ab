"""What ``sppfeat bench plan`` reports; never how fast."""

import json
import tempfile

import pytest
from click.testing import CliRunner
from json_fields import check_fields

from sppfeat.bench.plan import PlanStage
from sppfeat.bench.plan_stages import continue_file, plan_file
from sppfeat.cli import main
from sppfeat.cli.bench_texts import plan_text
from sppfeat.store.reader import FeatureFile

pytestmark = pytest.mark.slow

STAGES = ["list", "plan", "lay_out", "continue"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        args = ["bench", "plan", "--counts", "60", "--per-folder", "25", "--json", "-q"]
        result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert list(folder.iterdir()) == []
    return json.loads(result.stdout)


def test_every_stage_is_reported_for_each_number_of_images(found):
    assert found["images_per_folder"] == 25
    (rung,) = found["rungs"]
    assert rung["images"] == 60
    assert list(rung["stages"]) == STAGES
    for stage in rung["stages"].values():
        assert stage["images_per_second"] == pytest.approx(60 / stage["seconds"])
        if stage["peak_bytes"] is not None:
            assert 0 <= stage["peak_bytes"] == pytest.approx(60 * stage["peak_bytes_per_image"])
    assert rung["path_bytes_per_image"] == pytest.approx(len("n00000000/n00000000_10.JPEG") - 10 / 60)
    assert rung["path_bytes_per_image"] < rung["plan_bytes_per_image"] <= 200
    assert rung["file_bytes_per_image"] > 200  # what /images/error has for each


def test_the_readme_has_every_field(found):
    check_fields("bench plan", found)


def test_it_measures_what_a_run_does(tmp_path):
    for name in ("b/2.jpg", "b/10.jpg", "a/1.jpg", "a/none.txt"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    output = tmp_path / "features.h5"
    planned = plan_file(tmp_path / "photos", output)
    with FeatureFile(output) as file:
        assert file.paths == ["a/1.jpg", "b/2.jpg", "b/10.jpg"]
        assert file.classes == ["a", "b"]
        assert planned.file_nbytes == file.nbytes - 3 * 4
    assert planned.path_nbytes == 7 + 7 + 8
    continued = continue_file(tmp_path / "photos", output)
    assert [*planned.stages, *continued.stages] == STAGES
    assert continued.file_nbytes == 0


def test_a_system_that_does_not_tell_its_memory_is_no_error(tmp_path, monkeypatch, found):
    monkeypatch.setattr("sppfeat.bench.plan_stages._STATUS", tmp_path / "none")
    (tmp_path / "1.jpg").touch()
    planned = plan_file(tmp_path, tmp_path / "features.h5")
    assert [peak for _, peak in planned.stages.values()] == [None] * 3
    stage = PlanStage.of(2.0, None, 10)
    assert (stage.images_per_second, stage.peak_bytes_per_image) == (5.0, None)
    stages = {
        name: {"seconds": 2.0, "images_per_second": 5.0, "peak_bytes_per_image": None} for name in STAGES
    }
    text = plan_text({**found, "rungs": [{**found["rungs"][0], "stages": stages}]})
    assert "    60     -     -        -         -\n" in text


def test_bad_usage_is_said():
    for args, message in ((["--counts", "0"], "whole numbers above 0"), (["--per-folder", "0"], "x>=1")):
        result = CliRunner().invoke(main, ["bench", "plan", *args])
        assert result.exit_code == 2
        assert message in result.stderr
