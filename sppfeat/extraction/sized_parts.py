"""An extraction into several files, one after the other: shards of a size, each complete by itself."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import ShardChoice
from sppfeat.config.request import ExtractRequest
from sppfeat.errors import ConfigError
from sppfeat.extraction.output import Lock, Outcome, lock_output, outcome_of, output_here
from sppfeat.extraction.parts import find_work, part_of, plan_inputs
from sppfeat.extraction.pipeline import Progress
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.report import PlanSummary, RunState, plan_notes, summarize_plan
from sppfeat.extraction.resources import Means, gather_means
from sppfeat.extraction.run import Extraction, planned
from sppfeat.extraction.setup import Equipment
from sppfeat.extraction.sharding import PLACEHOLDER, cut_rows, shard_path
from sppfeat.files.downloads import OnDownload
from sppfeat.files.outputs import check_output
from sppfeat.files.remote.output import url_of
from sppfeat.inputs import list_images
from sppfeat.store.layout import FILE_DTYPES
from sppfeat.store.reader import FeatureFile

__all__ = ["PartedExtraction", "extraction_of_part", "prepare_parts", "request_of_part"]


class PartedExtraction:
    """A planned extraction into several files; :func:`prepare_parts` makes it.

    Args:
        means: what all of them need.
        plan: every image and row.
        bounds: ``(n + 1,)`` int64, part ``i`` is images ``bounds[i]`` to ``bounds[i + 1]``.

    Attributes:
        request: what was asked.
        equipment: settings, network and device.
        path: name of the files, with ``{shard}`` for their number.
        name: the same, as it was given: a URL, if it is one.
    """

    def __init__(self, means: Means, plan: Plan, bounds: npt.NDArray[np.int64]) -> None:
        self.request: ExtractRequest = means.task.request
        self.equipment: Equipment = means.equipment
        self.path: Path = self.request.output
        self.name = url_of(self.path) or str(self.path)
        self._means = means
        self._plan = plan
        self._bounds = bounds
        n_parts = len(bounds) - 1
        self._outcomes: dict[int, Outcome] = {}  # of what this run has had in hand
        self._choices = [ShardChoice(i, n_parts) for i in range(1, n_parts + 1)]

    def summary(self) -> PlanSummary:
        """What this run is going to do, as far as can be told without opening every file."""
        done = self.outcome()
        already_failed = 0 if self.request.retry_failed else done.failed
        state = RunState(
            output=self.name,
            already_done=done.done,
            already_failed=already_failed,
            to_do=self._plan.n_images - done.done - already_failed,
            unreadable=len(self._plan.errors),
            unmeasured=int((self._plan.image_hw == 0).any(axis=1).sum()) - len(self._plan.errors),
            shard=f"all of {len(self._choices)}, one after the other",
            workers=self._means.n_workers,
            notes=self._means.notes,
        )
        return summarize_plan(self._plan, self.equipment, state)

    def run(
        self,
        *,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Do it: create or continue one file after the other; see :meth:`sppfeat.extraction.run.Extraction.run`."""
        before = Progress()
        factors: tuple[float, ...] | None = None
        for choice in self._choices:
            request = request_of_part(self.request, choice)
            with contextlib.ExitStack() as stack:
                local = stack.enter_context(output_here(request, request.output))
                check_output(local.path)
                output = Path(os.path.realpath(local.path))
                lock = stack.enter_context(lock_output(dataclasses.replace(request, output=output)))
                extraction = extraction_of_part(
                    self._means,
                    self._plan,
                    self._bounds,
                    choice,
                    lock,
                    output=output,
                    norm_factors=factors,
                )
                extraction = dataclasses.replace(extraction, url=local.url)
                now = extraction.run(
                    on_progress=lambda own, before=before: on_progress(before.followed_by(own)),  # type: ignore[misc]
                    should_stop=should_stop,
                )
                before = before.followed_by(now)
                self._outcomes[choice.index] = extraction.outcome()
                with FeatureFile(extraction.path) as file:
                    factors = file.norm_factors
                if not self._outcomes[choice.index].pending:
                    local.publish()
            if should_stop():
                break
        return before

    def outcome(self) -> Outcome:
        """What the files that are there hold now; images whose file is not there yet are pending."""
        found = list(self._known().values())
        if not found:
            n_images = self._plan.n_images
            return Outcome([], n_images, 0, 0, n_images, [], None)
        every = reduce(Outcome.followed_by, found)
        missing = self._plan.n_images - every.images
        return every._replace(images=self._plan.n_images, pending=every.pending + missing)

    def _known(self) -> dict[int, Outcome]:
        """What is known of each file, by its number."""
        known = {}
        for choice in self._choices:
            i, path = choice.index, shard_path(self.path, choice)
            if i in self._outcomes:
                known[i] = self._outcomes[i]
            elif path.exists() and not self.request.overwrite:  # what is to be replaced is not done
                known[i] = outcome_of(path, (0, int(self._bounds[i] - self._bounds[i - 1])))
        return known


