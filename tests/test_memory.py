import os
import platform
import subprocess
import sys

import pytest

REPEATED = """
import resource
import numpy as np
from sppfeat.memory import keep_freed_memory

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


def test_another_c_library_is_left_alone(monkeypatch):
    from sppfeat import memory

    monkeypatch.setattr(memory, "_has_glibc", lambda: False)
    monkeypatch.setattr(memory, "ctypes", None)
    assert not memory.keep_freed_memory()
    memory.return_freed_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for the GNU C library")
def test_what_lies_between_longer_lived_pieces_is_given_back():
    code = """
import numpy as np
from sppfeat.memory import keep_freed_memory, return_freed_memory

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
