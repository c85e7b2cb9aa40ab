"""One extraction, from inputs to a finished file: plan it, continue what is there, run it."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.acceleration import bfloat16_note
from sppfeat.blocks import describe_plan
from sppfeat.box_report import box_notes
from sppfeat.bundled import bundled_note
from sppfeat.continuation import copy_rows, with_sizes
from sppfeat.creation import Provenance, create_file
from sppfeat.decoding import Decoder
from sppfeat.equipment import Equipment, load_equipment
from sppfeat.errors import ConfigError
from sppfeat.filling import fill
from sppfeat.learning import FoundSizes, read_sizes
from sppfeat.locking import OutputLock, ShardLock, check_output, refuse_input
from sppfeat.normalization import estimate_factors
from sppfeat.pipeline import Progress
from sppfeat.placing import put_in_place, remove_leftovers
from sppfeat.plan import Plan
from sppfeat.plan_summary import RunState, summarise_plan
from sppfeat.reader import FeatureFile
from sppfeat.remote_output import LocalOutput, local_output, url_of
from sppfeat.request import ExtractRequest, PlanSummary
from sppfeat.schema import Status
from sppfeat.settling import refuse_unreadable
from sppfeat.sharding import PLACEHOLDER, shard_path
from sppfeat.sources import Listing, Storage, list_images
from sppfeat.store import FeatureWriter
from sppfeat.work import Task, Work, find_work, only_own_shard

__all__ = [
    "Extraction",
    "Means",
    "Outcome",
    "gather_means",
    "lock_output",
    "outcome_of",
    "planned",
    "prepare",
]

Lock = OutputLock | ShardLock | None


class Outcome(NamedTuple):
    """What the files of a run hold.

    Attributes:
        outputs: how the files are called.
        images, done, failed, pending: how many of them there are, of this run's part.
        failures: path and reason of each failed image.
        boxes: how many of which kind, see :meth:`sppfeat.reader.FeatureFile.count_boxes`; None for whole images.
    """

    outputs: list[str]
    images: int
    done: int
    failed: int
    pending: int
    failures: list[tuple[str, str]]
    boxes: dict[str, int] | None

    def followed_by(self, other: "Outcome") -> "Outcome":
        """Return this and that of further files together."""
        boxes = self.boxes
        if boxes is not None and other.boxes is not None:
            boxes = {name: n + other.boxes[name] for name, n in boxes.items()}
        return Outcome(
            outputs=[*self.outputs, *other.outputs],
            images=self.images + other.images,
            done=self.done + other.done,
            failed=self.failed + other.failed,
            pending=self.pending + other.pending,
            failures=[*self.failures, *other.failures],
            boxes=boxes,
        )


def outcome_of(path: Path, own: tuple[int, int]) -> Outcome:
    """What a file holds of a half-open range of its images."""
    with FeatureFile(path) as file:
        status = file.status[slice(*own)]
        failures = [(file.path_of(i), text) for i, text in file.errors.items() if own[0] <= i < own[1]]
        return Outcome(
            outputs=[str(path)],
            images=len(status),
            done=int((status == Status.DONE).sum()),
            failed=len(failures),
            pending=int((status == Status.PENDING).sum()),
            failures=failures,
            boxes=file.count_boxes() if file.has_boxes else None,
        )


@dataclass(frozen=True)
class Extraction:
    """A planned extraction; :func:`prepare` makes it.

    Attributes:
        request: what was asked.
        equipment: settings, network and device.
        decoder: reads the images.
        n_workers: processes that it has, 0 for none.
        scratch: a folder for images that have to be fetched.
        notes: what the user should know about the inputs.
        work: which file to fill, and with what.
        lock: of the output; None where nothing is written.
        url: where the file is uploaded when it is complete; None: it stays.
    """

    request: ExtractRequest
    equipment: Equipment
    decoder: Decoder
    n_workers: int
    scratch: Path
    notes: list[str]
    work: Work
    lock: Lock
    url: str | None = None

    def summary(self) -> PlanSummary:
        """What this run is going to do."""
        work = self.work
        status_after = work.status.copy()
        status_after[work.to_do] = Status.PENDING
        state = RunState(
            output=self.url or str(self.request.output),
            already_done=int((status_after == Status.DONE).sum()),
            already_failed=int((status_after == Status.FAILED).sum()),
            to_do=len(work.to_do),
            unreadable=int(np.isin(work.to_do, list(work.plan.errors)).sum()),
            unmeasured=len(work.to_learn),
            shard=None if work.shard is None else str(work.shard),
            workers=self.n_workers,
            notes=self.notes,
        )
        return summarise_plan(work.plan, self.equipment, state)

    def run(
        self,
        *,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Do it: create or continue the file, and fill it.

        Args:
            on_progress: called after each batch.
            should_stop: asked after each batch; True ends the run early, with a file that can be continued.

        Returns:
            What was done in this run.

        Raises:
            StoreError: the file cannot be created or written to.
            ImageError: an image failed, and that was to end the run.
        """
        work, output = self.work, self.request.output
        if self.request.fail_fast:
            refuse_unreadable(work.plan, work.to_do, kept="nothing was written")
        factors = self._norm_factors()
        if work.is_new:
            self._create(factors)
        if self.lock is not None:
            self.lock.laid_out()
        if work.adopt is not None:
            with contextlib.closing(FeatureWriter(work.target)) as writer:
                copy_rows(work.adopt, writer)
            put_in_place(work.target, output)
        progress = Progress()
        if len(work.to_do):
            progress = fill(
                self.equipment,
                work,
                self.path,
                norm_factors=factors,
                decoder=self.decoder,
                scratch=self.scratch,
                on_progress=on_progress,
                should_stop=should_stop,
            )
        if self.path != output and not self.outcome().pending:
            put_in_place(self.path, output)
        return progress

    @property
    def name(self) -> str:
        """How the output is called: by its URL, or by the name that the file has now."""
        return self.url or str(self.path)

    @property
    def path(self) -> Path:
        """The file of this run as it is named now."""
        return self.work.target if self.work.target.exists() else self.request.output

    def outcome(self) -> Outcome:
        """What the file holds now."""
        return outcome_of(self.path, self.work.own)._replace(outputs=[self.name])

    def _create(self, factors: tuple[float, ...] | None) -> None:
        """Lay out the file."""
        equipment, work = self.equipment, self.work
        provenance = Provenance(equipment.backbone.weights_path, self.request.boxes_path, factors, work.shard)
        create_file(work.target, work.plan, equipment.config, equipment.blocks, provenance=provenance)

    def _norm_factors(self) -> tuple[float, ...] | None:
        """What ``meannorm`` multiplies with: as the file has it, as was asked for, or estimated now."""
        spec = self.equipment.config.descriptor
        known = self.work.norm_factors or spec.norm_factors
        if spec.mean_norm is None or known is not None:
            return known
        equipment, config = self.equipment, self.equipment.config
        plain = equipment.describer(dataclasses.replace(spec, normalize="none"), None)

        def learn(sample: Plan) -> Plan:
            unknown = np.flatnonzero((sample.image_hw == 0).any(axis=1))
            found = read_sizes(
                sample.storage, sample.stored_as[unknown], decoder=self.decoder, scratch=self.scratch
            )
            return with_sizes(sample, unknown, found, config.input, equipment.planner)

        return estimate_factors(
            self.work.whole or self.work.plan,
            equipment.blocks,
            spec.mean_norm,
            decoder=self.decoder,
            describe_for=lambda sample: describe_plan(sample, plain, equipment.projector),
            batch_pixels=equipment.batch_pixels,
            learn=learn,
            scratch=self.scratch,
        )


