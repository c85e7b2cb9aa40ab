import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image

from sppfeat.files.outputs import OutputLock
from sppfeat.networks.backbones import load_backbone
from sppfeat.networks.zoo import model_names

TINY = ["--size", "48", "--levels", "1,2", "--device", "cpu"]


@pytest.fixture
def features(folder, tmp_path):
    run("extract", folder, "-o", tmp_path / "f.h5", *TINY, "--workers", "0", code=0)
    return tmp_path / "f.h5"


@pytest.mark.slow
def test_extract_prints_its_plan_on_stderr_and_nothing_on_stdout(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # which has seen no hint
    result = run("extract", folder, "-o", tmp_path / "f.h5", *TINY, code=0)
    assert result.stdout == ""
    for text in (
        "images:      12 (5 distinct input sizes)\n",
        "classes:     2: cat (6), dog (6)\n",
        "spp_s16, weights DISTILLED_V1",
        "hint:        spp_s16 is a small demo network; for real work use --backbone resnet50",
        "features",
        "2560 values",
    ):
        assert text in result.stderr
    assert re.search(r"cpu, fp32", result.stderr)
    assert "\r" not in result.stderr  # no bar in a log
    assert re.search(r"Done: 12 images in [\d.]+ s \(\d+ images/s\), 0 failed -> ", result.stderr)
    again = run("extract", folder, "-o", tmp_path / "f.h5", *TINY, "-q")
    assert (again.exit_code, again.output) == (0, "")


@pytest.mark.slow
def test_failed_images_are_named_and_give_exit_code_3_also_later(mixed_folder, tmp_path):
    for _ in range(2):
        result = run("extract", mixed_folder, "-o", tmp_path / "f.h5", *TINY, code=3)
        assert "'cat/empty.jpg': " in result.stderr


@pytest.mark.slow
def test_multiples_and_fast_decoding_are_in_the_plan_and_in_the_file(folder, tmp_path):
    settings = ["--round-to", "32", "--decode", "fast"]
    result = run("extract", folder, "-o", tmp_path / "f.h5", *TINY, *settings, code=0)
    assert "12 (2 distinct input sizes, multiples of 32)" in result.stderr
    assert re.search(
        r"note: +--decode fast decodes .* by 2 to 15 %; 0 of 12 images are large enough", result.stderr
    )
    shown = run("info", tmp_path / "f.h5").stdout
    assert "round_to = 32" in shown
    assert "decode = fast" in shown
    run("verify", tmp_path / "f.h5", "--recompute", 3, code=0)
    run("extract", folder, "-o", tmp_path / "f.h5", *TINY, *settings, code=0)
    other = run("extract", folder, "-o", tmp_path / "f.h5", *TINY, code=1)
    assert "round_to: 32 in the file, not set in this command" in other.stderr
    assert "decode: 'fast' in the file, not set in this command" in other.stderr


@pytest.mark.parametrize("workers", [0, 2])
def test_images_with_few_of_16_bits_are_noted_once_at_the_end(tmp_path, workers):
    (tmp_path / "in").mkdir()
    for i, factor in enumerate((1, 16, 1)):
        samples = (np.arange(3600, dtype="<u2") * factor).reshape(60, 60)
        Image.fromarray(samples).save(tmp_path / f"in/{i}.png")
    command = ["extract", tmp_path / "in", "-o", tmp_path / "f.h5", *TINY, "--workers", workers, "--flip"]
    result = run(*command, code=0)
    note = (
        "note: 2 16-bit images use less than a quarter of the range of values, such as '0.png' (0 to 3599), "
    )
    assert result.stderr.count("16-bit") == result.stderr.count(note) == 1
    assert "scale the values to 0..65535 and extract again" in result.stderr
    assert "16-bit" not in run(*command, code=0).stderr  # nothing was decoded


def test_tasks_of_a_job_array_with_the_same_shard_get_a_note(folder, tmp_path):
    task = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_ARRAY_TASK_ID": "3"}
    task |= {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "16", "SLURM_ARRAY_TASK_COUNT": "16"}
    command = ["extract", folder, "-o", tmp_path / "{shard}.h5", *TINY, "--shard", "auto", "--dry-run"]
    said = run(*command, code=0, env=task).stdout
    assert "every task has shard 1/1" in said
    assert "--shard $SLURM_ARRAY_TASK_ID/16" in said
    with OutputLock(tmp_path / "00001-of-00001.h5"):
        refused = run(*command[:-1], code=1, env=task).stderr
    assert "another process is writing" in refused
    assert "--shard $SLURM_ARRAY_TASK_ID/16" in refused


def test_the_plan_names_the_prefix_of_parameters_in_a_checkpoint(folder, tmp_path):
    state = load_backbone("spp_s16", fold=False).network.state_dict()
    torch.save({"state_dict": {f"model.{name}": value for name, value in state.items()}}, tmp_path / "w.ckpt")
    command = [
        "extract",
        folder,
        "-o",
        tmp_path / "f.h5",
        *TINY,
        "--dry-run",
        "--weights",
        tmp_path / "w.ckpt",
    ]
    note = "note:        using the parameters under 'state_dict.model.' of the weights file"
    assert note in run(*command, code=0).stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--levels", "1,x"], "levels"),
        (["--size", "big"], "'big' is neither"),
        (["--round-to", "0"], "1<=x<=1024"),
        (["--round-to", "1.5"], "'1.5' is not a valid integer"),
        (["--decode", "quick"], "'exact', 'fast'"),
        (["--layer", "features.99"], "no layer 'features.99'"),
        (["--backbone", "resnet5"], "resnet50"),
        (["--backbone", "vit_b_16"], "vit_b_16"),
        (["--device", "gpu"], "cuda:N"),
        (["--device", "cuda:7"], "CUDA"),
        (["--precision", "tf32"], "CUDA"),
        (["--mean", "1,2"], "three numbers"),
        (["--batch-size", "0"], "batch-size is 0"),
        (["--overwrite", "--add-new"], "starts over"),
        (["--weights", "IMAGENET1K_V9"], "DISTILLED_V1"),
        (["--weights", "missing.pth"], "no weights file 'missing.pth'"),
    ],
)
def test_wrong_usage_is_one_clear_line_and_writes_nothing(folder, tmp_path, args, message):
    result = run("extract", folder, "-o", tmp_path / "f.h5", *TINY, *args)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert os.listdir(tmp_path) == ["pictures"]


