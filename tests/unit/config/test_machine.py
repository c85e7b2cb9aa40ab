"""The cores and the memory of a machine as this process may use them."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from labelled_files import image_file

from sppfeat.analysis.choices import ProbeSettings
from sppfeat.analysis.neighbors import nearest_rows
from sppfeat.analysis.probe.classifier import decision_blocks, fit_classifier
from sppfeat.analysis.show.distributions import measure_norms
from sppfeat.analysis.show.embedding import embed_rows
from sppfeat.config.machine import available_cores, available_nbytes
from sppfeat.errors import ConfigError
from sppfeat.store.reader import FeatureFile
from sppfeat.store.verify import verify_file

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
GROUPS = "sys/fs/cgroup"
REPEATED = """
import resource
import numpy as np
from sppfeat.config.machine import keep_freed_memory

if {keeps}:
    assert keep_freed_memory()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array = np.zeros(1)
    for n_bytes in (70_000_000, 90_000_000):
        array = np.empty(n_bytes, dtype=np.uint8)
        array[::4096] = 1
    del array
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


@pytest.fixture
def many_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)


def system(tmp_path, groups: str, files: dict[str, str]):
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def legacy_quota(text: str) -> dict[str, str]:
    return {f"{GROUPS}/cpu/cpu.cfs_quota_us": text, f"{GROUPS}/cpu/cpu.cfs_period_us": "100000"}


@pytest.mark.usefixtures("many_cores")
@pytest.mark.parametrize(
    ("groups", "files", "n_cores"),
    [
        ("0::/\n", {f"{GROUPS}/cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {f"{GROUPS}/cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {f"{GROUPS}/cpu.max": "max 100000\n"}, 64),
        ("0::/a/b\n", {f"{GROUPS}/a/cpu.max": "400000 100000", f"{GROUPS}/a/b/cpu.max": "max 100000"}, 4),
        ("0::/../x\n", {f"{GROUPS}/cpu.max": "300000 100000\n"}, 3),
        ("4:cpuset:/\n3:cpu,cpuacct:/docker/1\n", legacy_quota("200000"), 2),
        ("3:cpu,cpuacct:/\n", legacy_quota("-1"), 64),
        ("nonsense\n", {f"{GROUPS}/cpu.max": "?"}, 64),
        ("", {}, 64),
    ],
)
def test_quotas_of_control_groups(tmp_path, groups, files, n_cores):
    assert available_cores(system(tmp_path, groups, files)) == n_cores


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for the GNU C library")
@pytest.mark.parametrize("keeps", [False, True])
def test_memory_that_was_freed_is_not_fetched_from_the_system_again(keeps):
    code = REPEATED.format(keeps=keeps)
    # Without large pages, which would make the number of faults small in any case.
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert (int(run.stdout) < 1000) == keeps


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for the GNU C library")
def test_gaps_between_pieces_of_memory_are_returned():
    code = """
import numpy as np
from sppfeat.config.machine import keep_freed_memory, return_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

keep_freed_memory()
pieces = [np.ones(20_000_000, dtype=np.uint8) for _ in range(12)]
before = resident()
del pieces[:-1]
assert resident() > before - 20_000_000
return_freed_memory()
assert resident() < before - 150_000_000
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def mapped_nbytes(path) -> int:
    """Bytes of the maps of a file that this process has in memory."""
    found, is_its = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Rss:"):
            found += is_its * int(line.split()[1]) * 1024
        elif not line.split()[0].endswith(":"):
            is_its = line.endswith(f" {path}")
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="for Linux")
def test_readers_of_all_rows_release_their_pages(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    for module in ("analysis.probe.classifier", "analysis.show.distributions", "store.verify"):
        monkeypatch.setattr(f"sppfeat.{module}._BLOCK_NBYTES", 1 << 17)
    path = image_file(tmp_path / "f.h5", [i % 2 for i in range(30000)])
    with FeatureFile(path) as file:
        every = file.select()
        classifier = fit_classifier(file.select(rows="0:100"), ProbeSettings())
        reading = {
            "search": lambda: nearest_rows(every, every.take(np.arange(2)), block_nbytes=1 << 17),
            "predict": lambda: list(decision_blocks(classifier, every)),
            "norms": lambda: measure_norms(every, most=len(every)),
            "embedding": lambda: embed_rows(every, most=100),
            "verify": lambda: verify_file(file),
        }
        for name, read in reading.items():
            file.drop_pages()
            read()
            assert mapped_nbytes(path) < every.X.nbytes / 2, name


@pytest.mark.parametrize(
    ("groups", "files", "nbytes"),
    [
        ("", {}, PHYSICAL),
        ("0::/a\n", {f"{GROUPS}/memory.max": "max\n", f"{GROUPS}/a/memory.max": "1000000\n"}, 1000000),
        ("5:memory:/b\n", {f"{GROUPS}/memory/b/memory.limit_in_bytes": "700000\n"}, 700000),
        ("5:memory:/\n", {f"{GROUPS}/memory/memory.limit_in_bytes": "9223372036854771712\n"}, PHYSICAL),
        ("0::/\n", {f"{GROUPS}/memory.max": "?\n"}, PHYSICAL),
    ],
)
def test_memory_is_what_control_groups_leave(tmp_path, groups, files, nbytes):
    assert available_nbytes(system(tmp_path, groups, files)) == nbytes


def test_a_copy_larger_than_memory_is_refused(tmp_path, monkeypatch):
    with FeatureFile(image_file(tmp_path / "f.h5", [0, 1] * 10)) as file:
        monkeypatch.setattr("sppfeat.config.machine._UNCHECKED_NBYTES", 0)
        monkeypatch.setattr("sppfeat.config.machine.available_nbytes", lambda: file.dimension * file.n_rows)
        with pytest.raises(ConfigError, match=r"take .* GB .*iter_batches"):
            file.to_sklearn(rows="::2")
        assert sum(len(x) for x, _ in file.iter_batches(2, rows="::2")) == 10
        assert len(file.to_sklearn()[0]) == 20  # a view
