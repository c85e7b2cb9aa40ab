import functools
import itertools
import json
import os
import re
import signal
import time

import command_line
import numpy as np
import pytest
import torch
from conftest import write_image
from PIL import Image
from training_runs import tiny_network, write_classes  # noqa: F401

import sppfeat
from sppfeat.cli.groups import Stop
from sppfeat.training import run as session
from sppfeat.training.checkpoints import TrainFolder

TINY = ("--seed", "5", "--device", "cpu", "--workers", "0", "--sizes", "32", "--levels", "1,2")
TINY += ("--hidden", "none", "--batch-size", "4", "--backbone", "spp_s16", "--weights", "none")


@pytest.fixture
def classes(tmp_path):
    return write_classes(tmp_path / "classes", n=4)


run = functools.partial(command_line.run, "train")


def saved(folder):
    content = torch.load(folder / "model.pth", weights_only=True)
    return {**content["state_dict"], **content["head"]}


def same_weights(a, b) -> bool:
    first, second = saved(a), saved(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
def test_train_prints_its_plan_on_stderr_and_extract_takes_its_weights(classes, tmp_path):
    command = (classes, "-o", tmp_path / "run", *TINY, "--epochs", 2, "--val-fraction", 0.25)
    result = run(*command, code=0)
    assert result.stdout == ""
    for text in (
        "train:      6 images, 2 classes; 2 to validate on",
        "network:    spp_s16 (none), layer features, ",
        "steps:      2 in 2 epochs",
        "epoch 2: size 32, loss ",
        "validation at 32: loss ",
        f"Done: 2 epochs; weights in {tmp_path / 'run/model.pth'}",
    ):
        assert text in result.stderr
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoint.pth", "images.csv", "log.jsonl", "model.pth"]
    extract = ["extract", classes, "-o", tmp_path / "f.h5", "--backbone", "spp_s16", "--levels", "1,2"]
    extract += ["--weights", tmp_path / "run/model.pth", "--size", 32, "--device", "cpu", "--workers", 0]
    command_line.run(*extract, code=0)
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.features.shape == (8, 16 * 5)
        assert np.isfinite(file.features[:]).all()
    again = run(*command)
    assert (again.exit_code, "--resume continues it" in again.stderr) == (1, True)
    resumed = run(*command, "--resume", "-q")
    assert (resumed.exit_code, resumed.output) == (0, "")


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
@pytest.mark.parametrize("n_steps", [2, 3, 6])  # of two in an epoch
def test_each_epoch_is_printed_once_wherever_the_training_stops(classes, tmp_path, monkeypatch, n_steps):
    command = (classes, "-o", tmp_path / "run", *TINY, "--epochs", 3)
    with monkeypatch.context() as patched:
        steps = itertools.count(1)
        patched.setattr(Stop, "begin_batches", lambda self: setattr(self, "_n_steps", next(steps)))
        patched.setattr(Stop, "is_wanted", lambda self: self._n_steps >= n_steps)
        stopped = run(*command)
    resumed = run(*command, "--resume")
    assert (stopped.exit_code, resumed.exit_code) == (130, 0), stopped.output + resumed.output
    assert re.findall(r"epoch (\d): size", stopped.stderr + resumed.stderr) == ["1", "2", "3"]


@pytest.mark.usefixtures("tiny_network")
def test_json_is_the_only_thing_on_stdout_whatever_files_are_called(classes, tmp_path):
    odd = os.fsencode(classes / "blue") + b"/\xff\n.png"
    with open(odd, "wb") as file:
        file.write(b"no picture")
    (classes / "red").rename(os.fsdecode(os.fsencode(classes) + b"/red\xfe"))
    result = run(classes, "-o", tmp_path / "run", *TINY, "--epochs", 1, "--json", code=3)
    found = json.loads(result.stdout)
    assert (found["plan"]["images"], found["plan"]["left_out"]) == (8, 1)
    assert found["result"]["finished"]
    assert len(found["result"]["left_out"]) == 1
    assert "left out: " in result.stderr
    # Class names, too, come back.
    run(classes, "-o", tmp_path / "run", *TINY, "--epochs", 1, "--resume", code=3)


@pytest.mark.usefixtures("tiny_network")
def test_a_dry_run_prints_the_plan_as_the_result_and_writes_nothing(classes, tmp_path):
    command = (classes, "-o", tmp_path / "run", *TINY, "--dry-run")
    result = run(*command, code=0)
    assert "8 images, 2 classes" in result.stdout
    assert '"plan"' in run(*command, "--json", "-q").stdout
    taught = run(classes, "-o", tmp_path / "run", *TINY[:8], "--teacher", "squeezenet1_1=none", "--dry-run")
    assert "teachers:   squeezenet1_1=none" in taught.stdout
    assert os.listdir(tmp_path) == ["classes"]


@pytest.mark.usefixtures("tiny_network")
def test_options_in_the_environment(classes, tmp_path):
    """One that is set for all commands may have no effect here."""
    environment = {
        "SPPFEAT_TRAIN_EPOCHS": "3",
        "SPPFEAT_TRAIN_SIZES": "48,64",
        "SPPFEAT_TRAIN_VAL_SIZES": "32",
    }
    result = run(classes, "-o", tmp_path / "run", *TINY[:6], "--dry-run", "-v", env=environment, code=0)
    settings = json.loads(result.stdout.partition("settings:\n")[2])
    assert (settings["recipe"]["epochs"], settings["data"]["sizes"]) == (3, [48, 64])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "epochs is 0; allowed: 1 or more"),
        (["--hidden", "a"], "none, or numbers of units such as 512,512"),
        (["--teacher", "resnet18="], "teacher is 'resnet18='; allowed: "),
        (["--val-sizes", "64"], "--val-sizes needs --val or --val-fraction"),
        (["--round-to", "16"], "--round-to needs --views full"),
        (["--teacher", "alexnet", "--labels", "folder"], "--labels has no effect with --teacher"),
        (
            ["--teacher", "alexnet", "--pool", "avg"],
            "--pool has no effect with --teacher; add --distill descriptor",
        ),
        (["--layer", "nowhere", "--weights", "none"], "spp_s16 has no layer 'nowhere'"),
        (["--backbone", "squeezenet1_1", "--sizes", "8"], "sizes are 8; allowed: "),
    ],
)
@pytest.mark.usefixtures("tiny_network")
def test_wrong_usage_gives_exit_code_2_and_leaves_nothing(classes, tmp_path, options, message):
    backbone = () if "--backbone" in options else ("--backbone", "spp_s16")
    seed = () if "--seed" in options else ("--seed", "5")
    command = (classes, "-o", tmp_path / "run", *backbone, *seed, *TINY[2:6], "--weights", "none")
    result = run(*command, *options)
    assert (result.exit_code, message in result.stderr) == (2, True), result.output
    assert os.listdir(tmp_path) == ["classes"]


