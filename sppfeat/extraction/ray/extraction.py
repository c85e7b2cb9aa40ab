"""An extraction by actors on a Ray cluster: each fills files of parts of the plan, which are then merged.

Ray Data hands out the parts, starts actors anew that died, and repeats what they were at. A repeated part continues
its file, so that only the batches in hand are done twice.
"""

import contextlib
import dataclasses
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat._version import __version__
from sppfeat.config.distribution import RayOptions
from sppfeat.config.request import ExtractRequest
from sppfeat.config.wording import counted
from sppfeat.errors import SppfeatError, StoreError
from sppfeat.extraction.output import Outcome, outcome_of
from sppfeat.extraction.pipeline import Progress
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.ray.actor import ATTEMPTS_SUFFIX, FillParts, Job, PartReport, Witnesses
from sppfeat.extraction.ray.cluster import Actors, choose_actors, nodes_of, read_reports
from sppfeat.extraction.ray.part_files import PartFiles, leads_to_parts, part_pattern, parts_folder
from sppfeat.extraction.report import PlanSummary, RunState, summarize_plan
from sppfeat.extraction.resources import Means
from sppfeat.extraction.setup import Equipment
from sppfeat.files.byte_ranges import Place
from sppfeat.inputs import local_places
from sppfeat.store.merge import merge_shards

__all__ = ["RayExtraction"]

_N_WITNESSES = 8
_STOP_SECONDS = 60.0


