"""One extraction into one file, from inputs to the finished file."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppfeat.config.request import ExtractRequest
from sppfeat.decoding import Decoder
from sppfeat.extraction.describe import make_batch_describer
from sppfeat.extraction.mean_norm import estimate_factors
from sppfeat.extraction.output import (
    Lock,
    Outcome,
    lock_output,
    open_local_output,
    read_outcome,
    resolve_output,
)
from sppfeat.extraction.part_run import refuse_unreadable, run_part
from sppfeat.extraction.parts import Part, find_part, keep_own_images
from sppfeat.extraction.pipeline import Progress
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.report import PlanSummary, RunState, plan_notes, summarize_plan
from sppfeat.extraction.resources import RunResources, open_resources
from sppfeat.extraction.resume import copy_rows
from sppfeat.extraction.row_planner import add_sizes
from sppfeat.extraction.setup import RunSetup
from sppfeat.extraction.sizes import read_sizes
from sppfeat.files.atomic import put_in_place
from sppfeat.files.downloads import OnDownload
from sppfeat.files.outputs import check_output, refuse_input
from sppfeat.inputs import list_images
from sppfeat.store.layout import Provenance, create_file
from sppfeat.store.schema import Status
from sppfeat.store.writer import FeatureWriter

__all__ = ["Extraction", "make_extraction", "prepare"]


@dataclass(frozen=True)
class Extraction:
    """An extraction that is planned and ready to run; :func:`prepare` makes it.

    Attributes:
        request: the user's request.
        setup: settings, network and device.
        decoder: decodes the images.
        n_workers: number of decoding processes; 0: images are decoded in this process.
        scratch: folder for images that must be fetched.
        notes: notes for the user.
        part: the images to run and the file to fill.
        lock: the lock of the output; None for a dry run.
        url: URL to which the complete file is uploaded; None: it stays on this machine.
    """

    request: ExtractRequest
    setup: RunSetup
    decoder: Decoder
    n_workers: int
    scratch: Path
    notes: list[str]
    part: Part
    lock: Lock
    url: str | None = None

    def summary(self) -> PlanSummary:
        """Summarize the run before it starts."""
        part = self.part
        status_after = part.status.copy()
        status_after[part.to_do] = Status.PENDING
        state = RunState(
            output=self.url or str(self.request.output),
            already_done=int((status_after == Status.DONE).sum()),
            already_failed=int((status_after == Status.FAILED).sum()),
            to_do=len(part.to_do),
            unreadable=int(np.isin(part.to_do, list(part.plan.errors)).sum()),
            unmeasured=len(part.unmeasured),
            shard=self._describe_shard(),
            workers=self.n_workers,
            notes=self.notes,
        )
        return summarize_plan(part.plan, self.setup, state)

    def _describe_shard(self) -> str | None:
        """Describe the shard that this run fills; None for all images."""
        part, choice = self.part, self.request.shard
        if part.shard is not None:
            return str(part.shard)
        if not self.request.shared or choice is None:
            return None
        first, stop = part.own_images
        return f"shard {choice}, images {first} to {stop} of {part.plan.n_images}, into their rows"

    def run(
        self,
        *,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Create or continue the file, and fill it.

        Args:
            on_progress: called after each batch.
            should_stop: called after each batch; True ends the run early, and the file can be continued.

        Returns:
            The progress at the end.

        Raises:
            StoreError: the file cannot be created or written to.
            ImageError: an image failed, and the request says to stop at the first failure.
        """
        part, output = self.part, self.request.output
        if self.request.fail_fast:
            refuse_unreadable(part.plan, part.to_do, kept="nothing was written")
        factors = self._norm_factors()
        if part.is_new:
            self._create(factors)
        if self.lock is not None:
            self.lock.announce_layout()
        if part.extends is not None:
            with contextlib.closing(FeatureWriter(part.target)) as writer:
                copy_rows(part.extends, writer)
            put_in_place(part.target, output)
        progress = Progress()
        if len(part.to_do):
            progress = run_part(
                self.setup,
                part,
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
        """URL of the output, or the present path of the file."""
        return self.url or str(self.path)

    @property
    def path(self) -> Path:
        """Present path of the file; a replacement takes the final name only when it is complete."""
        return self.part.target if self.part.target.exists() else self.request.output

    def outcome(self) -> Outcome:
        """Count the images of the file by status, as of now."""
        return read_outcome(self.path, self.part.own_images)._replace(outputs=[self.name])

    def _create(self, factors: tuple[float, ...] | None) -> None:
        """Lay out the file and reserve its space."""
        setup, part = self.setup, self.part
        provenance = Provenance(setup.backbone.weights_path, self.request.boxes_path, factors, part.shard)
        create_file(part.target, part.plan, setup.config, setup.columns, provenance=provenance)

    def _norm_factors(self) -> tuple[float, ...] | None:
        """Return the factors of ``meannorm``: from the file, from the settings, or estimated now."""
        spec = self.setup.config.descriptor
        known = self.part.norm_factors or spec.norm_factors
        if spec.mean_norm is None or known is not None:
            return known
        setup, config = self.setup, self.setup.config
        plain = setup.make_describer(dataclasses.replace(spec, normalize="none"), None)

        def measure(sample: Plan) -> Plan:
            unknown = np.flatnonzero((sample.image_hw == 0).any(axis=1))
            found = read_sizes(
                sample.storage, sample.storage_index[unknown], decoder=self.decoder, scratch=self.scratch
            )
            return add_sizes(sample, unknown, found, config.input, setup.planner)

        return estimate_factors(
            self.part.whole_plan or self.part.plan,
            setup.columns,
            spec.mean_norm,
            decoder=self.decoder,
            describe_for=lambda sample: make_batch_describer(sample, plain, setup.projector),
            batch_pixels=setup.batch_pixels,
            measure=measure,
            scratch=self.scratch,
        )


@contextlib.contextmanager
def prepare(
    request: ExtractRequest,
    *,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> Iterator[Extraction]:
    """Plan an extraction into one file; the output stays locked until the context ends.

    Args:
        request: the user's request.
        on_probe: called with the number of image headers read so far, and the total.
        on_download: called during a download with file name, bytes done, and bytes in total (None if unknown).

    Yields:
        The extraction, ready to run. Nothing has been written yet.

    Raises:
        SppfeatError: inputs, settings or weights are invalid, or an existing output cannot be continued.
    """
    name = resolve_output(request)
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(open_local_output(request, name))
        if local.url is None:
            check_output(local.path)
        refuse_input(local.path, request.inputs)
        # Follow a link: its target is locked, written and replaced, and the link stays.
        request = dataclasses.replace(request, output=Path(os.path.realpath(local.path)))
        listing = list_images(request.inputs, labels=request.labels)
        lock = stack.enter_context(lock_output(request))
        resources = stack.enter_context(open_resources(request, listing, on_probe, on_download=on_download))
        resources.notes.extend(local.notes)
        part = keep_own_images(find_part(resources.part_request, resources.notes), request)
        resources.notes.extend(plan_notes(part.plan, resources.setup, is_new=part.is_new))
        extraction = dataclasses.replace(make_extraction(resources, part, lock), url=local.url)
        yield extraction
        if local.url and not request.dry_run and not extraction.outcome().pending:
            local.publish()


def make_extraction(resources: RunResources, part: Part, lock: Lock) -> Extraction:
    """Combine a part with the resources to run it."""
    return Extraction(
        request=resources.part_request.request,
        setup=resources.setup,
        decoder=resources.decoder,
        n_workers=resources.n_workers,
        scratch=resources.scratch,
        notes=resources.notes,
        part=part,
        lock=lock,
    )
