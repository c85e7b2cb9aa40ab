"""The stages of planning, each measured from inside the process that runs it."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import keep_freed_memory
from sppfeat.config.request import ExtractRequest
from sppfeat.config.specs import BackboneSpec, DescriptorSpec, InputSpec
from sppfeat.extraction.plan import make_plan
from sppfeat.inputs import list_images
from sppfeat.store.layout import create_file
from sppfeat.store.schema import column_blocks

__all__ = ["Measured", "continue_file", "plan_file"]

_T = TypeVar("_T")

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"

# Descriptors of one value, because the layout reserves their space but their size is not to be measured.
_BLOCKS = column_blocks(("layer",), (1,), (1,))
_CONFIG = ExtractConfig(
    backbone=BackboneSpec(
        name="none",
        weights="none",
        weights_sha256="0" * 64,
        layers=("layer",),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation="bilinear",
        seed=0,
    ),
    input=InputSpec(),
    descriptor=DescriptorSpec(levels=(1,)),
)


class Measured(NamedTuple):
    """The measurements of one process.

    Attributes:
        stages: for each stage its seconds, and the peak memory in bytes up to its end minus the memory before the first
            stage; None on systems that do not report it.
        path_nbytes: total length of all paths, in bytes.
        plan_nbytes: size of the plan in memory, in bytes.
        file_nbytes: size of the file without descriptors, in bytes; 0 if no file was made.
    """

    stages: dict[str, tuple[float, int | None]]
    path_nbytes: int = 0
    plan_nbytes: int = 0
    file_nbytes: int = 0


def plan_file(folder: Path, output: Path) -> Measured:
    """Lists the images of a folder, plans their rows, and lays out a file."""
    measure = _Measure()
    listing = measure("list", lambda: list_images([str(folder)]))
    no_sizes = np.zeros((len(listing.paths), 2), dtype=np.int32)
    plan = measure("plan", lambda: make_plan(listing, no_sizes, {}, _CONFIG.input))
    measure("lay_out", lambda: create_file(output, plan, _CONFIG, _BLOCKS))
    return Measured(
        stages=measure.stages,
        path_nbytes=sum(map(len, listing.paths)),
        plan_nbytes=plan.nbytes,
        file_nbytes=output.stat().st_size - plan.n_rows * np.dtype(np.float32).itemsize,
    )


def continue_file(folder: Path, output: Path) -> Measured:
    """Lists the images of a folder again, and finds the pending images of a file, which here are all of them."""
    from sppfeat.extraction.parts import PartRequest, find_part  # imported late, because these load torch

    measure = _Measure()
    listing = list_images([str(folder)])
    request = ExtractRequest(inputs=(str(folder),), output=output, headers="window")

    def no_probe(*_: object) -> None:
        raise AssertionError("no header is read before a run in windows")

    wanted = PartRequest(request, _CONFIG, listing, no_probe, None)  # type: ignore[arg-type]
    measure("continue", lambda: find_part(wanted, []))
    return Measured(measure.stages)


class _Measure:
    """Runs stages one after the other, and measures the time and memory of each."""

    def __init__(self) -> None:
        keep_freed_memory()  # like a run
        self.stages: dict[str, tuple[float, int | None]] = {}
        with contextlib.suppress(OSError):
            _CLEAR.write_text(_CLEAR_PEAK)
        self._before = _memory("VmRSS")

    def __call__(self, name: str, run: Callable[[], _T]) -> _T:
        start = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - start
        peak = _memory("VmHWM")
        more = None if peak is None or self._before is None else max(0, peak - self._before)
        self.stages[name] = seconds, more
        return result


def _memory(name: str) -> int | None:
    """Memory of this process in bytes, current (``VmRSS``) or peak (``VmHWM``); None except on Linux."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), None)
