"""Extraction by actors on a real Ray cluster of several nodes, of which some die."""

import contextlib
import dataclasses
import functools
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import write_image
from extraction_runs import assert_same_contents, contents, extract, request
from feature_files import plan_of
from packages import need_packages
from places import README, REPOSITORY, SUPPORT

import sppfeat
from sppfeat.cli import main
from sppfeat.config.distribution import RayOptions, RunOptions
from sppfeat.config.request import BackboneChoice, DescriptorChoice
from sppfeat.config.specs import DescriptorSpec, InputSpec
from sppfeat.errors import ConfigError, EngineError, StoreError
from sppfeat.extraction.parts import plan_inputs
from sppfeat.extraction.ray import actor as actor_module
from sppfeat.extraction.ray import cluster, part_files, prepare_ray
from sppfeat.extraction.ray.actor import Job, PartFiller, SharedFiles
from sppfeat.extraction.ray.cluster import choose_actors
from sppfeat.extraction.ray.part_files import parts_folder
from sppfeat.extraction.resources import open_resources
from sppfeat.files.locks import OutputLock
from sppfeat.inputs import list_images
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status

need_packages("ray")

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TINY = ("--backbone", "squeezenet1_1", "--weights", "none", "--seed", "3", "--size", "48", "--levels", "1,2")
N_IMAGES = 240


