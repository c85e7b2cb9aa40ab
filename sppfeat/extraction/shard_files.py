"""The files of a plan that is cut into shards, and a run that fills them one after another."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import ShardChoice
from sppfeat.config.extract_config import config_differences
from sppfeat.config.request import Request
from sppfeat.errors import ConfigError, StoreError
from sppfeat.extraction.changes import changed_note, find_changes
from sppfeat.extraction.part import Outcome, Part, join_outcomes, open_output, read_outcome
from sppfeat.extraction.pipeline import Progress
from sppfeat.extraction.plan import PLACEHOLDER, Plan, cut_rows, cut_shard, shard_path, shard_record
from sppfeat.extraction.remaining_work import find_part
from sppfeat.extraction.report import PlanSummary, plan_notes, summarize_plan
from sppfeat.extraction.run import OnProbe, Run, open_run
from sppfeat.files.downloads import OnDownload
from sppfeat.files.outputs import check_output
from sppfeat.files.places import FileVersion
from sppfeat.files.remote import url_of
from sppfeat.store.layout import FILE_DTYPES
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import UNKNOWN, Status

__all__ = ["PartsInTurn", "ShardFiles", "is_to_do", "open_parts_in_turn"]


class ShardFiles:
    """The files of a plan that is cut into shards, numbered from 0; some may not exist yet.

    The ``pattern`` of their paths has ``{shard}`` in place of the number; for the bounds see
    :func:`sppfeat.extraction.plan.cut_plan`.
    """

    def __init__(self, pattern: Path, plan: Plan, bounds: npt.NDArray[np.int64]) -> None:
        self.plan = plan
        self.bounds = bounds
        self._choices = [ShardChoice(i, len(bounds) - 1) for i in range(1, len(bounds))]
        self.paths = [shard_path(pattern, choice) for choice in self._choices]
        self._status = np.zeros(plan.n_images, dtype=np.uint8)
        self._versions: list[FileVersion | None] = [None] * len(self.paths)

    def images_of(self, index: int) -> slice:
        """Return the images of a shard."""
        return slice(*self.bounds[index : index + 2].tolist())

    @contextlib.contextmanager
    def open_part(
        self,
        run: Run,
        index: int,
        norm_factors: tuple[float, ...] | None,
        *,
        lock_seconds: float = 0.0,
    ) -> Iterator[Part]:
        """Lock the file of a shard and find the work left; a new file gets the factors of ``meannorm``, if given."""
        cut = cut_shard(self.plan, self._choices[index], self.bounds, has_views=run.has_views)
        with open_output(run.request, self.paths[index], lock_seconds=lock_seconds) as output:
            part = find_part(run, output, cut)
            part.norm_factors = part.norm_factors or norm_factors
            yield part

    def check(self, run: Run) -> tuple[float, ...] | None:
        """Refuse files of another plan or of different settings; return their factors of ``meannorm``, if any."""
        factors = None
        for choice, path in zip(self._choices, self.paths, strict=True):
            if not path.exists():
                continue
            with FeatureFile(path) as file:
                differences = config_differences(file.config.to_dict(), run.config.to_dict())
                found, factors = file.shard, file.norm_factors
            wanted = shard_record(self.plan, choice, self.bounds)
            if differences or found != wanted:
                reason = f"it was extracted with different settings: {'; '.join(differences)}"
                if not differences:
                    reason = f"it holds {found or 'all images'}, not {wanted} of these inputs"
                raise StoreError(f"cannot continue {str(path)!r}: {reason}. Remove it, or use another output")
        return factors

    def status(self) -> npt.NDArray[np.uint8]:
        """Return ``(N,)`` uint8, the status of each image of the plan; read only files that have changed."""
        for i, path in enumerate(self.paths):
            try:
                version = FileVersion.of(path)
            except FileNotFoundError:
                continue
            if version != self._versions[i]:
                with FeatureFile(path) as file:
                    self._status[self.images_of(i)] = file.status
                self._versions[i] = version
        return np.array(self._status)

    def mark_changed(self, run: Run, status: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return ``status`` with PENDING for changed images if the run repeats them; add a note about them."""
        versions = np.full((self.plan.n_images, 2), UNKNOWN, dtype=np.int64)
        roots = set()
        for i, path in enumerate(self.paths):
            if path.exists():
                with FeatureFile(path) as file:
                    versions[self.images_of(i)] = file.image_versions
                    roots.add(os.fsencode(file.root))
        storage, numbers = run.listing.storage, self.plan.storage_index
        has_moved = not roots <= {self.plan.root}
        changes = find_changes(versions, storage, numbers, status=status, has_moved=has_moved)
        changed = np.flatnonzero(changes.changed & (status != Status.PENDING))
        runs_by = "" if run.request.runs_changed else "--update-changed"
        run.notes.extend(changed_note(self.plan.paths, versions, changes, changed, runs_by=runs_by))
        marked = np.array(status)
        if run.request.runs_changed:
            marked[changed] = Status.PENDING
        return marked

    def unfinished(self, status: npt.NDArray[np.uint8], *, with_failures: bool) -> list[int]:
        """Return the shards with pending images, or with pending or failed ones if ``with_failures``."""
        is_left = is_to_do(status, with_failures=with_failures)
        return [i for i in range(len(self.paths)) if is_left[self.images_of(i)].any()]

    def summary(
        self, run: Run, status: npt.NDArray[np.uint8], *, output: str, shard: str | None = None
    ) -> PlanSummary:
        """Summarize a run over all shards before it starts, given the status ``(N,)`` of the images."""
        return summarize_plan(
            run,
            self.plan,
            output=output,
            status=status,
            to_do=np.flatnonzero(is_to_do(status, with_failures=run.request.retry_failed)),
            n_unmeasured=int(self.plan.is_unmeasured.sum()),
            shard=shard,
        )

    def outcome(self, known: dict[int, Outcome], *, reads_others: bool = True) -> Outcome:
        """Count the images of all shards by status, given the outcomes known already; missing files count as pending.

        Other files are read only if ``reads_others``: with ``--overwrite`` they are yet to be replaced.
        """
        found = [
            known[i] if i in known else read_outcome(path)
            for i, path in enumerate(self.paths)
            if i in known or (reads_others and path.exists())
        ]
        return join_outcomes(found, self.plan.n_images)


