"""Extraction by actors on a real Ray cluster whose nodes may die."""

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
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import h5py
import numpy as np
import pytest
import torch
from command_line import run
from conftest import write_image
from extraction_runs import assert_same_contents, contents, extract, request
from feature_files import plan_of
from packages import need_packages
from places import REPOSITORY, SUPPORT

from sppfeat.config.distribution import RayOptions, RunOptions
from sppfeat.config.request import BackboneChoice, DescriptorChoice
from sppfeat.config.specs import DescriptorSpec, InputSpec
from sppfeat.errors import ConfigError, EngineError, StoreError
from sppfeat.extraction import part as part_module
from sppfeat.extraction import ray_actors, ray_parts
from sppfeat.extraction.extract import open_parts
from sppfeat.extraction.ray_actors import Actors, Job, PartActor, choose_actors
from sppfeat.extraction.ray_parts import parts_folder
from sppfeat.extraction.run import open_run
from sppfeat.files.outputs import OutputLock
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status

need_packages("ray")

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TINY = ("--backbone", "squeezenet1_1", "--weights", "none", "--seed", "3", "--size", "48", "--levels", "1,2")
N_IMAGES = 240


class Nodes:
    """A Ray cluster on this machine: a head and a second node, with a core each.

    Args:
        pace: a file; while it exists, each write of an actor takes the number of seconds in it.
    """

    def __init__(self, pace: Path) -> None:
        from ray.cluster_utils import Cluster

        self.pace = pace
        # Each process that is left out saves a second at the start.
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
        return [pid for pid, parent, name in _processes() if parent == raylet and "PartActor" in name]

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
        # Otherwise Ray kills actors if other processes leave little memory.
        environment.setenv("RAY_memory_monitor_refresh_ms", "0")
        # A node that misses five checks is dead.
        environment.setenv("RAY_health_check_period_ms", "500")
        environment.delenv("RAY_ADDRESS", raising=False)
        cluster = Nodes(pace)
        yield cluster
        cluster.close()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(ray_parts, "_IMAGES_PER_PART", 30)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Small pictures, and three files that are not pictures."""
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
    ray_options = RayOptions(ray_address=nodes.address, **(options or {}))
    return request([pictures], output, **{"run": run, "ray": ray_options, **changes})


def ray_command(nodes, pictures, output, *arguments):
    """Run ``sppfeat extract`` with one actor; return its exit code and its JSON, or its messages."""
    options = f"--engine ray --ray-address {nodes.address} --actors 1 --batch-size 4 --device cpu".split()
    command = ["extract", pictures, "-o", output, *TINY, *options, "--workers", 0, "--json", "-q", *arguments]
    result = run(*command)
    assert not isinstance(result.exception, Exception), result.stderr
    return result.exit_code, json.loads(result.stdout) if result.stdout else result.stderr


def assert_equal_to_local(output, local):
    found = contents(output)
    assert_same_contents({k: v for k, v in found.items() if not k.startswith("sources")}, contents(local))


def test_actors_and_nodes_may_die(nodes, pictures, local, tmp_path):
    """An actor is killed; once another has replaced it, its node is killed."""
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
    with open_parts(by_ray(nodes, pictures, output)) as parts:
        assert parts.summary().device == "2 actors on Ray, 1 CPU each, 8 parts"
        progress = parts.fill(disturb, lambda: False)
        outcome = parts.outcome()
    assert len(killed) == 2
    assert (progress.n_done, progress.n_failed) == (N_IMAGES - 3, 3)
    assert (outcome.done, outcome.failed, outcome.pending) == (N_IMAGES - 3, 3, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.h5", "features.h5.parts"]
    names = sorted(path.name for path in parts_folder(output).iterdir())
    assert names == [f"0000{i}-of-00008.h5" for i in range(1, 9)]
    assert_equal_to_local(output, local)


class Call:
    """A finished call of an actor."""

    def __init__(self, answer) -> None:
        self.answer = answer


class OneActor:
    """The part of Ray that the engine uses, with one actor in this process; every call ends at once.

    Args:
        n_deaths: number of first calls that end with the death of the actor.
    """

    class exceptions:  # noqa: N801 - Ray's own name
        RayError = RuntimeError
        RayTaskError = ZeroDivisionError

    def __init__(self, n_deaths: int = 0) -> None:
        self.n_deaths = n_deaths
        self.n_started = 0
        self._stack = contextlib.ExitStack()

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 1.0}}]

    def put(self, job):
        return job

    def remote(self, kind):
        return SimpleNamespace(options=lambda **resources: SimpleNamespace(remote=self._start))

    def _start(self, job):
        self.n_started += 1
        self._stack.close()
        filler = self._stack.enter_context(actor(pickle.loads(pickle.dumps(job))))
        calls = {name: functools.partial(self._call, getattr(filler, name)) for name in ("is_ready", "fill")}
        return SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})

    def _call(self, method, *arguments):
        if arguments and self.n_deaths:
            self.n_deaths -= 1
            return Call(RuntimeError("The actor died: out of memory"))
        return Call(method(*arguments))

    def wait(self, tasks, *, num_returns, timeout):
        return tasks[:1], tasks[1:]

    def get(self, task):
        if isinstance(task.answer, RuntimeError):
            raise task.answer
        return task.answer


def test_the_same_command_continues(nodes, pictures, tmp_path, monkeypatch):
    """Finished rows and the factors of the mean norm stay; failed images are tried again; then nothing is left."""
    mine, output = tmp_path / "pictures", tmp_path / "features.h5"
    shutil.copytree(pictures, mine)
    descriptor = DescriptorChoice(levels=(1, 2), normalize="meannorm:20")
    extract([mine], tmp_path / "local.h5", descriptor=descriptor)
    nodes.pace.write_text("0.2")
    seen = []
    with open_parts(by_ray(nodes, mine, output, descriptor=descriptor)) as parts:
        parts.fill(seen.append, lambda: bool(seen))
        outcome = parts.outcome()
    nodes.pace.unlink()
    assert 0 < outcome.done < 60  # of the two parts that the actors took first
    assert outcome.pending == N_IMAGES - outcome.done - outcome.failed
    assert not output.exists()

    # Descriptors in the file are not computed again.
    monkeypatch.setattr(
        ray_parts, "connect", lambda *arguments, **options: contextlib.nullcontext(OneActor())
    )
    first = outcome.files[0]
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
    code, found = ray_command(nodes, mine, output, *options, "--retry-failed", "--copy")
    assert code == 3
    assert [found["result"][name] for name in ("done_now", "failed_now", "failed")] == [1, 2, 2]
    assert not parts_folder(output).exists()
    assert_equal_to_local(output, tmp_path / "local.h5")

    with mock.patch(
        "sppfeat.extraction.ray_parts.connect", side_effect=AssertionError("nothing is to be done")
    ):
        code, found = ray_command(nodes, mine, output, *options)
        assert (code, found["plan"]["to_do"]) == (3, 0)
        code, said = ray_command(nodes, mine, output, *options, "--retry-failed")
        assert code == 1
        assert "2 images left, but was not started with --engine ray; continue it with --engine local" in said


def test_the_example_of_the_page_on_clusters(nodes, photos, tmp_path, monkeypatch):
    """Runs its commands on the nodes of this test; Ray itself checks its own commands and options."""
    from ray.scripts.scripts import cli as ray_cli

    section = (REPOSITORY / "docs/clusters.md").read_text().partition("\n## A Ray cluster\n")[2]
    lines = re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1].splitlines()
    address = re.search(r"--address=(\S+)", section)[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photos)
    for line in lines:
        program, name, *arguments = shlex.split(line)
        if program == "export":
            continue
        if program == "ray":
            ray_cli.commands[name].make_context(name, arguments)
            continue
        arguments = [nodes.address if argument == address else argument for argument in arguments]
        run(name, *arguments, env={"SPPFEAT_DEVICE": "cpu"}, code=0)
    usual = {"backbone": BackboneChoice(), "input": InputSpec(), "descriptor": DescriptorChoice()}
    extract([tmp_path / "photos"], tmp_path / "local.h5", **usual)
    assert_equal_to_local(tmp_path / "features.h5", tmp_path / "local.h5")


def job_of(pictures, output, **changes) -> Job:
    """The job of an actor, for a run over pictures into two parts."""
    asked = request([pictures], output, run=RunOptions(device="cpu", workers=0))
    with open_run(asked) as run:
        plan = run.plan_inputs()
    folder = parts_folder(output)
    folder.mkdir(exist_ok=True)
    running = folder / "running"
    running.touch()
    settings = {
        "request": dataclasses.replace(asked, output=folder / "{shard}.h5"),
        "folder": os.getcwd(),
        "config": run.config,
        "listing": run.listing,
        "plan": plan,
        "bounds": np.array([0, 5, plan.n_images]),
        "norm_factors": None,
        "n_cpus": 1,
        "running": running,
    }
    return pickle.loads(pickle.dumps(Job(**{**settings, **changes})))


@contextlib.contextmanager
def actor(job: Job):
    """An actor in this process."""
    n_threads = torch.get_num_threads()
    filler = PartActor(job)
    yield filler
    filler.close()
    torch.set_num_threads(n_threads)


def test_an_actor_fills_parts(folder, tmp_path):
    output = tmp_path / "features.h5"
    job = job_of(folder, output)
    with actor(job) as filler:
        assert [filler.fill(part).n_done for part in (1, 0, 0)] == [7, 5, 0]
        job.running.unlink()
        next(parts_folder(output).glob("00001*")).unlink()
        assert filler.fill(0).n_done < 5  # the run has been stopped: after a batch


def test_a_job_loads_no_torch(folder, tmp_path):
    """Ray unpickles it before the actor has set up its environment."""
    (tmp_path / "job").write_bytes(pickle.dumps(job_of(folder, tmp_path / "features.h5")))
    program = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program, tmp_path / "job"], check=True)


def test_an_actor_waits_for_the_lock_of_a_dead_actor(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(part_module, "_RETRY_SECONDS", 0.05)
    job = job_of(folder, tmp_path / "features.h5")
    path = parts_folder(tmp_path / "features.h5") / "00001-of-00002.h5"
    with actor(job) as filler:
        lock = OutputLock(path)
        threading.Timer(0.3, lock.__exit__, (None, None, None)).start()
        assert filler.fill(0).n_done == 5
        monkeypatch.setattr(ray_actors, "_LOCK_SECONDS", 0.1)
        with OutputLock(path):
            assert "another process is writing" in str(filler.fill(0))


def test_parts_of_dead_actors_are_taken_again_a_limited_number_of_times(folder, tmp_path, monkeypatch):
    def run(n_deaths, output):
        ray = OneActor(n_deaths)
        monkeypatch.setattr(ray_parts, "connect", lambda *arguments, **options: contextlib.nullcontext(ray))
        run = RunOptions(device="cpu", workers=0)
        with open_parts(request([folder], output, run=run, ray=RayOptions())) as parts:
            progress = parts.fill(lambda progress: None, lambda: False)
        return ray, progress

    ray, progress = run(15, tmp_path / "features.h5")
    assert (ray.n_started, progress.n_done) == (16, 12)
    with pytest.raises(EngineError, match=r"16 actors died.* out of memory"):
        run(16, tmp_path / "others.h5")


@pytest.mark.parametrize("copy", [False, True])
def test_changed_images_are_noted_and_extracted_again_on_request(folder, tmp_path, monkeypatch, copy):
    monkeypatch.setattr(
        ray_parts, "connect", lambda *arguments, **options: contextlib.nullcontext(OneActor())
    )
    output = tmp_path / "features.h5"

    def run(**changes):
        options = {"run": RunOptions(device="cpu", workers=0), "ray": RayOptions(copy=copy), **changes}
        with open_parts(request([folder], output, **options)) as parts:
            n_to_do = parts.summary().to_do
            n_done = parts.fill(lambda progress: None, lambda: False).n_done
        return n_to_do, n_done, [note for note in parts.run.notes if "changed since" in note]

    assert run() == (12, 12, [])
    write_image(next(iter(sorted(folder.rglob("*.png")))), 71, 44, seed=99)
    n_to_do, n_done, (note,) = run()
    assert (n_to_do, n_done) == (0, 0)
    assert note.startswith("1 image changed since it was extracted")
    if copy:  # the parts were removed, and the output is an ordinary file
        with pytest.raises(StoreError, match=r"1 image left.* continue it with --engine local"):
            run(update_changed=True)
        return
    n_to_do, n_done, _ = run(update_changed=True)
    assert (n_to_do, n_done) == (1, 1)
    extract([folder], tmp_path / "local.h5")
    assert_equal_to_local(output, tmp_path / "local.h5")
    assert run() == (0, 0, [])


def test_the_part_of_an_actor_that_dies_after_a_stop_is_left(folder, tmp_path):
    ray = OneActor(n_deaths=1)
    pool = ray_parts._ActorPool(ray, job_of(folder, tmp_path / "features.h5"), Actors(1, 1, 0, 1), [0, 1])
    assert list(pool.wait()) == []  # the actor has started and takes the first part
    pool.stop()
    assert pool.is_busy
    assert list(pool.wait()) == []  # the actor has died while filling it
    assert not pool.is_busy
    assert ray.n_started == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "0.0.1"}, "but the run was planned with 0.0.1"),
        ({"running": Path("/nowhere/running")}, "does not see the folder '/nowhere'"),
        ({}, "does not see the inputs, such as"),
        ({"config": None}, "resolves the settings differently than the plan: levels: [1] in the plan"),
    ],
)
def test_unsuitable_nodes_are_refused(folder, tmp_path, changes, message):
    job = job_of(folder, tmp_path / "features.h5", **changes)
    if "config" in changes:
        other = job_of(folder, tmp_path / "features.h5").config
        job = dataclasses.replace(
            job, config=dataclasses.replace(other, descriptor=DescriptorSpec(levels=(1,)))
        )
    else:
        folder.rename(tmp_path / "elsewhere")
    with actor(job) as filler:
        error = filler.fill(0)
    assert isinstance(error, EngineError)
    assert "node " in str(error)
    assert message in str(error)


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
def test_number_and_size_of_actors(options, device, nodes, expected):
    actors = choose_actors(RayOptions(**options), device, nodes, n_parts=99)
    assert actors[:3] == expected
    assert choose_actors(RayOptions(**options), device, nodes, n_parts=1).n == 1


@pytest.mark.parametrize(
    ("options", "device", "nodes", "message"),
    [
        ({}, "cuda", [NODE], "no node of the Ray cluster has 1 GPU and 1 CPU"),
        ({}, "auto", [{"CPU": 0.0}], "no node of the Ray cluster has 8 CPU"),
        ({"cpus_per_actor": 9}, "auto", [NODE], "no node of the Ray cluster has 9 CPU"),
        ({"gpus_per_actor": 1.0}, "auto", [NODE], "no node of the Ray cluster has 1 GPU and 1 CPU"),
        ({"gpus_per_actor": 0.5}, "cpu", [GPUS], "device is 'cpu', but gpus-per-actor is 0.5"),
        ({"gpus_per_actor": 0.0}, "cuda", [GPUS], "device is 'cuda', but gpus-per-actor is 0"),
    ],
)
def test_impossible_actors_are_refused(options, device, nodes, message):
    with pytest.raises(ConfigError, match=message):
        choose_actors(RayOptions(**options), device, nodes, n_parts=9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--actors", "2", "--copy"], "--actors, --copy: add --engine ray (the engine is local)"),
        (
            ["--engine", "ray", "--overwrite"],
            "--overwrite does not work with --engine ray: remove the output",
        ),
        (["--engine", "ray", "--add-new"], "--add-new does not work with --engine ray"),
        (["--engine", "ray", "--update"], "--update does not work with --engine ray"),
        (["--engine", "ray", "--shard", "1/2"], "--shard does not work with --engine ray"),
        (["--engine", "ray", "--shard-size", "1GB"], "--shard-size does not work with --engine ray"),
        (["--engine", "ray", "--device", "cuda:1"], "device is 'cuda:1'; allowed with --engine ray"),
        (["--engine", "ray", "--ray-address", "ray://head:10001"], "ray-address is 'ray://head:10001'"),
        (["--engine", "ray", "--gpus-per-actor", "2"], "--gpus-per-actor"),
        (["--engine", "ray", "--actors", "0"], "--actors"),
        (["--engine", "spark"], "--engine"),
    ],
)
def test_contradicting_options_are_refused(folder, tmp_path, arguments, message):
    result = run("extract", folder, "-o", tmp_path / "x.h5", *arguments, code=2)
    assert message in result.output
    assert list(tmp_path.iterdir()) == [folder]


def test_a_dry_run_starts_no_cluster(folder, tmp_path):
    asked = request([folder], tmp_path / "x.h5", ray=RayOptions(actors=3), dry_run=True)
    with (
        mock.patch("sppfeat.extraction.ray_parts.connect", side_effect=AssertionError("a plan alone")),
        open_parts(asked) as parts,
    ):
        summary = parts.summary()
    assert (summary.device, summary.to_do) == ("Ray, 1 part", 12)
    assert list(tmp_path.iterdir()) == [folder]


def test_parts_of_other_inputs_or_settings_are_not_continued(folder, tmp_path):
    output = tmp_path / "features.h5"
    with actor(job_of(folder, output)) as filler:
        assert filler.fill(0).n_done == 5
    (parts_folder(output) / "running").unlink()
    (parts_folder(output) / "00001-of-00002.h5").rename(parts_folder(output) / "00001-of-00001.h5")

    def refusal(**changes):
        with pytest.raises(StoreError, match="cannot continue") as error, open_parts(asked(**changes)):
            pass
        return str(error.value)

    def asked(**changes):
        return request([folder], output, **{"ray": RayOptions(), **changes})

    assert "it holds shard 1/2, images 0 to 5 of 12, not shard 1/1, images 0 to 12 of 12" in refusal()
    assert "levels: [1, 2] in the file" in refusal(descriptor=DescriptorChoice(levels=(1,)))
    write_image(folder / "cat" / "another.png", 40, 50, seed=1)
    assert "not shard 1/1, images 0 to 13 of 13 of these inputs" in refusal()


def test_an_absent_cluster_is_reported(folder, tmp_path):
    asked = request([folder], tmp_path / "x.h5", ray=RayOptions(ray_address="127.0.0.1:9"))
    with (
        pytest.raises(EngineError, match="no Ray cluster could be reached at '127\\.0\\.0\\.1:9'"),
        open_parts(asked),
    ):
        pass
    assert list(tmp_path.iterdir()) == [folder]


def test_parts_depend_on_the_plan_only():
    plan = plan_of([f"{i}.jpg" for i in range(100)])
    assert np.diff(ray_parts.cut_into_parts(plan)).tolist() == [25] * 4
    with mock.patch.object(ray_parts, "_MOST_PARTS", 3):
        assert ray_parts.cut_into_parts(plan).tolist() == [0, 33, 66, 100]
