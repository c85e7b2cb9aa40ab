"""The multi-process examples of docs/clusters.md, run with fewer processes."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from command_line import run
from conftest import write_image
from extraction_runs import assert_all_done, contents
from killing import write_launcher
from places import REPOSITORY

import sppfeat

pytestmark = pytest.mark.slow

TINY = {
    "SPPFEAT_EXTRACT_BACKBONE": "squeezenet1_1",
    "SPPFEAT_EXTRACT_WEIGHTS": "none",
    "SPPFEAT_EXTRACT_LEVELS": "1",
    "SPPFEAT_EXTRACT_SIZE": "40",
    "SPPFEAT_WORKERS": "0",
    "SPPFEAT_DEVICE": "cpu",
}


def section(heading: str) -> str:
    text = (REPOSITORY / "docs/clusters.md").read_text()
    start = text.index(f"\n{heading}\n")
    return re.split(r"\n##+ ", text[start + 1 :])[0] + "\n"


def blocks(heading: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", section(heading), re.DOTALL)


@pytest.fixture
def photos(commands, tmp_path, monkeypatch):
    """A working folder with photos, and with ``sppfeat`` and ``torchrun`` on the PATH."""
    for i in range(7):
        write_image(tmp_path / "photos" / f"{i}.png", 50, 44 + 7 * (i % 3), seed=i)
    (tmp_path / "bin").mkdir()
    for name in ("sppfeat", "torchrun"):
        write_launcher(tmp_path / "bin" / name, commands)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for name, value in TINY.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def sh(script: str, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-euc", script], env={**os.environ, **environment}, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_slurm_array_and_its_merging_job(photos):
    script, submission = blocks("## A SLURM job array")
    n_tasks = int(re.search(r"--array=1-([0-9]+)", script)[1])
    assert script.count(f"/{n_tasks}") == 1
    few = script.replace(f"/{n_tasks}", "/2")
    (photos / "extract.sbatch").write_text(few)
    for task in ("2", "1", "2"):  # task 2 is requeued
        sh("bash extract.sbatch", SLURM_ARRAY_TASK_ID=task, SLURM_PROCID="0", SLURM_NTASKS="1")
    assert len(list((photos / "parts").iterdir())) == 2
    merge, output, pattern = shlex.split(re.search(r'--wrap "sppfeat (.*)"', submission)[1])
    shards = sorted(map(str, Path().glob(pattern)))
    run(merge, output, *shards, code=0)
    with sppfeat.open(photos / "features.h5") as file:
        assert file.paths == [f"{i}.png" for i in range(7)]
        assert len(file.to_sklearn()[0]) == 7


def test_xargs_processes_fill_one_output(photos):
    (xargs,) = (block for block in blocks("## One output for several processes") if "xargs" in block)
    sh(xargs.replace("seq 4", "seq 2").replace("/4", "/2"))
    merged = contents(photos / "features.h5")
    assert (merged["images/status"] == 1).all()
    assert (photos / "features.h5.lock").exists() is False


def test_torchrun_processes_find_their_shards(photos):
    (block,) = blocks("## torchrun and srun")
    torchrun = next(line for line in block.splitlines() if line.startswith("torchrun"))
    sh(torchrun.replace("--nproc-per-node 8", "--nproc-per-node 2"))
    assert_all_done(photos / "features.h5")