@contextlib.contextmanager
def prepare(
    request: ExtractRequest, *, on_probe: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Extraction]:
    """Plan an extraction; the output stays locked until the context ends.

    Args:
        request: what is asked.
        on_probe: called with the number of image headers read, and of all.

    Yields:
        The extraction, ready to run. Nothing has been written yet.

    Raises:
        SppfeatError: inputs, settings, weights or an existing output that do not allow it.
    """
    name = _output_of(request)
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(output_here(request, name))
        check_output(local.path)
        refuse_input(local.path, request.inputs)
        # Where it is a link: what it leads to is written, locked and replaced, not the link.
        request = dataclasses.replace(request, output=Path(os.path.realpath(local.path)))
        listing = list_images(request.inputs, labels=request.labels)
        lock = stack.enter_context(lock_output(request))
        means = stack.enter_context(gather_means(request, listing, on_probe))
        means.notes.extend(local.notes)
        work = only_own_shard(find_work(means.task, means.notes), means.task)
        note_plan(means, work.plan, is_new=work.is_new)
        extraction = dataclasses.replace(planned(means, work, lock), url=local.url)
        yield extraction
        if local.url and not request.dry_run and not extraction.outcome().pending:
            local.publish()


def output_here(request: ExtractRequest, output: Path) -> contextlib.AbstractContextManager[LocalOutput]:
    """Where on this machine an output is made, if a URL is given for it."""
    if request.shared and url_of(output) is not None:
        raise ConfigError(f"--shared is for an output of this machine, and {str(url_of(output))!r} is none")
    return local_output(output, scratch=request.scratch, overwrite=request.overwrite, dry_run=request.dry_run)