def is_to_do(status: npt.NDArray[np.uint8], *, with_failures: bool) -> npt.NDArray[np.bool_]:
    """Return ``(N,)`` bool, True for pending images, and for failed ones if ``with_failures``."""
    return np.isin(status, (Status.PENDING, *([Status.FAILED] if with_failures else ())))


class PartsInTurn:
    """The parts of a plan, filled by this process one after another; ``name`` has ``{shard}`` for the number."""

    def __init__(self, run: Run, files: ShardFiles) -> None:
        self.run = run
        self.name = url_of(run.request.output) or str(run.request.output)
        self._files = files
        self._outcomes: dict[int, Outcome] = {}  # of the parts that this run has taken, by index from 0
        # With --overwrite all files are replaced, and every image is pending.
        self._before = np.zeros(files.plan.n_images, dtype=np.uint8)
        if not run.request.overwrite:
            self._before = files.mark_changed(run, files.status())

    def summary(self) -> PlanSummary:
        """Summarize the run before it starts, from the files that exist."""
        shard = f"all {len(self._files.paths)}, one after the other"
        return self._files.summary(self.run, self._before, output=self.name, shard=shard)

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
    """Plan an extraction into shards of at most ``request.shard_bytes`` of descriptors; write nothing yet."""
    shard_bytes = request.shard_bytes
    if shard_bytes is None or PLACEHOLDER not in str(request.output):
        raise ConfigError(
            f"the output {str(request.output)!r} is a single file; --shard-size needs a name with {PLACEHOLDER}, "
            "which stands for the number of each file"
        )
    if url_of(request.output) is None:
        request = replace(request, output=Path(os.path.abspath(request.output)))
        check_output(shard_path(request.output, ShardChoice(1, 1)))
    with open_run(request, on_probe=on_probe, on_download=on_download) as run:
        plan = run.plan_inputs()
        run.notes.extend(plan_notes(plan, run, is_new=True))
        row_nbytes = run.columns[-1].stop * FILE_DTYPES[run.config.descriptor.dtype].itemsize
        yield PartsInTurn(run, ShardFiles(request.output, plan, cut_rows(plan, shard_bytes // row_nbytes)))
