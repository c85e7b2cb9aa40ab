"""The function ``extract``: plans a run, fills its files, and counts the images."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.request import Request, make_request
from sppfeat.config.values import StrPath
from sppfeat.errors import ConfigError
from sppfeat.extraction.part import Failure, Outcome, Part, open_output
from sppfeat.extraction.pipeline import Progress
from sppfeat.extraction.plan import PLACEHOLDER, shard_path
from sppfeat.extraction.ray_parts import PartsOnRay, open_parts_on_ray
from sppfeat.extraction.remaining_work import find_part
from sppfeat.extraction.report import PlanSummary, result_notes
from sppfeat.extraction.run import OnProbe, open_run
from sppfeat.extraction.shard_files import PartsInTurn, open_parts_in_turn
from sppfeat.files.downloads import OnDownload
from sppfeat.files.outputs import check_feature_path
from sppfeat.store.schema import BoxCounts

__all__ = ["ExtractResult", "extract", "open_part", "open_parts"]


@dataclass(frozen=True, kw_only=True)
class ExtractResult:
    """The state of the files after a run, and the work of the run itself.

    Attributes:
        plan: the summary of the run before it started.
        output: path or URL of the output.
        files: paths or URLs of the files.
        images: number of images in this run's share of the files.
        done: number of images with descriptors.
        failed: number of images that failed.
        pending: number of images not yet extracted.
        done_now: number of images that this run extracted.
        failed_now: number of images that failed in this run.
        seconds: duration of the whole run.
        images_per_second: finished images per second of the stages below; None if no image was described.
        decode_seconds: seconds spent waiting for decoded images.
        network_seconds: seconds spent in the network and in pooling.
        write_seconds: seconds spent waiting for the disk.
        boxes: numbers of boxes in the files; None for whole images.
        failures: the failed images.
        notes: remarks for the user on the images that were run.
    """

    plan: PlanSummary
    output: str
    files: list[str]
    images: int
    done: int
    failed: int
    pending: int
    done_now: int
    failed_now: int
    seconds: float
    images_per_second: float | None
    decode_seconds: float
    network_seconds: float
    write_seconds: float
    boxes: Annotated[dict[str, int], BoxCounts] | None
    failures: list[Failure]
    notes: list[str]


def extract(
    inputs: StrPath | Sequence[StrPath],
    output: StrPath,
    *,
    on_probe: OnProbe = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
    on_plan: Callable[[PlanSummary, ExtractConfig], None] = lambda plan, config: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    verbose: bool = False,
    **options: object,
) -> ExtractResult:
    """Write the descriptors of images, or of boxes in them, to a feature file.

    If the output exists and was made with the same settings, it is continued.

    Args:
        inputs: a folder, image, archive, table or URL, or several.
        output: path or URL of the feature file, with ``{shard}`` in its name for several files.
        on_probe: called with the number of image headers read so far, and the total.
        on_download: called during a download with file name, bytes done, and bytes in total (None if unknown).
        on_plan: called with the summary of the run and its settings, before anything is written.
        on_progress: called after each batch with the counts and seconds so far.
        should_stop: called after each batch; True ends the run early. The same call continues it later.
        verbose: True to print the messages of Ray and its workers.
        **options: the options of ``sppfeat extract`` by name, such as ``backbone``, ``levels=(1, 2, 4)``, ``size``,
            ``boxes``, ``device`` or ``shard="3/16"``, with the same defaults.

    Returns:
        The counts, seconds and failures of the run; of a dry run, the counts before it.

    Raises:
        SppfeatError: options, inputs, boxes or weights are invalid, or the output cannot be written or continued.

    Example:
        >>> sppfeat.extract("photos", "photos.h5", backbone="resnet50", levels=(1, 2, 4))  # doctest: +SKIP
    """
    started = time.monotonic()
    request = make_request(inputs, output, **options)
    with open_parts(request, on_probe=on_probe, on_download=on_download, verbose=verbose) as parts:
        plan = parts.summary()
        on_plan(plan, parts.run.config)
        if request.dry_run:
            counts = (plan.images, plan.already_done, plan.already_failed, plan.to_do)
            outcome, progress = Outcome([], *counts, failures=[], boxes=None), Progress()
        else:
            progress = parts.fill(on_progress, should_stop)
            outcome = parts.outcome()
    stage_seconds = progress.decode_seconds + progress.network_seconds + progress.write_seconds
    rate = (
        (progress.n_done + progress.n_failed) / stage_seconds if stage_seconds and progress.n_done else None
    )
    return ExtractResult(
        plan=plan,
        output=parts.name,
        **outcome._asdict(),
        done_now=progress.n_done,
        failed_now=progress.n_failed,
        seconds=round(time.monotonic() - started, 3),
        images_per_second=None if rate is None else round(rate, 2),
        decode_seconds=round(progress.decode_seconds, 3),
        network_seconds=round(progress.network_seconds, 3),
        write_seconds=round(progress.write_seconds, 3),
        notes=result_notes(progress),
    )


def open_parts(
    request: Request,
    *,
    on_probe: OnProbe = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
    verbose: bool = False,
) -> contextlib.AbstractContextManager[Part | PartsInTurn | PartsOnRay]:
    """Plan a run of one part, of parts in turn, or of parts for the actors of a Ray cluster; write nothing yet.

    Raises:
        SppfeatError: see :func:`extract`.
    """
    check_feature_path(request.output)
    if request.ray is not None:
        return open_parts_on_ray(request, on_probe=on_probe, on_download=on_download, verbose=verbose)
    if request.shard_bytes is not None:
        return open_parts_in_turn(request, on_probe=on_probe, on_download=on_download)
    return open_part(request, on_probe=on_probe, on_download=on_download)


@contextlib.contextmanager
def open_part(
    request: Request,
    *,
    on_probe: OnProbe = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> Iterator[Part]:
    """Plan a run into a single file, or into one shard's range of a shared file; write nothing yet.

    Raises:
        SppfeatError: see :func:`extract`.
    """
    if request.shared and PLACEHOLDER in str(request.output):
        raise ConfigError(
            f"with --shared all shards go into one output; remove {PLACEHOLDER} from {str(request.output)!r}"
        )
    with (
        open_output(request, shard_path(request.output, request.shard)) as output,
        open_run(request, on_probe=on_probe, on_download=on_download) as run,
    ):
        run.notes.extend(output.local.notes)
        yield find_part(run, output)