class RayExtraction:
    """A planned extraction by actors; :func:`sppfeat.extraction.ray.prepare_ray` makes it.

    Args:
        means: what the plan was made with.
        plan: every image and row.
        bounds: of the parts, see :func:`cut_for_actors`.
        files: of the parts.
        lock: of the output; closed before the parts are merged, which locks it anew.

    Attributes:
        request: what was asked.
        equipment: settings, and a network that tells about them.
        path: the output.
        name: the same, as a text.
        actors: who does it; None where nothing is to be done, or only a plan was asked for.
    """

    def __init__(
        self,
        means: Means,
        plan: Plan,
        bounds: npt.NDArray[np.int64],
        files: PartFiles,
        lock: contextlib.ExitStack,
    ) -> None:
        self.request: ExtractRequest = means.task.request
        self.equipment: Equipment = means.equipment
        self.path: Path = self.request.output
        self.name = str(self.path)
        self.actors: Actors | None = None
        self._ray: Any = None
        self._means = means
        self._plan = plan
        self._bounds = bounds
        self._files = files
        self._lock = lock
        self._norm_factors = files.check(plan, means.equipment.config)
        self._before = files.counts()
        self._reported: set[int] = set()
        self._waited = Progress()

    @property
    def _options(self) -> RayOptions:
        return self.request.ray or RayOptions()

    @property
    def unfinished(self) -> list[int]:
        """Numbers, from 0, of the parts that have something to be done."""
        return list(map(int, self._files.unfinished(with_failures=self.request.retry_failed)))

    def use(self, ray: Any) -> None:
        """Take a cluster, if there is something to be done, and as many actors of it as suit that.

        Raises:
            ConfigError: it has no room for an actor.
        """
        n_parts = len(self.unfinished)
        if not n_parts:
            return
        self._ray = ray
        self.actors = choose_actors(self._options, self.request.run.device, nodes_of(ray), n_parts=n_parts)
        if self.actors.n_fit < self.actors.n:
            self._means.notes.append(
                f"the Ray cluster has room for {self.actors.n_fit} of {self.actors.n} actors: the others wait for more"
            )

    def summary(self) -> PlanSummary:
        """What this run is going to do."""
        plan, (done, failed) = self._plan, self._before.sum(axis=0).tolist()
        again = failed if self.request.retry_failed else 0
        n_cpus = self.actors.n_cpus if self.actors else 1
        workers = self.request.run.workers
        state = RunState(
            output=str(self.path),
            already_done=done,
            already_failed=failed - again,
            to_do=plan.n_images - done - failed + again,
            unreadable=len(plan.errors) if not done + failed else 0,
            unmeasured=int((plan.image_hw == 0).any(axis=1).sum()) - len(plan.errors),
            shard=None,
            workers=n_cpus if workers is None else workers,
            notes=self._means.notes,
        )
        device = f"{self.actors or 'Ray'}, {counted(len(self._files.paths), 'part')}"
        return dataclasses.replace(summarize_plan(plan, self.equipment, state), device=device)

    def run(
        self,
        *,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Have the parts done, and merge them once all are complete.

        Args:
            on_progress: called when there is some; it is what the files of the parts say.
            should_stop: asked several times a second; True ends the run after the batches in hand, with files that
                can be continued.

        Returns:
            What was done in this run.

        Raises:
            SppfeatError: as :meth:`sppfeat.extraction.run.Extraction.run`, of whichever actor was the first.
            EngineError: a node does not see the files, or Ray has given up.
        """
        to_do = self.unfinished
        if to_do and self._ray is not None:
            with self._witnesses() as witnesses:
                if self.equipment.config.descriptor.mean_norm is not None and self._norm_factors is None:
                    # One actor estimates the factors, on a sample of the whole plan, before the others begin.
                    self._fill(to_do[:1], witnesses, on_progress, should_stop)
                    self._norm_factors = self._files.check(self._plan, self.equipment.config)
                    to_do = to_do[1:]
                if to_do and witnesses.running.exists():
                    self._fill(to_do, witnesses, on_progress, should_stop)
        progress = self._progress()
        if not self._files.unfinished(with_failures=False).size:
            self._merge()
        return progress

    def outcome(self) -> Outcome:
        """What the output holds now; before it is merged, the files of the parts."""
        if self._is_merged():
            return outcome_of(self.path, (0, self._plan.n_images))
        return self._files.outcome()

    def _fill(
        self,
        parts: list[int],
        witnesses: Witnesses,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Have some parts done; they are numbered from 0."""
        error: SppfeatError | None = None
        until = float("inf")
        for report in read_reports(self._dataset(parts, witnesses)):
            if report is not None:
                self._reported.add(report.part - 1)
                self._waited = self._waited.followed_by(_shared_out(report, self.actors))
                error = error or report.error
            progress = self._progress()
            if progress.n_done + progress.n_failed:
                on_progress(progress)
            if (error is not None or should_stop()) and witnesses.running.exists():
                witnesses.running.unlink(missing_ok=True)
                until = time.monotonic() + _STOP_SECONDS
            if time.monotonic() > until:
                break
        if error is not None:
            raise error

    def _dataset(self, parts: list[int], witnesses: Witnesses) -> Any:
        """The parts as a Ray Dataset of what became of them."""
        data, actors = self._ray.data, self.actors
        for left in parts_folder(self.path).glob(f"*{ATTEMPTS_SUFFIX}"):
            left.unlink(missing_ok=True)
        if actors is None:
            raise ValueError("no cluster is in use")
        job = Job(
            version=__version__,
            request=dataclasses.replace(self.request, output=part_pattern(self.path)),
            config=self.equipment.config,
            listing=self._means.task.listing,
            plan=self._plan,
            bounds=self._bounds,
            norm_factors=self._norm_factors,
            n_cpus=actors.n_cpus,
            witnesses=witnesses,
        )
        rows = [{"part": part + 1} for part in parts]
        # Ray Data starts actors anew that die, and repeats what they were at, without end.
        return data.from_items(rows, override_num_blocks=len(rows)).map(
            FillParts,
            fn_constructor_args=(self._ray.put(job),),
            compute=data.ActorPoolStrategy(size=min(actors.n, len(rows)), max_tasks_in_flight_per_actor=1),
            num_cpus=actors.n_cpus,
            num_gpus=actors.n_gpus or None,
        )

    def _progress(self) -> Progress:
        """What was done so far, as the files say: also by actors that are no more."""
        now, before = self._files.counts(), self._before
        # Images that are tried again have failed anew when their part has been done.
        own = sorted(self._reported) if self.request.retry_failed else range(len(now))
        failed = now[own, 1] - (0 if self.request.retry_failed else before[own, 1])
        return self._waited._replace(
            n_done=int(now[:, 0].sum() - before[:, 0].sum()), n_failed=int(failed.sum())
        )

    @contextlib.contextmanager
    def _witnesses(self) -> Iterator[Witnesses]:
        """Files by which actors see that they are where the inputs are, and whether the run goes on."""
        folder = parts_folder(self.path)
        try:
            folder.mkdir(exist_ok=True)
            for left in folder.glob("running-*"):  # by a run that was killed, and its actors with it
                left.unlink(missing_ok=True)
            running = folder / f"running-{uuid.uuid4().hex}"
            running.touch()
        except OSError as error:
            raise StoreError(f"cannot write to {str(folder)!r}: {error.strerror}") from error
        try:
            yield Witnesses(running, _some_inputs(self._plan))
        finally:
            with contextlib.suppress(OSError):
                running.unlink(missing_ok=True)

    def _merge(self) -> None:
        """Make the output of the parts, unless it is that already."""
        is_copy = self._options.merge == "copy"
        if not self._is_merged():
            self._lock.close()
            merge_shards(self.path, self._files.paths, copy=is_copy, overwrite=leads_to_parts(self.path))
        if is_copy:
            shutil.rmtree(parts_folder(self.path))

    def _is_merged(self) -> bool:
        """Whether the output is there, and says of every image what the parts say."""
        if not self.path.exists():
            return False
        if leads_to_parts(self.path) != (self._options.merge == "virtual" and self._plan.n_rows > 0):
            return False
        try:
            outcome = outcome_of(self.path, (0, self._plan.n_images))
        except StoreError:  # parts have changed since
            return False
        counts = self._files.counts().sum(axis=0).tolist()
        return bool([outcome.done, outcome.failed] == counts)


def _shared_out(report: PartReport, actors: Actors | None) -> Progress:
    """The time of a part as a share of the run's: actors work at the same time."""
    done, n = report.progress or Progress(), actors.n if actors else 1
    return done._replace(
        decode_seconds=done.decode_seconds / n,
        network_seconds=done.network_seconds / n,
        write_seconds=done.write_seconds / n,
    )


def _some_inputs(plan: Plan) -> tuple[bytes, ...]:
    """Paths of some images that are files and are here."""
    if not plan.storage.is_local:
        return ()
    some = np.unique(np.linspace(0, plan.n_images - 1, _N_WITNESSES).astype(np.int64))
    places = local_places(plan.storage, plan.stored_as[some])
    return tuple(place.path for place in places if isinstance(place, Place) and os.path.exists(place.path))
