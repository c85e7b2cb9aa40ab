"""The summary of a run before it starts, and notes for the user."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import counted
from sppfeat.extraction.box_report import BoxSummary, box_notes, summarize_boxes
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.run import Run
from sppfeat.networks.devices import device_name
from sppfeat.store.layout import feature_nbytes
from sppfeat.store.schema import Status

__all__ = ["PlanSummary", "plan_notes", "summarize_plan"]


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """Sizes, settings and notes of a run, before it starts.

    Attributes:
        output: path or URL of the output.
        images, already_done, already_failed, to_do: numbers of images: in the plan, done by earlier runs, failed in
            earlier runs and not retried, and to be run now.
        unreadable: number of images to run that are known to be unreadable.
        rows: number of rows in the output.
        shard: the shard that the run fills, in words; None for all images.
        dimension: length of a descriptor.
        output_bytes: size of the descriptors in bytes.
        unmeasured: number of images whose headers have not been read.
        input_shapes: number of distinct network-input sizes known so far.
        round_to: multiple to which the sides of the network input are rounded, in pixels; 1: not rounded.
        classes: number of image classes.
        backbone, weights, layers, levels, device, precision, head, normalize: settings of the descriptors.
        workers: number of decoding processes.
        boxes: counts of the boxes; None for whole images.
        notes: remarks for the user.
    """

    output: str
    images: int
    already_done: int
    already_failed: int
    to_do: int
    unreadable: int
    rows: int
    shard: str | None
    dimension: int
    output_bytes: int
    unmeasured: int
    input_shapes: int
    round_to: int
    classes: int
    backbone: str
    weights: str
    layers: list[str]
    levels: list[int]
    device: str
    precision: str
    workers: int
    head: str | None
    normalize: str
    boxes: BoxSummary | None
    notes: list[str]


def summarize_plan(
    run: Run,
    plan: Plan,
    *,
    output: str,
    status: npt.NDArray[np.uint8],
    to_do: npt.NDArray[np.int64],
    n_unmeasured: int,
    shard: str | None,
) -> PlanSummary:
    """Summarize a run before it starts, given each image's status ``(N,)``, and the images to run ``(n,)``."""
    config = run.config
    spec, descriptor = config.backbone, config.descriptor
    kept = status.copy()
    kept[to_do] = Status.PENDING
    boxes = None
    if config.regions is not None and plan.boxes is not None:
        boxes = summarize_boxes(plan, plan.boxes, config.regions, config.input, run.request.boxes_path)
    return PlanSummary(
        output=output,
        images=plan.n_images,
        already_done=int((kept == Status.DONE).sum()),
        already_failed=int((kept == Status.FAILED).sum()),
        to_do=len(to_do),
        unreadable=sum(image in plan.errors for image in to_do.tolist()),
        rows=plan.n_rows,
        shard=shard,
        dimension=run.columns[-1].stop,
        output_bytes=feature_nbytes(plan, run.columns, descriptor.dtype),
        unmeasured=n_unmeasured,
        input_shapes=plan.n_shapes,
        round_to=config.input.round_to,
        classes=len(plan.classes),
        backbone=spec.name,
        weights=run.backbone.weights_path or spec.weights,
        layers=list(spec.layers),
        levels=list(descriptor.levels),
        device=device_name(run.device),
        precision=config.precision,
        workers=run.n_workers,
        head=spec.head,
        normalize=descriptor.normalize,
        boxes=boxes,
        notes=run.notes,
    )


def plan_notes(plan: Plan, run: Run, *, is_new: bool) -> list[str]:
    """Describe what the user should know about a plan: fast decoding, and suspicious boxes."""
    notes = _decode_notes(plan, run.config.input.decode)
    if plan.boxes is not None:
        table = run.planner.table if run.planner else None
        notes += box_notes(plan, plan.boxes, table, is_new=is_new)
    return notes


def _decode_notes(plan: Plan, decode: str) -> list[str]:
    """Note fast decoding, with the number of images large enough for it; not all of them need be JPEGs."""
    if decode == "exact":
        return []
    is_known = (plan.input_hw > 0).all(axis=2)
    is_twice = (plan.image_hw[:, None] // 2 >= plan.input_hw).all(axis=2)
    n_images = int((is_known & is_twice & plan.scales_in_use(np.arange(plan.n_images))).any(axis=1).sum())
    return [
        "--decode fast: JPEGs at least twice as large as their network input are decoded at 1/2, 1/4 or 1/8 of "
        f"their size, which moves their descriptors by 2 to 15 %; {n_images} of "
        f"{counted(plan.n_images, 'image is', 'images are')} as large"
    ]
