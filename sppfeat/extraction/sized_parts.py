"""An extraction into several files, one after another, each a shard of limited size."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import ShardChoice
from sppfeat.config.request import ExtractRequest
from sppfeat.errors import ConfigError
from sppfeat.extraction.output import (
    Lock,
    Outcome,
    join_outcomes,
    lock_output,
    open_local_output,
    read_outcome,
)
from sppfeat.extraction.parts import find_part, make_shard_plan, plan_inputs
from sppfeat.extraction.pipeline import Progress
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.report import PlanSummary, RunState, plan_notes, summarize_plan
from sppfeat.extraction.resources import RunResources, open_resources
from sppfeat.extraction.run import Extraction, make_extraction
from sppfeat.extraction.setup import RunSetup
from sppfeat.extraction.shard_plan import PLACEHOLDER, cut_rows, shard_path
from sppfeat.files.downloads import OnDownload
from sppfeat.files.outputs import check_output
from sppfeat.files.remote import url_of
from sppfeat.inputs import list_images
from sppfeat.store.layout import FILE_DTYPES
from sppfeat.store.reader import FeatureFile

__all__ = ["MultiFileExtraction", "make_part_extraction", "prepare_parts", "request_for_part"]


class MultiFileExtraction:
    """An extraction into several files, planned and ready to run; :func:`prepare_parts` makes it.

    Args:
        resources: network, decoder and scratch folder, shared by all files.
        plan: every image and row.
        bounds: ``(n + 1,)`` int64; part ``i`` holds images ``bounds[i]`` to ``bounds[i + 1]``.

    Attributes:
        request: the user's request.
        setup: settings, network and device.
        path: path of the files, with ``{shard}`` in place of the number.
        name: the output as the user gave it: a URL, or ``path`` as text.
    """

    def __init__(self, resources: RunResources, plan: Plan, bounds: npt.NDArray[np.int64]) -> None:
        self.request: ExtractRequest = resources.part_request.request
        self.setup: RunSetup = resources.setup
        self.path: Path = self.request.output
        self.name = url_of(self.path) or str(self.path)
        self._resources = resources
        self._plan = plan
        self._bounds = bounds
        n_parts = len(bounds) - 1
        self._outcomes: dict[int, Outcome] = {}  # of the files that this run has filled, by number from 1
        self._choices = [ShardChoice(i, n_parts) for i in range(1, n_parts + 1)]

    def summary(self) -> PlanSummary:
        """Summarize the run before it starts, given the files that exist already."""
        done = self.outcome()
        already_failed = 0 if self.request.retry_failed else done.failed
        state = RunState(
            output=self.name,
            already_done=done.done,
            already_failed=already_failed,
            to_do=self._plan.n_images - done.done - already_failed,
            unreadable=len(self._plan.errors),
            unmeasured=int(self._plan.is_unmeasured.sum()),
            shard=f"all of {len(self._choices)}, one after the other",
            workers=self._resources.n_workers,
            notes=self._resources.notes,
        )
        return summarize_plan(self._plan, self.setup, state)

    def run(
        self,
        *,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Create or continue one file after another; see :meth:`sppfeat.extraction.run.Extraction.run`."""
        before = Progress()
        factors: tuple[float, ...] | None = None
        for choice in self._choices:
            request = request_for_part(self.request, choice)
            with contextlib.ExitStack() as stack:
                local = stack.enter_context(open_local_output(request, request.output))
                check_output(local.path)
                output = Path(os.path.realpath(local.path))
                lock = stack.enter_context(lock_output(dataclasses.replace(request, output=output)))
                extraction = make_part_extraction(
                    self._resources,
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
        """Count the images of all files by status, as of now; images without a file are pending."""
        return join_outcomes(self._outcomes_by_number().values(), self._plan.n_images)

    def _outcomes_by_number(self) -> dict[int, Outcome]:
        """Return the outcome of each existing file, by number from 1."""
        known = {}
        for choice in self._choices:
            i, path = choice.index, shard_path(self.path, choice)
            if i in self._outcomes:
                known[i] = self._outcomes[i]
            elif (
                path.exists() and not self.request.overwrite
            ):  # a file that will be replaced counts as not done
                known[i] = read_outcome(path, (0, int(self._bounds[i] - self._bounds[i - 1])))
        return known


def request_for_part(request: ExtractRequest, choice: ShardChoice) -> ExtractRequest:
    """Return the request for one part, from a request whose output name has ``{shard}``."""
    return dataclasses.replace(request, output=shard_path(request.output, choice))


def make_part_extraction(
    resources: RunResources,
    plan: Plan,
    bounds: npt.NDArray[np.int64],
    choice: ShardChoice,
    lock: Lock,
    *,
    output: Path,
    norm_factors: tuple[float, ...] | None,
) -> Extraction:
    """Make the extraction that creates or continues the file of one part.

    Args:
        resources: network, decoder and scratch folder; the output name of their request has ``{shard}``.
        plan: every image and row.
        bounds: bounds of the parts, see :func:`sppfeat.extraction.shard_plan.cut_plan`.
        choice: index of the part, from 1, and number of parts.
        lock: the lock of the file.
        output: path of the file.
        norm_factors: factor of each layer under ``meannorm``, if another part has them already.
    """
    wanted = resources.part_request
    wanted = dataclasses.replace(
        wanted,
        request=dataclasses.replace(wanted.request, output=output),
        shard_plan=make_shard_plan(wanted, plan, choice, bounds),
    )
    part = find_part(wanted, resources.notes)
    part = dataclasses.replace(part, norm_factors=part.norm_factors or norm_factors)
    return make_extraction(resources._replace(part_request=wanted), part, lock)


@contextlib.contextmanager
def prepare_parts(
    request: ExtractRequest,
    *,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> Iterator[MultiFileExtraction]:
    """Plan an extraction into shards of at most ``request.shard_bytes`` bytes of descriptors.

    Args:
        request: the user's request; its output name has ``{shard}``.
        on_probe: called with the number of image headers read so far, and the total.
        on_download: called during a download with file name, bytes done, and bytes in total (None if unknown).

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
    with open_resources(request, listing, on_probe, on_download=on_download) as resources:
        plan = plan_inputs(resources.part_request)
        resources.notes.extend(plan_notes(plan, resources.setup, is_new=True))
        dtype = FILE_DTYPES[resources.setup.config.descriptor.dtype]
        row_nbytes = resources.setup.columns[-1].stop * dtype.itemsize
        yield MultiFileExtraction(resources, plan, cut_rows(plan, shard_bytes // row_nbytes))
