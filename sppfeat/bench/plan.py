"""Time and memory of planning a run, by number of images: listing, planning, laying out the file, continuing it."""

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from sppfeat.bench.conditions import Machine, describe_machine, temporary_folder
from sppfeat.bench.plan_stages import Measured, continue_file, plan_file
from sppfeat.bench.settings import PlanSettings
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.errors import StoreError

__all__ = ["PlanResult", "PlanRung", "PlanStage", "bench_plan"]


@dataclass(frozen=True, kw_only=True)
class PlanStage:
    """Measurements of one stage of planning.

    Attributes:
        seconds: duration of the stage.
        images_per_second: number of images divided by ``seconds``.
        peak_bytes: peak memory of the process up to the end of the stage, minus its memory before the first stage;
            None on systems that do not report it.
        peak_bytes_per_image: ``peak_bytes`` divided by the number of images.
    """

    seconds: float
    images_per_second: float
    peak_bytes: int | None
    peak_bytes_per_image: float | None

    @classmethod
    def of(cls, seconds: float, peak_bytes: int | None, n_images: int) -> "PlanStage":
        """Makes the record of a stage that took ``seconds`` and ``peak_bytes`` for ``n_images``."""
        return cls(
            seconds=seconds,
            images_per_second=n_images / max(seconds, 1e-9),
            peak_bytes=peak_bytes,
            peak_bytes_per_image=None if peak_bytes is None else peak_bytes / n_images,
        )


@dataclass(frozen=True, kw_only=True)
class PlanRung:
    """The measurements for one number of images.

    Attributes:
        images: number of images.
        path_bytes_per_image: mean length of a path, in bytes.
        plan_bytes_per_image: memory that the plan takes during a run, in bytes per image.
        file_bytes_per_image: size of the file without descriptors, in bytes per image.
        stages: ``list``, ``plan`` and ``lay_out``, measured in one process, and ``continue``, measured in another
            process that lists the images again.
    """

    images: int
    path_bytes_per_image: float
    plan_bytes_per_image: float
    file_bytes_per_image: float
    stages: Mapping[str, PlanStage]


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """The result of measuring plans.

    Attributes:
        machine: the machine.
        images_per_folder: number of images in each folder.
        rungs: measurements for increasing numbers of images.
    """

    machine: Machine
    images_per_folder: int
    rungs: tuple[PlanRung, ...]


def bench_plan(
    settings: PlanSettings, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> PlanResult:
    """Measures planning on empty files, because planning opens no image.

    Args:
        settings: the numbers of images.
        on_progress: called with the number of finished processes and the total number of processes.

    Raises:
        StoreError: the files cannot be created.
    """
    rungs = []
    counts = sorted(set(settings.counts))
    for i, n_images in enumerate(counts):
        on_progress(2 * i, 2 * len(counts))
        with temporary_folder() as folder:
            photos, output = folder / "images", folder / "features.h5"
            _make_files(photos, n_images, settings.per_folder)
            planned = _in_new_process(plan_file, photos, output)
            on_progress(2 * i + 1, 2 * len(counts))
            rungs.append(_rung(n_images, planned, _in_new_process(continue_file, photos, output)))
    on_progress(2 * len(counts), 2 * len(counts))
    return PlanResult(
        machine=describe_machine(torch.device("cpu"), ExtractConfig.precision),
        images_per_folder=settings.per_folder,
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
    """Measures in a new process, so that no memory of an earlier measurement counts."""
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