class Nodes:
    """A Ray cluster on this machine: a head and a second node, with a core each.

    Args:
        pace: a file; while it is there, each write of an actor takes as many seconds as it says.
    """

    def __init__(self, pace: Path) -> None:
        from ray.cluster_utils import Cluster

        self.pace = pace
        # Each process that it does without is a second of starting.
        head = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = self._cluster.address
        self._second = self._cluster.add_node(num_cpus=1)

    def kill_second(self) -> None:
        """Kill all processes of the second node."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def actors_of_second(self) -> list[int]:
        """Process numbers of the actors of the second node."""
        raylet = self._second.all_processes["raylet"][0].process.pid
        return [pid for pid, parent, name in _processes() if parent == raylet and "MapWorker" in name]

    def close(self) -> None:
        self._cluster.shutdown()


def _processes():
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
                yield (
                    int(folder.name),
                    parent,
                    folder.joinpath("cmdline").read_bytes().decode(errors="replace"),
                )


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    pace = tmp_path_factory.mktemp("pace") / "seconds"
    paths = [str(REPOSITORY), str(SUPPORT / "ray_nodes"), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        environment.setenv("SPPFEAT_TESTS_PACE", str(pace))
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_worker_niceness", "0")
        # Else Ray kills actors where other processes of the machine leave little memory.
        environment.setenv("RAY_memory_monitor_refresh_ms", "0")
        # How often a node is asked; one that does not answer five times is dead.
        environment.setenv("RAY_health_check_period_ms", "500")
        environment.delenv("RAY_ADDRESS", raising=False)
        cluster = Nodes(pace)
        yield cluster
        cluster.close()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(part_files, "_IMAGES_PER_PART", 30)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Small pictures, three of which are none."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(N_IMAGES):
        write_image(folder / ("cat" if i % 2 else "dog") / f"{i:03d}.png", 40 + i % 3, 50, seed=i)
    for name in ("cat/001.png", "dog/100.png", "cat/239.png"):
        (folder / name).write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def local(pictures, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("local") / "local.h5"
    extract([pictures], output)
    return output


def by_ray(nodes, pictures, output, *, options=None, **changes):
    run = RunOptions(device="cpu", workers=0, batch_size=4)
    ray_options = RayOptions(address=nodes.address, **(options or {}))
    return request([pictures], output, **{"run": run, "ray": ray_options, **changes})


def ray_command(nodes, pictures, output, *arguments):
    """Run ``sppfeat extract`` with one actor; return its exit code and what it said as JSON."""
    options = (
        "--engine",
        "ray",
        "--ray-address",
        nodes.address,
        "--actors",
        1,
        "--batch-size",
        4,
        "--device",
        "cpu",
    )
    command = ["extract", pictures, "-o", output, *TINY, *options, "--workers", 0, "--json", "-q", *arguments]
    result = CliRunner().invoke(main, list(map(str, command)))
    assert not isinstance(result.exception, Exception), result.stderr
    return result.exit_code, json.loads(result.stdout) if result.stdout else result.stderr


def assert_equal_to_local(output, local):
    found = contents(output)
    assert_same_contents({k: v for k, v in found.items() if not k.startswith("sources")}, contents(local))


def test_actors_and_nodes_may_die(nodes, pictures, local, tmp_path):
    """An actor is killed, and once there is another in its place, the node that it is on."""
    nodes.pace.write_text("1")  # the other actor would take minutes alone
    killed = []

    def disturb(progress):
        if len(killed) == 2:
            return
        found = nodes.actors_of_second()
        if found and not killed:
            killed.append(found[0])
            os.kill(killed[0], signal.SIGKILL)
        elif found and found != killed:
            killed.append("node")
            nodes.kill_second()
            nodes.pace.unlink()

    output = tmp_path / "features.h5"
    with prepare_ray(by_ray(nodes, pictures, output)) as extraction:
        assert extraction.summary().device == "2 actors on Ray, 1 CPU each, 8 parts"
        progress = extraction.run(on_progress=disturb)
        outcome = extraction.outcome()
    assert len(killed) == 2
    assert (progress.n_done, progress.n_failed) == (N_IMAGES - 3, 3)
    assert (outcome.done, outcome.failed, outcome.pending) == (N_IMAGES - 3, 3, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.h5", "features.h5.parts"]
    names = sorted(path.name for path in parts_folder(output).iterdir())
    assert names == [f"0000{i}-of-00008.h5" for i in range(1, 9)]
    assert_equal_to_local(output, local)


class OneActor:
    """What the engine asks of Ray, where its only actor is in this process."""

    def __init__(self) -> None:
        self.data = self

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 1.0}}]

    def put(self, job):
        return pickle.dumps(job)

    def ActorPoolStrategy(self, **size):  # noqa: N802 - Ray's own name
        return None

    def from_items(self, rows, *, override_num_blocks):
        return SimpleNamespace(map=functools.partial(self._map, rows))

    def _map(self, rows, actor, *, fn_constructor_args, **resources):
        return SimpleNamespace(iter_rows=lambda: self._reports(rows, pickle.loads(*fn_constructor_args)))

    def _reports(self, rows, job):
        with actor(job) as filler:
            for row in rows:
                yield {"report": pickle.dumps(filler.fill(row["part"]))}


def test_the_same_command_continues(nodes, pictures, tmp_path, monkeypatch):
    """What is done stays, the factors of the mean norm too; failed images are tried again; then nothing is left."""
    mine, output = tmp_path / "pictures", tmp_path / "features.h5"
    shutil.copytree(pictures, mine)
    descriptor = DescriptorChoice(levels=(1, 2), normalize="meannorm:20")
    extract([mine], tmp_path / "local.h5", descriptor=descriptor)
    nodes.pace.write_text("0.2")
    seen = []
    with prepare_ray(by_ray(nodes, mine, output, descriptor=descriptor)) as extraction:
        extraction.run(on_progress=seen.append, should_stop=lambda: bool(seen))
        outcome = extraction.outcome()
    nodes.pace.unlink()
    assert 0 < outcome.done < 30  # of the first part, which one actor has for itself
    assert outcome.pending == N_IMAGES - outcome.done - outcome.failed
    assert not output.exists()

    # A descriptor that is there is not made again.
    monkeypatch.setattr(cluster, "connect", lambda *arguments, **options: contextlib.nullcontext(OneActor()))
    first = outcome.outputs[0]
    with FeatureFile(first) as file:
        done = int(np.flatnonzero(file.status == Status.DONE)[0])
    with h5py.File(first, "r+") as file:
        kept = file["features"][done]
        file["features"][done] = 7
    options = ("--normalize", "meannorm:20")
    code, found = ray_command(nodes, mine, output, *options)
    assert code == 3
    assert found["plan"]["already_done"] == outcome.done
    assert found["result"]["done_now"] == N_IMAGES - 3 - outcome.done
    with FeatureFile(output) as file:
        assert (file.features[done] == 7).all()
    with h5py.File(first, "r+") as file:
        file["features"][done] = kept

    write_image(mine / "cat/001.png", 40, 50, seed=1)
    extract([mine], tmp_path / "local.h5", descriptor=descriptor, retry_failed=True)
    code, found = ray_command(nodes, mine, output, *options, "--retry-failed", "--merge", "copy")
    assert code == 3
    assert (found["result"]["done_now"], found["result"]["failed_now"], found["result"]["failed"]) == (
        1,
        2,
        2,
    )
    assert not parts_folder(output).exists()
    assert_equal_to_local(output, tmp_path / "local.h5")

    with mock.patch(
        "sppfeat.extraction.ray.cluster.connect", side_effect=AssertionError("nothing is to be done")
    ):
        code, found = ray_command(nodes, mine, output, *options)
        assert (code, found["plan"]["to_do"]) == (3, 0)
        code, said = ray_command(nodes, mine, output, *options, "--retry-failed")
        assert code == 1
        assert "2 images to do, and --engine ray did not begin it: --engine local continues it" in said


def test_the_example_of_the_readme(nodes, photos, tmp_path, monkeypatch):
    """Its commands, on the nodes that are there; whether Ray has the others, and their options, is asked of Ray."""
    from ray.scripts.scripts import cli as ray_cli

    section = README.read_text().partition("### On a Ray cluster")[2]
    lines = re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1].splitlines()
    address = re.search(r"--address=(\S+)", section)[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/images").symlink_to(photos)
    for line in lines:
        program, name, *arguments = shlex.split(line)
        if program == "export":
            continue
        if program == "ray":
            ray_cli.commands[name].make_context(name, arguments)
            continue
        arguments = [nodes.address if argument == address else argument for argument in arguments]
        result = CliRunner().invoke(main, [name, *arguments], env={"SPPFEAT_DEVICE": "cpu"})
        assert result.exit_code == 0, result.output
    usual = {"backbone": BackboneChoice(), "input": InputSpec(), "descriptor": DescriptorChoice()}
    extract([tmp_path / "tests/images"], tmp_path / "local.h5", **usual)
    assert_equal_to_local(tmp_path / "features.h5", tmp_path / "local.h5")


def job_of(pictures, output, **changes) -> Job:
    """What an actor is told of a run over pictures into two parts."""
    asked = request([pictures], output, run=RunOptions(device="cpu", workers=0))
    with open_resources(asked, list_images(asked.inputs), lambda done, total: None) as resources:
        plan = plan_inputs(resources.part_request)
    folder = parts_folder(output)
    folder.mkdir(exist_ok=True)
    running = folder / "running"
    running.touch()
    settings = {
        "version": sppfeat.__version__,
        "request": request([pictures], folder / "{shard}.h5", run=asked.run),
        "config": resources.setup.config,
        "listing": resources.part_request.listing,
        "plan": plan,
        "bounds": np.array([0, 5, plan.n_images]),
        "norm_factors": None,
        "n_cpus": 1,
        "shared_files": SharedFiles(running, (os.fsencode(next(pictures.rglob("*.png"))),)),
    }
    return pickle.loads(pickle.dumps(Job(**{**settings, **changes})))


@contextlib.contextmanager
def actor(job: Job):
    """An actor in this process."""
    n_threads = torch.get_num_threads()
    filler = PartFiller(job, has_gpu=False)
    yield filler
    filler.close()
    torch.set_num_threads(n_threads)


def test_an_actor_fills_parts(folder, tmp_path):
    output = tmp_path / "features.h5"
    job = job_of(folder, output)
    with actor(job) as filler:
        assert [filler.fill(part).progress.n_done for part in (2, 1, 1)] == [7, 5, 0]
        job.shared_files.running.unlink()
        next(parts_folder(output).glob("00001*")).unlink()
        assert filler.fill(1).progress.n_done == 0  # the run has been stopped
    assert sorted(path.name for path in parts_folder(output).iterdir()) == ["00002-of-00002.h5"]


def test_an_actor_waits_for_the_lock_of_one_that_has_died(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(actor_module, "_RETRY_SECONDS", 0.05)
    job = job_of(folder, tmp_path / "features.h5")
    path = parts_folder(tmp_path / "features.h5") / "00001-of-00002.h5"
    with actor(job) as filler:
        lock = OutputLock(path)
        threading.Timer(0.3, lock.__exit__, (None, None, None)).start()
        assert filler.fill(1).progress.n_done == 5
        monkeypatch.setattr(actor_module, "_LOCK_SECONDS", 0.1)
        with OutputLock(path):
            assert "another process is writing" in str(filler.fill(1).error)


def test_an_actor_gives_up_a_part_that_kills_every_actor(folder, tmp_path):
    job = job_of(folder, tmp_path / "features.h5")
    attempts = parts_folder(tmp_path / "features.h5") / "00001-of-00002.h5.attempts"
    attempts.write_bytes(b"." * 16)
    with actor(job) as filler:
        report = filler.fill(1)
        assert isinstance(report.error, EngineError)
        assert "16 actors have died while they filled" in str(report.error)
        assert filler.fill(2).progress.n_done == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "0.0.1"}, "and the run was planned with 0.0.1"),
        ({"shared_files": SharedFiles(Path("/nowhere/running"), ())}, "does not see the folder '/nowhere'"),
        (
            {"shared_files": SharedFiles(Path("/running"), (b"/nowhere/a.jpg",))},
            "does not see the inputs, such as",
        ),
    ],
)
def test_nodes_that_cannot_take_part(folder, tmp_path, changes, message):
    with actor(job_of(folder, tmp_path / "features.h5", **changes)) as filler:
        report = filler.fill(1)
    assert isinstance(report.error, EngineError)
    assert "node " in str(report.error)
    assert message in str(report.error)


def test_a_node_with_other_settings_cannot_take_part(folder, tmp_path):
    job = job_of(folder, tmp_path / "features.h5")
    other = dataclasses.replace(job.config, descriptor=DescriptorSpec(levels=(1,)))
    with actor(dataclasses.replace(job, config=other)) as filler:
        assert "has other settings than where the run was planned: levels: the plan has [1]" in str(
            filler.fill(1).error
        )


NODE = {"CPU": 8.0}
GPUS = {"CPU": 16.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("options", "device", "nodes", "expected"),
    [
        ({}, "auto", [{"CPU": 2.0}, {"CPU": 64.0}], (33, 2, 0)),
        ({}, "auto", [{"CPU": 0.0}, {"CPU": 64.0}, {"CPU": 16.0}], (10, 8, 0)),
        ({"actors": 3}, "auto", [NODE], (3, 2, 0)),
        ({"actors": 30}, "auto", [NODE], (30, 1, 0)),
        ({"cpus_per_actor": 4}, "auto", [NODE, NODE], (4, 4, 0)),
        ({}, "auto", [GPUS, {"CPU": 4.0, "GPU": 2.0}, NODE], (6, 2, 1)),
        ({}, "cpu", [GPUS], (2, 8, 0)),
        ({"gpus_per_actor": 0.5}, "cuda", [GPUS], (8, 2, 0.5)),
        ({"gpus_per_actor": 0.4}, "auto", [GPUS], (8, 2, 0.4)),
        ({"gpus_per_actor": 0.0}, "auto", [GPUS], (2, 8, 0)),
        ({"actors": 2}, "cuda", [NODE], (2, 1, 1)),
        ({"actors": 5}, "auto", [], (5, 1, 0)),
    ],
)
def test_how_many_actors(options, device, nodes, expected):
    actors = choose_actors(RayOptions(**options), device, nodes, n_parts=99)
    assert actors[:3] == expected
    assert choose_actors(RayOptions(**options), device, nodes, n_parts=1).n == 1


@pytest.mark.parametrize(
    ("options", "device", "nodes", "message"),
    [
        ({}, "cuda", [NODE], "no node of the Ray cluster has a GPU"),
        ({}, "auto", [{"CPU": 0.0}], "no node of the Ray cluster has 8 CPU"),
        ({"cpus_per_actor": 9}, "auto", [NODE], "no node of the Ray cluster has 9 CPU"),
        ({"gpus_per_actor": 1.0}, "auto", [NODE], "no node of the Ray cluster has 1 GPU and 1 CPU"),
        ({"gpus_per_actor": 0.5}, "cpu", [GPUS], "device is 'cpu', and gpus-per-actor 0.5"),
        ({"gpus_per_actor": 0.0}, "cuda", [GPUS], "device is 'cuda', and gpus-per-actor 0"),
    ],
)
def test_actors_that_cannot_be(options, device, nodes, message):
    with pytest.raises(ConfigError, match=message):
        choose_actors(RayOptions(**options), device, nodes, n_parts=9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--actors", "2", "--merge", "copy"], "--actors, --merge: of --engine ray, and the engine is local"),
        (["--engine", "ray", "--overwrite"], "--overwrite does not go with --engine ray: remove the output"),
        (["--engine", "ray", "--add-new"], "--add-new does not go with --engine ray"),
        (["--engine", "ray", "--shard", "1/2"], "--shard does not go with --engine ray"),
        (["--engine", "ray", "--shard-size", "1GB"], "--shard-size does not go with --engine ray"),
        (["--engine", "ray", "--device", "cuda:1"], "device is 'cuda:1'; allowed with --engine ray"),
        (["--engine", "ray", "--ray-address", "ray://head:10001"], "ray-address is 'ray://head:10001'"),
        (["--engine", "ray", "--gpus-per-actor", "2"], "--gpus-per-actor"),
        (["--engine", "ray", "--actors", "0"], "--actors"),
        (["--engine", "spark"], "--engine"),
    ],
)
def test_options_that_do_not_go_together(folder, tmp_path, arguments, message):
    result = CliRunner().invoke(main, ["extract", str(folder), "-o", str(tmp_path / "x.h5"), *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert list(tmp_path.iterdir()) == [folder]


def test_a_name_with_a_number_is_refused(folder, tmp_path):
    with (
        pytest.raises(ConfigError, match="goes with shards"),
        prepare_ray(request([folder], tmp_path / "x-{shard}.h5", ray=RayOptions())),
    ):
        pass


def test_a_plan_alone_starts_no_cluster(folder, tmp_path):
    asked = request([folder], tmp_path / "x.h5", ray=RayOptions(actors=3), dry_run=True)
    with (
        mock.patch("sppfeat.extraction.ray.cluster.connect", side_effect=AssertionError("a plan alone")),
        prepare_ray(asked) as extraction,
    ):
        summary = extraction.summary()
    assert (summary.device, summary.to_do) == ("Ray, 1 part", 12)
    assert list(tmp_path.iterdir()) == [folder]


def test_parts_of_other_inputs_or_settings_are_not_continued(folder, tmp_path):
    output = tmp_path / "features.h5"
    with actor(job_of(folder, output)) as filler:
        assert filler.fill(1).error is None
    (parts_folder(output) / "running").unlink()
    (parts_folder(output) / "00001-of-00002.h5").rename(parts_folder(output) / "00001-of-00001.h5")

    def refusal(**changes):
        with pytest.raises(StoreError, match="cannot be continued") as error, prepare_ray(asked(**changes)):
            pass
        return str(error.value)

    def asked(**changes):
        return request([folder], output, **{"ray": RayOptions(), **changes})

    assert "it has shard 1/2, images 0 to 5 of 12, and is to have images 0 to 12" in refusal()
    assert "levels: the file has [1, 2]" in refusal(descriptor=DescriptorChoice(levels=(1,)))
    write_image(folder / "cat" / "another.png", 40, 50, seed=1)
    assert "its images are not of these inputs" in refusal()


def test_a_cluster_that_is_not_there(folder, tmp_path):
    asked = request([folder], tmp_path / "x.h5", ray=RayOptions(address="127.0.0.1:9"))
    with (
        pytest.raises(EngineError, match="no Ray cluster could be reached at '127\\.0\\.0\\.1:9'"),
        prepare_ray(asked),
    ):
        pass
    assert list(tmp_path.iterdir()) == [folder]


def test_parts_are_cut_by_the_plan_alone():
    plan = plan_of([f"{i}.jpg" for i in range(100)])
    assert np.diff(part_files.cut_into_parts(plan)).tolist() == [25] * 4
    with mock.patch.object(part_files, "_MOST_PARTS", 3):
        assert part_files.cut_into_parts(plan).tolist() == [0, 33, 66, 100]
