"""Runs that receive signals, and runs that lose their terminal."""

import json
import os
import signal
import threading
import time

import pytest
from command_line import run
from conftest import write_image
from extraction_runs import assert_same_file
from feature_files import descriptors, fill, new_file
from killing import TINY

import sppfeat
from sppfeat.cli.bars import Bar
from sppfeat.cli.groups import stop_on_signals
from sppfeat.files.outputs import is_being_written
from sppfeat.store.reader import FeatureFile

pytestmark = pytest.mark.slow

N_IMAGES = 60
SLOW = (*TINY, "--size", "200")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "many"
    for i in range(N_IMAGES):
        write_image(folder / f"{i}.png", 40 + i, 64, seed=i)
    return folder


@pytest.fixture(scope="module")
def whole(runs, many, tmp_path_factory):
    """The file of an undisturbed run."""
    output = tmp_path_factory.mktemp("whole") / "whole.h5"
    assert runs.run("extract", many, "-o", output, *SLOW)[0] == 0, runs.log()
    return output


def wait_for(is_so, run) -> None:
    while not is_so() and run.is_running():
        time.sleep(0.002)


def n_done(output) -> int:
    with sppfeat.open(output) as file:
        return int((file.status == 1).sum())


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_run_after_its_batch_and_the_run_can_be_continued(
    runs, many, whole, tmp_path, number
):
    command = ("extract", many, "-o", tmp_path / "f.h5", *SLOW)
    run = runs.start(*command, sync_seconds=0, pause=0.03)
    wait_for(lambda: (tmp_path / "f.h5").exists() and n_done(tmp_path / "f.h5"), run)
    run.send(number)
    status, _ = runs.wait()
    assert status == 130, runs.log()
    assert "Finishing the current batch (Ctrl-C again to stop at once)" in runs.log()
    assert " left -> " in runs.log()
    done = n_done(tmp_path / "f.h5")
    assert 0 < done < N_IMAGES
    status, _ = runs.run(*command)
    assert status == 0, runs.log()
    assert f"{done} done, {N_IMAGES - done} to do" in runs.log()
    assert_same_file(tmp_path / "f.h5", whole)


def test_a_second_signal_stops_at_once_and_loses_nothing(runs, tmp_path):
    """The second signal arrives in the second of two long batches, while the first waits for its end."""
    for i in range(40):
        write_image(tmp_path / "many" / f"{i}.png", 80 if i < 20 else 64, 64, seed=i)
    output = tmp_path / "f.h5"
    command = ("extract", tmp_path / "many", "-o", output, *TINY, "--size", 300, "--batch-size", 20)
    run = runs.start(*command, sync_seconds=1000)
    wait_for(lambda: output.exists() and n_rows_with_values(output) == 20, run)
    run.send(signal.SIGTERM)
    wait_for(lambda: "Finishing the current batch (Ctrl-C again to stop at once)" in runs.log(), run)
    run.send(signal.SIGINT)
    status, _ = runs.wait()
    assert status == 130, runs.log()
    assert n_done(output) == 20  # synced by the stop
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5", "many"]


def n_rows_with_values(output) -> int:
    with sppfeat.open(output) as file:
        return int(file.features.any(axis=1).sum())


def test_a_signal_before_the_first_batch_stops_at_once(runs, many, tmp_path):
    run = runs.start("extract", many, "-o", tmp_path / "f.h5", *SLOW)
    wait_for(lambda: is_being_written(tmp_path / "f.h5"), run)  # locked first of all
    run.send(signal.SIGTERM)
    status, _ = runs.wait()
    assert status == 130, runs.log()
    assert "Interrupted. Run the same command again to continue." in runs.log()
    assert "Traceback" not in runs.log()
    assert {path.name for path in tmp_path.iterdir()} <= {"f.h5"}


def test_ignored_signals_stay_ignored(runs, many, tmp_path):
    """As under nohup, and in the background of a script."""
    output = tmp_path / "f.h5"
    run = runs.start("extract", many, "-o", output, *TINY, ignored=(signal.SIGHUP, signal.SIGINT))
    wait_for(output.exists, run)
    run.send(signal.SIGHUP)
    run.send(signal.SIGINT)
    assert runs.wait()[0] == 0, runs.log()
    assert n_done(output) == N_IMAGES


def test_a_run_survives_the_loss_of_its_terminal(runs, many, tmp_path):
    """Writing to /dev/full fails, as it does to a terminal that was closed."""
    assert runs.run("extract", many, "-o", tmp_path / "f.h5", *TINY, log="/dev/full")[0] == 0
    assert n_done(tmp_path / "f.h5") == N_IMAGES


def test_info_works_at_any_time_during_a_run(runs, many, tmp_path):
    output = tmp_path / "f.h5"
    seen = []
    process = runs.start("extract", many, "-o", output, *TINY, sync_seconds=0, pause=0.01)
    wait_for(output.exists, process)
    while process.is_running():
        images = json.loads(run("info", output, "--json", code=0).stdout)["images"]
        assert images["done"] + images["pending"] == images["total"] == N_IMAGES
        seen.append(images["done"])
    assert runs.wait()[0] == 0, runs.log()
    assert seen == sorted(seen)
    assert len(set(seen)) > 3


class Dropping:
    """Raises a signal when it is deleted, where Python drops exceptions."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_a_dropped_interrupt_is_raised_by_the_next_move_of_a_bar(capsys):
    with stop_on_signals() as stop, Bar("reading", 9, unit="row", shown=False) as bar:
        bar.move_to(1)
        Dropping()
        assert stop.is_wanted()
        with pytest.raises(KeyboardInterrupt):
            bar.move_to(2)
        stop.begin_batches()
        bar.move_to(3)  # from here on, the loop over batches checks for a stop
    bar.move_to(4)
    assert capsys.readouterr().err == ""


def test_a_dropped_interrupt_ends_any_command(monkeypatch, tmp_path):
    select = FeatureFile.select

    def selecting(*arguments, **options):
        Dropping()
        return select(*arguments, **options)

    monkeypatch.setattr(FeatureFile, "select", selecting)
    path = str(fill(new_file(tmp_path / "f.h5"), descriptors(5)))
    names = os.listdir(tmp_path)
    for command in (
        ["export", path, "-o", f"{tmp_path}/f.npz"],
        ["reduce", path, "-o", f"{tmp_path}/r.h5", "--components", "2"],
        ["search", path, "row:0"],
    ):
        result = run(*command, "-q")
        assert (result.exit_code, result.output) == (130, "Interrupted.\n"), command
        assert os.listdir(tmp_path) == names


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_any_command_with_130(monkeypatch, tmp_path, number):
    before = signal.getsignal(number)

    def stopped(self, path):
        os.kill(os.getpid(), number)

    monkeypatch.setattr(FeatureFile, "__init__", stopped)
    for command in (
        ["info"],
        ["verify", "-q"],
        ["probe", "-q"],
        ["search", "-q"],
        ["show", "norms", "-o", tmp_path / "n.png"],
    ):
        arguments = [
            *map(str, command),
            str(tmp_path / "f.h5"),
            *(["row:0"] if command[0] == "search" else []),
        ]
        result = run(*arguments)
        assert (result.exit_code, result.stderr) == (130, "Interrupted.\n"), command
    assert signal.getsignal(number) is before


def test_a_command_in_another_thread_works(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run("info", tmp_path / "f.h5")))
    thread.start()
    thread.join()
    assert results[0].exit_code == 1
    assert "no such file" in results[0].stderr
