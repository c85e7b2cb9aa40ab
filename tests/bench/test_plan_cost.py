"""Time and memory before the first image: listing images, planning their rows, and laying out the file.

``python tests/bench/test_plan_cost.py 1000 1000000`` measures these numbers of empty files, which are not opened, each
in a separate process. Memory is the peak of the process minus its memory before the listing.
"""

import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "support")]

import numpy as np
import pytest
from feature_files import BLOCKS, DIMENSION, config

from sppfeat.config.machine import keep_freed_memory
from sppfeat.config.specs import InputSpec
from sppfeat.extraction.plan import make_plan
from sppfeat.inputs import list_images
from sppfeat.store.layout import create_file

PER_FOLDER = 1000
STATUS = Path("/proc/self/status")


def make_files(top: Path, n: int) -> None:
    for i in range(n):
        folder = top / f"n{i // PER_FOLDER:08d}"
        if i % PER_FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"{folder.name}_{i}.JPEG").touch()


def memory(name: str) -> int:
    """Memory of this process in bytes: current (``VmRSS``) or peak (``VmHWM``)."""
    return next(
        int(line.split()[1]) << 10 for line in STATUS.read_text().splitlines() if line.startswith(name)
    )


def measure(photos: Path, output: Path) -> dict[str, float]:
    """Seconds of each stage; peak memory, plan and file without descriptors in bytes per image."""
    keep_freed_memory()
    before, times = memory("VmRSS"), [time.perf_counter()]
    listing = list_images([str(photos)])
    times.append(time.perf_counter())
    plan = make_plan(listing, np.zeros((len(listing.paths), 2), dtype=np.int32), {}, InputSpec())
    times.append(time.perf_counter())
    create_file(output, plan, config(), BLOCKS)
    times.append(time.perf_counter())
    n = plan.n_images
    return {
        **dict(zip(("list, s", "plan, s", "lay out, s"), np.diff(times).tolist(), strict=True)),
        "memory, B": max(0, memory("VmHWM") - before) / n,
        "plan, B": sum(getattr(part, "nbytes", 0) for part in vars(plan).values()) / n,
        "file, B": output.stat().st_size / n - 4 * DIMENSION,
    }


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from Linux's /proc")
def test_planning_is_fast_and_needs_little_memory_per_image(tmp_path):
    make_files(tmp_path / "photos", 3_000)
    found = measure(tmp_path / "photos", tmp_path / "features.h5")
    assert found["list, s"] + found["plan, s"] + found["lay out, s"] < 3  # 0.1 s on a quiet machine
    assert found["plan, B"] <= 200
    assert 200 < found["file, B"] < 400  # 200 of them for the error text


if __name__ == "__main__":
    for n in map(int, sys.argv[1:] or ["1000", "10000", "100000"]):
        with (
            tempfile.TemporaryDirectory() as folder,
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process,
        ):
            make_files(Path(folder, "images"), n)
            found = process.submit(measure, Path(folder, "images"), Path(folder, "features.h5")).result()
        print(f"{n:>9} images:", ", ".join(f"{name} {value:.3g}" for name, value in found.items()))  # noqa: T201