@pytest.mark.usefixtures("tiny_network")
def test_an_impossible_output_gives_exit_code_1_before_any_work(classes, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "load_chosen_backbone", None)
    (tmp_path / "file").touch()
    for output, message in (("file", "File exists"), ("a/b", "No such file"), ("held", "another process is")):
        with TrainFolder(tmp_path / "held").hold():
            result = run(classes, "-o", tmp_path / output, *TINY)
        assert (result.exit_code, message in result.stderr) == (1, True), result.output
    result = run(classes, "-o", tmp_path / "new", *TINY, "--resume")
    assert (result.exit_code, "no training to resume" in result.stderr) == (1, True)
    assert sorted(os.listdir(tmp_path)) == ["classes", "file"]


@pytest.mark.usefixtures("tiny_network")
def test_repeated_images_and_frozen_random_weights_are_noted(classes, tmp_path):
    result = run(classes, classes, "-o", tmp_path / "run", *TINY, "--val", classes, "--freeze", "--dry-run")
    assert "note:       8 images are named more than once; each gets one row" in result.stdout
    assert "note:       8 of 8 validation images are also among the training images" in result.stdout
    assert "--freeze with --weights none keeps the random weights of the backbone" in result.stdout


@pytest.mark.usefixtures("tiny_network")
def test_splits_among_the_training_images_are_noted(classes, tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        (tmp_path / "data" / split).symlink_to(classes)
    result = run(tmp_path / "data", "-o", tmp_path / "run", *TINY, "--dry-run")
    assert "note:       found splits train (8), val (8); classes are the folders below" in result.stdout
    assert "16 images, 2 classes" in result.stdout


def test_images_too_elongated_for_whole_views_are_named(classes, tmp_path):
    Image.new("RGB", (60_000, 1)).save(classes / "blue/long.png")
    command = (classes, "-o", tmp_path / "run", "--backbone", "squeezenet1_1", "--views", "full", *TINY[:12])
    result = run(*command, "--weights", "none", "--epochs", 1, "--json", code=3)
    (reason,) = json.loads(result.stdout)["result"]["left_out"]
    assert "blue/long.png': too elongated: 1 x 60000" in reason


@pytest.mark.usefixtures("tiny_network")
def test_an_interruption_mentions_resume_only_after_the_plan(classes, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    command = (classes, "-o", tmp_path / "run", *TINY)
    with monkeypatch.context() as patched:
        patched.setattr(session, "read_image_sets", interrupt)
        result = run(*command)
    assert (result.exit_code, "--resume" in result.stderr) == (130, False)
    assert os.listdir(tmp_path) == ["classes"]
    monkeypatch.setattr(session.Trainer, "run_epoch", interrupt)
    result = run(*command, code=130)
    assert "Interrupted: the same command with --resume continues from the last checkpoint" in result.stderr
    monkeypatch.undo()


@pytest.mark.slow
def test_a_training_killed_at_any_write_is_resumed_as_if_it_had_not_been(runs, classes, tmp_path):
    command = ["train", classes, *TINY, "-q"]
    command += ["--epochs=2", "--checkpoint-minutes=0", "--val-fraction=0.25"]
    status, n_calls = runs.run(*command, "-o", tmp_path / "whole")
    assert status == 0, runs.log()
    for moment in (n_calls // 3, n_calls - 8, n_calls - 2):
        output = tmp_path / f"run{moment}"
        assert runs.run(*command, "-o", output, die_at=moment) == (-signal.SIGKILL, -1)
        status, _ = runs.run(*command, "-o", output, "--resume")
        assert status == 0, runs.log()
        assert same_weights(output, tmp_path / "whole")
        assert sorted(os.listdir(output)) == sorted(os.listdir(tmp_path / "whole"))


@pytest.mark.slow
def test_a_signal_ends_it_with_a_checkpoint(runs, tmp_path):
    for i in range(8):
        write_image(tmp_path / "p" / f"{'ab'[i % 2]}/{i}.png", 40, 40, seed=i)
    command = ("train", tmp_path / "p", "-o", tmp_path / "run", *TINY, "--epochs", 8)
    started = runs.start(*command, pause=0.05)
    while not (tmp_path / "run/log.jsonl").exists() and started.is_running():
        time.sleep(0.002)
    started.send(signal.SIGTERM)
    status, _ = runs.wait()
    assert status == 130, runs.log()
    assert "Finishing the current batch" in runs.log()
    assert "the same command with --resume continues" in runs.log()
    status, _ = runs.run(*command, "--resume")
    assert status == 0, runs.log()
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 8
    assert "UserWarning" not in runs.log()
