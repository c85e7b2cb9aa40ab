"""One extraction, from inputs to a finished file: plan it, continue what is there, run it."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppfeat.config.request import ExtractRequest
from sppfeat.decoding import Decoder
from sppfeat.extraction.batch_describer import describe_plan
from sppfeat.extraction.mean_norm import estimate_factors
from sppfeat.extraction.output import Lock, Outcome, lock_output, outcome_of, output_here, output_name
from sppfeat.extraction.part_run import fill, refuse_unreadable
from sppfeat.extraction.parts import Work, find_work, only_own_shard
from sppfeat.extraction.pipeline import Progress
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.report import PlanSummary, RunState, plan_notes, summarize_plan
from sppfeat.extraction.resources import Means, gather_means
from sppfeat.extraction.resume import copy_rows
from sppfeat.extraction.row_planner import with_sizes
from sppfeat.extraction.setup import Equipment
from sppfeat.extraction.sizes import read_sizes
from sppfeat.files.atomic import put_in_place
from sppfeat.files.downloads import OnDownload
from sppfeat.files.outputs import check_output, refuse_input
from sppfeat.inputs import list_images
from sppfeat.store.layout import Provenance, create_file
from sppfeat.store.schema import Status
from sppfeat.store.writer import FeatureWriter

__all__ = ["Extraction", "planned", "prepare"]


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
            shard=self._part(),
            workers=self.n_workers,
            notes=self.notes,
        )
        return summarize_plan(work.plan, self.equipment, state)

    def _part(self) -> str | None:
        """Which part of the whole this is; None: all of it."""
        work, choice = self.work, self.request.shard
        if work.shard is not None:
            return str(work.shard)
        if not self.request.shared or choice is None:
            return None
        return (
            f"shard {choice}, images {work.own[0]} to {work.own[1]} of {work.plan.n_images}, into their rows"
        )

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
            self.lock.announce_layout()
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
    request: ExtractRequest,
    *,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> Iterator[Extraction]:
    """Plan an extraction; the output stays locked until the context ends.

    Args:
        request: what is asked.
        on_probe: called with the number of image headers read, and of all.
        on_download: called with the name of a weights file, bytes done and total (None if unknown), while it comes.

    Yields:
        The extraction, ready to run. Nothing has been written yet.

    Raises:
        SppfeatError: inputs, settings, weights or an existing output that do not allow it.
    """
    name = output_name(request)
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(output_here(request, name))
        if local.url is None:
            check_output(local.path)
        refuse_input(local.path, request.inputs)
        # Where it is a link: what it leads to is written, locked and replaced, not the link.
        request = dataclasses.replace(request, output=Path(os.path.realpath(local.path)))
        listing = list_images(request.inputs, labels=request.labels)
        lock = stack.enter_context(lock_output(request))
        means = stack.enter_context(gather_means(request, listing, on_probe, on_download=on_download))
        means.notes.extend(local.notes)
        work = only_own_shard(find_work(means.task, means.notes), means.task)
        means.notes.extend(plan_notes(work.plan, means.equipment, is_new=work.is_new))
        extraction = dataclasses.replace(planned(means, work, lock), url=local.url)
        yield extraction
        if local.url and not request.dry_run and not extraction.outcome().pending:
            local.publish()


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
