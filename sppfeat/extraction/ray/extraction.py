"""An extraction by actors on a Ray cluster, which fill one file per part; then the files are merged.

Ray Data assigns the parts, restarts actors that die, and repeats their parts. A repeated part continues its file, so
that only the batches in flight are repeated.
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
from sppfeat.extraction.output import Outcome, read_outcome
from sppfeat.extraction.pipeline import Progress
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.ray.actor import ATTEMPTS_SUFFIX, Job, PartActor, PartReport, SharedFiles
from sppfeat.extraction.ray.cluster import Actors, choose_actors, node_resources, read_reports
from sppfeat.extraction.ray.part_files import PartFiles, is_made_of_parts, part_pattern, parts_folder
from sppfeat.extraction.report import PlanSummary, RunState, summarize_plan
from sppfeat.extraction.resources import RunResources
from sppfeat.extraction.setup import RunSetup
from sppfeat.files.byte_ranges import Place
from sppfeat.inputs import local_places
from sppfeat.store.merge import merge_shards

__all__ = ["RayExtraction"]

_N_SHARED_INPUTS = 8
_STOP_SECONDS = 60.0


class RayExtraction:
    """An extraction by actors, planned and ready to run; :func:`sppfeat.extraction.ray.prepare_ray` makes it.

    Args:
        resources: network, decoder and scratch folder that the plan was made with.
        plan: every image and row.
        bounds: bounds of the parts, see :func:`sppfeat.extraction.ray.part_files.cut_into_parts`.
        files: the part files.
        lock: the lock of the output, which is released before the merge: that takes the lock itself.

    Attributes:
        request: the user's request.
        setup: settings and network.
        path: path of the output.
        name: path of the output, as text.
        actors: number and size of the actors; None for a dry run, or if nothing is left to do.
    """

    def __init__(
        self,
        resources: RunResources,
        plan: Plan,
        bounds: npt.NDArray[np.int64],
        files: PartFiles,
        lock: contextlib.ExitStack,
    ) -> None:
        self.request: ExtractRequest = resources.part_request.request
        self.setup: RunSetup = resources.setup
        self.path: Path = self.request.output
        self.name = str(self.path)
        self.actors: Actors | None = None
        self._ray: Any = None
        self._resources = resources
        self._plan = plan
        self._bounds = bounds
        self._files = files
        self._lock = lock
        self._norm_factors = files.check(plan, resources.setup.config)
        self._before = files.count_images()
        self._reported: set[int] = set()
        self._waited = Progress()

    @property
    def _options(self) -> RayOptions:
        return self.request.ray or RayOptions()

    @property
    def unfinished(self) -> list[int]:
        """Indices, from 0, of the unfinished parts."""
        return list(map(int, self._files.unfinished(with_failures=self.request.retry_failed)))

    def use_cluster(self, ray: Any) -> None:
        """Choose actors on a connected cluster for the unfinished parts.

        Raises:
            ConfigError: the cluster has no room for an actor.
        """
        n_parts = len(self.unfinished)
        if not n_parts:
            return
        self._ray = ray
        self.actors = choose_actors(
            self._options, self.request.run.device, node_resources(ray), n_parts=n_parts
        )
        if self.actors.n_fit < self.actors.n:
            self._resources.notes.append(
                f"the Ray cluster has room for {self.actors.n_fit} of {self.actors.n} actors: the others wait for more"
            )

    def summary(self) -> PlanSummary:
        """Summarize the run before it starts."""
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
            unmeasured=int(plan.is_unmeasured.sum()),
            shard=None,
            workers=n_cpus if workers is None else workers,
            notes=self._resources.notes,
        )
        device = f"{self.actors or 'Ray'}, {counted(len(self._files.paths), 'part')}"
        return dataclasses.replace(summarize_plan(plan, self.setup, state), device=device)

    def run(
        self,
        *,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Let actors fill the parts, and merge the part files once all are complete.

        Args:
            on_progress: called with the progress in the part files, once there is any.
            should_stop: called several times a second; True ends the run after the batches in flight, and the files can
                be continued.

        Returns:
            The progress at the end.

        Raises:
            SppfeatError: the first error of any actor; see :meth:`sppfeat.extraction.run.Extraction.run`.
            EngineError: a node does not see the files, or Ray has given up.
        """
        to_do = self.unfinished
        if to_do and self._ray is not None:
            with self._share_files() as shared_files:
                if self.setup.config.descriptor.mean_norm is not None and self._norm_factors is None:
                    # One actor estimates the factors on a sample of the whole plan before the others start.
                    self._fill(to_do[:1], shared_files, on_progress, should_stop)
                    self._norm_factors = self._files.check(self._plan, self.setup.config)
                    to_do = to_do[1:]
                if to_do and shared_files.running.exists():
                    self._fill(to_do, shared_files, on_progress, should_stop)
        progress = self._read_progress()
        if not self._files.unfinished(with_failures=False).size:
            self._merge()
        return progress

    def outcome(self) -> Outcome:
        """Count the images of the output, or of the part files before the merge, by status."""
        if self._is_merged():
            return read_outcome(self.path, (0, self._plan.n_images))
        return self._files.outcome()

    def _fill(
        self,
        parts: list[int],
        shared_files: SharedFiles,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Let actors fill the parts with these indices, from 0."""
        error: SppfeatError | None = None
        until = float("inf")
        for report in read_reports(self._make_dataset(parts, shared_files)):
            if report is not None:
                self._reported.add(report.part - 1)
                self._waited = self._waited.followed_by(_divide_seconds(report, self.actors))
                error = error or report.error
            progress = self._read_progress()
            if progress.n_done + progress.n_failed:
                on_progress(progress)
            if (error is not None or should_stop()) and shared_files.running.exists():
                shared_files.running.unlink(missing_ok=True)
                until = time.monotonic() + _STOP_SECONDS
            if time.monotonic() > until:
                break
        if error is not None:
            raise error

    def _make_dataset(self, parts: list[int], shared_files: SharedFiles) -> Any:
        """Return the Ray Dataset that maps part numbers to reports."""
        data, actors = self._ray.data, self.actors
        for left in parts_folder(self.path).glob(f"*{ATTEMPTS_SUFFIX}"):
            left.unlink(missing_ok=True)
        if actors is None:
            raise ValueError("no cluster is in use")
        job = Job(
            version=__version__,
            request=dataclasses.replace(self.request, output=part_pattern(self.path)),
            config=self.setup.config,
            listing=self._resources.part_request.listing,
            plan=self._plan,
            bounds=self._bounds,
            norm_factors=self._norm_factors,
            n_cpus=actors.n_cpus,
            shared_files=shared_files,
        )
        rows = [{"part": part + 1} for part in parts]
        # Ray Data restarts actors that die and repeats their parts, without limit.
        return data.from_items(rows, override_num_blocks=len(rows)).map(
            PartActor,
            fn_constructor_args=(self._ray.put(job),),
            compute=data.ActorPoolStrategy(size=min(actors.n, len(rows)), max_tasks_in_flight_per_actor=1),
            num_cpus=actors.n_cpus,
            num_gpus=actors.n_gpus or None,
        )

    def _read_progress(self) -> Progress:
        """Read the progress from the part files, which includes the work of actors that died."""
        now, before = self._files.count_images(), self._before
        # A retried image counts as failed again only when its part has been reported.
        own = sorted(self._reported) if self.request.retry_failed else range(len(now))
        failed = now[own, 1] - (0 if self.request.retry_failed else before[own, 1])
        return self._waited._replace(
            n_done=int(now[:, 0].sum() - before[:, 0].sum()), n_failed=int(failed.sum())
        )

    @contextlib.contextmanager
    def _share_files(self) -> Iterator[SharedFiles]:
        """Make the file that tells actors to go on, and name inputs that they must see."""
        folder = parts_folder(self.path)
        try:
            folder.mkdir(exist_ok=True)
            for left in folder.glob("running-*"):  # from a run that was killed together with its actors
                left.unlink(missing_ok=True)
            running = folder / f"running-{uuid.uuid4().hex}"
            running.touch()
        except OSError as error:
            raise StoreError(f"cannot write to {str(folder)!r}: {error.strerror}") from error
        try:
            yield SharedFiles(running, _sample_inputs(self._plan))
        finally:
            with contextlib.suppress(OSError):
                running.unlink(missing_ok=True)

    def _merge(self) -> None:
        """Merge the part files into the output, unless that is done already."""
        is_copy = self._options.merge == "copy"
        if not self._is_merged():
            self._lock.close()
            merge_shards(self.path, self._files.paths, copy=is_copy, overwrite=is_made_of_parts(self.path))
        if is_copy:
            shutil.rmtree(parts_folder(self.path))

    def _is_merged(self) -> bool:
        """Return True if the output exists, with as many done and failed images as the part files."""
        if not self.path.exists():
            return False
        if is_made_of_parts(self.path) != (self._options.merge == "virtual" and self._plan.n_rows > 0):
            return False
        try:
            outcome = read_outcome(self.path, (0, self._plan.n_images))
        except StoreError:  # part files have changed since the merge
            return False
        counts = self._files.count_images().sum(axis=0).tolist()
        return bool([outcome.done, outcome.failed] == counts)


def _divide_seconds(report: PartReport, actors: Actors | None) -> Progress:
    """Return the progress of a part; its seconds are divided by the number of actors, which run in parallel."""
    done, n = report.progress or Progress(), actors.n if actors else 1
    return done._replace(
        decode_seconds=done.decode_seconds / n,
        network_seconds=done.network_seconds / n,
        write_seconds=done.write_seconds / n,
    )


def _sample_inputs(plan: Plan) -> tuple[bytes, ...]:
    """Return the paths of some inputs, if they are files on this machine."""
    if not plan.storage.is_local:
        return ()
    some = np.unique(np.linspace(0, plan.n_images - 1, _N_SHARED_INPUTS).astype(np.int64))
    places = local_places(plan.storage, plan.storage_index[some])
    return tuple(place.path for place in places if isinstance(place, Place) and os.path.exists(place.path))
