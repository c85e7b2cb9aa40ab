"""An extraction into several files, one after another, each a shard of limited size."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from sppfeat.config.distribution import ShardChoice
from sppfeat.config.request import Request
from sppfeat.errors import ConfigError
from sppfeat.extraction.output import Outcome
from sppfeat.extraction.pipeline import Progress
from sppfeat.extraction.report import PlanSummary, plan_notes
from sppfeat.extraction.run import OnProbe, Run, open_run
from sppfeat.extraction.shard_files import ShardFiles
from sppfeat.extraction.shard_plan import PLACEHOLDER, cut_rows, shard_path
from sppfeat.files.downloads import OnDownload
from sppfeat.files.outputs import check_output
from sppfeat.files.remote import url_of
from sppfeat.store.layout import FILE_DTYPES

__all__ = ["PartsInTurn", "open_parts_in_turn"]


class PartsInTurn:
    """The parts of a plan, which this process takes one after another; its name has ``{shard}`` for the number."""

    def __init__(self, run: Run, files: ShardFiles) -> None:
        self.run = run
        self.name = url_of(run.request.output) or str(run.request.output)
        self._files = files
        self._outcomes: dict[int, Outcome] = {}  # of the parts that this run has taken, by index from 0

    def summary(self) -> PlanSummary:
        """Summarize the run before it starts, given the files that exist already."""
        status = self._files.status()
        if self.run.request.overwrite:
            status = np.zeros_like(status)  # files that will be replaced count as not done
        shard = f"all of {len(self._files.paths)}, one after the other"
        return self._files.summary(self.run, status, output=self.name, shard=shard)

    def fill(
        self,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Run one part after another; see :meth:`sppfeat.extraction.part.Part.fill`."""
        progress = Progress()
        factors: tuple[float, ...] | None = None
        for i in range(len(self._files.paths)):
            with self._files.open_part(self.run, i, factors) as part:
                progress = part.fill(on_progress, should_stop, start=progress)
            self._outcomes[i] = part.outcome()
            factors = part.norm_factors
            if should_stop():
                break
        return progress

    def outcome(self) -> Outcome:
        """Count the images of all files by status; images without a file are pending."""
        return self._files.outcome(self._outcomes, reads_others=not self.run.request.overwrite)


@contextlib.contextmanager
def open_parts_in_turn(
    request: Request, *, on_probe: OnProbe, on_download: OnDownload
) -> Iterator[PartsInTurn]:
    """Plan an extraction into shards of at most ``request.shard_bytes`` bytes of descriptors; nothing is written yet.

    Raises:
        SppfeatError: settings or inputs are invalid.
    """
    shard_bytes = request.shard_bytes
    if shard_bytes is None or PLACEHOLDER not in str(request.output):
        raise ConfigError(
            f"the output {str(request.output)!r} is one file; allowed with --shard-size: a name with {PLACEHOLDER}, "
            "which stands for the number of each"
        )
    if url_of(request.output) is None:
        request = replace(request, output=Path(os.path.abspath(request.output)))
        check_output(shard_path(request.output, ShardChoice(1, 1)))
    with open_run(request, on_probe=on_probe, on_download=on_download) as run:
        plan = run.plan_inputs()
        run.notes.extend(plan_notes(plan, run, is_new=True))
        row_nbytes = run.columns[-1].stop * FILE_DTYPES[run.config.descriptor.dtype].itemsize
        yield PartsInTurn(run, ShardFiles(request.output, plan, cut_rows(plan, shard_bytes // row_nbytes)))