class Means(NamedTuple):
    """What runs over a listing need.

    Attributes:
        equipment: settings, network and device.
        decoder: reads the images.
        n_workers: processes that it has, 0 for none.
        scratch: a folder for images that have to be fetched.
        task: what is to be done.
        notes: what the user should know about the inputs; for more of them.
    """

    equipment: Equipment
    decoder: Decoder
    n_workers: int
    scratch: Path
    task: Task
    notes: list[str]


@contextlib.contextmanager
def gather_means(
    request: ExtractRequest, listing: Listing, on_probe: Callable[[int, int], None]
) -> Iterator[Means]:
    """Load the network, start decoders and make a scratch folder; all is given back when the context ends."""
    with contextlib.ExitStack() as stack:
        equipment = load_equipment(request)
        config = equipment.config
        n_workers = equipment.n_workers(len(listing.paths))
        decoder = stack.enter_context(contextlib.closing(equipment.decoder(n_workers)))
        scratch = Path()
        if not listing.storage.is_local:
            folder = tempfile.TemporaryDirectory(prefix="sppfeat-", dir=request.scratch)
            scratch = Path(stack.enter_context(folder))
        notes = _listing_notes(listing, request.labels)
        notes += filter(
            None, [bundled_note(config.backbone), bfloat16_note(equipment.device, config.precision)]
        )

        def probe(storage: Storage, images: npt.NDArray[np.int64]) -> FoundSizes:
            return read_sizes(storage, images, decoder=decoder, scratch=scratch, on_probe=on_probe)

        task = Task(request, config, listing, probe, equipment.planner)
        yield Means(equipment, decoder, n_workers, scratch, task, notes)


def note_plan(means: Means, plan: Plan, *, is_new: bool) -> None:
    """Note what the user should know of a plan."""
    equipment = means.equipment
    means.notes.extend(_decode_notes(plan, equipment.config.input.decode))
    if plan.boxes is not None:
        table = equipment.box_file.table if equipment.box_file else None
        means.notes.extend(box_notes(plan, plan.boxes, table, is_new=is_new))


def planned(means: Means, work: Work, lock: Lock) -> Extraction:
    """A work with what it takes to do it."""
    return Extraction(
        request=means.task.request,
        equipment=means.equipment,
        decoder=means.decoder,
        n_workers=means.n_workers,
        scratch=means.scratch,
        notes=means.notes,
        work=work,
        lock=lock,
    )


def _output_of(request: ExtractRequest) -> Path:
    """The output as it is named, with the number of the shard if that is asked for."""
    output = request.output
    if request.shared and PLACEHOLDER in str(output):
        raise ConfigError(f"with --shared all shards have one output, and {str(output)!r} has {PLACEHOLDER}")
    return shard_path(output, request.shard)


@contextlib.contextmanager
def lock_output(request: ExtractRequest) -> Iterator[Lock]:
    """Hold the lock that a run needs, if it writes; what killed ones left is removed."""
    if request.dry_run:
        yield None
    elif request.shard is not None and request.shared:
        with ShardLock(request.output, request.shard.name) as shard_lock:
            yield shard_lock
    else:
        with OutputLock(request.output) as lock:
            remove_leftovers(request.output)
            yield lock


def _decode_notes(plan: Plan, decode: str) -> list[str]:
    """What fast decoding does, and to how many images it may: which of them are JPEGs no header was asked."""
    if decode == "exact":
        return []
    is_known = (plan.input_hw > 0).all(axis=2)
    is_twice = (plan.image_hw[:, None] // 2 >= plan.input_hw).all(axis=2)
    n_images = int((is_known & is_twice & plan.uses).any(axis=1).sum())
    return [
        "--decode fast: JPEGs at least twice as large as their network input are decoded at 1/2, 1/4 or 1/8 of "
        f"their size, which moves their descriptors by 2 to 15 %; {n_images} of {plan.n_images} images are as large"
    ]


def _listing_notes(listing: Listing, labels: str) -> list[str]:
    notes = []
    if listing.n_other_files:
        notes.append(
            f"{listing.n_other_files} files in folders and archives have no suffix of an image: left out"
        )
    if listing.n_repeated:
        notes.append(f"{listing.n_repeated} inputs are named more than once: each is taken once")
    if labels == "folder" and not listing.classes:
        notes.append("no labels: no image lies in a folder below the inputs")
    elif listing.n_unlabelled and listing.classes:
        notes.append(f"{listing.n_unlabelled} images are of no class: their label is -1")
    elif listing.n_unlabelled and labels == "auto":
        notes.append(
            f"no labels: {listing.n_unlabelled} images lie outside class folders; --labels folder labels the others"
        )
    return notes
