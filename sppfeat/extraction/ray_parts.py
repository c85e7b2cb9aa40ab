"""Fills the parts of a plan by actors on a Ray cluster, and merges the part files into the output.

If an actor dies, another one continues its part, so that only the batches in progress are repeated. This module must
not know how rows are computed or stored.
"""

import contextlib
import dataclasses
import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import RayOptions
from sppfeat.config.request import Request
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError, EngineError, SppfeatError, StoreError
from sppfeat.extraction.mean_norm import estimate_factors
from sppfeat.extraction.part import Outcome, Part, open_output, read_outcome
from sppfeat.extraction.pipeline import Progress
from sppfeat.extraction.plan import PLACEHOLDER, Plan, shard_path
from sppfeat.extraction.ray_actors import Actors, Job, PartActor, choose_actors, connect
from sppfeat.extraction.remaining_work import find_part
from sppfeat.extraction.report import PlanSummary, plan_notes
from sppfeat.extraction.run import OnProbe, Run, open_run
from sppfeat.extraction.shard_files import ShardFiles, is_to_do
from sppfeat.files.downloads import OnDownload
from sppfeat.files.remote import url_of
from sppfeat.store.merge import merge_shards
from sppfeat.store.schema import Status
from sppfeat.store.stored_file import StoredFile

__all__ = ["PartsOnRay", "is_made_of_parts", "open_parts_on_ray", "parts_folder"]

_IMAGES_PER_PART = 256  # seconds of work, against milliseconds to lay out the file
_MOST_PARTS = 1024  # files, each of ten thousand images if there are ten million
_MOST_DEATHS = 16  # of actors, without a finished part between them
_POLL_SECONDS = 0.5
_STOP_SECONDS = 60.0


@contextlib.contextmanager
def open_parts_on_ray(
    request: Request, *, on_probe: OnProbe, on_download: OnDownload, verbose: bool
) -> "Iterator[Part | PartsOnRay]":
    """Plan an extraction on a Ray cluster, and connect to the cluster or start one; write nothing yet.

    If the output is complete and was not made of parts, yield a single part with nothing to do.

    Raises:
        SppfeatError: see :func:`sppfeat.extraction.extract.extract`.
        EngineError: the cluster cannot be reached or started.
    """
    if url_of(request.output) is not None:
        raise ConfigError(
            f"the output {url_of(request.output)!r} is a URL; allowed with --engine ray: a file on a file system that "
            "all nodes share"
        )
    path = Path(os.path.realpath(shard_path(request.output, None)))  # the target of a link is written
    request = dataclasses.replace(request, output=path)
    # This process only plans; it may lack the device of the actors.
    device = "auto" if request.precision == "tf32" else "cpu"
    planning = dataclasses.replace(request, run=dataclasses.replace(request.run, device=device))
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(contextlib.ExitStack())
        output = lock.enter_context(open_output(request, request.output))
        run = stack.enter_context(open_run(planning, on_probe=on_probe, on_download=on_download))
        run = dataclasses.replace(run, request=request)
        if output.path.exists() and not is_made_of_parts(output.path):
            part = find_part(run, output)
            if len(part.to_do):
                raise StoreError(
                    f"{str(output.path)!r} has {counted(len(part.to_do), 'image')} left, but was not started with "
                    "--engine ray; continue it with --engine local"
                )
            yield part
            return
        parts = PartsOnRay(run, lock)
        if not request.dry_run and parts.to_do:
            parts.use_cluster(stack.enter_context(connect(parts.options.ray_address, verbose=verbose)))
        yield parts