def test_a_defect_of_the_program_keeps_its_traceback(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sppfeat.extraction.run.make_plan", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("extract", folder, "-o", tmp_path / "f.h5", *TINY)


def test_info_as_text_and_json(features):
    text = run("info", features, code=0)
    assert "12 rows x 2560 float32" in text.stdout
    assert "12 done, 0 failed, 0 pending" in text.stdout
    assert "level 2, 512 channels" in text.stdout
    found = json.loads(run("info", features, "--json").stdout)
    assert found["rows"] == 12
    assert found["classes"] == {"cat": 6, "dog": 6}
    assert found["config"]["levels"] == [1, 2]
    assert found["complete"] is True


def test_verify_reports_bad_rows(features):
    import h5py

    with h5py.File(features, "r+") as file:
        rows = file["features"]
        rows[1, 5] = np.nan
        rows[2, 7] = np.inf
        rows[3] = 0
        rows[5] = rows[4]
    found = json.loads(run("verify", features, "--json", code=1).stdout)
    assert [found[f"{kind}_rows"] for kind in ("nan", "infinite", "zero", "duplicate")] == [1, 1, 1, 1]
    text = run("verify", features)
    assert "problem: 1 row of a done image holds NaN: 1" in text.stdout
    assert "warning: 1 row equals an earlier row: 5" in text.stdout


def test_verify_recompute_with_moved_images_and_missing_ones(features, folder, tmp_path):
    folder.rename(tmp_path / "moved")
    run("verify", features, "--recompute", 3, code=1)
    run("verify", features, "--recompute", 3, "--root", tmp_path / "moved", code=0)


def test_backbones_lists_all_models_without_building_one(monkeypatch):
    monkeypatch.setattr("sppfeat.networks.zoo.build_model", None)
    header, *lines = run("backbones", code=0).stdout.splitlines()
    assert header.split() == ["backbone", "MB", "ImageNet", "top-1", "%", "weights"]
    assert [line.split()[0] for line in lines] == model_names()
    assert "resnet50 97.8 80.9 IMAGENET1K_V2, IMAGENET1K_V1" in {" ".join(line.split()) for line in lines}


@pytest.mark.slow
def test_backbones_lists_models_with_dimensions_for_the_levels():
    result = run("backbones", "resnet[15]*", "--levels", "1,2", "--json", code=0)
    found = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert set(found) == {"resnet18", "resnet50", "resnet101", "resnet152"}
    resnet = found["resnet50"]
    assert (resnet["channels"], resnet["stride"], resnet["dimension"]) == (2048, 32, 2048 * 5)
    assert resnet["layer"] == "layer4"
    assert "IMAGENET1K_V2" in resnet["weights"]
    assert 90 < resnet["download_mb"] < 110
    assert "spp_s16 " in run("backbones", "spp_s1?").stdout


@pytest.mark.slow
def test_backbones_of_one_model_lists_its_layers():
    found = json.loads(run("backbones", "resnet18", "--json").stdout)
    layers = {layer["layer"]: layer for layer in found["layers"]}
    assert (layers["layer4.1.relu_1"]["channels"], layers["layer4.1.relu_1"]["stride"]) == (512, 32)
    assert layers["maxpool"]["stride"] == 4
    assert found["default_layer"] == "layer4"
    assert "layer4.1.relu_1" in run("backbones", "resnet18").stdout


@pytest.mark.slow
def test_extract_works_as_a_process_and_python_m(folder, tmp_path):
    command = [sys.executable, "-m", "sppfeat", "extract", folder, "-o", tmp_path / "f.h5", *TINY]
    result = subprocess.run(command, capture_output=True, check=True)
    assert result.stdout == b""
    again = run("extract", folder, "-o", tmp_path / "f.h5", *TINY, code=0)
    assert "12 done, 0 to do" in again.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("extract", "photos", "-o", "d.csv"),
        ("extract", "photos", "-o", "-"),
        ("extract", "photos", "-o", "d-{shard}.npz", "--shard", "1/2"),
        ("extract", "photos", "-o", "d.pt", "--dry-run"),
        ("merge", "d.parquet", "a.h5"),
        ("reduce", "a.h5", "-o", "d.mat"),
        ("train", "photos", "-o", "run.pth"),
        ("train", "photos", "-o", "-"),
        ("report", "a.h5", "-o", "d.pdf"),
        ("show", "sizes", "a.h5", "-o", "d.h5"),
        ("export", "a.h5", "-o", "d.h5"),
        ("probe", "a.h5", "--save", "d.pkl"),
        ("probe", "a.h5", "--save", "-"),
        ("predict", "m.npz", "a.h5", "-o", "d.pt"),
        ("predict", "m.npz", "a.h5", "-o", "d.csv.gz"),
        ("extract", "photos", "-o", "folder/"),
        ("reduce", "a.h5", "-o", "s3://bucket/folder/"),
        ("merge", "folder/", "a.h5"),
        ("predict", "m.npz", "a.h5", "-o", "folder/"),
        ("probe", "a.h5", "--save", "folder/"),
    ],
)
def test_misleading_outputs_are_refused_before_any_work(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "a.h5"):
        (tmp_path / name).mkdir()  # nothing reads them
    result = run(*command, code=2)
    assert "Error: " in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "photos"]
