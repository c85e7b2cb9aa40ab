"""What it takes to plan a run: list, plan, lay the file out and continue it, by the number of images."""

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from sppfeat.bench.conditions import Machine, describe_machine
from sppfeat.bench.plan_stages import Measured, continue_file, plan_file
from sppfeat.bench.scratch import temporary_folder
from sppfeat.bench.settings import PlanWork
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.errors import StoreError

__all__ = ["PlanResult", "PlanRung", "PlanStage", "bench_plan"]


@dataclass(frozen=True, kw_only=True)
class PlanStage:
    """One of the things that are done before the first image is run.

    Attributes:
        seconds: that it took.
        images_per_second: likewise.
        peak_bytes: the most memory that its process has had by its end, over what it had before the first image was
            listed; None where the system does not tell.
        peak_bytes_per_image: likewise.
    """

    seconds: float
    images_per_second: float
    peak_bytes: int | None
    peak_bytes_per_image: float | None

    @classmethod
    def of(cls, seconds: float, peak_bytes: int | None, n_images: int) -> "PlanStage":
        """Return that of so many images."""
        return cls(
            seconds=seconds,
            images_per_second=n_images / max(seconds, 1e-9),
            peak_bytes=peak_bytes,
            peak_bytes_per_image=None if peak_bytes is None else peak_bytes / n_images,
        )


@dataclass(frozen=True, kw_only=True)
class PlanRung:
    """So many images.

    Attributes:
        images: how many.
        path_bytes_per_image: length of their paths.
        plan_bytes_per_image: of memory, that the plan holds as long as the run goes on.
        file_bytes_per_image: of the file, everything but the descriptors.
        stages: ``list``, ``plan`` and ``lay_out`` in one process, then ``continue`` in another, which has listed the
            images anew.
    """

    images: int
    path_bytes_per_image: float
    plan_bytes_per_image: float
    file_bytes_per_image: float
    stages: Mapping[str, PlanStage]


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """What was measured.

    Attributes:
        machine: where.
        images_per_folder: how the images lay.
        rungs: for growing numbers of images.
    """

    machine: Machine
    images_per_folder: int
    rungs: tuple[PlanRung, ...]


def bench_plan(
    work: PlanWork, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> PlanResult:
    """Measure planning, of empty files: no image is opened.

    Args:
        work: how much.
        on_progress: called with the number of processes that have measured, and of all.

    Raises:
        StoreError: no place for the files.
    """
    rungs = []
    counts = sorted(set(work.counts))
    for i, n_images in enumerate(counts):
        on_progress(2 * i, 2 * len(counts))
        with temporary_folder() as folder:
            photos, output = folder / "images", folder / "features.h5"
            _make_files(photos, n_images, work.per_folder)
            planned = _in_new_process(plan_file, photos, output)
            on_progress(2 * i + 1, 2 * len(counts))
            rungs.append(_rung(n_images, planned, _in_new_process(continue_file, photos, output)))
    on_progress(2 * len(counts), 2 * len(counts))
    return PlanResult(
        machine=describe_machine(torch.device("cpu"), ExtractConfig.precision),
        images_per_folder=work.per_folder,
        rungs=tuple(rungs),
    )


def _rung(n_images: int, planned: Measured, continued: Measured) -> PlanRung:
    stages = {**planned.stages, **continued.stages}
    return PlanRung(
        images=n_images,
        path_bytes_per_image=planned.path_nbytes / n_images,
        plan_bytes_per_image=planned.plan_nbytes / n_images,
        file_bytes_per_image=planned.file_nbytes / n_images,
        stages={name: PlanStage.of(*found, n_images) for name, found in stages.items()},
    )


def _in_new_process(measure: Callable[[Path, Path], Measured], photos: Path, output: Path) -> Measured:
    """Measure where no memory is left over from anything before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(measure, photos, output).result()


def _make_files(top: Path, n_images: int, per_folder: int) -> None:
    try:
        for first in range(0, n_images, per_folder):
            folder = top / f"n{first // per_folder:08d}"
            folder.mkdir(parents=True)
            for i in range(first, min(first + per_folder, n_images)):
                (folder / f"{folder.name}_{i}.JPEG").touch()
    except OSError as error:
        raise StoreError(f"no place for {n_images} files in {str(top)!r}: {error.strerror}") from error