class PartsOnRay:
    """The parts of a plan; each actor takes the next part when it is free, while ``run`` only plans.

    The lock of the output is released before the merge, which locks the output itself.
    """

    def __init__(self, run: Run, lock: contextlib.ExitStack) -> None:
        self.run = run
        self.name = str(run.request.output)
        self.options = run.request.ray or RayOptions()
        self._lock = lock
        plan = run.plan_inputs()
        run.notes.extend(plan_notes(plan, run, is_new=True))
        self._files = ShardFiles(_part_pattern(run.request.output), plan, cut_into_parts(plan))
        self._norm_factors = self._files.check(run)
        self._recorded = self._files.status()
        self._before = self._files.mark_changed(run, self._recorded)
        self.to_do = self._files.unfinished(self._before, with_failures=run.request.retry_failed)
        self._reports: dict[int, Progress] = {}  # of the parts filled so far, by index
        self._merged: Outcome | None = None
        self._ray: Any = None
        self._actors: Actors | None = None

    def use_cluster(self, ray: Any) -> None:
        """Choose actors on a connected cluster."""
        nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
        device = self.run.request.run.device
        self._ray, self._actors = ray, choose_actors(self.options, device, nodes, n_parts=len(self.to_do))
        n, n_fit = self._actors.n, self._actors.n_fit
        if n_fit < n:
            self.run.notes.append(f"the Ray cluster has room for {n_fit} of {n} actors; the others wait")

    def summary(self) -> PlanSummary:
        """Summarize the run before it starts."""
        summary = self._files.summary(self.run, self._before, output=self.name)
        workers = self.run.request.run.workers
        return dataclasses.replace(
            summary,
            device=f"{self._actors or 'Ray'}, {counted(len(self._files.paths), 'part')}",
            workers=(self._actors.n_cpus if self._actors else 1) if workers is None else workers,
        )

    def fill(
        self,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Fill the parts by actors, and merge the part files once all are complete; see :meth:`Part.fill`.

        Raises:
            SppfeatError: the first error of any actor.
            EngineError: a node does not see the files, or actors die repeatedly.
        """
        if self.to_do and self._actors is not None:
            with _running_file(self.run.request.output) as running:
                self._fill(self._actors, running, on_progress, should_stop)
        progress = self._progress()
        if not self._files.unfinished(self._files.status(), with_failures=False):
            self._merge()
        return progress

    def outcome(self) -> Outcome:
        """Count the images of the output, or of the part files before the merge, by status."""
        return self._merged or self._files.outcome({})

    def _fill(
        self,
        actors: Actors,
        running: Path,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        pool = _ActorPool(self._ray, self._job(actors, running), actors, self.to_do)
        error: SppfeatError | None = None
        until = float("inf")
        while pool.is_busy and time.monotonic() < until:
            for index, report in pool.wait():
                if isinstance(report, SppfeatError):
                    error = error or report
                else:
                    self._reports[index] = report
            progress = self._progress()
            if progress.n_done + progress.n_failed:
                on_progress(progress)
            if (error is not None or should_stop()) and running.exists():
                running.unlink(missing_ok=True)
                pool.stop()
                until = time.monotonic() + _STOP_SECONDS
        if error is not None:
            raise error

    def _job(self, actors: Actors, running: Path) -> Job:
        if self._norm_factors is None:
            self._norm_factors = estimate_factors(self.run, self._files.plan)
        request, options = self.run.request, self.run.request.run
        options = dataclasses.replace(
            options,
            device="cuda" if actors.n_gpus else "cpu",
            workers=actors.n_cpus if options.workers is None else options.workers,
        )
        return Job(
            request=dataclasses.replace(request, output=_part_pattern(request.output), run=options),
            folder=os.getcwd(),
            config=self.run.config,
            listing=self.run.listing,
            plan=self._files.plan,
            bounds=self._files.bounds,
            norm_factors=self._norm_factors,
            n_cpus=actors.n_cpus,
            running=running,
        )

    def _progress(self) -> Progress:
        """Count finished images in the part files, which include the work of actors that died."""
        now = self._files.status()
        # An image that is run again and ends as it began counts once its part has been reported.
        is_finished = now != self._recorded
        for index in self._reports:
            is_finished[self._files.images_of(index)] = True
        is_finished &= is_to_do(self._before, with_failures=self.run.request.retry_failed)
        reports, n_actors = self._reports.values(), self._actors.n if self._actors else 1
        return Progress(
            n_done=int((is_finished & (now == Status.DONE)).sum()),
            n_failed=int((is_finished & (now == Status.FAILED)).sum()),
            # Actors run in parallel, so each contributes its share of the seconds.
            decode_seconds=sum(report.decode_seconds for report in reports) / n_actors,
            network_seconds=sum(report.network_seconds for report in reports) / n_actors,
            write_seconds=sum(report.write_seconds for report in reports) / n_actors,
            n_narrow=sum(report.n_narrow for report in reports),
            narrow_example=next((report.narrow_example for report in reports if report.n_narrow), ""),
        )

    def _merge(self) -> None:
        """Merge the part files into the output."""
        output, is_copy = self.run.request.output, self.options.copy
        self._lock.close()
        merge_shards(output, self._files.paths, copy=is_copy, overwrite=is_made_of_parts(output))
        self._merged = read_outcome(output)
        if is_copy:
            shutil.rmtree(parts_folder(output))


@contextlib.contextmanager
def _running_file(output: Path) -> Iterator[Path]:
    """Make a file that actors watch: they stop once it is removed."""
    folder = parts_folder(output)
    try:
        folder.mkdir(exist_ok=True)
        for left in folder.glob("running-*"):  # from a run that was killed together with its actors
            left.unlink(missing_ok=True)
        running = folder / f"running-{uuid.uuid4().hex}"
        running.touch()
    except OSError as error:
        raise StoreError(f"cannot write to {str(folder)!r}: {error.strerror}") from error
    try:
        yield running
    finally:
        with contextlib.suppress(OSError):
            running.unlink(missing_ok=True)


class _ActorPool:
    """Actors that take parts as they become free; an actor that dies is replaced, and its part is given out again."""

    def __init__(self, ray: Any, job: Job, actors: Actors, to_do: list[int]) -> None:
        self._ray = ray
        self._job = ray.put(job)
        self._to_do = deque(to_do)
        self._kind = ray.remote(PartActor).options(num_cpus=actors.n_cpus, num_gpus=actors.n_gpus)
        self._n_deaths = 0
        self._is_stopped = False
        # Actor and part of each call; None while the actor starts.
        self._tasks: dict[Any, tuple[Any, int | None]] = {}
        for _ in range(min(actors.n, len(to_do))):
            self._start()

    @property
    def is_busy(self) -> bool:
        """True while an actor fills a part, or a part waits for an actor."""
        return bool(self._to_do) or any(index is not None for _, index in self._tasks.values())

    def stop(self) -> None:
        """Hand out no more parts, and do not replace actors that die."""
        self._is_stopped = True
        self._to_do.clear()

    def wait(self) -> Iterator[tuple[int, Progress | SppfeatError]]:
        """Wait a short time; yield the reported parts and hand out the next ones."""
        exceptions = self._ray.exceptions
        ended, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=_POLL_SECONDS)
        for task in ended:
            actor, index = self._tasks.pop(task)
            try:
                answer = self._ray.get(task)
            except exceptions.RayTaskError:
                raise  # a bug of this program keeps its traceback
            except exceptions.RayError as error:
                self._replace(index, error)
                continue
            if self._to_do:
                part = self._to_do.popleft()
                self._tasks[actor.fill.remote(part)] = (actor, part)
            if index is not None:
                self._n_deaths = 0
                yield index, answer

    def _start(self) -> None:
        actor = self._kind.remote(self._job)
        self._tasks[actor.is_ready.remote()] = (actor, None)

    def _replace(self, index: int | None, error: BaseException) -> None:
        """Start an actor in place of a dead one, and queue its part again."""
        if self._is_stopped:
            return
        if index is not None:
            self._to_do.appendleft(index)
        self._n_deaths += 1
        if self._n_deaths >= _MOST_DEATHS:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise EngineError(
                f"{_MOST_DEATHS} actors died without finishing a part. There may be too little memory, or an image "
                "that crashes its process (with --workers 1 or more it crashes only a decoder). The same command "
                f"continues the run. Last error: {' ... '.join(dict.fromkeys(lines[:1] + lines[-1:]))}"
            ) from error
        self._start()


def parts_folder(output: Path) -> Path:
    """Return the folder of the part files of an output."""
    return Path(f"{output}.parts")


def _part_pattern(output: Path) -> Path:
    return parts_folder(output) / f"{PLACEHOLDER}.h5"


def is_made_of_parts(output: Path) -> bool:
    """Return True if a file refers to rows in its folder of part files, even if these are missing."""
    try:
        with contextlib.closing(StoredFile(output)) as file:
            features = file.virtual_features()
    except StoreError:  # not a feature file, which is reported later
        return False
    here, folder = os.fsencode(output.parent), os.fsencode(parts_folder(output))
    sources = [] if features is None else features.files
    folders = {os.path.realpath(os.path.join(here, os.path.dirname(source.path))) for source in sources}
    return folders == {os.path.realpath(folder)}


def cut_into_parts(plan: Plan) -> npt.NDArray[np.int64]:
    """Return the bounds of the parts of a plan, as in :func:`sppfeat.extraction.plan.cut_plan`.

    The parts do not depend on the number of actors, so any actors can continue a run. There are many, so that they need
    not take equally long.
    """
    n_parts = min(max(1, -(-plan.n_images // _IMAGES_PER_PART)), _MOST_PARTS)
    return np.arange(n_parts + 1, dtype=np.int64) * plan.n_images // n_parts
