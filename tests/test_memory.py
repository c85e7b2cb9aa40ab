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
    from sppfeat.memory import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", ""))
    assert not keep_freed_memory()