def request_of_part(request: ExtractRequest, choice: ShardChoice) -> ExtractRequest:
    """The request for one part of one that has ``{shard}`` in the name of its output."""
    return dataclasses.replace(request, output=shard_path(request.output, choice))


def extraction_of_part(
    means: Means,
    plan: Plan,
    bounds: npt.NDArray[np.int64],
    choice: ShardChoice,
    lock: Lock,
    *,
    output: Path,
    norm_factors: tuple[float, ...] | None,
) -> Extraction:
    """The extraction of one part into its own file, begun or continued.

    Args:
        means: what all parts need; its request has ``{shard}`` in the name of its output.
        plan: every image and row.
        bounds: of the parts, see :func:`sppfeat.extraction.sharding.cut_plan`.
        choice: which part.
        lock: of its file.
        output: its file.
        norm_factors: of the mean norm, where they are known already.
    """
    part = part_of(means.task, plan, choice, bounds)
    request = dataclasses.replace(means.task.request, output=output)
    task = dataclasses.replace(means.task, request=request, part=part)
    work = find_work(task, means.notes)
    work = dataclasses.replace(work, norm_factors=work.norm_factors or norm_factors)
    return planned(means._replace(task=task), work, lock)


@contextlib.contextmanager
def prepare_parts(
    request: ExtractRequest,
    *,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> Iterator[PartedExtraction]:
    """Plan an extraction into shards of ``request.shard_bytes`` bytes.

    Args:
        request: what is asked; its output has ``{shard}`` in its name.
        on_probe: called with the number of image headers read, and of all.
        on_download: called with the name of a weights file, bytes done and total (None if unknown), while it comes.

    Yields:
        The extraction, ready to run. Nothing has been written yet.

    Raises:
        SppfeatError: see :func:`sppfeat.extraction.run.prepare`.
    """
    shard_bytes = request.shard_bytes
    if shard_bytes is None or PLACEHOLDER not in str(request.output):
        raise ConfigError(
            f"the output {str(request.output)!r} is one file; allowed with --shard-size: a name with {PLACEHOLDER}, "
            "which stands for the number of each"
        )
    if url_of(request.output) is None:
        request = dataclasses.replace(request, output=Path(os.path.abspath(request.output)))
        check_output(shard_path(request.output, ShardChoice(1, 1)))
    listing = list_images(request.inputs, labels=request.labels)
    with gather_means(request, listing, on_probe, on_download=on_download) as means:
        plan = plan_inputs(means.task)
        means.notes.extend(plan_notes(plan, means.equipment, is_new=True))
        dtype = FILE_DTYPES[means.equipment.config.descriptor.dtype]
        row_nbytes = means.equipment.blocks[-1].stop * dtype.itemsize
        yield PartedExtraction(means, plan, cut_rows(plan, shard_bytes // row_nbytes))
